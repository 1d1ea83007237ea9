//! Why a command failed, and what is said of it.

use crate::args::BadDuration;
use crate::exit_code::{ExitCode, classify};
use lockmgr::{Error, Lock, Printable};
use std::io;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was asked wrongly.
    Usage(String),
    /// Names, timeouts and the store.
    Lock(Error),
    /// `set --fail` met what was promised to somebody else.
    SetFail(Error),
    /// The locks for a command were not to be had.
    Conflict {
        error: Error,
        code: u8,
        is_silent: bool,
    },
    /// A name or a duration that the library cannot be asked with.
    Invalid { kind: &'static str, message: String },
    /// The directory of the default store could not be made.
    Directory(PathBuf, io::Error),
    /// Standard output went away or is full.
    Output(io::Error),
    /// The system refused something else.
    System(&'static str, io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Lock(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<BadDuration> for Failure {
    fn from(BadDuration { text, rule }: BadDuration) -> Self {
        Self::Invalid {
            kind: "InvalidTimeout",
            message: format!("invalid timeout \"{}\": {rule}", Printable(&text)),
        }
    }
}

impl Failure {
    /// What it is called in JSON, and how the command ends with it.
    pub(crate) fn kind(&self) -> (&'static str, ExitCode) {
        match self {
            Self::Usage(_) => ("Usage", ExitCode::Usage),
            Self::Lock(error) => classify(error),
            Self::SetFail(error) => (classify(error).0, ExitCode::LockFail),
            Self::Conflict { error, code, .. } => (classify(error).0, ExitCode::Command(*code)),
            Self::Invalid { kind, .. } => (kind, ExitCode::Usage),
            Self::Directory(_, error) if error.kind() == io::ErrorKind::PermissionDenied => {
                ("Permission", ExitCode::Permission)
            }
            Self::Directory(..) => ("Io", ExitCode::CannotCreate),
            Self::Output(_) | Self::System(..) => ("Io", ExitCode::Io),
        }
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Self::Usage(message) | Self::Invalid { message, .. } => message.clone(),
            Self::Lock(error) | Self::SetFail(error) | Self::Conflict { error, .. } => {
                with_sources(error)
            }
            Self::Directory(path, error) => {
                let path = path.to_string_lossy();
                format!("cannot create {}: {error}", Printable(&path))
            }
            Self::Output(error) => format!("cannot write to standard output: {error}"),
            Self::System(what, error) => format!("cannot {what}: {error}"),
        }
    }

    /// The lock that is in the way.
    pub(crate) fn lock(&self) -> Option<&Lock> {
        match self {
            Self::Lock(error) | Self::SetFail(error) | Self::Conflict { error, .. } => {
                match error {
                    Error::Locked(lock) | Error::LockFail(lock) => Some(lock),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Whether nobody wants to read of it.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(
            self,
            Self::Conflict {
                is_silent: true,
                ..
            }
        )
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_sources(source)),
        None => error.to_string(),
    }
}
