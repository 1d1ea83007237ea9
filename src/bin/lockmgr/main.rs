//! The command `lockmgr`, the library's first user.

#[cfg(not(unix))]
compile_error!(
    "the command `lockmgr` needs a Unix system; depend on the library alone with \
    `default-features = false`"
);

mod args;
mod asked;
mod asking;
mod changes;
mod columns;
mod commands;
mod complete;
mod doctor;
mod duration;
mod exit_code;
mod failure;
mod fault;
mod get;
mod given_back;
mod guide;
mod layout;
mod list;
mod man;
mod markdown;
mod misuse;
mod mounts;
mod outer;
mod output;
mod pages;
mod place;
mod processes;
mod run;
mod run_args;
mod show_args;
mod signals;
mod table;
mod terminal;
mod unlock;
mod waiting;
mod watch;

use args::Cli;
use clap::Parser;
use clap::error::ErrorKind;
use exit_code::ExitCode;
use failure::Failure;
use run::{EXEC, become_command};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, Write};
use std::{env, process};

fn main() -> process::ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    let is_json = wants_json(&arguments);
    let code = fault::caught(|| match run(arguments) {
        Ok(code) => code,
        Err(failure) => report(&failure, is_json),
    });
    code.unwrap_or_else(|fault| {
        let _ = writeln!(io::stderr(), "lockmgr: {fault}");
        ExitCode::Software
    })
    .into()
}

fn run(arguments: Vec<OsString>) -> Result<ExitCode, Failure> {
    if let [_, exec, parent, command @ ..] = arguments.as_slice()
        && exec == EXEC
    {
        return Ok(become_command(parent, command));
    }
    if complete::answered(&arguments) {
        return Ok(ExitCode::Success);
    }
    if let Some(chapter) = guide::asked(&arguments) {
        return guide::print(chapter);
    }
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => commands::run(cli, &arguments),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                output::printed(error.print())?;
                Ok(ExitCode::Success)
            }
            _ => Err(misuse::explain(&error, &arguments)),
        },
    }
}

/// Tells whether the caller wants JSON, if the arguments as a whole cannot be parsed.
fn wants_json(arguments: &[OsString]) -> bool {
    let options = arguments.iter().take_while(|&argument| argument != "--");
    options.into_iter().any(|argument| argument == "--json")
}

/// Prints why a command failed. If the message cannot be written, only the exit status tells.
fn report(failure: &Failure, is_json: bool) -> ExitCode {
    let (kind, code) = failure.kind();
    if failure.is_silent() && !is_json {
        return code;
    }
    let message = failure.message();
    if is_json && failure.of_output().is_none() {
        let error = json!({ "kind": kind, "message": message, "lock": failure.lock() });
        if output::printed(output::json(&json!({ "error": error }))).is_err() {
            return ExitCode::Io;
        }
    } else {
        let _ = writeln!(io::stderr(), "lockmgr: {message}");
    }
    code
}
