//! Other processes: each says `ready` when it is, and is talked to in lines.

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
    /// Starts it, and waits until it is ready.
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

    /// As many workers that do the same.
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

    /// What a worker that waits says of its turn, or why it got none.
    pub(crate) fn outcome(&mut self) -> Result<Result<Turn, String>> {
        Ok(serde_json::from_str(&self.answer()?)?)
    }

    /// What a worker that waits says of its turn.
    pub(crate) fn turn(&mut self) -> Result<Turn> {
        let outcome = self.outcome()?;
        outcome.map_err(|error| anyhow!("a waiter failed: {error}"))
    }

    /// Ends it at once, and does not wait for its end.
    pub(crate) fn kill(&mut self) {
        // One that has ended is ended.
        let _ = self.process.kill();
    }

    /// Tells it to end.
    pub(crate) fn stop(&mut self) {
        self.input = None;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
        // It ends with its input; one that fails to was going to be measured, and is in the way.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
