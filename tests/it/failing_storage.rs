//! Tests storage that fails: each call of the store to its file fails, once or until the storage is
//! repaired. The verb reports the failure. The store has the state before or after the verb, and
//! goes on.

use crate::holding_support::until;
use crate::support::{Disk, Home, noon, run, through, works};
use chrono::{DateTime, TimeDelta};
use lockmgr::{
    Error, GetOptions, Lock, LockGuard, LockManager, LockRef, ManualClock, RenewOptions,
    SetOptions, StorageCall, Timeout,
};
use serde_json::json;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// A kind of call to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Len,
    Read,
    Write,
    SetLen,
    Sync,
    Lock,
    Unlock,
}

const KINDS: [Kind; 7] = [
    Kind::Len,
    Kind::Read,
    Kind::Write,
    Kind::SetLen,
    Kind::Sync,
    Kind::Lock,
    Kind::Unlock,
];

impl Kind {
    fn of(call: StorageCall<'_>) -> Self {
        match call {
            StorageCall::Len => Self::Len,
            StorageCall::Read { .. } => Self::Read,
            StorageCall::Write { .. } => Self::Write,
            StorageCall::SetLen { .. } => Self::SetLen,
            StorageCall::Sync => Self::Sync,
            StorageCall::Lock => Self::Lock,
            StorageCall::Unlock => Self::Unlock,
            other => panic!("{other:?} is not tried"),
        }
    }
}

/// A step that takes longer than this hangs.
const HANG: Duration = Duration::from_secs(10);

const EINTR: i32 = 4;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// The message of the command if storage failed.
const IO: i32 = 74;

/// The calls that fail.
#[derive(Clone, Copy, Debug)]
struct Fault {
    kind: Kind,
    /// The number of the first call of the kind that fails, from 0.
    from: usize,
    /// Tells whether later calls fail too.
    lasts: bool,
    error: i32,
}

/// Counts the calls to a file, and makes them fail.
#[derive(Clone, Default)]
struct Storage(Arc<Mutex<Calls>>);

#[derive(Default)]
struct Calls {
    seen: [usize; KINDS.len()],
    fault: Option<Fault>,
    failed: usize,
}

impl Storage {
    fn hook(&self) -> impl Fn(StorageCall<'_>) -> io::Result<()> + Send + Sync + 'static {
        let calls = self.clone();
        move |call| calls.before(Kind::of(call))
    }

    fn before(&self, kind: Kind) -> io::Result<()> {
        let mut calls = self.0.lock().unwrap();
        let seen = calls.seen[kind as usize];
        calls.seen[kind as usize] += 1;
        let fails = |it: &Fault| it.kind == kind && (seen == it.from || it.lasts && seen > it.from);
        match calls.fault.filter(fails) {
            None => Ok(()),
            Some(fault) => {
                calls.failed += 1;
                Err(io::Error::from_raw_os_error(fault.error))
            }
        }
    }

    /// Makes these calls fail, counted from now on.
    fn fail(&self, fault: Fault) {
        *self.0.lock().unwrap() = Calls {
            fault: Some(fault),
            ..Calls::default()
        };
    }

    fn mend(&self) {
        *self.0.lock().unwrap() = Calls::default();
    }

    fn seen(&self, kind: Kind) -> usize {
        self.0.lock().unwrap().seen[kind as usize]
    }

    /// Returns once no handle is left, including those of undo work in the background.
    fn until_let_go(&self) {
        until("the file is let go", || Arc::strong_count(&self.0) == 1);
    }

    /// Returns how many calls failed.
    fn failed(&self) -> usize {
        self.0.lock().unwrap().failed
    }
}

/// One process with a store, and its handles.
struct World {
    home: Home,
    storage: Storage,
    clock: ManualClock,
    is_exclusive: bool,
    manager: Option<LockManager>,
    guard: Option<LockGuard>,
    /// The acknowledged tokens, and the largest token ever acknowledged.
    tokens: HashMap<String, u64>,
    last_token: u64,
}

/// A step on the world. It returns an answer without tokens.
type Step = (&'static str, fn(&mut World) -> lockmgr::Result<String>);

/// The fields of a lock that others see, except its token and parts of seconds.
type Seen = (String, String, Option<i64>, i64);

fn seen(lock: &Lock) -> Seen {
    let (name, by) = (lock.name().to_string(), lock.locked_by().to_string());
    let until = lock.locked_until().as_ref().map(DateTime::timestamp);
    (name, by, until, lock.updated_at().timestamp())
}

impl World {
    fn new(is_exclusive: bool) -> Self {
        Self {
            home: Home::in_memory(),
            storage: Storage::default(),
            clock: ManualClock::new(noon()),
            is_exclusive,
            manager: None,
            guard: None,
            tokens: HashMap::new(),
            last_token: 0,
        }
    }

    fn open(&mut self) -> lockmgr::Result<String> {
        let mut builder = LockManager::builder()
            .locked_by("app")
            .clock(self.clock.clone())
            .storage_hook(self.storage.hook());
        if self.is_exclusive {
            builder = builder.exclusive();
        }
        self.manager = Some(builder.open(self.home.db())?);
        Ok("opened".into())
    }

    fn close(&mut self) -> lockmgr::Result<String> {
        self.manager = None;
        Ok("closed".into())
    }

    fn manager(&self) -> &LockManager {
        self.manager.as_ref().unwrap()
    }

    fn guard(&mut self) -> &mut LockGuard {
        self.guard.as_mut().unwrap()
    }

    /// Notes acknowledged tokens, and checks that they rise.
    fn issued<'a>(&mut self, locks: impl IntoIterator<Item = (&'a str, u64)>) {
        let before = self.last_token;
        for (name, token) in locks {
            if self.tokens.insert(name.to_owned(), token) != Some(token) {
                assert!(token > before, "{name} bears the old token {token}");
                self.last_token = self.last_token.max(token);
            }
        }
    }

    fn noted(&mut self, lock: &Lock) -> String {
        self.issued([(lock.name().as_str(), lock.token())]);
        format!("{:?}", seen(lock))
    }

    fn noted_guard(&mut self) -> String {
        let tokens = self.guard().tokens();
        self.issued(tokens.iter().map(|(name, token)| (name.as_str(), *token)));
        let names = tokens.into_iter().map(|(name, _)| name);
        names.collect::<Vec<_>>().concat()
    }

    /// Checks that each lock has the acknowledged token, or a later one of a call that failed and
    /// took effect anyway.
    fn looked_at(&self, locks: &[Lock]) -> Vec<Seen> {
        for lock in locks {
            let (name, token) = (lock.name().as_str(), lock.token());
            let is_right = self.tokens.get(name) == Some(&token) || token > self.last_token;
            assert!(is_right, "{name} bears {token} of {}", self.last_token);
        }
        locks.iter().map(seen).collect()
    }

    /// Returns the locks that another process finds. For an exclusive store, reads a copy of the
    /// file, as after a crash.
    fn seen_by_others(&self) -> Vec<Seen> {
        let copy = Home::in_memory();
        let db = if self.is_exclusive && self.home.db().exists() {
            fs::copy(self.home.db(), copy.db()).unwrap();
            copy.db()
        } else {
            self.home.db()
        };
        let other = LockManager::builder().clock(self.clock.clone()).read_only();
        let other = other.busy_timeout(Duration::from_secs(1)).open(db).unwrap();
        assert!(other.requests("").unwrap().is_empty());
        self.looked_at(&other.locks("").unwrap())
    }

    fn state(&self) -> Vec<Seen> {
        match &self.manager {
            Some(manager) => self.looked_at(&manager.locks("").unwrap()),
            None => self.seen_by_others(),
        }
    }
}

/// Returns names so long that so many of them make the file grow.
fn many() -> Vec<String> {
    (0..24).map(|i| format!("{}{i}", "x".repeat(240))).collect()
}

/// Runs typical steps of a store. A step that failed is repeated.
const SCRIPT: &[Step] = &[
    ("open", World::open),
    ("set", |it| {
        let set = it.manager().set_lock(["a", "b"], SetOptions::new())?;
        Ok(set.locks().iter().map(|lock| it.noted(lock)).collect())
    }),
    ("set many", |it| {
        let for_ever = SetOptions::new().timeout(Timeout::Never);
        let set = it.manager().set_lock(many(), for_ever)?;
        Ok(set.locks().iter().map(|lock| it.noted(lock)).collect())
    }),
    ("be refused", |it| {
        match it.manager().set_lock(["c", "b"], SetOptions::new().fail()) {
            Err(Error::LockFail(lock)) => Ok(it.noted(&lock)),
            other => other.map(|set| panic!("{set:?}")),
        }
    }),
    ("get", |it| {
        let short = GetOptions::new().timeout(Duration::from_secs(5));
        let lock = it.manager().get_lock("short", short)?;
        Ok(it.noted(&lock))
    }),
    ("renew", |it| {
        let lock = LockRef::with_token("short", it.tokens["short"]);
        let ten = RenewOptions::new().timeout(Duration::from_secs(10));
        let lock = it.manager().renew_lock(lock, ten)?;
        Ok(it.noted(&lock))
    }),
    ("guard", |it| {
        it.guard = Some({
            let acquire = it.manager().acquire(["g", "h"]);
            acquire
                .lease(Duration::from_secs(600))
                .no_keep_alive()
                .try_lock()?
        });
        Ok(it.noted_guard())
    }),
    ("add to the guard", |it| {
        it.guard().lock("i")?;
        Ok(it.noted_guard())
    }),
    ("renew the guard", |it| {
        it.guard().renew()?;
        Ok(it.guard().deadline().unwrap().timestamp().to_string())
    }),
    ("look at the guard", |it| {
        Ok(it.guard().is_held()?.to_string())
    }),
    ("unlock in the guard", |it| {
        Ok(it.guard().unlock("g")?.to_string())
    }),
    ("release the guard", |it| {
        // No lock is left if its release failed before, and was repeated in the background.
        if let Some(guard) = it.guard.take() {
            guard.release()?;
        }
        Ok("released".into())
    }),
    ("clean", |it| {
        it.clock.set_wall(noon() + TimeDelta::seconds(60));
        Ok(it.manager().clean_locks()?.to_string())
    }),
    ("find", |it| {
        let found = it.manager().find("a")?;
        Ok(format!("{:?}", found.as_ref().map(seen)))
    }),
    ("close", World::close),
    ("open again", World::open),
    ("unlock", |it| Ok(it.manager().unlock("a")?.to_string())),
    ("reset", |it| Ok(it.manager().reset_locks()?.to_string())),
    ("get after the reset", |it| {
        let lock = it.manager().get_lock("last", GetOptions::new())?;
        Ok(it.noted(&lock))
    }),
    ("close at last", World::close),
];

/// Steps that leave no change if they fail.
const UNDONE: [&str; 2] = ["guard", "add to the guard"];

/// The step that is repeated in the background if it fails.
const DONE_LATER: &str = "release the guard";

/// Describes the point at which a test failed.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("at {}", self.0);
        }
    }
}

/// The answer of each step of an undisturbed run, the states before and after the step, and the
/// number of calls of each kind before it.
struct Undisturbed {
    answers: Vec<String>,
    states: Vec<Vec<Seen>>,
    calls: [usize; KINDS.len()],
}

fn undisturbed(is_exclusive: bool) -> Undisturbed {
    let mut world = World::new(is_exclusive);
    let (mut answers, mut states) = (Vec::new(), vec![Vec::new()]);
    for (_, step) in SCRIPT {
        answers.push(step(&mut world).unwrap());
        let calls = world.storage.0.lock().unwrap().seen;
        states.push(world.state());
        world.storage.0.lock().unwrap().seen = calls;
    }
    let calls = world.storage.0.lock().unwrap().seen;
    Undisturbed {
        answers,
        states,
        calls,
    }
}

/// Checks that the error names the file, the action and the reason.
fn is_told(world: &World, error: &Error, fault: Fault) {
    let Error::Io {
        path,
        action,
        source,
        ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(*path, world.home.db());
    assert!(error.to_string().contains(action) && !action.is_empty());
    assert_eq!(source.raw_os_error(), Some(fault.error), "{error:?}");
}

/// Runs the script with one fault, and returns whether it was met.
fn run_with(fault: Fault, is_exclusive: bool, expected: &Undisturbed) -> bool {
    let mut world = World::new(is_exclusive);
    let mut met_at = None;
    world.storage.fail(fault);
    for (i, (name, step)) in SCRIPT.iter().enumerate() {
        let mode = if is_exclusive { "exclusive" } else { "shared" };
        let _context = Context(format!("step \"{name}\", {mode}, {fault:?}"));
        let (before, after) = (&expected.states[i], &expected.states[i + 1]);
        let began = Instant::now();
        let answer = step(&mut world);
        assert!(began.elapsed() < HANG, "it took {:?}", began.elapsed());
        if world.storage.failed() == 0 {
            assert_eq!(answer.unwrap(), expected.answers[i]);
            // After these steps the run continues as without a fault.
            if met_at.is_some_and(|met_at| i > met_at + 2) {
                break;
            }
            continue;
        }
        met_at = Some(i);
        world.storage.mend();
        if let Err(error) = &answer {
            is_told(&world, error, fault);
        }
        // If the manager could not undo a step at once, it undoes the step in the background.
        if answer.is_err() && UNDONE.contains(name) {
            until("it is undone", || world.seen_by_others() == *before);
            // A repeated step has a later time.
            world.clock.advance(Duration::from_micros(1));
        }
        if answer.is_err() && *name == DONE_LATER {
            until("it is done", || world.seen_by_others() == *after);
        }
        let state = world.seen_by_others();
        assert!(
            state == *before || state == *after,
            "neither before nor after: {state:?}"
        );
        assert_eq!(world.state(), state);
        match answer {
            Ok(answer) => {
                // A change that was not written or not synced is not acknowledged.
                let is_lost = matches!(fault.kind, Kind::Write | Kind::SetLen | Kind::Sync);
                assert!(before == after || !is_lost, "it was acknowledged");
                assert_eq!(answer, expected.answers[i]);
                assert_eq!(state, *after);
            }
            Err(_) if before == after || state == *before => {
                assert_eq!(step(&mut world).unwrap(), expected.answers[i]);
            }
            // The step took effect anyway, so its answer is read from the store.
            Err(_) => {
                let locks = world.manager().locks("").unwrap();
                world.issued(locks.iter().map(|it| (it.name().as_str(), it.token())));
            }
        }
    }
    world.manager = None;
    world.guard = None;
    world.storage.until_let_go();
    met_at.is_some()
}

/// Tries all kinds of calls in parallel, as most of the time is waiting, and adds up the faults
/// that each kind met.
fn of_each_kind(try_it: impl Fn(Kind) -> usize + Sync) -> usize {
    let try_it = &try_it;
    thread::scope(|scope| {
        let threads = KINDS.map(|kind| scope.spawn(move || try_it(kind)));
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    })
}

fn every_call_may_fail(is_exclusive: bool) {
    let expected = undisturbed(is_exclusive);
    let met = of_each_kind(|kind| {
        let mut met = 0;
        for from in 0..expected.calls[kind as usize] {
            for lasts in [false, true] {
                let error = [EIO, ENOSPC, EINTR][from % 3];
                let fault = Fault {
                    kind,
                    from,
                    lasts,
                    error,
                };
                met += usize::from(run_with(fault, is_exclusive, &expected));
            }
        }
        met
    });
    assert!(met > 300, "only {met} faults were met");
}

#[test]
fn every_call_of_a_shared_store_may_fail() {
    every_call_may_fail(false);
}

#[test]
fn every_call_of_an_exclusive_store_may_fail() {
    every_call_may_fail(true);
}

/// Returns a manager of a shared store with a file whose calls may fail.
fn failing() -> (Home, Storage, LockManager) {
    let (home, storage) = (Home::in_memory(), Storage::default());
    let builder = LockManager::builder().storage_hook(storage.hook());
    let manager = builder.open(home.db()).unwrap();
    (home, storage, manager)
}

/// Returns the fault by which every later write fails.
const NO_SPACE: Fault = Fault {
    kind: Kind::Write,
    from: 0,
    lasts: true,
    error: ENOSPC,
};

#[test]
fn guard_whose_renewals_fail_for_its_lease_tells_its_owner() {
    let (_home, storage, manager) = failing();
    let (lost, losses) = mpsc::channel();
    let lease = Duration::from_millis(400);
    let guard = manager.acquire(["a"]).lease(lease);
    let on_lost = move |lock: &Lock| lost.send(lock.name().to_string()).unwrap();
    let mut guard = guard.on_lost(on_lost).lock().unwrap();
    assert!(guard.is_held().unwrap());
    storage.fail(NO_SPACE);
    let refused = guard.renew().unwrap_err();
    assert!(matches!(refused, Error::Io { source, .. } if source.raw_os_error() == Some(ENOSPC)));

    assert_eq!(losses.recv_timeout(HANG).unwrap(), "a");
    assert!(!guard.is_held().unwrap());
    assert!(matches!(guard.renew(), Err(Error::Lost { .. })));
    assert!(guard.tokens().is_empty());
    storage.mend();
    drop(guard);
    assert!(!manager.is_locked("a").unwrap());
    assert_eq!(losses.try_iter().count(), 0);
}

#[test]
fn guard_outlives_a_renewal_that_failed() {
    let (_home, storage, manager) = failing();
    let lease = Duration::from_millis(900);
    let guard = manager.acquire(["a"]).lease(lease);
    let guard = guard.on_lost(|lock| panic!("{lock:?} was lost")).lock();
    let guard = guard.unwrap();
    let first = guard.deadline();
    storage.fail(NO_SPACE);
    until("a renewal fails", || storage.failed() > 0);
    storage.mend();
    until("another succeeds", || guard.deadline() > first);
    assert!(guard.is_held().unwrap());
    guard.release().unwrap();
}

#[test]
fn guard_that_cannot_be_released_frees_its_locks_with_its_lease() {
    let (home, storage) = (Home::in_memory(), Storage::default());
    let (others, clock) = home.open_with_clock();
    let builder = LockManager::builder().clock(clock.clone());
    let failing = builder.storage_hook(storage.hook()).open(home.db());
    let acquire = failing.unwrap().acquire(["a"]).no_keep_alive();
    let guard = acquire.lease(Duration::from_secs(600)).try_lock();
    storage.fail(NO_SPACE);
    drop(guard.unwrap());
    assert_ne!(storage.failed(), 0);
    assert!(others.is_locked("a").unwrap());
    clock.advance(Duration::from_secs(600));
    assert!(!others.is_locked("a").unwrap());
    others.get_lock("a", GetOptions::new()).unwrap();
}

#[test]
fn guard_whose_release_failed_is_released_once_the_storage_works() {
    type End = fn(LockGuard);
    for end in [drop, (|guard| assert!(guard.release().is_err())) as End] {
        let (home, storage, manager) = failing();
        let others = home.open();
        let guard = manager.acquire(["a", "b"]).try_lock().unwrap();
        storage.fail(NO_SPACE);
        end(guard);
        assert_eq!(others.locks("").unwrap().len(), 2);
        storage.mend();
        until("the locks are released", || {
            others.locks("").unwrap().is_empty()
        });
    }
}

/// Waits for a lock while the storage fails, and checks that the lock is held, or nothing is left
/// of the request. Returns the number of calls of that kind.
fn waits_with(fault: Fault) -> (usize, bool) {
    let _context = Context(format!("{fault:?}"));
    let (home, storage, waiting) = failing();
    let others = home.open();
    let held = others.acquire(["a"]).try_lock().unwrap();
    storage.fail(fault);
    let result = thread::scope(|scope| {
        // A grant to a waiter that failed, and cannot remove its request, ends with its lease.
        let acquire = waiting
            .acquire(["a", "b"])
            .lease(Duration::from_millis(1_500))
            .no_keep_alive();
        let waiter = scope.spawn(|| acquire.try_lock_for(HANG));
        until("the waiter is queued, or has failed", || {
            !others.requests("").unwrap().is_empty() || waiter.is_finished()
        });
        held.release().unwrap();
        waiter.join().unwrap()
    });
    let (calls, failed) = (storage.seen(fault.kind), storage.failed());
    storage.mend();
    match result {
        Ok(guard) => {
            assert!(guard.is_held().unwrap());
            assert_eq!(others.locks("").unwrap().len(), 2);
            guard.release().unwrap();
        }
        Err(Error::Io { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(fault.error));
        }
        Err(error) => panic!("{error:?}"),
    }
    until("nothing stays", || {
        others.requests("").unwrap().is_empty() && others.locks("").unwrap().is_empty()
    });
    let second = others.acquire(["a", "b"]).try_lock().unwrap();
    second.release().unwrap();
    drop(waiting);
    storage.until_let_go();
    (calls, failed > 0)
}

#[test]
fn wait_that_fails_leaves_nothing_behind() {
    let met = of_each_kind(|kind| {
        let mut met = 0;
        for lasts in [false, true] {
            for from in 0.. {
                let error = EIO;
                let fault = Fault {
                    kind,
                    from,
                    lasts,
                    error,
                };
                let (calls, has_failed) = waits_with(fault);
                met += usize::from(has_failed);
                if from >= calls {
                    break;
                }
            }
        }
        met
    });
    assert!(met > 50, "only {met} faults were met");
}

#[test]
fn full_disk_is_reported_by_the_library_and_loses_nothing() {
    let Some(disk) = Disk::new() else {
        return;
    };
    let mut refusals = 0;
    for free in (0..16).map(|pages| pages * 4096) {
        let manager = LockManager::open(disk.db_from_outside()).unwrap();
        let mut guard = manager.acquire(["guarded"]).try_lock().unwrap();
        let mut acknowledged = vec![manager.find("guarded").unwrap().unwrap()];
        disk.shell("cat /dev/zero > filler");
        assert!(disk.shell(&format!("truncate -s -{free} filler")));
        let mut refused = |error: &Error| {
            assert!(error.to_string().contains("locks.redb"), "{error}");
            match error {
                Error::Io { source, .. } => {
                    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
                }
                _ => panic!("{error:?}"),
            }
            refusals += 1;
        };
        for round in 0..8 {
            let names = (0..4).map(|i| format!("{}{round}{i}", "x".repeat(200)));
            match manager.set_lock(names, SetOptions::new()) {
                Ok(set) => acknowledged.extend_from_slice(set.locks()),
                Err(error) => refused(&error),
            }
        }
        match guard.renew() {
            Ok(()) => acknowledged[0] = manager.find("guarded").unwrap().unwrap(),
            Err(error) => refused(&error),
        }
        assert!(disk.shell("rm filler"));

        assert!(guard.is_held().unwrap());
        let other = LockManager::open(disk.db_from_outside()).unwrap();
        for manager in [&manager, &other] {
            let locks = manager.locks("").unwrap();
            let is_there = |lock| locks.contains(lock);
            assert!(acknowledged.iter().all(is_there), "{free} free: {locks:?}");
        }
        guard.renew().unwrap();
        guard.release().unwrap();
        let new = manager.get_lock("new", GetOptions::new()).unwrap();
        assert!(acknowledged.iter().all(|lock| lock.token() < new.token()));
        drop((manager, other));
        assert!(disk.shell("rm locks.redb"));
    }
    assert!(refusals > 20, "the disk was full for {refusals} calls");
}

#[test]
fn full_disk_is_reported_by_the_command_and_loses_nothing() {
    let Some(disk) = Disk::new() else {
        return;
    };
    let mut refusals = 0;
    for free in (0..20).map(|pages| pages * 4096) {
        let (_, set) = disk.json(&["set", "held"]);
        let mut acknowledged = set["locks"].as_array().unwrap().clone();
        disk.shell("cat /dev/zero > filler");
        assert!(disk.shell(&format!("truncate -s -{free} filler")));
        for round in 0..6 {
            let names: Vec<_> = (0..5)
                .map(|i| format!("{}{i}", "x".repeat(200 + round)))
                .collect();
            let names = names.iter().map(String::as_str);
            let (exit, set) = disk.json(&["set"].into_iter().chain(names).collect::<Vec<_>>());
            if exit == Some(0) {
                acknowledged.extend_from_slice(set["locks"].as_array().unwrap());
            } else {
                assert_eq!(
                    (exit, &set["error"]["kind"]),
                    (Some(IO), &json!("Io")),
                    "{set}"
                );
                refusals += 1;
            }
        }
        let (exit, list) = disk.json(&["list"]);
        assert!(exit == Some(0) || exit == Some(IO), "{list}");

        assert!(disk.shell("rm filler"));
        let (exit, list) = disk.json(&["list"]);
        assert_eq!(exit, Some(0), "{list}");
        for lock in &acknowledged {
            assert!(
                list.as_array().unwrap().contains(lock),
                "{lock} is not in {list}"
            );
        }
        let (exit, set) = disk.json(&["set", "new"]);
        assert_eq!((exit, &set["counts"]["created"]), (Some(0), &json!(1)));
        assert!(disk.shell("rm locks.redb"));
    }
    assert!(refusals > 20, "the disk was full for {refusals} calls");

    disk.shell("cat /dev/zero > filler");
    let (exit, refused) = disk.json(&["set", "held"]);
    assert_eq!((exit, &refused["error"]["kind"]), (Some(IO), &json!("Io")));
    assert_eq!(disk.json(&["list"]), (Some(0), json!([])));
}

/// Runs `lockmgr set a b` without a store, and lets the n-th system call of that name fail. Returns
/// whether there was such a call.
fn set_with(call: &str, n: usize, error: &str) -> bool {
    let home = Home::in_memory();
    let (db, trace) = (home.db(), home.join("trace"));
    let (trace_only, inject) = (
        format!("trace={call}"),
        format!("inject={call}:error={error}:when={n}"),
    );
    let strace = [
        "strace",
        "-f",
        "-qq",
        "-e",
        &trace_only,
        "-e",
        &inject,
        "-o",
    ];
    let mut command = through(&[&strace[..], &[trace.to_str().unwrap()]].concat());
    let ran = run(command.arg("--db").arg(&db).args(["set", "a", "b"]));
    let trace = fs::read_to_string(trace).unwrap();
    // The reads that start a program are not the command's own.
    let is_loader = ran.stderr.contains("while loading shared libraries");
    if !trace.contains("INJECTED") || is_loader {
        return is_loader;
    }
    let context = format!("{call} {n} {error}: {ran:?}");
    let (locks, status) = (home.json(["list"]).1, ran.status);
    let names = locks.as_array().unwrap().iter().map(|lock| &lock["name"]);
    let names: Vec<_> = names.map(|name| name.as_str().unwrap()).collect();
    match status {
        Some(0) => assert_eq!(names, ["a", "b"], "{context}"),
        Some(73 | 74) => {
            assert!(names.is_empty() || names == ["a", "b"], "{context}");
            let complaint = ran.stderr.strip_prefix("lockmgr: cannot ").unwrap();
            assert!(complaint.contains("locks.redb: "), "{context}");
        }
        _ => panic!("{context}"),
    }
    assert_eq!(home.json(["set", "c"]).0, Some(0), "{context}");
    true
}

#[test]
fn command_outlives_every_system_call_that_fails() {
    if !works(&["strace", "-qq", "-o", "/dev/null"]) {
        return;
    }
    let calls = [
        "pwrite64",
        "pread64",
        "fdatasync",
        "fcntl",
        "ftruncate,linkat,fsync",
        "openat,statx",
    ];
    let failed: usize = thread::scope(|scope| {
        let one_by_one = |call: &'static str| {
            let errors = ["EIO", "ENOSPC", "EINTR"];
            (1..)
                .take_while(|&n| set_with(call, n, errors[n % 3]))
                .count()
        };
        let threads = calls.map(|call| scope.spawn(move || one_by_one(call)));
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    assert!(failed > 80, "only {failed} system calls failed");
}

#[test]
fn every_call_of_a_reader_that_repairs_may_fail() {
    let (home, copy) = (Home::in_memory(), Home::in_memory());
    let alone = LockManager::builder().exclusive().open(home.db()).unwrap();
    alone.get_lock("a", GetOptions::new()).unwrap();
    for kind in KINDS {
        for from in 0.. {
            // The file as after a crash of the machine at this instant.
            fs::copy(home.db(), copy.db()).unwrap();
            let storage = Storage::default();
            let builder = LockManager::builder().read_only();
            storage.fail(Fault {
                kind,
                from,
                lasts: false,
                error: EIO,
            });
            let opened = builder.storage_hook(storage.hook()).open(copy.db());
            match opened.and_then(|reader| reader.is_locked("a")) {
                Ok(is_locked) => assert!(is_locked),
                Err(Error::Io { source, .. }) => assert_eq!(source.raw_os_error(), Some(EIO)),
                Err(error) => panic!("{kind:?} {from}: {error:?}"),
            }
            if storage.failed() == 0 {
                assert!(from > 0, "no call is {kind:?}");
                break;
            }
        }
    }
}
