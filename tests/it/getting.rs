//! Tests `lockmgr get` in scripts: several locks, waiting, the caller's life, and kills.

use crate::holding_support::{DONE, Dice, Kept, NO, USAGE, until, until_queued};
use crate::support::{Home, run};
use rustix::process::Signal;
use serde_json::json;
use std::process::Command;
use std::thread;
use std::time::Duration;

#[test]
fn several_names_are_got_all_or_none() {
    let home = Home::new();
    let (exit, locks) = home.json(["get", "a", "b", "-k", "--locked-by", "edge 7", "--pid", "7"]);
    assert_eq!((exit, locks.as_array().unwrap().len()), (DONE, 2));
    for (lock, name) in locks.as_array().unwrap().iter().zip(["a", "b"]) {
        assert_eq!(home.json(["find", name]), (DONE, lock.clone()));
        assert_eq!(
            (&lock["locked_by"], &lock["process_id"]),
            (&json!("edge 7"), &json!(7))
        );
        assert!(lock["locked_until"].is_null() && lock["bound_to"].is_null());
    }
    let (exit, refused) = home.json(["get", "c", "b"]);
    assert_eq!((exit, &refused["error"]["lock"]), (NO, &locks[1]));
    assert_eq!(home.json(["list"]).1, locks);
    assert_eq!(home.lockmgr(["get", "c", "d"]).stdout.lines().count(), 3);
    // The same name, given twice.
    let (_, twice) = home.json(["get", "e", "e"]);
    assert_eq!(twice.as_array().unwrap().len(), 1);
}

#[test]
fn wait_may_last_for_ever() {
    let home = Home::new();
    let holder = Kept::holder(&home, &["x"]);
    let mut command = home.command();
    let waiter = Kept::start(command.args(["--json", "get", "y", "x", "-w", "forever"]));
    until_queued(&home.open(), "x", 1);
    assert!(
        home.open().requests("x").unwrap()[0]
            .waits_until()
            .is_none()
    );
    assert_eq!(holder.end().status, DONE);
    let ran = waiter.end();
    assert_eq!(ran.document().as_array().unwrap().len(), 2);
    assert_eq!(home.json(["get", "z", "--wait", "sometime"]).0, USAGE);
}

#[test]
fn lock_bound_to_the_parent_has_no_deadline_and_goes_with_the_caller() {
    let home = Home::new();
    let this = format!(
        "'{}' --db '{}'",
        env!("CARGO_BIN_EXE_lockmgr"),
        home.db().display()
    );
    let script = format!(
        "{this} -q get x --while parent || exit; {this} -q get z --while parent -t 1h; \
            (: in a subshell; {this} -q get y --while parent; {this} -q is-locked y) || exit; \
            {this} -q is-locked y && exit 9; {this} --json list; cat"
    );
    let mut shell = Kept::start_open(Command::new("sh").args(["-c", &script]));
    let list: serde_json::Value = serde_json::from_str(&shell.line()).unwrap();
    let bound_to = json!({ "pid": shell.pid(), "alive": true });
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(
        (&list[0]["name"], &list[0]["bound_to"]),
        (&json!("x"), &bound_to)
    );
    assert!(list[0]["locked_until"].is_null() && list[1]["locked_until"].is_string());
    shell.kill_into_zombie();
    assert_eq!(home.json(["list"]).1, json!([]));
}

#[test]
fn lock_of_a_subshell_goes_at_its_end_whatever_the_subshell_left_behind() {
    let home = Home::new();
    let this = env!("CARGO_BIN_EXE_lockmgr");
    let script = |get: &str| {
        format!(
            "export LOCKMGR_DB='{}'; L='{this}'; {get}; $L is-locked x; kill $(cat '{}') 2>/dev/null",
            home.db().display(),
            home.join("left").display()
        )
    };
    let left = format!(
        "sleep 60 >/dev/null 2>&1 & echo $! >'{}'",
        home.join("left").display()
    );
    for (get, is_locked) in [
        (
            format!("($L -q get x --while parent; $L is-locked x; {left})"),
            "true\nfalse\n",
        ),
        (
            format!("($L -q get x --while $BASHPID; $L is-locked x; {left})"),
            "true\nfalse\n",
        ),
        ("(: ; $L -q get x --while $$)".to_owned(), "true\n"),
        ("got=$($L get x --while $$)".to_owned(), "true\n"),
    ] {
        let ran = run(Command::new("bash").args(["-c", &script(&get)]));
        assert_eq!(
            (ran.stdout.as_str(), ran.stderr.as_str()),
            (is_locked, ""),
            "{get}"
        );
        assert_eq!(home.json(["list"]).1, json!([]));
    }
}

#[test]
fn get_that_is_killed_at_its_grant_leaves_no_lock_that_its_caller_never_heard_of() {
    let home = Home::in_memory();
    let manager = home.open();
    let caller = Kept::idle();
    let pid = caller.pid().to_string();
    let mut dice = Dice(7);
    for _ in 0..30 {
        let held = manager.acquire(["x"]).try_lock().unwrap();
        let mut command = home.command();
        command.args(["get", "x", "--while", &pid, "-w", "forever"]);
        let getter = Kept::start(&mut command);
        until_queued(&manager, "x", 1);
        drop(held);
        thread::sleep(Duration::from_micros(dice.below(5_000)));
        getter.signal(Signal::KILL);
        let ran = getter.ended();
        if ran.stdout.is_empty() {
            assert!(!manager.is_locked("x").unwrap());
        }
        manager.unlock("x").unwrap();
    }
}

#[test]
fn renewal_that_creates_takes_a_holder() {
    let home = Home::new();
    let args = ["renew", "x", "--locked-by", "edge 7", "--pid", "42"];
    assert_eq!(home.json(args).0, USAGE);
    let (exit, lock) = home.json([&args[..], &["--create", "-t", "5"]].concat());
    assert_eq!(
        (exit, &lock["locked_by"], &lock["process_id"]),
        (DONE, &json!("edge 7"), &json!(42))
    );
    let (exit, renewed) = home.json(["renew", "x", "--create", "--locked-by", "another"]);
    assert_eq!(
        (exit, &renewed["locked_by"], &renewed["token"]),
        (DONE, &json!("edge 7"), &lock["token"])
    );
    until("it is the same lock", || {
        home.json(["find", "x"]).1 == renewed
    });
}

#[test]
fn set_binds_only_what_it_creates() {
    let home = Home::new();
    let process = Kept::idle();
    let pid = process.pid().to_string();
    let (exit, refused) = home.json(["set", "x", "--while", &pid]);
    assert_eq!((exit, &refused["error"]["kind"]), (USAGE, &json!("Usage")));
    assert!(!home.db().exists());
    let (exit, set) = home.json(["set", "x", "--while", &pid, "--fail"]);
    assert_eq!(exit, DONE);
    assert_eq!(set["locks"][0]["bound_to"]["pid"], process.pid());
    assert!(set["locks"][0]["locked_until"].is_null());
}

#[test]
fn renewal_binds_to_another_process() {
    let home = Home::new();
    let (old, new) = (Kept::idle(), Kept::idle());
    let [old_pid, new_pid] = [&old, &new].map(|process| process.pid().to_string());
    let (_, lock) = home.json(["get", "x", "--while", &old_pid]);
    let token = lock["token"].to_string();
    let args = ["renew", "x", "--token", &token, "--while", &new_pid];
    let (exit, renewed) = home.json(args);
    assert_eq!((exit, &renewed["token"]), (DONE, &lock["token"]));
    assert_eq!(renewed["bound_to"]["pid"], new.pid());
    assert!(renewed["locked_until"].is_null());
    drop(old);
    assert_eq!(home.json(["is-locked", "x"]).0, DONE);
    new.kill_into_zombie();
    assert_eq!(home.json(["is-locked", "x"]).0, NO);
}
