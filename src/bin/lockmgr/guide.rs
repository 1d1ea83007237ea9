//! The guide in the terminal: its chapters, which rustdoc shows as modules of `lockmgr::guide`.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::layout;
use crate::markdown::{Block, blocks};
use crate::output;
use crate::terminal::Screen;
use std::ffi::OsString;

/// A part of the guide, under the name that `lockmgr help` knows it by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chapter {
    pub(crate) topic: &'static str,
    source: &'static str,
}

/// The recipes have a manual page of their own.
pub(crate) const RECIPES: &str = "recipes";

macro_rules! chapters {
    ($($topic:literal $file:literal)*) => {
        [$(Chapter {
            topic: $topic,
            source: include_str!(concat!("../../guide/", $file, ".md")),
        }),*]
    };
}

/// All of them, in the order to read them.
pub(crate) const CHAPTERS: [Chapter; 15] = chapters![
    "choosing" "choosing"
    "leases" "leases"
    "sharing" "sharing"
    "guards" "guards"
    "waiting" "waiting"
    "kinds" "kinds"
    "fencing" "fencing"
    "testing" "testing"
    "limits" "limits"
    "errors" "errors"
    "flock" "flock"
    "django-lockmgr" "django_lockmgr"
    "sem" "sem"
    "sqlite" "sqlite"
    "recipes" "recipes"
];

/// The widest text that reads well.
const WIDEST: usize = 100;

/// What does not go narrower on a narrower terminal.
const NARROWEST: usize = 40;

/// The columns of a text that goes to no terminal.
const COLUMNS: usize = 80;

impl Chapter {
    pub(crate) fn blocks(self) -> Vec<Block> {
        blocks(self.source)
    }

    pub(crate) fn title(self) -> &'static str {
        let title = self.source.lines().next().unwrap_or_default();
        title.trim_start_matches("# ")
    }
}

/// The part of the guide that `lockmgr help TOPIC` asks for, if it does, as a text.
pub(crate) fn asked(arguments: &[OsString]) -> Option<Vec<String>> {
    let [_, help, topic] = arguments else {
        return None;
    };
    if help != "help" {
        return None;
    }
    let screen = Screen::of_stdout();
    if topic == "guide" || topic == "topics" {
        return Some(contents());
    }
    let chapter = CHAPTERS
        .into_iter()
        .find(|chapter| topic == chapter.topic)?;
    let columns = screen.columns.unwrap_or(COLUMNS).clamp(NARROWEST, WIDEST);
    let heading = |line: &str| screen.styled(line, Some(1));
    Some(layout::lines(&chapter.blocks(), columns, heading))
}

/// Prints it.
pub(crate) fn print(lines: Vec<String>) -> Result<ExitCode, Failure> {
    output::printed(output::lines(lines))?;
    Ok(ExitCode::Success)
}

fn contents() -> Vec<String> {
    let width = CHAPTERS.iter().map(|chapter| chapter.topic.len()).max();
    let width = width.unwrap_or_default();
    let chapters = CHAPTERS.iter().map(|chapter| {
        let title = chapter.title();
        format!("  lockmgr help {:width$}  {title}", chapter.topic)
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
            let text = text(chapter.topic).unwrap();
            assert!(text.starts_with(chapter.title()), "{text}");
            for line in text.lines() {
                assert!(line.width() <= COLUMNS, "{}: {line}", chapter.topic);
                assert_eq!(line, line.trim_end(), "{}", chapter.topic);
                // For terminals that know no other.
                assert!(line.is_ascii(), "{}: {line}", chapter.topic);
            }
        }
    }

    #[test]
    fn no_chapter_shows_marks_of_markdown_or_rustdoc() {
        for chapter in CHAPTERS {
            let text = text(chapter.topic).unwrap();
            for mark in ["**", "[`", "crate::", "```", "# Ok", "# let", "|--"] {
                assert!(!text.contains(mark), "{}: {mark}", chapter.topic);
            }
        }
    }

    #[test]
    fn topics_are_no_commands() {
        let command = Cli::command();
        for chapter in CHAPTERS {
            assert!(command.find_subcommand(chapter.topic).is_none());
        }
        assert_eq!(text("run"), None);
        assert_eq!(asked(&["lockmgr", "help"].map(OsString::from)), None);
        let contents = text("topics").unwrap();
        assert_eq!(contents.lines().count(), CHAPTERS.len() + 1);
    }
}
