//! Tests locks that are shared, held by slots, or any of several: the contracts that users know
//! from Curator, Consul and filelock, and our own.

use crate::holding_support::{DONE, Kept, NO, USAGE, lines, millis, secs, until, until_queued};
use crate::support::{Home, run};
use lockmgr::{
    Error, GetOptions, Lock, LockManager, LockRef, Mode, RenewOptions, SetOptions, Status, Timeout,
};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

fn tokens(locks: &[Lock]) -> Vec<u64> {
    locks.iter().map(Lock::token).collect()
}

fn is_locked_by<T: std::fmt::Debug>(answer: Result<T, Error>, token: u64) -> bool {
    matches!(answer, Err(Error::Locked(lock)) if lock.token() == token)
}

/// Curator's InterProcessReadWriteLock: "the read lock may be held simultaneously by multiple
/// reader processes, so long as there are no writers. The write lock is exclusive."
#[test]
fn curator_read_lock_is_held_by_many_and_the_write_lock_by_one() {
    let home = Home::new();
    let (a, b) = (home.open(), home.open());
    let readers = [&a, &b, &a].map(|it| it.acquire_shared(["config"]).try_lock().unwrap());
    assert_eq!(a.holders("config").unwrap().len(), 3);
    let first = readers[0].token();
    assert!(is_locked_by(b.acquire(["config"]).try_lock(), first));
    drop(readers);
    let writer = b.acquire(["config"]).try_lock().unwrap();
    assert!(is_locked_by(
        a.acquire_shared(["config"]).try_lock(),
        writer.token()
    ));
    assert!(is_locked_by(
        a.acquire(["config"]).try_lock(),
        writer.token()
    ));
}

/// Curator: "if a reader tries to acquire the write lock it will never succeed", and "downgrading
/// from the write lock to a read lock" is possible.
#[test]
fn curator_reader_does_not_become_a_writer_and_a_writer_becomes_a_reader() {
    let home = Home::new();
    let manager = home.open();
    let mut reader = manager.acquire_shared(["config"]).lock().unwrap();
    let upgraded = manager.acquire(["config"]).try_lock_for(millis(20));
    assert!(is_locked_by(upgraded, reader.token()));
    assert!(is_locked_by(reader.try_lock("config"), reader.token()));
    assert!(reader.is_held().unwrap());
    reader.release().unwrap();

    let mut writer = manager.acquire(["config"]).lock().unwrap();
    let token = writer.token();
    writer.downgrade().unwrap();
    assert_eq!(writer.locks()[0].mode(), Mode::Shared);
    assert_eq!(manager.find("config").unwrap().unwrap().token(), token);
    let beside = manager.acquire_shared(["config"]).try_lock().unwrap();
    assert!(writer.is_held().unwrap());
    writer.release().unwrap();
    assert_eq!(
        tokens(&manager.holders("config").unwrap()),
        [beside.token()]
    );
}

/// Curator's InterProcessSemaphoreV2: a limited set of leases, several of them at once, and "if the
/// client session drops (crash, etc.), any leases held by the client are automatically closed".
#[test]
fn curator_semaphore_limits_its_leases_and_takes_back_those_of_the_dead() {
    let home = Home::new();
    let manager = home.open();
    let three = manager.acquire_slots(["cc"], 3, 4).try_lock().unwrap();
    assert!(is_locked_by(
        manager.acquire_slots(["cc"], 2, 4).try_lock(),
        three.token()
    ));
    let crashing = Kept::holder(&home, &["-o", "--slots", "4", "cc"]);
    assert!(is_locked_by(
        manager.acquire_slots(["cc"], 1, 4).try_lock(),
        three.token()
    ));
    let waiter = thread::spawn({
        let manager = home.open();
        move || manager.acquire_slots(["cc"], 1, 4).lock()
    });
    until_queued(&manager, "cc", 1);
    crashing.kill_into_zombie();
    let lease = waiter.join().unwrap().unwrap();
    assert_eq!(manager.holders("cc").unwrap().len(), 2);
    assert_eq!(lease.locks()[0].mode(), Mode::Slots { take: 1, of: 4 });
}

/// Curator: "this semaphore is mostly fair, each user will get a lease in the order requested".
/// Ours is, also for a request that wants more slots than are free.
#[test]
fn curator_semaphore_gives_leases_in_the_order_requested() {
    let home = Home::new();
    let manager = home.open();
    let singles = [1, 2, 3, 4].map(|_| manager.acquire_slots(["cc"], 1, 4).lock().unwrap());
    thread::scope(|scope| {
        let all = scope.spawn(|| manager.acquire_slots(["cc"], 4, 4).lock().unwrap().token());
        until_queued(&manager, "cc", 1);
        let one = scope.spawn(|| manager.acquire_slots(["cc"], 1, 4).lock().unwrap().token());
        until_queued(&manager, "cc", 2);
        for (left, single) in (1..=4).rev().zip(singles) {
            // A newcomer that wants one slot does not pass the waiter for all slots.
            let newcomer = manager.acquire_slots(["cc"], 1, 4).try_lock();
            assert!(newcomer.unwrap_err().is_contention());
            assert_eq!(manager.holders("cc").unwrap().len(), left);
            single.release().unwrap();
        }
        assert!(all.join().unwrap() < one.join().unwrap());
    });
}

/// `consul lock -n`: "all locks using the same prefix must agree on the value of -n. If conflicting
/// values of -n are provided, an error will be returned."
#[test]
fn consul_lock_holders_agree_on_their_number() {
    let home = Home::new();
    let manager = home.open();
    let four = manager.acquire_slots(["web"], 1, 4).lock().unwrap();
    let asked = [
        manager.acquire_slots(["web"], 1, 5).try_lock(),
        manager.acquire_slots(["web"], 1, 5).lock(),
    ];
    for refused in asked {
        let Err(error @ Error::SlotsMismatch { asked, held, .. }) = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!((*asked, *held), (5, 4));
        assert!(error.to_string().contains("say 4 too"), "{error}");
    }
    let ran = home.lockmgr(["run", "--slots", "5", "web", "--", "true"]);
    assert_eq!(ran.status, USAGE, "{ran:?}");
    let (exit, refused) = home.json(["get", "--slots", "2", "web"]);
    assert_eq!(
        (exit, &refused["error"]["kind"]),
        (USAGE, &json!("SlotsMismatch"))
    );
    assert!(manager.requests("").unwrap().is_empty());
    drop(four);
    // When the name is free, a request may set a new number. Then the old number is refused.
    let five = manager.acquire_slots(["web"], 1, 5).lock().unwrap();
    let four = manager.get_lock("web", GetOptions::new().slots(1, 4));
    assert!(matches!(
        four,
        Err(Error::SlotsMismatch {
            asked: 4,
            held: 5,
            ..
        })
    ));
    drop(five);
}

#[test]
fn request_that_comes_to_its_turn_with_another_number_of_slots_is_refused_then() {
    let home = Home::new();
    let manager = home.open();
    let alone = manager.acquire(["web"]).lock().unwrap();
    thread::scope(|scope| {
        let four = scope.spawn(|| manager.acquire_slots(["web"], 1, 4).lock());
        until_queued(&manager, "web", 1);
        let five = scope.spawn(|| manager.acquire_slots(["web"], 1, 5).lock());
        until_queued(&manager, "web", 2);
        alone.release().unwrap();
        let four = four.join().unwrap().unwrap();
        assert!(matches!(
            five.join().unwrap(),
            Err(Error::SlotsMismatch { .. })
        ));
        assert_eq!(tokens(&manager.holders("web").unwrap()), [four.token()]);
    });
    assert!(manager.requests("").unwrap().is_empty());
}

/// filelock's ReadWriteLock: readers share, a writer holds the lock alone, a wait that takes too
/// long fails, and a holder that asks for the other mode gets an error.
#[test]
fn filelock_readers_share_and_a_change_of_mode_is_refused() {
    let home = Home::new();
    let manager = home.open();
    let mut reader = manager.acquire_shared(["data"]).lock().unwrap();
    let _other = home.open().acquire_shared(["data"]).try_lock().unwrap();
    let began = Instant::now();
    let late = manager.acquire(["data"]).try_lock_for(millis(50));
    assert!(is_locked_by(late, reader.token()));
    assert!(began.elapsed() >= millis(50));
    assert!(matches!(reader.lock("data"), Err(Error::Locked(_))));
}

#[test]
fn waiting_writer_stops_later_readers_and_is_granted_in_its_turn() {
    let home = Home::new();
    let manager = home.open();
    let reader = manager.acquire_shared(["config"]).lock().unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| manager.acquire(["config"]).lock().unwrap());
        until_queued(&manager, "config", 1);
        for newcomer in [
            manager.acquire_shared(["config"]).try_lock().map(drop),
            manager
                .get_lock("config", GetOptions::new().shared())
                .map(drop),
        ] {
            assert!(
                matches!(newcomer, Err(Error::Reserved { .. })),
                "{newcomer:?}"
            );
        }
        let readers = [(); 2].map(|()| scope.spawn(|| manager.acquire_shared(["config"]).lock()));
        until_queued(&manager, "config", 3);
        reader.release().unwrap();
        let writer = writer.join().unwrap();
        assert_eq!(manager.holders("config").unwrap().len(), 1);
        writer.release().unwrap();
        // Both are granted in one transaction.
        let guards = readers.map(|reader| reader.join().unwrap().unwrap());
        assert_eq!(manager.holders("config").unwrap().len(), 2);
        drop(guards);
    });
}

#[test]
fn downgrade_lets_readers_in_and_no_writer_between() {
    let home = Home::new();
    let manager = home.open();
    let mut guard = manager
        .acquire(["a", "b"])
        .slots(["c"], 1, 2)
        .lock()
        .unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| manager.acquire_shared(["a", "b"]).lock());
        until_queued(&manager, "", 1);
        let writer = scope.spawn(|| manager.acquire(["a"]).lock());
        until_queued(&manager, "", 2);
        guard.downgrade().unwrap();
        let reader = reader.join().unwrap().unwrap();
        assert_eq!(manager.holders("a").unwrap().len(), 2);
        let modes: Vec<Mode> = guard.locks().iter().map(Lock::mode).collect();
        let slots = Mode::Slots { take: 1, of: 2 };
        assert_eq!(modes, [Mode::Shared, Mode::Shared, slots]);
        // A second call changes nothing.
        guard.downgrade().unwrap();
        assert!(!writer.is_finished());
        drop((guard, reader));
        drop(writer.join().unwrap().unwrap());
    });
    let (late, clock) = home.open_with_clock();
    let leased = late.acquire(["l"]).lease(secs(10)).no_keep_alive();
    let mut leased = leased.lock().unwrap();
    clock.advance(secs(11));
    leased.downgrade().unwrap();
    assert!(leased.is_held().unwrap());
    let mut lost = manager.acquire(["a"]).lock().unwrap();
    manager.unlock("a").unwrap();
    let _other = manager.acquire(["a"]).lock().unwrap();
    assert!(matches!(lost.downgrade(), Err(Error::Lost { .. })));
    assert_eq!(manager.find("a").unwrap().unwrap().mode(), Mode::Exclusive);
}

#[test]
fn request_of_several_kinds_is_granted_whole_or_not_at_all() {
    let home = Home::new();
    let manager = home.open();
    let ask = || {
        let request = manager.acquire(["ledger"]).shared(["config"]);
        request.slots(["gigabytes"], 3, 8).exclusive(["journal"])
    };
    for (name, options) in [
        ("ledger", GetOptions::new().shared()),
        ("config", GetOptions::new()),
        ("gigabytes", GetOptions::new().slots(6, 8)),
        ("journal", GetOptions::new().slots(1, 100)),
    ] {
        let held = manager.get_lock(name, options).unwrap();
        assert!(is_locked_by(ask().try_lock(), held.token()), "{name}");
        assert_eq!(manager.locks("").unwrap().len(), 1);
        assert!(manager.unlock(&held).unwrap());
    }
    let others = [
        manager
            .get_lock("config", GetOptions::new().shared())
            .unwrap(),
        manager
            .get_lock("gigabytes", GetOptions::new().slots(5, 8))
            .unwrap(),
    ];
    let guard = ask().try_lock().unwrap();
    let names: Vec<_> = guard
        .locks()
        .iter()
        .map(|lock| lock.name().to_string())
        .collect();
    assert_eq!(names, ["ledger", "config", "gigabytes", "journal"]);
    guard.release().unwrap();
    assert_eq!(tokens(&manager.locks("").unwrap()), tokens(&others));
}

#[test]
fn any_of_several_takes_the_first_that_are_free_and_says_which() {
    let home = Home::new();
    let manager = home.open();
    let gpus = ["gpu:0", "gpu:1", "gpu:2"];
    let first = manager.acquire_any(2, gpus).lock().unwrap();
    let names = |it: &lockmgr::LockGuard| -> Vec<String> {
        it.tokens().into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(&first), ["gpu:0", "gpu:1"]);
    thread::scope(|scope| {
        let second = scope.spawn(|| manager.acquire_any(2, gpus).lock().unwrap());
        until_queued(&manager, "", 1);
        assert_eq!(manager.requests("").unwrap()[0].any(), Some(2));
        // The waiter also keeps the free name from later requests.
        let later = manager.acquire(["gpu:2"]).try_lock();
        assert!(matches!(later, Err(Error::Reserved { .. })), "{later:?}");
        first.release().unwrap();
        let second = second.join().unwrap();
        assert_eq!(names(&second), ["gpu:0", "gpu:1"]);
        drop(manager.acquire(["gpu:2"]).try_lock().unwrap());
    });
}

#[test]
fn bad_requests_are_refused_by_a_clear_error_before_anything_is_asked() {
    let home = Home::new();
    let manager = home.open();
    let none: [&str; 0] = [];
    for (request, said) in [
        (
            manager.acquire_slots(["a"], 0, 4),
            "a claim of 0 slots holds nothing",
        ),
        (
            manager.acquire_slots(["a"], 5, 4),
            "5 slots cannot be taken of 4",
        ),
        (manager.acquire_slots(["a"], 0, 0), "of 0 slots"),
        (
            manager.acquire(["a"]).shared(["a"]),
            "named twice: as exclusive and as shared",
        ),
        (
            manager.acquire_slots(["a", "a"], 1, 4),
            "\"a\" is named twice",
        ),
        (manager.acquire_any(1, none), "any of no names"),
        (manager.acquire_any(0, ["a"]), "any 0 of 1 names"),
        (manager.acquire_any(3, ["a", "b"]), "any 3 of 2 names"),
        (manager.acquire_any(1, ["a", "a"]), "named twice"),
        (manager.acquire_any(1, ["a"]).shared(["b"]), "stands alone"),
        (manager.acquire(["b"]).any_of(1, ["a"]), "stands alone"),
    ] {
        let error = request.lock().unwrap_err();
        assert!(matches!(error, Error::InvalidRequest(_)), "{error:?}");
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
    let slots = GetOptions::new().slots(2, 1);
    assert!(matches!(
        manager.get_lock("a", slots),
        Err(Error::InvalidRequest(_))
    ));
    assert!(manager.locks("").unwrap().is_empty());
}

#[test]
fn verbs_by_token_act_on_one_hold_and_by_name_on_all() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let shared = |seconds| GetOptions::new().shared().timeout(secs(seconds));
    let holds = [10, 20, 30].map(|seconds| manager.get_lock("a", shared(seconds)).unwrap());
    let left = || {
        let holders = manager.holders("a").unwrap();
        let left = holders
            .iter()
            .map(|lock| manager.time_left(lock).unwrap().as_secs());
        left.collect::<Vec<_>>()
    };
    let renewal = |seconds| RenewOptions::new().timeout(secs(seconds));
    manager
        .renew_lock(&holds[1], renewal(25).shorten())
        .unwrap();
    assert_eq!(left(), [10, 25, 30]);
    assert_eq!(manager.renew_lock("a", renewal(28)).unwrap().token(), 1);
    assert_eq!(left(), [28, 28, 30]);
    for options in [
        renewal(1).add_time(),
        renewal(1).shorten(),
        renewal(1).bound_to(std::process::id()),
    ] {
        let refused = manager.renew_lock("a", options).unwrap_err();
        assert!(matches!(refused, Error::Unsupported { .. }), "{refused:?}");
        assert!(refused.to_string().contains("by its token"), "{refused}");
    }
    let unknown = LockRef::with_token("a", 99);
    let not_found = manager.renew_lock(unknown, renewal(1));
    assert!(matches!(not_found, Err(Error::LockNotFound { .. })));
    assert!(!manager.unlock(unknown).unwrap());
    assert!(manager.unlock(&holds[0]).unwrap());
    assert_eq!(left(), [28, 30]);
    clock.advance(secs(28));
    assert_eq!(tokens(&manager.holders("a").unwrap()), [3]);
    // If a name has one hold, the name alone identifies the hold.
    manager.renew_lock("a", renewal(60).add_time()).unwrap();
    assert_eq!(left(), [62]);
    manager.get_lock("a", shared(5)).unwrap();
    assert!(manager.unlock("a").unwrap());
    assert!(!manager.is_locked("a").unwrap());
    manager.get_lock("a", GetOptions::new()).unwrap();
}

#[test]
fn set_lock_skips_what_is_held_in_another_way() {
    let home = Home::new();
    let manager = home.open();
    let held = manager.get_lock("a", GetOptions::new().shared()).unwrap();
    manager
        .get_lock("b", GetOptions::new().slots(1, 2))
        .unwrap();
    // Tests both ways: the conflict is found before the write, and by the write.
    for names in [["a", "b", "c"], ["c2", "a", "b"]] {
        let result = manager.set_lock(names, SetOptions::new()).unwrap();
        assert_eq!(result.counts().skip_renew, 2);
        assert_eq!(result.counts().created, 1);
        let status = result.status("a").unwrap();
        assert_eq!(
            (status.status, status.was_locked, status.locked),
            (Status::Skip, true, true)
        );
        assert_eq!(result.get("a"), Some(&held));
    }
    let fail = manager.set_lock(["d", "a"], SetOptions::new().fail());
    assert!(matches!(fail, Err(Error::LockFail(lock)) if *lock == held));
    assert!(!manager.is_locked("d").unwrap());
}

#[test]
fn late_renewal_keeps_a_shared_hold_and_not_a_slot_that_another_has() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let lease = |request: lockmgr::Acquire| request.lease(secs(10)).no_keep_alive();
    let mut shared = lease(manager.acquire_shared(["a"])).lock().unwrap();
    let mut slot = lease(manager.acquire_slots(["b"], 1, 2)).lock().unwrap();
    let mut other = lease(manager.acquire_slots(["b"], 1, 2)).lock().unwrap();
    clock.advance(secs(11));
    // Another sharer takes nothing away. Another holder of both slots does.
    let _reader = manager.acquire_shared(["a"]).lock().unwrap();
    let both = manager.acquire_slots(["b"], 2, 2).lock().unwrap();
    shared.renew().unwrap();
    assert_eq!(manager.holders("a").unwrap().len(), 2);
    for guard in [&mut slot, &mut other] {
        assert!(matches!(guard.renew(), Err(Error::Lost { .. })));
    }
    assert_eq!(tokens(&manager.holders("b").unwrap()), [both.token()]);
    // An exclusive holder takes the name from all.
    drop(_reader);
    clock.advance(secs(200));
    let alone = manager.acquire(["a"]).lock().unwrap();
    assert!(matches!(shared.renew(), Err(Error::Lost { .. })));
    assert_eq!(tokens(&manager.holders("a").unwrap()), [alone.token()]);
}

#[test]
fn name_stays_taken_for_its_least_time_in_the_way_it_was_held() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let slot = || manager.acquire_slots(["api"], 1, 2).at_least(secs(60));
    slot().lock().unwrap().release().unwrap();
    slot().lock().unwrap().release().unwrap();
    assert!(matches!(slot().try_lock(), Err(Error::Locked(left)) if left.is_at_least()));
    let holders = manager.holders("api").unwrap();
    assert_eq!(holders.len(), 2);
    assert!(
        holders
            .iter()
            .all(|lock| lock.mode() == Mode::Slots { take: 1, of: 2 })
    );
    let reader = manager.acquire_shared(["b"]).at_least(secs(60)).lock();
    reader.unwrap().release().unwrap();
    drop(manager.acquire_shared(["b"]).try_lock().unwrap());
    assert!(manager.acquire(["b"]).try_lock().is_err());
    clock.advance(secs(60));
    drop(slot().try_lock().unwrap());
    drop(manager.acquire(["b"]).try_lock().unwrap());
}

#[test]
fn thousands_share_a_name_and_the_dead_among_them_cost_no_slot_and_no_row_for_ever() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let options = |seconds| GetOptions::new().shared().timeout(secs(seconds));
    for _ in 0..2_000 {
        manager.get_lock("a", options(10)).unwrap();
    }
    assert_eq!(manager.holders("a").unwrap().len(), 2_000);
    clock.advance(secs(10));
    assert!(!manager.is_locked("a").unwrap());
    // Housekeeping of later holds removes them.
    for _ in 0..400 {
        manager.get_lock("a", options(10_000)).unwrap();
    }
    assert_eq!(manager.inspect().unwrap().expired(), 0);
    assert_eq!(manager.unlock_all(["a"]).unwrap(), [true]);

    for _ in 0..4 {
        manager
            .get_lock("b", GetOptions::new().slots(1, 4).timeout(secs(1)))
            .unwrap();
    }
    clock.advance(secs(1));
    manager
        .get_lock("b", GetOptions::new().slots(3, 4).timeout(secs(1)))
        .unwrap();
    assert_eq!(manager.locks("").unwrap().len(), 1);
    clock.advance(secs(1));
    assert_eq!(manager.clean_locks().unwrap(), 1);
    for _ in 0..3 {
        manager.get_lock("c", options(1)).unwrap();
    }
    assert_eq!(manager.reset_locks().unwrap(), 3);
    // The call reads all rows.
    assert_eq!(manager.inspect().unwrap().live(), 0);
}

#[test]
fn dead_rows_behind_living_ones_of_a_name_are_swept_too() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let get = |seconds| {
        let options = GetOptions::new().shared().timeout(secs(seconds));
        manager.get_lock("a", options).unwrap()
    };
    (0..20).for_each(|_| drop(get(10_000)));
    (0..100).for_each(|_| drop(get(1)));
    clock.advance(secs(1));
    (0..50).for_each(|_| drop(get(10_000)));
    assert_eq!(manager.inspect().unwrap().expired(), 0);
    assert_eq!(manager.holders("a").unwrap().len(), 70);
}

#[test]
fn head_that_waits_for_the_last_of_several_holders_notices_the_end_of_each() {
    let home = Home::new();
    let manager = home.open();
    let mut first = Kept::holder(&home, &["-s", "a"]);
    // The kernel kills their commands.
    let second = Kept::holder(&home, &["-o", "-s", "a"]);
    let third = Kept::holder(&home, &["-o", "-s", "a"]);
    thread::scope(|scope| {
        let writer = scope.spawn(|| manager.acquire(["a"]).lock().unwrap());
        until_queued(&manager, "a", 1);
        first.close();
        until("the first is gone", || {
            manager.holders("a").unwrap().len() == 2
        });
        second.kill_into_zombie();
        until("the second is gone", || {
            manager.holders("a").unwrap().len() == 1
        });
        // The waiter had watched the other holders. Now it watches this one.
        thread::sleep(millis(50));
        let killed = Instant::now();
        third.kill_into_zombie();
        drop(writer.join().unwrap());
        assert!(killed.elapsed() < secs(3), "{:?}", killed.elapsed());
    });
}

fn modes(locks: &Value) -> Vec<&Value> {
    locks
        .as_array()
        .unwrap()
        .iter()
        .map(|lock| &lock["mode"])
        .collect()
}

#[test]
fn command_holds_names_in_the_kinds_that_its_options_say() {
    let home = Home::new();
    let _one = Kept::holder(
        &home,
        &[
            "-s", "config", "-x", "disk", "--slots", "8", "--take", "3", "gb",
        ],
    );
    let two = Kept::holder(&home, &["--shared", "config", "--slots", "8", "gb"]);
    let (_, locks) = home.json(["list"]);
    let slots = |take| json!({"slots": {"take": take, "of": 8}});
    let expected = [
        json!("shared"),
        json!("shared"),
        json!("exclusive"),
        slots(3),
        slots(1),
    ];
    assert_eq!(modes(&locks), expected.iter().collect::<Vec<_>>());
    let list = home.lockmgr(["list"]);
    assert!(
        list.stdout.contains("MODE") && list.stdout.contains("3 of 8 slots"),
        "{list:?}"
    );
    let taken = home.lockmgr([
        "run", "-n", "--slots", "8", "--take", "5", "gb", "--", "true",
    ]);
    assert_eq!(taken.status, NO);
    assert!(
        taken.stderr.contains("holds 3 of 8 slots since"),
        "{taken:?}"
    );
    let alone = home.lockmgr(["get", "config"]);
    assert!(alone.stderr.contains("holds it shared since"), "{alone:?}");

    let waiting = Kept::start(
        home.command()
            .args(["run", "-w", "30", "config", "-s", "x", "--", "true"]),
    );
    until_queued(&home.open(), "config", 1);
    let queue = home.lockmgr(["queue"]);
    assert!(queue.stdout.contains("config x (shared)"), "{queue:?}");
    let (_, requests) = home.json(["queue"]);
    assert_eq!(
        requests[0]["claims"][1],
        json!({"name": "x", "mode": "shared"})
    );
    assert_eq!(requests[0]["any"], json!(null));
    drop((_one, two));
    assert_eq!(waiting.ended().status, DONE);
}

#[test]
fn command_takes_any_of_several_and_tells_its_job_which() {
    let home = Home::new();
    let _zero = Kept::holder(&home, &["gpu:0"]);
    let gpus = ["run", "-n", "--any", "gpu:0", "gpu:1", "--"];
    let says = ["sh", "-c", "echo $LOCKMGR_NAMES"];
    let ran = home.lockmgr(gpus.iter().chain(&says));
    assert_eq!((ran.status, ran.stdout.as_str()), (DONE, "gpu:1\n"));
    let number = home.lockmgr(["run", "-n", "--any", "2", "gpu:0", "gpu:1", "--", "true"]);
    assert_eq!(number.status, USAGE, "{number:?}");
    assert!(number.stderr.contains("--any=2"), "{number:?}");
    let both = home.lockmgr(["run", "-n", "--any=2", "gpu:0", "gpu:1", "--", "true"]);
    assert_eq!(both.status, NO, "{both:?}");
    let (_, got) = home.json(["get", "--any", "gpu:0", "gpu:1"]);
    assert_eq!(
        (&got[0]["name"], got.as_array().unwrap().len()),
        (&json!("gpu:1"), 1)
    );
}

#[test]
fn nested_run_goes_on_under_a_hold_that_is_as_strong_and_refuses_a_stronger() {
    let home = Home::new();
    let program = env!("CARGO_BIN_EXE_lockmgr");
    let nested = |outer: &[&str], inner: &[&str]| {
        let mut command = home.command();
        command
            .arg("run")
            .args(outer)
            .args(["--", program, "run", "-n"]);
        run(command.args(inner).args(["--", "echo", "ran"]))
    };
    for (outer, inner) in [
        (&["a"][..], &["-s", "a"][..]),
        (&["a"], &["--slots", "2", "a"]),
        (&["-s", "a"], &["-s", "a"]),
        (
            &["--slots", "4", "--take", "2", "a"],
            &["--slots", "4", "a"],
        ),
        (&["b"], &["--any", "a", "b"]),
    ] {
        let ran = nested(outer, inner);
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (DONE, "ran\n"),
            "{outer:?} {inner:?} {ran:?}"
        );
    }
    for (outer, inner) in [
        (&["-s", "a"][..], &["a"][..]),
        (
            &["--slots", "4", "a"],
            &["--slots", "4", "--take", "2", "a"],
        ),
        (&["--slots", "4", "a"], &["-s", "a"]),
        (&["a"], &["--any=2", "a", "b"]),
    ] {
        let ran = nested(outer, inner);
        assert_eq!(ran.status, USAGE, "{outer:?} {inner:?} {ran:?}");
        assert!(ran.stderr.contains("outer run"), "{ran:?}");
    }
}

#[test]
fn operator_sees_and_removes_single_holds() {
    let home = Home::new();
    let manager = home.open();
    let reader = manager.acquire_shared(["a"]).lock().unwrap();
    let loose = manager.get_lock("a", GetOptions::new().shared().timeout(Timeout::Never));
    let loose = loose.unwrap();
    let check = |token: u64| home.lockmgr(["check", "a", &token.to_string()]).status;
    assert_eq!(
        [check(reader.token()), check(loose.token()), check(99)],
        [DONE, DONE, NO]
    );
    // One of the holds belongs to a running program.
    let spared = home.lockmgr(["unlock", "a"]);
    assert_eq!(spared.status, NO, "{spared:?}");
    assert!(spared.stderr.contains("--token N"), "{spared:?}");
    let one = home.lockmgr(["unlock", "a", "--token", &loose.token().to_string()]);
    assert_eq!(one.status, DONE, "{one:?}");
    assert_eq!(tokens(&manager.holders("a").unwrap()), [reader.token()]);
    assert_eq!(home.lockmgr(["unlock", "-f", "a"]).status, DONE);
    assert!(!reader.is_held().unwrap());
}

#[test]
fn kinds_hold_in_exclusive_mode_and_are_seen_by_readers() {
    let home = Home::new();
    let manager = LockManager::builder().exclusive().open(home.db()).unwrap();
    let mut guard = manager
        .acquire(["x"])
        .shared(["a"])
        .slots(["b"], 2, 3)
        .lock()
        .unwrap();
    manager.get_lock("a", GetOptions::new().shared()).unwrap();
    guard.downgrade().unwrap();
    assert_eq!(manager.locks("").unwrap().len(), 4);
    drop((guard, manager));
    let reader = LockManager::builder().read_only().open(home.db()).unwrap();
    assert_eq!(reader.holders("a").unwrap().len(), 1);
    assert!(reader.is_locked("a").unwrap() && !reader.is_locked("b").unwrap());
    assert_eq!(reader.find("a").unwrap().unwrap().mode(), Mode::Shared);
}

/// The common case: as many compilers as there are slots, started by any process.
#[test]
fn sixty_four_processes_share_four_slots_in_order_of_arrival() {
    let home = Home::new();
    let manager = home.open();
    let all = manager.acquire_slots(["cc"], 4, 4).lock().unwrap();
    let said = home.join("said");
    let start = |nth: usize| {
        let mut command = home.command();
        command.args(["run", "--slots", "4", "cc", "--", "sh", "-c"]);
        // Each line is one write at the end of the file.
        command
            .arg("echo \"begins $1 $LOCKMGR_TOKENS\" >> \"$0\"; sleep 0.01; echo ends >> \"$0\"");
        let job = Kept::start(command.arg(&said).arg(nth.to_string()));
        until_queued(&manager, "cc", nth + 1);
        job
    };
    let jobs: Vec<Kept> = (0..64).map(start).collect();
    all.release().unwrap();
    for job in jobs {
        assert_eq!(job.ended().status, DONE);
    }
    let (mut running, mut begun) = (0, Vec::new());
    for line in lines(&said) {
        match line.strip_prefix("begins ") {
            Some(words) => {
                running += 1;
                let (nth, token) = words.split_once(' ').unwrap();
                begun.push((nth.parse::<usize>().unwrap(), token.parse::<u64>().unwrap()));
            }
            None => running -= 1,
        }
        assert!(running <= 4, "{running} at once");
    }
    begun.sort_unstable();
    assert_eq!(begun.len(), 64);
    assert!(begun.is_sorted_by(|one, next| one.1 < next.1), "{begun:?}");
    assert!(manager.locks("").unwrap().is_empty());
}

/// A steady stream of newcomers does not block a waiter for an exclusive lock or for all slots.
#[test]
fn newcomers_that_never_pause_starve_nobody() {
    let home = Home::new();
    for (small, large) in [
        (Mode::Shared, Mode::Exclusive),
        (
            Mode::Slots { take: 1, of: 4 },
            Mode::Slots { take: 4, of: 4 },
        ),
    ] {
        let is_over = AtomicBool::new(false);
        let ask = |manager: &LockManager, mode| match mode {
            Mode::Shared => manager.acquire_shared(["a"]).lock(),
            Mode::Slots { take, of } => manager.acquire_slots(["a"], take, of).lock(),
            _ => manager.acquire(["a"]).lock(),
        };
        thread::scope(|scope| {
            for _ in 0..6 {
                let (manager, is_over, ask) = (home.open(), &is_over, &ask);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        let guard = ask(&manager, small).unwrap();
                        thread::sleep(millis(2));
                        guard.release().unwrap();
                    }
                });
            }
            let manager = home.open();
            for _ in 0..10 {
                until("others hold it", || {
                    !manager.holders("a").unwrap().is_empty()
                });
                ask(&manager, large).unwrap().release().unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
