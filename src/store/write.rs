//! One write transaction over the store's tables.

use super::fault::{At, caught};
use super::read::{get, once, request_in, requests_in, state_in};
use super::{LOCKS, META, REQUESTS, STATE_KEY};
use crate::clock::Moment;
use crate::error::Result;
use crate::lock::Lock;
use crate::name::LockName;
use crate::queue::Request;
use crate::record::{self, State};
use redb::{ReadableTableMetadata, Table, WriteTransaction};
use std::sync::atomic::AtomicBool;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Unchanged,
    Changed,
    /// Changed, and somebody waits for that.
    Awaited,
}

/// One write transaction.
pub(crate) struct WriteTx<'a> {
    pub(super) txn: &'a WriteTransaction,
    pub(super) locks: Table<'a, &'static str, &'static [u8]>,
    /// What the store remembers, loaded before the first change, and as it was then.
    pub(super) state: Option<State>,
    pub(super) old_state: Option<State>,
    /// Opened where the queue is looked at.
    pub(super) requests: Option<Table<'a, u64, &'static [u8]>>,
    /// Of the row that was written last.
    pub(super) buffer: Vec<u8>,
    pub(super) is_changed: bool,
    /// Whether somebody waits, or did when the transaction began.
    pub(super) is_awaited: bool,
    pub(super) is_checked: &'a AtomicBool,
    pub(super) at: At<'a>,
}

impl<'a> WriteTx<'a> {
    pub(super) fn run<T>(
        txn: &'a WriteTransaction,
        is_checked: &'a AtomicBool,
        at: At<'a>,
        body: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(T, Outcome)> {
        let mut tx = Self {
            txn,
            locks: txn.open_table(LOCKS).map_err(|error| at.failed(error))?,
            state: None,
            old_state: None,
            requests: None,
            buffer: Vec::with_capacity(128),
            is_changed: false,
            is_awaited: false,
            is_checked,
            at,
        };
        let result = caught(at, || {
            let value = body(&mut tx)?;
            tx.save_state()?;
            let outcome = match (tx.is_changed, tx.is_awaited) {
                (false, _) => Outcome::Unchanged,
                (true, false) => Outcome::Changed,
                (true, true) => Outcome::Awaited,
            };
            Ok((value, outcome))
        });
        // A table that redb panicked amid panics when it is dropped, and amid another panic that
        // would end the process: one by one.
        let Self {
            locks, requests, ..
        } = tx;
        let locks = caught(at, || {
            drop(locks);
            Ok(())
        });
        let requests = caught(at, || {
            drop(requests);
            Ok(())
        });
        let result = result?;
        locks.and(requests)?;
        Ok(result)
    }

    /// Whether there is something to commit.
    pub(crate) fn is_changed(&self) -> bool {
        self.is_changed || self.state != self.old_state
    }

    /// The row of that name, live or not.
    pub(crate) fn get(&self, name: &LockName) -> Result<Option<Lock>> {
        let row = get(&self.locks, name, self.at)?;
        if row.is_none() {
            self.check()?;
        }
        Ok(row)
    }

    /// Before the first answer that a row is absent: whether all are there.
    pub(super) fn check(&self) -> Result<()> {
        once(self.is_checked, || {
            let rows = match &self.state {
                Some(state) => state.rows,
                None => state_in(&self.meta()?, self.at)?.rows,
            };
            self.at.check_rows(&self.locks, rows)
        })
    }

    pub(crate) fn put(&mut self, lock: &Lock) -> Result<()> {
        self.replace(lock, |_| Ok(None)).map(drop)
    }

    /// Writes the row of a new lock, unless there is a live one of its name: that stays then, and
    /// is returned, and the token of the new one is not issued.
    pub(crate) fn put_new(&mut self, lock: &Lock, now: Moment) -> Result<Option<Lock>> {
        let at = self.at;
        self.check()?;
        let present = self.replace(lock, |old| {
            let present = record::decode(&lock.name, old).map_err(|bad| at.bad_row(bad))?;
            Ok(Some(present).filter(|lock| lock.is_live(now)))
        })?;
        if let Some(present) = &present {
            self.state()?.last_token -= 1;
            self.put(present)?;
        }
        Ok(present)
    }

    /// Writes a row in the place of the old one, and returns what `see` made of that.
    pub(super) fn replace(
        &mut self,
        lock: &Lock,
        see: impl FnOnce(&[u8]) -> Result<Option<Lock>>,
    ) -> Result<Option<Lock>> {
        let at = self.at;
        self.is_changed = true;
        let mut rows = self.state()?.rows;
        let row = record::encode(lock, std::mem::take(&mut self.buffer));
        let old = self.locks.insert(lock.name.as_str(), row.as_slice());
        let mut seen = None;
        if let Some(old) = old.map_err(|error| at.failed(error))? {
            rows.remove(old.value());
            seen = see(old.value())?;
        }
        rows.add(&row);
        self.buffer = row;
        self.state()?.rows = rows;
        Ok(seen)
    }

    pub(crate) fn remove(&mut self, name: &LockName) -> Result<()> {
        let at = self.at;
        self.is_changed = true;
        self.state()?;
        let old = self.locks.remove(name.as_str());
        if let (Some(state), Some(old)) = (&mut self.state, old.map_err(|e| at.failed(e))?) {
            state.rows.remove(old.value());
        }
        Ok(())
    }

    /// Issues a token above all that were issued before.
    pub(crate) fn next_token(&mut self) -> Result<u64> {
        let at = self.at;
        let state = self.state()?;
        state.last_token = state
            .last_token
            .checked_add(1)
            .ok_or_else(|| at.corrupted("its token counter is at its end"))?;
        Ok(state.last_token)
    }

    /// Whether nobody waits.
    pub(crate) fn is_queue_empty(&mut self) -> Result<bool> {
        let at = self.at;
        let is_empty = self.queue()?.is_empty().map_err(|error| at.failed(error))?;
        self.is_awaited |= !is_empty;
        Ok(is_empty)
    }

    /// All requests, in their order.
    pub(crate) fn requests(&mut self) -> Result<Vec<Request>> {
        let at = self.at;
        requests_in(self.queue()?, at)
    }

    pub(crate) fn request(&mut self, number: u64) -> Result<Option<Request>> {
        let at = self.at;
        request_in(self.queue()?, number, at)
    }

    pub(crate) fn put_request(&mut self, request: &Request) -> Result<()> {
        let at = self.at;
        self.is_changed = true;
        self.queue()?
            .insert(request.number, record::encode_request(request).as_slice())
            .map_err(|error| at.failed(error))?;
        Ok(())
    }

    pub(crate) fn remove_request(&mut self, number: u64) -> Result<()> {
        let at = self.at;
        self.is_changed = true;
        self.queue()?
            .remove(number)
            .map_err(|error| at.failed(error))?;
        Ok(())
    }

    /// Issues a number above those of all earlier requests.
    pub(crate) fn next_request(&mut self) -> Result<u64> {
        let at = self.at;
        let state = self.state()?;
        state.last_request = state
            .last_request
            .checked_add(1)
            .ok_or_else(|| at.corrupted("its counter of requests is at its end"))?;
        Ok(state.last_request)
    }

    pub(super) fn queue(&mut self) -> Result<&mut Table<'a, u64, &'static [u8]>> {
        let requests = match self.requests.take() {
            Some(requests) => requests,
            None => {
                let opened = self.txn.open_table(REQUESTS);
                opened.map_err(|error| self.at.failed(error))?
            }
        };
        Ok(self.requests.insert(requests))
    }

    /// What the store remembers, to be changed: every change of a row changes it too.
    pub(super) fn state(&mut self) -> Result<&mut State> {
        let state = match self.state.take() {
            Some(state) => state,
            None => {
                let state = state_in(&self.meta()?, self.at)?;
                self.old_state.insert(state).clone()
            }
        };
        Ok(self.state.insert(state))
    }

    pub(super) fn save_state(&mut self) -> Result<()> {
        if self.state != self.old_state
            && let Some(state) = self.state.take()
        {
            self.is_changed = true;
            self.meta()?
                .insert(
                    STATE_KEY,
                    record::encode_state(STATE_KEY, &state).as_slice(),
                )
                .map_err(|error| self.at.failed(error))?;
        }
        Ok(())
    }

    pub(super) fn meta(&self) -> Result<Table<'a, &'static str, &'static [u8]>> {
        self.txn
            .open_table(META)
            .map_err(|error| self.at.failed(error))
    }
}
