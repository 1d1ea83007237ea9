//! Starts processes that wait for one lock, of lockmgr or of flock(2).

use crate::args::Waiter;
use crate::child::Child;
use crate::lab::Lab;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::{Kind, Mode};
use anyhow::{Result, ensure};
use lockmgr::LockManager;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The bound for so many processes to queue.
const LONGEST: Duration = Duration::from_secs(120);

/// A lock of one of the two kinds, in its own directory.
pub(super) struct Place {
    waiter: Waiter,
    file: PathBuf,
    /// Only lockmgr's locks.
    manager: Option<LockManager>,
    _dir: TempDir,
}

impl Place {
    pub(super) fn new(lab: &Lab, waiter: Waiter) -> Result<Self> {
        let dir = lab.new_dir()?;
        let (file, manager) = match waiter {
            Waiter::Lockmgr => {
                let file = Kind::Lockmgr.file(dir.path());
                let manager = Lockmgr::open(&file, Mode::Shared)?.manager;
                (file, Some(manager))
            }
            Waiter::Flock => {
                let file = dir.path().join("flock");
                File::create(&file)?;
                (file, None)
            }
        };
        Ok(Self {
            waiter,
            file,
            manager,
            _dir: dir,
        })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the arguments of a process that waits for this lock.
    pub(super) fn arguments(&self) -> [&dyn AsRef<std::ffi::OsStr>; 3] {
        let waiter: &&str = match self.waiter {
            Waiter::Lockmgr => &"lockmgr",
            Waiter::Flock => &"flock",
        };
        [&"wait", waiter, &self.file]
    }

    /// Takes the lock in this process. The lock lasts until the caller calls the returned function.
    pub(super) fn hold(&self) -> Result<Box<dyn FnOnce() -> Result<()>>> {
        Ok(match &self.manager {
            Some(manager) => {
                let guard = manager.acquire(["x"]).lock()?;
                Box::new(|| Ok(guard.release()?))
            }
            None => {
                let file = File::options().write(true).open(&self.file)?;
                file.lock()?;
                Box::new(move || Ok(file.unlock()?))
            }
        })
    }

    fn waiting(&self) -> Result<usize> {
        if let Some(manager) = &self.manager {
            return Ok(manager.requests("x")?.len());
        }
        let inode = format!(":{} ", fs::metadata(&self.file)?.ino());
        let locks = fs::read_to_string("/proc/locks")?;
        let waits = |line: &&str| line.contains("-> ") && line.contains(&inode);
        Ok(locks.lines().filter(waits).count())
    }

    /// Sleeps until so many processes wait.
    pub(super) fn until_waiting(&self, count: usize) -> Result<()> {
        let began = Instant::now();
        loop {
            let waiting = self.waiting()?;
            if waiting == count {
                return Ok(());
            }
            ensure!(
                began.elapsed() < LONGEST,
                "{waiting} wait where {count} should, after {LONGEST:?}"
            );
            // A look at many processes takes time that they need.
            thread::sleep(Duration::from_millis(1 + waiting as u64 / 50));
        }
    }
}

/// Processes that wait for one lock, or will wait.
pub(super) struct Queue {
    pub(super) place: Place,
    pub(super) workers: Vec<Child>,
    pub(super) ids: Vec<u32>,
}

impl Queue {
    pub(super) fn new(lab: &Lab, waiter: Waiter, count: usize) -> Result<Self> {
        let place = Place::new(lab, waiter)?;
        let workers = Child::workers(count, &place.arguments())?;
        Ok(Self {
            ids: workers.iter().map(Child::id).collect(),
            place,
            workers,
        })
    }

    pub(super) fn tell_all(&mut self, line: &str) -> Result<()> {
        self.workers
            .iter_mut()
            .try_for_each(|worker| worker.tell(line))
    }

    /// Ends all processes at once, as otherwise each would wake the next one.
    pub(super) fn end(&mut self) {
        self.workers.iter_mut().for_each(Child::kill);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.end();
    }
}
