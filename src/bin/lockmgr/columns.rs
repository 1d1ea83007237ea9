//! Lays out rows so that their cells begin in the same columns of a terminal, and fit into it.

use crate::terminal::{Screen, cut};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Stands for the part of a cell that is cut out. ASCII, as some terminals know nothing else.
const DOTS: &str = "..";

/// A column of a table, and how it shrinks on a narrow terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) heading: &'static str,
    /// The cells may be cut in the middle, to no less than this width.
    pub(crate) least: Option<usize>,
    /// The column with the smallest number is left out first. A column without a number stays.
    pub(crate) leaves: Option<u8>,
}

/// Lays out rows under their headings: in full, or cut so that they fit into a terminal.
pub(crate) fn fitted(columns: &[Column], rows: &[Vec<String>], screen: Screen) -> Vec<String> {
    let headings = columns.iter().map(|column| column.heading.to_owned());
    let headings: Vec<String> = headings.collect();
    let mut widths: Vec<usize> = headings.iter().map(|cell| cell.width()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.width().max(*width);
        }
    }
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    if let Some(room) = screen.columns {
        leave_out(columns, &widths, &mut shown, room);
        narrow(columns, &mut widths, &shown, room);
    }
    let line = |row: &Vec<String>, is_heading: bool| {
        let mut line = String::new();
        for (place, &column) in shown.iter().enumerate() {
            let cell = match columns[column].heading {
                // The beginning of a command says most.
                "HELD BY" | "NOTE" => cut(&row[column], widths[column]),
                _ => cut_middle(&row[column], widths[column]),
            };
            let style = style(columns[column].heading, &cell, is_heading);
            line += &screen.styled(&cell, style);
            if place + 1 < shown.len() {
                line.extend(std::iter::repeat_n(' ', widths[column] - cell.width() + 2));
            }
        }
        line
    };
    let lines = rows.iter().map(|row| line(row, false));
    std::iter::once(line(&headings, true))
        .chain(lines)
        .collect()
}

/// Leaves out columns until the others can fit.
fn leave_out(columns: &[Column], widths: &[usize], shown: &mut Vec<usize>, room: usize) {
    loop {
        let least = |&it: &usize| columns[it].least.unwrap_or(usize::MAX).min(widths[it]);
        if shown.iter().map(least).sum::<usize>() + 2 * (shown.len() - 1) <= room {
            return;
        }
        let first = shown.iter().filter(|&&it| columns[it].leaves.is_some());
        let Some(&first) = first.min_by_key(|&&it| columns[it].leaves) else {
            return;
        };
        shown.retain(|&it| it != first);
    }
}

/// Makes the widest columns narrower until all fit.
fn narrow(columns: &[Column], widths: &mut [usize], shown: &[usize], room: usize) {
    loop {
        let total = shown.iter().map(|&it| widths[it]).sum::<usize>() + 2 * (shown.len() - 1);
        let can = |it: &&usize| {
            columns[**it]
                .least
                .is_some_and(|least| least < widths[**it])
        };
        let widest = shown.iter().filter(can).max_by_key(|&&it| widths[it]);
        match widest {
            Some(&widest) if total > room => widths[widest] -= 1,
            _ => return,
        }
    }
}

/// Returns the SGR parameter that makes a cell stand out.
fn style(heading: &str, cell: &str, is_heading: bool) -> Option<u8> {
    match heading {
        _ if is_heading => Some(1),
        "PROCESS" if cell.ends_with("unknown") => Some(33),
        "WAITING" if cell != "0" => Some(36),
        _ => None,
    }
}

/// Cuts a text in the middle so that it fits into so many columns, with dots for the part that is
/// cut out. A character stays with the marks that combine with it.
pub(crate) fn cut_middle(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(DOTS.len() + 2) else {
        return DOTS.chars().take(columns).collect();
    };
    let room = room + 2;
    let width = |c: char| c.width().unwrap_or_default();
    let fits = |left: &mut usize, c: char| {
        let fits = width(c) <= *left;
        *left = left.saturating_sub(width(c));
        fits
    };
    let mut left = room.div_ceil(2);
    let head: String = text.chars().take_while(|&c| fits(&mut left, c)).collect();
    let mut left = room - head.width().min(room);
    let tail = text[head.len()..].char_indices().rev();
    let tail = tail.take_while(|&(_, c)| fits(&mut left, c));
    // A mark whose character was cut off would combine with the dots.
    let begins = tail.filter(|&(_, c)| width(c) > 0).last();
    let tail = begins.map_or("", |(at, _)| &text[head.len() + at..]);
    format!("{head}{DOTS}{tail}")
}

/// Breaks a text between words into lines that fit behind a label of this width. The label stands
/// before the first line. On a narrow terminal the other lines are indented less.
pub(crate) fn labelled(label: &str, width: usize, text: &str, screen: Screen) -> String {
    let mut lines = format!("{label:<width$} ");
    let Some(room) = screen.columns else {
        return lines + text;
    };
    let indent = if room < 3 * width { 2 } else { width + 1 };
    let mut used = width + 1;
    for (place, word) in text.split(' ').enumerate() {
        if place > 0 && used + 1 + word.width() > room {
            lines = format!("{lines}\n{:indent$}{word}", "");
            used = indent + word.width();
        } else {
            let blank = if place > 0 { " " } else { "" };
            lines = lines + blank + word;
            used += blank.len() + word.width();
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_in_the_middle_by_columns() {
        for (text, columns, shown) in [
            ("abcdef", 6, "abcdef"),
            ("abcdefgh", 6, "ab..gh"),
            ("abcdefgh", 7, "abc..gh"),
            ("日本語日本語", 8, "日..本語"),
            ("日本語日本語", 7, "日..語"),
            ("aaaae\u{301}bbbb\u{301}", 5, "aa..b\u{301}"),
            ("abcdef", 3, ".."),
            ("abcdef", 1, "."),
        ] {
            let cut = cut_middle(text, columns);
            assert!(cut.width() <= columns, "{cut}");
            assert_eq!(cut, shown, "{text} in {columns}");
        }
        let family = "👩\u{200d}👩\u{200d}👧".repeat(20);
        assert!(cut_middle(&family, 11).width() <= 11);
    }

    #[test]
    fn labelled_text_is_broken_between_words() {
        let shown = |columns| {
            let screen = Screen {
                columns,
                is_colored: false,
            };
            labelled("to do", 6, "one two three four", screen)
        };
        assert_eq!(shown(None), "to do  one two three four");
        assert_eq!(shown(Some(20)), "to do  one two three\n       four");
        assert_eq!(shown(Some(14)), "to do  one two\n  three four");
    }

    #[test]
    fn narrow_terminals_get_fewer_columns_and_shorter_cells() {
        let column = |heading, least, leaves| Column {
            heading,
            least,
            leaves,
        };
        let columns = [
            column("NAME", Some(6), None),
            column("TOKEN", None, Some(1)),
            column("LEFT", None, None),
        ];
        let rows = [["a name that is long", "1", "10m"]
            .map(str::to_owned)
            .to_vec()];
        let shown = |columns_of_screen| {
            let screen = Screen {
                columns: columns_of_screen,
                is_colored: false,
            };
            fitted(&columns, &rows, screen)[1].clone()
        };
        assert_eq!(shown(None), "a name that is long  1      10m");
        assert_eq!(shown(Some(25)), "a nam.. long  1      10m");
        assert_eq!(shown(Some(16)), "a na..long  10m");
        assert_eq!(shown(Some(1)), "a ..ng  10m");
    }
}
