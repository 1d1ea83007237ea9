//! Tests names that stay taken for a time, however their hold ends, and leases that are shortened.

use crate::holding_support::{DONE, Kept, NO, USAGE, secs, until, until_queued};
use crate::support::{Home, run};
use lockmgr::{Error, GetOptions, LockRef, RenewOptions, Timeout};
use serde_json::json;
use std::thread;
use std::time::Duration;

/// ShedLock's contract: "the lock will be held for lockAtLeastFor even if the task finishes
/// sooner".
#[test]
fn shedlock_lock_at_least_for_keeps_the_name_after_a_short_task() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let task = || manager.acquire(["report"]).at_least(secs(300)).try_lock();
    task().unwrap().release().unwrap();
    clock.advance(secs(299));
    let Err(Error::Locked(left)) = task() else {
        panic!("the task runs twice within five minutes");
    };
    assert!(left.is_at_least() && left.bound_to().is_none());
    assert_eq!(manager.time_left(&left), Some(secs(1)));
    clock.advance(secs(1));
    task().unwrap().release().unwrap();
}

/// ShedLock's contract: a task that takes longer than lockAtLeastFor frees the name at its end.
#[test]
fn shedlock_lock_at_least_for_ends_with_a_longer_task() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let task = manager.acquire(["report"]).at_least(secs(300)).try_lock();
    clock.advance(secs(301));
    let task = task.unwrap();
    assert!(manager.is_locked("report").unwrap());
    task.release().unwrap();
    assert!(!manager.is_locked("report").unwrap());
}

/// ShedLock's contract for `extend`: the deadline moves to now + lockAtMostFor, also to an earlier
/// one.
#[test]
fn shedlock_extend_may_shorten_the_lease() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let lock = manager.get_lock("report", GetOptions::new()).unwrap();
    let shorten = |seconds| RenewOptions::new().timeout(secs(seconds)).shorten();
    let shorter = manager.renew_lock(&lock, shorten(60)).unwrap();
    assert_eq!(manager.time_left(&shorter), Some(secs(60)));
    assert_eq!(shorter.token(), lock.token());
    clock.advance(secs(60));
    assert!(matches!(
        manager.renew_lock(&lock, shorten(60)),
        Err(Error::LockNotFound { .. })
    ));
    let endless = GetOptions::new().timeout(Timeout::Never);
    let endless = manager.get_lock("endless", endless).unwrap();
    let shorter = manager.renew_lock(&endless, shorten(5)).unwrap();
    assert_eq!(manager.time_left(&shorter), Some(secs(5)));
    // The later of the two times counts.
    let options = shorten(5).add_time();
    let extended = manager.renew_lock(&endless, options).unwrap();
    assert_eq!(manager.time_left(&extended), Some(secs(10)));
}

#[test]
fn waiter_is_granted_at_the_shortened_deadline() {
    let home = Home::new();
    let manager = home.open();
    let lock = manager.get_lock("a", GetOptions::new()).unwrap();
    let waiting = manager.acquire(["a"]);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| waiting.try_lock_for(secs(20)));
        until_queued(&manager, "a", 1);
        let options = RenewOptions::new().timeout(Duration::from_millis(50));
        manager.renew_lock(&lock, options.shorten()).unwrap();
        waiter.join().unwrap().unwrap().release().unwrap();
    });
}

#[test]
fn name_stays_taken_after_its_lease_and_its_token_is_dead() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let options = GetOptions::new().timeout(secs(10)).at_least(secs(60));
    let lock = manager.get_lock("a", options).unwrap();
    assert!(!lock.is_at_least());
    clock.advance(secs(10));
    let left = manager.find("a").unwrap().unwrap();
    assert!(left.is_at_least());
    assert_eq!(manager.locks("").unwrap(), std::slice::from_ref(&left));
    let by_token = LockRef::with_token("a", lock.token());
    assert!(!manager.unlock(by_token).unwrap());
    assert!(matches!(
        manager.renew_lock(by_token, RenewOptions::new()),
        Err(Error::LockNotFound { .. })
    ));
    let bound = RenewOptions::new().bound_to(std::process::id());
    assert!(matches!(
        manager.renew_lock("a", bound),
        Err(Error::Locked(_))
    ));
    assert_eq!(manager.clean_locks().unwrap(), 0);
    assert!(manager.unlock("a").unwrap());
    assert!(!manager.is_locked("a").unwrap());
}

#[test]
fn expired_lease_of_a_living_guard_is_renewed_although_its_name_stays_taken() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let asked = manager.acquire(["a"]).lease(secs(10)).no_keep_alive();
    let mut guard = asked.at_least(secs(60)).try_lock().unwrap();
    clock.advance(secs(20));
    assert!(manager.find("a").unwrap().unwrap().is_at_least());
    guard.renew().unwrap();
    assert!(guard.is_held().unwrap());
    assert!(!manager.find("a").unwrap().unwrap().is_at_least());
    assert!(guard.unlock("a").unwrap());
    assert!(manager.find("a").unwrap().unwrap().is_at_least());
}

#[test]
fn reset_removes_names_that_stay_taken() {
    let home = Home::new();
    let manager = home.open();
    let asked = || manager.acquire(["a"]).at_least(secs(300)).try_lock();
    drop(asked().unwrap());
    assert!(matches!(asked(), Err(Error::Locked(_))));
    assert_eq!(manager.reset_locks().unwrap(), 1);
    assert!(asked().is_ok());
}

#[test]
fn waiter_gets_a_name_when_its_time_is_over() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let first = manager.acquire(["a"]).at_least(secs(300)).try_lock();
    thread::scope(|scope| {
        let asked = manager.acquire(["a"]);
        let waiter = scope.spawn(|| asked.lock());
        until_queued(&manager, "a", 1);
        first.unwrap().release().unwrap();
        assert_eq!(manager.requests("a").unwrap().len(), 1);
        clock.advance(secs(300));
        waiter.join().unwrap().unwrap().release().unwrap();
    });
}

#[test]
fn time_that_is_endless_zero_or_past_the_calendar_is_refused() {
    let home = Home::new();
    let manager = home.open();
    for time in [Timeout::Never, Duration::ZERO.into(), Duration::MAX.into()] {
        let refused = manager.acquire(["a"]).at_least(time).try_lock();
        assert!(matches!(refused, Err(Error::InvalidTimeout(_))), "{time:?}");
        let refused = manager.get_lock("a", GetOptions::new().at_least(time));
        assert!(matches!(refused, Err(Error::InvalidTimeout(_))), "{time:?}");
    }
    assert!(manager.locks("").unwrap().is_empty());
    for time in ["0", "-1", "1e300"] {
        let args = ["run", "--at-least", time, "a", "--", "true"];
        assert_eq!(home.lockmgr(args).status, USAGE, "{time}");
    }
    let become_it = ["run", "-F", "--at-least", "5", "a", "--", "true"];
    assert_eq!(home.lockmgr(become_it).status, USAGE);
}

#[test]
fn job_that_is_killed_leaves_its_name_taken() {
    let home = Home::new();
    let manager = home.open();
    let mut command = home.command();
    let mut job = Kept::start_open(command.args(["run", "--at-least", "600", "a", "--", "cat"]));
    until("it holds", || manager.is_locked("a").unwrap());
    assert!(!manager.find("a").unwrap().unwrap().is_at_least());
    job.kill_into_zombie();
    job.close();
    let left = || manager.find("a").unwrap().unwrap();
    until("its job has ended", || left().is_at_least());
    assert_eq!(left().note().unwrap(), "cat");
    let (exit, document) = home.json(["find", "a"]);
    assert_eq!((exit, &document["at_least"]), (DONE, &json!(true)));
    assert_eq!(document["bound_to"], json!(null));
}

#[test]
fn command_runs_once_within_the_time_and_only_force_unlocks_it() {
    let home = Home::new();
    let run = || home.lockmgr(["run", "-n", "--at-least", "600", "a", "--", "true"]);
    assert_eq!(run().status, DONE);
    let refused = run();
    assert_eq!(refused.status, NO);
    assert!(
        refused.stderr.contains("stays taken until"),
        "{}",
        refused.stderr
    );
    let refused = home.lockmgr(["unlock", "a"]);
    assert_eq!(refused.status, NO);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(home.lockmgr(["unlock", "--force", "a"]).status, DONE);
    assert_eq!(run().status, DONE);
    // A lock that is still held is refused too. With its token the holder releases it.
    let (_, lock) = home.json(["get", "b", "--at-least", "600"]);
    assert_eq!(home.lockmgr(["unlock", "b"]).status, NO);
    let token = lock["token"].to_string();
    let given_back = home.lockmgr(["unlock", "b", "--token", &token]);
    assert_eq!(given_back.status, DONE);
    assert_eq!(home.json(["is-locked", "b"]).1, json!(true));
    assert_eq!(home.lockmgr(["unlock", "b", "--token", &token]).status, NO);
    assert_eq!(home.lockmgr(["check", "b", &token]).status, NO);
}

#[test]
fn inner_run_is_not_covered_by_a_hold_that_has_ended() {
    let home = Home::new();
    // The job releases its own lock, and goes on.
    let script = "\"$0\" -q unlock a --token $LOCKMGR_TOKENS && \"$0\" run -n a -- echo twice";
    let mut command = home.command();
    command.args(["run", "--on-lost", "warn", "--at-least", "600", "a", "--"]);
    let ran = run(command.args(["sh", "-c", script, env!("CARGO_BIN_EXE_lockmgr")]));
    assert_eq!((ran.status, ran.stdout.as_str()), (NO, ""), "{ran:?}");
    assert!(ran.stderr.contains("stays taken until"), "{ran:?}");
}

#[test]
fn command_shortens_a_deadline() {
    let home = Home::new();
    home.json(["get", "a"]);
    let (exit, lock) = home.json(["renew", "a", "-t", "5", "--shorten"]);
    assert_eq!(exit, DONE);
    let left = home.open().find("a").unwrap().unwrap();
    assert!(home.open().time_left(&left).unwrap() <= secs(5), "{lock}");
    let both = ["renew", "a", "--shorten", "--add-time"];
    assert_eq!(home.lockmgr(both).status, USAGE);
}
