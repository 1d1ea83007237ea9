//! Tests containers, with their own pid namespaces and boot ids. No living process counts as gone.
//! A process killed in a container is found gone on the host, and the reverse.

use crate::acting::actor;
use crate::holding_support::{DONE, Kept, NO, bound_pid, millis, secs, until, until_queued};
use crate::support::{Home, is_root, run, skip, works};
use lockmgr::{Error, GetOptions, LockManager};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// A program that starts other programs in their own namespaces.
type Wrapper = Vec<String>;

fn words(words: &[&str]) -> Wrapper {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Returns a pid namespace with the boot id of the host, or none if the system refuses it.
fn pid_namespace() -> Option<Wrapper> {
    usable(words(&[
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]))
}

/// Returns a container with its own boot id, in its own pid namespace or in that of the host.
fn container(home: &Home, has_pids: bool) -> Option<Wrapper> {
    let id = home.join("boot_id");
    fs::write(&id, "a6a5a4a3-b1b2-4c3c-8d4d-e5e6e7e8e9e0\n").unwrap();
    let mount = format!(
        "mount --bind '{}' /proc/sys/kernel/random/boot_id && exec \"$@\"",
        id.display()
    );
    let mut wrapper = words(&["unshare", "--mount"]);
    if has_pids {
        wrapper.extend(words(&["--pid", "--fork", "--kill-child", "--mount-proc"]));
    }
    wrapper.extend(words(&["sh", "-c", &mount, "sh"]));
    usable(wrapper)
}

fn usable(wrapper: Wrapper) -> Option<Wrapper> {
    if !is_root() {
        skip("only root can make namespaces");
        return None;
    }
    let probe: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    works(&probe).then_some(wrapper)
}

/// Returns the command as it runs in this container.
fn command_in(home: &Home, wrapper: &Wrapper) -> Command {
    let mut command = Command::new(&wrapper[0]);
    let inner = home.command();
    command.args(&wrapper[1..]).arg(inner.get_program());
    command.args(inner.get_args()).env_remove("LOCKMGR_DB");
    command
}

fn json_in(home: &Home, wrapper: &Wrapper, args: &[&str]) -> (Option<i32>, Value) {
    let ran = run(command_in(home, wrapper).arg("--json").args(args));
    (ran.status, ran.document())
}

/// Returns both containers, each in a new directory.
fn in_containers(test: impl Fn(&Home, &LockManager, &Wrapper)) {
    for has_pids in [false, true] {
        let home = Home::new();
        let Some(wrapper) = container(&home, has_pids) else {
            return;
        };
        test(&home, &home.open(), &wrapper);
    }
}

#[test]
fn guard_in_a_container_with_its_own_boot_id_holds_for_the_host() {
    in_containers(|home, manager, wrapper| {
        let mut holder = actor(home, wrapper, "x");
        holder.until_held();
        let refused = manager.acquire(["x"]).try_lock();
        assert!(matches!(refused, Err(Error::Locked(_))), "{refused:?}");
        assert!(manager.get_lock("x", GetOptions::new()).is_err());
        assert_eq!(manager.clean_locks().unwrap(), 0);
        let lock = manager.find("x").unwrap().unwrap();
        assert_eq!(lock.bound_to().unwrap().is_alive(), Some(true));
        // Includes another container, with the same boot id or another.
        assert_eq!(json_in(home, wrapper, &["is-locked", "x"]).0, DONE);
        assert_eq!(holder.end().status, DONE);
        assert!(!manager.is_locked("x").unwrap());
    });
}

#[test]
fn process_of_another_pid_namespace_is_shown_without_its_number_and_its_program() {
    let home = Home::new();
    let Some(wrapper) = pid_namespace() else {
        return;
    };
    let mut holder = command_in(&home, &wrapper);
    let mut holder = Kept::start_open(holder.args(["run", "x", "-c", "echo ready; exec cat"]));
    assert_eq!(holder.line(), "ready");
    let list = home.lockmgr(["list"]).stdout;
    assert!(list.contains("  alive elsewhere  "), "{list}");
    for args in [&["run", "-n", "x", "--", "true"][..], &["unlock", "x"]] {
        let ran = home.lockmgr(args);
        assert_eq!(ran.status, NO, "{ran:?}");
        assert!(!ran.stderr.contains(" runs "), "{ran:?}");
    }
    assert_eq!(holder.end().status, DONE);
}

#[test]
fn guard_of_the_host_holds_for_a_container_with_its_own_boot_id() {
    in_containers(|home, manager, wrapper| {
        let guard = manager.acquire(["x"]).try_lock().unwrap();
        let (exit, lock) = json_in(home, wrapper, &["find", "x"]);
        assert_eq!(exit, DONE);
        assert_eq!(lock["bound_to"]["alive"], json!(true), "{lock}");
        assert_eq!(json_in(home, wrapper, &["get", "x"]).0, NO);
        assert_eq!(
            json_in(home, wrapper, &["clean"]).1,
            json!({ "removed": 0 })
        );
        assert!(guard.is_held().unwrap());
    });
}

#[test]
fn waiter_in_a_container_with_its_own_boot_id_keeps_its_place() {
    in_containers(|home, manager, wrapper| {
        let held = manager.acquire(["y"]).try_lock().unwrap();
        let mut waiter = actor(home, wrapper, "x y");
        until_queued(manager, "x", 1);
        let refused = manager.get_lock("x", GetOptions::new());
        assert!(
            matches!(refused, Err(Error::Reserved { .. })),
            "{refused:?}"
        );
        held.release().unwrap();
        waiter.until_held();
        assert!(manager.is_locked("x").unwrap() && manager.is_locked("y").unwrap());
        assert_eq!(waiter.end().status, DONE);
    });
}

#[test]
fn waiter_of_the_host_keeps_its_place_before_a_container_with_its_own_boot_id() {
    in_containers(|home, manager, wrapper| {
        let held = manager.acquire(["y"]).try_lock().unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| manager.acquire(["x", "y"]).try_lock_for(secs(25)));
            until_queued(manager, "x", 1);
            assert_eq!(json_in(home, wrapper, &["get", "x"]).0, NO);
            let queue = json_in(home, wrapper, &["queue"]).1;
            assert_eq!(queue.as_array().unwrap().len(), 1);
            held.release().unwrap();
            assert!(waiter.join().unwrap().unwrap().is_held().unwrap());
        });
    });
}

#[test]
fn lock_bound_to_a_process_is_not_freed_by_another_boot_id_in_either_direction() {
    in_containers(|home, manager, wrapper| {
        let process = Kept::idle();
        let options = GetOptions::new().bound_to(process.pid());
        manager.get_lock("host", options).unwrap();
        assert_eq!(json_in(home, wrapper, &["is-locked", "host"]).0, DONE);
        assert_eq!(json_in(home, wrapper, &["get", "host"]).0, NO);
        assert_eq!(
            json_in(home, wrapper, &["clean"]).1,
            json!({ "removed": 0 })
        );

        let script = "\"$@\" get there -t 600 --while $$ >&2 && echo held && read -r _";
        let mut there = Command::new(&wrapper[0]);
        there.args(&wrapper[1..]).args(["sh", "-c", script, "sh"]);
        let inner = home.command();
        there.arg(inner.get_program()).args(inner.get_args());
        let mut there = Kept::start_open(&mut there);
        assert_eq!(there.line(), "held");
        assert!(manager.is_locked("there").unwrap());
        assert!(manager.get_lock("there", GetOptions::new()).is_err());
        assert_eq!(manager.clean_locks().unwrap(), 0);
        there.end();
        // An end that can be proved from here is found, whatever the boot ids are.
        process.kill_into_zombie();
        assert!(!manager.is_locked("host").unwrap());
    });
}

#[test]
fn holder_killed_in_another_pid_namespace_is_noticed_well_below_a_second() {
    let Some(wrapper) = pid_namespace() else {
        return;
    };
    let home = Home::new();
    let manager = home.open();
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let mut holder = actor(&home, &wrapper, "x");
        holder.until_held();
        let x = manager.find("x").unwrap().unwrap();
        assert_ne!(bound_pid(&x), Some(holder.pid()));
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let guard = manager.acquire(["x"]).try_lock_for(secs(25)).unwrap();
                (Instant::now(), guard.release())
            });
            until_queued(&manager, "x", 1);
            let began = Instant::now();
            holder.kill_into_zombie();
            let (at, released) = waiter.join().unwrap();
            released.unwrap();
            fastest = fastest.min(at - began);
        });
    }
    assert!(fastest < millis(500), "{fastest:?}");
}

#[test]
fn waiter_killed_in_another_pid_namespace_is_noticed_within_a_second() {
    let Some(wrapper) = pid_namespace() else {
        return;
    };
    let home = Home::new();
    let manager = home.open();
    let _y = manager.acquire(["y"]).try_lock().unwrap();
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let dead = actor(&home, &wrapper, "x y");
        until_queued(&manager, "x", 1);
        thread::scope(|scope| {
            let next = scope.spawn(|| {
                let guard = manager.acquire(["x"]).try_lock_for(secs(25)).unwrap();
                (Instant::now(), guard.release())
            });
            until_queued(&manager, "x", 2);
            let began = Instant::now();
            dead.kill_into_zombie();
            let (at, released) = next.join().unwrap();
            released.unwrap();
            fastest = fastest.min(at - began);
        });
    }
    assert!(fastest < millis(1_200), "{fastest:?}");
    // A newcomer gets a free name without a wait.
    let dead = actor(&home, &wrapper, "x y");
    until_queued(&manager, "x", 1);
    dead.kill_into_zombie();
    until("the dead waiter is gone", || {
        manager.requests("").unwrap().is_empty()
    });
    manager.get_lock("x", GetOptions::new()).unwrap();
}
