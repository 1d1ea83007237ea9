//! Waits in the queue with one request, from joining the queue to its grant or its end.
//!
//! The head of a queue watches the lock's holder and its deadline. Every other request watches the
//! one right before its own. So one waiter notices each end. No waiter depends on a ping: a waiter
//! looks by itself every second, and more seldom if its watches tell it of every end.

use crate::base::Base;
use crate::claim::Claims;
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::grant::{
    Judged, apply, counted, create_all, drop_dead_before, grantable, plan, reserved, settle,
    withdraw,
};
use crate::holds::{Rows, mismatch};
use crate::lock::Lock;
use crate::manager::LockManager;
use crate::process::{Binding, Bound, Process};
use crate::queue::{Request, State, TRUST};
use crate::store::ReadTx;
use crate::wait::{Enlisted, LONGEST_SLEEP, Sleeper, Step, Woken};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a waiter may take at the end of its wait to give up, and to find the lock in its way.
const GRACE: Duration = Duration::from_millis(10);

/// How often the head of a queue looks at a beacon, of whose end the kernel tells no process: at
/// first, and once the head has waited for [`AT_FIRST`].
const BETWEEN_LOOKS: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(80)];
const AT_FIRST: Duration = Duration::from_secs(10);

/// How often a waiter looks if it cannot be pinged.
pub(crate) const UNPINGED: Duration = Duration::from_millis(50);

/// How long a waiter sleeps if it is pinged, and its watches tell it of each end that it waits for.
const WATCHED: Duration = Duration::from_secs(5);

/// How often a request that cannot be judged renews the trust in it.
const BETWEEN_TRUST: Duration = Duration::from_secs(10);

/// How many processes one waiter watches at most.
const MOST_WATCHED: usize = 64;

/// Shows the store to a waiter.
enum View {
    Granted(Vec<Lock>),
    /// Neither a request nor a grant is left.
    Gone,
    /// The request is the head of enough of its names, and admitted.
    MyTurn,
    /// The request before its own is dead.
    DeadBefore,
    Waiting(Outlook),
}

/// Lists the ends and the deadline that a waiter waits for.
#[derive(Default)]
struct Outlook {
    /// The holders and requests whose end would change something.
    watched: Vec<Binding>,
    /// Whether the request is the head for a name, and so watches a holder.
    is_head: bool,
    /// Whether the request is the head behind a job. The watched process may outlive other
    /// processes of the job, and they may outlive it.
    is_behind_job: bool,
    /// Whether more processes are in the way than one waiter watches.
    is_cut: bool,
    /// Whether some name would admit the request, though an earlier request comes first.
    is_some_free: bool,
    /// The time until the next deadline that the waiter has to look after.
    next: Option<Duration>,
    /// The obstacle to the first of its names that the request cannot have.
    in_the_way: Option<Error>,
}

impl Outlook {
    fn wake_in(&mut self, time: Option<Duration>) {
        self.next = self.next.into_iter().chain(time).min();
    }
}

/// Says how long a wait goes on at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounded {
    /// The call does not wait.
    Never,
    Until(Instant),
    Forever,
}

impl Bounded {
    pub(crate) fn by(bound: Duration) -> Self {
        match Instant::now().checked_add(bound) {
            _ if bound.is_zero() => Self::Never,
            Some(until) => Self::Until(until),
            None => Self::Forever,
        }
    }

    /// Returns how long the call may still wait.
    pub(crate) fn left(self) -> Duration {
        match self {
            Self::Never => Duration::ZERO,
            Self::Until(until) => until.saturating_duration_since(Instant::now()),
            Self::Forever => Duration::MAX,
        }
    }
}

/// Holds a request in the queue. A thread that waits sleeps between its steps. A future does not.
pub(crate) struct Waiter {
    // The entry is dropped before the manager.
    enlisted: Enlisted,
    manager: LockManager,
    request: Request,
    bounded: Bounded,
    sleeper: Arc<Sleeper>,
    /// The answer at the bound, if the store is too busy to find another.
    in_the_way: Error,
    began: Instant,
    quiet_since: Instant,
    trusted_at: Instant,
}

impl Waiter {
    pub(crate) fn new(
        manager: &LockManager,
        request: Request,
        bounded: Bounded,
        sleeper: &Arc<Sleeper>,
        in_the_way: Error,
    ) -> Self {
        let now = Instant::now();
        Self {
            enlisted: manager.0.base.watcher.enlist(request.id, sleeper),
            manager: manager.clone(),
            request,
            bounded,
            sleeper: Arc::clone(sleeper),
            in_the_way,
            began: now,
            quiet_since: now,
            trusted_at: now,
        }
    }

    fn base(&self) -> &Base {
        &self.manager.0.base
    }

    /// Returns how long the request has been in the queue.
    pub(crate) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes the next step of the wait, until the locks are granted. The answer is none if neither
    /// a request nor a grant is left. Every other end of the wait takes the request back.
    pub(crate) fn step(&mut self, woken: Woken) -> Step<Result<Option<Vec<Lock>>>> {
        let waited = match self.step_in_place(woken) {
            Ok(Step::Sleep(sleep)) => return Step::Sleep(sleep),
            Ok(Step::Done(locks)) => Ok(locks),
            Err(error) => Err(error),
        };
        match &waited {
            Ok(Some(_)) => {}
            Ok(None) => take_back(&self.manager, self.request.clone(), &Error::Cancelled),
            // The call that found this has taken the request back.
            Err(Error::Locked(_) | Error::Reserved { .. }) => {}
            Err(error) => take_back(&self.manager, self.request.clone(), error),
        }
        Step::Done(waited)
    }

    fn step_in_place(&mut self, woken: Woken) -> Result<Step<Option<Vec<Lock>>>> {
        if woken == Woken::Called {
            self.quiet_since = Instant::now();
        }
        loop {
            let now = self.base().now();
            let left = self.left(now);
            if self.sleeper.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if self.request.trusted_until.is_some() && self.trusted_at.elapsed() >= BETWEEN_TRUST {
                self.trusted_at = Instant::now();
                self.try_to(left, || self.renew_trust())?;
            }
            let is_quiet = self.quiet_since.elapsed() >= LONGEST_SLEEP;
            let bound = left.saturating_add(GRACE).min(LONGEST_SLEEP);
            let looked = self.base().store.within(bound, || {
                match self.look(now)? {
                    View::Waiting(outlook) if outlook.is_some_free && is_quiet => {
                        // An earlier request did not take a free name: its process may be stopped.
                        self.settle()?;
                        self.look(now).map(|view| (view, true))
                    }
                    view => Ok((view, false)),
                }
            });
            let looked = looked.map(|(view, is_settled)| {
                if is_settled {
                    self.quiet_since = Instant::now();
                }
                view
            });
            let is_done = match &looked {
                Ok(View::MyTurn) => self.try_to(left, || self.settle())?,
                Ok(View::DeadBefore) => self.try_to(left, || self.pass_dead())?,
                _ => false,
            };
            if is_done {
                continue;
            }
            let mut outlook = match looked {
                Ok(View::Granted(locks)) => return self.accept(locks).map(Step::Done),
                Ok(View::Gone) => return Ok(Step::Done(None)),
                Ok(View::Waiting(outlook)) => outlook,
                // Another process keeps the store busy: the waiter waits for it too.
                Ok(View::MyTurn | View::DeadBefore) | Err(Error::StoreBusy { .. }) => Outlook {
                    next: Some(UNPINGED),
                    ..Outlook::default()
                },
                Err(error) => return Err(error),
            };
            if let Some(in_the_way) = outlook.in_the_way.take() {
                self.in_the_way = in_the_way;
            }
            if left.is_zero() {
                let in_the_way = mem::replace(&mut self.in_the_way, Error::Cancelled);
                return self
                    .give_up(in_the_way)
                    .map(|locks| Step::Done(Some(locks)));
            }
            return Ok(Step::Sleep(self.watch(&outlook).min(left)));
        }
    }

    /// Returns how long the request may still wait, by the clock by which other processes judge it
    /// too.
    fn left(&self, now: Moment) -> Duration {
        let left = self.bounded.left();
        match self.request.until {
            Some(until) => left.min(until.time_left(now)),
            None => left,
        }
    }

    /// Writes within the rest of the wait, and says whether the write was done. If the store is too
    /// busy, the waiter tries again later.
    fn try_to(&self, left: Duration, write: impl FnOnce() -> Result<()>) -> Result<bool> {
        let store = &self.base().store;
        match store.within(left.clamp(GRACE, LONGEST_SLEEP), write) {
            Ok(()) => Ok(true),
            Err(Error::StoreBusy { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Watches the ends that the request waits for, and returns how long the thread may sleep.
    fn watch(&mut self, outlook: &Outlook) -> Duration {
        let base = &self.manager.0.base;
        let here = base.store.here();
        let processes: Vec<Process> = outlook.watched.iter().map(|it| it.process).collect();
        let all_watched = self.enlisted.watch(&processes);
        let waited = self.began.elapsed();
        // Its own manager ends with the waiter.
        let is_foreign = |it: &Process| it.namespaces.net != here.namespaces.net;
        if processes.iter().any(is_foreign) || here.namespaces.net == 0 {
            self.enlisted.watch_file(base.store.path());
        }
        let longest = match self.request.address {
            None => UNPINGED,
            Some(_) if outlook.is_head && (!all_watched || outlook.is_behind_job) => {
                BETWEEN_LOOKS[usize::from(waited >= AT_FIRST)]
            }
            Some(_) if all_watched && !outlook.is_cut && !outlook.is_some_free => WATCHED,
            Some(_) => LONGEST_SLEEP,
        };
        let longest = longest.min(self.base().longest_sleep());
        outlook.next.map_or(longest, |next| longest.min(next))
    }

    fn look(&self, now: Moment) -> Result<View> {
        self.base().store.read("wait in", |tx| self.view(tx, now))
    }

    fn view(&self, tx: &ReadTx<'_>, now: Moment) -> Result<View> {
        let request = tx.request(self.request.number)?;
        if request.is_none_or(|it| it.id != self.request.id) {
            return self.granted(tx, now);
        }
        let mut outlook = Outlook::default();
        let mut judged = Judged::default();
        let mut open = 0;
        for claim in &self.request.claims.list {
            let name = &claim.name;
            let holders = tx.in_the_way(claim, now)?;
            let before = tx.before(name, self.request.number)?;
            let before = before
                .map(|number| tx.request(number))
                .transpose()?
                .flatten();
            if let Some(before) = &before {
                if judged.state(tx.judge(), before, now) == State::Dead {
                    return Ok(View::DeadBefore);
                }
                outlook.watched.extend(before.lease.bound_to);
                // If that waiter is stopped, it does not leave the queue at its bound by itself.
                let until = before.until.map(|until| until.time_left(now));
                outlook.wake_in(until.map(|until| until + UNPINGED));
                // The request right behind the head looks after a head whose process is stopped.
                let theirs = before.claims.list.iter().find(|it| it.name == *name);
                if let Some(theirs) = theirs
                    && tx.before(name, before.number)?.is_none()
                {
                    outlook.is_some_free |= tx.in_the_way(theirs, now)?.is_empty();
                }
                // The head has its turn first.
                let next = holders.iter().filter_map(|lock| lock.time_left(now)).min();
                outlook.wake_in(next.map(|next| next + LONGEST_SLEEP));
            } else if holders.is_empty() {
                open += 1;
            }
            for lock in holders.iter().filter(|_| before.is_none()) {
                if let Some(mismatch) = mismatch(claim, lock) {
                    return Err(mismatch);
                }
                outlook.is_head = true;
                outlook.watched.extend(lock.bound_to);
                outlook.is_behind_job |= lock.bound_to.is_some_and(|it| it.kind == Bound::Job);
                outlook.wake_in(lock.time_left(now));
            }
            if outlook.in_the_way.is_none() {
                let locked = holders.into_iter().next();
                let locked = locked.map(|lock| Error::Locked(Box::new(lock)));
                outlook.in_the_way = locked.or_else(|| Some(reserved(name, before.as_ref()?)));
            }
        }
        if open >= self.request.claims.needed() {
            return Ok(View::MyTurn);
        }
        outlook.watched.dedup();
        outlook.is_cut = outlook.watched.len() > MOST_WATCHED;
        outlook.watched.truncate(MOST_WATCHED);
        Ok(View::Waiting(outlook))
    }

    fn granted(&self, tx: &ReadTx<'_>, now: Moment) -> Result<View> {
        let locks = self.find_granted(tx)?.into_iter();
        let locks = locks.filter_map(|lock| lock.if_live(now, tx.judge()));
        let locks: Vec<Lock> = locks.collect();
        Ok(match locks.len() == self.request.claims.needed() {
            true => View::Granted(locks),
            false => View::Gone,
        })
    }

    /// Finds the rows that the request was granted, living or not.
    fn find_granted(&self, tx: &impl Rows) -> Result<Vec<Lock>> {
        find_granted(tx, &self.request)
    }

    fn settle(&self) -> Result<()> {
        let names = self.request.claims.names();
        self.base()
            .write("lock in", |tx, now| settle(tx, names, now))
    }

    fn pass_dead(&self) -> Result<()> {
        self.base().write("lock in", |tx, now| {
            drop_dead_before(tx, &self.request, now)
        })
    }

    fn renew_trust(&self) -> Result<()> {
        self.base().write("wait in", |tx, now| {
            let request = tx.request(self.request.number)?;
            if let Some(mut request) = request.filter(|it| it.id == self.request.id) {
                request.trusted_until = TRUST.deadline(now)?;
                tx.put_request(&request)?;
            }
            Ok(())
        })
    }

    /// Leaves the queue at the end of its wait, and returns the obstacle. If the locks are granted
    /// by now, the waiter takes them.
    fn give_up(&self, in_the_way: Error) -> Result<Vec<Lock>> {
        let (base, claims) = (self.base(), &self.request.claims);
        let left = base.store.within(GRACE, || {
            base.write("stop waiting in", |tx, now| {
                let request = tx.request(self.request.number)?;
                if let Some(request) = request.filter(|it| it.id == self.request.id) {
                    withdraw(tx, &request, now)?;
                } else {
                    let rows = self.find_granted(tx)?;
                    let judge = tx.judge();
                    let granted = rows
                        .iter()
                        .filter_map(|row| row.clone().if_live(now, judge));
                    let granted: Vec<Lock> = granted.collect();
                    if granted.len() == claims.needed() {
                        return Ok(Ok(granted));
                    }
                    for row in &rows {
                        tx.remove(row)?;
                    }
                    settle(tx, claims.names(), now)?;
                }
                let plan = plan(tx, claims.names(), now)?;
                let claims = match grantable(tx, &plan, claims, now)? {
                    Ok(claims) => claims,
                    Err(obstacle) => return Ok(Err(counted(tx, obstacle, now)?)),
                };
                apply(tx, &plan, now)?;
                create_all(tx, &self.request.lease, &claims, Some(&self.request), now).map(Ok)
            })
        });
        match left {
            Ok(answer) => answer,
            Err(error @ Error::StoreBusy { .. }) => {
                take_back(&self.manager, self.request.clone(), &error);
                Err(in_the_way)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes over the granted locks. A request that is only trusted was granted a short lease, and
    /// gets the whole lease now. Returns none if the locks are gone already.
    fn accept(&self, locks: Vec<Lock>) -> Result<Option<Vec<Lock>>> {
        if self.request.trusted_until.is_none() {
            return Ok(Some(locks));
        }
        self.base().write("lock in", |tx, now| {
            let mut kept = Vec::with_capacity(locks.len());
            for lock in &locks {
                let Some(lock) = tx.same_hold(lock)? else {
                    return Ok(None);
                };
                kept.push(lock.renewed(self.request.lease.timeout, now)?);
            }
            kept.iter().try_for_each(|lock| tx.put(lock))?;
            Ok(Some(kept))
        })
    }
}

/// Finds the obstacle in the way of a request, without waiting for a writer.
pub(crate) fn obstacle_in_sight(manager: &LockManager, claims: &Claims) -> Result<Option<Error>> {
    let store = &manager.0.base.store;
    let look = || {
        store.read("read", |tx| {
            let now = manager.0.base.now();
            let mut judged = Judged::default();
            let mut open = 0;
            let mut in_the_way = None;
            for claim in &claims.list {
                let name = &claim.name;
                let holder = tx.in_the_way(claim, now)?.into_iter().next();
                let mut waiting = Vec::new();
                for number in tx.wanting(name)? {
                    waiting.extend(tx.request(number)?);
                }
                waiting.retain(|it| judged.state(tx.judge(), it, now) != State::Dead);
                let found = match (holder, waiting.first()) {
                    (Some(mut holder), _) => mismatch(claim, &holder).unwrap_or_else(|| {
                        holder.waiting = waiting.len();
                        Error::Locked(Box::new(holder))
                    }),
                    (None, Some(first)) => reserved(name, first),
                    (None, None) => {
                        open += 1;
                        continue;
                    }
                };
                in_the_way.get_or_insert(found);
                if claims.any.is_none() {
                    break;
                }
            }
            Ok(in_the_way.filter(|_| open < claims.needed()))
        })
    };
    store.within(GRACE, look)
}

/// Finds the rows that a request was granted, living or not.
fn find_granted(tx: &impl Rows, request: &Request) -> Result<Vec<Lock>> {
    let mut granted = Vec::new();
    for name in request.claims.names() {
        granted.extend(tx.granted(name, request.id)?);
    }
    Ok(granted)
}

/// Takes back a request after an error, and its locks if they are granted by now, so that nothing
/// stays behind. If the store is busy or full, the manager tries again in the background.
pub(crate) fn take_back(manager: &LockManager, request: Request, error: &Error) {
    let work = move |base: &Base| {
        base.write("stop waiting in", |tx, now| {
            let found = match request.number {
                0 => None,
                number => tx.request(number)?,
            };
            if let Some(found) = found.filter(|it| it.id == request.id) {
                withdraw(tx, &found, now)?;
            }
            for row in find_granted(tx, &request)? {
                tx.remove(&row)?;
            }
            settle(tx, request.claims.names(), now)
        })
    };
    // If the call found the store busy, it has waited its bound.
    let has_waited = matches!(error, Error::StoreBusy { .. });
    manager.undo(has_waited, work);
}
