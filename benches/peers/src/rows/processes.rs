//! Measures processes that write to one file at the same time.

use super::count;
use crate::child::Child;
use crate::lab::Lab;
use crate::peers::Kind;
use crate::plot::{Chart, Data, Line};
use crate::report::{Figure, Report, Row, Unit};
use crate::stats::{Sample, jain, ratio, turns};
use crate::worker::{Call, now};
use anyhow::Result;
use std::thread;

const PROCESSES: [usize; 4] = [1, 2, 4, 8];

/// The results of one peer's processes, one value for each repetition.
#[derive(Clone, Default)]
struct Outcome {
    /// The calls a second, of all processes.
    total: Sample,
    fairness: Sample,
    /// Microseconds.
    slowest: Sample,
    gave_up: usize,
}

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let line = |kind: Kind| Line {
        name: kind.name().to_owned(),
        points: Vec::new(),
    };
    let mut lines: Vec<Line> = Kind::ALL.into_iter().map(line).collect();
    for processes in PROCESSES {
        lab.say(&format!("{processes} processes writing"));
        let mut outcomes = <[Outcome; 3]>::default();
        for repeat in 0..lab.scale.repeats {
            for which in turns(Kind::ALL.len(), repeat) {
                compete(lab, Kind::ALL[which], processes, &mut outcomes[which])?;
            }
        }
        for (line, outcome) in lines.iter_mut().zip(&outcomes) {
            line.points.push((processes as f64, outcome.total.median()));
        }
        if processes == PROCESSES[PROCESSES.len() - 1] {
            push(report, processes, &outcomes);
        }
    }
    report.plot(Chart {
        file: "processes",
        title: "One new lock a call, several processes on one file".to_owned(),
        x: "processes that write".to_owned(),
        y: "calls a second, of all processes".to_owned(),
        data: Data::Lines(lines),
    });
    Ok(())
}

fn compete(lab: &Lab, kind: Kind, processes: usize, outcome: &mut Outcome) -> Result<()> {
    let stores = lab.new_stores(1, 1)?;
    let name = format!("{kind:?}").to_lowercase();
    let mut workers = Vec::new();
    for id in 0..processes {
        let id = id.to_string();
        workers.push(Child::worker(&[
            &"write",
            &name,
            &stores.path(),
            &id,
            &"1",
        ])?);
    }
    let began = now();
    for worker in &mut workers {
        worker.tell("go")?;
    }
    thread::sleep(lab.scale.window);
    let ended = now();
    workers.iter_mut().for_each(Child::stop);

    let mut shares = Vec::new();
    let mut slowest: f64 = 0.0;
    for worker in &mut workers {
        let calls: Vec<Call> = serde_json::from_str(&worker.answer()?)?;
        let in_time = |call: &&Call| !call.gave_up && call.began + call.took <= ended;
        shares.push(calls.iter().filter(in_time).count() as f64);
        outcome.gave_up += calls.iter().filter(|call| call.gave_up).count();
        slowest = calls.iter().map(|call| call.took).fold(slowest, f64::max);
    }
    let seconds = (ended - began) / 1e6;
    outcome.total.0.push(shares.iter().sum::<f64>() / seconds);
    outcome.fairness.0.push(jain(&shares));
    outcome.slowest.0.push(slowest);
    Ok(())
}

fn push(report: &mut Report, processes: usize, outcomes: &[Outcome; 3]) {
    let row = |what: &str, unit, sample: fn(&Outcome) -> &Sample| {
        let figure =
            |(kind, outcome): (Kind, &Outcome)| Figure::new(kind.name(), unit, sample(outcome));
        let mut figures = Kind::ALL.into_iter().zip(outcomes).map(figure);
        let ours = figures.next().expect("lockmgr is always measured");
        let what = format!("{} processes writing, {what}", count(processes));
        let row = Row::new(what, ours).with(figures);
        row.ratio(ratio(sample(&outcomes[0]), sample(&outcomes[1])))
    };
    report.push(
        row("calls a second in all", Unit::PerSecond, |outcome| {
            &outcome.total
        })
        .at_least(0.9),
    );
    let is_fair = outcomes[0].fairness.median() >= 0.95;
    report.push(
        row("Jain's index", Unit::Plain, |outcome| &outcome.fairness).target("≥ 0.95", is_fair),
    );
    let gave_up = outcomes
        .each_ref()
        .map(|outcome| outcome.gave_up.to_string());
    report.push(
        row("slowest call", Unit::Time, |outcome| &outcome.slowest)
            .at_most(2.0)
            .and("none gave up", outcomes[0].gave_up == 0)
            .note(format!(
                "calls that gave up after 10 s: {}",
                gave_up.join(", ")
            )),
    );
}
