//! Builds a request: the locks that a caller asks for, and how.

use crate::ask::{Asker, Bind};
use crate::claim::{Claims, InvalidRequest, Mode};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::guard::LockGuard;
use crate::held::{Held, OnLost};
use crate::lock::Lock;
use crate::manager::{LockManager, valid_names};
use crate::name::LockName;
use crate::set::GetOptions;
use crate::timeout::Timeout;
use crate::wait::Sleeper;
use crate::waiter::Bounded;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Builds a request for a set of locks, all of them or none. [`LockManager::acquire`] begins it.
///
/// The request is made when one of its last four methods is called: [`try_lock`](Self::try_lock)
/// does not wait, [`try_lock_for`](Self::try_lock_for) and [`try_lock_until`](Self::try_lock_until)
/// wait up to a bound, [`lock`](Self::lock) waits until the locks are granted.
///
/// ```
/// use std::time::Duration;
/// # let dir = tempfile::tempdir().unwrap();
/// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
/// let guard = manager.acquire(["accounts", "ledger"]).try_lock_for(Duration::from_secs(5))?;
/// assert!(guard.is_held()?);
/// guard.release()?;
/// # Ok::<(), lockmgr::Error>(())
/// ```
#[must_use = "nothing is asked for until `lock` or one of its siblings is called"]
pub struct Acquire {
    manager: LockManager,
    claims: Result<Claims>,
    options: GetOptions,
    lease: Option<Timeout>,
    keeps_alive: bool,
    is_job: bool,
    on_lost: Option<OnLost>,
    sleeper: Arc<Sleeper>,
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("claims", &self.claims)
            .field("options", &self.options)
            .field("lease", &self.lease)
            .field("keeps_alive", &self.keeps_alive)
            .field("is_job", &self.is_job)
            .finish_non_exhaustive()
    }
}

/// Cancels the wait of one [`Acquire`], from any thread.
///
/// ```
/// use lockmgr::Error;
/// # let dir = tempfile::tempdir().unwrap();
/// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
/// let _held = manager.acquire(["a"]).try_lock()?;
/// let request = manager.acquire(["a"]);
/// let canceller = request.canceller();
/// let waiter = std::thread::spawn(move || request.lock());
/// canceller.cancel();
/// assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled)));
/// # Ok::<(), lockmgr::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Canceller(Arc<Sleeper>);

impl Canceller {
    /// Ends the wait with [`Error::Cancelled`], or the next wait if none has begun. A waiter that
    /// was granted its locks in this instant keeps them. Does not block.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # let _held = manager.acquire(["a"]).try_lock()?;
    /// let request = manager.acquire(["a"]);
    /// request.canceller().cancel();
    /// assert!(matches!(request.lock(), Err(lockmgr::Error::Cancelled)));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl LockManager {
    /// Begins a request for these locks, all of them or none. A name given twice counts once. If a
    /// name is invalid, the call that makes the request fails.
    ///
    /// ```
    /// use lockmgr::Error;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a", "b"]).try_lock()?;
    /// let refused = manager.acquire(["b", "c"]).try_lock();
    /// assert!(matches!(refused, Err(Error::Locked(lock)) if lock.name() == "b"));
    /// drop(guard);
    /// assert!(!manager.is_locked("b")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn acquire<N: AsRef<str>>(&self, names: impl IntoIterator<Item = N>) -> Acquire {
        self.acquire_nothing().exclusive(names)
    }

    /// Begins a request to share these locks, all of them or none. See [`Acquire::shared`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let first = manager.acquire_shared(["config"]).lock()?;
    /// let second = manager.acquire_shared(["config"]).lock()?;
    /// assert!(manager.acquire(["config"]).try_lock().is_err());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn acquire_shared<N: AsRef<str>>(&self, names: impl IntoIterator<Item = N>) -> Acquire {
        self.acquire_nothing().shared(names)
    }

    /// Begins a request for `take` slots of each of these names, which have `of` slots: all of them
    /// or none. See [`Acquire::slots`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let first = manager.acquire_slots(["cc"], 1, 2).lock()?;
    /// let second = manager.acquire_slots(["cc"], 1, 2).lock()?;
    /// assert!(manager.acquire_slots(["cc"], 1, 2).try_lock().is_err());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn acquire_slots<N: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = N>,
        take: u32,
        of: u32,
    ) -> Acquire {
        self.acquire_nothing().slots(names, take, of)
    }

    /// Begins a request for `count` of these locks: those that are free first, and the earlier in
    /// the list before the later. The guard says which. The request waits like a request for all of
    /// them: while it waits, no later request gets any of these locks.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let gpus = ["gpu:0", "gpu:1", "gpu:2"];
    /// let _other = manager.acquire(["gpu:0"]).lock()?;
    /// let mine = manager.acquire_any(1, gpus).lock()?;
    /// assert_eq!(mine.locks()[0].name(), "gpu:1");
    /// assert!(manager.acquire_any(2, gpus).try_lock().is_err());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn acquire_any<N: AsRef<str>>(
        &self,
        count: u32,
        names: impl IntoIterator<Item = N>,
    ) -> Acquire {
        self.acquire_nothing().any_of(count, names)
    }

    fn acquire_nothing(&self) -> Acquire {
        Acquire {
            manager: self.clone(),
            claims: Ok(Claims::default()),
            options: GetOptions::new(),
            lease: None,
            keeps_alive: true,
            is_job: false,
            on_lost: None,
            sleeper: Arc::default(),
        }
    }
}

impl Acquire {
    fn claim<N: AsRef<str>>(
        mut self,
        names: impl IntoIterator<Item = N>,
        claim: impl FnOnce(&mut Claims, Vec<LockName>) -> Result<(), InvalidRequest>,
    ) -> Self {
        let claimed = self.claims.and_then(|mut claims| {
            claim(&mut claims, valid_names(names)?)?;
            Ok(claims)
        });
        self.claims = claimed;
        self
    }

    /// Asks for these names too, each exclusively, as [`LockManager::acquire`] does.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire_shared(["config"]).exclusive(["ledger"]).lock()?;
    /// assert_eq!(guard.locks().len(), 2);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn exclusive<N: AsRef<str>>(self, names: impl IntoIterator<Item = N>) -> Self {
        self.claim(names, |claims, names| claims.add(names, Mode::Exclusive))
    }

    /// Asks to share these names too, with any number of holders that share them. While an
    /// exclusive request waits for such a name, later requests to share the name wait behind it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let writer = manager.acquire(["ledger"]).shared(["config"]).lock()?;
    /// let reader = manager.acquire_shared(["config"]).lock()?;
    /// assert_eq!(manager.holders("config")?.len(), 2);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn shared<N: AsRef<str>>(self, names: impl IntoIterator<Item = N>) -> Self {
        self.claim(names, |claims, names| claims.add(names, Mode::Shared))
    }

    /// Asks for `take` slots of each of these names too. The holders of a name agree on its number
    /// of slots: a request with another number fails with [`Error::SlotsMismatch`], at the latest
    /// when its turn comes. Once the name is free, a request may set a new number.
    ///
    /// ```
    /// use lockmgr::Error;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["ledger"]).slots(["gigabytes"], 3, 8).lock()?;
    /// let other = manager.acquire_slots(["gigabytes"], 1, 16).lock();
    /// assert!(matches!(other, Err(Error::SlotsMismatch { asked: 16, held: 8, .. })));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn slots<N: AsRef<str>>(
        self,
        names: impl IntoIterator<Item = N>,
        take: u32,
        of: u32,
    ) -> Self {
        let mode = Mode::Slots { take, of };
        self.claim(names, |claims, names| claims.add(names, mode))
    }

    /// Asks for `count` of these names, as [`LockManager::acquire_any`] does. A request with
    /// `any_of` asks for nothing else.
    ///
    /// ```
    /// use lockmgr::Error;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let beside_another = manager.acquire(["ledger"]).any_of(1, ["gpu:0", "gpu:1"]).lock();
    /// assert!(matches!(beside_another, Err(Error::InvalidRequest(_))));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn any_of<N: AsRef<str>>(self, count: u32, names: impl IntoIterator<Item = N>) -> Self {
        self.claim(names, |claims, names| claims.any_of(count, names))
    }

    /// Sets a lease: if the program lives but hangs, the locks expire after this time, and other
    /// holders can have them. The manager renews the locks at a third of the lease, on one thread
    /// for all of its guards. Zero and [`Timeout::Never`] mean no lease. Default: no lease, so the
    /// locks are held until the guard is dropped or its process ends. If no other process could
    /// prove that end, the default is 60 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lease = Duration::from_millis(600);
    /// let guard = manager.acquire(["a"]).lease(lease).try_lock()?;
    /// std::thread::sleep(2 * lease);
    /// assert!(guard.is_held()?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn lease(mut self, lease: impl Into<Timeout>) -> Self {
        self.lease = Some(lease.into());
        self
    }

    /// Leaves the renewals of the [`lease`](Self::lease) to the caller, by [`LockGuard::renew`].
    /// Default: the manager renews the lease.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lease = Duration::from_millis(100);
    /// let guard = manager.acquire(["a"]).lease(lease).no_keep_alive().try_lock()?;
    /// std::thread::sleep(lease);
    /// assert!(!manager.is_locked("a")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn no_keep_alive(mut self) -> Self {
        self.keeps_alive = false;
        self
    }

    /// Names the holder. See [`GetOptions::locked_by`]. Default: the holder of the manager.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let _guard = manager.acquire(["a"]).locked_by("app-1").try_lock()?;
    /// assert_eq!(manager.find("a")?.unwrap().locked_by(), "app-1");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn locked_by(mut self, holder: impl Into<String>) -> Self {
        self.options = self.options.locked_by(holder);
        self
    }

    /// Notes a process, for people to read. The locks stay bound to this process, whichever is
    /// noted. Default: none.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let _guard = manager.acquire(["a"]).process_id(4242).try_lock()?;
    /// assert_eq!(manager.find("a")?.unwrap().process_id(), Some(4242));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn process_id(mut self, process_id: u32) -> Self {
        self.options = self.options.process_id(process_id);
        self
    }

    /// Says why the locks are held, for people to read. See [`GetOptions::note`]. Default: no note.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let _guard = manager.acquire(["a"]).note("deploying 1.2.3").try_lock()?;
    /// assert_eq!(manager.find("a")?.unwrap().note().unwrap(), "deploying 1.2.3");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.options = self.options.note(note);
        self
    }

    /// Keeps the names taken until this time has passed since the grant, however the hold ends, the
    /// end of this process included. After the hold a lock with that deadline and a [dead
    /// token](Lock::is_at_least) is left. Only [`unlock`](LockManager::unlock) by its name and
    /// [`reset_locks`](LockManager::reset_locks) remove that lock. Zero and [`Timeout::Never`] are
    /// [`Error::InvalidTimeout`](crate::Error::InvalidTimeout). Default: the names are free when
    /// the hold ends.
    ///
    /// ```
    /// # use lockmgr::Error;
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// // Not twice within five minutes.
    /// let report = || manager.acquire(["report"]).at_least(Duration::from_secs(300)).try_lock();
    /// report()?.release()?;
    /// assert!(matches!(report(), Err(Error::Locked(lock)) if lock.is_at_least()));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn at_least(mut self, time: impl Into<Timeout>) -> Self {
        self.options = self.options.at_least(time);
        self
    }

    /// Calls this once for each lock that is found lost: from a thread of its own soon after the
    /// lock was forced away, or from the thread whose call on the guard finds the loss. If the
    /// callback panics, the panic is ignored. Default: no callback.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let (lost, loser) = mpsc::channel();
    /// let on_lost = move |lock: &lockmgr::Lock| lost.send(lock.name().clone()).unwrap();
    /// let _guard = manager.acquire(["a"]).on_lost(on_lost).try_lock()?;
    /// manager.unlock("a")?;
    /// assert_eq!(loser.recv().unwrap(), "a");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn on_lost(mut self, call: impl Fn(&Lock) + Send + Sync + 'static) -> Self {
        self.on_lost = Some(Arc::new(call));
        self
    }

    /// Holds the locks for a job: as long as any process has the
    /// [descriptor](LockGuard::job_descriptor) that the guard opens. A child that inherits the
    /// descriptor keeps the locks when this process ends. Default: the locks are bound to this
    /// manager.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).job().try_lock()?;
    /// let bound_to = manager.find("a")?.unwrap().bound_to().unwrap();
    /// assert_eq!(bound_to.kind(), lockmgr::Bound::Job);
    /// assert!(guard.leave_to_job()?);
    /// assert!(!manager.is_locked("a")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn job(mut self) -> Self {
        self.is_job = true;
        self
    }

    /// Returns a handle that cancels the wait from another thread.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let request = manager.acquire(["a"]);
    /// let canceller = request.canceller();
    /// let guard = request.lock()?;
    /// canceller.cancel(); // too late
    /// assert!(guard.is_held()?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.sleeper))
    }

    /// Takes the locks if all are free now, and does not wait for them. Like every call that
    /// writes, this call may wait for other writers of the store, at most for the
    /// [`busy_timeout`](crate::Builder::busy_timeout). If a lock is held, the call says so without
    /// that wait.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    ///
    /// ```
    /// # use lockmgr::Error;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).try_lock()?;
    /// assert!(matches!(manager.acquire(["a"]).try_lock(), Err(Error::Locked(_))));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn try_lock(self) -> Result<LockGuard> {
        self.ask(Bounded::Never)
    }

    /// Waits for the locks up to this long, first come, first served. Zero does not wait. The wait
    /// ends at its bound even if other processes keep the store busy: with [`Error::Locked`] or
    /// [`Error::Reserved`], or with [`Error::StoreBusy`] if the locks seem free and the store
    /// cannot be written.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    ///
    /// ```
    /// # use lockmgr::Error;
    /// # use std::time::{Duration, Instant};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let _held = manager.acquire(["a"]).try_lock()?;
    /// let began = Instant::now();
    /// let second = manager.acquire(["a"]).try_lock_for(Duration::from_millis(50));
    /// assert!(matches!(second, Err(Error::Locked(_))));
    /// assert!(began.elapsed() >= Duration::from_millis(50));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn try_lock_for(self, bound: Duration) -> Result<LockGuard> {
        self.ask(Bounded::by(bound))
    }

    /// Waits for the locks until this instant, and otherwise acts as
    /// [`try_lock_for`](Self::try_lock_for).
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).try_lock_until(Instant::now() + Duration::from_secs(1))?;
    /// assert!(guard.is_held()?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn try_lock_until(self, until: Instant) -> Result<LockGuard> {
        self.ask(Bounded::by(until.saturating_duration_since(Instant::now())))
    }

    /// Waits, asleep, until the locks are granted, first come, first served. A store that other
    /// processes keep busy does not end the wait.
    ///
    /// The guard holds the locks until it is dropped or this process ends.
    ///
    /// # Errors
    /// [`Error::Locked`] with one of the locks that are held; [`Error::Reserved`] with the request
    /// that came earlier; [`Error::Cancelled`]; [`Error::InvalidName`], [`Error::InvalidTimeout`];
    /// those of the store. On an error the caller holds none of the locks, and no request stays
    /// behind. If storage fails in the middle of a commit and goes on failing, the manager takes
    /// back its changes as soon as the storage works again.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let first = manager.acquire(["a"]).lock()?;
    /// let second = manager.acquire(["a"]);
    /// let waiter = std::thread::spawn(move || second.lock());
    /// drop(first);
    /// assert!(waiter.join().unwrap()?.is_held()?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn lock(self) -> Result<LockGuard> {
        self.ask(Bounded::Forever)
    }

    #[cfg(feature = "async")]
    pub(crate) fn manager(&self) -> &LockManager {
        &self.manager
    }

    #[cfg(feature = "async")]
    pub(crate) fn sleeper(&self) -> &Arc<Sleeper> {
        &self.sleeper
    }

    fn ask(self, bounded: Bounded) -> Result<LockGuard> {
        let (mut asker, terms) = self.begin(bounded)?;
        let locks = asker.ask()?;
        Ok(terms.guard(asker, locks))
    }

    /// Begins to ask, and returns how the guard holds the locks once they are granted.
    pub(crate) fn begin(self, bounded: Bounded) -> Result<(Asker, Terms)> {
        let claims = self.claims?;
        let base = &self.manager.0.base;
        let timeout = self.lease.unwrap_or(Timeout::Never);
        let options = self.options.timeout(timeout);
        let lease = options.into_lease(&base.locked_by, base.store.here(), base.now())?;
        let has_lease = self.lease.is_some();
        let bind = match self.is_job {
            true => Bind::Job {
                has_lease,
                beacon: None,
            },
            false => Bind::Manager { has_lease },
        };
        let asker = Asker::new(
            &self.manager,
            claims,
            (lease, bind),
            (bounded, &self.sleeper),
            self.on_lost.is_some(),
        );
        let terms = Terms {
            manager: self.manager,
            keeps_alive: self.keeps_alive,
            on_lost: self.on_lost,
        };
        Ok((asker, terms))
    }
}

/// Says how a guard holds the locks of a request once they are granted.
pub(crate) struct Terms {
    manager: LockManager,
    keeps_alive: bool,
    on_lost: Option<OnLost>,
}

impl Terms {
    /// Makes the guard of the locks that were granted.
    pub(crate) fn guard(self, asker: Asker, locks: Vec<Lock>) -> LockGuard {
        let base = Arc::clone(&self.manager.0.base);
        let job = match asker.bind {
            Bind::Job { beacon, .. } => beacon,
            Bind::Manager { .. } | Bind::Same => None,
        };
        let held = Held::new(base, asker.lease, job, self.keeps_alive, self.on_lost);
        LockGuard::new(self.manager, Arc::new(held), locks)
    }
}
