//! Tests the verbs, row by row of the specification's tables.

use crate::support::{Home, noon};
use chrono::{DateTime, TimeDelta, Utc};
use lockmgr::{
    Error, GetOptions, Lock, LockManager, LockName, LockRef, LockSetResult, ManualClock, Printable,
    RenewOptions, SetOptions, Status, StorageCall, Timeout,
};
use std::io::ErrorKind;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const DEFAULT: Duration = Duration::from_secs(600);

fn set() -> SetOptions {
    SetOptions::new()
}

fn get() -> GetOptions {
    GetOptions::new()
}

fn renew() -> RenewOptions {
    RenewOptions::new()
}

fn after(span: Duration) -> Option<DateTime<Utc>> {
    Some(noon() + TimeDelta::from_std(span).unwrap())
}

/// Name, was locked, status, is locked.
fn statuses(result: &LockSetResult) -> Vec<(&str, bool, Status, bool)> {
    let statuses = result.statuses().iter();
    statuses
        .map(|(name, of)| (name.as_str(), of.was_locked, of.status, of.locked))
        .collect()
}

/// Created, renewed, creations skipped, renewals skipped.
fn counts(result: &LockSetResult) -> [usize; 4] {
    let counts = result.counts();
    [
        counts.created,
        counts.renewed,
        counts.skip_create,
        counts.skip_renew,
    ]
}

fn names(locks: &[Lock]) -> Vec<&str> {
    locks.iter().map(|lock| lock.name().as_str()).collect()
}

/// Returns the existing lock that a call was refused for.
fn in_the_way(error: Error) -> Lock {
    match error {
        Error::Locked(lock) | Error::LockFail(lock) => *lock,
        error => panic!("{error:?}"),
    }
}

fn is_not_found(error: &Error, of: (&str, Option<u64>)) -> bool {
    matches!(error, Error::LockNotFound { name, token, .. } if (name.as_str(), *token) == of)
}

#[test]
fn manager_is_shared_by_threads_and_clones() {
    fn is_handle<T: Send + Sync + Clone + 'static>(_: &T) {}
    let home = Home::new();
    let manager = home.open();
    is_handle(&manager);

    let clone = manager.clone();
    let thread = thread::spawn(move || clone.get_lock("a", get()).unwrap());
    let lock = thread.join().unwrap();
    assert_eq!(manager.find("a").unwrap(), Some(lock));
}

#[test]
fn absent_lock_is_created_with_the_defaults() {
    let home = Home::new();
    let (manager, _) = home.open_with_clock();
    let result = manager.set_lock(["b", "a"], set()).unwrap();
    assert_eq!(
        statuses(&result),
        [
            ("b", false, Status::Create, true),
            ("a", false, Status::Create, true)
        ]
    );
    assert_eq!(counts(&result), [2, 0, 0, 0]);
    assert_eq!(names(result.locks()), ["b", "a"]);
    assert!(result.into_iter().eq(result.locks()));
    for (lock, token) in result.into_iter().zip([1, 2]) {
        assert_eq!(lock.locked_by(), "app");
        assert_eq!(lock.process_id(), None);
        assert_eq!(lock.locked_until(), after(DEFAULT));
        assert_eq!((lock.created_at(), lock.updated_at()), (noon(), noon()));
        assert_eq!(lock.token(), token);
    }
    assert_eq!(
        manager.get_lock("c", get()).unwrap().locked_until(),
        after(DEFAULT)
    );
}

#[test]
fn default_holder_is_the_host() {
    let home = Home::new();
    let lock = home.open().get_lock("a", get()).unwrap();
    let host = gethostname::gethostname();
    assert_eq!(lock.locked_by(), &*host.to_string_lossy());
}

#[test]
fn absent_lock_stays_absent_with_only_renew() {
    let home = Home::new();
    let manager = home.open();
    for options in [
        set().only_renew(),
        set().only_renew().no_renew(),
        set().only_renew().fail(),
    ] {
        let result = manager.set_lock(["a"], options).unwrap();
        assert_eq!(statuses(&result), [("a", false, Status::Skip, false)]);
        assert_eq!(counts(&result), [0, 0, 1, 0]);
        assert_eq!(result.locks(), []);
        assert_eq!(manager.locks("").unwrap(), []);
    }
}

#[test]
fn set_with_fail_changes_nothing() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let held = manager.get_lock("held", get().locked_by("other")).unwrap();
    clock.advance(MINUTE);
    for options in [
        set().fail(),
        set().fail().no_renew(),
        set().fail().only_renew(),
        set().fail().timeout(Timeout::Never),
    ] {
        let refused = manager.set_lock(["a", "held", "b"], options).unwrap_err();
        assert!(matches!(&refused, Error::LockFail(lock) if **lock == held));
        assert_eq!(manager.locks("").unwrap(), slice::from_ref(&held));
    }
    // The existing lock may be at any place among many.
    let many = Vec::from_iter((0..30).map(|i| format!("a{i}")));
    for place in 0..=many.len() {
        let mut names = many.clone();
        names.insert(place, "held".to_owned());
        let refused = manager.set_lock(&names, set().fail()).unwrap_err();
        assert!(matches!(&refused, Error::LockFail(lock) if **lock == held));
        assert_eq!(manager.locks("").unwrap(), slice::from_ref(&held));
    }
    let result = manager.set_lock(["a", "b"], set().fail()).unwrap();
    assert_eq!(counts(&result), [2, 0, 0, 0]);
}

#[test]
fn existing_lock_is_renewed_in_its_deadline_alone() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let lease = get().locked_by("first").process_id(1);
    let held = manager.get_lock("a", lease).unwrap();
    clock.advance(MINUTE);
    let other = set().locked_by("second").process_id(2);
    let result = manager.set_lock(["a"], other).unwrap();
    assert_eq!(statuses(&result), [("a", true, Status::Extend, true)]);
    assert_eq!(counts(&result), [0, 1, 0, 0]);

    let renewed = &result.locks()[0];
    assert_eq!(renewed.locked_until(), after(MINUTE + DEFAULT));
    assert_eq!(renewed.updated_at(), clock.wall());
    assert_eq!(renewed.locked_by(), "first");
    assert_eq!(renewed.process_id(), Some(1));
    assert_eq!(
        (renewed.token(), renewed.created_at()),
        (held.token(), noon())
    );
    assert_eq!(manager.find("a").unwrap().as_ref(), Some(renewed));
}

#[test]
fn existing_lock_is_skipped_with_no_renew() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let held = manager.get_lock("a", get()).unwrap();
    clock.advance(MINUTE);
    for options in [set().no_renew(), set().no_renew().only_renew()] {
        let result = manager.set_lock(["a"], options).unwrap();
        assert_eq!(statuses(&result), [("a", true, Status::Skip, true)]);
        assert_eq!(counts(&result), [0, 0, 0, 1]);
        assert_eq!(result.locks(), slice::from_ref(&held));
        assert_eq!(manager.find("a").unwrap(), Some(held.clone()));
    }
}

#[test]
fn renewal_never_shortens() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    manager.get_lock("a", get()).unwrap();
    clock.advance(MINUTE);
    let result = manager.set_lock(["a"], set().timeout(MINUTE)).unwrap();
    let renewed = result.get("a").unwrap();
    assert_eq!(renewed.locked_until(), after(DEFAULT));
    assert_eq!(renewed.updated_at(), clock.wall());
    let renewed = manager.renew_lock("a", renew().timeout(MINUTE)).unwrap();
    assert_eq!(renewed.locked_until(), after(DEFAULT));
}

#[test]
fn lock_without_timeout_stays_for_ever_after_renewals() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    for (name, timeout) in [
        ("never", Timeout::Never),
        ("zero", Timeout::After(Duration::ZERO)),
        ("from zero", Duration::ZERO.into()),
    ] {
        let created = manager.get_lock(name, get().timeout(timeout)).unwrap();
        assert_eq!(created.locked_until(), None);
        manager.unlock(name).unwrap();

        manager.get_lock(name, get()).unwrap();
        let result = manager.set_lock([name], set().timeout(timeout)).unwrap();
        assert_eq!(result.locks()[0].locked_until(), None);
        manager.unlock(name).unwrap();

        manager.get_lock(name, get()).unwrap();
        for options in [renew().timeout(timeout), renew(), renew().add_time()] {
            let renewed = manager.renew_lock(name, options).unwrap();
            assert_eq!(renewed.locked_until(), None);
        }
        let result = manager.set_lock([name], set()).unwrap();
        assert_eq!(result.locks()[0].locked_until(), None);
    }
    clock.advance(Duration::from_secs(u32::MAX.into()));
    assert_eq!(manager.locks("").unwrap().len(), 3);
}

#[test]
fn name_given_twice_meets_its_first_mention() {
    let home = Home::new();
    let manager = home.open();
    let result = manager.set_lock(["a", "b", "a"], set()).unwrap();
    assert_eq!(
        statuses(&result),
        [
            ("a", false, Status::Create, true),
            ("b", false, Status::Create, true),
            ("a", true, Status::Extend, true)
        ]
    );
    assert_eq!(names(result.locks()), ["a", "b", "a"]);
    assert_eq!(result.locks()[0].token(), result.locks()[2].token());
    assert!(!result.status("a").unwrap().was_locked);

    let result = manager.set_lock(["c", "c"], set().no_renew()).unwrap();
    assert_eq!(counts(&result), [1, 0, 0, 1]);
    assert_eq!(result.locks()[0], result.locks()[1]);

    let result = manager.set_lock(["d", "d"], set().only_renew()).unwrap();
    assert_eq!(counts(&result), [0, 0, 2, 0]);

    // The first conflicting lock, which may also be one that the call itself would create.
    for names in [["e", "e", "f"], ["e", "e", "c"]] {
        let refused = in_the_way(manager.set_lock(names, set().fail()).unwrap_err());
        assert_eq!(refused.name(), "e");
        assert_eq!(refused.token(), 0);
    }
    assert_eq!(manager.find("e").unwrap(), None);
}

#[test]
fn empty_set_has_an_empty_result() {
    let home = Home::new();
    let manager = home.open();
    for options in [set(), set().fail(), set().no_renew().only_renew()] {
        let result = manager.set_lock([""; 0], options).unwrap();
        assert_eq!(result, LockSetResult::default());
        assert_eq!((result.locks(), result.statuses()), (&[][..], &[][..]));
    }
    assert!(manager.unlock_all([""; 0]).unwrap().is_empty());
}

#[test]
fn result_answers_by_name() {
    let home = Home::new();
    let manager = home.open();
    manager.get_lock("a", get()).unwrap();
    let result = manager.set_lock(["a", "b"], set().only_renew()).unwrap();
    assert_eq!(result.get("a").unwrap().name(), "a");
    assert_eq!((result.get("b"), result.get("c")), (None, None));
    assert_eq!(result.status("b").unwrap().status, Status::Skip);
    assert_eq!(result.status("c"), None);
}

#[test]
fn one_bad_name_among_good_ones_changes_nothing() {
    let home = Home::new();
    let manager = home.open();
    manager.get_lock("a", get()).unwrap();
    let before = (manager.locks("").unwrap(), home.bytes());
    let too_long = "é".repeat(128);
    for bad in ["", "a\nb", "\u{7f}", "\u{9b}2J", &too_long] {
        let refusals = [
            manager.set_lock(["a", "b", bad], set()).unwrap_err(),
            manager.set_lock(["b"], set().locked_by(bad)).unwrap_err(),
            manager.get_lock(bad, get()).unwrap_err(),
            manager.get_lock("b", get().locked_by(bad)).unwrap_err(),
            manager.renew_lock(bad, renew().create()).unwrap_err(),
            manager.unlock(bad).unwrap_err(),
            manager.unlock_all(["a", bad]).unwrap_err(),
            manager.is_locked(bad).unwrap_err(),
            manager.find(bad).unwrap_err(),
            LockManager::builder()
                .locked_by(bad)
                .open(home.db())
                .unwrap_err(),
        ];
        for refusal in refusals {
            assert!(matches!(&refusal, Error::InvalidName(name) if name.text() == bad));
            assert!(refusal.to_string().contains(&Printable(bad).to_string()));
        }
        assert_eq!((manager.locks("").unwrap(), home.bytes()), before);
    }
}

#[test]
fn timeout_past_the_year_9999_changes_nothing() {
    let home = Home::new();
    let (manager, _) = home.open_with_clock();
    manager.get_lock("a", get()).unwrap();
    let before = (manager.locks("").unwrap(), home.bytes());
    let last = "9999-12-31T23:59:59.999999Z".parse::<DateTime<Utc>>();
    let longest = (last.unwrap() - noon()).to_std().unwrap();
    for late in [longest + Duration::from_micros(1), Duration::MAX] {
        for refusal in [
            manager
                .set_lock(["a", "b"], set().timeout(late))
                .unwrap_err(),
            manager
                .set_lock(["a"], set().no_renew().timeout(late))
                .unwrap_err(),
            manager.get_lock("b", get().timeout(late)).unwrap_err(),
            manager.renew_lock("a", renew().timeout(late)).unwrap_err(),
        ] {
            assert!(matches!(refusal, Error::InvalidTimeout(_)));
        }
    }
    let added = manager.renew_lock("a", renew().timeout(longest).add_time());
    assert!(matches!(added, Err(Error::InvalidTimeout(_))));
    assert_eq!((manager.locks("").unwrap(), home.bytes()), before);

    let lock = manager.get_lock("b", get().timeout(longest)).unwrap();
    assert_eq!(lock.locked_until(), last.ok());
}

#[test]
fn number_of_seconds_is_a_timeout_only_if_valid() {
    for bad in [-5.0, -1e-9, f64::NAN, f64::INFINITY, -f64::INFINITY, 1e30] {
        assert!(Timeout::from_secs_f64(bad).is_err(), "{bad}");
    }
    let quarter = Timeout::After(Duration::from_millis(250));
    assert_eq!(Timeout::from_secs_f64(0.25), Ok(quarter));
    assert_eq!(Timeout::from_secs_f64(0.0), Ok(Timeout::Never));
}

#[test]
fn names_and_holders_have_one_to_255_bytes() {
    let home = Home::new();
    let manager = home.open();
    for good in ["a", " ", "名前", "\u{202e}", &"x".repeat(255)] {
        let lock = manager.get_lock(good, get().locked_by(good)).unwrap();
        assert_eq!(
            (lock.name(), lock.locked_by().as_str()),
            (&LockName::new(good).unwrap(), good)
        );
        assert_eq!(manager.find(good).unwrap(), Some(lock));
    }
}

#[test]
fn get_of_an_existing_lock_names_its_holder() {
    let home = Home::new();
    let (manager, _) = home.open_with_clock();
    let lease = get().locked_by("edge-7").process_id(4242);
    let held = manager.get_lock("a", lease).unwrap();
    let refusal = manager.get_lock("a", get()).unwrap_err();
    let text = refusal.to_string();
    for part in [
        "\"a\"",
        "edge-7",
        "4242",
        "2019-11-22T12:00:00Z",
        "12:10:00Z",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(matches!(&refusal, Error::Locked(lock) if **lock == held));
}

#[test]
fn renewal_by_name_renews_the_lock_of_any_holder() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let held = manager.get_lock("a", get()).unwrap();
    clock.advance(MINUTE);
    let renewed = manager.renew_lock("a", renew()).unwrap();
    assert_eq!(renewed.locked_until(), after(MINUTE + DEFAULT));
    assert_eq!(
        (renewed.token(), renewed.updated_at()),
        (held.token(), clock.wall())
    );
    assert_eq!(manager.find("a").unwrap(), Some(renewed));

    let absent = manager.renew_lock("b", renew()).unwrap_err();
    assert!(is_not_found(&absent, ("b", None)));
    assert!(absent.to_string().contains("\"b\""));
}

#[test]
fn added_time_counts_from_the_deadline() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    manager.get_lock("a", get()).unwrap();
    clock.advance(MINUTE);
    let options = renew().timeout(MINUTE).add_time();
    let renewed = manager.renew_lock("a", options).unwrap();
    assert_eq!(renewed.locked_until(), after(DEFAULT + MINUTE));
    let options = renew().timeout(Timeout::Never).add_time();
    assert_eq!(
        manager.renew_lock("a", options).unwrap().locked_until(),
        None
    );
}

#[test]
fn renewal_that_may_create_gets_an_absent_lock() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let lock = manager.renew_lock("a", renew().create()).unwrap();
    assert_eq!(
        (lock.locked_until(), lock.locked_by().as_str()),
        (after(DEFAULT), "app")
    );

    clock.advance(DEFAULT);
    let options = renew().create().add_time().timeout(MINUTE);
    let again = manager.renew_lock(&lock, options).unwrap();
    assert_eq!(again.locked_until(), after(DEFAULT + MINUTE));
    assert!(again.token() > lock.token());
    assert_eq!(again.created_at(), clock.wall());
}

#[test]
fn holder_renews_and_releases_only_the_lock_with_its_token() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let mine = manager.get_lock("a", get()).unwrap();
    assert_eq!(
        manager.renew_lock(&mine, renew()).unwrap().token(),
        mine.token()
    );
    clock.advance(DEFAULT);
    let lost = manager.renew_lock(&mine, renew()).unwrap_err();
    assert!(is_not_found(&lost, ("a", Some(mine.token()))));
    assert!(!manager.unlock(&mine).unwrap());

    let successor = manager.get_lock("a", get().locked_by("successor")).unwrap();
    let wrong = LockRef::with_token("a", successor.token() + 1);
    for stale in [LockRef::from(&mine), wrong] {
        assert!(manager.renew_lock(stale, renew()).is_err());
        assert!(manager.renew_lock(stale, renew().add_time()).is_err());
        let refused = manager.renew_lock(stale, renew().create()).unwrap_err();
        assert!(matches!(&refused, Error::Locked(lock) if **lock == successor));
        assert!(!manager.unlock(stale).unwrap());
        assert_eq!(manager.unlock_all([stale, stale]).unwrap(), [false, false]);
        assert_eq!(manager.find("a").unwrap().as_ref(), Some(&successor));
    }

    let by_token = LockRef::with_token("a", successor.token());
    assert_eq!(
        manager.renew_lock(by_token, renew()).unwrap().token(),
        successor.token()
    );
    assert!(manager.unlock(by_token).unwrap());
    assert_eq!(manager.find("a").unwrap(), None);
}

#[test]
fn unlocking_says_whether_the_lock_was_there() {
    let home = Home::new();
    let manager = home.open();
    let result = manager.set_lock(["a", "b", "c"], set()).unwrap();
    assert!(manager.unlock("a").unwrap());
    assert!(!manager.unlock("a").unwrap());
    assert!(manager.unlock(&result.locks()[1]).unwrap());
    assert_eq!(
        manager.unlock_all(["a", "c", "c"]).unwrap(),
        [false, true, false]
    );
    assert_eq!(manager.locks("").unwrap(), []);
}

#[test]
fn expired_lock_is_absent_for_every_verb() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let absent = |verb: &dyn Fn(&LockManager, &Lock) -> bool| {
        manager.reset_locks().unwrap();
        let expired = manager.get_lock("a", get()).unwrap();
        clock.advance(DEFAULT - Duration::from_micros(1));
        assert!(manager.is_locked("a").unwrap());
        clock.advance(Duration::from_micros(1));
        assert!(verb(&manager, &expired));
    };
    absent(&|manager, _| !manager.is_locked("a").unwrap());
    absent(&|manager, _| manager.find("a").unwrap().is_none());
    absent(&|manager, _| manager.locks("").unwrap().is_empty());
    absent(&|manager, _| !manager.unlock("a").unwrap());
    absent(&|manager, expired| !manager.unlock(expired).unwrap());
    absent(&|manager, _| manager.renew_lock("a", renew()).is_err());
    absent(&|manager, _| manager.renew_lock("a", renew().add_time()).is_err());
    absent(&|manager, _| manager.set_lock(["a"], set().fail()).is_ok());
    absent(&|manager, _| {
        let result = manager.set_lock(["a"], set().only_renew()).unwrap();
        counts(&result) == [0, 0, 1, 0]
    });
    absent(&|manager, expired| manager.get_lock("a", get()).unwrap().token() > expired.token());
    absent(&|manager, _| manager.reset_locks().unwrap() == 0);
    absent(&|manager, _| manager.clean_locks().unwrap() == 1);
}

#[test]
fn cleaning_removes_what_has_expired_and_nothing_else() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    manager.set_lock(["a", "b"], set().timeout(MINUTE)).unwrap();
    manager.set_lock(["c"], set()).unwrap();
    assert_eq!(manager.clean_locks().unwrap(), 0);
    clock.advance(MINUTE);
    assert_eq!(manager.clean_locks().unwrap(), 2);
    assert_eq!(manager.clean_locks().unwrap(), 0);
    assert_eq!(names(&manager.locks("").unwrap()), ["c"]);
}

#[test]
fn reset_removes_and_counts_every_lock() {
    let home = Home::new();
    let manager = home.open();
    let forever = set().timeout(Timeout::Never);
    manager.set_lock(["a", "b"], forever).unwrap();
    manager.set_lock(["c"], set()).unwrap();
    assert_eq!(manager.reset_locks().unwrap(), 3);
    assert_eq!(manager.reset_locks().unwrap(), 0);
    assert_eq!(manager.locks("").unwrap(), []);
}

#[test]
fn tokens_go_up_whatever_happens() {
    let home = Home::new();
    let clock = ManualClock::new(noon());
    let open = || {
        LockManager::builder()
            .clock(clock.clone())
            .open(home.db())
            .unwrap()
    };
    let mut manager = open();
    let mut last = 0;
    let mut next = |manager: &LockManager, what: &str| {
        let result = manager.set_lock(["a", "b"], set().fail()).unwrap();
        assert_eq!(result.into_iter().count(), 2, "after {what}");
        for lock in &result {
            assert!(lock.token() > last, "after {what}");
            last = lock.token();
        }
    };
    next(&manager, "creation");
    manager.unlock_all(["a", "b"]).unwrap();
    next(&manager, "a release");
    manager.reset_locks().unwrap();
    next(&manager, "a reset");
    clock.advance(DEFAULT);
    next(&manager, "expiry");
    clock.advance(DEFAULT);
    manager.clean_locks().unwrap();
    next(&manager, "cleaning");
    manager.reset_locks().unwrap();
    drop(manager);
    manager = open();
    next(&manager, "a restart");
    drop(manager);
    clock.set_wall(noon() - TimeDelta::days(1));
    clock.reboot(Duration::ZERO);
    manager = open();
    manager.reset_locks().unwrap();
    next(&manager, "a reboot");
}

#[test]
fn locks_are_listed_by_the_bytes_of_their_names() {
    let home = Home::new();
    let manager = home.open();
    let all = ["job:2", "job:10", "job", "é", "Job:1", "jobs"];
    manager.set_lock(all, set()).unwrap();
    for (prefix, expected) in [
        ("", &["Job:1", "job", "job:10", "job:2", "jobs", "é"][..]),
        ("job:", &["job:10", "job:2"]),
        ("job", &["job", "job:10", "job:2", "jobs"]),
        ("job:2", &["job:2"]),
        ("é", &["é"]),
        ("\n", &[]),
        ("z", &[]),
    ] {
        assert_eq!(names(&manager.locks(prefix).unwrap()), expected, "{prefix}");
    }
}

#[test]
fn reading_and_changing_nothing_leave_the_file_as_it_is() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    manager.set_lock(["a", "b"], set()).unwrap();
    manager.set_lock(["c"], set().timeout(MINUTE)).unwrap();
    clock.advance(MINUTE);
    let before = home.bytes();
    assert!(manager.is_locked("a").unwrap());
    assert!(!manager.is_locked("c").unwrap());
    assert!(manager.find("b").unwrap().is_some());
    assert_eq!(manager.locks("").unwrap().len(), 2);
    manager.set_lock(["a", "b"], set().no_renew()).unwrap();
    manager.set_lock(["c", "d"], set().only_renew()).unwrap();
    manager.set_lock(["d", "a"], set().fail()).unwrap_err();
    manager.get_lock("a", get()).unwrap_err();
    manager.renew_lock("d", renew()).unwrap_err();
    assert!(!manager.unlock("d").unwrap());
    assert_eq!(home.bytes(), before);
}

#[test]
fn step_of_the_wall_clock_neither_frees_nor_prolongs_a_lock() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    for days in [-1, 1, 3_000] {
        let lock = manager.get_lock("a", get()).unwrap();
        clock.set_wall(clock.wall() + TimeDelta::days(days));
        assert_eq!(manager.time_left(&lock), Some(DEFAULT));
        clock.advance(DEFAULT - Duration::from_micros(1));
        assert!(manager.is_locked("a").unwrap());
        clock.advance(Duration::from_micros(1));
        assert!(!manager.is_locked("a").unwrap());
    }
}

#[test]
fn another_boot_judges_a_deadline_by_the_wall_clock() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let lock = manager.get_lock("a", get()).unwrap();
    clock.reboot(DEFAULT - Duration::from_micros(1));
    assert_eq!(manager.find("a").unwrap(), Some(lock));
    clock.reboot(Duration::from_micros(1));
    assert!(!manager.is_locked("a").unwrap());
}

#[test]
fn renewal_moves_the_deadline_of_another_boot_to_this_one() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    manager.get_lock("a", get()).unwrap();
    clock.reboot(MINUTE);
    let shorter = renew().timeout(Duration::from_secs(1));
    let renewed = manager.renew_lock("a", shorter).unwrap();
    assert_eq!(renewed.locked_until(), after(DEFAULT));
    for days in [-1, 2] {
        clock.set_wall(noon() + TimeDelta::days(days));
        assert_eq!(manager.time_left(&renewed), Some(DEFAULT - MINUTE));
        assert!(manager.is_locked("a").unwrap());
    }
    clock.advance(DEFAULT - MINUTE);
    assert!(!manager.is_locked("a").unwrap());
}

#[test]
fn read_only_manager_reads_and_refuses_to_write() {
    let home = Home::new();
    let reader = LockManager::builder().read_only().open(home.db()).unwrap();
    assert!(!reader.is_locked("a").unwrap());
    assert!(!home.db().exists());

    let lock = home.open().get_lock("a", get()).unwrap();
    assert_eq!(reader.find("a").unwrap(), Some(lock.clone()));
    assert_eq!(reader.locks("").unwrap(), [lock]);
    let refusals = [
        reader.set_lock(["b"], set()).unwrap_err(),
        reader.get_lock("b", get()).unwrap_err(),
        reader.renew_lock("a", renew()).unwrap_err(),
        reader.unlock("a").unwrap_err(),
        reader.clean_locks().unwrap_err(),
        reader.reset_locks().unwrap_err(),
    ];
    for refusal in refusals {
        assert!(matches!(
            refusal,
            Error::Io { path, source, .. }
                if path == home.db() && source.kind() == ErrorKind::PermissionDenied
        ));
    }
    assert!(reader.is_locked("a").unwrap());
}

#[test]
fn two_managers_on_one_file_see_each_other() {
    let home = Home::new();
    let (one, other) = (home.open(), home.open());
    let lock = one.get_lock("a", get()).unwrap();
    assert_eq!(in_the_way(other.get_lock("a", get()).unwrap_err()), lock);
    assert!(other.unlock("a").unwrap());
    assert!(!one.is_locked("a").unwrap());
    assert!(other.get_lock("a", get()).unwrap().token() > lock.token());
}

#[test]
fn bound_of_zero_creates_and_uses_an_idle_store() {
    let home = Home::new();
    let builder = LockManager::builder().busy_timeout(Duration::ZERO);
    let manager = builder.open(home.db()).unwrap();
    assert_eq!(manager.get_lock("a", GetOptions::new()).unwrap().token(), 1);
}

#[test]
fn completed_call_is_seen_by_every_thread() {
    const LAST: u64 = 600;
    for builder in [LockManager::builder(), LockManager::builder().exclusive()] {
        let home = Home::new();
        let manager = builder.open(home.db()).unwrap();
        let done = AtomicU64::new(0);
        let watch = || {
            let mut seen = 0;
            while seen < LAST {
                seen = done.load(Ordering::Acquire);
                let lock = manager.find(seen.to_string()).unwrap();
                assert_eq!(lock.map_or(0, |lock| lock.token()), seen);
            }
        };
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(watch);
            }
            for round in 1..=LAST {
                manager.get_lock(round.to_string(), get()).unwrap();
                done.store(round, Ordering::Release);
            }
        });
    }
}

/// A gate that holds one thread, once, and reports the arrival of the thread.
struct Gate {
    is_closed: AtomicBool,
    arrived: mpsc::Sender<()>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Gate {
    /// Returns the gate, with the receiver of arrivals and the sender that opens it.
    fn new() -> (Arc<Self>, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let ((arrived, arrivals), (open, go)) = (mpsc::channel(), mpsc::channel());
        let (is_closed, go) = (AtomicBool::new(false), Mutex::new(go));
        let gate = Self {
            is_closed,
            arrived,
            go,
        };
        (Arc::new(gate), arrivals, open)
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    fn pass(&self) -> bool {
        let waits = self.is_closed.swap(false, Ordering::AcqRel);
        if waits {
            self.arrived.send(()).unwrap();
            self.go.lock().unwrap().recv().unwrap();
        }
        waits
    }
}

#[test]
fn reads_never_go_back_amid_a_commit() {
    let home = Home::new();
    let (early, early_is_there, open_early) = Gate::new();
    let (synced, syncs, open_synced) = Gate::new();
    let (shown, shows, open_shown) = Gate::new();
    let gates = (Arc::clone(&early), Arc::clone(&synced));
    let manager = LockManager::builder().exclusive().cache_size(0);
    let manager = manager.storage_hook(move |call| {
        match (thread::current().name(), call) {
            (Some("early"), StorageCall::Read { .. }) => drop(gates.0.pass()),
            (Some("writer"), StorageCall::Sync) if gates.1.pass() => shown.close(),
            // Readers see the committed change although its call has not returned.
            (Some("writer"), _) => drop(shown.pass()),
            _ => {}
        }
        Ok(())
    });
    let manager = manager.open(home.db()).unwrap();
    // So many pages that redb has work left once a commit is there.
    let name = |i: u32| format!("{i:03}");
    (0..400).for_each(|i| drop(manager.get_lock(name(i), get()).unwrap()));
    (0..200).for_each(|i| assert!(manager.unlock(name(i).as_str()).unwrap()));

    let named = |name: &str| thread::Builder::new().name(name.to_owned());
    let find = || manager.find("x").unwrap().map(|lock| lock.token());
    thread::scope(|scope| {
        synced.close();
        let get = || drop(manager.get_lock("x", get()).unwrap());
        named("writer").spawn_scoped(scope, get).unwrap();
        syncs.recv_timeout(MINUTE).unwrap();
        early.close();
        let first = named("early").spawn_scoped(scope, find).unwrap();
        early_is_there.recv_timeout(MINUTE).unwrap();
        open_synced.send(()).unwrap();
        shows.recv_timeout(MINUTE).unwrap();

        let ((tell, told), (go, may_go)) = (mpsc::channel(), mpsc::channel::<()>());
        let later = scope.spawn(move || {
            let before = find();
            tell.send(()).unwrap();
            may_go.recv().unwrap();
            (before, find())
        });
        // The call may have to wait for the other one.
        let _ = told.recv_timeout(Duration::from_millis(200));
        open_early.send(()).unwrap();
        first.join().unwrap();
        go.send(()).unwrap();
        let (before, after) = later.join().unwrap();
        open_shown.send(()).unwrap();
        assert!(before <= after, "{before:?}, then {after:?}");
    });
    assert_eq!(find(), Some(401));
}

#[test]
fn dead_rows_do_not_fill_the_file() {
    let home = Home::new();
    let clock = ManualClock::new(noon());
    let builder = LockManager::builder().exclusive().clock(clock.clone());
    let manager = builder.open(home.db()).unwrap();
    // Two hundred sets of names that live for a second, without a call of `clean_locks`.
    let names = |set: u32| {
        (0..250).map(move |i| format!("{:x}", (set * 250 + i).wrapping_mul(2_654_435_761)))
    };
    let options = SetOptions::new().timeout(Duration::from_secs(1));
    for set in 0..200 {
        manager.set_lock(names(set), options.clone()).unwrap();
        // The last read does not keep pages of the file from reuse.
        assert_eq!(manager.locks("").unwrap().len(), 250);
        clock.advance(Duration::from_secs(1));
    }
    let alone = Home::new();
    let live = alone.open();
    live.set_lock(names(0), options).unwrap();
    let size = |home: &Home| std::fs::metadata(home.db()).unwrap().len();
    let (churned, largest) = (size(&home), size(&alone));
    assert!(
        churned <= 1024 * 1024 + 2 * largest,
        "{churned} beside {largest}"
    );
    // Of 50,000 rows at most a few beyond the last set are left.
    assert!(manager.clean_locks().unwrap() < 500);
}
