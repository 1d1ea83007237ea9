//! Turns the words of `run` and `get` into a request.

use crate::asking::{Asking, Word};
use crate::failure::Failure;
use crate::place::valid;
use lockmgr::{Acquire, Lock, LockManager, LockName, Mode, Printable};
use std::collections::HashSet;

impl Asking {
    /// Returns the request, validated before the store is opened.
    pub(crate) fn asked(&self) -> Result<Asked, Failure> {
        let mut asked = Asked::default();
        let mut mode = Mode::Exclusive;
        let mut options = Vec::new();
        let mut seen = HashSet::new();
        for word in &self.0 {
            let Word::Name(name) = word else {
                options.push(word);
                continue;
            };
            if !options.is_empty() {
                mode = asked.mode(&options, mode)?;
                options.clear();
            }
            let claim = (valid(name)?, mode);
            // A repeated name counts once. Repeated slots could mean twice as many: the library
            // refuses those.
            let is_again = !matches!(mode, Mode::Slots { .. }) && !seen.insert(claim.clone());
            if !is_again || asked.any.is_some() {
                asked.claims.push(claim);
            }
        }
        match options.first() {
            None => asked.check().map(|()| asked),
            Some(Word::Any(_)) if !asked.claims.is_empty() => Err(Failure::Usage(ANY_ALONE.into())),
            Some(option) => Err(no_names(option.option())),
        }
    }
}

const TAKE_ALONE: &str = "--take counts slots of a name: say --slots N too";
const ANY_ALONE: &str =
    "--any stands alone: lockmgr run --any=K NAME... ; request other names separately";

fn no_names(option: &str) -> Failure {
    Failure::Usage(format!(
        "{option} stands before the names that it applies to, and no name follows it"
    ))
}

fn number(option: &str, text: &str) -> Result<u32, Failure> {
    match text.parse::<u32>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Failure::Usage(format!(
            "invalid {option} \"{}\": give a whole number from 1 to {}",
            Printable(text),
            u32::MAX
        ))),
    }
}

fn slots(take: &str, of: &str) -> Result<Mode, Failure> {
    Ok(Mode::Slots {
        take: number("--take", take)?,
        of: number("--slots", of)?,
    })
}

/// A request of the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    claims: Vec<(LockName, Mode)>,
    /// The number of names that are enough. `None` asks for all names.
    pub(crate) any: Option<u32>,
}

impl Asked {
    pub(crate) fn claims(&self) -> &[(LockName, Mode)] {
        &self.claims
    }

    pub(crate) fn names(&self) -> Vec<&LockName> {
        self.claims.iter().map(|(name, _)| name).collect()
    }

    /// Returns the mode that these options set for the names after them.
    fn mode(&mut self, options: &[&Word], before: Mode) -> Result<Mode, Failure> {
        if self.any.is_some() {
            return Err(Failure::Usage(ANY_ALONE.into()));
        }
        match options {
            [Word::Shared] => Ok(Mode::Shared),
            [Word::Exclusive] => Ok(Mode::Exclusive),
            [Word::Slots(of)] => slots("1", of),
            [Word::Slots(of), Word::Take(take)] | [Word::Take(take), Word::Slots(of)] => {
                slots(take, of)
            }
            [Word::Take(take)] => match before {
                Mode::Slots { of, .. } => {
                    let take = number("--take", take)?;
                    Ok(Mode::Slots { take, of })
                }
                _ => Err(Failure::Usage(TAKE_ALONE.into())),
            },
            [Word::Any(any)] if self.claims.is_empty() => {
                self.any = Some(number("--any", any)?);
                Ok(Mode::Exclusive)
            }
            [.., Word::Any(_)] => Err(Failure::Usage(ANY_ALONE.into())),
            [first, ..] => Err(no_names(first.option())),
            [] => Ok(before),
        }
    }

    /// Returns how many of the names have to be granted.
    pub(crate) fn needed(&self) -> usize {
        self.any.map_or(self.claims.len(), |any| any as usize)
    }

    fn check(&self) -> Result<(), Failure> {
        let first = self.claims.first().map(|(name, _)| name.as_str());
        if let Some(number) = first.filter(|it| self.any == Some(1) && it.parse::<u32>().is_ok()) {
            return Err(Failure::Usage(format!(
                "\"{number}\" after --any is a name: did you mean --any={number}? for the name, \
                    say --any=1 {number}"
            )));
        }
        for (name, mode) in &self.claims {
            if let Mode::Slots { take, of } = mode
                && take > of
            {
                let name = Printable(name.as_str());
                return Err(Failure::Usage(format!(
                    "--slots gives \"{name}\" {of} slots, and --take wants {take} of them"
                )));
            }
        }
        match self.any {
            Some(any) if any as usize > self.claims.len() => Err(Failure::Usage(format!(
                "--any={any} of {} names: give more names, or ask for fewer",
                self.claims.len()
            ))),
            _ => Ok(()),
        }
    }

    /// Begins the request.
    pub(crate) fn acquire(&self, manager: &LockManager) -> Acquire {
        if let Some(any) = self.any {
            return manager.acquire_any(any, self.names());
        }
        let nothing: [&str; 0] = [];
        let mut acquire = manager.acquire(nothing);
        for alike in self.claims.chunk_by(|(_, a), (_, b)| a == b) {
            let names = alike.iter().map(|(name, _)| name);
            acquire = match alike[0].1 {
                Mode::Shared => acquire.shared(names),
                Mode::Slots { take, of } => acquire.slots(names, take, of),
                _ => acquire.exclusive(names),
            };
        }
        acquire
    }
}

/// Returns the first holder that conflicts with a hold of that mode, if one does.
pub(crate) fn in_the_way(holders: Vec<Lock>, mode: Mode) -> Option<Lock> {
    let beside = |lock: &Lock| match (lock.mode(), mode) {
        (Mode::Shared, Mode::Shared) => Some(0),
        (Mode::Slots { take, of }, Mode::Slots { of: asked, .. }) if of == asked => {
            Some(u64::from(take))
        }
        _ => None,
    };
    let taken: Option<u64> = holders.iter().map(beside).sum();
    let fits = match mode {
        Mode::Slots { take, of } => taken.is_some_and(|it| it + u64::from(take) <= of.into()),
        _ => taken.is_some(),
    };
    holders.into_iter().next().filter(|_| !fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        asking: Asking,
    }

    fn asked(line: &str) -> Result<Asked, String> {
        let words = std::iter::once("run").chain(line.split(' '));
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.asking.asked().map_err(|failure| failure.message())
    }

    fn shown(line: &str) -> String {
        let asked = asked(line).unwrap();
        let claims = asked.claims.iter();
        let shown: Vec<String> = claims
            .map(|(name, mode)| format!("{name}:{mode}"))
            .collect();
        shown.join(" ")
    }

    #[test]
    fn option_applies_to_the_names_after_it_up_to_the_next_option() {
        for (line, meant) in [
            ("a b", "a:exclusive b:exclusive"),
            ("-s a b", "a:shared b:shared"),
            ("a b a", "a:exclusive b:exclusive"),
            ("a -s b", "a:exclusive b:shared"),
            ("-s a -x b --shared c", "a:shared b:exclusive c:shared"),
            ("--slots 4 a", "a:1 of 4 slots"),
            ("--slots 8 --take 3 a", "a:3 of 8 slots"),
            ("--take 3 --slots 8 a", "a:3 of 8 slots"),
            ("--slots 8 a --take 2 b", "a:1 of 8 slots b:2 of 8 slots"),
            (
                "--slots 8 a --take 2 --slots 4 b",
                "a:1 of 8 slots b:2 of 4 slots",
            ),
            ("--slots=4 a -e b", "a:1 of 4 slots b:exclusive"),
        ] {
            assert_eq!(shown(line), meant, "{line}");
        }
        assert_eq!(asked("--any a b").unwrap().any, Some(1));
        assert_eq!(asked("--any=2 a b").unwrap().any, Some(2));
    }

    #[test]
    fn option_that_says_nothing_or_too_much_is_refused_with_the_remedy() {
        for (line, said) in [
            ("a -s", "--shared stands before the names"),
            ("-s -x a", "--shared stands before the names"),
            ("--take 2 a", "say --slots N too"),
            ("-s --take 2 a", "--shared stands before"),
            ("--slots 8 --take 3 --slots 4 a", "--slots stands before"),
            ("--take 2 --slots 8 --take 3 a", "--take stands before"),
            ("--slots 0 a", "invalid --slots \"0\""),
            ("--slots 4294967296 a", "from 1 to 4294967295"),
            ("--slots -1 a", "invalid --slots \"-1\""),
            ("--slots 4 --take 5 a", "--take wants 5"),
            ("--slots 4 --take 0 a", "invalid --take \"0\""),
            ("--any=0 a", "invalid --any \"0\""),
            ("--any=3 a b", "--any=3 of 2 names"),
            ("a --any b", "--any stands alone"),
            ("--any a -s b", "--any stands alone"),
        ] {
            let message = asked(line).unwrap_err();
            assert!(message.contains(said), "{line}: {message}");
        }
    }
}
