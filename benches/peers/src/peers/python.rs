//! Drives the peers from PyPI, line by line, through one process of Python.

use crate::child::Child;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The packages: the last release of django-lockmgr, and Django 3, as newer ones cannot load it.
const PACKAGES: [&str; 4] = [
    "django-lockmgr==2.0.0",
    "Django<4",
    "setuptools<81",
    "filelock",
];

/// A Python environment that has the peers.
#[derive(Debug)]
pub(crate) struct Venv(PathBuf);

impl Venv {
    pub(crate) fn existing(dir: &Path) -> Result<Self> {
        let python = dir.join("bin/python");
        ensure!(python.exists(), "{} is not there", python.display());
        Ok(Self(std::path::absolute(dir)?))
    }

    /// Creates an environment from PyPI.
    pub(crate) fn make(dir: &Path) -> Result<Self> {
        run(Command::new("python3").args(["-m", "venv"]).arg(dir))?;
        let mut pip = Command::new(dir.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]);
        run(pip.args(PACKAGES))?;
        Self::existing(dir)
    }

    /// Starts a process with the peers, whose files are in `dir`.
    pub(crate) fn start(&self, dir: &Path) -> Result<Python> {
        let script = dir.join("peers.py");
        std::fs::write(&script, include_str!("peers.py"))?;
        let mut command = Command::new(self.0.join("bin/python"));
        command.arg(script).arg(dir);
        Ok(Python(Child::start(command)?))
    }
}

#[derive(Debug)]
pub(crate) struct Python(Child);

impl Python {
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        self.tell(line)?;
        self.answer()
    }

    /// Sends a question whose answer comes later.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        self.0.tell(line)
    }

    pub(crate) fn answer(&mut self) -> Result<String> {
        self.0.answer()
    }

    /// Returns the time of the call, by Python's own clock.
    pub(crate) fn time(&mut self, call: &str) -> Result<Duration> {
        Ok(Duration::from_nanos(self.ask(call)?.parse()?))
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    let last = error.trim().lines().last().unwrap_or_default();
    ensure!(output.status.success(), "{command:?} failed: {last}");
    Ok(())
}
