//! Takes samples in turns, and summarises them.

use anyhow::Result;
use serde::Serialize;
use std::time::{Duration, Instant};

/// The measurements of the rounds, in their order, with times in microseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample(pub(crate) Vec<f64>);

impl Sample {
    /// Interpolates between two values.
    pub(crate) fn quantile(&self, at: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = sorted.len().saturating_sub(1) as f64 * at;
        let value = |place: f64| sorted.get(place as usize).copied().unwrap_or(f64::NAN);
        let (low, high) = (value(place.floor()), value(place.ceil()));
        low + (high - low) * place.fract()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

/// The median of the ratios of all rounds, and the quartiles of the medians of ten blocks of
/// rounds one after another, or of the rounds where there are fewer. Not the ratio of medians:
/// where a disk is now fast, now slow, a median falls on either side by chance, and the ratio of
/// two of them anywhere.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) p25: f64,
    pub(crate) p75: f64,
}

/// The number of blocks of rounds that give the spread of a ratio.
const BLOCKS: usize = 10;

pub(crate) fn ratio(ours: &Sample, peer: &Sample) -> Ratio {
    let ratio = |(ours, peer): (&f64, &f64)| ours / peer;
    let rounds: Sample = ours.0.iter().zip(&peer.0).map(ratio).collect();
    let block = rounds.0.len().div_ceil(BLOCKS).max(1);
    let median = |block: &[f64]| Sample(block.to_vec()).median();
    let blocks: Sample = rounds.0.chunks(block).map(median).collect();
    Ratio {
        median: rounds.median(),
        p25: blocks.quantile(0.25),
        p75: blocks.quantile(0.75),
    }
}

/// Returns Jain's index of fairness: 1 if all had the same share, 1/n if one had everything.
pub(crate) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Returns the order of so many peers in a round: another one first each time.
pub(crate) fn turns(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (turn + round) % count)
}

/// Measures in turns: in each round each peer once, another one first each time. So noise of the
/// machine hits all alike. `op` returns the time of the part that counts.
pub(crate) fn interleave<P>(
    rounds: usize,
    peers: &mut [P],
    mut op: impl FnMut(&mut P, usize) -> Result<Duration>,
) -> Result<Vec<Sample>> {
    let mut samples = vec![Sample::default(); peers.len()];
    let warm_up = rounds / 20;
    for round in 0..warm_up + rounds {
        for which in turns(peers.len(), round) {
            let took = op(&mut peers[which], round)?;
            if round >= warm_up {
                samples[which].0.push(micros(took));
            }
        }
    }
    Ok(samples)
}

pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let began = Instant::now();
    let done = work()?;
    let took = began.elapsed();
    drop(done);
    Ok(took)
}

/// Returns the mean of a batch, for calls that take hardly longer than reading the clock.
pub(crate) fn timed_each(
    count: usize,
    mut work: impl FnMut(usize) -> Result<()>,
) -> Result<Duration> {
    let began = Instant::now();
    for i in 0..count {
        work(i)?;
    }
    Ok(began.elapsed() / u32::try_from(count)?)
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_lies_between_values() {
        let sample = Sample(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(sample.median(), 2.5);
        assert_eq!((sample.quantile(0.0), sample.max()), (1.0, 4.0));
        assert!(Sample::default().median().is_nan());
    }

    #[test]
    fn ratio_is_not_moved_by_rounds_that_were_slow_for_both() {
        let peer: Sample = (0..100)
            .map(|i| if i % 2 == 0 { 1.0 } else { 50.0 })
            .collect();
        let ours: Sample = peer.0.iter().map(|time| time * 1.1).collect();
        let ratio = ratio(&ours, &peer);
        for value in [ratio.median, ratio.p25, ratio.p75] {
            assert!((value - 1.1).abs() < 1e-9, "{ratio:?}");
        }
    }

    #[test]
    fn jain_tells_equal_shares_from_one_share() {
        assert_eq!(jain(&[5.0; 8]), 1.0);
        assert_eq!(jain(&[7.0, 0.0, 0.0, 0.0]), 0.25);
    }

    #[test]
    fn everybody_is_first_in_turn() {
        let mut order = Vec::new();
        let samples = interleave(2, &mut ['a', 'b'], |peer, round| {
            order.push((round, *peer));
            Ok(Duration::from_micros(1))
        });
        assert_eq!(order, [(0, 'a'), (0, 'b'), (1, 'b'), (1, 'a')]);
        assert!(samples.unwrap().iter().all(|sample| sample.0.len() == 2));
    }
}
