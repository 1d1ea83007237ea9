//! Measures opening a store and closing it again.

use super::locks;
use crate::lab::Lab;
use crate::peers::lockmgr;
use crate::peers::redb;
use crate::peers::sqlite;
use crate::peers::{CACHE, Kind, Mode};
use crate::report::{Report, Row};
use crate::stats::{interleave, timed};
use ::redb::ReadableDatabase;
use anyhow::Result;
use std::path::Path;

/// Opens the file and closes it.
type Open = fn(&Path) -> Result<()>;

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    for rows in [1, lab.scale.few, lab.scale.many] {
        let stores = lab.stores(rows)?;
        for (mode, opens) in WAYS {
            let what = format!("open and close, {mode}, {}", locks(rows));
            lab.say(&what);
            let mut opens: Vec<(Open, _)> = opens
                .iter()
                .zip(Kind::ALL)
                .map(|(open, kind)| (*open, kind.file(stores.path())))
                .collect();
            let rounds = lab.scale.rounds / 2;
            let samples = interleave(rounds.max(1), &mut opens, |(open, file), _| {
                timed(|| open(file))
            })?;
            report.push(Row::of_times(what, &samples).at_most(1.3));
        }
    }
    Ok(())
}

const WAYS: [(&str, &[Open]); 3] = [
    (
        "exclusive",
        &[
            |file| closed(lockmgr::builder(Mode::Exclusive).open(file)?),
            |file| looked_at(redb::builder(Mode::Exclusive).open(file)?),
            |file| open_sqlite(file, Mode::Exclusive),
        ],
    ),
    (
        "multi-writer",
        &[
            |file| closed(lockmgr::builder(Mode::Shared).open(file)?),
            |file| looked_at(redb::builder(Mode::Shared).open(file)?),
            |file| open_sqlite(file, Mode::Shared),
        ],
    ),
    (
        "read-only",
        &[
            |file| {
                let builder = ::lockmgr::LockManager::builder().cache_size(CACHE);
                closed(builder.read_only().open(file)?)
            },
            |file| looked_at(redb::builder(Mode::Shared).open_read_only(file)?),
        ],
    ),
];

/// Reads a row of a small table, as lockmgr reads one of its own.
fn looked_at(database: impl ReadableDatabase) -> Result<()> {
    redb::look_at(&database)?;
    closed(database)
}

/// Opens and closes the store, as closing is a part of the time.
fn closed<S>(store: S) -> Result<()> {
    drop(store);
    Ok(())
}

/// Runs a statement, as SQLite reads the file only then.
fn open_sqlite(file: &Path, mode: Mode) -> Result<()> {
    let connection = sqlite::connect(file, mode)?;
    connection.query_row("SELECT last FROM tokens", [], |_| Ok(()))?;
    closed(connection)
}
