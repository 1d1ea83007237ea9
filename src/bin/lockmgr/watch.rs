//! Implements `lockmgr watch`: prints changes until its output is closed or a signal ends it.
//!
//! `watch` only reads, so it costs writers nothing. It looks a few times a second, and misses a
//! lock or a request that comes and goes between two looks. If a reader takes the lines slowly, the
//! looks become fewer and later.

use crate::changes::{Change, Kind, Look, between};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::output;
use crate::place::{Place, text};
use crate::table;
use crate::terminal::{Screen, cut};
use chrono::{DateTime, SecondsFormat, Utc};
use lockmgr::{Error, LockManager, Printable};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// The time between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// The width below which the time of day is left out.
const NARROW: usize = 60;

impl Place {
    pub(crate) fn watch(&self, prefix: Option<&OsStr>) -> Result<ExitCode, Failure> {
        let prefix = text("prefix", prefix.unwrap_or_default())?;
        let manager = self.to_read()?;
        if io::stderr().is_terminal() && !self.quiet && !self.json {
            let store = self.shown();
            let _ = writeln!(io::stderr(), "watching {store}; ^C ends it");
        }
        let mut file = self.file();
        let mut before = look(&manager, prefix, None)?;
        let mut is_told = false;
        loop {
            if is_closed_within(PAUSE) {
                return Ok(ExitCode::Success);
            }
            let now = Utc::now();
            let file_now = self.file();
            if file_now != file {
                // A new store: its tokens begin again. The locks of the old store were not
                // released.
                if file.is_some() && !self.say(now, "gone")? {
                    return Ok(ExitCode::Success);
                }
                if file_now.is_some() && !self.say(now, "there")? {
                    return Ok(ExitCode::Success);
                }
                before = Look::default();
                file = file_now;
            }
            match look(&manager, prefix, Some(&before)) {
                Ok(after) => {
                    let changes = between(&before, &after);
                    if !self.told(changes.iter().map(|it| self.line(now, it)))? {
                        return Ok(ExitCode::Success);
                    }
                    before = after;
                    is_told = false;
                }
                // A user may repair the store, or put another one in its place.
                Err(error) if !is_told => {
                    let failure = Failure::from(error).at(self);
                    let _ = writeln!(io::stderr(), "lockmgr: {}", failure.message());
                    is_told = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Identifies the file that has the store's name.
    fn file(&self) -> Option<(u64, u64)> {
        let file = fs::metadata(&self.path).ok()?;
        Some((file.dev(), file.ino()))
    }

    /// Prints that the store is gone or there.
    fn say(&self, now: DateTime<Utc>, what: &str) -> io::Result<bool> {
        let line = if self.json {
            json!({ "at": instant(now), "event": format!("store_{what}") }).to_string()
        } else {
            fitting(format!("{} store {what}", time(now)))
        };
        self.told([line])
    }

    /// Prints lines, and tells whether the output still has a reader.
    fn told(&self, lines: impl IntoIterator<Item = String>) -> io::Result<bool> {
        match output::lines(lines) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            told => told.map(|()| true),
        }
    }

    fn line(&self, now: DateTime<Utc>, change: &Change) -> String {
        if self.json {
            return document(now, change).to_string();
        }
        let kind = match change.kind {
            Kind::Asked => "asked",
            Kind::Granted => "granted",
            Kind::Renewed => "renewed",
            Kind::Released => "released",
            Kind::Expired => "expired",
            Kind::Freed => "freed",
            Kind::Left => "left",
        };
        let names: Vec<_> = change.names.iter().map(|name| table::name(name)).collect();
        // On a narrow terminal the name matters more than the time.
        let is_narrow = Screen::of_stdout().columns.is_some_and(|it| it < NARROW);
        let time_of_day = if is_narrow {
            String::new()
        } else {
            time(now) + " "
        };
        let mut line = format!("{time_of_day}{kind:<8}  {}", names.join(" "));
        line += &format!("  by {}", Printable(&change.locked_by));
        if let Some(pid) = change.process_id {
            line += &format!(" (process {pid})");
        }
        if let Some(token) = change.token {
            line += &format!(", token {token}");
        }
        let until = change
            .locked_until
            .and_then(DateTime::from_timestamp_micros);
        if let (Some(until), Kind::Granted | Kind::Renewed) = (until, change.kind) {
            line += &format!(", until {}", time(until));
        }
        fitting(line)
    }
}

fn look(manager: &LockManager, prefix: &str, before: Option<&Look>) -> Result<Look, Error> {
    // Requests first: a request that is granted between the two reads is seen with its lock.
    let requests = manager.requests(prefix)?;
    let locks = manager.locks(prefix)?;
    let now = Utc::now().timestamp_micros();
    let look = Look::of(now, &locks, &requests, &[]);
    let is_less = |before: &Look| before.locks.keys().any(|it| !look.locks.contains_key(it));
    if !before.is_some_and(is_less) {
        return Ok(look);
    }
    let report = manager.inspect()?;
    Ok(Look::of(now, &locks, &requests, report.dead()))
}

fn document(now: DateTime<Utc>, change: &Change) -> Value {
    let until = change
        .locked_until
        .and_then(DateTime::from_timestamp_micros);
    json!({
        "at": instant(now),
        "event": change.kind,
        "names": change.names,
        "token": change.token,
        "locked_by": change.locked_by,
        "process_id": change.process_id,
        "locked_until": until.map(instant),
    })
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Returns a time of day, in UTC like all times that the command prints.
fn time(at: DateTime<Utc>) -> String {
    at.format("%H:%M:%SZ").to_string()
}

fn fitting(line: String) -> String {
    match Screen::of_stdout().columns {
        Some(columns) => cut(&line, columns),
        None => line,
    }
}

/// Sleeps, and tells whether the reader of standard output left meanwhile.
fn is_closed_within(pause: Duration) -> bool {
    let stdout = io::stdout();
    let mut output = [PollFd::new(&stdout, PollFlags::empty())];
    let timeout = Timespec {
        tv_sec: pause.as_secs().cast_signed(),
        tv_nsec: pause.subsec_nanos().into(),
    };
    let gone = PollFlags::ERR | PollFlags::HUP;
    poll(&mut output, Some(&timeout)).is_ok() && output[0].revents().intersects(gone)
}
