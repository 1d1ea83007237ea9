//! Tests guards: a guard releases its locks, whatever happens, and reports locks that it lost.

use crate::acting::executing;
use crate::holding_support::{DONE, Kept, NO, bound_pid, millis, secs, until, until_queued};
use crate::support::{Home, noon};
use chrono::{DateTime, TimeDelta, Utc};
use lockmgr::{
    Acquire, Bound, Error, GetOptions, Lock, LockGuard, LockManager, LockRef, RenewOptions, Timeout,
};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

fn get() -> GetOptions {
    GetOptions::new()
}

fn after(span: Duration) -> Option<DateTime<Utc>> {
    Some(noon() + TimeDelta::from_std(span).unwrap())
}

fn locked(manager: &LockManager) -> Vec<String> {
    let locks = manager.locks("").unwrap();
    locks.iter().map(|lock| lock.name().to_string()).collect()
}

/// The lock that a guard lost, and its present holder.
fn lost<T: std::fmt::Debug>(result: Result<T, Error>) -> (Lock, Option<Lock>) {
    match result {
        Err(Error::Lost { lock, by, .. }) => (*lock, by.map(|by| *by)),
        other => panic!("{other:?}"),
    }
}

/// The locks that `on_lost` was called for, in order.
#[derive(Clone, Default)]
struct Losses(Arc<Mutex<Vec<(String, u64)>>>);

impl Losses {
    fn tell(&self, acquire: Acquire) -> Acquire {
        let losses = self.clone();
        acquire.on_lost(move |lock| {
            let loss = (lock.name().to_string(), lock.token());
            losses.0.lock().unwrap().push(loss);
        })
    }

    /// Checks the locks of the calls. The manager's thread may have found a loss first, and may
    /// report it a moment later.
    #[track_caller]
    fn assert_told(&self, expected: &[(String, u64)]) {
        until("the losses are told", || {
            self.told().len() >= expected.len()
        });
        let (mut told, mut expected) = (self.told(), expected.to_vec());
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected);
    }

    fn told(&self) -> Vec<(String, u64)> {
        self.0.lock().unwrap().clone()
    }
}

fn token(name: &str, token: u64) -> (String, u64) {
    (name.to_owned(), token)
}

#[test]
fn guard_holds_all_its_names_or_none() {
    let home = Home::new();
    let manager = home.open();
    let b = manager.get_lock("b", get()).unwrap();
    let refused = manager.acquire(["a", "b", "c"]).try_lock().unwrap_err();
    assert!(matches!(refused, Error::Locked(held) if *held == b));
    assert_eq!(locked(&manager), ["b"]);

    manager.unlock("b").unwrap();
    let guard = manager.acquire(["a", "b", "c"]).try_lock().unwrap();
    assert_eq!(locked(&manager), ["a", "b", "c"]);
    assert!(guard.is_held().unwrap());
    assert_eq!(home.json(["get", "c"]).0, NO);
}

#[test]
fn guard_shows_its_options() {
    let home = Home::new();
    let (manager, _) = home.open_with_clock();
    let guard = manager.acquire(["a"]).try_lock().unwrap();
    let a = manager.find("a").unwrap().unwrap();
    assert_eq!(a.locked_by(), "app");
    assert_eq!(a.locked_until(), None);
    assert_eq!((guard.deadline(), guard.time_left()), (None, None));
    assert_eq!(a.process_id(), None);
    let bound_to = a.bound_to().unwrap();
    assert_eq!(bound_to.process_id(), std::process::id());
    assert_eq!(
        (bound_to.kind(), bound_to.is_alive()),
        (Bound::Manager, Some(true))
    );
    drop(guard);

    let acquire = manager.acquire(["a"]).lease(secs(7)).no_keep_alive();
    let mut guard = acquire.locked_by("x").process_id(42).try_lock().unwrap();
    guard.lock("b").unwrap();
    for lock in manager.locks("").unwrap() {
        assert_eq!(lock.locked_by(), "x");
        assert_eq!(lock.locked_until(), after(secs(7)));
        assert_eq!(lock.process_id(), Some(42));
        assert_eq!(bound_pid(&lock), Some(std::process::id()));
    }
    drop(guard);

    for lease in [Timeout::Never, Duration::ZERO.into()] {
        let guard = manager.acquire(["a"]).lease(lease).try_lock().unwrap();
        assert_eq!((guard.deadline(), guard.time_left()), (None, None));
    }
}

#[test]
fn guard_releases_its_locks_when_it_is_dropped_released_or_unwound() {
    let home = Home::new();
    let manager = home.open();
    let hold = || manager.acquire(["a", "b"]).try_lock().unwrap();

    let guard = hold();
    assert_eq!(locked(&manager), ["a", "b"]);
    drop(guard);
    assert!(locked(&manager).is_empty());

    hold().release().unwrap();
    assert!(locked(&manager).is_empty());

    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _guard = hold();
        assert_eq!(locked(&manager), ["a", "b"]);
        resume_unwind(Box::new("thrown"));
    }));
    assert_eq!(*unwound.unwrap_err().downcast::<&str>().unwrap(), "thrown");
    assert!(locked(&manager).is_empty());
}

#[test]
fn guard_moves_to_another_thread() {
    fn may_be_shared<T: Send + Sync>(_: &T) {}
    let home = Home::new();
    let manager = home.open();
    let guard = manager.acquire(["a"]).try_lock().unwrap();
    may_be_shared(&guard);
    thread::spawn(move || drop(guard)).join().unwrap();
    assert!(locked(&manager).is_empty());
}

#[test]
fn guard_outlives_every_other_handle_of_its_manager() {
    let home = Home::new();
    let guard = home.open().acquire(["a"]).try_lock().unwrap();
    assert!(guard.is_held().unwrap());
    drop(guard);
    assert!(!home.open().is_locked("a").unwrap());
}

#[test]
fn guard_never_touches_a_successors_lock() {
    let home = Home::new();
    let manager = home.open();
    type End = fn(LockGuard);
    let ends: [End; 5] = [
        drop,
        |guard| drop(lost(guard.release())),
        |mut guard| drop(lost(guard.unlock("a"))),
        |guard| drop(lost(guard.detach())),
        |mut guard| drop(lost(guard.renew())),
    ];
    for end in ends {
        for keeps in [false, true] {
            // The first lock was removed by name, and another request has the name now.
            let acquire = manager.acquire(["a", "b"]).lease(secs(60));
            let acquire = if keeps {
                acquire
            } else {
                acquire.no_keep_alive()
            };
            let guard = acquire.try_lock().unwrap();
            assert!(manager.unlock("a").unwrap());
            let successor = manager.get_lock("a", get()).unwrap();
            end(guard);
            assert_eq!(manager.find("a").unwrap(), Some(successor.clone()));
            assert_eq!(locked(&manager), ["a"]);
            assert!(manager.unlock(&successor).unwrap());
        }
    }
}

#[test]
fn expired_and_taken_lease_is_reported_in_every_way() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let losses = Losses::default();
    let acquire = losses
        .tell(manager.acquire(["a"]))
        .lease(secs(10))
        .no_keep_alive();
    let mut guard = acquire.try_lock().unwrap();
    assert!(guard.is_held().unwrap());
    let a = manager.find("a").unwrap().unwrap();

    clock.advance(secs(10));
    assert!(!guard.is_held().unwrap());
    assert_eq!(guard.time_left(), Some(Duration::ZERO));
    // No other holder has the name: the lock can still be renewed, and is not lost.
    assert_eq!(losses.told(), []);

    let other = manager.get_lock("a", get()).unwrap();
    assert!(!guard.is_held().unwrap());
    losses.assert_told(&[token("a", 1)]);
    assert_eq!(lost(guard.renew()), (a.clone(), Some(other.clone())));
    assert_eq!(lost(guard.renew_by(secs(1))).0, a);
    assert_eq!(lost(guard.lock("c")).0, a);
    assert_eq!(lost(guard.try_lock("c")).0, a);
    assert_eq!(lost(guard.unlock("c")).0, a);
    assert_eq!(lost(guard.unlock("a")).0, a);
    assert!(!guard.is_held().unwrap());
    assert_eq!((guard.tokens(), guard.deadline()), (vec![], None));
    assert_eq!(lost(guard.release()).1, Some(other.clone()));
    losses.assert_told(&[token("a", 1)]);
    assert_eq!(manager.locks("").unwrap(), [other]);
}

#[test]
fn removed_lock_is_reported_in_every_way() {
    let home = Home::new();
    let (manager, _) = home.open_with_clock();
    type Call = fn(&mut LockGuard) -> Result<(), Error>;
    let calls: [(&str, Call); 4] = [
        ("renew", |guard| guard.renew()),
        ("unlock", |guard| guard.unlock("a").map(drop)),
        ("is_held", |guard| {
            assert!(!guard.is_held()?);
            guard.try_lock("b")
        }),
        ("is_held, lock", |guard| {
            assert!(!guard.is_held()?);
            guard.lock("b")
        }),
    ];
    for (what, call) in calls {
        let losses = Losses::default();
        let mut guard = losses.tell(manager.acquire(["a"])).try_lock().unwrap();
        let a = manager.find("a").unwrap().unwrap();
        // Another holder had the name meanwhile.
        manager.unlock("a").unwrap();
        let other = manager.get_lock("a", get()).unwrap();
        let told = lost(call(&mut guard));
        assert_eq!(told.0, a, "{what}");
        assert!(told.1.is_none_or(|by| by == other), "{what}");
        assert!(!guard.is_held().unwrap(), "{what}");
        losses.assert_told(&[token("a", a.token())]);
        assert!(matches!(guard.release(), Err(Error::Lost { .. })), "{what}");
        assert_eq!(losses.told().len(), 1, "{what}");
        manager.unlock(&other).unwrap();
    }
    assert!(locked(&manager).is_empty());
}

#[test]
fn lost_lock_is_reported_once() {
    let home = Home::new();
    let manager = home.open();
    let losses = Losses::default();
    let guard = losses.tell(manager.acquire(["a", "b", "c"]));
    let guard = guard.try_lock().unwrap();
    manager.unlock("c").unwrap();
    assert!(!guard.is_held().unwrap());
    manager.unlock("a").unwrap();
    assert!(!guard.is_held().unwrap());
    assert!(!guard.is_held().unwrap());
    losses.assert_told(&[token("c", 3), token("a", 1)]);
    assert_eq!(guard.tokens(), [token("b", 2)]);
    drop(guard);
    assert_eq!(losses.told().len(), 2);
    assert!(locked(&manager).is_empty());
}

#[test]
fn release_that_fails_ends_within_its_bound() {
    let (home, bound) = (Home::new(), secs(2));
    let manager = LockManager::builder().busy_timeout(bound);
    let manager = manager.open(home.db()).unwrap();
    let guard = manager.acquire(["a"]).try_lock().unwrap();
    let mut other = redb::Builder::new();
    other.set_concurrency_mode(redb::ConcurrencyMode::MultiWriter);
    let other = other.open(home.db()).unwrap();
    let writing = other.begin_write().unwrap();
    let began = Instant::now();
    let refused = guard.release();
    let took = began.elapsed();
    assert!(matches!(refused, Err(Error::StoreBusy { .. })));
    assert!(took >= bound && took < 2 * bound, "{took:?}");
    writing.abort().unwrap();
    // The release is repeated in the background.
    until("the lock is released", || !manager.is_locked("a").unwrap());
}

#[test]
fn guard_dropped_while_the_store_is_busy_is_released_later() {
    let home = Home::new();
    let manager = LockManager::builder().busy_timeout(millis(100));
    let manager = manager.open(home.db()).unwrap();
    let others = home.open();
    let guard = manager.acquire(["a", "b"]).try_lock().unwrap();
    let mut other = redb::Builder::new();
    other.set_concurrency_mode(redb::ConcurrencyMode::MultiWriter);
    let other = other.open(home.db()).unwrap();
    let writing = other.begin_write().unwrap();
    drop(guard);
    // The end of the manager does not end that work either.
    drop(manager);
    assert_eq!(locked(&others), ["a", "b"]);
    writing.abort().unwrap();
    until("the locks are released", || locked(&others).is_empty());
}

#[test]
fn renewal_by_zero_is_invalid_and_changes_nothing() {
    let home = Home::new();
    let (manager, _) = home.open_with_clock();
    let mut guard = manager.acquire(["a"]).lease(secs(60)).lock().unwrap();
    for zero in [Duration::ZERO.into(), Timeout::After(Duration::ZERO)] {
        let refused = guard.renew_by(zero);
        assert!(matches!(refused, Err(Error::InvalidTimeout(_))));
    }
    assert_eq!(guard.deadline(), after(secs(60)));
    let mut unleased = manager.acquire(["b"]).lock().unwrap();
    let refused = unleased.renew_by(Duration::ZERO);
    assert!(matches!(refused, Err(Error::InvalidTimeout(_))));
    assert_eq!(
        manager.find("a").unwrap().unwrap().locked_until(),
        after(secs(60))
    );
    // A lock renewed by name keeps the old meaning.
    let options = RenewOptions::new().timeout(Duration::ZERO);
    assert_eq!(
        manager.renew_lock("a", options).unwrap().locked_until(),
        None
    );
}

#[test]
fn guard_without_a_lease_is_told_at_once_when_its_lock_is_forced_away() {
    let home = Home::new();
    let manager = home.open();
    type Force<'a> = (&'a str, &'a dyn Fn(&LockManager));
    let forces: [Force<'_>; 2] = [
        ("unlock", &|by| assert!(by.unlock("a").unwrap())),
        ("reset", &|by| assert_eq!(by.reset_locks().unwrap(), 1)),
    ];
    for (what, force) in forces {
        let told_after = |_| {
            let losses = Losses::default();
            let mut guard = losses.tell(manager.acquire(["a"])).try_lock().unwrap();
            let began = Instant::now();
            force(&home.open());
            until(what, || !losses.told().is_empty());
            let took = began.elapsed();
            lost(guard.renew());
            lost(guard.release());
            assert_eq!(losses.told().len(), 1);
            took
        };
        // Without a ping the look that comes every two seconds would find it. On a busy machine a
        // ping may take as long.
        let fastest = (0..5).map(told_after).min();
        assert!(fastest < Some(millis(100)), "{fastest:?}");
    }
}

#[test]
fn job_keeps_its_locks_as_long_as_a_process_has_its_descriptor() {
    let home = Home::new();
    let manager = home.open();
    let guard = manager.acquire(["a"]).job().try_lock().unwrap();
    let descriptor = guard.job_descriptor().unwrap();
    let job = {
        // The command has the descriptor too, until the command is dropped.
        let mut command = Command::new("sleep");
        Kept::start_with(command.arg("600").stdin(Stdio::from(descriptor)))
    };
    assert!(!guard.leave_to_job().unwrap());
    let bound_to = manager.find("a").unwrap().unwrap().bound_to().unwrap();
    assert_eq!(
        (bound_to.kind(), bound_to.is_alive()),
        (Bound::Job, Some(true))
    );
    assert!(manager.acquire(["a"]).try_lock().is_err());
    assert_eq!(home.json(["is-locked", "a"]).0, DONE);
    job.kill_into_zombie();
    assert!(!manager.is_locked("a").unwrap());
    // Without such a process the locks are released.
    let guard = manager.acquire(["a"]).job().try_lock().unwrap();
    assert!(guard.leave_to_job().unwrap());
    assert!(!manager.is_locked("a").unwrap());
}

#[test]
fn guard_of_a_process_that_executes_another_program_is_gone() {
    let home = Home::new();
    let manager = home.open();
    let mut holder = executing(&home, "a");
    holder.until_held();
    assert!(manager.is_locked("a").unwrap());
    let pid = holder.pid();
    holder.close();
    until("it executes another program", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n"
    });
    assert!(!manager.is_locked("a").unwrap());
    drop(manager.acquire(["a"]).try_lock().unwrap());
    assert!(holder.child().try_wait().unwrap().is_none());
}

#[test]
fn loss_found_by_the_release_is_reported_too() {
    let home = Home::new();
    let manager = home.open();
    for end in [
        (|guard| assert!(guard.release().is_err())) as fn(LockGuard),
        drop,
    ] {
        let losses = Losses::default();
        let guard = losses.tell(manager.acquire(["a"])).try_lock().unwrap();
        let tokens = guard.tokens();
        manager.unlock("a").unwrap();
        end(guard);
        losses.assert_told(&tokens);
    }
}

#[test]
fn kept_lease_finds_its_loss_by_itself_and_its_callback_may_use_the_locks() {
    let home = Home::new();
    let manager = home.open();
    let found = Arc::new(Mutex::new(None));
    let (in_callback, note) = (manager.clone(), Arc::clone(&found));
    let acquire = manager.acquire(["a"]).lease(millis(900));
    let acquire = acquire.on_lost(move |lock| {
        let again = in_callback.get_lock("found", GetOptions::new());
        let by = thread::current().name().map(str::to_owned);
        *note.lock().unwrap() = Some((lock.token(), again.is_ok(), by));
    });
    let guard = acquire.try_lock().unwrap();
    manager.unlock("a").unwrap();
    until("the loss is found", || found.lock().unwrap().is_some());
    let (token, could_lock, by) = found.lock().unwrap().take().unwrap();
    assert_eq!((token, could_lock), (1, true));
    assert_ne!(by.as_deref(), thread::current().name());
    assert_eq!(lost(guard.release()).0.token(), 1);
    assert_eq!(locked(&manager), ["found"]);
}

#[test]
fn renewal_adds_two_minutes() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let acquire = manager.acquire(["a", "b"]).lease(secs(60)).no_keep_alive();
    let mut guard = acquire.try_lock().unwrap();
    guard.renew().unwrap();
    assert_eq!(guard.deadline(), after(secs(180)));
    clock.advance(secs(100));
    guard.renew().unwrap();
    assert_eq!(guard.deadline(), after(secs(300)));
    assert_eq!(guard.time_left(), Some(secs(200)));
    guard.renew_by(secs(1)).unwrap();
    for lock in manager.locks("").unwrap() {
        assert_eq!(lock.locked_until(), after(secs(301)));
        assert_eq!(lock.updated_at(), noon() + TimeDelta::seconds(100));
        assert_eq!(lock.created_at(), noon());
    }
    assert_eq!(guard.tokens(), [token("a", 1), token("b", 2)]);

    let refused = guard.renew_by(Duration::MAX);
    assert!(matches!(refused, Err(Error::InvalidTimeout(_))));
    assert_eq!(guard.deadline(), after(secs(301)));
    guard.renew_by(Timeout::Never).unwrap();
    guard.renew().unwrap();
    assert_eq!(guard.deadline(), None);
    assert_eq!(manager.find("a").unwrap().unwrap().locked_until(), None);
}

#[test]
fn renewal_restarts_an_expired_lease() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let mut guard = manager
        .acquire(["a"])
        .lease(secs(10))
        .no_keep_alive()
        .try_lock()
        .unwrap();
    clock.advance(secs(1_000));
    assert!(!guard.is_held().unwrap());
    guard.renew().unwrap();
    assert!(guard.is_held().unwrap());
    assert_eq!(guard.time_left(), Some(secs(120)));
    let now = manager.find("a").unwrap().unwrap();
    assert_eq!(guard.tokens(), [token("a", now.token())]);
    assert_eq!(bound_pid(&now), Some(std::process::id()));
}

#[test]
fn lease_that_ran_out_is_swept_by_nobody_while_its_guard_lives() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let losses = Losses::default();
    let acquire = losses
        .tell(manager.acquire(["a"]))
        .lease(secs(10))
        .no_keep_alive();
    let mut guard = acquire.try_lock().unwrap();
    clock.advance(secs(10));
    // The locks of other requests do not change this either.
    for other in 0..100 {
        manager.get_lock(format!("{other}"), get()).unwrap();
    }
    assert_eq!(manager.clean_locks().unwrap(), 0);
    assert!(!guard.is_held().unwrap());
    assert!(!manager.is_locked("a").unwrap());
    assert_eq!(losses.told(), []);
    guard.renew().unwrap();
    assert!(guard.is_held().unwrap());
    assert_eq!(guard.tokens(), [token("a", 1)]);
    assert_eq!(guard.time_left(), Some(secs(120)));
    assert_eq!(losses.told(), []);
}

#[test]
fn lease_that_another_had_and_gave_back_is_lost() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let losses = Losses::default();
    let acquire = losses.tell(manager.acquire(["a"])).lease(secs(10));
    let mut guard = acquire.no_keep_alive().try_lock().unwrap();
    let a = manager.find("a").unwrap().unwrap();
    clock.advance(secs(10));
    let other = manager.get_lock("a", get()).unwrap();
    manager.unlock(&other).unwrap();
    // The name is free again, and another holder had it in between.
    assert_eq!(lost(guard.renew()), (a.clone(), None));
    assert!(!guard.is_held().unwrap());
    losses.assert_told(&[token("a", 1)]);
    assert!(!manager.is_locked("a").unwrap());
    assert_eq!(lost(guard.release()).0, a);
}

#[test]
fn renewal_never_takes_a_name_that_another_holds_or_waits_for() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let acquire = manager.acquire(["a", "b"]).lease(secs(10)).no_keep_alive();
    let mut guard = acquire.try_lock().unwrap();
    clock.advance(secs(10));
    let other = manager.get_lock("a", get()).unwrap();
    assert_eq!(lost(guard.renew()).1, Some(other.clone()));
    // The other lock was renewed.
    let b = manager.find("b").unwrap().unwrap();
    assert_eq!(guard.tokens(), [token("b", b.token())]);
    assert_eq!(b.locked_until(), after(secs(130)));
    drop(guard);
    manager.unlock(&other).unwrap();

    let mut guard = manager
        .acquire(["a"])
        .lease(secs(10))
        .no_keep_alive()
        .try_lock()
        .unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| manager.acquire(["a"]).lock().unwrap());
        until_queued(&manager, "a", 1);
        // A late renewal comes before a request that was granted nothing.
        clock.advance(secs(10));
        guard.renew().unwrap();
        clock.advance(secs(120));
        let refused = manager.get_lock("a", get());
        assert!(matches!(
            refused,
            Err(Error::Reserved { .. } | Error::Locked(_))
        ));
        lost(guard.renew());
        let waiter = waiter.join().unwrap();
        assert!(waiter.is_held().unwrap());
    });
}

#[test]
fn kept_lease_outlives_its_time_and_another_does_not() {
    let home = Home::new();
    let manager = home.open();
    let lease = millis(1_500);
    let began = Instant::now();
    let kept = manager.acquire(["kept"]).lease(lease);
    let kept = kept.lock().unwrap();
    let unkept = manager
        .acquire(["unkept"])
        .lease(lease)
        .no_keep_alive()
        .try_lock()
        .unwrap();
    let first = (kept.deadline(), unkept.deadline());
    thread::sleep(lease);
    until("the lease of nobody's care ends", || {
        !unkept.is_held().unwrap()
    });
    assert!(began.elapsed() >= lease);
    assert!(!manager.is_locked("unkept").unwrap());
    assert_eq!(unkept.deadline(), first.1);
    assert!(kept.is_held().unwrap());
    assert!(kept.deadline() > first.0);
    assert_eq!(kept.tokens(), [token("kept", 1)]);
    kept.release().unwrap();
    // No thread renews the lock any more.
    assert!(!manager.is_locked("kept").unwrap());
}

#[test]
fn guard_adds_and_releases_single_locks() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let mut guard = manager
        .acquire(["a"])
        .lease(secs(10))
        .no_keep_alive()
        .try_lock()
        .unwrap();
    clock.advance(secs(4));
    guard.lock("b").unwrap();
    guard.try_lock("c").unwrap();
    let tokens = [token("a", 1), token("b", 2), token("c", 3)];
    assert_eq!(guard.tokens(), tokens);
    // Each lock has the whole lease from its own beginning. The first lock ends first.
    assert_eq!(guard.deadline(), after(secs(10)));
    assert_eq!(
        manager.find("c").unwrap().unwrap().locked_until(),
        after(secs(14))
    );

    for own in ["a", "b"] {
        let refused = guard.try_lock(own);
        assert!(matches!(refused, Err(Error::Locked(lock)) if lock.name() == own));
    }
    let d = manager.get_lock("d", get()).unwrap();
    let refused = guard.try_lock("d");
    assert!(matches!(refused, Err(Error::Locked(lock)) if *lock == d));
    assert_eq!(guard.tokens(), tokens);

    assert!(guard.unlock("a").unwrap());
    assert!(!guard.unlock("a").unwrap());
    // The lock belongs to another guard.
    assert!(!guard.unlock("d").unwrap());
    assert_eq!(locked(&manager), ["b", "c", "d"]);
    assert_eq!(guard.deadline(), after(secs(14)));
    drop(guard);
    assert_eq!(locked(&manager), ["d"]);
}

#[test]
fn guard_that_released_all_holds_nothing_and_may_lock_again() {
    let home = Home::new();
    let manager = home.open();
    let mut guard = manager.acquire(["a"]).try_lock().unwrap();
    assert!(guard.unlock("a").unwrap());
    assert_eq!((guard.tokens(), guard.deadline()), (vec![], None));
    let other = manager.acquire(["a"]).try_lock().unwrap();
    guard.renew().unwrap();
    assert!(other.is_held().unwrap());
    drop(other);
    guard.lock("a").unwrap();
    assert_eq!(guard.tokens(), [token("a", 3)]);
    guard.release().unwrap();
    assert!(locked(&manager).is_empty());
}

#[test]
fn lock_to_add_is_waited_for_by_lock_and_not_by_try_lock() {
    let home = Home::new();
    let manager = home.open();
    let b = manager.acquire(["b"]).try_lock().unwrap();
    let mut patient = manager.acquire(["a"]).try_lock().unwrap();
    assert!(matches!(patient.try_lock("b"), Err(Error::Locked(_))));
    assert!(manager.requests("").unwrap().is_empty());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| patient.lock("b").map(|()| patient.tokens()));
        until_queued(&manager, "b", 1);
        b.release().unwrap();
        let tokens = waiter.join().unwrap().unwrap();
        assert_eq!(tokens.len(), 2);
    });
    assert!(patient.is_held().unwrap());
    drop(patient);
    assert!(locked(&manager).is_empty());
}

#[test]
fn kept_guard_keeps_what_it_waits_with() {
    let home = Home::new();
    let manager = home.open();
    let b = manager.acquire(["b"]).try_lock().unwrap();
    let acquire = manager.acquire(["a"]).lease(millis(1_200));
    let mut guard = acquire.lock().unwrap();
    let first = guard.deadline().unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| guard.lock("b").map(|()| guard.is_held()));
        until("the lease was renewed during the wait", || {
            let a = manager.find("a").unwrap();
            a.is_some_and(|a| a.locked_until() > Some(first))
        });
        drop(b);
        assert!(waiter.join().unwrap().unwrap().unwrap());
    });
}

#[test]
fn tokens_are_in_the_order_of_the_names_and_those_of_the_store() {
    let home = Home::new();
    let manager = home.open();
    let guard = manager.acquire(["b", "c", "a"]).try_lock().unwrap();
    assert_eq!(
        guard.tokens(),
        [token("b", 1), token("c", 2), token("a", 3)]
    );
    for (name, token) in guard.tokens() {
        assert_eq!(manager.find(&name).unwrap().unwrap().token(), token);
    }
    drop(guard);
    let guard = manager.acquire(["a"]).try_lock().unwrap();
    assert_eq!(guard.tokens(), [token("a", 4)]);
}

#[test]
fn forgotten_guard_releases_nothing() {
    let home = Home::new();
    let manager = home.open();
    std::mem::forget(manager.acquire(["a"]).try_lock().unwrap());
    assert!(manager.is_locked("a").unwrap());
    drop(manager);
    assert_eq!(home.json(["is-locked", "a"]).0, DONE);
    assert_eq!(home.json(["get", "a"]).0, NO);
    assert!(home.open().unlock("a").unwrap());
}

#[test]
fn name_given_twice_counts_once() {
    let home = Home::new();
    let manager = home.open();
    let guard = manager.acquire(["a", "b", "a", "a"]).try_lock().unwrap();
    assert_eq!(guard.tokens(), [token("a", 1), token("b", 2)]);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| manager.acquire(["a", "a"]).lock().unwrap());
        until_queued(&manager, "", 1);
        assert_eq!(manager.requests("").unwrap()[0].names(), ["a"]);
        assert_eq!(manager.find("a").unwrap().unwrap().waiting(), 1);
        drop(guard);
        assert_eq!(waiter.join().unwrap().tokens(), [token("a", 3)]);
    });
    assert!(locked(&manager).is_empty());
}

#[test]
fn empty_request_is_granted_without_the_store() {
    let home = Home::new();
    let manager = home.open();
    let before = home.bytes();
    let none: [&str; 0] = [];
    let mut guard = manager.acquire(none).lock().unwrap();
    assert!(guard.is_held().unwrap());
    assert_eq!((guard.tokens(), guard.deadline()), (vec![], None));
    guard.renew().unwrap();
    assert!(!guard.unlock("a").unwrap());
    assert_eq!(home.bytes(), before);
    guard.lock("a").unwrap();
    assert_eq!(locked(&manager), ["a"]);
    guard.release().unwrap();
    let kept = manager.acquire(none).lease(millis(30));
    assert!(kept.lock().unwrap().detach().unwrap().is_empty());
}

#[test]
fn guard_holds_ten_thousand_names() {
    let home = Home::new();
    let manager = home.open();
    let names: Vec<String> = (0..10_000).map(|i| format!("lock {i:05}")).collect();
    let mut guard = manager.acquire(&names).try_lock().unwrap();
    assert_eq!(guard.tokens().len(), names.len());
    assert!(guard.is_held().unwrap());
    guard.renew().unwrap();
    assert_eq!(locked(&manager), names);
    assert!(guard.unlock(&names[5_000]).unwrap());
    guard.release().unwrap();
    assert!(locked(&manager).is_empty());
}

#[test]
fn invalid_request_is_refused_before_the_store_is_read() {
    let home = Home::new();
    let manager = home.open();
    let before = home.bytes();
    let long = "x".repeat(256);
    for name in ["", "a\nb", "\u{7f}", &long] {
        let refused = manager.acquire(["a", name]).lock();
        assert!(matches!(refused, Err(Error::InvalidName(_))), "{refused:?}");
        let refused = manager.acquire(["a"]).locked_by(name).try_lock();
        assert!(matches!(refused, Err(Error::InvalidName(_))), "{refused:?}");
    }
    let refused = manager
        .acquire(["a"])
        .lease(Duration::MAX)
        .no_keep_alive()
        .try_lock();
    assert!(matches!(refused, Err(Error::InvalidTimeout(_))));
    assert_eq!(home.bytes(), before);

    let mut guard = manager.acquire(["a"]).lock().unwrap();
    for name in ["", "a\nb", &long] {
        assert!(matches!(guard.lock(name), Err(Error::InvalidName(_))));
        assert!(matches!(guard.try_lock(name), Err(Error::InvalidName(_))));
        assert!(!guard.unlock(name).unwrap());
    }
    assert!(guard.is_held().unwrap());
}

#[test]
fn detached_locks_are_left_to_their_lease() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let guard = manager.acquire(["b", "a"]).lease(secs(10));
    let locks = guard.lock().unwrap().detach().unwrap();
    let names: Vec<&str> = locks.iter().map(|lock| lock.name().as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    for lock in &locks {
        assert_eq!(lock.bound_to(), None);
        assert_eq!(manager.find(lock.name()).unwrap().as_ref(), Some(lock));
    }
    clock.advance(secs(10));
    assert!(locked(&manager).is_empty());
}

#[test]
fn locks_detached_to_a_process_go_with_it() {
    let home = Home::new();
    let manager = home.open();
    let process = Kept::idle();
    let guard = manager.acquire(["a"]).lease(Timeout::Never);
    let locks = guard.lock().unwrap().detach_to(process.pid()).unwrap();
    assert_eq!(bound_pid(&locks[0]), Some(process.pid()));
    assert!(manager.is_locked("a").unwrap());
    process.kill_into_zombie();
    assert!(!manager.is_locked("a").unwrap());
    assert!(!manager.unlock(LockRef::from(&locks[0])).unwrap());
}

#[test]
fn locks_are_released_that_cannot_be_detached() {
    let home = Home::new();
    let manager = home.open();
    let guard = manager.acquire(["a"]).try_lock().unwrap();
    let refused = guard.detach_to(u32::MAX);
    assert!(matches!(refused, Err(Error::NoSuchProcess { pid, .. }) if pid == u32::MAX));
    assert!(locked(&manager).is_empty());

    let guard = manager.acquire(["a", "b"]).try_lock().unwrap();
    manager.unlock("a").unwrap();
    assert_eq!(lost(guard.detach()).0.name(), "a");
    assert!(locked(&manager).is_empty());
}

#[test]
fn lock_added_during_a_renewal_stays() {
    let home = Home::new();
    let manager = home.open();
    let acquire = manager.acquire(["a"]).lease(millis(600));
    let mut guard = acquire.try_lock().unwrap();
    let began = Instant::now();
    // Eight renewals, at each third of the lease.
    while began.elapsed() < millis(1_600) {
        let name = format!("b{}", began.elapsed().as_micros());
        guard.lock(&name).unwrap();
        thread::sleep(millis(3));
        let held = guard.tokens();
        assert!(held.iter().any(|(held, _)| *held == name), "{name}");
        assert!(guard.unlock(&name).unwrap());
    }
}

#[test]
fn lost_lock_is_known_while_a_renewal_waits_for_another_process() {
    let home = Home::new();
    let manager = home.open();
    let acquire = manager.acquire(["a"]).lease(millis(900));
    let guard = acquire.try_lock().unwrap();
    manager.unlock("a").unwrap();
    let mut builder = redb::Builder::new();
    builder.set_concurrency_mode(redb::ConcurrencyMode::MultiWriter);
    let other = builder.open(home.db()).unwrap();
    let writing = other.begin_write().unwrap();
    // Waits until the renewal, at a third of the lease, is under way.
    thread::sleep(millis(400));
    assert!(!guard.is_held().unwrap());
    writing.abort().unwrap();
}

#[test]
fn renewal_never_takes_back_a_removed_lock() {
    let home = Home::new();
    let manager = home.open();
    let mut guard = manager.acquire(["a"]).try_lock().unwrap();
    manager.unlock("a").unwrap();
    assert_eq!(lost(guard.renew()).0.name(), "a");
    assert!(locked(&manager).is_empty());
}

#[test]
fn lease_that_ran_out_is_renewed_late_unless_a_waiter_can_have_it() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let mut guard = manager
        .acquire(["a"])
        .lease(secs(5))
        .no_keep_alive()
        .try_lock()
        .unwrap();
    let b = manager.get_lock("b", get()).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| manager.acquire(["a", "b"]).lock());
        until_queued(&manager, "a", 1);
        clock.advance(secs(5));
        // The waiter cannot have both names: no other holder had the lock meanwhile.
        guard.renew().unwrap();
        clock.advance(secs(200));
        manager.unlock(&b).unwrap();
        waiter.join().unwrap().unwrap().release().unwrap();
        assert_eq!(lost(guard.renew()).0.name(), "a");
    });
}

#[test]
fn guard_stays_usable_after_a_call_that_panics() {
    let home = Home::new();
    let manager = home.open();
    let acquire = manager.acquire(["a", "b"]);
    let guard = acquire
        .on_lost(|_| panic!("on purpose"))
        .try_lock()
        .unwrap();
    manager.unlock("a").unwrap();
    assert!(!guard.is_held().unwrap());
    drop(guard);
    assert!(locked(&manager).is_empty());
}

#[test]
fn lease_that_would_end_past_the_calendar_harms_no_other_request() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let held = manager.acquire(["a"]).try_lock().unwrap();
    let last: DateTime<Utc> = "9999-12-31T23:59:59Z".parse().unwrap();
    let lease = (last - noon()).to_std().unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| manager.acquire(["a"]).lease(lease).no_keep_alive().lock());
        until_queued(&manager, "a", 1);
        clock.advance(secs(60));
        held.release().unwrap();
        manager.get_lock("other", get()).unwrap();
        let refused = waiter.join().unwrap();
        assert!(
            matches!(refused, Err(Error::InvalidTimeout(_))),
            "{refused:?}"
        );
    });
    assert_eq!(locked(&manager), ["other"]);
}

#[test]
fn job_that_is_left_while_another_waits_is_handed_over_and_not_lost() {
    let home = Home::new();
    let manager = home.open();
    let losses = Losses::default();
    let guard = losses.tell(manager.acquire(["a"])).job().lock().unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| manager.acquire(["a"]).lock().unwrap());
        until_queued(&manager, "a", 1);
        assert!(guard.leave_to_job().unwrap());
        assert!(waiter.join().unwrap().is_held().unwrap());
    });
    losses.assert_told(&[]);
}

#[test]
fn guard_of_a_deleted_store_leaves_the_equal_token_of_a_successor_alone() {
    let home = Home::new();
    let (first, second) = (home.open(), home.open());
    let guard = first.acquire(["a"]).lock().unwrap();
    fs::remove_file(home.db()).unwrap();
    let successor = second.acquire(["a"]).lock().unwrap();
    assert_eq!(guard.token(), successor.token());
    until("the loss is found", || !guard.is_held().unwrap());
    assert_eq!(lost(guard.release()).0.token(), successor.token());
    assert!(successor.is_held().unwrap());
}

#[test]
fn panic_of_the_callers_condition_is_the_callers_and_removes_nothing() {
    let home = Home::new();
    let manager = home.open();
    manager.get_lock("a", get()).unwrap();
    let unlock = || manager.unlock_all_if(["a"], |_| panic!("on purpose"));
    let panicked = catch_unwind(AssertUnwindSafe(unlock)).unwrap_err();
    assert_eq!(panicked.downcast_ref::<&str>(), Some(&"on purpose"));
    assert!(manager.is_locked("a").unwrap());
}
