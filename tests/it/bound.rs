//! Tests locks bound to a process: free at once when the process has provably ended, and not
//! before.

use crate::holding_support::{
    DONE, Kept, LOCK_FAIL, NO, USAGE, bound_pid, secs, until, until_queued,
};
use crate::support::{Home, chmod, is_root, run, skip, works};
use lockmgr::{Error, GetOptions, SetOptions};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::Command;
use std::thread;
use std::time::Instant;

const ELSEWHERE: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// Tells whether processes can be started in their own namespace. Skips the test if not.
fn is_elsewhere_possible() -> bool {
    if !is_root() {
        skip("only root can make a pid namespace");
        return false;
    }
    works(&ELSEWHERE)
}

/// Returns the command on that store, as the first process of another pid namespace.
fn elsewhere(home: &Home, args: &[&str]) -> Command {
    let mut command = Command::new(ELSEWHERE[0]);
    command.args(&ELSEWHERE[1..]);
    let inner = home.command();
    command.arg(inner.get_program()).args(inner.get_args());
    command.args(args).env_remove("LOCKMGR_DB");
    command
}

/// Returns the document that the command prints in that namespace.
fn json_elsewhere(home: &Home, args: &[&str]) -> (Option<i32>, Value) {
    let ran = run(elsewhere(home, args).arg("--json"));
    (ran.status, ran.document())
}

fn get_while<'a>(name: &'a str, pid: &'a str) -> [&'a str; 5] {
    ["get", name, "-k", "--while", pid]
}

fn alive(pid: u32) -> Value {
    json!({ "pid": pid, "alive": true })
}

#[test]
fn lock_of_get_is_free_when_its_process_ends_and_not_before() {
    let home = Home::new();
    let manager = home.open();
    let process = Kept::idle();
    let pid = process.pid().to_string();
    let (exit, lock) = home.json(get_while("x", &pid));
    assert_eq!((exit, &lock["bound_to"]), (DONE, &alive(process.pid())));
    assert_eq!(lock["process_id"], json!(null));
    assert_eq!(lock["locked_until"], json!(null));
    assert_eq!(home.json(["find", "x"]).1["bound_to"], alive(process.pid()));
    assert_eq!(home.json(["list"]).1[0]["bound_to"], alive(process.pid()));
    let x = manager.find("x").unwrap().unwrap();
    assert_eq!(bound_pid(&x), Some(process.pid()));
    assert_eq!(home.json(["get", "x"]).0, NO);

    // A zombie has ended.
    process.kill_into_zombie();
    assert!(!manager.is_locked("x").unwrap());
    assert_eq!(home.json(["is-locked", "x"]).0, NO);
    assert_eq!(home.json(["find", "x"]), (NO, json!(null)));
    assert_eq!(home.json(["list"]), (DONE, json!([])));
    drop(process);
    assert!(!manager.is_locked("x").unwrap());
    assert_eq!(home.json(["unlock", "x"]).1, json!([["x", false]]));
    let lock = home.json(["get", "x"]).1;
    assert_eq!(
        (&lock["token"], &lock["bound_to"]),
        (&json!(2), &json!(null))
    );
}

#[test]
fn locks_of_set_and_of_a_wait_are_free_when_their_process_ends() {
    let home = Home::new();
    let manager = home.open();
    let process = Kept::idle();
    let pid = process.pid().to_string();
    let (exit, result) = home.json(["set", "-n", "a", "b", "-k", "--while", &pid]);
    assert_eq!(exit, DONE);
    for lock in result["locks"].as_array().unwrap() {
        assert_eq!(lock["bound_to"], alive(process.pid()));
    }
    let (exit, lock) = home.json(["get", "c", "-w", "20", "-k", "--while", &pid]);
    assert_eq!((exit, &lock["bound_to"]), (DONE, &alive(process.pid())));
    let options = GetOptions::new().bound_to(process.pid());
    manager.get_lock("d", options).unwrap();
    assert_eq!(manager.locks("").unwrap().len(), 4);
    process.kill_into_zombie();
    assert!(manager.locks("").unwrap().is_empty());
    // A renewal of a lock that is gone is refused.
    let fail = SetOptions::new().fail();
    assert_eq!(
        manager.set_lock(["a", "b"], fail).unwrap().counts().created,
        2
    );
}

#[test]
fn renewal_leaves_a_lock_bound_as_it_is() {
    let home = Home::new();
    let manager = home.open();
    let process = Kept::idle();
    let pid = process.pid().to_string();
    home.json(["get", "x", "--while", &pid]);
    let other = std::process::id().to_string();
    // The call would renew the lock without binding it.
    assert_eq!(home.json(["set", "x", "--while", &other]).0, USAGE);
    let (_, result) = home.json(["set", "-n", "x", "--while", &other]);
    assert_eq!(result["counts"]["skip_renew"], 1);
    assert_eq!(result["locks"][0]["bound_to"], alive(process.pid()));
    assert_eq!(
        home.json(["set", "-e", "x", "--while", &other]).0,
        LOCK_FAIL
    );
    assert_eq!(home.json(["renew", "x"]).0, DONE);
    process.kill_into_zombie();
    assert!(!manager.is_locked("x").unwrap());
}

#[test]
fn bound_lock_expires_with_its_lease_although_its_process_lives() {
    let home = Home::new();
    let process = Kept::idle();
    let pid = process.pid().to_string();
    let (exit, lock) = home.json(["get", "x", "-t", "0.3", "--while", &pid]);
    assert_eq!((exit, &lock["bound_to"]), (DONE, &alive(process.pid())));
    until("the lease ends", || home.json(["is-locked", "x"]).0 == NO);
    assert_eq!(home.json(get_while("y", &pid)).0, DONE);
}

#[test]
fn missing_process_is_refused() {
    let home = Home::new();
    let manager = home.open();
    let process = Kept::idle();
    process.kill_into_zombie();
    let zombie = process.pid().to_string();
    for pid in ["0", "4294967295", "4194305", &zombie] {
        for args in [
            &["get", "x"][..],
            &["set", "-n", "x"],
            &["get", "x", "-w", "1"],
        ] {
            let args = [args, &["--while", pid]].concat();
            let (exit, refused) = home.json(&args);
            assert_eq!(exit, USAGE, "{args:?}");
            assert_eq!(refused["error"]["kind"], "Usage");
            let message = refused["error"]["message"].as_str().unwrap();
            assert!(message.contains(pid), "{message}");
        }
        let pid: u32 = pid.parse().unwrap();
        let refused = manager.get_lock("x", GetOptions::new().bound_to(pid));
        assert!(matches!(refused, Err(Error::NoSuchProcess { pid: of, .. }) if of == pid));
        let refused = manager.set_lock(["x"], SetOptions::new().bound_to(pid));
        assert!(matches!(refused, Err(Error::NoSuchProcess { .. })));
    }
    for pid in ["", "-1", "self", "4294967296"] {
        assert_eq!(home.json(["get", "x", "--while", pid]).0, USAGE, "{pid}");
    }
    assert!(manager.locks("").unwrap().is_empty());
}

#[test]
fn noted_process_frees_nothing() {
    let home = Home::new();
    let process = Kept::idle();
    let pid = process.pid().to_string();
    let (_, lock) = home.json(["get", "x", "--pid", &pid]);
    assert_eq!(lock["process_id"], process.pid());
    assert_eq!(lock["bound_to"], json!(null));
    drop(process);
    assert_eq!(home.json(["find", "x"]), (DONE, lock));
}

#[test]
fn stopped_process_is_alive() {
    let home = Home::new();
    let manager = home.open();
    let process = Kept::idle();
    let pid = process.pid().to_string();
    home.json(get_while("x", &pid));
    process.stop();
    assert!(manager.is_locked("x").unwrap());
    assert_eq!(home.json(["get", "x"]).0, NO);
    assert_eq!(home.json(["clean"]).1, json!({ "removed": 0 }));
    let (exit, lock) = home.json(get_while("y", &pid));
    assert_eq!((exit, &lock["bound_to"]), (DONE, &alive(process.pid())));
    process.signal(Signal::CONT);
}

#[test]
fn shell_script_holds_locks_as_long_as_it_lives() {
    let home = Home::new();
    let manager = home.open();
    let inner = home.command();
    let mut script = Command::new("sh");
    script.args(["-c", "\"$@\" -k --while $$ && echo held && read line", "sh"]);
    script.arg(inner.get_program()).args(inner.get_args());
    let mut script = Kept::start_open(script.args(["--json", "get", "x"]));
    script.line();
    assert_eq!(script.line(), "held");
    assert!(manager.is_locked("x").unwrap());
    assert_eq!(script.end().status, NO);
    assert!(!manager.is_locked("x").unwrap());
}

#[test]
fn killed_holder_frees_its_lock_before_its_lease_ends() {
    let home = Home::new();
    let manager = home.open();
    let holder = Kept::holder(&home, &["-o", "--lease", "3600", "x"]);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let guard = manager.acquire(["x"]).try_lock_for(secs(25)).unwrap();
            (guard.tokens(), Instant::now())
        });
        until_queued(&manager, "x", 1);
        let began = Instant::now();
        holder.kill_into_zombie();
        let (tokens, at) = waiter.join().unwrap();
        assert_eq!(tokens, [("x".to_owned(), 2)]);
        assert!(at - began < secs(1), "{:?}", at - began);
    });
}

#[test]
fn clean_removes_what_was_bound_to_a_process_that_is_gone() {
    let home = Home::new();
    let process = Kept::idle();
    let pid = process.pid().to_string();
    home.json(["set", "-n", "a", "b", "-k", "--while", &pid]);
    home.json(["get", "c"]);
    drop(process);
    assert_eq!(home.json(["clean"]).1, json!({ "removed": 2 }));
    assert_eq!(home.json(["list"]).1.as_array().unwrap().len(), 1);
}

#[test]
fn another_users_process_is_alive() {
    let home = Home::new();
    let manager = home.open();
    let mine = Kept::idle();
    let pid = mine.pid().to_string();
    home.json(get_while("mine", &pid));
    chmod(&home.db(), 0o666);
    if let Some(mut other) = home.command_of_ordinary_user() {
        other.arg("--db").arg(home.db()).args(["is-locked", "mine"]);
        assert_eq!(run(&mut other).status, DONE);
    }

    let setpriv = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    if !is_root() || !works(&setpriv) {
        skip("cannot start a process of another user");
        return;
    }
    let mut command = Command::new(setpriv[0]);
    command.args(&setpriv[1..]);
    let mut theirs = Kept::start_open(command.args(["sh", "-c", "echo ready; exec cat"]));
    assert_eq!(theirs.line(), "ready");
    let pid = theirs.pid().to_string();
    let (exit, lock) = home.json(get_while("theirs", &pid));
    assert_eq!((exit, &lock["bound_to"]), (DONE, &alive(theirs.pid())));
    assert!(manager.is_locked("theirs").unwrap());
    theirs.kill_into_zombie();
    assert!(!manager.is_locked("theirs").unwrap());
}

#[test]
fn holder_here_is_alive_as_seen_from_another_pid_namespace() {
    if !is_elsewhere_possible() {
        return;
    }
    let home = Home::new();
    let process = Kept::idle();
    let pid = process.pid().to_string();
    home.json(get_while("x", &pid));
    let is_locked = || json_elsewhere(&home, &["is-locked", "x"]).0;
    assert_eq!(is_locked(), DONE);
    let (exit, refused) = json_elsewhere(&home, &["get", "x"]);
    assert_eq!((exit, &refused["error"]["kind"]), (NO, &json!("Locked")));
    let cleaned = json_elsewhere(&home, &["clean"]);
    assert_eq!(cleaned, (DONE, json!({ "removed": 0 })));
    // A process of that namespace cannot see this process, and cannot bind a lock to it.
    assert_eq!(json_elsewhere(&home, &get_while("y", "32000")).0, USAGE);

    process.kill_into_zombie();
    assert_eq!(is_locked(), DONE);
    assert_eq!(home.json(["is-locked", "x"]).0, NO);
}

#[test]
fn living_waiter_in_another_pid_namespace_is_granted_its_turn_and_keeps_it() {
    if !is_elsewhere_possible() {
        return;
    }
    let home = Home::new();
    let manager = home.open();
    let held = manager.acquire(["x"]).try_lock().unwrap();
    let mut there = elsewhere(&home, &["run", "x", "-c", "echo held; exec cat"]);
    let mut there = Kept::start_open(&mut there);
    until_queued(&manager, "x", 1);
    thread::scope(|scope| {
        let next = scope.spawn(|| {
            let guard = manager.acquire(["x"]).try_lock_for(secs(25)).unwrap();
            guard.tokens()
        });
        until_queued(&manager, "x", 2);
        held.release().unwrap();
        assert_eq!(there.line(), "held");
        let lock = manager.find("x").unwrap().unwrap();
        assert_eq!((bound_pid(&lock), lock.waiting()), (Some(1), 1));
        assert_eq!(lock.locked_until(), None);
        assert_eq!(there.end().status, DONE);
        assert_eq!(next.join().unwrap(), [("x".to_owned(), 3)]);
    });
}

#[test]
fn time_namespace_moves_no_deadline() {
    let shifted = ["unshare", "--time", "--boottime", "100000", "--fork"];
    if !is_root() || !works(&shifted) {
        skip("cannot make a time namespace");
        return;
    }
    let home = Home::new();
    let manager = home.open();
    manager.get_lock("x", GetOptions::new()).unwrap();
    let inside = |args: &[&str]| {
        let mut command = Command::new(shifted[0]);
        command.args(&shifted[1..]);
        let inner = home.command();
        command.arg(inner.get_program()).args(inner.get_args());
        run(command.args(args).env("LOCKMGR_DB", home.db())).status
    };
    assert_eq!(inside(&["is-locked", "x"]), DONE);
    assert_eq!(inside(&["get", "x"]), NO);
    assert_eq!(inside(&["get", "y", "-t", "60"]), DONE);
    let left = manager.time_left(&manager.find("y").unwrap().unwrap());
    assert!(left.unwrap() <= secs(60), "{left:?}");
}

#[test]
fn unseen_process_counts_as_alive() {
    let mounts = [
        // A user sees only their own processes.
        "mount -t proc -o hidepid=2 proc /proc",
        // No process of any user is seen.
        "mount -t tmpfs none /proc",
    ];
    if !is_root() || !works(&["unshare", "--mount", "sh", "-c", mounts[0]]) {
        skip("cannot mount");
        return;
    }
    let home = Home::new();
    // Runs as a user who owns none of these processes.
    chmod(home.path(), 0o777);
    let process = Kept::idle();
    let args = get_while("x", &process.pid().to_string()).map(str::to_owned);
    assert_eq!(home.json(args.each_ref().map(String::as_str)).0, DONE);
    chmod(&home.db(), 0o666);
    let inner = home.command();
    let asks = format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups '{}' --db '{}'",
        inner.get_program().display(),
        home.db().display()
    );
    for mount in mounts {
        let ask = |verb: &str| {
            let script = format!("{mount} && {asks} {verb}");
            let ran = run(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
            assert_eq!(ran.stderr.matches("mount").count(), 0, "{ran:?}");
            ran.status
        };
        assert_eq!(ask("is-locked x"), DONE, "{mount}");
        assert_eq!(ask("get x"), NO, "{mount}");
    }
    process.kill_into_zombie();
    assert_eq!(home.json(["is-locked", "x"]).0, NO);
}
