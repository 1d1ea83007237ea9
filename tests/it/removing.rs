//! Tests `unlock` and `reset` on locks of running programs and jobs: refused without `--force`,
//! unless the job itself unlocks.

use crate::holding_support::{DONE, Kept, NO, until};
use crate::support::{Home, Ran, run, skip};
use serde_json::json;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const THIS: &str = env!("CARGO_BIN_EXE_lockmgr");

#[test]
fn unlock_of_a_running_job_removes_nothing_and_names_the_job_and_force() {
    let home = Home::new();
    home.json(["get", "a"]);
    let holder = Kept::holder(&home, &["--locked-by", "edge 7", "x"]);
    let (exit, refused) = home.json(["unlock", "a", "x"]);
    assert_eq!(exit, NO);
    assert_eq!(refused["error"]["kind"], "Locked");
    assert_eq!(refused["error"]["lock"]["name"], "x");
    let ran = home.lockmgr(["unlock", "a", "x"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (NO, ""));
    for told in [
        "lockmgr: cannot unlock \"x\": edge 7 (process ".to_owned(),
        format!("; process {} runs \"lockmgr ", holder.pid()),
        "; its job would lose it: say --force to take it away".to_owned(),
        format!(" (store {})\n", home.db().display()),
    ] {
        assert!(ran.stderr.contains(&told), "{told}: {ran:?}");
    }
    assert_eq!(home.json(["is-locked", "a"]).0, DONE);
    assert_eq!(holder.end().status, DONE);
    assert_eq!(
        home.json(["unlock", "a", "x"]).1,
        json!([["a", true], ["x", false]])
    );
}

#[test]
fn unlock_of_a_guard_names_its_program() {
    let home = Home::new();
    let manager = home.open();
    let guard = manager.acquire(["x"]).try_lock().unwrap();
    let ran = home.lockmgr(["unlock", "x"]);
    assert_eq!(ran.status, NO);
    assert!(
        ran.stderr.contains("; its program would lose it: "),
        "{ran:?}"
    );
    assert!(guard.is_held().unwrap());
    assert_eq!(home.lockmgr(["unlock", "x", "--force"]).status, DONE);
    assert!(!guard.is_held().unwrap());
}

#[test]
fn unlock_with_force_ends_the_job() {
    let home = Home::new();
    for option in ["--force", "-f"] {
        let mut command = home.command();
        let mut job = Kept::start(command.args(["run", "x", "-c", "echo ready; exec sleep 60"]));
        assert_eq!(job.line(), "ready");
        let ran = home.lockmgr(["unlock", "x", option]);
        assert_eq!((ran.status, ran.stdout.as_str()), (DONE, "x: unlocked\n"));
        let ran = job.ended();
        assert_eq!(ran.shell_status(), Some(143), "{ran:?}");
        assert!(
            ran.stderr.starts_with("lockmgr: lost \"x\" (token "),
            "{ran:?}"
        );
    }
}

#[test]
fn unlock_by_token_is_not_refused() {
    let home = Home::new();
    let holder = Kept::holder(&home, &["--on-lost", "warn", "x"]);
    let removed = home.json(["unlock", "x", "--token", "1"]);
    assert_eq!(removed, (DONE, json!([["x", true]])));
    drop(holder);
}

#[test]
fn unlock_by_token_from_outside_ends_the_job_at_once() {
    let home = Home::new();
    let took = |token: u64| {
        let mut job = home.command();
        job.args(["run", "x", "-c", "echo; exec sleep 60"]);
        let mut job = job.stdout(Stdio::piped()).spawn().unwrap();
        let mut started = [0];
        job.stdout.take().unwrap().read_exact(&mut started).unwrap();
        let begun = Instant::now();
        let token = token.to_string();
        assert_eq!(home.json(["unlock", "x", "--token", &token]).0, DONE);
        assert!(!job.wait().unwrap().success());
        begun.elapsed()
    };
    // Without a ring, each removal is noticed by a look every two seconds, on average after one. On
    // a busy machine one of them may take as long for another reason.
    let fastest = (1..=5).map(took).min();
    assert!(fastest < Some(Duration::from_millis(100)), "{fastest:?}");
}

#[test]
fn unlock_of_what_no_job_holds_is_not_refused() {
    let home = Home::new();
    home.json(["get", "a"]);
    home.json(["get", "b", "--while", &std::process::id().to_string()]);
    home.json(["set", "c"]);
    assert_eq!(
        home.json(["unlock", "a", "b", "c", "d"]),
        (
            DONE,
            json!([["a", true], ["b", true], ["c", true], ["d", false]])
        )
    );
}

/// Runs a script under the lock `x`, and returns its output and its exit. `L` is the command.
fn in_job(home: &Home, script: &str) -> Ran {
    let script = format!("L='{THIS}'; {script}");
    let mut command = home.command();
    let ran = run(command.args(["run", "x", "-c", &script]));
    assert_eq!(home.json(["list"]).1, json!([]));
    ran
}

#[test]
fn unlock_by_the_job_itself_gives_its_lock_back_while_its_token_holds() {
    let home = Home::new();
    // Unlocks directly, or in a job within. The job goes on without the lock for longer than `run`
    // needs to notice a loss.
    for unlock in ["$L unlock x", "$L run y -- $L unlock x"] {
        let ran = in_job(&home, &format!("{unlock}; sleep 2.5; $L is-locked x"));
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (NO, "x: unlocked\nfalse\n")
        );
    }
    let ran = in_job(&home, "LOCKMGR_TOKENS=99 $L unlock x");
    assert_eq!((ran.status, ran.stdout.as_str()), (NO, ""));
    // Unlocks one of two locks, also if another job has it afterwards, and also in a job that dies
    // with its `run`.
    for options in [vec![], vec!["-o"]] {
        let script = format!(
            "'{THIS}' unlock x; '{THIS}' get x; sleep 2.5; '{THIS}' is-locked y; '{THIS}' unlock x y"
        );
        let mut command = home.command();
        command.args(["run", "x", "y"]).args(options);
        let ran = run(command.args(["--", "sh", "-c", &script]));
        let last = ran.stdout.lines().rev().take(3).collect::<Vec<_>>();
        assert_eq!(
            last,
            ["y: unlocked", "x: unlocked", "true"],
            "{}",
            ran.stdout
        );
        assert_eq!((ran.status, ran.stderr.as_str()), (DONE, ""));
    }
    // The same name with the same token, in another store.
    let other = Home::new();
    let _holder = Kept::holder(&other, &["x"]);
    let fresh = Home::new();
    let script = format!("LOCKMGR_DB='{}' $L unlock x", other.db().display());
    assert_eq!(in_job(&fresh, &script).status, NO);
}

#[test]
fn reset_on_a_terminal_names_the_running_jobs() {
    let home = Home::new();
    home.json(["get", "a"]);
    let holder = Kept::holder(&home, &["x"]);
    let reset = format!("'{THIS}' --db '{}' reset", home.db().display());
    let mut script = Command::new("script");
    script
        .args(["-qec", &reset, "/dev/null"])
        .stdin(Stdio::piped());
    let Ok(mut terminal) = script.stdout(Stdio::piped()).spawn() else {
        skip("there is no script(1) to make a terminal with");
        return;
    };
    terminal.stdin.take().unwrap().write_all(b"y\n").unwrap();
    let shown = terminal.wait_with_output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let (jobs, _) = shown.split_once("Remove every lock in ").unwrap();
    assert!(jobs.contains("\"x\": "), "{shown}");
    assert!(
        jobs.contains(&format!("; process {} runs \"lockmgr", holder.pid())),
        "{shown}"
    );
    assert!(!jobs.contains("\"a\""), "{shown}");
    assert!(shown.ends_with("removed 2 existing locks\r\n"), "{shown}");
    until("the job ends", || home.json(["list"]).1 == json!([]));
    assert_ne!(holder.ended().status, DONE);
}
