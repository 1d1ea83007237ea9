//! Tests notes: lists, messages and JSON show why a lock is held.

use crate::holding_support::{DONE, Kept, NO, USAGE, until, until_queued};
use crate::support::Home;
use lockmgr::{Error, GetOptions};
use serde_json::json;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

#[test]
fn note_has_the_rules_of_a_name() {
    let home = Home::new();
    let manager = home.open();
    let longest = "x".repeat(255);
    for good in ["deploying 1.2.3", "é", longest.as_str()] {
        let guard = manager.acquire(["a"]).note(good).try_lock().unwrap();
        assert_eq!(guard.locks()[0].note().unwrap(), good);
        assert_eq!(manager.find("a").unwrap().unwrap().note().unwrap(), good);
    }
    for bad in ["", "a\nb", "\u{1b}[31m", &"x".repeat(256)] {
        let refused = manager.acquire(["a"]).note(bad).try_lock();
        assert!(matches!(refused, Err(Error::InvalidName(_))), "{bad:?}");
        let refused = manager.get_lock("a", GetOptions::new().note(bad));
        assert!(matches!(refused, Err(Error::InvalidName(_))), "{bad:?}");
        let ran = home.lockmgr(["run", "--note", bad, "a", "--", "true"]);
        assert_eq!(ran.status, USAGE, "{bad:?}");
        assert!(ran.stderr.contains("invalid note"), "{}", ran.stderr);
    }
    let bytes = OsStr::from_bytes(b"\xff");
    let args = ["get", "a", "--note"].map(OsStr::new);
    assert_eq!(home.lockmgr(args.iter().chain([&bytes])).status, USAGE);
    assert!(manager.locks("").unwrap().is_empty());
}

#[test]
fn run_notes_its_command_unless_it_is_given_a_note() {
    let home = Home::new();
    let manager = home.open();
    let holder = Kept::holder(&home, &["a"]);
    assert_eq!(manager.find("a").unwrap().unwrap().note().unwrap(), "cat");
    assert_eq!(holder.end().status, DONE);
    let holder = Kept::holder(&home, &["--note", "night run", "a"]);
    let refused = home.lockmgr(["run", "-n", "a", "--", "true"]);
    assert_eq!(refused.status, NO);
    assert!(
        refused.stderr.contains("for \"night run\""),
        "{}",
        refused.stderr
    );
    let waiting = ["run", "a", "--", "echo", "a\tb", &"é".repeat(200)];
    let waiter = Kept::start(home.command().args(waiting));
    until_queued(&manager, "a", 1);
    let request = &manager.requests("").unwrap()[0];
    let note = request.note().unwrap().as_str();
    assert!(
        note.starts_with("echo a b éé") && note.ends_with("é…"),
        "{note}"
    );
    assert!((250..=255).contains(&note.len()), "{}", note.len());
    assert_eq!(home.json(["queue"]).1[0]["note"], json!(note));
    assert_eq!(home.json(["list"]).1[0]["note"], json!("night run"));
    assert_eq!(holder.end().status, DONE);
    until("the waiter has ended", || {
        manager.requests("").unwrap().is_empty()
    });
    assert_eq!(waiter.end().status, DONE);
}

#[test]
fn granted_lock_bears_the_note_of_its_request() {
    let home = Home::new();
    let manager = home.open();
    let first = manager.acquire(["a"]).try_lock().unwrap();
    let asked = manager.acquire(["a"]).note("second");
    let waiter = std::thread::spawn(move || asked.lock());
    until_queued(&manager, "a", 1);
    drop(first);
    let guard = waiter.join().unwrap().unwrap();
    assert_eq!(
        manager.find("a").unwrap().unwrap().note().unwrap(),
        "second"
    );
    drop(guard);
    assert_eq!(home.json(["get", "b"]).1["note"], json!(null));
    let (_, lock) = home.json(["get", "c", "--note", "by hand"]);
    assert_eq!(lock["note"], json!("by hand"));
}
