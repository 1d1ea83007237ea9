//! Measures the bytes of the closed file, for each lock and of an empty store.

use super::count;
use crate::lab::{BATCH, Lab, Stores};
use crate::peers::lockmgr::Lockmgr;
use crate::peers::redb::Redb;
use crate::peers::{Kind, Mode};
use crate::report::{Figure, Report, Row, Unit};
use crate::stats::{Sample, ratio};
use anyhow::Result;
use std::fs;

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    per_lock(report, &lab.new_stores(lab.scale.filed, 100)?, 100);
    per_lock(report, &*lab.stores(lab.scale.many)?, BATCH);

    let dir = lab.new_dir()?;
    let file = |kind: Kind| kind.file(dir.path());
    drop(Lockmgr::open(&file(Kind::Lockmgr), Mode::Shared)?);
    drop(Redb::create(&file(Kind::Redb), Vec::new())?);
    let bytes = |kind: Kind| anyhow::Ok(fs::metadata(file(kind))?.len() as f64);
    let ours = bytes(Kind::Lockmgr)?;
    report.push(
        Row::new(
            "file of an empty store",
            Figure::one("lockmgr", Unit::Bytes, ours),
        )
        .with([Figure::one("bare redb", Unit::Bytes, bytes(Kind::Redb)?)])
        .target("≤ 100 KiB", ours <= 100.0 * 1024.0),
    );
    Ok(())
}

fn per_lock(report: &mut Report, stores: &Stores, batch: usize) {
    let each = |which: usize| stores.bytes[which] as f64 / stores.rows as f64;
    let figure = |which: usize| Figure::one(Kind::ALL[which].name(), Unit::Bytes, each(which));
    let bytes = ratio(&Sample(vec![each(0)]), &Sample(vec![each(1)]));
    report.push(
        Row::new(
            format!(
                "file for each of {} locks, names of 20 bytes",
                count(stores.rows)
            ),
            figure(0),
        )
        .with([figure(1), figure(2)])
        .ratio(bytes)
        .at_most(1.3)
        .note(format!("written {} a transaction", count(batch))),
    );
}
