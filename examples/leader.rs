//! Waits to be the leader, works while it is, and stops if it is not any more: a standby that takes
//! over as soon as the leader ends. Run `cargo run --example leader`, or several with the path of one
//! store.

use lockmgr::LockManager;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

fn main() -> lockmgr::Result<()> {
    let directory = tempfile::tempdir().expect("a directory for the store");
    let own = directory.path().join("locks.redb");
    let path = std::env::args_os().nth(1).map_or(own, Into::into);
    let manager = LockManager::open(path)?;

    let is_lost = Arc::new(AtomicBool::new(false));
    let lost = Arc::clone(&is_lost);
    let guard = manager
        .acquire(["leader"])
        // Others take over if this program hangs. The manager renews the lease meanwhile.
        .lease(Duration::from_secs(10))
        .on_lost(move |lock| {
            eprintln!("lost {}", lock.name());
            lost.store(true, Ordering::Relaxed);
        })
        .lock()?;
    println!("leading, with token {}", guard.token());
    for step in 1..=3 {
        if is_lost.load(Ordering::Relaxed) {
            return guard.release(); // says who has it
        }
        println!("step {step}");
        thread::sleep(Duration::from_millis(20));
    }
    guard.release()
}
