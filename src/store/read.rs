//! Reads a snapshot of the store.

use super::fault::At;
use super::{LOCKS, META, REQUESTS, STATE_KEY};
use crate::clock::Moment;
use crate::error::Result;
use crate::lock::Lock;
use crate::name::LockName;
use crate::queue::Request;
use crate::record::{self, State};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};
use std::ops::{ControlFlow, RangeBounds};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The store as it was after some commit.
pub(super) struct Snapshot {
    pub(super) locks: ReadOnlyTable<&'static str, &'static [u8]>,
    /// Opened where the queue is looked at.
    pub(super) requests: OnceLock<ReadOnlyTable<u64, &'static [u8]>>,
    pub(super) txn: ReadTransaction,
}

impl Snapshot {
    pub(super) fn of(txn: ReadTransaction, at: At<'_>) -> Result<Self> {
        Ok(Self {
            locks: txn.open_table(LOCKS).map_err(|error| at.failed(error))?,
            requests: OnceLock::new(),
            txn,
        })
    }

    pub(super) fn requests(&self, at: At<'_>) -> Result<&ReadOnlyTable<u64, &'static [u8]>> {
        if let Some(requests) = self.requests.get() {
            return Ok(requests);
        }
        let requests = self.txn.open_table(REQUESTS);
        let requests = requests.map_err(|error| at.failed(error))?;
        Ok(self.requests.get_or_init(|| requests))
    }
}

/// A look at a snapshot of the store.
pub(crate) struct ReadTx<'a> {
    /// None where there is no file.
    pub(super) tables: Option<Tables<'a>>,
    pub(super) at: At<'a>,
}

pub(super) struct Tables<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) is_checked: &'a AtomicBool,
}

impl Tables<'_> {
    /// Before the first answer that a row is absent: whether all are there.
    pub(super) fn check(&self, at: At<'_>) -> Result<()> {
        once(self.is_checked, || {
            let Snapshot { locks, txn, .. } = self.snapshot;
            let meta = txn.open_table(META).map_err(|error| at.failed(error))?;
            at.check_rows(locks, state_in(&meta, at)?.rows)
        })
    }
}

/// Does it where it was not done yet.
pub(super) fn once(is_done: &AtomicBool, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if !is_done.load(Ordering::Relaxed) {
        work()?;
        is_done.store(true, Ordering::Relaxed);
    }
    Ok(())
}

impl ReadTx<'_> {
    /// Whether there is a live row of that name.
    pub(crate) fn is_live(&self, name: &str, now: Moment) -> Result<bool> {
        let Some(tables) = &self.tables else {
            return Ok(false);
        };
        let row = tables.snapshot.locks.get(name);
        match row.map_err(|error| self.at.failed(error))? {
            Some(row) => {
                let term = record::term(name, row.value());
                Ok(term.map_err(|bad| self.at.bad_row(bad))?.is_live(now))
            }
            None => tables.check(self.at).map(|()| false),
        }
    }

    /// The row of that name, live or not.
    pub(crate) fn get(&self, name: &LockName) -> Result<Option<Lock>> {
        let Some(tables) = &self.tables else {
            return Ok(None);
        };
        let row = get(&tables.snapshot.locks, name, self.at)?;
        if row.is_none() {
            tables.check(self.at)?;
        }
        Ok(row)
    }

    /// The rows whose names begin so, live or not, by name.
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
            found.push(decode_named(name.value(), row.value(), self.at)?);
        }
        Ok(found)
    }

    /// The request of that number.
    pub(crate) fn request(&self, number: u64) -> Result<Option<Request>> {
        match self.queue()? {
            Some(requests) => request_in(requests, number, self.at),
            None => Ok(None),
        }
    }

    /// All requests, in their order.
    pub(crate) fn requests(&self) -> Result<Vec<Request>> {
        match self.queue()? {
            Some(requests) => requests_in(requests, self.at),
            None => Ok(Vec::new()),
        }
    }

    /// Looks at requests in their order, until told to stop.
    pub(crate) fn each_request(
        &self,
        numbers: impl RangeBounds<u64>,
        see: impl FnMut(Request) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        match self.queue()? {
            Some(requests) => each_request(requests, numbers, self.at, see),
            None => Ok(()),
        }
    }

    pub(super) fn queue(&self) -> Result<Option<&ReadOnlyTable<u64, &'static [u8]>>> {
        let tables = self.tables.as_ref();
        let requests = tables.map(|tables| tables.snapshot.requests(self.at));
        requests.transpose()
    }
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

pub(super) fn get(
    locks: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &LockName,
    at: At<'_>,
) -> Result<Option<Lock>> {
    let row = locks.get(name.as_str()).map_err(|error| at.failed(error))?;
    row.map(|row| record::decode(name, row.value()).map_err(|bad| at.bad_row(bad)))
        .transpose()
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

pub(super) fn requests_in(
    requests: &impl ReadableTable<u64, &'static [u8]>,
    at: At<'_>,
) -> Result<Vec<Request>> {
    let mut found = Vec::new();
    each_request(requests, .., at, |request| {
        found.push(request);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

pub(super) fn each_request(
    requests: &impl ReadableTable<u64, &'static [u8]>,
    numbers: impl RangeBounds<u64>,
    at: At<'_>,
    mut see: impl FnMut(Request) -> Result<ControlFlow<()>>,
) -> Result<()> {
    // Mostly nobody waits, and to see that costs less than to begin to read.
    if requests.is_empty().map_err(|error| at.failed(error))? {
        return Ok(());
    }
    for entry in requests
        .range::<u64>(numbers)
        .map_err(|error| at.failed(error))?
    {
        let (number, row) = entry.map_err(|error| at.failed(error))?;
        if see(decode_request(number.value(), row.value(), at)?)?.is_break() {
            break;
        }
    }
    Ok(())
}

pub(super) fn decode_named(name: &str, row: &[u8], at: At<'_>) -> Result<Lock> {
    record::decode_named(name, row).map_err(|bad| at.bad_row(bad))
}

pub(super) fn decode_request(number: u64, row: &[u8], at: At<'_>) -> Result<Request> {
    record::decode_request(number, row).map_err(|bad| at.bad_row(bad))
}
