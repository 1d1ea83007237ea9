//! Yields the store to other processes after a few writes in a row.
//!
//! When a process releases the store, the kernel wakes the first waiting process, but does not hand
//! the store over. A process that writes again at once is sooner, call after call, and the others
//! starve.

use crate::clock::coarse_millis;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// How many writes in a row a process makes while other processes want the store.
const MOST_IN_A_ROW: u32 = 8;

/// How long the process then yields. Meanwhile the kernel wakes the first waiting process.
const PAUSE: Duration = Duration::from_micros(50);

/// How long after a wait the process assumes that others still want the store, in milliseconds.
const REMEMBERED: u64 = 100;

/// Decides when a process yields, from its own waits for the store.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    /// The time at which a call last had to wait, in coarse milliseconds, or 0 for never.
    waited_at: AtomicU64,
    /// The number of writes since that wait, or since the process last yielded.
    in_a_row: AtomicU32,
}

impl Yielding {
    /// Notes that a call has to wait for another process.
    pub(super) fn note_wait(&self) {
        self.note_wait_at(coarse_millis());
    }

    fn note_wait_at(&self, now: u64) {
        self.waited_at.store(now, Ordering::Relaxed);
        self.in_a_row.store(0, Ordering::Relaxed);
    }

    /// Yields if that is due. The store calls this before each write.
    pub(super) fn yield_if_due(&self) {
        if self.is_time(coarse_millis) {
            thread::sleep(PAUSE);
        }
    }

    fn is_time(&self, now: impl FnOnce() -> u64) -> bool {
        let waited_at = self.waited_at.load(Ordering::Relaxed);
        if waited_at == 0 || self.in_a_row.fetch_add(1, Ordering::Relaxed) < MOST_IN_A_ROW {
            return false;
        }
        self.in_a_row.store(1, Ordering::Relaxed);
        let are_there = now().saturating_sub(waited_at) < REMEMBERED;
        if !are_there {
            self.waited_at.store(0, Ordering::Relaxed);
        }
        are_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns which of the next writes, made at that time, come after a pause.
    fn paused(yielding: &Yielding, writes: u32, now: u64) -> Vec<u32> {
        let paused = |_: &u32| yielding.is_time(|| now);
        (1..=writes).filter(paused).collect()
    }

    #[test]
    fn process_that_never_waited_never_yields() {
        assert!(paused(&Yielding::default(), 100, 7).is_empty());
    }

    #[test]
    fn process_that_had_to_wait_yields_after_every_8_writes_until_others_are_forgotten() {
        let yielding = Yielding::default();
        yielding.note_wait_at(1_000);
        assert_eq!(paused(&yielding, 20, 1_099), [9, 17]);
        yielding.note_wait_at(1_099);
        assert_eq!(paused(&yielding, 9, 1_198), [9]);
        assert!(paused(&yielding, 100, 1_199).is_empty());
        assert!(paused(&yielding, 100, 1_100).is_empty());
    }
}
