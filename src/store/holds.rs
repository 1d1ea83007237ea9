//! Reads and writes the rows of the holds of a name that is shared or held by slots.

use super::HOLDS;
use super::fault::At;
use super::housekeeping::SWEPT_PER_CREATED;
use super::read::ReadTx;
use super::write::WriteTx;
use crate::beacon::Judge;
use crate::claim::Mode;
use crate::clock::Moment;
use crate::error::Result;
use crate::holds::{Order, Rows};
use crate::lock::Lock;
use crate::name::LockName;
use crate::record::{self, Named, Summary};
use redb::{ReadableTable, Table};
use std::ops::ControlFlow;

impl Rows for ReadTx<'_> {
    fn named(&self, name: &LockName) -> Result<Option<Named>> {
        let Some(tables) = &self.tables else {
            return Ok(None);
        };
        let row = named_in(&tables.snapshot.locks, name, self.at)?;
        if row.is_none() {
            tables.check(self.at)?;
        }
        Ok(row)
    }

    fn one_of_several(&self, name: &LockName, token: u64) -> Result<Option<Lock>> {
        match &self.tables {
            Some(tables) => one_in(tables.snapshot.holds(self.at)?, name, token, self.at),
            None => Ok(None),
        }
    }

    fn several(
        &self,
        name: &LockName,
        order: Order,
        see: &mut dyn FnMut(Lock) -> ControlFlow<()>,
    ) -> Result<()> {
        match &self.tables {
            Some(tables) => several_in(tables.snapshot.holds(self.at)?, name, order, self.at, see),
            None => Ok(()),
        }
    }

    fn judge(&self) -> &Judge {
        self.judge
    }
}

impl Rows for WriteTx<'_> {
    fn named(&self, name: &LockName) -> Result<Option<Named>> {
        let row = named_in(&self.locks, name, self.at)?;
        if row.is_none() {
            self.check()?;
        }
        Ok(row)
    }

    fn one_of_several(&self, name: &LockName, token: u64) -> Result<Option<Lock>> {
        one_in(self.holds()?, name, token, self.at)
    }

    fn several(
        &self,
        name: &LockName,
        order: Order,
        see: &mut dyn FnMut(Lock) -> ControlFlow<()>,
    ) -> Result<()> {
        several_in(self.holds()?, name, order, self.at, see)
    }

    /// Judges each binding once.
    fn judge(&self) -> &Judge {
        self.judge
    }
}

impl<'a> WriteTx<'a> {
    pub(super) fn holds(&self) -> Result<&Table<'a, (&'static str, u64), &'static [u8]>> {
        if let Some(holds) = self.holds.get() {
            return Ok(holds);
        }
        let opened = self.txn.open_table(HOLDS);
        let opened = opened.map_err(|error| self.at.failed(error))?;
        Ok(self.holds.get_or_init(|| opened))
    }

    pub(super) fn holds_mut(
        &mut self,
    ) -> Result<&mut Table<'a, (&'static str, u64), &'static [u8]>> {
        self.holds()?;
        Ok(self.holds.get_mut().expect("the table was opened just now"))
    }

    /// Writes the row of a hold beside those of others, or in place of its own.
    pub(super) fn put_beside_others(&mut self, lock: &Lock) -> Result<()> {
        let at = self.at;
        let before = match self.named(&lock.name)? {
            Some(Named::Summary(summary)) if summary.is_of(lock.mode) => Some(summary),
            // Holds of another kind are dead, or this hold would not be put here.
            Some(Named::Summary(_)) => {
                self.remove_several(&lock.name)?;
                None
            }
            Some(Named::Alone(_)) | None => None,
        };
        self.is_changed = true;
        let row = record::encode(lock, std::mem::take(&mut self.buffer));
        let mut rows = self.state()?.rows;
        let key = (lock.name.as_str(), lock.token);
        let old = self.holds_mut()?.insert(key, row.as_slice());
        let is_new = match old.map_err(|error| at.failed(error))? {
            Some(old) => {
                rows.remove(old.value());
                false
            }
            None => true,
        };
        rows.add(&row);
        self.buffer = row;
        self.state()?.rows = rows;
        let mut summary = before.unwrap_or(Summary::new(lock.mode));
        if is_new {
            summary.count = summary.count.saturating_add(1);
            summary.taken = summary.taken.saturating_add(lock.mode.slots());
        }
        match before == Some(summary) {
            true => Ok(()),
            false => self.put_summary(&lock.name, &summary),
        }
    }

    /// Writes the summary of the holds of a name, or removes its row if there are none.
    pub(super) fn put_summary(&mut self, name: &LockName, summary: &Summary) -> Result<()> {
        if summary.count == 0 {
            return self.remove_name(name);
        }
        let row = record::encode_summary(name, summary);
        self.replace_row(name, row, |_| Ok(None::<()>)).map(drop)
    }

    pub(super) fn remove_one_of_several(&mut self, lock: &Lock) -> Result<()> {
        let Some(Named::Summary(mut summary)) = self.named(&lock.name)? else {
            return Ok(());
        };
        self.remove_row_of_hold(lock, &mut summary)?;
        self.put_summary(&lock.name, &summary)
    }

    fn remove_row_of_hold(&mut self, lock: &Lock, summary: &mut Summary) -> Result<()> {
        let at = self.at;
        self.is_changed = true;
        let mut rows = self.state()?.rows;
        let old = self.holds_mut()?.remove((lock.name.as_str(), lock.token));
        if let Some(old) = old.map_err(|error| at.failed(error))? {
            rows.remove(old.value());
            summary.count = summary.count.saturating_sub(1);
            summary.taken = summary.taken.saturating_sub(lock.mode.slots());
        }
        self.state()?.rows = rows;
        Ok(())
    }

    /// Removes the rows of all holds of a name, and leaves the row of the name.
    pub(super) fn remove_several(&mut self, name: &LockName) -> Result<()> {
        let at = self.at;
        self.is_changed = true;
        let mut rows = self.state()?.rows;
        let name = name.as_str();
        let all = (name, 0)..=(name, u64::MAX);
        let removed = self.holds_mut()?.retain_in(all, |_, row| {
            rows.remove(row);
            false
        });
        removed.map_err(|error| at.failed(error))?;
        self.state()?.rows = rows;
        Ok(())
    }

    /// Makes room for a new hold that the living holds admit. If rows of dead holds take its slots,
    /// removes them. Otherwise housekeeping looks at the next few rows, round and round.
    pub(crate) fn make_room(&mut self, name: &LockName, mode: Mode, now: Moment) -> Result<()> {
        let Some(Named::Summary(summary)) = self.named(name)? else {
            return Ok(());
        };
        let of = summary.of.map_or(u64::MAX, u64::from);
        if !summary.is_of(mode) {
            return Ok(());
        }
        if summary.taken.saturating_add(mode.slots()) <= of {
            return self
                .sweep_several(name, summary, SWEPT_PER_CREATED, now)
                .map(drop);
        }
        // Remove the expired row of a living guard too: another holder has its slots now.
        let judge = self.judge;
        self.remove_several_if(name, summary, 0, usize::MAX, |lock| {
            !lock.term().is_live(now, judge)
        })
        .map(drop)
    }

    /// Looks at some rows of a name, from the row at which housekeeping stopped before, and removes
    /// those that may be removed. Returns how many it removed.
    pub(super) fn sweep_several(
        &mut self,
        name: &LockName,
        summary: Summary,
        most: usize,
        now: Moment,
    ) -> Result<usize> {
        let judge = self.judge;
        let from = summary.swept_to.saturating_add(1);
        self.remove_several_if(name, summary, from, most, |lock| {
            lock.term().is_removable(now, |it| judge.standing(it))
        })
    }

    fn remove_several_if(
        &mut self,
        name: &LockName,
        mut summary: Summary,
        from: u64,
        most: usize,
        is_over: impl Fn(&Lock) -> bool,
    ) -> Result<usize> {
        let at = self.at;
        let before = summary;
        let mut over = Vec::new();
        let rows = (name.as_str(), from)..=(name.as_str(), u64::MAX);
        let rows = self.holds()?.range(rows).map_err(|e| at.failed(e))?;
        // A round that came to its end begins again.
        summary.swept_to = 0;
        for (seen, entry) in (1..).zip(rows) {
            let (key, row) = entry.map_err(|error| at.failed(error))?;
            let (name, token) = key.value();
            let lock = record::decode_hold(name, token, row.value());
            let lock = lock.map_err(|bad| at.bad_row(bad))?;
            if is_over(&lock) {
                over.push(lock);
            }
            if seen == most {
                summary.swept_to = token;
                break;
            }
        }
        for lock in &over {
            self.remove_row_of_hold(lock, &mut summary)?;
        }
        if summary != before {
            self.put_summary(name, &summary)?;
        }
        Ok(over.len())
    }
}

fn named_in(
    locks: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &LockName,
    at: At<'_>,
) -> Result<Option<Named>> {
    let row = locks.get(name.as_str()).map_err(|error| at.failed(error))?;
    row.map(|row| record::decode_name(name, row.value()).map_err(|bad| at.bad_row(bad)))
        .transpose()
}

fn one_in(
    holds: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    name: &LockName,
    token: u64,
    at: At<'_>,
) -> Result<Option<Lock>> {
    let row = holds.get((name.as_str(), token));
    let row = row.map_err(|error| at.failed(error))?;
    row.map(|row| {
        let lock = record::decode_hold(name.as_str(), token, row.value());
        lock.map_err(|bad| at.bad_row(bad))
    })
    .transpose()
}

fn several_in(
    holds: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    name: &LockName,
    order: Order,
    at: At<'_>,
    see: &mut dyn FnMut(Lock) -> ControlFlow<()>,
) -> Result<()> {
    let name = name.as_str();
    let rows = holds.range((name, 0)..=(name, u64::MAX));
    let mut rows = rows.map_err(|error| at.failed(error))?;
    loop {
        let next = match order {
            Order::OldestFirst => rows.next(),
            Order::NewestFirst => rows.next_back(),
        };
        let Some(entry) = next else {
            return Ok(());
        };
        let (key, row) = entry.map_err(|error| at.failed(error))?;
        let (name, token) = key.value();
        let lock = record::decode_hold(name, token, row.value());
        if see(lock.map_err(|bad| at.bad_row(bad))?).is_break() {
            return Ok(());
        }
    }
}
