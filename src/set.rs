//! Sets locks: the options of a call, the decision for one name, and the result.
//!
//! The decision is a pure function of the present lock, the request and the moment.

use crate::claim::{Claim, Claims, Mode};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::lock::{Lease, Lock, LockRef};
use crate::name::{Holder, LockName, Note};
use crate::process::{Binding, Bound, Process};
use crate::timeout::Timeout;
use std::slice;

/// Sets the properties of a new lock: its timeout, its holder, its process.
///
/// ```
/// use lockmgr::{GetOptions, LockManager};
/// use std::time::Duration;
/// # let dir = tempfile::tempdir().unwrap();
/// # let manager = LockManager::open(dir.path().join("locks.redb"))?;
/// let options = GetOptions::new()
///     .timeout(Duration::from_secs(60))
///     .locked_by("app-1")
///     .process_id(std::process::id());
/// assert_eq!(manager.get_lock("hello", options)?.locked_by(), "app-1");
/// # Ok::<(), lockmgr::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until they are passed to a call"]
pub struct GetOptions {
    timeout: Timeout,
    locked_by: Option<String>,
    process_id: Option<u32>,
    bound_to: Option<u32>,
    note: Option<String>,
    at_least: Option<Timeout>,
    mode: Mode,
}

impl GetOptions {
    /// Begins with the defaults: a lock for 600 s, held by the manager's holder, with no process.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert_eq!((lock.process_id(), lock.locked_until().is_some()), (None, true));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds the lock for this long. Zero and [`Timeout::Never`] mean for ever. Default: 600 s.
    ///
    /// ```
    /// use lockmgr::{GetOptions, Timeout};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", GetOptions::new().timeout(Timeout::Never))?;
    /// assert_eq!(lock.locked_until(), None);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn timeout(mut self, timeout: impl Into<Timeout>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// Names the holder, by the rule of a [`LockName`]. Default: the holder of the manager, which
    /// is the system's hostname if the builder named none.
    ///
    /// ```
    /// use lockmgr::GetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", GetOptions::new().locked_by("edge-7"))?;
    /// assert_eq!(lock.locked_by(), "edge-7");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn locked_by(mut self, holder: impl Into<String>) -> Self {
        self.locked_by = Some(holder.into());
        self
    }

    /// Notes a process, for people to read. Its end does not free the lock. Default: none.
    ///
    /// ```
    /// use lockmgr::GetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", GetOptions::new().process_id(4242))?;
    /// assert_eq!(lock.process_id(), Some(4242));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn process_id(mut self, process_id: u32) -> Self {
        self.process_id = Some(process_id);
        self
    }

    /// Binds the lock to a process: as soon as that process has ended, the lock is absent, whatever
    /// its deadline. A later process with the same number is told apart from it. If the process
    /// cannot be judged because it is in another pid namespace, it counts as alive, and the
    /// deadline decides. Default: none.
    ///
    /// # Errors
    /// The call that is given these options fails with [`Error::NoSuchProcess`] if there is no such
    /// process, and with [`Error::Unsupported`] if the lock has no deadline and no process outside
    /// this pid namespace, or on this system none at all, could prove that the process ended.
    ///
    /// ```
    /// use lockmgr::GetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    /// manager.get_lock("hello", GetOptions::new().bound_to(child.id()))?;
    /// assert!(manager.is_locked("hello")?);
    /// child.kill().unwrap();
    /// child.wait().unwrap();
    /// if cfg!(target_os = "linux") {
    ///     assert!(!manager.is_locked("hello")?);
    /// }
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn bound_to(mut self, process_id: u32) -> Self {
        self.bound_to = Some(process_id);
        self
    }

    /// Shares the lock with any number of holders that share it too. Default: an exclusive lock.
    ///
    /// ```
    /// # use lockmgr::{Error, GetOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let first = manager.get_lock("config", GetOptions::new().shared())?;
    /// let second = manager.get_lock("config", GetOptions::new().shared())?;
    /// assert_ne!(first.token(), second.token());
    /// let alone = manager.get_lock("config", GetOptions::new());
    /// assert!(matches!(alone, Err(Error::Locked(_))));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn shared(mut self) -> Self {
        self.mode = Mode::Shared;
        self
    }

    /// Takes this number of the name's slots. See [`Acquire::slots`](crate::Acquire::slots).
    /// Default: an exclusive lock.
    ///
    /// ```
    /// # use lockmgr::{Error, GetOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.get_lock("gigabytes", GetOptions::new().slots(3, 8))?;
    /// manager.get_lock("gigabytes", GetOptions::new().slots(5, 8))?;
    /// let full = manager.get_lock("gigabytes", GetOptions::new().slots(1, 8));
    /// assert!(matches!(full, Err(Error::Locked(_))));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn slots(mut self, take: u32, of: u32) -> Self {
        self.mode = Mode::Slots { take, of };
        self
    }

    /// Returns the claim that these options make on this name.
    pub(crate) fn claim(&self, name: LockName) -> Result<Claim> {
        let mut claims = Claims::default();
        claims.add([name.clone()], self.mode)?;
        let mode = self.mode;
        Ok(Claim { name, mode })
    }

    /// Says why the lock is held, for people to read: 1 to 255 bytes of UTF-8 without control
    /// characters. Default: no note.
    ///
    /// ```
    /// # use lockmgr::GetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", GetOptions::new().note("deploying 1.2.3"))?;
    /// assert_eq!(lock.note().unwrap(), "deploying 1.2.3");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Keeps the name taken until this time has passed since the grant, however the hold ends, as
    /// ShedLock's `lockAtLeastFor` does. Zero and [`Timeout::Never`] are
    /// [`Error::InvalidTimeout`]. Default: the name is free when the hold ends.
    ///
    /// ```
    /// # use lockmgr::GetOptions;
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let options = GetOptions::new().at_least(Duration::from_secs(300));
    /// let lock = manager.get_lock("report", options)?;
    /// assert!(manager.unlock(&lock)?);
    /// assert!(manager.is_locked("report")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn at_least(mut self, time: impl Into<Timeout>) -> Self {
        self.at_least = Some(time.into());
        self
    }

    /// Checks the options, before a transaction begins.
    pub(crate) fn into_lease(self, default: &Holder, here: &Process, now: Moment) -> Result<Lease> {
        self.timeout.deadline(now)?;
        if let Some(at_least) = self.at_least {
            at_least.check_at_least()?;
            at_least.deadline(now)?;
        }
        let timeout = self.timeout.normal();
        let bound_to = self.bound_to.map(|pid| bind(here, pid)).transpose()?;
        if bound_to.is_some() && timeout == Timeout::Never {
            check_endless(here)?;
        }
        Ok(Lease {
            timeout,
            locked_by: match self.locked_by {
                Some(holder) => Holder::new(&holder)?,
                None => default.clone(),
            },
            process_id: self.process_id,
            note: self.note.as_deref().map(Note::new).transpose()?,
            at_least: self.at_least,
            bound_to,
        })
    }
}

/// Binds to the process of that number.
pub(crate) fn bind(here: &Process, pid: u32) -> Result<Binding> {
    if cfg!(not(target_os = "linux")) {
        return Err(Error::Unsupported {
            what: "bind a lock to a process".into(),
            remedy: "give the lock a deadline; only Linux can prove that a process ended".into(),
        });
    }
    let process = here.see(pid).ok_or(Error::NoSuchProcess { pid })?;
    Ok(Binding {
        kind: Bound::Process,
        process,
        id: 0,
        file: None,
    })
}

/// Refuses a lock without a deadline that is bound to a process whose end others cannot prove.
pub(crate) fn check_endless(here: &Process) -> Result<()> {
    let can_be_proven = here.is_in_initial_namespace();
    can_be_proven.then_some(()).ok_or_else(endless)
}

fn endless() -> Error {
    Error::Unsupported {
        what: "bind a lock without a deadline to a process of this pid namespace".into(),
        remedy: "give it a timeout; nobody outside can prove that the process ended".into(),
    }
}

/// Says how [`set_lock`](crate::LockManager::set_lock) treats each name.
///
/// ```
/// use lockmgr::{LockManager, SetOptions, Status};
/// # let dir = tempfile::tempdir().unwrap();
/// # let manager = LockManager::open(dir.path().join("locks.redb"))?;
/// manager.set_lock(["a"], SetOptions::new())?;
/// let result = manager.set_lock(["a", "b"], SetOptions::new().no_renew())?;
/// assert_eq!(result.status("a").unwrap().status, Status::Skip);
/// assert_eq!(result.status("b").unwrap().status, Status::Create);
/// # Ok::<(), lockmgr::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until they are passed to a call"]
pub struct SetOptions {
    lease: GetOptions,
    fail: bool,
    renew: bool,
    create: bool,
}

impl SetOptions {
    /// Begins with the defaults: create absent locks and renew existing ones, for 600 s, held by
    /// the manager's holder, with no process.
    ///
    /// ```
    /// # use lockmgr::SetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// assert_eq!(manager.set_lock(["a", "b"], SetOptions::new())?.counts().created, 2);
    /// assert_eq!(manager.set_lock(["a", "b"], SetOptions::new())?.counts().renewed, 2);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn new() -> Self {
        Self {
            lease: GetOptions::new(),
            fail: false,
            renew: true,
            create: true,
        }
    }

    /// Aborts the whole call with [`Error::LockFail`] if one of the locks exists, or with
    /// [`Error::Reserved`] if an earlier request waits for one and comes first, whatever the other
    /// options say. Default: does not abort.
    ///
    /// ```
    /// # use lockmgr::{Error, GetOptions, SetOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.get_lock("c", GetOptions::new())?;
    /// let refused = manager.set_lock(["a", "b", "c"], SetOptions::new().fail());
    /// assert!(matches!(refused, Err(Error::LockFail(lock)) if lock.name() == "c"));
    /// assert!(!manager.is_locked("a")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn fail(mut self) -> Self {
        self.fail = true;
        self
    }

    /// Leaves existing locks as they are. Default: renews them.
    ///
    /// ```
    /// # use lockmgr::SetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.set_lock(["a"], SetOptions::new())?;
    /// let result = manager.set_lock(["a"], SetOptions::new().no_renew())?;
    /// assert_eq!(result.counts().skip_renew, 1);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn no_renew(mut self) -> Self {
        self.renew = false;
        self
    }

    /// Leaves absent locks absent. With [`no_renew`](Self::no_renew) the call changes nothing and
    /// reports the existing locks. Default: creates them.
    ///
    /// ```
    /// # use lockmgr::SetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let result = manager.set_lock(["a"], SetOptions::new().only_renew())?;
    /// assert_eq!(result.counts().skip_create, 1);
    /// assert!(!manager.is_locked("a")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn only_renew(mut self) -> Self {
        self.create = false;
        self
    }

    /// Sets the timeout of created and renewed locks. See [`GetOptions::timeout`]. Default: 600 s.
    ///
    /// ```
    /// # use lockmgr::{SetOptions, Timeout};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let result = manager.set_lock(["a"], SetOptions::new().timeout(Timeout::Never))?;
    /// assert_eq!(result.get("a").unwrap().locked_until(), None);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn timeout(mut self, timeout: impl Into<Timeout>) -> Self {
        self.lease = self.lease.timeout(timeout);
        self
    }

    /// Names the holder of created locks. See [`GetOptions::locked_by`]. Default: the holder of the
    /// manager.
    ///
    /// ```
    /// # use lockmgr::SetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let result = manager.set_lock(["a"], SetOptions::new().locked_by("app-1"))?;
    /// assert_eq!(result.get("a").unwrap().locked_by(), "app-1");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn locked_by(mut self, holder: impl Into<String>) -> Self {
        self.lease = self.lease.locked_by(holder);
        self
    }

    /// Notes a process with created locks, for people to read. Default: none.
    ///
    /// ```
    /// # use lockmgr::SetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let result = manager.set_lock(["a"], SetOptions::new().process_id(4242))?;
    /// assert_eq!(result.get("a").unwrap().process_id(), Some(4242));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn process_id(mut self, process_id: u32) -> Self {
        self.lease = self.lease.process_id(process_id);
        self
    }

    /// Binds created locks to a process. See [`GetOptions::bound_to`]. Default: none.
    ///
    /// ```
    /// # use lockmgr::SetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let options = SetOptions::new().bound_to(std::process::id());
    /// assert!(manager.set_lock(["a"], options)?.get("a").is_some());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn bound_to(mut self, process_id: u32) -> Self {
        self.lease = self.lease.bound_to(process_id);
        self
    }

    pub(crate) fn into_request(
        self,
        default: &Holder,
        here: &Process,
        now: Moment,
    ) -> Result<SetRequest> {
        Ok(SetRequest {
            lease: self.lease.into_lease(default, here, now)?,
            fail: self.fail,
            renew: self.renew,
            create: self.create,
        })
    }
}

impl Default for SetOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Holds set options that were found valid.
#[derive(Clone, Debug)]
pub(crate) struct SetRequest {
    pub(crate) lease: Lease,
    pub(crate) fail: bool,
    renew: bool,
    pub(crate) create: bool,
}

/// Says how one name changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Create,
    /// The lock as it is after its renewal.
    Extend(Lock),
    /// Nothing changes. Carries the lock if there is one.
    Skip(Option<Lock>),
}

/// Decides for one name, given its present lock if that has not expired.
pub(crate) fn decide(present: Option<Lock>, request: &SetRequest, now: Moment) -> Result<Decision> {
    Ok(match present {
        None if request.create => Decision::Create,
        None => Decision::Skip(None),
        Some(lock) if request.fail => return Err(Error::LockFail(Box::new(lock))),
        Some(lock) if lock.mode != Mode::Exclusive => Decision::Skip(Some(lock)),
        Some(lock) if request.renew => Decision::Extend(lock.renewed(request.lease.timeout, now)?),
        Some(lock) => Decision::Skip(Some(lock)),
    })
}

/// Says how [`renew_lock`](crate::LockManager::renew_lock) renews.
///
/// ```
/// use lockmgr::{GetOptions, RenewOptions};
/// use std::time::Duration;
/// # let dir = tempfile::tempdir().unwrap();
/// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
/// let lock = manager.get_lock("hello", GetOptions::new())?; // for 600 s
/// let options = RenewOptions::new().timeout(Duration::from_secs(60)).add_time();
/// let renewed = manager.renew_lock(&lock, options)?;
/// let added = renewed.locked_until().unwrap() - lock.locked_until().unwrap();
/// assert_eq!(added, chrono::TimeDelta::seconds(60));
/// # Ok::<(), lockmgr::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until they are passed to a call"]
pub struct RenewOptions {
    lease: GetOptions,
    counts: Counts,
    create: bool,
}

/// Says from which instant the timeout of a renewal counts.
#[derive(Clone, Copy, Debug, Default)]
enum Counts {
    /// From now, and never to an earlier deadline.
    #[default]
    FromNow,
    /// From now, also to an earlier deadline.
    Shortening,
    FromTheDeadline,
}

impl Renewal {
    /// Tells whether the renewal gives the head of the lock's queue another end to wait for.
    pub(crate) fn concerns_waiters(&self) -> bool {
        self.lease.bound_to.is_some() || matches!(self.counts, Counts::Shortening)
    }

    /// Tells whether the renewal does more than prolong the lease of any hold that it meets.
    pub(crate) fn means_one_hold(&self) -> bool {
        self.concerns_waiters() || matches!(self.counts, Counts::FromTheDeadline)
    }
}

impl RenewOptions {
    /// Begins with the defaults: to 600 s from now, and only if the lock exists.
    ///
    /// ```
    /// # use lockmgr::{Error, RenewOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let renewed = manager.renew_lock("hello", RenewOptions::new());
    /// assert!(matches!(renewed, Err(Error::LockNotFound { .. })));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time that the lease gets. Zero and [`Timeout::Never`] make it never expire.
    /// Default: 600 s.
    ///
    /// ```
    /// # use lockmgr::{GetOptions, RenewOptions, Timeout};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", GetOptions::new())?;
    /// let renewed = manager.renew_lock(&lock, RenewOptions::new().timeout(Timeout::Never))?;
    /// assert_eq!(renewed.locked_until(), None);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn timeout(mut self, timeout: impl Into<Timeout>) -> Self {
        self.lease = self.lease.timeout(timeout);
        self
    }

    /// Names the holder of a lock that is [created](Self::create). Default: the holder of the
    /// manager.
    ///
    /// ```
    /// # use lockmgr::RenewOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let options = RenewOptions::new().create().locked_by("app-1");
    /// assert_eq!(manager.renew_lock("hello", options)?.locked_by(), "app-1");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn locked_by(mut self, holder: impl Into<String>) -> Self {
        self.lease = self.lease.locked_by(holder);
        self
    }

    /// Notes a process with a lock that is [created](Self::create), for people to read.
    /// Default: none.
    ///
    /// ```
    /// # use lockmgr::RenewOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.renew_lock("hello", RenewOptions::new().create().process_id(4242))?;
    /// assert_eq!(lock.process_id(), Some(4242));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn process_id(mut self, process_id: u32) -> Self {
        self.lease = self.lease.process_id(process_id);
        self
    }

    /// Binds the lock to this process from now on, whatever it was bound to. See
    /// [`GetOptions::bound_to`]. Default: the lock keeps its binding.
    ///
    /// ```
    /// # use lockmgr::{GetOptions, RenewOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # if cfg!(target_os = "linux") {
    /// let lock = manager.get_lock("hello", GetOptions::new())?;
    /// let options = RenewOptions::new().bound_to(std::process::id());
    /// let bound = manager.renew_lock(&lock, options)?;
    /// assert_eq!(bound.bound_to().unwrap().process_id(), std::process::id());
    /// # }
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn bound_to(mut self, process_id: u32) -> Self {
        self.lease = self.lease.bound_to(process_id);
        self
    }

    /// Counts the timeout from the present deadline. Default: from now.
    ///
    /// ```
    /// # use lockmgr::{GetOptions, RenewOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", GetOptions::new())?;
    /// let renewed = manager.renew_lock(&lock, RenewOptions::new().add_time())?;
    /// assert_eq!((renewed.locked_until().unwrap() - lock.created_at()).num_seconds(), 1200);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn add_time(mut self) -> Self {
        self.counts = Counts::FromTheDeadline;
        self
    }

    /// Moves the deadline to `timeout` from now even if that is earlier, or if the lock had none.
    /// Of this and [`add_time`](Self::add_time) the later call counts. Default: a renewal never
    /// shortens.
    ///
    /// ```
    /// # use lockmgr::{GetOptions, RenewOptions};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", GetOptions::new())?;
    /// let options = RenewOptions::new().timeout(Duration::from_secs(60)).shorten();
    /// let shorter = manager.renew_lock(&lock, options)?;
    /// assert_eq!(shorter.locked_until(), Some(shorter.updated_at() + chrono::TimeDelta::seconds(60)));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn shorten(mut self) -> Self {
        self.counts = Counts::Shortening;
        self
    }

    /// Creates the lock if it is absent, as [`get_lock`](crate::LockManager::get_lock) would.
    /// Default: [`Error::LockNotFound`].
    ///
    /// ```
    /// # use lockmgr::RenewOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.renew_lock("hello", RenewOptions::new().create())?;
    /// assert_eq!(lock.token(), 1);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn create(mut self) -> Self {
        self.create = true;
        self
    }

    pub(crate) fn into_renewal(
        self,
        default: &Holder,
        here: &Process,
        now: Moment,
    ) -> Result<Renewal> {
        Ok(Renewal {
            lease: self.lease.into_lease(default, here, now)?,
            counts: self.counts,
            create: self.create,
            may_be_endless: here.is_in_initial_namespace(),
        })
    }
}

/// Holds renew options that were found valid.
#[derive(Clone, Debug)]
pub(crate) struct Renewal {
    pub(crate) lease: Lease,
    counts: Counts,
    create: bool,
    /// Whether other processes could prove the end of the process that the options name.
    may_be_endless: bool,
}

/// Decides how a renewal by name or token changes the present lock, if that has not expired. Never
/// returns `Skip`.
pub(crate) fn decide_renewal(
    present: Option<Lock>,
    of: LockRef<'_>,
    renewal: &Renewal,
    now: Moment,
) -> Result<Decision> {
    let timeout = renewal.lease.timeout;
    match present {
        Some(lock) if of.names(&lock) => {
            let mut renewed = match renewal.counts {
                Counts::FromNow => lock.renewed(timeout, now)?,
                Counts::Shortening => lock.shortened(timeout, now)?,
                Counts::FromTheDeadline => lock.extended(timeout, now)?,
            };
            if renewal.lease.bound_to.is_some() {
                if lock.is_at_least() {
                    return Err(Error::Locked(Box::new(lock)));
                }
                renewed.bound_to = renewal.lease.bound_to;
                if renewed.deadline.is_none() && !renewal.may_be_endless {
                    return Err(endless());
                }
            }
            Ok(Decision::Extend(renewed))
        }
        Some(lock) if renewal.create => Err(Error::Locked(Box::new(lock))),
        None if renewal.create => Ok(Decision::Create),
        _ => Err(Error::LockNotFound {
            name: of.name.to_owned(),
            token: of.token,
        }),
    }
}

/// Names the change that `set_lock` made to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Status {
    /// Created a new lock.
    Create,
    /// Renewed the lock that was there.
    Extend,
    /// Changed nothing.
    Skip,
}

/// Tells the outcome for one name of a [`set_lock`](crate::LockManager::set_lock).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LockSetStatus {
    /// Whether the lock existed when the turn of its name came.
    pub was_locked: bool,
    /// The change that the call made.
    pub status: Status,
    /// Whether the lock exists now.
    pub locked: bool,
}

/// Counts how often each outcome happened in a [`set_lock`](crate::LockManager::set_lock).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LockSetCounts {
    /// The number of locks created.
    pub created: usize,
    /// The number of existing locks renewed.
    pub renewed: usize,
    /// The number of absent locks left absent.
    pub skip_create: usize,
    /// The number of existing locks left as they were, with those of names that are shared or held
    /// by slots.
    pub skip_renew: usize,
}

/// Tells the outcome of a [`set_lock`](crate::LockManager::set_lock), name by name.
///
/// ```
/// use lockmgr::{LockManager, SetOptions};
/// # let dir = tempfile::tempdir().unwrap();
/// # let manager = LockManager::open(dir.path().join("locks.redb"))?;
/// let result = manager.set_lock(["hello", "world"], SetOptions::new())?;
/// assert_eq!(result.counts().created, 2);
/// for lock in &result {
///     assert!(result.status(lock.name().as_str()).unwrap().locked);
/// }
/// # Ok::<(), lockmgr::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LockSetResult {
    locks: Vec<Lock>,
    counts: LockSetCounts,
    statuses: Vec<(LockName, LockSetStatus)>,
}

impl LockSetResult {
    /// Returns the locks that exist after the call, one for each mention of a name, in the order of
    /// the names. A lock that the call left absent has no entry.
    ///
    /// ```
    /// # use lockmgr::SetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let result = manager.set_lock(["b", "a"], SetOptions::new())?;
    /// assert_eq!(result.locks()[0].name(), "b");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn locks(&self) -> &[Lock] {
        &self.locks
    }

    /// Returns how often each outcome happened.
    ///
    /// ```
    /// # use lockmgr::SetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let counts = manager.set_lock(["a", "a"], SetOptions::new())?.counts();
    /// assert_eq!((counts.created, counts.renewed), (1, 1));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn counts(&self) -> LockSetCounts {
        self.counts
    }

    /// Returns the outcome for each name, one entry for each mention, in their order.
    ///
    /// ```
    /// # use lockmgr::{SetOptions, Status};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let result = manager.set_lock(["a"], SetOptions::new())?;
    /// let (name, status) = &result.statuses()[0];
    /// assert_eq!((name.as_str(), status.status), ("a", Status::Create));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn statuses(&self) -> &[(LockName, LockSetStatus)] {
        &self.statuses
    }

    /// Returns the lock of that name if it exists after the call.
    ///
    /// ```
    /// # use lockmgr::SetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let result = manager.set_lock(["a"], SetOptions::new())?;
    /// assert_eq!(result.get("a").unwrap().token(), 1);
    /// assert_eq!(result.get("b"), None);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn get(&self, name: &str) -> Option<&Lock> {
        self.locks.iter().rfind(|lock| lock.name == name)
    }

    /// Returns the outcome at the first mention of that name.
    ///
    /// ```
    /// # use lockmgr::SetOptions;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let result = manager.set_lock(["a"], SetOptions::new())?;
    /// assert!(!result.status("a").unwrap().was_locked);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn status(&self, name: &str) -> Option<LockSetStatus> {
        let of_name = |(named, _): &&(LockName, _)| *named == name;
        self.statuses
            .iter()
            .find(of_name)
            .map(|&(_, status)| status)
    }

    pub(crate) fn with_capacity(names: usize) -> Self {
        Self {
            locks: Vec::with_capacity(names),
            counts: LockSetCounts::default(),
            statuses: Vec::with_capacity(names),
        }
    }

    /// Tells whether the last name got a new lock.
    pub(crate) fn ends_with_new(&self) -> bool {
        let last = self.statuses.last();
        last.is_some_and(|(_, it)| it.status == Status::Create)
    }

    pub(crate) fn created(&mut self, lock: Lock) {
        self.counts.created += 1;
        self.push_status(lock.name.clone(), false, Status::Create, true);
        self.locks.push(lock);
    }

    pub(crate) fn extended(&mut self, lock: Lock) {
        self.counts.renewed += 1;
        self.push_status(lock.name.clone(), true, Status::Extend, true);
        self.locks.push(lock);
    }

    pub(crate) fn skipped(&mut self, name: LockName, present: Option<Lock>) {
        let exists = present.is_some();
        if exists {
            self.counts.skip_renew += 1;
        } else {
            self.counts.skip_create += 1;
        }
        self.push_status(name, exists, Status::Skip, exists);
        self.locks.extend(present);
    }

    fn push_status(&mut self, name: LockName, was_locked: bool, status: Status, locked: bool) {
        let status = LockSetStatus {
            was_locked,
            status,
            locked,
        };
        self.statuses.push((name, status));
    }
}

impl<'a> IntoIterator for &'a LockSetResult {
    type Item = &'a Lock;
    type IntoIter = slice::Iter<'a, Lock>;

    fn into_iter(self) -> Self::IntoIter {
        self.locks.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Moment = Moment {
        wall: 1_000_000,
        boot: None,
    };

    fn request(options: SetOptions) -> SetRequest {
        let holder = Holder::new("host").unwrap();
        options
            .into_request(&holder, &Process::default(), NOW)
            .unwrap()
    }

    fn present() -> Lock {
        let name = LockName::new("a").unwrap();
        request(SetOptions::new())
            .lease
            .create(name, Mode::Exclusive, 7, NOW)
            .unwrap()
    }

    #[test]
    fn timeout_of_zero_is_none_in_each_way_of_writing_it() {
        let zero = Duration::ZERO;
        for timeout in [zero.into(), Timeout::After(zero), Timeout::Never] {
            let request = request(SetOptions::new().timeout(timeout));
            assert_eq!(request.lease.timeout, Timeout::Never);
        }
    }

    #[test]
    fn absent_lock_is_created_unless_only_renewals_are_wanted() {
        for options in [SetOptions::new(), SetOptions::new().fail().no_renew()] {
            let decision = decide(None, &request(options), NOW).unwrap();
            assert_eq!(decision, Decision::Create);
        }
        let only_renew = request(SetOptions::new().only_renew().fail());
        assert_eq!(
            decide(None, &only_renew, NOW).unwrap(),
            Decision::Skip(None)
        );
    }

    #[test]
    fn existing_lock_fails_before_it_is_renewed_or_skipped() {
        for options in [SetOptions::new(), SetOptions::new().no_renew()] {
            let decision = decide(Some(present()), &request(options.fail()), NOW);
            assert!(matches!(decision, Err(Error::LockFail(lock)) if *lock == present()));
        }
    }

    #[test]
    fn existing_lock_is_renewed_unless_renewals_are_unwanted() {
        let skip = decide(Some(present()), &request(SetOptions::new().no_renew()), NOW).unwrap();
        assert_eq!(skip, Decision::Skip(Some(present())));

        let options = SetOptions::new()
            .timeout(Duration::from_secs(1_000))
            .locked_by("other")
            .process_id(1);
        let extend = decide(Some(present()), &request(options), NOW).unwrap();
        let Decision::Extend(lock) = extend else {
            panic!("{extend:?}");
        };
        assert_eq!(lock.locked_until().unwrap().timestamp(), 1_001);
        let same = Lock {
            deadline: present().deadline,
            ..lock
        };
        assert_eq!(same, present());
    }

    #[test]
    fn invalid_options_are_refused_before_anything_is_decided() {
        let (holder, here) = (Holder::new("host").unwrap(), Process::default());
        let late = SetOptions::new().timeout(Duration::MAX);
        assert!(matches!(
            late.into_request(&holder, &here, NOW),
            Err(Error::InvalidTimeout(_))
        ));
        let unnamed = SetOptions::new().locked_by("");
        assert!(matches!(
            unnamed.into_request(&holder, &here, NOW),
            Err(Error::InvalidName(_))
        ));
    }
}
