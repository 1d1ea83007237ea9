//! Yields the store to other processes after a few writes in a row.
//!
//! The kernel wakes the first that waits when the store's holder lets go, but does not hand it
//! over: a process that writes again at once is there sooner, call after call, and the others starve.

use crate::clock::coarse_millis;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// How many writes in a row a process makes while others want the store.
const MOST_IN_A_ROW: u32 = 8;

/// How long it then leaves the store: the kernel wakes the first waiting process meanwhile.
const PAUSE: Duration = Duration::from_micros(50);

/// How long after a wait others are taken to be there still, in milliseconds.
const REMEMBERED: u64 = 100;

/// Remembers whether other processes want the store.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    /// When a call had to wait last, in coarse milliseconds; 0 for never.
    waited_at: AtomicU64,
    /// Writes since then, or since it yielded.
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

    /// Comes before each write, and pauses before some.
    pub(super) fn yield_store(&self) {
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

    /// Which of the next writes, made at that time, come after a pause.
    fn paused(yielding: &Yielding, writes: u32, now: u64) -> Vec<u32> {
        let paused = |_: &u32| yielding.is_time(|| now);
        (1..=writes).filter(paused).collect()
    }

    #[test]
    fn lone_process_never_pauses() {
        assert!(paused(&Yielding::default(), 100, 7).is_empty());
    }

    #[test]
    fn process_that_had_to_wait_pauses_after_every_few_writes_while_others_may_be_there() {
        let yielding = Yielding::default();
        yielding.note_wait_at(1_000);
        assert_eq!(paused(&yielding, 20, 1_099), [9, 17]);
        yielding.note_wait_at(1_099);
        assert_eq!(paused(&yielding, 9, 1_198), [9]);
        assert!(paused(&yielding, 100, 1_199).is_empty());
        assert!(paused(&yielding, 100, 1_100).is_empty());
    }
}
