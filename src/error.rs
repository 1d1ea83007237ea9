//! The one error type, and the words it uses for what went wrong.

use crate::claim::InvalidRequest;
use crate::lock::{Lock, SECONDS};
use crate::name::{InvalidName, LockName, Printable};
use crate::queue::Request;
use crate::timeout::InvalidTimeout;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call did not do what was asked.
///
/// Contention is an answer: [`Locked`](Self::Locked) and [`LockFail`](Self::LockFail) carry the lock
/// that is in the way, [`Reserved`](Self::Reserved) the request, [`Lost`](Self::Lost) who has it
/// now; [`LockNotFound`](Self::LockNotFound) says what is not there. The invalid ones name what was
/// asked, before the store was touched. The others are failures of the store and name its file.
///
/// After any error the store is as it was before the call, but for free names that were handed to
/// waiters, and for the rows that [`clean_locks`](crate::LockManager::clean_locks), which takes
/// several transactions, had removed by then. One case cannot promise that: if storage fails,
/// damage is met, or another process is stopped, in the middle of a commit ([`Io`](Self::Io),
/// [`Corrupted`](Self::Corrupted), [`StoreBusy`](Self::StoreBusy)), all of the call may be found
/// done when the store is next read, or none of it; never a part. What
/// [`Acquire::lock`](crate::Acquire::lock) may leave behind then, it takes back itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lock exists already. Carries it as it is.
    #[error("cannot lock {}", Held(.0))]
    Locked(Box<Lock>),

    /// `set_lock` with `fail` met an existing lock; nothing was changed. Carries that lock as the
    /// aborted call saw it: one that an earlier mention of a repeated name had created is gone, and
    /// bears no token (0).
    #[error("cannot set the locks: {}; nothing was changed", Held(.0))]
    LockFail(Box<Lock>),

    /// The lock to renew does not exist, or no longer bears the token it was asked for with.
    #[error("cannot renew \"{}\": {}", Printable(name), NotFound(*token))]
    #[non_exhaustive]
    LockNotFound {
        /// The lock that the caller wanted to renew.
        name: String,
        /// The token it had to bear, where one was asked for.
        token: Option<u64>,
    },

    /// Nobody holds the lock, but a request that came earlier waits for it together with others,
    /// and comes first. Carries that request.
    #[error("cannot lock \"{}\": {} asked for it first", Printable(name.as_str()), Asked(request))]
    #[non_exhaustive]
    Reserved {
        /// The name that the caller asked for.
        name: LockName,
        /// The request that comes first.
        request: Box<Request>,
    },

    /// The holders of the name say another number of slots. Ask with their number, or try again once
    /// the name is free. No request of this call is left in the queue.
    #[error(
        "cannot take slots of \"{}\": you say that it has {asked}, and its holders say {held}; \
         say {held} too, or try again once it is free",
        Printable(name.as_str())
    )]
    #[non_exhaustive]
    SlotsMismatch {
        /// The name that the caller asked for.
        name: LockName,
        /// How many slots the call said that the name has.
        asked: u32,
        /// How many its holders said.
        held: u32,
    },

    /// A guard no longer holds a lock: its lease ran out or was taken away.
    #[error("lost \"{}\" (token {}): {}", Printable(lock.name().as_str()), lock.token(), Now(by.as_deref()))]
    #[non_exhaustive]
    Lost {
        /// The lock as it was held.
        lock: Box<Lock>,
        /// The lock that has the name now.
        by: Option<Box<Lock>>,
    },

    /// The wait was cancelled.
    #[error("the wait was cancelled")]
    Cancelled,

    /// There is no such process to bind a lock to, or it cannot be seen from here.
    #[error("cannot bind to process {pid}: there is none, or it cannot be seen from here")]
    #[non_exhaustive]
    NoSuchProcess {
        /// The value that the caller gave.
        pid: u32,
    },

    /// A name or a holder is empty, too long or has control characters.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),

    /// A request contradicts itself.
    #[error(transparent)]
    InvalidRequest(#[from] InvalidRequest),

    /// A timeout is negative, not a number, or its deadline would be past the year 9999.
    #[error(transparent)]
    InvalidTimeout(#[from] InvalidTimeout),

    /// Other processes, or other threads of this one, kept the store for longer than the bound of
    /// this call.
    #[error(
        "cannot {action} {}: {reason} (waited {waited:.1?}); try again",
        Shown(path)
    )]
    #[non_exhaustive]
    StoreBusy {
        /// The store's file.
        path: PathBuf,
        /// The work that failed.
        action: &'static str,
        /// The reason why the call had to wait.
        reason: String,
        /// How long it waited.
        waited: Duration,
    },

    /// The file is damaged. Restore it, or move it away and begin a new store.
    #[error("cannot {action} {}: the store is damaged: {detail}", Shown(path))]
    #[non_exhaustive]
    Corrupted {
        /// The store's file.
        path: PathBuf,
        /// The work that failed.
        action: &'static str,
        /// The damage.
        detail: String,
    },

    /// The file is no lock store: another program's, or of a newer format.
    #[error("{} is not a lock store: {reason}", Shown(path))]
    #[non_exhaustive]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },

    /// The store was opened before this process was forked off: it belongs to the parent. Open
    /// another manager in the child.
    #[error(
        "cannot use {}: process {pid} opened it; open your own after the fork",
        Shown(path)
    )]
    #[non_exhaustive]
    Forked {
        /// The store's file.
        path: PathBuf,
        /// The process that opened it.
        pid: u32,
    },

    /// This system, or the place of this process in it, cannot do what was asked.
    #[error("cannot {what}: {remedy}")]
    #[non_exhaustive]
    Unsupported {
        /// The request.
        what: String,
        /// The remedy, and its reason.
        remedy: String,
    },

    /// The file could not be created, opened, read or written.
    #[error("cannot {action} {}", Shown(path))]
    #[non_exhaustive]
    Io {
        /// The store's file.
        path: PathBuf,
        /// The work that failed.
        action: &'static str,
        /// The error of the system.
        source: io::Error,
    },

    /// A hook of the caller, or lockmgr itself, panicked. The store is not damaged. To know the
    /// place, the first manager that a process opens wraps the panic hook that is set then.
    #[error("a panic at {place}: {message}")]
    #[non_exhaustive]
    Bug {
        /// The message of the panic.
        message: String,
        /// Where it happened: file, line and column.
        place: String,
    },
}

/// The kind of an [`Error`], under the name that the command's JSON gives it.
///
/// ```
/// use lockmgr::{ErrorKind, GetOptions, LockManager};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("locks.redb");
/// let manager = LockManager::open(&path)?;
/// manager.get_lock("hello", GetOptions::new())?;
/// let error = manager.get_lock("hello", GetOptions::new()).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Locked);
/// assert_eq!(error.kind().as_str(), "Locked");
/// assert!(error.is_contention() && error.is_retryable());
/// # Ok::<(), lockmgr::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Wrong usage: there is no such process to bind to, or the request contradicts itself.
    Usage,
    /// A name or a holder is invalid.
    InvalidName,
    /// A timeout is invalid.
    InvalidTimeout,
    /// The lock exists.
    Locked,
    /// An earlier request comes first.
    Reserved,
    /// `set_lock` with `fail` met an existing lock.
    LockFail,
    /// The lock to renew does not exist.
    LockNotFound,
    /// The holders of a name agree on another number of slots.
    SlotsMismatch,
    /// A guard no longer holds a lock.
    Lost,
    /// The wait was cancelled.
    Cancelled,
    /// The system cannot do what was asked for.
    Unsupported,
    /// The manager was opened before a fork.
    Forked,
    /// A hook of the caller, or lockmgr itself, panicked.
    Bug,
    /// Others kept the store busy.
    StoreBusy,
    /// The file is damaged.
    Corrupted,
    /// The file is no lock store.
    NotAStore,
    /// The file could not be created, opened, read or written.
    Io,
    /// The system refused permission to the file.
    Permission,
}

impl ErrorKind {
    /// The name of the kind, as in the command's JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "Usage",
            Self::InvalidName => "InvalidName",
            Self::InvalidTimeout => "InvalidTimeout",
            Self::Locked => "Locked",
            Self::Reserved => "Reserved",
            Self::LockFail => "LockFail",
            Self::LockNotFound => "LockNotFound",
            Self::SlotsMismatch => "SlotsMismatch",
            Self::Lost => "Lost",
            Self::Cancelled => "Cancelled",
            Self::Unsupported => "Unsupported",
            Self::Forked => "Forked",
            Self::Bug => "Bug",
            Self::StoreBusy => "StoreBusy",
            Self::Corrupted => "Corrupted",
            Self::NotAStore => "NotAStore",
            Self::Io => "Io",
            Self::Permission => "Permission",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Error {
    /// The kind of this error, for a program to decide by.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked(_) => ErrorKind::Locked,
            Self::LockFail(_) => ErrorKind::LockFail,
            Self::LockNotFound { .. } => ErrorKind::LockNotFound,
            Self::Reserved { .. } => ErrorKind::Reserved,
            Self::Lost { .. } => ErrorKind::Lost,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::NoSuchProcess { .. } | Self::InvalidRequest(_) => ErrorKind::Usage,
            Self::SlotsMismatch { .. } => ErrorKind::SlotsMismatch,
            Self::InvalidName(_) => ErrorKind::InvalidName,
            Self::InvalidTimeout(_) => ErrorKind::InvalidTimeout,
            Self::StoreBusy { .. } => ErrorKind::StoreBusy,
            Self::Corrupted { .. } => ErrorKind::Corrupted,
            Self::NotAStore { .. } => ErrorKind::NotAStore,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorKind::Permission
            }
            Self::Io { .. } => ErrorKind::Io,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Forked { .. } => ErrorKind::Forked,
            Self::Bug { .. } => ErrorKind::Bug,
        }
    }

    /// Whether somebody else holds the lock, or asked for it first.
    pub fn is_contention(&self) -> bool {
        matches!(
            self,
            Self::Locked(_) | Self::LockFail(_) | Self::Reserved { .. }
        )
    }

    /// Whether the same call may succeed later although nobody mends anything: contention, and a
    /// store that was busy.
    pub fn is_retryable(&self) -> bool {
        self.is_contention() || matches!(self, Self::StoreBusy { .. })
    }
}

/// The lock, and how many wait for it.
struct Held<'a>(&'a Lock);

impl fmt::Display for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.token() == 0 {
            let name = Printable(self.0.name().as_str());
            return write!(
                f,
                "\"{name}\" is named twice, and its first mention would create it"
            );
        }
        self.0.fmt(f)?;
        match self.0.waiting() {
            0 => Ok(()),
            waiting => write!(f, ", {waiting} waiting"),
        }
    }
}

/// The holder to be of a request, and since when it waits.
struct Asked<'a>(&'a Request);

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = self.0;
        let holder = Printable(request.locked_by().as_str());
        write!(f, "{holder}")?;
        if let Some(pid) = request.process_id() {
            write!(f, " (process {pid})")?;
        }
        write!(f, " at {}", request.asked_at().format(SECONDS))
    }
}

struct Now<'a>(Option<&'a Lock>);

impl fmt::Display for Now<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(lock) => write!(f, "now {}", Held(lock)),
            None => f.write_str("its lease ran out, or it was released by somebody else"),
        }
    }
}

struct NotFound(Option<u64>);

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(token) => write!(f, "no lock of that name bears the token {token}"),
            None => f.write_str("there is no such lock"),
        }
    }
}

struct Shown<'a>(&'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printable(&self.0.to_string_lossy()).fmt(f)
    }
}
