//! `lockmgr run`: takes the locks, runs the command while the lease is kept alive, gives them
//! back, and ends as the command did.

use crate::args::{self, OnLost, Run};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::place::{Place, holder, names};
use lockmgr::{
    Acquire, Error, Lock, LockGuard, LockManager, LockName, Printable, Request, Timeout,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, getpgid, getpid, getppid, kill_process};
use signal_hook::consts::signal::{
    SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1,
    SIGUSR2, SIGVTALRM, SIGWINCH,
};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{self, Command};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

/// The lease of a command that said nothing else.
const LEASE: Duration = Duration::from_secs(60);

/// How long a command has to end by itself once its locks are gone.
const GRACE: Duration = Duration::from_millis(250);

/// The first argument of the process that becomes the command; the next is its parent. Not for
/// people, and not worth a parser.
pub(crate) const EXEC: &str = "__exec";

/// What is passed on to the command.
const FORWARDED: [i32; 12] = [
    SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGWINCH,
    SIGCONT, SIGTSTP,
];

/// What shells exit with where a command was found but cannot be run, and where it was not found.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

pub(crate) fn run_command(place: &Place, run: &Run) -> Result<ExitCode, Failure> {
    let command = command_of(run)?;
    let names = names(&run.names)?;
    let wait = match (&run.wait, run.nonblock) {
        (_, true) => Some(Duration::ZERO),
        (Some(wait), false) => Some(args::span(wait)?),
        (None, false) => None,
    };
    let lease = match (&run.timeout, run.no_fork) {
        (Some(lease), _) => args::duration(lease)?,
        (None, true) => Timeout::Never,
        (None, false) => LEASE.into(),
    };
    let by = run.locked_by.as_deref().map(holder).transpose()?;
    let manager = place.to_write()?;
    let (losses, lost) = mpsc::channel();
    // What ends the supervisor's sleep: a signal, or a byte.
    let (wakes, wake) = UnixStream::pair().map_err(in_the_way)?;
    let guard = {
        let mut acquire = manager.acquire(&names).lease(lease);
        if let Some(by) = by {
            acquire = acquire.locked_by(by);
        }
        if !run.no_fork {
            let waker = wake.try_clone().map_err(in_the_way)?;
            let on_lost = move |lock: &Lock| {
                let _ = losses.send(lock.clone());
                // Unwoken, the supervisor looks within a second.
                let _ = (&waker).write(&[0]);
            };
            acquire = acquire.on_lost(on_lost);
        }
        take(&manager, &names, acquire, wait, run)?
    };
    if run.no_fork {
        return become_holder(place, manager, guard, &command);
    }
    let mut child = starting(place, &guard, &command);
    let supervisor = Supervisor {
        run,
        lease,
        lost,
        is_told: false,
        kill_at: None,
    };
    supervisor.run(&mut child, guard, wakes, wake)
}

fn command_of(run: &Run) -> Result<Vec<OsString>, Failure> {
    match &run.command_string {
        Some(string) => {
            let shell = env::var_os("SHELL").filter(|shell| !shell.is_empty());
            let shell = shell.unwrap_or_else(|| "/bin/sh".into());
            Ok(vec![shell, "-c".into(), string.clone()])
        }
        None if run.command.is_empty() => {
            let message = "there is no command to run: say NAME... -- COMMAND [ARG...], \
                or NAME... -c STRING";
            Err(Failure::Usage(message.into()))
        }
        None => Ok(run.command.clone()),
    }
}

/// Takes the locks, waiting as it was asked to.
fn take(
    manager: &LockManager,
    names: &[LockName],
    acquire: Acquire,
    wait: Option<Duration>,
    run: &Run,
) -> Result<LockGuard, Failure> {
    let ask = move || match wait {
        Some(bound) => acquire.try_lock_for(bound),
        None => acquire.lock(),
    };
    let may_wait = wait != Some(Duration::ZERO);
    let guard = if run.verbose && may_wait {
        telling(manager, names, ask)
    } else {
        ask()
    };
    guard.map_err(|error| match error {
        error @ (Error::Locked(_) | Error::Reserved { .. }) => Failure::Conflict {
            error,
            code: run.conflict_exit_code,
            is_silent: run.conflict_exit_code == 0 && !run.verbose,
        },
        error => error.into(),
    })
}

/// Says whom a wait is for, once, or on a terminal as long as it lasts.
fn telling<T: Send>(
    manager: &LockManager,
    names: &[LockName],
    wait: impl FnOnce() -> T + Send,
) -> T {
    let (done, is_done) = mpsc::channel::<()>();
    let is_live = io::stderr().is_terminal();
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut told = false;
            // What is granted at once needs no words.
            let mut pause = Duration::from_millis(20);
            while is_done.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = Duration::from_secs(1);
                if !told || is_live {
                    let whom = whom(manager, names);
                    let line =
                        format!("lockmgr: waiting {}s for {whom}", began.elapsed().as_secs());
                    let _ = match is_live {
                        true => write!(io::stderr(), "\r\x1b[K{line}"),
                        false => writeln!(io::stderr(), "{line}"),
                    };
                    told = true;
                }
            }
            if told && is_live {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
        });
        let result = wait();
        drop(done);
        result
    })
}

fn whom(manager: &LockManager, names: &[LockName]) -> String {
    let requests = manager.requests("").unwrap_or_default();
    let wants_one = |request: &Request| request.names().iter().any(|name| names.contains(name));
    let me = Some(process::id());
    let mine = requests
        .iter()
        .position(|request| request.process_id() == me);
    // Not queued yet, it comes after all.
    let before = &requests[..mine.unwrap_or(requests.len())];
    let ahead = match before.iter().filter(|request| wants_one(request)).count() {
        0 => String::new(),
        ahead => format!("; {ahead} ahead"),
    };
    let held = |name: &LockName| manager.find(name).ok().flatten();
    match names.iter().find_map(held) {
        Some(lock) => format!("{lock}{ahead}"),
        None => format!("who came before{ahead}"),
    }
}

/// The command, as it will be started: with what it may know, and to die with this process.
fn starting(place: &Place, guard: &LockGuard, command: &[OsString]) -> Command {
    let this = if cfg!(target_os = "linux") {
        Ok("/proc/self/exe".into())
    } else {
        env::current_exe()
    };
    let mut child = Command::new(this.unwrap_or_else(|_| "lockmgr".into()));
    child.arg0("lockmgr");
    child.args([EXEC, &process::id().to_string()]);
    child.args(command);
    set_environment(&mut child, &place.path, guard.tokens());
    child
}

fn set_environment(child: &mut Command, db: &Path, tokens: Vec<(String, u64)>) {
    let (names, tokens): (Vec<_>, Vec<_>) = tokens
        .into_iter()
        .map(|(name, token)| (name, token.to_string()))
        .unzip();
    child
        .env(
            "LOCKMGR_DB",
            std::path::absolute(db).unwrap_or_else(|_| db.to_owned()),
        )
        .env("LOCKMGR_NAMES", names.join("\n"))
        .env("LOCKMGR_TOKENS", tokens.join("\n"));
}

/// Becomes the command, in the process that `run` started for it. Should the parent go, so does
/// this process: a command must not outlive what holds its locks.
pub(crate) fn become_command(parent: &OsStr, command: &[OsString]) -> ExitCode {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let is_parent = |pid: Pid| parent == OsStr::new(&pid.as_raw_nonzero().to_string());
    if !getppid().is_some_and(is_parent) {
        // It went before it was asked to take this process along.
        return ExitCode::Software;
    }
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::Usage;
    };
    not_run(program, &Command::new(program).args(arguments).exec())
}

fn not_run(program: &OsStr, error: &io::Error) -> ExitCode {
    let shown = program.to_string_lossy();
    let _ = writeln!(
        io::stderr(),
        "lockmgr: cannot run {}: {error}",
        Printable(&shown)
    );
    ExitCode::Command(match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    })
}

/// Becomes the command, with the locks bound to this process, whatever it becomes.
fn become_holder(
    place: &Place,
    manager: LockManager,
    guard: LockGuard,
    command: &[OsString],
) -> Result<ExitCode, Failure> {
    let tokens = guard.tokens();
    let locks = guard.detach_to(process::id())?;
    drop(manager);
    let Some((program, arguments)) = command.split_first() else {
        return Ok(ExitCode::Usage);
    };
    let mut command = Command::new(program);
    command.args(arguments);
    set_environment(&mut command, &place.path, tokens);
    let code = not_run(program, &command.exec());
    place.to_write()?.unlock_all(&locks)?;
    Ok(code)
}

/// The command's process.
struct Target {
    pid: Option<Pid>,
    /// With it no later process of that number is taken for the command's.
    #[cfg(target_os = "linux")]
    pidfd: Option<std::os::fd::OwnedFd>,
}

impl Target {
    fn of(pid: u32) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Self {
            pid,
            #[cfg(target_os = "linux")]
            pidfd: pid.and_then(|pid| {
                let flags = rustix::process::PidfdFlags::empty();
                rustix::process::pidfd_open(pid, flags).ok()
            }),
        }
    }

    fn is_in_this_group(&self) -> bool {
        getpgid(self.pid).ok() == getpgid(None).ok()
    }

    /// It may have ended; then there is nobody to tell.
    fn signal(&self, signal: Signal) {
        #[cfg(target_os = "linux")]
        if let Some(pidfd) = &self.pidfd {
            let _ = rustix::process::pidfd_send_signal(pidfd, signal);
            return;
        }
        if let Some(pid) = self.pid {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Runs a command to its end, whatever happens to it and to its locks: one thread, asleep until a
/// signal comes or the lease wants a look.
struct Supervisor<'a> {
    run: &'a Run,
    lease: Timeout,
    lost: Receiver<Lock>,
    is_told: bool,
    /// When the command has had its time to end by itself.
    kill_at: Option<Instant>,
}

impl Supervisor<'_> {
    fn run(
        mut self,
        command: &mut Command,
        guard: LockGuard,
        wakes: UnixStream,
        wake: UnixStream,
    ) -> Result<ExitCode, Failure> {
        // Caught from before the command starts: no signal is lost in between.
        let ignored = ignored_signals();
        let caught = FORWARDED.into_iter().filter(|signal| !ignored(*signal));
        let caught = caught.chain([SIGCHLD]);
        let origins = WithOrigin::default();
        let signals = SignalDelivery::with_pipe(wakes, wake, origins, caught);
        let mut signals = signals.map_err(in_the_way)?;
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Ok(not_run(OsStr::new("the command"), &error)),
        };
        let target = Target::of(child.id());
        let status = loop {
            if let Some(status) = child.try_wait().map_err(in_the_way)? {
                break status;
            }
            sleep(signals.get_read(), self.next_look(&guard));
            for origin in signals.pending() {
                forward(&origin, &target);
            }
            self.look(&guard, &target);
        };
        if let Err(error) = guard.release()
            && !self.is_told
        {
            let failure = Failure::from(error);
            let _ = writeln!(io::stderr(), "lockmgr: {}", failure.message());
        }
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        let code = code.and_then(|code| u8::try_from(code).ok());
        Ok(ExitCode::Command(code.unwrap_or(u8::MAX)))
    }

    /// When to look again how much is left of the lease.
    fn next_look(&self, guard: &LockGuard) -> Duration {
        let longest = Duration::from_secs(1);
        match (self.kill_at, guard.time_left()) {
            (Some(kill_at), _) => kill_at.saturating_duration_since(Instant::now()),
            (None, Some(left)) if !self.is_told => {
                (left / 8).clamp(Duration::from_millis(1), longest)
            }
            _ => longest,
        }
    }

    /// A lease is renewed when a third of it is gone. With a third left that has failed often:
    /// the command gets half of what is left to end by itself.
    fn look(&mut self, guard: &LockGuard, target: &Target) {
        if self.kill_at.is_some_and(|at| at <= Instant::now()) {
            target.signal(Signal::KILL);
            self.kill_at = None;
        }
        if let Ok(lock) = self.lost.try_recv() {
            let name = Printable(lock.name().as_str());
            let why = format!("lost \"{name}\" (token {})", lock.token());
            self.end(target, &why, GRACE);
        }
        if let (Timeout::After(lease), Some(left)) = (self.lease, guard.time_left())
            && left < lease / 3
        {
            self.end(target, "the lease cannot be kept", left / 2);
        }
    }

    fn end(&mut self, target: &Target, why: &str, grace: Duration) {
        if self.is_told {
            return;
        }
        self.is_told = true;
        let what = match self.run.on_lost {
            OnLost::Kill => "ending the command",
            OnLost::Warn => "the command goes on without it",
        };
        if self.run.on_lost == OnLost::Kill {
            target.signal(Signal::TERM);
            self.kill_at = Some(Instant::now() + grace);
        }
        let _ = writeln!(io::stderr(), "lockmgr: {why}; {what}");
    }
}

fn in_the_way(error: io::Error) -> Failure {
    Failure::System("watch over the command", error)
}

/// Which signals this process was told to ignore, as by nohup: then its command ignores them too,
/// and nothing is to be passed on.
fn ignored_signals() -> impl Fn(i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    move |signal| mask >> (signal - 1) & 1 == 1
}

/// Sleeps until there is something to read, or for so long.
fn sleep(wakes: &UnixStream, most: Duration) {
    let timeout = Timespec {
        tv_sec: most.as_secs().cast_signed(),
        tv_nsec: most.subsec_nanos().into(),
    };
    // Whatever wakes it, what follows looks at everything.
    let _ = poll(&mut [PollFd::new(wakes, PollFlags::IN)], Some(&timeout));
}

/// Passes on what is sent to this process. What the terminal sends to its foreground, the command
/// gets anyway, unless it left this process's group. A hangup may be sent to this process alone.
fn forward(origin: &Origin, target: &Target) {
    let Some(signal) = Signal::from_named_raw(origin.signal) else {
        return;
    };
    if signal == Signal::CHILD {
        return;
    }
    let is_of_terminal = matches!(origin.cause, Cause::Kernel);
    if !is_of_terminal || signal == Signal::HUP || !target.is_in_this_group() {
        target.signal(signal);
    }
    if signal == Signal::TSTP {
        let _ = kill_process(getpid(), Signal::STOP);
    }
}
