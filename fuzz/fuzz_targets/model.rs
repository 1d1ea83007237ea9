//! What the verbs mean, over a map in memory: written from what the documentation promises, not
//! from the library.
//!
//! Time left is counted down instead of compared with a clock, so that the model and the library
//! go wrong in different ways.

use chrono::{DateTime, Utc};
use lockmgr::Lock;
use std::collections::BTreeMap;
use std::time::Duration;

/// The last microsecond of the year 9999.
const MAX_WALL: i128 = 253_402_300_799_999_999;

/// What a call answers when it does not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    Locked,
    LockFail,
    LockNotFound,
    InvalidName,
    InvalidTimeout,
}

/// A lock as it should be. Instants are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub by: String,
    pub pid: Option<u32>,
    pub until: Option<Until>,
    pub created: i64,
    pub updated: i64,
    /// None until the library has said which token it issued.
    pub token: Option<u64>,
    /// Whether it expired once, so that its row may be gone.
    pub may_be_gone: bool,
}

/// When a lock expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until {
    pub wall: i64,
    /// Microseconds left on the boot that set the deadline; none once that boot is over.
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
    pub rows: BTreeMap<String, Row>,
    /// The wall clock.
    pub wall: i64,
    /// The largest token that a change which took effect has issued.
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

    fn is_expired(&self, row: &Row) -> bool {
        self.left(row).is_some_and(|left| left <= 0)
    }

    pub fn live(&self, name: &str) -> Option<&Row> {
        self.rows.get(name).filter(|row| !self.is_expired(row))
    }

    /// The deadline of a lease of this length that begins now.
    fn until(&self, timeout: Timeout) -> Result<Option<Until>, No> {
        let Some(timeout) = timeout else {
            return Ok(None);
        };
        let left = Some(timeout);
        let wall = calendar(i128::from(self.wall) + timeout)?;
        Ok(Some(Until { wall, left }))
    }

    fn create(&mut self, name: &str, lease: &Lease) -> Result<(), No> {
        let row = Row {
            by: lease.by.clone(),
            pid: lease.pid,
            until: self.until(lease.timeout)?,
            created: self.wall,
            updated: self.wall,
            token: None,
            may_be_gone: false,
        };
        self.rows.insert(name.to_owned(), row);
        Ok(())
    }

    fn extend(&mut self, name: &str, timeout: Timeout, add: bool) -> Result<(), No> {
        let new = self.until(timeout)?;
        let row = &self.rows[name];
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
        if let Some(row) = self.rows.get_mut(name) {
            (row.until, row.updated) = (until, updated);
        }
        Ok(())
    }

    /// What options alone are refused for.
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
                None if create => self.create(name, lease).map(|()| Status::Create),
                None => Ok(Status::SkipCreate),
                Some(_) if fail => Err(No::LockFail),
                Some(_) if renew => self
                    .extend(name, lease.timeout, false)
                    .map(|()| Status::Extend),
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

    pub fn get(&mut self, name: &str, lease: &Lease) -> Result<(), No> {
        match self.live(name) {
            Some(_) => Err(No::Locked),
            None => self.create(name, lease),
        }
    }

    pub fn renew(
        &mut self,
        name: &str,
        token: Option<u64>,
        lease: &Lease,
        [add, create]: [bool; 2],
    ) -> Result<(), No> {
        match self.live(name) {
            Some(row) if token.is_none() || token == row.token => {
                self.extend(name, lease.timeout, add)
            }
            _ if create => self.get(name, lease),
            _ => Err(No::LockNotFound),
        }
    }

    pub fn unlock(&mut self, name: &str, token: Option<u64>) -> bool {
        let is_there = self
            .live(name)
            .is_some_and(|row| token.is_none() || token == row.token);
        if is_there {
            self.rows.remove(name);
        }
        is_there
    }

    pub fn list(&self, prefix: &str) -> Vec<&str> {
        let live = self.rows.iter().filter(|(_, row)| !self.is_expired(row));
        live.map(|(name, _)| name.as_str())
            .filter(|name| name.starts_with(prefix))
            .collect()
    }

    /// Forgets expired rows; returns how many there may have been on the disk.
    pub fn clean(&mut self) -> usize {
        let before = self.rows.len();
        let live: Vec<String> = self.list("").into_iter().map(str::to_owned).collect();
        self.rows.retain(|name, _| live.contains(name));
        before - self.rows.len()
    }

    /// Removes all; returns how many locks there were.
    pub fn reset(&mut self) -> usize {
        let live = self.list("").len();
        self.rows.clear();
        live
    }

    /// Counts down what time passed on the boot clock. `wall` is what the wall clock shows now.
    pub fn pass(&mut self, by: Duration, wall: i64) {
        for row in self.rows.values_mut() {
            if let Some(Until {
                left: Some(left), ..
            }) = &mut row.until
            {
                *left -= by.as_micros() as i128;
            }
        }
        self.moved(wall);
    }

    /// Ends the boot: from here the wall clock decides about the deadlines there are.
    pub fn reboot(&mut self, wall: i64) {
        for row in self.rows.values_mut() {
            if let Some(until) = &mut row.until {
                until.left = None;
            }
        }
        self.moved(wall);
    }

    pub fn moved(&mut self, wall: i64) {
        self.wall = wall;
        let gone = |row: &Row| self.is_expired(row);
        let gone: Vec<bool> = self.rows.values().map(gone).collect();
        for (row, is_gone) in self.rows.values_mut().zip(gone) {
            row.may_be_gone |= is_gone;
        }
    }

    /// Asserts that the library's lock is the model's, and learns the token of a new one.
    pub fn assert_same(&mut self, name: &str, lock: &Lock, time_left: Option<Duration>) {
        assert_eq!(Some(Seen::of(lock, time_left)), self.seen(name, lock));
        self.top = self.top.max(lock.token());
        if let Some(row) = self.rows.get_mut(name) {
            row.token = Some(lock.token());
            row.may_be_gone = false;
        }
    }

    /// Whether these are the locks there are.
    pub fn is_same(&self, locks: &[(Lock, Option<Duration>)]) -> bool {
        let seen = |(lock, left): &(Lock, _)| Some(Seen::of(lock, *left));
        let expected = |(name, (lock, _)): (&&str, &(Lock, _))| self.seen(name, lock);
        let names = self.list("");
        names.len() == locks.len()
            && (names.iter().zip(locks).map(expected)).eq(locks.iter().map(seen))
    }

    /// How the lock of that name should look. A new one bears a token above all earlier ones:
    /// that of `lock`, where it is.
    fn seen(&self, name: &str, lock: &Lock) -> Option<Seen> {
        let row = self.live(name)?;
        let left = self.left(row);
        Some(Seen {
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

/// A lock as others see it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
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
