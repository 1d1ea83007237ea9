//! Measures the memory of a process that works on a large store.

use super::{count, locks};
use crate::child::Child;
use crate::lab::Lab;
use crate::peers::{Kind, Mode};
use crate::report::{Figure, Report, Row, Unit};
use crate::worker::Resident;
use anyhow::Result;

const MOST: f64 = 48.0 * 1048576.0;

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let rows = lab.scale.many;
    let calls = rows / 100;
    let stores = lab.stores(rows)?;
    let (size, number) = (rows.to_string(), calls.to_string());
    for mode in Mode::ALL {
        let mut figures = Vec::new();
        let mut peak = 0.0;
        for kind in Kind::ALL {
            lab.say(&format!("memory, {}, {}", mode.name(), kind.name()));
            let (name, how) = (format!("{kind:?}"), format!("{mode:?}"));
            let (name, how) = (name.to_lowercase(), how.to_lowercase());
            let dir = stores.path();
            let mut child = Child::worker(&[&"resident", &name, &how, &dir, &size, &number])?;
            let resident: Resident = serde_json::from_str(&child.answer()?)?;
            if kind == Kind::Lockmgr {
                peak = resident.peak as f64 * 1024.0;
            }
            for (when, kib) in [("", resident.now), (" at its peak", resident.peak)] {
                let of = format!("{}{when}", kind.name());
                figures.push(Figure::one(of, Unit::Bytes, kib as f64 * 1024.0));
            }
        }
        let what = format!(
            "resident memory, {}, {}: after {} of `find` and `set_lock` at random and a list",
            mode.name(),
            locks(rows),
            count(calls),
        );
        let ours = figures.remove(0);
        report.push(
            Row::new(what, ours)
                .with(figures)
                .target("≤ 48 MiB, at its peak too", peak <= MOST),
        );
    }
    Ok(())
}
