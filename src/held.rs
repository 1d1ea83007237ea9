//! Holds the locks of a guard, and notes what becomes of them. The guard and the keeper's thread
//! share it.
//!
//! It touches a lock only while the lock bears the token that the guard was given, so it never
//! touches a successor's lock.

use crate::base::Base;
use crate::beacon::Beacon;
use crate::claim::Mode;
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::grant::{end, settle};
use crate::holds::Rows;
use crate::lock::{Lease, Lock};
use crate::name::LockName;
use crate::store::WriteTx;
use crate::timeout::Timeout;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

pub(crate) type OnLost = Arc<dyn Fn(&Lock) + Send + Sync>;

/// Shares the state of a guard with its keeper.
pub(crate) struct Held {
    pub(crate) base: Arc<Base>,
    pub(crate) lease: Lease,
    keeps_alive: bool,
    on_lost: Option<OnLost>,
    /// The beacon of a job, until the guard leaves the locks to the job.
    job: Mutex<Option<Beacon>>,
    state: Mutex<State>,
    /// The mutex of the thread that works on the store for this guard. Meanwhile other threads can
    /// ask for the state of the guard.
    work: Mutex<()>,
}

/// Holds the state of a guard: its locks, and the losses that it knows.
#[derive(Debug, Default)]
struct State {
    locks: Vec<Lock>,
    /// The first lock that was found lost, and its holder then.
    lost: Option<(Lock, Option<Lock>)>,
    /// The tokens of the locks whose release failed. The release may be done anyway: then these
    /// locks are gone, and not lost.
    released: Vec<u64>,
}

/// Names the fate of a lock that was held.
pub(crate) enum Fate {
    Held(Lock),
    Released,
    /// The lock was lost. Carries its holder now, if it has one.
    Lost(Option<Lock>),
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("state", &self.state)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl Held {
    pub(crate) fn new(
        base: Arc<Base>,
        lease: Lease,
        job: Option<Beacon>,
        keeps_alive: bool,
        on_lost: Option<OnLost>,
    ) -> Self {
        Self {
            base,
            lease,
            keeps_alive,
            on_lost,
            job: Mutex::new(job),
            state: Mutex::default(),
            work: Mutex::default(),
        }
    }

    /// Adds locks to the guard.
    pub(crate) fn extend(&self, locks: Vec<Lock>) {
        self.state().locks.extend(locks);
    }

    /// Tells whether the guard has a callback for a loss.
    pub(crate) fn is_told(&self) -> bool {
        self.on_lost.is_some()
    }

    /// Returns the lease that the keeper renews.
    pub(crate) fn renewal(&self) -> Option<Duration> {
        match self.lease.timeout {
            Timeout::After(lease) if self.keeps_alive => Some(lease),
            _ => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> MutexGuard<'_, ()> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the locks that the guard holds, as it knows them.
    pub(crate) fn locks(&self) -> Vec<Lock> {
        self.state().locks.clone()
    }

    /// Returns the same, without waiting for another thread.
    pub(crate) fn try_locks(&self) -> Option<Vec<Lock>> {
        let state = self.state.try_lock().ok()?;
        Some(state.locks.clone())
    }

    pub(crate) fn find(&self, name: &str) -> Option<Lock> {
        let state = self.state();
        state.locks.iter().find(|lock| lock.name == *name).cloned()
    }

    /// Finds or decides the fates of the locks, notes them, and calls back for lost ones.
    pub(crate) fn update(&self, work: impl FnOnce(&[Lock]) -> Result<Vec<Fate>>) -> Result<()> {
        let lost = self.update_silently(work)?;
        // The callback may be the owner of the guard, and drop it.
        self.tell(&lost);
        Ok(())
    }

    /// Does the same, and leaves the callback to the caller.
    fn update_silently(
        &self,
        work: impl FnOnce(&[Lock]) -> Result<Vec<Fate>>,
    ) -> Result<Vec<Lock>> {
        let _working = self.work();
        let locks = self.locks();
        let fates = work(&locks)?;
        Ok(self.note(locks, fates))
    }

    /// Notes the fates of locks that are still held, and returns the lost ones.
    fn note(&self, locks: Vec<Lock>, fates: Vec<Fate>) -> Vec<Lock> {
        let keys = locks.into_iter().map(|lock| (lock.name, lock.token));
        let mut fates: HashMap<(LockName, u64), Fate> = keys.zip(fates).collect();
        let mut lost = Vec::new();
        let mut state = self.state();
        let mut unheld = HashSet::new();
        let (mut renewed, mut gone) = (0, 0);
        if self.is_told() {
            unheld.extend(state.locks.iter().filter_map(|lock| lock.request));
        }
        let State {
            locks,
            lost: first_lost,
            released,
        } = &mut *state;
        locks.retain_mut(
            |lock| match fates.remove(&(lock.name.clone(), lock.token)) {
                None => true,
                Some(Fate::Held(mut now)) => {
                    // A guard holds locks of living things only.
                    now.is_alive = now.bound_to.map(|_| true);
                    renewed += usize::from(lock.deadline != now.deadline);
                    // A lock that was renewed was not released.
                    if *lock != now {
                        released.retain(|&token| token != now.token);
                    }
                    *lock = now;
                    true
                }
                Some(Fate::Released) => {
                    gone += 1;
                    false
                }
                Some(Fate::Lost(_)) if released.contains(&lock.token) => false,
                Some(Fate::Lost(by)) => {
                    lost.push(lock.clone());
                    first_lost.get_or_insert_with(|| (lock.clone(), by));
                    false
                }
            },
        );
        for id in locks.iter().filter_map(|lock| lock.request) {
            unheld.remove(&id);
        }
        drop(state);
        self.strike(unheld);
        let observer = &self.base.observer;
        lost.iter().for_each(|lock| observer.lost(lock));
        observer.renewed(renewed);
        observer.released(gone);
        lost
    }

    /// Calls back for each lost lock. A panic of the callback ends neither the renewals nor the
    /// program.
    pub(crate) fn tell(&self, lost: &[Lock]) {
        if let Some(call) = &self.on_lost {
            for lock in lost {
                let _ = panic::catch_unwind(AssertUnwindSafe(|| call(lock)));
            }
        }
    }

    /// Looks whether all the locks are still there, notes the lost ones, and calls back for them.
    pub(crate) fn look(&self) -> Result<bool> {
        let (is_held, lost) = self.look_silently()?;
        self.tell(&lost);
        Ok(is_held)
    }

    /// Looks, and fails if a lock was lost. It also fails if another thread of this guard has found
    /// a loss at the same time and has not noted it yet.
    pub(crate) fn look_and_check(&self) -> Result<()> {
        if !self.look()? && self.check().is_ok() {
            drop(self.work());
            self.look()?;
        }
        self.check()
    }

    /// Looks whether all the locks are still there, and leaves the callback to the caller. While
    /// another thread writes for this guard, this notes nothing: that write finds losses by itself.
    pub(crate) fn look_silently(&self) -> Result<(bool, Vec<Lock>)> {
        let working = self.work.try_lock();
        let is_alone = !matches!(working, Err(TryLockError::WouldBlock));
        let (locks, released) = {
            let state = self.state();
            (state.locks.clone(), state.released.clone())
        };
        if locks.is_empty() {
            return Ok((self.state().lost.is_none(), Vec::new()));
        }
        let mut is_held = true;
        let mut fates = Vec::with_capacity(locks.len());
        self.base.store.read("read", |tx| {
            let now = self.base.now();
            for lock in &locks {
                fates.push(match tx.same_hold(lock)? {
                    Some(row) => {
                        // A lease that ran out may still be renewed.
                        is_held &= !row.is_expired(now) || released.contains(&lock.token);
                        Fate::Held(lock.clone())
                    }
                    None => {
                        is_held &= released.contains(&lock.token);
                        Fate::Lost(successor(tx, lock, now)?)
                    }
                });
            }
            Ok(())
        })?;
        let lost = match is_alone {
            true => self.note(locks, fates),
            false => Vec::new(),
        };
        Ok((is_held && self.state().lost.is_none(), lost))
    }

    /// Fails if a lock was lost.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.state().lost {
            None => Ok(()),
            Some((lock, by)) => Err(Error::Lost {
                lock: Box::new(lock.clone()),
                by: by.clone().map(Box::new),
            }),
        }
    }

    /// Decides in one transaction about every lock that still bears its token. The others are lost.
    pub(crate) fn change(
        &self,
        action: &'static str,
        mut decide: impl FnMut(&mut WriteTx<'_>, Lock, Moment) -> Result<Fate>,
    ) -> Result<()> {
        self.update(|locks| {
            if locks.is_empty() {
                return Ok(Vec::new());
            }
            self.base.write(action, |tx, now| {
                let decide = |lock: &Lock| match tx.same_hold(lock)? {
                    Some(row) => decide(tx, row, now),
                    None => Ok(Fate::Lost(successor(tx, lock, now)?)),
                };
                locks.iter().map(decide).collect()
            })
        })
    }

    /// Releases the chosen locks, in one transaction.
    pub(crate) fn release(&self, is_chosen: impl Fn(&Lock) -> bool) -> Result<()> {
        let lost = self.release_silently(is_chosen)?;
        self.tell(&lost);
        Ok(())
    }

    /// Does the same, and leaves the callback for lost locks to the caller.
    pub(crate) fn release_silently(&self, is_chosen: impl Fn(&Lock) -> bool) -> Result<Vec<Lock>> {
        self.update_silently(|locks| {
            let is_mine = |lock: &&Lock| is_chosen(lock);
            let chosen: Vec<Lock> = locks.iter().filter(is_mine).cloned().collect();
            if chosen.is_empty() {
                return Ok(locks.iter().cloned().map(Fate::Held).collect());
            }
            let removed = remove(&self.base, &chosen);
            let removed = removed.inspect_err(|error| {
                // If the store was busy, the write did not begin.
                if !matches!(error, Error::StoreBusy { .. }) {
                    let tokens = chosen.iter().map(|lock| lock.token);
                    self.state().released.extend(tokens);
                }
            });
            let mut removed = removed?.into_iter();
            let fate = |lock: &Lock| match is_chosen(lock) {
                false => Fate::Held(lock.clone()),
                true if removed.next() == Some(true) => Fate::Released,
                true => Fate::Lost(None),
            };
            Ok(locks.iter().map(fate).collect())
        })
    }

    #[cfg(unix)]
    pub(crate) fn job_descriptor(&self) -> Option<std::os::fd::OwnedFd> {
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        let file = job.as_ref()?.file.try_clone().ok()?;
        Some(file.into())
    }

    /// Closes this process's copy of the job's descriptor, and says whether there was one.
    pub(crate) fn close_job(&self) -> bool {
        let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        job.take().is_some()
    }

    /// Leaves the locks to their job: removes those that no other process of the job holds, and
    /// says whether these were all. If a row is missing by now, its lock was free and another
    /// holder took it.
    pub(crate) fn leave_to_job(&self) -> Result<bool> {
        let mut all_free = true;
        self.update(|locks| {
            self.base.write("release locks in", |tx, now| {
                let mut free = Vec::new();
                let mut fates = Vec::with_capacity(locks.len());
                for lock in locks {
                    let row = tx.same_hold(lock)?;
                    let is_over =
                        |row: &Lock| row.bound_to.is_some_and(|it| tx.judge().is_gone(&it));
                    if row.as_ref().is_some_and(|row| !is_over(row)) {
                        all_free = false;
                        fates.push(Fate::Held(lock.clone()));
                        continue;
                    }
                    if let Some(row) = row {
                        end(tx, &row, now)?;
                    }
                    free.push(&lock.name);
                    fates.push(Fate::Released);
                }
                settle(tx, free, now)?;
                Ok(fates)
            })
        })?;
        Ok(all_free)
    }

    /// Ends the guard without a release, and returns its locks.
    pub(crate) fn leave(&self) -> Vec<Lock> {
        let locks = std::mem::take(&mut self.state().locks);
        self.strike(locks.iter().filter_map(|lock| lock.request));
        locks
    }

    fn strike(&self, ids: impl IntoIterator<Item = u64>) {
        if self.is_told() {
            let watcher = &self.base.watcher;
            ids.into_iter().for_each(|id| watcher.strike(id));
        }
    }
}

/// Returns the holder that may have taken the name after a hold that is gone. It is never one that
/// held the name beside it.
fn successor(tx: &impl Rows, lock: &Lock, now: Moment) -> Result<Option<Lock>> {
    let by = tx.first(&lock.name, now)?;
    Ok(by.filter(|by| by.mode != lock.mode || by.mode == Mode::Exclusive || by.token > lock.token))
}

/// Removes locks if they bear their tokens, and says for each whether it was removed.
pub(crate) fn remove(base: &Base, locks: &[Lock]) -> Result<Vec<bool>> {
    base.write("release locks in", |tx, now| {
        let mut removed = Vec::with_capacity(locks.len());
        let mut free: Vec<&LockName> = Vec::with_capacity(locks.len());
        for lock in locks {
            let row = tx.same_hold(lock)?;
            removed.push(row.is_some());
            if let Some(row) = row {
                end(tx, &row, now)?;
                free.push(&lock.name);
            }
        }
        settle(tx, free, now)?;
        Ok(removed)
    })
}

/// Lists the locks that were found lost, with the guards that held them.
pub(crate) type Losses = Vec<(Arc<Held>, Vec<Lock>)>;

/// Renews the leases of guards of one manager, in one transaction. For a guard without a lease this
/// only looks. A renewal is tried first, also a late one: the lock is lost if another holder had it
/// since, or if this process cannot know that before another holder may have it. Returns the
/// losses, and whether the renewal was done.
pub(crate) fn renew_all(guards: &[Arc<Held>]) -> (Losses, bool) {
    let mut losses = Losses::new();
    let (leased, others): (Vec<_>, Vec<_>) =
        guards.iter().partition(|held| held.renewal().is_some());
    for held in others {
        let lost = held.look_silently().map_or(Vec::new(), |(_, lost)| lost);
        losses.push((Arc::clone(held), lost));
    }
    let Some(first) = leased.first() else {
        return (losses, true);
    };
    let working: Vec<_> = leased.iter().map(|held| held.work()).collect();
    let locks: Vec<Vec<Lock>> = leased.iter().map(|held| held.locks()).collect();
    let renewed = first.base.write("renew locks in", |tx, now| {
        let mut all = Vec::with_capacity(leased.len());
        for (held, locks) in leased.iter().zip(&locks) {
            let mut fates = Vec::with_capacity(locks.len());
            for lock in locks {
                fates.push(match tx.same_hold(lock)? {
                    Some(row) => {
                        // If the new deadline is past the calendar, the lease stays as it is.
                        let row = row.renewed(held.lease.timeout, now).unwrap_or(row);
                        tx.put(&row)?;
                        Fate::Held(row)
                    }
                    None => Fate::Lost(successor(tx, lock, now)?),
                });
            }
            all.push(fates);
        }
        Ok(all)
    });
    let is_renewed = renewed.is_ok();
    let fates = renewed.unwrap_or_else(|_| {
        let now = first.base.now();
        let fate = |lock: &Lock| match lock.is_expired(now) {
            true => Fate::Lost(None),
            false => Fate::Held(lock.clone()),
        };
        let fates_of = |locks: &Vec<Lock>| locks.iter().map(fate).collect();
        locks.iter().map(fates_of).collect()
    });
    for ((held, locks), fates) in leased.iter().zip(locks).zip(fates) {
        losses.push((Arc::clone(held), held.note(locks, fates)));
    }
    drop(working);
    (losses, is_renewed)
}
