//! Tests `lockmgr run`: the features of flock(1), beside the installed flock. Also the life, the
//! signals and the end of the command, also after it lost its locks.

use crate::holding_support::{
    DONE, Kept, NO, USAGE, bound_pid, lines, millis, secs, until, until_queued,
};
use crate::support::{Home, Ran, chmod, run, through, works};
use lockmgr::{GetOptions, LockManager, StorageCall};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Every user may read this directory, so that a missing command is reported as missing.
const PATH: &str = "/usr/bin:/bin";

/// A lock of ours and a file for flock(1), held or free.
struct Pair {
    home: Home,
    /// Tells whether flock is installed.
    has_flock: bool,
    _held: Vec<Kept>,
}

impl Pair {
    fn free() -> Self {
        let home = Home::new();
        File::create(home.join("flock")).unwrap();
        let file = home.join("flock");
        let has_flock = works(&["flock", file.to_str().unwrap()]);
        Self {
            home,
            has_flock,
            _held: Vec::new(),
        }
    }

    fn held() -> Self {
        let mut pair = Self::free();
        let mut ours = Kept::start_open(&mut pair.ours(&[], &["sh", "-c", "echo held; exec cat"]));
        assert_eq!(ours.line(), "held");
        pair._held.push(ours);
        if let Some(mut flock) = pair.flock(&[], &["sh", "-c", "echo held; exec cat"]) {
            let mut theirs = Kept::start_open(&mut flock);
            assert_eq!(theirs.line(), "held");
            pair._held.push(theirs);
        }
        pair
    }

    fn ours(&self, options: &[&str], command: &[&str]) -> Command {
        let mut ours = self.home.command();
        ours.env("PATH", PATH).env("SHELL", "/bin/sh");
        ours.arg("run").args(options).arg("x");
        if !command.is_empty() {
            ours.arg("--").args(command);
        }
        ours
    }

    fn flock(&self, options: &[&str], command: &[&str]) -> Option<Command> {
        let mut flock = Command::new("flock");
        flock
            .env("PATH", PATH)
            .env("SHELL", "/bin/sh")
            .args(options)
            .arg(self.home.join("flock"))
            .args(command);
        self.has_flock.then_some(flock)
    }

    /// Returns the exits of `lockmgr run` and of flock with the same words.
    fn both(&self, options: &[&str], command: &[&str]) -> (Ran, Option<Ran>) {
        let flock = self.flock(options, command);
        (
            run(&mut self.ours(options, command)),
            flock.map(|mut flock| run(&mut flock)),
        )
    }

    /// Checks that both end with this status.
    #[track_caller]
    fn assert_both(&self, options: &[&str], command: &[&str], status: i32) -> Ran {
        let (ours, flock) = self.both(options, command);
        assert_eq!(ours.shell_status(), Some(status), "{options:?}: {ours:?}");
        if let Some(flock) = flock {
            assert_eq!(flock.shell_status(), Some(status), "{options:?}: {flock:?}");
        }
        ours
    }

    /// Checks that `lockmgr run` ends with one status and flock with another.
    #[track_caller]
    fn assert_each(&self, options: &[&str], command: &[&str], ours: i32, flock: i32) -> Ran {
        let (ran, theirs) = self.both(options, command);
        assert_eq!(ran.status, Some(ours), "{options:?}: {ran:?}");
        if let Some(theirs) = theirs {
            assert_eq!(theirs.status, Some(flock), "{options:?}: {theirs:?}");
        }
        ran
    }
}

#[test]
fn exit_status_is_the_commands_as_with_flock() {
    let pair = Pair::free();
    for status in [0, 1, 2, 64, 75, 126, 127, 255] {
        let exit = format!("exit {status}");
        pair.assert_both(&[], &["sh", "-c", &exit], status);
        pair.assert_both(&["-n"], &["sh", "-c", &exit], status);
        pair.assert_both(&["-F"], &["sh", "-c", &exit], status);
    }
}

#[test]
fn signal_that_ends_the_command_ends_run_as_a_shell_sees_it_with_flock() {
    let pair = Pair::free();
    for signal in [1, 2, 3, 6, 9, 10, 11, 13, 15, 16, 24, 29, 30, 34, 64] {
        let suicide = format!("kill -{signal} $$");
        let ours = pair.assert_both(&[], &["sh", "-c", &suicide], 128 + signal);
        assert_eq!(ours.signal, Some(signal), "{ours:?}");
        assert_eq!(ours.stderr, "");
        assert!(!pair.home.open().is_locked("x").unwrap());
    }
}

#[test]
fn nonblock_does_not_wait_as_with_flock() {
    let pair = Pair::held();
    for option in ["-n", "--nonblock", "--nonblocking", "--nb"] {
        let ours = pair.assert_both(&[option], &["true"], 1);
        assert!(ours.stderr.starts_with("lockmgr: cannot lock \"x\": "));
        assert_eq!(ours.stdout, "");
        assert_eq!(ours.stderr.lines().count(), 1);
    }
    let pair = Pair::free();
    pair.assert_both(&["-n"], &["true"], 0);
}

#[test]
fn wait_waits_so_long_as_with_flock() {
    let pair = Pair::held();
    for option in ["-w", "--wait", "--timeout"] {
        let began = Instant::now();
        pair.assert_both(&[option, "0.2"], &["true"], 1);
        let floor = if pair.has_flock { 400 } else { 200 };
        assert!(began.elapsed() >= millis(floor));
    }
    pair.assert_both(&["-w", "0"], &["true"], 1);
    let pair = Pair::free();
    pair.assert_both(&["-w", "5"], &["true"], 0);
}

#[test]
fn without_an_option_it_waits_until_granted_as_flock_does() {
    let mut pair = Pair::held();
    let mut waiting = vec![Kept::start(&mut pair.ours(&[], &["echo", "granted"]))];
    waiting.extend(
        pair.flock(&[], &["echo", "granted"])
            .map(|mut flock| Kept::start(&mut flock)),
    );
    until_queued(&pair.home.open(), "x", 1);
    assert!(waiting[0].child().try_wait().unwrap().is_none());
    for held in pair._held.drain(..) {
        assert_eq!(held.end().status, DONE);
    }
    for waited in waiting {
        let ran = waited.end();
        assert_eq!((ran.status, ran.stdout.as_str()), (DONE, "granted\n"));
    }
}

#[test]
fn status_of_a_conflict_is_chosen_as_with_flock() {
    let pair = Pair::held();
    for status in [0, 1, 2, 75, 255] {
        let number = status.to_string();
        let ours = pair.assert_both(&["-n", "-E", &number], &["true"], status);
        assert_eq!(ours.stderr.is_empty(), status == 0, "{ours:?}");
        pair.assert_both(&["-n", "--conflict-exit-code", &number], &["true"], status);
        pair.assert_both(&["-w", "0.01", "-E", &number], &["true"], status);
    }
    // -E does not change the command's own status.
    Pair::free().assert_both(&["-n", "-E", "9"], &["sh", "-c", "exit 3"], 3);
}

#[test]
fn how_the_lock_is_held_is_said_as_with_flock() {
    let pair = Pair::free();
    for option in ["-x", "-e", "-s", "-o", "--exclusive", "--shared", "--close"] {
        pair.assert_both(&[option], &["sh", "-c", "exit 3"], 3);
    }
}

#[test]
fn string_is_run_by_the_shell_as_with_flock() {
    let pair = Pair::free();
    for option in ["-c", "--command"] {
        let mut ours = pair.ours(&[option, "echo $0 | tr a-z A-Z; exit 3"], &[]);
        let ran = run(&mut ours);
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(3), "/BIN/SH\n"));
        // Like flock, `run` accepts the option after the name.
        let mut ours = pair.ours(&[], &[]);
        let ours = run(ours.args([option, "echo a | tr a b; exit 3"]));
        assert_eq!((ours.status, ours.stdout.as_str()), (Some(3), "b\n"));
        let script = [option, "echo a | tr a b; exit 3"];
        if let Some(mut flock) = pair.flock(&[], &script) {
            assert_eq!(run(&mut flock), ours);
        }
    }
}

#[test]
fn without_a_fork_it_becomes_the_command_as_flock_does() {
    let pair = Pair::free();
    for option in ["-F", "--no-fork"] {
        let command = ["sh", "-c", "echo $$; exec cat"];
        if let Some(mut flock) = pair.flock(&[option], &command) {
            let mut theirs = Kept::start_open(&mut flock);
            assert_eq!(theirs.line(), theirs.pid().to_string());
        }
        let mut ours = Kept::start_open(&mut pair.ours(&[option], &command));
        assert_eq!(ours.line(), ours.pid().to_string());
        let lock = pair.home.open().find("x").unwrap().unwrap();
        assert_eq!(bound_pid(&lock), Some(ours.pid()));
        assert_eq!(lock.locked_until(), None);
        assert_eq!(pair.home.json(["get", "x"]).0, NO);
        ours.kill_into_zombie();
        assert_eq!(pair.home.json(["get", "x"]).0, DONE);
        pair.home.json(["unlock", "x"]);
    }
}

#[test]
fn without_a_fork_a_lease_may_be_given_and_the_lock_goes_with_the_end() {
    let home = Home::new();
    let command = ["run", "-F", "--lease", "1h", "a", "b", "--", "cat"];
    let holder = Kept::start_open(home.command().args(command));
    let manager = home.open();
    until("it holds", || manager.locks("").unwrap().len() == 2);
    assert!(manager.find("a").unwrap().unwrap().locked_until().is_some());
    assert_eq!(holder.end().status, DONE);
    assert!(manager.locks("").unwrap().is_empty());
}

#[test]
fn command_that_cannot_run_exits_126_or_127_and_not_69_as_flock() {
    let pair = Pair::free();
    let script = pair.home.join("script");
    fs::write(&script, "#!/bin/sh\nexit 5\n").unwrap();
    chmod(&script, 0o644);
    let script = script.to_str().unwrap();
    let directory = pair.home.path().to_str().unwrap();
    for options in [&[][..], &["-F"]] {
        for (command, status) in [
            ("/nonexistent", 127),
            ("lockmgr-nonexistent", 127),
            (script, 126),
            (directory, 126),
        ] {
            let ours = pair.assert_each(options, &[command], status, 69);
            assert!(ours.stderr.starts_with("lockmgr: cannot run "), "{ours:?}");
            assert!(ours.stderr.contains(command));
            assert!(!pair.home.open().is_locked("x").unwrap());
        }
    }
    chmod(Path::new(script), 0o755);
    pair.assert_both(&[], &[script], 5);
}

#[test]
fn wrong_usage_is_64() {
    let pair = Pair::free();
    pair.assert_both(&["-E", "600"], &["true"], 64);
    pair.assert_both(&["-E", "-1"], &["true"], 64);
    pair.assert_both(&["--no-such-option"], &["true"], 64);
    pair.assert_each(&["-w", "-1"], &["true"], 64, 71);
    let home = Home::new();
    for args in [
        &["run"][..],
        &["run", "x"],
        &["run", "x", "--"],
        &["run", "--", "true"],
        &["run", "-w", "soon", "x", "--", "true"],
        &["run", "--lease", "-1", "x", "--", "true"],
        &["run", "-E", "many", "x", "--", "true"],
        &["run", "-c", "true", "x", "--", "true"],
        &["run", "-F", "--on-lost", "kill", "x", "--", "true"],
        &["run", "-F", "-o", "x", "--", "true"],
        &["run", "--close", "--no-fork", "x", "--", "true"],
        &["run", "--on-lost", "pray", "x", "--", "true"],
        &["run", "", "--", "true"],
        &["run", "x", "--locked-by", "", "--", "true"],
    ] {
        let ran = run(home.command().arg("--json").args(args));
        assert_eq!(ran.status, USAGE, "{args:?}: {ran:?}");
        let refused = ran.document();
        let kind = refused["error"]["kind"].as_str().unwrap();
        assert!(
            ["Usage", "InvalidName", "InvalidTimeout"].contains(&kind),
            "{args:?}: {kind}"
        );
    }
    assert!(!home.db().exists() || home.open().locks("").unwrap().is_empty());
}

#[test]
fn errors_are_documents_where_json_is_asked_for() {
    let pair = Pair::held();
    let home = &pair.home;
    let (_, held) = home.json(["find", "x"]);
    for (status, options) in [
        (NO, &["-n"][..]),
        (Some(7), &["-n", "-E", "7"]),
        (NO, &["-w", "0.01"]),
    ] {
        let args = [&["run"], options, &["x", "--", "true"]].concat();
        let (exit, refused) = home.json(args);
        assert_eq!(exit, status);
        assert_eq!(refused["error"]["kind"], "Locked");
        assert_eq!(refused["error"]["lock"]["token"], held["token"]);
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("cannot lock \"x\": "), "{message}");
    }
}

#[test]
fn verbose_says_whom_it_waits_for_and_else_nothing() {
    let pair = Pair::held();
    let ran = run(&mut pair.ours(&["-v", "-w", "0.5"], &["true"]));
    assert_eq!(ran.status, NO);
    let said: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("lockmgr: waiting 0s for \"x\": "));
    assert!(said[0].contains(&format!("process {}", pair._held[0].pid())));
    assert!(said[1].starts_with("lockmgr: cannot lock \"x\": "));
    let ran = run(&mut pair.ours(&["-w", "0.3"], &["true"]));
    assert_eq!(ran.stderr.lines().count(), 1);
    let pair = Pair::free();
    let ours = pair.assert_both(&["--verbose"], &["true"], 0);
    assert_eq!((ours.stdout.as_str(), ours.stderr.as_str()), ("", ""));
}

#[test]
fn command_knows_the_store_its_names_and_its_tokens() {
    let home = Home::new();
    home.json(["get", "earlier"]);
    let print = "printf '%s|' \"$LOCKMGR_DB\" \"$LOCKMGR_NAMES\" \"$LOCKMGR_TOKENS\"";
    for (option, tokens) in [("-v", "2\n3"), ("-F", "4\n5")] {
        let mut command = home.command();
        command.args(["run", option, "b b", "a", "--", "sh", "-c", print]);
        let expected = format!("{}|b b\na|{tokens}|", home.db().display());
        assert_eq!(run(&mut command).stdout, expected);
    }
    // The command finds the store, however the user named it.
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockmgr"));
    command
        .current_dir(home.path())
        .env("LOCKMGR_DB", "locks.redb");
    command.args(["run", "a", "-c", "cd /; echo $LOCKMGR_DB"]);
    let said = run(&mut command).stdout;
    assert_eq!(
        fs::canonicalize(said.trim_end()).unwrap(),
        fs::canonicalize(home.db()).unwrap()
    );
}

#[test]
fn check_tells_whether_a_token_still_holds() {
    let home = Home::new();
    let this = env!("CARGO_BIN_EXE_lockmgr");
    let script = format!(
        "'{this}' check x $LOCKMGR_TOKENS && ! '{this}' check x 7 && ! '{this}' check y 1 \
            && '{this}' unlock x && ! '{this}' check x $LOCKMGR_TOKENS"
    );
    let mut command = home.command();
    let ran = run(command.args(["run", "--on-lost", "warn", "x", "-c", &script]));
    assert_eq!(ran.status, DONE, "{ran:?}");
    home.json(["get", "x"]);
    assert_eq!(home.json(["check", "x", "1"]), (NO, json!(false)));
    assert_eq!(home.json(["check", "x", "2"]), (DONE, json!(true)));
    for args in [
        &["check", "x"][..],
        &["check", "x", "one"],
        &["check", "", "1"],
    ] {
        assert_eq!(home.json(args).0, USAGE, "{args:?}");
    }
}

#[test]
fn locks_are_held_while_the_command_runs_and_free_after() {
    let home = Home::new();
    let manager = home.open();
    let this = env!("CARGO_BIN_EXE_lockmgr");
    let script = format!(
        "'{this}' is-locked x && '{this}' is-locked y \
        && LOCKMGR_TOKENS= '{this}' run -n y -c :"
    );
    let mut command = home.command();
    let ran = run(command.args(["run", "x", "y", "-c", &script]));
    assert_eq!(ran.status, NO, "{ran:?}");
    assert_eq!(ran.stdout, "true\ntrue\n");
    assert!(manager.locks("").unwrap().is_empty());
    for status in ["exit 3", "kill -9 $$"] {
        home.lockmgr(["run", "x", "-c", status]);
        assert!(manager.locks("").unwrap().is_empty());
    }
}

#[test]
fn lease_is_kept_while_the_command_runs() {
    let home = Home::new();
    let manager = home.open();
    let holder = Kept::holder(&home, &["--lease", "1.2", "x"]);
    let first = manager.find("x").unwrap().unwrap();
    until("the lease is renewed", || {
        let now = manager.find("x").unwrap().expect("it is held");
        assert_eq!(now.token(), first.token());
        now.updated_at() > first.locked_until().unwrap()
    });
    let ran = holder.end();
    assert_eq!((ran.status, ran.stderr.as_str()), (DONE, ""));
    assert!(!manager.is_locked("x").unwrap());
}

#[test]
fn command_inherits_standard_input_and_output() {
    let home = Home::new();
    let mut run = Kept::start_open(home.command().args(["run", "x", "--", "cat"]));
    let stdin = run.child().stdin.as_mut().unwrap();
    stdin.write_all(b"line\n").unwrap();
    assert_eq!(run.line(), "line");
    assert_eq!(run.end().status, DONE);
    let ran = home.lockmgr(["run", "x", "-c", "echo error >&2"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", "error\n"));
    let ran = home.lockmgr(["run", "x", "--", "printf", "%s,", "-n", "--json", "--", "y"]);
    assert_eq!(ran.stdout, "-n,--json,--,y,");
}

#[test]
fn command_inherits_one_descriptor_and_none_with_close() {
    let home = Home::new();
    let list = ["ls", "-l", "/proc/self/fd"];
    let shown = |ran: Ran| {
        assert_eq!(ran.status, DONE, "{ran:?}");
        let links = ran.stdout.lines().filter(|line| line.contains(" -> "));
        assert!(!ran.stdout.contains("anon_inode") && !ran.stdout.contains("socket"));
        links.count()
    };
    let plain = shown(run(Command::new(list[0]).args(&list[1..])));
    for (options, more) in [(&[][..], 1), (&["-F"], 1), (&["-w", "5"], 1), (&["-o"], 0)] {
        let args = [&["run"], options, &["x", "--"], &list].concat();
        assert_eq!(shown(home.lockmgr(args)), plain + more, "{options:?}");
    }
}

#[test]
fn job_that_opens_descriptors_by_their_numbers_keeps_the_lock() {
    let home = Home::new();
    let manager = home.open();
    let opened = (3..=9).chain([20, 99, 100, 200]);
    let opened: String = opened.map(|fd| format!("exec {fd}</dev/null; ")).collect();
    let script = format!("{opened} echo opened; read -r _");
    for option in ["-n", "-F"] {
        let mut command = home.command();
        let args = ["run", option, "x", "--", "bash", "-c", &script];
        let mut run = Kept::start_open(command.args(args));
        assert_eq!(run.line(), "opened");
        assert!(manager.is_locked("x").unwrap(), "{option}");
        assert_eq!(home.lockmgr(["run", "-n", "x", "--", "true"]).status, NO);
        run.close();
        until("the lock is free", || !manager.is_locked("x").unwrap());
    }
}

#[test]
fn daemon_left_behind_holds_the_lock_as_long_as_it_lives_and_not_with_close() {
    let home = Home::new();
    let manager = home.open();
    let script = "setsid sleep 60 </dev/null >/dev/null 2>&1 & echo $!";
    for (option, holds) in [("-n", true), ("-o", false)] {
        let ran = home.lockmgr(["run", option, "x", "-c", script]);
        assert_eq!(ran.status, DONE);
        let daemon: i32 = ran.stdout.trim_end().parse().unwrap();
        let is_locked = manager.is_locked("x").unwrap();
        let again = home.lockmgr(["run", "-n", "x", "--", "true"]);
        // The process lives.
        kill_process(Pid::from_raw(daemon).unwrap(), Signal::KILL).unwrap();
        assert_eq!(
            (is_locked, again.status),
            (holds, if holds { NO } else { DONE })
        );
        until("the lock is free", || !manager.is_locked("x").unwrap());
    }
}

#[test]
fn job_keeps_the_lock_however_run_ends() {
    let home = Home::new();
    let manager = home.open();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::KILL] {
        let script = "trap 'exit 0' TERM HUP INT; \
            (trap '' TERM HUP INT; echo ready; exec cat) <&3 & wait; exit 0";
        let script = format!("exec 3<&0; {script}");
        let mut command = home.command();
        let mut run = Kept::start_open(command.args(["run", "x", "-c", &script]));
        assert_eq!(run.line(), "ready");
        run.signal(signal);
        until("run ends", || run.child().try_wait().unwrap().is_some());
        assert!(manager.is_locked("x").unwrap());
        assert_eq!(home.lockmgr(["run", "-n", "x", "--", "true"]).status, NO);
        run.close();
        until("the lock is free", || !manager.is_locked("x").unwrap());
    }
}

/// A command that notes each signal it gets, until a file tells it to end with 5.
struct Listener {
    home: Home,
}

impl Listener {
    fn new() -> Self {
        Self { home: Home::new() }
    }

    fn script(&self) -> String {
        let here = self.home.path().display();
        let traps = ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"];
        let traps = traps.map(|signal| format!("trap 'echo {signal} >> heard' {signal}; "));
        format!(
            "cd '{here}'; {}echo ready >> heard; \
                while [ ! -e stop ]; do sleep 0.01; done; exit 5",
            traps.concat()
        )
    }

    fn heard(&self) -> Vec<String> {
        lines(&self.home.join("heard"))
    }

    fn until_heard(&self, count: usize) {
        until("a signal arrives", || self.heard().len() >= count);
    }

    fn stop(&self) {
        File::create(self.home.join("stop")).unwrap();
    }
}

#[test]
fn signals_reach_the_command_once_each() {
    let listener = Listener::new();
    let mut command = listener.home.command();
    let run = Kept::start(command.args(["run", "x", "-c", &listener.script()]));
    listener.until_heard(1);
    let signals = [
        ("TERM", Signal::TERM),
        ("INT", Signal::INT),
        ("HUP", Signal::HUP),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("TERM", Signal::TERM),
    ];
    for (i, (_, signal)) in signals.iter().enumerate() {
        run.signal(*signal);
        listener.until_heard(i + 2);
    }
    assert!(listener.home.open().is_locked("x").unwrap());
    listener.stop();
    assert_eq!(run.end().status, Some(5));
    let names = signals.map(|(name, _)| name);
    assert_eq!(listener.heard(), [&["ready"], &names[..]].concat());
    assert!(!listener.home.open().is_locked("x").unwrap());
}

#[test]
fn signal_sent_to_run_ends_a_command_without_a_handler() {
    let home = Home::new();
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut command = home.command();
        let mut run = Kept::start_open(command.args(["run", "x", "-c", "echo ready; exec cat"]));
        assert_eq!(run.line(), "ready");
        run.signal(signal);
        assert_eq!(run.ended().shell_status(), Some(status));
        assert!(!home.open().is_locked("x").unwrap());
    }
}

#[test]
fn key_on_the_terminal_reaches_the_command_once() {
    if !works(&["script", "--version"]) {
        return;
    }
    let listener = Listener::new();
    let this = listener.home.command();
    let words = [this.get_program()].into_iter().chain(this.get_args());
    let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    fs::write(listener.home.join("script"), listener.script()).unwrap();
    let script = listener.home.join("script");
    let run = format!("exec {} run x -- sh {}", words.join(" "), script.display());
    let mut terminal = Command::new("script");
    terminal
        .args(["-qec", &run, "/dev/null"])
        .env("SHELL", "/bin/sh");
    let mut terminal = Kept::start_open(&mut terminal);
    listener.until_heard(1);
    for i in 0..5 {
        let keyboard = terminal.child().stdin.as_mut().unwrap();
        keyboard.write_all(b"\x03").unwrap();
        listener.until_heard(i + 2);
    }
    listener.stop();
    until("the terminal ends", || {
        terminal.child().try_wait().unwrap().is_some()
    });
    assert_eq!(terminal.end().status, Some(5));
    assert_eq!(
        listener.heard(),
        ["ready", "INT", "INT", "INT", "INT", "INT"]
    );
    assert!(!listener.home.open().is_locked("x").unwrap());
}

/// Returns the time until no process has this output open any more.
fn until_all_gone(run: Kept) -> (Ran, Duration) {
    let began = Instant::now();
    (run.end(), began.elapsed())
}

#[test]
fn command_of_close_dies_with_run() {
    let home = Home::new();
    let manager = home.open();
    let script = "trap '' TERM HUP INT; echo ready; exec sleep 60";
    let mut run = Kept::start(
        home.command()
            .args(["run", "-o", "--lease", "3600", "x", "-c", script]),
    );
    assert_eq!(run.line(), "ready");
    run.kill_into_zombie();
    assert!(!manager.is_locked("x").unwrap());
    let (ran, took) = until_all_gone(run);
    assert_eq!(ran.status, None);
    assert!(took < secs(5), "{took:?}");
}

#[test]
fn command_whose_lock_was_removed_is_ended() {
    let home = Home::new();
    let manager = home.open();
    let exec = "exec sleep 60";
    for (script, status) in [
        (format!("echo ready; {exec}"), 143),
        (format!("trap '' TERM; echo ready; {exec}"), 137),
        (
            "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done".into(),
            3,
        ),
    ] {
        let mut command = home.command();
        let mut run = Kept::start(command.args(["run", "--lease", "6", "x", "y", "-c", &script]));
        assert_eq!(run.line(), "ready");
        assert!(manager.unlock("x").unwrap());
        let other = manager.get_lock("x", GetOptions::new()).unwrap();
        let (ran, took) = until_all_gone(run);
        assert_eq!(ran.shell_status(), Some(status), "{ran:?}");
        // TERM is sent at once. KILL follows after a grace time if the command does not end by
        // itself.
        assert!(took < secs(3), "{took:?}");
        assert!(
            ran.stderr.starts_with("lockmgr: lost \"x\" (token "),
            "{ran:?}"
        );
        assert!(ran.stderr.contains("; ending the command\n"));
        assert_eq!(manager.locks("").unwrap(), std::slice::from_ref(&other));
        manager.unlock(&other).unwrap();
    }
}

#[test]
fn command_whose_lock_was_removed_is_ended_soon_with_any_lease() {
    let home = Home::new();
    let manager = home.open();
    let script = "echo ready; exec sleep 60";
    let mut run = Kept::start(home.command().args(["run", "x", "-c", script]));
    assert_eq!(run.line(), "ready");
    assert!(manager.unlock("x").unwrap());
    let began = Instant::now();
    while run.child().try_wait().unwrap().is_none() {
        assert!(began.elapsed() < secs(4), "somebody else may have it");
        thread::sleep(millis(3));
    }
    assert_eq!(run.end().shell_status(), Some(143));
}

#[test]
fn command_whose_lock_was_lost_while_run_was_stopped_is_ended_when_run_continues() {
    let home = Home::new();
    let manager = home.open();
    let mut command = home.command();
    let script = "echo ready; exec sleep 60";
    let mut run = Kept::start(command.args(["run", "--lease", "1", "x", "-c", script]));
    assert_eq!(run.line(), "ready");
    run.stop();
    let other = manager.acquire(["x"]).try_lock_for(secs(20)).unwrap();
    run.signal(Signal::CONT);
    let (ran, took) = until_all_gone(run);
    assert_eq!(ran.shell_status(), Some(143), "{ran:?}");
    assert!(took < secs(2), "{took:?}");
    assert!(ran.stderr.ends_with("; ending the command\n"), "{ran:?}");
    assert!(other.is_held().unwrap());
}

#[test]
fn command_goes_on_without_its_lock_with_on_lost_warn() {
    let home = Home::new();
    let manager = home.open();
    let (said, mut command) = (home.join("said"), home.command());
    command.args([
        "run",
        "--lease",
        "0.9",
        "--on-lost",
        "warn",
        "x",
        "--",
        "cat",
    ]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut run = Kept::start_with(command.stderr(File::create(&said).unwrap()));
    until("it holds", || manager.is_locked("x").unwrap());
    manager.unlock("x").unwrap();
    until("it warns", || !lines(&said).is_empty());
    assert!(run.child().try_wait().unwrap().is_none());
    let other = manager.get_lock("x", GetOptions::new()).unwrap();
    run.child()
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"on\n")
        .unwrap();
    assert_eq!(run.line(), "on");
    run.close();
    assert_eq!(run.child().wait().unwrap().code(), Some(0));
    let warning = "lockmgr: lost \"x\" (token 1); the command goes on without it";
    assert_eq!(lines(&said), [warning]);
    assert_eq!(manager.locks("").unwrap(), [other]);
}

#[test]
fn holder_of_a_run_may_be_named() {
    let home = Home::new();
    let holder = Kept::holder(&home, &["--locked-by", "edge 7", "x"]);
    let lock = home.open().find("x").unwrap().unwrap();
    assert_eq!(lock.locked_by(), "edge 7");
    assert_eq!(bound_pid(&lock), Some(holder.pid()));
    assert_eq!(lock.locked_until(), None);
    assert_eq!(holder.end().status, DONE);
}

#[test]
fn signals_that_run_was_told_to_ignore_its_command_ignores_too() {
    let home = Home::new();
    let script = "trap '' HUP INT; exec \"$0\" \"$@\" x -- grep SigIgn /proc/self/status";
    let command = home.command();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script])
        .arg(command.get_program())
        .arg("run");
    for (key, value) in command.get_envs() {
        shell.env(key, value.unwrap_or_default());
    }
    shell.arg("--db").arg(home.db());
    let ran = run(&mut shell);
    let mask = ran.stdout.trim().rsplit('\t').next().unwrap();
    let mask = u64::from_str_radix(mask, 16).unwrap();
    // HUP is signal 1 and INT 2.
    assert_eq!(mask & 3, 3, "{ran:?}");
}

#[test]
fn run_does_without_proc_and_what_needs_it_names_it() {
    let hide = "mount -t tmpfs tmpfs /proc && exec \"$@\"";
    let wrapper = ["unshare", "--mount", "sh", "-c", hide, "sh"];
    if !works(&wrapper) {
        return;
    }
    let home = Home::new();
    let without_proc = |args: &[&str]| {
        let mut command = through(&wrapper);
        run(command.arg("--db").arg(home.db()).args(args))
    };
    for options in [
        &[][..],
        &["-o"],
        &["-F"],
        &["-v", "--on-lost", "kill"],
        &["-w", "1"],
    ] {
        let words = [
            &["run"],
            options,
            &["x", "--", "sh", "-c", "echo ran; exit 3"],
        ]
        .concat();
        let ran = without_proc(&words);
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (Some(3), "ran\n"),
            "{ran:?}"
        );
        assert_eq!(ran.stderr, "");
    }
    let missing = without_proc(&["run", "x", "--", "no-such-command"]);
    assert_eq!(missing.status, Some(127), "{missing:?}");
    for args in [
        &["get", "x", "--while", "1"][..],
        &["set", "-n", "x", "--while", "parent"],
    ] {
        let ran = without_proc(args);
        assert_eq!(ran.status, USAGE, "{ran:?}");
        assert!(ran.stderr.contains("there is no /proc"), "{ran:?}");
        assert_eq!(ran.stdout, "");
    }
    assert_eq!(home.json(["list"]).1, json!([]));
}

#[test]
fn want_of_processes_is_75() {
    // No other process runs as this user.
    let user = [
        "setpriv",
        "--reuid=54321",
        "--regid=54321",
        "--clear-groups",
    ];
    const MAY_ONE: &str = "ulimit -u 1; exec \"$@\"";
    if !works(&[&user[..], &["bash", "-c", MAY_ONE, "bash"]].concat()) {
        return;
    }
    let home = Home::new();
    chmod(home.path(), 0o777);
    let this = home.join("lockmgr");
    fs::copy(env!("CARGO_BIN_EXE_lockmgr"), &this).unwrap();
    let mut command = Command::new(user[0]);
    command
        .args(&user[1..])
        .args(["bash", "-c", MAY_ONE, "bash"]);
    command.arg(&this).arg("--db").arg(home.db());
    let ran = run(command.args(["run", "-n", "x", "--", "true"]));
    assert_eq!(ran.status, Some(75), "{ran:?}");
}

/// A store on which a writer stands still as long as this flag is set.
fn standing_writer(home: &Home) -> (LockManager, Arc<AtomicBool>) {
    let stands = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stands);
    let builder = LockManager::builder().storage_hook(move |call| {
        while matches!(call, StorageCall::Write { .. }) && seen.load(Ordering::Relaxed) {
            thread::sleep(millis(3));
        }
        Ok(())
    });
    (builder.open(home.db()).unwrap(), stands)
}

#[test]
fn job_whose_lease_cannot_be_renewed_ends_in_time_and_with_the_whole_grace() {
    let home = Home::new();
    let (manager, stands) = standing_writer(&home);
    let script = "trap 'sleep 0.3; echo cleaned; exit 3' TERM; echo ready; \
        while :; do sleep 0.01; done";
    let mut command = home.command();
    command.args([
        "--busy-timeout",
        "0.2",
        "run",
        "--lease",
        "1.8",
        "x",
        "-c",
        script,
    ]);
    let began = Instant::now();
    let mut run = Kept::start(&mut command);
    assert_eq!(run.line(), "ready");
    thread::scope(|scope| {
        stands.store(true, Ordering::Relaxed);
        scope.spawn(|| manager.get_lock("y", GetOptions::new()).unwrap());
        let last = run.line();
        stands.store(false, Ordering::Relaxed);
        assert_eq!(last, "cleaned");
        assert!(began.elapsed() > millis(1200));
    });
    let ran = run.end();
    assert_eq!(ran.status, Some(3), "{ran:?}");
    let said = "lockmgr: the lease could not be renewed in time; ending the command\n";
    assert!(ran.stderr.contains(said), "{ran:?}");
}

#[test]
fn renewal_that_is_late_is_no_loss() {
    let home = Home::new();
    let (manager, stands) = standing_writer(&home);
    let mut command = home.command();
    command.args([
        "--busy-timeout",
        "0.1",
        "run",
        "--lease",
        "6",
        "x",
        "--",
        "cat",
    ]);
    let run = Kept::start_open(&mut command);
    until("it holds", || manager.is_locked("x").unwrap());
    let first = manager.find("x").unwrap().unwrap();
    thread::scope(|scope| {
        stands.store(true, Ordering::Relaxed);
        scope.spawn(|| manager.get_lock("y", GetOptions::new()).unwrap());
        // Two thirds of the lease have passed.
        thread::sleep(millis(4300));
        stands.store(false, Ordering::Relaxed);
    });
    until("it is renewed", || {
        let now = manager.find("x").unwrap().expect("it is held");
        now.updated_at() > first.updated_at()
    });
    let ran = run.end();
    assert_eq!((ran.status, ran.stderr.as_str()), (DONE, ""));
}

#[test]
fn job_that_was_stopped_past_its_lease_goes_on_if_nobody_wants_the_lock() {
    let home = Home::new();
    let mut command = home.command();
    command.args(["run", "--lease", "4", "x", "--", "cat"]);
    let run = Kept::start_open(&mut command);
    let manager = home.open();
    until("it holds", || manager.is_locked("x").unwrap());
    let token = manager.find("x").unwrap().unwrap().token();
    run.stop();
    thread::sleep(millis(4_700));
    assert!(!manager.is_locked("x").unwrap());
    run.signal(Signal::CONT);
    until("it is renewed", || manager.is_locked("x").unwrap());
    assert_eq!(manager.find("x").unwrap().unwrap().token(), token);
    let ran = run.end();
    assert_eq!((ran.status, ran.stderr.as_str()), (DONE, ""));
}
