//! Tests signals: which ones reach the command of `lockmgr run`, how often, and how `run` ends by a
//! signal.

use crate::holding_support::{DONE, Kept, lines, millis, until, until_queued};
use crate::support::{Home, run, through, works};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Returns `lockmgr run` without a controlling terminal, even if the tests have one.
fn run_without_terminal(home: &Home) -> Command {
    let mut command = through(&["setsid"]);
    command.arg("--db").arg(home.db()).arg("run");
    command
}

/// Returns a shell script that notes the number of each of these signals, until a file exists.
fn noting(home: &Home, signals: &[i32]) -> String {
    let traps = signals
        .iter()
        .map(|signal| format!("trap 'echo {signal} >> heard' {signal}; "));
    format!(
        "cd '{}'; {}echo ready >> heard; while [ ! -e stop ]; do sleep 0.01; done; exit 5",
        home.path().display(),
        traps.collect::<String>()
    )
}

fn until_heard(home: &Home, count: usize) -> Vec<String> {
    let heard = || lines(&home.join("heard"));
    until("signals arrive", || heard().len() >= count);
    heard()
}

fn kill(signal: i32, process: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), "--", process])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn signal_that_would_end_or_stop_run_reaches_the_command() {
    let home = Home::new();
    // HUP INT QUIT ABRT USR1 USR2 ALRM TERM STKFLT TSTP TTIN TTOU XCPU XFSZ VTALRM PROF IO PWR, and
    // real-time ones.
    let signals = [
        1, 2, 3, 6, 10, 12, 14, 15, 16, 20, 21, 22, 24, 25, 26, 27, 29, 30, 34, 35, 50, 64,
    ];
    let mut command = run_without_terminal(&home);
    let mut run = Kept::start(
        command
            .args(["x", "-c", &noting(&home, &signals)])
            .env("SHELL", "/bin/bash"),
    );
    until_heard(&home, 1);
    for (i, signal) in signals.iter().enumerate() {
        kill(*signal, &run.pid().to_string());
        let heard = until_heard(&home, i + 2);
        assert_eq!(heard[i + 1..], [signal.to_string()], "{signal}");
        assert!(run.child().try_wait().unwrap().is_none(), "{signal}");
    }
    assert!(home.open().is_locked("x").unwrap());
    fs::write(home.join("stop"), "").unwrap();
    assert_eq!(run.end().status, Some(5));
}

#[test]
fn signal_to_the_group_of_run_reaches_the_command_once() {
    // A shell would merge two signals that come together.
    let count = "import os, signal; term = {signal.SIGTERM}; \
        signal.pthread_sigmask(signal.SIG_BLOCK, term); count = 0; print('ready', flush=True)\n\
        while not os.path.exists('stop'): count += bool(signal.sigtimedwait(term, 0.01))\n\
        print(count)";
    if !works(&["python3", "-c", "pass"]) {
        return;
    }
    let home = Home::new();
    let mut command = run_without_terminal(&home);
    command.current_dir(home.path());
    let mut run = Kept::start(command.args(["x", "--", "python3", "-c", count]));
    assert_eq!(run.line(), "ready");
    for _ in 0..10 {
        kill(15, &format!("-{}", run.pid()));
        thread::sleep(millis(20));
    }
    fs::write(home.join("stop"), "").unwrap();
    let ran = run.end();
    assert_eq!((ran.status, ran.stdout.as_str()), (DONE, "10\n"), "{ran:?}");
}

#[test]
fn key_that_ends_the_command_ends_the_loop_around_run() {
    if !works(&["script", "--version"]) {
        return;
    }
    let home = Home::new();
    let begun = home.join("begun");
    let script = format!(
        "for i in 1 2 3; do '{}' --db '{}' run x -c 'echo $$ >> {}; exec sleep 20'; done; \
            echo after >> '{}'",
        env!("CARGO_BIN_EXE_lockmgr"),
        home.db().display(),
        begun.display(),
        begun.display(),
    );
    fs::write(home.join("script"), script).unwrap();
    let mut terminal = Command::new("script");
    let shell = format!("exec bash '{}'", home.join("script").display());
    terminal
        .args(["-qec", &shell, "/dev/null"])
        .env("SHELL", "/bin/sh");
    let mut terminal = Kept::start_open(&mut terminal);
    until("it begins", || !lines(&begun).is_empty());
    let keyboard = terminal.child().stdin.as_mut().unwrap();
    keyboard.write_all(b"\x03").unwrap();
    until("the loop ends", || {
        terminal.child().try_wait().unwrap().is_some() || lines(&begun).len() > 1
    });
    assert_eq!(lines(&begun).len(), 1);
    assert!(!home.open().is_locked("x").unwrap());
}

#[test]
fn signals_that_were_blocked_stay_blocked_for_the_command() {
    let block = ["env", "--block-signal=USR1,RTMIN"];
    if !works(&block) {
        return;
    }
    let home = Home::new();
    let grep = ["grep", "SigBlk", "/proc/self/status"];
    let plain = run(Command::new(block[0]).args(&block[1..]).args(grep)).stdout;
    assert!(!plain.contains("0000000000000000"));
    for option in ["-n", "-F", "-o"] {
        let mut command = through(&block);
        command.arg("--db").arg(home.db());
        let ran = run(command.args(["run", option, "x", "--"]).args(grep));
        assert_eq!(ran.stdout, plain, "{option}: {}", ran.stderr);
    }
}

/// Starts `lockmgr run` as process 1 of a pid namespace, and returns its process id on the host.
fn first_process(home: &Home, args: &[&str]) -> Option<(Kept, String)> {
    let wrapper = ["unshare", "--pid", "--fork", "--kill-child"];
    if !works(&wrapper) {
        return None;
    }
    let mut command = through(&wrapper);
    command.arg("--db").arg(home.db()).args(args);
    let outside = Kept::start(&mut command);
    let children = format!("/proc/{0}/task/{0}/children", outside.pid());
    let child = || fs::read_to_string(&children).unwrap_or_default();
    until("it is forked", || !child().trim().is_empty());
    let child = child().trim().to_owned();
    Some((outside, child))
}

#[test]
fn waiter_that_is_process_1_of_a_container_ends_by_term() {
    for args in [
        &["run", "x", "--", "true"][..],
        &["get", "x", "-w", "forever"],
    ] {
        let home = Home::new();
        let _holder = Kept::holder(&home, &["x"]);
        let Some((waiter, inside)) = first_process(&home, args) else {
            return;
        };
        until_queued(&home.open(), "x", 1);
        kill(15, &inside);
        assert_eq!(waiter.ended().shell_status(), Some(143), "{args:?}");
        // No process on the host could tell that it is gone, so it has left the queue itself.
        assert!(home.open().requests("x").unwrap().is_empty(), "{args:?}");
    }
}

#[test]
fn run_that_is_process_1_of_a_container_passes_signals_on_and_ends_as_its_command() {
    let home = Home::new();
    let script = noting(&home, &[15, 34]);
    let Some((run, inside)) = first_process(&home, &["run", "x", "-c", &script]) else {
        return;
    };
    until_heard(&home, 1);
    kill(15, &inside);
    until_heard(&home, 2);
    kill(34, &inside);
    until_heard(&home, 3);
    fs::write(home.join("stop"), "").unwrap();
    assert_eq!(run.end().status, Some(5));
    assert_eq!(until_heard(&home, 3), ["ready", "15", "34"]);
    // Process 1 cannot end by a signal.
    let (run, _) = first_process(&home, &["run", "x", "-c", "kill -9 $$"]).unwrap();
    assert_eq!(run.end().status, Some(137));
}

#[test]
fn signal_before_the_command_starts_ends_the_wait_and_starts_nothing() {
    let home = Home::new();
    let holder = Kept::holder(&home, &["x"]);
    let started = home.join("started");
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1)] {
        let mut command = run_without_terminal(&home);
        let waiter = Kept::start(command.args(["x", "--", "touch"]).arg(&started));
        until_queued(&home.open(), "x", 1);
        waiter.signal(signal);
        assert_eq!(waiter.ended().signal, Some(number));
        until("the request is gone", || {
            home.open().requests("x").unwrap().is_empty()
        });
    }
    assert_eq!(holder.end().status, DONE);
    assert!(!started.exists());
}

#[test]
fn lost_lock_ends_the_whole_job_and_not_what_run_did_not_start() {
    let home = Home::new();
    let manager = home.open();
    let pids = home.join("pids");
    // A child, a process that ignores TERM in its own session, and a process that lost its parent.
    let job = format!(
        "cd '{}'; sleep 60 & echo $! >> pids; \
            setsid sh -c 'trap \"\" TERM; echo $$ >> pids; exec sleep 60' & \
            (setsid sh -c 'echo $$ >> pids; exec sleep 60' &) ; wait",
        home.path().display()
    );
    let script = format!(
        "sleep 60 >/dev/null 2>&1 & echo $!; exec '{}' --db '{}' run x -- bash -c '{}'",
        env!("CARGO_BIN_EXE_lockmgr"),
        home.db().display(),
        job.replace('\'', "'\\''")
    );
    let mut run = Kept::start(Command::new("sh").args(["-c", &script]));
    let foreign = run.line();
    until("the job runs", || lines(&pids).len() == 3);
    assert!(manager.unlock("x").unwrap());
    let lives = |pid: &String| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or(") Z".into());
        !stat.contains(") Z")
    };
    until("run ends", || run.child().try_wait().unwrap().is_some());
    let left: Vec<String> = lines(&pids).into_iter().filter(lives).collect();
    assert_eq!(left, Vec::<String>::new());
    assert!(lives(&foreign));
    kill(9, &foreign);
    assert_eq!(home.json(["list"]).1, json!([]));
}

#[test]
fn stop_of_the_terminal_stops_run_and_its_command_and_both_go_on() {
    if !works(&["script", "--version"]) {
        return;
    }
    let home = Home::new();
    let (begun, ended) = (home.join("begun"), home.join("ended"));
    let script = format!(
        "set -m; '{}' --db '{}' run x -c 'echo $$ $PPID >> {}; sleep 0.5'; \
            echo stopped >> {ended}; fg; echo $? >> {ended}",
        env!("CARGO_BIN_EXE_lockmgr"),
        home.db().display(),
        begun.display(),
        ended = ended.display(),
    );
    fs::write(home.join("script"), script).unwrap();
    let shell = format!("exec bash '{}'", home.join("script").display());
    let mut terminal = Command::new("script");
    terminal
        .args(["-qec", &shell, "/dev/null"])
        .env("SHELL", "/bin/sh");
    let mut terminal = Kept::start_open(&mut terminal);
    until("it begins", || !lines(&begun).is_empty());
    let keyboard = terminal.child().stdin.as_mut().unwrap();
    keyboard.write_all(b"\x1a").unwrap();
    until("it is stopped and goes on", || lines(&ended).len() == 2);
    assert_eq!(lines(&ended), ["stopped", "0"]);
}

#[test]
fn alarm_that_was_set_before_run_ends_its_command() {
    let perl = ["perl", "-e", "alarm 1; exec @ARGV", "--"];
    if !works(&["perl", "-e1"]) {
        return;
    }
    let home = Home::new();
    let mut command = through(&perl);
    command.arg("--db").arg(home.db());
    let began = Instant::now();
    let ran = run(command.args(["run", "x", "--", "sleep", "20"]));
    assert_eq!(ran.signal, Some(14), "{ran:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
}
