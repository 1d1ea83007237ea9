//! Shows the guide in the terminal. rustdoc shows the same chapters as modules of `lockmgr::guide`.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::layout;
use crate::markdown::{Block, blocks};
use crate::output;
use crate::terminal::Screen;
use std::ffi::OsString;

/// A part of the guide: a module of rustdoc, and a topic of `lockmgr help`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chapter {
    module: &'static str,
    source: &'static str,
}

macro_rules! chapters {
    ($($module:literal)*) => {
        &[$(Chapter {
            module: $module,
            source: include_str!(concat!("../../guide/", $module, ".md")),
        }),*]
    };
}

/// All chapters, in reading order.
pub(crate) const CHAPTERS: &[Chapter] = chapters![
    "choosing" "leases" "sharing" "guards" "waiting" "kinds" "fencing" "futures" "testing" "limits"
    "errors" "flock" "django_lockmgr" "sem" "sqlite" "recipes"
];

/// The widest text that reads well.
const WIDEST: usize = 100;

/// The least width of a text, even on a narrower terminal.
const NARROWEST: usize = 40;

/// The width of a text that is not for a terminal.
const COLUMNS: usize = 80;

impl Chapter {
    /// Returns the chapter's name for `lockmgr help`.
    pub(crate) fn topic(self) -> String {
        self.module.replace('_', "-")
    }

    pub(crate) fn blocks(self) -> Vec<Block> {
        blocks(self.source)
    }

    pub(crate) fn title(self) -> &'static str {
        let title = self.source.lines().next().unwrap_or_default();
        title.trim_start_matches("# ")
    }
}

/// Returns the text of the chapter that `lockmgr help TOPIC` asks for, if the arguments name one.
pub(crate) fn asked(arguments: &[OsString]) -> Option<Vec<String>> {
    let [_, help, topic] = arguments else {
        return None;
    };
    if help != "help" {
        return None;
    }
    if topic == "guide" || topic == "topics" {
        return Some(contents());
    }
    let is_it = |chapter: &&Chapter| *topic == *chapter.topic();
    let chapter = CHAPTERS.iter().find(is_it)?;
    let screen = Screen::of_stdout();
    let columns = screen.columns.unwrap_or(COLUMNS).clamp(NARROWEST, WIDEST);
    let heading = |line: &str| screen.styled(line, Some(1));
    Some(layout::lines(&chapter.blocks(), columns, heading))
}

/// Prints a text of the guide.
pub(crate) fn print(lines: Vec<String>) -> Result<ExitCode, Failure> {
    output::printed(output::lines(lines))?;
    Ok(ExitCode::Success)
}

fn contents() -> Vec<String> {
    let width = CHAPTERS.iter().map(|chapter| chapter.module.len()).max();
    let width = width.unwrap_or_default();
    let chapters = CHAPTERS.iter().map(|chapter| {
        let title = chapter.title();
        format!("  lockmgr help {:width$}  {title}", chapter.topic())
    });
    std::iter::once("The chapters of the guide:".to_owned())
        .chain(chapters)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::CommandFactory;
    use unicode_width::UnicodeWidthStr;

    fn text(topic: &str) -> Option<String> {
        let arguments = ["lockmgr", "help", topic].map(OsString::from);
        asked(&arguments).map(|lines| lines.join("\n"))
    }

    #[test]
    fn every_chapter_fits_into_80_columns() {
        for chapter in CHAPTERS {
            let text = text(&chapter.topic()).unwrap();
            assert!(text.starts_with(chapter.title()), "{text}");
            for line in text.lines() {
                assert!(line.width() <= COLUMNS, "{}: {line}", chapter.module);
                assert_eq!(line, line.trim_end(), "{}", chapter.module);
                // Some terminals show nothing but ASCII.
                assert!(line.is_ascii(), "{}: {line}", chapter.module);
            }
        }
    }

    #[test]
    fn no_chapter_shows_marks_of_markdown_or_rustdoc() {
        for chapter in CHAPTERS {
            let text = text(&chapter.topic()).unwrap();
            for mark in ["**", "[`", "crate::", "```", "# Ok", "# let", "|--"] {
                assert!(!text.contains(mark), "{}: {mark}", chapter.module);
            }
        }
    }

    #[test]
    fn topics_are_no_commands() {
        let command = Cli::command();
        for chapter in CHAPTERS {
            assert!(command.find_subcommand(chapter.topic()).is_none());
        }
        assert_eq!(text("run"), None);
        assert_eq!(asked(&["lockmgr", "help"].map(OsString::from)), None);
        let contents = text("topics").unwrap();
        assert_eq!(contents.lines().count(), CHAPTERS.len() + 1);
    }
}
