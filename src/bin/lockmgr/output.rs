//! Prints the answer of the command: one JSON document, or lines for people.

use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};

/// Prints one JSON document and a line feed.
pub(crate) fn json(document: &impl Serialize) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    serde_json::to_writer(&mut out, document)?;
    writeln!(out)?;
    out.flush()
}

/// Prints lines for people.
pub(crate) fn lines<T: Display>(lines: impl IntoIterator<Item = T>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

/// Treats a pipe that its reader has closed as the end of the output, as in
/// `lockmgr list | head -1`, and not as an error.
pub(crate) fn printed(printed: io::Result<()>) -> io::Result<()> {
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
