//! Keeps named leases for one host in one [redb](https://docs.rs/redb) file: no server, any number
//! of threads and processes, sets of locks taken in one transaction, fencing tokens.
//!
//! A lock is a lease: a name, a holder, a deadline and a token. A [`LockManager`] is a handle to
//! the file that holds the locks, and its methods are the verbs. Each verb is one transaction, and
//! its result is on the disk when it returns.
//!
//! # Many locks at once
//!
//! [`set_lock`](LockManager::set_lock) creates absent locks and renews existing ones, all names or
//! none. With [`fail`](SetOptions::fail) it takes the locks only if all are free.
//!
//! ```
//! use lockmgr::{Error, LockManager, SetOptions, Status};
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let path = directory.path().join("locks.redb");
//! let manager = LockManager::open(&path)?;
//!
//! let result = manager.set_lock(["hello", "world"], SetOptions::new())?;
//! assert_eq!(result.counts().created, 2);
//! let again = manager.set_lock(["hello"], SetOptions::new())?;
//! assert_eq!(again.status("hello").unwrap().status, Status::Extend);
//!
//! // "new" is free, "world" is not: nothing is changed.
//! let refused = manager.set_lock(["new", "world"], SetOptions::new().fail());
//! assert!(matches!(refused, Err(Error::LockFail(held)) if held.name() == "world"));
//! assert!(!manager.is_locked("new")?);
//! # Ok::<(), Error>(())
//! ```
//!
//! # One lock, held
//!
//! [`get_lock`](LockManager::get_lock) takes one lock. Its holder keeps the [`Lock`], and renews
//! and releases by it. Both calls act only while the stored lock still bears the holder's token, so
//! a holder never renews or releases a successor's lock. By name alone they act on any holder's
//! lock, for administrators.
//!
//! ```
//! use lockmgr::{GetOptions, LockManager, RenewOptions};
//! use std::time::Duration;
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let manager = LockManager::open(directory.path().join("locks.redb"))?;
//! let options = GetOptions::new().timeout(Duration::from_secs(60)).locked_by("app-1");
//! let mine = manager.get_lock("backup", options)?;
//! let mine = manager.renew_lock(&mine, RenewOptions::new().timeout(Duration::from_secs(120)))?;
//!
//! manager.unlock("backup")?; // an administrator
//! let theirs = manager.get_lock("backup", GetOptions::new().locked_by("app-2"))?;
//! assert!(theirs.token() > mine.token());
//! assert!(!manager.unlock(&mine)?);
//! assert_eq!(manager.find("backup")?, Some(theirs));
//! # Ok::<(), lockmgr::Error>(())
//! ```
//!
//! A holder may sleep through its deadline and not know. If that matters, send the
//! [token](Lock::token) along with each write to the resource that the lock protects, and let the
//! resource refuse every token smaller than the largest it has seen.
//!
//! # Many locks, held and waited for
//!
//! [`acquire`](LockManager::acquire) asks for a set of locks, all or none, and can wait for them,
//! first come, first served. The [`LockGuard`] holds the locks until it is dropped or its process
//! ends. The [`guide`] says how to hold locks safely, and how to replace `flock`.
//!
//! ```
//! use lockmgr::LockManager;
//! use std::time::Duration;
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let manager = LockManager::open(directory.path().join("locks.redb"))?;
//! let guard = manager.acquire(["accounts", "ledger"]).try_lock_for(Duration::from_secs(5))?;
//! assert!(guard.is_held()?);
//! guard.release()?;
//! # Ok::<(), lockmgr::Error>(())
//! ```
//!
//! # Errors that are answers
//!
//! If another holder has a lock, that is no failure, and the answer names the holder:
//! [`Error::Locked`] and [`Error::LockFail`] carry the lock. The failures are the store's, and name
//! its file. After any error the store is as it was, with few exceptions, which [`Error`] names.
//!
//! ```
//! use lockmgr::{Error, GetOptions, LockManager};
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let manager = LockManager::open(directory.path().join("locks.redb"))?;
//! manager.get_lock("backup", GetOptions::new().locked_by("app-1"))?;
//! match manager.get_lock("backup", GetOptions::new()) {
//!     Ok(_) => unreachable!("it is taken"),
//!     Err(Error::Locked(held)) => assert_eq!(held.locked_by(), "app-1"),
//!     Err(Error::StoreBusy { .. }) => { /* another process was at work for too long: try again */ }
//!     Err(failure) => return Err(failure),
//! }
//! # Ok::<(), Error>(())
//! ```
//!
//! # Deadlines and clocks
//!
//! A lock expires once its deadline has come, and is then absent for every call. On Linux the
//! deadline counts on the clock since boot, so setting the wall clock moves the deadline in neither
//! direction. [`locked_until`](Lock::locked_until) is for people and for other boots. Tests turn a
//! [`ManualClock`] instead of sleeping.
//!
//! ```
//! use lockmgr::{GetOptions, LockManager, ManualClock};
//! use std::time::Duration;
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("locks.redb");
//! let clock = ManualClock::new("2019-11-22T02:00:00Z".parse()?);
//! let manager = LockManager::builder().clock(clock.clone()).open(&path)?;
//! manager.get_lock("backup", GetOptions::new())?; // for 600 s
//!
//! clock.set_wall("2029-11-22T02:00:00Z".parse()?);
//! assert!(manager.is_locked("backup")?);
//! clock.advance(Duration::from_secs(600));
//! assert!(!manager.is_locked("backup")?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Many processes
//!
//! Any number of managers, in any number of processes, may have the file open. Clones and threads
//! share one manager. Writers take turns and wait for each other, first come, first served, for at
//! most the [`busy_timeout`](Builder::busy_timeout). Readers see the last committed state. A
//! process killed at any instant costs the others no more than a repair. An application that is
//! alone may ask for the [`exclusive`](Builder::exclusive) mode, which is faster. An application
//! that only reads may ask for the [`read_only`](Builder::read_only) mode.
//!
//! ```
//! use lockmgr::{GetOptions, LockManager};
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let path = directory.path().join("locks.redb");
//! let application = LockManager::open(&path)?;
//! let watcher = LockManager::builder().read_only().open(&path)?;
//! application.get_lock("backup", GetOptions::new())?;
//! assert_eq!(watcher.locks("")?.len(), 1);
//! # Ok::<(), lockmgr::Error>(())
//! ```
//!
//! The file must be on a file system of this host, not on a network's. A damaged file is an error:
//! panics of redb on its bytes are caught, which needs `panic = "unwind"`, the default.
//!
//! # Async
//!
//! With the feature `async`, the methods that may block have siblings that are futures of no
//! particular runtime. One thread of the manager makes the blocking calls. A future that is dropped
//! leaves neither a lock nor a request.
//!
//! ```
//! # #[cfg(feature = "async")]
//! # {
//! # let directory = tempfile::tempdir().unwrap();
//! # let path = directory.path().join("locks.redb");
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
//! # runtime.block_on(async {
//! let manager = lockmgr::LockManager::open(&path)?;
//! let guard = manager.acquire(["accounts", "ledger"]).lock_async().await?;
//! guard.release_async().await?;
//! # Ok::<(), lockmgr::Error>(())
//! # }).unwrap();
//! # }
//! ```
//!
//! `open`, the methods of a guard, and the methods that read may block: for a moment, or up to the
//! [`busy_timeout`](Builder::busy_timeout) if other processes keep the store busy.
//!
//! # Observing
//!
//! [`LockManager::stats`] returns counters of one manager. With the feature `tracing` it also sends
//! events of the target `lockmgr`, in the span of the caller:
//!
//! | event | level | fields |
//! |---|---|---|
//! | `waiting` | debug | `names`, `in_the_way`: why |
//! | `granted` | debug | `name`, `token`, `waited`: none if it did not have to |
//! | `not granted` | debug | `error` |
//! | `set` | debug | `created`, `renewed`: how many locks |
//! | `renewed` | trace | `count` of locks |
//! | `released` | debug | `count` of locks |
//! | `lost` | warn | `name`, `token` |
//! | `cleaned` | debug | `count` of rows |
//! | `store busy` | debug | none |
//!
//! # Features
//!
//! - `async`: the same verbs as futures of no particular runtime, named with `_async`.
//! - `cli` (default): the command `lockmgr`. A library user switches it off, with
//!   `default-features = false`.
//! - `tracing`: events of grants, waits, losses and clean-ups, of the target `lockmgr`.
//! - `serde`: serialises [`Lock`], [`LockSetResult`] and [`Request`] in the shape of the command's `--json`.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod acquire;
mod ask;
mod base;
mod beacon;
mod builder;
mod claim;
mod clock;
mod error;
#[cfg(feature = "async")]
mod future;
mod grant;
mod guard;
pub mod guide;
mod held;
mod holds;
mod inspect;
mod keeper;
mod lock;
mod manager;
mod name;
mod observe;
mod process;
mod queue;
mod record;
mod set;
mod spawn;
mod storage;
mod store;
mod timeout;
mod wait;
mod waiter;
#[cfg(feature = "async")]
mod worker;

pub use acquire::{Acquire, Canceller};
pub use builder::Builder;
pub use claim::{Claim, InvalidRequest, Mode};
pub use clock::{Clock, ManualClock};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "async")]
pub use future::Pending;
pub use guard::LockGuard;
pub use inspect::Report;
pub use lock::{BoundTo, Lock, LockRef};
pub use manager::LockManager;
pub use name::{Holder, InvalidName, LockName, Note, Printable};
pub use observe::Stats;
pub use process::Bound;
pub use queue::Request;
pub use set::{
    GetOptions, LockSetCounts, LockSetResult, LockSetStatus, RenewOptions, SetOptions, Status,
};
pub use storage::StorageCall;
pub use timeout::{InvalidTimeout, Timeout};

/// Compiles and runs the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
