//! Makes names of 20 bytes, in random order and the same in every run.

/// The number of the first name that no new store has.
const NEW: u64 = 1 << 40;

/// Returns the name of a lock that a store of more rows than `index` has.
pub(crate) fn present(index: usize) -> String {
    name(index as u64)
}

/// Returns names that no store has, other ones for each `round`, at most 10,000 a round.
pub(crate) fn new(round: usize, count: usize) -> Vec<String> {
    let first = NEW + round as u64 * 10_000;
    (first..first + count as u64).map(name).collect()
}

/// Returns a name that no other worker takes.
pub(crate) fn of_worker(worker: u64, index: u64) -> String {
    name((worker + 2) * NEW + index)
}

/// Returns a number below `below`, spread as evenly as random ones.
pub(crate) fn random(index: usize, below: usize) -> usize {
    (mixed(index as u64 ^ NEW) % below as u64) as usize
}

fn name(index: u64) -> String {
    format!("n{:019}", mixed(index) % 10_000_000_000_000_000_000)
}

/// SplitMix64.
fn mixed(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
