//! `LockGuard`: holds locks until it is dropped.

use crate::ask::{Asker, Bind};
use crate::base::Base;
use crate::claim::{Claims, Mode};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::grant::{settle, tell_head};
use crate::held::{Fate, Held, remove};
use crate::lock::Lock;
use crate::manager::LockManager;
use crate::name::LockName;
use crate::process::Binding;
use crate::set::{bind, check_endless};
use crate::store::WriteTx;
use crate::timeout::{Timeout, instant};
use crate::waiter::Bounded;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::time::Duration;

/// How much [`LockGuard::renew`] adds to a lease: 120 s, as in django-lockmgr.
const RENEWAL: Duration = Duration::from_secs(120);

/// Holds locks until it is dropped or its process ends.
/// [`LockManager::acquire`](crate::LockManager::acquire) begins one.
///
/// Dropping the guard releases the locks that it still holds, on unwinding too. The first request
/// that waits for the names gets them in the same transaction. Like every call that writes, the
/// drop may wait for other processes, at most for the
/// [`busy_timeout`](crate::Builder::busy_timeout). If the store refuses the release at that moment,
/// the manager tries again in the background. [`release`](Self::release) returns the error. A guard
/// touches a lock only while the lock bears the token that the guard was given, so a guard never
/// touches a successor's lock. A guard does nothing in a process that was forked off.
///
/// A lock can be lost while the guard lives: its lease ran out and another holder had the lock, or
/// an administrator forced it away by its name. Then the manager calls
/// [`on_lost`](crate::Acquire::on_lost), [`is_held`](Self::is_held) says false, and every later
/// call that changes something fails with [`Error::Lost`]. A process that was paused cannot know of
/// a loss in time: let the resource that the lock protects check the [token](Self::token).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
/// {
///     let _guard = manager.acquire(["a"]).lock()?;
///     assert!(manager.is_locked("a")?);
/// }
/// assert!(!manager.is_locked("a")?);
/// # Ok::<(), lockmgr::Error>(())
/// ```
#[must_use = "the locks are released as soon as the guard is dropped"]
#[derive(Debug)]
pub struct LockGuard {
    manager: LockManager,
    held: Arc<Held>,
    /// The token of the first name, as it was granted.
    token: u64,
    /// Whether dropping the guard must not block.
    is_in_background: bool,
}

impl LockGuard {
    pub(crate) fn new(manager: LockManager, held: Arc<Held>, locks: Vec<Lock>) -> Self {
        let token = locks.first().map_or(0, |lock| lock.token);
        let guard = Self {
            manager,
            held,
            token,
            is_in_background: false,
        };
        guard.extend(locks);
        let held = &guard.held;
        if held.is_told() || held.renewal().is_some() {
            // Without a keeper thread the lease ends, and others may get the locks, as documented.
            let _ = guard.manager.0.keeper.keep(held);
        }
        guard
    }

    /// Makes a later drop release the locks in the background.
    #[cfg(feature = "async")]
    pub(crate) fn in_background(mut self) -> Self {
        self.is_in_background = true;
        self
    }

    #[cfg(feature = "async")]
    pub(crate) fn manager(&self) -> &LockManager {
        &self.manager
    }

    /// Adds locks to the guard. The keeper is told if they are forced away.
    fn extend(&self, locks: Vec<Lock>) {
        if self.held.is_told() {
            let keeper = &self.manager.0.keeper;
            for id in locks.iter().filter_map(|lock| lock.request) {
                self.manager.0.base.watcher.list(id, keeper.sleeper());
            }
        }
        self.held.extend(locks);
        if self.held.is_told() {
            // A lock may have been forced away before it was listed.
            let _ = self.held.look();
        }
    }

    /// Releases all held locks, in the background if the store refuses now.
    fn let_go(&self, has_waited: bool) {
        // This finds the losses, and tells of them.
        if self.is_in_background {
            let held = Arc::clone(&self.held);
            if !held.locks().is_empty() {
                let release = move |_: &Base| {
                    held.release_silently(|_| true)
                        .map(|lost| vec![(Arc::clone(&held), lost)])
                };
                self.manager
                    .0
                    .keeper
                    .soon(&self.manager.0.base, Box::new(release));
            }
            return;
        }
        let has_waited = has_waited || self.held.release(|_| true).is_err();
        let locks = self.held.leave();
        if !locks.is_empty() {
            let release = move |base: &Base| remove(base, &locks).map(drop);
            self.manager.undo(has_waited, release);
        }
    }

    /// Adds a lock, under the same lease, and waits until it is granted. A guard that holds locks
    /// while it waits for more can wait for ever: ask for all locks at once if possible.
    ///
    /// # Errors
    /// As [`Acquire::lock`](crate::Acquire::lock); [`Error::Locked`] for a lock that this guard
    /// holds; [`Error::Lost`]. On an error the guard holds the same locks as before.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let mut guard = manager.acquire(["a"]).lock()?;
    /// guard.lock("b")?;
    /// assert!(manager.is_locked("b")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn lock(&mut self, name: impl AsRef<str>) -> Result<()> {
        self.add(name.as_ref(), Bounded::Forever)
    }

    /// Adds a lock, under the same lease, if it is free now.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    ///
    /// ```
    /// # use lockmgr::Error;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let mut guard = manager.acquire(["a"]).lock()?;
    /// manager.get_lock("b", lockmgr::GetOptions::new())?;
    /// assert!(matches!(guard.try_lock("b"), Err(Error::Locked(_))));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn try_lock(&mut self, name: impl AsRef<str>) -> Result<()> {
        self.add(name.as_ref(), Bounded::Never)
    }

    fn add(&mut self, name: &str, bounded: Bounded) -> Result<()> {
        self.check_fork()?;
        // The guard may have lost its locks with the file, unseen.
        self.held.look_and_check()?;
        let name = LockName::new(name)?;
        if let Some(lock) = self.held.find(name.as_str()) {
            return Err(Error::Locked(Box::new(lock)));
        }
        let mut asker = Asker::new(
            &self.manager,
            Claims::exclusive([name]),
            (self.held.lease.clone(), Bind::Same),
            (bounded, &Arc::default()),
            self.held.is_told(),
        );
        self.extend(asker.ask()?);
        Ok(())
    }

    /// Turns the exclusive locks into shared ones, and lets no exclusive request in between: the
    /// waiters that ask to share the names get them in the same transaction. The tokens stay. Slots
    /// stay as they are. A lease that ran out begins again if no other holder had the lock since.
    ///
    /// # Errors
    /// [`Error::Lost`] if a lock was lost: if this call finds the loss, the other locks are shared;
    /// if the loss was known before, nothing changes; those of the store, and then all locks are as
    /// they were, or all are shared if the store failed in the middle of its commit.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let mut guard = manager.acquire(["config"]).lock()?;
    /// assert!(manager.acquire_shared(["config"]).try_lock().is_err());
    /// guard.downgrade()?;
    /// let reader = manager.acquire_shared(["config"]).try_lock()?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn downgrade(&mut self) -> Result<()> {
        self.check_fork()?;
        self.held.check()?;
        let timeout = self.held.lease.timeout;
        self.held.change("share locks in", |tx, mut row, now| {
            if row.mode == Mode::Exclusive {
                if row.is_expired(now) {
                    // No other holder had the lock since, so this renews it as a late renewal does.
                    row = row.renewed(timeout, now)?;
                }
                row.mode = Mode::Shared;
                tx.put(&row)?;
                settle(tx, [&row.name], now)?;
            }
            Ok(Fate::Held(row))
        })?;
        self.held.check()
    }

    /// Releases one of the locks, and says whether the guard still held it.
    ///
    /// # Errors
    /// [`Error::Lost`] if any lock was lost; those of the store, and then the guard still holds the
    /// lock, or has released it if the store failed in the middle of its commit.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let mut guard = manager.acquire(["a", "b"]).lock()?;
    /// assert!(guard.unlock("a")?);
    /// assert!(!guard.unlock("a")?);
    /// assert_eq!(guard.tokens(), [("b".to_owned(), 2)]);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn unlock(&mut self, name: impl AsRef<str>) -> Result<bool> {
        self.check_fork()?;
        let name = name.as_ref();
        if self.held.find(name).is_none() {
            return self.held.check().map(|()| false);
        }
        self.held.release(|lock| lock.name == *name)?;
        self.held.check().map(|()| true)
    }

    /// Adds 120 s to every lease. A lease that ran out begins again if no other holder had the lock
    /// since. Without a lease the call only checks that the guard still holds the locks.
    ///
    /// # Errors
    /// [`Error::Lost`] if a lock was lost, and then the others are renewed; those of the store, and
    /// then the leases are as they were, or all are renewed if the store failed in the middle of
    /// its commit.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let mut guard = manager.acquire(["a"]).lease(Duration::from_secs(60)).lock()?;
    /// guard.renew()?;
    /// assert!(guard.time_left().unwrap() > Duration::from_secs(170));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn renew(&mut self) -> Result<()> {
        self.renew_by(RENEWAL)
    }

    /// Adds this time to every lease, or ends all leases with [`Timeout::Never`], and otherwise
    /// acts as [`renew`](Self::renew).
    ///
    /// # Errors
    /// As [`renew`](Self::renew); [`Error::InvalidTimeout`], also for zero: a computed time of zero
    /// is a mistake.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let mut guard = manager.acquire(["a"]).lease(Duration::from_secs(60)).lock()?;
    /// guard.renew_by(Duration::from_secs(60))?;
    /// assert!(guard.time_left().unwrap() > Duration::from_secs(110));
    /// assert!(guard.renew_by(Duration::ZERO).is_err());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn renew_by(&mut self, more: impl Into<Timeout>) -> Result<()> {
        self.check_fork()?;
        let more = more.into();
        more.check_renewal()?;
        self.held.check()?;
        if self.held.lease.timeout == Timeout::Never {
            return self.held.look_and_check();
        }
        self.held.change("renew locks in", |tx, row, now| {
            let row = match row.is_expired(now) {
                true => row.renewed(more, now)?,
                false => row.extended(more, now)?,
            };
            tx.put(&row)?;
            Ok(Fate::Held(row))
        })?;
        self.held.check()
    }

    /// Returns the fencing token of the lock, or of the first lock if the guard holds several. The
    /// token stays as it was when the lock was granted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).lock()?;
    /// assert_eq!(guard.token(), 1);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Returns the names that the guard holds with their fencing tokens, as the guard knows them,
    /// without a look at the store.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a", "b"]).lock()?;
    /// assert_eq!(guard.tokens(), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn tokens(&self) -> Vec<(String, u64)> {
        let named = |lock: &Lock| (lock.name.as_str().to_owned(), lock.token);
        self.known().iter().map(named).collect()
    }

    /// Returns the locks that the guard holds, as the guard knows them, without a look at the
    /// store.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).lock()?;
    /// assert_eq!(guard.locks()[0].locked_until(), None);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn locks(&self) -> Vec<Lock> {
        self.known()
    }

    /// Returns the earliest deadline of the leases that the guard knows, by the wall clock, or none
    /// without a lease.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).lease(Duration::from_secs(60)).lock()?;
    /// assert!(guard.deadline().unwrap() > chrono::Utc::now());
    /// assert_eq!(manager.acquire(["b"]).lock()?.deadline(), None);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn deadline(&self) -> Option<DateTime<Utc>> {
        let locks = self.known();
        let deadlines = locks.iter().filter_map(|lock| lock.deadline);
        deadlines.map(|deadline| instant(deadline.wall)).min()
    }

    /// Returns the time until the earliest deadline that the guard knows, by the clock that
    /// decides, or none without a lease.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).lease(Duration::from_secs(60)).lock()?;
    /// assert!(guard.time_left().unwrap() <= Duration::from_secs(60));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn time_left(&self) -> Option<Duration> {
        let now = self.manager.0.base.now();
        let locks = self.known();
        locks.iter().filter_map(|lock| lock.time_left(now)).min()
    }

    /// Tells whether the guard still holds all of its locks. Reads the store.
    ///
    /// # Errors
    /// Those of the store.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).lock()?;
    /// assert!(guard.is_held()?);
    /// manager.unlock("a")?;
    /// assert!(!guard.is_held()?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn is_held(&self) -> Result<bool> {
        self.check_fork()?;
        self.held.look()
    }

    /// Releases the locks, in one transaction, and returns the error that dropping the guard would
    /// swallow.
    ///
    /// # Errors
    /// [`Error::Lost`] if a lock was lost before; those of the store. If the store refused the
    /// release, the manager tries again in the background, until the locks are released or this
    /// process ends.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).lock()?;
    /// guard.release()?;
    /// assert!(!manager.is_locked("a")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn release(self) -> Result<()> {
        self.check_fork()?;
        let released = self.held.release(|_| true);
        if released.is_err() {
            // The call has waited its bound: the drop must not wait as long again.
            self.let_go(true);
        }
        released?;
        self.held.check()
    }

    /// Ends the guard and leaves the locks to their leases: no thread renews or releases them any
    /// more, and they outlive this process. Without a lease they stay until a caller unlocks them.
    /// Returns the locks.
    ///
    /// # Errors
    /// [`Error::Lost`] if a lock was lost; those of the store. On an error the guard releases the
    /// locks.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let locks = manager.acquire(["a"]).lock()?.detach()?;
    /// assert_eq!(locks[0].bound_to(), None);
    /// assert!(manager.is_locked("a")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn detach(self) -> Result<Vec<Lock>> {
        self.bind(None)
    }

    /// Ends the guard and leaves the locks to their leases and to a process: when that process
    /// ends, the locks are released. Returns the locks.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`]; [`Error::Unsupported`] if the locks have no lease and no process
    /// outside this pid namespace could prove that the process ended; otherwise as
    /// [`detach`](Self::detach).
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # if cfg!(target_os = "linux") {
    /// let locks = manager.acquire(["a"]).lock()?.detach_to(std::process::id())?;
    /// assert_eq!(locks[0].bound_to().unwrap().process_id(), std::process::id());
    /// # }
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn detach_to(self, process_id: u32) -> Result<Vec<Lock>> {
        let binding = self.binding_to(process_id)?;
        self.bind(Some(binding))
    }

    /// Fails as [`detach_to`](Self::detach_to) would because of that process. Changes nothing: a
    /// program that has to announce the locks before it detaches them checks first.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] and [`Error::Unsupported`], as [`detach_to`](Self::detach_to).
    ///
    /// ```
    /// # use lockmgr::Error;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # if cfg!(target_os = "linux") {
    /// let guard = manager.acquire(["a"]).lock()?;
    /// let nobody = guard.check_detach_to(u32::MAX);
    /// assert!(matches!(nobody, Err(Error::NoSuchProcess { .. })));
    /// assert!(guard.is_held()?);
    /// # }
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn check_detach_to(&self, process_id: u32) -> Result<()> {
        self.binding_to(process_id).map(drop)
    }

    fn binding_to(&self, process_id: u32) -> Result<Binding> {
        let here = self.manager.0.base.store.here();
        let binding = bind(here, process_id)?;
        if self.held.lease.timeout == Timeout::Never {
            check_endless(here)?;
        }
        Ok(binding)
    }

    fn bind(self, binding: Option<Binding>) -> Result<Vec<Lock>> {
        self.check_fork()?;
        self.held.check()?;
        let rebind = |tx: &mut WriteTx<'_>, mut row: Lock, _: Moment| {
            row.bound_to = binding;
            row.address = None;
            tx.put(&row)?;
            tell_head(tx, &row.name)?;
            Ok(Fate::Held(row))
        };
        self.held.change("bind locks in", rebind)?;
        self.held.check()?;
        Ok(self.held.leave())
    }

    /// Returns the descriptor of a [job](crate::Acquire::job): the job holds the locks as long as
    /// any process has the descriptor open. The kernel closes it on exec unless the caller changes
    /// that flag. None if the guard is not a job's, or if the system knows no such descriptors.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).job().lock()?;
    /// assert_eq!(guard.job_descriptor().is_some(), cfg!(target_os = "linux"));
    /// assert!(manager.acquire(["b"]).lock()?.job_descriptor().is_none());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    #[cfg(unix)]
    pub fn job_descriptor(&self) -> Option<std::os::fd::OwnedFd> {
        self.held.job_descriptor()
    }

    /// Ends the guard of a [job](crate::Acquire::job): closes this process's copy of the descriptor
    /// and leaves the locks to the job. If no other process has a copy, the call releases the locks
    /// and returns true. The locks of a guard without a job are released.
    ///
    /// # Errors
    /// [`Error::Lost`] if a lock was lost; those of the store. On an error of the store the locks
    /// end with the job, and the first waiter finds that out.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).job().lock()?;
    /// assert!(guard.leave_to_job()?);
    /// assert!(!manager.is_locked("a")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn leave_to_job(self) -> Result<bool> {
        self.check_fork()?;
        if !self.held.close_job() {
            return self.release().map(|()| true);
        }
        let left = self.held.leave_to_job();
        self.held.leave();
        let all_free = left?;
        self.held.check().map(|()| all_free)
    }

    /// Returns the locks that the guard knows. A child that was forked off may know of none,
    /// because another thread of its parent may have held the mutex at the fork.
    fn known(&self) -> Vec<Lock> {
        match self.is_inherited() {
            true => self.held.try_locks().unwrap_or_default(),
            false => self.held.locks(),
        }
    }

    /// Fails in a child that was forked off. Callers check this before all else, because another
    /// thread of the parent may have held the guard's mutexes at the fork.
    fn check_fork(&self) -> Result<()> {
        self.manager.0.base.store.check_fork()
    }

    /// Tells whether this process was forked off by the guard's process, to which the locks belong.
    fn is_inherited(&self) -> bool {
        self.manager.0.base.store.forked_from().is_some()
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        match self.is_inherited() {
            // Another thread of the parent may have held the mutexes of the guard at the fork.
            true => std::mem::forget((Arc::clone(&self.held), self.manager.clone())),
            false => self.let_go(false),
        }
    }
}
