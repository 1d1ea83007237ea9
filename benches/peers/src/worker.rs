//! What this program does as the second process of a measurement.

use crate::args::{Waiter, Worker};
use crate::names;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::{Kind, Mode, Peer, is_busy};
use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Microseconds on the clock that all processes share.
pub(crate) fn now() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// One call of a worker, in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) began: f64,
    pub(crate) took: f64,
    /// It waited for others as long as it may, and gave up.
    pub(crate) gave_up: bool,
}

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Resident {
    pub(crate) now: u64,
    pub(crate) peak: u64,
}

pub(crate) fn main(worker: Worker) -> Result<()> {
    match worker {
        Worker::Write {
            kind,
            dir,
            id,
            days,
        } => write(kind, &dir, id, days),
        Worker::Wait { waiter, file } => match waiter {
            Waiter::Lockmgr => wait_for_lockmgr(&file),
            Waiter::Flock => wait_for_flock(&file),
        },
        Worker::Resident {
            kind,
            mode,
            dir,
            rows,
            calls,
        } => resident(kind, mode, &dir, rows, calls),
    }
}

fn write(kind: Kind, dir: &Path, id: u64, days: u32) -> Result<()> {
    let mut peer: Box<dyn Peer> = match kind {
        Kind::Lockmgr => {
            let lease = Duration::from_secs(24 * 3600) * days;
            Box::new(Lockmgr::open(&kind.file(dir), Mode::Shared)?.with_lease(lease))
        }
        Kind::Redb | Kind::Sqlite => kind.open(dir, Mode::Shared)?,
    };
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    let is_over = Arc::new(AtomicBool::new(false));
    let watch = Arc::clone(&is_over);
    thread::spawn(move || {
        let _ = io::stdin().read_line(&mut String::new());
        watch.store(true, Ordering::Relaxed);
    });
    let mut calls = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let name = names::of_worker(id, calls.len() as u64);
        let began = now();
        let result = peer.set(&[name]);
        let took = now() - began;
        let gave_up = result.as_ref().is_err_and(is_busy);
        if !gave_up {
            result?;
        }
        calls.push(Call {
            began,
            took,
            gave_up,
        });
    }
    println!("{}", serde_json::to_string(&calls)?);
    Ok(())
}

fn wait_for_lockmgr(file: &Path) -> Result<()> {
    let manager = Lockmgr::open(file, Mode::Shared)?.manager;
    each_line(|| {
        let guard = manager.acquire(["x"]).lock()?;
        let granted = now();
        guard.release()?;
        Ok(granted)
    })
}

fn wait_for_flock(path: &Path) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    each_line(|| {
        file.lock()?;
        let granted = now();
        file.unlock()?;
        Ok(granted)
    })
}

fn each_line(mut work: impl FnMut() -> Result<f64>) -> Result<()> {
    println!("ready");
    for line in io::stdin().lines() {
        line?;
        println!("{}", work()?);
    }
    Ok(())
}

fn resident(kind: Kind, mode: Mode, dir: &Path, rows: usize, calls: usize) -> Result<()> {
    println!("ready");
    let mut peer = kind.open(dir, mode)?;
    for i in 0..calls {
        let name = names::present(names::random(i, rows));
        ensure!(peer.find(&name)?, "{name} is not there");
        peer.set(&[name])?;
    }
    // About one name in a thousand.
    let listed = peer.list("n420")?;
    ensure!(listed > 0 || rows < 100_000, "nothing was listed");
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name} of this process"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    let resident = Resident {
        now: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    };
    println!("{}", serde_json::to_string(&resident)?);
    Ok(())
}
