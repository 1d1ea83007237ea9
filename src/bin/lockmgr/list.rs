//! Implements `lockmgr list`: prints the locks in an order, for people and for scripts.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::output;
use crate::place::{Place, text};
use crate::show_args::{List, Order};
use crate::table;
use crate::terminal::{self, Screen};
use lockmgr::{Lock, Printable};
use std::io::{self, IsTerminal};

impl Place {
    pub(crate) fn list(&self, list: &List) -> Result<ExitCode, Failure> {
        let prefixes = list.prefixes.iter().map(|prefix| text("prefix", prefix));
        let prefixes = prefixes.collect::<Result<Vec<_>, _>>()?;
        let manager = self.to_read()?;
        let mut locks = match prefixes.as_slice() {
            [] => manager.locks("")?,
            [prefix] => manager.locks(prefix)?,
            prefixes => {
                // One look, so that locks that change meanwhile are seen in one state.
                let mut locks = manager.locks("")?;
                let is_meant = |lock: &Lock| {
                    prefixes
                        .iter()
                        .any(|it| lock.name().as_str().starts_with(it))
                };
                locks.retain(is_meant);
                locks
            }
        };
        sort(&mut locks, list.sort);
        if self.quiet && !self.json {
            output::printed(output::lines(locks.iter().map(line)))?;
            return Ok(ExitCode::Success);
        }
        self.print(&locks, || match locks.is_empty() {
            true => vec![format!("no locks{}", self.of_prefixes(&prefixes))],
            false => {
                let mut lines = table::locks(&manager, &locks);
                lines.extend(self.summary(&locks, &prefixes));
                lines
            }
        })?;
        Ok(ExitCode::Success)
    }

    /// Returns the line that counts the locks, for people on a terminal.
    fn summary(&self, locks: &[Lock], prefixes: &[&str]) -> Option<String> {
        let columns = Screen::of_stdout().columns?;
        let waited = locks.iter().filter(|lock| lock.waiting() > 0).count();
        let count = match locks.len() {
            1 => "1 lock".into(),
            count => format!("{count} locks"),
        };
        let waited = match waited {
            0 => String::new(),
            waited => format!(", {waited} waited for,"),
        };
        let of = self.of_prefixes(prefixes);
        Some(terminal::cut(&format!("{count}{waited}{of}"), columns))
    }

    fn of_prefixes(&self, prefixes: &[&str]) -> String {
        match prefixes {
            [] => self.of_prefix(""),
            [prefix] => self.of_prefix(prefix),
            prefixes => {
                let quoted = prefixes.iter().map(|it| format!("\"{}\"", Printable(it)));
                let quoted = quoted.collect::<Vec<_>>().join(" or ");
                format!(" beginning with {quoted} in {}", self.shown())
            }
        }
    }
}

/// Returns a name for its own line: unchanged for a program, escaped for a terminal.
fn line(lock: &Lock) -> String {
    let name = lock.name().as_str();
    if io::stdout().is_terminal() {
        Printable(name).to_string()
    } else {
        name.to_owned()
    }
}

fn sort(locks: &mut [Lock], order: Order) {
    match order {
        // As they are.
        Order::Name => {}
        // A lock without a deadline comes last.
        Order::Until => locks.sort_by_key(|lock| {
            let until = lock.locked_until();
            (until.is_none(), until)
        }),
        Order::Age => locks.sort_by_key(|lock| (lock.created_at(), lock.token())),
        Order::Holder => locks.sort_by(|a, b| a.locked_by().as_str().cmp(b.locked_by().as_str())),
    }
}
