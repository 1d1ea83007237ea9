//! Lights beacons: the kernel's proof that a manager or a job lives, across every namespace and
//! user.
//!
//! A beacon is an exclusive open-file-description lock on one byte of the store's file, far beyond
//! its end, on a descriptor of its own. The kernel drops the lock with the last copy of that
//! descriptor. So this module never unlocks it: closing is enough, and a copy that a child
//! inherited stays valid.
//!
//! The locks are set through redb's public [`FileBackend`], which needs no `unsafe`. redb keeps its
//! own locks from 2^62 on.

use crate::process::{Binding, Bound, FileId, Process, Standing};
use redb::StorageBackend;
use redb::backends::FileBackend;
use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Bound::Included;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

/// The first of the bytes that beacons lie on: there is one for each value of an id.
const FIRST: u64 = 1 << 61;
const IDS: u64 = 1 << 60;

/// Draws the id of a manager, a job or a request. A fork has the random state of its parent, so the
/// id also depends on the process and the time.
pub(crate) fn draw_id() -> u64 {
    let now = std::time::SystemTime::now();
    1 + RandomState::new().hash_one((std::process::id(), now)) % (IDS - 1)
}

/// Returns the byte of an id, to lock it or to ask about it.
fn byte_of(id: u64) -> u64 {
    FIRST + id % IDS
}

/// Holds a beacon that this process keeps lit.
#[derive(Debug)]
pub(crate) struct Beacon {
    pub(crate) file_id: FileId,
    /// The file stays open, and is never unlocked.
    pub(crate) file: File,
}

impl Beacon {
    /// Lights a beacon on a descriptor of the store's file that nothing else uses. Returns none if
    /// the file system has no such locks, or if another process holds this byte.
    pub(crate) fn light(id: u64, file: File) -> io::Result<Option<Self>> {
        let file_id = FileId::of(&file.metadata()?);
        let byte = Included(byte_of(id));
        let is_lit = match FileBackend::new(file.try_clone()?) {
            Ok(backend) => backend.try_lock_range(byte, byte).unwrap_or(false),
            Err(_) => false,
        };
        Ok(is_lit.then_some(Self { file_id, file }))
    }
}

impl FileId {
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        let since = |created: std::time::SystemTime| created.duration_since(UNIX_EPOCH).ok();
        let born = metadata.created().ok().and_then(since);
        Self {
            inode,
            born: born.map_or(0, |it| it.as_nanos() as i64),
        }
    }

    /// Tells whether both are one file. If seccomp rules keep a process from statx(2), it knows no
    /// birth time, and then the inode decides: a beacon keeps its file open, so that its inode is
    /// not used again.
    fn is_same(&self, other: &Self) -> bool {
        let is_known = self.born != 0 && other.born != 0;
        self.inode == other.inode && (self.born == other.born || !is_known)
    }
}

/// Judges the things that locks are bound to, from one process and over one open file.
#[derive(Debug)]
pub(crate) struct Judge {
    /// This process.
    pub(crate) here: Process,
    /// The id of the manager that asks.
    manager: u64,
    /// The open file, to ask about beacons, and its identity.
    probe: Option<Arc<(FileBackend, FileId)>>,
    /// The results found before, if each binding is judged once.
    known: Option<Mutex<HashMap<Binding, Standing>>>,
}

impl Judge {
    /// Makes a judge over an open file of which `probe` is a copy.
    pub(crate) fn new(here: Process, manager: u64, probe: Option<File>) -> Self {
        let probe = probe.and_then(|file| {
            let id = FileId::of(&file.metadata().ok()?);
            Some(Arc::new((FileBackend::new(file).ok()?, id)))
        });
        Self {
            here,
            manager,
            probe,
            known: None,
        }
    }

    /// Returns the judge for one write transaction, which judges each binding once. If a holder
    /// ends during the transaction, after the plan was made, it counts as alive until the
    /// transaction ends. Otherwise a newcomer would find the holder's name free, and pass the
    /// waiters of that name.
    pub(crate) fn for_one_write(&self) -> Self {
        Self {
            here: self.here,
            manager: self.manager,
            probe: self.probe.clone(),
            known: Some(Mutex::default()),
        }
    }

    /// Returns the file on which this judge asks about beacons.
    pub(crate) fn file(&self) -> Option<FileId> {
        self.probe.as_ref().map(|probe| probe.1)
    }

    /// Judges the manager, process or job that a lock or a request is bound to.
    pub(crate) fn standing(&self, binding: &Binding) -> Standing {
        if self.is_own(binding) {
            return Standing::Alive;
        }
        let Some(known) = &self.known else {
            return self.look(binding);
        };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(*binding).or_insert_with(|| self.look(binding))
    }

    fn look(&self, binding: &Binding) -> Standing {
        match (self.is_lit(binding), binding.kind) {
            (Some(false), _) => Standing::Gone,
            (Some(true), Bound::Job) => Standing::Alive,
            // A child that was forked off may keep a copy of the descriptor.
            (Some(true), _) if self.here.sees_no(&binding.process) => Standing::Gone,
            (Some(true), _) => Standing::Alive,
            // The first process of a job may be gone while other processes work on.
            (None, Bound::Job) => match self.here.judge(&binding.process) {
                Standing::Alive => Standing::Alive,
                Standing::Gone | Standing::Unknown => Standing::Unknown,
            },
            (None, _) => self.here.judge(&binding.process),
        }
    }

    /// Tells whether the process number of a binding is one of this pid namespace.
    pub(crate) fn sees(&self, binding: &Binding) -> bool {
        self.here.namespaces.pid == binding.process.namespaces.pid
    }

    /// Tells whether a lock or a request is bound to the manager that asks.
    pub(crate) fn is_own(&self, binding: &Binding) -> bool {
        binding.kind == Bound::Manager && binding.id == self.manager
    }

    pub(crate) fn is_gone(&self, binding: &Binding) -> bool {
        self.standing(binding) == Standing::Gone
    }

    /// Tells whether the beacon of a binding is lit. Returns none if the binding has none in this
    /// file.
    pub(crate) fn is_lit(&self, binding: &Binding) -> Option<bool> {
        let (backend, file_id) = &**self.probe.as_ref()?;
        if !binding.file.is_some_and(|file| file.is_same(file_id)) {
            return None;
        }
        let byte = Included(byte_of(binding.id));
        backend.query_lock_range(byte, byte).ok()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn holder_that_ends_during_a_write_is_judged_as_before_until_its_end() {
        let here = Process::current();
        let judge = Judge::new(here, draw_id(), None);
        let mut holder = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let binding = Binding {
            kind: Bound::Process,
            process: here.see(holder.id()).unwrap(),
            id: 0,
            file: None,
        };
        let write = judge.for_one_write();
        assert_eq!(write.standing(&binding), Standing::Alive);
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(write.standing(&binding), Standing::Alive);
        assert_eq!(judge.standing(&binding), Standing::Gone);
        assert_eq!(judge.for_one_write().standing(&binding), Standing::Gone);
    }

    #[test]
    fn file_without_a_known_birth_time_is_told_by_its_inode() {
        let file = |inode, born| FileId { inode, born };
        assert!(file(1, 0).is_same(&file(1, 7)) && file(1, 7).is_same(&file(1, 0)));
        assert!(file(1, 7).is_same(&file(1, 7)) && !file(1, 7).is_same(&file(1, 8)));
        assert!(!file(2, 0).is_same(&file(1, 7)));
    }
}
