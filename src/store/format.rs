//! Checks that a redb file is a store of this release's format, and begins that format in an
//! empty file.

use super::fault::At;
use super::{LOCKS, META, REQUESTS, STATE_KEY, WANTS, bounded};
use crate::error::Result;
use crate::record::{self, Digest, State};
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableError,
};
use std::fs::File;

/// The key in [`META`] of the store's format, and the format that this release reads and writes.
const FORMAT_KEY: &str = "format";
const FORMAT: u32 = 1;

/// The largest number of rows that are looked through, in less than a millisecond, before the
/// first answer that one is absent.
const MOST_CHECKED: u64 = 1_000;

/// What a redb file holds.
pub(super) enum Format {
    /// Our tables, in this release's format.
    Ours,
    /// Nothing at all.
    None,
}

impl At<'_> {
    /// Checks that an open file is a store of this format. One that holds nothing becomes it.
    pub(super) fn check_format(&self, database: &Database, file: &File) -> Result<()> {
        match self.format_of(|| database.begin_read(), file)? {
            Format::Ours => Ok(()),
            Format::None => self.begin_format(database),
        }
    }

    /// Looks through a store that is small, whether every row is there and found by its name:
    /// redb does not check the pages it reads, and a lock that damage hides looks free.
    pub(super) fn check_rows(
        &self,
        locks: &impl ReadableTable<&'static str, &'static [u8]>,
        expected: Digest,
    ) -> Result<()> {
        let missing = || self.corrupted("rows are missing");
        let count = locks.len().map_err(|error| self.failed(error))?;
        if count > MOST_CHECKED {
            return (count == expected.count).then_some(()).ok_or_else(missing);
        }
        let mut rows = Digest::default();
        for entry in locks.iter().map_err(|error| self.failed(error))? {
            let (name, row) = entry.map_err(|error| self.failed(error))?;
            let (name, row) = (name.value(), row.value());
            record::term(name, row).map_err(|bad| self.bad_row(bad))?;
            let found = locks.get(name).map_err(|error| self.failed(error))?;
            if found.is_none_or(|found| found.value() != row) {
                return Err(self.corrupted("a row is not found by its name"));
            }
            rows.add(row);
        }
        (rows == expected).then_some(()).ok_or_else(missing)
    }

    /// Where no table is found, and the header knows of some, damage hides them; or they came
    /// since, and are found now.
    pub(super) fn format_of(
        &self,
        begin_read: impl Fn() -> Result<ReadTransaction, redb::TransactionError>,
        file: &File,
    ) -> Result<Format> {
        let look = || self.format_in(&begin_read().map_err(|error| self.failed(error))?);
        match look()? {
            Format::None if bounded::has_tables(file).map_err(|error| self.io(error))? => {
                match look()? {
                    Format::None => Err(self.corrupted("its tables are missing")),
                    Format::Ours => Ok(Format::Ours),
                }
            }
            format => Ok(format),
        }
    }

    pub(super) fn format_in(&self, txn: &ReadTransaction) -> Result<Format> {
        let meta = match txn.open_table(META) {
            Ok(meta) => meta,
            Err(TableError::TableDoesNotExist(_)) => {
                let mut tables = txn.list_tables().map_err(|error| self.failed(error))?;
                let mut multimaps = txn
                    .list_multimap_tables()
                    .map_err(|error| self.failed(error))?;
                return if tables.next().is_none() && multimaps.next().is_none() {
                    Ok(Format::None)
                } else {
                    Err(self.not_a_store("it is a redb file of another program"))
                };
            }
            Err(error) => return Err(self.failed(error)),
        };
        let format = meta.get(FORMAT_KEY).map_err(|error| self.failed(error))?;
        let format = format.and_then(|row| row.value().try_into().ok().map(u32::from_le_bytes));
        match format {
            Some(FORMAT) => Ok(Format::Ours),
            Some(newer) if newer > FORMAT => Err(self.not_a_store(format!(
                "it has the newer store format {newer}, and this release knows {FORMAT}"
            ))),
            _ => Err(self.corrupted("its format version is missing")),
        }
    }

    /// Makes a store of a file that holds nothing. Two that do so at once agree.
    pub(super) fn begin_format(&self, database: &Database) -> Result<()> {
        let txn = database.begin_write().map_err(|error| self.failed(error))?;
        {
            txn.open_table(LOCKS).map_err(|error| self.failed(error))?;
            txn.open_table(REQUESTS)
                .map_err(|error| self.failed(error))?;
            txn.open_table(WANTS).map_err(|error| self.failed(error))?;
            let mut meta = txn.open_table(META).map_err(|error| self.failed(error))?;
            let is_empty = meta.is_empty().map_err(|error| self.failed(error))?;
            if is_empty {
                let state = record::encode_state(STATE_KEY, &State::default());
                for (key, row) in [(FORMAT_KEY, &FORMAT.to_le_bytes()[..]), (STATE_KEY, &state)] {
                    meta.insert(key, row).map_err(|error| self.failed(error))?;
                }
            }
        }
        txn.commit().map_err(|error| self.failed(error))
    }
}
