//! Parses the guide's Markdown into blocks to lay out. Markdown that the guide does not use, such
//! as pictures and quotations, is refused.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A block of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// A heading, and its level: 1 is the title.
    Heading(usize, Vec<Piece>),
    Paragraph(Vec<Piece>),
    /// Lines to show unchanged.
    Code(Vec<String>),
    List(Vec<Item>),
    /// The first row has the headings.
    Table(Vec<Vec<Cell>>),
}

/// An item of a list, and its mark: a number or a dash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) mark: String,
    pub(crate) text: Vec<Piece>,
}

/// A cell of a table.
pub(crate) type Cell = Vec<Piece>;

/// A part of a running text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Plain(String),
    Code(String),
    Strong(String),
}

/// Parses a text. A link becomes its text. A link to a page of the web becomes its text and its
/// address.
///
/// # Panics
/// Panics on Markdown that is refused: the guide is part of this program, so that is our fault.
pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let mut reader = Reader::default();
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        reader.take(event);
    }
    reader.blocks
}

#[derive(Debug, Default)]
struct Reader {
    blocks: Vec<Block>,
    /// The running text that is being read.
    text: Vec<Piece>,
    is_strong: bool,
    /// The lines of code that are being read, and whether rustdoc hides some of them.
    code: Option<(String, bool)>,
    /// The list that is being read, and the number of its next item.
    list: Option<(Vec<Item>, Option<u64>)>,
    table: Vec<Vec<Cell>>,
    row: Vec<Cell>,
    address: Option<String>,
}

impl Reader {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => match &mut self.code {
                Some((code, _)) => code.push_str(&text),
                None => self.say(&text),
            },
            Event::Code(code) => self.text.push(Piece::Code(code.into_string())),
            Event::SoftBreak => self.say(" "),
            other => panic!("the guide has no {other:?}"),
        }
    }

    /// Adds a piece to the running text.
    fn say(&mut self, more: &str) {
        match (self.text.last_mut(), self.is_strong) {
            (Some(Piece::Plain(text)), false) | (Some(Piece::Strong(text)), true) => {
                text.push_str(more)
            }
            (_, false) => self.text.push(Piece::Plain(more.to_owned())),
            (_, true) => self.text.push(Piece::Strong(more.to_owned())),
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::CodeBlock(CodeBlockKind::Fenced(language)) => {
                let is_rust = language.is_empty() || language.starts_with("rust");
                self.code = Some((String::new(), is_rust));
            }
            Tag::List(first) if self.list.is_none() => self.list = Some((Vec::new(), first)),
            Tag::Link { dest_url, .. } => {
                let is_page = dest_url.starts_with("http");
                self.address = is_page.then(|| dest_url.into_string());
            }
            Tag::Strong => self.is_strong = true,
            Tag::Paragraph
            | Tag::Heading { .. }
            | Tag::Item
            | Tag::Table(_)
            | Tag::TableHead
            | Tag::TableRow
            | Tag::TableCell => {}
            other => panic!("the guide has no {other:?}"),
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Strong => self.is_strong = false,
            TagEnd::Link => {
                if let Some(address) = self.address.take() {
                    self.say(&format!(" ({address})"));
                }
            }
            TagEnd::Heading(level) => {
                let text = std::mem::take(&mut self.text);
                self.blocks.push(Block::Heading(level as usize, text));
            }
            // The paragraph of an item with a blank line after it.
            TagEnd::Paragraph if self.list.is_some() => {}
            TagEnd::Paragraph => {
                let text = std::mem::take(&mut self.text);
                self.blocks.push(Block::Paragraph(text));
            }
            TagEnd::CodeBlock => {
                let (code, is_rust) = self.code.take().unwrap_or_default();
                let lines = code.lines().filter(|line| !(is_rust && is_hidden(line)));
                self.blocks
                    .push(Block::Code(lines.map(str::to_owned).collect()));
            }
            TagEnd::Item => {
                let text = std::mem::take(&mut self.text);
                let (items, next) = self.list.as_mut().expect("an item is of a list");
                let mark = match next {
                    None => "-".to_owned(),
                    Some(number) => {
                        *number += 1;
                        format!("{}.", *number - 1)
                    }
                };
                items.push(Item { mark, text });
            }
            TagEnd::List(_) => {
                let (items, _) = self.list.take().expect("a list begins before it ends");
                self.blocks.push(Block::List(items));
            }
            TagEnd::TableCell => self.row.push(std::mem::take(&mut self.text)),
            TagEnd::TableHead | TagEnd::TableRow => self.table.push(std::mem::take(&mut self.row)),
            TagEnd::Table => self
                .blocks
                .push(Block::Table(std::mem::take(&mut self.table))),
            other => panic!("the guide has no {other:?}"),
        }
    }
}

/// Tells whether rustdoc compiles this line of Rust and does not show it.
fn is_hidden(line: &str) -> bool {
    let line = line.trim_start();
    line == "#" || line.starts_with("# ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Piece {
        Piece::Plain(text.into())
    }

    #[test]
    fn headings_and_paragraphs_become_pieces() {
        let read = blocks(
            "# A `b`\n\nOne *line*\nand **the\nnext**.\n"
                .replace('*', "**")
                .as_str(),
        );
        let paragraph = vec![plain("One "), Piece::Strong("line".into()), plain(" and ")];
        let [Block::Heading(1, title), Block::Paragraph(text)] = read.as_slice() else {
            panic!("{read:?}");
        };
        assert_eq!(title, &[plain("A "), Piece::Code("b".into())]);
        assert_eq!(text[..3], paragraph);
    }

    #[test]
    fn links_become_their_text_and_pages_keep_their_address() {
        let read = blocks(
            "[`set`](crate::LockManager::set_lock), [kinds](crate::guide::kinds), [here](https://e.org)",
        );
        let text = vec![
            Piece::Code("set".into()),
            plain(", kinds, here (https://e.org)"),
        ];
        assert_eq!(read, [Block::Paragraph(text)]);
    }

    #[test]
    fn lines_that_rustdoc_hides_are_left_out_of_rust_alone() {
        let code = |text: &str| blocks(text);
        let lines = |lines: &[&str]| vec![Block::Code(lines.iter().map(|&it| it.into()).collect())];
        let rust = "```\n# use a;\nlet b = 1;\n\n    # let c = 2;\n#\n#[test]\n# Ok(())\n```\n";
        assert_eq!(code(rust), lines(&["let b = 1;", "", "#[test]"]));
        let shell = "```sh\n# as root\nls\n```\n";
        assert_eq!(code(shell), lines(&["# as root", "ls"]));
    }

    #[test]
    fn lists_have_dashes_or_numbers() {
        let item = |mark: &str, text: &str| Item {
            mark: mark.into(),
            text: vec![plain(text)],
        };
        let read = blocks("- one\n  line\n- two\n\n1. three\n2. four\n");
        assert_eq!(
            read,
            [
                Block::List(vec![item("-", "one line"), item("-", "two")]),
                Block::List(vec![item("1.", "three"), item("2.", "four")]),
            ]
        );
    }

    #[test]
    fn tables_have_a_row_of_headings() {
        let read = blocks("| a | b |\n|---|---|\n| `c` \\| d | |\n");
        let rows = vec![
            vec![vec![plain("a")], vec![plain("b")]],
            vec![vec![Piece::Code("c".into()), plain(" | d")], vec![]],
        ];
        assert_eq!(read, [Block::Table(rows)]);
    }

    #[test]
    #[should_panic(expected = "the guide has no")]
    fn other_markdown_is_refused() {
        blocks("> a quotation\n");
    }
}
