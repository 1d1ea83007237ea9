//! Starts other processes. Each prints `ready` when it is ready, and talks in lines.

use crate::worker::Turn;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Starts the process, and waits until it is ready.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let output = process.stdout.take().context("no output of a child")?;
        let input = process.stdin.take();
        let mut child = Self {
            process,
            input,
            output: BufReader::new(output),
        };
        let first = child.answer()?;
        ensure!(
            first == "ready",
            "{command:?} is not ready but says {first}"
        );
        Ok(child)
    }

    /// Starts this program as a worker.
    pub(crate) fn worker(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        Self::start(command)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Starts as many workers that do the same.
    pub(crate) fn workers(
        count: usize,
        arguments: &[&dyn AsRef<std::ffi::OsStr>],
    ) -> Result<Vec<Self>> {
        (0..count).map(|_| Self::worker(arguments)).collect()
    }

    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("the child was told to end")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    pub(crate) fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("a child ended early: {}", self.process.wait()?);
        }
        Ok(line.trim_end().to_owned())
    }

    /// Returns the answer of a waiting worker about its turn, or the reason why it got none.
    pub(crate) fn outcome(&mut self) -> Result<Result<Turn, String>> {
        Ok(serde_json::from_str(&self.answer()?)?)
    }

    /// Returns the answer of a waiting worker about its turn.
    pub(crate) fn turn(&mut self) -> Result<Turn> {
        let outcome = self.outcome()?;
        outcome.map_err(|error| anyhow!("a waiter failed: {error}"))
    }

    /// Kills the process, and does not wait for its end.
    pub(crate) fn kill(&mut self) {
        // Fails if the process has ended, which is harmless.
        let _ = self.process.kill();
    }

    /// Asks the process to end.
    pub(crate) fn stop(&mut self) {
        self.input = None;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
        // The process ends with its input. If it does not, it would disturb later measurements.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
