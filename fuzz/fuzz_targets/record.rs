//! Any bytes as a row of the store: an error, or a value that encodes back to exactly these bytes
//! and that no rule about locks and requests stumbles over. And any value as a row: it reads back.

#![no_main]
#![expect(
    dead_code,
    unused_imports,
    reason = "rows need but a part of the rooms they are made of"
)]

// The rooms themselves: nothing of them is public.
#[path = "../../src/clock.rs"]
mod clock;
#[path = "../../src/lock.rs"]
mod lock;
#[path = "../../src/process.rs"]
mod process;
#[path = "../../src/queue.rs"]
mod queue;
#[path = "../../src/record.rs"]
mod record;

use arbitrary::{Arbitrary, Result, Unstructured};
use clock::{BootId, BootTime, Moment};
use libfuzzer_sys::fuzz_target;
use lock::{Deadline, Holder, Lease, Lock, LockName, Timeout};
use process::Process;
use queue::Request;
use record::{Digest, State};
use std::time::Duration;

/// What the bytes of the input are taken for.
#[derive(Arbitrary, Debug)]
enum Kind {
    LockRow,
    RequestRow,
    StateRow,
    Lock,
    Request,
    State,
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

/// What locks and requests have in common.
#[derive(Arbitrary, Debug)]
struct Parts<'a> {
    name: &'a str,
    locked_by: &'a str,
    process_id: Option<u32>,
    bound_to: Option<(u32, u64, [u8; 16], u64)>,
    deadlines: [Option<Instant>; 2],
    numbers: (u64, u64, i64, i64),
    request: Option<u64>,
}

fuzz_target!(|input: &[u8]| {
    // Too few bytes are no case.
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
                }
                assert_eq!(lock.name().as_str(), name);
                look_at_lock(&lock, now);
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
            let is_challenged = input.arbitrary()?;
            if let Some(request) = request(&input.arbitrary()?, is_challenged) {
                let row = record::encode_request(&request);
                let read = record::decode_request(request.number, &row);
                assert_eq!(read.as_ref(), Ok(&request));
                look_at_request(&request, now);
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

/// A key of a row, valid as a name or not.
fn key(input: &mut Unstructured<'_>) -> Result<String> {
    let len: u8 = input.arbitrary()?;
    let bytes = input.bytes(len.into())?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// The rest of the input as a row under that key: mostly with the right checksum, as hardly any
/// bytes have it by luck.
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

/// Whatever its fields, a lock is shown, judged and renewed without a panic.
fn look_at_lock(lock: &Lock, now: Moment) {
    let _ = format!("{lock:?} {}", lock.created_at() - lock.updated_at());
    let _ = (lock.locked_until(), lock.is_live(now));
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

/// Likewise a request.
fn look_at_request(request: &Request, now: Moment) {
    let _ = format!("{request:?} {}", request.asked_at());
    let _ = (request.waits_until(), request.is_there(now));
    let outlook = queue::settle::<()>(
        std::slice::from_ref(request),
        now,
        |_| Ok(true),
        |request| request.state(now),
    );
    assert!(outlook.is_ok());
    for name in request.names() {
        if let Ok(lock) = request.lease.create(name.clone(), 1, now) {
            assert_reads_back(&lock);
        }
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
        timeout: Duration::from_micros(parts.numbers.0).into(),
        locked_by: Holder::new(parts.locked_by).ok()?,
        process_id: parts.process_id,
        bound_to: parts
            .bound_to
            .map(|(pid, started, boot, namespace)| Process {
                pid,
                started,
                boot: BootId(boot),
                namespace,
            }),
    })
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
        bound_to: lease.bound_to,
        request: parts.request,
        waiting: 0,
    })
}

fn request(parts: &Parts<'_>, is_challenged: bool) -> Option<Request> {
    let names = parts.name.split(' ').map(LockName::new);
    Some(Request {
        number: parts.numbers.1,
        id: parts.request.unwrap_or_default(),
        names: names.collect::<Result<_, _>>().ok()?,
        lease: lease(parts)?,
        asked_at: parts.numbers.2,
        until: deadline(parts.deadlines[0]),
        stands_until: deadline(parts.deadlines[1]),
        is_challenged,
    })
}
