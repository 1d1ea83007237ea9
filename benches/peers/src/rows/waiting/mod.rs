//! Measures the cost of waiting: for waiters, for other callers, and for hand-overs.

mod beside;
mod chain;
mod idle;
mod killed;
mod queue;
mod storm;
mod threads;

use crate::lab::Lab;
use crate::report::Report;
use anyhow::Result;
use rustix::process::{Resource, getrlimit, setrlimit};

pub(super) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    // Each of a thousand processes needs two pipes.
    let mut descriptors = getrlimit(Resource::Nofile);
    descriptors.current = descriptors.maximum;
    setrlimit(Resource::Nofile, descriptors)?;

    beside::measure(lab, report)?;
    chain::measure(lab, report)?;
    storm::measure(lab, report)?;
    idle::measure(lab, report)?;
    threads::measure(lab, report)?;
    killed::measure(lab, report)
}
