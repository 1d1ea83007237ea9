//! A job of the soak: `lockmgr run` with processes that may outlive it.

use super::witness::files;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Holds the witness, prints its token and its processes, and lives until its input ends. The first
/// process does so only if it is told to wait.
const SCRIPT: &str = r#"
exec 3<&0 9>>"$0"
met=alone
flock -w 0.05 9 || met=another
cat <&3 >/dev/null &
echo "$met $LOCKMGR_TOKENS $$ $!"
[ "$1" = ends ] || wait
"#;

pub(crate) struct Job {
    run: Child,
    /// The processes that end by the end of their input.
    processes: Vec<OwnedFd>,
    pub(crate) token: u64,
    pub(crate) met_another: bool,
}

impl Job {
    /// Starts the job, and returns once it has its lock. The error has any other output.
    pub(crate) fn start(
        command: &Path,
        dir: &Path,
        who: &str,
        name: &str,
        waits: bool,
    ) -> Result<Self, String> {
        // The job ends with the process that starts it.
        let mut run = Command::new("setpriv");
        run.args(["--pdeathsig", "KILL"]).arg(command);
        run.arg("--db").arg(dir.join("store/locks.redb"));
        run.args(["run", "--locked-by", who, name, "--", "sh", "-c", SCRIPT]);
        let [_, witness] = files(dir, name);
        run.arg(witness).arg(if waits { "waits" } else { "ends" });
        run.env_remove("LOCKMGR_DB");
        for faked in ["LD_PRELOAD", "FAKETIME_SHARED"] {
            run.env_remove(faked);
        }
        run.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut run = run.spawn().map_err(|error| error.to_string())?;
        let mut line = String::new();
        let mut said = BufReader::new(run.stdout.as_mut().unwrap());
        said.read_line(&mut line)
            .map_err(|error| error.to_string())?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [met, token, shell, cat] = words[..] else {
            let status = run.wait().map_err(|error| error.to_string())?;
            return Err(format!("it said {line:?} and ended with {status}"));
        };
        let watched = if waits { vec![shell, cat] } else { vec![cat] };
        let watch = |pid: &str| {
            let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
            pidfd_open(pid, PidfdFlags::empty()).map_err(|error| format!("{pid:?}: {error}"))
        };
        Ok(Self {
            token: token.parse().map_err(|error| format!("{token}: {error}"))?,
            met_another: met != "alone",
            processes: watched.into_iter().map(watch).collect::<Result<_, _>>()?,
            run,
        })
    }

    /// Waits until the command has ended.
    pub(crate) fn wait(&mut self) {
        // `wait` of std would close the job's input first.
        let input = self.run.stdin.take();
        self.run.wait().unwrap();
        self.run.stdin = input;
    }

    /// Kills the command, and not the processes that it started.
    pub(crate) fn kill(&mut self) {
        self.run.kill().unwrap();
        self.wait();
    }

    /// Ends all processes, and returns when all have ended.
    pub(crate) fn end(&mut self) {
        drop(self.run.stdin.take());
        for process in &self.processes {
            poll(&mut [PollFd::new(process, PollFlags::IN)], None).unwrap();
        }
        self.run.wait().unwrap();
    }
}
