//! Measures `clean_locks` of a store whose every row has expired, and how long another process that
//! writes has to wait meanwhile.

use super::count;
use crate::child::Child;
use crate::lab::{Lab, builder_with, fill};
use crate::names;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::redb::{Redb, row_of_lockmgr};
use crate::peers::{Kind, LEASE, Mode};
use crate::report::{Figure, Report, Row, Unit};
use crate::stats::{Sample, micros, ratio, timed, turns};
use crate::worker::{Call, now};
use anyhow::{Result, ensure};
use chrono::Utc;
use lockmgr::ManualClock;
use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// The longest that the other process may wait.
const LONGEST_WAIT: f64 = 50_000.0;

/// Rows written in one transaction: the more, the larger the file that both leave, and the longer
/// the system takes to cut it off, in a turn that others wait for.
const A_FILL: usize = 10_000;

/// The leases of the process that writes meanwhile, longer than the clean-up's clock is ahead.
const LEASE_OF_OTHERS: &str = "30";

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let rows = lab.scale.many;
    lab.say(&format!(
        "filling a store with {rows} rows that will have expired"
    ));
    let whole = lab.new_dir()?;
    let clock = ManualClock::new(Utc::now());
    let ours = Kind::Lockmgr.file(whole.path());
    let manager = builder_with(clock.clone()).open(&ours)?;
    fill(&mut Lockmgr::from(manager), rows, A_FILL)?;
    let bare = Redb::create(&Kind::Redb.file(whole.path()), row_of_lockmgr(&ours)?);
    fill(&mut bare?, rows, A_FILL)?;
    clock.advance(2 * LEASE);

    let (mut alone, mut busy, mut waits) = <([Sample; 2], [Sample; 2], [Sample; 2])>::default();
    for repeat in 0..lab.scale.repeats {
        lab.say(&format!("clean_locks, {}", repeat + 1));
        for which in turns(2, repeat) {
            let kind = [Kind::Lockmgr, Kind::Redb][which];
            let dir = lab.new_dir()?;
            copy(&kind.file(whole.path()), &kind.file(dir.path()))?;
            let took = timed(|| clean(kind, dir.path(), &clock, rows))?;
            alone[which].0.push(micros(took));
            ensure_clean(kind, dir.path(), &[])?;

            copy(&kind.file(whole.path()), &kind.file(dir.path()))?;
            let (took, wait) = clean_amid_writes(kind, dir.path(), &clock, rows)?;
            busy[which].0.push(took);
            waits[which].0.push(wait);
        }
    }

    let what = format!("`clean_locks`, {} expired rows, multi-writer", count(rows));
    report.push(
        Row::of_times(&what, &alone)
            .at_most(2.0)
            .note("bare redb: `retain` in one transaction; with opening and closing"),
    );
    report.push(Row::of_times(
        format!("{what}, while another process writes"),
        &busy,
    ));
    let longest = waits[0].max();
    report.push(
        Row::new(
            "longest wait of a process that writes meanwhile",
            Figure::new("lockmgr", Unit::Time, &waits[0]),
        )
        .with([Figure::new("bare redb", Unit::Time, &waits[1])])
        .ratio(ratio(&waits[0], &waits[1]))
        .target("≤ 50 ms, each time", longest <= LONGEST_WAIT),
    );
    Ok(())
}

/// Copies and syncs the file, so that no sync in the timed part pays for the copy.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)?;
    Ok(File::open(to)?.sync_all()?)
}

/// Opens the store and removes every row that was there when it was filled.
fn clean(kind: Kind, dir: &Path, clock: &ManualClock, rows: usize) -> Result<()> {
    if kind == Kind::Redb {
        return Redb::open(&kind.file(dir), Mode::Shared)?.remove_all();
    }
    let manager = builder_with(clock.clone()).open(kind.file(dir))?;
    let removed = manager.clean_locks()?;
    // The process that writes meanwhile has a clock by which none of them has expired, and removes
    // none.
    ensure!(removed == rows, "{removed} rows were removed of {rows}");
    Ok(())
}

/// By the system's clock, which is not ahead, a row that is still there has not expired: none may
/// be left but those written meanwhile.
fn ensure_clean(kind: Kind, dir: &Path, written: &[String]) -> Result<()> {
    let mut peer = kind.open(dir, Mode::Shared)?;
    let mut theirs = 0;
    for name in written {
        theirs += usize::from(peer.is_locked(name)?);
    }
    let left = peer.list("")?;
    ensure!(
        left == theirs,
        "{left} rows are left, {theirs} of them written meanwhile"
    );
    Ok(())
}

/// Returns the time of the clean-up, and the longest call of another process that overlapped it.
fn clean_amid_writes(
    kind: Kind,
    dir: &Path,
    clock: &ManualClock,
    rows: usize,
) -> Result<(f64, f64)> {
    let name = format!("{kind:?}").to_lowercase();
    let mut writer = Child::worker(&[&"write", &name, &dir, &"0", &LEASE_OF_OTHERS])?;
    writer.tell("go")?;
    thread::sleep(Duration::from_millis(50));
    let began = now();
    clean(kind, dir, clock, rows)?;
    let ended = now();
    writer.stop();
    let calls: Vec<Call> = serde_json::from_str(&writer.answer()?)?;
    drop(writer);
    let written = (0..calls.len() as u64).map(|index| names::of_worker(0, index));
    ensure_clean(kind, dir, &written.collect::<Vec<_>>())?;
    let overlaps = |call: &&Call| call.began < ended && call.began + call.took > began;
    let waits: Sample = calls
        .iter()
        .filter(overlaps)
        .map(|call| call.took)
        .collect();
    ensure!(!waits.0.is_empty(), "nobody wrote while rows were removed");
    Ok((ended - began, waits.max()))
}
