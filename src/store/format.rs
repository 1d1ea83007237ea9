//! Checks that a redb file is a store of this release's format, and begins that format in an
//! empty file.

use super::fault::{At, Fault};
use super::{HOLDS, LOCKS, META, REQUESTS, STATE_KEY, WANTS, bounded};
use crate::error::Result;
use crate::record::{self, Digest, State, Summary};
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableError,
};
use std::collections::HashMap;
use std::fs::File;

/// The key of the store's format in [`META`], and the format that this release reads and writes.
const FORMAT_KEY: &str = "format";
pub(super) const FORMAT: u32 = 1;

/// The largest number of rows that a store looks through, in less than a millisecond, before its
/// first answer that a row is absent.
const MOST_CHECKED: u64 = 1_000;

/// Says whose tables a redb file holds.
pub(super) enum Format {
    /// Our tables, in this release's format.
    Ours,
    /// No tables at all.
    None,
}

/// Checks that an open file is a store of this format. An empty one becomes such a store.
pub(super) fn check_format(database: &Database, file: &File) -> Result<(), Fault> {
    match format_of(|| database.begin_read(), file)? {
        Format::Ours => Ok(()),
        Format::None => begin_format(database),
    }
}

impl At<'_> {
    /// Checks, in a small store, that every row is there and found by its name. redb does not check
    /// the pages that it reads, and a lock that damage hides looks free.
    pub(super) fn check_rows(
        &self,
        locks: &impl ReadableTable<&'static str, &'static [u8]>,
        holds: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
        expected: Digest,
    ) -> Result<()> {
        self.check_at_most(locks, holds, expected, MOST_CHECKED)
    }

    /// Checks a store of at most this many rows. In a larger store this only counts them.
    pub(super) fn check_at_most(
        &self,
        locks: &impl ReadableTable<&'static str, &'static [u8]>,
        holds: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
        expected: Digest,
        most: u64,
    ) -> Result<()> {
        self.run(|| {
            let missing = || Fault::corrupted("rows are missing");
            let wrong = || Fault::corrupted("a row is not summed up");
            let count = locks.len()? + holds.len()?;
            if count > most {
                return (count == expected.count).then_some(()).ok_or_else(missing);
            }
            let mut rows = Digest::default();
            // The rest of each summary, without the rows that it sums up.
            let mut summaries: HashMap<String, Summary> = HashMap::new();
            for entry in locks.iter()? {
                let (name, row) = entry?;
                let (name, row) = (name.value(), row.value());
                if record::is_summary(row) {
                    summaries.insert(name.to_owned(), record::decode_summary(name, row)?);
                } else {
                    record::term(name, row)?;
                }
                let found = locks.get(name)?;
                if found.is_none_or(|found| found.value() != row) {
                    return Err(Fault::corrupted("a row is not found by its name"));
                }
                rows.add(row);
            }
            for entry in holds.iter()? {
                let (key, row) = entry?;
                let ((name, token), row) = (key.value(), row.value());
                let hold = record::decode_hold(name, token, row)?;
                let summary = summaries.get_mut(name);
                let summary = summary.filter(|it| it.is_of(hold.mode)).ok_or_else(wrong)?;
                summary.count = summary.count.checked_sub(1).ok_or_else(wrong)?;
                let taken = summary.taken.checked_sub(hold.mode.slots());
                summary.taken = taken.ok_or_else(wrong)?;
                let found = holds.get((name, token))?;
                if found.is_none_or(|found| found.value() != row) {
                    return Err(Fault::corrupted("a row is not found by its name"));
                }
                rows.add(row);
            }
            if summaries.values().any(|it| (it.count, it.taken) != (0, 0)) {
                return Err(wrong());
            }
            (rows == expected).then_some(()).ok_or_else(missing)
        })
    }
}

/// Returns the format of a file. If no table is found and the header knows of some, damage hides
/// them, or they came since and are found now.
pub(super) fn format_of(
    begin_read: impl Fn() -> Result<ReadTransaction, redb::TransactionError>,
    file: &File,
) -> Result<Format, Fault> {
    let look = || format_in(&begin_read()?);
    match look()? {
        Format::None if bounded::has_tables(file)? => match look()? {
            Format::None => Err(Fault::corrupted("its tables are missing")),
            Format::Ours => Ok(Format::Ours),
        },
        format => Ok(format),
    }
}

pub(super) fn format_in(txn: &ReadTransaction) -> Result<Format, Fault> {
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => {
            let mut tables = txn.list_tables()?;
            let mut multimaps = txn.list_multimap_tables()?;
            return if tables.next().is_none() && multimaps.next().is_none() {
                Ok(Format::None)
            } else {
                Err(Fault::NotAStore(
                    "it is a redb file of another program".into(),
                ))
            };
        }
        Err(error) => return Err(error.into()),
    };
    let format = meta.get(FORMAT_KEY)?;
    let format = format.and_then(|row| row.value().try_into().ok().map(u32::from_le_bytes));
    match format {
        Some(FORMAT) => Ok(Format::Ours),
        Some(newer) if newer > FORMAT => Err(Fault::NotAStore(format!(
            "it has the newer store format {newer}, and this release knows {FORMAT}"
        ))),
        _ => Err(Fault::corrupted("its format version is missing")),
    }
}

/// Makes a store of an empty file. Two processes that do so at once agree.
pub(super) fn begin_format(database: &Database) -> Result<(), Fault> {
    let txn = database.begin_write()?;
    {
        txn.open_table(LOCKS)?;
        txn.open_table(HOLDS)?;
        txn.open_table(REQUESTS)?;
        txn.open_table(WANTS)?;
        let mut meta = txn.open_table(META)?;
        let is_empty = meta.is_empty()?;
        if is_empty {
            let state = record::encode_state(STATE_KEY, &State::default());
            for (key, row) in [(FORMAT_KEY, &FORMAT.to_le_bytes()[..]), (STATE_KEY, &state)] {
                meta.insert(key, row)?;
            }
        }
    }
    Ok(txn.commit()?)
}
