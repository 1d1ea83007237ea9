//! Tests hostile surroundings: changes by other users to the file, its directory, a terminal and
//! the clock. Each call gives the right answer or an error, at once.

use crate::holding_support::{DONE, Kept, NO, until_queued};
use crate::support::{Home, chmod, is_root, run, through, works};
use chrono::{DateTime, Utc};
use lockmgr::{
    Builder, Error, GetOptions, Lock, LockManager, ManualClock, RenewOptions, SetOptions,
    StorageCall, Timeout,
};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const DATA: Option<i32> = Some(65);
const PERMISSION: Option<i32> = Some(77);

/// A call that takes longer than this fails its test, whatever happened to its file.
const AT_ONCE: Duration = Duration::from_secs(5);

fn get() -> GetOptions {
    GetOptions::new()
}

/// The outcome of a call, in a word.
fn word<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(answer) => format!("{answer:?}"),
        Err(Error::LockNotFound { .. }) => "LockNotFound".into(),
        Err(Error::NotAStore { .. }) => "NotAStore".into(),
        Err(Error::Corrupted { .. }) => "Corrupted".into(),
        Err(Error::Io { source, .. }) => format!("{:?}", source.kind()),
        Err(error) => panic!("{error:?}"),
    }
}

/// A directory for the store, which a test can change.
fn db_in(home: &Home) -> PathBuf {
    home.join("dir/locks.redb")
}

/// Opens a store of the lock `held`.
fn store_in(home: &Home, builder: Builder) -> (LockManager, Lock) {
    fs::create_dir(home.join("dir")).unwrap();
    let manager = builder.open(db_in(home)).unwrap();
    let held = manager.get_lock("held", get()).unwrap();
    (manager, held)
}

/// Returns the answers of six calls: whether `held` is locked, the number of locks, its token, the
/// token of a new lock, whether `held` is unlocked, and whether the new lock is there.
type Told = [String; 6];

fn told(manager: &LockManager, held: &Lock) -> Told {
    let began = Instant::now();
    let renewed = manager.renew_lock(held, RenewOptions::new());
    let told = [
        word(manager.is_locked("held")),
        word(manager.locks("").map(|locks| locks.len())),
        word(renewed.map(|lock| lock.token())),
        word(
            manager
                .set_lock(["new"], SetOptions::new())
                .map(|set| set.locks()[0].token()),
        ),
        word(manager.unlock(held)),
        word(manager.is_locked("new")),
    ];
    assert!(began.elapsed() < AT_ONCE, "{told:?}");
    told
}

/// The answers if nothing had been done to the store.
const UNHURT: [&str; 6] = ["true", "1", "1", "2", "true", "true"];
/// The answers of another store, without locks.
const EMPTY: [&str; 6] = ["false", "0", "LockNotFound", "1", "false", "true"];
const NO_STORE: [&str; 6] = ["NotAStore"; 6];

/// Changes a store under an open handle, and returns the answers after the change.
fn told_after(builder: Builder, mischief: impl Fn(&Home)) -> Told {
    let home = Home::new();
    let (manager, held) = store_in(&home, builder);
    // A reader checks from time to time which file has the name.
    thread::sleep(Duration::from_millis(110));
    mischief(&home);
    let told = told(&manager, &held);
    // The rest of the directory has to be removed.
    if home.join("dir").exists() {
        chmod(&home.join("dir"), 0o755);
    }
    told
}

/// Makes the change under a shared and an exclusive handle, and checks the answers.
fn all_are_told(expected: [&str; 6], mischief: impl Fn(&Home)) {
    for builder in [LockManager::builder(), LockManager::builder().exclusive()] {
        assert_eq!(told_after(builder, &mischief), expected);
    }
}

#[test]
fn unlinked_file_takes_its_locks_away() {
    all_are_told(EMPTY, |home| fs::remove_file(db_in(home)).unwrap());
}

#[test]
fn replaced_file_decides_what_is_locked() {
    let theirs = ["false", "1", "LockNotFound", "2", "false", "true"];
    all_are_told(theirs, |home| {
        let other = LockManager::open(home.join("other")).unwrap();
        other.get_lock("theirs", get()).unwrap();
        drop(other);
        fs::rename(home.join("other"), db_in(home)).unwrap();
    });
}

#[test]
fn file_replaced_by_something_else_stops_the_store() {
    all_are_told(NO_STORE, |home| {
        fs::write(home.join("other"), "x".repeat(100_000)).unwrap();
        fs::rename(home.join("other"), db_in(home)).unwrap();
    });
    all_are_told(NO_STORE, |home| {
        fs::remove_file(db_in(home)).unwrap();
        fs::create_dir(db_in(home)).unwrap();
    });
    all_are_told(NO_STORE, |home| {
        fs::remove_file(db_in(home)).unwrap();
        symlink("/dev/zero", db_in(home)).unwrap();
    });
}

#[test]
fn changed_permissions_do_not_stop_an_open_manager() {
    all_are_told(UNHURT, |home| chmod(&db_in(home), 0));
    all_are_told(UNHURT, |home| chmod(&home.join("dir"), 0o555));
}

#[test]
fn store_whose_directory_moves_is_missing_until_it_is_back() {
    let home = Home::new();
    let (manager, held) = store_in(&home, LockManager::builder());
    thread::sleep(Duration::from_millis(110));
    fs::rename(home.join("dir"), home.join("away")).unwrap();
    assert_eq!(told(&manager, &held), ["NotFound"; 6]);
    fs::rename(home.join("away"), home.join("dir")).unwrap();
    assert_eq!(told(&manager, &held), UNHURT);

    all_are_told(["NotFound"; 6], |home| {
        fs::remove_dir_all(home.join("dir")).unwrap();
    });
}

/// Checks that, after the bytes of the file were changed in place, each call gave one of these
/// answers or reported that the store is damaged. Checks the same of the command.
fn is_right_or_refused(right: &[[&str; 6]], mischief: impl Fn(&File, u64)) {
    for builder in [LockManager::builder(), LockManager::builder().exclusive()] {
        let home = Home::new();
        let (manager, held) = store_in(&home, builder);
        let file = File::options().write(true).open(db_in(&home)).unwrap();
        mischief(&file, file.metadata().unwrap().len());
        let told = told(&manager, &held);
        for (call, answer) in told.iter().enumerate() {
            let is_refused = answer == "Corrupted" || answer == "NotAStore";
            let is_right = right.iter().any(|right| answer == right[call]);
            assert!(is_refused || is_right, "{told:?}");
        }
        drop(manager);
        for args in [&["list"][..], &["find", "new"], &["set", "more"]] {
            let ran = run(through(&[]).arg("--db").arg(db_in(&home)).args(args));
            assert!([DONE, NO, DATA].contains(&ran.status), "{args:?}: {ran:?}");
        }
    }
}

#[test]
fn bytes_changed_under_an_open_store_are_never_a_panic() {
    let garbage = |from: u64| {
        move |file: &File, len: u64| {
            let bytes = vec![b'x'; (len - from) as usize];
            file.write_all_at(&bytes, from).unwrap();
        }
    };
    is_right_or_refused(&[UNHURT], garbage(0));
    is_right_or_refused(&[UNHURT], garbage(4096));
    is_right_or_refused(&[UNHURT], |file, _| file.set_len(4096).unwrap());
    is_right_or_refused(&[UNHURT], |file, len| file.set_len(len / 2).unwrap());
    // An empty file becomes a store.
    is_right_or_refused(&[UNHURT, EMPTY], |file, _| file.set_len(0).unwrap());
}

/// Returns the command with at most so much memory, in KiB.
fn frugal(kib: u32) -> Command {
    let script = format!("ulimit -v {kib} && exec \"$0\" \"$@\"");
    through(&["sh", "-c", &script])
}

#[test]
fn file_of_gigabytes_costs_neither_time_nor_memory() {
    let home = Home::new();
    home.open().get_lock("held", get()).unwrap();
    let file = File::options().write(true).open(home.db()).unwrap();
    file.set_len(5 << 30).unwrap();
    let zeros = home.join("zeros");
    File::create(&zeros).unwrap().set_len(4 << 30).unwrap();
    let began = Instant::now();
    for (db, args, status) in [
        (&home.db(), &["find", "held"][..], DONE),
        (&home.db(), &["set", "new"], DONE),
        (&home.db(), &["find", "new"], DONE),
        (&home.db(), &["find", "absent"], NO),
        (&zeros, &["find", "held"], DATA),
        (&zeros, &["set", "held"], DATA),
    ] {
        let ran = run(frugal(256 * 1024).arg("--db").arg(db).args(args));
        assert_eq!(ran.status, status, "{args:?}: {ran:?}");
    }
    assert!(began.elapsed() < AT_ONCE);
}

#[test]
fn link_in_the_place_of_a_store_is_refused_and_its_target_left_alone() {
    let home = Home::new();
    let target = home.join("target");
    symlink(&target, home.db()).unwrap();
    let refused = |what: &str| {
        for args in [["set", "a"], ["find", "a"]] {
            let ran = home.lockmgr(args);
            assert_eq!(ran.status, DATA, "{what}: {ran:?}");
            let names_target = format!("name the file itself, {}", target.display());
            assert!(ran.stderr.contains(&names_target), "{}", ran.stderr);
            assert!(!ran.stderr.contains("secret"));
        }
    };
    refused("it leads nowhere");
    assert!(!target.exists());

    fs::write(&target, "secret").unwrap();
    refused("it leads to a foreign file");
    assert_eq!(fs::read(&target).unwrap(), b"secret");

    fs::remove_file(&target).unwrap();
    LockManager::open(&target).unwrap();
    refused("it leads to a store");
    assert!(home.db().is_symlink());
}

#[test]
fn planted_file_in_a_common_directory_is_refused() {
    let home = Home::new();
    chmod(home.path(), 0o1777);
    let Some(_) = home.command_of_ordinary_user() else {
        return;
    };
    let told = |status: Option<i32>| {
        for args in [&["set", "a"][..], &["find", "a"]] {
            let mut command = home.command_of_ordinary_user().unwrap();
            let ran = run(command.arg("--db").arg(home.db()).args(args));
            assert_eq!(ran.status, status, "{args:?}: {ran:?}");
        }
    };
    let _socket = UnixListener::bind(home.db()).unwrap();
    told(DATA);
    fs::remove_file(home.db()).unwrap();

    fs::create_dir(home.db()).unwrap();
    told(DATA);
    fs::remove_dir(home.db()).unwrap();

    fs::write(home.db(), "not yours").unwrap();
    chmod(&home.db(), 0o666);
    told(DATA);
    assert_eq!(fs::read(home.db()).unwrap(), b"not yours");
    if is_root() {
        chmod(&home.db(), 0o600);
        told(PERMISSION);
    }
    fs::remove_file(home.db()).unwrap();
    told(DONE);
}

#[test]
fn names_of_those_who_wait_and_hold_steer_no_terminal() {
    // Directions, joiners, spaces of no width, marks that combine with a preceding character, a
    // tag.
    let wild = "a\u{202e}b\u{2066}c\u{200b}d\u{200d}e\u{feff}f\u{ad}g\u{e0041}h\u{2028}i";
    let steers = |c: char| !matches!(c, ' '..='~' | '\n');
    let home = Home::new();
    let _holder = Kept::holder(&home, &[wild, "--locked-by", wild]);
    let mut waiting = Kept::start(home.command().args([
        "run",
        "-v",
        "-w",
        "20",
        wild,
        "--locked-by",
        wild,
        "--",
        "true",
    ]));
    until_queued(&home.open(), "", 1);
    for args in [
        &["queue"][..],
        &["list"],
        &["find", wild],
        &["get", wild],
        &["get", wild, "--wait", "0.01"],
        &["run", "-v", "-n", wild, "--", "true"],
        &["run", "-v", "-w", "0.01", wild, "--", "true"],
        &["set", "-e", wild],
        &["check", wild, "1"],
    ] {
        let ran = home.lockmgr(args);
        let printed = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!printed.contains(steers), "{args:?}: {printed:?}");
        assert!(
            printed.contains("202e") || args[0] == "check",
            "{printed:?}"
        );
    }
    waiting.child().kill().unwrap();
    let told = waiting.ended();
    assert!(
        told.stderr.contains("202e") && !told.stderr.contains(steers),
        "{told:?}"
    );
}

#[test]
fn json_holds_no_control_character() {
    let home = Home::new();
    let steers = |c: char| c.is_control() && c != '\n';
    for wild in ["\u{1b}[2J", "\u{7f}", "\u{9b}2J", "a\rb"] {
        let db = format!("{}/{wild}/x.redb", home.path().display());
        for args in [
            &["get", wild][..],
            &["get", "a", "--locked-by", wild],
            &["set", "a", "-t", wild],
            &["set", "a", &format!("--{wild}")],
            &["set", "a", "--db", &db],
            &["run", "-c", "true", wild],
            &["check", wild, "1"],
        ] {
            let ran = run(home.command().arg("--json").args(args));
            let printed = format!("{}{}", ran.stdout, ran.stderr);
            assert!(!printed.contains(steers), "{args:?}: {printed:?}");
            assert_ne!(ran.status, DONE, "{args:?}");
        }
    }
}

/// Opens managers until there are no more descriptors, in a process that may have few.
#[test]
#[ignore = "another test runs it with few descriptors"]
fn opens_until_refused() {
    let home = Home::new();
    let first = home.open();
    let mut managers = Vec::new();
    let refused = loop {
        match LockManager::open(home.db()) {
            Ok(manager) => managers.push(manager),
            Err(error) => break error,
        }
        assert!(managers.len() < 10_000);
    };
    let Error::Io {
        path,
        action,
        source,
        ..
    } = &refused
    else {
        panic!("{refused:?}");
    };
    const EMFILE: i32 = 24;
    assert_eq!((path, *action), (&home.db(), "open"));
    assert_eq!(source.raw_os_error(), Some(EMFILE));

    // Open managers go on, as a write needs no further descriptor.
    first.get_lock("a", get()).unwrap();
    for manager in &managers {
        assert!(manager.is_locked("a").unwrap());
    }
    managers.pop();
    let another = LockManager::open(home.db()).unwrap();
    assert!(another.unlock("a").unwrap());
    println!("{} managers", managers.len());
}

#[test]
fn handles_are_refused_when_there_are_no_more_descriptors() {
    let me = std::env::current_exe().unwrap();
    let script = "ulimit -n 64 && \
        exec \"$0\" --exact hostile::opens_until_refused --ignored --nocapture";
    let ran = run(Command::new("sh").args(["-c", script]).arg(me));
    assert_eq!(ran.status, DONE, "{ran:?}");
    assert!(ran.stdout.contains("1 passed") && ran.stdout.contains(" managers"));
}

fn at(instant: &str) -> DateTime<Utc> {
    instant.parse().unwrap()
}

#[test]
fn clock_at_the_ends_of_time_gives_answers_and_errors() {
    for (wall, is_past_the_calendar) in [
        ("1970-01-01T00:00:00Z", false),
        ("1969-12-31T23:59:59Z", false),
        ("0001-01-01T00:00:00Z", false),
        ("2262-04-11T23:47:16.854775Z", false),
        ("2262-04-11T23:47:16.854776Z", false),
        ("9999-12-31T23:55:00Z", true),
        ("+10000-01-01T00:00:00Z", true),
        ("+262142-12-31T23:59:59Z", true),
    ] {
        let home = Home::new();
        let clock = ManualClock::new(at(wall));
        let builder = LockManager::builder().clock(clock.clone());
        let manager = builder.open(home.db()).unwrap();
        let lock = manager.get_lock("a", get());
        if is_past_the_calendar {
            assert!(
                matches!(lock, Err(Error::InvalidTimeout(_))),
                "{wall}: {lock:?}"
            );
        } else {
            let lock = lock.unwrap();
            let lease = lock.locked_until().unwrap() - lock.created_at();
            assert_eq!(lease.num_seconds(), 600);
            clock.advance(Duration::from_secs(599));
            assert!(manager.is_locked("a").unwrap());
            clock.advance(Duration::from_secs(1));
            assert!(!manager.is_locked("a").unwrap());
        }
        // A lock for ever has no deadline that could pass, and stays as it is.
        let never = get().timeout(Timeout::Never);
        let for_ever = manager.get_lock("b", never).unwrap();
        let renewed = manager.renew_lock("b", RenewOptions::new());
        assert!(manager.is_locked("b").unwrap());
        let guard = manager
            .acquire(["c"])
            .lease(Duration::from_secs(600))
            .try_lock_for(Duration::from_millis(1));
        if is_past_the_calendar {
            for refused in [renewed.map(drop), guard.map(drop)] {
                assert!(
                    matches!(refused, Err(Error::InvalidTimeout(_))),
                    "{wall}: {refused:?}"
                );
            }
            assert_eq!(manager.find("b").unwrap(), Some(for_ever));
        } else {
            let renewed = renewed.unwrap();
            assert_eq!(renewed.locked_until(), None);
            assert_eq!(renewed.token(), for_ever.token());
            assert!(guard.unwrap().is_held().unwrap());
        }
        assert!(!manager.is_locked("c").unwrap());
        manager.clean_locks().unwrap();
        assert!(manager.reset_locks().unwrap() >= 1);
    }
}

/// A number of rows larger than a cleaning removes in one transaction.
const DEAD: usize = 50_001;

/// The time within which a process that waits in the kernel has its turn.
const SOON: Duration = Duration::from_millis(500);

/// Takes the store when its turn comes, keeps it for this time, and signals when it has the store.
fn take_for(other: &Arc<redb::Database>, held: Duration) -> Receiver<()> {
    let (has_it, told) = mpsc::channel();
    let other = Arc::clone(other);
    thread::spawn(move || {
        let writing = other.begin_write().unwrap();
        has_it.send(()).unwrap();
        thread::sleep(held);
        writing.abort().unwrap();
    });
    told
}

/// Cleans a store in two transactions. Another writer has the store for a moment before the first
/// one, and for `held` before the second one. Between the two, the cleaning works for as long as it
/// may wait. Returns the result, and the number of rows that were left.
fn clean_with_another_amid(bound: Duration, held: Duration) -> (Result<usize, Error>, usize) {
    let home = Home::in_memory();
    let clock = ManualClock::new(at("2030-01-01T00:00:00Z"));
    let builder = || LockManager::builder().clock(clock.clone());
    let filled = builder().open(home.db()).unwrap();
    let names = (0..DEAD).map(|i| format!("{i:05}"));
    filled.set_lock(names, SetOptions::new()).unwrap();
    clock.advance(Duration::from_secs(600));

    let mut other = redb::Builder::new();
    other.set_concurrency_mode(redb::ConcurrencyMode::MultiWriter);
    let other = Arc::new(other.open(home.db()).unwrap());
    let comes = Arc::new(AtomicBool::new(false));
    let (it_comes, another, granted) = (Arc::clone(&comes), Arc::clone(&other), Mutex::new(None));
    let cleaning = builder().busy_timeout(bound).storage_hook(move |call| {
        let mut granted = granted.lock().unwrap();
        match (call, &*granted) {
            // In the middle of the first commit.
            (StorageCall::Sync, None) if it_comes.swap(false, Ordering::Relaxed) => {
                *granted = Some(take_for(&another, held));
                thread::sleep(bound);
            }
            // The other writer's turn comes when the commit ends. This call may still be a part of
            // it.
            (StorageCall::Lock, Some(told)) if told.recv_timeout(SOON).is_ok() => *granted = None,
            _ => {}
        }
        Ok(())
    });
    let cleaning = cleaning.open(home.db()).unwrap();
    take_for(&other, bound / 4).recv().unwrap();
    comes.store(true, Ordering::Relaxed);
    let cleaned = cleaning.clean_locks();
    let left = builder().open(home.db()).unwrap().clean_locks().unwrap();
    (cleaned, left)
}

#[test]
fn cleaning_bounds_its_wait_for_others_but_not_its_own_work() {
    let bound = Duration::from_secs(2);
    let (cleaned, left) = clean_with_another_amid(bound, bound / 4);
    assert_eq!((cleaned.unwrap(), left), (DEAD, 0));
    let (refused, left) = clean_with_another_amid(bound / 4, bound);
    assert!(
        matches!(refused, Err(Error::StoreBusy { .. })),
        "{refused:?}"
    );
    assert!(left > 0 && left < DEAD, "{left}");
}

#[test]
fn large_cleaning_shrinks_the_file_while_others_have_it_open() {
    for builder in [LockManager::builder(), LockManager::builder().exclusive()] {
        let home = Home::in_memory();
        let clock = ManualClock::new(at("2030-01-01T00:00:00Z"));
        let manager = builder.clock(clock.clone()).open(home.db()).unwrap();
        let names = (0..400_000).map(|i| format!("{i:07}"));
        manager.set_lock(names, SetOptions::new()).unwrap();
        clock.advance(Duration::from_secs(600));
        let size = || fs::metadata(home.db()).unwrap().len();
        let full = size();
        assert_eq!(manager.clean_locks().unwrap(), 400_000);
        // redb decides how far the file shrinks: the last pages written may be near the end.
        assert!(size() <= full / 4 * 3, "{full} B, {} B", size());
    }
}

#[test]
fn clock_before_the_times_of_the_store_frees_nothing() {
    let home = Home::new();
    let clock = ManualClock::new(at("2030-01-01T00:00:00Z"));
    let manager = LockManager::builder().clock(clock.clone());
    let manager = manager.open(home.db()).unwrap();
    let first = manager.get_lock("a", get()).unwrap();
    clock.set_wall(at("1970-01-01T00:00:00Z"));
    assert_eq!(manager.find("a").unwrap().unwrap(), first);
    assert_eq!(manager.clean_locks().unwrap(), 0);
    let second = manager.get_lock("b", get()).unwrap();
    assert!(second.token() > first.token());
    manager.renew_lock(&first, RenewOptions::new()).unwrap();
    clock.advance(Duration::from_secs(600));
    assert!(manager.locks("").unwrap().is_empty());
}

#[test]
fn command_answers_at_any_time_of_the_wall_clock() {
    if !works(&["faketime", "-f", "-1d"]) {
        return;
    }
    let home = Home::new();
    for wall in [
        "@1970-01-01 00:00:01",
        "@2262-04-12 00:00:00",
        "@2005-01-01 00:00:00",
    ] {
        let command = |args: &[&str]| {
            let mut command = through(&["faketime", "-f", wall]);
            run(command.arg("--db").arg(home.db()).args(args))
        };
        for (args, status) in [
            (&["set", "a", "-t", "600"][..], DONE),
            (&["is-locked", "a"], DONE),
            (&["list"], DONE),
            (&["get", "a"], NO),
            (&["run", "b", "--", "true"], DONE),
            (&["unlock", "a"], DONE),
        ] {
            let ran = command(args);
            assert_eq!(ran.status, status, "{wall} {args:?}: {ran:?}");
        }
    }
}
