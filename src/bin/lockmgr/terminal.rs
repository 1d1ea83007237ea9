//! Describes the terminals on standard output and standard error: whether a line can be redrawn,
//! how many columns it has, and whether it has colours.

use crate::processes::kin;
use rustix::process::getpid;
use rustix::termios::{tcgetpgrp, tcgetwinsize};
use std::env;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use unicode_width::UnicodeWidthChar;

/// The width of a terminal that does not report its width.
const COLUMNS: usize = 80;

/// The abilities of standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// The width; `None` if standard output is no terminal. Then nothing is cut.
    pub(crate) columns: Option<usize>,
    pub(crate) is_colored: bool,
}

impl Screen {
    pub(crate) fn of_stdout() -> Self {
        let is_terminal = io::stdout().is_terminal();
        // As https://no-color.org defines it: set, and not empty.
        let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            columns: is_terminal.then(|| columns_of(io::stdout())),
            is_colored: is_terminal && !is_refused && !is_dumb(),
        }
    }

    /// Returns a text with this SGR parameter, if there are colours.
    pub(crate) fn styled(self, text: &str, style: Option<u8>) -> String {
        match style.filter(|_| self.is_colored) {
            Some(style) => format!("\x1b[{style}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }
}

fn is_dumb() -> bool {
    env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Tells whether a line on standard error can be redrawn in its place.
pub(crate) fn is_live() -> bool {
    io::stderr().is_terminal() && !is_dumb()
}

/// Tells whether this process may write there: in the background it would overwrite another
/// process's output.
pub(crate) fn is_in_foreground() -> bool {
    let (drawn_by, this) = (tcgetpgrp(io::stderr()), kin(getpid()));
    match (drawn_by, this) {
        (Ok(group), Some(this)) => group.as_raw_nonzero().get() == this.group,
        _ => true,
    }
}

/// Returns the current number of columns of a terminal.
pub(crate) fn columns() -> usize {
    columns_of(io::stderr())
}

fn columns_of(terminal: impl AsFd) -> usize {
    let seen = tcgetwinsize(terminal).map_or(0, |size| size.ws_col.into());
    let told = || env::var("COLUMNS").ok()?.parse().ok();
    Some(seen)
        .filter(|&columns| columns > 0)
        .or_else(told)
        .filter(|&columns| columns > 0)
        .unwrap_or(COLUMNS)
}

/// Returns the beginning of a text that fits into so many columns, with dots if the rest is cut.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    let width = |c: char| c.width().unwrap_or_default();
    if text.chars().map(width).sum::<usize>() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(3);
    let fits = text.chars().take_while(|&c| {
        let fits = width(c) <= left;
        left = left.saturating_sub(width(c));
        fits
    });
    fits.chain("...".chars()).take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_too_wide_is_cut_by_columns() {
        for (text, columns, shown) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "..."),
            ("abcdef", 5, "ab..."),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日..."),
            ("a日本語", 6, "a日..."),
            ("abc", 2, ".."),
        ] {
            assert_eq!(cut(text, columns), shown, "{text} in {columns}");
        }
    }
}
