//! Asks for a set of locks: one transaction takes them or joins the queue.

use crate::beacon::{Beacon, draw_id};
use crate::claim::Claims;
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::grant::{apply, create_all, grantable, plan, refuse};
use crate::lock::{Lease, Lock};
use crate::manager::LockManager;
use crate::process::{Binding, Bound};
use crate::queue::{Request, TRUST};
use crate::store::Store;
use crate::timeout::{Deadline, Timeout};
use crate::wait::{LONGEST_SLEEP, Sleeper, Step, Woken};
use crate::waiter::{Bounded, UNPINGED, Waiter, obstacle_in_sight, take_back};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The lease of locks if no process could prove the end of their holder. The holder renews it as
/// long as it lives.
const UNPROVEN: Timeout = Timeout::After(Duration::from_secs(60));

/// Names the thing that the locks are bound to.
pub(crate) enum Bind {
    /// The manager, and a lease if its end cannot be proven and the caller chose none.
    Manager { has_lease: bool },
    /// A job, whose descriptor is opened when the request is made.
    Job {
        has_lease: bool,
        beacon: Option<Beacon>,
    },
    /// The same as the locks that the guard holds already.
    Same,
}

impl Bind {
    fn bind(&mut self, store: &Store, lease: &mut Lease) -> Result<()> {
        let has_lease = match self {
            Self::Same if lease.bound_to.is_some_and(|it| it.kind == Bound::Job) => return Ok(()),
            Self::Same => {
                lease.bound_to = Some(store.binding()?);
                return Ok(());
            }
            Self::Manager { has_lease } => {
                lease.bound_to = Some(store.binding()?);
                *has_lease
            }
            Self::Job { has_lease, beacon } => {
                let (binding, lit) = store.light_job()?;
                *beacon = lit;
                lease.bound_to = Some(binding);
                *has_lease
            }
        };
        if !has_lease && !lease.bound_to.as_ref().is_some_and(can_be_proven) {
            lease.timeout = UNPROVEN;
        }
        Ok(())
    }
}

/// Tells whether every process of the host that shares the store can prove the end of this one.
fn can_be_proven(binding: &Binding) -> bool {
    let is_process = binding.kind != Bound::Job;
    binding.file.is_some() || is_process && binding.process.is_in_initial_namespace()
}

/// Asks for locks, and waits for them.
pub(crate) struct Asker {
    // The waiter is dropped before the manager.
    waiter: Option<Waiter>,
    manager: LockManager,
    claims: Claims,
    pub(crate) lease: Lease,
    pub(crate) bind: Bind,
    bounded: Bounded,
    /// Whether the holder wants to be told if the locks are forced away.
    is_told: bool,
    sleeper: Arc<Sleeper>,
    /// The bound of the whole wait. A request that another process took for over must not begin a
    /// new bound. If the machine was suspended, a bound passes sooner by the clock that counts
    /// since boot.
    until: Option<Deadline>,
    began: Instant,
    has_asked: bool,
}

/// Says how an attempt ended.
enum Answer {
    Granted(Vec<Lock>),
    /// The request joined the queue. Carries the obstacle in its way then.
    Queued(Box<Request>, Error),
}

impl Asker {
    /// Begins to ask. Each attempt binds the lease.
    pub(crate) fn new(
        manager: &LockManager,
        claims: Claims,
        (lease, bind): (Lease, Bind),
        (bounded, sleeper): (Bounded, &Arc<Sleeper>),
        is_told: bool,
    ) -> Self {
        let mut asker = Self {
            waiter: None,
            manager: manager.clone(),
            claims,
            lease,
            bind,
            bounded,
            is_told,
            sleeper: Arc::clone(sleeper),
            until: None,
            began: Instant::now(),
            has_asked: false,
        };
        asker.until = asker.bound(manager.0.base.now());
        asker
    }

    /// Asks, and waits if the bound allows it.
    pub(crate) fn ask(&mut self) -> Result<Vec<Lock>> {
        let mut woken = Woken::Slept;
        loop {
            match self.step(woken) {
                Step::Sleep(most) => woken = self.sleeper.sleep(most),
                Step::Done(answer) => return answer,
            }
        }
    }

    /// Takes the next step. The sleeper gives the reason.
    pub(crate) fn step(&mut self, woken: Woken) -> Step<Result<Vec<Lock>>> {
        let answer = match self.step_on(woken) {
            Ok(Step::Sleep(most)) => return Step::Sleep(most),
            Ok(Step::Done(answer)) => answer,
            Err(error) => Err(error),
        };
        let waited = self.waiter.as_ref().map(Waiter::waited);
        let told = answer.as_ref().map(Vec::as_slice);
        self.manager.0.base.observer.answered(told, waited);
        Step::Done(answer)
    }

    fn step_on(&mut self, woken: Woken) -> Result<Step<Result<Vec<Lock>>>> {
        if let Some(waiter) = &mut self.waiter {
            return Ok(match waiter.step(woken) {
                Step::Sleep(most) => Step::Sleep(most),
                // The store was replaced, or the grant was forced away before it was seen.
                Step::Done(Ok(None)) => {
                    self.waiter = None;
                    Step::Sleep(Duration::ZERO)
                }
                Step::Done(waited) => {
                    Step::Done(waited.map(|locks| locks.expect("a grant has locks")))
                }
            });
        }
        let base = &self.manager.0.base;
        if self.claims.is_empty() {
            self.bind.bind(&base.store, &mut self.lease)?;
            return Ok(Step::Done(Ok(Vec::new())));
        }
        if self.bounded == Bounded::Never
            && let Ok(Some(error @ Error::Locked(_))) =
                obstacle_in_sight(&self.manager, &self.claims)
        {
            return Err(error);
        }
        if self.has_asked && self.sleeper.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.has_asked = true;
        let asked_at = Instant::now();
        match self.attempt() {
            Ok(Answer::Granted(locks)) => Ok(Step::Done(Ok(locks))),
            Ok(Answer::Queued(request, in_the_way)) => {
                let (manager, sleeper) = (&self.manager, &self.sleeper);
                let observer = &manager.0.base.observer;
                observer.queued(&request.claims, &in_the_way);
                let waiter = Waiter::new(manager, *request, self.bounded, sleeper, in_the_way);
                self.waiter = Some(waiter);
                Ok(Step::Sleep(Duration::ZERO))
            }
            Err(mut busy @ Error::StoreBusy { .. }) if self.bounded != Bounded::Never => {
                if self.sleeper.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                if self.left(self.until).is_zero() {
                    let found = obstacle_in_sight(&self.manager, &self.claims);
                    if let Error::StoreBusy { waited, .. } = &mut busy {
                        *waited = self.began.elapsed();
                    }
                    return Err(found.ok().flatten().unwrap_or(busy));
                }
                // An attempt that did not wait must not be repeated at once.
                let left = self.left(self.until).min(UNPINGED);
                Ok(Step::Sleep(left.saturating_sub(asked_at.elapsed())))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes an attempt. An attempt that may be repeated ends soon, so that the wait can be
    /// cancelled.
    fn attempt(&mut self) -> Result<Answer> {
        let (manager, bounded) = (self.manager.clone(), self.bounded);
        let store = &manager.0.base.store;
        let mut attempt = || {
            // Bind at each attempt: the store may be another file by now.
            self.bind.bind(store, &mut self.lease)?;
            self.enqueue(&self.request()?)
        };
        match bounded {
            Bounded::Never => attempt(),
            bounded => store.within(bounded.left().min(LONGEST_SLEEP), attempt),
        }
    }

    /// Returns the request as it would be queued, without a number.
    fn request(&self) -> Result<Request> {
        let lease = &self.lease;
        let now = self.manager.0.base.now();
        let waits = self.bounded != Bounded::Never;
        let is_proven = lease.bound_to.is_some_and(|it| it.file.is_some());
        Ok(Request {
            number: 0,
            id: draw_id(),
            claims: self.claims.clone(),
            lease: lease.clone(),
            asked_at: now.wall,
            until: self.until,
            // A request that does not wait is not in the queue, and needs no trust.
            trusted_until: match is_proven || !waits {
                true => None,
                false => TRUST.deadline(now)?,
            },
            address: match waits || self.is_told {
                true => self.manager.0.base.watcher.address(),
                false => None,
            },
        })
    }

    /// Returns how long the request may still wait, by the clock by which other processes judge it
    /// too.
    fn left(&self, until: Option<Deadline>) -> Duration {
        let left = self.bounded.left();
        match until {
            Some(until) => left.min(until.time_left(self.manager.0.base.now())),
            None => left,
        }
    }

    /// Returns when other processes may take the wait for over. A bound past the calendar is none.
    fn bound(&self, now: Moment) -> Option<Deadline> {
        match self.bounded {
            Bounded::Never | Bounded::Forever => None,
            Bounded::Until(_) => {
                let left = Timeout::After(self.bounded.left());
                left.deadline(now).unwrap_or_default()
            }
        }
    }

    /// Takes the locks if they are free, and joins the queue if the request may wait. If a commit
    /// fails but may be done, its changes are undone.
    fn enqueue(&self, request: &Request) -> Result<Answer> {
        let mut done = None;
        let result = self.manager.0.base.write("lock in", |tx, now| {
            let plan = plan(tx, request.claims.names(), now)?;
            let mut request = request.clone();
            let answer = match grantable(tx, &plan, &request.claims, now)? {
                Err(obstacle) if self.left(request.until).is_zero() => {
                    return refuse(tx, &plan, obstacle, now);
                }
                Err(obstacle) => {
                    apply(tx, &plan, now)?;
                    request.number = tx.next_request()?;
                    tx.put_request(&request)?;
                    Answer::Queued(Box::new(request.clone()), obstacle)
                }
                Ok(claims) => {
                    apply(tx, &plan, now)?;
                    let lease = &request.lease;
                    Answer::Granted(create_all(tx, lease, &claims, Some(&request), now)?)
                }
            };
            done = Some(request);
            Ok(answer)
        });
        if let (Err(error), Some(request)) = (&result, done) {
            take_back(&self.manager, request, error);
        }
        result
    }
}
