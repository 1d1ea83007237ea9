//! Handing over: what every transaction that may free a name, or take one, does about those who
//! wait.
//!
//! Whoever frees a name grants it in the same transaction, to the first request that can have
//! it, so that a hand-over costs one commit and nobody slips in between.

use crate::clock::{Clock, Moment};
use crate::error::{Error, Result};
use crate::lock::{Lease, Lock};
use crate::name::LockName;
use crate::queue::{self, PATIENCE, Request, Verdict};
use crate::store::{Store, WriteTx};
use crate::timeout::Timeout;
use std::collections::HashMap;

/// Requests that one newcomer to the queue judges. More than one bounds the queue: the dead are
/// found faster than they come.
const JUDGED_PER_NEWCOMER: u64 = 4;

/// The lock of that name, where it is live.
pub(crate) fn live(tx: &WriteTx<'_>, name: &LockName, now: Moment) -> Result<Option<Lock>> {
    Ok(tx.get(name)?.filter(|lock| lock.is_live(now)))
}

/// Runs `body` as one write transaction, after the queue was settled. What that did stays where
/// `body` is refused: in a transaction of its own, as its own was aborted.
pub(crate) fn write_settled<T>(
    store: &Store,
    clock: &Clock,
    action: &'static str,
    body: impl FnOnce(&mut WriteTx<'_>, &Queue, Moment) -> Result<T>,
) -> Result<T> {
    store.in_one_bound(|| {
        let mut has_settled = false;
        let result = store.write(action, |tx| {
            let now = clock.now();
            let queue = settle(tx, now)?;
            has_settled = tx.is_changed();
            body(tx, &queue, now)
        });
        if has_settled && matches!(&result, Err(error) if error.is_refusal()) {
            // Should it fail, the next who writes settles it.
            let _ = store.write(action, |tx| settle(tx, clock.now()).map(drop));
        }
        result
    })
}

/// Those who go on waiting.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    requests: Vec<Request>,
    /// The first of them for each name.
    claims: HashMap<LockName, usize>,
}

/// Grants what can be granted, drops who is dead, asks who cannot be judged, and says who goes on
/// waiting.
pub(crate) fn settle(tx: &mut WriteTx<'_>, now: Moment) -> Result<Queue> {
    if tx.is_queue_empty()? {
        return Ok(Queue::default());
    }
    let mut requests = tx.requests()?;
    let is_free = |name: &LockName| -> Result<bool> { Ok(live(tx, name, now)?.is_none()) };
    let outlook = queue::settle(&requests, now, is_free, |request| request.state(now))?;
    let mut claims = outlook.claims;
    for (place, verdict) in outlook.verdicts {
        let request = &mut requests[place];
        match verdict {
            Verdict::Grant => grant(tx, request, request.lease.timeout, now)?,
            Verdict::GrantOnItsWord => {
                let timeout = shorter(request.lease.timeout, PATIENCE);
                grant(tx, request, timeout, now)?;
            }
            Verdict::Challenge => {
                request.is_challenged = true;
                request.stands_until = PATIENCE.deadline(now).unwrap_or_default();
                tx.put_request(request)?;
                continue;
            }
            Verdict::Drop => {}
        }
        tx.remove_request(request.number)?;
        claims.retain(|_, claimant| *claimant != place);
        requests[place].names.clear();
    }
    Ok(Queue { requests, claims })
}

/// Creates a lock that is absent.
pub(crate) fn create(
    tx: &mut WriteTx<'_>,
    lease: &Lease,
    name: LockName,
    now: Moment,
) -> Result<Lock> {
    // Before the new row is there: to read those costs more.
    tx.sweep(1, now)?;
    put_new(tx, lease, name, None, now)
}

/// Creates locks that are absent, for who asked by the request of this id, if by any.
pub(crate) fn create_all(
    tx: &mut WriteTx<'_>,
    lease: &Lease,
    names: &[LockName],
    request: Option<u64>,
    now: Moment,
) -> Result<Vec<Lock>> {
    tx.sweep(names.len(), now)?;
    let put_new = |name: &LockName| put_new(tx, lease, name.clone(), request, now);
    names.iter().map(put_new).collect()
}

fn put_new(
    tx: &mut WriteTx<'_>,
    lease: &Lease,
    name: LockName,
    request: Option<u64>,
    now: Moment,
) -> Result<Lock> {
    let mut lock = lease.create(name, tx.next_token()?, now)?;
    lock.request = request;
    tx.put(&lock)?;
    Ok(lock)
}

fn grant(tx: &mut WriteTx<'_>, request: &Request, timeout: Timeout, now: Moment) -> Result<()> {
    let mut lease = request.lease.clone();
    lease.timeout = timeout;
    // A lease that would now end past the calendar is refused to who asked, when that asks anew.
    if lease.timeout.deadline(now).is_err() {
        return Ok(());
    }
    create_all(tx, &lease, &request.names, Some(request.id), now).map(drop)
}

fn shorter(a: Timeout, b: Timeout) -> Timeout {
    match (a, b) {
        (Timeout::After(a), Timeout::After(b)) => Timeout::After(a.min(b)),
        (Timeout::Never, other) | (other, Timeout::Never) => other,
    }
}

impl Queue {
    /// Removes the dead among a few of those who wait, others for each newcomer: they would pile
    /// up where nothing that they wait for becomes free.
    pub(crate) fn sweep(&self, tx: &mut WriteTx<'_>, newcomer: u64, now: Moment) -> Result<()> {
        let waiting = self.requests.len() as u64;
        for place in 0..waiting.min(JUDGED_PER_NEWCOMER) {
            let place = newcomer
                .wrapping_mul(JUDGED_PER_NEWCOMER)
                .wrapping_add(place)
                % waiting;
            let request = &self.requests[place as usize];
            let is_settled = request.names.is_empty();
            if !is_settled && !request.is_there(now) {
                tx.remove_request(request.number)?;
            }
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether somebody waits for this name, who comes before a newcomer.
    pub(crate) fn is_promised(&self, name: &LockName) -> bool {
        self.claims.contains_key(name)
    }

    /// That somebody who came earlier waits for this free name, where that is so.
    pub(crate) fn reservation(&self, name: &LockName) -> Option<Error> {
        let request = self.requests.get(*self.claims.get(name)?)?;
        Some(Error::Reserved {
            name: name.clone(),
            request: Box::new(request.clone()),
        })
    }

    /// The lock of that name, where it is live, with the number of those who wait for it.
    pub(crate) fn live(
        &self,
        tx: &WriteTx<'_>,
        name: &LockName,
        now: Moment,
    ) -> Result<Option<Lock>> {
        let Some(lock) = live(tx, name, now)? else {
            return Ok(None);
        };
        let waiting = self.requests.iter().filter(|request| request.wants(name));
        Ok(Some(Lock {
            waiting: waiting.count(),
            ..lock
        }))
    }

    /// Why a newcomer cannot have this name now, if it cannot.
    pub(crate) fn obstacle(
        &self,
        tx: &WriteTx<'_>,
        name: &LockName,
        now: Moment,
    ) -> Result<Option<Error>> {
        Ok(match self.live(tx, name, now)? {
            Some(held) => Some(Error::Locked(Box::new(held))),
            None => self.reservation(name),
        })
    }
}
