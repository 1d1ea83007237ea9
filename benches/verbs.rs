//! Measures the verbs in the shared and the exclusive mode, on a store in the directory for
//! temporary files (`TMPDIR` chooses another disk).
//!
//! On a disk the figures are mostly those of `fdatasync`. On a tmpfs they are those of the
//! processor.

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use lockmgr::{Error, GetOptions, LockManager, SetOptions};
use std::hint::black_box;
use std::time::Duration;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (mode, builder) in [
        ("shared", LockManager::builder()),
        ("exclusive", LockManager::builder().exclusive()),
    ] {
        let directory = tempfile::tempdir().expect("a directory for the store");
        let path = directory.path().join("locks.redb");
        let manager = builder.open(path).expect("a new store");
        manager
            .set_lock(["present"], SetOptions::new())
            .expect("a lock that exists");

        let mut group = criterion.benchmark_group(mode);
        writes(&mut group, &manager);
        writes_of_nothing(&mut group, &manager);
        reads(&mut group, &manager);
        renewals(&mut group, &manager);
        group.finish();
    }
    criterion.final_summary();
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn writes(group: &mut Group<'_>, manager: &LockManager) {
    let mut count = 0_u64;
    group.bench_function("set_lock, 1 new name", |bencher| {
        bencher.iter(|| {
            count += 1;
            let set = manager.set_lock([format!("new {count}")], SetOptions::new());
            set.expect("a new lock")
        });
    });
    // The next benchmarks measure a store of one lock, however long this one ran.
    only_present(manager);

    group.bench_function("set_lock, 1 existing name", |bencher| {
        bencher.iter(|| {
            let set = manager.set_lock(["present"], SetOptions::new());
            set.expect("a renewal")
        });
    });
    group.bench_function("get_lock + unlock", |bencher| {
        bencher.iter(|| {
            let lock = manager.get_lock("hello", GetOptions::new());
            manager.unlock(&lock.expect("a lock")).expect("its release")
        });
    });

    let names: Vec<String> = (0..1000).map(|i| format!("job:{i}")).collect();
    group.sample_size(20);
    group.bench_function("set_lock, 1000 names", |bencher| {
        bencher.iter(|| {
            let set = manager.set_lock(&names, SetOptions::new());
            set.expect("a thousand locks")
        });
    });
    group.sample_size(100);
    only_present(manager);
}

/// Measures calls that go through a write transaction and commit nothing.
fn writes_of_nothing(group: &mut Group<'_>, manager: &LockManager) {
    let unchanged = SetOptions::new().no_renew();
    group.bench_function("set_lock, changes nothing", |bencher| {
        bencher.iter(|| {
            let set = manager.set_lock(["present"], unchanged.clone());
            set.expect("an answer")
        });
    });
    group.bench_function("set_lock, aborted by fail", |bencher| {
        bencher.iter(|| {
            let refused = manager.set_lock(["absent", "present"], SetOptions::new().fail());
            assert!(matches!(refused, Err(Error::LockFail(_))));
        });
    });
}

fn reads(group: &mut Group<'_>, manager: &LockManager) {
    group.bench_function("is_locked", |bencher| {
        bencher.iter(|| manager.is_locked(black_box("present")).expect("an answer"));
    });
    group.bench_function("find", |bencher| {
        bencher.iter(|| manager.find(black_box("present")).expect("an answer"));
    });
}

/// Measures one renewal of a guard: ten times the names cost ten times as much.
fn renewals(group: &mut Group<'_>, manager: &LockManager) {
    group.sample_size(10);
    for count in [1_000, 10_000] {
        let names = (0..count).map(|i| format!("held:{i}"));
        let acquire = manager.acquire(names.collect::<Vec<_>>());
        let acquire = acquire.lease(Duration::from_secs(600)).no_keep_alive();
        let mut guard = acquire.try_lock().expect("free locks");
        group.bench_function(format!("renew a guard of {count} names"), |bencher| {
            bencher.iter(|| guard.renew().expect("a renewal"));
        });
    }
    group.sample_size(100);
}

fn only_present(manager: &LockManager) {
    manager.reset_locks().expect("an empty store");
    manager
        .set_lock(["present"], SetOptions::new())
        .expect("a lock that exists");
}
