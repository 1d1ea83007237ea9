//! Notes the locks that a job gave back by `lockmgr unlock`, so that its `lockmgr run` does not take
//! that for a loss.
//!
//! The store cannot tell the two apart: the row is gone, or another holder's. `run` therefore keeps
//! a file in memory, and names it to its job. `unlock` notes there what it is about to remove.
//! Without /proc the job cannot reach the file, and is ended as if the lock had been forced away.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::{self, Command};

/// Paths of the files of the jobs around a command, one a line.
const FILES: &str = "LOCKMGR_GIVEN_BACK";

/// The name of the file, as the kernel shows it.
const NAME: &str = "lockmgr-given-back";

/// The notes of one job.
#[derive(Debug)]
pub(crate) struct GivenBack(File);

impl GivenBack {
    /// No notes, if the kernel has files in memory.
    #[cfg(target_os = "linux")]
    pub(crate) fn new() -> Option<Self> {
        let file = rustix::fs::memfd_create(NAME, rustix::fs::MemfdFlags::CLOEXEC).ok()?;
        Some(Self(file.into()))
    }

    /// None, as /proc has no paths of files in memory.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new() -> Option<Self> {
        None
    }

    /// Names the file to a command, beside those of the jobs around this process.
    pub(crate) fn name_to(&self, command: &mut Command) {
        let mut files = format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd());
        if let Ok(outer) = env::var(FILES) {
            files = format!("{files}\n{outer}");
        }
        command.env(FILES, files);
    }

    /// Whether the job gave back what this line names.
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

/// Notes for the jobs around this process what is about to be given back.
pub(crate) fn note(line: &str) {
    for path in env::var(FILES).unwrap_or_default().lines() {
        // In another pid namespace the number is of another process, with other files.
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
