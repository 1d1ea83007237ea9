//! Tests crashes of the machine. Whatever unsynced bytes the disk kept, the store opens again with
//! the state after some prefix of its calls. The prefix includes every acknowledged call.
//!
//! A test records random calls together with their changes to the file. The recording gives images
//! of the disk at every sync and between syncs. The test opens each image, compares it, writes to
//! it, and opens it again. For some images the repair crashes too.
//!
//! `LOCKMGR_CRASH_IMAGES` sets the least number of images, 1,000 by default, and
//! `LOCKMGR_CRASH_SEED` the seed of the first run. `.ci/run` tries 10,000, from a seed that it
//! draws from the commit.

mod check;
mod disk;
mod script;

use crate::holding_support::Dice;
use crate::support::{self, Home, is_root, setting, skip, works};
use check::{Tally, check};
use disk::{Disk, Event, Log};
use lockmgr::LockManager;
use script::{Recording, Sharing, State, record};
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

const STEPS: usize = 40;
const IMAGES_OF_A_RUN: usize = 600;

/// Returns the run of that seed: each kind of sharing in turn.
fn run(seed: u64) -> Recording {
    let sharing = [Sharing::Exclusive, Sharing::Shared, Sharing::TwoManagers];
    record(seed, STEPS, sharing[(seed % 3) as usize])
}

fn check_run(seed: u64, recording: &Recording) -> Result<Tally, String> {
    check(recording, IMAGES_OF_A_RUN, &mut Dice(seed))
}

#[test]
fn every_crash_leaves_a_prefix_of_the_calls_with_all_that_were_acknowledged() {
    let wanted = setting("LOCKMGR_CRASH_IMAGES").unwrap_or(1_000) as usize;
    let first = setting("LOCKMGR_CRASH_SEED").unwrap_or(1);
    let began = Instant::now();
    let (next, images) = (AtomicU64::new(first), AtomicUsize::new(0));
    let work = || {
        let mut tally = Tally::default();
        while images.load(Relaxed) < wanted {
            let seed = next.fetch_add(1, Relaxed);
            let one = thread::spawn(move || check_run(seed, &run(seed))).join();
            let one = one.unwrap_or_else(|_| Err("it panics".to_owned()));
            let one = one.map_err(|why| {
                images.store(wanted, Relaxed);
                format!("LOCKMGR_CRASH_SEED={seed} LOCKMGR_CRASH_IMAGES=1 repeats it: {why}")
            })?;
            images.fetch_add(one.images, Relaxed);
            tally += one;
        }
        Ok(tally)
    };
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let done: Result<Tally, String> = worker.join().unwrap();
            tally += done.unwrap_or_else(|why| panic!("{why}"));
        }
    });
    let (last, took) = (next.into_inner() - 1, began.elapsed());
    eprintln!("seeds {first} to {last}: {tally:?}, 0 violations, in {took:.1?}");
}

#[test]
fn store_has_a_name_only_when_it_is_whole_on_the_disk() {
    for is_exclusive in [false, true] {
        let home = Home::in_memory();
        let log = Log::default();
        let named_at = Arc::new(OnceLock::new());
        let (hook, path, events, named) =
            (log.hook(), home.db(), log.clone(), Arc::clone(&named_at));
        let builder = LockManager::builder().storage_hook(move |call| {
            if path.exists() {
                named.get_or_init(|| events.len());
            }
            hook(call)
        });
        let builder = if is_exclusive {
            builder.exclusive()
        } else {
            builder
        };
        drop(builder.open(home.db()).unwrap());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);

        let mut events = log.take();
        let after = events.split_off(*named_at.get().unwrap());
        let file = Disk::new(&[], &events).in_the_end();
        let newborn = Recording {
            file: file.expect("all is synced before it is named"),
            events: after,
            states: vec![State::default()],
            moves: Vec::new(),
        };
        check(&newborn, 500, &mut Dice(1)).unwrap();
    }
}

#[test]
fn store_made_without_proc_has_a_name_only_when_it_is_whole_on_the_disk() {
    if !is_root() {
        return skip("only root can hide /proc");
    }
    if !works(&["unshare", "--mount"]) {
        return;
    }
    let me = std::env::current_exe().unwrap();
    let script = "mount -t tmpfs tmpfs /proc && exec \"$0\" --exact \"$1\"";
    let test = "crashes::store_has_a_name_only_when_it_is_whole_on_the_disk";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(me);
    let ran = support::run(command.arg(test));
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("1 passed"), "{ran:?}");
}

#[test]
fn files_of_the_runs_grow_and_shrink() {
    let mut tally = Tally::default();
    (1..=3).for_each(|seed| tally += run(seed).tally());
    assert!(tally.growths > 0 && tally.shrinkages > 0, "{tally:?}");
}

/// Returns the findings of the check for each kind of run, if the recording is falsified.
fn violations(lie: impl Fn(&mut Recording)) -> [Option<String>; 3] {
    [1, 2, 3].map(|seed| {
        let mut recording = run(seed);
        lie(&mut recording);
        check_run(seed, &recording).err()
    })
}

/// Keeps the events whose number `is_kept` accepts.
fn keep_of(recording: &mut Recording, these: fn(&Event) -> bool, is_kept: fn(usize) -> bool) {
    let mut number = 0;
    recording.events.retain(|event| {
        number += usize::from(these(event));
        !these(event) || is_kept(number)
    });
}

#[test]
fn omitted_sync_is_noticed() {
    let found = violations(|recording| {
        keep_of(
            recording,
            |event| matches!(event, Event::Sync),
            |number| number % 8 != 0,
        );
    });
    assert!(found.iter().all(Option::is_some), "{found:?}");
}

#[test]
fn acknowledgement_before_the_commit_is_noticed() {
    let found = violations(|recording| {
        keep_of(
            recording,
            |event| matches!(event, Event::Acknowledged),
            |_| false,
        );
        recording.events = recording
            .events
            .drain(..)
            .flat_map(|event| match event {
                Event::Begun => vec![Event::Begun, Event::Acknowledged],
                event => vec![event],
            })
            .collect();
    });
    assert!(found.iter().all(Option::is_some), "{found:?}");
}

#[test]
fn half_of_a_call_is_noticed() {
    // Merges every two calls into one.
    let found = violations(|recording| {
        keep_of(
            recording,
            |event| matches!(event, Event::Begun),
            |number| number % 2 == 1,
        );
        keep_of(
            recording,
            |event| matches!(event, Event::Acknowledged),
            |number| number % 2 == 0,
        );
        let mut number = 0;
        recording.states.retain(|_| {
            number += 1;
            number % 2 == 1
        });
    });
    assert!(found.iter().all(Option::is_some), "{found:?}");
}

#[test]
fn token_issued_again_is_noticed() {
    let found = violations(|recording| {
        for state in &mut recording.states {
            state.token += 1;
        }
    });
    let is_noticed = |why: &Option<String>| why.as_ref().is_some_and(|it| it.contains("token"));
    assert!(found.iter().all(is_noticed), "{found:?}");
}
