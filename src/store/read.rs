//! Reads a snapshot of the store.

use super::fault::At;
use super::format::FORMAT;
use super::{HOLDS, LOCKS, META, REQUESTS, STATE_KEY, WANTS};
use crate::beacon::Judge;
use crate::clock::Moment;
use crate::error::Result;
use crate::holds::{Order, Rows};
use crate::lock::Lock;
use crate::name::LockName;
use crate::queue::Request;
use crate::record::{self, State};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Holds the store as it was after some commit.
pub(super) struct Snapshot {
    pub(super) locks: ReadOnlyTable<&'static str, &'static [u8]>,
    /// The table of holds, opened at the first name that is shared or held by slots.
    pub(super) holds: OnceLock<ReadOnlyTable<(&'static str, u64), &'static [u8]>>,
    /// The index of the queue, opened at the first look at a queue that is not empty.
    pub(super) wants: OnceLock<ReadOnlyTable<(&'static str, u64), ()>>,
    pub(super) requests: OnceLock<ReadOnlyTable<u64, &'static [u8]>>,
    pub(super) txn: ReadTransaction,
}

impl Snapshot {
    pub(super) fn of(txn: ReadTransaction, at: At<'_>) -> Result<Self> {
        Ok(Self {
            locks: txn.open_table(LOCKS).map_err(|error| at.failed(error))?,
            holds: OnceLock::new(),
            wants: OnceLock::new(),
            requests: OnceLock::new(),
            txn,
        })
    }

    pub(super) fn holds(
        &self,
        at: At<'_>,
    ) -> Result<&ReadOnlyTable<(&'static str, u64), &'static [u8]>> {
        opened(&self.holds, || {
            let table = self.txn.open_table(HOLDS);
            table.map_err(|error| at.failed(error))
        })
    }

    fn wants(&self, at: At<'_>) -> Result<&ReadOnlyTable<(&'static str, u64), ()>> {
        opened(&self.wants, || {
            let table = self.txn.open_table(WANTS);
            table.map_err(|error| at.failed(error))
        })
    }

    fn requests(&self, at: At<'_>) -> Result<&ReadOnlyTable<u64, &'static [u8]>> {
        opened(&self.requests, || {
            let table = self.txn.open_table(REQUESTS);
            table.map_err(|error| at.failed(error))
        })
    }
}

fn opened<T>(table: &OnceLock<T>, open: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(table) = table.get() {
        return Ok(table);
    }
    let opened = open()?;
    Ok(table.get_or_init(|| opened))
}

/// Looks at a snapshot of the store.
pub(crate) struct ReadTx<'a> {
    /// The tables, or none if there is no file.
    pub(super) tables: Option<Tables<'a>>,
    pub(super) judge: &'a Judge,
    pub(super) at: At<'a>,
}

pub(super) struct Tables<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) is_checked: &'a AtomicBool,
}

impl Tables<'_> {
    /// Checks, before the first answer that a row is absent, that all rows are there.
    pub(super) fn check(&self, at: At<'_>) -> Result<()> {
        once(self.is_checked, || {
            let Snapshot { locks, txn, .. } = self.snapshot;
            let meta = txn.open_table(META).map_err(|error| at.failed(error))?;
            let holds = self.snapshot.holds(at)?;
            at.check_rows(locks, holds, state_in(&meta, at)?.rows)
        })
    }
}

/// Does the work if it was not done yet.
pub(super) fn once(is_done: &AtomicBool, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if !is_done.load(Ordering::Relaxed) {
        work()?;
        is_done.store(true, Ordering::Relaxed);
    }
    Ok(())
}

impl ReadTx<'_> {
    /// Tells whether there is a live row of that name.
    pub(crate) fn is_live(&self, name: &str, now: Moment) -> Result<bool> {
        let Some(tables) = &self.tables else {
            return Ok(false);
        };
        let row = tables.snapshot.locks.get(name);
        match row.map_err(|error| self.at.failed(error))? {
            Some(row) if record::is_summary(row.value()) => {
                let name = LockName::new(name)?;
                self.first(&name, now).map(|first| first.is_some())
            }
            Some(row) => {
                let term = record::term(name, row.value());
                Ok(term
                    .map_err(|bad| self.at.bad_row(bad))?
                    .is_live(now, self.judge))
            }
            None => tables.check(self.at).map(|()| false),
        }
    }

    /// Returns the rows of holds whose names begin so, live or not, by name, the oldest of a name
    /// first.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Result<Vec<Lock>> {
        let Some(tables) = &self.tables else {
            return Ok(Vec::new());
        };
        tables.check(self.at)?;
        let mut found = Vec::new();
        let locks = &tables.snapshot.locks;
        for entry in ReadableTable::range(locks, prefix..).map_err(|e| self.at.failed(e))? {
            let (name, row) = entry.map_err(|error| self.at.failed(error))?;
            if !name.value().starts_with(prefix) {
                break;
            }
            let name = name.value();
            if !record::is_summary(row.value()) {
                found.push(decode_named(name, row.value(), self.at)?);
                continue;
            }
            // The name of a row with a valid checksum is never invalid.
            let name = LockName::new(name)?;
            let mut all = |lock| {
                found.push(lock);
                ControlFlow::Continue(())
            };
            self.several(&name, Order::OldestFirst, &mut all)?;
        }
        Ok(found)
    }

    /// Returns the version of the format, or none if there is no file.
    pub(crate) fn format(&self) -> Option<u32> {
        // A file of another format is not opened.
        self.tables.as_ref().map(|_| FORMAT)
    }

    /// Checks that all rows are there and whole, however many.
    pub(crate) fn check_all(&self) -> Result<()> {
        let Some(tables) = &self.tables else {
            return Ok(());
        };
        let Snapshot { locks, txn, .. } = tables.snapshot;
        let meta = txn
            .open_table(META)
            .map_err(|error| self.at.failed(error))?;
        let expected = state_in(&meta, self.at)?.rows;
        let holds = tables.snapshot.holds(self.at)?;
        self.at.check_at_most(locks, holds, expected, u64::MAX)
    }

    /// Returns the request of that number.
    pub(crate) fn request(&self, number: u64) -> Result<Option<Request>> {
        match &self.tables {
            Some(tables) => request_in(tables.snapshot.requests(self.at)?, number, self.at),
            None => Ok(None),
        }
    }

    /// Returns all requests, in their order.
    pub(crate) fn requests(&self) -> Result<Vec<Request>> {
        let Some(tables) = &self.tables else {
            return Ok(Vec::new());
        };
        let rows = tables
            .snapshot
            .requests(self.at)?
            .iter()
            .map_err(|error| self.at.failed(error))?;
        let decoded = rows.map(|entry| {
            let (number, row) = entry.map_err(|error| self.at.failed(error))?;
            decode_request(number.value(), row.value(), self.at)
        });
        decoded.collect()
    }

    /// Returns the numbers of the requests that want this name, the first first.
    pub(crate) fn wanting(&self, name: &LockName) -> Result<Vec<u64>> {
        match &self.tables {
            Some(tables) => wanting_in(tables.snapshot.wants(self.at)?, name, self.at),
            None => Ok(Vec::new()),
        }
    }

    /// Returns the request that wants this name and comes right before that number.
    pub(crate) fn before(&self, name: &LockName, number: u64) -> Result<Option<u64>> {
        match &self.tables {
            Some(tables) => before_in(tables.snapshot.wants(self.at)?, name, number, self.at),
            None => Ok(None),
        }
    }
}

/// Returns the numbers of the requests that want this name, the first first.
pub(super) fn wanting_in(
    wants: &impl ReadableTable<(&'static str, u64), ()>,
    name: &LockName,
    at: At<'_>,
) -> Result<Vec<u64>> {
    let name = name.as_str();
    let rows = wants.range((name, 0)..=(name, u64::MAX));
    let rows = rows.map_err(|error| at.failed(error))?;
    let numbers = rows.map(|entry| Ok(entry.map_err(|error| at.failed(error))?.0.value().1));
    numbers.collect()
}

/// Returns the number of the request that wants this name and comes right before the request of
/// that number. That request has to be in the index itself: a request that is not would never be
/// granted.
pub(super) fn before_in(
    wants: &impl ReadableTable<(&'static str, u64), ()>,
    name: &LockName,
    number: u64,
    at: At<'_>,
) -> Result<Option<u64>> {
    let name = name.as_str();
    let rows = wants.range((name, 0)..=(name, number));
    let mut rows = rows.map_err(|error| at.failed(error))?;
    let mut next_back = || -> Result<Option<u64>> {
        let last = rows.next_back().transpose();
        let last = last.map_err(|error| at.failed(error))?;
        Ok(last.map(|(key, _)| key.value().1))
    };
    if next_back()? != Some(number) {
        return Err(at.corrupted("the index misses a request"));
    }
    next_back()
}

/// Returns the number of the earliest request that wants this name, from a number on and without
/// some.
pub(super) fn head_in(
    wants: &impl ReadableTable<(&'static str, u64), ()>,
    name: &LockName,
    from: u64,
    without: &HashSet<u64>,
    at: At<'_>,
) -> Result<Option<u64>> {
    let name = name.as_str();
    let rows = wants.range((name, from)..=(name, u64::MAX));
    for entry in rows.map_err(|error| at.failed(error))? {
        let (key, _) = entry.map_err(|error| at.failed(error))?;
        let number = key.value().1;
        if !without.contains(&number) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

pub(super) fn state_in(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    at: At<'_>,
) -> Result<State> {
    let row = meta
        .get(STATE_KEY)
        .map_err(|error| at.failed(error))?
        .ok_or_else(|| at.corrupted("its own row is missing"))?;
    record::decode_state(STATE_KEY, row.value()).map_err(|bad| at.bad_row(bad))
}

pub(super) fn request_in(
    requests: &impl ReadableTable<u64, &'static [u8]>,
    number: u64,
    at: At<'_>,
) -> Result<Option<Request>> {
    let row = requests.get(number).map_err(|error| at.failed(error))?;
    row.map(|row| decode_request(number, row.value(), at))
        .transpose()
}

pub(super) fn decode_named(name: &str, row: &[u8], at: At<'_>) -> Result<Lock> {
    record::decode_named(name, row).map_err(|bad| at.bad_row(bad))
}

pub(super) fn decode_request(number: u64, row: &[u8], at: At<'_>) -> Result<Request> {
    record::decode_request(number, row).map_err(|bad| at.bad_row(bad))
}
