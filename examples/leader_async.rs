//! One leader among local workers, on tokio: each waits to lead, and one leads at a time. Run
//! `cargo run --features async --example leader_async`, here or in several terminals with a path.

use lockmgr::LockManager;
use std::time::Duration;

#[tokio::main]
async fn main() -> lockmgr::Result<()> {
    let directory = tempfile::tempdir().expect("a directory for the store");
    let own = directory.path().join("locks.redb");
    let path = std::env::args_os().nth(1).map_or(own, Into::into);
    let manager = LockManager::open(&path)?;
    let workers: Vec<_> = (1..=3)
        .map(|it| tokio::spawn(work(it, manager.clone())))
        .collect();
    for worker in workers {
        worker.await.expect("a worker ends")?;
    }
    Ok(())
}

async fn work(number: u32, manager: LockManager) -> lockmgr::Result<()> {
    // A worker that hangs is overtaken after the lease. The manager renews it meanwhile.
    let lead = manager.acquire(["leader"]).lease(Duration::from_secs(10));
    // A standby waits asleep. Dropping the future gives up its place.
    let guard = lead.lock_async().await?;
    println!("worker {number} leads, with token {}", guard.token());
    tokio::time::sleep(Duration::from_millis(50)).await;
    guard.release_async().await
}
