//! Threads of one process that read by one handle.

use crate::lab::Lab;
use crate::names;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::redb::Redb;
use crate::peers::{Kind, Mode};
use crate::report::{Figure, Report, Row, Unit};
use crate::stats::{Sample, ratio};
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
        let (mut ours, mut peer, mut many, mut bare_many) =
            <(Sample, Sample, Sample, Sample)>::default();
        for _ in 0..lab.scale.repeats * 2 {
            let speed = |threads| {
                let is_locked = |name: &str| Ok(manager.is_locked(name)?);
                let ours = reads(threads, window, rows, is_locked)?;
                let bare = reads(threads, window, rows, |name| bare.has(name))?;
                anyhow::Ok((ours, bare))
            };
            let (one, bare_one) = speed(1)?;
            let (all, bare_all) = speed(THREADS)?;
            ours.0.push(all / one);
            peer.0.push(bare_all / bare_one);
            many.0.push(all);
            bare_many.0.push(bare_all);
        }
        let place = format!("{THREADS} threads reading, {}", mode.name());
        report.push(
            Row::new(
                format!("{place}: speed-up over one"),
                Figure::new("lockmgr", Unit::Plain, &ours),
            )
            .with([Figure::new("bare redb", Unit::Plain, &peer)])
            .ratio(ratio(&ours, &peer))
            .at_least(0.9),
        );
        report.push(
            Row::new(
                format!("{place}: `is_locked` in all"),
                Figure::new("lockmgr", Unit::PerSecond, &many),
            )
            .with([Figure::new("bare redb", Unit::PerSecond, &bare_many)])
            .ratio(ratio(&many, &bare_many)),
        );
    }
    Ok(())
}

/// Reads a second, of so many threads.
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
            // Reading the clock costs a part of what is measured.
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
