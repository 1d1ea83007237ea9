//! Explains wrong usage, and names the counterparts of flock(1)'s options and habits.

use crate::args::Cli;
use crate::failure::Failure;
use crate::run_args::Run;
use clap::CommandFactory;
use clap::error::ErrorKind;
use lockmgr::Printable;
use std::ffi::{OsStr, OsString};

/// Explains an error of clap, with the remedy.
pub(crate) fn explain(error: &clap::Error, arguments: &[OsString]) -> Failure {
    let remedy = match error.kind() {
        ErrorKind::UnknownArgument => words_of_run(arguments).and_then(with_dashes),
        _ => None,
    };
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    let lines = text.lines();
    // clap's own tips would treat the command as a lock, or an option as a command.
    let is_misleading = |line: &&str| {
        let tip = line.trim_start();
        tip.starts_with("tip:") && (remedy.is_some() || tip.contains("as a value, use"))
    };
    let lines = lines.filter(|line| !is_misleading(line));
    let mut lines: Vec<String> = lines.map(|line| Printable(line).to_string()).collect();
    if let Some(remedy) = remedy {
        lines.insert(1, format!("did you mean: {remedy}"));
    }
    Failure::Usage(lines.join("\n"))
}

/// Refuses options of flock(1) that `run` does not have, naming their counterparts, and a `run`
/// without a command.
pub(crate) fn of_flock(run: &Run, arguments: &[OsString]) -> Result<(), Failure> {
    let is_descriptor = |name: &&OsString| {
        let name = name.to_string_lossy();
        name.chars().all(|c| c.is_ascii_digit())
    };
    let has_command = !run.command.is_empty() || run.command_string.is_some();
    let message = match run.asking.names().as_slice() {
        _ if run.unlock => {
            "run releases its locks when the command ends, so there is no -u; \
                `lockmgr unlock NAME` releases a lock of `lockmgr get NAME --while parent`"
        }
        _ if has_command => return Ok(()),
        [name] if is_descriptor(name) => {
            "there is no command to run, and no lock on a file descriptor; in a script, \
                `lockmgr get NAME --wait forever --while parent` holds a lock until the script \
                ends or calls `lockmgr unlock NAME`"
        }
        [_] => "there is no command to run: say NAME... -- COMMAND [ARG...], or NAME... -c STRING",
        _ => {
            let remedy = words_of_run(arguments).and_then(with_dashes);
            let remedy = remedy.unwrap_or_else(|| "lockmgr run NAME... -- COMMAND [ARG...]".into());
            &format!("there is no command to run; did you mean: {remedy}")
        }
    };
    Err(Failure::Usage(message.into()))
}

/// Returns the words after `run`, if `run` is the command.
fn words_of_run(arguments: &[OsString]) -> Option<&[OsString]> {
    let (_, words) = arguments.split_first()?;
    let command = first_word(&built(), words)?;
    (words[command] == "run").then_some(&words[command + 1..])
}

/// Returns the line that the user probably meant: one name, and a command after `--`.
fn with_dashes(words: &[OsString]) -> Option<String> {
    if words.iter().any(|word| word == "--") {
        return None;
    }
    let name = first_word(built().find_subcommand("run")?, words)?;
    if words.len() < name + 2 {
        return None;
    }
    let mut shown: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    shown.insert(name + 1, "--".into());
    Some(format!("lockmgr run {}", shown.join(" ")))
}

/// Returns the definition of the command line, with the global options in each command.
fn built() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// Returns the index of the first word that is neither an option of this command nor its value.
fn first_word(command: &clap::Command, words: &[OsString]) -> Option<usize> {
    let mut is_value = false;
    words.iter().position(|word| {
        if std::mem::take(&mut is_value) {
            return false;
        }
        let word = word.to_string_lossy();
        let Some(option) = word.strip_prefix('-').filter(|option| !option.is_empty()) else {
            return true;
        };
        let takes_value = |option: &&clap::Arg| {
            let takes = option.get_num_args().is_some_and(|it| it.takes_values());
            takes && !option.is_require_equals_set()
        };
        is_value = match option.strip_prefix('-') {
            Some(long) => command.get_arguments().any(|known| {
                let names = known.get_long_and_visible_aliases().unwrap_or_default();
                names.contains(&long) && takes_value(&known)
            }),
            // Only the last of several short options takes the next word.
            None => command.get_arguments().any(|known| {
                let names = known.get_short_and_visible_aliases().unwrap_or_default();
                option
                    .chars()
                    .last()
                    .is_some_and(|last| names.contains(&last))
                    && takes_value(&known)
            }),
        };
        false
    })
}

/// Returns a word, quoted for a shell.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-+=:,./@%^".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into_owned();
    }
    Printable(&format!("'{}'", word.replace('\'', r"'\''"))).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_is_the_command_only_in_its_place() {
        for (line, words) in [
            ("lockmgr run x", Some("x")),
            ("lockmgr --db run -q run x", Some("x")),
            ("lockmgr set run x", None),
            ("lockmgr --json set run", None),
            ("lockmgr", None),
        ] {
            let arguments: Vec<OsString> = line.split(' ').map(Into::into).collect();
            let words: Option<Vec<OsString>> = words.map(|words| vec![words.into()]);
            assert_eq!(words_of_run(&arguments), words.as_deref(), "{line}");
        }
    }

    #[test]
    fn first_word_that_is_no_option_is_the_lock() {
        for (words, meant) in [
            ("x ls -l", Some("x -- ls -l")),
            ("-n x ls -l", Some("-n x -- ls -l")),
            ("-w 5 x ls", Some("-w 5 x -- ls")),
            ("-w5 x ls", Some("-w5 x -- ls")),
            ("--wait=5 --json x ls", Some("--wait=5 --json x -- ls")),
            (
                "--timeout 5 --db f x ls",
                Some("--timeout 5 --db f x -- ls"),
            ),
            ("-nE 3 x ls a;b", Some("-nE 3 x -- ls 'a;b'")),
            ("x", None),
            ("-n", None),
            ("x -- ls", None),
        ] {
            let words: Vec<OsString> = words.split(' ').map(Into::into).collect();
            let meant = meant.map(|meant| format!("lockmgr run {meant}"));
            assert_eq!(with_dashes(&words), meant);
        }
    }
}
