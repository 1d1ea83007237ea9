//! The exit statuses, as a type. The numbers above 63 are those of BSD's `sysexits.h`.

use lockmgr::Error;
use std::io::ErrorKind;
use std::process;

/// How the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// Done; for a question, yes.
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
    /// The store was busy for too long, or the system lacks memory or processes; try again.
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
    match error {
        Error::Locked(_) => ("Locked", ExitCode::No),
        Error::Reserved { .. } => ("Reserved", ExitCode::No),
        Error::LockFail(_) => ("LockFail", ExitCode::LockFail),
        Error::LockNotFound { .. } => ("LockNotFound", ExitCode::No),
        Error::Lost { .. } => ("Lost", ExitCode::No),
        Error::Cancelled => ("Cancelled", ExitCode::No),
        Error::Unsupported { .. } => ("Unsupported", ExitCode::Usage),
        Error::Forked { .. } => ("Forked", ExitCode::Software),
        Error::NoSuchProcess { .. } => ("Usage", ExitCode::Usage),
        Error::InvalidName(_) => ("InvalidName", ExitCode::Usage),
        Error::InvalidTimeout(_) => ("InvalidTimeout", ExitCode::Usage),
        Error::StoreBusy { .. } => ("StoreBusy", ExitCode::Busy),
        Error::Corrupted { .. } => ("Corrupted", ExitCode::Data),
        Error::NotAStore { .. } => ("NotAStore", ExitCode::Data),
        Error::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            ("Permission", ExitCode::Permission)
        }
        Error::Io { source, action, .. } => match source.kind() {
            ErrorKind::OutOfMemory | ErrorKind::WouldBlock => ("Io", ExitCode::Busy),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ("Io", ExitCode::Io),
            _ if *action == "create" => ("Io", ExitCode::CannotCreate),
            _ => ("Io", ExitCode::Io),
        },
        _ => ("Io", ExitCode::Software),
    }
}
