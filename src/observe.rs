//! Counts the calls of one manager and their outcomes, and sends them to `tracing` (feature
//! `tracing`).
//!
//! An observer changes nothing. Counting costs an atomic addition a call, so there is no switch for
//! it.

use crate::claim::Claims;
use crate::error::{Error, Result};
use crate::lock::Lock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts the calls of one manager and its clones and their outcomes, since the manager was opened.
/// [`LockManager::stats`](crate::LockManager::stats) returns the counts. A number never goes down.
///
/// Other processes, and other managers of this one, count for themselves.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
/// let guard = manager.acquire(["a", "b"]).lock()?;
/// assert!(manager.acquire(["a"]).try_lock().is_err());
/// guard.release()?;
/// let stats = manager.stats();
/// assert_eq!((stats.granted, stats.refused, stats.released), (2, 1, 2));
/// # Ok::<(), lockmgr::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Locks that were created or granted.
    pub granted: u64,
    /// Locks whose deadline was moved, by a call or by the manager's own thread.
    pub renewed: u64,
    /// Locks that were released or removed by their name.
    pub released: u64,
    /// Locks of guards that were found lost.
    pub lost: u64,
    /// Calls that ended because a lock was held or an earlier request came first.
    pub refused: u64,
    /// Requests that joined the queue.
    pub queued: u64,
    /// Waits that were cancelled, those of dropped futures among them.
    pub cancelled: u64,
    /// How long all requests of the queue waited in total, up to their grant or their end.
    pub waited: Duration,
    /// The longest of these waits.
    pub longest_wait: Duration,
    /// Write transactions that were committed or found nothing to change.
    pub writes: u64,
    /// Attempts to write that found the store busy up to their bound. One wait makes many attempts.
    pub busy: u64,
    /// Expired and dead locks, and dead requests, that `clean_locks` removed.
    pub cleaned: u64,
}

/// Holds the counters behind [`Stats`]. Times are in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    granted: AtomicU64,
    renewed: AtomicU64,
    released: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
    queued: AtomicU64,
    cancelled: AtomicU64,
    waited: AtomicU64,
    longest_wait: AtomicU64,
    writes: AtomicU64,
    busy: AtomicU64,
    cleaned: AtomicU64,
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// Sends an event if there is a subscriber for it.
macro_rules! tell {
    ($level:ident, $($event:tt)*) => {
        #[cfg(feature = "tracing")]
        tracing::event!(target: "lockmgr", tracing::Level::$level, $($event)*);
    };
}

impl Observer {
    pub(crate) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            granted: read(&self.granted),
            renewed: read(&self.renewed),
            released: read(&self.released),
            lost: read(&self.lost),
            refused: read(&self.refused),
            queued: read(&self.queued),
            cancelled: read(&self.cancelled),
            waited: Duration::from_nanos(read(&self.waited)),
            longest_wait: Duration::from_nanos(read(&self.longest_wait)),
            writes: read(&self.writes),
            busy: read(&self.busy),
            cleaned: read(&self.cleaned),
        }
    }

    /// Notes that a request joined the queue, with the obstacle in its way.
    pub(crate) fn queued(&self, claims: &Claims, in_the_way: &Error) {
        add(&self.queued, 1);
        let _ = (claims, in_the_way);
        tell!(DEBUG, names = ?claims.names().collect::<Vec<_>>(), %in_the_way, "waiting");
    }

    /// Notes that a request was answered, after a wait if it was queued.
    pub(crate) fn answered(&self, answer: Result<&[Lock], &Error>, waited: Option<Duration>) {
        if let Some(waited) = waited {
            let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
            self.waited.fetch_add(nanos, Ordering::Relaxed);
            self.longest_wait.fetch_max(nanos, Ordering::Relaxed);
        }
        match answer {
            Ok(locks) => {
                add(&self.granted, locks.len());
                for lock in locks {
                    let _ = lock;
                    tell!(DEBUG, name = %lock.name, token = lock.token, ?waited, "granted");
                }
            }
            Err(error) => self.failed(error),
        }
    }

    /// Notes that a call failed.
    pub(crate) fn failed(&self, error: &Error) {
        match error {
            Error::Cancelled => add(&self.cancelled, 1),
            error if error.is_contention() => add(&self.refused, 1),
            _ => {}
        }
        tell!(DEBUG, %error, "not granted");
    }

    pub(crate) fn set(&self, created: usize, renewed: usize) {
        add(&self.granted, created);
        add(&self.renewed, renewed);
        tell!(DEBUG, created, renewed, "set");
    }

    pub(crate) fn renewed(&self, count: usize) {
        add(&self.renewed, count);
        if count > 0 {
            tell!(TRACE, count, "renewed");
        }
    }

    pub(crate) fn released(&self, count: usize) {
        add(&self.released, count);
        if count > 0 {
            tell!(DEBUG, count, "released");
        }
    }

    pub(crate) fn lost(&self, lock: &Lock) {
        add(&self.lost, 1);
        let _ = lock;
        tell!(WARN, name = %lock.name, token = lock.token, "lost");
    }

    pub(crate) fn cleaned(&self, count: usize) {
        add(&self.cleaned, count);
        tell!(DEBUG, count, "cleaned");
    }

    /// Notes that a write transaction ended.
    pub(crate) fn wrote<T>(&self, result: &Result<T>) {
        match result {
            Ok(_) => add(&self.writes, 1),
            Err(Error::StoreBusy { .. }) => {
                add(&self.busy, 1);
                tell!(DEBUG, "store busy");
            }
            Err(_) => {}
        }
    }
}

/// Holds the span of the caller, for the work that another thread does for the caller.
#[cfg(feature = "async")]
#[derive(Clone, Debug)]
pub(crate) struct Caller(#[cfg(feature = "tracing")] tracing::Span);

#[cfg(feature = "async")]
impl Caller {
    pub(crate) fn here() -> Self {
        Self(
            #[cfg(feature = "tracing")]
            tracing::Span::current(),
        )
    }

    pub(crate) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        let _entered = self.0.enter();
        work()
    }
}
