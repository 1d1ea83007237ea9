//! The file: opening, creating and repairing it, and running one closure as one transaction.
//!
//! The only room that knows redb. Nothing of redb leaves it: rows come out as locks, failures as
//! [`Error`]. It decides nothing about locks, and never waits beyond the bound of a call.

mod bounded;
mod courtesy;
mod fault;
mod format;
mod handle;
mod housekeeping;
mod in_memory;
mod newborn;
mod open;
mod panics;
mod permission;
mod read;
mod turns;
mod write;

pub(crate) use housekeeping::{CLEANED_AT_A_TIME, MUCH};
pub(crate) use read::ReadTx;
pub(crate) use write::WriteTx;

use crate::error::{Error, Result};
use crate::storage::StorageHook;
use crate::wait::announce;
use bounded::LastFailure;
use courtesy::Courtesy;
use fault::{At, Fault, caught};
use handle::{Handle, Opened};
use read::Tables;
use redb::TableDefinition;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use turns::Turns;
use write::Outcome;

const LOCKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("locks");
const REQUESTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("requests");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("lockmgr");

/// The key in [`META`] of the [`State`].
const STATE_KEY: &str = "state";

/// Why a call waits that waits for its turn.
const OTHER_THREADS: &str = "other threads of this process kept it busy";

/// How long a file may have been deleted or replaced before who only reads it takes notice.
const SEEN_WHILE_READING: Duration = Duration::from_millis(100);

/// How the file is opened, and shared with other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
    ReadOnly,
}

/// What opening needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) path: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) busy_timeout: Duration,
    /// Bytes.
    pub(crate) cache_size: usize,
    pub(crate) hook: Option<StorageHook>,
}

/// A store, opened once and again after a failure that left its handle unusable.
#[derive(Debug)]
pub(crate) struct Store {
    config: Config,
    handle: RwLock<Option<Arc<Handle>>>,
    /// Of those who open the file.
    openings: Turns,
    /// Of those who write.
    turns: Turns,
    courtesy: Arc<Courtesy>,
    failure: LastFailure,
}

impl Store {
    /// Opens the store, creates it where it is missing, and repairs it where a process died.
    /// Read-only it creates nothing: a missing file is an empty store until somebody creates it.
    pub(crate) fn open(config: Config) -> Result<Self> {
        panics::watch();
        let store = Self::unopened(config, LastFailure::default());
        store.call("open", || store.handle().map(drop))?;
        Ok(store)
    }

    fn unopened(config: Config, failure: LastFailure) -> Self {
        Self {
            config,
            handle: RwLock::default(),
            openings: Turns::default(),
            turns: Turns::default(),
            courtesy: Arc::default(),
            failure,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.config.path
    }

    /// Runs calls that are over within this time, whatever the bound of each.
    pub(crate) fn within<T>(&self, bound: Duration, calls: impl FnOnce() -> T) -> T {
        let bound = bound.min(self.config.busy_timeout);
        bounded::until(Instant::now() + bound, calls)
    }

    /// Runs calls that wait, together, no longer than one does.
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
                return Ok(body(&ReadTx { tables: None, at })?);
            };
            let snapshot = handle.snapshot(at)?;
            let tables = Some(Tables {
                snapshot: &snapshot,
                is_checked: &handle.is_checked,
            });
            Ok(body(&ReadTx { tables, at })?)
        })
    }

    /// Runs `body` as one write transaction: committed where it returns and changed something,
    /// aborted where it changed nothing or fails.
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
            let Some((handle, Opened::Writer(database, file))) =
                handle.as_deref().map(|handle| (handle, &handle.database))
            else {
                let read_only = "the store was opened read-only";
                let denied = io::Error::new(io::ErrorKind::PermissionDenied, read_only);
                return Err(denied.into());
            };
            self.courtesy.give_way();
            let txn = database.begin_write()?;
            match WriteTx::run(&txn, &handle.is_checked, at, body) {
                Ok((value, outcome @ (Outcome::Changed | Outcome::Awaited))) => {
                    match handle.commit(txn) {
                        Ok(()) => {
                            if outcome == Outcome::Awaited {
                                announce(file);
                            }
                            Ok(value)
                        }
                        Err(error) => {
                            // Half way through a commit the handle no longer knows the file.
                            let error = at.failed(error);
                            self.close();
                            Err(error.into())
                        }
                    }
                }
                Ok((value, Outcome::Unchanged)) => {
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

    /// Runs one call within its bound. Where storage failed it the handle is closed, so that the
    /// next call opens the file anew and repairs it; also where the call succeeded all the same,
    /// as a lock on the file that it could not give back would stay as long as the handle.
    fn call<T>(&self, action: &'static str, body: impl FnOnce() -> Result<T, Fault>) -> Result<T> {
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
        if let Some(inherited) = handle.as_ref().filter(|it| it.origin.is_elsewhere()) {
            // Closing it would free the locks of the process that opened it.
            std::mem::forget(Arc::clone(inherited));
            return;
        }
        // Closing a damaged file may panic as reading it may.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(handle)));
        // Nor has the next handle to do with how this one failed.
        self.failure.take();
    }

    /// The handle of the file that has the store's name now. Whoever deletes or replaces a store
    /// takes its locks with it; going on with the nameless file would share it with nobody.
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

    /// The open handle, opened if need be; none where the store is read-only and missing.
    fn handle(&self) -> Result<Option<Arc<Handle>>, Fault> {
        let opened = || {
            let slot = self.handle.read().unwrap_or_else(PoisonError::into_inner);
            slot.clone()
        };
        match opened() {
            Some(handle) if !handle.origin.is_elsewhere() => return Ok(Some(handle)),
            Some(_) => self.close(),
            None => {}
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
        self.close();
    }
}
