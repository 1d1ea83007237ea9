//! Reads the words of `run` and `get` that form a request: names, and the options that set how the
//! names after them are held. [`crate::asked`] interprets these words.

use crate::complete::locks_and_waiters;
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches};
use clap_complete::engine::ArgValueCompleter;
use std::ffi::OsString;

/// The options as clap defines them. Their order on the command line counts, so [`Asking`] reads
/// them.
#[derive(Debug, Args)]
struct Options {
    /// The locks' names; all are granted at once, or none
    #[arg(required = true, value_name = "NAME", add = ArgValueCompleter::new(locks_and_waiters))]
    names: Vec<OsString>,
    /// Share the names that follow with all other requests that give -s
    #[arg(short, long, num_args = 0, default_missing_value = "true", action = ArgAction::Append)]
    shared: Vec<bool>,
    /// Hold the names that follow exclusively [default]
    #[arg(
        short = 'x',
        short_alias = 'e',
        long,
        num_args = 0,
        default_missing_value = "true",
        action = ArgAction::Append
    )]
    exclusive: Vec<bool>,
    /// Give the names that follow N slots each, and take one slot, or as many as --take says. Every
    /// request for a name must give the same N
    #[arg(long, value_name = "N", action = ArgAction::Append, allow_hyphen_values = true)]
    slots: Vec<String>,
    /// Take K of the --slots of the names that follow
    #[arg(long, value_name = "K", action = ArgAction::Append, allow_hyphen_values = true)]
    take: Vec<String>,
    /// Take one of the names that follow, or K of them: the names that are free first
    #[arg(
        long,
        value_name = "K",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        action = ArgAction::Append
    )]
    any: Vec<String>,
}

/// One word of the command line that belongs to the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Name(OsString),
    Shared,
    Exclusive,
    Slots(String),
    Take(String),
    Any(String),
}

impl Word {
    /// Returns the option as people write it.
    pub(crate) fn option(&self) -> &'static str {
        match self {
            Self::Name(_) => "NAME",
            Self::Shared => "--shared",
            Self::Exclusive => "--exclusive",
            Self::Slots(_) => "--slots",
            Self::Take(_) => "--take",
            Self::Any(_) => "--any",
        }
    }
}

/// The words of a request, in the order of the command line.
#[derive(Clone, Debug)]
pub(crate) struct Asking(pub(crate) Vec<Word>);

impl Args for Asking {
    fn augment_args(command: Command) -> Command {
        Options::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args_for_update(command)
    }
}

impl FromArgMatches for Asking {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let options = Options::from_arg_matches(matches)?;
        let names = options.names.into_iter().map(Word::Name).collect();
        let shared = options.shared.iter().map(|_| Word::Shared).collect();
        let exclusive = options.exclusive.iter().map(|_| Word::Exclusive).collect();
        let words: [(&str, Vec<Word>); 6] = [
            ("names", names),
            ("shared", shared),
            ("exclusive", exclusive),
            (
                "slots",
                options.slots.into_iter().map(Word::Slots).collect(),
            ),
            ("take", options.take.into_iter().map(Word::Take).collect()),
            ("any", options.any.into_iter().map(Word::Any).collect()),
        ];
        let mut placed = Vec::new();
        for (id, words) in words {
            placed.extend(matches.indices_of(id).into_iter().flatten().zip(words));
        }
        placed.sort_by_key(|(index, _)| *index);
        Ok(Self(placed.into_iter().map(|(_, word)| word).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Asking {
    /// Returns the names as they were given.
    pub(crate) fn names(&self) -> Vec<&OsString> {
        let names = self.0.iter().filter_map(|word| match word {
            Word::Name(name) => Some(name),
            _ => None,
        });
        names.collect()
    }
}
