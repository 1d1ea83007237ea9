//! Keeps the locks of a guard, and notes each loss: shared by the guard and the keeper's thread.
//!
//! Touches a lock only while that bears the token it was given, so never a successor's.

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

/// Carries the state that a guard and its keeper share.
pub(crate) struct Held {
    pub(crate) base: Arc<Base>,
    pub(crate) lease: Lease,
    keeps_alive: bool,
    on_lost: Option<OnLost>,
    /// The beacon of a job, until the job is left to itself.
    job: Mutex<Option<Beacon>>,
    state: Mutex<State>,
    /// Held by the thread that works on the store for this guard, one after the other. Other
    /// threads can ask meanwhile what the guard knows.
    work: Mutex<()>,
}

/// Records the locks, as far as the guard knows.
#[derive(Debug, Default)]
struct State {
    locks: Vec<Lock>,
    /// The first lock that was found lost, and its holder then.
    lost: Option<(Lock, Option<Lock>)>,
    /// The tokens of those whose release failed. It may be done anyway: then they are gone,
    /// and not lost.
    released: Vec<u64>,
}

/// Tells the fate of a lock that was held.
pub(crate) enum Fate {
    Held(Lock),
    Released,
    /// Its holder now, if it has one.
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

    /// Holds more locks.
    pub(crate) fn extend(&self, locks: Vec<Lock>) {
        self.state().locks.extend(locks);
    }

    /// Whether somebody wants to know of a loss.
    pub(crate) fn is_told(&self) -> bool {
        self.on_lost.is_some()
    }

    /// The lease that the keeper renews.
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

    /// The locks that it holds, as far as it knows.
    pub(crate) fn locks(&self) -> Vec<Lock> {
        self.state().locks.clone()
    }

    /// The same, without waiting for another thread.
    pub(crate) fn try_locks(&self) -> Option<Vec<Lock>> {
        let state = self.state.try_lock().ok()?;
        Some(state.locks.clone())
    }

    pub(crate) fn find(&self, name: &str) -> Option<Lock> {
        let state = self.state();
        state.locks.iter().find(|lock| lock.name == *name).cloned()
    }

    /// Finds out, or decides, what becomes of the locks; notes it, and tells of those lost.
    pub(crate) fn update(&self, work: impl FnOnce(&[Lock]) -> Result<Vec<Fate>>) -> Result<()> {
        let lost = self.update_silently(work)?;
        // The call may be of the guard's owner, and drop it.
        self.tell(&lost);
        Ok(())
    }

    /// The same, and leaves the telling to the caller.
    fn update_silently(
        &self,
        work: impl FnOnce(&[Lock]) -> Result<Vec<Fate>>,
    ) -> Result<Vec<Lock>> {
        let _working = self.work();
        let locks = self.locks();
        let fates = work(&locks)?;
        Ok(self.note(locks, fates))
    }

    /// Notes what became of locks that are still held, and returns those that were lost.
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
                    // A guard holds locks of what lives.
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

    /// Calls back for each lost lock. A panic of the call is its own: it ends neither the renewals
    /// nor the program.
    pub(crate) fn tell(&self, lost: &[Lock]) {
        if let Some(call) = &self.on_lost {
            for lock in lost {
                let _ = panic::catch_unwind(AssertUnwindSafe(|| call(lock)));
            }
        }
    }

    /// Looks whether all the locks are still there, notes those that were lost, and tells of them.
    pub(crate) fn look(&self) -> Result<bool> {
        let (is_held, lost) = self.look_silently()?;
        self.tell(&lost);
        Ok(is_held)
    }

    /// Looks, and fails if a lock was lost, also if another thread of this guard has found that at the
    /// same time and has yet to note it.
    pub(crate) fn look_and_check(&self) -> Result<()> {
        if !self.look()? && self.check().is_ok() {
            drop(self.work());
            self.look()?;
        }
        self.check()
    }

    /// Looks whether all the locks are still there, and leaves the telling to the caller. While
    /// another thread writes for this guard nothing is noted: its write finds out by itself.
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
                        // A lease that ran out may yet be renewed.
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

    /// Decides in one transaction about every lock that still bears its token; the others are lost.
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

    /// Releases those of the locks that are chosen, in one transaction.
    pub(crate) fn release(&self, is_chosen: impl Fn(&Lock) -> bool) -> Result<()> {
        let lost = self.release_silently(is_chosen)?;
        self.tell(&lost);
        Ok(())
    }

    /// The same, and leaves the telling of those that were lost to the caller.
    pub(crate) fn release_silently(&self, is_chosen: impl Fn(&Lock) -> bool) -> Result<Vec<Lock>> {
        self.update_silently(|locks| {
            let is_mine = |lock: &&Lock| is_chosen(lock);
            let chosen: Vec<Lock> = locks.iter().filter(is_mine).cloned().collect();
            if chosen.is_empty() {
                return Ok(locks.iter().cloned().map(Fate::Held).collect());
            }
            let removed = remove(&self.base, &chosen);
            let removed = removed.inspect_err(|error| {
                // A store that was busy did not begin to.
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

    /// Leaves the locks to their job: removes those that no other process of it holds, and says
    /// whether those were all. A row that is missing by now was free, and another took it.
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

    /// Ends the guard without a release, and returns what it held.
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

/// The holder that may have taken the place of a hold that is gone, and none that was beside it.
fn successor(tx: &impl Rows, lock: &Lock, now: Moment) -> Result<Option<Lock>> {
    let by = tx.first(&lock.name, now)?;
    Ok(by.filter(|by| by.mode != lock.mode || by.mode == Mode::Exclusive || by.token > lock.token))
}

/// Removes locks as long as they bear their tokens, and says of each whether it did.
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

/// Locks that were found lost, and whose they were.
pub(crate) type Losses = Vec<(Arc<Held>, Vec<Lock>)>;

/// Renews the leases of guards of one manager, in one transaction. A guard without a lease only
/// looks. A renewal comes first, also a late one: the lock is lost if another had it since, or if
/// nobody can find that out before another may have it. Returns the losses, and whether the
/// renewal was done.
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
                        // Past the calendar it stays as it is.
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
