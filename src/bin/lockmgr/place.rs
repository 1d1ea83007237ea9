//! Finds the place of the store, and checks the names that the user gives to locks and holders.

use crate::args::Cli;
use crate::duration;
use crate::failure::Failure;
use lockmgr::{Builder, Error, Holder, LockManager, LockName, Note, Printable};
use rustix::process::geteuid;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

/// The directory of the host-wide store.
const SYSTEM: &str = "/var/lib/lockmgr";

/// The name of the store's file, if the user named no other.
const FILE: &str = "locks.redb";

/// A directory that is created for a store if it is missing.
#[derive(Debug)]
enum Directory {
    /// The user's own directory. Missing directories above it are created too.
    Private(PathBuf),
    /// The host-wide directory: other users may read it.
    System,
}

/// The place of the store, and its description for people.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// The directory to create, if the user named no file.
    directory: Option<Directory>,
    builder: Builder,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Place {
    pub(crate) fn of(cli: &Cli) -> Result<Self, Failure> {
        let bound = duration::span(&cli.busy_timeout)?;
        let setting = || env::var_os("LOCKMGR_DB").filter(|path| !path.is_empty());
        let (path, directory) = match (&cli.db, cli.system) {
            (Some(_), true) => {
                let message = "--db and --system name two stores; give one of them";
                return Err(Failure::Usage(message.into()));
            }
            (Some(path), false) => (path.clone(), None),
            (None, true) => (Path::new(SYSTEM).join(FILE), Some(Directory::System)),
            (None, false) => match setting() {
                Some(path) => (path.into(), None),
                None => {
                    let directory = state_directory()?;
                    (directory.join(FILE), Some(Directory::Private(directory)))
                }
            },
        };
        Ok(Self {
            path,
            directory,
            builder: match default_holder()? {
                Some(by) => LockManager::builder().locked_by(by),
                None => LockManager::builder(),
            }
            .busy_timeout(bound),
            json: cli.json,
            quiet: cli.quiet,
        })
    }

    pub(crate) fn to_read(&self) -> Result<LockManager, Failure> {
        Ok(self.builder.clone().read_only().open(&self.path)?)
    }

    /// Opens the store for reading, with a shorter bound of waiting than that of a command.
    pub(crate) fn to_read_within(&self, bound: Duration) -> Result<LockManager, Failure> {
        let builder = self.builder.clone().busy_timeout(bound);
        Ok(builder.read_only().open(&self.path)?)
    }

    pub(crate) fn to_write(&self) -> Result<LockManager, Failure> {
        let (path, made) = match &self.directory {
            Some(Directory::Private(path)) => (path.as_path(), make(path, 0o700, true)),
            Some(Directory::System) => (Path::new(SYSTEM), make(Path::new(SYSTEM), 0o755, false)),
            None => return Ok(self.builder.clone().open(&self.path)?),
        };
        made.map_err(|error| Failure::Directory(path.to_owned(), error))?;
        Ok(self.builder.clone().open(&self.path)?)
    }

    /// Describes the store for people: its file, and whether the file is missing.
    pub(crate) fn shown(&self) -> String {
        let shown = shown(&self.path);
        let is_missing = |path: &Path| matches!(fs::metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound);
        match self.path.parent().filter(|path| *path != Path::new("")) {
            _ if !is_missing(&self.path) => shown,
            Some(directory) if is_missing(directory) => {
                let directory = self::shown(directory);
                format!("{shown} (there is no such directory: {directory})")
            }
            _ => format!("{shown} (there is no such file)"),
        }
    }

    /// Tells whether the user named no file. Then the directory is created if it is missing.
    pub(crate) fn is_default(&self) -> bool {
        self.directory.is_some()
    }

    pub(crate) fn is_missing(&self) -> bool {
        matches!(self.path.try_exists(), Ok(false))
    }
}

pub(crate) fn shown(path: &Path) -> String {
    Printable(&path.to_string_lossy()).to_string()
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

/// Validates a lock's name, before the store is opened.
pub(crate) fn valid(given: &OsStr) -> Result<LockName, Failure> {
    let name = LockName::new(text("lock name", given)?).map_err(Error::from)?;
    Ok(name)
}

pub(crate) fn names(given: &[OsString]) -> Result<Vec<LockName>, Failure> {
    given.iter().map(|given| valid(given)).collect()
}

/// Validates a holder, before the store is opened.
pub(crate) fn holder(given: &OsStr) -> Result<&str, Failure> {
    let text = text("holder", given)?;
    Holder::new(text).map_err(Error::from)?;
    Ok(text)
}

/// Validates a note, before the store is opened.
pub(crate) fn note(given: &OsStr) -> Result<&str, Failure> {
    let text = text("note", given)?;
    Note::new(text).map_err(Error::from)?;
    Ok(text)
}

/// Returns the holder that `LOCKMGR_LOCKED_BY` names, for commands without `--locked-by`.
fn default_holder() -> Result<Option<String>, Failure> {
    let Some(given) = env::var_os("LOCKMGR_LOCKED_BY").filter(|by| !by.is_empty()) else {
        return Ok(None);
    };
    match holder(&given) {
        Ok(by) => Ok(Some(by.to_owned())),
        Err(invalid) => Err(Failure::Usage(format!(
            "LOCKMGR_LOCKED_BY names no holder: {}",
            invalid.message()
        ))),
    }
}

/// Returns `lockmgr` in the user's state directory, as the XDG Base Directory Specification 0.8
/// defines it: in `$XDG_STATE_HOME` if that is absolute, else in `~/.local/state`. Refuses the home
/// of another user, because that user could not use the store, and a home that does not exist.
fn state_directory() -> Result<PathBuf, Failure> {
    let absolute = |key| {
        let path = PathBuf::from(env::var_os(key)?);
        path.is_absolute().then_some(path)
    };
    if let Some(state) = absolute("XDG_STATE_HOME") {
        let above = state
            .ancestors()
            .find_map(|path| owner(path).map(|owner| (path, owner)));
        return match above {
            // All users share directories of root: permissions decide there.
            Some((path, owner)) if owner != geteuid().as_raw() && owner != 0 => {
                Err(foreign("XDG_STATE_HOME", path, owner))
            }
            Some((path, _)) if path.parent().is_none() => Err(absent(&state)),
            _ => Ok(state.join("lockmgr")),
        };
    }
    let Some(home) = absolute("HOME") else {
        return Err(Failure::Usage(format!(
            "there is no home directory to keep the store in: {REMEDY}"
        )));
    };
    match owner(&home) {
        Some(owner) if owner == geteuid().as_raw() => Ok(home.join(".local/state/lockmgr")),
        Some(owner) => Err(foreign("HOME", &home, owner)),
        None => Err(absent(&home)),
    }
}

fn absent(directory: &Path) -> Failure {
    let directory = shown(directory);
    Failure::Usage(format!(
        "the directory {directory} does not exist: {REMEDY}"
    ))
}

const REMEDY: &str = "say --db PATH or --system, or set LOCKMGR_DB";

fn owner(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|file| file.uid())
}

fn foreign(variable: &str, path: &Path, owner: u32) -> Failure {
    let path = shown(path);
    let user = geteuid().as_raw();
    Failure::Usage(format!(
        "{variable} is in {path}, which belongs to user {owner}, and lockmgr runs as user {user}: \
            {REMEDY} (`sudo -H` sets the home of the other user)"
    ))
}

/// Creates the directory if it is missing.
fn make(directory: &Path, mode: u32, with_parents: bool) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(with_parents).mode(mode);
    match builder.create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}
