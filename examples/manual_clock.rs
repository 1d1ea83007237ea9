//! Tests a program that holds leases without sleeping: a manual clock is turned by hand. Run
//! `cargo run --example manual_clock`.

use lockmgr::{GetOptions, LockManager, ManualClock};
use std::time::Duration;

/// The code to test: runs the report unless it ran within the last hour.
fn report(manager: &LockManager) -> lockmgr::Result<bool> {
    let once_an_hour = GetOptions::new().timeout(Duration::from_secs(3600));
    match manager.get_lock("report", once_an_hour) {
        Ok(_) => Ok(true),
        Err(taken) if taken.is_contention() => Ok(false),
        Err(error) => Err(error),
    }
}

fn main() -> lockmgr::Result<()> {
    let directory = tempfile::tempdir().expect("a directory for the store");
    let clock = ManualClock::new("2030-01-01T00:00:00Z".parse().expect("an instant"));
    let builder = LockManager::builder().clock(clock.clone());
    let manager = builder.open(directory.path().join("locks.redb"))?;

    assert!(report(&manager)?);
    clock.advance(Duration::from_secs(3599));
    assert!(!report(&manager)?);
    clock.advance(Duration::from_secs(1));
    assert!(report(&manager)?);
    println!("an hour passed in no time");
    Ok(())
}
