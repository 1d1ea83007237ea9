//! Decodes any bytes as a row of the store: the result is an error, or a value that encodes back to
//! exactly these bytes, and on which no rule about locks and requests panics. Also encodes any
//! value as a row, which reads back.

#![no_main]
#![expect(
    dead_code,
    unused_imports,
    reason = "rows need but a part of the rooms they are made of"
)]

// Includes the modules themselves, as they are not public.
#[path = "../../src/beacon.rs"]
mod beacon;
#[path = "../../src/claim.rs"]
mod claim;
#[path = "../../src/clock.rs"]
mod clock;
#[path = "../../src/lock.rs"]
mod lock;
#[path = "../../src/name.rs"]
mod name;
#[path = "../../src/process.rs"]
mod process;
#[path = "../../src/queue.rs"]
mod queue;
#[path = "../../src/record.rs"]
mod record;
#[path = "../../src/timeout.rs"]
mod timeout;

use arbitrary::{Arbitrary, Result, Unstructured};
use beacon::Judge;
use claim::{Claim, Claims, Holding, Mode};
use clock::{BootId, BootTime, Moment};
use libfuzzer_sys::fuzz_target;
use lock::{AtLeast, Lease, Lock};
use name::{Holder, LockName, Note};
use process::{Binding, Bound, FileId, Namespaces, Process};
use queue::{Plan, Request, View};
use record::{Digest, Named, State, Summary};
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::LazyLock;
use std::time::Duration;
use timeout::{Deadline, Timeout};

/// Judges as a process that has no store open.
static JUDGE: LazyLock<Judge> = LazyLock::new(|| Judge::new(Process::current(), 1, None));

/// The kind of row that the bytes of the input are read as.
#[derive(Arbitrary, Debug)]
enum Kind {
    LockRow,
    NameRow,
    RequestRow,
    StateRow,
    Lock,
    Request,
    State,
    Summary,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Time {
    boot: [u8; 16],
    micros: u64,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Instant {
    wall: i64,
    boot: Option<Time>,
}

/// The process that a lock or a request may be bound to.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Tie {
    kind: u8,
    pid: u32,
    started: u64,
    boot: [u8; 16],
    is_boot_genuine: bool,
    namespaces: [u32; 3],
    id: u64,
    file: Option<(u64, i64)>,
}

/// The fields that locks and requests share.
#[derive(Arbitrary, Debug)]
struct Parts<'a> {
    name: &'a str,
    locked_by: &'a str,
    process_id: Option<u32>,
    bound_to: Option<Tie>,
    deadlines: [Option<Instant>; 2],
    numbers: (u64, u64, i64, i64),
    request: Option<u64>,
    address: Option<u64>,
    note: Option<&'a str>,
    at_least: Option<u64>,
    is_left: bool,
    /// A kind, the number of slots to take, and the number of all slots.
    mode: (u8, u32, u32),
    any: Option<u32>,
}

fuzz_target!(|input: &[u8]| {
    // An input with too few bytes is skipped.
    let _ = check(&mut Unstructured::new(input));
});

fn check(input: &mut Unstructured<'_>) -> Result<()> {
    let kind = input.arbitrary()?;
    let now = sane(moment(input.arbitrary()?));
    match kind {
        Kind::LockRow => {
            let name = key(input)?;
            let row = row(name.as_bytes(), input)?;
            let glanced = record::glance(&row);
            if let Ok(lock) = record::decode_named(&name, &row) {
                assert_eq!(record::encode(&lock, Vec::new()), row);
                for term in [glanced, record::term(&name, &row)] {
                    let term = term.expect("a part of what was read");
                    assert_eq!(term.deadline, lock.deadline);
                    assert_eq!(term.bound_to, lock.bound_to);
                    let live = lock.clone().if_live(now, &JUDGE);
                    assert_eq!(term.is_live(now, &JUDGE), live.is_some());
                }
                assert_eq!(lock.name().as_str(), name);
                look_at_lock(&lock, now);
            }
        }
        Kind::NameRow => {
            let name = key(input)?;
            let row = row(name.as_bytes(), input)?;
            let Ok(name) = LockName::new(&name) else {
                return Ok(());
            };
            match record::decode_name(&name, &row) {
                Ok(Named::Alone(lock)) => {
                    assert_eq!(record::encode(&lock, Vec::new()), row);
                    let is_shared = lock.mode() != Mode::Exclusive;
                    let hold = record::decode_hold(name.as_str(), lock.token(), &row);
                    assert_eq!(hold.is_ok(), is_shared);
                }
                Ok(Named::Summary(summary)) => {
                    assert_eq!(record::encode_summary(&name, &summary), row);
                }
                Err(_) => {}
            }
        }
        Kind::RequestRow => {
            let number: u64 = input.arbitrary()?;
            let row = row(&number.to_le_bytes(), input)?;
            if let Ok(request) = record::decode_request(number, &row) {
                assert_eq!(record::encode_request(&request), row);
                assert_eq!(request.number(), number);
                look_at_request(&request, now);
            }
        }
        Kind::StateRow => {
            let key = key(input)?;
            let row = row(key.as_bytes(), input)?;
            if let Ok(state) = record::decode_state(&key, &row) {
                assert_eq!(record::encode_state(&key, &state), row);
            }
        }
        Kind::Lock => {
            if let Some(lock) = lock(&input.arbitrary()?) {
                assert_reads_back(&lock);
                look_at_lock(&lock, now);
            }
        }
        Kind::Request => {
            if let Some(request) = request(&input.arbitrary()?) {
                let row = record::encode_request(&request);
                let read = record::decode_request(request.number, &row);
                assert_eq!(read.as_ref(), Ok(&request));
                look_at_request(&request, now);
            }
        }
        Kind::Summary => {
            let name: &str = input.arbitrary()?;
            let [count, taken, swept_to] = input.arbitrary()?;
            let summary = Summary {
                of: input.arbitrary()?,
                count,
                taken,
                swept_to,
            };
            if let Ok(name) = LockName::new(name) {
                let row = record::encode_summary(&name, &summary);
                assert_eq!(
                    record::decode_name(&name, &row),
                    Ok(Named::Summary(summary))
                );
            }
        }
        Kind::State => {
            let key: &str = input.arbitrary()?;
            let [last_token, last_request, count, sum] = input.arbitrary()?;
            let state = State {
                last_token,
                last_request,
                rows: Digest { count, sum },
                swept_to: input.arbitrary()?,
            };
            let row = record::encode_state(key, &state);
            assert_eq!(record::decode_state(key, &row), Ok(state));
        }
    }
    Ok(())
}

/// Returns a key of a row, which may be a valid name.
fn key(input: &mut Unstructured<'_>) -> Result<String> {
    let len: u8 = input.arbitrary()?;
    let bytes = input.bytes(len.into())?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// Returns the rest of the input as a row under that key, mostly with the right checksum, as random
/// bytes hardly ever have it.
fn row(key: &[u8], input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let is_raw = input.ratio(1, 16)?;
    let rest = input.peek_bytes(input.len()).unwrap_or_default();
    if is_raw {
        return Ok(rest.to_vec());
    }
    let mut sum = crc32fast::Hasher::new();
    sum.update(key);
    sum.update(rest);
    Ok([&sum.finalize().to_le_bytes(), rest].concat())
}

fn assert_reads_back(lock: &Lock) {
    let read = record::decode(lock.name(), &record::encode(lock, Vec::new()));
    assert_eq!(read.as_ref(), Ok(lock));
}

/// Checks that a lock with any fields is shown, judged and renewed without a panic.
fn look_at_lock(lock: &Lock, now: Moment) {
    let _ = format!("{lock:?} {}", lock.created_at() - lock.updated_at());
    let _ = (lock.locked_until(), lock.is_expired(now), lock.bound_to());
    let live = lock.clone().if_live(now, &JUDGE);
    if let Some(live) = &live {
        assert!(live == lock || Some(live) == lock.left(now).as_ref());
        assert!(!live.is_expired(now));
    }
    for timeout in [Timeout::Never, Timeout::DEFAULT, Duration::MAX.into()] {
        if let Ok(extended) = lock.extended(timeout, now) {
            assert_reads_back(&extended);
        }
        if let Ok(renewed) = lock.renewed(timeout, now) {
            assert_reads_back(&renewed);
            let left = |lock: &Lock| lock.time_left(now).unwrap_or(Duration::MAX);
            assert!(left(&renewed) >= left(lock), "{renewed:?} at {now:?}");
        }
    }
}

/// Checks that a request with any fields is shown and judged without a panic.
fn look_at_request(request: &Request, now: Moment) {
    let _ = format!("{request:?} {}", request.asked_at());
    let _ = (request.waits_until(), request.is_over(now));
    let alone = Alone(request, now);
    let names = request.claims.names();
    let Ok(plan) = Plan::for_names(&alone, names.cloned());
    // A request that is alone is granted, or it is dead.
    let settled = plan.granted.len() + plan.dropped.len();
    assert_eq!(settled, usize::from(!request.names().is_empty()));
    for Claim { name, mode } in &request.claims.list {
        if let Ok(lock) = request.lease.create(name.clone(), *mode, 1, now) {
            assert_reads_back(&lock);
        }
    }
}

/// A queue of one request, for names that are free.
struct Alone<'a>(&'a Request, Moment);

impl View for Alone<'_> {
    type Error = Infallible;

    fn head(
        &self,
        name: &LockName,
        from: u64,
        without: &HashSet<u64>,
    ) -> std::result::Result<Option<u64>, Infallible> {
        let number = self.0.number();
        let is_head = self.0.names().contains(&name) && from <= number;
        Ok((is_head && !without.contains(&number)).then_some(number))
    }

    fn request(&self, _: u64) -> std::result::Result<Request, Infallible> {
        Ok(self.0.clone())
    }

    fn holding(&self, _: &LockName) -> std::result::Result<Holding, Infallible> {
        Ok(Holding::Free)
    }

    fn state(&self, request: &Request) -> queue::State {
        let standing = match &request.lease.bound_to {
            Some(binding) => JUDGE.standing(binding),
            None => process::Standing::Unknown,
        };
        request.state(self.1, standing)
    }
}

fn binding(tie: Tie) -> Binding {
    let [pid, time, net] = tie.namespaces;
    Binding {
        kind: [Bound::Manager, Bound::Process, Bound::Job][usize::from(tie.kind % 3)],
        process: Process {
            pid: tie.pid,
            started: tie.started,
            boot: BootId(tie.boot),
            is_boot_genuine: tie.is_boot_genuine,
            namespaces: Namespaces { pid, time, net },
        },
        id: tie.id,
        file: tie.file.map(|(inode, born)| FileId { inode, born }),
    }
}

fn moment(Instant { wall, boot }: Instant) -> Moment {
    let boot = boot.map(|Time { boot, micros }| BootTime {
        boot: BootId(boot),
        micros,
    });
    Moment { wall, boot }
}

/// A moment that clocks may show: within a thousand years, and a century after the boot.
fn sane(Moment { wall, boot }: Moment) -> Moment {
    let boot = boot.map(|BootTime { boot, micros }| BootTime {
        boot,
        micros: micros >> 12,
    });
    let wall = wall >> 8;
    Moment { wall, boot }
}

fn deadline(at: Option<Instant>) -> Option<Deadline> {
    let Moment { wall, boot } = moment(at?);
    Some(Deadline { wall, boot })
}

fn lease(parts: &Parts<'_>) -> Option<Lease> {
    Some(Lease {
        timeout: Timeout::After(Duration::from_micros(parts.numbers.0)).normal(),
        locked_by: Holder::new(parts.locked_by).ok()?,
        process_id: parts.process_id,
        note: note(parts)?,
        at_least: parts
            .at_least
            .map(|micros| Timeout::After(Duration::from_micros(micros)).normal()),
        bound_to: parts.bound_to.map(binding),
    })
}

fn note(parts: &Parts<'_>) -> Option<Option<Note>> {
    match parts.note {
        Some(text) => Note::new(text).ok().map(Some),
        None => Some(None),
    }
}

fn lock(parts: &Parts<'_>) -> Option<Lock> {
    let lease = lease(parts)?;
    Some(Lock {
        name: LockName::new(parts.name).ok()?,
        locked_by: lease.locked_by,
        process_id: lease.process_id,
        deadline: deadline(parts.deadlines[0]),
        created_at: parts.numbers.2,
        updated_at: parts.numbers.3,
        token: parts.numbers.1,
        mode: mode(parts)?,
        note: lease.note,
        at_least: deadline(parts.deadlines[1]).map(|until| AtLeast {
            until,
            is_left: parts.is_left,
        }),
        bound_to: lease.bound_to,
        request: parts.request,
        address: parts.address,
        waiting: 0,
        is_alive: None,
        is_here: false,
    })
}

fn mode(parts: &Parts<'_>) -> Option<Mode> {
    let (kind, take, of) = parts.mode;
    let slots = Mode::Slots { take, of };
    let mode = [Mode::Exclusive, Mode::Shared, slots][usize::from(kind % 3)];
    mode.is_possible().then_some(mode)
}

fn claims(parts: &Parts<'_>) -> Option<Claims> {
    let mode = mode(parts)?;
    let claim = |name| {
        let name = LockName::new(name).ok()?;
        Some(Claim { name, mode })
    };
    let list = parts.name.split(' ').map(claim).collect::<Option<_>>()?;
    let any = parts.any;
    Some(Claims { list, any }).filter(Claims::is_possible)
}

fn request(parts: &Parts<'_>) -> Option<Request> {
    Some(Request {
        number: parts.numbers.1,
        id: parts.request.unwrap_or_default(),
        claims: claims(parts)?,
        lease: lease(parts)?,
        asked_at: parts.numbers.2,
        until: deadline(parts.deadlines[0]),
        trusted_until: deadline(parts.deadlines[1]),
        address: parts.address,
    })
}
