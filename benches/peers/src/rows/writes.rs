//! Measures `set_lock`, by names in one call and by locks in the store, and calls without a change.

use super::locks;
use crate::lab::{Lab, Stores};
use crate::names;
use crate::peers::lockmgr::{self, Lockmgr};
use crate::peers::redb::Redb;
use crate::peers::sqlite::Sqlite;
use crate::peers::{Kind, Mode, Peer};
use crate::plot::{Chart, Data, Line};
use crate::report::{Figure, Report, Row, Unit};
use crate::stats::{Sample, interleave, timed, timed_each};
use ::lockmgr::StorageCall;
use anyhow::{Result, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Names in a large call.
const LARGE: usize = 1_000;

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    by_locks(lab, report)?;
    by_names(lab, report)
}

/// Measures every row of the table, and a plot over sizes of the store.
fn by_locks(lab: &Lab, report: &mut Report) -> Result<()> {
    let scale = lab.scale;
    let mut lines = Lines::default();
    for rows in scale.sizes() {
        let stores = lab.stores(rows)?;
        for mode in Mode::ALL {
            let mut peers = stores.open(mode)?;
            let place = format!("{}, {}", mode.name(), locks(rows));
            lab.say(&format!("set_lock, {place}"));

            let one = one_call(lab, &mut peers, 1)?;
            lines.push(mode, rows, &one);
            if rows != scale.few && rows != scale.many {
                continue;
            }
            let what = format!("`set_lock`, one new name; {place}");
            report.push(Row::of_times(what, &one).at_most(1.15));
            let large = one_call(lab, &mut peers, LARGE)?;
            let what = format!("`set_lock`, {} new names; {place}", super::count(LARGE));
            report.push(Row::of_times(what, &large).at_most(1.3));
            drop(peers);
            nothing(lab, report, &stores, mode)?;
        }
    }
    report.plot(Chart {
        file: "locks",
        title: "set_lock, one new name, by locks in the store".to_owned(),
        x: "locks in the store".to_owned(),
        y: "time of the call, ms".to_owned(),
        data: Data::Lines(lines.0),
    });
    Ok(())
}

fn by_names(lab: &Lab, report: &mut Report) -> Result<()> {
    let rows = lab.scale.few;
    let stores = lab.stores(rows)?;
    let mut lines = Lines::default();
    for mode in Mode::ALL {
        lab.say(&format!("set_lock by names, {}", mode.name()));
        let mut peers = stores.open(mode)?;
        for count in [1, LARGE / 100, LARGE / 10, LARGE] {
            lines.push(mode, count, &one_call(lab, &mut peers, count)?);
        }
    }
    report.plot(Chart {
        file: "names",
        title: format!(
            "set_lock by names in one call, {} in the store",
            locks(rows)
        ),
        x: "new names in one call".to_owned(),
        y: "time of the call, ms".to_owned(),
        data: Data::Lines(lines.0),
    });
    Ok(())
}

/// Measures a call with so many new names, which are then removed so that the store keeps its size.
fn one_call(lab: &Lab, peers: &mut [Box<dyn Peer>], count: usize) -> Result<Vec<Sample>> {
    let rounds = match count {
        0..100 => lab.scale.rounds,
        _ => lab.scale.heavy_rounds,
    };
    interleave(rounds, peers, |peer, round| {
        let names = names::new(round, count);
        let took = timed(|| peer.set(&names))?;
        peer.remove(&names)?;
        Ok(took)
    })
}

/// A call that commits nothing, given an absent name and one that is present.
type Call<'a> = Box<dyn Fn(&str, &str) -> Result<()> + 'a>;

/// Measures calls that go through a write transaction and commit nothing.
fn nothing(lab: &Lab, report: &mut Report, stores: &Stores, mode: Mode) -> Result<()> {
    let file = |kind: Kind| kind.file(stores.path());
    let ours = Lockmgr::open(&file(Kind::Lockmgr), mode)?;
    let bare = Redb::open(&file(Kind::Redb), mode)?;
    let sqlite = Sqlite::open(&file(Kind::Sqlite), mode)?;
    let unchanged = aborted(
        lab,
        stores,
        [
            Box::new(|_, present| ours.set_unchanged(present)),
            Box::new(|absent, _| bare.insert_and_abort(absent)),
            Box::new(|_, present| sqlite.set_unchanged(present)),
            Box::new(|_, present| bare.look_and_abort(&[present])),
        ],
    )?;
    let refused = aborted(
        lab,
        stores,
        [
            Box::new(|absent, present| ours.set_refused(absent, present)),
            Box::new(|absent, _| bare.insert_and_abort(absent)),
            Box::new(|absent, present| sqlite.set_refused(absent, present)),
            Box::new(|absent, present| bare.look_and_abort(&[absent, present])),
        ],
    )?;
    drop(ours);
    let unchanged_quiet = is_quiet(stores, mode, |ours, _, present| ours.set_unchanged(present))?;
    let refused_quiet = is_quiet(stores, mode, Lockmgr::set_refused)?;
    for (what, samples, is_quiet) in [
        (
            "`set_lock` that changes nothing",
            unchanged,
            unchanged_quiet,
        ),
        ("`set_lock` refused by `fail`", refused, refused_quiet),
    ] {
        let what = format!("{what}; {}, {}", mode.name(), locks(stores.rows));
        report.push(
            Row::of_times(what, &samples)
                .with([Figure::new(
                    "bare redb, looking only",
                    Unit::Time,
                    &samples[3],
                )])
                .at_most(2.0)
                .note("bare redb: aborted after it inserted one row")
                .and("no write, no sync", is_quiet),
        );
    }
    Ok(())
}

fn aborted(lab: &Lab, stores: &Stores, mut calls: [Call<'_>; 4]) -> Result<Vec<Sample>> {
    const CALLS: usize = 10;
    interleave(lab.scale.rounds, &mut calls, |call, round| {
        let (absent, present) = (&names::new(round, 1)[0], stores.some_name(round));
        timed_each(CALLS, |_| call(absent, &present))
    })
}

/// Tells whether lockmgr's calls neither write to their file nor sync it. Runs apart from the
/// timing, as counting takes time.
fn is_quiet(
    stores: &Stores,
    mode: Mode,
    call: impl Fn(&Lockmgr, &str, &str) -> Result<()>,
) -> Result<bool> {
    const CALLS: usize = 100;
    let (writes, syncs) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let (written, synced) = (Arc::clone(&writes), Arc::clone(&syncs));
    let count = move |call: StorageCall<'_>| {
        match call {
            StorageCall::Write { .. } | StorageCall::SetLen { .. } => &written,
            StorageCall::Sync => &synced,
            _ => return Ok(()),
        }
        .fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let so_far = || {
        (
            writes.load(Ordering::Relaxed),
            syncs.load(Ordering::Relaxed),
        )
    };
    let builder = lockmgr::builder(mode).storage_hook(count);
    let mut ours = Lockmgr::from(builder.open(Kind::Lockmgr.file(stores.path()))?);

    let before = so_far();
    for turn in 0..CALLS {
        let absent = names::new(turn, 1);
        call(&ours, &absent[0], &stores.some_name(turn))?;
    }
    let after = so_far();
    // A count that misses a commit would be useless.
    let absent = names::new(CALLS, 1);
    ours.set(&absent)?;
    let committed = so_far();
    ours.remove(&absent)?;
    ensure!(
        committed.0 > after.0 && committed.1 > after.1,
        "a commit was not counted"
    );
    Ok(before == after)
}

/// Draws a line for each peer and mode.
#[derive(Default)]
struct Lines(Vec<Line>);

impl Lines {
    fn push(&mut self, mode: Mode, x: usize, samples: &[Sample]) {
        for (kind, sample) in Kind::ALL.into_iter().zip(samples) {
            let name = format!("{}, {}", kind.name(), mode.name());
            let point = (x as f64, sample.median() / 1e3);
            match self.0.iter_mut().find(|line| line.name == name) {
                Some(line) => line.points.push(point),
                None => self.0.push(Line {
                    name,
                    points: vec![point],
                }),
            }
        }
    }
}
