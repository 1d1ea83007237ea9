//! Rows to bytes and back. The store's file outlives every release, so the layout has a version,
//! and a checksum over name and row: redb checks its pages when it repairs, not when it reads.
//!
//! Must never panic, whatever the bytes, nor read a row back as anything but what was written.

use crate::clock::{BootId, BootTime};
use crate::lock::{Deadline, Holder, Lock, LockName};

/// The version of a lock's row.
const ROW: u8 = 1;

const HAS_PROCESS: u8 = 1;
const HAS_DEADLINE: u8 = 2;
const HAS_BOOT: u8 = 4;

/// Why bytes are no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRow(pub(crate) &'static str);

/// The layout, little endian: checksum of name and rest (4 bytes), version (1), flags (1),
/// token (8), created (8), updated (8), then as the flags say process id (4), deadline on the
/// wall clock (8), boot (16) and deadline since boot (8), then the holder to the end.
pub(crate) fn encode(lock: &Lock) -> Vec<u8> {
    let mut row = Vec::with_capacity(66 + lock.locked_by.as_str().len());
    row.extend([0; 4]);
    let boot = lock.deadline.and_then(|deadline| deadline.boot);
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    row.push(ROW);
    row.push(
        flag(lock.process_id.is_some(), HAS_PROCESS)
            | flag(lock.deadline.is_some(), HAS_DEADLINE)
            | flag(boot.is_some(), HAS_BOOT),
    );
    row.extend(lock.token.to_le_bytes());
    row.extend(lock.created_at.to_le_bytes());
    row.extend(lock.updated_at.to_le_bytes());
    if let Some(process_id) = lock.process_id {
        row.extend(process_id.to_le_bytes());
    }
    if let Some(deadline) = lock.deadline {
        row.extend(deadline.wall.to_le_bytes());
    }
    if let Some(time) = boot {
        row.extend(time.boot.0);
        row.extend(time.micros.to_le_bytes());
    }
    row.extend(lock.locked_by.as_str().as_bytes());
    seal(lock.name.as_str(), &mut row);
    row
}

/// Reads a row of the lock of that name.
pub(crate) fn decode(name: &str, row: &[u8]) -> Result<Lock, BadRow> {
    let mut rest = Fields(unseal(name, row)?);
    let [version, flags] = rest.take()?;
    if version != ROW {
        return Err(BadRow("a row has an unknown version"));
    }
    if flags & !(HAS_PROCESS | HAS_DEADLINE | HAS_BOOT) != 0
        || flags & (HAS_DEADLINE | HAS_BOOT) == HAS_BOOT
    {
        return Err(BadRow("a row has unknown flags"));
    }
    let token = u64::from_le_bytes(rest.take()?);
    let created_at = i64::from_le_bytes(rest.take()?);
    let updated_at = i64::from_le_bytes(rest.take()?);
    let process_id = match flags & HAS_PROCESS {
        0 => None,
        _ => Some(u32::from_le_bytes(rest.take()?)),
    };
    let wall = match flags & HAS_DEADLINE {
        0 => None,
        _ => Some(i64::from_le_bytes(rest.take()?)),
    };
    let boot = match flags & HAS_BOOT {
        0 => None,
        _ => Some(BootTime {
            boot: BootId(rest.take()?),
            micros: u64::from_le_bytes(rest.take()?),
        }),
    };
    let locked_by = std::str::from_utf8(rest.0).map_err(|_| BadRow("a holder is not UTF-8"))?;
    Ok(Lock {
        name: LockName::new(name).map_err(|_| BadRow("a lock's name is invalid"))?,
        locked_by: Holder::new(locked_by).map_err(|_| BadRow("a holder is invalid"))?,
        process_id,
        deadline: wall.map(|wall| Deadline { wall, boot }),
        created_at,
        updated_at,
        token,
    })
}

/// What the store itself remembers beside its locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The last token issued.
    pub(crate) last_token: u64,
    /// The last name housekeeping looked at; empty at the beginning of a round.
    pub(crate) swept_to: String,
}

/// The layout: checksum (4 bytes), last token (8), the name to the end.
pub(crate) fn encode_state(key: &str, state: &State) -> Vec<u8> {
    let mut row = vec![0; 4];
    row.extend(state.last_token.to_le_bytes());
    row.extend(state.swept_to.as_bytes());
    seal(key, &mut row);
    row
}

pub(crate) fn decode_state(key: &str, row: &[u8]) -> Result<State, BadRow> {
    let mut rest = Fields(unseal(key, row)?);
    Ok(State {
        last_token: u64::from_le_bytes(rest.take()?),
        swept_to: std::str::from_utf8(rest.0)
            .map_err(|_| BadRow("the store's own row is not UTF-8"))?
            .to_owned(),
    })
}

/// What is left of a row.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadRow> {
        let (field, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(BadRow("a row is too short"))?;
        self.0 = rest;
        Ok(*field)
    }
}

fn seal(key: &str, row: &mut [u8]) {
    let sum = crc32(&[key.as_bytes(), &row[4..]]);
    row[..4].copy_from_slice(&sum.to_le_bytes());
}

fn unseal<'a>(key: &str, row: &'a [u8]) -> Result<&'a [u8], BadRow> {
    let (sum, rest) = row
        .split_first_chunk()
        .ok_or(BadRow("a row is too short"))?;
    if crc32(&[key.as_bytes(), rest]) == u32::from_le_bytes(*sum) {
        Ok(rest)
    } else {
        Err(BadRow("a row does not match its checksum"))
    }
}

/// CRC-32 as in IEEE 802.3 and zlib. Too small to be worth a dependency that every user of the
/// library would pay for.
fn crc32(parts: &[&[u8]]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut sum = i as u32;
            let mut bit = 0;
            while bit < 8 {
                sum = (sum >> 1) ^ (0xedb8_8320 * (sum & 1));
                bit += 1;
            }
            table[i] = sum;
            i += 1;
        }
        table
    };
    !parts.iter().copied().flatten().fold(!0, |sum, byte| {
        (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn locks() -> impl Strategy<Value = Lock> {
        let boot = (any::<[u8; 16]>(), any::<u64>());
        (
            "[^\\p{Cc}]{1,60}",
            "[^\\p{Cc}]{1,60}",
            any::<Option<u32>>(),
            prop::option::of((any::<i64>(), prop::option::of(boot))),
            any::<(i64, i64, u64)>(),
        )
            .prop_map(
                |(name, by, process_id, deadline, (created_at, updated_at, token))| Lock {
                    name: LockName::new(&name).unwrap(),
                    locked_by: Holder::new(&by).unwrap(),
                    process_id,
                    deadline: deadline.map(|(wall, boot)| Deadline {
                        wall,
                        boot: boot.map(|(id, micros)| BootTime {
                            boot: BootId(id),
                            micros,
                        }),
                    }),
                    created_at,
                    updated_at,
                    token,
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_row_reads_back_as_it_was_written(lock in locks()) {
            prop_assert_eq!(decode(lock.name.as_str(), &encode(&lock)), Ok(lock));
        }

        #[test]
        fn one_changed_byte_is_noticed(lock in locks(), at in any::<prop::sample::Index>(), xor in 1..=255u8) {
            let mut row = encode(&lock);
            let at = at.index(row.len());
            row[at] ^= xor;
            prop_assert!(decode(lock.name.as_str(), &row).is_err());
        }

        #[test]
        fn a_row_under_another_name_is_noticed(lock in locks(), other in "[^\\p{Cc}]{1,60}") {
            prop_assume!(lock.name != other.as_str());
            prop_assert!(decode(&other, &encode(&lock)).is_err());
        }

        #[test]
        fn sealed_bytes_are_an_error_or_a_row_that_encodes_to_them(mut row in prop::collection::vec(any::<u8>(), 6..120)) {
            row[4] = ROW;
            row[5] &= HAS_PROCESS | HAS_DEADLINE | HAS_BOOT;
            seal("a", &mut row);
            if let Ok(lock) = decode("a", &row) {
                prop_assert_eq!(encode(&lock), row);
            }
        }

        #[test]
        fn the_state_reads_back_as_it_was_written(last_token: u64, swept_to: String) {
            let state = State { last_token, swept_to };
            prop_assert_eq!(decode_state("state", &encode_state("state", &state)), Ok(state));
        }
    }

    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(crc32(&[b"1234", b"56789"]), 0xcbf4_3926);
    }

    #[test]
    fn bytes_too_short_for_a_row_are_an_error() {
        for len in 0..30 {
            assert!(decode("a", &vec![0; len]).is_err());
            assert!(decode_state("a", &vec![0; len.min(11)]).is_err());
        }
    }
}
