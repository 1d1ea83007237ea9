//! Measures processes that all ask for one lock at once, and wait for ever.

use super::beside::write;
use super::queue::Queue;
use crate::args::Waiter;
use crate::child::Child;
use crate::lab::Lab;
use crate::names;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::{Kind, Mode};
use crate::processor::Meter;
use crate::report::{Figure, Report, Row, Unit};
use crate::rows::count;
use crate::stats::{Sample, ratio, turns};
use anyhow::Result;

/// The longest call, in microseconds.
const LONGEST: f64 = 10e6;

/// The result of a storm.
#[derive(Default)]
struct Storm {
    /// The time from each call to its lock, in microseconds.
    calls: Sample,
    errors: Vec<String>,
}

pub(super) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let processes = lab.scale.waiting.storm;
    let what = format!(
        "{} processes ask for one lock at once, for ever",
        count(processes)
    );
    lab.say(&what);
    let mut queue = Queue::new(lab, Waiter::Lockmgr, processes)?;
    let mut ours = Storm::default();
    ask_at_once(&mut queue, &mut ours)?;
    // Those calls also last as long as the holder keeps the lock.
    let mut held = Storm::default();
    let queued = ask_a_holder(lab, &mut queue, &mut held)?;
    ours.errors.append(&mut held.errors);
    let [beside, alone] = writes(lab, &mut queue)?;
    drop(queue);
    lab.say("the same, flock(2)");
    let mut flock = Storm::default();
    ask_at_once(&mut Queue::new(lab, Waiter::Flock, processes)?, &mut flock)?;
    for error in ours.errors.iter().chain(&flock.errors).take(3) {
        lab.say(error);
    }

    let failed = |storm: &Storm| storm.errors.len() as f64;
    report.push(
        Row::new(
            format!("{what}: how many fail, of two storms"),
            Figure::one("lockmgr", Unit::Plain, failed(&ours)),
        )
        .with([Figure::one("flock(2)", Unit::Plain, failed(&flock))])
        .target("none", ours.errors.is_empty()),
    );
    let longest = ours.calls.max();
    let figure = |of: &str, value| Figure::one(of, Unit::Time, value);
    report.push(
        Row::new(
            format!("{what}: the longest call"),
            figure("lockmgr", longest),
        )
        .with([
            figure("the median call", ours.calls.median()),
            figure("until all wait for a holder", queued),
            figure("flock(2)", flock.calls.max()),
        ])
        .note("a call ends with the lock, after all those before it")
        .target("≤ 10 s", longest <= LONGEST),
    );
    let [bare_beside, bare_alone] = bare_writes(lab, processes)?;
    let ratio_of_bare = ratio(&bare_beside, &bare_alone).median;
    let figure = |of: &str, sample: &Sample| Figure::new(of, Unit::Time, sample);
    report.push(
        Row::new(
            format!(
                "`set_lock`, one new name, processor time of all, while {} processes wait for \
                 another name",
                count(processes)
            ),
            figure("lockmgr", &beside),
        )
        .with([
            figure("nobody waits", &alone),
            figure("bare redb, as many have the store open", &bare_beside),
            figure("bare redb, nobody else", &bare_alone),
        ])
        .ratio(ratio(&beside, &alone))
        .note(format!("bare redb: {ratio_of_bare:.2} ×")),
    );
    Ok(())
}

/// Measures a lock that is free at first, and that each holder releases at once.
fn ask_at_once(queue: &mut Queue, storm: &mut Storm) -> Result<()> {
    queue.tell_all("pass")?;
    storm.listen(queue)
}

/// Returns the microseconds until all wait behind a holder, which then releases the lock.
fn ask_a_holder(lab: &Lab, queue: &mut Queue, storm: &mut Storm) -> Result<f64> {
    let release = queue.place.hold()?;
    let asked = crate::worker::now();
    queue.tell_all("pass")?;
    queue.place.until_waiting(queue.workers.len())?;
    let queued = crate::worker::now() - asked;
    lab.say("all wait");
    release()?;
    storm.listen(queue)?;
    Ok(queued)
}

impl Storm {
    fn listen(&mut self, queue: &mut Queue) -> Result<()> {
        for worker in &mut queue.workers {
            match worker.outcome()? {
                Ok(turn) => self.calls.0.push(turn.granted - turn.asked),
                Err(error) => self.errors.push(error),
            }
        }
        Ok(())
    }
}

/// Measures writes to a store in which all wait for another name, and to one without waiters.
fn writes(lab: &Lab, queue: &mut Queue) -> Result<[Sample; 2]> {
    let scale = lab.scale.waiting;
    let release = queue.place.hold()?;
    queue.tell_all("pass")?;
    queue.place.until_waiting(queue.workers.len())?;
    let dir = lab.new_dir()?;
    let mut peers = [
        Lockmgr::open(queue.place.file(), Mode::Shared)?,
        Lockmgr::open(&Kind::Lockmgr.file(dir.path()), Mode::Shared)?,
    ];
    let others = [queue.ids.as_slice(), &[]];
    let mut samples = <[Sample; 2]>::default();
    for round in 0..scale.rounds.div_ceil(2) {
        for which in turns(2, round) {
            let calls = scale.calls.div_ceil(5);
            let (processor, _) = write(&mut peers[which], others[which], round, calls)?;
            samples[which].0.push(processor);
        }
    }
    // The waiters end before the lock is free.
    queue.end();
    release()?;
    Ok(samples)
}

/// Measures writes of bare redb while as many idle processes have the store open.
fn bare_writes(lab: &Lab, processes: usize) -> Result<[Sample; 2]> {
    lab.say("bare redb beside as many");
    let scale = lab.scale.waiting;
    let stores = [lab.new_stores(1, 1)?, lab.new_stores(1, 1)?];
    let workers = Child::workers(processes, &[&"open", &stores[0].path()])?;
    let ids: Vec<u32> = workers.iter().map(Child::id).collect();
    let mut peers = Vec::new();
    for store in &stores {
        peers.push(Kind::Redb.open(store.path(), Mode::Shared)?);
    }
    let others = [ids.as_slice(), &[]];
    let mut samples = <[Sample; 2]>::default();
    for round in 0..scale.rounds.div_ceil(2) {
        for which in turns(2, round) {
            let calls = scale.calls.div_ceil(5);
            let names = names::new(round, calls);
            let meter = Meter::start(others[which])?;
            for name in &names {
                peers[which].set(std::slice::from_ref(name))?;
            }
            samples[which].0.push(meter.stop()? / calls as f64);
            peers[which].remove(&names)?;
        }
    }
    Ok(samples)
}
