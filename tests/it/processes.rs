//! Tests many processes on one file. If any of them is stopped or killed, no other shares a lock,
//! waits without bound, or loses an acknowledged change.

use crate::support::{Home, finish, run, skip, spawn, through, works};
use chrono::{DateTime, Utc};
use lockmgr::{Error, GetOptions, Lock, LockManager, SetOptions};
use redb::backends::FileBackend;
use redb::{ConcurrencyMode, StorageBackend};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::ops::Bound;
use std::panic;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

const DONE: Option<i32> = Some(0);
const BUSY: Option<i32> = Some(75);
const LONG: Duration = Duration::from_secs(3);

/// A process that gets and unlocks locks.
enum Worker {
    Library(LockManager),
    Command,
}

impl Worker {
    /// Returns the token of the lock, unless another process holds it.
    fn get(&self, home: &Home, name: &str) -> Option<u64> {
        match self {
            Self::Library(manager) => match manager.get_lock(name, GetOptions::new()) {
                Ok(lock) => Some(lock.token()),
                Err(Error::Locked(_)) => None,
                Err(error) => panic!("{error:?}"),
            },
            Self::Command => match home.json(["get", name]) {
                (Some(0), lock) => lock["token"].as_u64(),
                (Some(1), refused) if refused["error"]["kind"] == "Locked" => None,
                ran => panic!("{ran:?}"),
            },
        }
    }

    fn unlock(&self, home: &Home, name: &str) -> bool {
        match self {
            Self::Library(manager) => manager.unlock(name).unwrap(),
            Self::Command => home.json(["unlock", name]) == (DONE, json!([[name, true]])),
        }
    }
}

#[test]
fn exclusive_lock_never_has_two_holders() {
    let home = Home::new();
    let shared = home.open();
    let workers = [
        Worker::Library(shared.clone()),
        Worker::Library(shared),
        Worker::Library(home.open()),
        Worker::Library(home.open()),
        Worker::Command,
        Worker::Command,
    ];
    let names = ["a", "b", "c"];
    let last_tokens = names.map(|name| (name, Mutex::new(0)));
    let began = Instant::now();
    let work = |worker: &Worker| {
        let mut held = 0;
        for (name, last_token) in last_tokens.iter().cycle() {
            if began.elapsed() > LONG {
                break;
            }
            let Some(token) = worker.get(&home, name) else {
                continue;
            };
            let witness = home.join(name);
            File::create_new(&witness).expect("one holder at a time");
            let mut last_token = last_token.try_lock().expect("one holder at a time");
            assert!(token > *last_token);
            *last_token = token;
            drop(last_token);
            fs::remove_file(witness).unwrap();
            assert!(worker.unlock(&home, name));
            held += 1;
        }
        held
    };
    thread::scope(|scope| {
        let threads = workers
            .each_ref()
            .map(|worker| scope.spawn(|| work(worker)));
        for thread in threads {
            assert!(thread.join().unwrap() > 0, "somebody never got a lock");
        }
    });
}

#[test]
fn set_with_fail_meets_a_lock_of_another_process() {
    let home = Home::new();
    let manager = home.open();
    let ours = manager.get_lock("ours", GetOptions::new()).unwrap();
    let (exit, refused) = home.json(["set", "-e", "new", "ours"]);
    assert_eq!(
        (exit, &refused["error"]["kind"]),
        (Some(2), &json!("LockFail"))
    );
    assert_eq!(refused["error"]["lock"]["token"], json!(ours.token()));
    assert_eq!(manager.locks("").unwrap(), [ours]);

    let (_, theirs) = home.json(["get", "theirs"]);
    let refused = manager.set_lock(["new", "theirs"], SetOptions::new().fail());
    let is_theirs = |lock: &Lock| json!(lock.token()) == theirs["token"];
    assert!(matches!(refused, Err(Error::LockFail(lock)) if is_theirs(&lock)));
    assert!(!manager.is_locked("new").unwrap());
}

#[test]
fn processes_that_create_the_store_at_once_agree() {
    for _ in 0..5 {
        let home = Home::new();
        let names = ["a", "b", "c", "d", "e", "f"];
        let children = names.map(|name| spawn(home.command().args(["--json", "get", name])));
        let tokens = children.map(|child| finish(child).document()["token"].as_u64());
        assert_eq!(BTreeSet::from(tokens), (1..=6).map(Some).collect());
        assert_eq!(home.open().locks("").unwrap().len(), names.len());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}

/// Runs a command that may wait at most 0.3 s for others. Returns its exit, and whether it kept to
/// that bound.
fn hurried(home: &Home, args: &[&str]) -> Option<i32> {
    let began = Instant::now();
    let ran = run(home
        .command()
        .args(["--json", "--busy-timeout", "0.3"])
        .args(args));
    let took = began.elapsed();
    assert!(took < Duration::from_millis(800), "{args:?} took {took:?}");
    if ran.status == BUSY {
        assert!(took >= Duration::from_millis(300), "{args:?} took {took:?}");
        assert_eq!(ran.document()["error"]["kind"], "StoreBusy");
    }
    ran.status
}

const WRITERS: [&[&str]; 6] = [
    &["set", "x"],
    &["get", "y"],
    &["renew", "held"],
    &["unlock", "held"],
    &["clean"],
    &["reset", "-f"],
];

#[test]
fn call_ends_within_its_bound_beside_a_stopped_writer() {
    let home = Home::new();
    let manager = LockManager::builder().busy_timeout(Duration::from_millis(300));
    let manager = manager.open(home.db()).unwrap();
    manager.get_lock("held", GetOptions::new()).unwrap();

    // This process has redb's lock for writers, like one that was stopped in a transaction.
    let mut stopped = redb::Builder::new();
    stopped.set_concurrency_mode(ConcurrencyMode::MultiWriter);
    let stopped = stopped.open(home.db()).unwrap();
    let txn = stopped.begin_write().unwrap();
    for args in WRITERS {
        assert_eq!(hurried(&home, args), BUSY, "{args:?}");
    }
    assert_eq!(hurried(&home, &["is-locked", "held"]), DONE);
    assert_eq!(hurried(&home, &["find", "held"]), DONE);
    assert_eq!(hurried(&home, &["list"]), DONE);
    assert!(manager.is_locked("held").unwrap());
    let began = Instant::now();
    let refused = manager.get_lock("x", GetOptions::new()).unwrap_err();
    assert!(matches!(&refused, Error::StoreBusy { path, .. } if *path == home.db()));
    assert!((300..800).contains(&began.elapsed().as_millis()));

    let waiting = spawn(home.command().args(["set", "z"]));
    txn.abort().unwrap();
    assert_eq!(finish(waiting).status, DONE);
    for args in WRITERS {
        assert_eq!(hurried(&home, args), DONE, "{args:?}");
    }
    manager.get_lock("x", GetOptions::new()).unwrap();
}

#[test]
fn call_ends_within_its_bound_beside_a_process_stopped_anywhere() {
    let home = Home::new();
    let manager = LockManager::builder().busy_timeout(Duration::from_millis(300));
    let manager = manager.open(home.db()).unwrap();
    manager.get_lock("held", GetOptions::new()).unwrap();

    // The first bytes are redb's header, which every opening and every transaction locks.
    let file = File::options()
        .read(true)
        .write(true)
        .open(home.db())
        .unwrap();
    let stopped = FileBackend::new(file).unwrap();
    let header = (Bound::Included(0), Bound::Excluded(320));
    stopped.lock_range(header.0, header.1).unwrap();
    for args in WRITERS
        .into_iter()
        .chain([&["find", "held"][..], &["list"]])
    {
        assert_eq!(hurried(&home, args), BUSY, "{args:?}");
    }
    let began = Instant::now();
    let refused = [
        manager.is_locked("held").unwrap_err(),
        manager.get_lock("x", GetOptions::new()).unwrap_err(),
    ];
    assert!(
        refused
            .iter()
            .all(|error| matches!(error, Error::StoreBusy { .. }))
    );
    drop(manager);
    assert!(began.elapsed() < Duration::from_millis(1_800));

    stopped.unlock_range(header.0, header.1).unwrap();
    assert_eq!(hurried(&home, &["is-locked", "held"]), DONE);
    assert_eq!(hurried(&home, &["set", "x"]), DONE);
}

#[test]
fn call_ends_within_its_bound_beside_a_process_stopped_at_any_instant() {
    let home = Home::new();
    let began = Instant::now();
    home.json(["get", "held"]);
    let usual = began.elapsed();
    for i in 0..16 {
        let name = i.to_string();
        let stopped = spawn(home.command().args(["set", &name]));
        let signal = |signal: &str| {
            let kill = format!("kill -{signal} {}", stopped.id());
            Command::new("sh").args(["-c", &kill]).status().unwrap();
        };
        thread::sleep(usual * i / 16);
        signal("STOP");
        let others = panic::catch_unwind(|| {
            for args in [&["find", "held"][..], &["set", "x"], &["list"]] {
                let exit = hurried(&home, args);
                assert!(exit == DONE || exit == BUSY, "{args:?}: {exit:?}");
            }
        });
        signal("CONT");
        assert_eq!(finish(stopped).status, DONE);
        others.unwrap();
        assert_eq!(hurried(&home, &["is-locked", &name]), DONE);
        assert_eq!(hurried(&home, &["set", "x"]), DONE);
    }
}

#[test]
fn exclusive_manager_refuses_every_other_within_a_bound() {
    let home = Home::new();
    let alone = LockManager::builder().exclusive().open(home.db()).unwrap();
    alone.get_lock("held", GetOptions::new()).unwrap();
    let hasty = || LockManager::builder().busy_timeout(Duration::from_millis(50));
    for builder in [hasty(), hasty().exclusive(), hasty().read_only()] {
        let refused = builder.open(home.db()).unwrap_err();
        assert!(matches!(refused, Error::StoreBusy { path, .. } if path == home.db()));
    }
    for args in WRITERS
        .into_iter()
        .chain([&["find", "held"][..], &["list"]])
    {
        assert_eq!(hurried(&home, args), BUSY, "{args:?}");
    }
    assert!(alone.clone().is_locked("held").unwrap());

    drop(alone);
    assert_eq!(hurried(&home, &["is-locked", "held"]), DONE);
    let shared = home.open();
    let refused = hasty().exclusive().open(home.db()).unwrap_err();
    assert!(matches!(refused, Error::StoreBusy { .. }));
    drop(shared);
    hasty().exclusive().open(home.db()).unwrap();
}

#[test]
fn acknowledged_changes_outlive_killed_writers() {
    let home = Home::new();
    let began = Instant::now();
    home.json(["get", "first"]);
    let usual = began.elapsed();
    let began = Instant::now();
    // Each kills its own commands, at instants spread over twice their usual life.
    let kill_and_collect = |thread: u32| {
        let (mut acknowledged, mut killed) = (Vec::new(), 0);
        for i in 0.. {
            if began.elapsed() > LONG {
                break;
            }
            let name = format!("{thread}/{i}");
            let mut child = spawn(home.command().args(["--json", "get", &name, "-k"]));
            thread::sleep(usual * (i * 37 % 101) / 50);
            child.kill().unwrap();
            let ran = finish(child);
            assert!(matches!(ran.status, None | DONE), "{ran:?}");
            killed += usize::from(ran.status.is_none());
            if ran.stdout.ends_with('\n') {
                acknowledged.push((name, ran.document()["token"].as_u64().unwrap()));
            }
        }
        (acknowledged, killed)
    };
    let results = thread::scope(|scope| {
        let threads = [1, 2].map(|thread| scope.spawn(move || kill_and_collect(thread)));
        threads.map(|thread| thread.join().unwrap())
    });

    let manager = home.open();
    let locks = manager.locks("").unwrap();
    let tokens: BTreeMap<_, _> = locks
        .iter()
        .map(|lock| (lock.name().as_str(), lock.token()))
        .collect();
    let distinct: BTreeSet<_> = tokens.values().collect();
    assert_eq!(distinct.len(), locks.len());
    for (acknowledged, killed) in &results {
        assert!(!acknowledged.is_empty() && *killed > 0);
        assert!(acknowledged.is_sorted_by(|(_, one), (_, next)| one < next));
        for (name, token) in acknowledged {
            assert_eq!(tokens.get(name.as_str()), Some(token), "{name}");
        }
    }
    let last = manager.get_lock("last", GetOptions::new()).unwrap();
    assert!(distinct.iter().all(|&&token| token < last.token()));
}

#[test]
fn store_that_was_never_closed_is_repaired_on_the_way() {
    let (home, killed) = (Home::new(), Home::new());
    let manager = home.open();
    for i in 0..20 {
        let name = format!("lock {i}");
        manager.set_lock([&name], SetOptions::new()).unwrap();
        if i % 3 == 0 {
            manager.unlock(&name).unwrap();
        }
        fs::copy(home.db(), killed.db()).unwrap();
        // The first process reads, or writes, in turn.
        if i % 2 == 0 {
            assert_eq!(killed.json(["set", "-n", &name]).0, DONE);
            assert_eq!(killed.json(["unlock", "absent"]).0, DONE);
            fs::copy(home.db(), killed.db()).unwrap();
        }
        // The call waits for no other process, so there is no bound to break.
        let list = killed.json(["list", "--busy-timeout", "0"]);
        assert_eq!(list, home.json(["list"]));
        assert_eq!(
            list.1.as_array().unwrap().len(),
            manager.locks("").unwrap().len()
        );
    }
}

/// Returns the command with a wall clock that is off by so much.
fn with_wall_clock(home: &Home, off: &str) -> Command {
    let mut command = through(&["faketime", "-f", off]);
    command.arg("--json").arg("--db").arg(home.db());
    command
}

/// Tells whether the wall clock can be set back for one command.
pub(crate) fn can_fake_time() -> bool {
    if !works(&["faketime", "-f", "-1d"]) {
        return false;
    }
    let home = Home::new();
    let lock = run(with_wall_clock(&home, "-1d").args(["get", "probe"])).document();
    let created_at: DateTime<Utc> = lock["created_at"].as_str().unwrap().parse().unwrap();
    let is_faked = (Utc::now() - created_at).num_hours() >= 23;
    if !is_faked {
        skip("faketime has no effect here");
    }
    is_faked
}

#[test]
fn wall_clock_ahead_frees_nothing() {
    if !can_fake_time() {
        return;
    }
    let home = Home::new();
    let (_, lock) = home.json(["get", "a", "-t", "600"]);
    let ahead = |args: &[&str]| run(with_wall_clock(&home, "+1d").args(args));
    assert_eq!(ahead(&["is-locked", "a"]).document(), json!(true));
    assert_eq!(ahead(&["find", "a"]).document(), lock);
    let refused = ahead(&["get", "a"]).document();
    assert_eq!(refused["error"]["lock"], lock);
    assert_eq!(ahead(&["clean"]).document(), json!({ "removed": 0 }));
    assert_eq!(home.json(["find", "a"]), (DONE, lock));
}

#[test]
fn wall_clock_behind_prolongs_nothing() {
    if !can_fake_time() {
        return;
    }
    let home = Home::new();
    let behind = |args: &[&str]| run(with_wall_clock(&home, "-1d").args(args));
    let began = Instant::now();
    assert_eq!(behind(&["get", "a", "-t", "2"]).status, DONE);
    let is_locked = home.json(["is-locked", "a"]).1;
    // On a machine that was delayed, this measurement means nothing.
    assert!(is_locked == json!(true) || began.elapsed() >= Duration::from_secs(2));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(home.json(["is-locked", "a"]).1, json!(false));
    assert_eq!(behind(&["is-locked", "a"]).document(), json!(false));
    assert_eq!(behind(&["set", "-e", "a"]).status, DONE);
}

/// Counts the writes and the syncs of a command.
fn writes_and_syncs(home: &Home, args: &[&str]) -> (usize, usize) {
    let trace = home.join("trace");
    let calls = "trace=pwrite64,pwritev,ftruncate,fallocate,fdatasync,fsync,msync,sync_file_range";
    let mut command = through(&[
        "strace",
        "-f",
        "-qq",
        "-e",
        calls,
        "-o",
        trace.to_str().unwrap(),
    ]);
    run(command.arg("--db").arg(home.db()).args(args));
    let trace = fs::read_to_string(trace).unwrap();
    let is_call = |line: &&str| line.contains('(');
    let syncs = trace
        .lines()
        .filter(is_call)
        .filter(|line| line.contains("sync"))
        .count();
    (trace.lines().filter(is_call).count() - syncs, syncs)
}

#[test]
fn reading_writes_and_syncs_nothing() {
    if !works(&["strace", "-qq", "-o", "/dev/null"]) {
        return;
    }
    let home = Home::new();
    home.json(["set", "a", "b"]);
    home.json(["set", "expired", "-t", "0.000001"]);
    for args in [
        &["is-locked", "a"][..],
        &["is-locked", "expired"],
        &["find", "a"],
        &["find", "absent"],
        &["list"],
        &["list", "a"],
    ] {
        assert_eq!(writes_and_syncs(&home, args), (0, 0), "{args:?}");
    }
}

#[test]
fn set_that_changes_nothing_costs_no_more_than_opening() {
    if !works(&["strace", "-qq", "-o", "/dev/null"]) {
        return;
    }
    let home = Home::new();
    home.json(["set", "a", "b"]);
    let opening = writes_and_syncs(&home, &["set", "-e", "a"]);
    for args in [
        &["set", "-n", "a", "b"][..],
        &["set", "-r", "absent"],
        &["get", "a"],
        &["renew", "absent"],
        &["unlock", "absent"],
        &["clean"],
    ] {
        let (writes, syncs) = writes_and_syncs(&home, args);
        assert!(writes <= opening.0 && syncs <= opening.1, "{args:?}");
    }
    let (writes, syncs) = writes_and_syncs(&home, &["set", "a"]);
    assert!(writes > opening.0 && syncs > opening.1);
}
