//! Measures lockmgr beside its peers: every figure that the project promises, in one run, and
//! writes them as a table, as JSON and as plots. The README beside this package says how to read
//! them.

mod args;
mod child;
mod lab;
mod machine;
mod names;
mod peers;
mod plot;
mod processor;
mod report;
mod rows;
mod stats;
mod worker;

use anyhow::{Context, Result, ensure};
use args::Args;
use clap::Parser;
use lab::Lab;
use machine::Machine;
use report::Report;
use std::path::Path;

fn main() -> Result<()> {
    let mut args = Args::parse();
    if let Some(worker) = args.worker.take() {
        return worker::main(worker);
    }
    let known = rows::GROUPS.map(|(name, _)| name);
    for name in &args.only {
        let is_known = known.contains(&name.as_str());
        ensure!(is_known, "no group {name}; there are: {}", known.join(", "));
    }
    let is_wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|it| it == name);

    let lab = Lab::new(&args)?;
    let mut machine = Machine::look(&lab)?;
    let mut report = Report::default();
    for (name, measure) in rows::GROUPS.into_iter().filter(|(name, _)| is_wanted(name)) {
        lab.say(name);
        measure(&lab, &mut report).with_context(|| format!("{name} cannot be measured"))?;
    }
    machine.look_at_python(&lab)?;
    lab.say("done");

    let usual = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/results"));
    let nowhere = lab.new_dir()?;
    let out = match &args.out {
        Some(out) => out,
        None if args.quick => nowhere.path(),
        None => usual,
    };
    report.save(&machine, out)?;
    println!("{}", report.markdown(&machine));
    if out != nowhere.path() {
        eprintln!("written to {}", out.display());
    }
    Ok(())
}
