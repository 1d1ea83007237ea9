//! Lists the rows of the table, in groups that can be measured separately.

mod before;
mod clean;
mod command;
mod django;
mod files;
mod handover;
mod kinds;
mod memory;
mod opening;
mod processes;
mod reads;
mod threads;
mod waiting;
mod writes;

use crate::lab::Lab;
use crate::report::Report;
use anyhow::Result;

type Measure = fn(&Lab, &mut Report) -> Result<()>;

pub(crate) const GROUPS: [(&str, Measure); 14] = [
    ("writes", writes::measure),
    ("reads", reads::measure),
    ("opening", opening::measure),
    ("clean", clean::measure),
    ("processes", processes::measure),
    ("threads", threads::measure),
    ("handover", handover::measure),
    ("waiting", waiting::measure),
    ("kinds", kinds::measure),
    ("before", before::measure),
    ("django", django::measure),
    ("memory", memory::measure),
    ("files", files::measure),
    ("command", command::measure),
];

/// Returns a count in the form for people.
fn count(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

fn locks(number: usize) -> String {
    match number {
        1 => "1 lock".to_owned(),
        _ => format!("{} locks", count(number)),
    }
}
