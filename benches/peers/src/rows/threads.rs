//! Measures threads of one process that read by one handle.

use crate::lab::Lab;
use crate::names;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::redb::Redb;
use crate::peers::{Kind, Mode};
use crate::report::{Figure, Report, Row, Unit};
use crate::stats::{Sample, ratio, turns};
use anyhow::{Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

const THREADS: usize = 8;

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let rows = lab.scale.few;
    let stores = lab.stores(rows)?;
    for mode in Mode::ALL {
        let manager = Lockmgr::open(&Kind::Lockmgr.file(stores.path()), mode)?.manager;
        let bare = Redb::open(&Kind::Redb.file(stores.path()), mode)?;
        let window = lab.scale.window / 5;
        let speed = |which, threads| match which {
            0 => reads(threads, window, rows, |name| Ok(manager.is_locked(name)?)),
            _ => reads(threads, window, rows, |name| bare.has(name)),
        };
        let (mut gains, mut speeds) = <([Sample; 2], [Sample; 2])>::default();
        for repeat in 0..lab.scale.repeats * 2 {
            let mut one = [0.0; 2];
            for which in turns(2, repeat) {
                one[which] = speed(which, 1)?;
            }
            for which in turns(2, repeat) {
                let all = speed(which, THREADS)?;
                gains[which].0.push(all / one[which]);
                speeds[which].0.push(all);
            }
        }
        let place = format!("{THREADS} threads reading, {}", mode.name());
        report.push(
            Row::new(
                format!("{place}: speed-up over one"),
                Figure::new("lockmgr", Unit::Plain, &gains[0]),
            )
            .with([Figure::new("bare redb", Unit::Plain, &gains[1])])
            .ratio(ratio(&gains[0], &gains[1]))
            .at_least(0.9),
        );
        report.push(
            Row::new(
                format!("{place}: `is_locked` in all"),
                Figure::new("lockmgr", Unit::PerSecond, &speeds[0]),
            )
            .with([Figure::new("bare redb", Unit::PerSecond, &speeds[1])])
            .ratio(ratio(&speeds[0], &speeds[1])),
        );
    }
    Ok(())
}

/// Returns the reads a second of so many threads.
fn reads(
    threads: usize,
    window: Duration,
    rows: usize,
    read: impl Fn(&str) -> Result<bool> + Sync,
) -> Result<f64> {
    let names: Vec<String> = (0..rows).map(names::present).collect();
    let began = Instant::now();
    let one = |first: usize| {
        let mut done = 0;
        while began.elapsed() < window {
            // Reading the clock takes a part of the measured time.
            for _ in 0..16 {
                ensure!(read(&names[(first + done) % rows])?, "a lock is not there");
                done += 1;
            }
        }
        Ok(done)
    };
    let counts = thread::scope(|scope| {
        let spawn = |thread: usize| scope.spawn(move || one(thread * 97));
        let handles: Vec<_> = (0..threads).map(spawn).collect();
        let join = |handle: thread::ScopedJoinHandle<'_, Result<usize>>| handle.join();
        handles.into_iter().map(join).collect::<Vec<_>>()
    });
    let elapsed = began.elapsed().as_secs_f64();
    let mut sum = 0;
    for count in counts {
        sum += count.map_err(|_| anyhow::anyhow!("a reader panicked"))??;
    }
    Ok(sum as f64 / elapsed)
}
