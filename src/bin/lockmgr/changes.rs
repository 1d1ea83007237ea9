//! Finds the changes between two looks at a store: pure.
//!
//! A look sees neither what came and went since the last one nor why a lock is absent. The kinds of
//! end are told by what the looks show.

use lockmgr::{Lock, Mode, Request};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// One lock, as a look saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) mode: Mode,
    pub(crate) locked_by: String,
    pub(crate) process_id: Option<u32>,
    /// Microseconds since 1970.
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    pub(crate) locked_until: Option<i64>,
    /// The hold has ended, and the name stays taken.
    pub(crate) is_left: bool,
}

/// One request, as a look saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) names: Vec<String>,
    /// Of each name.
    pub(crate) modes: Vec<Mode>,
    /// So many of the names, if not all.
    pub(crate) any: Option<u32>,
    pub(crate) locked_by: String,
    pub(crate) process_id: Option<u32>,
    pub(crate) asked_at: i64,
}

/// One look at the store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    /// When, in microseconds since 1970.
    pub(crate) at: i64,
    /// By name and token.
    pub(crate) locks: BTreeMap<(String, u64), Held>,
    /// By number.
    pub(crate) requests: BTreeMap<u64, Asked>,
    /// Locks that are absent because what they were bound to is gone, by name and token.
    pub(crate) dead: BTreeSet<(String, u64)>,
}

/// The kind of a change of a lock or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A request waits.
    Asked,
    Granted,
    Renewed,
    Released,
    /// Its deadline came.
    Expired,
    /// The process, manager or job that it was bound to is gone.
    Freed,
    /// A request is gone: it gave up, or what it was granted was given back before the next look.
    Left,
}

/// One change, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) names: Vec<String>,
    /// Of each name.
    pub(crate) modes: Vec<Mode>,
    /// So many of the names, if not all.
    pub(crate) any: Option<u32>,
    pub(crate) token: Option<u64>,
    pub(crate) locked_by: String,
    pub(crate) process_id: Option<u32>,
    /// Microseconds since 1970.
    pub(crate) locked_until: Option<i64>,
}

impl Look {
    pub(crate) fn of(at: i64, locks: &[Lock], requests: &[Request], dead: &[Lock]) -> Self {
        let key = |lock: &Lock| (lock.name().to_string(), lock.token());
        let held = |lock: &Lock| Held {
            mode: lock.mode(),
            locked_by: lock.locked_by().to_string(),
            process_id: process_of(lock),
            created_at: lock.created_at().timestamp_micros(),
            updated_at: lock.updated_at().timestamp_micros(),
            locked_until: lock.locked_until().map(|until| until.timestamp_micros()),
            is_left: lock.is_at_least(),
        };
        let asked = |request: &Request| Asked {
            names: request.names().iter().map(ToString::to_string).collect(),
            modes: request.claims().iter().map(|claim| claim.mode()).collect(),
            any: request.any(),
            locked_by: request.locked_by().to_string(),
            process_id: request.process_id(),
            asked_at: request.asked_at().timestamp_micros(),
        };
        Self {
            at,
            locks: locks.iter().map(|it| (key(it), held(it))).collect(),
            requests: requests.iter().map(|it| (it.number(), asked(it))).collect(),
            dead: dead.iter().map(key).collect(),
        }
    }

    /// Whether a lock of this look may be what the request was granted.
    fn grants(&self, asked: &Asked) -> bool {
        let mut locks = self.locks.iter();
        locks.any(|((name, _), held)| {
            asked.names.contains(name)
                && held.locked_by == asked.locked_by
                && held.process_id == asked.process_id
                && held.created_at >= asked.asked_at
        })
    }
}

fn process_of(lock: &Lock) -> Option<u32> {
    let bound_to = lock.bound_to().map(|it| it.process_id());
    bound_to.or(lock.process_id())
}

/// Returns the changes: ends first, then the locks and requests that took their place.
pub(crate) fn between(before: &Look, after: &Look) -> Vec<Change> {
    let mut changes = Vec::new();
    for (key, held) in &before.locks {
        let has_ended = |now: &Held| now.is_left && !held.is_left;
        if after.locks.get(key).is_none_or(has_ended) {
            let is_over = held.locked_until.is_some_and(|until| until <= after.at);
            let kind = match () {
                () if after.dead.contains(key) => Kind::Freed,
                () if is_over => Kind::Expired,
                () => Kind::Released,
            };
            changes.push(of_lock(kind, key, held));
        }
    }
    for (number, asked) in &before.requests {
        let is_granted = || after.grants(asked) || before.grants(asked);
        if !after.requests.contains_key(number) && !is_granted() {
            changes.push(of_request(Kind::Left, asked));
        }
    }
    for (key, held) in &after.locks {
        match before.locks.get(key) {
            None => changes.push(of_lock(Kind::Granted, key, held)),
            Some(was) if was.updated_at != held.updated_at => {
                changes.push(of_lock(Kind::Renewed, key, held));
            }
            Some(_) => {}
        }
    }
    for (number, asked) in &after.requests {
        if !before.requests.contains_key(number) {
            changes.push(of_request(Kind::Asked, asked));
        }
    }
    changes
}

fn of_lock(kind: Kind, (name, token): &(String, u64), held: &Held) -> Change {
    Change {
        kind,
        names: vec![name.clone()],
        modes: vec![held.mode],
        any: None,
        token: Some(*token),
        locked_by: held.locked_by.clone(),
        process_id: held.process_id,
        locked_until: held.locked_until,
    }
}

fn of_request(kind: Kind, asked: &Asked) -> Change {
    Change {
        kind,
        names: asked.names.clone(),
        modes: asked.modes.clone(),
        any: asked.any,
        token: None,
        locked_by: asked.locked_by.clone(),
        process_id: asked.process_id,
        locked_until: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(until: Option<i64>, updated_at: i64) -> Held {
        Held {
            mode: Mode::Exclusive,
            locked_by: "app".into(),
            process_id: Some(7),
            created_at: 10,
            updated_at,
            locked_until: until,
            is_left: false,
        }
    }

    fn asked(name: &str) -> Asked {
        Asked {
            names: vec![name.into()],
            modes: vec![Mode::Exclusive],
            any: None,
            locked_by: "app".into(),
            process_id: Some(7),
            asked_at: 5,
        }
    }

    fn look(at: i64, locks: &[(&str, u64, Held)], requests: &[(u64, Asked)]) -> Look {
        let locks = locks.iter();
        Look {
            at,
            locks: locks
                .map(|(name, token, held)| ((name.to_string(), *token), held.clone()))
                .collect(),
            requests: requests.iter().cloned().collect(),
            dead: BTreeSet::new(),
        }
    }

    fn kinds(before: &Look, after: &Look) -> Vec<Kind> {
        let changes = between(before, after).into_iter();
        changes.map(|change| change.kind).collect()
    }

    #[test]
    fn hold_that_leaves_its_name_taken_ends_once() {
        let left = Held {
            is_left: true,
            ..held(Some(200), 10)
        };
        let held = look(50, &[("a", 1, held(None, 10))], &[]);
        let left = look(100, &[("a", 1, left)], &[]);
        assert_eq!(kinds(&held, &left), [Kind::Released]);
        assert_eq!(kinds(&left, &left), []);
        assert_eq!(kinds(&left, &look(200, &[], &[])), [Kind::Expired]);
    }

    #[test]
    fn ends_of_a_lock_are_told_apart() {
        let nothing = look(100, &[], &[]);
        let open = look(50, &[("a", 1, held(None, 10))], &[]);
        let timed = look(50, &[("a", 1, held(Some(100), 10))], &[]);
        let longer = look(50, &[("a", 1, held(Some(101), 10))], &[]);
        assert_eq!(kinds(&open, &nothing), [Kind::Released]);
        assert_eq!(kinds(&timed, &nothing), [Kind::Expired]);
        assert_eq!(kinds(&longer, &nothing), [Kind::Released]);
        let mut dead = nothing.clone();
        dead.dead.insert(("a".into(), 1));
        assert_eq!(kinds(&open, &dead), [Kind::Freed]);
        assert_eq!(kinds(&nothing, &nothing), []);
        assert_eq!(kinds(&nothing, &open), [Kind::Granted]);
    }

    #[test]
    fn renewal_and_succession_are_seen() {
        let first = look(50, &[("a", 1, held(None, 10))], &[]);
        let renewed = look(60, &[("a", 1, held(None, 55))], &[]);
        let successor = look(60, &[("a", 2, held(None, 10))], &[]);
        assert_eq!(kinds(&first, &renewed), [Kind::Renewed]);
        let change = between(&first, &successor);
        let seen: Vec<_> = change.iter().map(|it| (it.kind, it.token)).collect();
        assert_eq!(seen, [(Kind::Released, Some(1)), (Kind::Granted, Some(2))]);
    }

    #[test]
    fn request_that_vanishes_was_granted_or_given_up() {
        let nothing = look(50, &[], &[]);
        let waiting = look(50, &[], &[(3, asked("a"))]);
        let granted = look(60, &[("a", 2, held(None, 10))], &[]);
        let other = look(60, &[("b", 2, held(None, 10))], &[]);
        assert_eq!(kinds(&nothing, &waiting), [Kind::Asked]);
        assert_eq!(kinds(&waiting, &granted), [Kind::Granted]);
        assert_eq!(kinds(&waiting, &nothing), [Kind::Left]);
        assert_eq!(kinds(&waiting, &other), [Kind::Left, Kind::Granted]);
        // The grant came between the two halves of the look before.
        let both = look(50, &[("a", 2, held(None, 10))], &[(3, asked("a"))]);
        assert_eq!(kinds(&both, &granted), []);
    }
}
