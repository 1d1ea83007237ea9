//! `lockmgr run`: takes the locks, runs the command, gives them back, and ends as the command did.

mod job;
mod supervise;

use crate::duration::{self, Wait};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::place::{Place, holder, names};
use crate::run_args::{OnLost, Run};
use crate::signals::{Signals, Waker, end_by};
use crate::waiting;
use job::Job;
pub(crate) use job::{EXEC, become_command};
use lockmgr::{Error, Lock, LockGuard, LockManager, LockName, Timeout};
use rustix::process::WaitStatus;
use std::env;
use std::ffi::OsString;
use std::sync::mpsc::{self, Receiver};
use supervise::Supervisor;

/// The options, checked before the store is touched.
#[derive(Debug)]
struct Plan<'a> {
    names: Vec<LockName>,
    /// The command's words; the first is the program.
    command: Vec<OsString>,
    wait: Wait,
    lease: Option<Timeout>,
    locked_by: Option<&'a str>,
    on_lost: OnLost,
    close: bool,
    conflict: u8,
    verbose: bool,
}

pub(crate) fn run_command(place: &Place, run: &Run) -> Result<ExitCode, Failure> {
    let mut signals = Signals::catch().map_err(unable)?;
    let plan = Plan::of(run)?;
    let manager = waiting::attended(&mut signals, None, None, || place.to_write())??;
    let (guard, lost) = acquire(place, &manager, &plan, run.no_fork, &mut signals)?;
    if let Some(signal) = signals.ending() {
        drop(guard);
        end_by(signal);
    }
    if run.no_fork {
        return become_holder(place, guard, &plan);
    }
    let job = match Job::start(place, &plan, &guard) {
        Ok(job) => job,
        Err(not_started) => return Ok(not_started),
    };
    let status = Supervisor::new(&plan, guard, lost, job, signals).run();
    drop(manager);
    if let Some(signal) = status.and_then(WaitStatus::terminating_signal) {
        end_by(signal);
    }
    let code = status.and_then(WaitStatus::exit_status);
    let code = code.and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::Command(code.unwrap_or(u8::MAX)))
}

impl<'a> Plan<'a> {
    fn of(run: &'a Run) -> Result<Self, Failure> {
        let command = match &run.command_string {
            Some(string) => {
                let shell = env::var_os("SHELL").filter(|shell| !shell.is_empty());
                let shell = shell.unwrap_or_else(|| "/bin/sh".into());
                vec![shell, "-c".into(), string.clone()]
            }
            None => run.command.clone(),
        };
        Ok(Self {
            names: names(&run.names)?,
            command,
            wait: match &run.wait {
                _ if run.nonblock => Wait::Not,
                Some(wait) => duration::wait(wait)?,
                None => Wait::Forever,
            },
            lease: run.lease.as_deref().map(duration::duration).transpose()?,
            locked_by: run.locked_by.as_deref().map(holder).transpose()?,
            on_lost: run.on_lost,
            close: run.close,
            conflict: run.conflict_exit_code,
            verbose: run.verbose,
        })
    }
}

/// Takes the locks, waiting as it was asked to, and tells of those that are lost later.
fn acquire(
    place: &Place,
    manager: &LockManager,
    plan: &Plan<'_>,
    is_kept_by_hand: bool,
    signals: &mut Signals,
) -> Result<(LockGuard, Receiver<Lock>), Failure> {
    let (losses, lost) = mpsc::channel();
    let mut acquire = manager.acquire(&plan.names);
    if let Some(lease) = plan.lease {
        acquire = acquire.lease(lease);
    }
    if !plan.close {
        acquire = acquire.job();
    }
    if let Some(by) = plan.locked_by {
        acquire = acquire.locked_by(by);
    }
    if is_kept_by_hand {
        acquire = acquire.no_keep_alive();
    } else {
        let waker: Waker = signals.waker().map_err(unable)?;
        acquire = acquire.on_lost(move |lock: &Lock| {
            let _ = losses.send(lock.clone());
            waker.wake();
        });
    }
    let line = match plan.wait {
        Wait::Not => None,
        _ => waiting::line(place, manager, &plan.names, plan.verbose),
    };
    let answer = waiting::acquire(signals, line, acquire, plan.wait)?;
    let guard = answer.map_err(|error| match error {
        error @ (Error::Locked(_) | Error::Reserved { .. }) => Failure::Conflict {
            error,
            code: plan.conflict,
            is_silent: place.quiet || (plan.conflict == 0 && !plan.verbose),
        },
        error => error.into(),
    })?;
    Ok((guard, lost))
}

/// Becomes the command, which gets the descriptor that the locks hang on.
fn become_holder(place: &Place, guard: LockGuard, plan: &Plan<'_>) -> Result<ExitCode, Failure> {
    let inherited = job::inheritable(&guard).map_err(unable)?;
    let code = job::become_it(place, plan, guard.tokens());
    drop(inherited);
    guard.release()?;
    Ok(code)
}

fn unable(error: std::io::Error) -> Failure {
    Failure::System("watch over the command", error)
}
