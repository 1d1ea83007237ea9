//! Reports the contents of a store beyond its locks, for people who look after it.

use crate::error::Result;
use crate::grant::Judged;
use crate::holds::Rows;
use crate::lock::Lock;
use crate::manager::LockManager;
use crate::queue::State;

/// Reports the contents of a store. [`LockManager::inspect`] returns it.
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
    /// Returns the version of the store's format, or none if there is no store yet.
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

    /// Returns how many live locks there are.
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

    /// Returns the locks that are absent because the thing that they were bound to is gone, and
    /// whose rows are still on the disk.
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
    /// Reads every row, checks it, and counts the rows. The call writes nothing and delays no other
    /// call. It takes as long as reading the whole store.
    ///
    /// The call checks the checksum of each row, the count and the sum of the rows, and that the
    /// index of the queue knows every request. It does not check pages of the file that hold no
    /// rows.
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
                    // This fails if the index misses the request.
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
