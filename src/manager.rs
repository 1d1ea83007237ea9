//! The verbs, each a few lines over the store: one verb, one transaction, one reading of the
//! clock.

use crate::builder::Builder;
use crate::clock::{Clock, Moment};
use crate::error::{Error, Result};
use crate::grant::{Queue, create, live, settle, write_settled};
use crate::lock::{Lock, LockRef};
use crate::name::{Holder, LockName};
use crate::process::Origin;
use crate::queue::Request;
use crate::set::{
    Decision, GetOptions, LockSetResult, RenewOptions, SetOptions, SetRequest, decide,
    decide_renewal,
};
use crate::store::{CLEANED_AT_A_TIME, MUCH, Store, WriteTx};
use crate::wait::Watch;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The locks of one store.
///
/// A manager is a handle: clones and threads share it, and any number of processes open managers
/// of their own on the same file. It may be kept open as long as the program runs; closing it, by
/// dropping the last clone, neither releases nor changes a lock.
///
/// Calls that write wait for each other, and for writers in other processes, first come, first
/// served, and at most for the [`busy_timeout`](Builder::busy_timeout). Every change is on the disk
/// when its call returns. Calls that read see the last committed state and do not wait for a write
/// to end. They wait while another process writes the header of the file: for microseconds at the
/// start and at the end of its transaction, for a sync when it opens the store. If that process is
/// stopped just then, or has the store exclusively, a read fails with [`Error::StoreBusy`] at its
/// bound.
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
    pub(crate) store: Store,
    clock: Clock,
    pub(crate) locked_by: Holder,
    idle: Mutex<IdleWatches>,
}

/// The watches that nobody waits with now.
#[derive(Debug)]
struct IdleWatches {
    watches: Vec<Watch>,
    origin: Origin,
}

impl IdleWatches {
    fn new() -> Self {
        Self {
            watches: Vec::new(),
            origin: Origin::here(),
        }
    }
}

/// How long a long cleaning leaves the store to others, every time it does.
const BREATH: Duration = Duration::from_micros(100);

/// Commits in a row that cut nothing off the file, and the last that is tried: the first ones may
/// only free what the end of the file still held.
const MOST_FRUITLESS: usize = 3;

/// Names that a call with `fail` looks up before it creates the first of them: so many cost little
/// beside the commit, and of more, most are new where the first are.
const LOOKED_UP_FIRST: usize = 8;

/// Watches kept for the next who wait: a system has few for each user.
const MOST_IDLE_WATCHES: usize = 4;

impl Inner {
    /// Lends a watch over the store's file.
    pub(crate) fn with_watch<T>(&self, wait: impl FnOnce(&mut Watch) -> T) -> T {
        let idle = self.idle_watches().watches.pop();
        let mut watch = idle.unwrap_or_else(Watch::new);
        watch.watch_file(self.store.path());
        let result = wait(&mut watch);
        watch.watch_processes(&[]);
        let mut idle = self.idle_watches();
        if idle.watches.len() < MOST_IDLE_WATCHES {
            idle.watches.push(watch);
        }
        drop(idle);
        result
    }

    fn idle_watches(&self) -> MutexGuard<'_, IdleWatches> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.origin.is_elsewhere() {
            // Shared with the parent, each would take notices that are the other's.
            *idle = IdleWatches::new();
        }
        idle
    }
}

impl Builder {
    /// Opens the store in this file, and creates it where it is missing: whole, or not at all.
    /// A store that a killed process left behind is repaired on the way.
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
        Ok(LockManager(Arc::new(Inner {
            store: Store::open(config)?,
            clock,
            locked_by,
            idle: Mutex::new(IdleWatches::new()),
        })))
    }
}

impl LockManager {
    /// Opens the store in this file with the defaults, and creates it where it is missing; see
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

    /// Begins a manager that differs from the defaults.
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
    /// The names are taken in their order, and each sees what the earlier ones did: a name given
    /// twice meets the lock that its first mention created. An absent lock is created, an
    /// existing one renewed, as far as the [options](SetOptions) say so; with
    /// [`fail`](SetOptions::fail) an existing one aborts the transaction. A free name that somebody
    /// who came earlier waits for, together with others, is not created but skipped.
    ///
    /// A renewal never shortens a lease, keeps a lock that never expires, and changes nothing but
    /// its deadline and [`updated_at`](Lock::updated_at). A call that changes nothing writes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::LockFail`] with the lock that exists, [`Error::Reserved`] with who comes first;
    /// [`Error::InvalidName`], [`Error::InvalidTimeout`] and [`Error::NoSuchProcess`] before
    /// anything was looked at; those of the store. Nothing has changed then, but for a failure
    /// amid the commit ([`Error`]).
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
        let request = options.into_request(&self.0.locked_by, self.now())?;
        if names.is_empty() {
            return Ok(LockSetResult::default());
        }
        self.write("set locks in", |tx, queue, now| {
            if request.fail {
                refuse_in_sight(tx, queue, &names, now)?;
            }
            let mut result = LockSetResult::with_capacity(names.len());
            let mut left = names.len();
            for name in names {
                set_one(tx, queue, &request, (name, left), now, &mut result)?;
                left -= 1;
            }
            Ok(result)
        })
    }

    /// Creates the lock.
    ///
    /// # Errors
    /// [`Error::Locked`] with the lock where it exists, [`Error::Reserved`] with who waits for it
    /// and comes first; [`Error::InvalidName`], [`Error::InvalidTimeout`] and
    /// [`Error::NoSuchProcess`]; those of the store. Nothing has changed then, but for a failure
    /// amid the commit ([`Error`]).
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
        let lease = options.into_lease(&self.0.locked_by, self.now())?;
        self.write("get a lock in", |tx, queue, now| {
            if let Some(obstacle) = queue.obstacle(tx, &name, now)? {
                return Err(obstacle);
            }
            create(tx, &lease, name, now)
        })
    }

    /// Renews a lock: to the timeout from now, never earlier than it would have expired.
    ///
    /// By name it renews whoever holds it, an administrator's verb. By [`Lock`], or a
    /// [`LockRef`] with a token, it renews only while the stored lock bears that token: nobody
    /// renews a successor's lock by mistake.
    ///
    /// # Errors
    /// [`Error::LockNotFound`] where there is no such lock; with
    /// [`create`](RenewOptions::create) instead [`Error::Locked`] where another token holds it, or
    /// [`Error::Reserved`] where somebody waits for it and comes first.
    /// [`Error::InvalidName`] and [`Error::InvalidTimeout`]; those of the store. Nothing has
    /// changed then, but for a failure amid the commit ([`Error`]).
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
        let renewal = options.into_renewal(&self.0.locked_by, self.now())?;
        self.write("renew a lock in", |tx, queue, now| {
            let present = queue.live(tx, &name, now)?;
            match decide_renewal(present, of, &renewal, now)? {
                Decision::Extend(lock) => {
                    tx.put(&lock)?;
                    Ok(lock)
                }
                Decision::Create | Decision::Skip(_) => {
                    if let Some(reserved) = queue.reservation(&name) {
                        return Err(reserved);
                    }
                    create(tx, &renewal.lease, name, now)
                }
            }
        })
    }

    /// Removes a lock, and says whether it was there. Who waits for it gets it in the same
    /// transaction.
    ///
    /// By name it releases whoever holds it, an administrator's verb. By [`Lock`], or a
    /// [`LockRef`] with a token, it acts only while the stored lock bears that token, and
    /// otherwise returns false: nobody releases a successor's lock by mistake.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; those of the store. Nothing has changed then, but for a failure
    /// amid the commit ([`Error`]).
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

    /// Removes any number of locks in one transaction, and says of each whether it was there.
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
        let locks: Vec<LockRef<'a>> = locks.into_iter().map(Into::into).collect();
        let names = valid_names(locks.iter().map(|of| of.name))?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        self.0.store.write("release locks in", |tx| {
            let now = self.now();
            let mut removed = Vec::with_capacity(names.len());
            for (of, name) in locks.iter().zip(&names) {
                let is_there = live(tx, name, now)?.is_some_and(|lock| of.names(&lock));
                if is_there {
                    tx.remove(name)?;
                }
                removed.push(is_there);
            }
            if removed.contains(&true) {
                settle(tx, now)?;
            }
            Ok(removed)
        })
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
        self.0.store.read("read", |tx| {
            let now = self.now();
            tx.is_live(name, now)
        })
    }

    /// Returns the lock, where it exists. Reads only.
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
        self.0.store.read("read", |tx| {
            let now = self.now();
            let Some(mut lock) = tx.get(&name)?.filter(|lock| lock.is_live(now)) else {
                return Ok(None);
            };
            let requests = tx.requests()?;
            let waiting = |request: &&Request| request.wants(&name) && request.is_there(now);
            lock.waiting = requests.iter().filter(waiting).count();
            Ok(Some(lock))
        })
    }

    /// Lists the locks whose names begin with `prefix` (all, where it is empty), sorted by the
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
        self.0.store.read("list", |tx| {
            let now = self.now();
            let mut locks = tx.with_prefix(prefix.as_ref())?;
            locks.retain(|lock| lock.is_live(now));
            let mut requests = tx.requests()?;
            requests.retain(|request| request.is_there(now));
            let mut waiting: HashMap<&LockName, usize> = HashMap::new();
            for name in requests.iter().flat_map(|request| &request.names) {
                *waiting.entry(name).or_default() += 1;
            }
            for lock in &mut locks {
                lock.waiting = waiting.get(&lock.name).copied().unwrap_or_default();
            }
            Ok(locks)
        })
    }

    /// Lists who waits for a lock whose name begins with `prefix` (for any, where it is empty),
    /// in the order of arrival, as of one instant. Reads only.
    ///
    /// # Errors
    /// Those of the store.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["hello"]).lock()?;
    /// std::thread::scope(|scope| {
    ///     let waiter = scope.spawn(|| manager.acquire(["hello"]).wait_forever().lock());
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
        self.0.store.read("list requests in", |tx| {
            let now = self.now();
            let mut requests = tx.requests()?;
            requests.retain(|request| {
                request
                    .names
                    .iter()
                    .any(|name| name.as_str().starts_with(prefix))
                    && request.is_there(now)
            });
            Ok(requests)
        })
    }

    /// Removes the rows of locks that expired, or whose process is gone, and says how many there
    /// were. Who waits for such a lock gets it in the same transaction.
    ///
    /// Nothing depends on it: an expired lock is absent for every call, and calls that create
    /// locks remove what they find expired on the way. It reclaims space at once.
    ///
    /// Of many rows it removes some in each of several transactions, so that other calls get their
    /// turn between them, and then makes the file smaller in several steps, as far as its end is
    /// free; what is left of that goes when the last process closes the store.
    ///
    /// # Errors
    /// Those of the store. [`Error::StoreBusy`] where all its waits together came to the
    /// [`busy_timeout`](crate::Builder::busy_timeout). What it had removed by then stays removed.
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
        let store = &self.0.store;
        store.in_one_bound(|| {
            let mut removed = 0;
            let mut next = Some(String::new());
            while let Some(from) = next {
                let cleaned;
                (cleaned, next) = store.write("clean", |tx| {
                    let now = self.now();
                    let cleaned = tx.remove_dead(&from, now)?;
                    settle(tx, now)?;
                    Ok(cleaned)
                })?;
                removed += cleaned;
                if next.is_some() {
                    // The kernel wakes who waits, and whoever is first then has the store.
                    thread::sleep(BREATH);
                }
            }
            // Fewer rows leave little behind; and what fails here is done at closing.
            let mut fruitless = 0;
            while removed > CLEANED_AT_A_TIME && fruitless < MOST_FRUITLESS {
                match store.cut_off("clean") {
                    Ok(0) => fruitless += 1,
                    Ok(cut) if cut > MUCH => fruitless = 0,
                    _ => break,
                }
                thread::sleep(BREATH);
            }
            Ok(removed)
        })
    }

    /// Removes every lock, whoever holds it, and says how many there were. The tokens go on from
    /// where they were. Who waits for a lock gets it in the same transaction.
    ///
    /// # Errors
    /// Those of the store. Nothing has changed then, but for a failure amid the commit ([`Error`]).
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
        self.0.store.write("reset", |tx| {
            let now = self.now();
            let removed = tx.remove_all(now)?;
            settle(tx, now)?;
            Ok(removed)
        })
    }

    /// Returns how long the lock still has as it was read, by the clock that decides when it
    /// expires: zero once it has expired, none where it never does.
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
        lock.time_left(self.now())
    }

    /// Runs `body` as one write transaction, after the queue was settled.
    pub(crate) fn write<T>(
        &self,
        action: &'static str,
        body: impl FnOnce(&mut WriteTx<'_>, &Queue, Moment) -> Result<T>,
    ) -> Result<T> {
        write_settled(&self.0.store, &self.0.clock, action, body)
    }

    pub(crate) fn now(&self) -> Moment {
        self.0.clock.now()
    }
}

/// Refuses a call with `fail` where one of its first names is locked: nothing is to be undone then.
fn refuse_in_sight(tx: &WriteTx<'_>, queue: &Queue, names: &[LockName], now: Moment) -> Result<()> {
    for (place, name) in names.iter().take(LOOKED_UP_FIRST).enumerate() {
        if names[..place].contains(name) {
            break;
        }
        if let Some(lock) = queue.live(tx, name, now)? {
            return Err(Error::LockFail(Box::new(lock)));
        }
        // Where it is free and promised, that is the refusal; later names say nothing then.
        if queue.is_promised(name) {
            break;
        }
    }
    Ok(())
}

/// Does with a name what was asked for, after all before it. The number says how many are left.
fn set_one(
    tx: &mut WriteTx<'_>,
    queue: &Queue,
    request: &SetRequest,
    (mut name, left): (LockName, usize),
    now: Moment,
    result: &mut LockSetResult,
) -> Result<()> {
    // The names of one call are mostly alike: after a new one, writing the next as new costs less
    // than looking it up first.
    let mut present = match result.ends_with_new() && queue.is_empty() {
        true => None,
        false => queue.live(tx, &name, now)?,
    };
    loop {
        let decision = decide(present, request, now);
        match decision.map_err(|error| undone_with(result, error))? {
            Decision::Create => {
                if let Some(reserved) = queue.reservation(&name) {
                    if request.fail {
                        return Err(reserved);
                    }
                    result.skipped(name, None);
                    return Ok(());
                }
                // Before the new rows are there: to read those costs more.
                if result.counts().created == 0 {
                    tx.sweep(left, now)?;
                }
                let lock = request.lease.create(name, tx.next_token()?, now)?;
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

/// The refusal of a call that met a lock: one that it created itself is undone with it, and its
/// token will be another's.
fn undone_with(result: &LockSetResult, error: Error) -> Error {
    match error {
        Error::LockFail(mut lock) if result.get(lock.name.as_str()).is_some() => {
            lock.token = 0;
            Error::LockFail(lock)
        }
        error => error,
    }
}

pub(crate) fn valid_names<N: AsRef<str>>(
    names: impl IntoIterator<Item = N>,
) -> Result<Vec<LockName>> {
    let name = |name: N| Ok(LockName::new(name.as_ref())?);
    names.into_iter().map(name).collect()
}
