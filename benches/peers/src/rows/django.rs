//! Compares with django-lockmgr on SQLite, call by call.

use crate::lab::Lab;
use crate::names;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::python::Python;
use crate::peers::{Kind, Mode, Peer};
use crate::report::{Figure, Report, Row, Unit};
use crate::stats::{interleave, ratio, timed, timed_each};
use anyhow::Result;
use std::time::Duration;

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let verbs = [("`set_lock`, one new name", 40.0), ("`is_locked`", 100.0)];
    let venv = match lab.venv() {
        Ok(venv) => venv,
        Err(why) => {
            for (what, times) in verbs {
                let target = format!("≥ {times} × faster");
                report.push(Row::skipped(
                    format!("{what}, against django-lockmgr"),
                    &target,
                    why,
                ));
            }
            return Ok(());
        }
    };
    let dir = lab.new_dir()?;
    let mut both = [
        Contestant::Ours(Lockmgr::open(
            &Kind::Lockmgr.file(dir.path()),
            Mode::Shared,
        )?),
        Contestant::Django(venv.start(dir.path())?),
    ];
    let rounds = lab.scale.heavy_rounds * 2;
    let set_lock = interleave(rounds, &mut both, |it, round| {
        it.set_lock(&names::new(round, 1))
    })?;
    if let Contestant::Ours(ours) = &mut both[0] {
        ours.set(&["present".to_owned()])?;
    }
    if let Contestant::Django(django) = &mut both[1] {
        django.ask("set_lock present")?;
    }
    let is_locked = interleave(rounds, &mut both, |it, _| it.is_locked("present"))?;
    for ((what, times), samples) in verbs.into_iter().zip([set_lock, is_locked]) {
        let faster = ratio(&samples[1], &samples[0]);
        let row = Row::new(
            format!("{what}, against django-lockmgr (multi-writer)"),
            Figure::new("lockmgr", Unit::Time, &samples[0]),
        );
        report.push(
            row.with([Figure::new("django-lockmgr", Unit::Time, &samples[1])])
                .ratio(ratio(&samples[0], &samples[1]))
                .target(format!("≥ {times} × faster"), faster.median >= times)
                .note(format!("{:.0} × faster", faster.median)),
        );
    }
    Ok(())
}

enum Contestant {
    Ours(Lockmgr),
    Django(Python),
}

impl Contestant {
    /// Takes the lock, and releases it so that the store stays as it was.
    fn set_lock(&mut self, name: &[String]) -> Result<Duration> {
        match self {
            Self::Ours(ours) => {
                let took = timed(|| ours.set(name))?;
                ours.remove(name)?;
                Ok(took)
            }
            Self::Django(django) => {
                let took = django.time(&format!("set_lock {}", name[0]))?;
                django.ask(&format!("unlock {}", name[0]))?;
                Ok(took)
            }
        }
    }

    /// Returns the mean of a hundred calls, after one that is not timed.
    fn is_locked(&mut self, name: &str) -> Result<Duration> {
        const CALLS: usize = 100;
        match self {
            Self::Ours(ours) => {
                ours.is_locked(name)?;
                timed_each(CALLS, |_| ours.is_locked(name).map(drop))
            }
            Self::Django(django) => django.time(&format!("is_locked {name} {CALLS}")),
        }
    }
}
