//! Compares any sequence of verbs, options, clock moves and reopenings with a model in memory, on
//! storage that fails at any call.

#![no_main]

mod model;
mod storage;

use arbitrary::{Arbitrary, Result, Unstructured};
use chrono::{DateTime, Utc};
use libfuzzer_sys::fuzz_target;
use lockmgr::{
    Builder, Error, GetOptions, Lock, LockManager, LockRef, ManualClock, Mode, RenewOptions,
    SetOptions, Timeout,
};
use model::{Lease, Model, No, Status};
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use storage::{Fault, Storage};

/// The holder of a manager's locks if a call names none.
const HOLDER: &str = "fuzz";

/// The largest number of locks that are kept to renew and release.
const MOST_HELD: usize = 16;

#[derive(Debug)]
struct Input<'a> {
    start: Wall,
    operations: Vec<Operation<'a>>,
}

// Written by hand: a derived `Arbitrary` would end lists early, or choose refused values too often.
impl<'a> Arbitrary<'a> for Input<'a> {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let start = u.arbitrary()?;
        let mut operations = Vec::new();
        while !u.is_empty() {
            operations.push(u.arbitrary()?);
        }
        Ok(Self { start, operations })
    }
}

#[derive(Clone, Copy, Debug)]
enum Name<'a> {
    /// One of a few names, so that calls meet.
    Known(u8),
    Any(&'a str),
}

impl<'a> Arbitrary<'a> for Name<'a> {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.arbitrary()? {
            known @ 0..240 => Self::Known(known),
            _ => Self::Any(u.arbitrary()?),
        })
    }
}

/// A short list.
#[derive(Debug)]
struct Few<T>(Vec<T>);

impl<'a, T: Arbitrary<'a>> Arbitrary<'a> for Few<T> {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let count = u.int_in_range(0..=5)?;
        (0..count)
            .map(|_| u.arbitrary())
            .collect::<Result<_>>()
            .map(Self)
    }
}

impl<'a> Name<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Known(known) => {
                ["a", "b", "c", "job:1", "job:10", "job:2", "é", "名前"][usize::from(known) % 8]
            }
            Self::Any(text) => text,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Span {
    Never,
    Micros(u16),
    Seconds(u16),
    Any(Duration),
}

impl<'a> Arbitrary<'a> for Span {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.arbitrary()? {
            0..20_u8 => Self::Never,
            20..40 => Self::Any(u.arbitrary()?),
            40..80 => Self::Micros(u.arbitrary()?),
            _ => Self::Seconds(u.arbitrary()?),
        })
    }
}

impl Span {
    fn timeout(self) -> Timeout {
        match self {
            Self::Never => Timeout::Never,
            _ => Timeout::After(self.duration()),
        }
    }

    fn duration(self) -> Duration {
        match self {
            Self::Never => Duration::ZERO,
            Self::Micros(micros) => Duration::from_micros(micros.into()),
            Self::Seconds(seconds) => Duration::from_secs(seconds.into()),
            Self::Any(any) => any,
        }
    }

    /// Time that may pass: whole microseconds, and no more than a clock can count.
    fn passing(self) -> Duration {
        let micros = self.duration().as_micros() as u64;
        Duration::from_micros(micros % (1 << 50))
    }
}

#[derive(Clone, Copy, Debug)]
enum Wall {
    /// Seconds since 1970.
    Seconds(u32),
    /// Microseconds since 1970.
    Any(i64),
}

impl<'a> Arbitrary<'a> for Wall {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.arbitrary()? {
            0..40_u8 => Self::Any(u.arbitrary()?),
            40..150 => Self::Seconds(u.arbitrary::<u16>()?.into()),
            _ => Self::Seconds(u.arbitrary()?),
        })
    }
}

impl Wall {
    fn instant(self) -> DateTime<Utc> {
        let micros = match self {
            Self::Seconds(seconds) => i64::from(seconds) * 1_000_000,
            Self::Any(micros) => micros,
        };
        DateTime::from_timestamp_micros(micros).unwrap_or_default()
    }
}

#[derive(Arbitrary, Debug)]
struct Options<'a> {
    timeout: Option<Span>,
    locked_by: Option<Name<'a>>,
    process_id: Option<u32>,
}

impl Options<'_> {
    fn lease(&self) -> Lease {
        Lease {
            timeout: micros(self.timeout),
            by: self.locked_by.map_or(HOLDER, Name::text).to_owned(),
            pid: self.process_id,
        }
    }
}

/// Returns a timeout for the model, or the default one.
fn micros(timeout: Option<Span>) -> model::Timeout {
    let Some(timeout) = timeout else {
        return Some(600_000_000);
    };
    let micros = timeout.duration().as_nanos().div_ceil(1_000) as i128;
    Some(micros).filter(|&micros| micros > 0)
}

/// The mode of a request.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Exclusive,
    Shared,
    Slots(u8, u8),
}

impl Kind {
    /// At most four of four slots, so that requests meet, and sometimes none.
    fn mode(self) -> Mode {
        match self {
            Self::Exclusive => Mode::Exclusive,
            Self::Shared => Mode::Shared,
            Self::Slots(take, of) => Mode::Slots {
                take: u32::from(take % 5),
                of: 3 + u32::from(of % 2),
            },
        }
    }

    fn is_possible(self) -> bool {
        match self.mode() {
            Mode::Slots { take, of } => take > 0 && take <= of,
            _ => true,
        }
    }
}

/// The lock to renew or release.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Of<'a> {
    Name(Name<'a>),
    Token(Name<'a>, u64),
    /// A lock that an earlier call returned.
    Held(u8),
}

impl<'a> Of<'a> {
    fn lock(self, held: &'a [Lock]) -> LockRef<'a> {
        match self {
            Self::Name(name) => name.text().into(),
            Self::Token(name, token) => LockRef::with_token(name.text(), token),
            Self::Held(nth) => match held.get(usize::from(nth) % MOST_HELD) {
                Some(lock) => lock.into(),
                None => "a".into(),
            },
        }
    }

    fn parts(self, held: &'a [Lock]) -> (&'a str, Option<u64>) {
        match self {
            Self::Name(name) => (name.text(), None),
            Self::Token(name, token) => (name.text(), Some(token)),
            Self::Held(nth) => match held.get(usize::from(nth) % MOST_HELD) {
                Some(lock) => (lock.name().as_str(), Some(lock.token())),
                None => ("a", None),
            },
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Operation<'a> {
    Set(Few<Name<'a>>, Options<'a>, [bool; 3]),
    Get(Name<'a>, Options<'a>, Kind),
    /// Gets all names, or so many of them, and detaches the guard.
    Acquire(Few<(Name<'a>, Kind)>, Option<u8>, Option<Span>),
    Renew(Of<'a>, Option<Span>, [bool; 2]),
    Unlock(Of<'a>),
    UnlockAll(Few<Of<'a>>),
    Find(Name<'a>),
    List(&'a str),
    Clean,
    Reset,
    Advance(Span),
    /// Lets time pass until a lock's deadline, or a microsecond more or less.
    AdvanceTo(Name<'a>, i8),
    SetWall(Wall),
    Reboot(Span),
    Reopen,
    ReadOnly,
    /// Shares the file from now on, or opens it exclusively again.
    Share,
    Fail(Fault),
    Mend,
}

struct Run {
    path: PathBuf,
    clock: ManualClock,
    storage: Storage,
    is_shared: bool,
    manager: LockManager,
    model: Model,
    held: Vec<Lock>,
}

fuzz_target!(|input: Input<'_>| {
    let directory = tempfile::tempdir_in(memory()).expect("a directory for the store");
    let clock = ManualClock::new(input.start.instant());
    let mut run = Run {
        path: directory.path().join("locks.redb"),
        model: Model::new(clock.wall().timestamp_micros()),
        clock,
        storage: Storage::default(),
        is_shared: false,
        manager: nothing(directory.path()),
        held: Vec::new(),
    };
    run.reopen();
    for operation in &input.operations {
        run.apply(operation);
    }
    run.storage.set(None);
    run.list("");
    run.reopen();
    run.list("");
});

/// Returns a directory in memory, if there is one.
fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    }
}

/// Returns a manager of a missing store, which replaces another manager so that it can be dropped.
fn nothing(beside: &Path) -> LockManager {
    let nowhere = LockManager::builder().read_only();
    let nothing = nowhere.open(beside.with_extension("nowhere"));
    nothing.expect("a store that does not exist")
}

/// Applies the given options.
macro_rules! given {
    ($asked:expr, $options:expr) => {{
        let mut asked = $asked;
        if let Some(timeout) = $options.timeout {
            asked = asked.timeout(timeout.timeout());
        }
        if let Some(by) = $options.locked_by {
            asked = asked.locked_by(by.text());
        }
        if let Some(pid) = $options.process_id {
            asked = asked.process_id(pid);
        }
        asked
    }};
}

impl Run {
    fn apply(&mut self, operation: &Operation<'_>) {
        match operation {
            Operation::Set(Few(names), options, flags) => {
                let names: Vec<&str> = names.iter().map(|name| name.text()).collect();
                self.set(&names, options, *flags);
            }
            Operation::Get(name, options, kind) => self.get(name.text(), options, *kind),
            Operation::Acquire(Few(claims), any, timeout) => {
                let claims: Vec<_> = claims
                    .iter()
                    .map(|(name, kind)| (name.text(), *kind))
                    .collect();
                self.acquire(&claims, *any, *timeout);
            }
            Operation::Renew(of, timeout, flags) => self.renew(*of, *timeout, *flags),
            Operation::Unlock(of) => {
                let (name, token) = of.parts(&self.held);
                let done = self.manager.unlock(of.lock(&self.held));
                let before = self.model.clone();
                match (self.model.unlock(name, token), done) {
                    (there, Ok(removed)) => assert_eq!(removed, there),
                    (_, Err(Error::InvalidName(_))) => assert!(!model::is_valid_name(name)),
                    (_, Err(error)) => self.failed(&error, before),
                }
            }
            Operation::UnlockAll(Few(all)) => {
                let parts: Vec<_> = all.iter().map(|of| of.parts(&self.held)).collect();
                let are_valid = parts.iter().all(|(name, _)| model::is_valid_name(name));
                let done = (self.manager).unlock_all(all.iter().map(|of| of.lock(&self.held)));
                let before = self.model.clone();
                let unlock = |&(name, token): &(&str, _)| self.model.unlock(name, token);
                match done {
                    Ok(removed) => {
                        assert_eq!(removed, parts.iter().map(unlock).collect::<Vec<_>>());
                    }
                    Err(Error::InvalidName(_)) => assert!(!are_valid),
                    Err(error) => {
                        parts.iter().map(unlock).for_each(drop);
                        self.failed(&error, before);
                    }
                }
            }
            Operation::Find(name) => self.find(name.text()),
            Operation::List(prefix) => self.list(prefix),
            Operation::Clean => {
                let done = self.manager.clean_locks();
                let before = self.model.clone();
                match (self.model.clean(), done) {
                    (most, Ok(removed)) => assert!(removed <= most),
                    (_, Err(error)) => self.failed(&error, before),
                }
            }
            Operation::Reset => {
                let done = self.manager.reset_locks();
                let before = self.model.clone();
                match (self.model.reset(), done) {
                    (there, Ok(removed)) => assert_eq!(removed, there),
                    (_, Err(error)) => self.failed(&error, before),
                }
            }
            Operation::Advance(span) => self.advance(span.passing()),
            Operation::AdvanceTo(name, more) => {
                let live = self.model.live(name.text());
                if let Some(left) = live.and_then(|row| self.model.left(row)) {
                    let to = u64::try_from(left + i128::from(more.signum())).unwrap_or_default();
                    self.advance(Duration::from_micros(to % (1 << 60)));
                }
            }
            Operation::SetWall(wall) => {
                self.clock.set_wall(wall.instant());
                self.model.moved(self.clock.wall().timestamp_micros());
                self.reconcile();
            }
            Operation::Reboot(off) => {
                self.clock.reboot(off.passing());
                self.model.reboot(self.clock.wall().timestamp_micros());
                self.reconcile();
            }
            Operation::Reopen => self.reopen(),
            Operation::ReadOnly => self.read_only(),
            Operation::Share => {
                self.is_shared = !self.is_shared;
                self.reopen();
            }
            Operation::Fail(fault) => self.storage.set(Some(*fault)),
            Operation::Mend => self.storage.set(None),
        }
        if let Some((kind, _)) = self.storage.take_failed() {
            // A change that was not written is not acknowledged, and blocks no other.
            assert!(!kind.loses(), "{kind:?}");
            let found = self.seen_by_others();
            assert!(self.model.is_same(&found), "{kind:?}: {found:?}");
        }
    }

    fn set(&mut self, names: &[&str], options: &Options<'_>, flags: [bool; 3]) {
        let lease = options.lease();
        let refusals = self.model.validate(names, &lease);
        let [fail, renew, create] = flags;
        let mut asked = given!(SetOptions::new(), options);
        if fail {
            asked = asked.fail();
        }
        if !renew {
            asked = asked.no_renew();
        }
        if !create {
            asked = asked.only_renew();
        }
        let before = self.model.clone();
        let done = self.manager.set_lock(names, asked);
        if is_refused(&done, &refusals) {
            return;
        }
        match (self.model.set(names, &lease, flags), done) {
            (Ok(statuses), Ok(result)) => {
                let done: Vec<Status> = result
                    .statuses()
                    .iter()
                    .map(|(_, status)| match (status.status, status.was_locked) {
                        (lockmgr::Status::Create, false) => Status::Create,
                        (lockmgr::Status::Extend, true) => Status::Extend,
                        (lockmgr::Status::Skip, true) => Status::SkipRenew,
                        (lockmgr::Status::Skip, false) => Status::SkipCreate,
                        other => panic!("{other:?}"),
                    })
                    .collect();
                assert_eq!(done, statuses);
                for ((named, status), name) in result.statuses().iter().zip(names) {
                    assert_eq!(named, name);
                    assert_eq!(status.locked, self.model.live(name).is_some());
                }
                let count = |status| statuses.iter().filter(|&done| *done == status).count();
                let counts = result.counts();
                assert_eq!(counts.created, count(Status::Create));
                assert_eq!(counts.renewed, count(Status::Extend));
                assert_eq!(counts.skip_create, count(Status::SkipCreate));
                assert_eq!(counts.skip_renew, count(Status::SkipRenew));
                let locked = names.iter().zip(&statuses);
                let locked = locked.filter(|(_, status)| **status != Status::SkipCreate);
                let locked: Vec<&str> = locked.map(|(name, _)| *name).collect();
                assert_eq!(result.locks().len(), locked.len());
                for (lock, name) in result.locks().iter().zip(locked) {
                    self.returned(name, lock);
                }
            }
            (Err((No::LockFail, name)), Err(Error::LockFail(lock))) => {
                if before.live(&name).is_some() {
                    self.returned(&name, &lock);
                } else {
                    // An earlier mention of the name had created it.
                    assert_eq!(*lock.name(), name.as_str());
                }
                self.find(&name);
            }
            (_, Err(error)) => self.failed(&error, before),
            other => panic!("{other:?}"),
        }
    }

    fn get(&mut self, name: &str, options: &Options<'_>, kind: Kind) {
        let lease = options.lease();
        let mut refusals = self.model.validate(&[name], &lease);
        if !kind.is_possible() {
            refusals.push(No::InvalidRequest);
        }
        let asked = given!(GetOptions::new(), options);
        let asked = match kind.mode() {
            Mode::Shared => asked.shared(),
            Mode::Slots { take, of } => asked.slots(take, of),
            _ => asked,
        };
        let done = self.manager.get_lock(name, asked);
        if is_refused(&done, &refusals) {
            return;
        }
        let before = self.model.clone();
        match (self.model.get(name, &lease, kind.mode()), done) {
            (Ok(()), Ok(lock)) => self.returned(name, &lock),
            (Err(No::Locked), Err(Error::Locked(lock))) => self.returned(name, &lock),
            (Err(No::SlotsMismatch), Err(Error::SlotsMismatch { .. })) => {}
            (_, Err(error)) => self.failed(&error, before),
            other => panic!("{other:?}"),
        }
    }

    /// Gets the locks by a guard that is detached at once, while the storage works.
    fn acquire(&mut self, claims: &[(&str, Kind)], any: Option<u8>, timeout: Option<Span>) {
        let lease = Lease {
            timeout: micros(timeout),
            by: HOLDER.to_owned(),
            pid: None,
        };
        let names: Vec<&str> = claims.iter().map(|(name, _)| *name).collect();
        let any = any.map(|any| u32::from(any % 4));
        let mut refusals = self.model.validate(&names, &lease);
        let kind = |kind: Kind| match any {
            Some(_) => Mode::Exclusive,
            None => kind.mode(),
        };
        let mut wanted: Vec<(&str, Mode)> = Vec::new();
        let mut is_possible = any.is_none_or(|any| any > 0 && any as usize <= claims.len());
        for (name, asked) in claims {
            let asked = (*name, kind(*asked));
            is_possible &= any.is_some() || Kind::is_possible(claims[wanted.len()].1);
            is_possible &= wanted.iter().all(|other| other.0 != asked.0);
            wanted.push(asked);
        }
        if !is_possible {
            // A repeated claim may count once. Another check covers which of these is refused.
            return;
        }
        let manager = self.manager.clone();
        let request = match any {
            Some(any) => manager.acquire_any(any, &names),
            None => wanted.iter().fold(
                manager.acquire(&names[..0]),
                |it, (name, mode)| match *mode {
                    Mode::Shared => it.shared([name]),
                    Mode::Slots { take, of } => it.slots([name], take, of),
                    _ => it.exclusive([name]),
                },
            ),
        };
        let request = match timeout {
            Some(timeout) => request.lease(timeout.timeout()),
            None => request.lease(Duration::from_secs(600)),
        };
        let request = request.no_keep_alive();
        let done = self
            .storage
            .undisturbed(|| request.try_lock().and_then(lockmgr::LockGuard::detach));
        if is_refused(&done, &refusals) {
            return;
        }
        refusals.clear();
        match (self.model.acquire(&wanted, any, &lease), done) {
            (Ok(got), Ok(locks)) => {
                assert_eq!(got.len(), locks.len());
                for (name, lock) in got.iter().zip(&locks) {
                    self.returned(name, lock);
                }
            }
            (Err(No::Locked), Err(Error::Locked(lock))) => {
                let name = lock.name().to_string();
                self.returned(&name, &lock);
            }
            (Err(No::SlotsMismatch), Err(Error::SlotsMismatch { .. })) => {}
            // A part of the request conflicted, and the rest was not read.
            other => panic!("{other:?}"),
        }
    }

    fn renew(&mut self, of: Of<'_>, timeout: Option<Span>, flags: [bool; 2]) {
        let held = self.held.clone();
        let (name, token) = of.parts(&held);
        let lease = Lease {
            timeout: micros(timeout),
            by: HOLDER.to_owned(),
            pid: None,
        };
        let refusals = self.model.validate(&[name], &lease);
        let [add_time, create] = flags;
        let mut asked = RenewOptions::new();
        if let Some(timeout) = timeout {
            asked = asked.timeout(timeout.timeout());
        }
        if add_time {
            asked = asked.add_time();
        }
        if create {
            asked = asked.create();
        }
        let done = self.manager.renew_lock(of.lock(&held), asked);
        if is_refused(&done, &refusals) {
            return;
        }
        let before = self.model.clone();
        match (self.model.renew(name, token, &lease, flags), done) {
            (Ok(()), Ok(lock)) => self.returned(name, &lock),
            (Err(No::Locked), Err(Error::Locked(lock))) => self.returned(name, &lock),
            (
                Err(No::LockNotFound),
                Err(Error::LockNotFound {
                    name: of,
                    token: by,
                    ..
                }),
            ) => {
                assert_eq!((of.as_str(), by), (name, token));
            }
            (Err(No::InvalidTimeout), Err(Error::InvalidTimeout(_))) => self.find(name),
            (Err(No::Several), Err(Error::Unsupported { .. })) => self.find(name),
            (_, Err(error)) => self.failed(&error, before),
            other => panic!("{other:?}"),
        }
    }

    fn find(&mut self, name: &str) {
        match self.manager.find(name) {
            Ok(Some(lock)) => self.returned(name, &lock),
            Ok(None) => assert_eq!(self.model.live(name), None),
            Err(Error::InvalidName(_)) => assert!(!model::is_valid_name(name)),
            Err(error) => self.failed(&error, self.model.clone()),
        }
        match self.manager.is_locked(name) {
            Ok(is_locked) => assert_eq!(is_locked, self.model.live(name).is_some()),
            Err(Error::InvalidName(_)) => assert!(!model::is_valid_name(name)),
            Err(error) => self.failed(&error, self.model.clone()),
        }
    }

    fn list(&mut self, prefix: &str) {
        let listed = match self.manager.locks(prefix) {
            Ok(listed) => listed,
            Err(error) => return self.failed(&error, self.model.clone()),
        };
        let names: Vec<&str> = listed.iter().map(|lock| lock.name().as_str()).collect();
        assert_eq!(names, self.model.list(prefix));
        for lock in &listed {
            self.returned(lock.name().as_str(), lock);
        }
    }

    fn returned(&mut self, name: &str, lock: &Lock) {
        let time_left = self.manager.time_left(lock);
        self.model.assert_same(name, lock, time_left);
        self.held.truncate(MOST_HELD - 1);
        self.held.insert(0, lock.clone());
    }

    fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        self.model.pass(by, self.clock.wall().timestamp_micros());
        self.reconcile();
    }

    /// An expired lock may look alive again after the wall clock went back on a later boot. Its row
    /// may be gone by then, or not.
    fn reconcile(&mut self) {
        let is_doubtful = |name: &&String| self.model.holders(name).any(|row| row.may_be_gone);
        let doubtful: Vec<String> = self
            .model
            .rows
            .keys()
            .filter(is_doubtful)
            .cloned()
            .collect();
        for name in doubtful {
            let found = self.storage.undisturbed(|| self.manager.holders(&name));
            let found = found.expect("holders");
            let mut rows = self.model.rows.remove(&name).unwrap_or_default();
            // An expired row may still be there, and come back later.
            rows.retain(|row| {
                let is_there = || found.iter().any(|lock| row.token == Some(lock.token()));
                !row.may_be_gone || self.model.is_expired(row) || is_there()
            });
            self.model.rows.insert(name.clone(), rows);
            for lock in &found {
                self.returned(&name, lock);
            }
        }
    }

    fn reopen(&mut self) {
        let builder = LockManager::builder().locked_by(HOLDER);
        self.replace(match self.is_shared {
            true => builder,
            false => builder.exclusive(),
        });
    }

    fn read_only(&mut self) {
        self.replace(LockManager::builder().read_only());
        self.list("");
        self.reopen();
    }

    /// Closes the store and opens it again, so that all state comes from the file.
    fn replace(&mut self, builder: Builder) {
        self.manager = nothing(&self.path);
        // A failure while closing is not reported.
        self.storage.take_failed();
        let builder = builder.clock(self.clock.clone());
        let builder = builder.storage_hook(self.storage.hook());
        self.manager = match builder.clone().open(&self.path) {
            Ok(manager) => manager,
            Err(error) => {
                self.failed(&error, self.model.clone());
                let opened = self.storage.undisturbed(|| builder.open(&self.path));
                opened.expect("the store")
            }
        };
    }

    /// After a storage failure, the change took effect whole or not at all: the model adopts the
    /// state that is found.
    fn failed(&mut self, error: &Error, before: Model) {
        let told = match error {
            Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        };
        let failed = self.storage.take_failed();
        let errno = failed.map(|(_, errno)| errno.raw_os_error());
        assert!(told.is_some() && told == errno, "{failed:?}: {error:?}");
        let mut found = self.seen_by_others();
        if before.is_same(&found) {
            self.model = before;
        } else if !self.model.is_same(&found) {
            panic!("neither {before:?} nor {:?}: {found:?}", self.model);
        }
        // In the order in which their tokens were issued.
        found.sort_by_key(|(lock, _)| lock.token());
        for (lock, left) in &found {
            self.model.assert_same(lock.name().as_str(), lock, *left);
        }
    }

    /// Returns the locks that another process finds. For an exclusive store, reads a copy of the
    /// file, as after a crash.
    fn seen_by_others(&self) -> Vec<(Lock, Option<Duration>)> {
        let mut path = self.path.clone();
        if !self.is_shared {
            path.set_extension("copy");
            // Does not use `fs::copy`, which the fuzzer's own alarm interrupts.
            let bytes = fs::read(&self.path).expect("the store's bytes");
            fs::write(&path, bytes).expect("a copy");
        }
        let other = LockManager::builder().read_only().clock(self.clock.clone());
        let other = other.open(path).expect("the store, by another");
        assert!(other.requests("").expect("requests").is_empty());
        let locks = other.locks("").expect("locks");
        let seen = |lock: Lock| (lock.clone(), other.time_left(&lock));
        locks.into_iter().map(seen).collect()
    }
}

/// Tells whether the options had to be refused, and one of them was.
fn is_refused<T: Debug>(done: &lockmgr::Result<T>, refusals: &[No]) -> bool {
    let no = match done {
        Err(Error::InvalidName(_)) => Some(No::InvalidName),
        Err(Error::InvalidTimeout(_)) => Some(No::InvalidTimeout),
        Err(Error::InvalidRequest(_)) => Some(No::InvalidRequest),
        _ => None,
    };
    let is_right = refusals.is_empty() || no.is_some_and(|no| refusals.contains(&no));
    assert!(is_right, "{refusals:?}: {done:?}");
    !refusals.is_empty()
}
