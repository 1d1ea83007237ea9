//! Drives the bare engine: redb with one table of rows that have lockmgr's names and bytes, and no
//! more work than a good engineer's shortest code for it. The rest of lockmgr's time is lockmgr's
//! own.

use super::{CACHE, Mode, Peer};
use anyhow::{Context, Result};
use redb::{
    Builder, ConcurrencyMode, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition,
};
use std::hint::black_box;
use std::path::Path;

const LOCKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("locks");
/// The table of waiters, which is empty. `find` has to read that.
const REQUESTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("requests");
/// One row that identifies the store. It holds the bytes of every other row.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const ROW: &str = "row";

pub(crate) struct Redb {
    database: Database,
    /// The bytes of every row.
    row: Vec<u8>,
}

pub(crate) fn builder(mode: Mode) -> Builder {
    let mut builder = Builder::new();
    builder
        .set_cache_size(CACHE)
        .set_concurrency_mode(match mode {
            Mode::Exclusive => ConcurrencyMode::ExclusiveWriter,
            Mode::Shared => ConcurrencyMode::MultiWriter,
        });
    builder
}

/// Returns the bytes of a row of a closed lockmgr store.
pub(crate) fn row_of_lockmgr(file: &Path) -> Result<Vec<u8>> {
    let database = Builder::new().open_read_only(file)?;
    let locks = database.begin_read()?.open_table(LOCKS)?;
    let (_, row) = locks.first()?.context("the store has no row")?;
    Ok(row.value().to_vec())
}

/// Checks, as every program does first, that the file is its own.
pub(crate) fn look_at(database: &impl ReadableDatabase) -> Result<Vec<u8>> {
    let meta = database.begin_read()?.open_table(META)?;
    let row = meta.get(ROW)?.context("the store is another's")?;
    Ok(row.value().to_vec())
}

impl Redb {
    /// Creates a new store of rows of these bytes.
    pub(crate) fn create(file: &Path, row: Vec<u8>) -> Result<Self> {
        let database = builder(Mode::Exclusive).create(file)?;
        let tx = database.begin_write()?;
        tx.open_table(LOCKS)?;
        tx.open_table(REQUESTS)?;
        tx.open_table(META)?.insert(ROW, row.as_slice())?;
        tx.commit()?;
        Ok(Self { database, row })
    }

    pub(crate) fn open(file: &Path, mode: Mode) -> Result<Self> {
        let database = builder(mode).open(file)?;
        let row = look_at(&database)?;
        Ok(Self { database, row })
    }

    /// Runs `is_locked`, for threads that share the handle.
    pub(crate) fn has(&self, name: &str) -> Result<bool> {
        let locks = self.database.begin_read()?.open_table(LOCKS)?;
        Ok(locks.get(name)?.is_some())
    }

    /// Runs a write transaction that is aborted after it inserted one row.
    pub(crate) fn insert_and_abort(&self, name: &str) -> Result<()> {
        let tx = self.database.begin_write()?;
        tx.open_table(LOCKS)?.insert(name, self.row.as_slice())?;
        Ok(tx.abort()?)
    }

    /// Runs a write transaction that only read.
    pub(crate) fn look_and_abort(&self, names: &[&str]) -> Result<()> {
        let tx = self.database.begin_write()?;
        {
            let locks = tx.open_table(LOCKS)?;
            for name in names {
                black_box(locks.get(*name)?);
            }
        }
        Ok(tx.abort()?)
    }

    /// Removes every row in one transaction, as a bare `clean_locks` would.
    pub(crate) fn remove_all(&self) -> Result<()> {
        let tx = self.database.begin_write()?;
        let is_kept = |_: &str, row: &[u8]| black_box(row).is_empty();
        tx.open_table(LOCKS)?.retain(is_kept)?;
        Ok(tx.commit()?)
    }
}

impl Peer for Redb {
    fn set(&mut self, names: &[String]) -> Result<()> {
        let tx = self.database.begin_write()?;
        {
            let mut locks = tx.open_table(LOCKS)?;
            for name in names {
                locks.insert(name.as_str(), self.row.as_slice())?;
            }
        }
        Ok(tx.commit()?)
    }

    fn remove(&mut self, names: &[String]) -> Result<()> {
        let tx = self.database.begin_write()?;
        {
            let mut locks = tx.open_table(LOCKS)?;
            for name in names {
                locks.remove(name.as_str())?;
            }
        }
        Ok(tx.commit()?)
    }

    fn is_locked(&mut self, name: &str) -> Result<bool> {
        self.has(name)
    }

    fn find(&mut self, name: &str) -> Result<bool> {
        let tx = self.database.begin_read()?;
        let locks = tx.open_table(LOCKS)?;
        let row = locks.get(name)?;
        black_box(tx.open_table(REQUESTS)?.is_empty()?);
        Ok(row.is_some())
    }

    fn list(&mut self, prefix: &str) -> Result<usize> {
        let locks = self.database.begin_read()?.open_table(LOCKS)?;
        let mut found = 0;
        for entry in locks.range(prefix..)? {
            let (name, row) = entry?;
            if !name.value().starts_with(prefix) {
                break;
            }
            black_box(row.value());
            found += 1;
        }
        Ok(found)
    }
}
