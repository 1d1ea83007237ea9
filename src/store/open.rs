//! Opens, creates and repairs the file, within the bound of the call.

use super::bounded::{self, BoundedFile};
use super::fault::At;
use super::format::Format;
use super::handle::{Handle, Opened};
use super::{Config, Mode, Store, newborn};
use crate::error::{Error, Result};
use redb::backends::FileBackend;
use redb::{ConcurrencyMode, DatabaseError, ReadableDatabase};
use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The longest pause between two attempts to open a store that another process has to itself.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

impl Store {
    pub(super) fn open_writer(&self) -> Result<Handle> {
        let at = self.at("open");
        let deadline = Instant::now() + self.config.busy_timeout;
        let mut pause = Pause::default();
        let mut was_created = false;
        loop {
            let Some(file) = self.open_file(File::options().read(true).write(true))? else {
                // Once more, where somebody deletes it as fast as it is created.
                if was_created && Instant::now() >= deadline {
                    return Err(at.busy());
                }
                self.create()?;
                was_created = true;
                continue;
            };
            let copy = file.try_clone().map_err(|error| at.io(error))?;
            match self.builder().create_with_backend(self.backend(file)?) {
                Ok(database) => {
                    at.check_format(&database, &copy)?;
                    let metadata = copy.metadata().map_err(|error| at.io(error))?;
                    let judge = self.judge(copy.try_clone().ok());
                    return Ok(Handle::new(
                        Opened::Writer(database, copy),
                        self.config.mode,
                        &metadata,
                        judge,
                    ));
                }
                Err(error) => pause.after(error, at)?,
            }
        }
    }

    pub(super) fn open_reader(&self) -> Result<Option<Handle>> {
        let at = self.at("open");
        let deadline = Instant::now() + self.config.busy_timeout;
        let mut pause = Pause::default();
        let mut was_repaired = false;
        loop {
            let Some(file) = self.open_file(File::options().read(true))? else {
                return Ok(None);
            };
            // An empty file is what a writer is about to make a store of.
            let metadata = file.metadata().map_err(|error| at.io(error))?;
            if metadata.len() == 0 {
                return Ok(None);
            }
            let copy = file.try_clone().map_err(|error| at.io(error))?;
            let backend = self.backend(file)?;
            match self.builder().open_read_only_with_backend(backend) {
                Ok(database) => {
                    return Ok(match at.format_of(|| database.begin_read(), &copy)? {
                        Format::Ours => Some(Handle::new(
                            Opened::Reader(database),
                            Mode::ReadOnly,
                            &metadata,
                            self.judge(Some(copy)),
                        )),
                        Format::None => None,
                    });
                }
                // Once more, as another process may have died since.
                Err(DatabaseError::RepairAborted) if !was_repaired || Instant::now() < deadline => {
                    self.repair()?;
                    was_repaired = true;
                }
                Err(DatabaseError::RepairAborted) => {
                    return Err(at.corrupted("no repair leaves it clean"));
                }
                Err(error) => pause.after(error, at)?,
            }
        }
    }

    /// Repairs what a process that died left behind: opening for writing does, reading may not.
    pub(super) fn repair(&self) -> Result<()> {
        let at = self.at("repair");
        let config = Config {
            mode: Mode::Shared,
            ..self.config.clone()
        };
        let writer = Self::unopened(config, self.failure.clone());
        match writer.open_writer()?.database {
            Opened::Writer(database, _) => database.close().map_err(|error| at.failed(error)),
            Opened::Reader(_) => Ok(()),
        }
    }

    /// Opens the file where it exists, without waiting whatever it is.
    pub(super) fn open_file(&self, options: &mut fs::OpenOptions) -> Result<Option<File>> {
        let at = self.at("open");
        #[cfg(target_os = "linux")]
        {
            // A FIFO would wait for its other end.
            let nonblock = rustix::fs::OFlags::NONBLOCK.bits();
            std::os::unix::fs::OpenOptionsExt::custom_flags(options, nonblock.cast_signed());
        }
        let is_file = match fs::metadata(self.path()) {
            Ok(metadata) => metadata.is_file(),
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound => Ok(None),
                    // No file can have such a name.
                    io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
                        if self.config.mode != Mode::ReadOnly =>
                    {
                        Err(self.at("create").io(error))
                    }
                    _ => Err(at.io(error)),
                };
            }
        };
        if !is_file {
            return Err(at.not_a_store("it is not a regular file"));
        }
        match options.open(self.path()) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at.io(error)),
        }
    }

    /// Creates the store: whole, format and all, before it has a name. A process that dies on the
    /// way leaves nothing behind, where redb would leave a file that it refuses ever after.
    pub(super) fn create(&self) -> Result<()> {
        let at = self.at("create");
        if self.path().is_symlink() {
            let dangling =
                io::Error::new(io::ErrorKind::NotFound, "it is a dangling symbolic link");
            return Err(at.io(dangling));
        }
        match newborn::file_beside(self.path()) {
            Ok(Some(file)) => {
                let copy = file.try_clone().map_err(|error| at.io(error))?;
                let database = redb::Builder::new()
                    .create_with_backend(self.backend(copy)?)
                    .map_err(|error| at.failed(error))?;
                at.begin_format(&database)?;
                database.close().map_err(|error| at.failed(error))?;
                newborn::name(&file, self.path()).map_err(|error| at.io(error))?;
            }
            // No unnamed files here: an empty one, that redb makes a store of.
            Ok(None) => match File::create_new(self.path()) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(at.io(error));
                }
                _ => {}
            },
            Err(error) => return Err(at.io(error)),
        }
        Ok(())
    }

    pub(super) fn backend(&self, file: File) -> Result<BoundedFile> {
        let file = FileBackend::new(file).map_err(|error| self.at("open").failed(error))?;
        let Config {
            busy_timeout, hook, ..
        } = &self.config;
        Ok(BoundedFile::new(
            file,
            *busy_timeout,
            self.failure.clone(),
            Arc::clone(&self.courtesy),
            hook.clone(),
        ))
    }

    pub(super) fn builder(&self) -> redb::Builder {
        let mut builder = redb::Builder::new();
        builder
            .set_cache_size(self.config.cache_size)
            .set_concurrency_mode(match self.config.mode {
                Mode::Shared | Mode::ReadOnly => ConcurrencyMode::MultiWriter,
                Mode::Exclusive => ConcurrencyMode::ExclusiveWriter,
            });
        builder
    }
}

/// Waits between attempts to open a file that another process has to itself; for that the kernel
/// has no queue.
pub(super) struct Pause {
    pub(super) next: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self {
            next: Duration::from_millis(1),
        }
    }
}

impl Pause {
    pub(super) fn after(&mut self, error: DatabaseError, at: At<'_>) -> Result<()> {
        let error = at.failed(error);
        if !matches!(error, Error::StoreBusy { .. }) {
            return Err(error);
        }
        let may_go_on = bounded::wait(at.config.busy_timeout, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            thread::sleep(self.next.min(left));
            !left.is_zero()
        });
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        may_go_on.then_some(()).ok_or(error)
    }
}
