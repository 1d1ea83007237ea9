//! Holding locks: asking for a set of names, waiting for it, and a guard that gives it back.
//!
//! A user of the verbs like any other, but for the transactions that ask, withdraw and keep.
//! Never touches a lock that bears another token than the one it was given.

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::grant::{Queue, create_all, live, settle};
use crate::lock::{Lease, Lock};
use crate::manager::{LockManager, valid_names};
use crate::name::LockName;
use crate::process::{Origin, Process};
use crate::queue::{PATIENCE, Request};
use crate::set::{GetOptions, bind};
use crate::store::{ReadTx, WriteTx};
use crate::timeout::{Deadline, Timeout, instant};
use crate::wait::{LONGEST_SLEEP, Watch, Woken};
use chrono::{DateTime, Utc};
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What [`LockGuard::renew`] adds to a lease: 120 s, as in django-lockmgr.
const RENEWAL: Duration = Duration::from_secs(120);

/// How often a guard whose lease never ends looks whether it still has it.
const CHECK_OF_ENDLESS: Duration = Duration::from_secs(60);

/// How long a guard that is kept alive may not know that it lost a lock.
const LONGEST_UNSEEN: Duration = Duration::from_secs(1);

/// How long giving up a place may take at the end of a wait.
const GRACE: Duration = Duration::from_millis(50);

/// How soon what could not be undone is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The processes that one waiter watches, at most: of those who hold its names, and of those who
/// come before it.
const MOST_WATCHED: usize = 64;

/// How long to wait.
#[derive(Clone, Copy, Debug)]
enum Wait {
    Not,
    For(Duration),
    Forever,
}

type OnLost = Arc<dyn Fn(&Lock) + Send + Sync>;

/// A request for a set of locks, begun by [`LockManager::acquire`]: all of them or none.
///
/// ```
/// use std::time::Duration;
/// # let dir = tempfile::tempdir().unwrap();
/// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
/// let guard = manager
///     .acquire(["accounts", "ledger"])
///     .timeout(Duration::from_secs(60))
///     .wait(Duration::from_secs(5))
///     .keep_alive()
///     .lock()?;
/// assert!(guard.is_held()?);
/// guard.release()?;
/// # Ok::<(), lockmgr::Error>(())
/// ```
#[must_use = "nothing is asked for until `lock` is called"]
pub struct Acquire<'a> {
    manager: &'a LockManager,
    names: Result<Vec<LockName>>,
    options: GetOptions,
    wait: Wait,
    is_kept_alive: bool,
    on_lost: Option<OnLost>,
}

impl fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("names", &self.names)
            .field("options", &self.options)
            .field("wait", &self.wait)
            .field("is_kept_alive", &self.is_kept_alive)
            .finish_non_exhaustive()
    }
}

impl LockManager {
    /// Begins a request for these locks, all of them or none. A name given twice counts once; one
    /// that is invalid is an error of [`Acquire::lock`].
    ///
    /// ```
    /// use lockmgr::Error;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a", "b"]).lock()?;
    /// let refused = manager.acquire(["b", "c"]).lock();
    /// assert!(matches!(refused, Err(Error::Locked(lock)) if lock.name() == "b"));
    /// drop(guard);
    /// assert!(!manager.is_locked("b")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn acquire<N: AsRef<str>>(&self, names: impl IntoIterator<Item = N>) -> Acquire<'_> {
        let names = valid_names(names).map(|mut names| {
            let mut seen = std::collections::HashSet::new();
            names.retain(|name| seen.insert(name.clone()));
            names
        });
        Acquire {
            manager: self,
            names,
            options: GetOptions::new(),
            wait: Wait::Not,
            is_kept_alive: false,
            on_lost: None,
        }
    }
}

impl Acquire<'_> {
    /// Sets the lease: how long the locks are held without a renewal. Zero and
    /// [`Timeout::Never`] mean for ever, or rather as long as the process lives. Default: 600 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).timeout(Duration::from_secs(5)).lock()?;
    /// assert!(guard.time_left().unwrap() <= Duration::from_secs(5));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn timeout(mut self, lease: impl Into<Timeout>) -> Self {
        self.options = self.options.timeout(lease);
        self
    }

    /// Waits for up to this long, first come, first served; zero does not wait. A wait in vain
    /// ends with [`Error::Locked`] at its bound. Default: does not wait.
    ///
    /// ```
    /// # use lockmgr::Error;
    /// # use std::time::{Duration, Instant};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let _held = manager.acquire(["a"]).lock()?;
    /// let began = Instant::now();
    /// let second = manager.acquire(["a"]).wait(Duration::from_millis(50)).lock();
    /// assert!(matches!(second, Err(Error::Locked(_))));
    /// assert!(began.elapsed() >= Duration::from_millis(50));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn wait(mut self, bound: Duration) -> Self {
        self.wait = if bound.is_zero() {
            Wait::Not
        } else {
            Wait::For(bound)
        };
        self
    }

    /// Waits until the locks are granted, first come, first served. Default: does not wait.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let first = manager.acquire(["a"]).lock()?;
    /// std::thread::scope(|scope| {
    ///     let second = scope.spawn(|| manager.acquire(["a"]).wait_forever().lock());
    ///     drop(first);
    ///     assert!(second.join().unwrap()?.is_held()?);
    ///     Ok(())
    /// })
    /// # as Result<(), lockmgr::Error>
    /// # ;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn wait_forever(mut self) -> Self {
        self.wait = Wait::Forever;
        self
    }

    /// Renews the lease in the background, at a third of it, as long as the guard lives.
    /// Default: does not; the lease then ends where [`LockGuard::renew`] does not renew it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lease = Duration::from_millis(600);
    /// let guard = manager.acquire(["a"]).timeout(lease).keep_alive().lock()?;
    /// std::thread::sleep(2 * lease);
    /// assert!(guard.is_held()?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn keep_alive(mut self) -> Self {
        self.is_kept_alive = true;
        self
    }

    /// Names the holder; see [`GetOptions::locked_by`]. Default: the manager's.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let _guard = manager.acquire(["a"]).locked_by("app-1").lock()?;
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
    /// let _guard = manager.acquire(["a"]).process_id(4242).lock()?;
    /// assert_eq!(manager.find("a")?.unwrap().process_id(), Some(4242));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn process_id(mut self, process_id: u32) -> Self {
        self.options = self.options.process_id(process_id);
        self
    }

    /// Calls this once for each lock that is found lost, from the thread that finds it: the one
    /// that keeps the lease alive, or whoever calls the guard. Default: nobody is called.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let (lost, loser) = mpsc::channel();
    /// let on_lost = move |lock: &lockmgr::Lock| lost.send(lock.name().clone()).unwrap();
    /// let guard = manager.acquire(["a"]).on_lost(on_lost).lock()?;
    /// manager.unlock("a")?;
    /// assert!(!guard.is_held()?);
    /// assert_eq!(loser.recv().unwrap(), "a");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn on_lost(mut self, call: impl Fn(&Lock) + Send + Sync + 'static) -> Self {
        self.on_lost = Some(Arc::new(call));
        self
    }

    /// Asks for the locks, and waits for them if that was asked for: asleep, for as long as
    /// [`wait`](Self::wait) says. On Linux they are bound to this process: when it ends they are
    /// free at once, whatever the lease.
    ///
    /// The guard holds them until it is dropped.
    ///
    /// # Errors
    /// [`Error::Locked`] with one of the locks that are held, or [`Error::Reserved`] with a
    /// request that came earlier; [`Error::InvalidName`], [`Error::InvalidTimeout`]; those of the
    /// store. None of the locks is held then, and no request stays behind; where storage fails
    /// amid a commit and goes on failing, they are taken back as soon as it works again, and what
    /// was granted meanwhile goes with its lease.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).lock()?;
    /// assert_eq!(guard.tokens(), [("a".to_owned(), 1)]);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn lock(self) -> Result<LockGuard> {
        let names = self.names?;
        let inner = &self.manager.0;
        let mut lease = self
            .options
            .into_lease(&inner.locked_by, self.manager.now())?;
        lease.bound_to = Process::current();
        let asker = Asker {
            manager: self.manager,
            lease: &lease,
            wait: self.wait,
        };
        let locks = asker.ask(&names)?;
        let shared = Arc::new(Shared {
            manager: self.manager.clone(),
            lease,
            wait: self.wait,
            owner: Origin::here(),
            held: Mutex::new(Held {
                locks,
                lost: None,
                released: Vec::new(),
            }),
            work: Mutex::default(),
            on_lost: self.on_lost,
        });
        let mut guard = LockGuard {
            shared,
            keeper: None,
        };
        if self.is_kept_alive {
            guard.keeper = Some(Keeper::start(&guard.shared)?);
        }
        Ok(guard)
    }
}

/// One that asks for locks, and waits.
struct Asker<'a> {
    manager: &'a LockManager,
    lease: &'a Lease,
    wait: Wait,
}

/// What asking came to.
#[derive(Clone)]
enum Answer {
    Granted(Vec<Lock>),
    Queued(Box<Request>),
}

impl Asker<'_> {
    fn ask(&self, names: &[LockName]) -> Result<Vec<Lock>> {
        let until = match self.wait {
            Wait::Not | Wait::Forever => None,
            // A bound past the calendar is none.
            Wait::For(bound) => Timeout::After(bound)
                .deadline(self.manager.now())
                .unwrap_or_default(),
        };
        if names.is_empty() {
            return Ok(Vec::new());
        }
        loop {
            match self.enqueue(names, until)? {
                Answer::Granted(locks) => return Ok(locks),
                Answer::Queued(request) => {
                    let place = Place {
                        asker: self,
                        request: *request,
                    };
                    if let Some(locks) = place.wait()? {
                        return Ok(locks);
                    }
                    // The store was replaced, or what was granted was forced away before it was
                    // seen: what is left of it must not be waited for.
                    place.take_back()?;
                }
            }
        }
    }

    /// Takes the locks where that can be, and else a place in the queue where one is wanted.
    /// Where that failed amid its commit it may be done: then it is undone.
    fn enqueue(&self, names: &[LockName], until: Option<Deadline>) -> Result<Answer> {
        let mut done = None;
        let result = self.manager.write("lock in", |tx, queue, now| {
            let answer = self.try_enqueue(tx, queue, names, until, now)?;
            done = Some(answer.clone());
            Ok(answer)
        });
        if let (Err(error), Some(done)) = (&result, done) {
            let manager = self.manager.clone();
            undo(error, move || take_back_answer(&manager, &done));
        }
        result
    }

    fn try_enqueue(
        &self,
        tx: &mut WriteTx<'_>,
        queue: &Queue,
        names: &[LockName],
        until: Option<Deadline>,
        now: Moment,
    ) -> Result<Answer> {
        let Some(obstacle) = first_obstacle(tx, queue, names, now)? else {
            return create_all(tx, self.lease, names, None, now).map(Answer::Granted);
        };
        if matches!(self.wait, Wait::Not) || until.is_some_and(|until| until.is_over(now)) {
            return Err(obstacle);
        }
        let number = tx.next_request()?;
        queue.sweep(tx, number, now)?;
        let request = Request {
            number,
            id: Request::draw_id(number, now),
            names: names.to_vec(),
            lease: self.lease.clone(),
            asked_at: now.wall,
            until,
            stands_until: PATIENCE.deadline(now)?,
            is_challenged: false,
        };
        tx.put_request(&request)?;
        Ok(Answer::Queued(Box::new(request)))
    }
}

fn first_obstacle(
    tx: &WriteTx<'_>,
    queue: &Queue,
    names: &[LockName],
    now: Moment,
) -> Result<Option<Error>> {
    for name in names {
        if let Some(obstacle) = queue.obstacle(tx, name, now)? {
            return Ok(Some(obstacle));
        }
    }
    Ok(None)
}

/// A place in the queue.
struct Place<'a> {
    asker: &'a Asker<'a>,
    request: Request,
}

/// What one that waits sees.
enum View {
    Granted(Vec<Lock>),
    /// Neither a request nor a grant is left.
    Gone,
    Challenged,
    /// All names are free, and nobody alive comes before.
    MyTurn,
    Waiting {
        /// All names are free, but somebody comes before.
        is_free: bool,
        /// Those whose end would change that.
        processes: Vec<Process>,
        /// The next deadline of a lock that is waited for.
        next: Option<Duration>,
        /// One of those locks.
        holder: Option<Lock>,
    },
}

/// How a look at the store went.
enum Step {
    /// Granted; or none, where the place is gone.
    Ended(Option<Vec<Lock>>),
    Again,
    Sleep(Duration),
}

impl Place<'_> {
    /// The request of this place, where that is what was found of its number.
    fn request_in(&self, found: Option<Request>) -> Option<Request> {
        found.filter(|it| it.id == self.request.id)
    }

    fn is_granted(&self, lock: &Lock) -> bool {
        lock.request == Some(self.request.id)
    }

    /// Waits until the locks are granted; none where the place is gone.
    fn wait(&self) -> Result<Option<Vec<Lock>>> {
        let manager = self.asker.manager;
        let result = manager.0.with_watch(|watch| self.wait_in_place(watch));
        match &result {
            Ok(_) | Err(Error::Locked(_) | Error::Reserved { .. }) => {}
            Err(error) => self.abandon(error),
        }
        result
    }

    fn wait_in_place(&self, watch: &mut Watch) -> Result<Option<Vec<Lock>>> {
        let path = self.asker.manager.0.store.path();
        let mut has_settled = false;
        let mut quiet_since = Instant::now();
        let mut in_the_way = None;
        let store = &self.asker.manager.0.store;
        loop {
            let was_quiet = quiet_since.elapsed() >= LONGEST_SLEEP;
            let now = self.asker.manager.now();
            let is_over = self.request.until.is_some_and(|until| until.is_over(now));
            let left = self
                .request
                .until
                .map_or(Duration::MAX, |until| until.time_left(now));
            let step = store.within(left.saturating_add(GRACE), || {
                match self.step(watch, now, was_quiet, &mut has_settled, &mut in_the_way)? {
                    Step::Sleep(_) if is_over => self.withdraw()?.map(|it| Step::Ended(Some(it))),
                    step => Ok(step),
                }
            });
            let mut sleep = match step {
                Ok(Step::Ended(locks)) => return Ok(locks),
                Ok(Step::Again) => continue,
                Ok(Step::Sleep(sleep)) => sleep,
                // Who waits anyway waits for who keeps the store busy, too.
                Err(Error::StoreBusy { .. }) if !is_over => {
                    watch.watch_processes(&[]);
                    LONGEST_SLEEP
                }
                // At its end who holds the lock is the answer, and the place is given up later.
                Err(error @ Error::StoreBusy { .. }) => {
                    return match in_the_way {
                        Some(lock) => {
                            self.abandon(&error);
                            Err(Error::Locked(Box::new(lock)))
                        }
                        None => Err(error),
                    };
                }
                Err(error) => return Err(error),
            };
            sleep = sleep.min(left);
            has_settled = false;
            if watch.sleep(sleep) == Woken::Slept {
                // Should it have been replaced.
                watch.watch_file(path);
            } else {
                quiet_since = Instant::now();
            }
        }
    }

    /// Looks where things stand, and does what can be done now.
    fn step(
        &self,
        watch: &mut Watch,
        now: Moment,
        was_quiet: bool,
        has_settled: &mut bool,
        in_the_way: &mut Option<Lock>,
    ) -> Result<Step> {
        let manager = self.asker.manager;
        let view = manager.0.store.read("wait in", |tx| self.view(tx, now))?;
        // Settled without effect it is somebody else's turn to move.
        let may_settle = !std::mem::replace(has_settled, false);
        match view {
            View::Granted(locks) => Ok(Step::Ended(Some(self.accept(locks)?))),
            View::Gone => Ok(Step::Ended(None)),
            View::Challenged => self.answer().map(|()| Step::Again),
            View::MyTurn if may_settle => {
                *has_settled = true;
                self.settle().map(|()| Step::Again)
            }
            View::MyTurn => Ok(Step::Sleep(LONGEST_SLEEP)),
            // Who comes before did not take what was free for a second: it is stopped, or cannot
            // be judged.
            View::Waiting { is_free: true, .. } if was_quiet && may_settle => {
                *has_settled = true;
                self.settle().map(|()| Step::Again)
            }
            View::Waiting {
                processes,
                next,
                holder,
                ..
            } => {
                *in_the_way = holder;
                watch.watch_processes(&processes);
                Ok(Step::Sleep(
                    next.map_or(LONGEST_SLEEP, |next| next.min(LONGEST_SLEEP)),
                ))
            }
        }
    }

    fn settle(&self) -> Result<()> {
        let manager = self.asker.manager;
        let settle = |tx: &mut WriteTx<'_>| settle(tx, manager.now()).map(drop);
        manager.0.store.write("lock in", settle)
    }

    fn view(&self, tx: &ReadTx<'_>, now: Moment) -> Result<View> {
        let request = self.request_in(tx.request(self.request.number)?);
        let mut locks = Vec::new();
        for name in &self.request.names {
            locks.extend(tx.get(name)?);
        }
        let Some(request) = request else {
            let is_mine = |lock: &Lock| self.is_granted(lock) && lock.is_live(now);
            return Ok(
                if locks.len() == self.request.names.len() && locks.iter().all(is_mine) {
                    View::Granted(locks)
                } else {
                    View::Gone
                },
            );
        };
        if request.is_challenged {
            return Ok(View::Challenged);
        }
        locks.retain(|lock| lock.is_live(now));
        let mut processes: Vec<Process> = Vec::new();
        let mut is_my_turn = locks.is_empty();
        if locks.is_empty() {
            tx.each_request(..self.request.number, |earlier| {
                let comes_first = self.request.names.iter().any(|name| earlier.wants(name))
                    && earlier.is_there(now);
                is_my_turn &= !comes_first;
                if comes_first {
                    processes.extend(earlier.process());
                }
                Ok(match processes.len() < MOST_WATCHED {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                })
            })?;
        }
        if is_my_turn {
            return Ok(View::MyTurn);
        }
        let next = locks.iter().filter_map(|lock| lock.time_left(now)).min();
        processes.extend(locks.iter().filter_map(|lock| lock.bound_to));
        processes.sort_unstable_by_key(|process| (process.pid, process.started));
        processes.dedup();
        processes.truncate(MOST_WATCHED);
        Ok(View::Waiting {
            is_free: locks.is_empty(),
            processes,
            next,
            holder: locks.into_iter().next(),
        })
    }

    /// Says that this one still waits.
    fn answer(&self) -> Result<()> {
        self.asker.manager.0.store.write("wait in", |tx| {
            let now = self.asker.manager.now();
            let request = tx.request(self.request.number)?;
            if let Some(request) = self.request_in(request) {
                tx.put_request(&Request {
                    is_challenged: false,
                    stands_until: PATIENCE.deadline(now)?,
                    ..request
                })?;
            }
            settle(tx, now).map(drop)
        })
    }

    /// Gives up the place, and says what stood in the way. What is granted by now is taken all
    /// the same.
    fn withdraw(&self) -> Result<Result<Vec<Lock>>> {
        self.asker.manager.0.store.write("stop waiting in", |tx| {
            let now = self.asker.manager.now();
            let queue = settle(tx, now)?;
            let request = tx.request(self.request.number)?;
            let queue = if self.request_in(request).is_some() {
                tx.remove_request(self.request.number)?;
                settle(tx, now)?
            } else {
                let mut granted = Vec::new();
                for name in &self.request.names {
                    let lock = live(tx, name, now)?;
                    granted.extend(lock.filter(|lock| self.is_granted(lock)));
                }
                if granted.len() == self.request.names.len() {
                    return Ok(Ok(granted));
                }
                for lock in &granted {
                    tx.remove(&lock.name)?;
                }
                drop(queue);
                settle(tx, now)?
            };
            match first_obstacle(tx, &queue, &self.request.names, now)? {
                Some(obstacle) => Ok(Err(obstacle)),
                None => create_all(tx, self.asker.lease, &self.request.names, None, now).map(Ok),
            }
        })
    }

    /// Takes back the request, and what is granted to it by now.
    fn take_back(&self) -> Result<()> {
        take_back(self.asker.manager, &self.request)
    }

    /// Takes back the request after an error: nobody shall wait for one that no longer does.
    fn abandon(&self, error: &Error) {
        let (manager, request) = (self.asker.manager.clone(), self.request.clone());
        undo(error, move || take_back(&manager, &request));
    }

    /// Takes over what was granted. What was granted on a word alone is held for a short time,
    /// and for the whole lease from now on.
    fn accept(&self, locks: Vec<Lock>) -> Result<Vec<Lock>> {
        let lease = self.asker.lease.timeout;
        let is_short = |lock: &Lock| match (lock.deadline, lease) {
            (None, _) => false,
            (Some(_), Timeout::Never) => true,
            (Some(deadline), Timeout::After(lease)) => {
                i128::from(deadline.wall - lock.created_at) < lease.as_micros().cast_signed()
            }
        };
        if !locks.iter().any(is_short) {
            return Ok(locks);
        }
        let mut kept = Vec::with_capacity(locks.len());
        for (lock, fate) in locks.iter().zip(keep(self.asker.manager, &locks, lease)?) {
            kept.push(match fate {
                Fate::Held(lock) => lock,
                Fate::Lost(by) => return Err(lost(lock.clone(), by)),
                Fate::Released => continue,
            });
        }
        Ok(kept)
    }
}

/// Undoes, after an error, what shall not stay. Where the store is busy or full it is tried again
/// in the background.
fn undo(error: &Error, work: impl Fn() -> Result<()> + Send + 'static) {
    let is_passing = |error: &Error| matches!(error, Error::StoreBusy { .. } | Error::Io { .. });
    // This call has waited its bound where the store was busy.
    let again = match error {
        Error::StoreBusy { .. } => true,
        _ => work().is_err_and(|error| is_passing(&error)),
    };
    if again {
        let again = move || {
            let mut pause = FIRST_PAUSE;
            while work().is_err_and(|error| is_passing(&error)) {
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_SLEEP);
            }
        };
        // Without a thread it stays until this process ends.
        let _ = thread::Builder::new()
            .name("lockmgr-undo".into())
            .spawn(again);
    }
}

/// Takes back what asking came to, where that was done after all.
fn take_back_answer(manager: &LockManager, answer: &Answer) -> Result<()> {
    match answer {
        Answer::Queued(request) => take_back(manager, request),
        // Tokens alone do not tell: were it not done, they would be issued again, though at
        // another time.
        Answer::Granted(locks) => manager.0.store.write("stop waiting in", |tx| {
            for lock in locks {
                if tx.get(&lock.name)?.as_ref() == Some(lock) {
                    tx.remove(&lock.name)?;
                }
            }
            settle(tx, manager.now()).map(drop)
        }),
    }
}

/// Takes back a request, and what is granted to it by now.
fn take_back(manager: &LockManager, request: &Request) -> Result<()> {
    manager.0.store.write("stop waiting in", |tx| {
        let found = tx.request(request.number)?;
        if found.is_some_and(|it| it.id == request.id) {
            tx.remove_request(request.number)?;
        }
        for name in &request.names {
            let is_granted = |lock: Lock| lock.request == Some(request.id);
            if tx.get(name)?.is_some_and(is_granted) {
                tx.remove(name)?;
            }
        }
        settle(tx, manager.now()).map(drop)
    })
}

/// What became of a lock that was held.
enum Fate {
    Held(Lock),
    Released,
    /// Who holds it now.
    Lost(Option<Lock>),
}

fn lost(lock: Lock, by: Option<Lock>) -> Error {
    Error::Lost {
        lock: Box::new(lock),
        by: by.map(Box::new),
    }
}

/// Renews leases, each as long as the row bears its token. A lease that ran out goes on, where
/// nobody had it since: whoever takes a lock replaces the row.
fn keep(manager: &LockManager, locks: &[Lock], lease: Timeout) -> Result<Vec<Fate>> {
    renew(manager, locks, |tx, queue, held, now| {
        Ok(match tx.get(&held.name)? {
            Some(row) if row.token == held.token && !comes_too_late(queue, &row, now) => {
                Fate::Held(row.renewed(lease, now)?)
            }
            _ => Fate::Lost(live(tx, &held.name, now)?),
        })
    })
}

/// Whether the lease ran out, and somebody who came before its renewal waits for the name.
fn comes_too_late(queue: &Queue, row: &Lock, now: Moment) -> bool {
    row.is_expired(now) && queue.is_promised(&row.name)
}

fn renew(
    manager: &LockManager,
    locks: &[Lock],
    mut decide: impl FnMut(&mut WriteTx<'_>, &Queue, &Lock, Moment) -> Result<Fate>,
) -> Result<Vec<Fate>> {
    if locks.is_empty() {
        return Ok(Vec::new());
    }
    manager.write("renew locks in", |tx, queue, now| {
        let mut fates = Vec::with_capacity(locks.len());
        for lock in locks {
            let fate = decide(tx, queue, lock, now)?;
            if let Fate::Held(lock) = &fate {
                tx.put(lock)?;
            }
            fates.push(fate);
        }
        Ok(fates)
    })
}

/// Locks that are held until the guard is dropped, begun by [`LockManager::acquire`].
///
/// Dropping the guard releases what it still holds, on unwinding too, and ignores errors, which
/// [`release`](Self::release) returns. Like every call that writes, it may wait for other
/// processes, at most for the [`busy_timeout`](crate::Builder::busy_timeout), and as long again
/// for a renewal that is under way. Who waits for the names gets them in the same transaction. It
/// touches a lock only while that bears the token it was given, so never a successor's; and it does
/// nothing in a process that was forked off.
///
/// The lease can be lost while the guard lives: it ran out and somebody else took the lock, or
/// somebody released it by name. Then the [`on_lost`](Acquire::on_lost) callback is told,
/// [`is_held`](Self::is_held) says false, and every later call that changes something fails with
/// [`Error::Lost`]. A guard that is kept alive finds out within a second. A process that was paused
/// cannot know in time: let what the lock protects check the [token](Self::tokens).
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
    shared: Arc<Shared>,
    keeper: Option<Keeper>,
}

struct Shared {
    manager: LockManager,
    lease: Lease,
    wait: Wait,
    /// The process that may release the locks.
    owner: Origin,
    held: Mutex<Held>,
    /// Held by who works on the store for this guard, one after the other. What the guard knows
    /// can be asked meanwhile.
    work: Mutex<()>,
    on_lost: Option<OnLost>,
}

#[derive(Debug)]
struct Held {
    locks: Vec<Lock>,
    /// The first that was found lost, and who held it then.
    lost: Option<(Lock, Option<Lock>)>,
    /// The tokens of those whose release failed. It may be done all the same: then they are gone,
    /// and not lost.
    released: Vec<u64>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("held", &self.held)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> MutexGuard<'_, ()> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out, or decides, what becomes of the locks; notes it, and tells of those lost.
    fn update(&self, work: impl FnOnce(&[Lock]) -> Result<Vec<Fate>>) -> Result<()> {
        let working = self.work();
        let locks = self.held().locks.clone();
        let fates = work(&locks)?;
        let lost = self.note(locks.into_iter().zip(fates));
        // The call may be of the guard's owner, who may drop it.
        drop(working);
        self.tell(&lost);
        Ok(())
    }

    /// Notes what became of locks that are still held, and returns those that were lost.
    fn note(&self, fates: impl Iterator<Item = (Lock, Fate)>) -> Vec<Lock> {
        let mut lost = Vec::new();
        let mut held = self.held();
        for (lock, fate) in fates {
            let is_same = |it: &Lock| it.name == lock.name && it.token == lock.token;
            let Some(at) = held.locks.iter().position(is_same) else {
                continue;
            };
            match fate {
                Fate::Held(lock) => {
                    // One that was renewed was not released.
                    if held.locks[at] != lock {
                        held.released.retain(|&token| token != lock.token);
                    }
                    held.locks[at] = lock;
                }
                Fate::Released => drop(held.locks.remove(at)),
                Fate::Lost(_) if held.released.contains(&lock.token) => {
                    held.locks.remove(at);
                }
                Fate::Lost(by) => {
                    held.locks.remove(at);
                    lost.push(lock.clone());
                    held.lost.get_or_insert((lock, by));
                }
            }
        }
        lost
    }

    /// A panic of the call is its own: it neither ends the renewals nor the program.
    fn tell(&self, lost: &[Lock]) {
        if let Some(call) = &self.on_lost {
            for lock in lost {
                let _ = panic::catch_unwind(AssertUnwindSafe(|| call(lock)));
            }
        }
    }

    /// Looks whether all the locks are still there, and notes those that were lost.
    fn look(&self) -> Result<bool> {
        let (locks, released) = {
            let held = self.held();
            (held.locks.clone(), held.released.clone())
        };
        if locks.is_empty() {
            return Ok(self.held().lost.is_none());
        }
        let mut is_held = true;
        let mut fates = Vec::new();
        self.manager.0.store.read("read", |tx| {
            let now = self.manager.now();
            for lock in &locks {
                let row = tx.get(&lock.name)?;
                let is_live = row.as_ref().is_some_and(|row| row.is_live(now));
                let is_mine = row.as_ref().is_some_and(|row| row.token == lock.token);
                is_held &= is_live && is_mine || released.contains(&lock.token);
                // One that ran out, and was nobody's since, may yet be renewed.
                let ran_out = row.is_none() && lock.is_expired(now);
                if !is_mine && !ran_out {
                    fates.push((lock.clone(), Fate::Lost(row.filter(|_| is_live))));
                }
            }
            Ok(())
        })?;
        let lost = self.note(fates.into_iter());
        self.tell(&lost);
        Ok(is_held && self.held().lost.is_none())
    }

    /// Fails where a lock was lost.
    fn check(&self) -> Result<()> {
        match &self.held().lost {
            None => Ok(()),
            Some((lock, by)) => Err(lost(lock.clone(), by.clone())),
        }
    }

    /// Gives up every lock whose deadline has passed without a renewal.
    fn give_up_expired(&self) -> Result<()> {
        let now = self.manager.now();
        let fate = |lock: &Lock| match lock.is_expired(now) {
            true => Fate::Lost(None),
            false => Fate::Held(lock.clone()),
        };
        self.update(|locks| Ok(locks.iter().map(fate).collect()))
    }

    /// Releases those of the locks that are chosen, unless this process only inherited them.
    fn release(&self, is_chosen: impl Fn(&Lock) -> bool) -> Result<()> {
        if self.owner.is_elsewhere() {
            self.held().locks.clear();
            return Ok(());
        }
        self.update(|locks| {
            let chosen: Vec<&Lock> = locks.iter().filter(|lock| is_chosen(lock)).collect();
            let tokens: Vec<u64> = chosen.iter().map(|lock| lock.token).collect();
            let unlocked = self.manager.unlock_all(chosen);
            let were_there = unlocked.inspect_err(|_| self.held().released.extend(tokens));
            let mut were_there = were_there?.into_iter();
            let fate = |lock: &Lock| match is_chosen(lock) {
                false => Fate::Held(lock.clone()),
                true if were_there.next() == Some(true) => Fate::Released,
                true => Fate::Lost(None),
            };
            Ok(locks.iter().map(fate).collect())
        })
    }
}

impl LockGuard {
    /// Adds a lock, under the same lease, and waits for it as the guard did for its first. Who
    /// holds locks while it waits for more can wait for ever: ask for all at once where possible.
    ///
    /// # Errors
    /// As [`Acquire::lock`]; [`Error::Lost`]. The guard then holds what it held.
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
        self.add(name.as_ref(), self.shared.wait)
    }

    /// Adds a lock, under the same lease, where it can be had at once.
    ///
    /// # Errors
    /// As [`Acquire::lock`]; [`Error::Lost`]. The guard then holds what it held.
    ///
    /// ```
    /// # use lockmgr::Error;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let mut guard = manager.acquire(["a"]).wait_forever().lock()?;
    /// manager.get_lock("b", lockmgr::GetOptions::new())?;
    /// assert!(matches!(guard.try_lock("b"), Err(Error::Locked(_))));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn try_lock(&mut self, name: impl AsRef<str>) -> Result<()> {
        self.add(name.as_ref(), Wait::Not)
    }

    fn add(&mut self, name: &str, wait: Wait) -> Result<()> {
        self.shared.check()?;
        let name = LockName::new(name)?;
        let own = |held: &Held| held.locks.iter().find(|lock| lock.name == name).cloned();
        if let Some(lock) = own(&self.shared.held()) {
            return Err(Error::Locked(Box::new(lock)));
        }
        let asker = Asker {
            manager: &self.shared.manager,
            lease: &self.shared.lease,
            wait,
        };
        let locks = asker.ask(&[name])?;
        self.shared.held().locks.extend(locks);
        Ok(())
    }

    /// Gives back one of the locks, and says whether the guard still held it.
    ///
    /// # Errors
    /// [`Error::Lost`], where any was lost; those of the store, and then the lock is still held,
    /// or given back where that failed amid its commit.
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
        let name = name.as_ref();
        let is_held = self
            .shared
            .held()
            .locks
            .iter()
            .any(|lock| lock.name == name);
        if !is_held {
            return self.shared.check().map(|()| false);
        }
        self.shared.release(|lock| lock.name == name)?;
        self.shared.check().map(|()| true)
    }

    /// Adds 120 s to every lease. One that ran out begins anew, unless somebody else has the
    /// lock now or comes first.
    ///
    /// # Errors
    /// [`Error::Lost`] where a lock was lost; the others are renewed. Those of the store, and
    /// then the leases are as they were, or all renewed where that failed amid its commit.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let mut guard = manager.acquire(["a"]).timeout(Duration::from_secs(60)).lock()?;
    /// guard.renew()?;
    /// assert!(guard.time_left().unwrap() > Duration::from_secs(170));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn renew(&mut self) -> Result<()> {
        self.renew_by(RENEWAL)
    }

    /// Adds so much to every lease; otherwise as [`renew`](Self::renew).
    ///
    /// # Errors
    /// As [`renew`](Self::renew); [`Error::InvalidTimeout`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let mut guard = manager.acquire(["a"]).timeout(Duration::from_secs(60)).lock()?;
    /// guard.renew_by(Duration::from_secs(60))?;
    /// assert!(guard.time_left().unwrap() > Duration::from_secs(110));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn renew_by(&mut self, more: impl Into<Timeout>) -> Result<()> {
        self.shared.check()?;
        let more = more.into();
        let shared = &self.shared;
        let renew_one = |tx: &mut WriteTx<'_>, queue: &Queue, held: &Lock, now: Moment| {
            let row = tx.get(&held.name)?;
            Ok(match row {
                Some(row) if row.token == held.token && !row.is_expired(now) => {
                    Fate::Held(row.extended(more, now)?)
                }
                Some(row) if row.is_live(now) => Fate::Lost(Some(row)),
                // Somebody released it by name.
                None if !held.is_expired(now) => Fate::Lost(None),
                _ if queue.is_promised(&held.name) => Fate::Lost(None),
                Some(row) if row.token == held.token => Fate::Held(row.renewed(more, now)?),
                _ => {
                    let lease = Lease {
                        timeout: more,
                        ..shared.lease.clone()
                    };
                    Fate::Held(lease.create(held.name.clone(), tx.next_token()?, now)?)
                }
            })
        };
        shared.update(|locks| renew(&shared.manager, locks, renew_one))?;
        shared.check()
    }

    /// Returns the names it holds with their fencing tokens, as far as it knows: without a look at
    /// the store.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a", "b"]).lock()?;
    /// assert_eq!(guard.tokens(), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn tokens(&self) -> Vec<(String, u64)> {
        let held = self.shared.held();
        let tokens = held.locks.iter();
        tokens
            .map(|lock| (lock.name.as_str().to_owned(), lock.token))
            .collect()
    }

    /// Returns the first deadline of its leases as far as it knows, by the wall clock; none where
    /// none ends.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).lock()?;
    /// assert!(guard.deadline().unwrap() > chrono::Utc::now());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn deadline(&self) -> Option<DateTime<Utc>> {
        let held = self.shared.held();
        let deadlines = held.locks.iter().filter_map(|lock| lock.deadline);
        deadlines.map(|deadline| instant(deadline.wall)).min()
    }

    /// Returns the time until then by the clock that decides, as far as this guard knows; none
    /// where none ends.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).lock()?;
    /// assert!(guard.time_left().unwrap() <= Duration::from_secs(600));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn time_left(&self) -> Option<Duration> {
        let now = self.shared.manager.now();
        let held = self.shared.held();
        held.locks
            .iter()
            .filter_map(|lock| lock.time_left(now))
            .min()
    }

    /// Tells whether all the locks are still this guard's. Reads the store.
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
        self.shared.look()
    }

    /// Releases the locks, in one transaction, and returns the error that dropping the guard has
    /// to swallow.
    ///
    /// # Errors
    /// [`Error::Lost`] where a lock was lost before; those of the store, and then the locks stay
    /// until their leases end or this process does, but for a failure amid the commit ([`Error`]).
    ///
    /// ```
    /// # use lockmgr::Error;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let guard = manager.acquire(["a"]).lock()?;
    /// guard.release()?;
    /// assert!(!manager.is_locked("a")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn release(mut self) -> Result<()> {
        self.stop_keeping();
        let released = self.shared.release(|_| true);
        if matches!(released, Err(Error::StoreBusy { .. })) {
            // It has waited its bound: dropping the guard shall not wait as long again.
            self.shared.held().locks.clear();
        }
        released?;
        self.shared.check()
    }

    /// Ends the guard and leaves the locks to their leases: nothing renews or releases them any
    /// more, and they outlive this process. Returns them.
    ///
    /// # Errors
    /// [`Error::Lost`] where a lock was lost; those of the store. The guard then releases the
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

    /// Ends the guard and leaves the locks to their leases and to a process: they go when it
    /// ends. Returns them.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`]; otherwise as [`detach`](Self::detach).
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let locks = manager.acquire(["a"]).lock()?.detach_to(std::process::id())?;
    /// if cfg!(target_os = "linux") {
    ///     assert_eq!(locks[0].bound_to(), Some(std::process::id()));
    /// }
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn detach_to(self, process_id: u32) -> Result<Vec<Lock>> {
        let process = bind(process_id)?;
        self.bind(process)
    }

    fn bind(mut self, process: Option<Process>) -> Result<Vec<Lock>> {
        if self.shared.owner.is_elsewhere() {
            // A fork has none: they are its parent's.
            return Ok(Vec::new());
        }
        self.stop_keeping();
        self.shared.check()?;
        let rebind = |tx: &mut WriteTx<'_>, _: &Queue, held: &Lock, now: Moment| {
            Ok(match live(tx, &held.name, now)? {
                Some(row) if row.token == held.token => Fate::Held(Lock {
                    bound_to: process,
                    ..row
                }),
                by => Fate::Lost(by),
            })
        };
        self.shared
            .update(|locks| renew(&self.shared.manager, locks, rebind))?;
        self.shared.check()?;
        Ok(std::mem::take(&mut self.shared.held().locks))
    }

    fn stop_keeping(&mut self) {
        match self.keeper.take() {
            // The thread that kept the lease was not forked along.
            keeper if self.shared.owner.is_elsewhere() => std::mem::forget(keeper),
            Some(keeper) => keeper.stop(),
            None => {}
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.stop_keeping();
        // What cannot be released goes with its lease, or with this process.
        let _ = self.shared.release(|_| true);
    }
}

/// The thread that keeps a lease alive.
#[derive(Debug)]
struct Keeper {
    /// Dropped to stop the thread.
    stop: mpsc::Sender<()>,
    /// Whether the thread is at work, and not asleep.
    is_at_work: Arc<Mutex<()>>,
    thread: JoinHandle<()>,
}

impl Keeper {
    fn start(shared: &Arc<Shared>) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let is_at_work = Arc::new(Mutex::new(()));
        // Held weakly: a thread asleep neither keeps the store open nor has to be waited for.
        let (keep, work) = (Arc::downgrade(shared), Arc::clone(&is_at_work));
        let interval = match shared.lease.timeout {
            Timeout::After(lease) => lease / 3,
            Timeout::Never => CHECK_OF_ENDLESS,
        };
        let thread = thread::Builder::new().name("lockmgr-keep".into());
        let thread = thread
            .spawn(move || Self::run(&keep, &work, interval, &stopped))
            .map_err(|source| Error::Io {
                path: shared.manager.0.store.path().to_owned(),
                action: "keep locks alive in",
                source,
            })?;
        Ok(Self {
            stop,
            is_at_work,
            thread,
        })
    }

    fn run(
        shared: &Weak<Shared>,
        is_at_work: &Mutex<()>,
        interval: Duration,
        stopped: &mpsc::Receiver<()>,
    ) {
        let mut renew_at = Instant::now() + interval;
        let pause = |until: Instant| {
            let left = until.saturating_duration_since(Instant::now());
            left.min(LONGEST_UNSEEN)
        };
        while stopped.recv_timeout(pause(renew_at)) == Err(RecvTimeoutError::Timeout) {
            let _at_work = is_at_work.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(shared) = shared.upgrade() else {
                return;
            };
            if Instant::now() < renew_at {
                // Where it cannot be read the renewal finds out.
                let _ = shared.look();
                continue;
            }
            let keep_all = |locks: &[Lock]| keep(&shared.manager, locks, shared.lease.timeout);
            renew_at = Instant::now();
            renew_at += if shared.update(keep_all).is_ok() {
                interval
            } else {
                // Fails only where the work does, and this has none.
                let _ = shared.give_up_expired();
                (interval / 8).min(LONGEST_UNSEEN)
            };
            let held = shared.held();
            if held.locks.is_empty() && held.lost.is_some() {
                return;
            }
        }
    }

    /// Stops the thread: waits for its work, and not for its end where it sleeps.
    fn stop(self) {
        drop(self.stop);
        let is_asleep = self.is_at_work.try_lock().is_ok();
        // Not where the callback, on that very thread, drops the guard.
        let is_here = self.thread.thread().id() == thread::current().id();
        if !is_asleep && !is_here {
            let _ = self.thread.join();
        }
    }
}
