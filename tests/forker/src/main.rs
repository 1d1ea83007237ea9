//! Forks during the use of a store, as C programs and old daemons do: `forker STORE SCENARIO`, or
//! `forker soak`.
//!
//! It ends with a status other than 0 if the parent or the child met something unexpected.

// The worker of the soak, which forks here.
#[path = "../../it/dice.rs"]
mod dice;
#[path = "../../it/soak/job.rs"]
mod job;
#[path = "../../it/soak/terms.rs"]
mod terms;
#[path = "../../it/soak/witness.rs"]
mod witness;
#[path = "../../it/soak/worker.rs"]
mod worker;

use lockmgr::{Error, GetOptions, LockManager, SetOptions, StorageCall};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(status: i32) -> !;
}

/// Runs this in a child that is forked off, and returns the child's number.
fn in_child(body: impl FnOnce()) -> i32 {
    // SAFETY: the child has the one thread that forked, and goes on as after any fork.
    let pid = unsafe { fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let status = i32::from(catch_unwind(AssertUnwindSafe(body)).is_err());
        // SAFETY: ends this process, without what the parent registered for its end.
        unsafe { _exit(status) }
    }
    pid
}

#[track_caller]
fn wait_for(pid: i32) {
    let mut status = 0;
    // SAFETY: the status outlives the call.
    let waited = unsafe { waitpid(pid, &mut status, 0) };
    assert_eq!((waited, status), (pid, 0), "the child failed");
}

#[track_caller]
fn is_forked<T>(result: Result<T, Error>, parent: u32) {
    match result {
        Err(Error::Forked { pid, path, .. }) => {
            assert_eq!(pid, parent);
            assert!(path.ends_with("locks.redb"));
        }
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("the child used what its parent opened"),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args[1] == "soak" {
        // SAFETY: as above; what the child does not own it does not use.
        let worker = worker::Worker::from_env(Some(|| unsafe { fork() }));
        worker.expect("a worker of the soak").work();
        return;
    }
    let db = Path::new(&args[1]);
    match args[2].as_str() {
        "calls" => calls(db),
        "drops" => drops(db),
        "turn" => turn(db),
        "renewal" => renewal(db),
        "waits" => waits(db),
        "orphan" => orphan(db),
        other => panic!("no scenario {other}"),
    }
}

/// Every call of the child fails at once, and changes nothing.
fn calls(db: &Path) {
    let parent = std::process::id();
    let manager = LockManager::open(db).unwrap();
    let mut guard = manager
        .acquire(["a"])
        .lease(Duration::from_secs(60))
        .lock()
        .unwrap();
    let a = manager.find("a").unwrap().unwrap();
    let child = in_child(|| {
        let began = Instant::now();
        is_forked(manager.get_lock("b", GetOptions::new()), parent);
        is_forked(manager.set_lock(["b"], SetOptions::new()), parent);
        is_forked(manager.renew_lock("a", Default::default()), parent);
        is_forked(manager.unlock("a"), parent);
        is_forked(manager.is_locked("a"), parent);
        is_forked(manager.find("a"), parent);
        is_forked(manager.locks(""), parent);
        is_forked(manager.requests(""), parent);
        is_forked(manager.clean_locks(), parent);
        is_forked(manager.reset_locks(), parent);
        is_forked(manager.acquire(["b"]).try_lock(), parent);
        is_forked(
            manager.acquire(["b"]).try_lock_for(Duration::from_secs(9)),
            parent,
        );
        is_forked(manager.acquire(["b"]).lock(), parent);
        is_forked(manager.acquire(["b"]).job().try_lock(), parent);
        is_forked(guard.is_held(), parent);
        is_forked(guard.renew(), parent);
        is_forked(guard.lock("b"), parent);
        is_forked(guard.try_lock("b"), parent);
        is_forked(guard.unlock("a"), parent);
        assert!(began.elapsed() < Duration::from_secs(1));
    });
    wait_for(child);
    assert_eq!(manager.locks("").unwrap(), [a]);
    assert!(guard.is_held().unwrap());
    guard.release().unwrap();
}

/// The child drops all it inherited, and opens its own.
fn drops(db: &Path) {
    let parent = std::process::id();
    let manager = LockManager::open(db).unwrap();
    let guards = ["a", "released", "detached", "job"].map(|name| {
        let acquire = manager
            .acquire([name])
            .on_lost(|lock| panic!("{lock} is lost"));
        let acquire = if name == "job" {
            acquire.job()
        } else {
            acquire
        };
        acquire.lock().unwrap()
    });
    let (mine, inherited) = (manager.clone(), &guards);
    let child = in_child(|| {
        // SAFETY: the parent's values are not used by anybody else in this process.
        let [a, released, detached, job] = unsafe { std::ptr::read(inherited) };
        drop(a);
        is_forked(released.release(), parent);
        is_forked(detached.detach(), parent);
        is_forked(job.leave_to_job(), parent);
        drop(mine);
        let own = LockManager::open(db).unwrap();
        assert_eq!(own.locks("").unwrap().len(), 4);
        for name in ["a", "released", "detached", "job"] {
            assert!(matches!(
                own.acquire([name]).try_lock(),
                Err(Error::Locked(_))
            ));
        }
        let guard = own.acquire(["child"]).lock().unwrap();
        assert!(guard.is_held().unwrap());
        std::mem::forget(guard);
        own.get_lock("child's", GetOptions::new()).unwrap();
    });
    wait_for(child);
    for guard in &guards {
        assert!(guard.is_held().unwrap());
    }
    // The child is gone, and its guard with it.
    assert!(!manager.is_locked("child").unwrap());
    assert!(manager.unlock("child's").unwrap());
    // What the child closed kept no lock of the file from the parent.
    let other = LockManager::open(db).unwrap();
    assert!(other.acquire(["a"]).try_lock().is_err());
    drop(guards);
    assert!(other.locks("").unwrap().is_empty());
}

/// Another thread of the parent is in the middle of a write when the child is forked off.
fn turn(db: &Path) {
    let parent = std::process::id();
    let (is_slow, is_inside) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (slow, inside) = (Arc::clone(&is_slow), Arc::clone(&is_inside));
    let hook = move |call: StorageCall<'_>| {
        let is_sync = matches!(call, StorageCall::Sync);
        if is_sync && slow.load(Ordering::SeqCst) && std::process::id() == parent {
            inside.store(true, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    };
    let manager = LockManager::builder().storage_hook(hook).open(db).unwrap();
    is_slow.store(true, Ordering::SeqCst);
    let writer = manager.clone();
    let writing = thread::spawn(move || writer.get_lock("parent", GetOptions::new()).map(drop));
    while !is_inside.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    let child = in_child(|| {
        let began = Instant::now();
        is_forked(manager.get_lock("child", GetOptions::new()), parent);
        is_forked(manager.is_locked("parent"), parent);
        assert!(
            began.elapsed() < Duration::from_millis(200),
            "{:?}",
            began.elapsed()
        );
        // It waits for the parent's write, as any other process does.
        let own = LockManager::open(db).unwrap();
        own.get_lock("child", GetOptions::new()).unwrap();
        assert!(own.is_locked("parent").unwrap());
    });
    writing.join().unwrap().unwrap();
    wait_for(child);
    assert!(manager.is_locked("child").unwrap());
}

/// The manager's thread is in the middle of a renewal when the child is forked off.
fn renewal(db: &Path) {
    let parent = std::process::id();
    let (is_slow, is_inside) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (slow, inside) = (Arc::clone(&is_slow), Arc::clone(&is_inside));
    let hook = move |call: StorageCall<'_>| {
        let is_sync = matches!(call, StorageCall::Sync);
        if is_sync && slow.load(Ordering::SeqCst) && std::process::id() == parent {
            inside.store(true, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    };
    let manager = LockManager::builder().storage_hook(hook).open(db).unwrap();
    let lease = Duration::from_secs(1);
    let mut guard = manager.acquire(["a"]).lease(lease).lock().unwrap();
    is_slow.store(true, Ordering::SeqCst);
    while !is_inside.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    let child = in_child(|| {
        let began = Instant::now();
        is_forked(guard.is_held(), parent);
        is_forked(guard.renew(), parent);
        is_forked(guard.lock("b"), parent);
        is_forked(guard.unlock("a"), parent);
        // SAFETY: the parent's guard is not used by anybody else in this process.
        is_forked(unsafe { std::ptr::read(&guard) }.release(), parent);
        assert!(began.elapsed() < Duration::from_millis(200));
    });
    wait_for(child);
    is_slow.store(false, Ordering::SeqCst);
    assert!(guard.is_held().unwrap());
    guard.release().unwrap();
}

/// Threads of the parent wait and renew when the child is forked off; it drops its copies.
fn waits(db: &Path) {
    let manager = LockManager::open(db).unwrap();
    let lease = Duration::from_millis(300);
    let guard = manager.acquire(["a"]).lease(lease).lock().unwrap();
    let waiter = manager.acquire(["a"]);
    let waiting = thread::spawn(move || waiter.lock().unwrap().release());
    while manager.requests("").unwrap().is_empty() {
        thread::yield_now();
    }
    let children = [0; 20].map(|_| {
        thread::sleep(Duration::from_millis(7));
        let (manager, guard) = (manager.clone(), &guard);
        in_child(|| {
            // SAFETY: as above.
            drop(unsafe { std::ptr::read(guard) });
            drop(manager);
            let own = LockManager::open(db).unwrap();
            assert!(own.is_locked("a").unwrap());
            assert_eq!(own.requests("").unwrap().len(), 1);
        })
    });
    children.into_iter().for_each(wait_for);
    assert!(guard.is_held().unwrap());
    guard.release().unwrap();
    waiting.join().unwrap().unwrap();
}

/// The parent says its child's number and ends without a word; the child lives until its input
/// ends, with copies of all the parent had.
fn orphan(db: &Path) {
    let manager = LockManager::open(db).unwrap();
    let guard = manager.acquire(["a"]).lock().unwrap();
    in_child(|| {
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    });
    println!("held");
    std::mem::forget(guard);
    // SAFETY: as above.
    unsafe { _exit(0) }
}
