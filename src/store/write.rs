//! Runs one write transaction over the store's tables.

use super::fault::{At, caught};
use super::handle::Handle;
use super::read::{before_in, head_in, once, request_in, state_in, wanting_in};
use super::{LOCKS, META, REQUESTS, STATE_KEY, WANTS};
use crate::beacon::Judge;
use crate::claim::Mode;
use crate::clock::Moment;
use crate::error::Result;
use crate::holds::Rows;
use crate::lock::Lock;
use crate::name::LockName;
use crate::queue::Request;
use crate::record::{self, Named, State};
use crate::wait::Ping;
use redb::{ReadableTableMetadata, Table, WriteTransaction};
use std::cell::OnceCell;
use std::collections::HashSet;

/// Writes in one transaction.
pub(crate) struct WriteTx<'a> {
    pub(super) txn: &'a WriteTransaction,
    pub(super) locks: Table<'a, &'static str, &'static [u8]>,
    /// The table of holds, opened at the first name that is shared or held by slots.
    pub(super) holds: OnceCell<Table<'a, (&'static str, u64), &'static [u8]>>,
    /// The counters of the store, loaded before the first change, and as they were then.
    pub(super) state: Option<State>,
    pub(super) old_state: Option<State>,
    /// The index of the queue, opened at the first look at the queue.
    pub(super) wants: Option<Table<'a, (&'static str, u64), ()>>,
    /// The table of requests, opened if a request waits.
    pub(super) requests: Option<Table<'a, u64, &'static [u8]>>,
    /// The buffer of the row that was written last.
    pub(super) buffer: Vec<u8>,
    pub(super) is_changed: bool,
    /// Whether the changes are committed although the call is refused.
    pub(crate) is_kept: bool,
    /// The requests and guards that the commit concerns.
    pub(crate) pings: Vec<Ping>,
    pub(super) handle: &'a Handle,
    pub(super) judge: &'a Judge,
    pub(super) at: At<'a>,
}

impl<'a> WriteTx<'a> {
    /// Runs the body, and says whether there is something to commit.
    pub(super) fn run<T>(
        txn: &'a WriteTransaction,
        handle: &'a Handle,
        judge: &'a Judge,
        at: At<'a>,
        body: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(T, bool)> {
        let mut tx = Self {
            txn,
            locks: txn.open_table(LOCKS).map_err(|error| at.failed(error))?,
            holds: OnceCell::new(),
            state: None,
            old_state: None,
            wants: None,
            requests: None,
            buffer: Vec::with_capacity(128),
            is_changed: false,
            is_kept: false,
            pings: Vec::new(),
            handle,
            judge,
            at,
        };
        let result = caught(at, || {
            let value = body(&mut tx)?;
            tx.save_state()?;
            Ok((value, tx.is_changed))
        });
        // After a panic of redb, dropping its table panics too. A second panic while the first one
        // unwinds would end the process: the tables are dropped one by one.
        let Self {
            locks,
            holds,
            wants,
            requests,
            ..
        } = tx;
        fn dropped<T>(table: T, at: At<'_>) -> Result<()> {
            caught(at, || {
                drop(table);
                Ok(())
            })
        }
        let dropped = [
            dropped(locks, at),
            dropped(holds, at),
            dropped(wants, at),
            dropped(requests, at),
        ];
        let result = result?;
        dropped.into_iter().collect::<Result<()>>()?;
        Ok(result)
    }

    /// Checks, before the first answer that a row is absent, that all rows are there.
    pub(super) fn check(&self) -> Result<()> {
        once(&self.handle.is_checked, || {
            let rows = match &self.state {
                Some(state) => state.rows,
                None => state_in(&self.meta()?, self.at)?.rows,
            };
            self.at.check_rows(&self.locks, self.holds()?, rows)
        })
    }

    /// Writes the row of a hold, new or not. No other living hold is in its way.
    pub(crate) fn put(&mut self, lock: &Lock) -> Result<()> {
        if lock.mode != Mode::Exclusive {
            return self.put_beside_others(lock);
        }
        let was_summary = self.replace(lock, |old| Ok(record::is_summary(old).then_some(())))?;
        match was_summary {
            Some(()) => self.remove_several(&lock.name),
            None => Ok(()),
        }
    }

    /// Writes the row of a new lock, unless there is a live one of its name. In that case the live
    /// one stays and is returned, and the token of the new one is not issued.
    pub(crate) fn put_new(&mut self, lock: &Lock, now: Moment) -> Result<Option<Lock>> {
        let (at, judge, name) = (self.at, self.judge, &lock.name);
        self.check()?;
        let present = self.replace(lock, |old| {
            let present = record::decode_name(name, old).map_err(|bad| at.bad_row(bad))?;
            let is_dead = match &present {
                Named::Alone(lock) => !lock.term().is_live(now, judge),
                Named::Summary(_) => false,
            };
            Ok((!is_dead).then_some(present))
        })?;
        let present = match present {
            None => return Ok(None),
            Some(Named::Alone(row)) => {
                // Write the row back as it was, also if its hold has ended and it stays for its
                // least time.
                self.put(&row)?;
                row.if_live(now, judge)
            }
            Some(Named::Summary(summary)) => {
                self.put_summary(name, &summary)?;
                let present = self.first(name, now)?;
                if present.is_none() {
                    self.put(lock)?;
                }
                present
            }
        };
        if present.is_some() {
            self.state()?.last_token -= 1;
        }
        Ok(present)
    }

    /// Writes a row in place of the old one, and returns the result of `see` for the old one.
    fn replace<T>(
        &mut self,
        lock: &Lock,
        see: impl FnOnce(&[u8]) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let row = record::encode(lock, std::mem::take(&mut self.buffer));
        self.replace_row(&lock.name, row, see)
    }

    /// Writes the row of a name in place of the old one, likewise.
    pub(super) fn replace_row<T>(
        &mut self,
        name: &LockName,
        row: Vec<u8>,
        see: impl FnOnce(&[u8]) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let at = self.at;
        self.is_changed = true;
        let mut rows = self.state()?.rows;
        let old = self.locks.insert(name.as_str(), row.as_slice());
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

    /// Removes the row of a hold that is there.
    pub(crate) fn remove(&mut self, lock: &Lock) -> Result<()> {
        match lock.mode {
            Mode::Exclusive => self.remove_name(&lock.name),
            Mode::Shared | Mode::Slots { .. } => self.remove_one_of_several(lock),
        }
    }

    pub(super) fn remove_name(&mut self, name: &LockName) -> Result<()> {
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

    /// Tells whether no request waits. Opens the queue if one does.
    pub(crate) fn is_queue_empty(&mut self) -> Result<bool> {
        let at = self.at;
        let is_empty = self.wants()?.is_empty().map_err(|error| at.failed(error))?;
        if !is_empty {
            self.queue()?;
        }
        Ok(is_empty)
    }

    /// Returns the number of the earliest request that wants this name, from a number on and
    /// without some. The queue must have been found not empty.
    pub(crate) fn head(
        &self,
        name: &LockName,
        from: u64,
        without: &HashSet<u64>,
    ) -> Result<Option<u64>> {
        match &self.wants {
            Some(wants) => head_in(wants, name, from, without, self.at),
            None => Ok(None),
        }
    }

    /// Returns the numbers of the requests that want this name. The queue must have been found not
    /// empty.
    pub(crate) fn wanting(&self, name: &LockName) -> Result<Vec<u64>> {
        match &self.wants {
            Some(wants) => wanting_in(wants, name, self.at),
            None => Ok(Vec::new()),
        }
    }

    /// Returns the number of the request that wants this name and comes right before that number.
    /// The queue must have been found not empty.
    pub(crate) fn before(&self, name: &LockName, number: u64) -> Result<Option<u64>> {
        match &self.wants {
            Some(wants) => before_in(wants, name, number, self.at),
            None => Ok(None),
        }
    }

    /// Returns the request of a number that the index names.
    pub(crate) fn wanted(&self, number: u64) -> Result<Request> {
        let found = self.requests.as_ref();
        let found = found.map(|requests| request_in(requests, number, self.at));
        let found = found.transpose()?.flatten();
        found.ok_or_else(|| {
            self.at
                .corrupted("a request is missing that its index names")
        })
    }

    pub(crate) fn request(&mut self, number: u64) -> Result<Option<Request>> {
        let at = self.at;
        request_in(self.queue()?, number, at)
    }

    /// Adds a request to the queue and to its index.
    pub(crate) fn put_request(&mut self, request: &Request) -> Result<()> {
        let at = self.at;
        self.is_changed = true;
        let row = record::encode_request(request);
        let put = self.queue()?.insert(request.number, row.as_slice());
        put.map_err(|error| at.failed(error))?;
        for name in request.claims.names() {
            let put = self.wants()?.insert((name.as_str(), request.number), ());
            put.map_err(|error| at.failed(error))?;
        }
        Ok(())
    }

    pub(crate) fn remove_request(&mut self, request: &Request) -> Result<()> {
        let at = self.at;
        self.is_changed = true;
        let removed = self.queue()?.remove(request.number);
        removed.map_err(|error| at.failed(error))?;
        for name in request.claims.names() {
            let removed = self.wants()?.remove((name.as_str(), request.number));
            removed.map_err(|error| at.failed(error))?;
        }
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

    fn wants(&mut self) -> Result<&mut Table<'a, (&'static str, u64), ()>> {
        let wants = match self.wants.take() {
            Some(wants) => wants,
            None => {
                let opened = self.txn.open_table(WANTS);
                opened.map_err(|error| self.at.failed(error))?
            }
        };
        Ok(self.wants.insert(wants))
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

    /// Returns the counters of the store, to change them: every change of a row changes them too.
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
