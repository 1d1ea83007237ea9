//! Measures idle waiting processes.

use super::queue::Queue;
use crate::args::Waiter;
use crate::lab::Lab;
use crate::processor;
use crate::report::{Figure, Report, Row, Unit};
use crate::rows::count;
use anyhow::Result;
use std::thread;
use std::time::Duration;

/// The percent of a core.
const MOST: f64 = 2.0;

pub(super) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let processes = lab.scale.waiting.idle;
    let ours = percent(lab, Waiter::Lockmgr)?;
    let flock = percent(lab, Waiter::Flock)?;
    report.push(
        Row::new(
            format!(
                "{} idle waiting processes, percent of a core together",
                count(processes)
            ),
            Figure::one("lockmgr", Unit::Plain, ours),
        )
        .with([Figure::one("flock(2)", Unit::Plain, flock)])
        .target("≤ 2", ours <= MOST)
        .note(format!(
            "over {} s",
            lab.scale.waiting.idle_window.as_secs_f64()
        )),
    );
    Ok(())
}

fn percent(lab: &Lab, waiter: Waiter) -> Result<f64> {
    let scale = lab.scale.waiting;
    lab.say(&format!("idle waiting processes, {waiter:?}"));
    let mut queue = Queue::new(lab, waiter, scale.idle)?;
    let release = queue.place.hold()?;
    queue.tell_all("pass")?;
    queue.place.until_waiting(scale.idle)?;
    // Waits until the last process sleeps.
    thread::sleep(scale.idle_window.min(Duration::from_secs(1)));
    let used = processor::while_asleep(&queue.ids, scale.idle_window)?;
    // The waiters end before the lock is free.
    queue.end();
    release()?;
    Ok(used)
}
