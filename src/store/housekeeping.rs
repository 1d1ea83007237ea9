//! Removes dead rows and makes the file smaller. This reclaims space. No answer of the store
//! depends on it.

use super::Store;
use super::read::decode_named;
use super::write::WriteTx;
use crate::clock::Moment;
use crate::error::Result;
use crate::holds::Rows;
use crate::lock::Lock;
use crate::name::LockName;
use crate::process::Binding;
use crate::record::{self, Digest, Named};
use redb::ReadableTable;
use std::collections::HashMap;
use std::fs;
use std::ops::Bound;

/// How many rows housekeeping looks at for each row created. Any factor above one bounds the table:
/// in one round over a table of N rows at most N / 8 are created, and every row that had expired
/// when the round began is gone at its end. With four, the file grew beyond twice its largest live
/// set under bulk churn. With sixteen it did too, because housekeeping copied more pages than it
/// freed.
pub(super) const SWEPT_PER_CREATED: usize = 8;
/// How many of those rows may be bound to a process that has to be judged, which costs as much as
/// all the rest. A summary counts as one, and then as many of its holds are looked at.
const JUDGED_PER_CREATED: usize = 2;

/// How many rows one transaction of a cleaning looks at: some tens of milliseconds of work.
pub(crate) const CLEANED_AT_A_TIME: usize = 50_000;
/// How many bytes of a file are worth a commit to cut them off.
pub(crate) const MUCH: u64 = 1 << 20;

/// Reports one transaction of a cleaning.
pub(crate) struct Removed {
    pub(crate) count: usize,
    /// The names of the removed rows.
    pub(crate) names: Vec<LockName>,
    /// The name to go on from, if there is more.
    pub(crate) next: Option<String>,
}

impl WriteTx<'_> {
    /// Removes dead rows, beginning at this name, of so few names that other callers soon get their
    /// turn. The holds of one name are looked through at once.
    pub(crate) fn remove_dead(&mut self, from: &str, now: Moment) -> Result<Removed> {
        let at = self.at;
        let next = self.name_after(from, CLEANED_AT_A_TIME)?;
        let to = next.as_deref().map_or(Bound::Unbounded, Bound::Excluded);

        let judge = self.judge;
        let mut names = Vec::new();
        let mut several = Vec::new();
        let mut bad_row = None;
        let mut rows = self.state()?.rows;
        // One manager may have many locks, and judging it takes system calls.
        let mut known = HashMap::new();
        let mut standing = |it: &Binding| *known.entry(*it).or_insert_with(|| judge.standing(it));
        let keep = |name: &str, row: &[u8]| {
            if record::is_summary(row) {
                several.extend(LockName::new(name));
                return true;
            }
            match record::term(name, row) {
                Ok(term) if term.is_removable(now, &mut standing) => {
                    names.extend(LockName::new(name));
                    rows.remove(row);
                    false
                }
                Ok(_) => true,
                Err(bad) => {
                    bad_row = Some(bad);
                    true
                }
            }
        };
        self.locks
            .retain_in::<&str, _>((Bound::Included(from), to), keep)
            .map_err(|error| at.failed(error))?;
        if let Some(bad) = bad_row {
            return Err(at.bad_row(bad));
        }
        self.state()?.rows = rows;
        let mut count = names.len();
        for name in several {
            if let Some(Named::Summary(mut summary)) = self.named(&name)? {
                summary.swept_to = 0;
                let removed = self.sweep_several(&name, summary, usize::MAX, now)?;
                count += removed;
                names.extend((removed > 0).then_some(name));
            }
        }
        Ok(Removed { count, names, next })
    }

    /// Returns the name this many rows after this one, if there are so many.
    pub(super) fn name_after(&self, from: &str, rows: usize) -> Result<Option<String>> {
        let at = self.at;
        // A cursor is less work than a range, which also looks at its other end after each row.
        let cursor = self.locks.lower_bound(Bound::Included(from));
        let mut cursor = cursor.map_err(|error| at.failed(error))?;
        for _ in 0..rows {
            if cursor.next().map_err(|error| at.failed(error))?.is_none() {
                return Ok(None);
            }
        }
        let Some((name, _)) = cursor.peek_next().map_err(|error| at.failed(error))? else {
            return Ok(None);
        };
        // With this check a scan from there ends in a damaged file too.
        if name.value() <= from {
            return Err(at.corrupted("its rows are not in the order of their names"));
        }
        Ok(Some(name.value().to_owned()))
    }

    /// Removes every row, damaged ones too, and returns those that were live.
    pub(crate) fn remove_all(&mut self, now: Moment) -> Result<Vec<Lock>> {
        let (at, judge) = (self.at, self.judge);
        self.is_changed = true;
        let mut live = Vec::new();
        let mut see = |name: &str, row: &[u8]| {
            let lock = record::decode_named(name, row).ok();
            live.extend(lock.and_then(|lock| lock.if_live(now, judge)));
            false
        };
        let seen = self.locks.retain(&mut see);
        seen.map_err(|error| at.failed(error))?;
        let seen = self.holds_mut()?.retain(|(name, _), row| see(name, row));
        seen.map_err(|error| at.failed(error))?;
        self.state()?.rows = Digest::default();
        Ok(live)
    }

    /// Does the housekeeping of a call that created rows: looks at the next few rows in the order
    /// of their names, round and round, and removes those that are not live.
    pub(crate) fn sweep(&mut self, created: usize, now: Moment) -> Result<()> {
        if created == 0 {
            return Ok(());
        }
        let judge = self.judge;
        let from = std::mem::take(&mut self.state()?.swept_to);
        let rest = (Bound::Excluded(from.as_str()), Bound::Unbounded);
        let rows = self
            .locks
            .range::<&str>(rest)
            .map_err(|error| self.at.failed(error))?;
        let mut dead = Vec::new();
        let mut several = Vec::new();
        let mut to_look_at = created.saturating_mul(SWEPT_PER_CREATED);
        let mut to_judge = created.saturating_mul(JUDGED_PER_CREATED);
        let mut last = String::new();
        for entry in rows {
            let (name, row) = entry.map_err(|error| self.at.failed(error))?;
            let (name, row) = (name.value(), row.value());
            if record::is_summary(row) {
                to_judge -= 1;
                let summary = record::decode_summary(name, row);
                let summary = summary.map_err(|bad| self.at.bad_row(bad))?;
                several.push((LockName::new(name)?, summary));
            } else {
                let term = record::glance(row).map_err(|bad| self.at.bad_row(bad))?;
                to_judge -= usize::from(term.bound_to.is_some());
                if term.is_removable(now, |it| judge.standing(it)) {
                    dead.push(decode_named(name, row, self.at)?.name);
                }
            }
            to_look_at -= 1;
            if to_look_at == 0 || to_judge == 0 {
                last = name.to_owned();
                break;
            }
        }
        for name in &dead {
            self.remove_name(name)?;
        }
        for (name, summary) in several {
            self.sweep_several(&name, summary, JUDGED_PER_CREATED, now)?;
        }
        // A round that came to its end begins again.
        self.state()?.swept_to = last;
        Ok(())
    }
}

impl Store {
    /// Makes a commit that changes nothing, so that redb cuts off a half of the free space at the
    /// end of the file, and returns how many bytes shorter the file is. When the last handle is
    /// closed, redb cuts off all the rest at once, and other processes wait for that: 0.2 ms for
    /// each MiB.
    pub(crate) fn cut_off(&self, action: &'static str) -> Result<u64> {
        let len = || fs::metadata(self.path()).map_or(0, |metadata| metadata.len());
        let before = len();
        self.write(action, |tx| {
            tx.is_changed = true;
            Ok(())
        })?;
        Ok(before.saturating_sub(len()))
    }
}
