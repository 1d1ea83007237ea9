//! Catches signals from the start, so that no signal ends or stops this process unnoticed. Also
//! ends this process by a signal.

use crate::processes::ignored_signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, getpid, kill_process};
use signal_hook::consts::signal::{
    SIGBUS, SIGCHLD, SIGCONT, SIGFPE, SIGILL, SIGIO, SIGKILL, SIGPIPE, SIGSEGV, SIGSTOP, SIGSYS,
    SIGTRAP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH,
};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;
use signal_hook::low_level::emulate_default_handler;
use signal_hook::low_level::siginfo::Cause;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{self, Command};
use std::time::Duration;

/// The signals that are not caught. No process can catch KILL and STOP. A process's own faults must
/// end it. Rust ignores PIPE. URG does nothing by default.
const NOT_CAUGHT: [i32; 10] = [
    SIGKILL, SIGSTOP, SIGILL, SIGFPE, SIGSEGV, SIGBUS, SIGTRAP, SIGSYS, SIGPIPE, SIGURG,
];

/// A signal that was caught.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caught {
    pub(crate) signal: i32,
    /// Set if a terminal, a timer or a limit sent the signal, and not a process.
    pub(crate) is_from_kernel: bool,
}

/// The caught signals, and a sleep that a signal ends.
#[derive(Debug)]
pub(crate) struct Signals {
    delivery: SignalDelivery<UnixStream, WithOrigin>,
    wake: UnixStream,
}

/// Ends the sleep of [`Signals`] from another thread.
#[derive(Debug)]
pub(crate) struct Waker(UnixStream);

impl Waker {
    pub(crate) fn wake(&self) {
        // A full pipe wakes as well.
        let _ = (&self.0).write(&[0]);
    }
}

impl Signals {
    /// Catches every signal that would end or stop this process. Signals that the caller set to be
    /// ignored, as nohup does, stay ignored, also for the command. The command gets the other
    /// signals with their defaults, because a handler does not outlive exec.
    pub(crate) fn catch() -> io::Result<Self> {
        let (read, wake) = UnixStream::pair()?;
        let waker = wake.try_clone()?;
        let none: [i32; 0] = [];
        let delivery = SignalDelivery::with_pipe(read, waker, WithOrigin::default(), none)?;
        let is_ignored = ignored_signals();
        // Includes real-time signals. The C library refuses the signals that it needs itself.
        for signal in 1..=64 {
            let is_left_out = NOT_CAUGHT.contains(&signal);
            if !is_left_out && (!is_ignored(signal) || signal == SIGCHLD) {
                let _ = delivery.handle().add_signal(signal);
            }
        }
        Ok(Self { delivery, wake })
    }

    pub(crate) fn waker(&self) -> io::Result<Waker> {
        self.wake.try_clone().map(Waker)
    }

    /// Sleeps until a signal comes, a waker wakes, or this time is over.
    pub(crate) fn sleep(&self, most: Duration) {
        let timeout = Timespec {
            tv_sec: most.as_secs().cast_signed(),
            tv_nsec: most.subsec_nanos().into(),
        };
        let wakes = PollFd::new(self.delivery.get_read(), PollFlags::IN);
        // The caller checks everything after each sleep.
        let _ = poll(&mut [wakes], Some(&timeout));
    }

    pub(crate) fn pending(&mut self) -> Vec<Caught> {
        let origins = self.delivery.pending();
        let caught = origins.map(|origin| Caught {
            signal: origin.signal,
            is_from_kernel: matches!(origin.cause, Cause::Kernel),
        });
        caught.collect()
    }

    /// Handles signals while there is no command to pass them on to. Stops this process on a stop
    /// signal, and returns a signal that ends this process.
    pub(crate) fn ending(&mut self) -> Option<i32> {
        for caught in self.pending() {
            match caught.signal {
                SIGCHLD | SIGCONT | SIGWINCH => {}
                SIGTSTP | SIGTTIN | SIGTTOU => stop(),
                signal => return Some(signal),
            }
        }
        None
    }
}

/// Stops this process until it is continued.
pub(crate) fn stop() {
    let _ = kill_process(getpid(), Signal::STOP);
}

/// Ends this process by a signal, as the caller expects: a shell's loop ends at ^C only if the
/// signal ended the program in it. A signal cannot end process 1 of a container. That process exits
/// with 128 plus the signal's number.
pub(crate) fn end_by(signal: i32) -> ! {
    if !getpid().is_init() {
        // If there is a core file, the command has written it.
        #[cfg(target_os = "linux")]
        let _ =
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
        // The library assumes that IO does nothing.
        if signal != SIGIO {
            let _ = emulate_default_handler(signal);
        }
        // The library does not know all signals. A new program has the default handlers.
        let script = ["-c", "kill -$0 $$", &signal.to_string()];
        let _ = Command::new("/bin/sh").args(script).exec();
    }
    process::exit(128 + signal)
}
