//! Turns failures of redb, of the file and of our own into [`Error`]s that name the file and the
//! action, in one place.

use super::bounded::{self, LastFailure};
use super::panics::{self, Panicked};
use super::{Config, permission};
use crate::error::{Error, Result};
use crate::name::Printable;
use crate::record::BadRow;
use std::io;

/// Names a failure, before the file and the action are known.
#[derive(Debug)]
pub(super) enum Fault {
    /// The error names the file and the action already, or is about neither.
    Named(Error),
    Redb(redb::Error),
    /// The bound of the call was reached, for this reason.
    Busy(String),
    Corrupted(String),
    NotAStore(String),
}

impl Fault {
    pub(super) fn corrupted(detail: impl Into<String>) -> Self {
        Self::Corrupted(detail.into())
    }

    pub(super) fn busy(reason: impl Into<String>) -> Self {
        Self::Busy(reason.into())
    }
}

impl From<BadRow> for Fault {
    fn from(BadRow(detail): BadRow) -> Self {
        Self::Corrupted(detail.into())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Named(error)
    }
}

/// Takes in everything that redb's own error takes in: its other errors, and those of the file.
macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::Redb(error.into())
            }
        }
    )*};
}

from_redb!(
    io::Error,
    redb::CommitError,
    redb::DatabaseError,
    redb::Error,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError
);

/// Runs work in which redb may panic: if another program changed the file, redb may panic, and the
/// error says so.
pub(super) fn caught<T>(at: At<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    panics::caught(work).unwrap_or_else(|panicked| Err(at.panicked(&panicked)))
}

/// Says in which store and at which action something failed.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) config: &'a Config,
    pub(super) failure: &'a LastFailure,
    pub(super) action: &'static str,
}

impl At<'_> {
    /// Runs a part of a call, and adds the file and the action to its error.
    pub(super) fn run<T>(&self, part: impl FnOnce() -> Result<T, Fault>) -> Result<T> {
        part().map_err(|fault| self.named(fault))
    }

    pub(super) fn failed(&self, error: impl Into<redb::Error>) -> Error {
        self.named(Fault::Redb(error.into()))
    }

    pub(super) fn corrupted(&self, detail: impl Into<String>) -> Error {
        self.named(Fault::Corrupted(detail.into()))
    }

    pub(super) fn bad_row(&self, bad: BadRow) -> Error {
        self.named(bad.into())
    }

    fn named(&self, fault: Fault) -> Error {
        let (path, action) = (self.config.path.clone(), self.action);
        match fault {
            Fault::Named(error) => error,
            Fault::Redb(error) => self.of_redb(error),
            Fault::Busy(reason) => Error::StoreBusy {
                path,
                action,
                reason,
                waited: bounded::waited(),
            },
            Fault::Corrupted(detail) => Error::Corrupted {
                path,
                action,
                detail,
            },
            Fault::NotAStore(reason) => Error::NotAStore { path, reason },
        }
    }

    fn of_redb(&self, error: redb::Error) -> Error {
        let busy = |reason: &str| self.named(Fault::Busy(reason.into()));
        let not_a_store = |reason| self.named(Fault::NotAStore(reason));
        match error {
            redb::Error::Io(error) => self.of_file(error),
            error @ redb::Error::PreviousIo => match self.failure.take() {
                Some(failure) => self.of_file(failure),
                None => self.of_file(io::Error::other(error.to_string())),
            },
            redb::Error::Corrupted(detail) => self.corrupted(plain(&detail)),
            redb::Error::DatabaseAlreadyOpen => busy("another process has it exclusively"),
            redb::Error::LockProtocolMismatch => {
                busy("another process has it open by another release's rules")
            }
            redb::Error::Unsupported => Error::Unsupported {
                what: format!("share {} between processes", self.config.path.display()),
                remedy: "let one process open it, with `exclusive()`".into(),
            },
            redb::Error::UpgradeRequired(version) => {
                not_a_store(format!("it has the old redb file format {version}"))
            }
            redb::Error::TableDoesNotExist(table) => {
                not_a_store(format!("it has no table \"{table}\""))
            }
            error @ (redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }) => not_a_store(plain(&error)),
            error => self.of_file(io::Error::other(plain(&error))),
        }
    }

    fn of_file(&self, error: io::Error) -> Error {
        if let Some(panicked) = Panicked::in_error(&error) {
            return bug(panicked);
        }
        match error.kind() {
            // This is our own error, of a bounded wait. The system's error bears its number.
            io::ErrorKind::TimedOut if error.raw_os_error().is_none() => {
                self.named(Fault::Busy("another process kept it busy".into()))
            }
            io::ErrorKind::UnexpectedEof => self.corrupted("it ends too early"),
            io::ErrorKind::InvalidData => {
                self.named(Fault::NotAStore("it is not a redb file".into()))
            }
            _ => Error::Io {
                path: self.config.path.clone(),
                action: self.action,
                source: permission::explained(error, &self.config.path),
            },
        }
    }

    fn panicked(&self, panicked: &Panicked) -> Error {
        match panicked.damage() {
            Some(damage) => self.corrupted(plain(&damage)),
            None => bug(panicked),
        }
    }
}

/// Returns redb's text without the control characters that a damaged file may have brought into it.
fn plain(said: &impl ToString) -> String {
    Printable(&said.to_string()).to_string()
}

fn bug(panicked: &Panicked) -> Error {
    Error::Bug {
        message: panicked.to_string(),
        place: panicked.place(),
    }
}
