//! Sleeping in the kernel until the store changes, a process ends, or a time comes.
//!
//! May wake for nothing, and may miss a change: whoever waits looks again, at least every
//! [`LONGEST_SLEEP`].

use crate::process::Process;
use std::path::Path;
use std::time::Duration;

/// What a lost notification costs at most.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Somebody announced a change of the store.
    Changed,
    /// One of the processes has ended.
    Ended,
    /// Nothing happened.
    Slept,
}

pub(crate) use system::{Watch, announce};

#[cfg(target_os = "linux")]
mod system {
    use super::{Duration, LONGEST_SLEEP, Path, Process, Woken};
    use crate::process::pidfd;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
    use rustix::fs::{Timestamps, UTIME_NOW, futimens};
    use std::fs::File;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::thread;

    /// Where the system has no notification left to give, one looks again after this long.
    const LONGEST_BLIND_SLEEP: Duration = Duration::from_millis(50);

    /// Tells those who watch the file that it changed: one event for each commit that concerns
    /// them, where the writes of the commit itself would be four for every one.
    pub(crate) fn announce(file: &File) {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        // Unannounced, a change is seen after LONGEST_SLEEP.
        let _ = futimens(file, &times);
    }

    /// What one waiter watches.
    ///
    /// To be kept and used again: the kernel takes some 20 ms to close one.
    #[derive(Debug)]
    pub(crate) struct Watch {
        inotify: Option<OwnedFd>,
        /// Whether the file could be watched.
        is_watching: bool,
        processes: Vec<(Process, OwnedFd)>,
    }

    impl Watch {
        pub(crate) fn new() -> Self {
            Self {
                inotify: init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok(),
                is_watching: false,
                processes: Vec::new(),
            }
        }

        /// Watches the file that has this name now: what is announced from here on ends a sleep.
        pub(crate) fn watch_file(&mut self, path: &Path) {
            let watched = WatchFlags::ATTRIB | WatchFlags::MOVE_SELF;
            let add = |inotify| add_watch(inotify, path, watched).is_ok();
            self.is_watching = self.inotify.as_ref().is_some_and(add);
        }

        /// Watches these processes from now on, and no others.
        pub(crate) fn watch_processes(&mut self, processes: &[Process]) {
            self.processes
                .retain(|(known, _)| processes.contains(known));
            for process in processes {
                if self.processes.iter().all(|(known, _)| known != process) {
                    self.processes
                        .extend(pidfd(process).map(|fd| (*process, fd)));
                }
            }
        }

        /// Sleeps for at most so long.
        pub(crate) fn sleep(&mut self, most: Duration) -> Woken {
            let longest = match self.is_watching {
                true => LONGEST_SLEEP,
                false => LONGEST_BLIND_SLEEP,
            };
            let most = most.min(longest);
            let timeout = Timespec {
                tv_sec: most.as_secs().cast_signed(),
                tv_nsec: most.subsec_nanos().into(),
            };
            let ended = self.processes.iter().map(|(_, pidfd)| pidfd);
            let mut fds: Vec<PollFd<'_>> = ended
                .chain(&self.inotify)
                .map(|fd| PollFd::new(fd, PollFlags::IN))
                .collect();
            let ready = poll(&mut fds, Some(&timeout));
            if ready.is_err() {
                // Out of memory or interrupted; never spin on it.
                thread::sleep(most.min(Duration::from_millis(1)));
            }
            let processes = self.processes.len();
            let is_ready = |fds: &[PollFd<'_>]| fds.iter().any(|fd| !fd.revents().is_empty());
            let (has_ended, has_changed) =
                (is_ready(&fds[..processes]), is_ready(&fds[processes..]));
            drop(fds);
            if has_changed {
                self.drain();
            }
            match (has_ended, has_changed) {
                (true, _) => Woken::Ended,
                (_, true) => Woken::Changed,
                _ => Woken::Slept,
            }
        }

        fn drain(&self) {
            let mut buffer = [MaybeUninit::uninit(); 1024];
            if let Some(inotify) = &self.inotify {
                let mut events = Reader::new(inotify, &mut buffer);
                while events.next().is_ok() {}
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Duration, Path, Process, Woken};
    use std::fs::File;
    use std::thread;

    /// How often one looks, where the system does not tell.
    const LONGEST_BLIND_SLEEP: Duration = Duration::from_millis(20);

    pub(crate) fn announce(_: &File) {}

    #[derive(Debug)]
    pub(crate) struct Watch;

    impl Watch {
        pub(crate) fn new() -> Self {
            Self
        }

        pub(crate) fn watch_file(&mut self, _: &Path) {}

        pub(crate) fn watch_processes(&mut self, _: &[Process]) {}

        pub(crate) fn sleep(&mut self, most: Duration) -> Woken {
            thread::sleep(most.min(LONGEST_BLIND_SLEEP));
            Woken::Slept
        }
    }
}
