//! Keeps a holder that is late from writing: the thing that the lock protects remembers the largest
//! token that it has seen, and refuses older ones. Run `cargo run --example fencing`.

use lockmgr::{LockManager, ManualClock};
use std::time::Duration;

/// A file, a table, a service: it is protected only if it looks at the token itself.
#[derive(Default)]
struct Ledger {
    last_token: u64,
    lines: Vec<String>,
}

impl Ledger {
    fn write(&mut self, token: u64, line: &str) -> Result<(), String> {
        if token < self.last_token {
            return Err(format!("token {token} is older than {}", self.last_token));
        }
        self.last_token = token;
        self.lines.push(line.into());
        Ok(())
    }
}

fn main() -> lockmgr::Result<()> {
    let directory = tempfile::tempdir().expect("a directory for the store");
    let clock = ManualClock::new("2030-01-01T00:00:00Z".parse().expect("an instant"));
    let builder = LockManager::builder().clock(clock.clone());
    let manager = builder.open(directory.path().join("locks.redb"))?;
    let mut ledger = Ledger::default();

    let lease = Duration::from_secs(60);
    let first = manager
        .acquire(["ledger"])
        .lease(lease)
        .no_keep_alive()
        .try_lock()?;
    // The first holder is paused for longer than its lease, and another holder writes.
    clock.advance(Duration::from_secs(61));
    let second = manager.acquire(["ledger"]).try_lock()?;
    ledger
        .write(second.token(), "written by the second holder")
        .expect("a newer token");
    // The first holder goes on, and does not know yet that its lease ran out.
    let late = ledger.write(first.token(), "written too late");
    println!("refused: {}", late.expect_err("an older token"));
    println!("{} line in the ledger", ledger.lines.len());
    Ok(())
}
