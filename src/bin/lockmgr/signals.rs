//! Signals sent to this process: caught from the first instruction, so that none ends or stops it
//! unseen; and ending by a signal.

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

/// The signals that are not caught: KILL and STOP, because nobody can; those of a process's own
/// faults; PIPE, because Rust ignores it; URG, because it does nothing by default.
const NOT_CAUGHT: [i32; 10] = [
    SIGKILL, SIGSTOP, SIGILL, SIGFPE, SIGSEGV, SIGBUS, SIGTRAP, SIGSYS, SIGPIPE, SIGURG,
];

/// A signal that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caught {
    pub(crate) signal: i32,
    /// From a terminal, a timer or a limit, and not from a process.
    pub(crate) is_from_kernel: bool,
}

/// The signals that were caught, and a sleep that they end.
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
    /// Catches every signal that would end or stop this process. Signals that its caller told it to
    /// ignore, as nohup does, stay ignored, for its command too. The others are for the command as
    /// they were, because a handler does not outlive exec.
    pub(crate) fn catch() -> io::Result<Self> {
        let (read, wake) = UnixStream::pair()?;
        let waker = wake.try_clone()?;
        let none: [i32; 0] = [];
        let delivery = SignalDelivery::with_pipe(read, waker, WithOrigin::default(), none)?;
        let is_ignored = ignored_signals();
        // Real-time signals too. The C library refuses those that it needs itself.
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
        // Whatever ends it, the caller looks at everything.
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

    /// While there is no command to pass signals on to: stops if one says so, and returns the one
    /// that ends this process.
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

/// Stops this process until it is told to go on.
pub(crate) fn stop() {
    let _ = kill_process(getpid(), Signal::STOP);
}

/// Ends this process by a signal, as its caller expects it: a shell's loop ends at ^C only if the
/// signal ended the program in it. Process 1 of a container cannot be ended so, and exits with 128 and
/// the signal's number.
pub(crate) fn end_by(signal: i32) -> ! {
    if !getpid().is_init() {
        // The core, if there is one, was the command's.
        #[cfg(target_os = "linux")]
        let _ =
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
        // It takes IO for a signal that does nothing.
        if signal != SIGIO {
            let _ = emulate_default_handler(signal);
        }
        // It does not know them all. A new program has the default handlers.
        let script = ["-c", "kill -$0 $$", &signal.to_string()];
        let _ = Command::new("/bin/sh").args(script).exec();
    }
    process::exit(128 + signal)
}
