//! Completes command lines for shells, with the names of locks and of requests.
//!
//! A user waits at a prompt. So a store that is busy, missing or unreadable gives no names, quickly
//! and silently.

use crate::args::Cli;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::output;
use crate::place::Place;
use crate::show_args::{Completions, Shell};
use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use lockmgr::LockManager;
use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

/// Bounds the time that a completion waits for the store.
const AT_MOST: Duration = Duration::from_millis(100);

/// Bounds the number of names: no user reads more.
const MOST: usize = 1_000;

/// The variable that tells this program that a shell asks for completions, and which shell asks.
const VARIABLE: &str = "LOCKMGR_COMPLETE";

/// Answers the shell that asks for completions, and tells whether one did.
pub(crate) fn answered(arguments: &[OsString]) -> bool {
    let completer = CompleteEnv::with_factory(Cli::command).var(VARIABLE);
    // A malformed question of the shell gets no error message: a prompt is no place for errors.
    let here = env::current_dir().ok();
    completer
        .try_complete(arguments.iter().cloned(), here.as_deref())
        .unwrap_or(env::var_os(VARIABLE).is_some())
}

/// Prints the script that makes a shell ask this program.
pub(crate) fn print(completions: &Completions) -> Result<ExitCode, Failure> {
    let completer: &dyn EnvCompleter = match completions.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "lockmgr", "lockmgr", "lockmgr", &mut script)?;
    output::printed(output::lines([String::from_utf8_lossy(&script)]))?;
    Ok(ExitCode::Success)
}

/// Returns the names of locks that begin with this text.
pub(crate) fn locks(begun: &OsStr) -> Vec<CompletionCandidate> {
    let locks = |manager: &LockManager, begun: &str| {
        let locks = manager.locks(begun).unwrap_or_default().into_iter();
        locks.map(|lock| lock.name().to_string()).collect()
    };
    candidates(begun, locks)
}

/// Returns the names that begin with this text, of locks and of requests that wait.
pub(crate) fn locks_and_waiters(begun: &OsStr) -> Vec<CompletionCandidate> {
    let names = |manager: &LockManager, begun: &str| {
        let locks = manager.locks(begun).unwrap_or_default().into_iter();
        let requests = manager.requests(begun).unwrap_or_default();
        let wanted = requests.iter().flat_map(|request| request.names());
        let wanted = wanted.map(ToString::to_string);
        let held = locks.map(|lock| lock.name().to_string());
        held.chain(wanted).collect()
    };
    candidates(begun, names)
}

fn candidates(
    begun: &OsStr,
    names: impl FnOnce(&LockManager, &str) -> BTreeSet<String>,
) -> Vec<CompletionCandidate> {
    let (Some(begun), Some(manager)) = (begun.to_str(), store()) else {
        return Vec::new();
    };
    let names = names(&manager, begun).into_iter();
    let names = names.filter(|name| name.starts_with(begun) && is_plain(name));
    let names = names.take(MOST);
    names.map(CompletionCandidate::new).collect()
}

/// Tells whether a shell reads this name as one plain word. bash inserts a completion without
/// quotes, and another user's lock name must not become a command.
fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || "_-+=:,./@%".contains(c);
    !name.starts_with('-') && name.chars().all(is_plain)
}

/// Opens the store that the words before the cursor name.
fn store() -> Option<LockManager> {
    let mut line = vec![OsString::from("lockmgr")];
    let words: Vec<OsString> = env::args_os().skip_while(|word| word != "--").collect();
    let mut words = words.into_iter().skip(2);
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        match &*text {
            // The words after `--` belong to another program.
            "--" => break,
            "--system" => line.push(word),
            "--db" => line.extend([word].into_iter().chain(words.next())),
            text if text.starts_with("--db=") => line.push(word),
            _ => {}
        }
    }
    line.push("clean".into());
    let cli = Cli::try_parse_from(line).ok()?;
    Place::of(&cli).ok()?.to_read_within(AT_MOST).ok()
}
