//! Measures the resources of many waiting threads of one process, beside one.

use crate::child::Child;
use crate::lab::Lab;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::{Kind, Mode};
use crate::report::{Figure, Report, Row, Unit};
use crate::rows::count;
use crate::stats::micros;
use anyhow::{Context, Result};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// The resources of a process.
struct Takes {
    descriptors: f64,
    /// The threads beyond those of the caller, which are the waiting ones and the main one.
    threads: f64,
    /// The resident memory, in bytes.
    memory: f64,
    /// The time from its start until all that ask at once wait, in microseconds.
    queued: f64,
}

pub(super) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let many = lab.scale.waiting.threads;
    lab.say("waiting threads of one process");
    let of_one = takes(lab, 1)?;
    let of_many = takes(lab, many)?;
    let what = format!("{} waiting threads of one process", count(many));
    let row = |what: String, unit, value: fn(&Takes) -> f64| {
        Row::new(what, Figure::one("lockmgr", unit, value(&of_many))).with([Figure::one(
            "one waiting thread",
            unit,
            value(&of_one),
        )])
    };
    report.push(
        row(format!("{what}: descriptors"), Unit::Plain, |takes| {
            takes.descriptors
        })
        .target(
            "no more than of one",
            of_many.descriptors <= of_one.descriptors,
        ),
    );
    report.push(
        row(
            format!("{what}: kernel threads of lockmgr"),
            Unit::Plain,
            |takes| takes.threads,
        )
        .target("no more than of one", of_many.threads <= of_one.threads),
    );
    report.push(row(
        format!("{what}: from the start of the process until all wait"),
        Unit::Time,
        |takes| takes.queued,
    ));
    let each = (of_many.memory - of_one.memory) / (many as f64 - 1.0) / 1024.0;
    report.push(
        row(
            format!("{what}: resident memory of the process"),
            Unit::Bytes,
            |takes| takes.memory,
        )
        .note(format!("{each:.1} KiB a thread, with its stack")),
    );
    Ok(())
}

fn takes(lab: &Lab, threads: usize) -> Result<Takes> {
    let dir = lab.new_dir()?;
    let store = Kind::Lockmgr.file(dir.path());
    let manager = Lockmgr::open(&store, Mode::Shared)?.manager;
    let names = (0..threads).map(|i| format!("w{i}"));
    let held = manager.acquire(names).try_lock()?;
    let count = threads.to_string();
    let began = Instant::now();
    let worker = Child::worker(&[&"crowd", &store, &"w", &count, &count])?;
    let queued = micros(began.elapsed());
    // Helper threads that only queueing needs have ended by then.
    thread::sleep(Duration::from_millis(500));

    let process = format!("/proc/{}", worker.id());
    let status = fs::read_to_string(format!("{process}/status"))?;
    let field = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name} of {process}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    let takes = Takes {
        descriptors: fs::read_dir(format!("{process}/fd"))?.count() as f64,
        threads: field("Threads:")? - 1.0 - threads as f64,
        memory: field("VmRSS:")? * 1024.0,
        queued,
    };
    drop(worker);
    drop(held);
    Ok(takes)
}
