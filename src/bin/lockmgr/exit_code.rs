//! The exit statuses, as a type. The numbers above 63 are those of BSD's `sysexits.h`.

use lockmgr::Error;
use std::io::ErrorKind;
use std::process;

/// How the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// Done; for a question, yes.
    Success = 0,
    /// No: it is locked, it is not locked, it was not found.
    No = 1,
    /// `set --fail` met an existing lock, and nothing was changed.
    LockFail = 2,
    /// Wrong usage, an invalid name, an invalid timeout.
    Usage = 64,
    /// The store is damaged, or no store.
    Data = 65,
    /// A fault of the command itself.
    Software = 70,
    /// The store cannot be created.
    CannotCreate = 73,
    /// Reading or writing failed.
    Io = 74,
    /// The store was busy for too long; try again.
    Busy = 75,
    /// No permission.
    Permission = 77,
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// What an error is called in JSON, and how the command ends with it.
pub(crate) fn classify(error: &Error) -> (&'static str, ExitCode) {
    match error {
        Error::Locked(_) => ("Locked", ExitCode::No),
        Error::LockFail(_) => ("LockFail", ExitCode::LockFail),
        Error::LockNotFound { .. } => ("LockNotFound", ExitCode::No),
        Error::InvalidName(_) => ("InvalidName", ExitCode::Usage),
        Error::InvalidTimeout(_) => ("InvalidTimeout", ExitCode::Usage),
        Error::StoreBusy { .. } => ("StoreBusy", ExitCode::Busy),
        Error::Corrupted { .. } => ("Corrupted", ExitCode::Data),
        Error::NotAStore { .. } => ("NotAStore", ExitCode::Data),
        Error::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            ("Permission", ExitCode::Permission)
        }
        Error::Io { source, action, .. } => match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ("Io", ExitCode::Io),
            _ if *action == "create" => ("Io", ExitCode::CannotCreate),
            _ => ("Io", ExitCode::Io),
        },
        _ => ("Io", ExitCode::Software),
    }
}
