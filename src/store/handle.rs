//! Holds one open file: its identity, and the snapshot that reads share while nothing is committed.

use super::fault::{At, Fault};
use super::in_memory::Seen;
use super::read::Snapshot;
use crate::beacon::Judge;
use crate::clock::coarse_millis;
use redb::{Database, ReadOnlyDatabase, ReadableDatabase, WriteTransaction};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub(super) struct Handle {
    /// The shared snapshot, if no other process writes. It is dropped before its database.
    pub(super) kept: Option<Kept>,
    pub(super) database: Opened,
    /// The identity of the file: it has its name until a user deletes or replaces it.
    pub(super) identity: Option<Identity>,
    /// When the name was last looked up, in coarse milliseconds.
    pub(super) seen_at: AtomicU64,
    /// Whether the rows were checked.
    pub(super) is_checked: AtomicBool,
    /// The judge of the things that the locks in this file are bound to.
    pub(super) judge: Judge,
}

pub(super) enum Opened {
    /// The database, with the open file, to touch it.
    Writer(Database, File),
    Reader(ReadOnlyDatabase),
    /// The last commit of a file that needs repair, repaired in memory.
    InMemory(Database, Seen),
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.database {
            Opened::Writer(..) => "Writer",
            Opened::Reader(_) => "Reader",
            Opened::InMemory(..) => "InMemory",
        })
    }
}

impl Handle {
    /// `is_alone` if no other process writes.
    pub(super) fn new(
        database: Opened,
        metadata: &fs::Metadata,
        is_alone: bool,
        judge: Judge,
    ) -> Self {
        let is_alone = is_alone || matches!(database, Opened::InMemory(..));
        Self {
            kept: is_alone.then(Kept::default),
            database,
            identity: Identity::of(metadata),
            seen_at: AtomicU64::new(coarse_millis()),
            is_checked: AtomicBool::new(false),
            judge,
        }
    }

    /// Returns the store as it was committed last.
    pub(super) fn snapshot(&self, at: At<'_>) -> Result<Arc<Snapshot>, Fault> {
        let begin = || {
            let txn = match &self.database {
                Opened::Writer(database, _) | Opened::InMemory(database, _) => {
                    database.begin_read()
                }
                Opened::Reader(database) => database.begin_read(),
            };
            Ok(Arc::new(Snapshot::of(txn?, at)?))
        };
        match &self.kept {
            Some(kept) => kept.get_or(begin),
            None => begin(),
        }
    }

    pub(super) fn commit(&self, txn: WriteTransaction) -> Result<(), redb::CommitError> {
        // Forget before, because redb uses no page again that a snapshot may still need. Forget
        // after, for the readers that took a snapshot meanwhile.
        self.kept.iter().for_each(Kept::forget);
        let result = txn.commit();
        self.kept.iter().for_each(Kept::forget);
        result
    }

    /// Tells whether the name still leads to this file. A call that only reads looks the name up at
    /// most every so often.
    pub(super) fn is_current(&self, path: &Path, looks: Duration) -> bool {
        if let Opened::InMemory(_, seen) = &self.database
            && !seen.is_current()
        {
            return false;
        }
        let now = coarse_millis();
        let unseen = now.saturating_sub(self.seen_at.load(Ordering::Relaxed));
        if Duration::from_millis(unseen) < looks {
            return true;
        }
        self.seen_at.store(now, Ordering::Relaxed);
        match fs::symlink_metadata(path) {
            Ok(metadata) => Identity::of(&metadata) == self.identity,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

/// Keeps the snapshot that was read last, until the next commit: beginning another costs more than
/// reading a row of it.
#[derive(Default)]
pub(super) struct Kept(RwLock<Option<Arc<Snapshot>>>);

impl Kept {
    pub(super) fn get_or(
        &self,
        begin: impl FnOnce() -> Result<Arc<Snapshot>, Fault>,
    ) -> Result<Arc<Snapshot>, Fault> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = &*kept {
            return Ok(Arc::clone(snapshot));
        }
        drop(kept);
        // One reader at a time: during a commit, another reader's snapshot could be newer, and
        // reads would go back.
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let snapshot = match slot.take() {
            Some(snapshot) => snapshot,
            None => begin()?,
        };
        Ok(Arc::clone(slot.insert(snapshot)))
    }

    pub(super) fn forget(&self) {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let snapshot = slot.take();
        drop(slot);
        drop(snapshot);
    }
}

/// Identifies a file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl Identity {
    #[cfg(unix)]
    pub(super) fn of(metadata: &fs::Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    #[cfg(not(unix))]
    pub(super) fn of(_: &fs::Metadata) -> Option<Self> {
        None
    }
}
