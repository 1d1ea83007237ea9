//! Defines the command line: its commands and options, and their meaning.

use crate::asking::Asking;
use crate::complete::{locks, locks_and_waiters};
use crate::duration::{BadDuration, duration};
use crate::run_args::Run;
use crate::show_args::{Completions, List};
use clap::{Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use lockmgr::Timeout;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

/// The answer of `--version`, which also names the store format that this release reads.
const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nstore format 1\nredb 4.6.0");

/// Named locks with deadlines, in one file, for every process of this host.
///
/// A lock is a lease: it has a holder, a deadline and a fencing token. The store is one file. The
/// first command that writes to the store creates it.
#[derive(Debug, Parser)]
#[command(
    name = "lockmgr",
    version,
    long_version = LONG_VERSION,
    propagate_version = true,
    max_term_width = 100,
    subcommand_required = true,
    after_help = "DURATION is seconds (90, 0.25) or has units (250ms, 10m, 1h30m).\n\n\
        Exit status: 0 done, or yes; 1 no (locked, not locked, not found); 2 `set --fail` met a \
        lock; 64 usage; 65 damaged, or no store; 70 a fault of lockmgr; 73 cannot create; 74 reading or writing failed; \
        75 busy, try again; 77 no permission.\n\n\
        Guide: `lockmgr help topics` lists its chapters; `lockmgr help recipes` is one, `lockmgr help \
        errors` explains each error and its remedy. `lockmgr man DIRECTORY` writes the guide as \
        manual pages: lockmgr-guide(7), lockmgr-recipes(7)."
)]
pub(crate) struct Cli {
    /// The store's file [default: $LOCKMGR_DB, else lockmgr/locks.redb in the user's state
    /// directory]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) db: Option<PathBuf>,

    /// Use one store for all users of this host, /var/lib/lockmgr/locks.redb; `lockmgr help
    /// sharing` says how to give them access
    #[arg(long, global = true)]
    pub(crate) system: bool,

    /// Print one JSON document on standard output, also for an error
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print only errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// Wait at most this long while other processes work on the store
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
    /// Hold locks while a command runs, as flock(1) does
    Run(Run),
    /// Create locks that nobody holds, all or none; otherwise name a holder
    Get(Get),
    /// Create, renew or skip locks in one transaction, without excluding other callers
    ///
    /// `set` excludes nobody: it renews an existing lock, even another holder's, and succeeds. To
    /// exclude other callers, use `lockmgr run` (while a command runs) or `lockmgr get`.
    #[command(alias = "set_lock")]
    Set(Set),
    /// Renew a lock
    Renew(Renew),
    /// Remove locks of any holder; locks of running jobs only with --force
    #[command(visible_alias = "clear", alias = "clear_lock")]
    Unlock(Unlock),
    /// Ask whether a token still holds a lock
    Check {
        /// The lock's name
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(locks))]
        name: OsString,
        /// The fencing token
        #[arg(value_name = "TOKEN")]
        token: u64,
    },
    /// Show the requests that wait for locks, the oldest first
    Queue {
        /// The beginning of the locks' names
        #[arg(value_name = "PREFIX", add = ArgValueCompleter::new(locks_and_waiters))]
        prefix: Option<OsString>,
    },
    /// Ask whether a lock exists
    IsLocked {
        /// The lock's name
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(locks))]
        name: OsString,
    },
    /// Show a lock
    Find {
        /// The lock's name
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(locks))]
        name: OsString,
    },
    /// List all locks, or the locks whose names begin with one of the prefixes
    #[command(alias = "list_locks", alias = "ls")]
    List(List),
    /// Print changes, until ^C: asked, granted, renewed, released, expired, freed, left
    ///
    /// It reads the store five times a second. It misses a lock or a request that comes and goes
    /// between two reads. It never writes. With --json it prints one document a line.
    #[command(after_help = "Examples:\n  \
        lockmgr watch                   every change\n  \
        lockmgr watch job:              changes of locks whose names begin so\n  \
        lockmgr watch --json | jq .     for programs")]
    Watch {
        /// The beginning of the locks' names
        #[arg(value_name = "PREFIX", add = ArgValueCompleter::new(locks_and_waiters))]
        prefix: Option<OsString>,
    },
    /// Report the store's place, permissions and integrity, and advise
    ///
    /// Exits with 0 if there is no problem. Otherwise the exit status is that of a command that
    /// meets the first problem.
    Doctor,
    /// Print the script that lets a shell complete commands, options and the names of locks
    Completions(Completions),
    /// Write the manual pages into a directory: lockmgr(1), one for each command, and the guide
    ///
    /// The guide is lockmgr-guide(7) and lockmgr-recipes(7). If the directory is called man1, they
    /// go into man7 beside it.
    #[command(after_help = "Example:\n  \
        lockmgr man ~/.local/share/man/man1 && man lockmgr-recipes")]
    Man {
        /// The directory; it is created if it is missing
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
    /// Remove the rows of expired locks, to reclaim their space at once
    Clean,
    /// Remove every lock, of every holder
    ///
    /// It asks first, and names the running programs and jobs that would lose their locks.
    #[command(alias = "reset_locks")]
    Reset {
        /// Do not ask, and remove the locks of running programs and jobs too
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Lease {
    /// Hold a lock for this long; 0 means for ever [default: 600; with --while, for ever]
    #[arg(short, long, value_name = "DURATION", allow_hyphen_values = true)]
    timeout: Option<String>,

    /// Hold a lock for ever
    #[arg(short = 'k', long, conflicts_with = "timeout")]
    no_timeout: bool,
}

impl Lease {
    /// Returns the lease that the options ask for, or this default.
    pub(crate) fn timeout_or(&self, default: Timeout) -> Result<Timeout, BadDuration> {
        match &self.timeout {
            _ if self.no_timeout => Ok(Timeout::Never),
            Some(timeout) => duration(timeout),
            None => Ok(default),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Holder {
    /// The holder [default: $LOCKMGR_LOCKED_BY, else this host's name]
    #[arg(long, value_name = "HOLDER")]
    pub(crate) locked_by: Option<OsString>,

    /// A process to note with the lock, for people to read; its end frees nothing
    #[arg(long = "pid", visible_alias = "process-id", value_name = "PID")]
    pub(crate) process_id: Option<u32>,
}

/// The process that a lock is bound to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    Pid(u32),
    /// The process that called the command: a script, or a subshell of one.
    Parent,
}

impl FromStr for Bound {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "parent" => Ok(Self::Parent),
            pid => pid
                .parse()
                .map(Self::Pid)
                .map_err(|_| "give the number of a process, or `parent`"),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The locks' names
    #[arg(required = true, value_name = "NAME", add = ArgValueCompleter::new(locks_and_waiters))]
    pub(crate) names: Vec<OsString>,
    #[command(flatten)]
    pub(crate) lease: Lease,
    /// Leave existing locks as they are
    #[arg(short, long)]
    pub(crate) no_renew: bool,
    /// Leave absent locks absent
    #[arg(short = 'r', long)]
    pub(crate) only_renew: bool,
    /// Change nothing, and exit with 2, if one of the locks exists
    #[arg(short = 'e', long)]
    pub(crate) fail: bool,
    #[command(flatten)]
    pub(crate) holder: Holder,
    /// Free the locks when this process ends, at the latest; `parent` is the caller. The option
    /// binds only locks that `set` creates, so it needs --fail or --no-renew
    #[arg(long = "while", value_name = "PID")]
    pub(crate) bound_to: Option<Bound>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "An option that sets how names are held applies to the names after it, up to the \
    next such option.\n\nExamples:\n  \
    lockmgr get deploy --while parent           held until the script ends\n  \
    lockmgr get -s config --timeout 10m         shared with other -s requests\n  \
    lockmgr get --slots 8 --take 3 gigabytes    3 of 8 slots\n  \
    lockmgr get --any gpu:0 gpu:1 --wait 1m     one of two; the output names it\n\n\
    The lock outlives `lockmgr get`: `lockmgr run` of the same name in the same script waits for \
    it."
)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) asking: Asking,
    #[command(flatten)]
    pub(crate) lease: Lease,
    #[command(flatten)]
    pub(crate) holder: Holder,
    /// Free the locks when this process ends, at the latest; `parent` is the process that called
    /// lockmgr: a script, or a subshell of one
    #[arg(long = "while", value_name = "PID")]
    pub(crate) bound_to: Option<Bound>,
    /// The reason for holding the locks, for people to read
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<OsString>,
    /// Keep the names taken for this long after the grant, even if the locks end earlier
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) at_least: Option<String>,
    /// Do not wait for the locks [default, unless --wait is given]
    #[arg(short, long, visible_aliases = ["nonblocking", "nb"], conflicts_with = "wait")]
    pub(crate) nonblock: bool,
    /// Wait for the locks for at most this long, or `forever`; first come, first served
    #[arg(short, long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) wait: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Renew {
    /// The lock's name
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(locks))]
    pub(crate) name: OsString,
    #[command(flatten)]
    pub(crate) lease: Lease,
    /// Count the timeout from the current deadline instead of from now
    #[arg(long)]
    pub(crate) add_time: bool,
    /// Move the deadline to the timeout from now even if that is earlier
    #[arg(long, conflicts_with = "add_time")]
    pub(crate) shorten: bool,
    /// Create the lock if it is absent
    #[arg(long)]
    pub(crate) create: bool,
    /// The holder of a lock that is created [default: $LOCKMGR_LOCKED_BY, else this host's name]
    #[arg(long, value_name = "HOLDER", requires = "create")]
    pub(crate) locked_by: Option<OsString>,
    /// A process to note with a lock that is created, for people to read; its end frees nothing
    #[arg(
        long = "pid",
        visible_alias = "process-id",
        value_name = "PID",
        requires = "create"
    )]
    pub(crate) process_id: Option<u32>,
    /// Bind the lock to this process from now on; `parent` is the caller
    #[arg(long = "while", value_name = "PID")]
    pub(crate) bound_to: Option<Bound>,
    /// Renew the lock only if it still has this token
    #[arg(long, value_name = "N")]
    pub(crate) token: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Unlock {
    /// The locks' names
    #[arg(required = true, value_name = "NAME", add = ArgValueCompleter::new(locks))]
    pub(crate) names: Vec<OsString>,
    /// Remove the lock only if it still has this token (one name); otherwise exit with 1 and name
    /// the holder
    #[arg(long, value_name = "N")]
    pub(crate) token: Option<u64>,
    /// Also remove locks of running programs and of jobs of `lockmgr run`. Without --force, one
    /// such lock makes unlock refuse all. A job that loses its lock is ended, unless it runs with
    /// --on-lost warn
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
