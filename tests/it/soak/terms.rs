//! What the processes of the soak, their parent and their judge have agreed on.

use crate::dice::secs;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Names that their holder alone gives back, and names that anybody forces free.
pub(crate) const SHARED: [&str; 6] = ["s0", "s1", "s2", "s3", "s4", "s5"];
pub(crate) const FORCED: [&str; 2] = ["f0", "f1"];

/// Names that are held in all kinds of ways, and how many slots they have.
pub(crate) const KINDS: [&str; 3] = ["k0", "k1", "k2"];
pub(crate) const SLOTS: u32 = 4;

/// What the names that one worker has for itself begin with.
pub(crate) const MINE: &str = "mine:";

/// A lease that outlasts every stop.
pub(crate) const LONG: Duration = secs(60);

/// So many of the workers change their own locks alone.
pub(crate) const LONERS: usize = 3;

/// The number of the nth child that a process forks off is larger than its own by n of these.
pub(crate) const CHILD: usize = 1_000_000;

/// What tells a worker its slot, its number, its seed, and how it is judged from elsewhere.
pub(crate) const JOB: &str = "LOCKMGR_SOAK_JOB";
/// Where it finds the store and the witnesses, and leaves its notes.
pub(crate) const DIR: &str = "LOCKMGR_SOAK_DIR";
/// The command, if its place has what a job needs.
pub(crate) const COMMAND: &str = "LOCKMGR_SOAK_COMMAND";

/// Microseconds since boot.
pub(crate) fn boot_micros() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1_000
}
