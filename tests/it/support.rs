//! Helpers for all tests: a directory that vanishes with its test, and the command.

use chrono::{DateTime, Utc};
use lockmgr::{LockManager, ManualClock};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A run of the command that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// A directory for one store, which every user may enter.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self::of(tempfile::tempdir().unwrap())
    }

    /// Creates the directory in memory, if possible, so that no test waits for the disk.
    pub(crate) fn in_memory() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self::of(dir.unwrap())
    }

    fn of(dir: TempDir) -> Self {
        chmod(dir.path(), 0o755);
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.join("locks.redb")
    }

    pub(crate) fn open(&self) -> LockManager {
        LockManager::open(self.db()).unwrap()
    }

    /// Opens a manager, and returns it with its manual clock.
    pub(crate) fn open_with_clock(&self) -> (LockManager, ManualClock) {
        let clock = ManualClock::new(noon());
        let builder = LockManager::builder().locked_by("app").clock(clock.clone());
        (builder.open(self.db()).unwrap(), clock)
    }

    /// Returns the command on the store of this directory.
    pub(crate) fn command(&self) -> Command {
        let mut command = through(&[]);
        command.arg("--db").arg(self.db());
        command
    }

    pub(crate) fn lockmgr<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        run(self.command().args(args))
    }

    /// Runs the command with `--json`, and returns its exit status and document.
    pub(crate) fn json<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> (Option<i32>, Value) {
        let ran = run(self.command().arg("--json").args(args));
        (ran.status, ran.document())
    }

    /// Returns the bytes of the store's file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(self.db()).unwrap()
    }

    /// Returns the command as a user other than root runs it, if necessary from a copy that the
    /// user can reach. None if root cannot become another user.
    pub(crate) fn command_of_ordinary_user(&self) -> Option<Command> {
        if !is_root() {
            return Some(through(&[]));
        }
        let setpriv = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ];
        if !works(&setpriv) {
            return None;
        }
        let (original, reachable) = (env!("CARGO_BIN_EXE_lockmgr"), self.join("lockmgr"));
        if !reachable.exists() {
            fs::hard_link(original, &reachable)
                .or_else(|_| fs::copy(original, &reachable).map(drop))
                .unwrap();
        }
        let reachable = reachable.to_str().unwrap();
        Some(program(&[&setpriv, &[reachable][..]].concat()))
    }
}

/// Returns the number that this environment variable sets, if it is set.
pub(crate) fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

pub(crate) fn noon() -> DateTime<Utc> {
    "2019-11-22T12:00:00Z".parse().unwrap()
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Prints why a test, or a part of it, is skipped. Fails the test if `LOCKMGR_NO_SKIPS` is set.
#[track_caller]
pub(crate) fn skip(why: &str) {
    let may_skip = std::env::var_os("LOCKMGR_NO_SKIPS").is_none();
    assert!(may_skip, "nothing may be skipped, but {why}");
    eprintln!("skipped: {why}");
}

/// Tells whether a program that starts others is installed and may do so. Skips the test if not.
#[track_caller]
pub(crate) fn works(wrapper: &[&str]) -> bool {
    let mut probe = Command::new(wrapper[0]);
    probe.args(&wrapper[1..]).arg("true");
    let works = probe.output().is_ok_and(|output| output.status.success());
    if !works {
        skip(&format!("`{}` does not work here", wrapper.join(" ")));
    }
    works
}

/// Returns the command, started by another program. The caller adds the arguments.
pub(crate) fn through(wrapper: &[&str]) -> Command {
    program(&[wrapper, &[env!("CARGO_BIN_EXE_lockmgr")]].concat())
}

fn program(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
        .env_remove("LOCKMGR_DB")
        .env_remove("LOCKMGR_LOCKED_BY");
    command
}

/// The exit and the output of the command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// The exit status. None if a signal ended the command.
    pub(crate) status: Option<i32>,
    /// The signal that ended the command.
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Returns the status as a shell shows it: 128 plus the number of a signal.
    pub(crate) fn shell_status(&self) -> Option<i32> {
        self.status.or(self.signal.map(|signal| 128 + signal))
    }

    /// Returns the one JSON document that the command printed.
    pub(crate) fn document(&self) -> Value {
        assert_eq!(self.stderr, "");
        let document = self
            .stdout
            .strip_suffix('\n')
            .expect("a document and a line feed");
        serde_json::from_str(document).unwrap_or_else(|error| panic!("{error}: {document}"))
    }
}

pub(crate) fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a command to its end. A command that hangs fails the test.
pub(crate) fn run(command: &mut Command) -> Ran {
    let began = Instant::now();
    let mut child = spawn(command);
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{command:?} hangs");
        }
        thread::sleep(Duration::from_millis(1));
    }
    finish(child)
}

/// Returns the output of a command that has ended, or will end.
pub(crate) fn finish(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        status: output.status.code(),
        signal: output.status.signal(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A file system of its own for one store, which vanishes with the shell that keeps it.
pub(crate) struct Disk {
    pub(crate) home: Home,
    pub(crate) shell: Child,
}

impl Disk {
    /// Creates the file system. None if this user or this system cannot have one.
    pub(crate) fn new() -> Option<Self> {
        if !is_root() {
            skip("only root can mount a file system");
            return None;
        }
        if !works(&["unshare", "--mount"]) {
            return None;
        }
        let home = Home::new();
        let mount = "mount -t tmpfs -o size=1m tmpfs \"$0\" && echo mounted && read -r _";
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "sh", "-c", mount]).arg(home.path());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(shell.stdout.as_mut().unwrap());
        said.read_line(&mut line).unwrap();
        let disk = Self { home, shell };
        if line != "mounted\n" {
            skip("nothing can be mounted here");
            return None;
        }
        Some(disk)
    }

    /// Returns the path of the store for a process that sees the disk.
    pub(crate) fn db(&self) -> PathBuf {
        self.home.db()
    }

    /// Returns the path of the store for this process, which does not see the disk.
    pub(crate) fn db_from_outside(&self) -> PathBuf {
        let root = format!("/proc/{}/root{}", self.shell.id(), self.db().display());
        PathBuf::from(root)
    }

    /// Runs a shell command in the directory of the disk.
    pub(crate) fn shell(&self, script: &str) -> bool {
        let mut command = Command::new("nsenter");
        command.args([
            "--mount",
            "--target",
            &self.shell.id().to_string(),
            "sh",
            "-c",
        ]);
        let script = format!("cd '{}' && {script}", self.home.path().display());
        command
            .arg(script)
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    pub(crate) fn command(&self) -> Command {
        let id = self.shell.id().to_string();
        let mut command = through(&["nsenter", "--mount", "--target", &id]);
        command.arg("--db").arg(self.db());
        command
    }

    pub(crate) fn json(&self, args: &[&str]) -> (Option<i32>, Value) {
        let ran = run(self.command().arg("--json").args(args));
        (ran.status, ran.document())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }
}
