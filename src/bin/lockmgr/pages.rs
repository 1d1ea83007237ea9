//! Writes the guide as manual pages of section 7.

use crate::guide::{CHAPTERS, Chapter};
use crate::layout;
use crate::markdown::{Block, Item, Piece};
use clap_mangen::roff::{Inline, Roff, bold, roman};
use std::fs;
use std::io;
use std::path::Path;

/// The chapter that has a page of its own.
const RECIPES: &str = "recipes";

/// The columns for a text on a page of 80 columns, without the margins.
const COLUMNS: usize = 71;

/// An empty argument of a macro: for the date of a page.
const NONE: &str = "\"\"";

/// The depth of an indented part of a text.
const INDENT: &str = "4";

/// Writes lockmgr-guide(7), with all chapters but the recipes, and lockmgr-recipes(7).
pub(crate) fn write(directory: &Path) -> io::Result<()> {
    let is_recipes = |chapter: &&Chapter| chapter.topic() == RECIPES;
    let (recipes, others): (Vec<&Chapter>, Vec<&Chapter>) = CHAPTERS.iter().partition(is_recipes);
    let mut guide = begun(
        "lockmgr-guide",
        "how to hold locks safely, chapter by chapter",
    );
    for chapter in others {
        add(&mut guide, &chapter.blocks(), 1);
    }
    let mut page = begun("lockmgr-recipes", "locks for cron, systemd and scripts");
    for chapter in recipes {
        // The name of the page stands for its title.
        page.control("SH", ["DESCRIPTION"]);
        add(&mut page, &chapter.blocks()[1..], 2);
    }
    for (name, mut page, other) in [
        ("lockmgr-guide", guide, "lockmgr-recipes"),
        ("lockmgr-recipes", page, "lockmgr-guide"),
    ] {
        page.control("SH", ["SEE ALSO"]);
        let also = [bold("lockmgr"), roman("(1), "), bold(other), roman("(7)")];
        page.text(also);
        fs::write(directory.join(format!("{name}.7")), page.render())?;
    }
    Ok(())
}

fn begun(name: &str, about: &str) -> Roff {
    let mut page = Roff::new();
    let source = concat!("lockmgr ", env!("CARGO_PKG_VERSION"));
    page.control("TH", [name, "7", NONE, source, "lockmgr"]);
    // No hyphens in words of code, and no added blanks between words.
    page.control("nh", []).control("ad", ["l"]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!("{name} - {about}"))]);
    page
}

/// Adds blocks to a page. Headings of this level become sections.
fn add(page: &mut Roff, blocks: &[Block], sections: usize) {
    // A heading begins a paragraph by itself.
    let mut is_begun = true;
    for block in blocks {
        if !is_begun && !matches!(block, Block::Heading(..) | Block::List(_)) {
            page.control("PP", []);
        }
        is_begun = matches!(block, Block::Heading(..));
        match block {
            Block::Heading(level, text) => {
                let macro_of = if *level <= sections { "SH" } else { "SS" };
                page.control(macro_of, []).text([roman(plain(text))]);
            }
            Block::Paragraph(text) => {
                page.text(inlines(text));
            }
            Block::Code(lines) => as_they_are(page, INDENT, lines),
            Block::List(items) => items.iter().for_each(|item| add_item(page, item)),
            Block::Table(rows) => as_they_are(page, "0", &layout::table(rows, COLUMNS)),
        }
    }
}

fn add_item(page: &mut Roff, item: &Item) {
    page.control("IP", [item.mark.as_str(), INDENT]);
    page.text(inlines(&item.text));
}

/// Adds lines that are neither filled nor broken.
fn as_they_are(page: &mut Roff, indent: &str, lines: &[String]) {
    page.control("RS", [indent]);
    page.control("nf", []);
    for line in lines {
        page.text([roman(line.as_str())]);
    }
    page.control("fi", []).control("RE", []);
}

fn inlines(text: &[Piece]) -> Vec<Inline> {
    let inlines = text.iter().map(|piece| match piece {
        Piece::Plain(text) => roman(text.as_str()),
        Piece::Code(text) | Piece::Strong(text) => bold(text.as_str()),
    });
    inlines.collect()
}

fn plain(text: &[Piece]) -> String {
    let pieces = text.iter().map(|piece| match piece {
        Piece::Plain(text) | Piece::Code(text) | Piece::Strong(text) => text.as_str(),
    });
    pieces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::markdown::blocks;

    fn shown(text: &str) -> String {
        let mut page = Roff::new();
        add(&mut page, &blocks(text), 1);
        page.to_roff()
    }

    #[test]
    fn headings_paragraphs_and_lists_use_the_macros_of_man() {
        assert_eq!(
            shown("# One\n\n.a `b-c` **d**\n\n## Two\n\n- e\n"),
            ".SH\nOne\n\\&.a \\fBb\\-c\\fR \\fBd\\fR\n.SS\nTwo\n.IP - 4\ne\n"
        );
    }

    #[test]
    fn code_keeps_its_lines_and_its_backslashes() {
        let page = shown("a\n\n```sh\na \\\n\n  b 'c'\n.d\n```\n");
        assert_eq!(
            page,
            "a\n.PP\n.RS 4\n.nf\na \\\\\n\n  b 'c'\n\\&.d\n.fi\n.RE\n"
        );
    }

    #[test]
    fn every_line_that_is_not_filled_fits_into_a_page() {
        use unicode_width::UnicodeWidthStr;
        for chapter in CHAPTERS {
            for block in chapter.blocks() {
                if let Block::Code(lines) = block {
                    let widest = lines.iter().max_by_key(|line| line.width());
                    let widest = widest.map(String::as_str).unwrap_or_default();
                    assert!(
                        widest.width() <= COLUMNS - 4,
                        "{}: {widest}",
                        chapter.topic()
                    );
                }
            }
        }
    }
}
