//! Opens, creates and repairs the file, within the bound of the call.

use super::bounded::{self, BoundedFile, LastFailure};
use super::fault::{Fault, caught};
use super::format::{self, Format};
use super::handle::{Handle, Opened};
use super::in_memory::{InMemory, Seen};
use super::newborn::Newborn;
use super::{Config, Mode, ReadTx, Store};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::holds::Rows;
use crate::lock::Lock;
use crate::name::Printable;
use redb::backends::FileBackend;
use redb::{ConcurrencyMode, Database, DatabaseError, ReadableDatabase};
use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The longest pause between two attempts to open a store that another process has to itself.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The most holders that a refused exclusive opening names.
const MOST_NAMED: usize = 3;

impl Store {
    pub(super) fn open_writer(&self) -> Result<Handle> {
        self.at("open").run(|| {
            let mut pause = Pause::new(self.config.busy_timeout);
            let mut was_created = false;
            loop {
                if let Some(handle) = self.open_existing(&mut pause)? {
                    return Ok(handle);
                }
                // Try once more if another process deletes the file as soon as it is created.
                if was_created && !pause.wait() {
                    return Err(Fault::busy(
                        "other processes delete it as soon as it is created",
                    ));
                }
                self.create()?;
                was_created = true;
            }
        })
    }

    /// Opens the file for writing, and repairs it, if it is there.
    fn open_existing(&self, pause: &mut Pause) -> Result<Option<Handle>, Fault> {
        loop {
            let Some(file) = self.open_file(File::options().read(true).write(true))? else {
                return Ok(None);
            };
            let copy = file.try_clone()?;
            let backend = self.backend(file)?;
            let opening = backend.opening();
            match self.builder().create_with_backend(backend) {
                Ok(database) => {
                    opening.done();
                    format::check_format(&database, &copy)?;
                    let metadata = copy.metadata()?;
                    let is_alone = self.config.mode == Mode::Exclusive;
                    let judge = self.judge(copy.try_clone().ok());
                    let opened = Opened::Writer(database, copy);
                    return Ok(Some(Handle::new(opened, &metadata, is_alone, judge)));
                }
                Err(error) if !is_taken(&error) => return Err(error.into()),
                Err(_) if pause.wait() => {}
                Err(_) if self.config.mode == Mode::Exclusive => {
                    return Err(Fault::busy(self.others()));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn open_reader(&self) -> Result<Option<Handle>> {
        self.at("open").run(|| {
            let mut pause = Pause::new(self.config.busy_timeout);
            let mut may_repair = true;
            loop {
                let Some(file) = self.open_file(File::options().read(true))? else {
                    return Ok(None);
                };
                // An empty file is one of which a writer is about to make a store.
                let metadata = file.metadata()?;
                if metadata.len() == 0 {
                    return Ok(None);
                }
                let copy = file.try_clone()?;
                let backend = self.backend(file)?;
                let opening = backend.opening();
                let (format, opened) = match self.builder().open_read_only_with_backend(backend) {
                    Ok(database) => {
                        opening.done();
                        let format = format::format_of(|| database.begin_read(), &copy)?;
                        (format, Opened::Reader(database))
                    }
                    // A process died. A writer repairs the file, if this user can write.
                    Err(DatabaseError::RepairAborted) if may_repair => {
                        may_repair = false;
                        match self.repair() {
                            Err(Error::Io { source, .. }) if cannot_write(&source) => {
                                self.failure.take();
                            }
                            repaired => repaired?,
                        }
                        continue;
                    }
                    Err(DatabaseError::RepairAborted) => match self.repair_in_memory(&copy)? {
                        Some((database, seen)) => {
                            let format = format::format_in(&database.begin_read()?)?;
                            (format, Opened::InMemory(database, seen))
                        }
                        None if pause.wait() => continue,
                        None => return Err(Fault::busy("other processes keep changing it")),
                    },
                    Err(error) if is_taken(&error) && pause.wait() => continue,
                    Err(error) => return Err(error.into()),
                };
                return Ok(match format {
                    Format::Ours => {
                        let judge = self.judge(Some(copy));
                        Some(Handle::new(opened, &metadata, false, judge))
                    }
                    Format::None => None,
                });
            }
        })
    }

    /// Repairs in memory the last commit of a file that asks for repair. Returns none if another
    /// process wrote to the file meanwhile.
    fn repair_in_memory(&self, file: &File) -> Result<Option<(Database, Seen)>, Fault> {
        let seen = Seen::of(file.try_clone()?)?;
        let at = self.at("repair");
        let repair = || {
            let copy = InMemory::of(self.backend(file.try_clone()?)?)?;
            let mut builder = redb::Builder::new();
            builder
                .set_cache_size(self.config.cache_size)
                .set_check_integrity_on_open(true);
            Ok(builder.create_with_backend(copy)?)
        };
        let database = caught(at, || at.run(repair));
        // If a writer came, the copy may be of a part of its work.
        let opened = self
            .builder()
            .open_read_only_with_backend(self.backend(file.try_clone()?)?);
        let asks_for_repair = matches!(opened, Err(DatabaseError::RepairAborted));
        if !asks_for_repair || !seen.is_current() {
            return Ok(None);
        }
        Ok(Some((database?, seen)))
    }

    /// Repairs the file after a process died: opening for writing does that, and reading may not.
    fn repair(&self) -> Result<()> {
        let config = Config {
            mode: Mode::Shared,
            ..self.config.clone()
        };
        let writer = Self::unopened(config, self.failure.clone());
        self.at("repair").run(|| {
            let mut pause = Pause::new(self.config.busy_timeout);
            let opened = writer.open_existing(&mut pause)?;
            if let Some(Opened::Writer(database, _)) = opened.map(|handle| handle.database) {
                database.close()?;
            }
            Ok(())
        })
    }

    /// Returns why the store cannot be opened exclusively: other managers have it open. Names some
    /// holders, if the store can be read.
    fn others(&self) -> String {
        let config = Config {
            mode: Mode::ReadOnly,
            busy_timeout: Duration::ZERO,
            ..self.config.clone()
        };
        let reader = Self::unopened(config, LastFailure::default());
        let now = Clock::system().now();
        let live = |tx: &ReadTx<'_>| -> Result<Vec<Lock>> {
            let rows = tx.with_prefix("")?.into_iter();
            Ok(rows
                .filter_map(|lock| lock.if_live(now, tx.judge()))
                .collect())
        };
        let held = reader.read("read", live).unwrap_or_default();
        let named = held.iter().take(MOST_NAMED).map(ToString::to_string);
        let named = named.collect::<Vec<_>>().join("; ");
        match held.len() {
            0 => "others have it open, and exclusive mode shares it with nobody".into(),
            count if count <= MOST_NAMED => format!("others have it open: {named}"),
            count => {
                let more = count - MOST_NAMED;
                format!("others have it open: {named}; and {more} more locks")
            }
        }
    }

    /// Opens the file if it is there, and refuses a link or a file on which opening would wait.
    pub(super) fn open_file(&self, options: &mut fs::OpenOptions) -> Result<Option<File>, Fault> {
        #[cfg(unix)]
        {
            use rustix::fs::OFlags;
            let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
            std::os::unix::fs::OpenOptionsExt::custom_flags(options, flags.bits().cast_signed());
        }
        match fs::symlink_metadata(self.path()) {
            Ok(metadata) => self.is_regular(&metadata)?,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound => Ok(None),
                    // No file can have such a name.
                    io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
                        if self.config.mode != Mode::ReadOnly =>
                    {
                        Err(self.at("create").failed(error).into())
                    }
                    _ => Err(error.into()),
                };
            }
        }
        match options.open(self.path()) {
            Ok(file) => {
                // Another file may have taken the name meanwhile.
                self.is_regular(&file.metadata()?)?;
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(_) if self.path().is_symlink() => Err(self.link()),
            Err(error) => Err(error.into()),
        }
    }

    fn is_regular(&self, metadata: &fs::Metadata) -> Result<(), Fault> {
        if metadata.is_symlink() {
            return Err(self.link());
        }
        let not_regular = || Fault::NotAStore("it is not a regular file".into());
        metadata.is_file().then_some(()).ok_or_else(not_regular)
    }

    fn link(&self) -> Fault {
        let target = fs::read_link(self.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        let target = Printable(&target);
        Fault::NotAStore(format!(
            "it is a symbolic link; name the file itself, {target}"
        ))
    }

    /// Creates the store whole, with its format, before it has a name. If a process dies on the
    /// way, it leaves nothing behind. redb alone would leave a file that it refuses ever after.
    fn create(&self) -> Result<()> {
        self.at("create").run(|| {
            let newborn = Newborn::beside(self.path())?;
            let backend = self.backend(newborn.file.try_clone()?)?;
            let database = redb::Builder::new().create_with_backend(backend)?;
            format::begin_format(&database)?;
            database.close()?;
            Ok(newborn.name(self.path())?)
        })
    }

    fn backend(&self, file: File) -> Result<BoundedFile, Fault> {
        let file = FileBackend::new(file)?;
        let Config {
            busy_timeout, hook, ..
        } = &self.config;
        Ok(BoundedFile::new(
            file,
            *busy_timeout,
            self.failure.clone(),
            Arc::clone(&self.yielding),
            hook.clone(),
        ))
    }

    fn builder(&self) -> redb::Builder {
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

/// Tells whether another process has the file open in a way that keeps this one out.
fn is_taken(error: &DatabaseError) -> bool {
    matches!(
        error,
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch
    )
}

/// Tells whether this user may not write, or no user can, while all may still read.
fn cannot_write(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
    )
}

/// Waits between attempts to open a store that another process has exclusively, because the kernel
/// has no queue for that.
struct Pause {
    next: Duration,
    bound: Duration,
}

impl Pause {
    fn new(bound: Duration) -> Self {
        let next = Duration::from_millis(1);
        Self { next, bound }
    }

    /// Waits for a moment. Returns false if the call has waited for its bound.
    fn wait(&mut self) -> bool {
        let may_go_on = bounded::wait(self.bound, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            thread::sleep(self.next.min(left));
            !left.is_zero()
        });
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        may_go_on
    }
}
