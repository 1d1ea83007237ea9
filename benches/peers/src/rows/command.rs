//! Measures the command as a whole process, its size, and the build of the library.

use crate::lab::Lab;
use crate::peers::lockmgr::Lockmgr;
use crate::peers::{Kind, Mode, Peer};
use crate::report::{Figure, Report, Row, Unit};
use crate::stats::{interleave, ratio, timed};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub(super) const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    let bin = match lab.bin() {
        Some(bin) => bin.to_owned(),
        None => build(lab)?,
    };
    whole_process(lab, report, &bin)?;
    let size = fs::metadata(&bin)?.len() as f64;
    let most = 4.0 * 1048576.0;
    report.push(
        Row::new(
            "release binary `lockmgr`",
            Figure::one("lockmgr", Unit::Bytes, size),
        )
        .target("≤ 4 MiB", size <= most),
    );
    let crates = crates()?;
    report.push(
        Row::new(
            "crates in a clean `cargo build --no-default-features`",
            Figure::one("lockmgr", Unit::Plain, crates as f64),
        )
        .target("≤ 25", crates <= 25),
    );
    Ok(())
}

fn whole_process(lab: &Lab, report: &mut Report, bin: &PathBuf) -> Result<()> {
    let dir = lab.new_dir()?;
    let store = Kind::Lockmgr.file(dir.path());
    Lockmgr::open(&store, Mode::Shared)?.set(&["x".to_owned()])?;
    let mut ours = Command::new(bin);
    ours.arg("--db").arg(&store).args(["is-locked", "x"]);
    let mut both = [ours, Command::new("true")];
    for command in &mut both {
        command.stdin(Stdio::null()).stdout(Stdio::null());
    }
    let samples = interleave(lab.scale.rounds, &mut both, |command, _| {
        timed(|| {
            let status = command.status()?;
            ensure!(status.success(), "{command:?}: {status}");
            Ok(())
        })
    })?;
    let most = 2.0 * samples[1].median() + 2_000.0;
    report.push(
        Row::new(
            "`lockmgr is-locked x`, whole process",
            Figure::new("lockmgr", Unit::Time, &samples[0]),
        )
        .with([Figure::new("true", Unit::Time, &samples[1])])
        .ratio(ratio(&samples[0], &samples[1]))
        .target("≤ 2 × `true` + 2 ms", samples[0].median() <= most),
    );
    Ok(())
}

fn cargo(manifest: &str, arguments: &[&str]) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).args(["--manifest-path", manifest]);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8(output.stdout)?)
}

/// Builds the command, and returns its path.
fn build(lab: &Lab) -> Result<PathBuf> {
    lab.say("building the command for release");
    built(MANIFEST, "lockmgr")
}

/// Builds a program of this package for release, and returns its path.
pub(super) fn built(manifest: &str, program: &str) -> Result<PathBuf> {
    let messages = cargo(
        manifest,
        &[
            "build",
            "--release",
            "--bin",
            program,
            "--message-format",
            "json",
        ],
    )?;
    let executable = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    executable.with_context(|| format!("cargo built no {program}"))
}

/// Returns the number of compiled crates, including lockmgr.
fn crates() -> Result<usize> {
    let tree = cargo(
        MANIFEST,
        &[
            "tree",
            "--no-default-features",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ],
    )?;
    let names: BTreeSet<&str> = tree
        .lines()
        .map(|line| line.split(" (").next().unwrap_or(line))
        .filter(|line| !line.is_empty())
        .collect();
    Ok(names.len())
}
