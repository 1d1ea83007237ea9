//! Locks, requests and results as tables for people.

use crate::columns::{Column, fitted};
use crate::processes;
use crate::terminal::Screen;
use chrono::{DateTime, Utc};
use lockmgr::{Lock, LockManager, LockName, LockSetResult, Mode, Note, Printable, Request, Status};
use std::collections::HashMap;
use std::time::Duration;

/// The locks as a table.
pub(crate) fn locks(manager: &LockManager, locks: &[Lock]) -> Vec<String> {
    bound_locks(manager, locks, None)
}

/// The same of locks that are about to be bound to a process.
pub(crate) fn bound_locks(
    manager: &LockManager,
    locks: &[Lock],
    bound_to: Option<u32>,
) -> Vec<String> {
    let now = Utc::now();
    let mut holders = Holders::default();
    let rows: Vec<Vec<String>> = locks
        .iter()
        .map(|lock| {
            vec![
                name(lock.name().as_str()),
                lock.token().to_string(),
                lock.mode().to_string(),
                holders.of(lock, bound_to),
                process(lock, bound_to),
                age(lock.created_at(), now),
                time_left(manager, lock),
                lock.waiting().to_string(),
                note(lock.note()),
            ]
        })
        .collect();
    let has_modes = locks.iter().any(|lock| lock.mode() != Mode::Exclusive);
    let has_notes = locks.iter().any(|lock| lock.note().is_some());
    let is_shown = |column: &Column| match column.heading {
        "MODE" => has_modes,
        "NOTE" => has_notes,
        _ => true,
    };
    let columns: Vec<Column> = COLUMNS.into_iter().filter(is_shown).collect();
    let shown = |row: Vec<String>| {
        let cells = COLUMNS.iter().zip(row);
        let cells = cells.filter(|(column, _)| is_shown(column));
        cells.map(|(_, cell)| cell).collect()
    };
    let rows: Vec<Vec<String>> = rows.into_iter().map(shown).collect();
    fitted(&columns, &rows, Screen::of_stdout())
}

/// The columns of a table of locks. The name and the time left stay on the narrowest terminal.
const COLUMNS: [Column; 9] = [
    column("NAME", Some(8), None),
    column("TOKEN", None, Some(2)),
    // Left out if all are exclusive.
    column("MODE", None, Some(5)),
    column("HELD BY", Some(12), Some(7)),
    column("PROCESS", None, Some(6)),
    column("AGE", None, Some(1)),
    column("TIME LEFT", None, None),
    column("WAITING", None, Some(4)),
    // Left out if no lock has one.
    column("NOTE", Some(8), Some(3)),
];

const fn column(heading: &'static str, least: Option<usize>, leaves: Option<u8>) -> Column {
    Column {
        heading,
        least,
        leaves,
    }
}

/// Says who holds locks, and looks at each process once.
#[derive(Debug)]
struct Holders {
    host: String,
    programs: HashMap<u32, Option<String>>,
}

impl Default for Holders {
    fn default() -> Self {
        Self {
            host: gethostname::gethostname().to_string_lossy().into_owned(),
            programs: HashMap::new(),
        }
    }
}

impl Holders {
    /// The holder, unless it is this host, as it is by default, and the program that it runs.
    fn of(&mut self, lock: &Lock, about_to: Option<u32>) -> String {
        let by = lock.locked_by().as_str();
        let by = (by != self.host).then(|| printable(by));
        let pid = about_to.or_else(|| processes::alive_here(lock));
        let program = pid.and_then(|pid| {
            let look = || processes::program(pid);
            self.programs.entry(pid).or_insert_with(look).clone()
        });
        let program = program.map(|program| beside_note(program, lock.note()));
        match (by, program) {
            (Some(by), Some(program)) => format!("{by}: {program}"),
            (Some(it), None) | (None, Some(it)) => it,
            (None, None) => "this host".into(),
        }
    }
}

/// A program that holds a lock with a note. The command of `lockmgr run` stands once if the note is
/// that command.
fn beside_note(program: String, note: Option<&Note>) -> String {
    let is_run =
        |words: &str| words.starts_with("lockmgr ") && words.split(' ').any(|word| word == "run");
    let parts = program.split_once(" -- ");
    let command = parts.filter(|(words, _)| is_run(words));
    let command = command.map(|(_, command)| command.trim_end_matches('…'));
    let is_noted = |command: &str| note.is_some_and(|note| note.as_str().starts_with(command));
    match command {
        Some(command) if !command.is_empty() && is_noted(command) => "lockmgr run".into(),
        _ => program,
    }
}

/// The process that a lock is bound to, or is about to be; else the one noted with it.
fn process(lock: &Lock, about_to: Option<u32>) -> String {
    match (about_to, lock.bound_to(), lock.process_id()) {
        (Some(pid), ..) => format!("{pid} alive"),
        (None, Some(it), _) => match it.is_alive() {
            // Its number means another process here, or none.
            Some(_) if !it.is_here() => "alive elsewhere".into(),
            Some(_) if processes::has_left_its_job(lock) => {
                format!("{} gone, its job lives", it.process_id())
            }
            Some(_) => format!("{} alive", it.process_id()),
            None if !it.is_here() => "unknown".into(),
            None => format!("{} unknown", it.process_id()),
        },
        (None, None, Some(pid)) => pid.to_string(),
        (None, None, None) => "-".into(),
    }
}

/// The requests that wait, as a table.
pub(crate) fn queue(requests: &[Request]) -> Vec<String> {
    let now = Utc::now();
    let columns = [
        column("WANTED", Some(8), None),
        column("ASKED BY", Some(8), Some(3)),
        column("PROCESS", None, Some(4)),
        column("SINCE", None, None),
        column("FOR ANOTHER", None, Some(2)),
        column("NOTE", Some(8), Some(1)),
    ];
    let rows = requests.iter().map(|request| {
        let claims = request.claims().iter();
        let wanted = claims.map(|it| claim(it.name().as_str(), it.mode()));
        let wanted = wanted.collect::<Vec<_>>().join(" ");
        let left = |until: DateTime<Utc>| span((until - now).to_std().unwrap_or_default());
        let process = request.process_id();
        vec![
            match request.any() {
                Some(any) => format!("{any} of: {wanted}"),
                None => wanted,
            },
            printable(request.locked_by().as_str()),
            process.map_or("-".into(), |pid| pid.to_string()),
            age(request.asked_at(), now),
            request.waits_until().map_or("for ever".into(), left),
            note(request.note()),
        ]
    });
    fitted(&columns, &rows.collect::<Vec<_>>(), Screen::of_stdout())
}

fn note(note: Option<&Note>) -> String {
    note.map_or("-".into(), |note| printable(note.as_str()))
}

/// The outcome for each name, as a table.
pub(crate) fn set_result(manager: &LockManager, result: &LockSetResult) -> Vec<String> {
    let columns = [
        column("NAME", Some(8), None),
        column("DONE", None, None),
        column("TOKEN", None, Some(1)),
        column("HELD BY", Some(8), Some(2)),
        column("TIME LEFT", None, None),
    ];
    let mut rows = Vec::new();
    let mut locks = result.locks().iter();
    for (set, status) in result.statuses() {
        let mut row = ["", "", "-", "-", "not locked"].map(str::to_owned);
        row[0] = name(set.as_str());
        row[1] = match status.status {
            Status::Create => "created",
            Status::Extend => "renewed",
            _ => "skipped",
        }
        .to_owned();
        // The locks are those of the names that are locked, in their order.
        if let Some(lock) = status.locked.then(|| locks.next()).flatten() {
            row[2] = lock.token().to_string();
            row[3] = printable(lock.locked_by().as_str());
            row[4] = time_left(manager, lock);
        }
        rows.push(row.to_vec());
    }
    fitted(&columns, &rows, Screen::of_stdout())
}

fn printable(text: &str) -> String {
    Printable(text).to_string()
}

/// A name among others: in quotation marks if it could be taken for several, or has such marks.
pub(crate) fn name(name: &str) -> String {
    let shown = printable(name);
    if name.contains([' ', '"', '\'']) {
        format!("\"{}\"", shown.replace('"', "\\\""))
    } else {
        shown
    }
}

/// A name among others, and how it is held unless one holder has it alone.
pub(crate) fn claim(text: &str, mode: Mode) -> String {
    match mode {
        Mode::Exclusive => name(text),
        mode => format!("{} ({mode})", name(text)),
    }
}

/// Names in a sentence: "a", "b".
pub(crate) fn names(names: Vec<&LockName>) -> String {
    let quoted = |name: &&LockName| format!("\"{}\"", printable(name.as_str()));
    names.iter().map(quoted).collect::<Vec<_>>().join(", ")
}

fn time_left(manager: &LockManager, lock: &Lock) -> String {
    match manager.time_left(lock) {
        None => "for ever".into(),
        // Rounded up, as a lease of ten minutes has ten when it begins.
        Some(left) if left > Duration::from_secs(1) => {
            span(Duration::from_secs(left.as_millis().div_ceil(1000) as u64))
        }
        Some(left) => span(left),
    }
}

fn age(since: DateTime<Utc>, now: DateTime<Utc>) -> String {
    span((now - since).to_std().unwrap_or_default())
}

/// The two largest units that are not zero: 1h 30m, 9m 59s, 0.4s.
fn span(span: Duration) -> String {
    let secs = span.as_secs();
    let units = [
        ("d", secs / 86_400),
        ("h", secs / 3_600 % 24),
        ("m", secs / 60 % 60),
        ("s", secs % 60),
    ];
    let Some(first) = units.iter().position(|&(_, count)| count > 0) else {
        return format!("0.{}s", span.subsec_millis() / 100);
    };
    let shown = units[first..]
        .iter()
        .take(2)
        .filter(|&&(_, count)| count > 0);
    let shown: Vec<String> = shown
        .map(|(unit, count)| format!("{count}{unit}"))
        .collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_their_two_largest_units() {
        for (millis, shown) in [
            (0, "0.0s"),
            (499, "0.4s"),
            (59_999, "59s"),
            (599_999, "9m 59s"),
            (5_400_000, "1h 30m"),
            (3_601_000, "1h"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn cells_behind_wide_characters_stay_in_their_column() {
        let rows = [["日本", "a"], ["e\u{301}", "b"], ["👩‍🚀", "c"], ["abc", "d"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let columns = [column("N", None, None), column("", None, None)];
        let screen = Screen {
            columns: None,
            is_colored: false,
        };
        let lines = ["N     ", "日本  a", "e\u{301}     b", "👩‍🚀    c", "abc   d"];
        assert_eq!(fitted(&columns, &rows, screen), lines);
    }
}
