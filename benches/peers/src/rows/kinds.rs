//! Measures a name that many hold: shared, and by slots.

use super::command::MANIFEST;
use super::command::built;
use crate::lab::Lab;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::{Kind, Mode};
use crate::report::{Figure, Report, Row, Unit};
use crate::stats::{Sample, interleave, micros, ratio, timed, turns};
use anyhow::{Context, Result, ensure};
use lockmgr::{GetOptions, LockManager};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The number of holders that share the name already.
const MANY: usize = 1_000;

/// The processes that ask for a slot at once, and the number of slots.
const ASKING: usize = 64;
const SLOTS: &str = "4";

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    shared(lab, report)?;
    slots(lab, report)
}

fn shared(lab: &Lab, report: &mut Report) -> Result<()> {
    lab.say("names that many share");
    let stores = [lab.new_dir()?, lab.new_dir()?];
    let mut managers = Vec::new();
    for (dir, holders) in stores.iter().zip([1, MANY]) {
        let manager = Lockmgr::open(&Kind::Lockmgr.file(dir.path()), Mode::Shared)?.manager;
        for _ in 0..holders {
            manager.get_lock(
                "x",
                GetOptions::new().shared().timeout(lockmgr::Timeout::Never),
            )?;
        }
        managers.push(manager);
    }
    let samples = interleave(
        lab.scale.rounds,
        &mut managers,
        |manager: &mut LockManager, _| {
            timed(|| {
                let lock = manager.get_lock("x", GetOptions::new().shared())?;
                manager.unlock(&lock)?;
                Ok(())
            })
        },
    )?;
    report.push(
        Row::new(
            "a name that 1,000 share: one more takes and releases it",
            Figure::new("lockmgr", Unit::Time, &samples[1]),
        )
        .with([Figure::new("that one shares", Unit::Time, &samples[0])])
        .ratio(ratio(&samples[1], &samples[0]))
        .target(
            "≤ 2 × that one shares",
            samples[1].median() <= 2.0 * samples[0].median(),
        ),
    );
    Ok(())
}

fn slots(lab: &Lab, report: &mut Report) -> Result<()> {
    let what = "64 processes ask for 4 slots at once, and hold one for 10 ms each";
    let is_there = Command::new("sem")
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    if !is_there.is_ok_and(|said| said.stdout.starts_with(b"GNU")) {
        report.push(Row::skipped(what, "", "there is no sem, of GNU parallel"));
        return Ok(());
    }
    lab.say("slots, lockmgr and sem");
    let bin = match lab.bin() {
        Some(bin) => bin.to_owned(),
        None => built(MANIFEST, "lockmgr")?,
    };
    let dir = lab.new_dir()?;
    let mut wall = <[Sample; 2]>::default();
    let mut processor = <[Sample; 2]>::default();
    for round in 0..lab.scale.repeats {
        for which in turns(2, round) {
            let before = processor_time()?;
            let took = timed(|| all_at_once(|| job(which, &bin, dir.path())))?;
            wall[which].0.push(micros(took));
            processor[which].0.push(processor_time()? - before);
        }
    }
    for (kind, [ours, sem]) in [("wall time", wall), ("processor time", processor)] {
        report.push(
            Row::new(
                format!("{what}: {kind}"),
                Figure::new("lockmgr", Unit::Time, &ours),
            )
            .with([Figure::new("sem -j4", Unit::Time, &sem)])
            .ratio(ratio(&ours, &sem)),
        );
    }
    Ok(())
}

fn job(which: usize, bin: &Path, dir: &Path) -> Command {
    let mut command = match which {
        0 => {
            let mut ours = Command::new(bin);
            ours.arg("--db").arg(dir.join("locks.redb"));
            ours.args(["run", "--slots", SLOTS, "cc", "--"]);
            ours
        }
        _ => {
            let mut sem = Command::new("sem");
            sem.env("HOME", dir)
                .args(["--fg", "--id", "cc", "-j", SLOTS]);
            sem
        }
    };
    command.args(["sleep", "0.01"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn all_at_once(mut command: impl FnMut() -> Command) -> Result<()> {
    let started = (0..ASKING).map(|_| command().spawn());
    let children = started.collect::<std::io::Result<Vec<Child>>>()?;
    for mut child in children {
        let status = child.wait()?;
        ensure!(status.success(), "{status}");
    }
    Ok(())
}

/// Returns the processor time of ended children and of theirs, in microseconds.
fn processor_time() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat
        .rsplit_once(')')
        .context("no name in /proc/self/stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: f64 = fields[13].parse::<f64>()? + fields[14].parse::<f64>()?;
    // A tick is a hundredth of a second, on every Linux that Rust knows.
    Ok(ticks * 10_000.0)
}
