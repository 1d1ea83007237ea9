//! Asks for a set of locks: one transaction takes them or joins the queue.

use crate::beacon::draw_id;
use crate::claim::Claims;
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::grant::{apply, create_all, grantable, plan, refuse};
use crate::lock::{Lease, Lock};
use crate::manager::LockManager;
use crate::queue::{Request, TRUST};
use crate::timeout::{Deadline, Timeout};
use crate::wait::{LONGEST_SLEEP, Sleeper, Woken};
use crate::waiter::{Bounded, UNRUNG, Waiter, obstacle_in_sight, take_back};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Asks for locks, and waits for them.
pub(crate) struct Asker<'a> {
    pub(crate) manager: &'a LockManager,
    pub(crate) bounded: Bounded,
    /// Whether the holder wants to be told if the locks are forced away.
    pub(crate) is_told: bool,
    pub(crate) sleeper: &'a Arc<Sleeper>,
}

/// What asking came to.
enum Answer {
    Granted(Vec<Lock>),
    /// With what was in its way then.
    Queued(Box<Request>, Error),
}

impl Asker<'_> {
    /// Asks, and waits if it may. The lease is bound before it is asked for.
    pub(crate) fn ask(
        &self,
        claims: &Claims,
        lease: &mut Lease,
        mut bind: impl FnMut(&mut Lease) -> Result<()>,
    ) -> Result<Vec<Lock>> {
        if claims.is_empty() {
            return bind(lease).map(|()| Vec::new());
        }
        if self.bounded == Bounded::Never
            && let Ok(Some(error @ Error::Locked(_))) = obstacle_in_sight(self.manager, claims)
        {
            return Err(error);
        }
        let began = Instant::now();
        // Of the whole wait. A request that another took for over must not begin a new one: a bound
        // passes sooner by the clock that counts since boot if the machine was suspended.
        let until = self.until(self.manager.0.base.now());
        loop {
            let asked_at = Instant::now();
            let asked = self.in_bound(|| {
                // Again each time: the store may be another file by now.
                bind(lease)?;
                self.enqueue(&self.request(claims, lease, until)?)
            });
            match asked {
                Ok(Answer::Granted(locks)) => return Ok(locks),
                Ok(Answer::Queued(request, in_the_way)) => {
                    let waiter = Waiter {
                        manager: self.manager,
                        request: *request,
                        bounded: self.bounded,
                        sleeper: self.sleeper,
                    };
                    // None if neither a request nor a grant is left: the store was replaced, or the
                    // grant was forced away before it was seen.
                    if let Some(locks) = waiter.wait(in_the_way)? {
                        return Ok(locks);
                    }
                }
                Err(mut busy @ Error::StoreBusy { .. }) if self.bounded != Bounded::Never => {
                    // An attempt that did not wait must not be repeated at once.
                    let left = self.left(until).min(UNRUNG);
                    if asked_at.elapsed() < left && self.sleeper.sleep(left) == Woken::Cancelled
                        || self.sleeper.is_cancelled()
                    {
                        return Err(Error::Cancelled);
                    }
                    if self.left(until).is_zero() {
                        let found = obstacle_in_sight(self.manager, claims);
                        if let Error::StoreBusy { waited, .. } = &mut busy {
                            *waited = began.elapsed();
                        }
                        return Err(found.ok().flatten().unwrap_or(busy));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes an attempt. One that may be repeated ends soon, so that the wait can be cancelled.
    fn in_bound<T>(&self, attempt: impl FnOnce() -> T) -> T {
        match self.bounded {
            Bounded::Never => attempt(),
            bounded => {
                let most = bounded.left().min(LONGEST_SLEEP);
                self.manager.0.base.store.within(most, attempt)
            }
        }
    }

    /// The request as it would be queued, without a number.
    fn request(&self, claims: &Claims, lease: &Lease, until: Option<Deadline>) -> Result<Request> {
        let now = self.manager.0.base.now();
        let waits = self.bounded != Bounded::Never;
        let is_proven = lease.bound_to.is_some_and(|it| it.file.is_some());
        Ok(Request {
            number: 0,
            id: draw_id(),
            claims: claims.clone(),
            lease: lease.clone(),
            asked_at: now.wall,
            until,
            // One that does not wait is not in the queue, and needs no trust.
            trusted_until: match is_proven || !waits {
                true => None,
                false => TRUST.deadline(now)?,
            },
            bell: match waits || self.is_told {
                true => self.manager.0.base.watcher.bell(),
                false => None,
            },
        })
    }

    /// How long it may still wait: by the clock that others judge it by, too.
    fn left(&self, until: Option<Deadline>) -> Duration {
        let left = self.bounded.left();
        match until {
            Some(until) => left.min(until.time_left(self.manager.0.base.now())),
            None => left,
        }
    }

    /// When others may take the wait for over. A bound past the calendar is none.
    fn until(&self, now: Moment) -> Option<Deadline> {
        match self.bounded {
            Bounded::Never | Bounded::Forever => None,
            Bounded::Until(_) => {
                let left = Timeout::After(self.bounded.left());
                left.deadline(now).unwrap_or_default()
            }
        }
    }

    /// Takes the locks if it can, and joins the queue if it may wait. What a commit that failed
    /// may have done anyway is undone.
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
            take_back(self.manager, request, error);
        }
        result
    }
}
