//! Models the verbs over a map in memory, from the promises of the documentation and not from the
//! library's code.
//!
//! The model counts the time left down, and does not compare it with a clock, so that the model and
//! the library fail in different ways.

use chrono::{DateTime, Utc};
use lockmgr::{Lock, Mode};
use std::collections::BTreeMap;
use std::time::Duration;

/// The last microsecond of the year 9999.
const MAX_WALL: i128 = 253_402_300_799_999_999;

/// The answer of a call that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    Locked,
    LockFail,
    LockNotFound,
    InvalidName,
    InvalidTimeout,
    InvalidRequest,
    SlotsMismatch,
    /// Several holders have the name, and the call has to name one of them.
    Several,
}

/// The expected state of a lock. Instants are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub mode: Mode,
    pub by: String,
    pub pid: Option<u32>,
    pub until: Option<Until>,
    pub created: i64,
    pub updated: i64,
    /// The token. None until the library has returned it.
    pub token: Option<u64>,
    /// Tells whether the lock expired once, so that its row may be gone.
    pub may_be_gone: bool,
}

/// The deadline of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until {
    pub wall: i64,
    /// Microseconds left on the boot that set the deadline. None after that boot.
    pub left: Option<i128>,
}

/// A timeout: microseconds, or none for ever.
pub type Timeout = Option<i128>;

#[derive(Clone, Debug)]
pub struct Lease {
    pub timeout: Timeout,
    pub by: String,
    pub pid: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Create,
    Extend,
    SkipCreate,
    SkipRenew,
}

#[derive(Clone, Debug)]
pub struct Model {
    /// The locks of each name, the oldest first.
    pub rows: BTreeMap<String, Vec<Row>>,
    /// The wall clock.
    pub wall: i64,
    /// The largest token that a successful change has issued.
    pub top: u64,
}

pub fn is_valid_name(text: &str) -> bool {
    (1..=255).contains(&text.len()) && !text.chars().any(char::is_control)
}

impl Model {
    pub fn new(wall: i64) -> Self {
        Self {
            rows: BTreeMap::new(),
            wall,
            top: 0,
        }
    }

    pub fn left(&self, row: &Row) -> Option<i128> {
        let until = row.until?;
        let by_wall = i128::from(until.wall) - i128::from(self.wall);
        Some(until.left.unwrap_or(by_wall))
    }

    pub fn is_expired(&self, row: &Row) -> bool {
        self.left(row).is_some_and(|left| left <= 0)
    }

    pub fn live(&self, name: &str) -> Option<&Row> {
        self.holders(name).next()
    }

    pub fn holders(&self, name: &str) -> impl Iterator<Item = &Row> {
        let rows = self.rows.get(name).into_iter().flatten();
        rows.filter(|row| !self.is_expired(row))
    }

    /// Tells whether the holders of a name are compatible with a new one of this mode.
    fn admit(&self, name: &str, mode: Mode) -> Result<(), No> {
        let Some(first) = self.live(name) else {
            return Ok(());
        };
        let can = match (mode, first.mode) {
            (Mode::Shared, Mode::Shared) => true,
            (Mode::Slots { take, of }, Mode::Slots { of: held, .. }) => {
                if of != held {
                    return Err(No::SlotsMismatch);
                }
                let taken = self.holders(name).map(|row| match row.mode {
                    Mode::Slots { take, .. } => take,
                    _ => of,
                });
                taken.sum::<u32>() + take <= of
            }
            _ => false,
        };
        can.then_some(()).ok_or(No::Locked)
    }

    /// Returns the deadline of a lease of this length that begins now.
    fn until(&self, timeout: Timeout) -> Result<Option<Until>, No> {
        let Some(timeout) = timeout else {
            return Ok(None);
        };
        let left = Some(timeout);
        let wall = calendar(i128::from(self.wall) + timeout)?;
        Ok(Some(Until { wall, left }))
    }

    fn create(&mut self, name: &str, lease: &Lease, mode: Mode) -> Result<(), No> {
        let row = Row {
            mode,
            by: lease.by.clone(),
            pid: lease.pid,
            until: self.until(lease.timeout)?,
            created: self.wall,
            updated: self.wall,
            token: None,
            may_be_gone: false,
        };
        let is_free = self.live(name).is_none();
        let rows = self.rows.entry(name.to_owned()).or_default();
        if is_free {
            rows.retain(|dead| match (dead.mode, mode) {
                (Mode::Shared, Mode::Shared) => true,
                (Mode::Slots { of, .. }, Mode::Slots { of: new, .. }) => of == new,
                _ => false,
            });
        }
        rows.push(row);
        Ok(())
    }

    /// Renews all live locks of a name, or the one with the token. Tells whether there was any.
    fn extend_all(
        &mut self,
        name: &str,
        token: Option<u64>,
        timeout: Timeout,
        add: bool,
    ) -> Result<bool, No> {
        let rows = self.rows.get(name).cloned().unwrap_or_default();
        let is_meant =
            |row: &&Row| !self.is_expired(row) && (token.is_none() || token == row.token);
        let meant = rows.iter().filter(is_meant).count();
        if meant > 1 && add {
            return Err(No::Several);
        }
        let mut renewed = Vec::new();
        for row in &rows {
            renewed.push(match is_meant(&row) {
                true => self.extended(row, timeout, add)?,
                false => row.clone(),
            });
        }
        if meant > 0 {
            self.rows.insert(name.to_owned(), renewed);
        }
        Ok(meant > 0)
    }

    fn extended(&self, row: &Row, timeout: Timeout, add: bool) -> Result<Row, No> {
        let new = self.until(timeout)?;
        let left = self.left(row);
        let until = match (row.until, new, left) {
            (Some(old), Some(_), Some(left)) if add => {
                let more = timeout.unwrap_or_default();
                Some(Until {
                    wall: calendar(i128::from(old.wall) + more)?,
                    left: Some(left + more),
                })
            }
            (Some(old), Some(new), Some(left)) => {
                let is_longer = timeout.is_some_and(|timeout| timeout > left);
                let kept = Until {
                    left: Some(left),
                    ..old
                };
                Some(if is_longer { new } else { kept })
            }
            _ => None,
        };
        let updated = self.wall;
        Ok(Row {
            until,
            updated,
            ..row.clone()
        })
    }

    /// Returns the refusal that follows from the options alone, if any.
    pub fn validate(&self, names: &[&str], lease: &Lease) -> Vec<No> {
        let mut refusals = Vec::new();
        let texts = names.iter().copied().chain([lease.by.as_str()]);
        if !texts.into_iter().all(is_valid_name) {
            refusals.push(No::InvalidName);
        }
        if self.until(lease.timeout).is_err() {
            refusals.push(No::InvalidTimeout);
        }
        refusals
    }

    pub fn set(
        &mut self,
        names: &[&str],
        lease: &Lease,
        [fail, renew, create]: [bool; 3],
    ) -> Result<Vec<Status>, (No, String)> {
        let before = self.clone();
        let mut statuses = Vec::new();
        for &name in names {
            let done = match self.live(name) {
                None if create => {
                    let created = self.create(name, lease, Mode::Exclusive);
                    created.map(|()| Status::Create)
                }
                None => Ok(Status::SkipCreate),
                Some(_) if fail => Err(No::LockFail),
                Some(row) if renew && row.mode == Mode::Exclusive => self
                    .extend_all(name, None, lease.timeout, false)
                    .map(|_| Status::Extend),
                Some(_) => Ok(Status::SkipRenew),
            };
            match done {
                Ok(status) => statuses.push(status),
                Err(no) => {
                    *self = before;
                    return Err((no, name.to_owned()));
                }
            }
        }
        Ok(statuses)
    }

    pub fn get(&mut self, name: &str, lease: &Lease, mode: Mode) -> Result<(), No> {
        self.admit(name, mode)?;
        self.create(name, lease, mode)
    }

    /// Gets all of the names, or so many. Returns the names that it got.
    pub fn acquire(
        &mut self,
        claims: &[(&str, Mode)],
        any: Option<u32>,
        lease: &Lease,
    ) -> Result<Vec<String>, No> {
        let needed = any.map_or(claims.len(), |any| any as usize);
        let mut refusal = None;
        let mut gets = Vec::new();
        for claim in claims {
            match self.admit(claim.0, claim.1) {
                Ok(()) => gets.push(claim),
                Err(no) => {
                    refusal.get_or_insert(no);
                }
            }
            if refusal.is_some() && any.is_none() {
                break;
            }
        }
        gets.truncate(needed);
        if gets.len() < needed {
            return Err(refusal.unwrap_or(No::Locked));
        }
        for (name, mode) in &gets {
            self.create(name, lease, *mode)?;
        }
        Ok(gets
            .into_iter()
            .map(|(name, _)| (*name).to_owned())
            .collect())
    }

    pub fn renew(
        &mut self,
        name: &str,
        token: Option<u64>,
        lease: &Lease,
        [add, create]: [bool; 2],
    ) -> Result<(), No> {
        match self.extend_all(name, token, lease.timeout, add)? {
            true => Ok(()),
            false if create => self.get(name, lease, Mode::Exclusive),
            false => Err(No::LockNotFound),
        }
    }

    pub fn unlock(&mut self, name: &str, token: Option<u64>) -> bool {
        let mut rows = self.rows.remove(name).unwrap_or_default();
        let before = rows.len();
        rows.retain(|row| self.is_expired(row) || token.is_some() && token != row.token);
        let is_there = rows.len() < before;
        self.rows.insert(name.to_owned(), rows);
        is_there
    }

    pub fn list(&self, prefix: &str) -> Vec<&str> {
        let rows = self.rows.iter();
        let rows = rows.flat_map(|(name, rows)| rows.iter().map(move |row| (name, row)));
        let live = rows.filter(|(_, row)| !self.is_expired(row));
        live.map(|(name, _)| name.as_str())
            .filter(|name| name.starts_with(prefix))
            .collect()
    }

    /// Forgets expired rows. Returns how many there may have been on the disk.
    pub fn clean(&mut self) -> usize {
        let mut removed = 0;
        for mut rows in std::mem::take(&mut self.rows) {
            removed += rows.1.iter().filter(|row| self.is_expired(row)).count();
            rows.1.retain(|row| !self.is_expired(row));
            self.rows.extend([rows]);
        }
        removed
    }

    /// Removes all locks. Returns how many there were.
    pub fn reset(&mut self) -> usize {
        let live = self.list("").len();
        self.rows.clear();
        live
    }

    /// Counts down by the time that passed on the boot clock. `wall` is the current wall clock.
    pub fn pass(&mut self, by: Duration, wall: i64) {
        for row in self.rows.values_mut().flatten() {
            if let Some(Until {
                left: Some(left), ..
            }) = &mut row.until
            {
                *left -= by.as_micros() as i128;
            }
        }
        self.moved(wall);
    }

    /// Ends the boot: after this call the wall clock decides about the existing deadlines.
    pub fn reboot(&mut self, wall: i64) {
        for row in self.rows.values_mut().flatten() {
            if let Some(until) = &mut row.until {
                until.left = None;
            }
        }
        self.moved(wall);
    }

    pub fn moved(&mut self, wall: i64) {
        self.wall = wall;
        let gone = |row: &Row| self.is_expired(row);
        let gone: Vec<bool> = self.rows.values().flatten().map(gone).collect();
        for (row, is_gone) in self.rows.values_mut().flatten().zip(gone) {
            row.may_be_gone |= is_gone;
        }
    }

    /// Asserts that the library's lock equals the model's, and learns the token of a new lock.
    pub fn assert_same(&mut self, name: &str, lock: &Lock, time_left: Option<Duration>) {
        assert_eq!(Some(Seen::of(lock, time_left)), self.seen(name, lock));
        self.top = self.top.max(lock.token());
        let rows = self.rows.get_mut(name).into_iter().flatten();
        let mut rows = rows.filter(|row| row.token.is_none_or(|it| it == lock.token()));
        if let Some(row) = rows.next() {
            row.token = Some(lock.token());
            row.may_be_gone = false;
        }
    }

    /// Tells whether the model has exactly these locks.
    pub fn is_same(&self, locks: &[(Lock, Option<Duration>)]) -> bool {
        let seen = |(lock, left): &(Lock, _)| Some(Seen::of(lock, *left));
        let expected = |(name, (lock, _)): (&&str, &(Lock, _))| self.seen(name, lock);
        let names = self.list("");
        names.len() == locks.len()
            && (names.iter().zip(locks).map(expected)).eq(locks.iter().map(seen))
    }

    /// Returns the expected lock of that name. A new lock has a token above all earlier ones: the
    /// token of `lock`, if that is given.
    fn seen(&self, name: &str, lock: &Lock) -> Option<Seen> {
        let is_it = |row: &&Row| row.token.is_none_or(|token| token == lock.token());
        let row = self.holders(name).find(is_it)?;
        let left = self.left(row);
        Some(Seen {
            mode: row.mode,
            name: name.to_owned(),
            by: row.by.clone(),
            pid: row.pid,
            until: row.until.map(|until| instant(until.wall)),
            left: left.map(|left| Duration::from_micros(left.try_into().expect("not expired"))),
            created: instant(row.created),
            updated: instant(row.updated),
            token: row.token.unwrap_or(lock.token().max(self.top + 1)),
        })
    }
}

/// A lock, as callers see it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: Mode,
    name: String,
    by: String,
    pid: Option<u32>,
    until: Option<DateTime<Utc>>,
    left: Option<Duration>,
    created: DateTime<Utc>,
    updated: DateTime<Utc>,
    token: u64,
}

impl Seen {
    fn of(lock: &Lock, left: Option<Duration>) -> Self {
        Self {
            mode: lock.mode(),
            name: lock.name().to_string(),
            by: lock.locked_by().to_string(),
            pid: lock.process_id(),
            until: lock.locked_until(),
            left,
            created: lock.created_at(),
            updated: lock.updated_at(),
            token: lock.token(),
        }
    }
}

fn instant(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).expect("a calendar instant")
}

fn calendar(wall: i128) -> Result<i64, No> {
    match i64::try_from(wall) {
        Ok(micros) if wall <= MAX_WALL => Ok(micros),
        _ => Err(No::InvalidTimeout),
    }
}
