//! Tests `lockmgr watch`: the changes that it prints, and how it ends.

use crate::holding_support::{DONE, Kept, until, until_queued};
use crate::support::Home;
use lockmgr::{GetOptions, RenewOptions};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::thread;
use std::time::Duration;

/// A watcher that has seen the store as it is.
fn watcher(home: &Home, args: &[&str]) -> Kept {
    let mut command = home.command();
    let mut watcher = Kept::start(command.args(["--json", "watch"]).args(args));
    // The first look prints nothing, so the test sets locks until the watcher has printed one.
    let manager = home.open();
    let probe = args
        .first()
        .map_or("probe".into(), |it| format!("{it}probe"));
    let locks = std::thread::spawn(move || {
        for _ in 0..40 {
            manager.get_lock(&probe, GetOptions::new()).unwrap();
            std::thread::sleep(Duration::from_millis(250));
            manager.unlock(&probe).unwrap();
            std::thread::sleep(Duration::from_millis(250));
            if manager.is_locked("seen").unwrap() {
                return;
            }
        }
    });
    assert_eq!(event(&mut watcher)["names"].as_array().unwrap().len(), 1);
    home.open().get_lock("seen", GetOptions::new()).unwrap();
    locks.join().unwrap();
    watcher
}

fn event(watcher: &mut Kept) -> Value {
    let line = watcher.line();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Returns the kind of the next change of this lock.
fn next_of(watcher: &mut Kept, name: &str) -> String {
    loop {
        let event = event(watcher);
        if event["names"][0] == name || event["names"].is_null() {
            return event["event"].as_str().unwrap().to_owned();
        }
    }
}

#[test]
fn watcher_says_what_happens_to_a_lock_and_its_requests() {
    let home = Home::new();
    let manager = home.open();
    let mut watcher = watcher(&home, &[]);
    let mut next = |name: &str| next_of(&mut watcher, name);
    let lock = manager.get_lock("a", GetOptions::new()).unwrap();
    assert_eq!(next("a"), "granted");
    manager.renew_lock(&lock, RenewOptions::new()).unwrap();
    assert_eq!(next("a"), "renewed");
    let waiter = Kept::holder_in_waiting(&home, "a");
    until_queued(&manager, "a", 1);
    assert_eq!(next("a"), "asked");
    waiter.kill_into_zombie();
    assert_eq!(next("a"), "left");
    manager.unlock("a").unwrap();
    assert_eq!(next("a"), "released");
    let short = GetOptions::new().timeout(Duration::from_millis(600));
    manager.get_lock("b", short).unwrap();
    assert_eq!(next("b"), "granted");
    assert_eq!(next("b"), "expired");
    let process = Kept::idle();
    let bound = GetOptions::new().bound_to(process.pid());
    manager.get_lock("c", bound).unwrap();
    assert_eq!(next("c"), "granted");
    process.end();
    assert_eq!(next("c"), "freed");
}

#[test]
fn watcher_says_in_which_mode_names_are_wanted_and_held() {
    let home = Home::new();
    let manager = home.open();
    let mut watcher = watcher(&home, &[]);
    let _slots = manager.acquire_slots(["cc"], 1, 4).lock().unwrap();
    let mut granted = event(&mut watcher);
    while granted["names"][0] != "cc" {
        granted = event(&mut watcher);
    }
    assert_eq!(
        granted["modes"],
        json!([manager.find("cc").unwrap().unwrap().mode()])
    );
    let _first = manager.acquire(["gpu:0", "gpu:1"]).lock().unwrap();
    let request = manager.acquire_any(1, ["gpu:0", "gpu:1"]);
    let canceller = request.canceller();
    let waiter = thread::spawn(move || request.lock());
    let mut asked = event(&mut watcher);
    while asked["event"] != "asked" {
        asked = event(&mut watcher);
    }
    assert_eq!(
        (&asked["any"], asked["modes"].as_array().unwrap().len()),
        (&json!(1), 2)
    );
    canceller.cancel();
    assert!(waiter.join().unwrap().is_err());
}

#[test]
fn watcher_survives_a_store_that_vanishes_and_comes_back() {
    let home = Home::new();
    home.json(["get", "x"]);
    let mut watcher = watcher(&home, &[]);
    fs::remove_file(home.db()).unwrap();
    let events = |watcher: &mut Kept, wanted: &str| {
        until(wanted, || event(watcher)["event"] == wanted);
    };
    events(&mut watcher, "store_gone");
    home.json(["get", "new"]);
    assert_eq!(event(&mut watcher)["event"], "store_there");
    assert_eq!(next_of(&mut watcher, "new"), "granted");
}

#[test]
fn watcher_ends_quietly_on_a_closed_pipe_and_by_its_signal() {
    let home = Home::new();
    home.json(["get", "x"]);
    let mut closed = Kept::start(home.command().arg("watch"));
    drop(closed.child().stdout.take());
    let ran = closed.ended();
    assert_eq!((ran.status, ran.stderr.as_str()), (DONE, ""));

    let interrupted = watcher(&home, &[]);
    interrupted.signal(Signal::INT);
    let ran = interrupted.ended();
    assert_eq!((ran.signal, ran.stderr.as_str()), (Some(2), ""));
}

#[test]
fn watcher_that_nobody_reads_delays_no_writer() {
    let home = Home::in_memory();
    let manager = home.open();
    let _watcher = Kept::start(home.command().arg("watch"));
    // The watcher's pipe is full soon.
    for round in 0..20 {
        let names: Vec<String> = (0..500).map(|i| format!("{round}:{i:0100}")).collect();
        manager
            .set_lock(&names, lockmgr::SetOptions::new())
            .unwrap();
    }
    assert_eq!(manager.locks("").unwrap().len(), 10_000);
}

#[test]
fn watcher_of_a_missing_store_creates_none() {
    let home = Home::new();
    let mut watcher = Kept::start(home.command().args(["--json", "watch", "a"]));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!home.db().exists());
    home.json(["set", "a1", "b1"]);
    assert_eq!(event(&mut watcher)["event"], "store_there");
    assert_eq!(next_of(&mut watcher, "a1"), "granted");
    home.json(["unlock", "b1", "a1"]);
    let released = event(&mut watcher);
    assert_eq!(
        (&released["event"], &released["names"][0]),
        (&"released".into(), &"a1".into())
    );
}
