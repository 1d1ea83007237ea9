//! Measures `is_locked` and `find`, of names in random order.

use super::locks;
use crate::lab::{Lab, Stores};
use crate::peers::{Mode, Peer};
use crate::report::{Figure, Report, Row, Unit};
use crate::stats::{Sample, interleave, ratio, timed_each};
use anyhow::{Result, ensure};

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    for rows in [lab.scale.few, lab.scale.many] {
        let stores = lab.stores(rows)?;
        for mode in Mode::ALL {
            let place = format!("{}, {}", mode.name(), locks(rows));
            lab.say(&format!("reads, {place}"));
            let mut peers = stores.open(mode)?;
            let is_locked = each(lab, &stores, &mut peers, |peer, name| peer.is_locked(name))?;
            let find = each(lab, &stores, &mut peers, |peer, name| peer.find(name))?;

            // At many locks the target is the ratio to bare redb's alone.
            let beats_sqlite = mode == Mode::Exclusive && rows == lab.scale.few;
            report.push(row(
                format!("`is_locked`; {place}"),
                beats_sqlite,
                &is_locked,
            ));
            let single = Figure::new(
                "bare redb without the look at who waits",
                Unit::Time,
                &is_locked[1],
            );
            let row = row(format!("`find`; {place}"), beats_sqlite, &find);
            report.push(row.with([single]));
        }
    }
    Ok(())
}

fn row(what: String, beats_sqlite: bool, samples: &[Sample]) -> Row {
    let row = Row::of_times(what, samples).at_most(1.3);
    if !beats_sqlite {
        return row;
    }
    let is_faster = ratio(&samples[0], &samples[2]).median < 1.0;
    row.and("faster than SQLite", is_faster)
}

/// Reads a hundred names a round, the same for each peer.
fn each(
    lab: &Lab,
    stores: &Stores,
    peers: &mut [Box<dyn Peer>],
    read: impl Fn(&mut dyn Peer, &str) -> Result<bool>,
) -> Result<Vec<Sample>> {
    const CALLS: usize = 100;
    interleave(lab.scale.rounds, peers, |peer, round| {
        let names: Vec<String> = (0..CALLS)
            .map(|call| stores.some_name(round * CALLS + call))
            .collect();
        timed_each(CALLS, |call| {
            let name = &names[call];
            ensure!(read(peer.as_mut(), name)?, "{name} is not there");
            Ok(())
        })
    })
}
