//! Runs one process of the soak: random calls on the shared store. The worker notes each call
//! before it is made and after it has returned.
//!
//! The judge knows a call only by these notes, one line each. The notes of a killed worker simply
//! end.

use super::job::Job;
use super::terms::{
    CHILD, COMMAND, DIR, FORCED, JOB, KINDS, LONERS, LONG, MINE, SHARED, SLOTS, boot_micros,
};
use super::witness::Witnesses;
use crate::dice::{Dice, millis};
use lockmgr::{
    Error, GetOptions, Lock, LockGuard, LockManager, LockRef, Mode, RenewOptions, Result,
    SetOptions, Status,
};
use rustix::process::{Signal, WaitOptions, getpid, kill_process, wait};
use std::env;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

/// The time that a worker waits for other transactions: shorter than some stops.
const BUSY: Duration = Duration::from_secs(2);

/// The bound of a wait that has a bound.
const LONGEST_WAIT: Duration = Duration::from_millis(400);

/// The note of the process that a lock is bound to.
#[derive(Clone, Copy)]
enum BoundTo {
    Nothing,
    Manager,
    Process,
    Job,
}

impl BoundTo {
    fn this_process(is_bound: bool) -> Self {
        match is_bound {
            true => Self::Process,
            false => Self::Nothing,
        }
    }
}

/// A call, as it is noted before it is made.
struct Asked<'a> {
    verb: &'a str,
    /// The bound of the wait for locks. None if the call waits until they are granted.
    wait: Option<Duration>,
    lease: Duration,
    /// The process that the locks are bound to.
    bound_to: BoundTo,
    targets: Vec<String>,
}

fn ask<'a>(verb: &'a str, targets: impl IntoIterator<Item = impl ToString>) -> Asked<'a> {
    Asked {
        verb,
        wait: Some(Duration::ZERO),
        lease: Duration::ZERO,
        bound_to: BoundTo::Nothing,
        targets: targets.into_iter().map(|it| it.to_string()).collect(),
    }
}

/// Returns the note of a lock: by its name, or by its name and token.
fn target(name: &str, token: Option<u64>) -> String {
    token.map_or_else(|| name.to_owned(), |token| format!("{name}#{token}"))
}

fn lock_ref(name: &str, token: Option<u64>) -> LockRef<'_> {
    match token {
        Some(token) => LockRef::with_token(name, token),
        None => LockRef::new(name),
    }
}

fn not_found(name: &str, token: Option<u64>) -> String {
    match token {
        Some(token) => format!("{name}|~{token}|?"),
        None => absent(name),
    }
}

fn absent(name: &str) -> String {
    format!("{name}|-|-")
}

fn created(manager: &LockManager, lock: &Lock) -> String {
    format!("{}|-|{}", lock.name(), state(manager, lock))
}

fn seen(manager: &LockManager, lock: &Lock) -> String {
    let (name, token) = (lock.name(), lock.token());
    format!("{name}|{token}|{}", state(manager, lock))
}

fn state(manager: &LockManager, lock: &Lock) -> String {
    let until = until(|| manager.time_left(lock));
    let bound = lock.bound_to().map_or("", |_| "@bound");
    format!("{}@{until}{bound}", lock.token())
}

/// Returns a deadline on the clock since boot, from the time left. 0 if it has passed.
fn until(time_left: impl Fn() -> Option<Duration>) -> u64 {
    loop {
        let before = boot_micros();
        let left = time_left();
        // A delay between the two reads would make the result useless.
        if boot_micros() - before < 500 {
            return match left {
                None => u64::MAX,
                Some(Duration::ZERO) => 0,
                Some(left) => before + left.as_micros() as u64,
            };
        }
    }
}

type Tokens = Vec<(String, u64)>;

/// Returns the notes of the locks of a guard, in their current state. A lock without an earlier
/// note is new.
fn held(guard: &LockGuard, known: &[(String, u64)]) -> Vec<String> {
    let until = until(|| guard.time_left());
    let one = |lock: (String, u64)| {
        let (name, token) = &lock;
        let was = match known.contains(&lock) {
            true => token.to_string(),
            false => "-".to_owned(),
        };
        let mode = guard
            .locks()
            .into_iter()
            .find(|it| it.name() == name.as_str());
        let mode = match mode.map(|lock| lock.mode()) {
            Some(Mode::Shared) => "|s".to_owned(),
            Some(Mode::Slots { take, .. }) => format!("|{take}"),
            _ => String::new(),
        };
        format!("{name}|{was}|{token}@{until}{mode}")
    };
    guard.tokens().into_iter().map(one).collect()
}

fn tokens(guard: &LockGuard) -> Vec<String> {
    let tokens = guard.tokens().into_iter();
    tokens
        .map(|(name, token)| target(&name, Some(token)))
        .collect()
}

fn given_back(locks: &[(String, u64)]) -> Vec<String> {
    let locks = locks.iter();
    locks
        .map(|(name, token)| format!("{name}|{token}|-"))
        .collect()
}

/// Forks this process, and returns the child's number, or 0 in the child.
type Fork = fn() -> i32;

pub(crate) struct Worker {
    dir: PathBuf,
    witnesses: Witnesses,
    manager: LockManager,
    notes: File,
    /// The number of calls that the worker has made.
    calls: usize,
    dice: Dice,
    number: usize,
    is_loner: bool,
    /// Tells whether some places cannot prove its end by its number.
    is_apart: bool,
    mine: Vec<String>,
    /// Locks that the worker held at some time, and may still hold.
    locks: Vec<Lock>,
    command: Option<PathBuf>,
    fork: Option<Fork>,
    children: usize,
}

fn open(path: &Path, number: usize) -> LockManager {
    loop {
        let builder = LockManager::builder().busy_timeout(BUSY);
        match builder.locked_by(number.to_string()).open(path) {
            Ok(manager) => return manager,
            Err(Error::StoreBusy { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

impl Worker {
    /// Creates the worker from the environment that its parent set. None if it set nothing.
    pub(crate) fn from_env(fork: Option<Fork>) -> Option<Self> {
        let dir = PathBuf::from(env::var_os(DIR)?);
        let job = env::var(JOB).unwrap();
        let job: Vec<u64> = job.split(' ').map(|it| it.parse().unwrap()).collect();
        let [slot, number, seed, is_apart] = job[..] else {
            panic!("{job:?}");
        };
        let number = number as usize;
        Some(Self {
            // Before the manager: what is closed first at the end of a process tells first.
            witnesses: Witnesses::open(&dir),
            manager: open(&dir.join("store/locks.redb"), number),
            notes: File::create_new(dir.join(number.to_string())).unwrap(),
            calls: 0,
            dice: Dice(seed),
            number,
            is_loner: (slot as usize) < LONERS,
            is_apart: is_apart != 0,
            mine: (0..6).map(|i| format!("{MINE}{slot}:{i}")).collect(),
            locks: Vec::new(),
            command: env::var_os(COMMAND).map(PathBuf::from),
            fork,
            children: 0,
            dir,
        })
    }

    /// Works until it is killed.
    pub(crate) fn work(mut self) {
        self.list_mine();
        loop {
            // Some workers change only their own locks: a kill hits them more often in the middle
            // of a call that must be atomic.
            let kind = if self.is_loner { 50 } else { 0 };
            match kind + self.dice.below(100 - kind - kind / 5) {
                0..8 => self.hold_long(),
                8..20 => self.hold_in_kinds(),
                20..35 => self.hold_shortly(),
                35..50 => self.take_shared(),
                50..75 => self.change_mine(),
                75..80 => self.list_mine(),
                80..87 => self.look_at_shared(),
                87..90 => self.force(),
                90..91 => {
                    self.call(ask("clean", [""]), LockManager::clean_locks, |_, _| vec![]);
                }
                91..92 => self.manager = open(&self.dir.join("store/locks.redb"), self.number),
                92..97 => self.run_job(),
                _ => self.hold_and_fork(),
            }
            self.locks.truncate(40);
        }
    }

    /// Notes a line by one write, so that only the last line may be cut.
    fn note(&mut self, line: &str) {
        self.notes
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    /// Makes a call. `said` turns its result into notes of locks: `NAME|WAS|NOW`.
    fn call<T>(
        &mut self,
        asked: Asked<'_>,
        make: impl FnOnce(&LockManager) -> Result<T>,
        said: impl FnOnce(&LockManager, &T) -> Vec<String>,
    ) -> Option<T> {
        // The call may wait for the store twice: a refused call may commit in a second transaction.
        let limit = asked.wait.map(|wait| (wait + 2 * BUSY).as_micros());
        let limit = limit.map_or("-".to_owned(), |limit| limit.to_string());
        let (verb, lease) = (asked.verb, asked.lease.as_micros());
        let bound = match asked.bound_to {
            BoundTo::Nothing => "-",
            BoundTo::Manager => "manager",
            BoundTo::Process => "process",
            BoundTo::Job => "job",
        };
        let targets = asked.targets.join(",");
        let manager = self.manager.clone();
        self.calls += 1;
        let invoked = boot_micros();
        self.note(&format!(
            "> {invoked} {verb} {limit} {lease} {bound} {targets}"
        ));
        let result = make(&manager);
        let returned = boot_micros();
        let (outcome, said) = match &result {
            Ok(value) => ("ok", said(&manager, value)),
            Err(Error::Locked(lock) | Error::LockFail(lock)) => ("no", vec![seen(&manager, lock)]),
            Err(Error::LockNotFound { name, token, .. }) => ("no", vec![not_found(name, *token)]),
            Err(Error::Reserved { .. } | Error::Lost { .. }) => ("no", Vec::new()),
            Err(Error::StoreBusy { .. }) => ("busy", Vec::new()),
            Err(error) => {
                self.note(&format!("! {verb} {targets}: {error:?}"));
                ("failed", Vec::new())
            }
        };
        self.note(&format!("< {returned} {outcome} {}", said.join(" ")));
        result.ok()
    }

    fn some_of(&mut self, names: &[&str], most: usize) -> Vec<String> {
        let mut some = self.dice.some_of(names);
        some.truncate(most);
        some.into_iter().map(str::to_owned).collect()
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.dice.below(n) == 0
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        millis(self.dice.below(most.as_millis() as u64))
    }

    /// Waits without a deadline, and holds for longer than any stop.
    fn hold_long(&mut self) {
        let names = self.some_of(&SHARED, 3);
        let wait = self.one_in(4).then(|| self.up_to(LONGEST_WAIT));
        let keeps_alive = self.one_in(3);
        if let Some(guard) = self.acquire(&names, wait, LONG, keeps_alive) {
            self.use_guard(guard, LONG, false);
        }
    }

    /// Holds for a shorter time than some stops.
    fn hold_shortly(&mut self) {
        let all = [&SHARED[..], &FORCED[..]].concat();
        let names = self.some_of(&all, 4);
        let wait = Some(self.up_to(LONGEST_WAIT));
        let lease = millis(60 + self.dice.below(400));
        let keeps_alive = !self.one_in(3);
        if let Some(guard) = self.acquire(&names, wait, lease, keeps_alive) {
            self.use_guard(guard, lease, !keeps_alive);
        }
    }

    fn acquire(
        &mut self,
        names: &[String],
        wait: Option<Duration>,
        lease: Duration,
        keeps_alive: bool,
    ) -> Option<LockGuard> {
        let who = format!("{}/{}", self.number, self.calls);
        let asked = Asked {
            wait,
            lease,
            bound_to: BoundTo::Manager,
            ..ask("acquire", names)
        };
        let acquire = |manager: &LockManager| {
            let mut acquire = manager.acquire(names).lease(lease).locked_by(who);
            if !keeps_alive {
                acquire = acquire.no_keep_alive();
            }
            match wait {
                Some(bound) => acquire.try_lock_for(bound),
                None => acquire.lock(),
            }
        };
        self.call(asked, acquire, |_, guard| held(guard, &[]))
    }

    /// Makes several random calls on a guard, and releases it.
    fn use_guard(&mut self, mut guard: LockGuard, lease: Duration, may_wait: bool) {
        // All long holders have a witness: they never lose a lock.
        let mut witnessed = match lease == LONG {
            true => Vec::from_iter(guard.tokens().into_iter().map(|(name, _)| name)),
            false => Vec::new(),
        };
        for name in &witnessed {
            self.witness(name, Witnesses::begins);
        }
        let mut known = guard.tokens();
        for _ in 0..self.dice.below(4) {
            match self.dice.below(5) {
                0 => self.renew_guard(&mut guard, &mut known, lease),
                1 => self.look_at_guard(&guard, &known),
                2 if lease != LONG => self.add_to_guard(&mut guard, &mut known, lease, may_wait),
                3 => {
                    if let Some((name, token)) = guard.tokens().pop() {
                        if witnessed.contains(&name) {
                            witnessed.retain(|of| *of != name);
                            self.witness(&name, Witnesses::ends);
                        }
                        let asked = ask("guard.unlock", [target(&name, Some(token))]);
                        let unlock = |_: &LockManager| guard.unlock(&name);
                        let lock = [(name.clone(), token)];
                        self.call(asked, unlock, |_, was_held| match was_held {
                            true => given_back(&lock),
                            false => Vec::new(),
                        });
                    }
                }
                _ if lease == LONG => thread::sleep(self.up_to(millis(4))),
                _ => thread::sleep(self.up_to(millis(60))),
            }
        }
        for name in &witnessed {
            self.witness(name, Witnesses::ends);
        }
        let last = guard.tokens();
        for lock in last.iter().filter(|lock| !known.contains(lock)) {
            self.note(&format!("! a guard has what it was not granted: {lock:?}"));
        }
        let asked = ask("release", tokens(&guard));
        self.call(asked, |_| guard.release(), |_, ()| given_back(&last));
    }

    /// Asks for names in different kinds, or for any of several, waits without a deadline, and
    /// holds for longer than any stop.
    fn hold_in_kinds(&mut self) {
        let names = self.some_of(&KINDS, 3);
        let any = self
            .one_in(5)
            .then(|| 1 + self.dice.below(names.len() as u64) as u32);
        let mut mode = || match self.dice.below(9) {
            0 => Mode::Exclusive,
            1..3 => Mode::Shared,
            other => Mode::Slots {
                take: (other / 3) as u32,
                of: SLOTS,
            },
        };
        let modes: Vec<Mode> = names.iter().map(|_| mode()).collect();
        let who = format!("{}/{}", self.number, self.calls);
        let asked = Asked {
            wait: None,
            lease: LONG,
            bound_to: BoundTo::Manager,
            ..ask("acquire", &names)
        };
        let acquire = |manager: &LockManager| {
            let nothing: [&str; 0] = [];
            let request = match any {
                Some(any) => manager.acquire_any(any, &names),
                None => names.iter().zip(&modes).fold(
                    manager.acquire(nothing),
                    |request, (name, mode)| match *mode {
                        Mode::Shared => request.shared([name]),
                        Mode::Slots { take, of } => request.slots([name], take, of),
                        _ => request.exclusive([name]),
                    },
                ),
            };
            request.lease(LONG).locked_by(who).lock()
        };
        let Some(mut guard) = self.call(asked, acquire, |_, guard| held(guard, &[])) else {
            return;
        };
        let needed = any.map_or(names.len(), |any| any as usize);
        if guard.locks().len() != needed {
            self.note(&format!(
                "! it got {:?} of {names:?}, {any:?}",
                guard.tokens()
            ));
        }
        for lock in guard.locks() {
            if !self.witnesses.begins_as(lock.name().as_str(), lock.mode()) {
                self.note(&format!("! too many hold {lock}"));
            }
        }
        let known = guard.tokens();
        // Long enough for compatible holders to join.
        thread::sleep(self.up_to(millis(60)));
        self.look_at_holders();
        if self.one_in(3) {
            // After the call others may share the lock.
            for lock in guard.locks() {
                if lock.mode() == Mode::Exclusive
                    && !self.witnesses.begins_as(lock.name().as_str(), Mode::Shared)
                {
                    self.note(&format!("! too many share {lock}"));
                }
            }
            let asked = ask("guard.downgrade", tokens(&guard));
            let downgrade = |_: &LockManager| {
                guard.downgrade()?;
                Ok(held(&guard, &known))
            };
            self.call(asked, downgrade, |_, held| held.clone());
            thread::sleep(self.up_to(millis(4)));
        }
        self.look_at_guard(&guard, &known);
        let last = guard.tokens();
        if last.len() != needed {
            self.note(&format!("! it lost some of {known:?}, and has {last:?}"));
        }
        for (name, _) in &last {
            self.witnesses.ends_as_it_is(name);
        }
        let asked = ask("release", tokens(&guard));
        self.call(asked, |_| guard.release(), |_, ()| given_back(&last));
    }

    /// Checks that the holders of a name are compatible.
    fn look_at_holders(&mut self) {
        let name = KINDS[self.dice.below(KINDS.len() as u64) as usize];
        let Ok(holders) = self.manager.holders(name) else {
            return;
        };
        let modes: Vec<Mode> = holders.iter().map(Lock::mode).collect();
        let taken = modes.iter().map(|mode| match mode {
            Mode::Slots { take, .. } => *take,
            _ => SLOTS + 1,
        });
        let go_together = modes.len() < 2
            || modes.iter().all(|mode| *mode == Mode::Shared)
            || taken.sum::<u32>() <= SLOTS;
        if !go_together {
            self.note(&format!("! {name} is held at once by {holders:?}"));
        }
    }

    fn renew_guard(&mut self, guard: &mut LockGuard, known: &mut Tokens, lease: Duration) {
        let asked = Asked {
            lease,
            bound_to: BoundTo::Manager,
            ..ask("guard.renew", tokens(guard))
        };
        let renew = |_: &LockManager| {
            guard.renew_by(lease)?;
            Ok(held(guard, known))
        };
        self.call(asked, renew, |_, held| held.clone());
        known.extend(guard.tokens());
    }

    fn look_at_guard(&mut self, guard: &LockGuard, known: &Tokens) {
        let asked = ask("guard.is_held", tokens(guard));
        self.call(
            asked,
            |_| guard.is_held(),
            |_, is_held| match is_held {
                true => held(guard, known),
                false => Vec::new(),
            },
        );
    }

    fn add_to_guard(
        &mut self,
        guard: &mut LockGuard,
        known: &mut Tokens,
        lease: Duration,
        may_wait: bool,
    ) {
        let all = [&SHARED[..], &FORCED[..]].concat();
        let name = all[self.dice.below(all.len() as u64) as usize];
        // Two workers that renew for ever, and wait for each other, would wait for ever.
        let waits = may_wait && self.one_in(2);
        let asked = Asked {
            wait: (!waits).then_some(Duration::ZERO),
            lease,
            bound_to: BoundTo::Manager,
            ..ask(
                if waits {
                    "guard.lock"
                } else {
                    "guard.try_lock"
                },
                [name],
            )
        };
        let add = |_: &LockManager| {
            match waits {
                true => guard.lock(name)?,
                false => guard.try_lock(name)?,
            }
            let mut held = held(guard, known);
            held.retain(|it| it.starts_with(&format!("{name}|-|")));
            Ok(held)
        };
        self.call(asked, add, |_, held| held.clone());
        known.extend(guard.tokens().into_iter().filter(|(of, _)| of == name));
    }

    fn witness(&mut self, name: &str, sees: fn(&Witnesses, &str) -> bool) {
        if !sees(&self.witnesses, name) {
            self.note(&format!("! two hold {name} at once"));
        }
    }

    /// Runs the command with a job that lives on: after its first process has ended, after the
    /// command was killed, or as long as the command lives.
    fn run_job(&mut self) {
        let Some(command) = self.command.clone() else {
            return;
        };
        let name = SHARED[self.dice.below(SHARED.len() as u64) as usize];
        let outlives = self.dice.below(3);
        let who = format!("{}/{}", self.number, self.calls);
        let asked = Asked {
            wait: None,
            lease: LONG,
            bound_to: BoundTo::Job,
            ..ask("run", [name])
        };
        let dir = self.dir.clone();
        let start = || Job::start(&command, &dir, &who, name, outlives != 0);
        let started = self.call(
            asked,
            |_| Ok(start()),
            |_, job| match job {
                Ok(job) => vec![format!("{name}|-|{}@{}", job.token, u64::MAX)],
                Err(_) => Vec::new(),
            },
        );
        let mut job = match started.unwrap() {
            Ok(job) => job,
            Err(what) => return self.note(&format!("! run {name}: {what}")),
        };
        if job.met_another {
            self.note(&format!("! two hold {name} at once"));
        }
        match outlives {
            0 => job.wait(),
            1 => job.kill(),
            _ => {}
        }
        thread::sleep(self.up_to(millis(30)));
        let lock = [(name.to_owned(), job.token)];
        let asked = ask("job.end", [target(name, Some(job.token))]);
        let end = |_: &LockManager| {
            job.end();
            Ok(())
        };
        self.call(asked, end, |_, ()| given_back(&lock));
    }

    /// Forks, if possible, while this worker holds locks and one of its threads waits for one of
    /// them.
    fn hold_and_fork(&mut self) {
        let Some(fork) = self.fork else {
            return;
        };
        // One child at a time is enough.
        if let Ok(None) = wait(WaitOptions::NOHANG) {
            return;
        }
        let names = self.some_of(&SHARED, 3);
        let Some(guard) = self.acquire(&names, None, LONG, false) else {
            return;
        };
        for (name, _) in guard.tokens() {
            self.witness(&name, Witnesses::begins);
        }
        // The thread's wait ends without a grant.
        let (waiter, bound) = (self.manager.acquire([&names[0]]), millis(3));
        let waiter = waiter.locked_by(format!("{}/{}", self.number, usize::MAX));
        let waiting = thread::spawn(move || waiter.try_lock_for(bound).is_ok());
        thread::sleep(self.up_to(millis(3)));
        self.children += 1;
        if fork() == 0 {
            self.be_child(guard, waiting);
        }
        if waiting.join().unwrap() {
            self.note("! it was granted what it holds");
        }
        self.use_guard(guard, LONG, false);
    }

    /// Runs a child that was forked off while this guard was held: the child uses nothing of the
    /// guard, drops all, and makes a few calls of its own.
    fn be_child<T>(&mut self, mut guard: LockGuard, waiting: T) -> ! {
        let parent = self.number;
        self.number += CHILD * self.children;
        self.notes =
            File::create_new(self.dir.join(format!("{parent}.{}", self.children))).unwrap();
        self.note(&format!("@ {}", process::id()));
        self.calls = 0;
        self.dice = Dice(self.dice.below(u64::MAX) + self.number as u64);
        self.fork = None;
        self.command = None;
        // The child does not ask about its parent's locks.
        self.locks.clear();
        let mut is_told = true;
        let mut check = |is_forked: bool| is_told &= is_forked;
        let name = SHARED[0];
        check(matches!(self.manager.find(name), Err(Error::Forked { .. })));
        check(matches!(
            self.manager.unlock(name),
            Err(Error::Forked { .. })
        ));
        let acquire = self.manager.acquire([name]).try_lock();
        check(matches!(acquire, Err(Error::Forked { .. })));
        check(matches!(guard.renew(), Err(Error::Forked { .. })));
        check(matches!(guard.is_held(), Err(Error::Forked { .. })));
        if !is_told {
            self.note("! a child used what its parent opened");
        }
        match self.one_in(2) {
            true => drop(guard),
            false => drop(guard.release()),
        }
        std::mem::forget(waiting);
        self.witnesses = Witnesses::open(&self.dir);
        self.manager = open(&self.dir.join("store/locks.redb"), self.number);
        for _ in 0..self.dice.below(12) {
            match self.dice.below(5) {
                4 => self.hold_in_kinds(),
                0..2 => self.hold_long(),
                2 => self.hold_shortly(),
                _ => self.look_at_shared(),
            }
        }
        self.note(&format!(". {}", boot_micros()));
        let _ = kill_process(getpid(), Signal::KILL);
        unreachable!("it is killed");
    }

    /// Takes shared locks by the verbs of one call, for a short time, and releases them.
    fn take_shared(&mut self) {
        let all = [&SHARED[..], &FORCED[..]].concat();
        let names = self.some_of(&all, 4);
        let is_bound = self.one_in(2);
        let lease = millis(20 + self.dice.below(if is_bound { 3_000 } else { 400 }));
        let mut taken = if self.one_in(2) {
            self.get(&names[0], lease, is_bound).into_iter().collect()
        } else {
            let verbs = ["set.fail", "set.fail", "set.no_renew", "set"];
            let verb = verbs[self.dice.below(4) as usize];
            match verb {
                // No lock is renewed for ever.
                "set" => self.set(&names, verb, millis(50), false),
                _ => self.set(&names, verb, lease, is_bound),
            }
        };
        let of = |lock: &Lock| (lock.name().as_str().to_owned(), Some(lock.token()));
        if let Some((name, token)) = taken.first().map(of)
            && self.one_in(3)
        {
            self.renew(&name, token, "renew", millis(300));
        }
        if self.one_in(2) {
            thread::sleep(self.up_to(millis(5)));
        }
        // A call with an old token must not touch the lock of a newer holder.
        if !self.locks.is_empty() {
            let any = self.dice.below(self.locks.len() as u64) as usize;
            taken.push(self.locks[any].clone());
            let (name, token) = of(&self.locks[any]);
            self.renew(&name, token, "renew", millis(300));
        }
        self.unlock(&Vec::from_iter(taken.iter().map(of)));
        let old = std::mem::replace(&mut self.locks, taken);
        self.locks.extend(old);
    }

    fn get(&mut self, name: &str, lease: Duration, is_bound: bool) -> Option<Lock> {
        let mut options = GetOptions::new().timeout(lease);
        if is_bound {
            options = options.bound_to(process::id());
        }
        let asked = Asked {
            lease,
            bound_to: BoundTo::this_process(is_bound),
            ..ask("get", [name])
        };
        let get = |manager: &LockManager| manager.get_lock(name, options);
        self.call(asked, get, |manager, lock| vec![created(manager, lock)])
    }

    /// Sets locks, and returns those that it created.
    fn set(&mut self, names: &[String], verb: &str, lease: Duration, is_bound: bool) -> Vec<Lock> {
        let mut options = SetOptions::new().timeout(lease);
        if is_bound {
            options = options.bound_to(process::id());
        }
        options = match verb {
            "set.fail" => options.fail(),
            "set.no_renew" => options.no_renew(),
            "set.only_renew" => options.only_renew(),
            _ => options,
        };
        let asked = Asked {
            lease,
            bound_to: BoundTo::this_process(is_bound),
            ..ask(verb, names)
        };
        let set = |manager: &LockManager| manager.set_lock(names, options);
        let mut new = Vec::new();
        self.call(asked, set, |manager, result| {
            let statuses = result.statuses().iter();
            let said = statuses.map(|(name, status)| match result.get(name.as_str()) {
                None => absent(name.as_str()),
                Some(lock) if status.status == Status::Create => {
                    new.push(lock.clone());
                    created(manager, lock)
                }
                Some(lock) => seen(manager, lock),
            });
            said.collect()
        });
        new
    }

    /// Unlocks by one call.
    fn unlock(&mut self, of: &[(String, Option<u64>)]) {
        let targets = of.iter().map(|(name, token)| target(name, *token));
        let refs = of.iter().map(|(name, token)| lock_ref(name, *token));
        let refs = Vec::from_iter(refs);
        let (verb, is_one) = match of.len() {
            1 => ("unlock", true),
            _ => ("unlock_all", false),
        };
        let unlock = |manager: &LockManager| match is_one {
            true => manager.unlock(refs[0]).map(|was_there| vec![was_there]),
            false => manager.unlock_all(refs),
        };
        self.call(ask(verb, targets), unlock, |_, were_there| {
            let each = of.iter().zip(were_there);
            let said = each.map(|((name, token), was_there)| match (was_there, token) {
                (true, Some(token)) => format!("{name}|{token}|-"),
                (true, None) => format!("{name}|+|-"),
                (false, token) => not_found(name, *token),
            });
            said.collect()
        });
    }

    fn renew(
        &mut self,
        name: &str,
        token: Option<u64>,
        verb: &str,
        lease: Duration,
    ) -> Option<Lock> {
        let options = RenewOptions::new().timeout(lease);
        let options = match verb {
            "renew.add_time" => options.add_time(),
            "renew.create" => options.create(),
            _ => options,
        };
        let asked = Asked {
            lease,
            ..ask(verb, [target(name, token)])
        };
        let renew = |manager: &LockManager| manager.renew_lock(lock_ref(name, token), options);
        self.call(asked, renew, |manager, lock| {
            vec![match verb {
                // The answer does not say which of both happened.
                "renew.create" => format!("{name}|?|{}", state(manager, lock)),
                _ => seen(manager, lock),
            }]
        })
    }

    /// Ends the lock of any worker, as an administrator may.
    fn force(&mut self) {
        let name = FORCED[self.dice.below(FORCED.len() as u64) as usize];
        self.unlock(&[(name.to_owned(), None)]);
    }

    /// Changes locks that no other worker touches, so that their exact state is known.
    fn change_mine(&mut self) {
        let mine = self.mine.clone();
        let mine: Vec<&str> = mine.iter().map(String::as_str).collect();
        let names = self.some_of(&mine, 4);
        let name = &names[0];
        let is_bound = self.one_in(6);
        let lease = match self.dice.below(4) {
            // If the end of the process cannot be proved, a lock needs a deadline.
            0..2 if is_bound && self.is_apart => LONG,
            0..2 => Duration::ZERO,
            2 => millis(20 + self.dice.below(300)),
            _ => LONG * 10,
        };
        let known = self.locks.iter().find(|lock| lock.name() == name.as_str());
        let token = known.map(Lock::token).filter(|_| self.dice.below(2) == 0);
        let one_of = |verbs: [&'static str; 4], dice: &mut Dice| verbs[dice.below(4) as usize];
        let changed = match self.dice.below(16) {
            0..6 => {
                let verbs = ["set", "set.no_renew", "set.fail", "set.only_renew"];
                let verb = one_of(verbs, &mut self.dice);
                self.set(&names, verb, lease, is_bound)
            }
            6..8 => self.get(name, lease, is_bound).into_iter().collect(),
            8..10 => {
                let verbs = ["renew", "renew", "renew.add_time", "renew.create"];
                let verb = one_of(verbs, &mut self.dice);
                self.renew(name, token, verb, lease).into_iter().collect()
            }
            10 => {
                self.unlock(&[(name.clone(), token)]);
                Vec::new()
            }
            _ => {
                self.unlock(&Vec::from_iter(names.into_iter().map(|name| (name, None))));
                Vec::new()
            }
        };
        self.locks.splice(..0, changed);
    }

    /// Lists the worker's own locks, as the worker or its predecessor left them.
    fn list_mine(&mut self) {
        let prefix = self.mine[0].trim_end_matches('0').to_owned();
        self.list(&prefix, &self.mine.clone());
    }

    fn list(&mut self, prefix: &str, names: &[String]) {
        let list = |manager: &LockManager| manager.locks(prefix);
        self.call(ask("locks", names), list, |manager, locks| {
            let one = |name: &String| {
                let lock = locks.iter().find(|lock| lock.name() == name.as_str());
                lock.map_or_else(|| absent(name), |lock| seen(manager, lock))
            };
            names.iter().map(one).collect()
        });
    }

    fn look_at_shared(&mut self) {
        let name = SHARED[self.dice.below(SHARED.len() as u64) as usize];
        match self.dice.below(3) {
            0 => self.list("s", &SHARED.map(str::to_owned)),
            1 => {
                let find = |manager: &LockManager| manager.find(name);
                self.call(ask("find", [name]), find, |manager, found| {
                    let lock = found.as_ref();
                    vec![lock.map_or_else(|| absent(name), |lock| seen(manager, lock))]
                });
            }
            _ => {
                let is_locked = |manager: &LockManager| manager.is_locked(name);
                self.call(ask("is_locked", [name]), is_locked, |_, is_locked| {
                    vec![match is_locked {
                        true => format!("{name}|+|?"),
                        false => absent(name),
                    }]
                });
            }
        }
    }
}
