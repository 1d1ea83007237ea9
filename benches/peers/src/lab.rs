//! Keeps the measured files: directories of stores with the same rows for each peer.

use crate::args::{Args, Scale};
use crate::names;
use crate::peers::lockmgr::{self, Lockmgr};
use crate::peers::python::Venv;
use crate::peers::redb::{Redb, row_of_lockmgr};
use crate::peers::sqlite::Sqlite;
use crate::peers::{Kind, Mode, Peer};
use anyhow::{Context, Result};
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;
use tempfile::TempDir;

/// Rows written in one transaction while a store is filled.
pub(crate) const BATCH: usize = 50_000;

pub(crate) struct Lab {
    pub(crate) scale: Scale,
    scratch: TempDir,
    began: Instant,
    /// The stores, by their number of rows.
    stores: RefCell<BTreeMap<usize, Rc<Stores>>>,
    bin: Option<PathBuf>,
    before: Option<PathBuf>,
    /// The environment with the peers from PyPI, or the reason why there is none.
    venv: OnceCell<Result<Venv, String>>,
}

/// A directory with the stores of all peers, closed. Drop removes the directory.
#[derive(Debug)]
pub(crate) struct Stores {
    pub(crate) dir: TempDir,
    pub(crate) rows: usize,
    /// Bytes of each file of [`Kind::ALL`], closed and as it was built.
    pub(crate) bytes: [u64; 3],
}

impl Lab {
    pub(crate) fn new(args: &Args) -> Result<Self> {
        let scratch = match &args.dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        };
        Ok(Self {
            scale: if args.quick {
                Scale::quick()
            } else {
                Scale::full()
            },
            scratch: scratch.context("no directory for the stores")?,
            began: Instant::now(),
            stores: RefCell::default(),
            bin: args.bin.clone(),
            before: args.before.clone(),
            venv: match given_venv(args)? {
                Some(venv) => OnceCell::from(venv),
                None => OnceCell::new(),
            },
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// The command, if it was given.
    pub(crate) fn bin(&self) -> Option<&Path> {
        self.bin.as_deref()
    }

    /// The program `verbs` of an older checkout, if it was given.
    pub(crate) fn before(&self) -> Option<&Path> {
        self.before.as_deref()
    }

    pub(crate) fn say(&self, what: &str) {
        eprintln!("[{:4} s] {what}", self.began.elapsed().as_secs());
    }

    /// Creates a new empty directory on the measured disk.
    pub(crate) fn new_dir(&self) -> Result<TempDir> {
        Ok(tempfile::tempdir_in(self.dir())?)
    }

    /// Returns stores of so many rows: the same ones for all callers that leave them unchanged.
    pub(crate) fn stores(&self, rows: usize) -> Result<Rc<Stores>> {
        if let Some(stores) = self.stores.borrow().get(&rows) {
            return Ok(Rc::clone(stores));
        }
        let stores = Rc::new(self.new_stores(rows, BATCH)?);
        self.stores.borrow_mut().insert(rows, Rc::clone(&stores));
        Ok(stores)
    }

    /// Creates new stores of so many rows, so many of them written in a transaction.
    pub(crate) fn new_stores(&self, rows: usize, batch: usize) -> Result<Stores> {
        if rows >= 100_000 {
            self.say(&format!("filling stores with {rows} rows"));
        }
        let dir = self.new_dir()?;
        let fill = |peer: &mut dyn Peer| fill(peer, rows, batch);
        let file = |kind: Kind| kind.file(dir.path());

        fill(&mut Lockmgr::open(&file(Kind::Lockmgr), Mode::Exclusive)?)?;
        let row = row_of_lockmgr(&file(Kind::Lockmgr))?;
        fill(&mut Redb::create(&file(Kind::Redb), row)?)?;
        fill(&mut Sqlite::open(&file(Kind::Sqlite), Mode::Exclusive)?)?;
        let mut bytes = [0; 3];
        for (bytes, kind) in bytes.iter_mut().zip(Kind::ALL) {
            *bytes = fs::metadata(file(kind))?.len();
        }
        Ok(Stores { dir, rows, bytes })
    }

    /// Returns the environment with the peers from PyPI, or the reason why there is none.
    pub(crate) fn venv(&self) -> Result<&Venv, &str> {
        let venv = self.venv.get_or_init(|| {
            self.say("making an environment with the peers from PyPI");
            Venv::make(&self.dir().join("venv")).map_err(|error| format!("{error:#}"))
        });
        venv.as_ref().map_err(String::as_str)
    }
}

/// Returns the environment that the options name, or the reason for none. `None` means: create one.
fn given_venv(args: &Args) -> Result<Option<Result<Venv, String>>> {
    Ok(match &args.venv {
        _ if args.no_python => Some(Err("left out by --no-python".to_owned())),
        Some(dir) => Some(Ok(Venv::existing(dir)?)),
        None if args.quick => Some(Err(
            "left out of a quick run, which needs no network".to_owned()
        )),
        None => None,
    })
}

/// Takes the first so many of the names that are present.
pub(crate) fn fill(peer: &mut dyn Peer, rows: usize, batch: usize) -> Result<()> {
    for first in (0..rows).step_by(batch) {
        let batch = first..(first + batch).min(rows);
        let names: Vec<String> = batch.map(names::present).collect();
        peer.set(&names)?;
    }
    Ok(())
}

impl Stores {
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Opens all peers in this mode, in the order of [`Kind::ALL`].
    pub(crate) fn open(&self, mode: Mode) -> Result<Vec<Box<dyn Peer>>> {
        let open = |kind: Kind| kind.open(self.path(), mode);
        Kind::ALL.into_iter().map(open).collect()
    }

    /// Returns the name of an existing lock, another one each time.
    pub(crate) fn some_name(&self, turn: usize) -> String {
        names::present(names::random(turn, self.rows))
    }
}

/// A store of expired rows needs a clock that its filler turns back.
pub(crate) fn builder_with(clock: ::lockmgr::ManualClock) -> ::lockmgr::Builder {
    lockmgr::builder(Mode::Shared).clock(clock)
}
