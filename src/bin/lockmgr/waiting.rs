//! Waits for locks, shows which holder the wait is for, and ends the wait on a signal.

use crate::asked::{Asked, in_the_way};
use crate::duration::Wait;
use crate::failure::Failure;
use crate::place::Place;
use crate::processes;
use crate::signals::{Signals, end_by};
use crate::terminal;
use lockmgr::{Acquire, Canceller, Lock, LockGuard, LockManager, LockName, Mode, Request};
use std::io::{self, IsTerminal, Write};
use std::panic::resume_unwind;
use std::process;
use std::sync::mpsc::{self, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The time after which a waiter shows its line. A faster grant shows none.
const AT_ONCE: Duration = Duration::from_millis(20);

/// The time after which the line is redrawn, and signals are checked even without a wake-up.
const SECOND: Duration = Duration::from_secs(1);

/// Runs work that may wait for locks or for the store in its own thread, while this thread handles
/// signals. A signal that ends the process also ends the wait.
pub(crate) fn attended<T: Send>(
    signals: &mut Signals,
    line: Option<Line>,
    canceller: Option<Canceller>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Failure> {
    let unable = |error| Failure::System("wait for the store", error);
    let waker = signals.waker().map_err(unable)?;
    let (done, is_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let working = thread::Builder::new().spawn_scoped(scope, move || {
            let answer = work();
            drop(done);
            waker.wake();
            answer
        });
        let working = working.map_err(unable)?;
        while is_done.try_recv() == Err(TryRecvError::Empty) {
            signals.sleep(SECOND);
            if let Some(signal) = signals.ending() {
                drop(line);
                if let Some(canceller) = canceller {
                    canceller.cancel();
                    // When the work is done, the request is gone.
                    let _ = is_done.recv_timeout(SECOND);
                }
                end_by(signal);
            }
        }
        Ok(working.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Requests locks, and waits for them as `wait` says, while signals are handled.
pub(crate) fn acquire(
    signals: &mut Signals,
    line: Option<Line>,
    acquire: Acquire,
    wait: Wait,
) -> Result<lockmgr::Result<LockGuard>, Failure> {
    let canceller = acquire.canceller();
    attended(signals, line, Some(canceller), move || match wait {
        Wait::Not => acquire.try_lock(),
        Wait::For(bound) => acquire.try_lock_for(bound),
        Wait::Forever => acquire.lock(),
    })
}

/// Returns the line for this wait. On a terminal the line is redrawn. Elsewhere it is printed once,
/// if `verbose`.
pub(crate) fn line(
    place: &Place,
    manager: &LockManager,
    asked: &Asked,
    verbose: bool,
) -> Option<Line> {
    let is_told = !place.quiet && (verbose || io::stderr().is_terminal());
    is_told.then(|| Line::begin(manager, asked, terminal::is_live()))
}

/// The line that names the holder that a wait is for. A thread of its own draws the line, as it may
/// have to wait for the store. Nothing waits for that thread. Drop erases the line.
#[derive(Debug)]
pub(crate) struct Line {
    shown: Arc<Mutex<Shown>>,
    _ends: Sender<()>,
}

#[derive(Debug, Default)]
struct Shown {
    is_drawn: bool,
    is_over: bool,
}

impl Line {
    fn begin(manager: &LockManager, asked: &Asked, is_live: bool) -> Self {
        let (ends, is_ended) = mpsc::channel::<()>();
        let shown = Arc::new(Mutex::new(Shown::default()));
        let (manager, asked) = (manager.clone(), asked.clone());
        let of_thread = Arc::clone(&shown);
        let telling = move || {
            let began = Instant::now();
            let mut pause = AT_ONCE;
            while is_ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = SECOND;
                let Some(whom) = whom(&manager, &asked) else {
                    continue;
                };
                let line = format!("lockmgr: waiting {}s for {whom}", began.elapsed().as_secs());
                let mut shown = lock(&of_thread);
                if shown.is_over {
                    return;
                }
                if !is_live {
                    let _ = writeln!(io::stderr(), "{line}");
                    return;
                }
                if terminal::is_in_foreground() {
                    // The last column stays free: a terminal may wrap after it.
                    let line = terminal::cut(&line, terminal::columns() - 1);
                    let _ = write!(io::stderr(), "\r{line}\x1b[K");
                    shown.is_drawn = true;
                }
            }
        };
        // If no thread can be started, no line is shown.
        let _ = thread::Builder::new().spawn(telling);
        Self { shown, _ends: ends }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut shown = lock(&self.shown);
        shown.is_over = true;
        if shown.is_drawn {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Describes the holder that a wait is for, and the number of requests ahead. Returns `None` if no
/// holder and no request is in the way: then the grant is about to come.
fn whom(manager: &LockManager, asked: &Asked) -> Option<String> {
    let names = asked.names();
    let requests = manager.requests("").unwrap_or_default();
    let wants_one = |request: &Request| request.names().iter().any(|name| names.contains(name));
    let me = Some(process::id());
    let mine = requests
        .iter()
        .position(|request| request.process_id() == me);
    // A request that is not queued yet comes after all others.
    let before = &requests[..mine.unwrap_or(requests.len())];
    let ahead = before.iter().filter(|request| wants_one(request)).count();
    let held = |(name, mode): &(LockName, Mode)| {
        let holders = manager.holders(name).unwrap_or_default();
        in_the_way(holders, *mode)
    };
    match (asked.claims().iter().find_map(held), ahead) {
        (Some(lock), 0) => Some(held_for(&lock)),
        (Some(lock), _) => Some(format!("{ahead} ahead and {}", held_for(&lock))),
        (None, 0) => None,
        (None, _) => Some(format!("earlier requests; {ahead} ahead")),
    }
}

/// Describes the holder of a lock and its purpose: the holder's note, then the program.
fn held_for(lock: &Lock) -> String {
    match processes::holder_of(lock) {
        Some(program) => format!("{lock}; {program}"),
        None => lock.to_string(),
    }
}
