//! Measures hand-overs from process to process, while others wait behind for the same lock.

use super::queue::Queue;
use crate::args::Waiter;
use crate::lab::Lab;
use crate::plot::{Chart, Data, Line};
use crate::processor;
use crate::report::{Figure, Report, Row, Unit};
use crate::rows::count;
use crate::stats::{Sample, ratio, turns};
use anyhow::{Context, Result, ensure};
use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

/// A queue of which the length stays the same: in each round a group hands the lock on from one
/// process to the next, the last of the group keeps it, and the group queues again at the end.
struct Ring {
    queue: Queue,
    /// The worker that keeps the lock.
    keeper: usize,
    /// The workers that wait, in order.
    groups: VecDeque<Group>,
    behind: usize,
    processor: Sample,
    wall: Sample,
}

struct Group {
    passers: Vec<usize>,
    keeper: usize,
}

pub(super) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let ours = rings(lab, Waiter::Lockmgr)?;
    let flock = rings(lab, Waiter::Flock)?;
    for (what, sample) in [
        (
            "processor time of all",
            (|ring| &ring.processor) as fn(&Ring) -> &Sample,
        ),
        ("wall time", |ring| &ring.wall),
    ] {
        report.push(row(what, &ours, &flock, sample));
    }
    plot(report, &ours, &flock);
    Ok(())
}

fn rings(lab: &Lab, waiter: Waiter) -> Result<Vec<Ring>> {
    let scale = lab.scale.waiting;
    let mut rings = Vec::new();
    for behind in scale.behind {
        lab.say(&format!("hand-overs, {waiter:?}, {behind} behind"));
        rings.push(Ring::new(lab, waiter, behind)?);
    }
    for round in 0..=scale.rounds.div_ceil(2) {
        for which in turns(rings.len(), round) {
            let ring = &mut rings[which];
            let (processor, wall) = ring.round()?;
            // The first round warms up.
            if round > 0 {
                ring.processor.0.push(processor);
                ring.wall.0.push(wall);
            }
        }
    }
    Ok(rings)
}

impl Ring {
    fn new(lab: &Lab, waiter: Waiter, behind: usize) -> Result<Self> {
        let group = lab.scale.waiting.in_a_row + 1;
        // The group that gets the lock, and the workers that always wait behind it.
        let groups = 1 + behind.div_ceil(group);
        let mut ring = Self {
            queue: Queue::new(lab, waiter, 1 + groups * group)?,
            keeper: 0,
            groups: VecDeque::new(),
            behind,
            processor: Sample::default(),
            wall: Sample::default(),
        };
        ring.queue.workers[0].tell("keep")?;
        ring.queue.workers[0].turn()?;
        for first in (0..groups).map(|which| 1 + which * group) {
            let keeper = first + group - 1;
            let passers = (first..keeper).collect();
            ring.enqueue(Group { passers, keeper })?;
        }
        Ok(ring)
    }

    fn enqueue(&mut self, group: Group) -> Result<()> {
        let before: usize = self.groups.iter().map(Group::len).sum();
        for passer in &group.passers {
            self.queue.workers[*passer].tell("pass")?;
        }
        let place = &self.queue.place;
        place.until_waiting(before + group.passers.len())?;
        self.queue.workers[group.keeper].tell("keep")?;
        place.until_waiting(before + group.len())?;
        self.groups.push_back(group);
        Ok(())
    }

    /// Processor time of all of the ring's processes and wall time of one hand-over.
    fn round(&mut self) -> Result<(f64, f64)> {
        let Group { passers, keeper } = self.groups.pop_front().context("nobody waits")?;
        settle();
        let before = processor::of_processes(&self.queue.ids)?;
        let workers = &mut self.queue.workers;
        workers[self.keeper].tell("go")?;
        let released = workers[self.keeper].turn()?.released;
        for passer in &passers {
            workers[*passer].turn()?;
        }
        let granted = workers[keeper].turn()?.granted;
        settle();
        let after = processor::of_processes(&self.queue.ids)?;
        ensure!(granted > released, "a lock was granted before its release");
        let hand_overs = passers.len() as f64 + 1.0;
        // The worker that kept the lock is the last of the group from now on.
        let keeper = std::mem::replace(&mut self.keeper, keeper);
        self.enqueue(Group { passers, keeper })?;
        Ok((
            (after - before) / hand_overs,
            (granted - released) / hand_overs,
        ))
    }
}

impl Group {
    fn len(&self) -> usize {
        self.passers.len() + 1
    }
}

/// Until the processes that answered sleep again, as only then their time is known exactly.
fn settle() {
    thread::sleep(Duration::from_millis(3));
}

fn row(what: &str, ours: &[Ring], flock: &[Ring], sample: fn(&Ring) -> &Sample) -> Row {
    let figure = |of: &str, ring: &Ring| {
        let of = format!("{of}{} behind", count(ring.behind));
        Figure::new(of, Unit::Time, sample(ring))
    };
    let [few, .., many] = ours else {
        unreachable!("there are few and many")
    };
    let ratio = ratio(sample(many), sample(few));
    let mut others: Vec<Figure> = ours[..ours.len() - 1]
        .iter()
        .map(|ring| figure("", ring))
        .collect();
    others.extend(flock.iter().map(|ring| figure("flock(2), ", ring)));
    Row::new(
        format!(
            "a hand-over, {} processes behind, {what}",
            count(many.behind)
        ),
        Figure::new("lockmgr", Unit::Time, sample(many)),
    )
    .with(others)
    .ratio(ratio)
    .target(
        format!("≤ 2 × that with {} behind", count(few.behind)),
        ratio.median <= 2.0,
    )
}

fn plot(report: &mut Report, ours: &[Ring], flock: &[Ring]) {
    let line = |name: &str, rings: &[Ring], sample: fn(&Ring) -> &Sample| Line {
        name: name.to_owned(),
        points: rings
            .iter()
            .map(|ring| (ring.behind as f64, sample(ring).median() / 1e3))
            .collect(),
    };
    report.plot(Chart {
        file: "chain",
        title: "A hand-over, by the processes that wait behind".to_owned(),
        x: "processes that wait behind".to_owned(),
        y: "of one hand-over, ms".to_owned(),
        data: Data::Lines(vec![
            line("lockmgr, wall time", ours, |ring| &ring.wall),
            line("lockmgr, processor", ours, |ring| &ring.processor),
            line("flock(2), wall time", flock, |ring| &ring.wall),
            line("flock(2), processor", flock, |ring| &ring.processor),
        ]),
    });
}
