//! Moves money between accounts from several threads: each transfer locks two accounts, both or none,
//! in any order, and no two threads wait for each other. Run `cargo run --example transfer`.

use lockmgr::LockManager;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

const ACCOUNTS: usize = 3;

fn main() -> lockmgr::Result<()> {
    let directory = tempfile::tempdir().expect("a directory for the store");
    let manager = LockManager::open(directory.path().join("locks.redb"))?;
    let balances: Arc<[AtomicI64; ACCOUNTS]> = Arc::default();
    let threads = (0..4).map(|number| {
        let (manager, balances) = (manager.clone(), Arc::clone(&balances));
        thread::spawn(move || {
            for turn in 0..5 {
                let (from, to) = ((number + turn) % ACCOUNTS, (number + turn + 1) % ACCOUNTS);
                transfer(&manager, balances.as_slice(), from, to)?;
            }
            Ok::<(), lockmgr::Error>(())
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("a thread ends")?;
    }
    let total: i64 = balances.iter().map(|it| it.load(Ordering::Relaxed)).sum();
    println!("20 transfers, and the sum is still {total}");
    Ok(())
}

fn transfer(
    manager: &LockManager,
    balances: &[AtomicI64],
    from: usize,
    to: usize,
) -> lockmgr::Result<()> {
    let names = [from, to].map(|number| format!("account:{number}"));
    let guard = manager.acquire(names).lock()?;
    balances[from].fetch_sub(10, Ordering::Relaxed);
    balances[to].fetch_add(10, Ordering::Relaxed);
    guard.release()
}
