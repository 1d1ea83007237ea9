//! Defines the peers and the work that each does: a table of leases with durable transactions.

pub(crate) mod lockmgr;
pub(crate) mod python;
pub(crate) mod redb;
pub(crate) mod sqlite;

use anyhow::Result;
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The lease of every lock: longer than any run.
pub(crate) const LEASE: Duration = Duration::from_secs(24 * 3600);

/// The cache of every store, in bytes.
pub(crate) const CACHE: usize = 16 << 20;

/// The verbs, the same for each peer. A write is one transaction, synced when it returns.
pub(crate) trait Peer {
    /// Takes these locks, or renews them.
    fn set(&mut self, names: &[String]) -> Result<()>;
    fn remove(&mut self, names: &[String]) -> Result<()>;
    fn is_locked(&mut self, name: &str) -> Result<bool>;
    /// Returns the whole row, and the number of requests that wait for it.
    fn find(&mut self, name: &str) -> Result<bool>;
    /// Returns the number of rows whose names begin with this prefix, each read.
    fn list(&mut self, prefix: &str) -> Result<usize>;
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Lockmgr,
    Redb,
    Sqlite,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Lockmgr, Self::Redb, Self::Sqlite];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lockmgr => "lockmgr",
            Self::Redb => "bare redb",
            Self::Sqlite => "SQLite",
        }
    }

    /// Returns the peer's file among the stores of a directory.
    pub(crate) fn file(self, dir: &Path) -> PathBuf {
        dir.join(match self {
            Self::Lockmgr => "lockmgr.redb",
            Self::Redb => "bare.redb",
            Self::Sqlite => "peer.sqlite",
        })
    }

    pub(crate) fn open(self, dir: &Path, mode: Mode) -> Result<Box<dyn Peer>> {
        let file = self.file(dir);
        Ok(match self {
            Self::Lockmgr => Box::new(lockmgr::Lockmgr::open(&file, mode)?),
            Self::Redb => Box::new(redb::Redb::open(&file, mode)?),
            Self::Sqlite => Box::new(sqlite::Sqlite::open(&file, mode)?),
        })
    }
}

/// The sharing of a file, also for SQLite.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Exclusive,
    Shared,
}

impl Mode {
    pub(crate) const ALL: [Self; 2] = [Self::Exclusive, Self::Shared];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "multi-writer",
        }
    }
}

/// Tells whether the call failed because it waited too long for another process.
pub(crate) fn is_busy(error: &anyhow::Error) -> bool {
    let lockmgr = error.downcast_ref::<::lockmgr::Error>();
    let sqlite = error.downcast_ref::<rusqlite::Error>();
    matches!(lockmgr, Some(::lockmgr::Error::StoreBusy { .. }))
        || sqlite.and_then(rusqlite::Error::sqlite_error_code)
            == Some(rusqlite::ErrorCode::DatabaseBusy)
}
