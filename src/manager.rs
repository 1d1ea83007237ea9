//! Offers the verbs of the library, each a few lines over the store.
//!
//! A verb runs one transaction and reads the clock once.

use crate::base::Base;
use crate::builder::Builder;
use crate::claim::{Claim, Claims, Mode};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::grant::{
    Judged, apply, create_all, end, grantable, plan, refuse, reserved, settle, tell_head,
};
use crate::held::Losses;
use crate::holds::Rows;
use crate::keeper::{Keeper, is_passing};
use crate::lock::{Lock, LockRef};
use crate::name::{LockName, Printable};
use crate::observe::Stats;
use crate::queue::{Plan, Request, State};
use crate::set::{
    Decision, GetOptions, LockSetResult, RenewOptions, SetOptions, SetRequest, decide,
    decide_renewal,
};
use crate::store::{CLEANED_AT_A_TIME, MUCH, ReadTx, Store, WriteTx};
use crate::wait::Ping;
#[cfg(feature = "async")]
use crate::worker::Worker;
use std::collections::{HashMap, HashSet};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Manages the locks of one store.
///
/// A manager is a handle: clones and threads share it, and any number of processes open managers of
/// their own on the same file. A program may keep a manager open as long as it runs. Dropping the
/// last clone closes the manager, and neither releases nor changes a lock.
///
/// Calls that write wait for each other and for writers in other processes, first come, first
/// served, and at most for the [`busy_timeout`](Builder::busy_timeout). Every change is on the disk
/// when its call returns. Calls that read see the last committed state and do not wait for a write
/// to end. A reader waits only while another process writes the header of the file: for
/// microseconds at the start and at the end of a transaction, for a sync when that process opens
/// the store. If that process is stopped just then, or has the store exclusively, a read fails with
/// [`Error::StoreBusy`] at its bound.
///
/// ```
/// use lockmgr::{LockManager, SetOptions};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("locks.redb");
/// let manager = LockManager::open(&path)?;
/// let result = manager.set_lock(["hello", "world"], SetOptions::new())?;
/// assert_eq!(result.counts().created, 2);
/// assert!(manager.is_locked("hello")?);
/// # Ok::<(), lockmgr::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LockManager(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    // The worker is dropped first, because it works on the store.
    #[cfg(feature = "async")]
    pub(crate) worker: Worker,
    pub(crate) keeper: Keeper,
    pub(crate) base: Arc<Base>,
}

/// How long undoing waits for other writers before it goes on in the background.
const SOON: Duration = Duration::from_millis(10);

/// How long a long cleaning leaves the store to other writers after each of its transactions.
const YIELD: Duration = Duration::from_micros(100);

/// How many commits in a row may cut nothing off the file before cleaning stops. The first of them
/// may only free pages that the end of the file still held.
const MOST_FRUITLESS: usize = 3;

impl Builder {
    /// Opens the store in this file, or creates the file whole if it is missing. If a killed
    /// process left the store in need of repair, this call repairs it.
    ///
    /// # Errors
    /// [`Error::InvalidName`] for the holder; [`Error::NotAStore`] for a file of something else;
    /// [`Error::Corrupted`], [`Error::StoreBusy`], [`Error::Io`].
    ///
    /// ```
    /// # use lockmgr::{Error, LockManager};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("notes.txt");
    /// std::fs::write(&path, "not a store").unwrap();
    /// let opened = LockManager::builder().open(&path);
    /// assert!(matches!(opened, Err(Error::NotAStore { .. })));
    /// ```
    pub fn open(self, path: impl AsRef<Path>) -> Result<LockManager> {
        let (config, clock, locked_by) = self.into_parts(path.as_ref())?;
        let store = Store::open(config)?;
        Ok(LockManager(Arc::new(Inner {
            #[cfg(feature = "async")]
            worker: Worker::default(),
            keeper: Keeper::default(),
            base: Arc::new(Base::new(store, clock, locked_by)),
        })))
    }
}

impl LockManager {
    /// Opens the store in this file with the defaults, or creates the file if it is missing. See
    /// [`Builder::open`].
    ///
    /// # Errors
    /// As [`Builder::open`].
    ///
    /// ```
    /// # use lockmgr::LockManager;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("locks.redb");
    /// let manager = LockManager::open(&path)?;
    /// assert!(path.exists());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open(path)
    }

    /// Begins a [`Builder`], to open a manager that differs from the defaults.
    ///
    /// ```
    /// # use lockmgr::LockManager;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("locks.redb");
    /// let manager = LockManager::builder().exclusive().open(&path)?;
    /// assert!(!manager.is_locked("hello")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Creates, renews or skips every one of the locks, in one transaction.
    ///
    /// The call takes the names in their order, and each name sees the changes of the earlier ones:
    /// a name given twice meets the lock that its first mention created. The call creates an absent
    /// lock and renews an existing one, unless the [options](SetOptions) say otherwise. With
    /// [`fail`](SetOptions::fail) an existing lock aborts the transaction. If an earlier request
    /// waits for a free name together with others, the call skips that name.
    ///
    /// The call also skips a name that is shared or held by slots: `set_lock` renews exclusive
    /// locks alone.
    ///
    /// A renewal never shortens a lease. It keeps a lock that never expires, and changes nothing
    /// but the deadline and [`updated_at`](Lock::updated_at). A call that changes nothing writes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::LockFail`] with the lock that exists; [`Error::Reserved`] with the request that
    /// comes first; [`Error::InvalidName`], [`Error::InvalidTimeout`] and [`Error::NoSuchProcess`]
    /// before the store is touched; those of the store. On an error nothing has changed, except
    /// perhaps after a failure during the commit ([`Error`]).
    ///
    /// ```
    /// use lockmgr::{SetOptions, Status};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.set_lock(["hello", "world"], SetOptions::new())?;
    /// let again = manager.set_lock(["hello", "world"], SetOptions::new())?;
    /// assert_eq!(again.counts().renewed, 2);
    /// assert_eq!(again.status("hello").unwrap().status, Status::Extend);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn set_lock<N: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = N>,
        options: SetOptions,
    ) -> Result<LockSetResult> {
        let names = valid_names(names)?;
        let here = self.0.base.store.here();
        let request = options.into_request(&self.0.base.locked_by, here, self.0.base.now())?;
        if names.is_empty() {
            return Ok(LockSetResult::default());
        }
        let set = self.0.base.write("set locks in", |tx, now| {
            let plan = plan(tx, &names, now)?;
            if request.fail
                && let Some(met) = first_met(tx, &plan, &request, &names, now)?
            {
                return refuse(tx, &plan, met, now);
            }
            apply(tx, &plan, now)?;
            let mut result = LockSetResult::with_capacity(names.len());
            let mut left = names.len();
            for name in names {
                set_one(tx, &plan, &request, (name, left), now, &mut result)?;
                left -= 1;
            }
            Ok(result)
        });
        let observer = &self.0.base.observer;
        match &set {
            Ok(result) => observer.set(result.counts().created, result.counts().renewed),
            Err(error) => observer.failed(error),
        }
        set
    }

    /// Creates the lock, exclusive unless the options say otherwise.
    ///
    /// # Errors
    /// [`Error::Locked`] with the lock if it exists; [`Error::Reserved`] with the request that
    /// waits for the lock and comes first; [`Error::InvalidRequest`] and [`Error::SlotsMismatch`]
    /// for its slots; [`Error::InvalidName`], [`Error::InvalidTimeout`] and
    /// [`Error::NoSuchProcess`]; those of the store. On an error nothing has changed, except
    /// perhaps after a failure during the commit ([`Error`]).
    ///
    /// ```
    /// use lockmgr::{Error, GetOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", GetOptions::new())?;
    /// match manager.get_lock("hello", GetOptions::new()) {
    ///     Err(Error::Locked(held)) => assert_eq!(*held, lock),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn get_lock(&self, name: impl AsRef<str>, options: GetOptions) -> Result<Lock> {
        let name = LockName::new(name.as_ref())?;
        let here = self.0.base.store.here();
        let claim = options.claim(name.clone())?;
        let lease = options.into_lease(&self.0.base.locked_by, here, self.0.base.now())?;
        let claims = Claims {
            list: vec![claim],
            any: None,
        };
        let got = self.0.base.write("get a lock in", |tx, now| {
            let plan = plan(tx, [&name], now)?;
            if let Err(obstacle) = grantable(tx, &plan, &claims, now)? {
                return refuse(tx, &plan, obstacle, now);
            }
            apply(tx, &plan, now)?;
            let created = create_all(tx, &lease, &claims.list, None, now)?;
            Ok(created
                .into_iter()
                .next()
                .expect("one claim makes one lock"))
        });
        let told = got.as_ref().map(std::slice::from_ref);
        self.0.base.observer.answered(told, None);
        got
    }

    /// Renews a lock: to the timeout from now, and never to an earlier deadline than it had.
    ///
    /// By name, the call renews every hold of the name, of any holder, and returns the first: an
    /// administrator's verb. By [`Lock`], or by a [`LockRef`] with a token, the call renews only
    /// while the stored lock bears that token, so a caller never renews a successor's lock by
    /// mistake.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if several hold the name and the options bind the lock, shorten it or
    /// add time (name one hold by its token); [`Error::LockNotFound`] if there is no such lock;
    /// with [`create`](RenewOptions::create), instead, [`Error::Locked`] if another token holds the
    /// name, or [`Error::Reserved`] if an earlier request waits for it; [`Error::InvalidName`] and
    /// [`Error::InvalidTimeout`]; those of the store. On an error nothing has changed, except
    /// perhaps after a failure during the commit ([`Error`]).
    ///
    /// ```
    /// use lockmgr::{Error, GetOptions, RenewOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let mine = manager.get_lock("hello", GetOptions::new())?;
    /// assert_eq!(manager.renew_lock(&mine, RenewOptions::new())?.token(), mine.token());
    ///
    /// manager.unlock("hello")?;
    /// manager.get_lock("hello", GetOptions::new().locked_by("successor"))?;
    /// let lost = manager.renew_lock(&mine, RenewOptions::new());
    /// assert!(matches!(lost, Err(Error::LockNotFound { .. })));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn renew_lock<'a>(
        &self,
        lock: impl Into<LockRef<'a>>,
        options: RenewOptions,
    ) -> Result<Lock> {
        let of = lock.into();
        let name = LockName::new(of.name)?;
        let here = self.0.base.store.here();
        let renewal = options.into_renewal(&self.0.base.locked_by, here, self.0.base.now())?;
        let (mut created, mut renewed) = (0, 0);
        let written = self.0.base.write("renew a lock in", |tx, now| {
            let plan = plan(tx, [&name], now)?;
            let mut meant = meant(tx, &name, of, now)?;
            if meant.iter().any(|lock| !lock.is_at_least()) {
                // A renewal must not prolong the rest of a hold that has ended while others hold
                // the name.
                meant.retain(|lock| !lock.is_at_least());
            }
            if meant.len() > 1 && renewal.means_one_hold() {
                return Err(several_holds(&name, meant.len()));
            }
            let mut first = None;
            for present in or_none(meant) {
                // The caller named a token: any other hold belongs to another holder.
                let present = match present {
                    None if of.token.is_some() => tx.first(&name, now)?,
                    present => present,
                };
                let lock = match decide_renewal(present, of, &renewal, now)? {
                    Decision::Extend(lock) => {
                        tx.put(&lock)?;
                        renewed += 1;
                        lock
                    }
                    Decision::Create | Decision::Skip(_) => {
                        created += 1;
                        if let Some(first) = plan.first_for(&name, Mode::Exclusive) {
                            return refuse(tx, &plan, reserved(&name, first), now);
                        }
                        apply(tx, &plan, now)?;
                        let claim = Claim::exclusive(name.clone());
                        let created = create_all(tx, &renewal.lease, &[claim], None, now)?;
                        created
                            .into_iter()
                            .next()
                            .expect("one claim makes one lock")
                    }
                };
                first.get_or_insert(lock);
            }
            if renewal.concerns_waiters() {
                tell_head(tx, &name)?;
            }
            Ok(first.expect("one hold, or none"))
        });
        let observer = &self.0.base.observer;
        match &written {
            Ok(_) => observer.set(created, renewed),
            Err(error) => observer.failed(error),
        }
        written
    }

    /// Removes a lock, and says whether it was there. The first waiter gets the lock in the same
    /// transaction.
    ///
    /// By name, the call releases every hold of the name, of any holder: an administrator's verb.
    /// By [`Lock`], or by a [`LockRef`] with a token, the call acts only while the stored lock
    /// bears that token and otherwise returns false, so a caller never releases a successor's lock
    /// by mistake.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; those of the store. On an error nothing has changed, except perhaps
    /// after a failure during the commit ([`Error`]).
    ///
    /// ```
    /// use lockmgr::GetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let mine = manager.get_lock("hello", GetOptions::new())?;
    /// assert!(manager.unlock(&mine)?);
    /// assert!(!manager.unlock(&mine)?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn unlock<'a>(&self, lock: impl Into<LockRef<'a>>) -> Result<bool> {
        let removed = self.unlock_all([lock])?;
        Ok(removed.contains(&true))
    }

    /// Removes any number of locks in one transaction, and says for each whether it was there.
    ///
    /// # Errors
    /// As [`unlock`](Self::unlock).
    ///
    /// ```
    /// use lockmgr::SetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.set_lock(["a", "b"], SetOptions::new())?;
    /// assert_eq!(manager.unlock_all(["a", "x", "b"])?, [true, false, true]);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn unlock_all<'a, L: Into<LockRef<'a>>>(
        &self,
        locks: impl IntoIterator<Item = L>,
    ) -> Result<Vec<bool>> {
        self.unlock_all_if(locks, |_| true)
    }

    /// Removes any number of locks in one transaction, if `may` allows it for every lock that is
    /// there, and says for each whether it was there. If a lock is removed by its name, its holder
    /// is told: the guard finds the lock lost at once.
    ///
    /// # Errors
    /// [`Error::Locked`] with the first lock that `may` refuses, and then no lock was removed;
    /// otherwise as [`unlock`](Self::unlock).
    ///
    /// ```
    /// use lockmgr::{Error, GetOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.get_lock("a", GetOptions::new())?;
    /// let _guard = manager.acquire(["b"]).lock()?;
    /// // Leaves the locks of living guards.
    /// let refused = manager.unlock_all_if(["a", "b"], |lock| lock.bound_to().is_none());
    /// assert!(matches!(refused, Err(Error::Locked(lock)) if lock.name() == "b"));
    /// assert!(manager.is_locked("a")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn unlock_all_if<'a, L: Into<LockRef<'a>>>(
        &self,
        locks: impl IntoIterator<Item = L>,
        may: impl Fn(&Lock) -> bool,
    ) -> Result<Vec<bool>> {
        let locks: Vec<LockRef<'a>> = locks.into_iter().map(Into::into).collect();
        let names = valid_names(locks.iter().map(|of| of.name))?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut panicked = None;
        let removed = self.0.base.write("release locks in", |tx, now| {
            let mut may = |lock: &Lock| {
                let answer = panic::catch_unwind(AssertUnwindSafe(|| may(lock)));
                answer.unwrap_or_else(|panic| {
                    panicked = Some(panic);
                    false
                })
            };
            let mut present = Vec::with_capacity(names.len());
            for (of, name) in locks.iter().zip(&names) {
                let holds = meant(tx, name, *of, now)?;
                if let Some(lock) = holds.iter().find(|lock| !may(lock)) {
                    return Err(Error::Locked(Box::new(lock.clone())));
                }
                present.push(holds);
            }
            let mut removed = Vec::with_capacity(names.len());
            let mut free = HashSet::new();
            for ((of, name), holds) in locks.iter().zip(&names).zip(present) {
                // A name given twice: the first mention has left these holds.
                let holds = match free.contains(name) {
                    true => meant(tx, name, *of, now)?,
                    false => holds,
                };
                removed.push(!holds.is_empty());
                for lock in holds {
                    match of.token {
                        Some(_) => end(tx, &lock, now)?,
                        None => tx.remove(&lock)?,
                    }
                    tx.pings.extend(holder_of(&lock));
                    free.insert(name);
                }
            }
            settle(tx, free, now)?;
            Ok(removed)
        });
        if let Some(panic) = panicked {
            // The panic comes from the caller's own closure.
            panic::resume_unwind(panic);
        }
        let count = removed.as_ref().map_or(0, |removed| {
            removed.iter().filter(|was_there| **was_there).count()
        });
        self.0.base.observer.released(count);
        removed
    }

    /// Tells whether the lock exists. Reads only.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; those of the store.
    ///
    /// ```
    /// use lockmgr::GetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// assert!(!manager.is_locked("hello")?);
    /// manager.get_lock("hello", GetOptions::new())?;
    /// assert!(manager.is_locked("hello")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn is_locked(&self, name: impl AsRef<str>) -> Result<bool> {
        let name = name.as_ref();
        LockName::check(name)?;
        self.0.base.store.read("read", |tx| {
            let now = self.0.base.now();
            tx.is_live(name, now)
        })
    }

    /// Returns the lock if it exists, and the first of [several holds](Self::holders). Reads only.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; those of the store.
    ///
    /// ```
    /// use lockmgr::GetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", GetOptions::new())?;
    /// assert_eq!(manager.find("hello")?, Some(lock));
    /// assert_eq!(manager.find("world")?, None);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn find(&self, name: impl AsRef<str>) -> Result<Option<Lock>> {
        let name = LockName::new(name.as_ref())?;
        self.0.base.store.read("read", |tx| {
            let now = self.0.base.now();
            let Some(mut lock) = tx.first(&name, now)? else {
                return Ok(None);
            };
            lock.waiting = waiting(tx, &name, now)?;
            Ok(Some(lock))
        })
    }

    /// Returns all holds of that name, in the order of their tokens. There is one, unless the name
    /// is [shared](crate::Acquire::shared) or held by [slots](crate::Acquire::slots). Reads only.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; those of the store.
    ///
    /// ```
    /// # use lockmgr::GetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// for reader in ["app-1", "app-2"] {
    ///     manager.get_lock("config", GetOptions::new().shared().locked_by(reader))?;
    /// }
    /// let holders = manager.holders("config")?;
    /// assert_eq!(holders.len(), 2);
    /// assert_eq!(holders[1].locked_by(), "app-2");
    /// assert!(manager.holders("other")?.is_empty());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn holders(&self, name: impl AsRef<str>) -> Result<Vec<Lock>> {
        let name = LockName::new(name.as_ref())?;
        self.0.base.store.read("read", |tx| {
            let now = self.0.base.now();
            let mut holders = tx.living(&name, now)?;
            if !holders.is_empty() {
                let waiting = waiting(tx, &name, now)?;
                holders.iter_mut().for_each(|lock| lock.waiting = waiting);
            }
            Ok(holders)
        })
    }

    /// Lists the locks whose names begin with `prefix` (all locks if it is empty), sorted by the
    /// bytes of their names, as of one instant. Reads only.
    ///
    /// # Errors
    /// Those of the store.
    ///
    /// ```
    /// use lockmgr::SetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.set_lock(["job:2", "job:10", "other"], SetOptions::new())?;
    /// let jobs = manager.locks("job:")?;
    /// assert_eq!(jobs[0].name(), "job:10");
    /// assert_eq!(jobs[1].name(), "job:2");
    /// assert_eq!(jobs.len(), 2);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn locks(&self, prefix: impl AsRef<str>) -> Result<Vec<Lock>> {
        self.0.base.store.read("list", |tx| {
            let now = self.0.base.now();
            let rows = tx.with_prefix(prefix.as_ref())?.into_iter();
            let mut locks: Vec<Lock> = rows
                .filter_map(|lock| lock.if_live(now, tx.judge()))
                .collect();
            let mut judged = Judged::default();
            let mut requests = tx.requests()?;
            requests.retain(|it| judged.state(tx.judge(), it, now) != State::Dead);
            let mut waiting: HashMap<&LockName, usize> = HashMap::new();
            for name in requests.iter().flat_map(|request| request.claims.names()) {
                *waiting.entry(name).or_default() += 1;
            }
            for lock in &mut locks {
                lock.waiting = waiting.get(&lock.name).copied().unwrap_or_default();
            }
            Ok(locks)
        })
    }

    /// Lists the requests that wait for a lock whose name begins with `prefix` (all requests if it
    /// is empty), in the order of arrival, as of one instant. Reads only.
    ///
    /// # Errors
    /// Those of the store.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["hello"]).lock()?;
    /// std::thread::scope(|scope| {
    ///     let waiter = scope.spawn(|| manager.acquire(["hello"]).lock());
    ///     while manager.requests("")?.is_empty() {
    ///         std::thread::yield_now();
    ///     }
    ///     assert_eq!(manager.requests("hel")?[0].names(), ["hello"]);
    ///     guard.release()?;
    ///     waiter.join().unwrap()?.release()
    /// })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn requests(&self, prefix: impl AsRef<str>) -> Result<Vec<Request>> {
        let prefix = prefix.as_ref();
        self.0.base.store.read("list requests in", |tx| {
            let now = self.0.base.now();
            let mut judged = Judged::default();
            let mut requests = tx.requests()?;
            requests.retain(|request| {
                let mut names = request.claims.names();
                names.any(|name| name.as_str().starts_with(prefix))
                    && judged.state(tx.judge(), request, now) != State::Dead
            });
            Ok(requests)
        })
    }

    /// Removes the rows of locks that expired or whose process is gone, and returns how many there
    /// were. The first waiter for such a lock gets it in the same transaction.
    ///
    /// No other call depends on cleaning: an expired lock is absent for every call, and calls that
    /// create locks remove expired rows on the way. Cleaning reclaims the space at once.
    ///
    /// If there are many rows, the call removes them in several transactions, so that other calls
    /// get their turn between two of them. Then it makes the file smaller, in several steps, as
    /// long as the end of the file is free. The last process that closes the store cuts off the
    /// rest.
    ///
    /// # Errors
    /// Those of the store. [`Error::StoreBusy`] if all waits of the call together reached the
    /// [`busy_timeout`](crate::Builder::busy_timeout). Rows that were removed by then stay removed.
    ///
    /// ```
    /// use lockmgr::{LockManager, ManualClock, SetOptions};
    /// use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("locks.redb");
    /// let clock = ManualClock::new("2019-11-22T02:00:00Z".parse().unwrap());
    /// let manager = LockManager::builder().clock(clock.clone()).open(&path)?;
    /// manager.set_lock(["a", "b"], SetOptions::new())?;
    /// clock.advance(Duration::from_secs(600));
    /// assert!(manager.locks("")?.is_empty());
    /// assert_eq!(manager.clean_locks()?, 2);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn clean_locks(&self) -> Result<usize> {
        let store = &self.0.base.store;
        store.in_one_bound(|| {
            let mut removed = 0;
            let mut next = Some(String::new());
            while let Some(from) = next {
                let cleaned = self.0.base.write("clean", |tx, now| {
                    let cleaned = tx.remove_dead(&from, now)?;
                    settle(tx, &cleaned.names, now)?;
                    Ok(cleaned)
                })?;
                next = cleaned.next;
                removed += cleaned.count;
                if next.is_some() {
                    // The kernel wakes the waiting writers, and the first of them gets the store.
                    thread::sleep(YIELD);
                }
            }
            // Fewer rows leave little space to cut off. If a step fails here, closing the store
            // does it.
            let mut fruitless = 0;
            while removed > CLEANED_AT_A_TIME && fruitless < MOST_FRUITLESS {
                match store.cut_off("clean") {
                    Ok(0) => fruitless += 1,
                    Ok(cut) if cut > MUCH => fruitless = 0,
                    _ => break,
                }
                thread::sleep(YIELD);
            }
            self.0.base.observer.cleaned(removed);
            Ok(removed)
        })
    }

    /// Removes every lock of every holder, and returns how many there were. The tokens go on from
    /// the last one. The first waiter for a lock gets it in the same transaction.
    ///
    /// # Errors
    /// Those of the store. On an error nothing has changed, except perhaps after a failure during
    /// the commit ([`Error`]).
    ///
    /// ```
    /// use lockmgr::{GetOptions, SetOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.set_lock(["a", "b"], SetOptions::new())?;
    /// assert_eq!(manager.reset_locks()?, 2);
    /// assert_eq!(manager.get_lock("a", GetOptions::new())?.token(), 3);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn reset_locks(&self) -> Result<usize> {
        let removed = self.0.base.write("reset", |tx, now| {
            let removed = tx.remove_all(now)?;
            tx.pings.extend(removed.iter().filter_map(holder_of));
            settle(tx, removed.iter().map(|lock| &lock.name), now)?;
            Ok(removed.len())
        })?;
        self.0.base.observer.released(removed);
        Ok(removed)
    }

    /// Returns counts of the calls that this manager and its clones made since it was opened. Reads
    /// no file.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert_eq!(manager.stats().granted, 1);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn stats(&self) -> Stats {
        self.0.base.observer.stats()
    }

    /// Returns how long the lock, as it was read, still has by the clock that decides when it
    /// expires: zero if it has expired, none if it never expires.
    ///
    /// ```
    /// use lockmgr::{GetOptions, LockManager, ManualClock};
    /// use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("locks.redb");
    /// let clock = ManualClock::new("2019-11-22T02:00:00Z".parse().unwrap());
    /// let manager = LockManager::builder().clock(clock.clone()).open(&path)?;
    /// let lock = manager.get_lock("hello", GetOptions::new())?;
    /// clock.advance(Duration::from_secs(1));
    /// assert_eq!(manager.time_left(&lock), Some(Duration::from_secs(599)));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn time_left(&self, lock: &Lock) -> Option<Duration> {
        lock.time_left(self.0.base.now())
    }

    /// Undoes changes that must not stay: at once if the call has not waited its bound yet, and
    /// otherwise in the background.
    pub(crate) fn undo(
        &self,
        has_waited: bool,
        work: impl Fn(&Base) -> Result<()> + Send + 'static,
    ) {
        let base = &self.0.base;
        let at_once = || base.store.within(SOON, || work(base));
        if has_waited || at_once().is_err_and(|error| is_passing(&error)) {
            let work = move |base: &Base| work(base).map(|()| Losses::new());
            self.0.keeper.retry(base, Box::new(work));
        }
    }
}

/// Finds the obstacle that a call with `fail` would meet, before anything is written: a lock that
/// exists, a lock that an earlier mention of the same name would create, or an earlier request.
fn first_met(
    tx: &WriteTx<'_>,
    plan: &Plan,
    request: &SetRequest,
    names: &[LockName],
    now: Moment,
) -> Result<Option<Error>> {
    let mut seen = HashSet::new();
    for name in names {
        if let Some(lock) = tx.first(name, now)? {
            return Ok(Some(Error::LockFail(Box::new(lock))));
        }
        if !request.create {
            continue;
        }
        if let Some(first) = plan.first_for(name, Mode::Exclusive) {
            return Ok(Some(reserved(name, first)));
        }
        if !seen.insert(name) {
            let would_be = request
                .lease
                .create(name.clone(), Mode::Exclusive, 0, now)?;
            return Ok(Some(Error::LockFail(Box::new(would_be))));
        }
    }
    Ok(None)
}

/// Finds the living holds that are meant by a name, or by its token.
fn meant(tx: &WriteTx<'_>, name: &LockName, of: LockRef<'_>, now: Moment) -> Result<Vec<Lock>> {
    let Some(token) = of.token else {
        return tx.living(name, now);
    };
    let hold = tx.hold(name, token)?;
    let hold = hold.and_then(|lock| lock.if_live(now, tx.judge()));
    Ok(hold.into_iter().filter(|lock| of.names(lock)).collect())
}

/// Returns each of the holds, or one none if there are no holds.
fn or_none(holds: Vec<Lock>) -> Vec<Option<Lock>> {
    match holds.is_empty() {
        true => vec![None],
        false => holds.into_iter().map(Some).collect(),
    }
}

fn several_holds(name: &LockName, holds: usize) -> Error {
    Error::Unsupported {
        what: format!(
            "bind \"{0}\", shorten it or add time to it by its name: {holds} hold it",
            Printable(name.as_str())
        ),
        remedy: "name one of them by its token".into(),
    }
}

/// Counts the living requests that wait for that name.
fn waiting(tx: &ReadTx<'_>, name: &LockName, now: Moment) -> Result<usize> {
    let numbers = tx.wanting(name)?.into_iter();
    let requests = numbers.map(|number| tx.request(number));
    Judged::default().count(tx.judge(), requests, now)
}

/// Finds the ping that tells the holder of a lock that it was forced away, if the holder has one.
fn holder_of(lock: &Lock) -> Option<Ping> {
    Some(Ping {
        address: lock.address?,
        id: lock.request?,
    })
}

/// Does with one name as the request says, after all names before it. The number says how many are
/// left.
fn set_one(
    tx: &mut WriteTx<'_>,
    plan: &Plan,
    request: &SetRequest,
    (mut name, left): (LockName, usize),
    now: Moment,
    result: &mut LockSetResult,
) -> Result<()> {
    // The names of one call are mostly alike: after a new one, writing the next as new costs less
    // than looking it up first.
    let mut present = match result.ends_with_new() && plan.reserved.is_empty() {
        true => None,
        false => tx.first(&name, now)?,
    };
    loop {
        match decide(present, request, now)? {
            Decision::Create => {
                if plan.reserved.contains_key(&name) {
                    result.skipped(name, None);
                    return Ok(());
                }
                // Sweep before the new rows are there, because reading those too costs more.
                if result.counts().created == 0 {
                    tx.sweep(left, now)?;
                }
                let token = tx.next_token()?;
                let lock = request.lease.create(name, Mode::Exclusive, token, now)?;
                present = tx.put_new(&lock, now)?;
                if present.is_none() {
                    result.created(lock);
                    return Ok(());
                }
                name = lock.name;
            }
            Decision::Extend(lock) => {
                tx.put(&lock)?;
                result.extended(lock);
                return Ok(());
            }
            Decision::Skip(lock) => {
                result.skipped(name, lock);
                return Ok(());
            }
        }
    }
}

pub(crate) fn valid_names<N: AsRef<str>>(
    names: impl IntoIterator<Item = N>,
) -> Result<Vec<LockName>> {
    let name = |name: N| Ok(LockName::new(name.as_ref())?);
    names.into_iter().map(name).collect()
}
