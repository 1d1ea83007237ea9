//! Reads the holds of a name from the rows of a transaction.
//!
//! An exclusive hold is the row of the name. Each shared hold, or hold of slots, has its own row,
//! keyed by name and token, and the row of the name sums them up.

use crate::beacon::Judge;
use crate::claim::{Claim, Holding, Mode};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::lock::Lock;
use crate::name::LockName;
use crate::record::Named;
use std::ops::ControlFlow;

/// Says which holds are seen first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    OldestFirst,
    NewestFirst,
}

/// Shows the rows of locks.
pub(crate) trait Rows {
    /// Returns the row of that name.
    fn named(&self, name: &LockName) -> Result<Option<Named>>;

    /// Returns the row of the hold of that token, one of several of that name.
    fn one_of_several(&self, name: &LockName, token: u64) -> Result<Option<Lock>>;

    /// Shows the rows of the several holds of that name, living or not, until `see` breaks.
    fn several(
        &self,
        name: &LockName,
        order: Order,
        see: &mut dyn FnMut(Lock) -> ControlFlow<()>,
    ) -> Result<()>;

    /// Returns the judge of the things that locks are bound to.
    fn judge(&self) -> &Judge;

    /// Shows the living holds of that name, the oldest first, until `see` breaks.
    fn see_living(
        &self,
        name: &LockName,
        now: Moment,
        mut see: impl FnMut(Lock) -> ControlFlow<()>,
    ) -> Result<()> {
        match self.named(name)? {
            None => Ok(()),
            Some(Named::Alone(lock)) => {
                if let Some(lock) = lock.if_live(now, self.judge()) {
                    let _ = see(lock);
                }
                Ok(())
            }
            Some(Named::Summary(_)) => self.several(name, Order::OldestFirst, &mut |row| match row
                .if_live(now, self.judge())
            {
                Some(lock) => see(lock),
                None => ControlFlow::Continue(()),
            }),
        }
    }

    /// Returns the living holds of that name, the oldest first.
    fn living(&self, name: &LockName, now: Moment) -> Result<Vec<Lock>> {
        let mut living = Vec::new();
        self.see_living(name, now, |lock| {
            living.push(lock);
            ControlFlow::Continue(())
        })?;
        Ok(living)
    }

    /// Returns the first living hold of that name.
    fn first(&self, name: &LockName, now: Moment) -> Result<Option<Lock>> {
        let mut first = None;
        self.see_living(name, now, |lock| {
            first = Some(lock);
            ControlFlow::Break(())
        })?;
        Ok(first)
    }

    /// Returns the row of the hold of that name and token, living or not.
    fn hold(&self, name: &LockName, token: u64) -> Result<Option<Lock>> {
        match self.named(name)? {
            None => Ok(None),
            Some(Named::Alone(lock)) => Ok(Some(lock).filter(|lock| lock.token == token)),
            Some(Named::Summary(_)) => self.one_of_several(name, token),
        }
    }

    /// Returns the row of this hold as it is now, living or not, or none if the hold has ended.
    fn same_hold(&self, lock: &Lock) -> Result<Option<Lock>> {
        let row = self.hold(&lock.name, lock.token)?;
        Ok(row.filter(|row| row.is_same_hold(lock)))
    }

    /// Returns the row of the hold that the request of this id was granted of that name, living or
    /// not.
    fn granted(&self, name: &LockName, request: u64) -> Result<Option<Lock>> {
        let is_it = |lock: &Lock| lock.request == Some(request);
        match self.named(name)? {
            None => Ok(None),
            Some(Named::Alone(lock)) => Ok(Some(lock).filter(is_it)),
            Some(Named::Summary(_)) => {
                let mut found = None;
                // A waiter asks for the row right after the grant, so the row is among the newest.
                self.several(name, Order::NewestFirst, &mut |row| {
                    found = Some(row).filter(is_it);
                    match found {
                        Some(_) => ControlFlow::Break(()),
                        None => ControlFlow::Continue(()),
                    }
                })?;
                Ok(found)
            }
        }
    }

    /// Returns how the living holders hold that name.
    fn holding(&self, name: &LockName, now: Moment) -> Result<Holding> {
        let mut holding = Holding::Free;
        self.see_living(name, now, |lock| {
            holding = holding.and(lock.mode);
            match holding {
                Holding::Slots { .. } => ControlFlow::Continue(()),
                // The other holds add nothing.
                _ => ControlFlow::Break(()),
            }
        })?;
        Ok(holding)
    }

    /// Returns the living holds that a waiter waits for before this claim can be granted: all holds
    /// of the same slots, otherwise the oldest hold. Empty if the claim is admitted.
    fn in_the_way(&self, claim: &Claim, now: Moment) -> Result<Vec<Lock>> {
        let summary = match self.named(&claim.name)? {
            None => return Ok(Vec::new()),
            Some(Named::Alone(lock)) => {
                return Ok(lock.if_live(now, self.judge()).into_iter().collect());
            }
            Some(Named::Summary(summary)) => summary,
        };
        if !summary.is_of(claim.mode) {
            return Ok(self.first(&claim.name, now)?.into_iter().collect());
        }
        let of = summary.of.map_or(u64::MAX, u64::from);
        if summary.taken.saturating_add(claim.mode.slots()) <= of {
            return Ok(Vec::new());
        }
        // Rows of dead holds may be among them.
        let holds = self.living(&claim.name, now)?;
        let taken = holds.iter().fold(claim.mode.slots(), |taken, lock| {
            taken.saturating_add(lock.mode.slots())
        });
        Ok(if taken <= of { Vec::new() } else { holds })
    }
}

/// Returns the refusal of a claim that counts the slots of a name in another way than its holder.
pub(crate) fn mismatch(claim: &Claim, holder: &Lock) -> Option<Error> {
    match (claim.mode, holder.mode) {
        (Mode::Slots { of: asked, .. }, Mode::Slots { of: held, .. }) if asked != held => {
            Some(Error::SlotsMismatch {
                name: claim.name.clone(),
                asked,
                held,
            })
        }
        _ => None,
    }
}
