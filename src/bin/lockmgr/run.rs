//! Implements `lockmgr run`: takes the locks, runs the command, releases the locks, and ends as the
//! command did.

mod job;
mod supervise;

use crate::asked::Asked;
use crate::duration::{self, Wait};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::given_back::GivenBack;
use crate::outer::{self, Outer};
use crate::place::{Place, holder, note};
use crate::run_args::{OnLost, Run};
use crate::signals::{Signals, Waker, end_by};
use crate::table;
use crate::waiting;
use job::Job;
pub(crate) use job::{EXEC, become_command};
use lockmgr::{Error, ErrorKind, Lock, LockGuard, LockManager, Mode, Printable, Timeout};
use rustix::process::WaitStatus;
use std::env;
use std::ffi::OsString;
use std::sync::mpsc::{self, Receiver};
use supervise::Supervisor;

/// The largest number of bytes of a note.
const LONGEST_NOTE: usize = 255;

const ELLIPSIS: &str = "…";

/// Names of locks that are held, with their tokens.
type Held = Vec<(String, u64)>;

/// The options, checked before the store is touched.
#[derive(Debug)]
struct Plan<'a> {
    asked: Asked,
    /// The words of the command. The first word is the program.
    command: Vec<OsString>,
    wait: Wait,
    lease: Option<Timeout>,
    locked_by: Option<&'a str>,
    note: Option<String>,
    at_least: Option<Timeout>,
    on_lost: OnLost,
    close: bool,
    conflict: u8,
    verbose: bool,
}

pub(crate) fn run_command(place: &Place, run: &Run) -> Result<ExitCode, Failure> {
    let mut signals = Signals::catch().map_err(unable)?;
    let plan = Plan::of(run)?;
    let opened = waiting::attended(&mut signals, None, None, || open(place, &plan))?;
    let (manager, held_by_outer) = opened?;
    if let Some(held) = held_by_outer {
        drop(manager);
        if let Some(signal) = signals.ending() {
            end_by(signal);
        }
        return Ok(job::become_it(place, &plan, &held));
    }
    let (guard, lost) = acquire(place, &manager, &plan, run.no_fork, &mut signals)?;
    if let Some(signal) = signals.ending() {
        drop(guard);
        end_by(signal);
    }
    if plan.lease.is_none() && guard.deadline().is_some() {
        if run.no_fork {
            return Err(Failure::Invalid {
                kind: ErrorKind::Unsupported.as_str(),
                message: "cannot become the command: the kernel cannot tell when it ends, and \
                    nobody would renew its lease; leave out -F, or say --lease"
                    .into(),
            });
        }
        if plan.verbose {
            job::say("the kernel cannot tell when the job ends: the lease is 60s, and renewed");
        }
    }
    if run.no_fork {
        return become_holder(place, guard, &plan);
    }
    let given_back = GivenBack::new();
    let job = match Job::start(place, &plan, &guard, given_back.as_ref()) {
        Ok(job) => job,
        Err(not_started) => return Ok(not_started),
    };
    let is_given_back = |lock: &Lock| {
        let line = outer::line(place, lock);
        given_back.as_ref().is_some_and(|notes| notes.has(&line))
    };
    let status = Supervisor::new(&plan, guard, lost, job, signals).run(is_given_back);
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
        let note = match &run.note {
            Some(text) => Some(note(text)?.to_owned()),
            None => note_of(&command),
        };
        let at_least = run.at_least.as_deref().map(duration::duration);
        Ok(Self {
            asked: run.asking.asked()?,
            note,
            at_least: at_least.transpose()?,
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

/// Returns the note for the locks of a command: the command, cut to the length of a note.
fn note_of(command: &[OsString]) -> Option<String> {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut note: String = words.join(" ").chars().map(plain).collect();
    if note.len() > LONGEST_NOTE {
        while note.len() > LONGEST_NOTE - ELLIPSIS.len() {
            note.pop();
        }
        note.push_str(ELLIPSIS);
    }
    (!note.is_empty()).then_some(note)
}

/// Opens the store, and looks whether jobs around this process hold the locks already. If so,
/// returns the locks with their tokens, and the jobs keep and release them. A wait for a lock of
/// such a job could never end, as the job waits for this process.
fn open(place: &Place, plan: &Plan<'_>) -> Result<(LockManager, Option<Held>), Failure> {
    let manager = place.to_write()?;
    let outer = Outer::of(place);
    let (mut held, mut others) = (Held::new(), Vec::new());
    for (name, mode) in plan.asked.claims() {
        let holds = outer.holds_of(&manager, name)?;
        let strong = holds.iter().find(|lock| covers(lock.mode(), *mode));
        match (strong, holds.first()) {
            (Some(lock), _) => held.push((name.to_string(), lock.token())),
            (None, Some(weaker)) if plan.asked.any.is_none() => {
                return Err(Failure::Usage(format!(
                    "this job already holds {}, and cannot hold it {mode} too: ask for that in the \
                        outer run",
                    weaker_hold(weaker),
                )));
            }
            (None, _) => others.push(name),
        }
    }
    if held.is_empty() {
        return Ok((manager, None));
    }
    let needed = plan.asked.needed();
    if held.len() >= needed {
        held.truncate(needed);
        return Ok((manager, Some(held)));
    }
    let names = plan.asked.names().into_iter();
    let held = names.filter(|name| held.iter().any(|(held, _)| **name == held.as_str()));
    Err(Failure::Usage(format!(
        "this job runs under {} already, but not under {}: name all of them in the outer run, or \
            none of the first ones here",
        table::names(held.collect()),
        table::names(others)
    )))
}

/// Tells whether a hold of the first mode allows everything that the second mode allows.
fn covers(held: Mode, asked: Mode) -> bool {
    match (held, asked) {
        (Mode::Exclusive, _) => true,
        (Mode::Slots { take: held, of }, Mode::Slots { take, of: asked }) => {
            of == asked && held >= take
        }
        (held, asked) => held == asked,
    }
}

fn weaker_hold(lock: &Lock) -> String {
    let name = Printable(lock.name().as_str());
    match lock.mode() {
        Mode::Slots { .. } => format!("{} of \"{name}\"", lock.mode()),
        mode => format!("\"{name}\" {mode}"),
    }
}

/// Takes the locks, waits as long as the options say, and reports locks that are lost later.
fn acquire(
    place: &Place,
    manager: &LockManager,
    plan: &Plan<'_>,
    is_kept_by_hand: bool,
    signals: &mut Signals,
) -> Result<(LockGuard, Receiver<Lock>), Failure> {
    let (losses, lost) = mpsc::channel();
    let mut acquire = plan.asked.acquire(manager);
    if let Some(lease) = plan.lease {
        acquire = acquire.lease(lease);
    }
    if !plan.close {
        acquire = acquire.job();
    }
    if let Some(by) = plan.locked_by {
        acquire = acquire.locked_by(by);
    }
    if let Some(note) = &plan.note {
        acquire = acquire.note(note);
    }
    if let Some(at_least) = plan.at_least {
        acquire = acquire.at_least(at_least);
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
        _ => waiting::line(place, manager, &plan.asked, plan.verbose),
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

/// Becomes the command, which inherits the descriptor that proves that the holder lives.
fn become_holder(place: &Place, guard: LockGuard, plan: &Plan<'_>) -> Result<ExitCode, Failure> {
    let inherited = job::inheritable(&guard).map_err(unable)?;
    let code = job::become_it(place, plan, &guard.tokens());
    drop(inherited);
    guard.release()?;
    Ok(code)
}

fn unable(error: std::io::Error) -> Failure {
    Failure::System("watch over the command", error)
}
