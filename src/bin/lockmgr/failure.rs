//! Lists the reasons for which a command fails, and their messages.

use crate::duration::BadDuration;
use crate::exit_code::{ExitCode, classify, is_creation};
use crate::place::{Place, shown};
use crate::processes;
use lockmgr::{Bound, Error, ErrorKind, Lock, Mode, Printable};
use std::io;
use std::path::{Path, PathBuf};

/// The reason why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The usage was wrong.
    Usage(String),
    /// The library returned an error.
    Lock(Error),
    /// `set --fail` met an earlier request.
    SetFail(Error),
    /// The locks for a command could not be acquired.
    Conflict {
        error: Error,
        code: u8,
        is_silent: bool,
    },
    /// A lock is not removed because a program or a job runs under it.
    Running(Box<Lock>),
    /// A name or a duration does not fit the library's types.
    Invalid { kind: &'static str, message: String },
    /// The directory of the store could not be created.
    Directory(PathBuf, io::Error),
    /// Standard output is closed or full.
    Output(io::Error),
    /// The system refused another call.
    System(&'static str, io::Error),
    /// Another failure, with the store that it is about.
    In(PathBuf, Box<Self>),
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
    /// Adds the store that the failure is about.
    pub(crate) fn at(self, place: &Place) -> Self {
        Self::In(place.path.clone(), Box::new(self))
    }

    /// Returns the failure's name in JSON, and the exit code.
    pub(crate) fn kind(&self) -> (&'static str, ExitCode) {
        match self {
            Self::Usage(_) => ("Usage", ExitCode::Usage),
            Self::Lock(error) => classify(error),
            Self::SetFail(error) => (classify(error).0, ExitCode::LockFail),
            Self::Conflict { error, code, .. } => (classify(error).0, ExitCode::Command(*code)),
            Self::Running(_) => (ErrorKind::Locked.as_str(), ExitCode::No),
            Self::Invalid { kind, .. } => (kind, ExitCode::Usage),
            Self::Directory(_, error) if error.kind() == io::ErrorKind::PermissionDenied => {
                ("Permission", ExitCode::Permission)
            }
            Self::Directory(..) => ("Io", ExitCode::CannotCreate),
            Self::System(_, error) if is_short_of_means(error) => ("Io", ExitCode::Busy),
            Self::Output(_) | Self::System(..) => ("Io", ExitCode::Io),
            Self::In(_, failure) => failure.kind(),
        }
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Self::Usage(message) | Self::Invalid { message, .. } => message.clone(),
            Self::Lock(error) | Self::SetFail(error) | Self::Conflict { error, .. } => {
                with_sources(error)
            }
            Self::Running(lock) => format!("cannot unlock {lock}"),
            Self::Directory(path, error) => format!("cannot create {}: {error}", shown(path)),
            Self::Output(error) => format!("cannot write to standard output: {error}"),
            Self::System(what, error) => format!("cannot {what}: {error}"),
            Self::In(path, failure) => {
                let mut message = failure.message();
                if let Some(directory) = failure.error().and_then(|error| missing(path, error)) {
                    let directory = shown(&directory);
                    message += &format!(
                        "; there is no directory {directory}: `mkdir -p {directory}`, or name \
                            another store"
                    );
                }
                // Failures of the store itself name its file.
                let path = shown(path);
                let is_of_store = self.lock().is_some() || failure.error().is_some();
                let is_store_named = message.contains(&path);
                if let Some(program) = self.lock().and_then(processes::holder_of) {
                    message += &format!("; {program}");
                }
                if let Self::Running(lock) = &**failure {
                    let reason = match lock.bound_to().map(|it| it.kind()) {
                        Some(Bound::Manager) => "its program would lose it",
                        Some(Bound::Job) => "its job would lose it",
                        _ => "its at-least time has not passed",
                    };
                    message += &format!("; {reason}: say --force to take it away");
                    if lock.mode() != Mode::Exclusive {
                        message += ", or --token N to unlock one hold (`lockmgr list` shows them)";
                    }
                }
                if is_of_store && !is_store_named {
                    message += &format!(" (store {path})");
                }
                message
            }
        }
    }

    /// Returns the lock that caused the failure, if there is one.
    pub(crate) fn lock(&self) -> Option<&Lock> {
        match self {
            Self::Running(lock) => Some(lock),
            Self::In(_, failure) => failure.lock(),
            _ => match self.error()? {
                Error::Locked(lock) | Error::LockFail(lock) => Some(lock),
                _ => None,
            },
        }
    }

    /// Returns the library's error, if it is one.
    fn error(&self) -> Option<&Error> {
        match self {
            Self::Lock(error) | Self::SetFail(error) | Self::Conflict { error, .. } => Some(error),
            Self::In(_, failure) => failure.error(),
            _ => None,
        }
    }

    /// Tells whether no message is wanted.
    pub(crate) fn is_silent(&self) -> bool {
        match self {
            Self::Conflict { is_silent, .. } => *is_silent,
            Self::In(_, failure) => failure.is_silent(),
            _ => false,
        }
    }

    /// Returns the error of standard output, if the output failed.
    pub(crate) fn of_output(&self) -> Option<&io::Error> {
        match self {
            Self::Output(error) => Some(error),
            Self::In(_, failure) => failure.of_output(),
            _ => None,
        }
    }
}

/// Tells whether the system lacks memory or processes, so that the same call may work later.
pub(crate) fn is_short_of_means(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock
    )
}

/// Returns the missing directory without which the store cannot be created.
fn missing(store: &Path, error: &Error) -> Option<PathBuf> {
    let parent = store.parent().filter(|it| *it != Path::new(""))?;
    (is_creation(error) && !parent.exists()).then(|| parent.to_owned())
}

fn with_sources(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_sources(source)),
        None => error.to_string(),
    }
}
