//! A process, told apart from every other that ever had its number, and whether it is gone.
//!
//! Only proof counts: a process that cannot be judged from here counts as alive.

use crate::clock::BootId;
use std::fmt;

/// Who a process is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// When it started, in the kernel's clock ticks since boot.
    pub(crate) started: u64,
    pub(crate) boot: BootId,
    /// The namespaces that its number and its start are counted in.
    pub(crate) namespace: u64,
}

/// What can be said of a process from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Alive,
    /// Provably.
    Gone,
    /// It lives, or died, where this process cannot look.
    Unknown,
}

impl Process {
    /// This process; none where the system cannot say who that is.
    pub(crate) fn current() -> Option<Self> {
        system::current()
    }

    /// The process of that number, as seen from here.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        system::of(pid)
    }

    pub(crate) fn standing(&self) -> Standing {
        system::standing(self)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.standing() == Standing::Gone
    }
}

/// The process that made something which no child that it forks off may use.
#[derive(Debug)]
pub(crate) struct Origin {
    pid: u32,
    /// None where the system does not let it be told.
    forks: Option<forkguard::Guard>,
}

impl Origin {
    pub(crate) fn here() -> Self {
        Self {
            pid: std::process::id(),
            forks: forkguard::Guard::try_new().ok(),
        }
    }

    /// Whether this is another process, forked off since. It takes both to tell: a child may have
    /// its parent's number, as the first in a pid namespace of its own, and one that was made by
    /// `clone` or `_Fork` ran no handlers.
    pub(crate) fn is_elsewhere(&self) -> bool {
        let mut forks = self.forks.clone();
        self.pid != std::process::id() || forks.as_mut().is_some_and(|it| it.detected_fork())
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({} started at {})", self.pid, self.started)
    }
}

#[cfg(target_os = "linux")]
pub(crate) use system::pidfd;

#[cfg(target_os = "linux")]
mod system {
    use super::{Origin, Process, Standing};
    use crate::clock::{BootId, boot_id};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::sync::{Mutex, PoisonError};

    /// What a process knows of itself.
    #[derive(Clone, Copy)]
    struct Here {
        process: Process,
        /// Whether /proc numbers processes as this process's namespace does.
        is_proc_ours: bool,
    }

    /// Looked up once, and again in a child that was forked.
    fn here() -> Option<Here> {
        static HERE: Mutex<Option<(Here, Origin)>> = Mutex::new(None);
        let mut known = HERE.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((here, origin)) if !origin.is_elsewhere() => Some(*here),
            _ => {
                let here = look_around(std::process::id(), boot_id()?)?;
                *known = Some((here, Origin::here()));
                Some(here)
            }
        }
    }

    fn look_around(pid: u32, boot: BootId) -> Option<Here> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // A start is counted from the boot as the time namespace has it.
        let namespace = namespace_inode("pid")? | namespace_inode("time").unwrap_or(0) << 32;
        Some(Here {
            process: Process {
                pid,
                started: start_in(&stat)?,
                boot,
                namespace,
            },
            is_proc_ours: stat.split(' ').next() == Some(&pid.to_string()),
        })
    }

    /// The number in `pid:[4026531836]`.
    fn namespace_inode(kind: &str) -> Option<u64> {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
        let text = link.to_str()?.strip_suffix(']')?;
        text.rsplit_once('[')?.1.parse().ok()
    }

    /// Field 22 of /proc/PID/stat. The second, the program's name, may hold anything, even `)`.
    fn start_in(stat: &str) -> Option<u64> {
        let after_name = stat.rsplit_once(')')?.1;
        after_name.split_ascii_whitespace().nth(19)?.parse().ok()
    }

    fn start_of(pid: u32) -> Option<u64> {
        start_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    pub(super) fn current() -> Option<Process> {
        here().map(|here| here.process)
    }

    pub(super) fn of(pid: u32) -> Option<Process> {
        let here = here().filter(|here| here.is_proc_ours)?;
        let process = Process {
            pid,
            started: start_of(pid)?,
            ..here.process
        };
        (process.standing() == Standing::Alive).then_some(process)
    }

    pub(super) fn standing(process: &Process) -> Standing {
        let Some(here) = here() else {
            return Standing::Unknown;
        };
        if process.boot != here.process.boot {
            return Standing::Gone;
        }
        if process.namespace != here.process.namespace {
            return Standing::Unknown;
        }
        if process.pid == here.process.pid {
            return if process.started == here.process.started {
                Standing::Alive
            } else {
                Standing::Gone
            };
        }
        let Some(pid) = pid(process) else {
            return Standing::Unknown;
        };
        // Opened before the start is read: then both are of one process, or it has ended.
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Some(pidfd),
            Err(Errno::SRCH) => return Standing::Gone,
            Err(_) => None,
        };
        let start = start_of(process.pid).filter(|_| here.is_proc_ours);
        if start.is_some_and(|started| started != process.started) {
            return Standing::Gone;
        }
        match pidfd {
            Some(pidfd) if has_ended(&pidfd) => Standing::Gone,
            Some(_) => Standing::Alive,
            None => match test_kill_process(pid) {
                Err(Errno::SRCH) => Standing::Gone,
                _ => Standing::Alive,
            },
        }
    }

    /// A descriptor that polls readable once the process has ended; none where there is nothing
    /// to be seen from here.
    pub(crate) fn pidfd(process: &Process) -> Option<OwnedFd> {
        if here()?.process.namespace != process.namespace {
            return None;
        }
        let pidfd = pidfd_open(pid(process)?, PidfdFlags::empty()).ok()?;
        (process.standing() == Standing::Alive).then_some(pidfd)
    }

    fn pid(process: &Process) -> Option<Pid> {
        Pid::from_raw(i32::try_from(process.pid).ok()?)
    }

    /// A zombie has ended too: nobody waited for it yet.
    fn has_ended(pidfd: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready == 1)
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::process::{Command, Stdio};

        #[test]
        fn the_start_is_found_behind_any_name() {
            let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
            assert_eq!(start_in(stat), Some(4242));
            assert_eq!(start_in("7 (a) S 1"), None);
        }

        #[test]
        fn this_process_is_alive() {
            let me = Process::current().unwrap();
            assert_eq!(me.standing(), Standing::Alive);
            assert_eq!(Process::of(me.pid), Some(me));
        }

        #[test]
        fn a_child_is_alive_until_it_ends_even_before_it_is_waited_for() {
            let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
            let process = Process::of(child.id()).unwrap();
            let pidfd = pidfd(&process).unwrap();
            assert_eq!(process.standing(), Standing::Alive);
            drop(child.stdin.take());
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
            assert_eq!(process.standing(), Standing::Gone);
            assert_eq!(Process::of(process.pid), None);
            child.wait().unwrap();
            assert_eq!(process.standing(), Standing::Gone);
        }

        #[test]
        fn another_start_or_boot_is_gone_and_another_namespace_unknown() {
            let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
            for process in [
                Process::current().unwrap(),
                Process::of(child.id()).unwrap(),
            ] {
                let started = process.started - 1;
                assert!(Process { started, ..process }.is_gone());
                let boot = BootId([0; 16]);
                assert!(Process { boot, ..process }.is_gone());
                let namespace = process.namespace + 1;
                let elsewhere = Process {
                    namespace,
                    ..process
                };
                assert_eq!(elsewhere.standing(), Standing::Unknown);
            }
            drop(child.stdin.take());
            child.wait().unwrap();
        }

        #[test]
        fn another_users_process_is_alive() {
            assert_eq!(Process::of(1).unwrap().standing(), Standing::Alive);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Process, Standing};

    pub(super) fn current() -> Option<Process> {
        None
    }

    pub(super) fn of(_: u32) -> Option<Process> {
        None
    }

    pub(super) fn standing(_: &Process) -> Standing {
        Standing::Unknown
    }
}
