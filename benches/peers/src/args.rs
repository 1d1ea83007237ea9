//! The command line, and how much of everything a run does.

use crate::peers::{Kind, Mode};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Measures lockmgr beside its peers and writes a table, JSON and plots.
#[derive(Parser, Debug)]
#[command(name = "peers")]
pub(crate) struct Args {
    /// Run everything once, with tiny counts: whether it works, not how fast.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where the results go [default: results/ beside this package; with --quick nowhere].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// The disk to measure: where the stores lie [default: the directory for temporary files].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Only this group of rows (may be repeated; a wrong one lists them).
    #[arg(long, value_name = "GROUP")]
    pub(crate) only: Vec<String>,
    /// The command `lockmgr`, built for release [default: build it].
    #[arg(long, value_name = "PATH")]
    pub(crate) bin: Option<PathBuf>,
    /// A Python environment that has django-lockmgr and filelock [default: make one].
    #[arg(long, value_name = "DIR")]
    pub(crate) venv: Option<PathBuf>,
    /// Leave the peers from PyPI out. So does --quick, which needs no network, without --venv.
    #[arg(long)]
    pub(crate) no_python: bool,
    /// What this program starts itself as.
    #[command(subcommand)]
    pub(crate) worker: Option<Worker>,
}

/// A second process of a measurement. It prints `ready` and is told by its standard input what to
/// do and when to end.
#[derive(Subcommand, Debug)]
#[command(hide = true)]
pub(crate) enum Worker {
    /// Takes one new lock after the other, from the first line of input to its end.
    #[command(hide = true)]
    Write {
        kind: Kind,
        dir: PathBuf,
        id: u64,
        days: u32,
    },
    /// For each line of input waits for the lock `x`, and says when it had it.
    #[command(hide = true)]
    Wait { waiter: Waiter, file: PathBuf },
    /// Works on a large store, and says how much memory it has then.
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

/// How much of everything a run does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// The rows of a small store, and of a large one.
    pub(crate) few: usize,
    pub(crate) many: usize,
    /// Rounds of what costs less than a few milliseconds, and of what costs more.
    pub(crate) rounds: usize,
    pub(crate) heavy_rounds: usize,
    /// Repetitions of what takes seconds.
    pub(crate) repeats: usize,
    /// How long threads and processes compete.
    pub(crate) window: Duration,
    /// Rows of a store of which each one's bytes count.
    pub(crate) filed: usize,
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
        }
    }

    /// Sizes of a store, from one lock to many.
    pub(crate) fn sizes(&self) -> [usize; 4] {
        [1, self.few, self.many / 10, self.many]
    }
}
