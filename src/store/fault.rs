//! Turns failures of redb and of the file into [`Error`]s that name the file and the action.

use super::Config;
use super::bounded::LastFailure;
use crate::error::{Error, Result};
use crate::record::BadRow;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;

/// Runs what redb may panic amid: on a file that something else than redb changed it may, and
/// says so.
pub(super) fn caught<T>(at: At<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            // What redb took for impossible says nothing to who reads it.
            .filter(|text| !text.contains("unreachable"))
            .unwrap_or("unexpected contents");
        Err(at.corrupted(text))
    })
}

/// Where and at what something failed.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) config: &'a Config,
    pub(super) failure: &'a LastFailure,
    pub(super) action: &'static str,
}

impl At<'_> {
    pub(super) fn path(&self) -> PathBuf {
        self.config.path.clone()
    }

    pub(super) fn io(&self, source: io::Error) -> Error {
        Error::Io {
            path: self.path(),
            action: self.action,
            source,
        }
    }

    pub(super) fn busy(&self) -> Error {
        Error::StoreBusy {
            path: self.path(),
            action: self.action,
            waited: self.config.busy_timeout,
        }
    }

    pub(super) fn corrupted(&self, detail: impl Into<String>) -> Error {
        Error::Corrupted {
            path: self.path(),
            action: self.action,
            detail: detail.into(),
        }
    }

    pub(super) fn not_a_store(&self, reason: impl Into<String>) -> Error {
        Error::NotAStore {
            path: self.path(),
            reason: reason.into(),
        }
    }

    pub(super) fn bad_row(&self, BadRow(detail): BadRow) -> Error {
        self.corrupted(detail)
    }

    pub(super) fn failed(&self, error: impl Into<redb::Error>) -> Error {
        match error.into() {
            redb::Error::Io(error) => match error.kind() {
                // Ours, of a bounded wait; the system's bears its number.
                io::ErrorKind::TimedOut if error.raw_os_error().is_none() => self.busy(),
                io::ErrorKind::UnexpectedEof => self.corrupted("it ends too early"),
                io::ErrorKind::InvalidData => self.not_a_store("it is not a redb file"),
                _ => self.io(error),
            },
            error @ redb::Error::PreviousIo => match self.failure.take() {
                Some(failure) => self.failed(redb::Error::Io(failure)),
                None => self.io(io::Error::other(error.to_string())),
            },
            redb::Error::Corrupted(detail) => self.corrupted(detail),
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => self.busy(),
            redb::Error::UpgradeRequired(version) => {
                self.not_a_store(format!("it has the old redb file format {version}"))
            }
            redb::Error::TableDoesNotExist(table) => {
                self.not_a_store(format!("it has no table \"{table}\""))
            }
            error @ (redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }) => self.not_a_store(error.to_string()),
            error => self.io(io::Error::other(error.to_string())),
        }
    }
}
