//! Opens, creates and repairs the file, and runs one closure as one transaction.
//!
//! Only this module and its children know redb. Nothing of redb leaves them: rows come out as
//! locks, and failures as [`Error`]. The store decides nothing about locks, and never waits beyond
//! the bound of a call.

mod bounded;
mod fault;
mod format;
mod handle;
mod holds;
mod housekeeping;
mod in_memory;
mod newborn;
mod open;
mod panics;
mod permission;
mod read;
mod turns;
mod write;
mod yielding;

pub(crate) use housekeeping::{CLEANED_AT_A_TIME, MUCH};
pub(crate) use read::ReadTx;
pub(crate) use write::WriteTx;

use crate::beacon::{Beacon, Judge, draw_id};
use crate::error::{Error, Result};
use crate::process::{Binding, Bound, FileId, Origin, Process};
use crate::storage::StorageHook;
use bounded::LastFailure;
use fault::{At, Fault, caught};
use handle::{Handle, Opened};
use read::Tables;
use redb::TableDefinition;
use std::fs::File;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use turns::Turns;
use yielding::Yielding;

const LOCKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("locks");
/// The holds of names that are shared or held by slots: name and token to row.
const HOLDS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("holds");
const REQUESTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("requests");
/// The index of the queue: each name that a request wants, with the number of the request.
const WANTS: TableDefinition<'_, (&str, u64), ()> = TableDefinition::new("wants");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("lockmgr");

/// The key of the [`State`] in [`META`].
const STATE_KEY: &str = "state";

/// The reason of a call that waits for its turn.
const OTHER_THREADS: &str = "other threads of this process kept it busy";

/// How long a reader may overlook that the file was deleted or replaced.
const SEEN_WHILE_READING: Duration = Duration::from_millis(100);

/// Says how the file is opened, and shared with other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
    ReadOnly,
}

/// Holds the settings that opening needs.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) path: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) busy_timeout: Duration,
    /// The size of the cache, in bytes.
    pub(crate) cache_size: usize,
    pub(crate) hook: Option<StorageHook>,
}

/// Keeps a file open, and opens it again after a failure that left its handle unusable.
#[derive(Debug)]
pub(crate) struct Store {
    config: Config,
    handle: RwLock<Option<Arc<Handle>>>,
    /// Serialises the threads that open the file.
    openings: Turns,
    /// Serialises the threads that write.
    turns: Turns,
    yielding: Arc<Yielding>,
    failure: LastFailure,
    /// The process that opened the store. A child that this process forks off shares the open
    /// files, and so the locks on them: the child has to open its own.
    origin: Origin,
    here: Process,
    /// The id that tells this manager from all others.
    id: u64,
    /// The judge for as long as there is no file.
    judge: Judge,
    /// The beacons that stay lit as long as the manager lives: one for each file that had the
    /// store's name.
    beacons: Mutex<Vec<Beacon>>,
}

impl Store {
    /// Opens the store, creates it if it is missing, and repairs it if a process died. In read-only
    /// mode this creates nothing: a missing file is an empty store until a writer creates it.
    pub(crate) fn open(config: Config) -> Result<Self> {
        panics::watch();
        let store = Self::unopened(config, LastFailure::default());
        store.call("open", || store.handle().map(drop))?;
        Ok(store)
    }

    fn unopened(config: Config, failure: LastFailure) -> Self {
        let (here, id) = (Process::current(), draw_id());
        Self {
            config,
            handle: RwLock::default(),
            openings: Turns::default(),
            turns: Turns::default(),
            yielding: Arc::default(),
            failure,
            origin: Origin::here(),
            here,
            id,
            judge: Judge::new(here, id, None),
            beacons: Mutex::default(),
        }
    }

    /// Returns this process, as it was when the store was opened.
    pub(crate) fn here(&self) -> &Process {
        &self.here
    }

    /// Returns the number of the process that opened the store, if this is another one.
    pub(crate) fn forked_from(&self) -> Option<u32> {
        self.origin.elsewhere()
    }

    /// Fails in a child that was forked off.
    pub(crate) fn check_fork(&self) -> Result<()> {
        match self.forked_from() {
            Some(pid) => Err(Error::Forked {
                path: self.config.path.clone(),
                pid,
            }),
            None => Ok(()),
        }
    }

    fn judge(&self, file: Option<File>) -> Judge {
        Judge::new(self.here, self.id, file)
    }

    /// Returns the binding of a guard of this manager. Lights the manager's beacon first, so that
    /// no row ever names a beacon that is not lit.
    pub(crate) fn binding(&self) -> Result<Binding> {
        self.call("lock in", || {
            let handle = self.current_handle(Duration::ZERO)?;
            let mut beacons = self.beacons.lock().unwrap_or_else(PoisonError::into_inner);
            let is_shared = self.config.mode == Mode::Shared;
            let file = handle.filter(|_| is_shared).and_then(|it| it.judge.file());
            let is_lit = |file: &FileId| beacons.iter().any(|beacon| beacon.file_id == *file);
            let file = match file {
                Some(file) if is_lit(&file) => Some(file),
                Some(_) => self.light(self.id)?.map(|beacon| {
                    let file = beacon.file_id;
                    beacons.push(beacon);
                    file
                }),
                None => None,
            };
            Ok(self.bound(Bound::Manager, self.id, file))
        })
    }

    /// Lights a beacon for a job, whose processes inherit it.
    pub(crate) fn light_job(&self) -> Result<(Binding, Option<Beacon>)> {
        self.call("lock in", || {
            self.current_handle(Duration::ZERO)?;
            let id = draw_id();
            let beacon = match self.config.mode {
                Mode::Shared => self.light(id)?,
                Mode::Exclusive | Mode::ReadOnly => None,
            };
            let file = beacon.as_ref().map(|beacon| beacon.file_id);
            Ok((self.bound(Bound::Job, id, file), beacon))
        })
    }

    fn bound(&self, kind: Bound, id: u64, file: Option<FileId>) -> Binding {
        let process = self.here;
        Binding {
            kind,
            process,
            id,
            file,
        }
    }

    fn light(&self, id: u64) -> Result<Option<Beacon>, Fault> {
        let Some(file) = self.open_file(File::options().read(true).write(true))? else {
            return Ok(None);
        };
        Ok(Beacon::light(id, file)?)
    }

    /// Touches the file, for the waiters that a ping cannot reach and that watch the file.
    pub(crate) fn touch(&self) {
        let handle = self.handle.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(Opened::Writer(_, file)) = handle.as_deref().map(|it| &it.database) {
            touch(file);
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.config.path
    }

    /// Runs calls that together end within this time, whatever the bound of each.
    pub(crate) fn within<T>(&self, bound: Duration, calls: impl FnOnce() -> T) -> T {
        let bound = bound.min(self.config.busy_timeout);
        bounded::until(Instant::now() + bound, calls)
    }

    /// Runs calls that wait, together, no longer than one call does.
    pub(crate) fn in_one_bound<T>(&self, calls: impl FnOnce() -> T) -> T {
        bounded::within(self.config.busy_timeout, calls)
    }

    /// Runs `body` on a snapshot of the store.
    pub(crate) fn read<T>(
        &self,
        action: &'static str,
        body: impl FnOnce(&ReadTx<'_>) -> Result<T>,
    ) -> Result<T> {
        self.call(action, || {
            let at = self.at(action);
            let Some(handle) = self.current_handle(SEEN_WHILE_READING)? else {
                let judge = &self.judge;
                let tables = None;
                return Ok(body(&ReadTx { tables, judge, at })?);
            };
            let judge = &handle.judge;
            let snapshot = handle.snapshot(at)?;
            let tables = Some(Tables {
                snapshot: &snapshot,
                is_checked: &handle.is_checked,
            });
            Ok(body(&ReadTx { tables, judge, at })?)
        })
    }

    /// Runs `body` as one write transaction. Commits it if `body` returns and changed something.
    /// Aborts it if `body` changed nothing or fails.
    pub(crate) fn write<T>(
        &self,
        action: &'static str,
        body: impl FnOnce(&mut WriteTx<'_>) -> Result<T>,
    ) -> Result<T> {
        self.call(action, || {
            let at = self.at(action);
            let turn = self.turns.take(self.config.busy_timeout);
            let _turn = turn.ok_or_else(|| Fault::busy(OTHER_THREADS))?;
            let handle = self.current_handle(Duration::ZERO)?;
            let Some((handle, Opened::Writer(database, _))) =
                handle.as_deref().map(|handle| (handle, &handle.database))
            else {
                let read_only = "the store was opened read-only";
                let denied = io::Error::new(io::ErrorKind::PermissionDenied, read_only);
                return Err(denied.into());
            };
            self.yielding.yield_if_due();
            let txn = database.begin_write()?;
            let judge = handle.judge.for_one_write();
            match WriteTx::run(&txn, handle, &judge, at, body) {
                Ok((value, true)) => match handle.commit(txn) {
                    Ok(()) => Ok(value),
                    Err(error) => {
                        // In the middle of a commit the handle no longer knows the file.
                        let error = at.failed(error);
                        self.close();
                        Err(error.into())
                    }
                },
                Ok((value, false)) => {
                    txn.abort()?;
                    Ok(value)
                }
                Err(error) => {
                    txn.abort()?;
                    Err(error.into())
                }
            }
        })
    }

    /// Runs one call within its bound. If storage failed the call, this closes the handle, so that
    /// the next call opens the file again and repairs it. This also closes the handle if the call
    /// succeeded anyway, because a lock on the file that the call could not release would stay as
    /// long as the handle.
    fn call<T>(&self, action: &'static str, body: impl FnOnce() -> Result<T, Fault>) -> Result<T> {
        // Check this first: a child may have inherited a mutex that another thread of its parent
        // held.
        self.check_fork()?;
        let at = self.at(action);
        let result = caught(at, || {
            bounded::within(self.config.busy_timeout, || at.run(body))
        });
        let has_failed = matches!(
            result,
            Err(Error::Io { .. } | Error::Corrupted { .. } | Error::Bug { .. })
        );
        if self.failure.take().is_some() || has_failed {
            self.close();
        }
        result
    }

    fn close(&self) {
        let handle = self
            .handle
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Closing a damaged file may panic as reading it may.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(handle)));
        // The next handle must not see the failure of this one.
        self.failure.take();
    }

    /// Returns the handle of the file that has the store's name now. If a user deletes or replaces
    /// a store, its locks go with it: a process that stays on the nameless file would share it with
    /// no other.
    fn current_handle(&self, looks: Duration) -> Result<Option<Arc<Handle>>, Fault> {
        let handle = self.handle()?;
        match handle {
            Some(handle) if !handle.is_current(self.path(), looks) => {
                drop(handle);
                self.close();
                self.handle()
            }
            handle => Ok(handle),
        }
    }

    /// Returns the open handle, and opens it if it is not open. Returns none if the store is
    /// read-only and missing.
    fn handle(&self) -> Result<Option<Arc<Handle>>, Fault> {
        let opened = || {
            let slot = self.handle.read().unwrap_or_else(PoisonError::into_inner);
            slot.clone()
        };
        if let Some(handle) = opened() {
            return Ok(Some(handle));
        }
        let turn = self.openings.take(self.config.busy_timeout);
        let _turn = turn.ok_or_else(|| Fault::busy(OTHER_THREADS))?;
        if let Some(handle) = opened() {
            return Ok(Some(handle));
        }
        let handle = match self.config.mode {
            Mode::ReadOnly => self.open_reader()?,
            Mode::Shared | Mode::Exclusive => Some(self.open_writer()?),
        };
        let handle = handle.map(Arc::new);
        let mut slot = self.handle.write().unwrap_or_else(PoisonError::into_inner);
        slot.clone_from(&handle);
        Ok(handle)
    }

    fn at(&self, action: &'static str) -> At<'_> {
        At {
            config: &self.config,
            failure: &self.failure,
            action,
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        match self.forked_from() {
            // Closing the parent's database would free its locks.
            Some(_) => std::mem::forget(std::mem::take(&mut self.handle)),
            None => self.close(),
        }
    }
}

#[cfg(target_os = "linux")]
fn touch(file: &File) {
    use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};

    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    // A lost touch delays a waiter until it looks by itself.
    let _ = futimens(file, &times);
}

#[cfg(not(target_os = "linux"))]
fn touch(_: &File) {}
