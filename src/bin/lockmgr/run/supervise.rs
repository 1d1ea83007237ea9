//! Supervises the command of `run`, in one thread. The thread sleeps until a signal comes, a
//! process of the job ends, or the lease has to be checked.

use super::Plan;
use super::job::{Job, say};
use crate::failure::Failure;
use crate::run_args::OnLost;
use crate::signals::Signals;
use lockmgr::{Error, Lock, LockGuard, Printable, Timeout};
use rustix::process::{Signal, WaitStatus};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// The time that a job has to end by itself after its locks are lost.
const GRACE: Duration = Duration::from_secs(1);

/// The time that `run` waits for a killed job to be gone. A process of another user may survive.
const LAST: Duration = Duration::from_secs(1);

/// The longest sleep.
const SECOND: Duration = Duration::from_secs(1);

/// The time between two looks at a job that was told to end.
const SOON: Duration = Duration::from_millis(10);

/// The signals that a job has got because it lost its locks.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Not,
    /// TERM was sent. KILL is sent at this instant.
    Asked(Instant),
    /// KILL was sent. After this instant `run` does not wait for the rest of the job.
    Killed(Instant),
}

#[derive(Debug)]
pub(super) struct Supervisor<'a> {
    plan: &'a Plan<'a>,
    guard: LockGuard,
    lost: Receiver<Lock>,
    job: Job,
    signals: Signals,
    is_told: bool,
    ending: Ending,
    /// The time that this process has run while the renewal was overdue.
    overdue: Duration,
    looked_at: Instant,
}

impl<'a> Supervisor<'a> {
    pub(super) fn new(
        plan: &'a Plan<'a>,
        guard: LockGuard,
        lost: Receiver<Lock>,
        job: Job,
        signals: Signals,
    ) -> Self {
        Self {
            plan,
            guard,
            lost,
            job,
            signals,
            is_told: false,
            ending: Ending::Not,
            overdue: Duration::ZERO,
            looked_at: Instant::now(),
        }
    }

    /// Supervises the command until it ends. Then releases the locks, or leaves them to the
    /// processes that the command left behind.
    pub(super) fn run(mut self, is_given_back: impl Fn(&Lock) -> bool) -> Option<WaitStatus> {
        let mut gave_back = false;
        let status = loop {
            self.job.reap();
            if self.is_over() {
                break self.job.status;
            }
            self.signals.sleep(self.next_look());
            for caught in self.signals.pending() {
                self.job.forward(caught);
            }
            for lock in self.lost.try_iter().collect::<Vec<_>>() {
                match is_given_back(&lock) {
                    true => gave_back = true,
                    false => self.end(&lost(&lock)),
                }
            }
            self.look();
        };
        // Processes that the command left behind keep the locks, as they inherited the descriptor.
        let released = match self.plan.close {
            true => self.guard.release(),
            false => self.guard.leave_to_job().map(drop),
        };
        gave_back |= self.lost.try_iter().any(|lock| is_given_back(&lock));
        if let Err(error) = released
            && !self.is_told
            && !(gave_back && matches!(error, Error::Lost { .. }))
        {
            say(&Failure::from(error).message());
        }
        status
    }

    /// Tells whether the command has ended, and also all that it started if the locks are lost.
    fn is_over(&self) -> bool {
        let is_command_over = self.job.status.is_some();
        let is_enough = match self.ending {
            Ending::Not => is_command_over,
            Ending::Asked(_) => false,
            Ending::Killed(until) => is_command_over && until <= Instant::now(),
        };
        is_enough || !self.job.is_there
    }

    fn next_look(&self) -> Duration {
        match (self.ending, self.plan.lease) {
            (Ending::Not, Some(Timeout::After(lease))) if !self.is_told => {
                (lease / 24).clamp(Duration::from_millis(1), SECOND)
            }
            (Ending::Not, _) => SECOND,
            _ => SOON,
        }
    }

    fn look(&mut self) {
        if self.is_in_doubt() && !self.is_told {
            self.end("the lease could not be renewed in time");
        }
        match self.ending {
            Ending::Asked(kill_at) if kill_at <= Instant::now() => {
                self.job.end(Signal::KILL);
                self.ending = Ending::Killed(Instant::now() + LAST);
            }
            // The job may have started more processes meanwhile.
            Ending::Killed(_) => self.job.end(Signal::KILL),
            _ => {}
        }
    }

    /// Tells whether it is uncertain how long the locks are held. A lease is renewed when a third
    /// of it has passed. If two thirds have passed, renewals have failed often, or this process was
    /// stopped. The renewal then gets a sixth of the lease, counted while this process runs, so
    /// that a stopped job goes on if its locks are still there.
    fn is_in_doubt(&mut self) -> bool {
        let now = Instant::now();
        let since = now.duration_since(self.looked_at).min(2 * self.next_look());
        self.looked_at = now;
        match (self.plan.lease, self.guard.time_left()) {
            (Some(Timeout::After(lease)), Some(left)) if left < lease / 3 => {
                self.overdue += since;
                self.overdue > lease / 6
            }
            _ => {
                self.overdue = Duration::ZERO;
                false
            }
        }
    }

    fn end(&mut self, why: &str) {
        match self.plan.on_lost {
            OnLost::Warn => say(&format!("{why}; the command goes on without it")),
            OnLost::Kill if self.is_told => {}
            OnLost::Kill => {
                self.job.end(Signal::TERM);
                self.ending = Ending::Asked(Instant::now() + GRACE);
                say(&format!("{why}; ending the command"));
            }
        }
        self.is_told = true;
    }
}

fn lost(lock: &Lock) -> String {
    let name = Printable(lock.name().as_str());
    format!("lost \"{name}\" (token {})", lock.token())
}
