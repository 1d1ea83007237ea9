//! Bounds every wait for another process in redb's file.
//!
//! redb waits in the kernel for the locks that it shares with other processes: fair, woken at once,
//! but without a bound, so a process stopped at the wrong instant would hang all others. Here the
//! same wait goes on in a thread of its own while the caller watches its deadline: the request
//! stays in the kernel's queue, and the caller gets an error in time.
//!
//! If the caller gives up, the wait goes on in the kernel until it is granted. Then the lock is
//! released at once, or the next call on this file that wants the same lock takes it over. Until
//! then no other thread may lock the range on this file: the kernel takes both for one owner, so
//! releasing the late grant would free the other lock.

use super::panics::{self, Panicked};
use super::yielding::Yielding;
use crate::storage::{StorageCall, StorageHook};
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

thread_local! {
    /// How long the call that runs on this thread may wait. redb offers no other way to tell its
    /// backend.
    static LIMIT: Cell<Option<Limit>> = const { Cell::new(None) };
    /// How long the call has waited.
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

#[derive(Clone, Copy)]
enum Limit {
    /// This long, all waits of the call together. The work between them does not count.
    Left(Duration),
    Until(Instant),
}

/// Runs `call`, which waits for other processes at most this long. Within another call, `call` is a
/// part of that call and of its bound.
pub(super) fn within<T>(bound: Duration, call: impl FnOnce() -> T) -> T {
    match LIMIT.get() {
        Some(_) => call(),
        None => limited(Limit::Left(bound), call),
    }
}

/// Runs `call`, which waits for other processes until `deadline` at most.
pub(super) fn until<T>(deadline: Instant, call: impl FnOnce() -> T) -> T {
    limited(Limit::Until(deadline), call)
}

fn limited<T>(limit: Limit, call: impl FnOnce() -> T) -> T {
    struct Restore(Option<Limit>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LIMIT.set(self.0);
        }
    }
    let outer = LIMIT.replace(Some(limit));
    if outer.is_none() {
        WAITED.set(Duration::ZERO);
    }
    let _restore = Restore(outer);
    call()
}

/// Waits at most as long as the call that runs on this thread still may, and passes `wait` the
/// deadline. `bound` is for work outside of any call: closing.
pub(super) fn wait<T>(bound: Duration, wait: impl FnOnce(Instant) -> T) -> T {
    let began = Instant::now();
    let result = match LIMIT.get() {
        Some(Limit::Until(deadline)) => wait(deadline),
        Some(Limit::Left(left)) => {
            let deadline = began + left;
            let result = until(deadline, || wait(deadline));
            LIMIT.set(Some(Limit::Left(left.saturating_sub(began.elapsed()))));
            result
        }
        None => wait(began + bound),
    };
    WAITED.set(WAITED.get() + began.elapsed());
    result
}

/// Returns how long the call that runs on this thread has waited for other processes.
pub(super) fn waited() -> Duration {
    WAITED.get()
}

type Range = (Bound<u64>, Bound<u64>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Shared,
    Exclusive,
}

/// Holds a wait in the kernel.
#[derive(Debug)]
struct Wait {
    mode: Mode,
    /// Whether a caller still watches the wait.
    is_wanted: bool,
    /// The result of the wait, once it has ended.
    result: Option<Result<(), BackendError>>,
}

/// Remembers the last failure of a file. redb does not always pass a failure on: one during a
/// larger work comes out as "previous", and a failure to release a lock does not come out at all.
#[derive(Clone, Debug, Default)]
pub(super) struct LastFailure(Arc<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// Whether there is a failure. Every call reads this first, from every thread.
    is_there: AtomicBool,
    error: Mutex<Option<io::Error>>,
}

impl LastFailure {
    pub(super) fn take(&self) -> Option<io::Error> {
        if !self.0.is_there.load(Ordering::Acquire) {
            return None;
        }
        let mut error = self.error();
        self.0.is_there.store(false, Ordering::Release);
        error.take()
    }

    fn error(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.0.error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, error: &io::Error) {
        let copy = match (error.raw_os_error(), Panicked::in_error(error)) {
            (Some(number), _) => io::Error::from_raw_os_error(number),
            (None, Some(panicked)) => io::Error::other(panicked.clone()),
            (None, None) => io::Error::new(error.kind(), error.to_string()),
        };
        let mut error = self.error();
        *error = Some(copy);
        self.0.is_there.store(true, Ordering::Release);
    }
}

/// Gives redb the file, with bounded waits.
pub(super) struct BoundedFile {
    shared: Arc<Shared>,
    /// The bound of calls that set no deadline: closing.
    bound: Duration,
    failure: LastFailure,
    yielding: Arc<Yielding>,
    hook: Option<StorageHook>,
}

struct Shared {
    file: FileBackend,
    waits: Mutex<HashMap<Range, Wait>>,
    ended: Condvar,
    /// Whether redb has opened the file, and so no longer repairs it.
    is_opened: AtomicBool,
}

/// Tells the file when redb has opened it.
pub(super) struct Opening(Arc<Shared>);

impl Opening {
    pub(super) fn done(self) {
        self.0.is_opened.store(true, Ordering::Release);
    }
}

impl BoundedFile {
    pub(super) fn new(
        file: FileBackend,
        bound: Duration,
        failure: LastFailure,
        yielding: Arc<Yielding>,
        hook: Option<StorageHook>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                file,
                waits: Mutex::default(),
                ended: Condvar::new(),
                is_opened: AtomicBool::new(false),
            }),
            bound,
            failure,
            yielding,
            hook,
        }
    }

    pub(super) fn opening(&self) -> Opening {
        Opening(Arc::clone(&self.shared))
    }

    /// Makes a call, unless the hook fails it, and notes a failure.
    fn call<T>(
        &self,
        call: StorageCall<'_>,
        make: impl FnOnce(&FileBackend) -> io::Result<T>,
    ) -> io::Result<T> {
        let result = self.before(call).and_then(|()| make(&self.shared.file));
        result.inspect_err(|error| self.failure.note(error))
    }

    /// Tells the hook of the next call. An error of the hook is the outcome of the call.
    fn before(&self, call: StorageCall<'_>) -> io::Result<()> {
        match &self.hook {
            // redb would take a panic of the hook for one of its own.
            Some(hook) => panics::caught(|| hook.before(call))
                .unwrap_or_else(|panicked| Err(io::Error::other(panicked))),
            None => Ok(()),
        }
    }

    fn lock(&self, range: Range, mode: Mode) -> Result<(), BackendError> {
        self.before(StorageCall::Lock)?;
        let waits = self.shared.waits();
        if !waits.contains_key(&range) && self.shared.try_lock(range, mode)? {
            return Ok(());
        }
        self.yielding.note_wait();
        wait(self.bound, |deadline| {
            self.shared.lock_until(deadline, waits, range, mode)
        })
    }

    fn try_lock(&self, range: Range, mode: Mode) -> Result<bool, BackendError> {
        self.before(StorageCall::Lock)?;
        if self.shared.waits().contains_key(&range) {
            return Ok(false);
        }
        self.shared.try_lock(range, mode)
    }
}

impl Shared {
    fn waits(&self) -> MutexGuard<'_, HashMap<Range, Wait>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self, (start, end): Range, mode: Mode) -> Result<bool, BackendError> {
        match mode {
            Mode::Shared => self.file.try_lock_shared_range(start, end),
            Mode::Exclusive => self.file.try_lock_range(start, end),
        }
    }

    fn lock_until<'a>(
        self: &'a Arc<Self>,
        deadline: Instant,
        mut waits: MutexGuard<'a, HashMap<Range, Wait>>,
        range: Range,
        mode: Mode,
    ) -> Result<(), BackendError> {
        loop {
            let Some(wait) = waits.get_mut(&range) else {
                self.begin_wait(&mut waits, range, mode)?;
                continue;
            };
            if let Some(result) = wait.result.take() {
                let granted = wait.mode;
                waits.remove(&range);
                result?;
                if granted == mode || granted == Mode::Exclusive {
                    return Ok(());
                }
                // The wait that was taken over got less than is needed.
                self.file.unlock_range(range.0, range.1)?;
                continue;
            }
            let now = Instant::now();
            if now >= deadline {
                wait.is_wanted = false;
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            wait.is_wanted = true;
            waits = self
                .ended
                .wait_timeout(waits, deadline - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn begin_wait(
        self: &Arc<Self>,
        waits: &mut HashMap<Range, Wait>,
        range: Range,
        mode: Mode,
    ) -> Result<(), BackendError> {
        let shared = Arc::clone(self);
        thread::Builder::new()
            .name("lockmgr-wait".into())
            .spawn(move || shared.wait_in_kernel(range, mode))?;
        let wait = Wait {
            mode,
            is_wanted: true,
            result: None,
        };
        waits.insert(range, wait);
        Ok(())
    }

    fn wait_in_kernel(&self, range: Range, mode: Mode) {
        let (start, end) = range;
        let result = match mode {
            Mode::Shared => self.file.lock_shared_range(start, end),
            Mode::Exclusive => self.file.lock_range(start, end),
        };
        let mut waits = self.waits();
        match waits.get_mut(&range) {
            Some(wait) if wait.is_wanted => wait.result = Some(result),
            _ => {
                if result.is_ok() {
                    // If even this fails, closing the file releases the lock.
                    let _ = self.file.unlock_range(start, end);
                }
                waits.remove(&range);
            }
        }
        self.ended.notify_all();
    }
}

impl fmt::Debug for BoundedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedFile")
            .field("file", &self.shared.file)
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}

impl StorageBackend for BoundedFile {
    fn len(&self) -> io::Result<u64> {
        self.call(StorageCall::Len, |file| file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let len = out.len();
        self.call(StorageCall::Read { offset, len }, |file| {
            file.read(offset, out)?;
            let claimed = largest_child(out);
            if claimed <= PAGE || claimed <= file.len()? {
                return Ok(());
            }
            if self.shared.is_opened.load(Ordering::Acquire) {
                let damaged = "a page claims to be larger than the file";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, damaged));
            }
            // A crash may have torn the page. To redb, which checks while it opens the file, the
            // page then has a wrong checksum, so that redb goes back to the commit before.
            out[0] = NO_NODE;
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(StorageCall::SetLen { len }, |file| file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(StorageCall::Sync, |file| file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call(StorageCall::Write { offset, data }, |file| {
            file.write(offset, data)
        })
    }

    fn close(&self) -> io::Result<()> {
        self.shared.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.try_lock((start, end), Mode::Exclusive)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.try_lock((start, end), Mode::Shared)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lock((start, end), Mode::Exclusive)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lock((start, end), Mode::Shared)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        let unlock = |file: &FileBackend| Ok(file.unlock_range(start, end)?);
        Ok(self.call(StorageCall::Unlock, unlock)?)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.shared.file.query_lock_range(start, end)
    }
}

/// Tells whether the file holds tables, by redb's header (file format 3). The byte at 9 says which
/// of the two commits, 128 bytes each from 64 on, is the last (bit 1), and whether that commit is
/// still on its way, and the other is valid (bit 8). The second byte of a commit says whether there
/// is a tree of tables.
pub(super) fn has_tables(mut file: &File) -> io::Result<bool> {
    let mut header = [0; 320];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut header)?;
    let is_second = (header[9] & 1 != 0) != (header[9] & 8 != 0);
    let commit = 64 + 128 * usize::from(is_second);
    Ok(header[commit + 1] != 0)
}

/// The bytes of redb's smallest page.
const PAGE: u64 = 4096;

/// The first byte of a page that is neither a leaf (1) nor a branch (2): its checksum never fits,
/// and redb follows it nowhere.
const NO_NODE: u8 = 0;

/// Returns how large the largest child of a page claims to be. redb fills as much memory with zeros
/// before it reads that child: up to 4 GiB, if damage made the number of the page.
///
/// A branch page, in redb's file format 3: a 2, a byte, the number n of keys (2), nothing (4), n +
/// 1 checksums (16 each) and n + 1 page numbers (8 each). The upper five bits of a page number say
/// how often [`PAGE`] is doubled.
fn largest_child(page: &[u8]) -> u64 {
    let [2, _, low, high, ..] = *page else {
        return 0;
    };
    let children = usize::from(u16::from_le_bytes([low, high])) + 1;
    let numbers = page.get(8 + 16 * children..8 + 24 * children);
    let orders = numbers.into_iter().flat_map(|numbers| numbers.chunks(8));
    let largest = orders.map(|number| number[7] >> 3).max();
    largest.map_or(0, |order| PAGE << order)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::path::Path;

    const RANGE: Range = (Bound::Included(7), Bound::Included(7));
    const SOON: Duration = Duration::from_millis(20);
    const FAR: Duration = Duration::from_secs(60);

    fn open(path: &Path) -> BoundedFile {
        let file = File::options().read(true).write(true).open(path).unwrap();
        BoundedFile::new(
            FileBackend::new(file).unwrap(),
            FAR,
            LastFailure::default(),
            Arc::default(),
            None,
        )
    }

    fn two_owners() -> (tempfile::NamedTempFile, BoundedFile, BoundedFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (a, b) = (open(file.path()), open(file.path()));
        (file, a, b)
    }

    fn lock_soon(file: &BoundedFile, mode: Mode) -> Result<(), BackendError> {
        until(Instant::now() + SOON, || file.lock(RANGE, mode))
    }

    fn settle(file: &BoundedFile) {
        while !file.shared.waits().is_empty() {
            thread::yield_now();
        }
    }

    #[test]
    fn wait_ends_at_its_deadline_with_timed_out() {
        let (_dir, holder, waiter) = two_owners();
        holder.lock(RANGE, Mode::Exclusive).unwrap();
        let began = Instant::now();
        let error = io::Error::from(lock_soon(&waiter, Mode::Exclusive).unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= SOON);
    }

    #[test]
    fn all_waits_of_a_call_have_one_bound_and_the_work_between_does_not_count() {
        within(FAR, || {
            let began = Instant::now();
            wait(FAR, |_| thread::sleep(SOON));
            let waited = began.elapsed();
            thread::sleep(SOON);
            let now = Instant::now();
            // A call within the call is a part of it.
            let deadline = within(FAR, || wait(FAR, |deadline| deadline));
            assert!(deadline >= now + FAR - waited);
            assert!(deadline <= Instant::now() + FAR - SOON);
        });
    }

    #[test]
    fn wait_is_granted_when_the_other_lets_go() {
        let (_dir, holder, waiter) = two_owners();
        holder.lock(RANGE, Mode::Exclusive).unwrap();
        thread::scope(|scope| {
            let granted = scope.spawn(|| waiter.lock(RANGE, Mode::Exclusive));
            while waiter.shared.waits().is_empty() {
                thread::yield_now();
            }
            holder.unlock_range(RANGE.0, RANGE.1).unwrap();
            granted.join().unwrap().unwrap();
        });
        assert!(!holder.try_lock(RANGE, Mode::Shared).unwrap());
    }

    #[test]
    fn late_grant_of_a_wait_given_up_is_given_back() {
        let (_dir, holder, waiter) = two_owners();
        holder.lock(RANGE, Mode::Exclusive).unwrap();
        lock_soon(&waiter, Mode::Exclusive).unwrap_err();
        assert!(!waiter.try_lock(RANGE, Mode::Exclusive).unwrap());
        holder.unlock_range(RANGE.0, RANGE.1).unwrap();
        settle(&waiter);
        assert!(holder.try_lock(RANGE, Mode::Exclusive).unwrap());
    }

    #[test]
    fn wait_given_up_is_taken_over_by_the_next_call() {
        let (_dir, holder, waiter) = two_owners();
        holder.lock(RANGE, Mode::Exclusive).unwrap();
        for (given_up, next) in [
            (Mode::Exclusive, Mode::Exclusive),
            (Mode::Exclusive, Mode::Shared),
            (Mode::Shared, Mode::Exclusive),
        ] {
            lock_soon(&waiter, given_up).unwrap_err();
            thread::scope(|scope| {
                let granted = scope.spawn(|| waiter.lock(RANGE, next));
                while !waiter.shared.waits()[&RANGE].is_wanted {
                    thread::yield_now();
                }
                holder.unlock_range(RANGE.0, RANGE.1).unwrap();
                granted.join().unwrap().unwrap();
            });
            assert!(!holder.try_lock(RANGE, Mode::Exclusive).unwrap());
            waiter.unlock_range(RANGE.0, RANGE.1).unwrap();
            settle(&waiter);
            holder.lock(RANGE, Mode::Exclusive).unwrap();
        }
    }

    #[test]
    fn file_that_is_gone_releases_late_grants_of_its_waits() {
        let (_dir, holder, waiter) = two_owners();
        holder.lock(RANGE, Mode::Exclusive).unwrap();
        lock_soon(&waiter, Mode::Exclusive).unwrap_err();
        waiter.close().unwrap();
        drop(waiter);
        holder.unlock_range(RANGE.0, RANGE.1).unwrap();
        holder.lock(RANGE, Mode::Exclusive).unwrap();
    }
}
