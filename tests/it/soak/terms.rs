//! Defines the names and the times that the processes of the soak, their parent and their judge
//! share.

use crate::dice::secs;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Names that only their holder releases, and names that any worker unlocks by name.
pub(crate) const SHARED: [&str; 6] = ["s0", "s1", "s2", "s3", "s4", "s5"];
pub(crate) const FORCED: [&str; 2] = ["f0", "f1"];

/// Names that are held in all kinds of ways, and their number of slots.
pub(crate) const KINDS: [&str; 3] = ["k0", "k1", "k2"];
pub(crate) const SLOTS: u32 = 4;

/// The prefix of the private names of a worker.
pub(crate) const MINE: &str = "mine:";

/// A lease that outlasts every stop.
pub(crate) const LONG: Duration = secs(60);

/// The number of workers that change only their own locks.
pub(crate) const LONERS: usize = 3;

/// The number of the nth child that a process forks off is larger than its own by n of these.
pub(crate) const CHILD: usize = 1_000_000;

/// The variable with a worker's slot, number and seed, and how other places can prove its end.
pub(crate) const JOB: &str = "LOCKMGR_SOAK_JOB";
/// The variable with the directory of the store, the witnesses and the notes.
pub(crate) const DIR: &str = "LOCKMGR_SOAK_DIR";
/// The variable with the command, if the worker's place can run jobs.
pub(crate) const COMMAND: &str = "LOCKMGR_SOAK_COMMAND";

/// Microseconds since boot.
pub(crate) fn boot_micros() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1_000
}
