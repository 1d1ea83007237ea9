//! The command `lockmgr`, the library's first user.

mod args;
mod commands;
mod exit_code;
mod failure;
mod output;
mod place;
mod run;

use args::Cli;
use clap::Parser;
use clap::error::ErrorKind;
use exit_code::ExitCode;
use failure::Failure;
use lockmgr::Printable;
use run::{EXEC, become_command};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::{env, panic, process};

fn main() -> process::ExitCode {
    // The library catches what redb panics with on a damaged file; our own faults end here.
    static PLACE: Mutex<String> = Mutex::new(String::new());
    panic::set_hook(Box::new(|panic| {
        let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
        *place = panic.to_string();
    }));
    let arguments: Vec<OsString> = env::args_os().collect();
    let is_json = wants_json(&arguments);
    let code = panic::catch_unwind(|| match run(arguments) {
        Ok(code) => code,
        Err(failure) => report(&failure, is_json),
    });
    code.unwrap_or_else(|_| {
        let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Printable(&place);
        let _ = writeln!(
            io::stderr(),
            "lockmgr: internal error, please report it: {place}"
        );
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
    match Cli::try_parse_from(arguments) {
        Ok(cli) => commands::run(cli),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                error.print()?;
                Ok(ExitCode::Success)
            }
            _ => Err(Failure::Usage(usage(&error))),
        },
    }
}

/// Whether JSON is asked for, where the arguments as a whole cannot be understood.
fn wants_json(arguments: &[OsString]) -> bool {
    let options = arguments.iter().take_while(|&argument| argument != "--");
    options.into_iter().any(|argument| argument == "--json")
}

/// clap's message without its heading, in which text from outside was made printable.
fn usage(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    let lines = text.lines().map(|line| Printable(line).to_string());
    lines.collect::<Vec<_>>().join("\n")
}

/// Says why a command failed. Where even that cannot be written, the exit status has to do.
fn report(failure: &Failure, is_json: bool) -> ExitCode {
    let (kind, code) = failure.kind();
    if failure.is_silent() && !is_json {
        return code;
    }
    let message = failure.message();
    let is_output_gone = matches!(failure, Failure::Output(_));
    if is_json && !is_output_gone {
        let error = json!({ "kind": kind, "message": message, "lock": failure.lock() });
        if output::json(&json!({ "error": error })).is_err() {
            return ExitCode::Io;
        }
    } else {
        let _ = writeln!(io::stderr(), "lockmgr: {message}");
    }
    code
}
