//! Runs verbs of this build of lockmgr, for a comparison with another build (`--before`).
//!
//! `verbs STORE shared|exclusive` prints `ready`. For each line `VERB COUNT` it calls the verb so
//! often, and prints the nanoseconds that the calls took.
//!
//! This file uses only lockmgr and std, and only functions that every version of lockmgr has, so
//! that an older checkout compiles the same file.

use lockmgr::{GetOptions, LockManager, SetOptions};
use std::error::Error;
use std::hint::black_box;
use std::io;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, store, mode] = arguments.as_slice() else {
        return Err("usage: verbs STORE shared|exclusive".into());
    };
    let builder = LockManager::builder();
    let manager = match mode.as_str() {
        "shared" => builder,
        "exclusive" => builder.exclusive(),
        _ => return Err(format!("no mode {mode}").into()),
    };
    let manager = manager.open(store)?;
    manager.set_lock(["present"], SetOptions::new())?;
    println!("ready");
    let mut names = 0_u64..;
    let mut name = || format!("n{:019}", names.next().unwrap_or_default());
    let mut new = Vec::new();
    for line in io::stdin().lines() {
        let line = line?;
        let (verb, count) = line.split_once(' ').ok_or("no count")?;
        let count: usize = count.parse()?;
        let began = Instant::now();
        for _ in 0..count {
            match verb {
                "set_lock" => {
                    let name = name();
                    manager.set_lock([&name], SetOptions::new())?;
                    new.push(name);
                }
                // Removes the locks of `set_lock`, in a line of its own that is not measured.
                "clean" => {
                    manager.unlock_all(&new)?;
                    new.clear();
                }
                "get_lock" => {
                    let lock = manager.get_lock(name(), GetOptions::new())?;
                    manager.unlock(&lock)?;
                }
                "guard" => manager.acquire([name()]).lock()?.release()?,
                "is_locked" => {
                    black_box(manager.is_locked(black_box("present"))?);
                }
                _ => return Err(format!("no verb {verb}").into()),
            }
        }
        println!("{}", began.elapsed().as_nanos());
    }
    Ok(())
}
