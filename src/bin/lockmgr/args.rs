//! The command line: what may be written, and what its words mean.

use chrono::Utc;
use clap::{Args, Parser, Subcommand, ValueEnum};
use lockmgr::{InvalidTimeout, Timeout};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Named locks with deadlines, in one file, for every process of this host.
///
/// A lock is a lease: it has a holder, a deadline and a fencing token. The store is one file; it
/// is created when first written to.
#[derive(Debug, Parser)]
#[command(
    name = "lockmgr",
    version,
    max_term_width = 100,
    subcommand_required = true,
    after_help = "DURATION is seconds (90, 0.25) or has units (250ms, 10m, 1h30m).\n\n\
        Exit status: 0 done, or yes; 1 no (locked, not locked, not found); 2 `set --fail` met a \
        lock; 64 usage; 65 damaged, or no store; 70 a fault of lockmgr; 73 cannot create; 74 reading or writing failed; \
        75 busy, try again; 77 no permission."
)]
pub(crate) struct Cli {
    /// The store's file [default: $LOCKMGR_DB, else lockmgr/locks.redb in the user's state
    /// directory]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) db: Option<PathBuf>,

    /// Print one JSON document on standard output, error or not
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// How long to wait, at most, for other processes at work on the store
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "10",
        allow_hyphen_values = true
    )]
    pub(crate) busy_timeout: String,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, renew or skip locks, all in one transaction
    Set(Set),
    /// Create one lock, or say who holds it
    Get(Get),
    /// Renew a lock
    Renew(Renew),
    /// Remove locks, whoever holds them
    #[command(visible_alias = "clear")]
    Unlock(Unlock),
    /// Hold locks while a command runs, as flock(1) does
    Run(Run),
    /// Ask whether a token still holds a lock
    Check {
        /// The lock's name
        #[arg(value_name = "NAME")]
        name: OsString,
        /// The fencing token
        #[arg(value_name = "TOKEN")]
        token: u64,
    },
    /// Show who waits for locks, first come first
    Queue {
        /// What the locks' names begin with
        #[arg(value_name = "PREFIX")]
        prefix: Option<OsString>,
    },
    /// Ask whether a lock exists
    IsLocked {
        /// The lock's name
        #[arg(value_name = "NAME")]
        name: OsString,
    },
    /// Show a lock
    Find {
        /// The lock's name
        #[arg(value_name = "NAME")]
        name: OsString,
    },
    /// List the locks, or those whose names begin with a prefix
    List {
        /// What their names begin with
        #[arg(value_name = "PREFIX")]
        prefix: Option<OsString>,
    },
    /// Remove what is left of expired locks, to reclaim space at once
    Clean,
    /// Remove every lock, whoever holds it
    Reset {
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
#[command(
    override_usage = "lockmgr run [OPTIONS] NAME... -- COMMAND [ARG...]\n       \
        lockmgr run [OPTIONS] NAME... -c STRING",
    after_help = "The command sees LOCKMGR_DB, LOCKMGR_NAMES and LOCKMGR_TOKENS, one name and one \
        token a line.\n\nExit status: the command's; 128 + N where signal N ended it; 126 not \
        executable; 127 not found; 1, or what -E says, where the locks were not to be had."
)]
pub(crate) struct Run {
    /// The locks' names: all of them at once, or none
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<OsString>,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    /// Do not wait for the locks [default: wait until they are granted]
    #[arg(short, long, visible_alias = "nb")]
    pub(crate) nonblock: bool,
    /// Wait for so long at most; 0 does not wait
    #[arg(short, long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) wait: Option<String>,
    /// The exit status where the locks were not to be had; with 0, without a message
    #[arg(short = 'E', long, value_name = "N", default_value_t = 1)]
    pub(crate) conflict_exit_code: u8,
    /// Run this by the shell: $SHELL, or /bin/sh
    #[arg(
        short,
        long = "command",
        value_name = "STRING",
        conflicts_with = "command"
    )]
    pub(crate) command_string: Option<OsString>,
    /// Hold the locks for so long without a sign of life; renewed at a third
    /// [default: 60; with --no-fork, for ever]
    #[arg(short, long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) timeout: Option<String>,
    /// Become the command: the locks go when its process ends
    #[arg(short = 'F', long)]
    pub(crate) no_fork: bool,
    /// What happens to the command where its locks cannot be kept
    #[arg(long, value_enum, default_value_t = OnLost::Kill, conflicts_with = "no_fork")]
    pub(crate) on_lost: OnLost,
    /// Accepted for flock's sake: every lock is exclusive
    #[arg(short = 'x', short_alias = 'e', long, hide_short_help = true)]
    pub(crate) exclusive: bool,
    /// Accepted for flock's sake: the command never inherits the store
    #[arg(short = 'o', long, hide_short_help = true)]
    pub(crate) close: bool,
    /// Who holds them [default: this host's name]
    #[arg(long, value_name = "HOLDER")]
    pub(crate) locked_by: Option<OsString>,
    /// Say whom it waits for
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnLost {
    /// TERM, then KILL, to the command's own process, before somebody else can have them
    Kill,
    /// Say so, and let the command go on
    Warn,
}

#[derive(Debug, Args)]
pub(crate) struct Lease {
    /// Hold a lock for so long; 0 means for ever
    #[arg(
        short,
        long,
        value_name = "DURATION",
        default_value = "600",
        allow_hyphen_values = true
    )]
    timeout: String,

    /// Hold a lock for ever
    #[arg(short = 'k', long, conflicts_with = "timeout")]
    no_timeout: bool,
}

impl Lease {
    pub(crate) fn timeout(&self) -> Result<Timeout, BadDuration> {
        if self.no_timeout {
            Ok(Timeout::Never)
        } else {
            duration(&self.timeout)
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Holder {
    /// Who holds it [default: this host's name]
    #[arg(long, value_name = "HOLDER")]
    pub(crate) locked_by: Option<OsString>,

    /// A process to note with it, for people to read; it frees nothing
    #[arg(long = "pid", visible_alias = "process-id", value_name = "PID")]
    pub(crate) process_id: Option<u32>,

    /// Hold it no longer than this process lives
    #[arg(long = "while", value_name = "PID")]
    pub(crate) bound_to: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The locks' names
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<OsString>,
    #[command(flatten)]
    pub(crate) lease: Lease,
    /// Leave existing locks as they are
    #[arg(short, long)]
    pub(crate) no_renew: bool,
    /// Leave absent locks absent
    #[arg(short = 'r', long)]
    pub(crate) only_renew: bool,
    /// Change nothing, and exit with 2, where one of the locks exists
    #[arg(short = 'e', long)]
    pub(crate) fail: bool,
    #[command(flatten)]
    pub(crate) holder: Holder,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The lock's name
    #[arg(value_name = "NAME")]
    pub(crate) name: OsString,
    #[command(flatten)]
    pub(crate) lease: Lease,
    #[command(flatten)]
    pub(crate) holder: Holder,
    /// Wait for it, first come, first served, for so long at most
    #[arg(short, long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) wait: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Renew {
    /// The lock's name
    #[arg(value_name = "NAME")]
    pub(crate) name: OsString,
    #[command(flatten)]
    pub(crate) lease: Lease,
    /// Count the timeout from the present deadline instead of from now
    #[arg(long)]
    pub(crate) add_time: bool,
    /// Create the lock where it is absent
    #[arg(long)]
    pub(crate) create: bool,
    /// Only if it still bears this token
    #[arg(long, value_name = "N")]
    pub(crate) token: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Unlock {
    /// The locks' names
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<OsString>,
    /// Only if it still bears this token (one name); exit with 1 where it does not
    #[arg(long, value_name = "N")]
    pub(crate) token: Option<u64>,
}

/// Why a duration cannot be used.
#[derive(Debug)]
pub(crate) struct BadDuration {
    pub(crate) text: String,
    pub(crate) rule: String,
}

/// Reads seconds (`90`, `0.25`) or units (`250ms`, `10m`, `1h30m`).
pub(crate) fn duration(text: &str) -> Result<Timeout, BadDuration> {
    let bad = |rule: &str| BadDuration {
        text: text.to_owned(),
        rule: rule.to_owned(),
    };
    let refused = |invalid: InvalidTimeout| bad(invalid.rule());
    let is_written_as_zero = |text: &str| {
        let digits = text.split(['e', 'E']).next().unwrap_or_default();
        !digits.contains(|c: char| c.is_ascii_digit() && c != '0')
    };
    let timeout = match (text.trim().parse(), humantime::parse_duration(text)) {
        // Too small for a number, and yet not for ever.
        (Ok(0.0), _) if !is_written_as_zero(text) => Timeout::After(Duration::from_micros(1)),
        (Ok(secs), _) => Timeout::from_secs_f64(secs).map_err(refused)?,
        (_, Ok(Duration::ZERO)) => Timeout::Never,
        (_, Ok(duration)) => duration.into(),
        _ => return Err(bad("give seconds (90, 0.25) or units (250ms, 10m, 1h30m)")),
    };
    // Found out before the store is opened: what is asked wrongly leaves it untouched.
    timeout.ends_at(Utc::now()).map_err(refused)?;
    Ok(timeout)
}

/// Reads a span of time, where zero is none.
pub(crate) fn span(text: &str) -> Result<Duration, BadDuration> {
    match duration(text) {
        Ok(Timeout::After(span)) => Ok(span),
        Ok(Timeout::Never) => Ok(Duration::ZERO),
        Err(bad) if text.trim_start().starts_with('-') => Err(BadDuration {
            rule: "it is negative; 0 does not wait".into(),
            ..bad
        }),
        Err(bad) => Err(bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_seconds_or_have_units() {
        for (text, millis) in [
            ("90", 90_000),
            ("0.25", 250),
            ("250ms", 250),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
        ] {
            let read = duration(text).unwrap();
            assert_eq!(
                read,
                Timeout::After(Duration::from_millis(millis)),
                "{text}"
            );
        }
        let shortest = Timeout::After(Duration::from_micros(1));
        assert_eq!(duration("1e-400").unwrap(), shortest);
        for text in ["0", "0.0", "0s", "-0", "0e5"] {
            assert_eq!(duration(text).unwrap(), Timeout::Never, "{text}");
        }
        for text in [
            "",
            "-1",
            "nan",
            "inf",
            "1e999",
            "ten",
            "5x",
            "-5m",
            "9999999999999y",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
