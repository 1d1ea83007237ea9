//! What the tests of holding and waiting share: processes that never outlive their test, and
//! waiting for a fact instead of for a time.

pub(crate) use crate::dice::{Dice, millis, secs};
use crate::support::{Home, Ran, finish, spawn};
use lockmgr::{Lock, LockManager};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Nothing that a test waits for takes so long, unless it never comes.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const DONE: Option<i32> = Some(0);
pub(crate) const NO: Option<i32> = Some(1);
pub(crate) const LOCK_FAIL: Option<i32> = Some(2);
pub(crate) const USAGE: Option<i32> = Some(64);

/// Returns once this is so; fails the test where it never becomes so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "never happens: {what}");
        thread::sleep(millis(3));
    }
}

/// Returns once so many wait for locks with this prefix.
#[track_caller]
pub(crate) fn until_queued(manager: &LockManager, prefix: &str, count: usize) {
    until("a request is queued", || {
        manager.requests(prefix).unwrap().len() == count
    });
}

/// The process that a lock is bound to.
pub(crate) fn bound_pid(lock: &Lock) -> Option<u32> {
    Some(lock.bound_to()?.process_id())
}

/// A process of a test, killed and waited for with it.
#[derive(Debug)]
pub(crate) struct Kept(Option<Child>);

impl Kept {
    /// Starts it with nothing to read, and what it says kept.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(Some(spawn(command)))
    }

    /// Starts it with an input that ends with the test or with [`Self::close`].
    pub(crate) fn start_open(command: &mut Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(Some(command.spawn().unwrap()))
    }

    /// Starts it as it is.
    pub(crate) fn start_with(command: &mut Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    /// A process that does nothing until it is told to end.
    pub(crate) fn idle() -> Self {
        Self::start_open(&mut Command::new("cat"))
    }

    /// The command on that store, which holds these locks until it is told to end.
    pub(crate) fn holder(home: &Home, args: &[&str]) -> Self {
        let mut command = home.command();
        let holder = Self::start_open(command.arg("run").args(args).args(["--", "cat"]));
        let manager = home.open();
        let me = Some(holder.pid());
        until("a process holds its locks", || {
            let locks = manager.locks("").unwrap();
            locks.iter().any(|lock| bound_pid(lock) == me)
        });
        holder
    }

    /// The command on that store, which is about to wait for that lock.
    pub(crate) fn holder_in_waiting(home: &Home, name: &str) -> Self {
        Self::start(home.command().args(["run", name, "--", "true"]))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    pub(crate) fn raw_pid(&self) -> Pid {
        Pid::from_child(self.0.as_ref().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.raw_pid(), signal).unwrap();
    }

    /// Whether it has ended; it stays a zombie.
    pub(crate) fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        waitid(WaitId::Pid(self.raw_pid()), options)
            .unwrap()
            .is_some()
    }

    /// Kills it, and returns when it has ended: as a zombie, nobody having waited for it.
    pub(crate) fn kill_into_zombie(&self) {
        self.signal(Signal::KILL);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.raw_pid()), options).unwrap();
    }

    /// Stops it, and returns when it has stopped.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.raw_pid()), options).unwrap();
    }

    /// Ends its input.
    pub(crate) fn close(&mut self) {
        self.child().stdin = None;
    }

    /// Reads a line of what it says.
    pub(crate) fn line(&mut self) -> String {
        let stdout = self.child().stdout.as_mut().unwrap();
        let (mut line, mut byte) = (Vec::new(), [0]);
        // No byte of what follows is taken.
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }

    /// How it ended, and what it said, its input having been ended.
    pub(crate) fn end(mut self) -> Ran {
        self.close();
        self.ended()
    }

    /// How it ended by itself, and what it said.
    pub(crate) fn ended(mut self) -> Ran {
        until("a process ends", || {
            self.child().try_wait().unwrap().is_some()
        });
        finish(self.0.take().unwrap())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A file, as its lines.
pub(crate) fn lines(path: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
