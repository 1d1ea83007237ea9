//! Notes the locks that a job released by `lockmgr unlock` itself, so that its `lockmgr run` does
//! not report these locks as lost.
//!
//! The store cannot tell a release from a loss: in both cases the row is gone, or another holder's.
//! `run` therefore keeps a file in memory, and passes its path to the job. `unlock` notes a lock in
//! that file before it removes the lock. Without /proc the job cannot reach the file. Then a
//! release counts as a loss, and the job is ended.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::{self, Command};

/// The variable with the paths of the files of the jobs around a command, one a line.
const FILES: &str = "LOCKMGR_GIVEN_BACK";

/// The name of the file that the kernel shows.
const NAME: &str = "lockmgr-given-back";

/// The notes of one job.
#[derive(Debug)]
pub(crate) struct GivenBack(File);

impl GivenBack {
    /// Creates an empty file of notes, if the kernel supports files in memory.
    #[cfg(target_os = "linux")]
    pub(crate) fn new() -> Option<Self> {
        let file = rustix::fs::memfd_create(NAME, rustix::fs::MemfdFlags::CLOEXEC).ok()?;
        Some(Self(file.into()))
    }

    /// Returns `None`: this system's /proc has no paths of files in memory.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new() -> Option<Self> {
        None
    }

    /// Passes the file's path to a command, with the paths of the jobs around this process.
    pub(crate) fn name_to(&self, command: &mut Command) {
        let mut files = format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd());
        if let Ok(outer) = env::var(FILES) {
            files = format!("{files}\n{outer}");
        }
        command.env(FILES, files);
    }

    /// Tells whether the job released the lock that this line names.
    pub(crate) fn has(&self, line: &str) -> bool {
        let mut notes = Vec::new();
        let mut part = [0; 4096];
        while let Ok(read @ 1..) = self.0.read_at(&mut part, notes.len() as u64) {
            notes.extend_from_slice(&part[..read]);
        }
        notes
            .split(|&byte| byte == b'\n')
            .any(|it| it == line.as_bytes())
    }
}

/// Notes, for the jobs around this process, a lock that will be released.
pub(crate) fn note(line: &str) {
    for path in env::var(FILES).unwrap_or_default().lines() {
        // In another pid namespace the number belongs to another process, with other files.
        let is_ours = fs::read_link(path).is_ok_and(|target| {
            target
                .to_string_lossy()
                .starts_with(&format!("/memfd:{NAME} "))
        });
        if is_ours && let Ok(mut file) = OpenOptions::new().append(true).open(path) {
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
    }
}
