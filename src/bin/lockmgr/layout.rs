//! Lays out blocks of text in lines of so many columns, for a terminal and for the parts of a
//! manual page that man(1) shows unchanged.

use crate::markdown::{Block, Cell, Item, Piece};
use unicode_width::UnicodeWidthStr;

/// The gap between two columns of a table.
const GAP: usize = 2;

/// Rows of more lines are hard to tell apart without a blank line between them.
const HIGH: usize = 3;

/// The least width of a column of a table, if there is room for it.
const LEAST: usize = 8;

/// Returns the blocks as lines, with an empty line between two blocks. `heading` formats the line
/// of a heading.
pub(crate) fn lines(
    blocks: &[Block],
    columns: usize,
    heading: impl Fn(&str) -> String,
) -> Vec<String> {
    let mut lines = Vec::new();
    for block in blocks {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        match block {
            Block::Heading(level, text) => {
                let below = if *level == 1 { "=" } else { "-" };
                let text = running(text);
                lines.push(heading(&text));
                lines.push(heading(&below.repeat(text.width())));
            }
            Block::Paragraph(text) => lines.extend(wrapped(&running(text), columns)),
            Block::Code(code) => lines.extend(code.iter().map(|line| indented(4, line))),
            Block::List(items) => lines.extend(items.iter().flat_map(|item| listed(item, columns))),
            Block::Table(rows) => lines.extend(table(rows, columns)),
        }
    }
    lines
}

/// A running text, with code between backquotes.
fn running(text: &[Piece]) -> String {
    let pieces = text.iter().map(|piece| match piece {
        Piece::Plain(text) | Piece::Strong(text) => text.clone(),
        Piece::Code(code) => format!("`{code}`"),
    });
    pieces.collect()
}

/// Returns the text of a cell, without the backquotes if the cell is only code, or a list of code.
fn of_cell(cell: &Cell) -> String {
    let is_code = |piece: &Piece| match piece {
        Piece::Code(_) => true,
        Piece::Plain(text) | Piece::Strong(text) => text == ", ",
    };
    let text = running(cell);
    match cell.iter().all(is_code) {
        true => text.replace('`', ""),
        false => text,
    }
}

fn indented(by: usize, line: &str) -> String {
    match line {
        "" => String::new(),
        line => format!("{:by$}{line}", ""),
    }
}

fn listed(item: &Item, columns: usize) -> Vec<String> {
    let indent = item.mark.width() + 1;
    let lines = wrapped(&running(&item.text), columns.saturating_sub(indent));
    let lines = lines.iter().enumerate().map(|(number, line)| match number {
        0 => format!("{} {line}", item.mark),
        _ => indented(indent, line),
    });
    lines.collect()
}

/// Breaks a text between words into lines that fit. A longer word gets a line of its own.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Returns the rows of a table in columns, with a line below the headings. A wide cell has several
/// lines.
pub(crate) fn table(rows: &[Vec<Cell>], columns: usize) -> Vec<String> {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(of_cell).collect())
        .collect();
    let widths = widths(&rows, columns);
    let is_high = |row: &Vec<String>| in_columns(row, &widths).len() > HIGH;
    let is_spaced = rows.iter().skip(1).any(is_high);
    let mut lines = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        if is_spaced && number > 1 {
            lines.push(String::new());
        }
        lines.extend(in_columns(row, &widths));
        if number == 0 {
            let below: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
            lines.push(below.join(&" ".repeat(GAP)));
        }
    }
    lines
}

/// Returns the lines of one row.
fn in_columns(row: &[String], widths: &[usize]) -> Vec<String> {
    let cells = row.iter().zip(widths);
    let cells: Vec<Vec<String>> = cells.map(|(cell, &width)| wrapped(cell, width)).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or_default();
    let line = |number: usize| {
        let mut line = String::new();
        let mut begins = 0;
        for (cell, width) in cells.iter().zip(widths) {
            if let Some(part) = cell.get(number) {
                let blanks = begins - line.width().min(begins);
                line.extend(std::iter::repeat_n(' ', blanks));
                line.push_str(part);
            }
            begins += width + GAP;
        }
        line
    };
    (0..height).map(line).collect()
}

/// Returns the widths of the columns of a table. If all fit, each is as wide as its widest cell.
/// Otherwise the widest columns shrink, but none below its longest word.
fn widths(rows: &[Vec<String>], columns: usize) -> Vec<usize> {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widest = |of: &dyn Fn(&str) -> usize| -> Vec<usize> {
        let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
        let width = |column| cells(column).map(|cell| of(cell)).max().unwrap_or_default();
        (0..count).map(width).collect()
    };
    let mut widths = widest(&|cell| cell.width());
    let least = widest(&|cell| {
        cell.split(' ')
            .map(UnicodeWidthStr::width)
            .max()
            .unwrap_or_default()
    });
    let room = columns.saturating_sub(GAP * count.saturating_sub(1));
    while widths.iter().sum::<usize>() > room {
        let can = |&column: &usize| widths[column] > least[column].max(LEAST);
        let Some(widest) = (0..count).filter(can).max_by_key(|&column| widths[column]) else {
            break;
        };
        widths[widest] -= 1;
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::markdown::blocks;

    fn shown(text: &str, columns: usize) -> String {
        lines(&blocks(text), columns, |line| line.to_uppercase()).join("\n")
    }

    #[test]
    fn paragraphs_and_lists_are_broken_between_words() {
        let text = "# a title\n\none two `three` four\n\n- five six seven\n- eight\n";
        let expected = "A TITLE\n=======\n\none two\n`three`\nfour\n\n- five six\n  seven\n- eight";
        assert_eq!(shown(text, 10), expected);
    }

    #[test]
    fn code_stays_as_it_is_and_is_indented() {
        let text = "```sh\na  long line that is not broken\n\n  b\n```\n";
        assert_eq!(
            shown(text, 10),
            "    a  long line that is not broken\n\n      b"
        );
    }

    #[test]
    fn tables_that_fit_have_a_line_a_row() {
        let text = "| a | b |\n|---|---|\n| `code` | one **two** `three` |\n| | `x`, `y` |\n";
        let expected = "a     b\n----  ---------------\ncode  one two `three`\n      x, y";
        assert_eq!(shown(text, 80), expected);
    }

    #[test]
    fn wide_cells_have_several_lines() {
        let text = "| a | b |\n|---|---|\n| one two three | four five six seven |\n| x | y |\n";
        let expected = "a          b\n---------  ---------\none two    four five\nthree      six seven\nx          y";
        assert_eq!(shown(text, 20), expected);
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let text = "| a | b |\n|---|---|\n| 日本 | x |\n| ab | y |\n";
        assert_eq!(shown(text, 80), "a     b\n----  -\n日本  x\nab    y");
        assert_eq!(shown("日本 日本", 6), "日本\n日本");
    }
}
