//! Defines the one error type, and the texts of its messages.

use crate::claim::InvalidRequest;
use crate::lock::{Lock, SECONDS};
use crate::name::{InvalidName, LockName, Printable};
use crate::queue::Request;
use crate::timeout::InvalidTimeout;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Defaults the error type of a result to [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says why a call did not do as its caller asked.
///
/// Contention is an answer: [`Locked`](Self::Locked) and [`LockFail`](Self::LockFail) carry the
/// lock that is in the way, [`Reserved`](Self::Reserved) the request, and [`Lost`](Self::Lost) the
/// lock that has the name now. [`LockNotFound`](Self::LockNotFound) names the lock that is not
/// there. The invalid ones name the refused argument, and are found before the store is touched.
/// The others are failures of the store and name its file.
///
/// After any error the store is as it was before the call, with two exceptions. Free names that
/// were handed over to waiters stay with them. Rows that
/// [`clean_locks`](crate::LockManager::clean_locks), which takes several transactions, had removed
/// by then stay removed. One case cannot promise this: if storage fails, damage is met, or another
/// process is stopped, in the middle of a commit ([`Io`](Self::Io), [`Corrupted`](Self::Corrupted),
/// [`StoreBusy`](Self::StoreBusy)), the next reader of the store may find the call done as a whole,
/// or not at all, and never a part of it. If [`Acquire::lock`](crate::Acquire::lock) leaves locks
/// or a request behind then, the manager takes them back itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lock exists already. Carries it as it is.
    #[error("cannot lock {}", Held(.0))]
    Locked(Box<Lock>),

    /// `set_lock` with `fail` met an existing lock, and changed nothing. Carries that lock as the
    /// aborted call saw it. If an earlier mention of a repeated name had created the lock, it is
    /// gone, and bears no token (0).
    #[error("cannot set the locks: {}; nothing was changed", Held(.0))]
    LockFail(Box<Lock>),

    /// The lock to renew does not exist, or no longer bears the token that the caller named.
    #[error("cannot renew \"{}\": {}", Printable(name), NotFound(*token))]
    #[non_exhaustive]
    LockNotFound {
        /// The name of the lock to renew.
        name: String,
        /// The token that the caller named, if any.
        token: Option<u64>,
    },

    /// Nobody holds the lock, but an earlier request waits for it together with others, and comes
    /// first. Carries that request.
    #[error("cannot lock \"{}\": {} asked for it first", Printable(name.as_str()), Asked(request))]
    #[non_exhaustive]
    Reserved {
        /// The name that the caller asked for.
        name: LockName,
        /// The request that comes first.
        request: Box<Request>,
    },

    /// The holders of the name say another number of slots. Ask with their number, or try again
    /// once the name is free. No request of this call is left in the queue.
    #[error(
        "cannot take slots of \"{}\": you say that it has {asked}, and its holders say {held}; \
         say {held} too, or try again once it is free",
        Printable(name.as_str())
    )]
    #[non_exhaustive]
    SlotsMismatch {
        /// The name that the caller asked for.
        name: LockName,
        /// The number of slots that the call said the name has.
        asked: u32,
        /// The number of slots that the holders said.
        held: u32,
    },

    /// A guard no longer holds a lock: its lease ran out, or the lock was taken away.
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

    /// There is no such process to bind a lock to, or this process cannot see it.
    #[error("cannot bind to process {pid}: there is none, or it cannot be seen from here")]
    #[non_exhaustive]
    NoSuchProcess {
        /// The process number that the caller gave.
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
        /// The work on the file that failed.
        action: &'static str,
        /// The reason why the call waited.
        reason: String,
        /// How long the call waited.
        waited: Duration,
    },

    /// The file is damaged. Restore it, or move it away and begin a new store.
    #[error("cannot {action} {}: the store is damaged: {detail}", Shown(path))]
    #[non_exhaustive]
    Corrupted {
        /// The store's file.
        path: PathBuf,
        /// The work on the file that failed.
        action: &'static str,
        /// The damage that was found.
        detail: String,
    },

    /// The file is no lock store: another program's, or of a newer format.
    #[error("{} is not a lock store: {reason}", Shown(path))]
    #[non_exhaustive]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// The reason why it is none.
        reason: String,
    },

    /// The store was opened before this process was forked off, and belongs to the parent. Open
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

    /// This system, or the place of this process in it, cannot do the work that the caller asked
    /// for.
    #[error("cannot {what}: {remedy}")]
    #[non_exhaustive]
    Unsupported {
        /// The work that the caller asked for.
        what: String,
        /// The remedy: another way to ask, and why.
        remedy: String,
    },

    /// The file could not be created, opened, read or written.
    #[error("cannot {action} {}", Shown(path))]
    #[non_exhaustive]
    Io {
        /// The store's file.
        path: PathBuf,
        /// The work on the file that failed.
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
        /// The place of the panic: file, line and column.
        place: String,
    },
}

/// Tells the kind of an [`Error`], under the name that the command's JSON gives it.
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
    /// An earlier request for the lock comes first.
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
    /// The system cannot do the work that the caller asked for.
    Unsupported,
    /// The manager was opened before a fork.
    Forked,
    /// A hook of the caller, or lockmgr itself, panicked.
    Bug,
    /// Other processes or threads kept the store busy.
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
    /// Returns the name of the kind, as in the command's JSON.
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
    /// Returns the kind of this error, for a program to decide by.
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

    /// Tells whether another holder has the lock, or another request asked for it first.
    pub fn is_contention(&self) -> bool {
        matches!(
            self,
            Self::Locked(_) | Self::LockFail(_) | Self::Reserved { .. }
        )
    }

    /// Tells whether the same call may succeed later without a repair: after contention, and if the
    /// store was busy.
    pub fn is_retryable(&self) -> bool {
        self.is_contention() || matches!(self, Self::StoreBusy { .. })
    }
}

/// Writes the lock, and the number of its waiters.
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

/// Writes the future holder of a request, and since when the request waits.
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
