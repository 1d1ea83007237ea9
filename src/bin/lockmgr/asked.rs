//! What the words of `run` and `get` ask for.

use crate::asking::{Asking, Word};
use crate::failure::Failure;
use crate::place::valid;
use lockmgr::{Acquire, Lock, LockManager, LockName, Mode, Printable};

impl Asking {
    /// What is asked for, found valid before the store is opened.
    pub(crate) fn asked(&self) -> Result<Asked, Failure> {
        let mut asked = Asked::default();
        let mut mode = Mode::Exclusive;
        // The option whose names have yet to come, and a --take whose --slots have.
        let mut open: Option<&str> = None;
        let mut taken = None;
        for word in &self.0 {
            let option = match word {
                Word::Name(name) => {
                    if taken.is_some() {
                        return Err(Failure::Usage(TAKE_ALONE.into()));
                    }
                    asked.claims.push((valid(name)?, mode));
                    open = None;
                    continue;
                }
                Word::Shared => "--shared",
                Word::Exclusive => "--exclusive",
                Word::Slots(_) => "--slots",
                Word::Take(_) => "--take",
                Word::Any(_) => "--any",
            };
            let is_pair = matches!(
                (open, option),
                (Some("--slots"), "--take") | (Some("--take"), "--slots")
            );
            if let Some(before) = open.filter(|_| !is_pair) {
                return Err(no_names(before));
            }
            open = Some(option);
            mode = match word {
                Word::Shared => Mode::Shared,
                Word::Slots(of) => Mode::Slots {
                    take: taken.take().unwrap_or(1),
                    of: number(option, of)?,
                },
                Word::Take(take) => {
                    let take = number(option, take)?;
                    match mode {
                        Mode::Slots { of, .. } => Mode::Slots { take, of },
                        mode => {
                            taken = Some(take);
                            mode
                        }
                    }
                }
                Word::Any(any) => {
                    if asked.any.is_some() || !asked.claims.is_empty() {
                        return Err(Failure::Usage(ANY_ALONE.into()));
                    }
                    asked.any = Some(number(option, any)?);
                    Mode::Exclusive
                }
                Word::Exclusive | Word::Name(_) => Mode::Exclusive,
            };
            if asked.any.is_some() && option != "--any" {
                return Err(Failure::Usage(ANY_ALONE.into()));
            }
        }
        if taken.is_some() {
            return Err(Failure::Usage(TAKE_ALONE.into()));
        }
        if let Some(option) = open {
            return Err(no_names(option));
        }
        asked.check()?;
        Ok(asked)
    }
}

const TAKE_ALONE: &str = "--take says how many of a name's slots to take: say --slots N too";
const ANY_ALONE: &str =
    "--any stands alone: lockmgr run --any=K NAME... ; ask for other names apart";

fn no_names(option: &str) -> Failure {
    Failure::Usage(format!(
        "{option} stands before the names that it is for, and none follow it"
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

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    claims: Vec<(LockName, Mode)>,
    /// How many of the names are enough; none if all are wanted.
    pub(crate) any: Option<u32>,
}

impl Asked {
    pub(crate) fn claims(&self) -> &[(LockName, Mode)] {
        &self.claims
    }

    pub(crate) fn names(&self) -> Vec<&LockName> {
        self.claims.iter().map(|(name, _)| name).collect()
    }

    fn check(&self) -> Result<(), Failure> {
        let first = self.claims.first().map(|(name, _)| name.as_str());
        if let Some(number) = first.filter(|it| self.any == Some(1) && it.parse::<u32>().is_ok()) {
            return Err(Failure::Usage(format!(
                "\"{number}\" behind --any is a name: did you mean --any={number}? for the name, say \
                    --any=1 {number}"
            )));
        }
        for (name, mode) in &self.claims {
            if let Mode::Slots { take, of } = mode
                && take > of
            {
                let name = Printable(name.as_str());
                return Err(Failure::Usage(format!(
                    "\"{name}\" has {of} slots by --slots, and --take wants {take} of them"
                )));
            }
        }
        match self.any {
            Some(any) if any as usize > self.claims.len() => Err(Failure::Usage(format!(
                "--any={any} of {} names: give more names, or want fewer",
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

/// Of those who hold a name, the first that is in the way of a hold of that mode.
pub(crate) fn in_the_way(holders: Vec<Lock>, mode: Mode) -> Option<Lock> {
    let slots = |mode| match mode {
        Mode::Slots { take, of } => Some((u64::from(take), of)),
        _ => None,
    };
    let goes_beside = match mode {
        Mode::Shared => holders.iter().all(|lock| lock.mode() == Mode::Shared),
        Mode::Slots { take, of } => {
            let taken = holders.iter().filter_map(|lock| slots(lock.mode()));
            let (taken, ofs): (Vec<u64>, Vec<u32>) = taken.unzip();
            let is_of = ofs.len() == holders.len() && ofs.iter().all(|other| *other == of);
            is_of && taken.iter().sum::<u64>() + u64::from(take) <= u64::from(of)
        }
        _ => false,
    };
    holders.into_iter().find(|_| !goes_beside)
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
    fn option_is_for_the_names_behind_it_up_to_the_next() {
        for (line, meant) in [
            ("a b", "a:exclusive b:exclusive"),
            ("-s a b", "a:shared b:shared"),
            ("a -s b", "a:exclusive b:shared"),
            ("-s a -x b --shared c", "a:shared b:exclusive c:shared"),
            ("--slots 4 a", "a:1 of 4 slots"),
            ("--slots 8 --take 3 a", "a:3 of 8 slots"),
            ("--take 3 --slots 8 a", "a:3 of 8 slots"),
            ("--slots 8 a --take 2 b", "a:1 of 8 slots b:2 of 8 slots"),
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
