//! The terminals that standard output and standard error may be: whether a line can be drawn there
//! again and again, how much fits into it, and whether it has colours.

use crate::processes::kin;
use rustix::process::getpid;
use rustix::termios::{tcgetpgrp, tcgetwinsize};
use std::env;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use unicode_width::UnicodeWidthChar;

/// The columns of a terminal that says nothing of them.
const COLUMNS: usize = 80;

/// Tells what standard output can show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// None if it is no terminal: then nothing is cut.
    pub(crate) columns: Option<usize>,
    pub(crate) is_colored: bool,
}

impl Screen {
    pub(crate) fn of_stdout() -> Self {
        let is_terminal = io::stdout().is_terminal();
        // As https://no-color.org has it: set to anything but nothing.
        let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            columns: is_terminal.then(|| columns_of(io::stdout())),
            is_colored: is_terminal && !is_refused && !is_dumb(),
        }
    }

    /// A text with this SGR parameter, if there are colours.
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

/// Whether a line on standard error can be drawn again in its place.
pub(crate) fn is_live() -> bool {
    io::stderr().is_terminal() && !is_dumb()
}

/// Whether this process may write there: in the background it would draw over another's output.
pub(crate) fn is_in_foreground() -> bool {
    let (drawn_by, this) = (tcgetpgrp(io::stderr()), kin(getpid()));
    match (drawn_by, this) {
        (Ok(group), Some(this)) => group.as_raw_nonzero().get() == this.group,
        _ => true,
    }
}

/// How many columns it has now.
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

/// The beginning of a text that fits into so many columns, with dots if that is not all of it.
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
