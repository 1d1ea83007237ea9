//! Measures verbs while no request waits, beside an older build.

use crate::child::Child;
use crate::lab::Lab;
use crate::processor;
use crate::report::{Figure, Report, Row, Unit};
use crate::rows::command::built;
use crate::stats::{Sample, ratio, turns};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
const MOST: f64 = 1.05;

/// A verb's name here and in `verbs`, and the number of calls that take as long as one write.
const VERBS: [(&str, &str, usize); 4] = [
    ("`set_lock`, one new name", "set_lock", 1),
    ("`get_lock` and `unlock`", "get_lock", 1),
    ("a guard, acquired and released", "guard", 1),
    ("`is_locked`", "is_locked", 100),
];

/// Stretches of calls of each verb in a pair, in turns.
const STRETCHES: usize = 6;

/// The times of a verb, in the older build and in this one.
#[derive(Clone, Default)]
struct Times {
    processor: [Sample; 2],
    wall: [Sample; 2],
}

pub(super) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let target = format!("≤ {MOST} × an older build, by processor time");
    let Some(before) = lab.before() else {
        report.push(Row::skipped(
            "locks without waiters, beside an older build",
            &target,
            "no --before",
        ));
        return Ok(());
    };
    lab.say("building `verbs`");
    let now = built(MANIFEST, "verbs")?;
    for mode in ["shared", "exclusive"] {
        lab.say(&format!("verbs beside an older build, {mode}"));
        let mut times = vec![Times::default(); VERBS.len()];
        for round in 0..lab.scale.waiting.pairs {
            pair(lab, [before, &now], mode, round, &mut times)?;
        }
        let mode = match mode {
            "shared" => "multi-writer",
            _ => mode,
        };
        for ((what, ..), times) in VERBS.iter().zip(&times) {
            let [older, newer] = &times.processor;
            let ratio_of_walls = ratio(&times.wall[1], &times.wall[0]).median;
            let ratio = ratio(newer, older);
            let figure = |of: &str, sample| Figure::new(of, Unit::Time, sample);
            report.push(
                Row::new(
                    format!("{what}, nobody waits; {mode}, processor time"),
                    figure("lockmgr", newer),
                )
                .with([figure("the older build", older)])
                .ratio(ratio)
                .target(&target, ratio.median <= MOST)
                .note(format!("wall time: {ratio_of_walls:.2} ×")),
            );
        }
    }
    Ok(())
}

/// Starts a new process of each build, as two processes of one build differ too.
fn pair(
    lab: &Lab,
    programs: [&Path; 2],
    mode: &str,
    round: usize,
    times: &mut [Times],
) -> Result<()> {
    let dirs = [lab.new_dir()?, lab.new_dir()?];
    let start = |which: usize| {
        let mut command = Command::new(programs[which]);
        command.arg(dirs[which].path().join("lockmgr.redb"));
        command.arg(mode);
        Child::start(command).with_context(|| format!("{}", programs[which].display()))
    };
    let mut children = [start(0)?, start(1)?];
    for ((_, verb, factor), times) in VERBS.iter().zip(times) {
        let calls = lab.scale.waiting.calls.div_ceil(3) * factor;
        let mut of_pair = <[[Sample; 2]; 2]>::default();
        for stretch in 0..=STRETCHES {
            for which in turns(2, round + stretch) {
                let (processor, wall) = stretch_of(&mut children[which], verb, calls)?;
                // The first round warms up.
                if stretch > 0 {
                    of_pair[0][which].0.push(processor);
                    of_pair[1][which].0.push(wall);
                }
            }
        }
        for which in 0..2 {
            let [processor, wall] = &of_pair;
            times.processor[which].0.push(processor[which].median());
            times.wall[which].0.push(wall[which].median());
        }
    }
    Ok(())
}

/// Returns the processor and wall time of a call.
fn stretch_of(child: &mut Child, verb: &str, calls: usize) -> Result<(f64, f64)> {
    let id = [child.id()];
    let before = processor::of_processes(&id)?;
    child.tell(&format!("{verb} {calls}"))?;
    let nanos: f64 = child.answer()?.parse()?;
    // The process sleeps again by then, so that its time is exact.
    std::thread::sleep(std::time::Duration::from_millis(1));
    let used = processor::of_processes(&id)? - before;
    if verb == "set_lock" {
        child.tell("clean 1")?;
        child.answer()?;
    }
    let calls = calls as f64;
    Ok((used / calls, nanos / 1e3 / calls))
}
