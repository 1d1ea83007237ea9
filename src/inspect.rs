//! Shows people who look after a store more than its locks.

use crate::error::Result;
use crate::grant::Judged;
use crate::holds::Rows;
use crate::lock::Lock;
use crate::manager::LockManager;
use crate::queue::State;

/// Reports what [`LockManager::inspect`] found in a store.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Report {
    format: Option<u32>,
    live: usize,
    expired: usize,
    dead: Vec<Lock>,
    waiting: usize,
    dead_requests: usize,
}

impl Report {
    /// Returns the version of the store's format; none if there is no store yet.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("locks.redb");
    /// let reader = lockmgr::LockManager::builder().read_only().open(&path)?;
    /// assert_eq!(reader.inspect()?.format(), None);
    /// lockmgr::LockManager::open(&path)?;
    /// assert_eq!(reader.inspect()?.format(), Some(1));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn format(&self) -> Option<u32> {
        self.format
    }

    /// Returns how many locks there are.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.set_lock(["a", "b"], lockmgr::SetOptions::new())?;
    /// assert_eq!(manager.inspect()?.live(), 2);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn live(&self) -> usize {
        self.live
    }

    /// Returns how many rows of expired locks are still on the disk.
    ///
    /// ```
    /// # use lockmgr::{LockManager, ManualClock, SetOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// let clock = ManualClock::new("2019-11-22T02:00:00Z".parse().unwrap());
    /// let builder = LockManager::builder().clock(clock.clone());
    /// let manager = builder.open(dir.path().join("locks.redb"))?;
    /// manager.set_lock(["a"], SetOptions::new())?;
    /// clock.advance(std::time::Duration::from_secs(600));
    /// assert_eq!(manager.inspect()?.expired(), 1);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn expired(&self) -> usize {
        self.expired
    }

    /// Returns the locks that are absent because what they were bound to is gone, and whose rows
    /// are still on the disk.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// assert!(manager.inspect()?.dead().is_empty());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn dead(&self) -> &[Lock] {
        &self.dead
    }

    /// Returns how many requests wait.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// assert_eq!(manager.inspect()?.waiting(), 0);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns how many requests of processes that are gone are still on the disk.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// assert_eq!(manager.inspect()?.dead_requests(), 0);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn dead_requests(&self) -> usize {
        self.dead_requests
    }
}

impl LockManager {
    /// Reads every row, checks it, and counts what is there. It writes nothing and delays nobody;
    /// it takes as long as reading the whole store.
    ///
    /// It checks the checksum of each row, their count and sum, and that the index of the queue
    /// knows every request. Pages of the file that hold no rows are not checked.
    ///
    /// # Errors
    /// [`Error::Corrupted`](crate::Error::Corrupted) if something is damaged or missing; those of
    /// the store.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// let report = manager.inspect()?;
    /// assert_eq!((report.live(), report.expired()), (1, 0));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn inspect(&self) -> Result<Report> {
        self.0.base.store.read("inspect", |tx| {
            let now = self.0.base.now();
            let mut report = Report {
                format: tx.format(),
                ..Report::default()
            };
            tx.check_all()?;
            for lock in tx.with_prefix("")? {
                match lock.clone().if_live(now, tx.judge()) {
                    Some(_) => report.live += 1,
                    None if lock.is_expired(now) => report.expired += 1,
                    None => report.dead.push(lock),
                }
            }
            let mut judged = Judged::default();
            for request in tx.requests()? {
                for name in request.claims.names() {
                    // Fails if the index misses the request.
                    tx.before(name, request.number())?;
                }
                match judged.state(tx.judge(), &request, now) {
                    State::Dead => report.dead_requests += 1,
                    _ => report.waiting += 1,
                }
            }
            Ok(report)
        })
    }
}
