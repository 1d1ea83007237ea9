//! Measures the time from the end of a holder in another container to the next holder.

use super::queue::Place;
use crate::args::Waiter;
use crate::child::Child;
use crate::lab::Lab;
use crate::report::{Figure, Report, Row, Unit};
use crate::rows::count;
use crate::stats::{Sample, turns};
use crate::worker::now;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// The median and the slowest time, in microseconds.
const MEDIAN: f64 = 50e3;
const SLOWEST: f64 = 1e6;

/// The command that makes a container: its own process ids, and a `/proc` of them.
const PID: &[&str] = &["--pid", "--fork", "--kill-child", "--mount-proc"];
const PID_AND_NET: &[&str] = &["--pid", "--fork", "--kill-child", "--mount-proc", "--net"];

pub(super) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let scale = lab.scale.waiting;
    let cases = [
        (Waiter::Lockmgr, PID),
        (Waiter::Lockmgr, PID_AND_NET),
        (Waiter::Flock, PID),
    ];
    let what = format!(
        "a holder killed in another pid namespace, to the next holder, {} kills",
        count(scale.kills)
    );
    let target = "≤ 50 ms, the slowest ≤ 1 s";
    if let Err(error) = try_unshare(PID_AND_NET) {
        report.push(Row::skipped(what, target, &format!("{error:#}")));
        return Ok(());
    }
    lab.say(&what);
    let mut samples = <[Sample; 3]>::default();
    for batch in 0..scale.kills.div_ceil(scale.kills_together) {
        for which in turns(cases.len(), batch) {
            let (waiter, unshare) = cases[which];
            let pairs = pairs(lab, waiter, unshare)?;
            kill(pairs, &mut samples[which])?;
        }
    }
    lab.say("holders killed after a long wait");
    let mut late = Sample::default();
    let pairs = pairs(lab, Waiter::Lockmgr, PID)?;
    thread::sleep(scale.late);
    kill(pairs, &mut late)?;

    let [pid, net, flock] = &samples;
    let row = |what: String, sample: &Sample| {
        let slowest = sample.max();
        Row::new(what, Figure::new("lockmgr", Unit::Time, sample))
            .with([Figure::one("the slowest", Unit::Time, slowest)])
            .target(target, sample.median() <= MEDIAN && slowest <= SLOWEST)
    };
    let flock = [
        Figure::new("flock(2)", Unit::Time, flock),
        Figure::one("flock(2), the slowest", Unit::Time, flock.max()),
    ];
    report.push(row(what.clone(), pid).with(flock));
    report.push(row(
        what.replace("pid namespace", "pid and network namespace"),
        net,
    ));
    report.push(row(
        format!(
            "the same, {} kills, after the next holder has waited for {} s",
            count(late.0.len()),
            scale.late.as_secs_f64()
        ),
        &late,
    ));
    Ok(())
}

fn try_unshare(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(arguments).arg("true");
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let status = command.status().context("no command `unshare`")?;
    anyhow::ensure!(status.success(), "other namespaces need root");
    Ok(())
}

/// A holder in its own container, and a process that waits for its lock outside.
struct Pair {
    holder: Child,
    waiter: Child,
    _place: Place,
}

fn pairs(lab: &Lab, waiter: Waiter, unshare: &[&str]) -> Result<Vec<Pair>> {
    let pair = |_| pair(lab, waiter, unshare);
    (0..lab.scale.waiting.kills_together).map(pair).collect()
}

fn pair(lab: &Lab, waiter: Waiter, unshare: &[&str]) -> Result<Pair> {
    let place = Place::new(lab, waiter)?;
    let mut command = Command::new("unshare");
    command.args(unshare).arg(std::env::current_exe()?);
    command.args(place.arguments().map(AsRef::as_ref));
    // Where it complains that its child was killed. The worker tells its failures in its answers.
    command.stderr(Stdio::null());
    let mut holder = Child::start(command)?;
    holder.tell("keep")?;
    holder.turn()?;
    let mut waiter = Child::worker(&place.arguments())?;
    waiter.tell("pass")?;
    place.until_waiting(1)?;
    Ok(Pair {
        holder,
        waiter,
        _place: place,
    })
}

/// Measures pairs one after the other. Each pair has its own store.
fn kill(pairs: Vec<Pair>, sample: &mut Sample) -> Result<()> {
    for (turn, mut pair) in pairs.into_iter().enumerate() {
        // Steps of the golden section fill the time between two looks of a waiter evenly.
        let share = (0.2 + 0.618 * turn as f64).fract();
        thread::sleep(Duration::from_millis(100).mul_f64(share));
        let holder = child_of(pair.holder.id())?;
        let killed = now();
        kill_process(holder, Signal::KILL)?;
        sample.0.push(pair.waiter.turn()?.granted - killed);
    }
    Ok(())
}

/// Returns the process that `unshare` started.
fn child_of(process: u32) -> Result<Pid> {
    let path = format!("/proc/{process}/task/{process}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let child = children.split_whitespace().next();
    let child = child.with_context(|| format!("{process} has no child"))?;
    Pid::from_raw(child.parse()?).context("a process without a number")
}
