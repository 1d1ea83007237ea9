//! Hands names over inside a transaction: plans for the names that it frees or wants, and writes
//! the plan.
//!
//! The transaction that frees a name grants it to the first request that can have it. So a
//! hand-over costs one commit, and no other call slips in between.

use crate::beacon::Judge;
use crate::claim::{Claim, Claims, Holding, Mode};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::holds::{Rows, mismatch};
use crate::lock::{Lease, Lock};
use crate::name::LockName;
use crate::process::{Binding, Standing};
use crate::queue::{Grant, Plan, Request, State, TRUST, View};
use crate::store::WriteTx;
use crate::timeout::Timeout;
use crate::wait::Ping;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// Shows a write transaction to a plan.
struct Sight<'a, 'b> {
    tx: &'a WriteTx<'b>,
    now: Moment,
    judged: RefCell<Judged>,
}

impl View for Sight<'_, '_> {
    type Error = Error;

    fn head(&self, name: &LockName, from: u64, without: &HashSet<u64>) -> Result<Option<u64>> {
        self.tx.head(name, from, without)
    }

    fn request(&self, number: u64) -> Result<Request> {
        self.tx.wanted(number)
    }

    fn holding(&self, name: &LockName) -> Result<Holding> {
        self.tx.holding(name, self.now)
    }

    fn state(&self, request: &Request) -> State {
        let mut judged = self.judged.borrow_mut();
        judged.state(self.tx.judge(), request, self.now)
    }
}

/// Plans for the names that a transaction frees or wants. Writes nothing.
pub(crate) fn plan<'n>(
    tx: &mut WriteTx<'_>,
    names: impl IntoIterator<Item = &'n LockName>,
    now: Moment,
) -> Result<Plan> {
    if tx.is_queue_empty()? {
        return Ok(Plan::default());
    }
    let sight = Sight {
        tx,
        now,
        judged: RefCell::default(),
    };
    Plan::for_names(&sight, names.into_iter().cloned())
}

/// Writes a plan, and notes which requests to ping after the commit.
pub(crate) fn apply(tx: &mut WriteTx<'_>, plan: &Plan, now: Moment) -> Result<()> {
    for request in &plan.dropped {
        tx.remove_request(request)?;
    }
    for it in &plan.granted {
        tx.remove_request(&it.request)?;
        grant(tx, it, now)?;
    }
    let granted = plan.granted.iter().map(|it| it.request.as_ref());
    tx.pings
        .extend(granted.chain(&plan.heads).filter_map(Ping::to));
    Ok(())
}

/// Plans for the names that a transaction freed, and writes the plan.
pub(crate) fn settle<'n>(
    tx: &mut WriteTx<'_>,
    names: impl IntoIterator<Item = &'n LockName>,
    now: Moment,
) -> Result<()> {
    let plan = plan(tx, names, now)?;
    apply(tx, &plan, now)
}

/// Removes a request, and settles the names that it held up. The next request for each name has
/// another one to watch now.
pub(crate) fn withdraw(tx: &mut WriteTx<'_>, request: &Request, now: Moment) -> Result<()> {
    tx.remove_request(request)?;
    settle(tx, request.claims.names(), now)?;
    for name in request.claims.names() {
        tell_first_from(tx, name, request.number)?;
    }
    Ok(())
}

/// Ends a hold: removes its row, or leaves the row that keeps the name taken, for which the head of
/// the name waits from now on. The caller settles the name.
pub(crate) fn end(tx: &mut WriteTx<'_>, row: &Lock, now: Moment) -> Result<()> {
    match row.left(now) {
        None if row.mode == Mode::Exclusive => return tx.remove(row),
        // The head may have waited for this hold, and now waits for the next hold of the name.
        None => tx.remove(row)?,
        Some(left) => tx.put(&left)?,
    }
    tell_head(tx, &row.name)
}

/// Pings the head of a name if the lock is now bound to another thing, or ends earlier.
pub(crate) fn tell_head(tx: &mut WriteTx<'_>, name: &LockName) -> Result<()> {
    if !tx.is_queue_empty()? {
        tell_first_from(tx, name, 0)?;
    }
    Ok(())
}

/// Pings the first request for a name from this number on.
fn tell_first_from(tx: &mut WriteTx<'_>, name: &LockName, number: u64) -> Result<()> {
    if let Some(next) = tx.head(name, number, &HashSet::new())? {
        let ping = Ping::to(&tx.wanted(next)?);
        tx.pings.extend(ping);
    }
    Ok(())
}

/// Creates absent locks, for a caller or for the request of this id.
pub(crate) fn create_all(
    tx: &mut WriteTx<'_>,
    lease: &Lease,
    claims: &[Claim],
    by: Option<&Request>,
    now: Moment,
) -> Result<Vec<Lock>> {
    // Sweep before the new rows are there, because reading those too costs more.
    tx.sweep(claims.len(), now)?;
    let mut create = |Claim { name, mode }: &Claim| {
        if *mode != Mode::Exclusive {
            tx.make_room(name, *mode, now)?;
        }
        let mut lock = lease.create(name.clone(), *mode, tx.next_token()?, now)?;
        lock.request = by.map(|request| request.id);
        lock.address = by.and_then(|request| request.address);
        tx.put(&lock)?;
        Ok(lock)
    };
    claims.iter().map(&mut create).collect()
}

/// Grants a request its locks. A request that is only trusted to live gets a lease no longer than
/// the trust. When its waiter looks, it takes the whole lease.
fn grant(tx: &mut WriteTx<'_>, grant: &Grant, now: Moment) -> Result<()> {
    let Grant {
        request,
        claims,
        state,
    } = grant;
    let mut lease = request.lease.clone();
    if *state == State::Trusted {
        lease.timeout = match (lease.timeout, TRUST) {
            (Timeout::After(a), Timeout::After(b)) => Timeout::After(a.min(b)),
            (Timeout::Never, other) | (other, Timeout::Never) => other,
        };
    }
    // A lease that would now end past the calendar is not granted: its caller gets the error when
    // it asks again.
    if lease.timeout.deadline(now).is_err() || lease.at_least_from(now).is_err() {
        return Ok(());
    }
    create_all(tx, &lease, claims, Some(request), now).map(drop)
}

/// Removes the dead requests that come right before this one, for each of its names.
pub(crate) fn drop_dead_before(tx: &mut WriteTx<'_>, request: &Request, now: Moment) -> Result<()> {
    if tx.is_queue_empty()? {
        return Ok(());
    }
    let mut judged = Judged::default();
    for name in request.claims.names() {
        // The request may have waited only for one that is dropped.
        while tx.request(request.number)?.is_some()
            && let Some(number) = tx.before(name, request.number)?
        {
            let before = tx.wanted(number)?;
            if judged.state(tx.judge(), &before, now) != State::Dead {
                break;
            }
            withdraw(tx, &before, now)?;
        }
    }
    Ok(())
}

/// Remembers judgements of managers and processes. One manager may have many locks and requests,
/// and judging it takes system calls.
#[derive(Default)]
pub(crate) struct Judged(HashMap<Option<Binding>, Standing>);

impl Judged {
    pub(crate) fn state(&mut self, judge: &Judge, request: &Request, now: Moment) -> State {
        let standing = |binding: &Option<Binding>| match binding {
            Some(binding) => judge.standing(binding),
            None => Standing::Unknown,
        };
        let binding = request.lease.bound_to;
        let standing = self.0.entry(binding).or_insert_with_key(standing);
        request.state(now, *standing)
    }

    /// Counts those of the requests that live.
    pub(crate) fn count(
        &mut self,
        judge: &Judge,
        requests: impl IntoIterator<Item = Result<Option<Request>>>,
        now: Moment,
    ) -> Result<usize> {
        let mut count = 0;
        for request in requests {
            if let Some(request) = request? {
                count += usize::from(self.state(judge, &request, now) != State::Dead);
            }
        }
        Ok(count)
    }
}

/// Returns the claims that a newcomer can have now, or the obstacle in its way.
///
/// # Errors
/// [`Error::SlotsMismatch`], which no wait mends.
pub(crate) fn grantable(
    tx: &WriteTx<'_>,
    plan: &Plan,
    claims: &Claims,
    now: Moment,
) -> Result<Result<Vec<Claim>, Error>> {
    let needed = claims.needed();
    let mut gets = Vec::with_capacity(needed);
    let mut in_the_way = None;
    for claim in &claims.list {
        if gets.len() == needed {
            break;
        }
        match obstacle(tx, plan, claim, now)? {
            None => gets.push(claim.clone()),
            Some(obstacle) => {
                in_the_way.get_or_insert(obstacle);
            }
        }
        if in_the_way.is_some() && claims.any.is_none() {
            break;
        }
    }
    Ok(match in_the_way {
        Some(obstacle) if gets.len() < needed => Err(obstacle),
        _ => Ok(gets),
    })
}

/// Returns the obstacle to this claim of a newcomer, if there is one now.
fn obstacle(tx: &WriteTx<'_>, plan: &Plan, claim: &Claim, now: Moment) -> Result<Option<Error>> {
    if let Some(holder) = tx.in_the_way(claim, now)?.into_iter().next() {
        return match mismatch(claim, &holder) {
            Some(mismatch) => Err(mismatch),
            None => Ok(Some(Error::Locked(Box::new(holder)))),
        };
    }
    let first = plan.first_for(&claim.name, claim.mode);
    Ok(first.map(|request| reserved(&claim.name, request)))
}

/// Adds the number of living requests that wait for the lock to the answer that the lock is held.
pub(crate) fn counted(tx: &WriteTx<'_>, mut error: Error, now: Moment) -> Result<Error> {
    if let Error::Locked(lock) | Error::LockFail(lock) = &mut error {
        let numbers = tx.wanting(&lock.name)?.into_iter();
        let requests = numbers.map(|number| tx.wanted(number).map(Some));
        lock.waiting = Judged::default().count(tx.judge(), requests, now)?;
    }
    Ok(error)
}

/// Refuses a newcomer. If an earlier request could be granted now, this grants it, and the
/// transaction commits the grant although the call is refused: the request's own process may be
/// stopped, and would keep the name from everybody.
pub(crate) fn refuse<T>(tx: &mut WriteTx<'_>, plan: &Plan, error: Error, now: Moment) -> Result<T> {
    if matches!(error, Error::Reserved { .. }) && !plan.granted.is_empty() {
        apply(tx, plan, now)?;
        tx.is_kept = true;
    }
    Err(error)
}

pub(crate) fn reserved(name: &LockName, request: &Request) -> Error {
    Error::Reserved {
        name: name.clone(),
        request: Box::new(request.clone()),
    }
}
