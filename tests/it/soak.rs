//! The soak: many processes make random calls on one store. Their parent kills and stops them, and
//! moves their wall clocks. Then a judge checks that their notes keep every promise.
//!
//! The processes live on the host, in their own pid and network namespaces, as another user, and in
//! a program that forks. Some run jobs that outlive the command. If the system refuses such places,
//! all processes live on the host.
//!
//! `LOCKMGR_SOAK_SECONDS` sets the length (10), `LOCKMGR_SOAK_SEED` the random choices. A seed
//! repeats the calls, not their timing on the machine.

mod history;
mod job;
mod places;
mod terms;
mod witness;
mod worker;

use crate::holding_support::{Dice, millis};
use crate::processes::can_fake_time;
use crate::support::{Home, chmod, setting};
use history::{History, Life, Waiting};
use lockmgr::{Error, LockManager};
use places::{Place, Places, Process};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use terms::{CHILD, COMMAND, DIR, JOB, KINDS, LONERS, LONG, SHARED, boot_micros};
use worker::Worker;

const WORKERS: usize = 14;

/// The length of a round: then all processes are killed, their notes are judged, and new processes
/// go on with the store.
const ROUND: u64 = 30;

/// The longest time that the children of a killed process live on.
const ORPHANED: u64 = 500_000;

/// The figures of a soak.
#[derive(Default)]
struct Figures {
    seconds: u64,
    seed: u64,
    /// Processes by place, and the children that were forked off.
    processes: BTreeMap<&'static str, usize>,
    kills: usize,
    stops: usize,
    /// Kills and stops that hit a call that was not waiting.
    amid_calls: usize,
    clock_steps: usize,
    calls: BTreeMap<String, usize>,
    grants: usize,
    /// Grants to requests that had been seen to wait.
    hand_overs: usize,
    /// Requests that had been seen to wait until their bound.
    gave_up: usize,
    /// Calls that gave up because other processes kept the store busy.
    busy: usize,
    /// The times, in microseconds, that requests waited on after a process before them had died,
    /// and the same for processes with their own pid namespace.
    after_deaths: Vec<u64>,
    after_deaths_apart: Vec<u64>,
    /// The longest time, in microseconds, that the parent took to check which stops were over.
    slowest_turn: u64,
    violations: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, seed, .. } = self;
        writeln!(
            f,
            "the soak: repeat it with LOCKMGR_SOAK_SECONDS={seconds} LOCKMGR_SOAK_SEED={seed}"
        )?;
        let places = self.processes.iter();
        let places = places.map(|(place, count)| format!("{place} {count}"));
        let processes: usize = self.processes.values().sum();
        writeln!(
            f,
            "{processes} processes: {}",
            Vec::from_iter(places).join(", ")
        )?;
        writeln!(
            f,
            "{} kills, {} stops ({} of these during a call), {} clock steps",
            self.kills, self.stops, self.amid_calls, self.clock_steps
        )?;
        writeln!(f, "slowest turn of the parent: {} µs", self.slowest_turn)?;
        let calls = self
            .calls
            .iter()
            .map(|(verb, count)| format!("{verb} {count}"));
        let total: usize = self.calls.values().sum();
        writeln!(f, "{total} calls: {}", Vec::from_iter(calls).join(", "))?;
        for (whose, took) in [
            ("a death", &self.after_deaths),
            ("one in another pid namespace", &self.after_deaths_apart),
        ] {
            let mut took = took.clone();
            took.sort_unstable();
            if let Some(slowest) = took.last() {
                let (count, median) = (took.len(), took[took.len() / 2]);
                writeln!(
                    f,
                    "{count} grants after {whose}: median {median} µs, slowest {slowest} µs"
                )?;
            }
        }
        write!(
            f,
            "{} grants, {} hand-overs, {} waits given up, {} calls found the store busy, {} violations",
            self.grants, self.hand_overs, self.gave_up, self.busy, self.violations
        )
    }
}

/// A process that works, or is stopped.
struct Running {
    process: Process,
    place: Place,
    number: usize,
    life: Life,
    /// The end of the stop, if the process is stopped.
    until: Option<u64>,
}

/// The processes of one round.
struct Fleet<'a> {
    dir: PathBuf,
    dice: Dice,
    places: &'a Places,
    /// The library that makes the wall clock movable, if it works here.
    preload: Option<&'a str>,
    running: Vec<Running>,
    /// Killed processes, with the instant until which their children live.
    orphaning: Vec<(u64, Running)>,
    history: History,
    started: usize,
    figures: &'a mut Figures,
}

impl Fleet<'_> {
    fn start(&mut self, slot: usize) {
        let number = self.started;
        self.started += 1;
        let place = self.places.of(slot);
        *self.figures.processes.entry(place.name()).or_default() += 1;
        let is_apart = place.has_own_pids();
        let seed = self.dice.below(u64::MAX);
        let job = format!("{slot} {number} {seed} {}", u8::from(is_apart));
        let mut errors = File::options();
        let errors = errors
            .create(true)
            .append(true)
            .open(self.dir.join("errors"))
            .unwrap();
        let mut command = self.places.command(place, slot);
        command
            .env(JOB, job)
            .env(DIR, &self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        if let Some(lockmgr) = self.places.lockmgr() {
            command.env(COMMAND, lockmgr);
        }
        if let Some(library) = self.preload.filter(|_| self.can_step(slot)) {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", self.clock(slot))
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        self.running.push(Running {
            process: Process::start(command, is_apart),
            place,
            number,
            life: Life {
                slot,
                is_apart,
                killed: u64::MAX,
                gone: u64::MAX,
                all_gone: u64::MAX,
                stops: Vec::new(),
            },
            until: None,
        });
    }

    /// Tells whether the wall clock of a slot is moved.
    fn can_step(&self, slot: usize) -> bool {
        self.preload.is_some() && slot % 2 == 1 && self.places.of(slot) == Place::Host
    }

    fn clock(&self, slot: usize) -> PathBuf {
        self.dir.join(format!("clock {slot}"))
    }

    /// Moves the wall clock of a slot by up to ten years.
    fn step(&mut self, slot: usize) {
        let seconds = self.dice.below(20 * 365 * 86_400).cast_signed() - 10 * 365 * 86_400;
        let unnamed = self.dir.join("clock");
        fs::write(&unnamed, format!("{seconds:+}")).unwrap();
        fs::rename(unnamed, self.clock(slot)).unwrap();
    }

    fn stop(&mut self, at: usize) {
        let micros = match self.dice.below(32) {
            0 => 1_000_000 + self.dice.below(2_000_000),
            1..6 => 100_000 + self.dice.below(500_000),
            _ => self.dice.below(60_000),
        };
        let it = &mut self.running[at];
        if it.until.is_none() {
            let now = boot_micros();
            it.until = Some(now + micros);
            it.life.stops.push((now, u64::MAX));
            it.process.signal(Signal::STOP);
            self.figures.stops += 1;
        }
    }

    /// Continues the processes whose stop is over.
    fn go_on(&mut self) {
        let now = boot_micros();
        for it in &mut self.running {
            if it.until.is_some_and(|until| until <= now) {
                it.until = None;
                it.process.signal(Signal::CONT);
                it.life.stops.last_mut().unwrap().1 = boot_micros();
            }
        }
        self.end_orphans(now);
    }

    /// Kills one process, and starts another in its place once it is gone.
    fn replace(&mut self, at: usize) {
        let killed = self.running.swap_remove(at);
        let slot = killed.life.slot;
        self.bury(killed);
        self.start(slot);
    }

    /// Kills one process that holds locks that others may wait for.
    fn replace_holder(&mut self, manager: &LockManager) {
        let Ok(locks) = manager.locks("s") else {
            return;
        };
        let is_holder = |it: &Running| {
            let holders = locks.iter().map(|lock| lock.locked_by().as_str());
            let mut numbers = holders.map(|who| who.split('/').next().unwrap());
            numbers.any(|number| number == it.number.to_string())
        };
        if let Some(at) = self.running.iter().position(is_holder) {
            self.replace(at);
        }
    }

    /// Kills one process, and reads its notes.
    fn bury(&mut self, mut it: Running) {
        if it.process.has_ended() {
            let errors = fs::read_to_string(self.dir.join("errors")).unwrap_or_default();
            let what = format!("process {} ended by itself: {errors}", it.number);
            self.history.violations.push(what);
        }
        self.figures.kills += 1;
        it.life.killed = boot_micros();
        it.process.kill_into_zombie();
        it.life.gone = boot_micros();
        if it.place == Place::Forking {
            let until = it.life.gone + self.dice.below(ORPHANED);
            self.orphaning.push((until, it));
        } else {
            self.take_up(it);
        }
    }

    /// Kills the children of processes that were killed before.
    fn end_orphans(&mut self, now: u64) {
        while let Some(at) = self.orphaning.iter().position(|(until, _)| *until <= now) {
            let (_, parent) = self.orphaning.swap_remove(at);
            let prefix = format!("{}.", parent.number);
            let killed = boot_micros();
            parent.process.kill_group();
            for entry in fs::read_dir(&self.dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                let Some(child) = name.strip_prefix(&prefix) else {
                    continue;
                };
                let number = parent.number + CHILD * child.parse::<usize>().unwrap();
                let text = fs::read_to_string(&path).unwrap_or_default();
                let pid = text.lines().next().and_then(|line| line.strip_prefix("@ "));
                if let Some(pid) = pid {
                    let is_killed = parent.process.kill_child(pid.parse().unwrap());
                    self.figures.kills += usize::from(is_killed);
                }
                let gone = boot_micros();
                let life = Life {
                    slot: number,
                    is_apart: false,
                    killed,
                    gone,
                    all_gone: gone,
                    stops: Vec::new(),
                };
                *self.figures.processes.entry("forked off").or_default() += 1;
                let text = fs::read_to_string(&path).unwrap_or_default();
                self.history.add(number, life, &text);
                fs::remove_file(path).unwrap();
            }
            self.take_up(parent);
        }
    }

    fn take_up(&mut self, mut it: Running) {
        it.life.all_gone = boot_micros();
        let pid = it.process.kept.pid();
        it.process.kept.child().wait().unwrap();
        // Removes the files that a killed faketime leaves.
        for left in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = fs::remove_file(format!("/dev/shm/{left}{pid}"));
        }
        let notes = self.dir.join(it.number.to_string());
        let text = fs::read_to_string(&notes).unwrap_or_default();
        self.history.add(it.number, it.life, &text);
        let _ = fs::remove_file(notes);
    }

    /// Kills and stops processes until this instant, and then kills all.
    fn run(&mut self, manager: &LockManager, end: u64) {
        for slot in 0..WORKERS {
            self.step(slot);
            self.start(slot);
        }
        let mut turn = boot_micros();
        while boot_micros() < end {
            thread::sleep(millis(self.dice.below(50)));
            self.go_on();
            let last = std::mem::replace(&mut turn, boot_micros());
            self.figures.slowest_turn = self.figures.slowest_turn.max(turn - last);
            let at = self.dice.below(WORKERS as u64) as usize;
            match self.dice.below(16) {
                0 => self.replace(at),
                // These processes are most often in the middle of a call that must be atomic.
                8 => {
                    let is_loner = |it: &Running| it.life.slot < LONERS;
                    let at = self.running.iter().position(is_loner).unwrap();
                    self.replace(at);
                }
                5 => self.replace_holder(manager),
                1..4 => self.stop(at),
                4 if self.can_step(self.running[at].life.slot) => {
                    self.step(self.running[at].life.slot);
                    self.figures.clock_steps += 1;
                }
                _ => {}
            }
        }
        while let Some(running) = self.running.pop() {
            self.bury(running);
        }
        self.end_orphans(u64::MAX);
        let errors = fs::read_to_string(self.dir.join("errors")).unwrap_or_default();
        if errors.contains("panicked") {
            self.history.violations.push(errors);
        }
    }
}

/// Notes the waiters in the queue, until this instant.
fn watch(manager: &LockManager, end: u64) -> BTreeMap<u64, Waiting> {
    let mut seen = BTreeMap::new();
    while boot_micros() < end {
        match manager.requests("") {
            Ok(requests) => {
                let now = boot_micros();
                assert!(requests.is_sorted_by(|one, next| one.number() < next.number()));
                for request in requests {
                    let (process, call) = request.locked_by().as_str().split_once('/').unwrap();
                    seen.entry(request.number()).or_insert_with(|| Waiting {
                        process: process.parse().unwrap(),
                        call: call.parse().unwrap(),
                        seen: now,
                    });
                }
            }
            Err(Error::StoreBusy { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        thread::sleep(millis(4));
    }
    seen
}

/// Returns the variable that loads faketime, if it works here.
fn faketime() -> Option<String> {
    let mut asked = Command::new("faketime");
    asked.args(["-m", "-f", "+0d", "printenv", "LD_PRELOAD"]);
    let said = can_fake_time().then(|| asked.output().unwrap().stdout)?;
    Some(String::from_utf8(said).unwrap().trim().to_owned())
}

/// Runs one round: kills and stops processes, kills all, and judges their notes.
fn soak(
    home: &Home,
    length: Duration,
    seed: u64,
    preload: Option<&str>,
    places: &Places,
    figures: &mut Figures,
) -> History {
    let mut fleet = Fleet {
        dir: home.path().to_owned(),
        dice: Dice(seed),
        preload,
        places,
        running: Vec::new(),
        orphaning: Vec::new(),
        history: History::default(),
        started: 0,
        figures,
    };
    let path = home.join("store/locks.redb");
    let manager = LockManager::open(&path).unwrap();
    // Processes that are stopped in the middle of a write go on only if the parent does not wait
    // for them.
    let impatient = LockManager::builder().busy_timeout(millis(20));
    let impatient = impatient.open(&path).unwrap();
    let end = boot_micros() + length.as_micros() as u64;
    let seen = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&manager, end));
        fleet.run(&impatient, end);
        watcher.join().unwrap()
    });
    drop((manager, impatient));
    let mut history = fleet.history;
    history.check(seen);
    history.count(figures);

    // No holder and no request is left. Of shared names, only short leases are left.
    let manager = LockManager::open(&path).unwrap();
    let began = boot_micros();
    let is_left = || {
        let locks = ["s", "f"].map(|names| manager.locks(names).unwrap());
        let requests = manager.requests("").unwrap();
        (!requests.is_empty() || locks != [vec![], vec![]])
            .then(|| format!("{requests:?} {locks:?}"))
    };
    while let Some(left) = is_left() {
        assert!(
            boot_micros() - began < 5_000_000,
            "what the dead held is not free: {left}"
        );
        thread::sleep(millis(3));
    }
    manager.clean_locks().unwrap();
    drop(manager);
    let left = fs::read_dir(home.join("store")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["locks.redb"]);
    history
}

#[test]
fn killed_and_stopped_processes_keep_every_promise() {
    let length = setting("LOCKMGR_SOAK_SECONDS").unwrap_or(10);
    let random = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_micros() as u64
    };
    let seed = setting("LOCKMGR_SOAK_SEED").unwrap_or_else(random);
    let preload = faketime();
    // A killed process loses nothing that it wrote, so the disk would only slow this down.
    let home = Home::in_memory();
    let mut places = Places::new(&home);
    for path in SHARED
        .iter()
        .flat_map(|name| witness::files(home.path(), name))
        .chain(
            KINDS
                .iter()
                .flat_map(|name| witness::files_of_slots(home.path(), name)),
        )
    {
        File::create_new(&path).unwrap();
        chmod(&path, 0o666);
    }
    let mut figures = Figures {
        seconds: length,
        seed,
        ..Figures::default()
    };
    // Between boot ids the wall clock decides. Each round changes one of the two, in turn.
    let rounds = 2 * length.div_ceil(2 * ROUND);
    for round in 0..rounds {
        let is_first = round % 2 == 0;
        places.set_boot_ids(!is_first || preload.is_none());
        let history = soak(
            &home,
            millis(length * 1_000 / rounds),
            seed + round,
            preload.as_deref().filter(|_| is_first),
            &places,
            &mut figures,
        );
        if preload.is_some() {
            // The boot ids of the next round differ. Remaining locks would be judged by the wall
            // clock, which is moved for some processes in this round, and for others in the next.
            let manager = LockManager::open(home.join("store/locks.redb")).unwrap();
            manager.reset_locks().unwrap();
        }
        figures.violations += history.violations.len();
        figures.after_deaths.extend(history.after_deaths);
        figures
            .after_deaths_apart
            .extend(history.after_deaths_apart);
        let first: Vec<_> = history.violations.into_iter().take(10).collect();
        assert!(first.is_empty(), "{figures}\n{}", first.join("\n"));
    }
    eprintln!("{figures}");
    assert!(
        figures.grants > 0 && figures.hand_overs > 0 && figures.kills > 0,
        "{figures}"
    );
}

/// Returns the judge's findings on two requests for "s0" while a third process holds it. `early`
/// waits from 100 to 400 µs. A call from 50 to 300 µs gets the lock before `early`, and was seen to
/// wait at the given instant.
fn judged(seen: u64) -> Vec<String> {
    let mut history = History::default();
    let until = 1_000_000;
    let early = format!(
        "> 100 acquire - {} manager s0\n< 400 ok s0|-|2@{until}\n",
        LONG.as_micros()
    );
    let late = "> 50 acquire 900 500 manager s0\n< 300 ok s0|-|1@350\n> 310 release 900 0 - s0#1\n< 320 ok s0|1|-\n";
    for (process, notes) in [&early, late].into_iter().enumerate() {
        let life = Life {
            slot: process,
            is_apart: false,
            killed: until,
            gone: until,
            all_gone: until,
            stops: Vec::new(),
        };
        history.add(process, life, notes);
    }
    let waiting = |process, seen| Waiting {
        process,
        call: 0,
        seen,
    };
    history.check([(1, waiting(0, 150)), (2, waiting(1, seen))].into());
    history.violations
}

#[test]
fn judge_tells_an_overtaken_request_from_a_guard_that_asks_again() {
    assert_eq!(judged(310), [""; 0]);
    let said = judged(200);
    assert!(
        said[0].starts_with("one who came later was first"),
        "{said:?}"
    );
    assert_eq!(said.len(), 1);
}

/// Returns the judge's findings if "s0" is granted to a waiter so long after its holder has died.
fn judged_after_a_death(micros: u64) -> (Vec<String>, Vec<u64>) {
    let mut history = History::default();
    let (gone, until) = (1_000_000, 90_000_000);
    let granted = gone + micros;
    let lease = LONG.as_micros();
    let holder = format!("> 100 acquire - {lease} manager s0\n< 200 ok s0|-|1@{until}\n");
    let next = format!("> 300 acquire - {lease} manager s0\n< {granted} ok s0|-|2@{until}\n");
    for (process, (notes, gone)) in [(holder, gone), (next, until)].into_iter().enumerate() {
        let life = Life {
            slot: process,
            is_apart: true,
            killed: gone,
            gone,
            all_gone: gone,
            stops: Vec::new(),
        };
        history.add(process, life, &notes);
    }
    let (process, call, seen) = (1, 0, 400);
    let waiting = Waiting {
        process,
        call,
        seen,
    };
    history.check([(1, waiting)].into());
    assert_eq!(history.after_deaths, history.after_deaths_apart);
    (history.violations, history.after_deaths)
}

#[test]
fn judge_tells_how_late_a_death_was_noticed() {
    assert_eq!(judged_after_a_death(900), (vec![], vec![900]));
    let (violations, took) = judged_after_a_death(6_000_000);
    assert_eq!(took, [6_000_000]);
    assert_eq!(violations.len(), 1);
    let what = "it was granted 6000000 µs after it could be";
    assert!(violations[0].starts_with(what), "{violations:?}");
}

/// Runs a process of the soak. This is not a test.
#[test]
#[ignore = "it is one process of the soak"]
fn worker_of_the_soak() {
    if let Some(worker) = Worker::from_env(None) {
        worker.work();
    }
}
