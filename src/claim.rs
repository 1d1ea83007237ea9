//! Defines claims on names, and the rule which claims on one name go together.
//!
//! A claim is a value. This module never looks at a store, a clock or a process.

use crate::name::{LockName, Printable};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Says how a lock is held or asked for: exclusively, shared, or by some of a name's slots.
///
/// [`Lock::mode`](crate::Lock::mode) says how a lock is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Mode {
    /// One holder, and nobody beside it.
    #[default]
    Exclusive,
    /// Any number of holders that share the name.
    Shared,
    /// As many holders as the slots of the name suffice for.
    Slots {
        /// How many slots this holder takes.
        take: u32,
        /// How many slots the name has.
        of: u32,
    },
}

impl Mode {
    /// Returns how many slots this mode takes, or 0 unless it is by slots.
    pub(crate) fn slots(self) -> u64 {
        match self {
            Self::Slots { take, .. } => take.into(),
            Self::Exclusive | Self::Shared => 0,
        }
    }

    /// Tells whether a lock can be held in this mode: by at least one slot, and by no more than
    /// there are.
    pub(crate) fn is_possible(self) -> bool {
        match self {
            Self::Slots { take, of } => take > 0 && take <= of,
            Self::Exclusive | Self::Shared => true,
        }
    }

    fn check(self, name: &LockName) -> Result<(), InvalidRequest> {
        let Self::Slots { take, of } = self else {
            return Ok(());
        };
        let refuse = |why: String| {
            let name = Printable(name.as_str());
            Err(InvalidRequest(format!("\"{name}\": {why}")))
        };
        if of == 0 {
            return refuse("a name of 0 slots holds nobody; give it at least 1".into());
        }
        if take == 0 {
            return refuse("a claim of 0 slots holds nothing; take at least 1".into());
        }
        if take > of {
            return refuse(format!(
                "{take} slots cannot be taken of {of}; take at most {of}"
            ));
        }
        Ok(())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive => f.pad("exclusive"),
            Self::Shared => f.pad("shared"),
            Self::Slots { take, of } => f.pad(&format!("{take} of {of} slots")),
        }
    }
}

/// Says how a request contradicts itself: a name in two modes or twice by slots, a number of slots
/// or of names that is 0 or too large, or any of several names beside other claims.
///
/// [`Error::InvalidRequest`](crate::Error::InvalidRequest) carries it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid request: {0}")]
pub struct InvalidRequest(String);

/// Asks for one name, in the mode that a [`Request`](crate::Request) wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Claim {
    pub(crate) name: LockName,
    pub(crate) mode: Mode,
}

impl Claim {
    pub(crate) fn exclusive(name: LockName) -> Self {
        let mode = Mode::Exclusive;
        Self { name, mode }
    }

    /// Returns the name that is asked for.
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// Returns the mode that is asked for.
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

/// Holds all claims of one request, which wants all of them, or some of several exclusive ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) list: Vec<Claim>,
    /// How many of the claims are enough, or none if the request wants them all.
    pub(crate) any: Option<u32>,
}

impl Claims {
    /// Makes exclusive claims on these names, which have to differ.
    pub(crate) fn exclusive(names: impl IntoIterator<Item = LockName>) -> Self {
        Self {
            list: names.into_iter().map(Claim::exclusive).collect(),
            any: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &LockName> + Clone {
        self.list.iter().map(|claim| &claim.name)
    }

    /// Tells whether `any`, if given, is from 1 to the number of claims, and all claims are
    /// exclusive.
    pub(crate) fn is_possible(&self) -> bool {
        let is_alone = |claim: &Claim| claim.mode == Mode::Exclusive;
        self.any.is_none_or(|any| {
            any > 0 && any as usize <= self.list.len() && self.list.iter().all(is_alone)
        })
    }

    /// Returns how many of the claims have to be granted.
    pub(crate) fn needed(&self) -> usize {
        match self.any {
            Some(any) => any as usize,
            None => self.list.len(),
        }
    }

    /// Claims these names in that mode too. The same claim again counts once, except a claim of
    /// slots, which could mean twice as many.
    pub(crate) fn add(
        &mut self,
        names: impl IntoIterator<Item = LockName>,
        mode: Mode,
    ) -> Result<(), InvalidRequest> {
        let claimed = self.list.iter().map(|it| (it.name.clone(), it.mode));
        let mut claimed: HashMap<LockName, Mode> = claimed.collect();
        for name in names {
            if self.any.is_some() {
                return Err(InvalidRequest(ALONE.into()));
            }
            mode.check(&name)?;
            match claimed.get(&name) {
                None => {
                    claimed.insert(name.clone(), mode);
                    self.list.push(Claim { name, mode });
                }
                Some(Mode::Slots { .. }) if mode.slots() > 0 => {
                    return Err(named_twice(
                        &name,
                        "say in one claim how many slots it takes",
                    ));
                }
                Some(before) if *before == mode => {}
                Some(before) => {
                    let why = format!("as {before} and as {mode}; ask for one of them");
                    return Err(named_twice(&name, &why));
                }
            }
        }
        Ok(())
    }

    /// Claims `count` of these names.
    pub(crate) fn any_of(
        &mut self,
        count: u32,
        names: impl IntoIterator<Item = LockName>,
    ) -> Result<(), InvalidRequest> {
        if !self.is_empty() || self.any.is_some() {
            return Err(InvalidRequest(ALONE.into()));
        }
        let mut seen = HashSet::new();
        for name in names {
            if !seen.insert(name.clone()) {
                return Err(named_twice(&name, "give it once"));
            }
            self.list.push(Claim::exclusive(name));
        }
        let given = self.list.len();
        if given == 0 {
            return Err(InvalidRequest("any of no names; give at least one".into()));
        }
        if count == 0 || count as usize > given {
            return Err(InvalidRequest(format!(
                "any {count} of {given} names; ask for 1 to {given} of them"
            )));
        }
        self.any = Some(count);
        Ok(())
    }
}

const ALONE: &str = "any of several names stands alone in its request; ask for the others apart";

fn named_twice(name: &LockName, why: &str) -> InvalidRequest {
    let name = Printable(name.as_str());
    InvalidRequest(format!("\"{name}\" is named twice: {why}"))
}

/// Says how all living holders hold a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Holding {
    #[default]
    Free,
    Exclusive,
    Shared,
    Slots {
        taken: u64,
        of: u32,
    },
}

impl Holding {
    /// Tells whether a hold of that mode is allowed beside the present ones.
    pub(crate) fn admits(self, mode: Mode) -> bool {
        match (self, mode) {
            (Self::Free, _) | (Self::Shared, Mode::Shared) => true,
            (Self::Slots { taken, of }, Mode::Slots { take, of: asked }) => {
                of == asked && taken + u64::from(take) <= u64::from(of)
            }
            _ => false,
        }
    }

    /// Tells whether no further hold is allowed.
    pub(crate) fn is_full(self) -> bool {
        match self {
            Self::Free | Self::Shared => false,
            Self::Exclusive => true,
            Self::Slots { taken, of } => taken >= u64::from(of),
        }
    }

    /// Returns the holding with one more hold, which it must admit.
    pub(crate) fn and(self, mode: Mode) -> Self {
        match (self, mode) {
            (_, Mode::Exclusive) => Self::Exclusive,
            (_, Mode::Shared) => Self::Shared,
            (Self::Slots { taken, of }, Mode::Slots { take, .. }) => Self::Slots {
                taken: taken + u64::from(take),
                of,
            },
            (_, Mode::Slots { take, of }) => Self::Slots {
                taken: take.into(),
                of,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LockName {
        LockName::new(text).unwrap()
    }

    fn slots(take: u32, of: u32) -> Mode {
        Mode::Slots { take, of }
    }

    #[test]
    fn holders_go_together_if_all_share_or_the_slots_suffice() {
        let two_of_four = Holding::Free.and(slots(2, 4));
        for (holding, mode, can) in [
            (Holding::Free, Mode::Exclusive, true),
            (Holding::Free, Mode::Shared, true),
            (Holding::Free, slots(4, 4), true),
            (Holding::Exclusive, Mode::Exclusive, false),
            (Holding::Exclusive, Mode::Shared, false),
            (Holding::Exclusive, slots(1, 4), false),
            (Holding::Shared, Mode::Exclusive, false),
            (Holding::Shared, Mode::Shared, true),
            (Holding::Shared, slots(1, 4), false),
            (two_of_four, Mode::Exclusive, false),
            (two_of_four, Mode::Shared, false),
            (two_of_four, slots(2, 4), true),
            (two_of_four, slots(3, 4), false),
            (two_of_four, slots(1, 5), false),
        ] {
            assert_eq!(holding.admits(mode), can, "{mode} beside {holding:?}");
            // A full name admits no mode.
            assert!(!(can && holding.is_full()));
        }
        assert!(two_of_four.and(slots(2, 4)).is_full());
        let most = slots(u32::MAX, u32::MAX);
        assert!(!Holding::Free.and(most).admits(slots(u32::MAX, u32::MAX)));
    }

    #[test]
    fn claims_that_contradict_each_other_are_refused() {
        let add = |mode| {
            let mut claims = Claims::exclusive([name("a")]);
            claims.add([name("a")], mode)
        };
        assert_eq!(add(Mode::Exclusive), Ok(()));
        assert!(add(Mode::Shared).is_err());
        assert!(add(slots(1, 2)).is_err());
        let mut twice = Claims::default();
        twice.add([name("a")], slots(1, 2)).unwrap();
        assert!(twice.add([name("a")], slots(1, 2)).is_err());
        for bad in [slots(0, 4), slots(5, 4), slots(1, 0), slots(0, 0)] {
            assert!(Claims::default().add([name("a")], bad).is_err(), "{bad}");
        }
        let names = || [name("a"), name("b")];
        for bad in [0, 3] {
            assert!(Claims::default().any_of(bad, names()).is_err());
        }
        assert!(Claims::default().any_of(1, []).is_err());
        assert!(Claims::default().any_of(1, [name("a"), name("a")]).is_err());
        assert!(Claims::exclusive(names()).any_of(1, [name("c")]).is_err());
        let mut any = Claims::default();
        any.any_of(1, names()).unwrap();
        assert_eq!(any.needed(), 1);
        assert!(any.add([name("c")], Mode::Shared).is_err());
        assert!(any.any_of(1, [name("c")]).is_err());
    }
}
