//! Makes files that are whole before they have their name, so that no process ever sees half a
//! store, and a process that dies on the way leaves no file of that name.

use super::permission;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

/// Holds a file that does not have its name yet.
pub(super) struct Newborn {
    pub(super) file: File,
    /// The name of the file until then, if the file system needs one.
    temporary: Option<PathBuf>,
}

impl Newborn {
    /// Makes an empty file in the directory of `path`, open to the users who may open the store.
    pub(super) fn beside(path: &Path) -> io::Result<Self> {
        let newborn = match unnamed(path)? {
            Some(file) => Self {
                file,
                temporary: None,
            },
            None => {
                let random = RandomState::new().hash_one(path);
                let temporary = directory(path).join(format!(".lockmgr-{random:016x}"));
                let mut options = File::options();
                options.read(true).write(true).create_new(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, permission::PRIVATE);
                Self {
                    file: options.open(&temporary)?,
                    temporary: Some(temporary),
                }
            }
        };
        permission::share(&newborn.file, path)?;
        Ok(newborn)
    }

    /// Gives the file its name, durably, unless there is a file of that name. Then another process
    /// was faster, and its file is the store.
    pub(super) fn name(self, path: &Path) -> io::Result<()> {
        let named = match &self.temporary {
            Some(temporary) => fs::hard_link(temporary, path).or_else(|error| {
                let is_there = error.kind() == io::ErrorKind::AlreadyExists;
                // A file system may have no second names for a file.
                if is_there {
                    Err(error)
                } else {
                    rename(temporary, path)
                }
            }),
            None => link(&self.file, path),
        };
        match named {
            Ok(()) => sync(directory(path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // The file is gone already if it was renamed.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Opens a file without a name. Returns none if the system or the file system has no such files.
#[cfg(target_os = "linux")]
fn unnamed(path: &Path) -> io::Result<Option<File>> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;

    if !Path::new("/proc/self/fd").is_dir() {
        return Ok(None);
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(permission::PRIVATE);
    match rustix::fs::open(directory(path), flags, mode) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn unnamed(_: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// Names a file that has no name.
#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd;

    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn link(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Renames a file, unless there is one of the new name.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn rename(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn sync(directory: &Path) -> io::Result<()> {
    match File::open(directory) {
        Ok(directory) => directory.sync_all(),
        // The directory may be writable and not readable. Then its file system decides when the
        // name is durable.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn sync(_: &Path) -> io::Result<()> {
    Ok(())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
