//! Helper: repeatable random numbers, and short forms of times. The tests share this file with the
//! program that forks for them.

use std::time::Duration;

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Numbers that look random, and are the same in every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Draws some of the names, in any order.
    pub(crate) fn some_of<'a>(&mut self, names: &[&'a str]) -> Vec<&'a str> {
        loop {
            let mut chosen: Vec<&str> = Vec::new();
            for name in names {
                if self.below(2) == 0 {
                    let place = self.below(chosen.len() as u64 + 1) as usize;
                    chosen.insert(place, name);
                }
            }
            if !chosen.is_empty() {
                return chosen;
            }
        }
    }
}
