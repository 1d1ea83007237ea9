//! Tests the contents of errors: the kind, the true reason, the true time, the remedy.

use crate::holding_support::millis;
use crate::support::{Home, run};
use lockmgr::{Error, ErrorKind, GetOptions, LockManager, SetOptions, StorageCall};
use std::io;
use std::panic::{self, PanicHookInfo};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn hook_that_panics_in_any_call_is_reported_as_a_bug_with_its_place() {
    let is_kind: [fn(&StorageCall<'_>) -> bool; 5] = [
        |call| matches!(call, StorageCall::Len),
        |call| matches!(call, StorageCall::Read { .. }),
        |call| matches!(call, StorageCall::Write { .. }),
        |call| matches!(call, StorageCall::Sync),
        |call| matches!(call, StorageCall::Lock),
    ];
    for is_kind in is_kind {
        let home = Home::new();
        let panics = Arc::new(AtomicBool::new(false));
        let (line, told) = (line!() + 3, Arc::clone(&panics));
        let hook = move |call: StorageCall<'_>| {
            let it_panics = told.load(Ordering::Relaxed) && is_kind(&call);
            assert!(!it_panics, "a bug of the caller");
            Ok(())
        };
        let builder = LockManager::builder().storage_hook(hook);
        let manager = builder.open(home.db()).unwrap();
        manager.get_lock("held", GetOptions::new()).unwrap();
        // Another manager commits, so that this one reads pages again.
        home.open().get_lock("more", GetOptions::new()).unwrap();
        panics.store(true, Ordering::Relaxed);
        let error = manager.get_lock("new", GetOptions::new()).unwrap_err();
        let Error::Bug { message, place, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(message.starts_with("a bug of the caller"), "{message}");
        assert!(
            place.starts_with(&format!("{}:{line}:", file!())),
            "{place}"
        );
        assert_eq!(error.kind(), ErrorKind::Bug);

        panics.store(false, Ordering::Relaxed);
        assert!(manager.is_locked("held").unwrap());
        manager.set_lock(["new"], SetOptions::new()).unwrap();
    }
}

/// Runs in its own process, as it changes the panic hook.
#[test]
#[ignore = "another test runs it alone"]
fn panics_with_hooks_of_the_program() {
    let home = Home::new();
    let called = Arc::new(AtomicUsize::new(0));
    let mine = || {
        let called = Arc::clone(&called);
        Box::new(move |_: &PanicHookInfo<'_>| {
            called.fetch_add(1, Ordering::Relaxed);
        })
    };
    panic::set_hook(mine());
    let panics = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&panics);
    let hook = move |_: StorageCall<'_>| {
        assert!(!told.load(Ordering::Relaxed), "a bug of the caller");
        Ok(())
    };
    let builder = LockManager::builder().storage_hook(hook);
    let manager = builder.open(home.db()).unwrap();
    panics.store(true, Ordering::Relaxed);
    let places = [file!(), "an unknown place"];
    for (nth, expected) in places.into_iter().enumerate() {
        called.store(0, Ordering::Relaxed);
        let failed = manager.is_locked("a");
        let told = matches!(&failed, Err(Error::Bug { place, .. }) if place.starts_with(expected));
        // The next hook is set after the manager was opened, and replaces all others.
        panic::set_hook(mine());
        assert!(told, "{nth}: {failed:?}");
        assert_ne!(called.load(Ordering::Relaxed), 0, "{nth}");
    }
}

#[test]
fn panic_hook_of_the_program_is_called_as_before() {
    let me = std::env::current_exe().unwrap();
    let alone = "errors::panics_with_hooks_of_the_program";
    let ran = run(Command::new(me).args(["--exact", alone, "--ignored"]));
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("1 passed"), "{ran:?}");
}

#[test]
fn busy_store_is_reported_with_the_time_that_was_waited() {
    let home = Home::new();
    let _alone = LockManager::builder().exclusive().open(home.db()).unwrap();
    for bound in [Duration::ZERO, millis(100)] {
        let began = Instant::now();
        let opened = LockManager::builder().busy_timeout(bound).open(home.db());
        let error = opened.unwrap_err();
        let Error::StoreBusy { waited, reason, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(bound <= *waited && *waited <= began.elapsed(), "{error}");
        assert_eq!(reason, "another process has it exclusively");
        assert!(error.is_retryable() && !error.is_contention());
    }
}

#[test]
fn exclusive_opening_beside_living_holders_is_refused_and_names_them() {
    let home = Home::new();
    let alone = || {
        let builder = LockManager::builder().exclusive().busy_timeout(millis(50));
        builder.open(home.db())
    };
    let shared = home.open();
    let error = alone().unwrap_err();
    assert!(error.to_string().contains("others have it open"), "{error}");
    assert_eq!(error.kind(), ErrorKind::StoreBusy);

    shared
        .get_lock("nightly", GetOptions::new().locked_by("app-1"))
        .unwrap();
    let error = alone().unwrap_err();
    assert!(
        error.to_string().contains("\"nightly\": app-1 holds it"),
        "{error}"
    );
    let names: Vec<_> = (0..5).map(|i| format!("a{i}")).collect();
    shared.set_lock(&names, SetOptions::new()).unwrap();
    let error = alone().unwrap_err().to_string();
    assert!(
        error.contains("\"a2\"") && error.contains("3 more locks"),
        "{error}"
    );
    drop(shared);
    alone().unwrap();
}

#[test]
fn shared_opening_without_locks_of_ranges_is_unsupported_and_exclusive_opening_works() {
    let home = Home::new();
    home.open().get_lock("held", GetOptions::new()).unwrap();
    let builder = LockManager::builder().storage_hook(|call| match call {
        StorageCall::Lock => Err(io::ErrorKind::Unsupported.into()),
        _ => Ok(()),
    });
    for builder in [builder.clone(), builder.clone().read_only()] {
        let error = builder.open(home.db()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("`exclusive()`"), "{error}");
    }
    let manager = builder.exclusive().open(home.db()).unwrap();
    assert!(manager.is_locked("held").unwrap());
}

#[test]
fn contention_is_told_from_failure() {
    let home = Home::new();
    let manager = home.open();
    manager.get_lock("held", GetOptions::new()).unwrap();
    let locked = manager.get_lock("held", GetOptions::new()).unwrap_err();
    let fail = manager
        .set_lock(["held"], SetOptions::new().fail())
        .unwrap_err();
    for (error, kind) in [(locked, "Locked"), (fail, "LockFail")] {
        assert_eq!(error.kind().to_string(), kind);
        assert!(error.is_contention() && error.is_retryable());
    }
    let invalid = manager.get_lock("", GetOptions::new()).unwrap_err();
    assert_eq!(invalid.kind(), ErrorKind::InvalidName);
    assert!(!invalid.is_contention() && !invalid.is_retryable());
}
