//! Completions for shells, with the names of locks and of requests.
//!
//! Somebody waits at a prompt: a store that is busy, missing or unreadable gives no names, at once
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

/// How long a completion waits for the store.
const AT_MOST: Duration = Duration::from_millis(100);

/// More names than anybody looks through.
const MOST: usize = 1_000;

/// Tells this program that a shell asks what may come next, and which shell it is.
const VARIABLE: &str = "LOCKMGR_COMPLETE";

/// Answers the shell that asks for completions, and tells whether one did.
pub(crate) fn answered(arguments: &[OsString]) -> bool {
    let completer = CompleteEnv::with_factory(Cli::command).var(VARIABLE);
    // A shell that asks wrongly is not told: a prompt is no place for errors.
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
    if matches!(completions.shell, Shell::Bash) {
        script.extend(COLONS.as_bytes());
    }
    output::printed(output::lines([String::from_utf8_lossy(&script)]))?;
    Ok(ExitCode::Success)
}

/// Joins for bash the words that it breaks at colons, which many names have, and offers the part
/// behind the last colon.
const COLONS: &str = r#"
_lockmgr() {
    local line=${COMP_LINE:0:COMP_POINT}
    local word=${line##*[[:space:]]}
    if [[ $word != *:* || $COMP_WORDBREAKS != *:* ]]; then
        _clap_complete_lockmgr "$@"
        return
    fi
    local COMP_WORDS COMP_CWORD
    IFS=$' \t\n' read -ra COMP_WORDS <<<"$line"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _clap_complete_lockmgr "$1" "$word" "$3"
    local place before=${word%"${word##*:}"}
    for place in "${!COMPREPLY[@]}"; do
        COMPREPLY[place]=${COMPREPLY[place]#"$before"}
    done
}
complete -o nospace -o bashdefault -F _lockmgr lockmgr
"#;

/// The names of locks that begin so.
pub(crate) fn locks(begun: &OsStr) -> Vec<CompletionCandidate> {
    let locks = |manager: &LockManager, begun: &str| {
        let locks = manager.locks(begun).unwrap_or_default().into_iter();
        locks.map(|lock| lock.name().to_string()).collect()
    };
    candidates(begun, locks)
}

/// The names of locks that somebody holds or waits for.
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

/// Whether a shell takes it for one word, and for nothing else. bash inserts what it is offered
/// without quotes: the name of somebody else's lock must not become a command.
fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || "_-+=:,./@%".contains(c);
    !name.starts_with('-') && name.chars().all(is_plain)
}

/// The store that the line before the cursor names, as far as that is written.
fn store() -> Option<LockManager> {
    let mut line = vec![OsString::from("lockmgr")];
    let words: Vec<OsString> = env::args_os().skip_while(|word| word != "--").collect();
    let mut words = words.into_iter().skip(2);
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        match &*text {
            // From here on they are another program's.
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
