//! The file: opening, creating and repairing it, and running one closure as one transaction.
//!
//! The only room that knows redb. Nothing of redb leaves it: rows come out as locks, failures as
//! [`Error`]. It decides nothing about locks, and never waits beyond the bound of a call.

mod bounded;
mod courtesy;
mod newborn;
mod turns;

use crate::clock::{Moment, coarse_millis};
use crate::error::{Error, Result};
use crate::lock::{Lock, LockName};
use crate::process::{Origin, Process};
use crate::queue::Request;
use crate::record::{self, BadRow, Digest, State};
use crate::storage::StorageHook;
use crate::wait::announce;
use bounded::{BoundedFile, LastFailure};
use courtesy::Courtesy;
use redb::backends::FileBackend;
use redb::{
    ConcurrencyMode, Database, DatabaseError, ReadOnlyDatabase, ReadOnlyTable, ReadTransaction,
    ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, TableError,
    WriteTransaction,
};
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::{Bound, ControlFlow, RangeBounds};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};
use turns::Turns;

const LOCKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("locks");
const REQUESTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("requests");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("lockmgr");

/// The key in [`META`] of the store's format, and the format that this release reads and writes.
const FORMAT_KEY: &str = "format";
const FORMAT: u32 = 1;
/// The key in [`META`] of the [`State`].
const STATE_KEY: &str = "state";

/// Rows that housekeeping looks at for each row created. Any factor above one bounds the table:
/// in one round over a table of N rows at most N / 8 are created, and every row that had expired
/// when the round began is gone at its end. Four let the file grow beyond twice its largest live
/// set under bulk churn; sixteen did too, by copying more pages than they freed.
const SWEPT_PER_CREATED: usize = 8;
/// Of those, rows bound to a process that has to be judged, which costs as much as all the rest.
const JUDGED_PER_CREATED: usize = 2;

/// Rows that one transaction of a cleaning looks at: some tens of milliseconds of work.
pub(crate) const CLEANED_AT_A_TIME: usize = 50_000;
/// Bytes of a file that are worth a commit to be cut off.
pub(crate) const MUCH: u64 = 1 << 20;

/// How long a file may have been deleted or replaced before who only reads it takes notice.
const SEEN_WHILE_READING: Duration = Duration::from_millis(100);

/// The largest number of rows that are looked through, in less than a millisecond, before the
/// first answer that one is absent.
const MOST_CHECKED: u64 = 1_000;

/// The longest pause between two attempts to open a store that another process has to itself.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// How the file is opened, and shared with other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
    ReadOnly,
}

/// What opening needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) path: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) busy_timeout: Duration,
    /// Bytes.
    pub(crate) cache_size: usize,
    pub(crate) hook: Option<StorageHook>,
}

/// A store, opened once and again after a failure that left its handle unusable.
#[derive(Debug)]
pub(crate) struct Store {
    config: Config,
    handle: RwLock<Option<Arc<Handle>>>,
    /// Of those who open the file.
    openings: Turns,
    /// Of those who write.
    turns: Turns,
    courtesy: Arc<Courtesy>,
    failure: LastFailure,
}

struct Handle {
    /// Where no other process writes. Dropped before the database that it is of.
    kept: Option<Kept>,
    database: Opened,
    /// Which file that is: the one of this name, until somebody deletes or replaces it.
    identity: Option<Identity>,
    /// When the name was last looked up, in coarse milliseconds.
    seen_at: AtomicU64,
    /// Whether the rows were looked through, as far as they are.
    is_checked: AtomicBool,
    /// The process that opened it. One that is forked off shares the open file, and so the locks
    /// on it: it has to open its own.
    origin: Origin,
}

enum Opened {
    /// With the open file, to announce changes of it.
    Writer(Database, File),
    Reader(ReadOnlyDatabase),
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.database {
            Opened::Writer(..) => "Writer",
            Opened::Reader(_) => "Reader",
        })
    }
}

impl Handle {
    fn new(database: Opened, mode: Mode, metadata: &fs::Metadata) -> Self {
        Self {
            kept: (mode == Mode::Exclusive).then(Kept::default),
            database,
            identity: Identity::of(metadata),
            seen_at: AtomicU64::new(coarse_millis()),
            is_checked: AtomicBool::new(false),
            origin: Origin::here(),
        }
    }

    /// The store as it was committed last.
    fn snapshot(&self, at: At<'_>) -> Result<Arc<Snapshot>> {
        let begin = || {
            let txn = match &self.database {
                Opened::Writer(database, _) => database.begin_read(),
                Opened::Reader(database) => database.begin_read(),
            };
            Snapshot::of(txn.map_err(|error| at.failed(error))?, at).map(Arc::new)
        };
        match &self.kept {
            Some(kept) => kept.get_or(begin),
            None => begin(),
        }
    }

    fn commit(&self, txn: WriteTransaction) -> Result<(), redb::CommitError> {
        // Before, as redb uses no page again that a snapshot may still need; and after, for those
        // who looked meanwhile.
        self.kept.iter().for_each(Kept::forget);
        let result = txn.commit();
        self.kept.iter().for_each(Kept::forget);
        result
    }

    /// Whether the name still leads to this file. Looked up at most every so often, by who only
    /// reads.
    fn is_current(&self, path: &Path, looks: Duration) -> bool {
        let now = coarse_millis();
        let unseen = now.saturating_sub(self.seen_at.load(Ordering::Relaxed));
        if Duration::from_millis(unseen) < looks {
            return true;
        }
        self.seen_at.store(now, Ordering::Relaxed);
        match fs::metadata(path) {
            Ok(metadata) => Identity::of(&metadata) == self.identity,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

/// The snapshot that was read last, for as long as nothing is committed: to begin another costs
/// more than to read a row of it.
#[derive(Default)]
struct Kept(RwLock<Option<Arc<Snapshot>>>);

impl Kept {
    fn get_or(&self, begin: impl FnOnce() -> Result<Arc<Snapshot>>) -> Result<Arc<Snapshot>> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = &*kept {
            return Ok(Arc::clone(snapshot));
        }
        drop(kept);
        // One at a time: amid a commit another's could be newer, and reads would go back.
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let snapshot = match slot.take() {
            Some(snapshot) => snapshot,
            None => begin()?,
        };
        Ok(Arc::clone(slot.insert(snapshot)))
    }

    fn forget(&self) {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let snapshot = slot.take();
        drop(slot);
        drop(snapshot);
    }
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    #[cfg(unix)]
    fn of(metadata: &fs::Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    #[cfg(not(unix))]
    fn of(_: &fs::Metadata) -> Option<Self> {
        None
    }
}

impl Store {
    /// Opens the store, creates it where it is missing, and repairs it where a process died.
    /// Read-only it creates nothing: a missing file is an empty store until somebody creates it.
    pub(crate) fn open(config: Config) -> Result<Self> {
        let store = Self {
            config,
            handle: RwLock::default(),
            openings: Turns::default(),
            turns: Turns::default(),
            courtesy: Arc::default(),
            failure: LastFailure::default(),
        };
        store.call("open", || store.handle().map(drop))?;
        Ok(store)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.config.path
    }

    /// Runs calls that are over within this time, whatever the bound of each.
    pub(crate) fn within<T>(&self, bound: Duration, calls: impl FnOnce() -> T) -> T {
        let bound = bound.min(self.config.busy_timeout);
        bounded::until(Instant::now() + bound, calls)
    }

    /// Runs calls that wait, together, no longer than one does.
    pub(crate) fn in_one_bound<T>(&self, calls: impl FnOnce() -> T) -> T {
        bounded::within(self.config.busy_timeout, calls)
    }

    /// Runs `body` on a snapshot of the store.
    pub(crate) fn read<T>(
        &self,
        action: &'static str,
        body: impl FnOnce(&ReadTx<'_>) -> Result<T>,
    ) -> Result<T> {
        self.call(action, || {
            let at = self.at(action);
            let Some(handle) = self.current_handle(SEEN_WHILE_READING)? else {
                return body(&ReadTx { tables: None, at });
            };
            let snapshot = handle.snapshot(at)?;
            let tables = Some(Tables {
                snapshot: &snapshot,
                is_checked: &handle.is_checked,
            });
            body(&ReadTx { tables, at })
        })
    }

    /// Runs `body` as one write transaction: committed where it returns and changed something,
    /// aborted where it changed nothing or fails.
    pub(crate) fn write<T>(
        &self,
        action: &'static str,
        body: impl FnOnce(&mut WriteTx<'_>) -> Result<T>,
    ) -> Result<T> {
        self.call(action, || {
            let at = self.at(action);
            let turn = self.turns.take(self.config.busy_timeout);
            let _turn = turn.ok_or_else(|| at.busy())?;
            let handle = self.current_handle(Duration::ZERO)?;
            let Some((handle, Opened::Writer(database, file))) =
                handle.as_deref().map(|handle| (handle, &handle.database))
            else {
                let read_only = "the store was opened read-only";
                let denied = io::Error::new(io::ErrorKind::PermissionDenied, read_only);
                return Err(at.io(denied));
            };
            self.courtesy.give_way();
            let txn = database.begin_write().map_err(|error| at.failed(error))?;
            match WriteTx::run(&txn, &handle.is_checked, at, body) {
                Ok((value, outcome @ (Outcome::Changed | Outcome::Awaited))) => {
                    match handle.commit(txn) {
                        Ok(()) => {
                            if outcome == Outcome::Awaited {
                                announce(file);
                            }
                            Ok(value)
                        }
                        Err(error) => {
                            // Half way through a commit the handle no longer knows the file.
                            let error = at.failed(error);
                            self.close();
                            Err(error)
                        }
                    }
                }
                Ok((value, Outcome::Unchanged)) => {
                    txn.abort().map_err(|error| at.failed(error))?;
                    Ok(value)
                }
                Err(error) => {
                    txn.abort().map_err(|error| at.failed(error))?;
                    Err(error)
                }
            }
        })
    }

    /// Makes a commit that changes nothing, for redb to cut off a half of what is free at the end of
    /// the file, and says by how many bytes that made it shorter. All that is left is cut off at
    /// once where the last handle is closed, and others wait for that: 0.2 ms for each MiB.
    pub(crate) fn cut_off(&self, action: &'static str) -> Result<u64> {
        let len = || fs::metadata(self.path()).map_or(0, |metadata| metadata.len());
        let before = len();
        self.write(action, |tx| {
            tx.is_changed = true;
            Ok(())
        })?;
        Ok(before.saturating_sub(len()))
    }

    /// Runs one call within its bound. Where storage failed it the handle is closed, so that the
    /// next call opens the file anew and repairs it; also where the call succeeded all the same,
    /// as a lock on the file that it could not give back would stay as long as the handle.
    fn call<T>(&self, action: &'static str, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let result = caught(self.at(action), || {
            bounded::within(self.config.busy_timeout, body)
        });
        let has_failed = matches!(result, Err(Error::Io { .. } | Error::Corrupted { .. }));
        if self.failure.take().is_some() || has_failed {
            self.close();
        }
        result
    }

    fn close(&self) {
        let handle = self
            .handle
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(inherited) = handle.as_ref().filter(|it| it.origin.is_elsewhere()) {
            // Closing it would free the locks of the process that opened it.
            std::mem::forget(Arc::clone(inherited));
            return;
        }
        // Closing a damaged file may panic as reading it may.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(handle)));
        // Nor has the next handle to do with how this one failed.
        self.failure.take();
    }

    /// The handle of the file that has the store's name now. Whoever deletes or replaces a store
    /// takes its locks with it; going on with the nameless file would share it with nobody.
    fn current_handle(&self, looks: Duration) -> Result<Option<Arc<Handle>>> {
        let handle = self.handle()?;
        match handle {
            Some(handle) if !handle.is_current(self.path(), looks) => {
                drop(handle);
                self.close();
                self.handle()
            }
            handle => Ok(handle),
        }
    }

    /// The open handle, opened if need be; none where the store is read-only and missing.
    fn handle(&self) -> Result<Option<Arc<Handle>>> {
        let opened = || {
            let slot = self.handle.read().unwrap_or_else(PoisonError::into_inner);
            slot.clone()
        };
        match opened() {
            Some(handle) if !handle.origin.is_elsewhere() => return Ok(Some(handle)),
            Some(_) => self.close(),
            None => {}
        }
        let turn = self.openings.take(self.config.busy_timeout);
        let _turn = turn.ok_or_else(|| self.at("open").busy())?;
        if let Some(handle) = opened() {
            return Ok(Some(handle));
        }
        let handle = match self.config.mode {
            Mode::ReadOnly => self.open_reader()?,
            Mode::Shared | Mode::Exclusive => Some(self.open_writer()?),
        };
        let handle = handle.map(Arc::new);
        let mut slot = self.handle.write().unwrap_or_else(PoisonError::into_inner);
        slot.clone_from(&handle);
        Ok(handle)
    }

    fn open_writer(&self) -> Result<Handle> {
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
                    return Ok(Handle::new(
                        Opened::Writer(database, copy),
                        self.config.mode,
                        &metadata,
                    ));
                }
                Err(error) => pause.after(error, at)?,
            }
        }
    }

    fn open_reader(&self) -> Result<Option<Handle>> {
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
    fn repair(&self) -> Result<()> {
        let at = self.at("repair");
        let writer = Self {
            config: Config {
                mode: Mode::Shared,
                ..self.config.clone()
            },
            handle: RwLock::default(),
            openings: Turns::default(),
            turns: Turns::default(),
            courtesy: Arc::default(),
            failure: self.failure.clone(),
        };
        match writer.open_writer()?.database {
            Opened::Writer(database, _) => database.close().map_err(|error| at.failed(error)),
            Opened::Reader(_) => Ok(()),
        }
    }

    /// Opens the file where it exists, without waiting whatever it is.
    fn open_file(&self, options: &mut fs::OpenOptions) -> Result<Option<File>> {
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
    fn create(&self) -> Result<()> {
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

    fn backend(&self, file: File) -> Result<BoundedFile> {
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

    fn at(&self, action: &'static str) -> At<'_> {
        At {
            config: &self.config,
            failure: &self.failure,
            action,
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// Runs what redb may panic amid: on a file that something else than redb changed it may, and
/// says so.
fn caught<T>(at: At<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            // What redb took for impossible says nothing to who reads it.
            .filter(|text| !text.contains("unreachable"))
            .unwrap_or("unexpected contents");
        Err(at.corrupted(text))
    })
}

/// Where and at what something failed.
#[derive(Clone, Copy)]
struct At<'a> {
    config: &'a Config,
    failure: &'a LastFailure,
    action: &'static str,
}

/// What a redb file holds.
enum Format {
    /// Our tables, in this release's format.
    Ours,
    /// Nothing at all.
    None,
}

impl At<'_> {
    fn path(&self) -> PathBuf {
        self.config.path.clone()
    }

    fn io(&self, source: io::Error) -> Error {
        Error::Io {
            path: self.path(),
            action: self.action,
            source,
        }
    }

    fn busy(&self) -> Error {
        Error::StoreBusy {
            path: self.path(),
            action: self.action,
            waited: self.config.busy_timeout,
        }
    }

    fn corrupted(&self, detail: impl Into<String>) -> Error {
        Error::Corrupted {
            path: self.path(),
            action: self.action,
            detail: detail.into(),
        }
    }

    fn not_a_store(&self, reason: impl Into<String>) -> Error {
        Error::NotAStore {
            path: self.path(),
            reason: reason.into(),
        }
    }

    fn bad_row(&self, BadRow(detail): BadRow) -> Error {
        self.corrupted(detail)
    }

    fn failed(&self, error: impl Into<redb::Error>) -> Error {
        match error.into() {
            redb::Error::Io(error) => match error.kind() {
                // Ours, of a bounded wait; the system's bears its number.
                io::ErrorKind::TimedOut if error.raw_os_error().is_none() => self.busy(),
                io::ErrorKind::UnexpectedEof => self.corrupted("it ends too early"),
                io::ErrorKind::InvalidData => self.not_a_store("it is not a redb file"),
                _ => self.io(error),
            },
            error @ redb::Error::PreviousIo => match self.failure.take() {
                Some(failure) => self.failed(redb::Error::Io(failure)),
                None => self.io(io::Error::other(error.to_string())),
            },
            redb::Error::Corrupted(detail) => self.corrupted(detail),
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => self.busy(),
            redb::Error::UpgradeRequired(version) => {
                self.not_a_store(format!("it has the old redb file format {version}"))
            }
            redb::Error::TableDoesNotExist(table) => {
                self.not_a_store(format!("it has no table \"{table}\""))
            }
            error @ (redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }) => self.not_a_store(error.to_string()),
            error => self.io(io::Error::other(error.to_string())),
        }
    }

    /// Checks that an open file is a store of this format. One that holds nothing becomes it.
    fn check_format(&self, database: &Database, file: &File) -> Result<()> {
        match self.format_of(|| database.begin_read(), file)? {
            Format::Ours => Ok(()),
            Format::None => self.begin_format(database),
        }
    }

    /// Looks through a store that is small, whether every row is there and found by its name:
    /// redb does not check the pages it reads, and a lock that damage hides looks free.
    fn check_rows(
        &self,
        locks: &impl ReadableTable<&'static str, &'static [u8]>,
        expected: Digest,
    ) -> Result<()> {
        let missing = || self.corrupted("rows are missing");
        let count = locks.len().map_err(|error| self.failed(error))?;
        if count > MOST_CHECKED {
            return (count == expected.count).then_some(()).ok_or_else(missing);
        }
        let mut rows = Digest::default();
        for entry in locks.iter().map_err(|error| self.failed(error))? {
            let (name, row) = entry.map_err(|error| self.failed(error))?;
            let (name, row) = (name.value(), row.value());
            record::term(name, row).map_err(|bad| self.bad_row(bad))?;
            let found = locks.get(name).map_err(|error| self.failed(error))?;
            if found.is_none_or(|found| found.value() != row) {
                return Err(self.corrupted("a row is not found by its name"));
            }
            rows.add(row);
        }
        (rows == expected).then_some(()).ok_or_else(missing)
    }

    /// Where no table is found, and the header knows of some, damage hides them; or they came
    /// since, and are found now.
    fn format_of(
        &self,
        begin_read: impl Fn() -> Result<ReadTransaction, redb::TransactionError>,
        file: &File,
    ) -> Result<Format> {
        let look = || self.format_in(&begin_read().map_err(|error| self.failed(error))?);
        match look()? {
            Format::None if bounded::has_tables(file).map_err(|error| self.io(error))? => {
                match look()? {
                    Format::None => Err(self.corrupted("its tables are missing")),
                    Format::Ours => Ok(Format::Ours),
                }
            }
            format => Ok(format),
        }
    }

    fn format_in(&self, txn: &ReadTransaction) -> Result<Format> {
        let meta = match txn.open_table(META) {
            Ok(meta) => meta,
            Err(TableError::TableDoesNotExist(_)) => {
                let mut tables = txn.list_tables().map_err(|error| self.failed(error))?;
                let mut multimaps = txn
                    .list_multimap_tables()
                    .map_err(|error| self.failed(error))?;
                return if tables.next().is_none() && multimaps.next().is_none() {
                    Ok(Format::None)
                } else {
                    Err(self.not_a_store("it is a redb file of another program"))
                };
            }
            Err(error) => return Err(self.failed(error)),
        };
        let format = meta.get(FORMAT_KEY).map_err(|error| self.failed(error))?;
        let format = format.and_then(|row| row.value().try_into().ok().map(u32::from_le_bytes));
        match format {
            Some(FORMAT) => Ok(Format::Ours),
            Some(newer) if newer > FORMAT => Err(self.not_a_store(format!(
                "it has the newer store format {newer}, and this release knows {FORMAT}"
            ))),
            _ => Err(self.corrupted("its format version is missing")),
        }
    }

    /// Makes a store of a file that holds nothing. Two that do so at once agree.
    fn begin_format(&self, database: &Database) -> Result<()> {
        let txn = database.begin_write().map_err(|error| self.failed(error))?;
        {
            txn.open_table(LOCKS).map_err(|error| self.failed(error))?;
            txn.open_table(REQUESTS)
                .map_err(|error| self.failed(error))?;
            let mut meta = txn.open_table(META).map_err(|error| self.failed(error))?;
            let is_empty = meta.is_empty().map_err(|error| self.failed(error))?;
            if is_empty {
                let state = record::encode_state(STATE_KEY, &State::default());
                for (key, row) in [(FORMAT_KEY, &FORMAT.to_le_bytes()[..]), (STATE_KEY, &state)] {
                    meta.insert(key, row).map_err(|error| self.failed(error))?;
                }
            }
        }
        txn.commit().map_err(|error| self.failed(error))
    }
}

/// Waits between attempts to open a file that another process has to itself; for that the kernel
/// has no queue.
struct Pause {
    next: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self {
            next: Duration::from_millis(1),
        }
    }
}

impl Pause {
    fn after(&mut self, error: DatabaseError, at: At<'_>) -> Result<()> {
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

/// The store as it was after some commit.
struct Snapshot {
    locks: ReadOnlyTable<&'static str, &'static [u8]>,
    /// Opened where the queue is looked at.
    requests: OnceLock<ReadOnlyTable<u64, &'static [u8]>>,
    txn: ReadTransaction,
}

impl Snapshot {
    fn of(txn: ReadTransaction, at: At<'_>) -> Result<Self> {
        Ok(Self {
            locks: txn.open_table(LOCKS).map_err(|error| at.failed(error))?,
            requests: OnceLock::new(),
            txn,
        })
    }

    fn requests(&self, at: At<'_>) -> Result<&ReadOnlyTable<u64, &'static [u8]>> {
        if let Some(requests) = self.requests.get() {
            return Ok(requests);
        }
        let requests = self.txn.open_table(REQUESTS);
        let requests = requests.map_err(|error| at.failed(error))?;
        Ok(self.requests.get_or_init(|| requests))
    }
}

/// A look at a snapshot of the store.
pub(crate) struct ReadTx<'a> {
    /// None where there is no file.
    tables: Option<Tables<'a>>,
    at: At<'a>,
}

struct Tables<'a> {
    snapshot: &'a Snapshot,
    is_checked: &'a AtomicBool,
}

impl Tables<'_> {
    /// Before the first answer that a row is absent: whether all are there.
    fn check(&self, at: At<'_>) -> Result<()> {
        once(self.is_checked, || {
            let Snapshot { locks, txn, .. } = self.snapshot;
            let meta = txn.open_table(META).map_err(|error| at.failed(error))?;
            at.check_rows(locks, state_in(&meta, at)?.rows)
        })
    }
}

/// Does it where it was not done yet.
fn once(is_done: &AtomicBool, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if !is_done.load(Ordering::Relaxed) {
        work()?;
        is_done.store(true, Ordering::Relaxed);
    }
    Ok(())
}

impl ReadTx<'_> {
    /// Whether there is a live row of that name.
    pub(crate) fn is_live(&self, name: &str, now: Moment) -> Result<bool> {
        let Some(tables) = &self.tables else {
            return Ok(false);
        };
        let row = tables.snapshot.locks.get(name);
        match row.map_err(|error| self.at.failed(error))? {
            Some(row) => {
                let term = record::term(name, row.value());
                Ok(term.map_err(|bad| self.at.bad_row(bad))?.is_live(now))
            }
            None => tables.check(self.at).map(|()| false),
        }
    }

    /// The row of that name, live or not.
    pub(crate) fn get(&self, name: &LockName) -> Result<Option<Lock>> {
        let Some(tables) = &self.tables else {
            return Ok(None);
        };
        let row = get(&tables.snapshot.locks, name, self.at)?;
        if row.is_none() {
            tables.check(self.at)?;
        }
        Ok(row)
    }

    /// The rows whose names begin so, live or not, by name.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Result<Vec<Lock>> {
        let Some(tables) = &self.tables else {
            return Ok(Vec::new());
        };
        tables.check(self.at)?;
        let mut found = Vec::new();
        let locks = &tables.snapshot.locks;
        for entry in ReadableTable::range(locks, prefix..).map_err(|e| self.at.failed(e))? {
            let (name, row) = entry.map_err(|error| self.at.failed(error))?;
            if !name.value().starts_with(prefix) {
                break;
            }
            found.push(decode_named(name.value(), row.value(), self.at)?);
        }
        Ok(found)
    }

    /// The request of that number.
    pub(crate) fn request(&self, number: u64) -> Result<Option<Request>> {
        match self.queue()? {
            Some(requests) => request_in(requests, number, self.at),
            None => Ok(None),
        }
    }

    /// All requests, in their order.
    pub(crate) fn requests(&self) -> Result<Vec<Request>> {
        match self.queue()? {
            Some(requests) => requests_in(requests, self.at),
            None => Ok(Vec::new()),
        }
    }

    /// Looks at requests in their order, until told to stop.
    pub(crate) fn each_request(
        &self,
        numbers: impl RangeBounds<u64>,
        see: impl FnMut(Request) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        match self.queue()? {
            Some(requests) => each_request(requests, numbers, self.at, see),
            None => Ok(()),
        }
    }

    fn queue(&self) -> Result<Option<&ReadOnlyTable<u64, &'static [u8]>>> {
        let tables = self.tables.as_ref();
        let requests = tables.map(|tables| tables.snapshot.requests(self.at));
        requests.transpose()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Unchanged,
    Changed,
    /// Changed, and somebody waits for that.
    Awaited,
}

/// One write transaction.
pub(crate) struct WriteTx<'a> {
    txn: &'a WriteTransaction,
    locks: Table<'a, &'static str, &'static [u8]>,
    /// What the store remembers, loaded before the first change, and as it was then.
    state: Option<State>,
    old_state: Option<State>,
    /// Opened where the queue is looked at.
    requests: Option<Table<'a, u64, &'static [u8]>>,
    /// Of the row that was written last.
    buffer: Vec<u8>,
    is_changed: bool,
    /// Whether somebody waits, or did when the transaction began.
    is_awaited: bool,
    is_checked: &'a AtomicBool,
    at: At<'a>,
}

impl<'a> WriteTx<'a> {
    fn run<T>(
        txn: &'a WriteTransaction,
        is_checked: &'a AtomicBool,
        at: At<'a>,
        body: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(T, Outcome)> {
        let mut tx = Self {
            txn,
            locks: txn.open_table(LOCKS).map_err(|error| at.failed(error))?,
            state: None,
            old_state: None,
            requests: None,
            buffer: Vec::with_capacity(128),
            is_changed: false,
            is_awaited: false,
            is_checked,
            at,
        };
        let result = caught(at, || {
            let value = body(&mut tx)?;
            tx.save_state()?;
            let outcome = match (tx.is_changed, tx.is_awaited) {
                (false, _) => Outcome::Unchanged,
                (true, false) => Outcome::Changed,
                (true, true) => Outcome::Awaited,
            };
            Ok((value, outcome))
        });
        // A table that redb panicked amid panics when it is dropped, and amid another panic that
        // would end the process: one by one.
        let Self {
            locks, requests, ..
        } = tx;
        let locks = caught(at, || {
            drop(locks);
            Ok(())
        });
        let requests = caught(at, || {
            drop(requests);
            Ok(())
        });
        let result = result?;
        locks.and(requests)?;
        Ok(result)
    }

    /// Whether there is something to commit.
    pub(crate) fn is_changed(&self) -> bool {
        self.is_changed || self.state != self.old_state
    }

    /// The row of that name, live or not.
    pub(crate) fn get(&self, name: &LockName) -> Result<Option<Lock>> {
        let row = get(&self.locks, name, self.at)?;
        if row.is_none() {
            self.check()?;
        }
        Ok(row)
    }

    /// Before the first answer that a row is absent: whether all are there.
    fn check(&self) -> Result<()> {
        once(self.is_checked, || {
            let rows = match &self.state {
                Some(state) => state.rows,
                None => state_in(&self.meta()?, self.at)?.rows,
            };
            self.at.check_rows(&self.locks, rows)
        })
    }

    pub(crate) fn put(&mut self, lock: &Lock) -> Result<()> {
        self.replace(lock, |_| Ok(None)).map(drop)
    }

    /// Writes the row of a new lock, unless there is a live one of its name: that stays then, and
    /// is returned, and the token of the new one is not issued.
    pub(crate) fn put_new(&mut self, lock: &Lock, now: Moment) -> Result<Option<Lock>> {
        let at = self.at;
        self.check()?;
        let present = self.replace(lock, |old| {
            let present = record::decode(&lock.name, old).map_err(|bad| at.bad_row(bad))?;
            Ok(Some(present).filter(|lock| lock.is_live(now)))
        })?;
        if let Some(present) = &present {
            self.state()?.last_token -= 1;
            self.put(present)?;
        }
        Ok(present)
    }

    /// Writes a row in the place of the old one, and returns what `see` made of that.
    fn replace(
        &mut self,
        lock: &Lock,
        see: impl FnOnce(&[u8]) -> Result<Option<Lock>>,
    ) -> Result<Option<Lock>> {
        let at = self.at;
        self.is_changed = true;
        let mut rows = self.state()?.rows;
        let row = record::encode(lock, std::mem::take(&mut self.buffer));
        let old = self.locks.insert(lock.name.as_str(), row.as_slice());
        let mut seen = None;
        if let Some(old) = old.map_err(|error| at.failed(error))? {
            rows.remove(old.value());
            seen = see(old.value())?;
        }
        rows.add(&row);
        self.buffer = row;
        self.state()?.rows = rows;
        Ok(seen)
    }

    pub(crate) fn remove(&mut self, name: &LockName) -> Result<()> {
        let at = self.at;
        self.is_changed = true;
        self.state()?;
        let old = self.locks.remove(name.as_str());
        if let (Some(state), Some(old)) = (&mut self.state, old.map_err(|e| at.failed(e))?) {
            state.rows.remove(old.value());
        }
        Ok(())
    }

    /// Removes the rows that are not live, from this name on and as many as leave others their
    /// turn soon. Says how many those were, and where to go on.
    pub(crate) fn remove_dead(
        &mut self,
        from: &str,
        now: Moment,
    ) -> Result<(usize, Option<String>)> {
        let at = self.at;
        let next = self.name_after(from, CLEANED_AT_A_TIME)?;
        let to = next.as_deref().map_or(Bound::Unbounded, Bound::Excluded);

        let mut removed = 0;
        let mut bad_row = None;
        let mut rows = self.state()?.rows;
        // One process may have many locks, and to ask for it is a system call.
        let mut gone = HashMap::new();
        let mut is_gone = |it: Process| *gone.entry(it).or_insert_with(|| it.is_gone());
        let keep = |name: &str, row: &[u8]| match record::term(name, row) {
            Ok(term) if !term.is_live_where(now, &mut is_gone) => {
                removed += 1;
                rows.remove(row);
                false
            }
            Ok(_) => true,
            Err(bad) => {
                bad_row = Some(bad);
                true
            }
        };
        self.locks
            .retain_in::<&str, _>((Bound::Included(from), to), keep)
            .map_err(|error| at.failed(error))?;
        if let Some(bad) = bad_row {
            return Err(at.bad_row(bad));
        }
        self.state()?.rows = rows;
        Ok((removed, next))
    }

    /// The name so many rows after this one, if there are as many.
    fn name_after(&self, from: &str, rows: usize) -> Result<Option<String>> {
        let at = self.at;
        // Less work than a range, which also looks at its other end after each row.
        let cursor = self.locks.lower_bound(Bound::Included(from));
        let mut cursor = cursor.map_err(|error| at.failed(error))?;
        for _ in 0..rows {
            if cursor.next().map_err(|error| at.failed(error))?.is_none() {
                return Ok(None);
            }
        }
        let Some((name, _)) = cursor.peek_next().map_err(|error| at.failed(error))? else {
            return Ok(None);
        };
        // Who goes on from there comes to an end in a damaged file too.
        if name.value() <= from {
            return Err(at.corrupted("its rows are not in the order of their names"));
        }
        Ok(Some(name.value().to_owned()))
    }

    /// Removes every row, damaged ones too, and says how many of them were live.
    pub(crate) fn remove_all(&mut self, now: Moment) -> Result<usize> {
        let at = self.at;
        let mut counted = 0;
        let count = |name: &str, row: &[u8]| {
            counted += usize::from(record::term(name, row).is_ok_and(|term| term.is_live(now)));
            false
        };
        self.locks.retain(count).map_err(|error| at.failed(error))?;
        self.state()?.rows = Digest::default();
        Ok(counted)
    }

    /// Issues a token above all that were issued before.
    pub(crate) fn next_token(&mut self) -> Result<u64> {
        let at = self.at;
        let state = self.state()?;
        state.last_token = state
            .last_token
            .checked_add(1)
            .ok_or_else(|| at.corrupted("its token counter is at its end"))?;
        Ok(state.last_token)
    }

    /// Whether nobody waits.
    pub(crate) fn is_queue_empty(&mut self) -> Result<bool> {
        let at = self.at;
        let is_empty = self.queue()?.is_empty().map_err(|error| at.failed(error))?;
        self.is_awaited |= !is_empty;
        Ok(is_empty)
    }

    /// All requests, in their order.
    pub(crate) fn requests(&mut self) -> Result<Vec<Request>> {
        let at = self.at;
        requests_in(self.queue()?, at)
    }

    pub(crate) fn request(&mut self, number: u64) -> Result<Option<Request>> {
        let at = self.at;
        request_in(self.queue()?, number, at)
    }

    pub(crate) fn put_request(&mut self, request: &Request) -> Result<()> {
        let at = self.at;
        self.is_changed = true;
        self.queue()?
            .insert(request.number, record::encode_request(request).as_slice())
            .map_err(|error| at.failed(error))?;
        Ok(())
    }

    pub(crate) fn remove_request(&mut self, number: u64) -> Result<()> {
        let at = self.at;
        self.is_changed = true;
        self.queue()?
            .remove(number)
            .map_err(|error| at.failed(error))?;
        Ok(())
    }

    /// Issues a number above those of all earlier requests.
    pub(crate) fn next_request(&mut self) -> Result<u64> {
        let at = self.at;
        let state = self.state()?;
        state.last_request = state
            .last_request
            .checked_add(1)
            .ok_or_else(|| at.corrupted("its counter of requests is at its end"))?;
        Ok(state.last_request)
    }

    fn queue(&mut self) -> Result<&mut Table<'a, u64, &'static [u8]>> {
        let requests = match self.requests.take() {
            Some(requests) => requests,
            None => {
                let opened = self.txn.open_table(REQUESTS);
                opened.map_err(|error| self.at.failed(error))?
            }
        };
        Ok(self.requests.insert(requests))
    }

    /// Housekeeping of a call that created rows: looks at the next few rows in the order of
    /// their names, round and round, and removes those that are not live.
    pub(crate) fn sweep(&mut self, created: usize, now: Moment) -> Result<()> {
        if created == 0 {
            return Ok(());
        }
        let from = std::mem::take(&mut self.state()?.swept_to);
        let rest = (Bound::Excluded(from.as_str()), Bound::Unbounded);
        let rows = self
            .locks
            .range::<&str>(rest)
            .map_err(|error| self.at.failed(error))?;
        let mut dead = Vec::new();
        let mut to_look_at = created.saturating_mul(SWEPT_PER_CREATED);
        let mut to_judge = created.saturating_mul(JUDGED_PER_CREATED);
        let mut last = String::new();
        for entry in rows {
            let (name, row) = entry.map_err(|error| self.at.failed(error))?;
            let (name, row) = (name.value(), row.value());
            let term = record::glance(row).map_err(|bad| self.at.bad_row(bad))?;
            to_judge -= usize::from(term.bound_to.is_some());
            if !term.is_live(now) {
                dead.push(decode_named(name, row, self.at)?.name);
            }
            to_look_at -= 1;
            if to_look_at == 0 || to_judge == 0 {
                last = name.to_owned();
                break;
            }
        }
        for name in &dead {
            self.remove(name)?;
        }
        // A round that came to its end begins anew.
        self.state()?.swept_to = last;
        Ok(())
    }

    /// What the store remembers, to be changed: every change of a row changes it too.
    fn state(&mut self) -> Result<&mut State> {
        let state = match self.state.take() {
            Some(state) => state,
            None => {
                let state = state_in(&self.meta()?, self.at)?;
                self.old_state.insert(state).clone()
            }
        };
        Ok(self.state.insert(state))
    }

    fn save_state(&mut self) -> Result<()> {
        if self.state != self.old_state
            && let Some(state) = self.state.take()
        {
            self.is_changed = true;
            self.meta()?
                .insert(
                    STATE_KEY,
                    record::encode_state(STATE_KEY, &state).as_slice(),
                )
                .map_err(|error| self.at.failed(error))?;
        }
        Ok(())
    }

    fn meta(&self) -> Result<Table<'a, &'static str, &'static [u8]>> {
        self.txn
            .open_table(META)
            .map_err(|error| self.at.failed(error))
    }
}

fn state_in(meta: &impl ReadableTable<&'static str, &'static [u8]>, at: At<'_>) -> Result<State> {
    let row = meta
        .get(STATE_KEY)
        .map_err(|error| at.failed(error))?
        .ok_or_else(|| at.corrupted("its own row is missing"))?;
    record::decode_state(STATE_KEY, row.value()).map_err(|bad| at.bad_row(bad))
}

fn get(
    locks: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &LockName,
    at: At<'_>,
) -> Result<Option<Lock>> {
    let row = locks.get(name.as_str()).map_err(|error| at.failed(error))?;
    row.map(|row| record::decode(name, row.value()).map_err(|bad| at.bad_row(bad)))
        .transpose()
}

fn request_in(
    requests: &impl ReadableTable<u64, &'static [u8]>,
    number: u64,
    at: At<'_>,
) -> Result<Option<Request>> {
    let row = requests.get(number).map_err(|error| at.failed(error))?;
    row.map(|row| decode_request(number, row.value(), at))
        .transpose()
}

fn requests_in(
    requests: &impl ReadableTable<u64, &'static [u8]>,
    at: At<'_>,
) -> Result<Vec<Request>> {
    let mut found = Vec::new();
    each_request(requests, .., at, |request| {
        found.push(request);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

fn each_request(
    requests: &impl ReadableTable<u64, &'static [u8]>,
    numbers: impl RangeBounds<u64>,
    at: At<'_>,
    mut see: impl FnMut(Request) -> Result<ControlFlow<()>>,
) -> Result<()> {
    // Mostly nobody waits, and to see that costs less than to begin to read.
    if requests.is_empty().map_err(|error| at.failed(error))? {
        return Ok(());
    }
    for entry in requests
        .range::<u64>(numbers)
        .map_err(|error| at.failed(error))?
    {
        let (number, row) = entry.map_err(|error| at.failed(error))?;
        if see(decode_request(number.value(), row.value(), at)?)?.is_break() {
            break;
        }
    }
    Ok(())
}

fn decode_named(name: &str, row: &[u8], at: At<'_>) -> Result<Lock> {
    record::decode_named(name, row).map_err(|bad| at.bad_row(bad))
}

fn decode_request(number: u64, row: &[u8], at: At<'_>) -> Result<Request> {
    record::decode_request(number, row).map_err(|bad| at.bad_row(bad))
}
