//! The manual pages, made from the definition of the command line: they say what `--help` says.

use crate::args::Cli;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use clap::CommandFactory;
use std::fs;
use std::path::Path;

/// Writes lockmgr(1), and a page for each command that the help shows.
pub(crate) fn write(directory: &Path) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::Directory(directory.to_owned(), error);
    fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)?;
    Ok(ExitCode::Success)
}
