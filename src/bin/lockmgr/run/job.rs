//! Manages the job of `run`: starts the command, passes its locks to it, and sends signals to it
//! and to all processes that it started.

use super::Plan;
use crate::exit_code::ExitCode;
use crate::failure::is_short_of_means;
use crate::given_back::GivenBack;
use crate::outer;
use crate::place::{Place, shown};
use crate::processes::{Kin, children, descendants, kin};
use crate::signals::{Caught, stop};
use lockmgr::LockGuard;
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process, wait};
use shared_child::SharedChild;
use shared_child::unix::SharedChildExt;
use signal_hook::consts::signal::{
    SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH, SIGXFSZ,
};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

/// The first argument of the process that becomes the command. The next argument is its parent.
/// Both are internal, so no parser reads them.
pub(crate) const EXEC: &str = "__exec";

/// The exit statuses of shells for a command that was found but cannot run, and for one not found.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The command's process, and all processes that it starts.
#[derive(Debug)]
pub(super) struct Job {
    command: SharedChild,
    pid: Pid,
    /// Tells whether the command was started in the process group of `run`.
    shares_group: bool,
    /// The exit status of the command, once it has ended.
    pub(super) status: Option<WaitStatus>,
    /// Tells whether a process of the job may live.
    pub(super) is_there: bool,
    /// The children of this process before it became `run`.
    others: Vec<i32>,
}

impl Job {
    /// Starts the command. Without a terminal the command gets its own process group, so that a
    /// signal to the group of `run` reaches the command once, by `run`. With a terminal the command
    /// shares the group of `run`, as the terminal sends the signals of its keys to that group.
    ///
    /// The command and all processes that it starts inherit the descriptor that proves that the
    /// holder lives. With `--close` they do not: then the kernel kills the command if this process
    /// is killed.
    pub(super) fn start(
        place: &Place,
        plan: &Plan<'_>,
        guard: &LockGuard,
        given_back: Option<&GivenBack>,
    ) -> Result<Self, ExitCode> {
        // Processes that the command leaves behind become children of this one.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::set_child_subreaper(Some(getpid()));
        let others = children();
        let mut command = Command::new(&plan.command[0]);
        command.args(&plan.command[1..]);
        if plan.close {
            match this_program() {
                Some(this) => {
                    command = Command::new(this);
                    command.arg0("lockmgr");
                    command.args([EXEC, &process::id().to_string()]);
                    command.args(&plan.command);
                }
                None => {
                    say("the command will outlive lockmgr if lockmgr is killed: there is no /proc")
                }
            }
        }
        let inherited = inheritable(guard).map_err(|error| not_run(&plan.command[0], &error))?;
        let shares_group = File::open("/dev/tty").is_ok();
        if !shares_group {
            command.process_group(0);
        }
        outer::tell(&mut command, place, &guard.tokens());
        if let Some(given_back) = given_back {
            given_back.name_to(&mut command);
        }
        let spawned = retried(&mut command, plan.verbose, SharedChild::spawn);
        drop(inherited);
        let command = spawned.map_err(|error| not_run(&plan.command[0], &error))?;
        let pid = i32::try_from(command.id()).ok().and_then(Pid::from_raw);
        Ok(Self {
            command,
            pid: pid.expect("a process has a number"),
            shares_group,
            status: None,
            is_there: true,
            others,
        })
    }

    /// Reaps processes that have ended: the command, and processes that it left behind.
    pub(super) fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.pid => self.status = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return,
                // This process has no children any more.
                Err(_) => {
                    self.is_there = false;
                    return;
                }
            }
        }
    }

    /// Passes on a signal, except a signal that the terminal has already sent to the command's
    /// group.
    pub(super) fn forward(&self, caught: Caught) {
        let (this, command) = (kin(getpid()), kin(self.pid));
        let is_shared = match (this, command) {
            (Some(this), Some(command)) => this.group == command.group,
            _ => self.shares_group,
        };
        let leads_session =
            this.is_some_and(|this| this.session == getpid().as_raw_nonzero().get());
        if self.status.is_none() && is_passed_on(caught, is_shared, leads_session) {
            // Fails if the command has ended, which is harmless.
            let _ = self.command.send_signal(caught.signal);
        }
        let is_stop = match caught.signal {
            SIGTSTP => true,
            SIGTTIN | SIGTTOU => caught.is_from_kernel,
            _ => false,
        };
        if is_stop && is_shared {
            stop();
        }
    }

    /// Sends a signal to the command and to all its descendants, in any group or session: a process
    /// that lost its parent became a child of this process. Without /proc only the command gets the
    /// signal.
    pub(super) fn end(&self, signal: Signal) {
        let all = descendants(&self.others);
        if all.is_empty() && self.status.is_none() {
            let _ = kill_process(self.pid, signal);
        }
        for process in all {
            send(process, signal);
        }
    }
}

/// Tells whether the command needs this signal from `run`, as the kernel did not send it to both.
fn is_passed_on(caught: Caught, is_shared: bool, leads_session: bool) -> bool {
    let is_for_both = match caught.signal {
        SIGCHLD => return false,
        SIGINT | SIGQUIT | SIGTSTP | SIGTTIN | SIGTTOU | SIGWINCH => is_shared,
        // The terminal sends a hangup only to the leader of its session.
        SIGHUP => is_shared && !leads_session,
        // A file of this process grew too large, not one of the command.
        SIGXFSZ => true,
        _ => false,
    };
    !(caught.is_from_kernel && is_for_both)
}

/// Sends a signal to a descendant of this process, and not to a newer process with its number.
fn send(process: Kin, signal: Signal) {
    let Some(pid) = Pid::from_raw(process.pid) else {
        return;
    };
    #[cfg(target_os = "linux")]
    {
        let flags = rustix::process::PidfdFlags::empty();
        match rustix::process::pidfd_open(pid, flags) {
            Ok(opened) => {
                let this = getpid().as_raw_nonzero().get();
                let parent = kin(pid).map(|now| now.parent);
                if parent == Some(process.parent) || parent == Some(this) {
                    let _ = rustix::process::pidfd_send_signal(&opened, signal);
                }
                return;
            }
            Err(Errno::SRCH) => return,
            // Some kernels do not support this call.
            Err(_) => {}
        }
    }
    let _ = kill_process(pid, signal);
}

/// The least number for the descriptor that a job inherits. Scripts open smaller numbers:
/// `exec 9>FILE` and `200>FILE` would close a descriptor with that number.
const UNNAMED: RawFd = 300;

/// Returns the descriptor that proves that the holder lives, for processes that are started while
/// it is open.
pub(super) fn inheritable(guard: &LockGuard) -> io::Result<Option<OwnedFd>> {
    let Some(low) = guard.job_descriptor() else {
        return Ok(None);
    };
    // The limit on descriptors may be lower.
    let descriptor = fcntl_dupfd_cloexec(&low, UNNAMED).unwrap_or(low);
    fcntl_setfd(&descriptor, FdFlags::empty())?;
    Ok(Some(descriptor))
}

/// Returns the path of this program's file, to start it again: from /proc, or from the first
/// argument.
fn this_program() -> Option<PathBuf> {
    let by_proc = Path::new("/proc/self/exe");
    if by_proc.exists() {
        return Some(by_proc.to_owned());
    }
    let called = PathBuf::from(env::args_os().next()?);
    if called.components().count() > 1 {
        return called.is_file().then_some(called);
    }
    let path = env::var_os("PATH")?;
    let mut places = env::split_paths(&path).map(|place| place.join(&called));
    places.find(|place| place.is_file())
}

/// Starts or becomes a command, without the names and tokens if they do not fit.
fn retried<T>(
    command: &mut Command,
    verbose: bool,
    mut start: impl FnMut(&mut Command) -> io::Result<T>,
) -> io::Result<T> {
    match start(command) {
        Err(error) if error.kind() == io::ErrorKind::ArgumentListTooLong => {
            if verbose {
                say("the command gets neither LOCKMGR_NAMES nor LOCKMGR_TOKENS: they are too long");
            }
            outer::untell(command);
            start(command)
        }
        started => started,
    }
}

/// Becomes the command, in the process that `run` started for it. If the parent is killed, the
/// kernel kills this process, so that the command does not outlive the holder of its locks.
pub(crate) fn become_command(parent: &OsStr, command: &[OsString]) -> ExitCode {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let is_parent = |pid: Pid| parent == OsStr::new(&pid.as_raw_nonzero().to_string());
    if !getppid().is_some_and(is_parent) {
        // The parent ended before the kernel was told to kill this process with it.
        return ExitCode::Software;
    }
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::Usage;
    };
    not_run(program, &Command::new(program).args(arguments).exec())
}

/// Becomes the command, in this process. The command gets these locks, with their tokens.
pub(super) fn become_it(place: &Place, plan: &Plan<'_>, held: &[(String, u64)]) -> ExitCode {
    let program = &plan.command[0];
    let mut command = Command::new(program);
    command.args(&plan.command[1..]);
    outer::tell(&mut command, place, held);
    let not_become = retried(&mut command, plan.verbose, |command| {
        Err::<(), _>(command.exec())
    });
    not_become.map_or_else(|error| not_run(program, &error), |()| ExitCode::Success)
}

/// Prints why a command was not run, and returns the exit status.
fn not_run(program: &OsStr, error: &io::Error) -> ExitCode {
    say(&format!(
        "cannot run {}: {error}",
        shown(Path::new(program))
    ));
    match error.kind() {
        _ if is_short_of_means(error) => ExitCode::Busy,
        io::ErrorKind::NotFound => ExitCode::Command(NOT_FOUND),
        _ => ExitCode::Command(NOT_EXECUTABLE),
    }
}

/// Prints a message on standard error.
pub(super) fn say(what: &str) {
    let _ = writeln!(io::stderr(), "lockmgr: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::consts::signal::{SIGALRM, SIGTERM};

    #[test]
    fn keys_of_a_shared_terminal_are_not_passed_on_and_all_else_is() {
        let passes = |signal, is_from_kernel, is_shared, leads| {
            let caught = Caught {
                signal,
                is_from_kernel,
            };
            is_passed_on(caught, is_shared, leads)
        };
        for key in [SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH, SIGHUP] {
            assert!(!passes(key, true, true, false), "{key}");
            assert!(passes(key, true, false, false), "{key}");
            assert!(passes(key, false, true, false), "{key}");
        }
        assert!(passes(SIGHUP, true, true, true));
        assert!(passes(SIGALRM, true, true, false));
        assert!(passes(SIGTERM, false, true, false));
        assert!(!passes(SIGXFSZ, true, false, false));
        assert!(passes(SIGXFSZ, false, false, false));
        assert!(!passes(SIGCHLD, false, false, false));
    }
}
