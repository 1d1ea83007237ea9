//! Describes the place, the time and the versions of a measurement.

use crate::lab::Lab;
use crate::stats::{Sample, micros, timed};
use anyhow::Result;
use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    date: String,
    processor: String,
    cores: usize,
    kernel: String,
    file_system: String,
    /// Microseconds of a `pwrite` of 4 KiB and an `fdatasync` on it.
    sync: f64,
    /// Processes that ran or were ready to run in the minute before.
    load_before: String,
    lockmgr: String,
    redb: String,
    sqlite: String,
    rustc: String,
    /// The peers from PyPI, or the reason why there are none.
    python: String,
}

impl Machine {
    /// Describes the machine before the first measurement.
    pub(crate) fn look(lab: &Lab) -> Result<Self> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split(": ").nth(1));
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let commit = output_of("git", &["-C", root, "rev-parse", "--short", "HEAD"]);
        Ok(Self {
            date: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            processor: model.unwrap_or("an unknown processor").to_owned(),
            cores: thread::available_parallelism()?.get(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system_of(lab.dir(), &read("/proc/self/mounts")),
            sync: sync_time(lab)?,
            load_before: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
            lockmgr: format!("{} at {commit}", version_of("lockmgr")),
            redb: version_of("redb"),
            sqlite: rusqlite::version().to_owned(),
            rustc: output_of("rustc", &["--version"]),
            python: String::new(),
        })
    }

    /// Reads the versions of the peers from PyPI, after the last measurement.
    pub(crate) fn look_at_python(&mut self, lab: &Lab) -> Result<()> {
        self.python = match lab.venv() {
            Ok(venv) => venv.start(lab.new_dir()?.path())?.ask("versions")?,
            Err(why) => why.to_owned(),
        };
        Ok(())
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "- {}; {}, {} cores; Linux {}; {}, where writing 4 KiB and `fdatasync` took {:.0} µs; \
             load {} before",
            self.date,
            self.processor,
            self.cores,
            self.kernel,
            self.file_system,
            self.sync,
            self.load_before,
        )?;
        writeln!(
            f,
            "- lockmgr {}, redb {}, SQLite {}, {}; from PyPI: {}",
            self.lockmgr, self.redb, self.sqlite, self.rustc, self.python,
        )
    }
}

/// Returns the version of the compiler that built this program.
fn version_of(package: &str) -> String {
    let header = format!("name = \"{package}\"\nversion = \"");
    let lock = include_str!("../Cargo.lock");
    let rest = lock.split_once(&header).map(|(_, rest)| rest);
    let version = rest.and_then(|rest| rest.split('"').next());
    version.unwrap_or("unknown").to_owned()
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

/// Returns the type of the nearest mounted file system above a path.
fn file_system_of(dir: &Path, mounts: &str) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        dir.starts_with(point).then_some((point.len(), kind))
    });
    let (_, kind) = above.max_by_key(|(len, _)| *len).unwrap_or_default();
    kind.to_owned()
}

fn sync_time(lab: &Lab) -> Result<f64> {
    let dir = lab.new_dir()?;
    let file = File::create(dir.path().join("page"))?;
    let page = [7; 4096];
    let mut sample = Sample::default();
    for _ in 0..lab.scale.rounds {
        let took = timed(|| {
            Ok(file
                .write_all_at(&page, 0)
                .and_then(|()| file.sync_data())?)
        })?;
        sample.0.push(micros(took));
    }
    Ok(sample.median())
}
