//! Records runs of random calls: the changes of each call to the file, and the state that it left.

use super::disk::{Event, Log, pick};
use crate::holding_support::{Dice, secs, until_queued};
use crate::support::{Home, noon};
use lockmgr::{
    Error, GetOptions, Lock, LockManager, LockRef, ManualClock, RenewOptions, Request, SetOptions,
    Timeout,
};
use std::thread;
use std::time::Duration;

/// The way in which a script opens its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    Exclusive,
    Shared,
    /// By two managers, in turns.
    TwoManagers,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Move {
    Advance(Duration),
    Reboot(Duration),
    /// The wall clock alone is set so much later.
    SetWall(Duration),
}

impl Move {
    pub(super) fn make(self, clock: &ManualClock) {
        match self {
            Self::Advance(by) => clock.advance(by),
            Self::Reboot(off) => clock.reboot(off),
            Self::SetWall(later) => clock.set_wall(clock.wall() + later),
        }
    }
}

/// The visible state of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    locks: Vec<Lock>,
    requests: Vec<Request>,
}

/// A waiter that gets no processor time for 10 s renews its trusted-until time between two calls. A
/// row changes then, but not the visible state.
impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        let seen = |it: &Request| {
            let times = (it.asked_at(), it.waits_until());
            (
                it.number(),
                it.claims().to_vec(),
                it.locked_by().clone(),
                times,
            )
        };
        let requests = |it: &Self| it.requests.iter().map(seen).collect::<Vec<_>>();
        self.locks == other.locks && requests(self) == requests(other)
    }
}

impl View {
    pub(super) fn of(manager: &LockManager) -> lockmgr::Result<Self> {
        Ok(Self {
            locks: manager.locks("")?,
            requests: manager.requests("")?,
        })
    }

    /// Describes the difference from the expected state.
    pub(super) fn difference(&self, expected: &Self) -> String {
        let names = |these: &Self, those: &Self| -> Vec<String> {
            let locks = these
                .locks
                .iter()
                .filter(|lock| !those.locks.contains(lock));
            locks
                .map(|lock| format!("{}#{}", lock.name(), lock.token()))
                .collect()
        };
        format!(
            "it lacks {:?}, has {:?} instead, and {} requests instead of {}",
            names(expected, self),
            names(self, expected),
            self.requests.len(),
            expected.requests.len()
        )
    }
}

/// The state after a call.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) view: View,
    /// The largest token that was issued.
    pub(super) token: u64,
    /// The number of times that the clock had been moved.
    pub(super) moves: usize,
}

/// A run: the file before it, what happened to the file, and the state before and after each
/// call.
#[derive(Clone, Debug)]
pub(super) struct Recording {
    pub(super) file: Vec<u8>,
    pub(super) events: Vec<Event>,
    pub(super) states: Vec<State>,
    pub(super) moves: Vec<Move>,
}

/// Runs so many steps of a random script, the same for the same seed.
pub(super) fn record(seed: u64, steps: usize, sharing: Sharing) -> Recording {
    let home = Home::in_memory();
    drop(home.open());
    let mut script = Script {
        log: Log::default(),
        sharing,
        managers: Vec::new(),
        clock: ManualClock::new(noon()),
        moves: Vec::new(),
        states: Vec::new(),
        dice: Dice(seed),
        home,
    };
    let file = script.home.bytes();
    script.open();
    script.note();
    for _ in 0..steps {
        script.step();
    }
    script.managers.clear();
    Recording {
        file,
        events: script.log.take(),
        states: script.states,
        moves: script.moves,
    }
}

struct Script {
    log: Log,
    sharing: Sharing,
    managers: Vec<LockManager>,
    clock: ManualClock,
    moves: Vec<Move>,
    states: Vec<State>,
    dice: Dice,
    home: Home,
}

impl Script {
    fn open(&mut self) {
        let handles = if self.sharing == Sharing::TwoManagers {
            2
        } else {
            1
        };
        while self.managers.len() < handles {
            let mut builder = LockManager::builder().locked_by("app");
            if self.sharing == Sharing::Exclusive {
                builder = builder.exclusive();
            }
            let builder = builder.clock(self.clock.clone());
            let manager = builder.storage_hook(self.log.hook()).open(self.home.db());
            self.managers.push(manager.unwrap());
        }
    }

    fn manager(&mut self) -> LockManager {
        pick(&self.managers, &mut self.dice).clone()
    }

    /// Records the state.
    fn note(&mut self) {
        let view = View::of(&self.managers[0]).unwrap();
        let tokens = view.locks.iter().map(Lock::token);
        let before = self.states.last().map_or(0, |state| state.token);
        self.states.push(State {
            token: tokens.fold(before, u64::max),
            view,
            moves: self.moves.len(),
        });
    }

    /// Makes one call, and records it.
    fn call<T>(&mut self, call: impl FnOnce(&mut Self) -> T) -> T {
        self.log.push(Event::Begun);
        let result = call(self);
        self.log.push(Event::Acknowledged);
        self.note();
        result
    }

    fn step(&mut self) {
        match self.dice.below(32) {
            0..=9 => self.set(6),
            10 => self.set(200),
            11..=13 => {
                let (name, options) = (self.name(), self.get_options());
                self.call(|this| answered(this.manager().get_lock(name, options)));
            }
            14..=16 => self.renew(),
            17..=19 => {
                let lock = self.some_lock();
                self.call(|this| answered(this.manager().unlock(lock.of())));
            }
            20 | 21 => {
                let locks: Vec<Named> = (0..self.dice.below(150))
                    .map(|_| self.some_lock())
                    .collect();
                self.call(|this| answered(this.manager().unlock_all(locks.iter().map(Named::of))));
            }
            22 => drop(self.call(|this| answered(this.manager().clean_locks()))),
            23 => drop(self.call(|this| answered(this.manager().reset_locks()))),
            24..=26 => self.move_clock(),
            27 => self.call(|this| {
                this.managers.remove(0);
                this.open();
            }),
            28 | 29 => self.hold(),
            _ => self.wait_in_line(),
        }
    }

    fn set(&mut self, most: u64) {
        let count = 1 + self.dice.below(most);
        let names: Vec<String> = (0..count).map(|_| self.name()).collect();
        let mut options = SetOptions::new().timeout(self.timeout());
        match self.dice.below(8) {
            0 => options = options.fail(),
            1 => options = options.no_renew(),
            2 => options = options.only_renew(),
            3 => options = options.locked_by("another app").process_id(7),
            4 => options = options.bound_to(std::process::id()),
            _ => {}
        }
        self.call(|this| answered(this.manager().set_lock(&names, options)));
    }

    fn renew(&mut self) {
        let lock = self.some_lock();
        let mut options = RenewOptions::new().timeout(self.timeout());
        match self.dice.below(4) {
            0 => options = options.add_time(),
            1 => options = options.create(),
            _ => {}
        }
        self.call(|this| answered(this.manager().renew_lock(lock.of(), options)));
    }

    fn move_clock(&mut self) {
        let by = secs(self.dice.below(90));
        let step = match self.dice.below(6) {
            0 => Move::Reboot(by),
            1 => Move::SetWall(by),
            _ => Move::Advance(by),
        };
        self.call(|this| this.make(step));
    }

    fn make(&mut self, step: Move) {
        self.moves.push(step);
        step.make(&self.clock);
    }

    /// Takes a guard, uses it and releases it.
    fn hold(&mut self) {
        let names = [self.name(), self.name()];
        let timeout = self.timeout();
        let manager = self.manager();
        let guard = self.call(|_| {
            answered(
                manager
                    .acquire(names)
                    .lease(timeout)
                    .no_keep_alive()
                    .try_lock(),
            )
        });
        let Some(mut guard) = guard else { return };
        let more = self.name();
        self.call(|_| answered(guard.try_lock(more)));
        self.call(|_| answered(guard.renew()));
        match self.dice.below(2) {
            0 => self.call(|_| drop(guard)),
            _ => drop(self.call(|_| answered(guard.detach()))),
        }
    }

    /// Lets two requests wait in line for names that no other request wants. One of them may reach
    /// its deadline. Each change is made while all others sleep, so each change is one call.
    fn wait_in_line(&mut self) {
        const PATIENCE: Duration = secs(60);
        let manager = self.manager();
        let mut held = self.call(|_| manager.acquire(["wait:a", "wait:b"]).try_lock().unwrap());
        let ask = |names: [&'static str; 2], patience| {
            let (asking, seen) = (manager.clone(), manager.clone());
            move |_: &mut Self| {
                let asking = thread::spawn(move || asking.acquire(names).try_lock_for(patience));
                until_queued(&seen, names[1], 1);
                asking
            }
        };
        let first = self.call(ask(["wait:c", "wait:a"], PATIENCE));
        let second = self.call(ask(["wait:c", "wait:b"], 100 * PATIENCE));
        let mut line = vec![first, second];
        if self.dice.below(2) == 0 {
            let first = line.remove(0);
            self.call(|this| {
                this.make(Move::Advance(PATIENCE));
                // A waiter looks by itself, at least every second.
                assert!(answered(first.join().unwrap()).is_none());
            });
        }
        for next in line {
            held = self.call(|_| {
                held.release().unwrap();
                next.join().unwrap().unwrap()
            });
        }
        self.call(|_| held.release().unwrap());
    }

    fn name(&mut self) -> String {
        match self.dice.below(3) {
            0 => format!("{:02}", self.dice.below(12)),
            // Long names fill pages.
            _ => format!("{:0120}", self.dice.below(300)),
        }
    }

    /// Refers to a lock by its name, or by a token that it has or had.
    fn some_lock(&mut self) -> Named {
        let mut locks = pick(&self.states, &mut self.dice).view.locks.clone();
        locks.retain(|lock| !lock.name().as_str().starts_with("wait:"));
        if locks.is_empty() || self.dice.below(3) == 0 {
            return Named::Name(self.name());
        }
        Named::Lock(Box::new(pick(&locks, &mut self.dice).clone()))
    }

    fn timeout(&mut self) -> Timeout {
        match self.dice.below(4) {
            0 => Timeout::Never,
            _ => Timeout::After(secs(1 + self.dice.below(400))),
        }
    }

    fn get_options(&mut self) -> GetOptions {
        GetOptions::new().timeout(self.timeout())
    }
}

enum Named {
    Name(String),
    Lock(Box<Lock>),
}

impl Named {
    fn of(&self) -> LockRef<'_> {
        match self {
            Self::Name(name) => name.as_str().into(),
            Self::Lock(lock) => lock.as_ref().into(),
        }
    }
}

/// Returns the answer of a call, unless the call was refused.
#[track_caller]
fn answered<T>(result: lockmgr::Result<T>) -> Option<T> {
    match result {
        Ok(answer) => Some(answer),
        Err(
            Error::Locked(_)
            | Error::LockFail(_)
            | Error::LockNotFound { .. }
            | Error::Reserved { .. }
            | Error::Lost { .. },
        ) => None,
        Err(error) => panic!("{error:?}"),
    }
}
