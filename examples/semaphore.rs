//! Lets at most two of many workers work at once, on the whole host: a semaphore of slots. Run
//! `cargo run --example semaphore`, also in several terminals with the path of one store.

use lockmgr::LockManager;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

static AT_WORK: AtomicU32 = AtomicU32::new(0);

fn main() -> lockmgr::Result<()> {
    let directory = tempfile::tempdir().expect("a directory for the store");
    let own = directory.path().join("locks.redb");
    let path = std::env::args_os().nth(1).map_or(own, Into::into);
    let manager = LockManager::open(path)?;
    let workers = (0..6).map(|_| {
        let request = manager.acquire_slots(["compile"], 1, 2);
        thread::spawn(move || {
            let guard = request.lock()?;
            let now = AT_WORK.fetch_add(1, Ordering::SeqCst) + 1;
            thread::sleep(Duration::from_millis(20)); // the work
            AT_WORK.fetch_sub(1, Ordering::SeqCst);
            guard.release().map(|()| now)
        })
    });
    let workers: Vec<_> = workers.collect();
    let mut most = 0;
    for worker in workers {
        most = most.max(worker.join().expect("a worker ends")?);
    }
    println!("six workers, and never more than {most} at once");
    Ok(())
}
