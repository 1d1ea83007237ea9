//! Damages bytes of a good store: every call gives a right answer or an error. A call never panics,
//! never hangs, never returns a lock that was not written, and takes no more than 256 MiB.
//!
//! An existing lock never looks free: these stores are small, and a handle reads them whole before
//! its first such answer. A row that was written to a damaged store may be missing later. A row of
//! a call that failed during its commit may be found.
//!
//! Three limits of redb are known and skipped, so that they do not end the search for others:
//!
//! - redb panics while it unwinds from a panic, if it frees pages (`extract_freed_pages`, in a
//!   commit and when a database is closed);
//! - redb allocates as much as the damaged number of a table's root claims, up to 4 GiB
//!   (`zero_filled_arc`);
//! - on an insert, redb follows a branch that damage made its own descendant until the stack is
//!   full (`insert_helper`; its reads notice).
//!
//! Each limit would end the process, or take the memory of the machine. Here a limit ends the
//! thread that made the calls, and is counted.

#![feature(alloc_error_hook, panic_can_unwind)]
#![no_main]

use arbitrary::Arbitrary;
use chrono::{DateTime, Utc};
use libfuzzer_sys::{Corpus, fuzz_target};
use lockmgr::{
    Builder, GetOptions, Lock, LockManager, ManualClock, RenewOptions, SetOptions, Timeout,
};
use std::alloc::{self, GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, LazyLock, Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

#[derive(Arbitrary, Debug)]
struct Input {
    base: u8,
    damage: Vec<Damage>,
    mode: Mode,
    calls: [Call; 3],
}

#[derive(Arbitrary, Debug)]
enum Damage {
    /// Flips bits, so that an input forges a checksum only by luck.
    Flip {
        at: u32,
        bits: u8,
    },
    /// Flips bits near the beginning, where the header is.
    FlipHeader {
        at: u8,
        bits: u8,
    },
    /// Overwrites some bytes with one, as a lost write does.
    Fill {
        at: u32,
        len: u16,
        with: u8,
    },
    /// Puts one page of the file in place of another, as a misdirected write does.
    Copy {
        from: u8,
        to: u8,
    },
    Truncate {
        len: u32,
    },
    Append {
        len: u16,
        with: u8,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Mode {
    Shared,
    Exclusive,
    ReadOnly,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Call {
    Find,
    List,
    Set,
    SetNew,
    Get,
    Renew,
    Unlock,
    Clean,
    Reset,
    Reopen,
}

/// A file, and every state of a lock that was ever written to it.
struct Base {
    bytes: Vec<u8>,
    written: Vec<Lock>,
    /// The names of the locks that are there at the end.
    live: Vec<String>,
}

static BASES: LazyLock<Vec<Base>> = LazyLock::new(|| {
    vec![
        base(0, true),
        base(3, true),
        base(3, false),
        base(400, true),
        base(400, false),
    ]
});

/// Returns a store of so many locks, closed or as a killed process leaves it.
fn base(locks: usize, is_closed: bool) -> Base {
    let directory = tempfile::tempdir_in(memory()).expect("a directory for the store");
    let path = directory.path().join("locks.redb");
    let mut bytes = Vec::new();
    let (mut written, mut live) = (Vec::new(), Vec::new());
    {
        let manager = builder(Mode::Shared).open(&path).expect("a new store");
        let mut set = |names: &[String], timeout: Timeout| {
            let options = SetOptions::new().timeout(timeout).process_id(4242);
            let result = manager.set_lock(names, options).expect("set_lock");
            written.extend_from_slice(result.locks());
        };
        let names: Vec<String> = (0..locks).map(|nth| format!("job:{nth:03}")).collect();
        set(&names, Timeout::DEFAULT);
        set(&names[..locks / 2], Timeout::Never);
        for name in names.iter().step_by(3) {
            assert!(manager.unlock(name).expect("unlock"));
        }
        let locks = manager.locks("").expect("the locks");
        live.extend(locks.iter().map(|lock| lock.name().to_string()));
        assert_eq!(live.len(), names.len() - names.len().div_ceil(3));
        if !is_closed {
            bytes = fs::read(&path).expect("the store's bytes");
        }
    }
    if is_closed {
        bytes = fs::read(&path).expect("the store's bytes");
    }
    Base {
        bytes,
        written,
        live,
    }
}

/// The one time of every call.
fn now() -> DateTime<Utc> {
    "2019-11-22T02:00:00Z".parse().expect("an instant")
}

fn builder(mode: Mode) -> Builder {
    let clock = ManualClock::new(now());
    let builder = LockManager::builder().locked_by("fuzz").clock(clock);
    // No other process exists to wait for, whatever the damaged file says.
    let builder = builder.busy_timeout(Duration::from_millis(50));
    match mode {
        Mode::Shared => builder,
        Mode::Exclusive => builder.exclusive(),
        Mode::ReadOnly => builder.read_only(),
    }
}

/// Returns a directory in memory, if there is one.
fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    }
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        const PAGE: usize = 4096;
        let len = bytes.len();
        let pages = (len / PAGE).max(1);
        match *self {
            Self::Flip { at, bits } if len > 0 => bytes[at as usize % len] ^= bits,
            Self::FlipHeader { at, bits } if len > 255 => bytes[usize::from(at)] ^= bits,
            Self::Fill { at, len: run, with } if len > 0 => {
                let from = at as usize % len;
                let to = len.min(from + usize::from(run) % (2 * PAGE));
                bytes[from..to].fill(with);
            }
            Self::Copy { from, to } if len >= PAGE => {
                let (from, to) = (usize::from(from) % pages, usize::from(to) % pages);
                bytes.copy_within(from * PAGE..(from + 1) * PAGE, to * PAGE);
            }
            Self::Truncate { len: to } if len > 0 => bytes.truncate(to as usize % len),
            Self::Append { len: more, with } => bytes.resize(len + usize::from(more), with),
            _ => {}
        }
    }
}

fuzz_target!(|input: Input| -> Corpus {
    note_panics();
    let held = LIVE.load(Ordering::Relaxed);
    PEAK.store(held, Ordering::Relaxed);
    let (ends, end) = mpsc::channel();
    // Outlives the worker, wherever the worker ends.
    let directory = tempfile::tempdir_in(memory()).expect("a directory for the store");
    let path = directory.path().join("locks.redb");
    let input = Arc::new(input);
    let (running, tell) = (Arc::clone(&input), ends.clone());
    let worker = thread::Builder::new().stack_size(STACK).spawn(move || {
        LOST.set(Some(ends));
        let _stack = SignalStack::new();
        let done = panic::catch_unwind(AssertUnwindSafe(|| run(&running, &path)));
        let _ = tell.send(if done.is_ok() {
            End::Good
        } else {
            End::Escaped
        });
    });
    let worker = worker.expect("a thread for the calls");
    match end.recv() {
        Ok(End::Good) => {
            worker.join().expect("nothing is left to panic");
            let peak = PEAK.load(Ordering::Relaxed) - held;
            if peak > MOST_BYTES {
                eprintln!("{peak} bytes were taken\n{input:?}");
                process::abort();
            }
            Corpus::Keep
        }
        Ok(End::Lost) => {
            static LOST: AtomicUsize = AtomicUsize::new(1);
            let lost = LOST.fetch_add(1, Ordering::Relaxed);
            if lost.is_power_of_two() {
                eprintln!("inputs that ended at a limit of redb: {lost}");
            }
            // The thread stays, so such inputs should be few.
            Corpus::Reject
        }
        Ok(End::Escaped) | Err(_) => {
            let message = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("a panic escaped: {message}\n{input:?}");
            process::abort();
        }
    }
});

/// The end of the calls on one store.
enum End {
    Good,
    /// A panic came out of the library, or a check failed.
    Escaped,
    /// The calls met a known limit of redb.
    Lost,
}

thread_local! {
    static LOST: Cell<Option<Sender<End>>> = const { Cell::new(None) };
}

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Replaces libFuzzer's hook, which ends the process at every panic, also at panics of redb that
/// the library catches and reports as damage. This hook only notes panics.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|panic| {
            if !panic.can_unwind() {
                sleep_for_ever();
            }
            let mut message = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
            *message = panic.to_string();
        }));
        alloc::set_alloc_error_hook(|_| sleep_for_ever());
        note_overflows();
    });
}

/// The stack size of the calls.
const STACK: usize = 2 * 1024 * 1024;

thread_local! {
    /// The approximate beginning of the stack of the thread that makes the calls.
    static STACK_TOP: Cell<usize> = const { Cell::new(0) };
}

/// Another stack, for the handler of the signal that a full stack causes.
struct SignalStack(Vec<u8>);

impl SignalStack {
    fn new() -> Self {
        let mut stack = Self(vec![0; 64 * 1024]);
        STACK_TOP.set(ptr::from_ref(&stack).addr());
        stack.tell(0);
        stack
    }

    fn tell(&mut self, flags: i32) {
        let stack = libc::stack_t {
            ss_sp: self.0.as_mut_ptr().cast(),
            ss_flags: flags,
            ss_size: self.0.len(),
        };
        // SAFETY: only this thread has the memory, until drop takes the stack back.
        assert_eq!(unsafe { libc::sigaltstack(&stack, ptr::null_mut()) }, 0);
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        self.tell(libc::SS_DISABLE);
    }
}

fn note_overflows() {
    extern "C" fn noted(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel passes pointers that are valid until this handler returns.
        let at = unsafe { (*info).si_addr() }.addr();
        let depth = STACK_TOP.get().wrapping_sub(at);
        if (STACK - 64 * 1024..STACK + 64 * 1024).contains(&depth) {
            sleep_for_ever();
        }
        // SAFETY: the default action is always valid. The fault then recurs, and ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = noted;
    // SAFETY: all zero is a valid action. The code fills it below.
    let set = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &action, ptr::null_mut())
    };
    assert_eq!(set, 0);
}

/// Parks this thread if it makes the calls, instead of ending the process.
fn sleep_for_ever() {
    if let Some(lost) = LOST.take() {
        let _ = lost.send(End::Lost);
        loop {
            thread::park();
        }
    }
}

#[global_allocator]
static BOUNDED: Bounded = Bounded;

/// The system's allocator, which refuses sizes that no whole store needs.
struct Bounded;

const MOST_BYTES: usize = 256 * 1024 * 1024;

/// Bytes allocated now, and the maximum since an input began.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all memory comes from the system's allocator, and a failure returns null.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST_BYTES {
            return ptr::null_mut();
        }
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, allocated: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(allocated, layout) }
    }
}

/// The locks that the store may contain.
struct Known {
    written: Vec<Lock>,
    /// The locks that failed calls would have created or renewed.
    attempted: Vec<String>,
}

fn run(input: &Input, path: &Path) {
    let base = &BASES[usize::from(input.base) % BASES.len()];
    let mut bytes = base.bytes.clone();
    for damage in &input.damage {
        damage.apply(&mut bytes);
    }
    let is_whole = bytes == base.bytes;
    fs::write(path, &bytes).expect("the damaged store");

    let mut known = Known {
        written: base.written.clone(),
        attempted: Vec::new(),
    };
    // A file without bytes is an empty store. After a write it is a different store.
    let mut live = match bytes.is_empty() {
        true => &[][..],
        false => &base.live,
    };
    let mut manager = match builder(input.mode).open(path) {
        Ok(manager) => manager,
        Err(error) => return assert!(!is_whole, "{error}"),
    };
    for call in input.calls {
        let done = match call {
            Call::Reopen => {
                drop(manager);
                manager = match builder(input.mode).open(path) {
                    Ok(manager) => manager,
                    Err(error) => return assert!(!is_whole, "{error}"),
                };
                Ok(())
            }
            Call::Find | Call::List => look(call, &manager, &known, live),
            _ => {
                live = &[];
                write(call, &manager, &mut known)
            }
        };
        let is_refused = matches!(input.mode, Mode::ReadOnly);
        if let Err(error) = done {
            assert!(!is_whole || is_refused, "{error}");
        }
    }
}

/// Names of any store: a call keeps, renews and releases them.
const NAMES: [&str; 4] = ["job:001", "job:199", "job:399", "job:000"];

fn check(lock: &Lock, known: &Known) {
    let name = lock.name().as_str();
    let is_attempted = known.attempted.iter().any(|attempted| attempted == name)
        && lock.locked_by() == "fuzz"
        && lock.updated_at() == now();
    let is_known = is_attempted || known.written.contains(lock);
    assert!(is_known, "invented: {lock:?}");
}

/// Makes reading calls, and checks that each answer is known, and that no lock is hidden.
fn look(call: Call, manager: &LockManager, known: &Known, live: &[String]) -> lockmgr::Result<()> {
    if let Call::Find = call {
        for name in NAMES {
            let found = manager.find(name)?;
            let is_live = live.iter().any(|live| live == name);
            assert!(found.is_some() || !is_live, "hidden: {name}");
            if let Some(lock) = found {
                assert_eq!(*lock.name(), name);
                check(&lock, known);
            }
        }
        return Ok(());
    }
    for prefix in ["", "job:1"] {
        let locks = manager.locks(prefix)?;
        for lock in &locks {
            assert!(lock.name().as_str().starts_with(prefix));
            check(lock, known);
        }
        let expected = live.iter().filter(|name| name.starts_with(prefix));
        for name in expected {
            assert!(
                locks.iter().any(|lock| lock.name() == name.as_str()),
                "hidden: {name}"
            );
        }
    }
    Ok(())
}

/// Makes a call, and checks that its result is known.
fn write(call: Call, manager: &LockManager, known: &mut Known) -> lockmgr::Result<()> {
    let names = match call {
        Call::Set => NAMES.map(str::to_owned).to_vec(),
        Call::SetNew => (0..50).map(|nth| format!("new:{nth}")).collect(),
        _ => vec!["job:001".to_owned()],
    };
    let made = match call {
        Call::Set | Call::SetNew => manager
            .set_lock(&names, SetOptions::new())
            .inspect(|result| assert_eq!(result.locks().len(), names.len()))
            .map(|result| result.locks().to_vec()),
        Call::Get => match manager.get_lock(&names[0], GetOptions::new()) {
            Err(lockmgr::Error::Locked(lock)) => {
                check(&lock, known);
                Ok(Vec::new())
            }
            got => got.map(|lock| vec![lock]),
        },
        Call::Renew => match manager.renew_lock(&names[0], RenewOptions::new()) {
            Err(lockmgr::Error::LockNotFound { .. }) => Ok(Vec::new()),
            renewed => renewed.map(|lock| vec![lock]),
        },
        Call::Unlock => return manager.unlock_all(NAMES).map(drop),
        Call::Clean => return manager.clean_locks().map(drop),
        Call::Reset => return manager.reset_locks().map(drop),
        Call::Find | Call::List | Call::Reopen => return Ok(()),
    };
    match made {
        Ok(made) => known.written.extend(made),
        Err(error) => {
            known.attempted.extend(names);
            return Err(error);
        }
    }
    Ok(())
}
