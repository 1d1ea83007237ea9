//! Starts the processes of the soak in their places: on the host, in their own namespaces, as
//! another user, in a program that forks.

use super::LONERS;
use crate::forks::FORKER;
use crate::holding_support::{Kept, until};
use crate::support::{Home, chmod, is_root, skip, works};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpgid, kill_process_group, pidfd_open, pidfd_send_signal,
};
use std::env;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The group of the directory of the store.
const TEAM: u32 = 40_321;

const USER: [&str; 4] = [
    "setpriv",
    "--reuid=40001",
    "--regid=40001",
    "--groups=40321",
];
const NET: [&str; 2] = ["unshare", "--net"];
const PIDS: [&str; 5] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
/// The command that mounts another boot id. Its path and a program are appended.
const BOOT: &str = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    Host,
    /// In its own pid namespace, maybe with its own boot id.
    Pids,
    /// In its own pid namespace and its own network namespace.
    PidsAndNet,
    Net,
    User,
    Forking,
}

/// The place of the worker of each slot, if the system allows all of them.
const PLACES: [Place; 14] = [
    Place::Host,
    Place::Pids,
    Place::User,
    Place::Host,
    Place::Pids,
    Place::Host,
    Place::PidsAndNet,
    Place::Host,
    Place::Net,
    Place::User,
    Place::Forking,
    Place::Forking,
    Place::Host,
    Place::Pids,
];

const _: () = assert!(LONERS < PLACES.len());

impl Place {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Pids => "pid namespace",
            Self::PidsAndNet => "pid and network namespace",
            Self::Net => "network namespace",
            Self::User => "another user",
            Self::Forking => "forking",
        }
    }

    pub(super) fn has_own_pids(self) -> bool {
        matches!(self, Self::Pids | Self::PidsAndNet)
    }
}

/// The places that this system allows.
pub(super) struct Places {
    /// A directory from which every user may execute.
    programs: Home,
    has_all: bool,
    can_run_jobs: bool,
    /// Tells whether a pid namespace has its own boot id.
    has_boot_ids: bool,
}

impl Places {
    /// Finds the places, and creates the directory of the store for all users of it.
    pub(super) fn new(home: &Home) -> Self {
        let has_all = Self::has_all();
        let store = home.join("store");
        fs::create_dir(&store).unwrap();
        if has_all {
            chmod(home.path(), 0o777);
            chown(&store, None, Some(TEAM)).unwrap();
            chmod(&store, 0o2770);
        }
        let programs = Home::new();
        let me = env::current_exe().unwrap();
        let command = Path::new(env!("CARGO_BIN_EXE_lockmgr")).to_owned();
        for (program, name) in [(me, "worker"), (command, "lockmgr")] {
            let reachable = programs.join(name);
            fs::hard_link(&program, &reachable)
                .or_else(|_| fs::copy(&program, &reachable).map(drop))
                .unwrap();
        }
        Self {
            programs,
            has_all,
            has_boot_ids: false,
            can_run_jobs: works(&["setpriv", "--pdeathsig", "KILL", "flock", "/dev/null"]),
        }
    }

    pub(super) fn set_boot_ids(&mut self, has_boot_ids: bool) {
        self.has_boot_ids = has_boot_ids;
    }

    fn has_all() -> bool {
        if !is_root() {
            skip(
                "only root can make namespaces and become another user: the soak is on the host alone",
            );
            return false;
        }
        works(&USER) && works(&NET) && works(&[&PIDS[..], &["--net", "--mount"]].concat())
    }

    pub(super) fn of(&self, slot: usize) -> Place {
        match PLACES[slot] {
            Place::Forking => Place::Forking,
            place if self.has_all => place,
            _ => Place::Host,
        }
    }

    /// Returns the command, if a job can run in this place.
    pub(super) fn lockmgr(&self) -> Option<PathBuf> {
        self.can_run_jobs.then(|| self.programs.join("lockmgr"))
    }

    /// Returns the command that starts a worker of a slot in its place.
    pub(super) fn command(&self, place: Place, slot: usize) -> Command {
        if place == Place::Forking {
            let mut forker = Command::new(&*FORKER);
            // The children are found by their group.
            forker.arg("soak").process_group(0);
            return forker;
        }
        let boot_id = self.programs.join(&format!("boot_id {slot}"));
        if place.has_own_pids() {
            let id = format!("a6a5a4a3-b1b2-4c3c-8d4d-{slot:012x}\n");
            fs::write(&boot_id, id).unwrap();
        }
        let mount = ["--mount", "sh", "-c", BOOT, boot_id.to_str().unwrap()];
        let mount = if self.has_boot_ids { &mount[..] } else { &[] };
        let wrapper: Vec<&str> = match place {
            Place::Host | Place::Forking => Vec::new(),
            Place::Pids => [&PIDS[..], mount].concat(),
            Place::PidsAndNet => [&PIDS[..], &["--net"], mount].concat(),
            Place::Net => NET.to_vec(),
            Place::User => USER.to_vec(),
        };
        let worker = self.programs.join("worker");
        let words = [&wrapper[..], &[worker.to_str().unwrap()]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args([
            "--exact",
            "soak::worker_of_the_soak",
            "--nocapture",
            "--ignored",
        ]);
        command
    }
}

/// A worker, and the program that started it.
pub(super) struct Process {
    pub(super) kept: Kept,
    /// The worker itself, if another program waits for its end.
    inner: Option<OwnedFd>,
}

impl Process {
    /// Returns once the worker's process is there.
    pub(super) fn start(mut command: Command, is_inner: bool) -> Self {
        let kept = Kept::start_with(&mut command);
        let pid = kept.pid();
        let inner = || {
            let children = format!("/proc/{pid}/task/{pid}/children");
            let children = fs::read_to_string(children).unwrap();
            let child = Pid::from_raw(children.trim().parse().ok()?)?;
            Some(pidfd_open(child, PidfdFlags::empty()).unwrap())
        };
        let mut found = None;
        if is_inner {
            until("a program starts another", || {
                found = inner();
                found.is_some()
            });
        }
        Self { kept, inner: found }
    }

    /// Tells whether the worker has ended.
    pub(super) fn has_ended(&self) -> bool {
        match &self.inner {
            Some(inner) => has_ended(inner, Some(&NOW)),
            None => self.kept.has_ended(),
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        match &self.inner {
            Some(inner) => pidfd_send_signal(inner, signal).unwrap(),
            None => self.kept.signal(signal),
        }
    }

    /// Kills the worker, and returns when it has ended.
    pub(super) fn kill_into_zombie(&self) {
        match &self.inner {
            Some(inner) => end(inner),
            None => self.kept.kill_into_zombie(),
        }
    }

    /// Kills all processes that this killed process left in its group.
    pub(super) fn kill_group(&self) {
        // The group may be empty.
        let _ = kill_process_group(self.kept.raw_pid(), Signal::KILL);
    }

    /// Kills a child of this killed process, if it lives, and returns when it has ended.
    pub(super) fn kill_child(&self, child: i32) -> bool {
        let pid = Pid::from_raw(child).unwrap();
        let Ok(child) = pidfd_open(pid, PidfdFlags::empty()) else {
            return false;
        };
        // The number may belong to a new process. The group cannot, as its leader is a zombie.
        let is_ours = getpgid(Some(pid)).is_ok_and(|group| group == self.kept.raw_pid());
        if is_ours {
            end(&child);
        }
        is_ours
    }
}

/// Kills a process, and returns when it has ended.
fn end(process: &OwnedFd) {
    // The process may have ended by itself.
    let _ = pidfd_send_signal(process, Signal::KILL);
    assert!(has_ended(process, None));
}

const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Waits so long for the end of a process, and tells whether the process ended.
fn has_ended(process: &OwnedFd, wait: Option<&Timespec>) -> bool {
    poll(&mut [PollFd::new(process, PollFlags::IN)], wait).unwrap() == 1
}
