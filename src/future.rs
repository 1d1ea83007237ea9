//! Offers the verbs without blocking, as futures of no particular runtime (feature `async`).
//!
//! A future does nothing until it is polled. Its first poll hands the work to one thread of the
//! manager, which makes all calls that may block and never waits for one task alone. The thread
//! that polls takes a mutex for an instant, and no more. Dropping a future returns at once, and the
//! manager's thread undoes the changes that must not stay.

use crate::acquire::Acquire;
use crate::error::{Error, Result};
use crate::guard::LockGuard;
use crate::lock::{Lock, LockRef};
use crate::manager::LockManager;
use crate::observe::Caller;
use crate::set::{GetOptions, LockSetResult, RenewOptions, SetOptions};
use crate::wait::{Sleeper, Step, Woken};
use crate::waiter::Bounded;
use crate::worker::Task;
use std::fmt;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// Makes the steps of a task at the first poll. The steps end with the answer.
type Begin<T> = Box<dyn FnOnce() -> Result<Steps<T>> + Send>;
type Steps<T> = Box<dyn FnMut(Woken) -> Step<Result<T>> + Send>;

/// Runs a call while no thread of the caller blocks. It does nothing until it is polled.
///
/// The methods whose names end in `_async` return it. Dropping it returns at once.
#[must_use = "futures do nothing unless they are polled"]
pub struct Pending<T> {
    manager: LockManager,
    begin: Option<Begin<T>>,
    answer: Arc<Answer<T>>,
    /// The sleeper of the wait, through which a drop cancels it.
    sleeper: Arc<Sleeper>,
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

/// Carries the answer from the manager's thread to the task that polls.
struct Answer<T>(Mutex<State<T>>);

enum State<T> {
    Open(Option<Waker>),
    /// The answer, or the panic that ended the work.
    Done(thread::Result<Result<T>>),
    /// The future was dropped, and no task polls any more.
    Dropped,
}

impl<T> Answer<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_dropped(&self) -> bool {
        matches!(*self.state(), State::Dropped)
    }

    fn set(&self, answer: thread::Result<Result<T>>) {
        let mut state = self.state();
        match mem::replace(&mut *state, State::Dropped) {
            State::Open(waker) => {
                *state = State::Done(answer);
                drop(state);
                waker.into_iter().for_each(Waker::wake);
            }
            // A grant of this instant is released when the answer is dropped.
            State::Done(_) | State::Dropped => drop(state),
        }
    }
}

impl<T: Send + 'static> Pending<T> {
    fn new(
        manager: &LockManager,
        sleeper: Arc<Sleeper>,
        begin: impl FnOnce() -> Result<Steps<T>> + Send + 'static,
    ) -> Self {
        Self {
            manager: manager.clone(),
            begin: Some(Box::new(begin)),
            answer: Arc::new(Answer(Mutex::new(State::Open(None)))),
            sleeper,
        }
    }

    /// Hands the work to the manager's thread.
    fn hand_over(&self, begin: Begin<T>) -> Result<()> {
        let (answer, sleeper) = (Arc::clone(&self.answer), Arc::clone(&self.sleeper));
        let caller = Caller::here();
        let task = move |waker| -> Task {
            sleeper.wakes(waker);
            let mut begin = Some(begin);
            let mut steps: Option<Steps<T>> = None;
            let mut until = Instant::now();
            Box::new(move || {
                let left = until.saturating_duration_since(Instant::now());
                let woken = match sleeper.poll(left) {
                    Ok(woken) => woken,
                    Err(left) => return Step::Sleep(left),
                };
                let go_on = || {
                    if let Some(begin) = begin.take() {
                        if answer.is_dropped() {
                            return Step::Done(Err(Error::Cancelled));
                        }
                        match begin() {
                            Ok(begun) => steps = Some(begun),
                            Err(error) => return Step::Done(Err(error)),
                        }
                    }
                    steps.as_mut().expect("the task has begun")(woken)
                };
                let step = panic::catch_unwind(AssertUnwindSafe(|| caller.within(go_on)));
                match step {
                    Ok(Step::Sleep(most)) => {
                        until = Instant::now().checked_add(most).unwrap_or(until);
                        Step::Sleep(most)
                    }
                    Ok(Step::Done(done)) => {
                        answer.set(Ok(done));
                        Step::Done(())
                    }
                    Err(panicked) => {
                        answer.set(Err(panicked));
                        Step::Done(())
                    }
                }
            })
        };
        let manager = &self.manager;
        manager.0.worker.begin(task).map_err(|source| Error::Io {
            action: "start a thread for",
            path: manager.0.base.store.path().to_owned(),
            source,
        })
    }
}

impl<T: Send + 'static> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // In a child that was forked off, no thread works on the call.
        self.manager.0.base.store.check_fork()?;
        let this = self.get_mut();
        let mut state = this.answer.state();
        match &mut *state {
            State::Open(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                drop(state);
                if let Some(begin) = this.begin.take() {
                    this.hand_over(begin)?;
                }
                Poll::Pending
            }
            done => match mem::replace(done, State::Dropped) {
                State::Done(Ok(answer)) => Poll::Ready(answer),
                State::Done(Err(panicked)) => {
                    drop(state);
                    panic::resume_unwind(panicked)
                }
                State::Open(_) | State::Dropped => panic!("polled after it was ready"),
            },
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        if self.manager.0.base.store.forked_from().is_some() {
            // Another thread of the parent may have held the mutexes at the fork.
            mem::forget(Arc::clone(&self.answer));
            mem::forget(Arc::clone(&self.sleeper));
            mem::forget(self.manager.clone());
            return;
        }
        let answer = mem::replace(&mut *self.answer.state(), State::Dropped);
        if matches!(answer, State::Open(_)) {
            self.sleeper.cancel();
        }
        drop(answer);
    }
}

impl LockManager {
    /// Runs verbs on the manager's thread, so that the thread that polls does not block. The
    /// closure may use verbs of guards too: move the guard in, and return it.
    ///
    /// The thread does one thing after the other. Do not wait in the work: all other futures of this
    /// manager wait with it. If the future is dropped before the work begins, the work is not done. If
    /// the future is dropped later, the work goes on to its end.
    ///
    /// # Errors
    /// Those of the work; [`Error::Io`] if the thread cannot be started.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # runtime.block_on(async {
    /// let mut guard = manager.acquire(["a"]).lock_async().await?;
    /// guard = manager.call_async(|_| guard.lock("b").map(|()| guard)).await?;
    /// let locks = manager.call_async(|manager| manager.locks("")).await?;
    /// assert_eq!(locks.len(), 2);
    /// # drop(guard);
    /// # Ok::<(), lockmgr::Error>(())
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn call_async<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        let manager = self.clone();
        Pending::new(self, Arc::default(), move || {
            let mut work = Some(work);
            Ok(Box::new(move |_| {
                Step::Done(work.take().expect("the work is done once")(&manager))
            }))
        })
    }

    /// Sets locks as [`set_lock`](Self::set_lock) does, without blocking.
    ///
    /// # Errors
    /// As [`set_lock`](Self::set_lock).
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # runtime.block_on(async {
    /// let result = manager.set_lock_async(["a", "b"], lockmgr::SetOptions::new()).await?;
    /// assert_eq!(result.counts().created, 2);
    /// # Ok::<(), lockmgr::Error>(())
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn set_lock_async<N: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = N>,
        options: SetOptions,
    ) -> Pending<LockSetResult> {
        let names = owned(names);
        self.call_async(move |manager| manager.set_lock(names, options))
    }

    /// Creates a lock as [`get_lock`](Self::get_lock) does, without blocking.
    ///
    /// # Errors
    /// As [`get_lock`](Self::get_lock).
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # runtime.block_on(async {
    /// let lock = manager.get_lock_async("a", lockmgr::GetOptions::new()).await?;
    /// assert_eq!(lock.token(), 1);
    /// # Ok::<(), lockmgr::Error>(())
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn get_lock_async(&self, name: impl AsRef<str>, options: GetOptions) -> Pending<Lock> {
        let name = name.as_ref().to_owned();
        self.call_async(move |manager| manager.get_lock(name, options))
    }

    /// Renews a lock as [`renew_lock`](Self::renew_lock) does, without blocking.
    ///
    /// # Errors
    /// As [`renew_lock`](Self::renew_lock).
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # runtime.block_on(async {
    /// let lock = manager.get_lock_async("a", lockmgr::GetOptions::new()).await?;
    /// let renewed = manager.renew_lock_async(&lock, lockmgr::RenewOptions::new()).await?;
    /// assert_eq!(renewed.token(), lock.token());
    /// # Ok::<(), lockmgr::Error>(())
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn renew_lock_async<'a>(
        &self,
        lock: impl Into<LockRef<'a>>,
        options: RenewOptions,
    ) -> Pending<Lock> {
        let LockRef { name, token } = lock.into();
        let name = name.to_owned();
        self.call_async(move |manager| {
            let name = name.as_str();
            manager.renew_lock(LockRef { name, token }, options)
        })
    }

    /// Removes a lock as [`unlock`](Self::unlock) does, without blocking.
    ///
    /// # Errors
    /// As [`unlock`](Self::unlock).
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # runtime.block_on(async {
    /// let lock = manager.get_lock_async("a", lockmgr::GetOptions::new()).await?;
    /// assert!(manager.unlock_async(&lock).await?);
    /// # Ok::<(), lockmgr::Error>(())
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn unlock_async<'a>(&self, lock: impl Into<LockRef<'a>>) -> Pending<bool> {
        let LockRef { name, token } = lock.into();
        let name = name.to_owned();
        self.call_async(move |manager| {
            let name = name.as_str();
            manager.unlock(LockRef { name, token })
        })
    }
}

fn owned<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Vec<String> {
    let names = names.into_iter();
    names.map(|name| name.as_ref().to_owned()).collect()
}

impl Acquire {
    /// Takes the locks as [`try_lock`](Self::try_lock) does, without blocking. If the future is
    /// dropped, it holds no locks: a grant of that instant is released.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # runtime.block_on(async {
    /// let guard = manager.acquire(["a"]).try_lock_async().await?;
    /// assert!(manager.acquire(["a"]).try_lock_async().await.is_err());
    /// # drop(guard);
    /// # Ok::<(), lockmgr::Error>(())
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn try_lock_async(self) -> Pending<LockGuard> {
        self.ask_async(|| Bounded::Never)
    }

    /// Waits for the locks up to this long from its first poll, as
    /// [`try_lock_for`](Self::try_lock_for) does, without blocking.
    ///
    /// Dropping the future returns at once. The manager's thread removes the request, and releases
    /// the locks of a grant of that instant.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    ///
    /// ```
    /// # use lockmgr::Error;
    /// # use std::time::Duration;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # runtime.block_on(async {
    /// let guard = manager.acquire(["a"]).lock_async().await?;
    /// let bound = Duration::from_millis(20);
    /// let second = manager.acquire(["a"]).try_lock_for_async(bound).await;
    /// assert!(matches!(second, Err(Error::Locked(_))));
    /// # drop(guard);
    /// # Ok::<(), lockmgr::Error>(())
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn try_lock_for_async(self, bound: Duration) -> Pending<LockGuard> {
        self.ask_async(move || Bounded::by(bound))
    }

    /// Waits for the locks until this instant, and otherwise acts as
    /// [`try_lock_for_async`](Self::try_lock_for_async).
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # runtime.block_on(async {
    /// let until = Instant::now() + Duration::from_secs(1);
    /// let guard = manager.acquire(["a"]).try_lock_until_async(until).await?;
    /// guard.release_async().await?;
    /// # Ok::<(), lockmgr::Error>(())
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn try_lock_until_async(self, until: Instant) -> Pending<LockGuard> {
        self.ask_async(move || Bounded::by(until.saturating_duration_since(Instant::now())))
    }

    /// Waits until the locks are granted, as [`lock`](Self::lock) does, without blocking. The
    /// request joins the queue at the first poll.
    ///
    /// Dropping the future returns at once. The manager's thread removes the request, and releases
    /// the locks of a grant of that instant. The guard of every `_async` method releases in the
    /// background when it is dropped. [`LockGuard::release_async`] confirms the release.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # runtime.block_on(async {
    /// let guard = manager.acquire(["accounts", "ledger"]).lock_async().await?;
    /// // … work that must not be done twice …
    /// guard.release_async().await?;
    /// # Ok::<(), lockmgr::Error>(())
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn lock_async(self) -> Pending<LockGuard> {
        self.ask_async(|| Bounded::Forever)
    }

    fn ask_async(self, bounded: impl FnOnce() -> Bounded + Send + 'static) -> Pending<LockGuard> {
        let manager = self.manager().clone();
        let sleeper = Arc::clone(self.sleeper());
        Pending::new(&manager, sleeper, move || {
            let (asker, terms) = self.begin(bounded())?;
            let mut asking = Some((asker, terms));
            Ok(Box::new(move |woken| {
                let step = asking.as_mut().expect("the wait goes on").0.step(woken);
                match step {
                    Step::Sleep(most) => Step::Sleep(most),
                    Step::Done(answer) => Step::Done(answer.map(|locks| {
                        let (asker, terms) = asking.take().expect("the request is answered once");
                        terms.guard(asker, locks).in_background()
                    })),
                }
            }))
        })
    }
}

impl LockGuard {
    /// Releases the locks as [`release`](Self::release) does, without blocking. From this call on
    /// the guard releases in the background, so dropping the future does not block either.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # runtime.block_on(async {
    /// let guard = manager.acquire(["a"]).lock_async().await?;
    /// guard.release_async().await?;
    /// assert!(!manager.is_locked("a")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn release_async(self) -> Pending<()> {
        let guard = self.in_background();
        let manager = guard.manager().clone();
        manager.call_async(move |_| guard.release())
    }
}
