//! Tests waiting: first come, first served, across threads and processes. A request that no longer
//! waits delays no other.

use crate::acting::actor;
use crate::holding_support::{
    DONE, Dice, Kept, LOCK_FAIL, NO, bound_pid, lines, millis, secs, until, until_queued,
};
use crate::support::{Home, Ran};
use chrono::Utc;
use lockmgr::{
    Error, GetOptions, LockManager, ManualClock, RenewOptions, Request, SetOptions, Status,
    StorageCall,
};
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// The bound of waits, so that a failing test ends.
const PATIENCE: Duration = Duration::from_secs(25);

fn get() -> GetOptions {
    GetOptions::new()
}

/// Appends a line to a file that several processes append to.
fn note(path: &Path, line: &str) {
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Starts a process that waits for the locks and then appends this line.
fn noting(home: &Home, names: &[&str], line: &str) -> Kept {
    let history = home.join("history");
    let script = format!("echo {line} $LOCKMGR_TOKENS >> '{}'", history.display());
    let mut command = home.command();
    command.args(["run", "--lease", "60"]).args(names);
    Kept::start(command.args(["--", "sh", "-c", &script]))
}

/// Returns the first words of the noted lines, with their tokens.
fn history(home: &Home) -> (Vec<usize>, Vec<u64>) {
    let history = lines(&home.join("history"));
    let words = history.iter().map(|line| line.split_once(' ').unwrap());
    let numbers = words.map(|(who, tokens)| {
        let first = tokens.split(' ').next().unwrap();
        (who.parse::<usize>().unwrap(), first.parse::<u64>().unwrap())
    });
    numbers.unzip()
}

fn overlap(some: &[&str], others: &[&str]) -> bool {
    some.iter().any(|name| others.contains(name))
}

#[test]
fn ten_waiting_threads_and_processes_are_served_as_they_came() {
    for round in 0..3 {
        let home = Home::new();
        let manager = home.open();
        let first = manager.acquire(["x"]).try_lock().unwrap();
        let history_file = home.join("history");
        thread::scope(|scope| {
            let mut processes = Vec::new();
            for i in 0..10 {
                if (i + round) % 2 == 0 {
                    processes.push((i, noting(&home, &["x"], &i.to_string())));
                } else {
                    let (manager, history_file) = (&manager, &history_file);
                    scope.spawn(move || {
                        let guard = manager.acquire(["x"]).lock().unwrap();
                        let (_, token) = guard.tokens()[0].clone();
                        note(history_file, &format!("{i} {token}"));
                    });
                }
                until_queued(&manager, "x", i + 1);
            }
            let requests = manager.requests("").unwrap();
            for (i, process) in &processes {
                assert_eq!(requests[*i].process_id(), Some(process.pid()));
            }
            assert_eq!(manager.find("x").unwrap().unwrap().waiting(), 10);
            drop(first);
            for (_, process) in processes {
                assert_eq!(process.end().status, DONE);
            }
        });
        let (order, tokens) = history(&home);
        assert_eq!(order, Vec::from_iter(0..10));
        assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
        assert!(!manager.is_locked("x").unwrap());
        assert!(manager.requests("").unwrap().is_empty());
    }
}

#[test]
fn request_never_passes_an_earlier_one_for_one_of_its_names() {
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    const WAITERS: usize = 20;
    let home = Home::new();
    let manager = home.open();
    let mut dice = Dice(7);
    let sets: Vec<Vec<&str>> = (0..WAITERS).map(|_| dice.some_of(&NAMES)).collect();
    let all = manager.acquire(NAMES).try_lock().unwrap();
    let history_file = home.join("history");
    let is_held = NAMES.map(|name| (name, AtomicBool::new(false)));
    thread::scope(|scope| {
        let mut processes = Vec::new();
        for (i, names) in sets.iter().enumerate() {
            if i % 3 == 0 {
                processes.push(noting(&home, names, &i.to_string()));
            } else {
                let (manager, history_file, is_held) = (&manager, &history_file, &is_held);
                scope.spawn(move || {
                    let guard = manager.acquire(names).lock().unwrap();
                    let mine = is_held.iter().filter(|(name, _)| names.contains(name));
                    for (_, is_held) in mine.clone() {
                        assert!(!is_held.swap(true, Ordering::SeqCst));
                    }
                    note(history_file, &format!("{i} {}", guard.tokens()[0].1));
                    thread::yield_now();
                    for (_, is_held) in mine {
                        is_held.store(false, Ordering::SeqCst);
                    }
                });
            }
            until_queued(&manager, "", i + 1);
        }
        for (request, names) in manager.requests("").unwrap().iter().zip(&sets) {
            assert_eq!(request.names(), names.as_slice());
        }
        drop(all);
        for process in processes {
            assert_eq!(process.end().status, DONE);
        }
    });
    let (order, _) = history(&home);
    assert_eq!(order.len(), WAITERS);
    let mut place = [0; WAITERS];
    for (at, who) in order.into_iter().enumerate() {
        place[who] = at;
    }
    let mut overlapping = 0;
    for later in 0..WAITERS {
        for earlier in 0..later {
            if overlap(&sets[earlier], &sets[later]) {
                overlapping += 1;
                assert!(place[earlier] < place[later], "{earlier}, {later}");
            }
        }
    }
    assert!((1..WAITERS * (WAITERS - 1) / 2).contains(&overlapping));
}

#[test]
fn arrival_decides_amid_constant_coming_and_going() {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let home = Home::new();
    let managers = [home.open(), home.open()];
    let is_over = &AtomicBool::new(false);
    let mut seen: BTreeMap<u64, Request> = BTreeMap::new();
    let tokens: BTreeMap<String, u64> = thread::scope(|scope| {
        let workers: Vec<_> = (0..6)
            .map(|worker| {
                let manager = &managers[worker % 2];
                scope.spawn(move || {
                    let mut dice = Dice(worker as u64);
                    let grant = |turn: usize| {
                        let who = format!("{worker}/{turn}");
                        let acquire = manager.acquire(dice.some_of(&NAMES)).locked_by(&who);
                        let guard = acquire.lock().unwrap();
                        (who, guard.tokens()[0].1)
                    };
                    let grants: Vec<_> = (0..20).map(grant).collect();
                    is_over.store(true, Ordering::Relaxed);
                    grants
                })
            })
            .collect();
        while !is_over.load(Ordering::Relaxed) {
            let requests = managers[0].requests("").unwrap();
            assert!(requests.is_sorted_by(|one, next| one.number() < next.number()));
            seen.extend(requests.into_iter().map(|it| (it.number(), it)));
        }
        let grants = workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap());
        grants.collect()
    });
    let seen: Vec<_> = seen.into_values().collect();
    let mut overlapping = 0;
    for (i, later) in seen.iter().enumerate() {
        for earlier in &seen[..i] {
            if earlier
                .names()
                .iter()
                .any(|name| later.names().contains(name))
            {
                overlapping += 1;
                let [one, next] = [earlier, later].map(|of| tokens[of.locked_by().as_str()]);
                assert!(one < next, "{earlier:?}: {one}, {later:?}: {next}");
            }
        }
    }
    assert!(overlapping > 0);
}

#[test]
fn newcomer_never_passes_a_waiter_for_a_free_name_and_another() {
    let home = Home::new();
    let manager = home.open();
    let b = manager.acquire(["b"]).try_lock().unwrap();
    thread::scope(|scope| {
        let acquire = manager.acquire(["a", "b"]).locked_by("first");
        let waiter = scope.spawn(|| acquire.try_lock_for(PATIENCE).unwrap());
        until_queued(&manager, "", 1);
        let is_reserved = |error: Error| {
            matches!(&error, Error::Reserved { name, request, .. }
                if name == "a" && request.locked_by() == "first" && request.names() == ["a", "b"])
        };
        assert!(is_reserved(manager.get_lock("a", get()).unwrap_err()));
        assert!(is_reserved(manager.acquire(["a"]).try_lock().unwrap_err()));
        assert!(is_reserved(
            manager.acquire(["c", "a"]).try_lock().unwrap_err()
        ));
        let create = RenewOptions::new().create();
        assert!(is_reserved(manager.renew_lock("a", create).unwrap_err()));
        let fail = SetOptions::new().fail();
        assert!(is_reserved(manager.set_lock(["c", "a"], fail).unwrap_err()));
        let result = manager.set_lock(["a"], SetOptions::new()).unwrap();
        let status = result.status("a").unwrap();
        assert_eq!(
            (status.was_locked, status.status, status.locked),
            (false, Status::Skip, false)
        );
        assert_eq!((result.counts().skip_create, result.locks().len()), (1, 0));
        assert!(!manager.is_locked("a").unwrap());

        let (exit, refused) = home.json(["get", "a"]);
        assert_eq!(exit, NO);
        assert_eq!(refused["error"]["kind"], "Reserved");
        assert_eq!(refused["error"]["lock"], json!(null));
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.contains("first"), "{message}");
        let (exit, refused) = home.json(["set", "--fail", "c", "a"]);
        assert_eq!(
            (exit, &refused["error"]["kind"]),
            (LOCK_FAIL, &json!("Reserved"))
        );
        let (exit, result) = home.json(["set", "a"]);
        assert_eq!((exit, &result["counts"]["skip_create"]), (DONE, &json!(1)));
        let status = json!({ "was_locked": false, "status": "skip", "locked": false });
        assert_eq!(result["statuses"], json!([["a", status]]));
        assert_eq!(home.json(["renew", "--create", "a"]).0, NO);
        assert_eq!(home.lockmgr(["run", "-n", "a", "--", "true"]).status, NO);

        assert_eq!(manager.locks("").unwrap().len(), 1);
        b.release().unwrap();
        let waiter = waiter.join().unwrap();
        assert_eq!(waiter.tokens().len(), 2);
        assert!(waiter.is_held().unwrap());
    });
    assert_eq!(home.json(["get", "a"]).0, DONE);
}

#[test]
fn newcomer_for_other_names_is_not_delayed() {
    let home = Home::new();
    let manager = home.open();
    let _b = manager.acquire(["b"]).try_lock().unwrap();
    let waiter = Kept::start(home.command().args(["run", "a", "b", "--", "true"]));
    until_queued(&manager, "", 1);
    let c = manager.acquire(["c"]).try_lock().unwrap();
    assert_eq!(home.json(["get", "d"]).0, DONE);
    drop(waiter);
    until_queued(&manager, "", 0);
    // A request that is gone does not delay it either.
    assert_eq!(home.json(["get", "a"]).0, DONE);
    drop(c);
}

#[test]
fn sets_asked_for_in_opposite_order_cannot_deadlock() {
    let home = Home::new();
    let managers = [home.open(), home.open()];
    let sets = [["a", "b"], ["b", "a"]];
    let command = home.command();
    let mut shell = Command::new("sh");
    shell.args(["-c", "for i in 1 2 3 4 5; do \"$@\" || exit; done", "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    let processes = Kept::start(shell.args(["run", "b", "a", "--", "true"]));
    let count = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|i| {
                let (manager, set) = (&managers[i / 2], sets[i % 2]);
                let grant = move |_: &u32| manager.acquire(set).try_lock_for(secs(20)).is_ok();
                scope.spawn(move || (0..25).filter(grant).count())
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum::<usize>()
    });
    assert_eq!(count, 100);
    assert_eq!(processes.end().status, DONE);
}

/// Returns the time of a wait without a grant. It is never less than this bound, and not much more,
/// unless the machine is delayed every time.
fn assert_ends_at_its_bound(bound: Duration, wait: impl Fn()) {
    let is_prompt = (0..4).any(|_| {
        let began = Instant::now();
        wait();
        let took = began.elapsed();
        assert!(took >= bound, "{took:?}");
        took < bound + millis(500)
    });
    assert!(is_prompt);
}

#[test]
fn wait_ends_at_its_bound_and_leaves_the_queue() {
    let home = Home::new();
    let manager = home.open();
    let _held = manager
        .acquire(["x"])
        .locked_by("holder")
        .try_lock()
        .unwrap();
    let bound = millis(300);
    assert_ends_at_its_bound(bound, || {
        let refused = manager.acquire(["y", "x"]).try_lock_for(bound);
        assert!(matches!(refused, Err(Error::Locked(lock)) if lock.locked_by() == "holder"));
        assert!(manager.requests("").unwrap().is_empty());
    });
    for args in [
        &["get", "x", "--wait", "0.3"][..],
        &["run", "-w", "300ms", "x", "y", "--", "true"],
    ] {
        assert_ends_at_its_bound(bound, || {
            let (exit, refused) = home.json(args);
            assert_eq!((exit, &refused["error"]["kind"]), (NO, &json!("Locked")));
            assert_eq!(refused["error"]["lock"]["locked_by"], "holder");
            assert!(manager.requests("").unwrap().is_empty());
        });
    }
    assert_eq!(manager.locks("").unwrap().len(), 1);
}

#[test]
fn bound_of_zero_does_not_wait() {
    let home = Home::new();
    let manager = home.open();
    let _held = manager.acquire(["x"]).try_lock().unwrap();
    let before = home.bytes();
    let refused = manager.acquire(["x"]).try_lock_for(Duration::ZERO);
    assert!(matches!(refused, Err(Error::Locked(_))));
    assert_eq!(home.bytes(), before);
    assert_eq!(home.json(["get", "x", "-w", "0"]).0, NO);
    assert_eq!(
        home.lockmgr(["run", "-w", "0", "x", "--", "true"]).status,
        NO
    );
    // A bound past the calendar counts as none.
    drop(manager.acquire(["y"]).try_lock_for(Duration::MAX).unwrap());
}

#[test]
fn ended_wait_lets_later_requests_go_on() {
    let home = Home::new();
    let manager = home.open();
    let b = manager.acquire(["b"]).try_lock().unwrap();
    thread::scope(|scope| {
        let acquire = manager.acquire(["a", "b"]);
        let first = scope.spawn(|| acquire.try_lock_for(millis(400)).map(drop));
        until_queued(&manager, "", 1);
        // The name is free, but promised.
        let second = scope.spawn(|| manager.acquire(["a"]).try_lock_for(PATIENCE).unwrap());
        assert!(matches!(first.join().unwrap(), Err(Error::Locked(_))));
        assert!(second.join().unwrap().is_held().unwrap());
    });
    assert!(b.is_held().unwrap());
}

/// Frees the lock, and checks that the one waiter gets it promptly.
fn assert_prompt(manager: &LockManager, free: impl FnOnce()) {
    thread::scope(|scope| {
        let before = manager.requests("x").unwrap().len();
        let waiter = scope.spawn(|| {
            let guard = manager.acquire(["x"]).try_lock_for(PATIENCE).unwrap();
            assert!(guard.is_held().unwrap());
            Instant::now()
        });
        until_queued(manager, "x", before + 1);
        let began = Instant::now();
        free();
        let took = waiter.join().unwrap() - began;
        assert!(took < secs(1), "{took:?}");
    });
}

#[test]
fn killed_waiter_delays_no_other() {
    let home = Home::new();
    let manager = home.open();
    for is_reaped in [false, true] {
        let held = manager.acquire(["x"]).try_lock().unwrap();
        let mut dead = Kept::start(home.command().args(["run", "x", "y", "--", "true"]));
        until_queued(&manager, "x", 1);
        dead.kill_into_zombie();
        if is_reaped {
            dead.child().wait().unwrap();
        }
        assert!(manager.requests("").unwrap().is_empty());
        assert_prompt(&manager, || held.release().unwrap());
        assert_eq!(home.json(["get", "y"]).0, DONE);
        home.json(["unlock", "y"]);
    }
}

#[test]
fn waiter_killed_at_the_head_frees_the_names_kept_for_it() {
    let home = Home::new();
    let manager = home.open();
    let _y = manager.acquire(["y"]).try_lock().unwrap();
    let head = Kept::start(home.command().args(["run", "x", "y", "--", "true"]));
    until_queued(&manager, "x", 1);
    // The name is free, but no process will report that its claimant is gone.
    assert_prompt(&manager, || head.kill_into_zombie());
}

#[test]
fn stopped_waiter_keeps_its_turn_and_lease_and_no_more() {
    let home = Home::new();
    let manager = home.open();
    let held = manager.acquire(["x"]).try_lock().unwrap();
    let witness = home.join("witness");
    let mut command = home.command();
    command.args(["run", "--lease", "1", "x", "--", "touch"]);
    let stopped = Kept::start(command.arg(&witness));
    until_queued(&manager, "x", 1);
    stopped.stop();
    thread::scope(|scope| {
        let next = scope.spawn(|| {
            let guard = manager.acquire(["x"]).try_lock_for(PATIENCE).unwrap();
            (guard, Instant::now())
        });
        until_queued(&manager, "x", 2);
        let began = Instant::now();
        held.release().unwrap();
        let granted = manager.find("x").unwrap().unwrap();
        assert_eq!(bound_pid(&granted), Some(stopped.pid()));
        assert_eq!(granted.waiting(), 1);
        let (next, at) = next.join().unwrap();
        let took = at - began;
        assert!((millis(990)..secs(3)).contains(&took), "{took:?}");

        // The waiter comes too late, and asks again.
        stopped.signal(Signal::CONT);
        until_queued(&manager, "x", 1);
        assert!(next.is_held().unwrap());
        assert!(!witness.exists());
        next.release().unwrap();
        assert_eq!(stopped.end().status, DONE);
        assert!(witness.exists());
    });
}

#[test]
fn stopped_waiter_blocks_an_expired_name_for_a_bounded_time() {
    // Uses a clock that makes minutes pass at once.
    let home = Home::new();
    let clock = ManualClock::new(Utc::now());
    let later = LockManager::builder().clock(clock.clone());
    let later = later.open(home.db()).unwrap();
    home.json(["get", "x", "-t", "50"]);
    let stopped = Kept::start(
        home.command()
            .args(["run", "--lease", "50", "x", "--", "true"]),
    );
    until_queued(&later, "x", 1);
    stopped.stop();
    for minutes in 0.. {
        if later.get_lock("x", get()).is_ok() {
            break;
        }
        assert!(minutes < 5, "refused for {minutes} minutes");
        clock.advance(secs(60));
    }
}

#[test]
fn signal_ends_a_wait() {
    let home = Home::new();
    let manager = home.open();
    let held = manager.acquire(["x"]).try_lock().unwrap();
    for (signal, number) in [
        (Signal::INT, 2),
        (Signal::TERM, 15),
        (Signal::HUP, 1),
        (Signal::USR1, 10),
    ] {
        for args in [&["run", "x", "--", "true"][..], &["get", "x", "-w", "60"]] {
            let waiter = Kept::start(home.command().args(args));
            until_queued(&manager, "x", 1);
            waiter.signal(signal);
            let ran = waiter.end();
            let of_signal = Some(128 + number);
            assert!(ran.status.is_none() || ran.status == of_signal, "{ran:?}");
            assert!(manager.requests("").unwrap().is_empty());
        }
    }
    assert_prompt(&manager, || held.release().unwrap());
}

#[test]
fn end_of_a_lease_hands_over() {
    let home = Home::new();
    let manager = home.open();
    let lease = secs(1);
    let began = Instant::now();
    let expiring = manager.get_lock("x", get().timeout(lease)).unwrap();
    let by_thread = manager.acquire(["x"]).try_lock_for(secs(20)).unwrap();
    let took = began.elapsed();
    assert!(took >= lease && took < lease + secs(1), "{took:?}");
    assert!(by_thread.tokens()[0].1 > expiring.token());
    by_thread.release().unwrap();

    let began = Instant::now();
    home.json(["get", "x", "-t", "1"]);
    let (exit, lock) = home.json(["get", "x", "-w", "20"]);
    let took = began.elapsed();
    assert_eq!((exit, &lock["bound_to"]), (DONE, &json!(null)));
    assert!(took >= lease && took < lease + secs(2), "{took:?}");
}

/// Starts a waiter for `x`, makes a call that frees `x`, and checks that this very call handed `x`
/// over.
fn assert_hands_over(manager: &LockManager, what: &str, free: impl FnOnce()) {
    thread::scope(|scope| {
        let (finish, is_finished) = mpsc::channel::<()>();
        let acquire = manager.acquire(["x"]).locked_by("waiter");
        let waiter = scope.spawn(move || {
            let guard = acquire.try_lock_for(PATIENCE).unwrap();
            assert!(is_finished.recv().is_err());
            guard.release().unwrap();
        });
        until_queued(manager, "x", 1);
        free();
        let granted = manager.find("x").unwrap().expect(what);
        assert_eq!(granted.locked_by(), "waiter", "{what}");
        assert_eq!(bound_pid(&granted), Some(std::process::id()), "{what}");
        assert!(manager.requests("").unwrap().is_empty(), "{what}");
        drop(finish);
        waiter.join().unwrap();
    });
}

#[test]
fn every_call_that_frees_a_lock_hands_it_over() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let hold = || {
        let acquire = manager.acquire(["x", "y"]).lease(secs(10)).no_keep_alive();
        acquire.try_lock().unwrap()
    };
    type Free<'a> = &'a dyn Fn();
    let by_name: [(&str, Free<'_>); 3] = [
        ("unlock by name", &|| assert!(manager.unlock("x").unwrap())),
        ("unlock by lock", &|| {
            let lock = manager.find("x").unwrap().unwrap();
            assert!(manager.unlock(&lock).unwrap());
        }),
        ("reset", &|| assert_eq!(manager.reset_locks().unwrap(), 2)),
    ];
    for (what, free) in by_name {
        let held = hold();
        assert_hands_over(&manager, what, free);
        drop(held);
    }
    manager.get_lock("x", get().timeout(secs(10))).unwrap();
    assert_hands_over(&manager, "clean", || {
        clock.advance(secs(10));
        assert!(manager.clean_locks().unwrap() <= 1);
    });
    let mut held = hold();
    assert_hands_over(&manager, "unlock of a guard", || {
        assert!(held.unlock("x").unwrap());
    });
    drop(held);
    let held = hold();
    assert_hands_over(&manager, "drop", || drop(held));
    let held = hold();
    assert_hands_over(&manager, "release", || held.release().unwrap());
}

#[test]
fn newcomer_at_the_end_of_a_lease_is_refused_before_the_waiter() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    type Ask<'a> = &'a dyn Fn() -> Error;
    let asks: [(&str, Ask<'_>); 2] = [
        ("get", &|| manager.get_lock("x", get()).unwrap_err()),
        ("set --fail", &|| {
            let fail = SetOptions::new().fail();
            manager.set_lock(["x"], fail).unwrap_err()
        }),
    ];
    for (what, ask) in asks {
        let acquire = manager.acquire(["x"]).lease(secs(10)).no_keep_alive();
        let held = acquire.try_lock().unwrap();
        thread::scope(|scope| {
            let acquire = manager.acquire(["x"]).locked_by("waiter");
            let waiter = scope.spawn(move || acquire.try_lock_for(PATIENCE));
            until_queued(&manager, "x", 1);
            clock.advance(secs(10));
            match ask() {
                Error::Reserved { request, .. } => assert_eq!(request.locked_by(), "waiter"),
                // The request was granted before.
                Error::Locked(by) | Error::LockFail(by) => assert_eq!(by.locked_by(), "waiter"),
                other => panic!("{what}: {other:?}"),
            }
            waiter.join().unwrap().unwrap().release().unwrap();
        });
        drop(held);
    }
}

#[test]
fn command_hands_over_too() {
    let home = Home::new();
    let manager = home.open();
    for args in [&["unlock", "x"][..], &["reset", "-f"]] {
        manager.get_lock("x", get()).unwrap();
        assert_hands_over(&manager, args[0], || {
            assert_eq!(home.json(args).0, DONE);
        });
    }
    let mut holder = Kept::holder(&home, &["x"]);
    assert_hands_over(&manager, "run", || {
        holder.close();
        holder.child().wait().unwrap();
    });
}

/// Returns the columns of a table, row by row.
fn table(ran: &Ran) -> Vec<Vec<&str>> {
    let cells = |row| str::split(row, "  ").map(str::trim);
    let rows = ran
        .stdout
        .lines()
        .map(|row| cells(row).filter(|cell| !cell.is_empty()).collect());
    rows.collect()
}

#[test]
fn everybody_is_told_who_holds_and_who_waits() {
    let home = Home::new();
    let manager = home.open();
    let holder = Kept::holder(&home, &["--locked-by", "edge 7", "x", "free"]);
    let since = manager.find("x").unwrap().unwrap().created_at();
    let mut command = home.command();
    command.args(["run", "-v", "--locked-by", "patient", "x", "y"]);
    let first = Kept::start(command.args(["-w", "600", "--", "true"]));
    until_queued(&manager, "x", 1);
    let second = Kept::start(home.command().args(["run", "-v", "x", "--", "true"]));
    until_queued(&manager, "x", 2);

    let refused = manager.get_lock("x", get()).unwrap_err().to_string();
    let since = since.format("%Y-%m-%dT%H:%M:%SZ");
    let expected = format!(
        "cannot lock \"x\": edge 7 (process {}) holds it since {since}, without a deadline",
        holder.pid()
    );
    assert!(refused.starts_with(&expected), "{refused}");
    assert!(refused.ends_with(", 2 waiting"), "{refused}");
    let (_, error) = home.json(["set", "-e", "x"]);
    assert_eq!(error["error"]["lock"]["waiting"], 2);
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("edge 7") && message.contains("2 waiting"));
    // The name is free, but promised.
    let refused = manager.get_lock("y", get()).unwrap_err().to_string();
    let expected = format!("patient (process {})", first.pid());
    assert!(refused.contains(&expected), "{refused}");

    let (_, list) = home.json(["list"]);
    let shown: Vec<_> = list.as_array().unwrap().iter().collect();
    let bound_to = json!({ "pid": holder.pid(), "alive": true });
    assert_eq!(
        (&shown[0]["name"], &shown[0]["waiting"]),
        (&json!("free"), &json!(0))
    );
    assert_eq!(
        (&shown[1]["name"], &shown[1]["waiting"]),
        (&json!("x"), &json!(2))
    );
    assert!(shown.iter().all(|lock| lock["bound_to"] == bound_to));
    let ran = home.lockmgr(["list"]);
    let rows = table(&ran);
    assert_eq!(rows[0][6..], ["WAITING", "NOTE"]);
    assert_eq!(rows[2][..2], ["x", "1"]);
    assert_eq!(rows[2][2], "edge 7: lockmgr run");
    assert!(rows[2][3].starts_with(&holder.pid().to_string()));
    assert_eq!(rows[2][6..], ["2", "cat"]);

    let (exit, queue) = home.json(["queue"]);
    assert_eq!((exit, queue.as_array().unwrap().len()), (DONE, 2));
    assert_eq!(queue[0]["names"], json!(["x", "y"]));
    assert_eq!(queue[0]["locked_by"], "patient");
    assert_eq!(queue[0]["process_id"], first.pid());
    assert!(queue[0]["waits_until"].is_string() && queue[1]["waits_until"].is_null());
    assert!(queue[0]["asked_at"].as_str() < queue[1]["asked_at"].as_str());
    assert!(queue[0]["number"].as_u64() < queue[1]["number"].as_u64());
    assert_eq!(home.json(["queue", "y"]).1, json!([queue[0]]));
    assert_eq!(home.json(["queue", "z"]), (DONE, json!([])));
    let ran = home.lockmgr(["queue"]);
    let rows = table(&ran);
    assert_eq!(rows[1][..3], ["x y", "patient", &first.pid().to_string()]);
    assert_eq!(rows[2][0], "x");
    let nobody = home.lockmgr(["queue", "z"]).stdout;
    assert!(nobody.starts_with("nobody waits for locks beginning with \"z\" in "));

    let holder_pid = holder.pid();
    assert_eq!(holder.end().status, DONE);
    let said = [first, second].map(|waiter| waiter.end().stderr);
    for (stderr, ahead) in said.iter().zip(["for \"x\"", "for 1 ahead and \"x\""]) {
        let of = format!("\"x\": edge 7 (process {holder_pid}) holds it since {since}, without a");
        assert!(stderr.starts_with("lockmgr: waiting "), "{stderr}");
        assert!(stderr.contains(&of) && stderr.contains(ahead), "{stderr}");
        assert!(stderr.ends_with(" -- cat\"\n"), "{stderr}");
    }
}

#[test]
fn names_of_those_who_wait_are_never_printed_raw() {
    let home = Home::new();
    let manager = home.open();
    let name = "a\u{202e}b";
    let _held = manager.acquire([name]).try_lock().unwrap();
    let mut command = home.command();
    command.args(["run", "-v", name, "--locked-by", name]);
    let waiter = Kept::start(command.args(["--", "true"]));
    until_queued(&manager, "", 1);
    for args in [&["queue"][..], &["list"], &["get", name]] {
        let ran = home.lockmgr(args);
        assert!(!(ran.stdout + &ran.stderr).contains('\u{202e}'), "{args:?}");
    }
    manager.unlock(name).unwrap();
    assert!(!waiter.end().stderr.contains('\u{202e}'));
}

#[test]
fn requests_are_listed_by_any_of_their_names_in_order() {
    let home = Home::new();
    let manager = home.open();
    let all = manager.acquire(["job:1", "job:2", "other"]);
    let all = all.lock().unwrap();
    let sets: [&[&str]; 3] = [&["other", "job:2"], &["other"], &["job:1"]];
    let manager = &manager;
    thread::scope(|scope| {
        for (i, &set) in sets.iter().enumerate() {
            scope.spawn(move || manager.acquire(set).try_lock_for(PATIENCE).map(drop));
            until_queued(manager, "", i + 1);
        }
        let listed = |prefix: &str| -> Vec<Vec<String>> {
            let requests = manager.requests(prefix).unwrap();
            assert!(requests.is_sorted_by(|one, next| one.number() < next.number()));
            let names = |of: &Request| of.names().iter().map(ToString::to_string).collect();
            requests.iter().map(names).collect()
        };
        assert_eq!(listed("job:"), [&["other", "job:2"][..], &["job:1"]]);
        assert_eq!(listed("o"), [&["other", "job:2"][..], &["other"]]);
        assert_eq!(listed("job:1"), [["job:1"]]);
        assert!(listed("b").is_empty());
        assert_eq!(listed("").len(), 3);
        drop(all);
    });
    assert!(manager.requests("").unwrap().is_empty());
}

#[test]
fn wait_goes_on_in_the_new_file_after_the_store_is_deleted() {
    let home = Home::new();
    let manager = home.open();
    manager.get_lock("x", get()).unwrap();
    let process = Kept::holder_in_waiting(&home, "x");
    until_queued(&manager, "x", 1);
    thread::scope(|scope| {
        let mine = home.open();
        let thread = scope.spawn(move || mine.acquire(["x"]).try_lock_for(secs(20)).map(drop));
        until_queued(&manager, "x", 2);
        fs::remove_file(home.db()).unwrap();
        assert_eq!(process.end().status, DONE);
        thread.join().unwrap().unwrap();
    });
    assert!(!home.open().is_locked("x").unwrap());
}

#[test]
fn wait_goes_on_in_the_new_file_after_the_store_is_replaced() {
    let (home, new) = (Home::new(), Home::new());
    home.open().get_lock("x", get()).unwrap();
    let process = Kept::holder_in_waiting(&home, "x");
    until_queued(&home.open(), "x", 1);
    new.json(["get", "x", "--locked-by", "new"]);
    fs::rename(new.db(), home.db()).unwrap();
    let manager = home.open();
    until_queued(&manager, "x", 1);
    assert_eq!(manager.find("x").unwrap().unwrap().locked_by(), "new");
    manager.unlock("x").unwrap();
    assert_eq!(process.end().status, DONE);
}

#[test]
fn waiter_of_a_deleted_store_never_adopts_a_request_in_the_new_one() {
    let (home, new) = (Home::new(), Home::new());
    home.open().get_lock("x", get()).unwrap();
    new.open().get_lock("x", get()).unwrap();
    let old = home.open();
    // The new store has another name at first, so that the second waiter can ask in it beforehand.
    let prepared = home.join("prepared.redb");
    fs::hard_link(new.db(), &prepared).unwrap();
    let (tell, granted) = mpsc::channel();
    let wait = |manager: LockManager, who: &'static str| {
        let tell = tell.clone();
        move || {
            let request = manager.acquire(["x"]).locked_by(who);
            tell.send((who, request.try_lock_for(PATIENCE).unwrap()))
                .unwrap();
        }
    };
    let waiting = || -> Vec<(u64, String)> {
        let requests = home.open().requests("x").unwrap();
        let of = |request: &Request| (request.number(), request.locked_by().to_string());
        requests.iter().map(of).collect()
    };
    thread::scope(|scope| {
        scope.spawn(wait(old, "first"));
        until_queued(&home.open(), "x", 1);
        scope.spawn(wait(new.open(), "second"));
        until_queued(&new.open(), "x", 1);
        assert_eq!(waiting(), [(1, "first".to_owned())]);
        fs::rename(&prepared, home.db()).unwrap();
        // Both are the first of their file, and the one that lost its file has to ask again.
        until_queued(&home.open(), "x", 2);
        assert_eq!(
            waiting(),
            [(1, "second".to_owned()), (2, "first".to_owned())]
        );

        assert!(home.open().unlock("x").unwrap());
        for (expected, token) in [("second", 2), ("first", 3)] {
            let (who, guard) = granted.recv_timeout(PATIENCE).unwrap();
            assert_eq!((who, guard.tokens()), (expected, vec![("x".into(), token)]));
            let lock = home.open().find("x").unwrap().unwrap();
            assert_eq!((lock.locked_by().as_str(), lock.token()), (who, token));
            // While this waiter holds the lock, the other has nothing.
            assert_eq!(waiting().len(), usize::from(who == "second"));
            assert!(granted.try_recv().is_err());
            assert!(guard.is_held().unwrap());
            guard.release().unwrap();
        }
    });
    assert!(!home.open().is_locked("x").unwrap());
}

#[test]
fn waiter_takes_its_grant_from_a_copy_that_replaces_the_store() {
    let (home, copy) = (Home::new(), Home::new());
    let manager = home.open();
    manager.get_lock("x", get()).unwrap();
    thread::scope(|scope| {
        let mine = home.open();
        let waiter = scope.spawn(move || {
            let guard = mine.acquire(["x"]).try_lock_for(PATIENCE).unwrap();
            let tokens = guard.tokens();
            guard.release().unwrap();
            tokens
        });
        until_queued(&manager, "x", 1);
        fs::copy(home.db(), copy.db()).unwrap();
        assert!(copy.open().unlock("x").unwrap());
        let granted = copy.open().find("x").unwrap().unwrap();
        fs::rename(copy.db(), home.db()).unwrap();
        assert_eq!(waiter.join().unwrap(), [("x".into(), granted.token())]);
    });
    assert!(!home.open().is_locked("x").unwrap());
}

#[test]
fn threads_wait_for_each_other_in_an_exclusive_store_too() {
    let home = Home::new();
    let manager = LockManager::builder().exclusive().open(home.db()).unwrap();
    let held = manager.acquire(["x"]).try_lock().unwrap();
    assert_prompt(&manager, || held.release().unwrap());
    let other = manager.acquire(["y"]).try_lock().unwrap();
    let in_vain = manager.acquire(["y"]).try_lock_for(millis(50));
    assert!(matches!(in_vain, Err(Error::Locked(_))));
    assert!(other.is_held().unwrap());
}

#[test]
fn wait_in_a_read_only_store_is_refused() {
    let home = Home::new();
    let held = home.open().acquire(["x"]).try_lock().unwrap();
    let reader = LockManager::builder().read_only().open(home.db()).unwrap();
    for name in ["x", "y"] {
        let refused = reader.acquire([name]).try_lock_for(PATIENCE);
        assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    }
    assert!(reader.requests("").unwrap().is_empty());
    assert!(held.is_held().unwrap());
}

#[test]
fn waiter_that_lost_part_of_its_grant_requeues_and_not_behind_itself() {
    let home = Home::new();
    let manager = home.open();
    let held = manager.acquire(["a"]).try_lock().unwrap();
    let waiter = Kept::start(
        home.command()
            .args(["run", "-w", "20", "a", "b", "--", "true"]),
    );
    until_queued(&manager, "b", 1);
    waiter.stop();
    held.release().unwrap();
    assert!(manager.is_locked("b").unwrap());
    assert!(manager.unlock("a").unwrap());
    let began = Instant::now();
    waiter.signal(Signal::CONT);
    assert_eq!(waiter.end().status, DONE);
    assert!(began.elapsed() < secs(10), "{:?}", began.elapsed());
    assert!(manager.locks("").unwrap().is_empty());
}

#[test]
fn requests_of_the_dead_do_not_pile_up_behind_a_lock_that_stays() {
    let home = Home::new();
    let manager = home.open();
    let _held = manager.acquire(["a"]).try_lock().unwrap();
    for _ in 0..12 {
        let waiter = Kept::start(home.command().args(["run", "a", "--", "true"]));
        until_queued(&manager, "a", 1);
        drop(waiter);
        until_queued(&manager, "", 0);
    }
    assert_eq!(manager.find("a").unwrap().unwrap().waiting(), 0);
    // Counts the rows of all requests, dead ones too: a living request removes all before it.
    let waiter = Kept::start(home.command().args(["run", "a", "--", "true"]));
    until_queued(&manager, "a", 1);
    until("the dead are removed", || rows_of_requests(&home) == 1);
    drop(waiter);
}

/// Returns the rows of requests in the file.
fn rows_of_requests(home: &Home) -> u64 {
    use redb::{ReadableDatabase, ReadableTableMetadata};
    let requests: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("requests");
    let mut builder = redb::Builder::new();
    builder.set_concurrency_mode(redb::ConcurrencyMode::MultiWriter);
    let database = builder.open(home.db()).unwrap();
    let txn = database.begin_read().unwrap();
    txn.open_table(requests).unwrap().len().unwrap()
}

#[test]
fn wait_ends_at_its_bound_while_another_process_keeps_the_store_busy() {
    let home = Home::new();
    let manager = home.open();
    let _held = manager.acquire(["x"]).try_lock().unwrap();
    let bound = millis(700);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let began = Instant::now();
            let refused = manager.acquire(["x"]).try_lock_for(bound);
            (refused.map(drop), began.elapsed())
        });
        until_queued(&manager, "x", 1);
        let mut builder = redb::Builder::new();
        builder.set_concurrency_mode(redb::ConcurrencyMode::MultiWriter);
        let other = builder.open(home.db()).unwrap();
        let writing = other.begin_write().unwrap();
        let (refused, took) = waiter.join().unwrap();
        assert!(matches!(refused, Err(Error::Locked(lock)) if lock.name() == "x"));
        assert!(took >= bound && took < 3 * bound, "{took:?}");
        writing.abort().unwrap();
        // The request is removed as soon as that is possible.
        until_queued(&manager, "x", 0);
    });
}

/// Stands for another process that writes until this is dropped. Uses redb's own handle.
struct Writing {
    _transaction: redb::WriteTransaction,
    _database: redb::Database,
}

impl Writing {
    fn in_store(home: &Home) -> Self {
        let mut builder = redb::Builder::new();
        builder.set_concurrency_mode(redb::ConcurrencyMode::MultiWriter);
        let database = builder.open(home.db()).unwrap();
        Self {
            _transaction: database.begin_write().unwrap(),
            _database: database,
        }
    }
}

#[test]
fn bound_of_a_call_holds_from_its_first_instant_while_another_process_writes() {
    let home = Home::new();
    let manager = home.open();
    let held = manager.acquire(["x"]).try_lock().unwrap();
    let writing = Writing::in_store(&home);
    for bound in [Duration::ZERO, millis(100), millis(400)] {
        assert_ends_at_its_bound(bound, || {
            let refused = manager.acquire(["x"]).try_lock_for(bound);
            assert!(matches!(refused, Err(Error::Locked(lock)) if lock.name() == "x"));
        });
    }
    assert_ends_at_its_bound(Duration::ZERO, || {
        let refused = manager.acquire(["x"]).try_lock();
        assert!(matches!(refused, Err(Error::Locked(_))));
    });
    // A free name is refused too, and then the busy store is the reason.
    assert_ends_at_its_bound(millis(200), || {
        let refused = manager.acquire(["y"]).try_lock_for(millis(200));
        let Err(Error::StoreBusy { waited, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!((millis(200)..secs(5)).contains(&waited), "{waited:?}");
    });
    drop(writing);
    // The row of the ended wait is absent, and does not come later.
    until("nothing stays", || {
        manager.requests("").unwrap().is_empty() && manager.locks("").unwrap().len() == 1
    });
    assert!(held.is_held().unwrap());
}

#[test]
fn wait_without_a_bound_outlasts_a_busy_store() {
    let home = Home::new();
    let manager = LockManager::builder().busy_timeout(millis(50));
    let manager = manager.open(home.db()).unwrap();
    let writing = Writing::in_store(&home);
    thread::scope(|scope| {
        let for_ever = scope.spawn(|| manager.acquire(["x"]).lock());
        let bounded = scope.spawn(|| manager.acquire(["y"]).try_lock_for(PATIENCE));
        thread::sleep(millis(400));
        assert!(!for_ever.is_finished() && !bounded.is_finished());
        drop(writing);
        assert!(for_ever.join().unwrap().is_ok() && bounded.join().unwrap().is_ok());
    });
}

#[test]
fn wait_behind_a_reservation_ends_with_it_while_the_store_is_busy() {
    let home = Home::new();
    let manager = home.open();
    let b = manager.acquire(["b"]).try_lock().unwrap();
    let bound = millis(400);
    thread::scope(|scope| {
        let first = scope.spawn(|| manager.acquire(["a", "b"]).lock().map(drop));
        until_queued(&manager, "", 1);
        let second = scope.spawn(|| {
            let began = Instant::now();
            let refused = manager.acquire(["a"]).try_lock_for(bound);
            (refused.map(drop), began.elapsed())
        });
        until_queued(&manager, "", 2);
        let writing = Writing::in_store(&home);
        let (refused, took) = second.join().unwrap();
        let Err(Error::Reserved { name, request, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((name.as_str(), request.names()[1].as_str()), ("a", "b"));
        assert!(took >= bound && took < 3 * bound, "{took:?}");
        drop(writing);
        until_queued(&manager, "", 1);
        drop(b);
        first.join().unwrap().unwrap();
    });
}

#[test]
fn wait_that_fails_after_a_grant_that_lost_a_part_leaves_nothing() {
    let home = Home::new();
    let manager = home.open();
    let held = manager.acquire(["a"]).try_lock().unwrap();
    let stalls = Arc::new(AtomicBool::new(false));
    let (go, may_go) = mpsc::channel::<()>();
    let (arrived, arrivals) = mpsc::channel::<()>();
    let (may_go, stall) = (Mutex::new(may_go), Arc::clone(&stalls));
    let hook = move |call: StorageCall<'_>| {
        if matches!(call, StorageCall::Lock) && stall.swap(false, Ordering::SeqCst) {
            arrived.send(()).unwrap();
            may_go.lock().unwrap().recv().unwrap();
        }
        Ok(())
    };
    let theirs = LockManager::builder().busy_timeout(millis(200));
    let theirs = theirs.storage_hook(hook).open(home.db()).unwrap();
    thread::scope(|scope| {
        let request = theirs.acquire(["a", "b"]);
        let waiter = scope.spawn(move || request.try_lock_for(secs(8)).map(drop));
        until_queued(&manager, "", 1);
        stalls.store(true, Ordering::SeqCst);
        arrivals.recv().unwrap();
        held.release().unwrap();
        assert!(manager.unlock("a").unwrap());
        let writing = Writing::in_store(&home);
        go.send(()).unwrap();
        let refused = waiter.join().unwrap();
        assert!(refused.is_err());
        drop(writing);
        until("nothing stays", || {
            manager.locks("").unwrap().is_empty() && manager.requests("").unwrap().is_empty()
        });
    });
}

#[test]
fn process_that_ends_between_a_look_and_its_watch_is_noticed_at_once() {
    for nth in 0..4 {
        let home = Home::new();
        let manager = home.open();
        let guard = manager.acquire(["x"]).try_lock().unwrap();
        let process = Kept::idle();
        let pid = process.pid();
        let process = Mutex::new(Some(process));
        let ended_at = Arc::new(Mutex::new(None));
        let is_armed = Arc::new(AtomicBool::new(false));
        let (armed, ended, unlocks) = (
            Arc::clone(&is_armed),
            Arc::clone(&ended_at),
            AtomicUsize::new(0),
        );
        let hook = move |call: StorageCall<'_>| {
            let is_look = matches!(call, StorageCall::Unlock) && armed.load(Ordering::SeqCst);
            if is_look && unlocks.fetch_add(1, Ordering::SeqCst) == nth {
                process.lock().unwrap().take().unwrap().kill_into_zombie();
                *ended.lock().unwrap() = Some(Instant::now());
            }
            Ok(())
        };
        let theirs = LockManager::builder().storage_hook(hook);
        let theirs = theirs.open(home.db()).unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let guard = theirs.acquire(["x"]).try_lock_for(PATIENCE).unwrap();
                (Instant::now(), guard)
            });
            until_queued(&manager, "x", 1);
            is_armed.store(true, Ordering::SeqCst);
            guard.detach_to(pid).unwrap();
            let (at, _guard) = waiter.join().unwrap();
            // Without a wake-up the waiter would look after a second at the latest.
            let took = at.saturating_duration_since(ended_at.lock().unwrap().unwrap());
            assert!(took < millis(600), "{nth}: {took:?}");
        });
    }
}

#[test]
fn cancelled_wait_leaves_the_queue_and_delays_nobody() {
    let home = Home::new();
    let manager = home.open();
    let b = manager.acquire(["b"]).try_lock().unwrap();
    let request = manager.acquire(["a", "b"]);
    let canceller = request.canceller();
    thread::scope(|scope| {
        let waiter = scope.spawn(move || request.lock().map(drop));
        until_queued(&manager, "a", 1);
        assert!(manager.get_lock("a", get()).is_err());
        let next = scope.spawn(|| manager.acquire(["a"]).try_lock_for(PATIENCE).map(drop));
        until_queued(&manager, "a", 2);
        let began = Instant::now();
        canceller.cancel();
        assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled)));
        next.join().unwrap().unwrap();
        assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
    });
    assert!(manager.requests("").unwrap().is_empty());
    assert!(b.is_held().unwrap() && !manager.is_locked("a").unwrap());
}

#[test]
fn wait_cancelled_before_it_begins_or_while_the_store_is_busy_ends() {
    let home = Home::new();
    let manager = LockManager::builder().busy_timeout(millis(100));
    let manager = manager.open(home.db()).unwrap();
    let held = manager.acquire(["x"]).try_lock().unwrap();
    let request = manager.acquire(["x"]);
    request.canceller().cancel();
    assert!(matches!(request.lock(), Err(Error::Cancelled)));

    let request = manager.acquire(["x"]);
    let canceller = request.canceller();
    thread::scope(|scope| {
        let waiter = scope.spawn(move || request.lock().map(drop));
        until_queued(&manager, "x", 1);
        let writing = Writing::in_store(&home);
        let began = Instant::now();
        canceller.cancel();
        assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled)));
        assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
        drop(writing);
    });
    // In the background.
    until_queued(&manager, "", 0);
    held.release().unwrap();
    assert!(manager.locks("").unwrap().is_empty());
}

#[test]
fn lock_found_while_somebody_waits_equals_the_lock_that_was_got() {
    let home = Home::new();
    let manager = home.open();
    let lock = manager.get_lock("x", get()).unwrap();
    assert_eq!(manager.find("x").unwrap().unwrap(), lock);
    thread::scope(|scope| {
        scope.spawn(|| manager.acquire(["x"]).try_lock_for(PATIENCE).map(drop));
        until_queued(&manager, "x", 1);
        let found = manager.find("x").unwrap().unwrap();
        assert_eq!((found.waiting(), lock.waiting()), (1, 0));
        assert_eq!(found, lock);
        assert!(manager.unlock(&lock).unwrap());
    });
}

#[test]
fn refusal_counts_no_dead_waiters() {
    let home = Home::new();
    let manager = home.open();
    let _x = manager.get_lock("x", get()).unwrap();
    let mut dead = actor(&home, &[], "x");
    until_queued(&manager, "x", 1);
    let waiting = |error| match error {
        Error::Locked(lock) | Error::LockFail(lock) => lock.waiting(),
        other => panic!("{other:?}"),
    };
    let counts = || {
        let fail = SetOptions::new().fail();
        [
            waiting(manager.get_lock("x", get()).unwrap_err()),
            waiting(manager.acquire(["x"]).try_lock().unwrap_err()),
            waiting(manager.set_lock(["x"], fail).unwrap_err()),
            manager.find("x").unwrap().unwrap().waiting(),
            manager.locks("").unwrap()[0].waiting(),
        ]
    };
    assert_eq!(counts(), [1; 5]);
    dead.child().kill().unwrap();
    dead.child().wait().unwrap();
    assert_eq!(counts(), [0; 5]);
}

#[test]
fn name_given_twice_to_a_failing_set_is_told_as_such() {
    let home = Home::new();
    let manager = home.open();
    let refused = manager
        .set_lock(["a", "a"], SetOptions::new().fail())
        .unwrap_err();
    assert!(refused.to_string().contains("named twice"), "{refused}");
    assert!(matches!(refused, Error::LockFail(lock) if lock.token() == 0));
    assert!(manager.locks("").unwrap().is_empty());
}

#[test]
fn commit_that_grants_many_requests_of_one_process_rings_them_all() {
    // If each ring were a datagram, a socket would not hold so many unread ones.
    const WAITERS: usize = 60;
    let home = Home::new();
    let (manager, others) = (home.open(), home.open());
    let names: Vec<String> = (0..WAITERS).map(|i| format!("many:{i:02}")).collect();
    let held = manager.acquire(&names).try_lock().unwrap();
    thread::scope(|scope| {
        let wait = |name: &String| {
            let request = others.acquire([name]);
            scope.spawn(move || request.lock().unwrap())
        };
        let waiters: Vec<_> = names.iter().map(wait).collect();
        until_queued(&manager, "many:", WAITERS);
        // The waiters sleep for five seconds unless a ring wakes them.
        let began = Instant::now();
        held.release().unwrap();
        for waiter in waiters {
            waiter.join().unwrap().release().unwrap();
        }
        assert!(began.elapsed() < secs(4), "{:?}", began.elapsed());
    });
}

/// Simulates a suspended machine: the clock by which others judge a request is ahead of the clock
/// by which its process sleeps.
#[test]
fn waiter_whose_request_another_took_for_over_does_not_ask_again() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let _held = manager.acquire(["a"]).try_lock().unwrap();
    for round in 0..20 {
        let asked = manager.acquire(["a", "c"]);
        let waiter = thread::spawn(move || asked.try_lock_for(secs(3600)));
        until_queued(&manager, "a", 1);
        clock.advance(secs(3600));
        // The newcomer takes the names that the request kept, and releases them.
        let taken = manager.acquire(["c"]).try_lock().unwrap();
        until("the wait is over", || waiter.is_finished());
        let answer = waiter.join().unwrap();
        assert!(
            matches!(answer, Err(Error::Locked(_))),
            "round {round}: {answer:?}"
        );
        assert!(manager.requests("").unwrap().is_empty());
        drop(taken);
    }
}

#[test]
fn waiter_that_is_stopped_past_its_bound_does_not_hide_the_end_of_the_holder() {
    let home = Home::new();
    let manager = home.open();
    let holder = Kept::idle();
    let options = GetOptions::new()
        .bound_to(holder.pid())
        .timeout(lockmgr::Timeout::Never);
    manager.get_lock("a", options).unwrap();
    let bounded = Kept::start(home.command().args(["run", "-w", "2", "a", "--", "true"]));
    until_queued(&manager, "a", 1);
    bounded.stop();
    thread::scope(|scope| {
        let next = scope.spawn(|| manager.acquire(["a"]).lock().unwrap());
        until_queued(&manager, "a", 2);
        until("the bound is over", || {
            manager.requests("a").unwrap().len() == 1
        });
        thread::sleep(millis(500));
        let ended = Instant::now();
        holder.kill_into_zombie();
        drop(next.join().unwrap());
        assert!(ended.elapsed() < secs(2), "{:?}", ended.elapsed());
    });
}
