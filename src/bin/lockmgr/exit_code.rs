//! Defines the exit statuses as a type. Numbers above 63 are those of BSD's `sysexits.h`.

use lockmgr::{Error, ErrorKind};
use std::io;
use std::process;

/// The exit status of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// The command is done. For a question, the answer is yes.
    Success,
    /// No: it is locked, promised, not locked, lost, or was not found.
    No,
    /// `set --fail` met an existing lock or an earlier request, and nothing was changed.
    LockFail,
    /// Wrong usage, an invalid name, an invalid timeout.
    Usage,
    /// The store is damaged, or no store.
    Data,
    /// A fault of the command itself.
    Software,
    /// The store cannot be created.
    CannotCreate,
    /// Reading or writing failed.
    Io,
    /// The store was busy for too long, or the system lacks memory or processes. Try again.
    Busy,
    /// No permission.
    Permission,
    /// The status of the command that `run` ran, or of `--conflict-exit-code`.
    Command(u8),
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(match code {
            ExitCode::Success => 0,
            ExitCode::No => 1,
            ExitCode::LockFail => 2,
            ExitCode::Usage => 64,
            ExitCode::Data => 65,
            ExitCode::Software => 70,
            ExitCode::CannotCreate => 73,
            ExitCode::Io => 74,
            ExitCode::Busy => 75,
            ExitCode::Permission => 77,
            ExitCode::Command(status) => status,
        })
    }
}

/// Returns the name of an error in JSON, and the exit code.
pub(crate) fn classify(error: &Error) -> (&'static str, ExitCode) {
    let code = match error.kind() {
        ErrorKind::Locked
        | ErrorKind::Reserved
        | ErrorKind::LockNotFound
        | ErrorKind::Lost
        | ErrorKind::Cancelled => ExitCode::No,
        ErrorKind::LockFail => ExitCode::LockFail,
        ErrorKind::Usage
        | ErrorKind::InvalidName
        | ErrorKind::InvalidTimeout
        | ErrorKind::SlotsMismatch
        | ErrorKind::Unsupported => ExitCode::Usage,
        ErrorKind::StoreBusy => ExitCode::Busy,
        ErrorKind::Corrupted | ErrorKind::NotAStore => ExitCode::Data,
        ErrorKind::Permission => ExitCode::Permission,
        ErrorKind::Io if is_short(error) => ExitCode::Busy,
        ErrorKind::Io if is_creation(error) => ExitCode::CannotCreate,
        ErrorKind::Io => ExitCode::Io,
        _ => ExitCode::Software,
    };
    (error.kind().as_str(), code)
}

/// Tells whether the store could not be created, for another reason than a full disk.
pub(crate) fn is_creation(error: &Error) -> bool {
    matches!(error, Error::Io { source, action, .. } if *action == "create"
        && !matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// Tells whether the system was short of memory or processes.
fn is_short(error: &Error) -> bool {
    let is_short = |source: &io::Error| {
        matches!(
            source.kind(),
            io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock
        )
    };
    matches!(error, Error::Io { source, .. } if is_short(source))
}
