//! Defines the command line, and the amount of work of a run.

use crate::peers::{Kind, Mode};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Measures lockmgr beside its peers and writes a table, JSON and plots.
#[derive(Parser, Debug)]
#[command(name = "peers")]
pub(crate) struct Args {
    /// Run everything once, with tiny counts: this checks that it works, not how fast.
    #[arg(long)]
    pub(crate) quick: bool,
    /// The directory of the results [default: results/ beside this package; with --quick none].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// The directory of the stores, on the disk to measure [default: that for temporary files].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Measure only this group of rows (may be repeated; a wrong name lists the groups).
    #[arg(long, value_name = "GROUP")]
    pub(crate) only: Vec<String>,
    /// The command `lockmgr`, built for release [default: build it].
    #[arg(long, value_name = "PATH")]
    pub(crate) bin: Option<PathBuf>,
    /// A Python environment that has django-lockmgr and filelock [default: create one].
    #[arg(long, value_name = "DIR")]
    pub(crate) venv: Option<PathBuf>,
    /// The program `verbs` of an older checkout, for a comparison with this one (see the README).
    #[arg(long, value_name = "PATH")]
    pub(crate) before: Option<PathBuf>,
    /// Leave the peers from PyPI out. --quick without --venv does the same, and needs no network.
    #[arg(long)]
    pub(crate) no_python: bool,
    /// The work of this program if it has started itself as a worker.
    #[command(subcommand)]
    pub(crate) worker: Option<Worker>,
}

/// A second process of a measurement. It prints `ready`, and reads from its standard input what to
/// do and when to end.
#[derive(Subcommand, Debug)]
#[command(hide = true)]
pub(crate) enum Worker {
    /// Takes one new lock after the other, from the first line of input to the end of the input.
    #[command(hide = true)]
    Write {
        kind: Kind,
        dir: PathBuf,
        id: u64,
        days: u32,
    },
    /// For each line of input, waits for the lock `x`, and prints when it got the lock. After
    /// `pass` it releases the lock at once, after `keep` with the next line.
    #[command(hide = true)]
    Wait { waiter: Waiter, file: PathBuf },
    /// Waits in as many threads for as many names, each thread for its own. So many ask at once.
    #[command(hide = true)]
    Crowd {
        file: PathBuf,
        prefix: String,
        count: usize,
        at_once: usize,
    },
    /// Keeps a store of bare redb open.
    #[command(hide = true)]
    Open { dir: PathBuf },
    /// Works on a large store, and prints how much memory it uses then.
    #[command(hide = true)]
    Resident {
        kind: Kind,
        mode: Mode,
        dir: PathBuf,
        rows: usize,
        calls: usize,
    },
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub(crate) enum Waiter {
    Lockmgr,
    Flock,
}

/// The amount of work of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// The rows of a small store, and of a large one.
    pub(crate) few: usize,
    pub(crate) many: usize,
    /// Rounds of work that takes less than a few milliseconds, and of work that takes more.
    pub(crate) rounds: usize,
    pub(crate) heavy_rounds: usize,
    /// Repetitions of work that takes seconds.
    pub(crate) repeats: usize,
    /// The time during which threads and processes compete.
    pub(crate) window: Duration,
    /// Rows of a store in which the bytes of each row count.
    pub(crate) filed: usize,
    pub(crate) waiting: Waiting,
}

/// The numbers of waiters, and of repetitions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Requests of at most four processes.
    pub(crate) requests: [usize; 3],
    /// Processes with one request each.
    pub(crate) processes: [usize; 2],
    /// Rounds, and calls of each round.
    pub(crate) rounds: usize,
    pub(crate) calls: usize,
    /// Processes that wait behind a hand-over, and hand-overs in a row.
    pub(crate) behind: [usize; 3],
    pub(crate) in_a_row: usize,
    /// Processes that ask at once.
    pub(crate) storm: usize,
    /// Processes that are idle, and the time that they are watched.
    pub(crate) idle: usize,
    pub(crate) idle_window: Duration,
    pub(crate) threads: usize,
    /// Killed holders, the number of them started together, and the time that their waiters waited.
    pub(crate) kills: usize,
    pub(crate) kills_together: usize,
    pub(crate) late: Duration,
    /// Pairs of a run of an older build and of this one.
    pub(crate) pairs: usize,
}

impl Scale {
    pub(crate) fn full() -> Self {
        Self {
            few: 1_000,
            many: 1_000_000,
            rounds: 600,
            heavy_rounds: 40,
            repeats: 5,
            window: Duration::from_millis(1500),
            filed: 20_000,
            waiting: Waiting {
                requests: [100, 1_000, 10_000],
                processes: [10, 100],
                rounds: 20,
                calls: 100,
                behind: [20, 100, 500],
                in_a_row: 20,
                storm: 1_000,
                idle: 400,
                idle_window: Duration::from_secs(6),
                threads: 1_000,
                kills: 100,
                kills_together: 25,
                late: Duration::from_millis(10_500),
                pairs: 20,
            },
        }
    }

    pub(crate) fn quick() -> Self {
        Self {
            few: 20,
            many: 500,
            rounds: 3,
            heavy_rounds: 2,
            repeats: 1,
            window: Duration::from_millis(100),
            filed: 100,
            waiting: Waiting {
                requests: [4, 8, 16],
                processes: [2, 4],
                rounds: 2,
                calls: 5,
                behind: [3, 6, 9],
                in_a_row: 2,
                storm: 10,
                idle: 4,
                idle_window: Duration::from_millis(300),
                threads: 10,
                kills: 2,
                kills_together: 2,
                late: Duration::from_millis(100),
                pairs: 2,
            },
        }
    }

    /// Sizes of a store, from one lock to many.
    pub(crate) fn sizes(&self) -> [usize; 4] {
        [1, self.few, self.many / 10, self.many]
    }
}
