//! Compares whole sequences of verbs with a model that knows the specification and not the code.

#![expect(clippy::result_large_err, reason = "a model need not be fast")]

use crate::support::{Home, noon};
use chrono::{DateTime, Utc};
use lockmgr::{
    Error, GetOptions, Lock, LockManager, LockRef, LockSetResult, ManualClock, Mode, RenewOptions,
    SetOptions, Status, Timeout,
};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;
use std::time::Duration;

const NAMES: [&str; 5] = ["a", "ab", "b", "ba", "é"];
const PREFIXES: [&str; 4] = ["", "a", "b", "é"];
const HOLDER: &str = "app";

/// An instant, or a deadline, on both clocks, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Moment {
    wall: i64,
    boot: u32,
    since_boot: i64,
}

impl Moment {
    /// Compares two instants. Within one boot the boot clock decides, otherwise the wall clock.
    fn left(self, now: Self) -> i64 {
        if self.boot == now.boot {
            self.since_boot - now.since_boot
        } else {
            self.wall - now.wall
        }
    }

    fn plus(self, micros: i64) -> Self {
        Self {
            wall: self.wall + micros,
            since_boot: self.since_boot + micros,
            ..self
        }
    }
}

#[derive(Clone, Debug)]
struct Row {
    mode: Mode,
    locked_by: String,
    process_id: Option<u32>,
    until: Option<Moment>,
    /// The instant until which the name stays taken, and whether the hold has ended.
    at_least: Option<(Moment, bool)>,
    created_at: i64,
    updated_at: i64,
    token: u64,
}

impl Row {
    fn live(&self, now: Moment) -> Option<Self> {
        match self.until.is_none_or(|until| until.left(now) > 0) {
            true => Some(self.clone()),
            false => self.ended(now),
        }
    }

    /// Returns the rest of the row when its hold ends.
    fn ended(&self, now: Moment) -> Option<Self> {
        let (until, _) = self.at_least.filter(|(until, _)| until.left(now) > 0)?;
        Some(Self {
            until: Some(until),
            at_least: Some((until, true)),
            ..self.clone()
        })
    }

    fn bears(&self, token: Option<u64>) -> bool {
        let is_ended = self.at_least.is_some_and(|(_, is_ended)| is_ended);
        token.is_none_or(|token| token == self.token && !is_ended)
    }
}

/// A lock as a user sees it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    name: Box<str>,
    locked_by: Box<str>,
    mode: Mode,
    process_id: Option<u32>,
    locked_until: Option<i64>,
    created_at: i64,
    updated_at: i64,
    token: u64,
    left: Option<Duration>,
    at_least: Option<(i64, bool)>,
}

/// The outcome of a call.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Lock(Seen),
    Set {
        locks: Vec<Seen>,
        /// Created, renewed, creations skipped, renewals skipped.
        counts: [usize; 4],
        /// Name, was locked, status, is locked.
        statuses: Vec<(String, bool, Status, bool)>,
    },
    Removed(Vec<bool>),
    Count(usize),
    Locked(Seen),
    LockFail(Seen),
    NotFound(String, Option<u64>),
    /// The requested number of slots, and the number that the holders agree on.
    Mismatch(u32, u32),
    /// Several holders have the name, and the call has to name one of them.
    Several,
    InvalidTimeout,
}

#[derive(Clone, Debug)]
struct Lease {
    timeout: Timeout,
    locked_by: Option<&'static str>,
    process_id: Option<u32>,
    /// An outcome of `get_lock` only.
    at_least: Option<Timeout>,
    mode: Mode,
}

/// The instant from which the timeout of a renewal counts.
#[derive(Clone, Copy, Debug)]
enum Counts {
    FromNow,
    Shortening,
    FromTheDeadline,
}

/// The lock that an administrator or a holder refers to.
#[derive(Clone, Debug)]
enum Which {
    Name(usize),
    /// A name and its token, among those that were issued. The first name if none was issued.
    Issued(Index),
}

/// A name, and the token that its lock has to have.
type Meant = (&'static str, Option<u64>);

#[derive(Clone, Debug)]
enum Op {
    Set {
        names: Vec<usize>,
        lease: Lease,
        how: How,
    },
    Get {
        name: usize,
        lease: Lease,
    },
    Renew {
        which: Which,
        timeout: Timeout,
        counts: Counts,
        create: bool,
    },
    Unlock(Which),
    UnlockAll(Vec<Which>),
    Clean,
    Reset,
    Advance(Duration),
    StepWall {
        micros: i64,
    },
    Reboot {
        off: Duration,
    },
    Reopen {
        exclusive: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct How {
    fail: bool,
    renew: bool,
    create: bool,
}

fn timeouts() -> impl Strategy<Value = Timeout> {
    let until_the_end = (latest() - noon()).to_std().unwrap();
    prop_oneof![
        12 => (1..9u64).prop_map(|secs| Timeout::After(Duration::from_secs(secs))),
        2 => (1..3_000u64).prop_map(|nanos| Timeout::After(Duration::from_nanos(nanos))),
        1 => Just(Timeout::Never),
        1 => Just(Timeout::After(Duration::ZERO)),
        1 => Just(Timeout::After(until_the_end)),
        1 => Just(Timeout::After(Duration::MAX)),
    ]
}

fn latest() -> DateTime<Utc> {
    "9999-12-31T23:59:59.999999Z".parse().unwrap()
}

fn pauses() -> impl Strategy<Value = Duration> {
    prop_oneof![
        6 => (1..9u64).prop_map(Duration::from_secs),
        1 => (1..3u64).prop_map(Duration::from_micros),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let name = || 0..NAMES.len();
    let lease = || {
        let locked_by = prop::option::of(Just("edge-7"));
        let at_least = prop::option::weighted(0.3, timeouts());
        let slots = (1..4u32, 3..5u32);
        let mode = prop_oneof![
            3 => Just(Mode::Exclusive),
            3 => Just(Mode::Shared),
            3 => slots.prop_map(|(take, of)| Mode::Slots { take, of }),
        ];
        let lease = (timeouts(), locked_by, any::<Option<u32>>(), at_least, mode);
        lease.prop_map(|(timeout, locked_by, process_id, at_least, mode)| Lease {
            timeout,
            locked_by,
            process_id,
            at_least,
            mode,
        })
    };
    let which = || {
        prop_oneof![
            name().prop_map(Which::Name),
            any::<Index>().prop_map(Which::Issued)
        ]
    };
    let how = any::<[bool; 3]>().prop_map(|[fail, renew, create]| How {
        fail,
        renew,
        create,
    });
    let counts = [Counts::FromNow, Counts::Shortening, Counts::FromTheDeadline];
    let counts = prop::sample::select(counts.to_vec());
    let renewal = (which(), timeouts(), counts, any::<bool>());
    prop_oneof![
        6 => (prop::collection::vec(name(), 0..5), lease(), how)
            .prop_map(|(names, lease, how)| Op::Set { names, lease, how }),
        9 => (name(), lease()).prop_map(|(name, lease)| Op::Get { name, lease }),
        6 => renewal.prop_map(|(which, timeout, counts, create)| {
            Op::Renew { which, timeout, counts, create }
        }),
        3 => which().prop_map(Op::Unlock),
        1 => prop::collection::vec(which(), 0..4).prop_map(Op::UnlockAll),
        1 => Just(Op::Clean),
        1 => Just(Op::Reset),
        5 => pauses().prop_map(Op::Advance),
        3 => (-20_000_000..20_000_000i64).prop_map(|micros| Op::StepWall { micros }),
        2 => pauses().prop_map(|off| Op::Reboot { off }),
        2 => any::<bool>().prop_map(|exclusive| Op::Reopen { exclusive }),
    ]
}

struct Model {
    /// The rows of each name, in the order of their tokens.
    rows: BTreeMap<String, Vec<Row>>,
    /// Tokens count up by one.
    last_token: u64,
    now: Moment,
}

impl Model {
    fn live(&self, name: &str) -> Vec<Row> {
        let rows = self.rows.get(name).into_iter().flatten();
        rows.filter_map(|row| row.live(self.now)).collect()
    }

    /// Returns the living rows of that name, or of that token if one is given.
    fn meant(&self, (name, token): Meant) -> Vec<Row> {
        let mut rows = self.live(name);
        rows.retain(|row| row.bears(token));
        rows
    }

    /// Returns the row that keeps a newcomer of that mode out.
    fn obstacle(&self, name: &str, mode: Mode) -> Option<Answer> {
        let rows = self.live(name);
        let first = rows.first()?;
        let locked = || Some(Answer::Locked(self.see(name, first)));
        let take_of = |mode| match mode {
            Mode::Slots { take, of } => Some((take, of)),
            _ => None,
        };
        match (take_of(mode), take_of(first.mode)) {
            (Some((take, of)), Some((_, held))) if of == held => {
                let taken = rows.iter().filter_map(|row| take_of(row.mode));
                let taken: u32 = taken.map(|(take, _)| take).sum();
                (taken + take > of).then(locked)?
            }
            (Some((_, of)), Some((_, held))) => Some(Answer::Mismatch(of, held)),
            _ if mode == Mode::Shared && first.mode == Mode::Shared => None,
            _ => locked(),
        }
    }

    /// Writes a row in place of the row with the same token.
    fn put(&mut self, name: &str, row: Row) {
        let rows = self.rows.entry(name.to_owned()).or_default();
        rows.retain(|other| other.token != row.token);
        rows.push(row);
        rows.sort_by_key(|row| row.token);
    }

    fn see(&self, name: &str, row: &Row) -> Seen {
        let left = |until: Moment| until.left(self.now).max(0).unsigned_abs();
        Seen {
            name: name.into(),
            locked_by: row.locked_by.as_str().into(),
            mode: row.mode,
            process_id: row.process_id,
            locked_until: row.until.map(|until| until.wall),
            created_at: row.created_at,
            updated_at: row.updated_at,
            token: row.token,
            left: row.until.map(|until| Duration::from_micros(left(until))),
            at_least: row.at_least.map(|(until, is_ended)| (until.wall, is_ended)),
        }
    }

    fn find(&self, name: &str) -> Option<Seen> {
        self.holders(name).into_iter().next()
    }

    fn holders(&self, name: &str) -> Vec<Seen> {
        self.live(name)
            .iter()
            .map(|row| self.see(name, row))
            .collect()
    }

    fn deadline(from: Moment, timeout: Timeout) -> Result<Option<Moment>, Answer> {
        let Timeout::After(timeout) = timeout else {
            return Ok(None);
        };
        if timeout.is_zero() {
            return Ok(None);
        }
        // A part of a microsecond counts as a whole one.
        let micros = timeout.as_nanos().div_ceil(1_000);
        let longest = latest().timestamp_micros() - from.wall;
        match i64::try_from(micros) {
            Ok(micros) if micros <= longest => Ok(Some(from.plus(micros))),
            _ => Err(Answer::InvalidTimeout),
        }
    }

    fn create(&mut self, name: &str, lease: &Lease) -> Result<Seen, Answer> {
        self.last_token += 1;
        let at_least = match lease.at_least {
            Some(time) => Self::deadline(self.now, time)?,
            None => None,
        };
        let row = Row {
            mode: lease.mode,
            locked_by: lease.locked_by.unwrap_or(HOLDER).to_owned(),
            process_id: lease.process_id,
            until: Self::deadline(self.now, lease.timeout)?,
            at_least: at_least.map(|until| (until, false)),
            created_at: self.now.wall,
            updated_at: self.now.wall,
            token: self.last_token,
        };
        let seen = self.see(name, &row);
        if self.live(name).is_empty() {
            // The rows that are left are dead.
            let is_beside = |other: &Row| match (other.mode, row.mode) {
                (Mode::Slots { of, .. }, Mode::Slots { of: new, .. }) => of == new,
                (other, new) => other == new && new != Mode::Exclusive,
            };
            self.rows
                .entry(name.to_owned())
                .or_default()
                .retain(is_beside);
        }
        self.put(name, row);
        Ok(seen)
    }

    /// Renews to the timeout from now, or by the timeout. Shortens only if the options say so.
    fn extend(
        &mut self,
        name: &str,
        mut row: Row,
        timeout: Timeout,
        counts: Counts,
    ) -> Result<Seen, Answer> {
        let now = self.now;
        row.until = match (row.until, Self::deadline(now, timeout)?) {
            (_, new) if matches!(counts, Counts::Shortening) => new,
            (None, _) | (_, None) => None,
            (Some(old), Some(new)) => {
                let old = Moment {
                    wall: old.wall,
                    ..now.plus(old.left(now))
                };
                if matches!(counts, Counts::FromTheDeadline) {
                    Self::deadline(old, timeout)?
                } else if old.left(now) < new.left(now) {
                    Some(new)
                } else {
                    Some(old)
                }
            }
        };
        row.updated_at = now.wall;
        let seen = self.see(name, &row);
        self.put(name, row);
        Ok(seen)
    }

    /// Runs a transaction. A transaction that fails changes nothing.
    fn transaction(&mut self, body: impl FnOnce(&mut Self) -> Result<Answer, Answer>) -> Answer {
        let (rows, last_token) = (self.rows.clone(), self.last_token);
        body(self).unwrap_or_else(|refusal| {
            (self.rows, self.last_token) = (rows, last_token);
            refusal
        })
    }

    fn set(&mut self, names: &[&'static str], lease: &Lease, how: How) -> Answer {
        let lease = &Lease {
            at_least: None,
            mode: Mode::Exclusive,
            ..lease.clone()
        };
        self.transaction(|model| {
            Self::deadline(model.now, lease.timeout)?;
            let mut locks = Vec::new();
            let mut counts = [0; 4];
            let mut statuses = Vec::new();
            let issued = model.last_token;
            for &name in names {
                let present = model.find(name);
                let was_locked = present.is_some();
                let (count, status, lock) = match present {
                    None if how.create => (0, Status::Create, Some(model.create(name, lease)?)),
                    None => (2, Status::Skip, None),
                    Some(mut lock) if how.fail => {
                        // The new lock of this call is undone, and another lock gets its token.
                        if lock.token > issued {
                            lock.token = 0;
                        }
                        return Err(Answer::LockFail(lock));
                    }
                    Some(lock) if how.renew && lock.mode == Mode::Exclusive => {
                        let row = model.live(name).remove(0);
                        let lock = model.extend(name, row, lease.timeout, Counts::FromNow)?;
                        (1, Status::Extend, Some(lock))
                    }
                    Some(lock) => (3, Status::Skip, Some(lock)),
                };
                counts[count] += 1;
                statuses.push((name.to_owned(), was_locked, status, lock.is_some()));
                locks.extend(lock);
            }
            Ok(Answer::Set {
                locks,
                counts,
                statuses,
            })
        })
    }

    fn get(&mut self, name: &str, lease: &Lease) -> Answer {
        self.transaction(|model| {
            Self::deadline(model.now, lease.timeout)?;
            if let Some(time) = lease.at_least {
                Self::deadline(model.now, time)?.ok_or(Answer::InvalidTimeout)?;
            }
            match model.obstacle(name, lease.mode) {
                Some(obstacle) => Err(obstacle),
                None => model.create(name, lease).map(Answer::Lock),
            }
        })
    }

    fn renew(&mut self, meant: Meant, timeout: Timeout, counts: Counts, create: bool) -> Answer {
        let (name, token) = meant;
        let lease = Lease {
            timeout,
            locked_by: None,
            process_id: None,
            at_least: None,
            mode: Mode::Exclusive,
        };
        self.transaction(|model| {
            Self::deadline(model.now, timeout)?;
            let mut rows = model.meant(meant);
            // Beside living holds, the remaining rows of ended holds are not renewed.
            let is_held = |row: &Row| !row.at_least.is_some_and(|(_, is_ended)| is_ended);
            if rows.iter().any(is_held) {
                rows.retain(is_held);
            }
            if rows.len() > 1 && !matches!(counts, Counts::FromNow) {
                return Err(Answer::Several);
            }
            let mut first = None;
            for row in rows {
                let seen = model.extend(name, row, timeout, counts)?;
                first.get_or_insert(Answer::Lock(seen));
            }
            match (first, model.find(name)) {
                (Some(first), _) => Ok(first),
                (None, Some(lock)) if create => Err(Answer::Locked(lock)),
                (None, None) if create => model.create(name, &lease).map(Answer::Lock),
                _ => Err(Answer::NotFound(name.to_owned(), token)),
            }
        })
    }

    fn unlock(&mut self, meant: Meant) -> bool {
        let (name, token) = meant;
        let removed = self.meant(meant);
        for row in &removed {
            let rows = self.rows.get_mut(name).unwrap();
            rows.retain(|other| other.token != row.token);
            if let Some(left) = row.ended(self.now).filter(|_| token.is_some()) {
                self.put(name, left);
            }
        }
        !removed.is_empty()
    }

    /// Removes expired rows. Returns the largest number of rows that may still be there, as
    /// housekeeping may have removed some.
    fn clean(&mut self) -> usize {
        let count = |model: &Self| model.rows.values().map(Vec::len).sum::<usize>();
        let before = count(self);
        let now = self.now;
        for rows in self.rows.values_mut() {
            rows.retain(|row| row.live(now).is_some());
        }
        before - count(self)
    }

    fn reset(&mut self) -> usize {
        let rows = std::mem::take(&mut self.rows);
        let rows = rows.values().flatten();
        rows.filter_map(|row| row.live(self.now)).count()
    }
}

/// The model and the real thing, side by side.
struct Pair {
    home: Home,
    clock: ManualClock,
    manager: Option<LockManager>,
    model: Model,
    /// Every name, with every token that was issued for it.
    issued: Vec<(&'static str, u64)>,
}

impl Pair {
    fn new() -> Self {
        let now = Moment {
            wall: noon().timestamp_micros(),
            boot: 0,
            since_boot: 0,
        };
        let mut pair = Self {
            home: Home::new(),
            clock: ManualClock::new(noon()),
            manager: None,
            model: Model {
                rows: BTreeMap::new(),
                last_token: 0,
                now,
            },
            issued: Vec::new(),
        };
        pair.reopen(false);
        pair
    }

    fn manager(&self) -> &LockManager {
        self.manager.as_ref().unwrap()
    }

    fn reopen(&mut self, exclusive: bool) {
        self.manager = None;
        let builder = LockManager::builder()
            .clock(self.clock.clone())
            .locked_by(HOLDER);
        let builder = if exclusive {
            builder.exclusive()
        } else {
            builder
        };
        self.manager = Some(builder.open(self.home.db()).unwrap());
    }

    fn meant(&self, which: &Which) -> Meant {
        match which {
            Which::Name(name) => (NAMES[*name], None),
            Which::Issued(_) if self.issued.is_empty() => (NAMES[0], None),
            Which::Issued(index) => {
                let &(name, token) = index.get(&self.issued);
                (name, Some(token))
            }
        }
    }

    fn see(&self, lock: &Lock) -> Seen {
        Seen {
            name: lock.name().as_str().into(),
            locked_by: lock.locked_by().as_str().into(),
            mode: lock.mode(),
            process_id: lock.process_id(),
            locked_until: lock.locked_until().map(|until| until.timestamp_micros()),
            created_at: lock.created_at().timestamp_micros(),
            updated_at: lock.updated_at().timestamp_micros(),
            token: lock.token(),
            left: self.manager().time_left(lock),
            at_least: lock
                .at_least()
                .map(|until| (until.timestamp_micros(), lock.is_at_least())),
        }
    }

    fn answer<T>(&self, result: Result<T, Error>, answer: impl FnOnce(T) -> Answer) -> Answer {
        match result {
            Ok(value) => answer(value),
            Err(Error::Locked(lock)) => Answer::Locked(self.see(&lock)),
            Err(Error::LockFail(lock)) => Answer::LockFail(self.see(&lock)),
            Err(Error::LockNotFound { name, token, .. }) => Answer::NotFound(name, token),
            Err(Error::InvalidTimeout(_)) => Answer::InvalidTimeout,
            Err(Error::SlotsMismatch { asked, held, .. }) => Answer::Mismatch(asked, held),
            Err(Error::Unsupported { .. }) => Answer::Several,
            Err(error) => panic!("{error:?}"),
        }
    }

    fn lock_answer(&self, result: Result<Lock, Error>) -> Answer {
        self.answer(result, |lock| Answer::Lock(self.see(&lock)))
    }

    fn set_answer(&self, result: Result<LockSetResult, Error>) -> Answer {
        self.answer(result, |result| {
            let counts = result.counts();
            let statuses = result.statuses().iter();
            Answer::Set {
                locks: result.locks().iter().map(|lock| self.see(lock)).collect(),
                counts: [
                    counts.created,
                    counts.renewed,
                    counts.skip_create,
                    counts.skip_renew,
                ],
                statuses: statuses
                    .map(|(name, of)| (name.to_string(), of.was_locked, of.status, of.locked))
                    .collect(),
            }
        })
    }

    /// Makes the same call on both, and compares the outcomes.
    fn apply(&mut self, op: Op) {
        let manager = self.manager().clone();
        let (answer, expected) = match op {
            Op::Set { names, lease, how } => {
                let names: Vec<_> = names.iter().map(|&name| NAMES[name]).collect();
                let result = manager.set_lock(&names, set_options(&lease, how));
                (self.set_answer(result), self.model.set(&names, &lease, how))
            }
            Op::Get { name, lease } => {
                let result = manager.get_lock(NAMES[name], get_options(&lease));
                (
                    self.lock_answer(result),
                    self.model.get(NAMES[name], &lease),
                )
            }
            Op::Renew {
                which,
                timeout,
                counts,
                create,
            } => {
                let meant = self.meant(&which);
                let options = renew_options(timeout, counts, create);
                let result = manager.renew_lock(lock_ref(meant), options);
                let expected = self.model.renew(meant, timeout, counts, create);
                (self.lock_answer(result), expected)
            }
            Op::Unlock(which) => {
                let meant = self.meant(&which);
                let removed = manager.unlock(lock_ref(meant)).unwrap();
                let expected = self.model.unlock(meant);
                (
                    Answer::Removed(vec![removed]),
                    Answer::Removed(vec![expected]),
                )
            }
            Op::UnlockAll(all) => {
                let all: Vec<_> = all.iter().map(|which| self.meant(which)).collect();
                let removed = manager.unlock_all(all.iter().copied().map(lock_ref));
                let expected = all.iter().map(|&meant| self.model.unlock(meant)).collect();
                (Answer::Removed(removed.unwrap()), Answer::Removed(expected))
            }
            Op::Reset => (
                Answer::Count(manager.reset_locks().unwrap()),
                Answer::Count(self.model.reset()),
            ),
            Op::Clean => return self.clean(),
            Op::Advance(by) => {
                self.clock.advance(by);
                self.model.now = self.model.now.plus(micros(by));
                return;
            }
            Op::StepWall { micros } => {
                self.clean();
                let now = &mut self.model.now;
                now.wall += micros;
                let wall = DateTime::from_timestamp_micros(now.wall);
                self.clock.set_wall(wall.unwrap());
                return;
            }
            Op::Reboot { off } => {
                self.clean();
                self.clock.reboot(off);
                let now = &mut self.model.now;
                *now = Moment {
                    wall: now.wall + micros(off),
                    boot: now.boot + 1,
                    since_boot: 0,
                };
                return;
            }
            Op::Reopen { exclusive } => {
                drop(manager);
                return self.reopen(exclusive);
            }
        };
        assert_eq!(answer, expected);
        let rows = self.model.rows.iter();
        for (name, row) in rows.flat_map(|(name, rows)| rows.iter().map(move |row| (name, row))) {
            let name = NAMES.iter().find(|known| *known == name).unwrap();
            if !self.issued.contains(&(name, row.token)) {
                self.issued.push((name, row.token));
            }
        }
    }

    /// Cleans both. If the deciding clock changes, an expired lock could live again. The
    /// specification does not say whether housekeeping has removed it by then.
    fn clean(&mut self) {
        let removed = self.manager().clean_locks().unwrap();
        assert!(removed <= self.model.clean());
        assert_eq!(self.manager().clean_locks().unwrap(), 0);
    }

    /// Compares all readable state.
    fn compare(&self) {
        // The call reads all rows.
        let live = self.manager().inspect().unwrap().live();
        assert_eq!(live, self.manager().locks("").unwrap().len());
        for name in NAMES {
            let found = self.manager().find(name).unwrap();
            let found = found.map(|lock| self.see(&lock));
            assert_eq!(found, self.model.find(name));
            let holders = self.manager().holders(name).unwrap();
            let holders: Vec<_> = holders.iter().map(|lock| self.see(lock)).collect();
            assert_eq!(holders, self.model.holders(name));
            assert_eq!(self.manager().is_locked(name).unwrap(), found.is_some());
        }
        for prefix in PREFIXES {
            let listed = self.manager().locks(prefix).unwrap();
            let listed: Vec<_> = listed.iter().map(|lock| self.see(lock)).collect();
            let names = NAMES.iter().filter(|name| name.starts_with(prefix));
            let expected: Vec<_> = names.flat_map(|name| self.model.holders(name)).collect();
            assert_eq!(listed, expected);
        }
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap()
}

fn lock_ref((name, token): Meant) -> LockRef<'static> {
    match token {
        Some(token) => LockRef::with_token(name, token),
        None => LockRef::new(name),
    }
}

fn get_options(lease: &Lease) -> GetOptions {
    let mut options = GetOptions::new().timeout(lease.timeout);
    if let Some(holder) = lease.locked_by {
        options = options.locked_by(holder);
    }
    if let Some(process_id) = lease.process_id {
        options = options.process_id(process_id);
    }
    if let Some(time) = lease.at_least {
        options = options.at_least(time);
    }
    match lease.mode {
        Mode::Shared => options.shared(),
        Mode::Slots { take, of } => options.slots(take, of),
        _ => options,
    }
}

fn set_options(lease: &Lease, how: How) -> SetOptions {
    let mut options = SetOptions::new().timeout(lease.timeout);
    if let Some(holder) = lease.locked_by {
        options = options.locked_by(holder);
    }
    if let Some(process_id) = lease.process_id {
        options = options.process_id(process_id);
    }
    if how.fail {
        options = options.fail();
    }
    if !how.renew {
        options = options.no_renew();
    }
    if !how.create {
        options = options.only_renew();
    }
    options
}

fn renew_options(timeout: Timeout, counts: Counts, create: bool) -> RenewOptions {
    let mut options = RenewOptions::new().timeout(timeout);
    options = match counts {
        Counts::FromNow => options,
        Counts::Shortening => options.shorten(),
        Counts::FromTheDeadline => options.add_time(),
    };
    if create {
        options = options.create();
    }
    options
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_of_verbs_does_what_the_model_does(
        ops in prop::collection::vec(ops(), 1..40),
    ) {
        let mut pair = Pair::new();
        for op in ops {
            pair.apply(op);
            pair.compare();
        }
    }
}
