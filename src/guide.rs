//! How to hold locks safely, and what to write instead of `flock`.
//!
//! # Holding locks safely
//!
//! **A lock is a lease.** It ends by itself: at its deadline, and on Linux as soon as the process
//! it is bound to has ended. So a program that dies holds nobody up, and a program that hangs
//! holds others up no longer than its lease. Choose the lease by how long the others may wait
//! for a program that hangs, not by how long the work takes, and let
//! the manager renew it while the work goes on, as it does by default.
//!
//! **A program can be paused** at any instant: stopped, swapped out, its machine suspended. When
//! it goes on, its lease may be over and the lock in other hands, and it cannot know before it
//! looks. [`LockGuard::is_held`](crate::LockGuard::is_held) looks, but a pause fits between
//! looking and acting too. Only what the lock protects can tell for sure, by the **fencing
//! token**: every lock gets a larger one than all before it, so a resource that remembers the
//! largest token it has seen can refuse whoever comes with a smaller one.
//!
//! ```
//! use lockmgr::LockManager;
//!
//! /// What the lock protects. It remembers the last token, beside its data.
//! #[derive(Default)]
//! struct Ledger {
//!     last_token: u64,
//!     entries: Vec<String>,
//! }
//!
//! impl Ledger {
//!     fn append(&mut self, token: u64, entry: &str) -> Result<(), String> {
//!         if token < self.last_token {
//!             return Err(format!("token {token} is older than {}", self.last_token));
//!         }
//!         self.last_token = token;
//!         self.entries.push(entry.to_owned());
//!         Ok(())
//!     }
//! }
//!
//! # let dir = tempfile::tempdir().unwrap();
//! let manager = LockManager::open(dir.path().join("locks.redb"))?;
//! let mut ledger = Ledger::default();
//!
//! let slow = manager.acquire(["ledger"]).lock()?;
//! let (_, slow_token) = slow.tokens()[0].clone();
//! // Here it is paused, and somebody forces the lock away.
//! manager.unlock("ledger")?;
//! let next = manager.acquire(["ledger"]).lock()?;
//! let (_, next_token) = next.tokens()[0].clone();
//!
//! ledger.append(next_token, "by the next holder").unwrap();
//! assert!(ledger.append(slow_token, "too late").is_err());
//! assert_eq!(ledger.entries, ["by the next holder"]);
//! # Ok::<(), lockmgr::Error>(())
//! ```
//!
//! In a shell script the token is in `LOCKMGR_TOKENS`, and `lockmgr check NAME TOKEN` looks
//! whether it still holds the lock.
//!
//! **Ask for all locks at once.** [`acquire`](crate::LockManager::acquire) takes a set of names,
//! all or none, and waits for the set as one request, first come, first served. Requests for
//! overlapping sets cannot wait for each other in a circle. Who holds one lock while it waits for
//! another can: [`LockGuard::lock`](crate::LockGuard::lock) is for those who know their order.
//!
//! **A lost lease is told** three ways: by [`is_held`](crate::LockGuard::is_held), by
//! [`Error::Lost`](crate::Error::Lost) from every later call on the guard, and by the
//! [`on_lost`](crate::Acquire::on_lost) callback, from the thread that keeps the lease alive.
//! Dropping a guard releases a lock only while that bears the guard's token: never a successor's.
//!
//! **What is bound to what.** Guards and `lockmgr run` bind their locks to their own process,
//! `get` and `set` to any with `--while PID`. The process is told apart by its start and its pid
//! namespace, so a later process of the same number does not hold the lock. A process that cannot
//! be judged, in a container's namespace, counts as alive, and then the deadline decides:
//! do not combine `--no-timeout` with processes that the others cannot see.
//!
//! # Instead of flock
//!
//! `lockmgr run` does what flock(1) does, with names instead of files, several at once, in order
//! of arrival, and it can be asked who holds what since when.
//!
//! | flock(1) | lockmgr |
//! |---|---|
//! | `flock FILE COMMAND ARG…` | `lockmgr run NAME -- COMMAND ARG…` |
//! | `flock FILE -c STRING` | `lockmgr run NAME -c STRING` |
//! | `flock -n FILE COMMAND` | `lockmgr run -n NAME -- COMMAND` |
//! | `flock -w 10 FILE COMMAND` | `lockmgr run -w 10 NAME -- COMMAND` |
//! | `flock -E 75 -n FILE COMMAND` | `lockmgr run -E 75 -n NAME -- COMMAND` |
//! | `flock -F FILE COMMAND` | `lockmgr run -F NAME -- COMMAND` |
//! | `flock --verbose FILE COMMAND` | `lockmgr run -v NAME -- COMMAND` |
//! | `flock -n 9` on a script's descriptor | `lockmgr get NAME -k --while $$` |
//! | `flock -w 10 9` | `lockmgr get NAME -k --wait 10 --while $$` |
//! | `flock -u 9` | `lockmgr unlock NAME` |
//! | `flock -o FILE COMMAND` | always so: the command inherits no descriptor of the store |
//! | `flock -x FILE COMMAND` | always so; `-s` is refused: there are no shared locks |
//! | two locks: `flock A flock B COMMAND` | `lockmgr run A B -- COMMAND`, without the deadlock |
//! | who holds it: `fuser FILE`, `lslocks` | `lockmgr list`, `lockmgr queue` |
//!
//! What differs:
//!
//! - `flock 9` waits without a bound; `get` waits for as long as `--wait` says, or not at all.
//! - A daemon that the command leaves behind holds nothing.
//! - A command whose lease cannot be kept is ended before somebody else gets its lock: its own
//!   process, not what that started. `--on-lost warn` lets it go on.
//! - A command that is not found gives 127, one that is not executable 126, as in a shell; flock
//!   gives 69.
//!
//! # Recipes
//!
//! Who shall exclude each other needs one store, and the default is each user's own. So jobs name
//! it in `LOCKMGR_DB`, and the command by its path or a `PATH` that has it: cron's is short, and
//! `cargo install` puts commands into `~/.cargo/bin`, with `--root /usr/local` into
//! `/usr/local/bin`. Jobs of several users need a directory that they may all write to.
//!
//! **cron**: one run at a time, and a run that is late is left out without a word.
//!
//! ```text
//! PATH=/usr/local/bin:/usr/bin:/bin
//! LOCKMGR_DB=/var/lib/lockmgr/locks.redb
//! */5 * * * *  lockmgr run -n -E 0 report -- /usr/local/bin/report
//! ```
//!
//! **systemd timer**: wait for the nightly jobs that need the same database, an hour at most, and
//! let systemd see a failure if that was in vain. A system service has no home directory to keep
//! a store in; `StateDirectory` makes `/var/lib/lockmgr` for it.
//!
//! ```text
//! [Service]
//! Type=oneshot
//! StateDirectory=lockmgr
//! Environment=LOCKMGR_DB=/var/lib/lockmgr/locks.redb
//! ExecStart=/usr/local/bin/lockmgr run -w 1h -E 75 database -- /usr/local/bin/vacuum
//! ```
//!
//! **A shell script** that holds a lock as long as it lives, however it ends. `get` prints the
//! lock, which cron would mail:
//!
//! ```text
//! #!/bin/sh
//! lockmgr get backup --no-timeout --wait 10m --while $$ >/dev/null || exit 1
//! tar -cf /backup/home.tar /home
//! ```
//!
//! **Two resources at once**, taken together or not at all:
//!
//! ```text
//! lockmgr run -v camera gpu -- record --seconds 30
//! ```
