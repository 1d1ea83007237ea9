//! Measures the time from the release of a lock until the next holder, in another process, has it.

use crate::child::Child;
use crate::lab::Lab;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::python::{Python, Venv};
use crate::peers::{Kind, Mode};
use crate::plot::{Chart, Data};
use crate::report::{Figure, Report, Row, Unit};
use crate::stats::{Sample, micros, ratio, timed, turns};
use crate::worker::now;
use anyhow::Result;
use lockmgr::LockManager;
use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// The time beside a commit, in microseconds: to wake the other process, and for its look.
const WAKING: f64 = 300.0;

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let [ours, commit, flock] = pairs(lab)?;
    // Compares round by round, as the speed of the disk changes for both.
    let beyond = |(ours, commit): (&f64, &f64)| ours - 1.2 * commit;
    let beyond: Sample = ours.0.iter().zip(&commit.0).map(beyond).collect();
    let mut row = Row::new(
        "release to next holder, another process",
        Figure::new("lockmgr", Unit::Time, &ours),
    )
    .with([
        Figure::new("a bare commit", Unit::Time, &commit),
        Figure::new("flock(2)", Unit::Time, &flock),
    ])
    .ratio(ratio(&ours, &commit))
    .target("≤ 1.2 × a bare commit + 0.3 ms", beyond.median() <= WAKING)
    .note(format!(
        "beyond 1.2 commits: {:.2} ms",
        beyond.median() / 1e3
    ));

    let bar = |name: &str, sample: &Sample| (name.to_owned(), sample.median() / 1e3);
    let mut bars = vec![
        bar("lockmgr", &ours),
        bar("a bare redb commit", &commit),
        bar("flock(2)", &flock),
    ];
    let others = "below filelock and django-lockmgr";
    match lab.venv() {
        Ok(venv) => {
            lab.say("handover, filelock and django-lockmgr");
            let mut is_below = true;
            for (peer, rounds, phase) in [
                (
                    "filelock",
                    lab.scale.heavy_rounds,
                    Duration::from_millis(50),
                ),
                ("django-lockmgr", lab.scale.repeats, Duration::from_secs(5)),
            ] {
                let sample = of_python(lab, venv, peer, rounds, phase)?;
                is_below &= ours.median() < sample.median();
                bars.push(bar(peer, &sample));
                row = row.with([Figure::new(peer, Unit::Time, &sample)]);
            }
            report.push(row.and(others, is_below));
        }
        Err(why) => {
            report.push(row);
            report.push(Row::skipped("release to next holder", others, why));
        }
    }
    report.plot(Chart {
        file: "handover",
        title: "From release until the next process holds the lock".to_owned(),
        x: String::new(),
        y: "median, ms (logarithmic)".to_owned(),
        data: Data::Bars(bars),
    });
    Ok(())
}

/// Measures in turns: lockmgr's, a commit of bare redb in the same mode, and flock's.
fn pairs(lab: &Lab) -> Result<[Sample; 3]> {
    let stores = lab.new_stores(1, 1)?;
    let store = Kind::Lockmgr.file(stores.path());
    let manager = Lockmgr::open(&store, Mode::Shared)?.manager;
    let mut bare = Kind::Redb.open(stores.path(), Mode::Shared)?;
    let path = stores.path().join("flock");
    let file = File::create(&path)?;
    let mut waiter = Child::worker(&[&"wait", &"lockmgr", &store])?;
    let mut flock_waiter = Child::worker(&[&"wait", &"flock", &path])?;

    let mut samples = <[Sample; 3]>::default();
    for round in 0..lab.scale.rounds / 2 + 1 {
        for which in turns(samples.len(), round) {
            samples[which].0.push(match which {
                0 => hand_over(&manager, &mut waiter)?,
                1 => micros(timed(|| bare.set(&[stores.some_name(0)]))?),
                _ => hand_over_flock(&file, &mut flock_waiter)?,
            });
        }
    }
    Ok(samples)
}

fn hand_over(manager: &LockManager, waiter: &mut Child) -> Result<f64> {
    let guard = manager.acquire(["x"]).lock()?;
    waiter.tell("pass")?;
    while manager.requests("x")?.is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    // Waits until the waiter sleeps.
    thread::sleep(Duration::from_millis(3));
    let released = now();
    guard.release()?;
    Ok(waiter.turn()?.granted - released)
}

fn hand_over_flock(file: &File, waiter: &mut Child) -> Result<f64> {
    file.lock()?;
    waiter.tell("pass")?;
    let asked = Instant::now();
    while !is_blocked(waiter.id()) && asked.elapsed() < Duration::from_millis(50) {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(3));
    let released = now();
    file.unlock()?;
    Ok(waiter.turn()?.granted - released)
}

/// Tells whether this process waits for a lock of a file.
fn is_blocked(process: u32) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let process = process.to_string();
    let waits =
        |line: &str| line.contains("-> ") && line.split_whitespace().any(|it| it == process);
    locks.lines().any(waits)
}

/// Measures peers that poll: releases at a moment anywhere between two looks.
fn of_python(lab: &Lab, venv: &Venv, peer: &str, rounds: usize, phase: Duration) -> Result<Sample> {
    let dir = lab.new_dir()?;
    let start = |dir: &Path| -> Result<Python> { venv.start(dir) };
    let (mut holder, mut waiter) = (start(dir.path())?, start(dir.path())?);
    let mut sample = Sample::default();
    for round in 0..rounds {
        holder.ask(&format!("hold {peer}"))?;
        waiter.tell(&format!("wait {peer}"))?;
        // Steps of the golden section fill a phase evenly.
        let share = (0.2 + 0.618 * round as f64).fract();
        thread::sleep(phase + phase.mul_f64(share));
        let released: f64 = holder.ask(&format!("release {peer}"))?.parse()?;
        let granted: f64 = waiter.answer()?.parse()?;
        sample.0.push((granted - released) / 1e3);
    }
    Ok(sample)
}
