//! Measures one `set_lock` while requests wait for other names.

use crate::child::Child;
use crate::lab::Lab;
use crate::names;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::{Kind, Mode, Peer};
use crate::plot::{Chart, Data, Line};
use crate::processor::{self, Meter};
use crate::report::{Figure, Report, Row, Unit};
use crate::rows::{count, locks};
use crate::stats::{Sample, micros, ratio, turns};
use anyhow::Result;
use lockmgr::LockGuard;
use std::time::Instant;
use tempfile::TempDir;

/// The largest number of processes that many requests come from.
const PROCESSES: usize = 4;

/// The threads of a process that ask at once: few, so that they do not delay each other.
const AT_ONCE: &str = "16";

/// The waiters in a store while this process writes to it.
struct Crowd {
    /// Requests, and the processes that they come from.
    requests: usize,
    processes: usize,
    peer: Lockmgr,
    ids: Vec<u32>,
    processor: Sample,
    wall: Sample,
    _workers: Vec<Child>,
    /// Every name that the requests wait for.
    _held: Option<LockGuard>,
    _dir: TempDir,
}

pub(super) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let scale = lab.scale.waiting;
    let mut crowds = vec![Crowd::of_locks(lab, 0)?];
    for requests in scale.requests {
        crowds.push(Crowd::new(lab, PROCESSES, requests)?);
    }
    for processes in scale.processes {
        crowds.push(Crowd::new(lab, processes, processes)?);
    }
    let most = scale.requests[scale.requests.len() - 1];
    crowds.push(Crowd::of_locks(lab, most)?);

    lab.say("writes beside them");
    let one_write = |crowd: &mut Crowd, round| -> Result<()> {
        let (processor, wall) = write(&mut crowd.peer, &crowd.ids, round, scale.calls)?;
        crowd.processor.0.push(processor);
        crowd.wall.0.push(wall);
        Ok(())
    };
    // The first round warms up.
    for round in 0..=scale.rounds {
        for which in turns(crowds.len(), round) {
            one_write(&mut crowds[which], round)?;
            if round == 0 {
                crowds[which].processor.0.clear();
                crowds[which].wall.0.clear();
            }
        }
    }
    let [alone, .., of_locks] = crowds.as_slice() else {
        unreachable!("nobody waits in the first and the last one")
    };
    let of_requests = &crowds[1..=scale.requests.len()];
    let of_processes = &crowds[1 + scale.requests.len()..crowds.len() - 1];
    for (crowd, most) in [
        (&of_requests[1], 1.3),
        (&of_requests[2], 2.2),
        (&of_processes[1], 1.5),
    ] {
        report.push(row(crowd, alone, of_locks, most));
    }
    plot(report, alone, of_requests, of_processes);
    idle(lab, report, of_requests)
}

/// Measures idle requests, each of which waits for its own name.
fn idle(lab: &Lab, report: &mut Report, crowds: &[Crowd]) -> Result<()> {
    let window = lab.scale.waiting.idle_window;
    for crowd in crowds.iter().skip(1) {
        let used = processor::while_asleep(&crowd.ids, window)?;
        report.push(
            Row::new(
                format!(
                    "{} idle requests of {} processes, percent of a core together",
                    count(crowd.requests),
                    crowd.processes
                ),
                Figure::one("lockmgr", Unit::Plain, used),
            )
            .note("each waits for a name of its own"),
        );
    }
    Ok(())
}

/// Returns the processor time of all processes and the wall time of one `set_lock` of one new name,
/// in microseconds. The call's locks are removed again.
pub(super) fn write(
    peer: &mut Lockmgr,
    others: &[u32],
    round: usize,
    calls: usize,
) -> Result<(f64, f64)> {
    let names = names::new(round, calls);
    let meter = Meter::start(others)?;
    let began = Instant::now();
    for name in &names {
        peer.set(std::slice::from_ref(name))?;
    }
    let wall = micros(began.elapsed());
    let processor = meter.stop()?;
    peer.remove(&names)?;
    Ok((processor / calls as f64, wall / calls as f64))
}

impl Crowd {
    /// So many requests, each for a name of its own, of at most so many processes.
    fn new(lab: &Lab, processes: usize, requests: usize) -> Result<Self> {
        let processes = processes.min(requests);
        lab.say(&format!(
            "{} requests of {processes} processes",
            count(requests)
        ));
        let dir = lab.new_dir()?;
        let store = Kind::Lockmgr.file(dir.path());
        let peer = Lockmgr::open(&store, Mode::Shared)?;
        let each = requests / processes;
        let prefix = |process: usize| format!("w{process}-");
        let names = |process| (0..each).map(move |i| format!("{}{i}", prefix(process)));
        let held = peer.manager.acquire((0..processes).flat_map(names));
        let held = held.try_lock()?;
        let each = each.to_string();
        let mut workers = Vec::new();
        for process in 0..processes {
            let prefix = prefix(process);
            workers.push(Child::worker(&[
                &"crowd", &store, &prefix, &each, &AT_ONCE,
            ])?);
        }
        Ok(Self {
            requests,
            processes,
            peer,
            ids: workers.iter().map(Child::id).collect(),
            processor: Sample::default(),
            wall: Sample::default(),
            _workers: workers,
            _held: Some(held),
            _dir: dir,
        })
    }

    /// Holds as many locks, without waiters.
    fn of_locks(lab: &Lab, locks: usize) -> Result<Self> {
        let dir = lab.new_dir()?;
        let peer = Lockmgr::open(&Kind::Lockmgr.file(dir.path()), Mode::Shared)?;
        let held = match locks {
            0 => None,
            _ => {
                let names = (0..locks).map(|i| format!("w0-{i}"));
                Some(peer.manager.acquire(names).try_lock()?)
            }
        };
        Ok(Self {
            requests: 0,
            processes: 0,
            peer,
            ids: Vec::new(),
            processor: Sample::default(),
            wall: Sample::default(),
            _workers: Vec::new(),
            _held: held,
            _dir: dir,
        })
    }
}

fn row(crowd: &Crowd, alone: &Crowd, of_locks: &Crowd, most: f64) -> Row {
    let who = match crowd.requests == crowd.processes {
        true => format!("{} processes wait", count(crowd.processes)),
        false => format!(
            "{} requests of {} processes wait",
            count(crowd.requests),
            crowd.processes
        ),
    };
    let figure = |of: &str, sample: &Sample| Figure::new(of, Unit::Time, sample);
    let ratio_of_walls = ratio(&crowd.wall, &alone.wall);
    let ratio = ratio(&crowd.processor, &alone.processor);
    let target = format!("≤ {most} × that with none");
    Row::new(
        format!("`set_lock`, one new name, processor time of all, while {who} for other names"),
        figure("lockmgr", &crowd.processor),
    )
    .with([
        figure("nobody waits", &alone.processor),
        figure(
            &format!("nobody waits, {}", held(of_locks)),
            &of_locks.processor,
        ),
        figure("wall time", &crowd.wall),
        figure("wall time, nobody waits", &alone.wall),
    ])
    .ratio(ratio)
    .target(target, ratio.median <= most)
    .note(format!("wall time: {:.2} ×", ratio_of_walls.median))
}

fn held(crowd: &Crowd) -> String {
    let held = crowd._held.as_ref().map_or(0, |guard| guard.locks().len());
    locks(held)
}

fn plot(report: &mut Report, alone: &Crowd, of_requests: &[Crowd], of_processes: &[Crowd]) {
    let line = |name: &str, crowds: &[Crowd]| Line {
        name: name.to_owned(),
        points: crowds
            .iter()
            .map(|crowd| (crowd.requests as f64, crowd.processor.median() / 1e3))
            .collect(),
    };
    let all = || of_requests.iter().chain(of_processes);
    // A logarithmic axis has no zero.
    let mut none = Line {
        name: "nobody waits".to_owned(),
        points: all()
            .map(|crowd| (crowd.requests as f64, alone.processor.median() / 1e3))
            .collect(),
    };
    none.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    report.plot(Chart {
        file: "waiting",
        title: "set_lock, one new name, while others wait for other names".to_owned(),
        x: "requests that wait".to_owned(),
        y: "processor time of all processes, ms".to_owned(),
        data: Data::Lines(vec![
            line("of 4 processes", of_requests),
            line("of a process each", of_processes),
            none,
        ]),
    });
}
