//! Holds the parts that every verb works with: the store, the clock, and the watcher that pings
//! after a commit.

use crate::clock::{Clock, Moment};
use crate::error::Result;
use crate::grant::counted;
use crate::name::Holder;
use crate::observe::Observer;
use crate::store::{Store, WriteTx};
use crate::wait::Watcher;
use std::sync::Arc;
use std::time::Duration;

/// How often a waiter looks at a manual clock.
const BY_A_MANUAL_CLOCK: Duration = Duration::from_millis(20);

/// Shares the parts of one manager among its verbs, its guards and its keeper.
#[derive(Debug)]
pub(crate) struct Base {
    // The fields are dropped in this order: once the store is closed, the watcher pings no waiter.
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) store: Store,
    clock: Clock,
    pub(crate) observer: Observer,
    /// The holder of locks for which the options name no other.
    pub(crate) locked_by: Holder,
}

impl Base {
    pub(crate) fn new(store: Store, clock: Clock, locked_by: Holder) -> Self {
        Self {
            watcher: Arc::new(Watcher::new(store.here())),
            store,
            clock,
            observer: Observer::default(),
            locked_by,
        }
    }

    /// Runs `body` as one write transaction, and pings the processes that the commit concerns.
    pub(crate) fn write<T>(
        &self,
        action: &'static str,
        body: impl FnOnce(&mut WriteTx<'_>, Moment) -> Result<T>,
    ) -> Result<T> {
        let mut pings = Vec::new();
        let result = self.store.write(action, |tx| {
            let now = self.now();
            let value = match body(tx, now) {
                Err(error) => Err(counted(tx, error, now)?),
                value => value,
            };
            pings = std::mem::take(&mut tx.pings);
            match value {
                Err(error) if !tx.is_kept => Err(error),
                answer => Ok(answer),
            }
        });
        self.observer.wrote(&result);
        if !self.watcher.ping(&pings) {
            self.store.touch();
        }
        result?
    }

    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Returns how long a waiter may sleep by its clock. A manual clock jumps, and wakes no waiter.
    pub(crate) fn longest_sleep(&self) -> Duration {
        match self.clock.is_manual() {
            true => BY_A_MANUAL_CLOCK,
            false => Duration::MAX,
        }
    }
}
