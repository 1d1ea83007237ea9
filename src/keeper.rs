//! Keeps the leases of a manager on one thread.
//!
//! The thread renews the leases of the guards, looks after guards whose locks were forced away, and
//! repeats in the background the work that a busy store refused. It sleeps until something is due.
//! It renews all leases that are due in one transaction.

use crate::base::Base;
use crate::error::{Error, Result};
use crate::held::{Held, Losses, renew_all};
use crate::spawn::Background;
use crate::wait::{Sleeper, Woken};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How soon refused work is tried again, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How often a guard for which nothing else is due looks whether it lost a lock. A ping says so
/// sooner, except from another network namespace.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// The shortest time between two renewals.
const SHORTEST: Duration = Duration::from_millis(1);

/// How long the thread sleeps when nothing is due.
const NOTHING_DUE: Duration = Duration::from_secs(3600);

/// Does one task, and returns the locks that it found lost.
type Work = Box<dyn Fn(&Base) -> Result<Losses> + Send>;

/// Keeps the leases of one manager, on a thread of its own.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    thread: Background,
}

#[derive(Debug, Default)]
struct Shared {
    duties: Mutex<Duties>,
    sleeper: Arc<Sleeper>,
}

#[derive(Default)]
struct Duties {
    guards: Vec<Kept>,
    tasks: Vec<Task>,
    is_over: bool,
    /// Whether the manager was used without blocking: then its end does not wait for the thread.
    is_on_its_own: bool,
}

/// Holds a guard that the thread looks after.
struct Kept {
    held: Weak<Held>,
    due: Instant,
}

/// Holds work that is tried until it is done. A task keeps the store open.
struct Task {
    base: Arc<Base>,
    work: Work,
    due: Instant,
    pause: Duration,
}

impl std::fmt::Debug for Duties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Duties")
            .field("guards", &self.guards.len())
            .field("tasks", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

/// Tells whether an error may pass by itself.
pub(crate) fn is_passing(error: &Error) -> bool {
    !matches!(error, Error::Forked { .. })
}

impl Keeper {
    /// Looks after a guard from now on, until it is dropped.
    pub(crate) fn keep(&self, held: &Arc<Held>) -> std::io::Result<()> {
        self.start()?;
        let due = Instant::now() + interval(held);
        self.shared.duties().guards.push(Kept {
            held: Arc::downgrade(held),
            due,
        });
        self.shared.sleeper.poke();
        Ok(())
    }

    /// Returns the sleeper through which a ping tells the thread of locks that were forced away.
    pub(crate) fn sleeper(&self) -> &Arc<Sleeper> {
        &self.shared.sleeper
    }

    /// Repeats work in the background until the store no longer refuses it. If the thread cannot
    /// start, the work stays undone until the process ends.
    pub(crate) fn retry(&self, base: &Arc<Base>, work: Work) {
        self.begin(base, work, FIRST_PAUSE);
    }

    /// Does work in the background, for the first time at once.
    pub(crate) fn soon(&self, base: &Arc<Base>, work: Work) {
        self.shared.duties().is_on_its_own = true;
        self.begin(base, work, Duration::ZERO);
    }

    fn begin(&self, base: &Arc<Base>, work: Work, after: Duration) {
        self.shared.duties().tasks.push(Task {
            base: Arc::clone(base),
            work,
            due: Instant::now() + after,
            pause: FIRST_PAUSE,
        });
        // If the thread cannot start, the task waits for the next call that starts one.
        let _ = self.start();
        self.shared.sleeper.poke();
    }

    fn start(&self) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.thread.start("lockmgr-keep", move || shared.run())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.thread.is_inherited() {
            return;
        }
        let goes_on = {
            let mut duties = self.shared.duties();
            duties.is_over = true;
            duties.is_on_its_own || !duties.tasks.is_empty()
        };
        self.shared.sleeper.poke();
        // If tasks are left, the thread goes on alone, until they are done or the process ends.
        if !goes_on {
            self.thread.join();
        }
    }
}

/// Returns how long it is until a guard needs its keeper.
fn interval(held: &Held) -> Duration {
    let third = held.renewal().map(|lease| lease / 3);
    third.map_or(BETWEEN_LOOKS, |third| third.max(SHORTEST))
}

/// Calls back for lost locks, on a thread of its own: a callback may take its time, or drop the
/// guard.
fn tell(mut losses: Losses) {
    losses.retain(|(held, lost)| held.is_told() && !lost.is_empty());
    if losses.is_empty() {
        return;
    }
    let tell_all = move || losses.iter().for_each(|(held, lost)| held.tell(lost));
    let builder = thread::Builder::new().name("lockmgr-lost".into());
    // Without a thread, the next call on the guard reports the loss.
    let _ = builder.spawn(tell_all);
}

impl Shared {
    fn duties(&self) -> MutexGuard<'_, Duties> {
        self.duties.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let (next, is_over) = {
                let duties = self.duties();
                let guards = duties.guards.iter().map(|kept| kept.due);
                let next = guards.chain(duties.tasks.iter().map(|task| task.due)).min();
                (next, duties.is_over && duties.tasks.is_empty())
            };
            if is_over {
                return;
            }
            let left = next.map(|next| next.saturating_duration_since(Instant::now()));
            let woken = self.sleeper.sleep(left.unwrap_or(NOTHING_DUE));
            self.keep(woken == Woken::Called);
            self.work();
        }
    }

    /// Renews the leases that are due. After a ping, looks at all guards.
    fn keep(&self, is_pinged: bool) {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut pinged = Vec::new();
        self.duties().guards.retain(|kept| {
            let Some(held) = kept.held.upgrade() else {
                return false;
            };
            if kept.due <= now {
                due.push(held);
            } else if is_pinged && held.is_told() {
                pinged.push(held);
            }
            true
        });
        // If the store cannot be read, the renewal finds that out.
        let mut losses = Losses::new();
        for held in &pinged {
            let lost = held.look_silently().map_or(Vec::new(), |(_, lost)| lost);
            losses.push((Arc::clone(held), lost));
        }
        let (lost, is_renewed) = renew_all(&due);
        losses.extend(lost);
        tell(losses);
        let intervals: HashMap<*const Held, Duration> = due
            .iter()
            .map(|held| (Arc::as_ptr(held), interval(held)))
            .collect();
        let now = Instant::now();
        for kept in &mut self.duties().guards {
            if let Some(interval) = intervals.get(&kept.held.as_ptr()) {
                kept.due = now
                    + match is_renewed {
                        true => *interval,
                        false => (*interval / 8).min(LONGEST_PAUSE),
                    };
            }
        }
        // This may drop the last handle of a guard, and its manager with it, so the duties must not
        // be locked.
        drop((due, pinged));
    }

    fn work(&self) {
        let now = Instant::now();
        let (due, later) = {
            let tasks = std::mem::take(&mut self.duties().tasks);
            tasks.into_iter().partition(|task| task.due <= now)
        };
        let due: Vec<Task> = due;
        self.duties().tasks.extend::<Vec<Task>>(later);
        let renewal = self.duties().guards.iter().map(|kept| kept.due).min();
        let mut due = due.into_iter();
        for mut task in due.by_ref() {
            match (task.work)(&task.base) {
                Err(error) if is_passing(&error) => {
                    task.pause = (task.pause * 2).min(LONGEST_PAUSE);
                    task.due = Instant::now() + task.pause;
                    self.duties().tasks.push(task);
                }
                Err(_) => {}
                Ok(losses) => tell(losses),
            }
            // Due leases come before the remaining tasks.
            if renewal.is_some_and(|at| at <= Instant::now()) {
                break;
            }
        }
        self.duties().tasks.extend(due);
    }
}
