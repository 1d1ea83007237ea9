//! Says how to open a manager.

use crate::clock::Clock;
use crate::error::Result;
use crate::name::Holder;
use crate::storage::{StorageCall, StorageHook};
use crate::store::{Config, Mode};
use std::io;
use std::path::Path;
use std::time::Duration;

/// Collects the options for opening a [`LockManager`](crate::LockManager).
///
/// ```
/// use lockmgr::LockManager;
/// use std::time::Duration;
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("locks.redb");
/// let manager = LockManager::builder()
///     .locked_by("app-1")
///     .busy_timeout(Duration::from_secs(2))
///     .open(&path)?;
/// # Ok::<(), lockmgr::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it opens a store"]
pub struct Builder {
    mode: Mode,
    busy_timeout: Duration,
    cache_size: usize,
    locked_by: Option<String>,
    clock: Clock,
    hook: Option<StorageHook>,
}

/// The longest busy timeout, more than a century. A longer bound is cut to it.
const LONGEST_BUSY_TIMEOUT: Duration = Duration::from_secs(u32::MAX as u64);

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            mode: Mode::Shared,
            busy_timeout: Duration::from_secs(10),
            cache_size: 16 * 1024 * 1024,
            locked_by: None,
            clock: Clock::default(),
            hook: None,
        }
    }

    /// Keeps the file to this one manager and its clones, which makes writing about twice as fast.
    /// Any other opener gets [`Error::StoreBusy`] once its own bound is over. While other managers
    /// have the store open, an exclusive opener gets that error too, which names some holders.
    /// Default: any number of processes share the file, on Linux, macOS and Windows. On other
    /// systems, and on file systems without locks of byte ranges, sharing is
    /// [`Error::Unsupported`].
    ///
    /// ```
    /// # use lockmgr::{Error, LockManager};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("locks.redb");
    /// let alone = LockManager::builder().exclusive().open(&path)?;
    /// let second = LockManager::builder().busy_timeout(Duration::ZERO).open(&path);
    /// assert!(matches!(second, Err(Error::StoreBusy { .. })));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    ///
    /// [`Error::StoreBusy`]: crate::Error::StoreBusy
    /// [`Error::Unsupported`]: crate::Error::Unsupported
    pub fn exclusive(mut self) -> Self {
        self.mode = Mode::Exclusive;
        self
    }

    /// Opens the store for reading alone, which needs no permission to write and creates nothing: a
    /// missing file is an empty store. Calls that write fail with [`Error::Io`] (permission
    /// denied). If a process died and left the store in need of repair, opening repairs it first.
    /// Without permission to write, the manager repairs the last commit in memory. That copy takes
    /// as much memory as the rows do, and lasts until another process writes to the store. Default:
    /// reads and writes.
    ///
    /// ```
    /// # use lockmgr::{GetOptions, LockManager};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("locks.redb");
    /// let reader = LockManager::builder().read_only().open(&path)?;
    /// assert!(reader.locks("")?.is_empty());
    /// assert!(!path.exists());
    ///
    /// LockManager::open(&path)?.get_lock("hello", GetOptions::new())?;
    /// assert!(reader.is_locked("hello")?);
    /// assert!(reader.unlock("hello").is_err());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    ///
    /// [`Error::Io`]: crate::Error::Io
    pub fn read_only(mut self) -> Self {
        self.mode = Mode::ReadOnly;
        self
    }

    /// Bounds every wait of a call for another process. Zero does not wait at all. A call that
    /// reaches its bound fails with [`Error::StoreBusy`]. Default: 10 s.
    ///
    /// ```
    /// # use lockmgr::LockManager;
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("locks.redb");
    /// let manager = LockManager::builder().busy_timeout(Duration::from_millis(250)).open(&path)?;
    /// assert!(!manager.is_locked("hello")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    ///
    /// [`Error::StoreBusy`]: crate::Error::StoreBusy
    pub fn busy_timeout(mut self, bound: Duration) -> Self {
        self.busy_timeout = bound.min(LONGEST_BUSY_TIMEOUT);
        self
    }

    /// Sets the memory, in bytes, that the store may use to cache pages of the file. Default: 16
    /// MiB.
    ///
    /// ```
    /// # use lockmgr::LockManager;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("locks.redb");
    /// let manager = LockManager::builder().cache_size(1024 * 1024).open(&path)?;
    /// assert!(!manager.is_locked("hello")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn cache_size(mut self, bytes: usize) -> Self {
        self.cache_size = bytes;
        self
    }

    /// Names the holder of the locks that this manager creates, by the rule of a [`LockName`].
    /// Default: the system's hostname.
    ///
    /// ```
    /// # use lockmgr::{GetOptions, LockManager};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("locks.redb");
    /// let manager = LockManager::builder().locked_by("app-1").open(&path)?;
    /// assert_eq!(manager.get_lock("hello", GetOptions::new())?.locked_by(), "app-1");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    ///
    /// [`LockName`]: crate::LockName
    pub fn locked_by(mut self, holder: impl Into<String>) -> Self {
        self.locked_by = Some(holder.into());
        self
    }

    /// Sets the clock that the manager reads. Default: [`Clock::system`].
    ///
    /// ```
    /// # use lockmgr::{LockManager, ManualClock};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("locks.redb");
    /// let clock = ManualClock::new("2019-11-22T02:00:00Z".parse().unwrap());
    /// let manager = LockManager::builder().clock(clock).open(&path)?;
    /// assert!(!manager.is_locked("hello")?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// Calls this hook before each call of the store to its file. If the hook returns an error,
    /// that error is the outcome of the call, and the call is not made: so tests show how a program
    /// behaves when its disk fails, and which calls reach the disk. The hook runs on the thread
    /// that works on the store, and must neither panic nor use this manager. Default: no hook.
    ///
    /// ```
    /// use lockmgr::{Error, GetOptions, LockManager, StorageCall};
    /// use std::io;
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("locks.redb");
    /// let is_full = Arc::new(AtomicBool::new(false));
    /// let disk = Arc::clone(&is_full);
    /// let manager = LockManager::builder()
    ///     .storage_hook(move |call| match call {
    ///         StorageCall::Write { .. } if disk.load(Ordering::Relaxed) => {
    ///             Err(io::ErrorKind::StorageFull.into())
    ///         }
    ///         _ => Ok(()),
    ///     })
    ///     .open(&path)?;
    ///
    /// is_full.store(true, Ordering::Relaxed);
    /// let failed = manager.get_lock("hello", GetOptions::new());
    /// assert!(matches!(failed, Err(Error::Io { .. })));
    ///
    /// is_full.store(false, Ordering::Relaxed);
    /// assert!(!manager.is_locked("hello")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn storage_hook(
        mut self,
        hook: impl Fn(StorageCall<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.hook = Some(StorageHook::new(hook));
        self
    }

    /// Returns the checked options, as the parts that open a manager.
    pub(crate) fn into_parts(self, path: &Path) -> Result<(Config, Clock, Holder)> {
        let locked_by = match self.locked_by {
            Some(holder) => Holder::new(&holder)?,
            None => Holder::hostname(),
        };
        let config = Config {
            // The path stays that of the same file, even if the program changes its directory.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            mode: self.mode,
            busy_timeout: self.busy_timeout,
            cache_size: self.cache_size,
            hook: self.hook,
        };
        Ok((config, self.clock, locked_by))
    }
}
