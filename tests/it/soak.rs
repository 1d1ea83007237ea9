//! The soak: many processes at random work on one store, which their parent kills, stops, and
//! whose wall clock it moves; and then whether what they noted keeps every promise.
//!
//! `LOCKMGR_SOAK_SECONDS` sets its length (10), `LOCKMGR_SOAK_SEED` what is done at random. A
//! seed repeats what is asked for, not when the machine does it.

mod history;
mod worker;

use crate::holding_support::{Dice, Kept, millis, secs, until};
use crate::processes::can_fake_time;
use crate::support::{Home, setting};
use history::{History, Life, Waiting};
use lockmgr::{Error, LockManager};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use worker::Worker;

/// Names that are given back by who holds them alone, and names that anybody forces free.
const SHARED: [&str; 6] = ["s0", "s1", "s2", "s3", "s4", "s5"];
const FORCED: [&str; 2] = ["f0", "f1"];

/// What the names that one worker has for itself begin with.
const MINE: &str = "mine:";

/// A lease that outlasts every stop.
const LONG: Duration = Duration::from_secs(60);

const WORKERS: usize = 10;

/// So many of them change their own locks alone.
const LONERS: usize = 3;

/// After so long all are killed, what they noted is judged, and others go on with the store.
const ROUND: u64 = 60;

fn boot_micros() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1_000
}

/// What came of it.
#[derive(Default)]
struct Figures {
    seconds: u64,
    seed: u64,
    processes: usize,
    kills: usize,
    stops: usize,
    /// Kills and stops that hit a call which did not just wait.
    amid_calls: usize,
    clock_steps: usize,
    calls: BTreeMap<String, usize>,
    grants: usize,
    /// Grants to requests that had been seen to wait.
    hand_overs: usize,
    /// Requests that had been seen to wait until their bound.
    gave_up: usize,
    /// Calls that gave up because others kept the store busy.
    busy: usize,
    violations: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, seed, .. } = self;
        writeln!(
            f,
            "the soak: repeat it with LOCKMGR_SOAK_SECONDS={seconds} LOCKMGR_SOAK_SEED={seed}"
        )?;
        writeln!(
            f,
            "{} processes, {} kills, {} stops ({} of these amid a call), {} clock steps",
            self.processes, self.kills, self.stops, self.amid_calls, self.clock_steps
        )?;
        let calls = self
            .calls
            .iter()
            .map(|(verb, count)| format!("{verb} {count}"));
        let total: usize = self.calls.values().sum();
        writeln!(f, "{total} calls: {}", Vec::from_iter(calls).join(", "))?;
        write!(
            f,
            "{} grants, {} hand-overs, {} waits given up, {} calls found the store busy, {} violations",
            self.grants, self.hand_overs, self.gave_up, self.busy, self.violations
        )
    }
}

/// A process that works, or is stopped.
struct Running {
    kept: Kept,
    number: usize,
    life: Life,
    /// Until when it is stopped, where it is.
    until: Option<u64>,
}

/// The processes of one round.
struct Fleet<'a> {
    dir: PathBuf,
    dice: Dice,
    /// What makes the wall clock movable, where that can be.
    preload: Option<&'a str>,
    running: Vec<Running>,
    history: History,
    started: usize,
    figures: &'a mut Figures,
}

impl Fleet<'_> {
    fn start(&mut self, slot: usize) {
        let number = self.started;
        self.started += 1;
        self.figures.processes += 1;
        let job = format!("{slot} {number} {}", self.dice.below(u64::MAX));
        let mut errors = File::options();
        let errors = errors
            .create(true)
            .append(true)
            .open(self.dir.join("errors"))
            .unwrap();
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "soak::a_worker_of_the_soak",
                "--nocapture",
                "--ignored",
            ])
            .env("LOCKMGR_SOAK_JOB", job)
            .env("LOCKMGR_SOAK_DIR", &self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        if let (Some(library), 1) = (self.preload, slot % 2) {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", self.clock(slot))
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        self.running.push(Running {
            kept: Kept::start_with(&mut command),
            number,
            life: Life {
                slot,
                killed: u64::MAX,
                gone: u64::MAX,
                stops: Vec::new(),
            },
            until: None,
        });
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
            it.kept.signal(Signal::STOP);
            self.figures.stops += 1;
        }
    }

    /// Lets those go on whose time has come.
    fn go_on(&mut self) {
        let now = boot_micros();
        for it in &mut self.running {
            if it.until.is_some_and(|until| until <= now) {
                it.until = None;
                it.kept.signal(Signal::CONT);
                it.life.stops.last_mut().unwrap().1 = boot_micros();
            }
        }
    }

    /// Kills one, and starts another in its place once it is gone.
    fn replace(&mut self, at: usize) {
        let killed = self.running.swap_remove(at);
        let slot = killed.life.slot;
        self.bury(killed);
        self.start(slot);
    }

    /// Kills one, and takes up what it noted.
    fn bury(&mut self, mut it: Running) {
        self.figures.kills += 1;
        it.life.killed = boot_micros();
        it.kept.kill_into_zombie();
        it.life.gone = boot_micros();
        let pid = it.kept.pid();
        let status = it.kept.child().wait().unwrap();
        if status.code().is_some() {
            let errors = fs::read_to_string(self.dir.join("errors")).unwrap_or_default();
            let what = format!("process {} ended by itself: {errors}", it.number);
            self.history.violations.push(what);
        }
        // What faketime cannot put away itself when it is killed.
        for left in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = fs::remove_file(format!("/dev/shm/{left}{pid}"));
        }
        let notes = self.dir.join(it.number.to_string());
        let text = fs::read_to_string(&notes).unwrap_or_default();
        self.history.add(it.number, it.life, &text);
        let _ = fs::remove_file(notes);
    }

    /// Does harm until then, and kills all.
    fn run(&mut self, end: u64) {
        for slot in 0..WORKERS {
            self.step(slot);
            self.start(slot);
        }
        while boot_micros() < end {
            thread::sleep(millis(self.dice.below(50)));
            self.go_on();
            let at = self.dice.below(WORKERS as u64) as usize;
            match self.dice.below(16) {
                0 => self.replace(at),
                // These are the likeliest to be amid a call that is to be whole.
                8 => {
                    let is_loner = |it: &Running| it.life.slot < LONERS;
                    let at = self.running.iter().position(is_loner).unwrap();
                    self.replace(at);
                }
                1..4 => self.stop(at),
                4 if self.preload.is_some() && self.running[at].life.slot % 2 == 1 => {
                    self.step(self.running[at].life.slot);
                    self.figures.clock_steps += 1;
                }
                _ => {}
            }
        }
        while let Some(running) = self.running.pop() {
            self.bury(running);
        }
    }
}

/// Notes who is seen to wait, until then.
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

/// What faketime is loaded by, where it works.
fn faketime() -> Option<String> {
    let mut asked = Command::new("faketime");
    asked.args(["-m", "-f", "+0d", "printenv", "LD_PRELOAD"]);
    let said = can_fake_time().then(|| asked.output().unwrap().stdout)?;
    Some(String::from_utf8(said).unwrap().trim().to_owned())
}

/// One round: harm is done, all are killed, and what they noted is judged.
fn soak(
    home: &Home,
    length: Duration,
    seed: u64,
    preload: Option<&str>,
    figures: &mut Figures,
) -> History {
    let mut fleet = Fleet {
        dir: home.path().to_owned(),
        dice: Dice(seed),
        preload,
        running: Vec::new(),
        history: History::default(),
        started: 0,
        figures,
    };
    let path = home.join("store/locks.redb");
    let manager = LockManager::open(&path).unwrap();
    let end = boot_micros() + length.as_micros() as u64;
    let seen = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&manager, end));
        fleet.run(end);
        watcher.join().unwrap()
    });
    drop(manager);
    let mut history = fleet.history;
    history.check(seen);
    history.count(figures);

    // Nobody is left, in the queue neither; of what is shared no more than short leases.
    let manager = LockManager::open(&path).unwrap();
    assert!(manager.requests("").unwrap().is_empty());
    for names in ["s", "f"] {
        until("what the dead held is free", || {
            manager.locks(names).unwrap().is_empty()
        });
    }
    manager.clean_locks().unwrap();
    drop(manager);
    let left = fs::read_dir(home.join("store")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["locks.redb"]);
    history
}

#[test]
fn every_promise_is_kept_by_processes_that_are_killed_and_stopped() {
    let length = setting("LOCKMGR_SOAK_SECONDS").unwrap_or(10);
    let random = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_micros() as u64
    };
    let seed = setting("LOCKMGR_SOAK_SEED").unwrap_or_else(random);
    let preload = faketime();
    // Who is killed loses nothing that it wrote, so the disk would only slow this down.
    let home = Home::in_memory();
    fs::create_dir(home.join("store")).unwrap();
    let mut figures = Figures {
        seconds: length,
        seed,
        ..Figures::default()
    };
    for round in 0..length.div_ceil(ROUND) {
        let length = secs(ROUND.min(length - round * ROUND));
        let history = soak(
            &home,
            length,
            seed + round,
            preload.as_deref(),
            &mut figures,
        );
        figures.violations += history.violations.len();
        let first: Vec<_> = history.violations.into_iter().take(10).collect();
        assert!(first.is_empty(), "{figures}\n{}", first.join("\n"));
    }
    eprintln!("{figures}");
    assert!(
        figures.grants > 0 && figures.hand_overs > 0 && figures.kills > 0,
        "{figures}"
    );
}

/// What the judge says of two who want "s0" while somebody else has it: `early` waits for it from
/// 100 to 400 µs, and a call from 50 to 300 µs gets it before. That one was seen to wait then.
fn judged(seen: u64) -> Vec<String> {
    let mut history = History::default();
    let until = 1_000_000;
    let early = format!(
        "> 100 acquire - {} bound s0\n< 400 ok s0|-|2@{until}\n",
        LONG.as_micros()
    );
    let late = "> 50 acquire 900 500 bound s0\n< 300 ok s0|-|1@350\n> 310 release 900 0 - s0#1\n< 320 ok s0|1|-\n";
    for (process, notes) in [&early, late].into_iter().enumerate() {
        let life = Life {
            slot: process,
            killed: until,
            gone: until,
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
fn the_judge_tells_who_came_later_and_was_first_from_a_guard_that_asks_again() {
    assert_eq!(judged(310), [""; 0]);
    let said = judged(200);
    assert!(
        said[0].starts_with("one who came later was first"),
        "{said:?}"
    );
    assert_eq!(said.len(), 1);
}

/// Not a test: what a process of the soak does.
#[test]
#[ignore = "it is one process of the soak"]
fn a_worker_of_the_soak() {
    let Some(dir) = env::var_os("LOCKMGR_SOAK_DIR") else {
        return;
    };
    let job = env::var("LOCKMGR_SOAK_JOB").unwrap();
    let job: Vec<u64> = job.split(' ').map(|it| it.parse().unwrap()).collect();
    let [slot, number, seed] = job[..] else {
        panic!("{job:?}");
    };
    Worker::new(dir.as_ref(), slot as usize, number as usize, seed).work();
}
