//! Helpers for tests of holding and waiting: processes that never outlive their test, and waits for
//! a fact instead of for a time.

pub(crate) use crate::dice::{Dice, millis, secs};
use crate::support::{Home, Ran, finish, spawn};
use lockmgr::{Lock, LockManager};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A test that waits longer than this for a fact fails.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const DONE: Option<i32> = Some(0);
pub(crate) const NO: Option<i32> = Some(1);
pub(crate) const LOCK_FAIL: Option<i32> = Some(2);
pub(crate) const USAGE: Option<i32> = Some(64);

/// Returns once this condition holds. Fails the test if it never holds.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "never happens: {what}");
        thread::sleep(millis(3));
    }
}

/// Returns once so many requests wait for locks with this prefix.
#[track_caller]
pub(crate) fn until_queued(manager: &LockManager, prefix: &str, count: usize) {
    until("a request is queued", || {
        manager.requests(prefix).unwrap().len() == count
    });
}

/// Returns the process that a lock is bound to.
pub(crate) fn bound_pid(lock: &Lock) -> Option<u32> {
    Some(lock.bound_to()?.process_id())
}

/// A process of a test. Drop kills and reaps the process.
#[derive(Debug)]
pub(crate) struct Kept(Option<Child>);

impl Kept {
    /// Starts the process without input, and keeps its output.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(Some(spawn(command)))
    }

    /// Starts the process with an input that ends with the test or with [`Self::close`].
    pub(crate) fn start_open(command: &mut Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(Some(command.spawn().unwrap()))
    }

    /// Starts the command unchanged.
    pub(crate) fn start_with(command: &mut Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    /// Starts a process that does nothing until its input ends.
    pub(crate) fn idle() -> Self {
        Self::start_open(&mut Command::new("cat"))
    }

    /// Starts the command on that store. It holds these locks until its input ends.
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

    /// Starts the command on that store. It will wait for that lock.
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

    /// Tells whether the process has ended. It stays a zombie.
    pub(crate) fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        waitid(WaitId::Pid(self.raw_pid()), options)
            .unwrap()
            .is_some()
    }

    /// Kills the process, and returns when it has ended. It stays a zombie, as nothing reaps it.
    pub(crate) fn kill_into_zombie(&self) {
        self.signal(Signal::KILL);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.raw_pid()), options).unwrap();
    }

    /// Stops the process, and returns when it has stopped.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.raw_pid()), options).unwrap();
    }

    /// Ends the input of the process.
    pub(crate) fn close(&mut self) {
        self.child().stdin = None;
    }

    /// Reads a line of the output of the process.
    pub(crate) fn line(&mut self) -> String {
        let stdout = self.child().stdout.as_mut().unwrap();
        let (mut line, mut byte) = (Vec::new(), [0]);
        // Reads no byte after the line.
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }

    /// Ends the input, and returns the exit and the output of the process.
    pub(crate) fn end(mut self) -> Ran {
        self.close();
        self.ended()
    }

    /// Returns the exit and the output of the process, which ends by itself.
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

/// Returns the lines of a file.
pub(crate) fn lines(path: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
