//! Proves by independent means that two holders never hold the same lock: by the kernel's locks on
//! other files.
//!
//! A holder in a process takes a record lock, which no child inherits. A job takes a flock, which
//! all its processes inherit. Each file is opened before the store: the kernel closes the files
//! of a killed process in their order, so a witness is gone before the lock is seen to be free.

use super::terms::{KINDS, SHARED, SLOTS};
use crate::dice::millis;
use lockmgr::Mode;
use rustix::fs::{FlockOperation, fcntl_lock};
use std::fs::File;
use std::path::Path;
use std::thread;

/// The longest time that the last process of a job may take to end.
const ENDING: u64 = 20;

pub(crate) struct Witnesses {
    exclusive: Vec<(File, File)>,
    /// A file for each slot of each name that has kinds. An exclusive holder locks all of them
    /// alone. Sharers share all of them.
    kinds: Vec<Vec<File>>,
}

/// The files of a name that has kinds.
pub(crate) fn files_of_slots(dir: &Path, name: &str) -> Vec<std::path::PathBuf> {
    let file = |slot| dir.join(format!("slot {slot} {name}"));
    (0..SLOTS).map(file).collect()
}

/// The files that the holders in processes lock, and those that the jobs lock.
pub(crate) fn files(dir: &Path, name: &str) -> [std::path::PathBuf; 2] {
    ["witness", "job"].map(|kind| dir.join(format!("{kind} {name}")))
}

impl Witnesses {
    pub(crate) fn open(dir: &Path) -> Self {
        let open = |path| File::options().read(true).write(true).open(path).unwrap();
        let both = SHARED.map(|name| files(dir, name).map(open).into());
        let slots = |name| files_of_slots(dir, name).into_iter().map(open).collect();
        Self {
            exclusive: both.into(),
            kinds: KINDS.map(slots).into(),
        }
    }

    fn slots_of(&self, name: &str) -> &[File] {
        let at = KINDS.iter().position(|it| *it == name).unwrap();
        &self.kinds[at]
    }

    /// Takes the witness, and tells whether no incompatible holder exists.
    pub(crate) fn begins_as(&self, name: &str, mode: Mode) -> bool {
        let slots = self.slots_of(name);
        let lock = |file: &&File, how| fcntl_lock(file, how).is_ok();
        match mode {
            Mode::Slots { take, .. } => {
                let mut left = take;
                for file in slots {
                    if left > 0 && lock(&file, FlockOperation::NonBlockingLockExclusive) {
                        left -= 1;
                    }
                }
                left == 0
            }
            Mode::Shared => slots
                .iter()
                .all(|file| lock(&file, FlockOperation::NonBlockingLockShared)),
            _ => slots
                .iter()
                .all(|file| lock(&file, FlockOperation::NonBlockingLockExclusive)),
        }
    }

    /// Releases the witness.
    pub(crate) fn ends_as_it_is(&self, name: &str) {
        for file in self.slots_of(name) {
            fcntl_lock(file, FlockOperation::NonBlockingUnlock).unwrap();
        }
    }

    fn of(&self, name: &str) -> &(File, File) {
        let at = SHARED.iter().position(|it| *it == name).unwrap();
        &self.exclusive[at]
    }

    /// Takes the witness, and tells whether no other holder exists.
    pub(crate) fn begins(&self, name: &str) -> bool {
        let (holder, job) = self.of(name);
        fcntl_lock(holder, FlockOperation::NonBlockingLockExclusive).is_ok() && is_without(job)
    }

    /// Releases the witness, and tells whether no other holder exists.
    pub(crate) fn ends(&self, name: &str) -> bool {
        let (holder, job) = self.of(name);
        let is_alone = is_without(job);
        fcntl_lock(holder, FlockOperation::NonBlockingUnlock).unwrap();
        is_alone
    }
}

/// Tells whether no job holds this file, except a job that is about to end.
fn is_without(job: &File) -> bool {
    let is_free = || job.try_lock().is_ok_and(|()| job.unlock().is_ok());
    (0..ENDING).any(|_| is_free() || (thread::sleep(millis(1)), false).1)
}
