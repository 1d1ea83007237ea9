//! Asking for a set of locks: what can be asked for, and the transaction that takes the locks or
//! joins the queue.

use crate::beacon::draw_id;
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::grant::{apply, create_all, obstacle, plan};
use crate::guard::LockGuard;
use crate::held::Held;
use crate::lock::{Lease, Lock};
use crate::manager::{LockManager, valid_names};
use crate::name::LockName;
use crate::process::{Binding, Bound};
use crate::queue::{Request, TRUST};
use crate::set::GetOptions;
use crate::timeout::{Deadline, Timeout};
use crate::wait::Sleeper;
use crate::waiter::{self, take_back};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The lease of locks whose holder's end nobody could prove: renewed as long as it lives.
const UNPROVEN: Timeout = Timeout::After(Duration::from_secs(60));

/// How long a wait goes on at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounded {
    /// It does not wait.
    Never,
    Until(Instant),
    Forever,
}

impl Bounded {
    fn by(bound: Duration) -> Self {
        match Instant::now().checked_add(bound) {
            _ if bound.is_zero() => Self::Never,
            Some(until) => Self::Until(until),
            None => Self::Forever,
        }
    }

    /// How long it may still wait.
    pub(crate) fn left(self) -> Duration {
        match self {
            Self::Never => Duration::ZERO,
            Self::Until(until) => until.saturating_duration_since(Instant::now()),
            Self::Forever => Duration::MAX,
        }
    }
}

pub(crate) type OnLost = Arc<dyn Fn(&Lock) + Send + Sync>;

/// A request for a set of locks, begun by [`LockManager::acquire`]: all of them or none.
///
/// It asks when one of its last four methods is called: [`try_lock`](Self::try_lock) does not wait,
/// [`try_lock_for`](Self::try_lock_for) and [`try_lock_until`](Self::try_lock_until) wait up to a
/// bound, [`lock`](Self::lock) waits until the locks are granted.
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
    names: Result<Vec<LockName>>,
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
            .field("names", &self.names)
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
    /// Ends the wait with [`Error::Cancelled`], or the next one if it has not begun. A wait that
    /// was granted in this instant keeps its locks. Does not block.
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
    /// Begins a request for these locks, all of them or none. A name given twice counts once; an
    /// invalid name is an error of the call that asks.
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
        let names = valid_names(names).map(|mut names| {
            let mut seen = HashSet::new();
            names.retain(|name| seen.insert(name.clone()));
            names
        });
        Acquire {
            manager: self.clone(),
            names,
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
    /// Lets others in if the program lives but hangs: the locks expire after this time unless they
    /// are renewed. The manager renews them at a third of it, on one thread for all of its guards.
    /// Zero and [`Timeout::Never`] mean no lease. Default: no lease, so the locks are held until
    /// the guard is dropped or its process ends; where nobody could prove that end, 60 s.
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

    /// Leaves the renewals of the [`lease`](Self::lease) to the caller, by
    /// [`LockGuard::renew`]. Default: the manager renews it.
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

    /// Names the holder; see [`GetOptions::locked_by`]. Default: the manager's.
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

    /// Notes a process, for people to read. Default: none; whatever is noted, the locks are bound
    /// to this process.
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

    /// Calls this once for each lock that is found lost, from the thread that finds it: the
    /// manager's, soon after the lock was forced away, or the caller's. A panic of the call is
    /// ignored. Default: nobody is called.
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
    /// [descriptor](LockGuard::job_descriptor) that the guard opens for it. A child that inherits
    /// the descriptor keeps the locks when this process ends. Default: the locks are bound to this
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
    /// writes it may wait for other writers of the store, at most for the
    /// [`busy_timeout`](crate::Builder::busy_timeout); that the locks are held it says without.
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

    /// Waits for the locks up to this long, first come, first served; zero does not wait. The wait
    /// ends at its bound with [`Error::Locked`] or [`Error::Reserved`], whatever keeps the store
    /// busy, or with [`Error::StoreBusy`] if the locks seem free and the store cannot be written.
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

    /// Waits for the locks until this instant; otherwise as [`try_lock_for`](Self::try_lock_for).
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

    /// Waits until the locks are granted, asleep, first come, first served. A store that others
    /// keep busy does not end the wait.
    ///
    /// The guard holds the locks until it is dropped or this process ends.
    ///
    /// # Errors
    /// [`Error::Locked`] with one of the locks that are held, [`Error::Reserved`] with the request
    /// that came earlier, [`Error::Cancelled`]; [`Error::InvalidName`], [`Error::InvalidTimeout`];
    /// those of the store. None of the locks is held then, and no request stays behind. If storage
    /// fails in the middle of a commit and goes on failing, the manager takes back what was done
    /// as soon as the storage works again.
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

    fn ask(self, bounded: Bounded) -> Result<LockGuard> {
        let names = self.names?;
        let inner = &self.manager.0;
        let now = self.manager.now();
        let timeout = self.lease.unwrap_or(Timeout::Never);
        let mut lease =
            self.options
                .timeout(timeout)
                .into_lease(&inner.locked_by, inner.store.here(), now)?;
        let (binding, job) = match self.is_job {
            true => inner.store.light_job()?,
            false => (inner.store.binding()?, None),
        };
        lease.bound_to = Some(binding);
        if self.lease.is_none() && !can_be_proven(&binding) {
            lease.timeout = UNPROVEN;
        }
        let asker = Asker {
            manager: &self.manager,
            lease: &lease,
            bounded,
            is_told: self.on_lost.is_some(),
            sleeper: &self.sleeper,
        };
        let locks = asker.ask(&names)?;
        let keeps_alive = self.keeps_alive;
        let manager = self.manager.clone();
        Ok(LockGuard::new(Held::new(
            manager,
            lease,
            locks,
            job,
            keeps_alive,
            self.on_lost,
        )))
    }
}

/// Whether every process of the host that shares the store can prove the end of this.
fn can_be_proven(binding: &Binding) -> bool {
    let is_process = binding.kind != Bound::Job;
    binding.file.is_some() || is_process && binding.process.is_in_initial_namespace()
}

/// Asks for locks, and waits for them.
pub(crate) struct Asker<'a> {
    pub(crate) manager: &'a LockManager,
    pub(crate) lease: &'a Lease,
    pub(crate) bounded: Bounded,
    /// Whether the holder wants to be told if the locks are forced away.
    pub(crate) is_told: bool,
    pub(crate) sleeper: &'a Arc<Sleeper>,
}

/// What asking came to.
#[derive(Clone)]
enum Answer {
    Granted(Vec<Lock>),
    Queued(Box<Request>),
}

impl Asker<'_> {
    pub(crate) fn ask(&self, names: &[LockName]) -> Result<Vec<Lock>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let store = &self.manager.0.store;
        let mut request = self.request(names)?;
        if self.bounded == Bounded::Never
            && let Ok(Some(error)) = waiter::obstacle_in_sight(self.manager, &request)
        {
            return Err(error);
        }
        loop {
            request.id = draw_id();
            let asked = match self.bounded {
                Bounded::Never => self.enqueue(&request),
                bounded => store.within(bounded.left(), || self.enqueue(&request)),
            };
            match asked {
                Ok(Answer::Granted(locks)) => return Ok(locks),
                Ok(Answer::Queued(request)) => {
                    let waiter = waiter::Waiter::new(self, *request);
                    if let Some(locks) = waiter.wait()? {
                        return Ok(locks);
                    }
                    // Neither a request nor a grant is left: the store was replaced, or the grant
                    // was forced away before it was seen.
                }
                Err(busy @ Error::StoreBusy { .. }) if self.bounded != Bounded::Never => {
                    if self.sleeper.is_cancelled() {
                        return Err(Error::Cancelled);
                    }
                    if self.bounded.left().is_zero() {
                        let found = waiter::obstacle_in_sight(self.manager, &request);
                        return Err(found.ok().flatten().unwrap_or(busy));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The request as it would be queued, without a number.
    fn request(&self, names: &[LockName]) -> Result<Request> {
        let now = self.manager.now();
        let waits = self.bounded != Bounded::Never;
        let is_proven = self.lease.bound_to.is_some_and(|it| it.file.is_some());
        Ok(Request {
            number: 0,
            id: 0,
            names: names.to_vec(),
            lease: self.lease.clone(),
            asked_at: now.wall,
            until: self.until(now),
            trusted_until: match is_proven {
                true => None,
                false => TRUST.deadline(now)?,
            },
            bell: match waits || self.is_told {
                true => self.manager.0.watcher.bell(),
                false => None,
            },
        })
    }

    /// When others may take the wait for over. A bound past the calendar is none.
    fn until(&self, now: Moment) -> Option<Deadline> {
        match self.bounded {
            Bounded::Never | Bounded::Forever => None,
            Bounded::Until(_) => {
                let left = Timeout::After(self.bounded.left());
                left.deadline(now).unwrap_or_default()
            }
        }
    }

    /// Takes the locks if it can, and joins the queue if it may wait. What a commit that failed
    /// may have done all the same is undone.
    fn enqueue(&self, request: &Request) -> Result<Answer> {
        let mut done = None;
        let result = self.manager.write("lock in", |tx, now| {
            let plan = plan(tx, &request.names, now)?;
            let mut in_the_way = None;
            for name in &request.names {
                if in_the_way.is_none() {
                    in_the_way = obstacle(tx, &plan, name, now)?;
                }
            }
            let mut request = request.clone();
            let answer = match in_the_way {
                Some(obstacle) if self.bounded == Bounded::Never => return Err(obstacle),
                Some(obstacle) if self.bounded.left().is_zero() => return Err(obstacle),
                Some(_) => {
                    apply(tx, &plan, now)?;
                    request.number = tx.next_request()?;
                    tx.put_request(&request)?;
                    Answer::Queued(Box::new(request.clone()))
                }
                None => {
                    apply(tx, &plan, now)?;
                    let names = &request.names;
                    Answer::Granted(create_all(tx, self.lease, names, Some(&request), now)?)
                }
            };
            done = Some(request);
            Ok(answer)
        });
        if let (Err(error), Some(request)) = (&result, done) {
            take_back(self.manager, request, error);
        }
        result
    }
}
