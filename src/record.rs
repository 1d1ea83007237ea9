//! Turns rows into bytes and back. The store's file outlives every release, so the layout has a
//! version, and a checksum over name and row: redb checks its pages when it repairs, not when it
//! reads.
//!
//! This module must never panic, whatever the bytes, and must never read a row back as anything but
//! the written row.

use crate::claim::{Claim, Claims, Mode};
use crate::clock::{BootId, BootTime};
use crate::lock::{AtLeast, Lease, Lock, Term};
use crate::name::{Holder, LockName, Note};
use crate::process::{Binding, Bound, FileId, Namespaces, Process};
use crate::queue::Request;
use crate::timeout::{Deadline, Timeout, whole_micros};
use std::time::Duration;

/// The version of the rows of locks and of requests.
const ROW: u8 = 1;

/// The version byte in the row of a name that is shared or held by slots.
const SUMMARY: u8 = 2;

/// The place of the version byte, behind the checksum.
const VERSION_AT: usize = 4;

/// Says why bytes are no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRow(pub(crate) &'static str);

/// Holds the content of the row of a name.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every name is held by one alone, and none is kept for long"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// One holder holds the name alone. Carries that hold.
    Alone(Lock),
    /// The name is shared or held by slots. Each hold has a row of its own.
    Summary(Summary),
}

/// Sums up the rows of the holds of a name that is shared or held by slots, living or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// The number of slots of the name, or none if it is shared.
    pub(crate) of: Option<u32>,
    /// The number of rows.
    pub(crate) count: u64,
    /// The number of slots that the rows take.
    pub(crate) taken: u64,
    /// The last token that housekeeping looked at, or 0 at the beginning of a round.
    pub(crate) swept_to: u64,
}

impl Summary {
    /// Sums up no rows yet, for holds of that mode.
    pub(crate) fn new(mode: Mode) -> Self {
        Self {
            of: slots_of(mode),
            ..Self::default()
        }
    }

    /// Tells whether the holds of the name are of that mode too.
    pub(crate) fn is_of(&self, mode: Mode) -> bool {
        mode != Mode::Exclusive && self.of == slots_of(mode)
    }
}

fn slots_of(mode: Mode) -> Option<u32> {
    match mode {
        Mode::Slots { of, .. } => Some(of),
        Mode::Exclusive | Mode::Shared => None,
    }
}

/// Writes a summary. The layout: checksum of name and rest (4 bytes), 2 (1), number of slots, rows
/// (8), slots taken (8), last token looked at (8).
pub(crate) fn encode_summary(name: &LockName, summary: &Summary) -> Vec<u8> {
    let mut row = Row::new(Vec::with_capacity(40));
    row.put(&[SUMMARY]);
    row.put_u32(summary.of);
    row.put(&summary.count.to_le_bytes());
    row.put(&summary.taken.to_le_bytes());
    row.put(&summary.swept_to.to_le_bytes());
    row.sealed(name.as_str().as_bytes())
}

/// Tells whether a row is that of a name that is shared or held by slots, without looking at its
/// checksum.
pub(crate) fn is_summary(row: &[u8]) -> bool {
    row.get(VERSION_AT) == Some(&SUMMARY)
}

/// Reads the row of that name.
pub(crate) fn decode_name(name: &LockName, row: &[u8]) -> Result<Named, BadRow> {
    match is_summary(row) {
        true => decode_summary(name.as_str(), row).map(Named::Summary),
        false => decode(name, row).map(Named::Alone),
    }
}

/// Reads the row of a name that is shared or held by slots.
pub(crate) fn decode_summary(name: &str, row: &[u8]) -> Result<Summary, BadRow> {
    let mut rest = Fields(unseal(name.as_bytes(), row)?);
    if rest.take()? != [SUMMARY] {
        return Err(BadRow("a row has an unknown version"));
    }
    let summary = Summary {
        of: rest.u32()?,
        count: u64::from_le_bytes(rest.take()?),
        taken: u64::from_le_bytes(rest.take()?),
        swept_to: u64::from_le_bytes(rest.take()?),
    };
    rest.end()?;
    Ok(summary)
}

/// Reads the row of one of several holds of that name, and checks that its token is this one.
pub(crate) fn decode_hold(name: &str, token: u64, row: &[u8]) -> Result<Lock, BadRow> {
    let lock = decode_named(name, row)?;
    if lock.token != token || lock.mode == Mode::Exclusive {
        return Err(BadRow("a row is not the hold that it is named for"));
    }
    Ok(lock)
}

/// Writes a lock. The layout, little endian: checksum of name and rest (4 bytes), version (1),
/// token (8), created (8), updated (8), mode, deadline, process id, binding, at least (deadline,
/// and 1 if the hold has ended), request, address, note (behind its length), then the holder to the
/// end. A field that may be missing is a byte, 0 or 1, and after a 1 its content. A mode is a byte,
/// 0 exclusive, 1 shared, 2 by slots, and after a 2 how many it takes and of how many (4 each).
///
/// The row goes into the buffer of a row that is no longer needed.
pub(crate) fn encode(lock: &Lock, buffer: Vec<u8>) -> Vec<u8> {
    let mut row = Row::new(buffer);
    row.put(&[ROW]);
    row.put(&lock.token.to_le_bytes());
    row.put(&lock.created_at.to_le_bytes());
    row.put(&lock.updated_at.to_le_bytes());
    row.put_mode(lock.mode);
    row.put_deadline(lock.deadline);
    row.put_u32(lock.process_id);
    row.put_binding(lock.bound_to);
    row.put_at_least(lock.at_least);
    row.put_id(lock.request);
    row.put_id(lock.address);
    row.put_note(lock.note.as_ref());
    row.put(lock.locked_by.as_str().as_bytes());
    row.sealed(lock.name.as_str().as_bytes())
}

/// Reads a row of the lock of that name.
pub(crate) fn decode(name: &LockName, row: &[u8]) -> Result<Lock, BadRow> {
    let mut rest = Fields(unseal(name.as_str().as_bytes(), row)?);
    rest.version()?;
    Ok(Lock {
        name: name.clone(),
        token: u64::from_le_bytes(rest.take()?),
        created_at: i64::from_le_bytes(rest.take()?),
        updated_at: i64::from_le_bytes(rest.take()?),
        mode: rest.mode()?,
        deadline: rest.deadline()?,
        process_id: rest.u32()?,
        bound_to: rest.binding()?,
        at_least: rest.at_least()?,
        request: rest.id()?,
        address: rest.id()?,
        note: rest.note()?,
        locked_by: holder(rest.0)?,
        waiting: 0,
        is_alive: None,
        is_here: false,
    })
}

/// Reads a row whose name is not checked yet.
pub(crate) fn decode_named(name: &str, row: &[u8]) -> Result<Lock, BadRow> {
    let name = LockName::new(name).map_err(|_| BadRow("a lock's name is invalid"))?;
    decode(&name, row)
}

/// Reads how long the lock of that name is there, and nothing else of its row.
pub(crate) fn term(name: &str, row: &[u8]) -> Result<Term, BadRow> {
    unseal(name.as_bytes(), row)?;
    glance(row)
}

/// Reads the term without looking at the checksum: enough to leave a row as it is, and not enough
/// to change it.
pub(crate) fn glance(row: &[u8]) -> Result<Term, BadRow> {
    let mut rest = Fields(row);
    let [_, _, _, _] = rest.take()?;
    rest.version()?;
    let [_token, _created_at, _updated_at]: [[u8; 8]; 3] =
        [rest.take()?, rest.take()?, rest.take()?];
    rest.mode()?;
    let deadline = rest.deadline()?;
    rest.u32()?;
    Ok(Term {
        deadline,
        bound_to: rest.binding()?,
        at_least: rest.at_least()?,
    })
}

/// Writes a request. The layout: checksum of number and rest (4 bytes), version (1), id (8), asked
/// (8), lease in microseconds, 0 for ever (8), process id, binding, until when it waits, until when
/// it is trusted, address, at least (in microseconds), note, how many names are enough, then the
/// holder and the claims, texts behind their lengths (1), each claim a mode and a name.
pub(crate) fn encode_request(request: &Request) -> Vec<u8> {
    let lease = &request.lease;
    let mut row = Row::new(Vec::with_capacity(128 + 16 * request.claims.list.len()));
    row.put(&[ROW]);
    row.put(&request.id.to_le_bytes());
    row.put(&request.asked_at.to_le_bytes());
    row.put(&micros(lease.timeout).to_le_bytes());
    row.put_u32(lease.process_id);
    row.put_binding(lease.bound_to);
    row.put_deadline(request.until);
    row.put_deadline(request.trusted_until);
    row.put_id(request.address);
    row.put_id(lease.at_least.map(micros));
    row.put_note(lease.note.as_ref());
    row.put_u32(request.claims.any);
    row.put_text(lease.locked_by.as_str());
    for claim in &request.claims.list {
        row.put_mode(claim.mode);
        row.put_text(claim.name.as_str());
    }
    row.sealed(&request.number.to_le_bytes())
}

/// Returns a timeout in microseconds, 0 for ever. A longer timeout has no deadline in the calendar,
/// and was refused.
fn micros(timeout: Timeout) -> u64 {
    match timeout {
        Timeout::Never => 0,
        Timeout::After(timeout) => u64::try_from(whole_micros(timeout)).unwrap_or(u64::MAX),
    }
}

fn timeout(micros: u64) -> Timeout {
    Timeout::After(Duration::from_micros(micros)).normal()
}

/// Reads a row of the request of that number.
pub(crate) fn decode_request(number: u64, row: &[u8]) -> Result<Request, BadRow> {
    let mut rest = Fields(unseal(&number.to_le_bytes(), row)?);
    rest.version()?;
    let id = u64::from_le_bytes(rest.take()?);
    let asked_at = i64::from_le_bytes(rest.take()?);
    let lease = timeout(u64::from_le_bytes(rest.take()?));
    let process_id = rest.u32()?;
    let bound_to = rest.binding()?;
    let until = rest.deadline()?;
    let trusted_until = rest.deadline()?;
    let address = rest.id()?;
    let at_least = rest.id()?.map(timeout);
    let note = rest.note()?;
    let any = rest.u32()?;
    let locked_by = holder(rest.text()?)?;
    let mut list = Vec::new();
    while !rest.0.is_empty() {
        let mode = rest.mode()?;
        let name = std::str::from_utf8(rest.text()?).map_err(|_| BadRow("a name is not UTF-8"))?;
        let name = LockName::new(name).map_err(|_| BadRow("a lock's name is invalid"))?;
        list.push(Claim { name, mode });
    }
    let claims = Claims { list, any };
    if !claims.is_possible() {
        return Err(BadRow("a request has claims that cannot be granted"));
    }
    Ok(Request {
        number,
        id,
        claims,
        lease: Lease {
            timeout: lease,
            locked_by,
            process_id,
            note,
            at_least,
            bound_to,
        },
        asked_at,
        until,
        trusted_until,
        address,
    })
}

fn holder(bytes: &[u8]) -> Result<Holder, BadRow> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadRow("a holder is not UTF-8"))?;
    Holder::new(text).map_err(|_| BadRow("a holder is invalid"))
}

/// Holds the counters and sums that the store keeps beside its locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The last token issued.
    pub(crate) last_token: u64,
    /// The number of the last request.
    pub(crate) last_request: u64,
    /// The digest of all rows of locks.
    pub(crate) rows: Digest,
    /// The last name that housekeeping looked at, empty at the beginning of a round.
    pub(crate) swept_to: String,
}

/// Holds the number of the rows, and the sum of their checksums. It changes with every row, and is
/// enough to notice that one is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) count: u64,
    pub(crate) sum: u64,
}

impl Digest {
    pub(crate) fn add(&mut self, row: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(checksum_of(row));
    }

    pub(crate) fn remove(&mut self, row: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(checksum_of(row));
    }
}

fn checksum_of(row: &[u8]) -> u64 {
    let sum = row.first_chunk().copied().map(u32::from_le_bytes);
    sum.unwrap_or_default().into()
}

/// Writes the state. The layout: checksum (4 bytes), last token (8), last request (8), count of
/// rows (8), sum of their checksums (8), the name to the end.
pub(crate) fn encode_state(key: &str, state: &State) -> Vec<u8> {
    let mut row = Row::new(Vec::with_capacity(64));
    row.put(&state.last_token.to_le_bytes());
    row.put(&state.last_request.to_le_bytes());
    row.put(&state.rows.count.to_le_bytes());
    row.put(&state.rows.sum.to_le_bytes());
    row.put(state.swept_to.as_bytes());
    row.sealed(key.as_bytes())
}

pub(crate) fn decode_state(key: &str, row: &[u8]) -> Result<State, BadRow> {
    let mut rest = Fields(unseal(key.as_bytes(), row)?);
    Ok(State {
        last_token: u64::from_le_bytes(rest.take()?),
        last_request: u64::from_le_bytes(rest.take()?),
        rows: Digest {
            count: u64::from_le_bytes(rest.take()?),
            sum: u64::from_le_bytes(rest.take()?),
        },
        swept_to: std::str::from_utf8(rest.0)
            .map_err(|_| BadRow("the store's own row is not UTF-8"))?
            .to_owned(),
    })
}

/// Builds a row to write, with room for its checksum.
struct Row(Vec<u8>);

impl Row {
    fn new(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.extend([0; 4]);
        Self(buffer)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn put_option<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.put(&[u8::from(value.is_some())]);
        if let Some(value) = value {
            put(self, value);
        }
    }

    fn put_u32(&mut self, number: Option<u32>) {
        self.put_option(number, |row, number| row.put(&number.to_le_bytes()));
    }

    fn put_text(&mut self, text: &str) {
        // Names, holders and notes have at most 255 bytes.
        self.put(&[text.len() as u8]);
        self.put(text.as_bytes());
    }

    fn put_mode(&mut self, mode: Mode) {
        match mode {
            Mode::Exclusive => self.put(&[0]),
            Mode::Shared => self.put(&[1]),
            Mode::Slots { take, of } => {
                self.put(&[2]);
                self.put(&take.to_le_bytes());
                self.put(&of.to_le_bytes());
            }
        }
    }

    fn put_deadline(&mut self, deadline: Option<Deadline>) {
        self.put_option(deadline, |row, deadline| {
            row.put(&deadline.wall.to_le_bytes());
            row.put_option(deadline.boot, |row, time| {
                row.put(&time.boot.0);
                row.put(&time.micros.to_le_bytes());
            });
        });
    }

    fn put_at_least(&mut self, at_least: Option<AtLeast>) {
        self.put_deadline(at_least.map(|it| it.until));
        if let Some(at_least) = at_least {
            self.put(&[u8::from(at_least.is_left)]);
        }
    }

    fn put_note(&mut self, note: Option<&Note>) {
        self.put_option(note, |row, note| row.put_text(note.as_str()));
    }

    fn put_id(&mut self, id: Option<u64>) {
        self.put_option(id, |row, id| row.put(&id.to_le_bytes()));
    }

    /// Writes a binding. The layout: kind (1), process id (4), start (8), boot (16), whether that
    /// is genuine (1), namespaces (4 each: pid, time, net), id (8), file (inode and birth, 8 each).
    fn put_binding(&mut self, binding: Option<Binding>) {
        self.put_option(
            binding,
            |row,
             Binding {
                 kind,
                 process,
                 id,
                 file,
             }| {
                row.put(&[match kind {
                    Bound::Manager => 0,
                    Bound::Process => 1,
                    Bound::Job => 2,
                }]);
                row.put(&process.pid.to_le_bytes());
                row.put(&process.started.to_le_bytes());
                row.put(&process.boot.0);
                row.put(&[u8::from(process.is_boot_genuine)]);
                let Namespaces { pid, time, net } = process.namespaces;
                for inode in [pid, time, net] {
                    row.put(&inode.to_le_bytes());
                }
                row.put(&id.to_le_bytes());
                row.put_option(file, |row, file| {
                    row.put(&file.inode.to_le_bytes());
                    row.put(&file.born.to_le_bytes());
                });
            },
        );
    }

    fn sealed(mut self, key: &[u8]) -> Vec<u8> {
        let sum = crc32([key, &self.0[4..]]);
        self.0[..4].copy_from_slice(&sum.to_le_bytes());
        self.0
    }
}

/// Reads the rest of a row, field by field.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadRow> {
        let (field, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(BadRow("a row is too short"))?;
        self.0 = rest;
        Ok(*field)
    }

    fn version(&mut self) -> Result<(), BadRow> {
        match self.take()? {
            [ROW] => Ok(()),
            _ => Err(BadRow("a row has an unknown version")),
        }
    }

    fn flag(&mut self) -> Result<bool, BadRow> {
        match self.take()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(BadRow("a row has a flag that is neither 0 nor 1")),
        }
    }

    fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, BadRow>,
    ) -> Result<Option<T>, BadRow> {
        match self.flag()? {
            true => read(self).map(Some),
            false => Ok(None),
        }
    }

    fn u32(&mut self) -> Result<Option<u32>, BadRow> {
        self.option(|rest| Ok(u32::from_le_bytes(rest.take()?)))
    }

    fn mode(&mut self) -> Result<Mode, BadRow> {
        let mode = match self.take()? {
            [0] => Mode::Exclusive,
            [1] => Mode::Shared,
            [2] => Mode::Slots {
                take: u32::from_le_bytes(self.take()?),
                of: u32::from_le_bytes(self.take()?),
            },
            _ => return Err(BadRow("a row has an unknown mode")),
        };
        match mode.is_possible() {
            true => Ok(mode),
            false => Err(BadRow("a row takes no slots, or more than there are")),
        }
    }

    fn end(&self) -> Result<(), BadRow> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(BadRow("a row is too long")),
        }
    }

    fn deadline(&mut self) -> Result<Option<Deadline>, BadRow> {
        self.option(|rest| {
            Ok(Deadline {
                wall: i64::from_le_bytes(rest.take()?),
                boot: rest.option(|rest| {
                    Ok(BootTime {
                        boot: BootId(rest.take()?),
                        micros: u64::from_le_bytes(rest.take()?),
                    })
                })?,
            })
        })
    }

    fn at_least(&mut self) -> Result<Option<AtLeast>, BadRow> {
        let Some(until) = self.deadline()? else {
            return Ok(None);
        };
        let is_left = self.flag()?;
        Ok(Some(AtLeast { until, is_left }))
    }

    fn note(&mut self) -> Result<Option<Note>, BadRow> {
        self.option(|rest| {
            let text = std::str::from_utf8(rest.text()?);
            let text = text.map_err(|_| BadRow("a note is not UTF-8"))?;
            Note::new(text).map_err(|_| BadRow("a note is invalid"))
        })
    }

    fn id(&mut self) -> Result<Option<u64>, BadRow> {
        self.option(|rest| Ok(u64::from_le_bytes(rest.take()?)))
    }

    fn binding(&mut self) -> Result<Option<Binding>, BadRow> {
        self.option(|rest| {
            Ok(Binding {
                kind: match rest.take()? {
                    [0] => Bound::Manager,
                    [1] => Bound::Process,
                    [2] => Bound::Job,
                    _ => return Err(BadRow("a row is bound to something unknown")),
                },
                process: Process {
                    pid: u32::from_le_bytes(rest.take()?),
                    started: u64::from_le_bytes(rest.take()?),
                    boot: BootId(rest.take()?),
                    is_boot_genuine: rest.flag()?,
                    namespaces: Namespaces {
                        pid: u32::from_le_bytes(rest.take()?),
                        time: u32::from_le_bytes(rest.take()?),
                        net: u32::from_le_bytes(rest.take()?),
                    },
                },
                id: u64::from_le_bytes(rest.take()?),
                file: rest.option(|rest| {
                    Ok(FileId {
                        inode: u64::from_le_bytes(rest.take()?),
                        born: i64::from_le_bytes(rest.take()?),
                    })
                })?,
            })
        })
    }

    fn text(&mut self) -> Result<&'a [u8], BadRow> {
        let [len] = self.take()?;
        let (text, rest) = self
            .0
            .split_at_checked(len.into())
            .ok_or(BadRow("a row is too short"))?;
        self.0 = rest;
        Ok(text)
    }
}

fn unseal<'a>(key: &[u8], row: &'a [u8]) -> Result<&'a [u8], BadRow> {
    let (sum, rest) = row
        .split_first_chunk()
        .ok_or(BadRow("a row is too short"))?;
    if crc32([key, rest]) == u32::from_le_bytes(*sum) {
        Ok(rest)
    } else {
        Err(BadRow("a row does not match its checksum"))
    }
}

/// Computes CRC-32 as in IEEE 802.3 and zlib.
fn crc32(parts: [&[u8]; 2]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn deadlines() -> impl Strategy<Value = Option<Deadline>> {
        let boot = prop::option::of(any::<([u8; 16], u64)>());
        prop::option::of((any::<i64>(), boot).prop_map(|(wall, boot)| Deadline {
            wall,
            boot: boot.map(|(id, micros)| BootTime {
                boot: BootId(id),
                micros,
            }),
        }))
    }

    fn bindings() -> impl Strategy<Value = Option<Binding>> {
        let kinds = prop::sample::select(&[Bound::Manager, Bound::Process, Bound::Job][..]);
        let process = any::<(u32, u64, [u8; 16], bool, [u32; 3])>();
        let process = process.prop_map(|(pid, started, boot, is_boot_genuine, spaces)| Process {
            pid,
            started,
            boot: BootId(boot),
            is_boot_genuine,
            namespaces: Namespaces {
                pid: spaces[0],
                time: spaces[1],
                net: spaces[2],
            },
        });
        let file = any::<Option<(u64, i64)>>();
        prop::option::of((kinds, process, any::<u64>(), file).prop_map(
            |(kind, process, id, file)| Binding {
                kind,
                process,
                id,
                file: file.map(|(inode, born)| FileId { inode, born }),
            },
        ))
    }

    fn names() -> impl Strategy<Value = LockName> {
        "[^\\p{Cc}]{1,60}".prop_map(|name| LockName::new(&name).unwrap())
    }

    fn notes() -> impl Strategy<Value = Option<Note>> {
        prop::option::of(names().prop_map(|text| Note::new(text.as_str()).unwrap()))
    }

    fn modes() -> impl Strategy<Value = Mode> {
        prop_oneof![
            Just(Mode::Exclusive),
            Just(Mode::Shared),
            (1..=u32::MAX)
                .prop_flat_map(|of| (1..=of, Just(of)))
                .prop_map(|(take, of)| Mode::Slots { take, of }),
        ]
    }

    fn summaries() -> impl Strategy<Value = Summary> {
        let numbers = any::<(Option<u32>, u64, u64, u64)>();
        numbers.prop_map(|(of, count, taken, swept_to)| Summary {
            of,
            count,
            taken,
            swept_to,
        })
    }

    fn leases() -> impl Strategy<Value = Lease> {
        let at_least = prop::option::of((0..u64::MAX).prop_map(timeout));
        let texts = (names(), notes());
        (
            0..u64::MAX,
            texts,
            any::<Option<u32>>(),
            bindings(),
            at_least,
        )
            .prop_map(
                |(micros, (by, note), process_id, bound_to, at_least)| Lease {
                    timeout: timeout(micros),
                    locked_by: Holder::new(by.as_str()).unwrap(),
                    process_id,
                    note,
                    at_least,
                    bound_to,
                },
            )
    }

    fn locks() -> impl Strategy<Value = Lock> {
        (
            (names(), modes()),
            leases(),
            (deadlines(), deadlines(), any::<bool>()),
            any::<(i64, i64, u64, Option<u64>, Option<u64>)>(),
        )
            .prop_map(
                |((name, mode), lease, (deadline, until, is_left), numbers)| {
                    let (created_at, updated_at, token, request, address) = numbers;
                    Lock {
                        name,
                        locked_by: lease.locked_by,
                        process_id: lease.process_id,
                        deadline,
                        created_at,
                        updated_at,
                        token,
                        mode,
                        note: lease.note,
                        at_least: until.map(|until| AtLeast { until, is_left }),
                        bound_to: lease.bound_to,
                        request,
                        address,
                        waiting: 0,
                        is_alive: None,
                        is_here: false,
                    }
                },
            )
    }

    fn requests() -> impl Strategy<Value = Request> {
        let claim = (names(), modes()).prop_map(|(name, mode)| Claim { name, mode });
        let all = prop::collection::vec(claim, 0..5);
        let all = all.prop_map(|list| Claims { list, any: None });
        let some = prop::collection::vec(names(), 1..5).prop_map(|names| Claims {
            any: Some(names.len() as u32),
            ..Claims::exclusive(names)
        });
        let claims = prop_oneof![all, some];
        (
            any::<(u64, u64, i64, Option<u64>)>(),
            claims,
            leases(),
            deadlines(),
            deadlines(),
        )
            .prop_map(
                |((number, id, asked_at, address), claims, lease, until, trusted_until)| Request {
                    number,
                    id,
                    claims,
                    lease,
                    asked_at,
                    until,
                    trusted_until,
                    address,
                },
            )
    }

    fn sealed(key: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut row = Row::new(Vec::new());
        row.put(rest);
        row.sealed(key)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn row_reads_back_as_it_was_written(lock in locks(), request in requests()) {
            prop_assert_eq!(decode(&lock.name, &encode(&lock, Vec::new())), Ok(lock));
            let row = encode_request(&request);
            prop_assert_eq!(decode_request(request.number, &row), Ok(request));
        }

        #[test]
        fn summary_reads_back_as_it_was_written(
            name in names(), summary in summaries(), at in any::<prop::sample::Index>(), xor in 1..=255u8,
        ) {
            let mut row = encode_summary(&name, &summary);
            prop_assert_eq!(decode_name(&name, &row), Ok(Named::Summary(summary)));
            let at = at.index(row.len());
            row[at] ^= xor;
            prop_assert!(decode_name(&name, &row).is_err());
        }

        #[test]
        fn one_changed_byte_is_noticed(
            lock in locks(), request in requests(), at in any::<prop::sample::Index>(), xor in 1..=255u8,
        ) {
            let flip = |mut row: Vec<u8>| {
                let at = at.index(row.len());
                row[at] ^= xor;
                row
            };
            prop_assert!(decode(&lock.name, &flip(encode(&lock, Vec::new()))).is_err());
            let row = flip(encode_request(&request));
            prop_assert!(decode_request(request.number, &row).is_err());
        }

        #[test]
        fn row_under_another_key_is_noticed(lock in locks(), other in names(), request in requests()) {
            prop_assume!(lock.name != other);
            prop_assert!(decode(&other, &encode(&lock, Vec::new())).is_err());
            let row = encode_request(&request);
            prop_assert!(decode_request(request.number ^ 1, &row).is_err());
        }

        #[test]
        fn sealed_bytes_are_an_error_or_a_row_that_encodes_to_them(
            start in prop::collection::vec(any::<u8>(), 24),
            flags in prop::collection::vec(0..2u8, 0..40),
            rest in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let bytes: Vec<u8> = [vec![ROW], start, flags, rest].concat();
            let row = sealed(b"a", &bytes);
            if let Ok(lock) = decode_named("a", &row) {
                prop_assert_eq!(encode(&lock, Vec::new()), row);
            }
            let row = sealed(&7u64.to_le_bytes(), &bytes);
            if let Ok(request) = decode_request(7, &row) {
                prop_assert_eq!(encode_request(&request), row);
            }
        }

        #[test]
        fn digest_forgets_a_row_that_was_removed(kept in locks(), removed in locks()) {
            let (kept, removed) = (encode(&kept, Vec::new()), encode(&removed, Vec::new()));
            let mut alone = Digest::default();
            alone.add(&kept);
            let mut both = alone;
            both.add(&removed);
            prop_assert_ne!(both, alone);
            both.remove(&removed);
            prop_assert_eq!(both, alone);
        }

        #[test]
        fn state_reads_back_as_it_was_written(
            last_token: u64, last_request: u64, count: u64, sum: u64, swept_to: String,
        ) {
            let state = State { last_token, last_request, rows: Digest { count, sum }, swept_to };
            prop_assert_eq!(decode_state("state", &encode_state("state", &state)), Ok(state));
        }
    }

    #[test]
    fn checksum_is_the_standard_one() {
        assert_eq!(crc32([b"1234", b"56789"]), 0xcbf4_3926);
    }

    #[test]
    fn digest_tells_rows_apart_and_forgets_removed_rows() {
        let digest = |rows: &[&[u8]]| {
            let mut digest = Digest::default();
            rows.iter().for_each(|row| digest.add(row));
            digest
        };
        let (a, b) = ([1, 2, 3, 4, 5], [4, 3, 2, 1, 5]);
        assert_ne!(digest(&[&a]), digest(&[&b]));
        assert_ne!(digest(&[&a]), digest(&[&a, &a]));
        let mut left = digest(&[&a, &b]);
        left.remove(&a);
        assert_eq!(left, digest(&[&b]));
    }

    #[test]
    fn bytes_too_short_for_a_row_are_an_error() {
        for len in 0..30 {
            let row = sealed(b"a", &vec![ROW; len]);
            assert!(decode_named("a", &row).is_err());
            assert!(decode_request(7, &sealed(&7u64.to_le_bytes(), &vec![ROW; len])).is_err());
            assert!(decode_state("a", &sealed(b"a", &vec![0; len])).is_err());
            assert!(decode_named("a", &row[..len.min(3)]).is_err());
        }
    }
}
