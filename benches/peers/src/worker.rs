//! Runs this program as the second process of a measurement.

use crate::args::{Waiter, Worker};
use crate::names;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::{Kind, Mode, Peer, is_busy};
use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Returns the microseconds on the clock that all processes share.
pub(crate) fn now() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// One call of a worker, in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) began: f64,
    pub(crate) took: f64,
    /// Set if the call waited for others up to its bound, and gave up.
    pub(crate) gave_up: bool,
}

/// One turn of a worker that waits for a lock, in microseconds on the clock that all share.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) asked: f64,
    pub(crate) granted: f64,
    /// The time of its call of release.
    pub(crate) released: f64,
}

/// The memory of a process, in KiB.
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
        Worker::Crowd {
            file,
            prefix,
            count,
            at_once,
        } => crowd(&file, &prefix, count, at_once),
        Worker::Open { dir } => open(&dir),
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
    take_turns(
        || Ok(manager.acquire(["x"]).lock()?),
        |guard| Ok(guard.release()?),
    )
}

fn wait_for_flock(path: &Path) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    take_turns(|| Ok(file.lock()?), |()| Ok(file.unlock()?))
}

/// For each line: `pass` gives the lock on at once, `keep` with the next line. A turn that failed
/// is told, and the next one may come.
fn take_turns<G>(
    mut acquire: impl FnMut() -> Result<G>,
    mut release: impl FnMut(G) -> Result<()>,
) -> Result<()> {
    println!("ready");
    let mut lines = io::stdin().lines();
    while let Some(line) = lines.next() {
        let keeps = line? == "keep";
        let asked = now();
        let turn = acquire().and_then(|guard| {
            let granted = now();
            let mut turn = Turn {
                asked,
                granted,
                released: granted,
            };
            if keeps {
                tell(&Ok(turn))?;
                if lines.next().transpose()?.is_none() {
                    // The program ends, with the lock.
                    return Ok(turn);
                }
                turn.released = now();
            }
            release(guard)?;
            Ok(turn)
        });
        tell(&turn.map_err(|error| format!("{error:#}")))?;
    }
    Ok(())
}

fn tell(turn: &Result<Turn, String>) -> Result<()> {
    // The process that asked may have ended meanwhile.
    let line = serde_json::to_string(turn)?;
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Its threads are the caller's, each with a small stack.
fn crowd(file: &Path, prefix: &str, count: usize, at_once: usize) -> Result<()> {
    const STACK: usize = 128 << 10;
    // It may not have come to its input when the one that measures is interrupted.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let manager = Lockmgr::open(file, Mode::Shared)?.manager;
    let mut asked = 0;
    while asked < count {
        for _ in 0..at_once.min(count - asked) {
            let request = manager.acquire([format!("{prefix}{asked}")]);
            let thread = thread::Builder::new().stack_size(STACK);
            thread.spawn(move || {
                let guard = request.lock();
                // No process releases the lock during the measurement.
                eprintln!("a request of a crowd ended: {guard:?}");
            })?;
            asked += 1;
        }
        // A look at many requests takes processor time that they need.
        while manager.requests(prefix)?.len() < asked {
            thread::sleep(Duration::from_millis(2 + at_once as u64 / 20));
        }
    }
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    // The threads still wait, and end with the process.
    std::process::exit(0);
}

fn open(dir: &Path) -> Result<()> {
    let _open = Kind::Redb.open(dir, Mode::Shared)?;
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
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
    // Reads about one name in a thousand.
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
