//! Writes the manual pages of the commands and of the guide. The pages of the commands come from
//! the definition of the command line, so that their texts are those of `--help`.

use crate::args::Cli;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::pages;
use clap::CommandFactory;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes lockmgr(1), a page for each command that the help shows, and the guide's pages of section
/// 7.
pub(crate) fn write(directory: &Path) -> Result<ExitCode, Failure> {
    let guide = of_section_7(directory);
    for directory in [directory, guide.as_path()] {
        let made = fs::create_dir_all(directory);
        made.map_err(|error| Failure::Directory(directory.to_owned(), error))?;
    }
    let failed = |error| Failure::Directory(directory.to_owned(), error);
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)?;
    let failed = |error| Failure::Directory(guide.clone(), error);
    pages::write(&guide).map_err(failed)?;
    Ok(ExitCode::Success)
}

/// Returns the directory in which man(1) looks for pages of section 7, if pages of section 1 are in
/// this one: beside `man1`. In a directory of another name, all pages are together.
fn of_section_7(directory: &Path) -> PathBuf {
    match directory.file_name() {
        Some(name) if name == "man1" => directory.with_file_name("man7"),
        _ => directory.to_owned(),
    }
}
