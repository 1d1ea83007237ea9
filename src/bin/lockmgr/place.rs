//! Where the store is, and what the user's words for locks and holders are.

use crate::args::{self, Cli};
use crate::failure::Failure;
use lockmgr::{Builder, Error, Holder, LockManager, LockName, Printable};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where the store is, and how to speak of it.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// The directory to make, where the user named no place.
    directory: Option<PathBuf>,
    builder: Builder,
    pub(crate) json: bool,
}

impl Place {
    pub(crate) fn of(cli: &Cli) -> Result<Self, Failure> {
        let bound = args::span(&cli.busy_timeout)?;
        let setting = || env::var_os("LOCKMGR_DB").filter(|path| !path.is_empty());
        let given = cli.db.clone().or_else(|| setting().map(PathBuf::from));
        let (path, directory) = match given {
            Some(path) => (path, None),
            None => {
                let directory = state_directory()?;
                (directory.join("locks.redb"), Some(directory))
            }
        };
        Ok(Self {
            path,
            directory,
            builder: LockManager::builder().busy_timeout(bound),
            json: cli.json,
        })
    }

    pub(crate) fn to_read(&self) -> Result<LockManager, Failure> {
        Ok(self.builder.clone().read_only().open(&self.path)?)
    }

    pub(crate) fn to_write(&self) -> Result<LockManager, Failure> {
        if let Some(directory) = &self.directory {
            make_private(directory).map_err(|e| Failure::Directory(directory.clone(), e))?;
        }
        Ok(self.builder.clone().open(&self.path)?)
    }
}

pub(crate) fn text<'a>(role: &str, given: &'a OsStr) -> Result<&'a str, Failure> {
    given.to_str().ok_or_else(|| Failure::Invalid {
        kind: "InvalidName",
        message: format!(
            "invalid {role} \"{}\": it is not UTF-8",
            Printable(&given.to_string_lossy())
        ),
    })
}

/// A lock's name, found valid before the store is opened.
pub(crate) fn valid(given: &OsStr) -> Result<LockName, Failure> {
    let name = LockName::new(text("lock name", given)?).map_err(Error::from)?;
    Ok(name)
}

pub(crate) fn names(given: &[OsString]) -> Result<Vec<LockName>, Failure> {
    given.iter().map(|given| valid(given)).collect()
}

/// A holder, likewise.
pub(crate) fn holder(given: &OsStr) -> Result<&str, Failure> {
    let text = text("holder", given)?;
    Holder::new(text).map_err(Error::from)?;
    Ok(text)
}

/// `lockmgr` in the user's state directory, as the XDG Base Directory Specification 0.8 has it:
/// `$XDG_STATE_HOME` where that is absolute, else `~/.local/state`.
fn state_directory() -> Result<PathBuf, Failure> {
    let absolute = |key| {
        let path = PathBuf::from(env::var_os(key)?);
        path.is_absolute().then_some(path)
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .map(|state| state.join("lockmgr"))
        .ok_or_else(|| {
            let message = "there is no home directory to keep the store in: \
                say --db PATH or set LOCKMGR_DB";
            Failure::Usage(message.into())
        })
}

/// Makes the directory, and what is missing above it, for this user alone.
fn make_private(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}
