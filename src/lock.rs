//! Defines a lock, and the rules that say when a lock is there.
//!
//! These rules never read a clock or a file. The caller brings the moment, and the judge of the
//! thing that a lock is bound to.

use crate::beacon::Judge;
use crate::claim::Mode;
use crate::clock::Moment;
use crate::name::{Holder, LockName, Note, Printable};
use crate::process::{Binding, Bound, Standing};
use crate::timeout::{Deadline, InvalidTimeout, Timeout, instant};
use chrono::{DateTime, Utc};
use std::fmt;
use std::time::Duration;

/// Says how long a lock is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// The deadline. Without one the lock never expires.
    pub(crate) deadline: Option<Deadline>,
    pub(crate) bound_to: Option<Binding>,
    /// The instant until which the name stays taken, however the hold ends.
    pub(crate) at_least: Option<AtLeast>,
}

/// Keeps a name taken until this deadline, also after its holder is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AtLeast {
    pub(crate) until: Deadline,
    /// Whether the hold has ended, and this deadline alone keeps the name.
    pub(crate) is_left: bool,
}

impl AtLeast {
    fn is_over(self, now: Moment) -> bool {
        self.until.is_over(now)
    }
}

impl Term {
    /// Tells whether the lock is there: it has not expired and the thing that it is bound to is not
    /// gone, or its name stays taken for longer than it was held.
    pub(crate) fn is_live(self, now: Moment, judge: &Judge) -> bool {
        self.is_kept(now)
            || !self.is_expired(now) && !self.bound_to.is_some_and(|it| judge.is_gone(&it))
    }

    fn is_kept(self, now: Moment) -> bool {
        self.at_least.is_some_and(|it| !it.is_over(now))
    }

    /// Tells whether the row may be removed. The expired row of a living guard stays until another
    /// holder is granted the name, so that the guard knows whether another holder had its lock
    /// meanwhile.
    pub(crate) fn is_removable(
        self,
        now: Moment,
        standing: impl FnOnce(&Binding) -> Standing,
    ) -> bool {
        if self.is_kept(now) {
            return false;
        }
        let is_expired = self.is_expired(now);
        match &self.bound_to {
            Some(binding) => match standing(binding) {
                Standing::Gone => true,
                Standing::Alive => is_expired && binding.kind == Bound::Process,
                Standing::Unknown => is_expired,
            },
            None => is_expired,
        }
    }

    fn is_expired(self, now: Moment) -> bool {
        self.deadline.is_some_and(|deadline| deadline.is_over(now))
    }
}

/// Names the thing that a [`Lock`] is bound to: as soon as that thing is provably gone, the lock is
/// absent, whatever its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundTo {
    kind: Bound,
    pid: u32,
    is_here: bool,
    is_alive: Option<bool>,
}

impl BoundTo {
    /// Returns the kind of thing that the lock is bound to.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let _guard = manager.acquire(["hello"]).lock()?;
    /// let bound_to = manager.find("hello")?.unwrap().bound_to().unwrap();
    /// assert_eq!(bound_to.kind(), lockmgr::Bound::Manager);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn kind(&self) -> Bound {
        self.kind
    }

    /// Returns the process: the one that the options named, or the one that asked for the lock.
    /// Unless it [is here](Self::is_here), this number means another process, or none.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let _guard = manager.acquire(["hello"]).lock()?;
    /// let bound_to = manager.find("hello")?.unwrap().bound_to().unwrap();
    /// assert_eq!(bound_to.process_id(), std::process::id());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn process_id(&self) -> u32 {
        self.pid
    }

    /// Tells whether the process number is one of this process's pid namespace.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let _guard = manager.acquire(["hello"]).lock()?;
    /// let bound_to = manager.find("hello")?.unwrap().bound_to().unwrap();
    /// assert!(bound_to.is_here());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn is_here(&self) -> bool {
        self.is_here
    }

    /// Tells whether the process or job lived when the lock was read. Returns none if this process
    /// cannot judge it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let _guard = manager.acquire(["hello"]).lock()?;
    /// let bound_to = manager.find("hello")?.unwrap().bound_to().unwrap();
    /// assert_eq!(bound_to.is_alive(), Some(true));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn is_alive(&self) -> Option<bool> {
        self.is_alive
    }
}

/// Describes a named lease: a holder, a deadline, a fencing token.
///
/// A lock is a value, the state that a call saw: it does not follow the store. A holder keeps the
/// lock, and passes it to [`renew_lock`](crate::LockManager::renew_lock) and
/// [`unlock`](crate::LockManager::unlock), which act only while the stored lock still bears this
/// token.
///
/// Two locks are equal if they agree in all that their holder owns. The number of waiters, and
/// whether the process that the lock is bound to lives, are not compared.
#[derive(Clone, Debug)]
pub struct Lock {
    pub(crate) name: LockName,
    pub(crate) locked_by: Holder,
    pub(crate) process_id: Option<u32>,
    pub(crate) deadline: Option<Deadline>,
    /// Microseconds since 1970.
    pub(crate) created_at: i64,
    /// Microseconds since 1970.
    pub(crate) updated_at: i64,
    pub(crate) token: u64,
    pub(crate) mode: Mode,
    /// The note of its holder: why the lock is held.
    pub(crate) note: Option<Note>,
    /// The instant until which the name stays taken, however the hold ends.
    pub(crate) at_least: Option<AtLeast>,
    /// The thing whose end ends the hold.
    pub(crate) bound_to: Option<Binding>,
    /// The id of the request by which a guard got the lock.
    pub(crate) request: Option<u64>,
    /// The address at which its holder is told that the lock was forced away.
    pub(crate) address: Option<u64>,
    /// The number of requests that wait for the lock, and the state of the thing that it is bound
    /// to: as the lock was read.
    pub(crate) waiting: usize,
    pub(crate) is_alive: Option<bool>,
    /// Whether the number of that process is one of this pid namespace.
    pub(crate) is_here: bool,
}

impl PartialEq for Lock {
    fn eq(&self, other: &Self) -> bool {
        let owned = |it: &Self| {
            let times = (it.deadline, it.created_at, it.updated_at);
            let ids = (it.token, it.process_id, it.request);
            (times, ids, it.mode, it.bound_to, it.at_least)
        };
        let texts = |it: &Self| (it.name.clone(), it.locked_by.clone(), it.note.clone());
        texts(self) == texts(other) && owned(self) == owned(other)
    }
}

impl Eq for Lock {}

impl Lock {
    /// Returns the name that is locked.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert_eq!(lock.name(), "hello");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// Returns the holder: a host, an application, a node.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new().locked_by("app-1"))?;
    /// assert_eq!(lock.locked_by(), "app-1");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn locked_by(&self) -> &Holder {
        &self.locked_by
    }

    /// Returns the process noted with the lock, for people to read. Its end does not free the lock.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new().process_id(4242))?;
    /// assert_eq!(lock.process_id(), Some(4242));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn process_id(&self) -> Option<u32> {
        self.process_id
    }

    /// Returns the deadline on the wall clock, to the microsecond, or none if the lock never
    /// expires.
    ///
    /// This deadline is for people and for other boots. On the boot that set it, the clock that
    /// counts since boot decides (see [`Clock`](crate::Clock)), and
    /// [`LockManager::time_left`](crate::LockManager::time_left) returns the time left by that
    /// clock.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert_eq!(lock.locked_until(), Some(lock.created_at() + chrono::TimeDelta::seconds(600)));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn locked_until(&self) -> Option<DateTime<Utc>> {
        self.deadline.map(|deadline| instant(deadline.wall))
    }

    /// Returns when the lock was created, by the wall clock.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert!(lock.created_at() <= chrono::Utc::now());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn created_at(&self) -> DateTime<Utc> {
        instant(self.created_at)
    }

    /// Returns when the lock was last created or renewed, by the wall clock.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert_eq!(lock.updated_at(), lock.created_at());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn updated_at(&self) -> DateTime<Utc> {
        instant(self.updated_at)
    }

    /// Returns the fencing token, which is larger than every token that the store issued before.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let first = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// manager.unlock(&first)?;
    /// let second = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert!(second.token() > first.token());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Tells whether this token holds the lock: the lock bears the token, and the hold has not
    /// ended.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert!(lock.is_held_by(lock.token()));
    /// assert!(!lock.is_held_by(lock.token() + 1));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn is_held_by(&self, token: u64) -> bool {
        self.token == token && !self.is_at_least()
    }

    /// Returns how the lock is held: exclusively, shared, or by some of the name's slots.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// use lockmgr::{GetOptions, Mode};
    /// let lock = manager.get_lock("hello", GetOptions::new().slots(1, 4))?;
    /// assert_eq!(lock.mode(), Mode::Slots { take: 1, of: 4 });
    /// assert_eq!(manager.get_lock("world", GetOptions::new())?.mode(), Mode::Exclusive);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns why the lock is held, in the holder's words.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let _guard = manager.acquire(["hello"]).note("deploying 1.2.3").lock()?;
    /// let lock = manager.find("hello")?.unwrap();
    /// assert_eq!(lock.note().unwrap(), "deploying 1.2.3");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn note(&self) -> Option<&Note> {
        self.note.as_ref()
    }

    /// Tells whether the hold has ended and the name stays taken until the deadline, because its
    /// holder asked for the name [at least](crate::Acquire::at_least) that long. Then the lock is
    /// bound to nothing, and its token is dead: no call renews or removes the lock by the token.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.acquire(["report"]).at_least(Duration::from_secs(300)).lock()?.release()?;
    /// let left = manager.find("report")?.unwrap();
    /// assert!(left.is_at_least());
    /// assert_eq!(left.locked_until(), Some(left.created_at() + chrono::TimeDelta::seconds(300)));
    /// assert!(!manager.unlock(&left)?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn is_at_least(&self) -> bool {
        self.at_least.is_some_and(|it| it.is_left)
    }

    /// Returns the instant until which the name stays taken, however the hold ends, by the wall
    /// clock, or none if the holder did not ask for such a time.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let _guard = manager.acquire(["report"]).at_least(Duration::from_secs(300)).lock()?;
    /// let lock = manager.find("report")?.unwrap();
    /// assert_eq!(lock.at_least(), Some(lock.created_at() + chrono::TimeDelta::seconds(300)));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn at_least(&self) -> Option<DateTime<Utc>> {
        self.at_least.map(|it| instant(it.until.wall))
    }

    /// Returns the thing that the lock is bound to: as soon as it is gone, the lock is absent,
    /// whatever its deadline.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let options = lockmgr::GetOptions::new().bound_to(std::process::id());
    /// let lock = manager.get_lock("hello", options)?;
    /// assert_eq!(lock.bound_to().unwrap().process_id(), std::process::id());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn bound_to(&self) -> Option<BoundTo> {
        self.bound_to.map(|binding| BoundTo {
            kind: binding.kind,
            pid: binding.process.pid,
            is_here: self.is_here,
            is_alive: self.is_alive,
        })
    }

    /// Returns how many requests waited for the lock when it was read.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert_eq!(manager.find("hello")?.unwrap().waiting(), 0);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns how long the row of the lock keeps the name.
    pub(crate) fn term(&self) -> Term {
        Term {
            deadline: self.deadline,
            bound_to: self.bound_to,
            at_least: self.at_least,
        }
    }

    /// Returns the lock as a caller sees it. If the lock expired, or the thing that it is bound to
    /// is gone, returns the rest of it.
    pub(crate) fn if_live(mut self, now: Moment, judge: &Judge) -> Option<Self> {
        let standing = self.bound_to.map(|binding| judge.standing(&binding));
        if self.is_expired(now) || standing == Some(Standing::Gone) {
            return self.left(now);
        }
        self.is_alive = (standing == Some(Standing::Alive)).then_some(true);
        self.is_here = self.bound_to.is_some_and(|binding| judge.sees(&binding));
        Some(self)
    }

    /// Returns the rest of the lock once its hold has ended: the row that keeps the name taken, or
    /// nothing.
    pub(crate) fn left(&self, now: Moment) -> Option<Self> {
        let at_least = self.at_least.filter(|it| !it.is_over(now))?;
        Some(Self {
            deadline: Some(at_least.until),
            at_least: Some(AtLeast {
                is_left: true,
                ..at_least
            }),
            bound_to: None,
            request: None,
            address: None,
            is_alive: None,
            ..self.clone()
        })
    }

    /// Tells whether both are one hold. Tokens begin again in a new file, and the ids of requests
    /// do not.
    pub(crate) fn is_same_hold(&self, other: &Self) -> bool {
        let is_ended = self.is_at_least() || other.is_at_least();
        self.token == other.token && self.request == other.request && !is_ended
    }

    /// Tells whether the lease has expired: from the deadline's instant on.
    pub(crate) fn is_expired(&self, now: Moment) -> bool {
        self.deadline.is_some_and(|deadline| deadline.is_over(now))
    }

    pub(crate) fn time_left(&self, now: Moment) -> Option<Duration> {
        Some(self.deadline?.time_left(now))
    }

    /// Returns the lock renewed to expire `timeout` from now, never earlier than it would have.
    pub(crate) fn renewed(&self, timeout: Timeout, now: Moment) -> Result<Self, InvalidTimeout> {
        let deadline = match (self.deadline, timeout.deadline(now)?) {
            (Some(old), Some(new)) if old.micros_left(now) < new.micros_left(now) => Some(new),
            (Some(old), Some(_)) => Some(old.on_this_boot(now)),
            _ => None,
        };
        Ok(self.with_deadline(deadline, now))
    }

    /// Returns the lock renewed to expire `timeout` from now, even if that is earlier.
    pub(crate) fn shortened(&self, timeout: Timeout, now: Moment) -> Result<Self, InvalidTimeout> {
        Ok(self.with_deadline(timeout.deadline(now)?, now))
    }

    /// Returns the lock renewed to expire `timeout` after its present deadline.
    pub(crate) fn extended(&self, timeout: Timeout, now: Moment) -> Result<Self, InvalidTimeout> {
        let deadline = match (self.deadline, timeout) {
            (Some(old), Timeout::After(timeout)) if !timeout.is_zero() => {
                Some(old.on_this_boot(now).plus(timeout)?)
            }
            _ => None,
        };
        Ok(self.with_deadline(deadline, now))
    }

    fn with_deadline(&self, deadline: Option<Deadline>, now: Moment) -> Self {
        Self {
            deadline,
            updated_at: now.wall,
            ..self.clone()
        }
    }
}

/// Holds the properties of a lock that is not created yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) timeout: Timeout,
    pub(crate) locked_by: Holder,
    pub(crate) process_id: Option<u32>,
    pub(crate) note: Option<Note>,
    /// How long the name stays taken from the grant on, however the hold ends.
    pub(crate) at_least: Option<Timeout>,
    pub(crate) bound_to: Option<Binding>,
}

impl Lease {
    pub(crate) fn create(
        &self,
        name: LockName,
        mode: Mode,
        token: u64,
        now: Moment,
    ) -> Result<Lock, InvalidTimeout> {
        Ok(Lock {
            name,
            locked_by: self.locked_by.clone(),
            process_id: self.process_id,
            deadline: self.timeout.deadline(now)?,
            created_at: now.wall,
            updated_at: now.wall,
            token,
            mode,
            note: self.note.clone(),
            at_least: self.at_least_from(now)?,
            bound_to: self.bound_to,
            request: None,
            address: None,
            waiting: 0,
            is_alive: self.bound_to.is_some().then_some(true),
            is_here: true,
        })
    }
}

impl Lease {
    /// Returns the instant until which the name stays taken if the lock is granted now.
    pub(crate) fn at_least_from(&self, now: Moment) -> Result<Option<AtLeast>, InvalidTimeout> {
        let until = match self.at_least {
            Some(at_least) => at_least.deadline(now)?,
            None => None,
        };
        let is_left = false;
        Ok(until.map(|until| AtLeast { until, is_left }))
    }
}

/// The format in which messages write an instant.
pub(crate) const SECONDS: &str = "%Y-%m-%dT%H:%M:%SZ";

/// Writes the holder, the start and the deadline, in text that cannot steer a terminal.
///
/// ```
/// use lockmgr::{GetOptions, LockManager, ManualClock};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("locks.redb");
/// let clock = ManualClock::new("2019-11-22T02:00:00Z".parse().unwrap());
/// let manager = LockManager::builder().clock(clock).locked_by("app-1").open(&path)?;
/// let lock = manager.get_lock("hello", GetOptions::new().process_id(4242))?;
/// assert_eq!(
///     lock.to_string(),
///     "\"hello\": app-1 (process 4242) holds it since 2019-11-22T02:00:00Z \
///      until 2019-11-22T02:10:00Z"
/// );
/// # Ok::<(), lockmgr::Error>(())
/// ```
impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Printable(self.name.as_str());
        let holder = Printable(self.locked_by.as_str());
        write!(f, "\"{name}\": {holder}")?;
        if let Some(pid) = self.bound_to.map(|it| it.process.pid).or(self.process_id) {
            write!(f, " (process {pid})")?;
        }
        let since = self.created_at().format(SECONDS);
        let how = match self.mode {
            Mode::Exclusive => "it".to_owned(),
            Mode::Shared => "it shared".to_owned(),
            slots @ Mode::Slots { .. } => slots.to_string(),
        };
        match self.is_at_least() {
            true => write!(f, " took {how} at {since}, and it stays taken")?,
            false => write!(f, " holds {how} since {since}")?,
        }
        match self.locked_until() {
            Some(until) => write!(f, " until {}", until.format(SECONDS))?,
            None => f.write_str(", without a deadline")?,
        }
        match &self.note {
            Some(note) => write!(f, ", for \"{}\"", Printable(note.as_str())),
            None => Ok(()),
        }
    }
}

/// Names a lock for [`renew_lock`](crate::LockManager::renew_lock) and
/// [`unlock`](crate::LockManager::unlock). By name alone it is for an administrator's call, which
/// acts on any holder's lock. With a token it is for a holder's call, which acts only while the
/// stored lock still bears that token.
///
/// A `&str` or a `&LockName` is a name alone. A `&Lock` brings its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRef<'a> {
    pub(crate) name: &'a str,
    pub(crate) token: Option<u64>,
}

impl<'a> LockRef<'a> {
    /// Names a lock of any holder.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// use lockmgr::LockRef;
    /// assert!(!manager.unlock(LockRef::new("hello"))?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn new(name: &'a str) -> Self {
        Self { name, token: None }
    }

    /// Names a lock only while the lock bears this token.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// use lockmgr::{GetOptions, LockRef};
    /// let lock = manager.get_lock("hello", GetOptions::new())?;
    /// assert!(!manager.unlock(LockRef::with_token("hello", lock.token() + 1))?);
    /// assert!(manager.unlock(LockRef::with_token("hello", lock.token()))?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn with_token(name: &'a str, token: u64) -> Self {
        Self {
            name,
            token: Some(token),
        }
    }

    pub(crate) fn names(&self, lock: &Lock) -> bool {
        self.token.is_none_or(|token| lock.is_held_by(token))
    }
}

impl<'a> From<&'a str> for LockRef<'a> {
    fn from(name: &'a str) -> Self {
        Self::new(name)
    }
}

impl<'a> From<&'a String> for LockRef<'a> {
    fn from(name: &'a String) -> Self {
        Self::new(name)
    }
}

impl<'a> From<&'a LockName> for LockRef<'a> {
    fn from(name: &'a LockName) -> Self {
        Self::new(name.as_str())
    }
}

impl<'a> From<&'a Lock> for LockRef<'a> {
    fn from(lock: &'a Lock) -> Self {
        Self::with_token(lock.name.as_str(), lock.token)
    }
}

#[cfg(feature = "serde")]
mod serialise {
    use super::Lock;
    use crate::timeout::rfc3339;
    use serde::ser::{Serialize, SerializeStruct, Serializer};

    #[derive(serde::Serialize)]
    struct BoundTo {
        pid: u32,
        alive: Option<bool>,
    }

    impl Serialize for Lock {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut lock = serializer.serialize_struct("Lock", 12)?;
            lock.serialize_field("name", &self.name)?;
            lock.serialize_field("locked_by", &self.locked_by)?;
            lock.serialize_field("process_id", &self.process_id)?;
            lock.serialize_field("locked_until", &self.locked_until().map(rfc3339))?;
            lock.serialize_field("created_at", &rfc3339(self.created_at()))?;
            lock.serialize_field("updated_at", &rfc3339(self.updated_at()))?;
            lock.serialize_field("token", &self.token)?;
            lock.serialize_field("mode", &self.mode)?;
            let bound_to = self.bound_to().map(|it| BoundTo {
                pid: it.process_id(),
                alive: it.is_alive(),
            });
            lock.serialize_field("bound_to", &bound_to)?;
            lock.serialize_field("waiting", &self.waiting)?;
            lock.serialize_field("note", &self.note)?;
            lock.serialize_field("at_least", &self.is_at_least())?;
            lock.end()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{BootId, BootTime};
    use crate::timeout::MAX_WALL;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(boot: u8, since_boot: u64, wall: i64) -> Moment {
        Moment {
            wall,
            boot: Some(BootTime {
                boot: BootId([boot; 16]),
                micros: since_boot,
            }),
        }
    }

    fn lock(deadline: Option<Deadline>) -> Lock {
        Lock {
            name: LockName::new("a").unwrap(),
            locked_by: Holder::new("app").unwrap(),
            process_id: None,
            deadline,
            created_at: 0,
            updated_at: 0,
            token: 1,
            mode: Mode::Exclusive,
            note: None,
            at_least: None,
            bound_to: None,
            request: None,
            address: None,
            waiting: 0,
            is_alive: None,
            is_here: true,
        }
    }

    #[test]
    fn lock_expires_at_its_deadline_and_not_a_microsecond_earlier() {
        let created = at(1, 0, 5_000_000);
        let lock = lock(Timeout::After(SECOND).deadline(created).unwrap());
        assert!(!lock.is_expired(at(1, 999_999, 0)));
        assert!(lock.is_expired(at(1, 1_000_000, 0)));
    }

    #[test]
    fn another_boot_compares_the_wall_clock() {
        let lock = lock(
            Timeout::After(SECOND)
                .deadline(at(1, 70, 5_000_000))
                .unwrap(),
        );
        assert!(!lock.is_expired(at(2, 90_000_000, 5_999_999)));
        assert!(lock.is_expired(at(2, 0, 6_000_000)));
    }

    #[test]
    fn system_without_a_boot_clock_compares_the_wall_clock() {
        let now = |wall| Moment { wall, boot: None };
        let lock = lock(Timeout::After(SECOND).deadline(now(0)).unwrap());
        assert!(!lock.is_expired(now(999_999)));
        assert!(lock.is_expired(now(1_000_000)));
    }

    #[test]
    fn renewal_never_shortens_even_after_the_wall_clock_went_back() {
        let created = at(1, 0, 3_600_000_000);
        let held = lock(Timeout::After(60 * SECOND).deadline(created).unwrap());
        let stepped_back = at(1, 1_000_000, 0);
        let renewed = held
            .renewed(Timeout::After(10 * SECOND), stepped_back)
            .unwrap();
        assert_eq!(renewed.time_left(stepped_back), Some(59 * SECOND));
        assert_eq!(renewed.locked_until(), held.locked_until());

        let renewed = held
            .renewed(Timeout::After(100 * SECOND), stepped_back)
            .unwrap();
        assert_eq!(renewed.time_left(stepped_back), Some(100 * SECOND));
        assert_eq!(renewed.locked_until().unwrap().timestamp(), 100);
    }

    #[test]
    fn deadline_of_another_boot_moves_to_this_one_when_it_is_renewed() {
        let held = lock(Timeout::After(60 * SECOND).deadline(at(1, 0, 0)).unwrap());
        let rebooted = at(2, 7_000_000, 20_000_000);
        let renewed = held.renewed(Timeout::After(SECOND), rebooted).unwrap();
        assert_eq!(renewed.time_left(rebooted), Some(40 * SECOND));
        let wall_moved = at(2, 8_000_000, 0);
        assert_eq!(renewed.time_left(wall_moved), Some(39 * SECOND));

        let extended = held.extended(Timeout::After(SECOND), rebooted).unwrap();
        assert_eq!(extended.time_left(rebooted), Some(41 * SECOND));
    }

    #[test]
    fn never_stays_never_and_no_timeout_makes_it_never() {
        let now = at(1, 0, 0);
        let never = lock(None);
        let leased = lock(Timeout::After(SECOND).deadline(now).unwrap());
        for renew in [Lock::renewed, Lock::extended] {
            assert_eq!(renew(&never, Timeout::DEFAULT, now).unwrap().deadline, None);
            assert_eq!(renew(&leased, Timeout::Never, now).unwrap().deadline, None);
            let zero = Timeout::After(Duration::ZERO);
            assert_eq!(renew(&leased, zero, now).unwrap().deadline, None);
        }
        assert!(!never.is_expired(at(9, u64::MAX, i64::MAX)));
    }

    #[test]
    fn deadline_is_at_most_the_end_of_the_year_9999() {
        let now = at(1, 0, 0);
        let most = Duration::from_micros(MAX_WALL as u64);
        assert!(Timeout::After(most).deadline(now).is_ok());
        let more = most + Duration::from_nanos(1);
        for timeout in [more, Duration::MAX, Duration::from_secs(u64::MAX)] {
            assert!(Timeout::After(timeout).deadline(now).is_err());
        }
        let held = lock(Timeout::After(SECOND).deadline(now).unwrap());
        assert!(held.extended(Timeout::After(most), now).is_err());
    }

    #[test]
    fn shortest_timeout_is_a_microsecond_and_not_for_ever() {
        let now = at(1, 0, 0);
        for timeout in [
            Timeout::After(Duration::from_nanos(1)),
            Timeout::from_secs_f64(1e-12).unwrap(),
        ] {
            let held = lock(timeout.deadline(now).unwrap());
            assert_eq!(held.time_left(now), Some(Duration::from_micros(1)));
        }
    }
}
