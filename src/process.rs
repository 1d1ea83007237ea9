//! Tells a process apart from every other that ever had its number, and proves that it is gone.
//!
//! Only proof counts: a process that cannot be judged from here counts as alive.

use crate::clock::BootId;
use std::fmt;

/// Identifies a process. A part that could not be read is zero, and proves nothing.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// The start of the process, in the kernel's clock ticks since boot, as the time namespace
    /// counts them.
    pub(crate) started: u64,
    pub(crate) boot: BootId,
    /// Whether the kernel itself named the boot: containers may mount a file over its id.
    pub(crate) is_boot_genuine: bool,
    pub(crate) namespaces: Namespaces,
}

/// Holds the inodes of the namespaces that decide how much one process can tell of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Namespaces {
    pub(crate) pid: u32,
    pub(crate) time: u32,
    pub(crate) net: u32,
}

/// Says whether another process lives, if this process can prove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Alive,
    /// The process is provably gone.
    Gone,
    /// The process lives, or died, where this process cannot look.
    Unknown,
}

/// Names the thing whose end ends a lock or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Binding {
    pub(crate) kind: Bound,
    /// The process that asked, or that the options named.
    pub(crate) process: Process,
    /// The id of the manager or the job, or zero for a process.
    pub(crate) id: u64,
    /// The file in which a beacon with this id proves that the manager or the job lives.
    pub(crate) file: Option<FileId>,
}

/// Says which kind of thing a lock is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bound {
    /// A manager of some program: the lock is a guard's.
    Manager,
    /// A process that the options named.
    Process,
    /// A job: every process that inherited a descriptor from `lockmgr run`.
    Job,
}

/// Identifies a file, whatever its name and its mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    pub(crate) inode: u64,
    /// The birth in nanoseconds since 1970, or zero if the file system does not tell.
    pub(crate) born: i64,
}

impl Process {
    /// Returns the identity of this process.
    pub(crate) fn current() -> Self {
        system::current()
    }

    /// Returns the identity of the process of that number, as seen from `self`, which is this one.
    pub(crate) fn see(&self, pid: u32) -> Option<Self> {
        system::see(self, pid)
    }

    /// Judges another process from `self`, which is this one.
    pub(crate) fn judge(&self, other: &Self) -> Standing {
        system::judge(self, other)
    }

    /// Tells whether there is provably no process of the other's number any more. This costs less
    /// than a judgement, and does not tell a later process of that number apart.
    pub(crate) fn sees_no(&self, other: &Self) -> bool {
        system::sees_no(self, other)
    }

    /// Tells whether every process of the host that sees the initial namespace can prove the end of
    /// a process named from here, also after a reboot.
    pub(crate) fn is_in_initial_namespace(&self) -> bool {
        /// The kernel's `PROC_PID_INIT_INO`, in `include/linux/proc_ns.h`.
        const INITIAL: u32 = 0xEFFF_FFFC;
        self.namespaces.pid == INITIAL
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({} started at {})", self.pid, self.started)
    }
}

/// Identifies the process that opened a thing which no child that it forks off may use.
///
/// A child has another number than its parent, except as the first process of a pid namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pid: u32,
    /// The pid namespace of process 1, and zero for all others.
    namespace: u32,
}

impl Origin {
    pub(crate) fn here() -> Self {
        let pid = std::process::id();
        let namespace = if pid == 1 { system::pid_namespace() } else { 0 };
        Self { pid, namespace }
    }

    /// Returns the number of the process that opened the thing, if this is another process.
    pub(crate) fn elsewhere(&self) -> Option<u32> {
        let pid = std::process::id();
        let is_here = pid == self.pid && (pid != 1 || system::pid_namespace() == self.namespace);
        (!is_here).then_some(self.pid)
    }
}

#[cfg(target_os = "linux")]
pub(crate) use system::pidfd;

#[cfg(target_os = "linux")]
mod system {
    use super::{Namespaces, Process, Standing};
    use crate::clock::boot_id;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::fs;
    use std::os::fd::OwnedFd;

    pub(super) fn current() -> Process {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let (boot, is_boot_genuine) = boot_id().unwrap_or_default();
        Process {
            pid: std::process::id(),
            started: start_in(&stat).unwrap_or_default(),
            boot,
            is_boot_genuine,
            namespaces: Namespaces {
                pid: pid_namespace(),
                time: namespace("time"),
                net: namespace("net"),
            },
        }
    }

    pub(super) fn pid_namespace() -> u32 {
        namespace("pid")
    }

    /// Reads the number in `pid:[4026531836]`.
    fn namespace(kind: &str) -> u32 {
        let number = || {
            let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
            let text = link.to_str()?.strip_suffix(']')?;
            text.rsplit_once('[')?.1.parse().ok()
        };
        number().unwrap_or_default()
    }

    /// Reads field 22 of /proc/PID/stat. The second field, the program's name, may hold anything,
    /// even `)`.
    fn start_in(stat: &str) -> Option<u64> {
        let after_name = stat.rsplit_once(')')?.1;
        after_name.split_ascii_whitespace().nth(19)?.parse().ok()
    }

    /// Reads the start of a process, if /proc numbers processes as this process does.
    fn start_of(pid: u32) -> Option<u64> {
        let own = fs::read_link("/proc/self").ok()?;
        let is_proc_ours = own.to_str() == Some(&std::process::id().to_string());
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        start_in(&stat).filter(|_| is_proc_ours)
    }

    pub(super) fn see(here: &Process, pid: u32) -> Option<Process> {
        let process = Process {
            pid,
            started: start_of(pid)?,
            ..*here
        };
        (judge(here, &process) == Standing::Alive).then_some(process)
    }

    pub(super) fn judge(here: &Process, process: &Process) -> Standing {
        let is_known = |boot| boot != Default::default();
        let is_other_boot =
            process.boot != here.boot && is_known(process.boot) && is_known(here.boot);
        if is_other_boot && process.is_boot_genuine && here.is_boot_genuine {
            return Standing::Gone;
        }
        // A number is counted in the pid namespace, a start in the time namespace.
        let seen_in = |it: &Process| (it.namespaces.pid, it.namespaces.time);
        if here.namespaces.pid == 0 || seen_in(here) != seen_in(process) {
            return Standing::Unknown;
        }
        let Some(pid) = pid(process) else {
            return Standing::Unknown;
        };
        // Open the pidfd before reading the start: then both are of one process, or the process has
        // ended.
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Some(pidfd),
            Err(Errno::SRCH) => return Standing::Gone,
            Err(_) => None,
        };
        let is_same = |started| started == process.started;
        match start_of(process.pid) {
            Some(started) if process.started != 0 && !is_same(started) => Standing::Gone,
            _ if pidfd.as_ref().is_some_and(has_ended) => Standing::Gone,
            // If the boot ids differ, a process of an earlier boot may only seem to be there.
            Some(started) if is_same(started) && !is_other_boot => Standing::Alive,
            _ => Standing::Unknown,
        }
    }

    pub(super) fn sees_no(here: &Process, process: &Process) -> bool {
        let is_near = here.namespaces.pid != 0 && here.namespaces.pid == process.namespaces.pid;
        let Some(pid) = pid(process).filter(|_| is_near) else {
            return false;
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => has_ended(&pidfd),
            Err(error) => error == Errno::SRCH,
        }
    }

    /// Returns a descriptor that polls readable once the process has ended, or none if this process
    /// cannot see that.
    pub(crate) fn pidfd(here: &Process, process: &Process) -> Option<OwnedFd> {
        if here.namespaces.pid != process.namespaces.pid {
            return None;
        }
        let pidfd = pidfd_open(pid(process)?, PidfdFlags::empty()).ok()?;
        (judge(here, process) == Standing::Alive).then_some(pidfd)
    }

    fn pid(process: &Process) -> Option<Pid> {
        Pid::from_raw(i32::try_from(process.pid).ok()?)
    }

    /// Tells whether the process has ended. A zombie has ended too: its parent has not waited for
    /// it yet.
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
        use crate::clock::BootId;
        use std::process::{Command, Stdio};

        #[test]
        fn start_behind_any_name_is_found() {
            let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
            assert_eq!(start_in(stat), Some(4242));
            assert_eq!(start_in("7 (a) S 1"), None);
        }

        #[test]
        fn this_process_is_alive() {
            let me = current();
            assert_eq!(judge(&me, &me), Standing::Alive);
            assert_eq!(see(&me, me.pid), Some(me));
        }

        #[test]
        fn child_is_alive_until_it_ends_even_before_it_is_waited_for() {
            let me = current();
            let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
            let process = see(&me, child.id()).unwrap();
            let pidfd = pidfd(&me, &process).unwrap();
            assert_eq!(judge(&me, &process), Standing::Alive);
            drop(child.stdin.take());
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
            assert_eq!(judge(&me, &process), Standing::Gone);
            assert_eq!(see(&me, process.pid), None);
            child.wait().unwrap();
            assert_eq!(judge(&me, &process), Standing::Gone);
        }

        #[test]
        fn boot_id_proves_a_reboot_only_if_it_is_genuine_on_both_sides() {
            let me = current();
            let other = Process {
                boot: BootId([7; 16]),
                is_boot_genuine: true,
                ..me
            };
            assert_eq!(judge(&me, &other), Standing::Gone);
            for (mine, theirs) in [(true, false), (false, true), (false, false)] {
                let here = Process {
                    is_boot_genuine: mine,
                    ..me
                };
                let other = Process {
                    is_boot_genuine: theirs,
                    ..other
                };
                assert_eq!(judge(&here, &other), Standing::Unknown);
                let ended = Process {
                    started: me.started - 1,
                    ..other
                };
                assert_eq!(judge(&here, &ended), Standing::Gone);
            }
        }

        #[test]
        fn another_start_is_gone_and_another_namespace_or_an_unread_start_is_unknown() {
            let me = current();
            let started = me.started - 1;
            assert_eq!(judge(&me, &Process { started, ..me }), Standing::Gone);
            let unread = Process { started: 0, ..me };
            assert_eq!(judge(&me, &unread), Standing::Unknown);
            let elsewhere = |change: fn(&mut Namespaces)| {
                let mut other = Process { started, ..me };
                change(&mut other.namespaces);
                judge(&me, &other)
            };
            assert_eq!(elsewhere(|it| it.pid += 1), Standing::Unknown);
            assert_eq!(elsewhere(|it| it.time += 1), Standing::Unknown);
            assert_eq!(elsewhere(|it| it.net += 1), Standing::Gone);
        }

        #[test]
        fn process_of_another_user_is_alive() {
            let me = current();
            let first = see(&me, 1).unwrap();
            assert_eq!(judge(&me, &first), Standing::Alive);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Process, Standing};

    pub(super) fn current() -> Process {
        Process {
            pid: std::process::id(),
            ..Process::default()
        }
    }

    pub(super) fn pid_namespace() -> u32 {
        0
    }

    pub(super) fn see(_: &Process, _: u32) -> Option<Process> {
        None
    }

    pub(super) fn sees_no(_: &Process, _: &Process) -> bool {
        false
    }

    pub(super) fn judge(here: &Process, process: &Process) -> Standing {
        match here == process {
            true => Standing::Alive,
            false => Standing::Unknown,
        }
    }
}
