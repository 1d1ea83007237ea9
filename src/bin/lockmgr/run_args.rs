//! Defines the options of `lockmgr run`. Options that flock(1) has too have flock's names.

use crate::asking::Asking;
use clap::{Args, ValueEnum};
use std::ffi::OsString;

#[derive(Debug, Args)]
#[command(
    override_usage = "lockmgr run [OPTIONS] NAME... -- COMMAND [ARG...]\n       \
        lockmgr run [OPTIONS] NAME... -c STRING",
    after_help = "An option that sets how names are held applies to the names after it, up to the \
        next such option.\n\nExamples:\n  \
        lockmgr run nightly -- ./job.sh               one at a time\n  \
        lockmgr run -s config -- ./read.sh            beside other -s requests, as flock -s\n  \
        lockmgr run --slots 4 cc -- cc -c a.c         4 at a time\n  \
        lockmgr run --slots 8 --take 3 gb -- ./big    3 of 8\n  \
        lockmgr run --any gpu:0 gpu:1 -- ./train      one of them, named in $LOCKMGR_NAMES\n  \
        lockmgr run -s host -x disk -- ./backup       two kinds in one request\n\n\
        The command gets LOCKMGR_DB, LOCKMGR_NAMES and LOCKMGR_TOKENS, one name and one token a \
        line, if the lines fit into the environment.\n\nExit status: the command's; if a signal \
        ends the command, lockmgr ends by the same signal; 126 not executable; 127 not found; 75 \
        no memory or no processes to start it; 1, or the status that -E sets, if the locks could \
        not be acquired."
)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) asking: Asking,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    /// Do not wait for the locks [default: wait until they are granted]
    #[arg(short, long, visible_aliases = ["nonblocking", "nb"])]
    pub(crate) nonblock: bool,
    /// Wait for at most this long; 0 does not wait
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "DURATION",
        allow_hyphen_values = true
    )]
    pub(crate) wait: Option<String>,
    /// Exit status if the locks could not be acquired; with 0, or with -q, no message is printed
    #[arg(short = 'E', long, value_name = "N", default_value_t = 1)]
    pub(crate) conflict_exit_code: u8,
    /// Run this string with the shell: $SHELL, or /bin/sh
    #[arg(
        short,
        long = "command",
        value_name = "STRING",
        conflicts_with = "command"
    )]
    pub(crate) command_string: Option<OsString>,
    /// The lease; renewed while the command runs. If lockmgr hangs, others get the locks after this
    /// time [default: none, the locks are held as long as any process of the job lives]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) lease: Option<String>,
    /// Become the command, without a process beside it; with --lease, the deadline is fixed
    #[arg(short = 'F', long)]
    pub(crate) no_fork: bool,
    /// The reaction if the locks of the command are lost
    #[arg(long, value_enum, default_value_t = OnLost::Kill, conflicts_with = "no_fork")]
    pub(crate) on_lost: OnLost,
    /// Hold the locks only until the command or lockmgr ends. If lockmgr is killed, the kernel
    /// kills the command, unless the command is setuid
    #[arg(short = 'o', long, hide_short_help = true, conflicts_with = "no_fork")]
    pub(crate) close: bool,
    /// The holder [default: $LOCKMGR_LOCKED_BY, else this host's name]
    #[arg(long, value_name = "HOLDER")]
    pub(crate) locked_by: Option<OsString>,
    /// Keep the names taken for this long after the grant, even if the job ends earlier: with 5m,
    /// no second job within 5 minutes
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        conflicts_with = "no_fork"
    )]
    pub(crate) at_least: Option<String>,
    /// The reason for holding the locks, for people to read [default: the command]
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<OsString>,
    /// Print the holder that the wait is for; on a terminal this is the default
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Refused; the message names the counterpart
    #[arg(short, long, hide = true)]
    pub(crate) unlock: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnLost {
    /// Send TERM, then KILL, to the command and to all processes that it started
    Kill,
    /// Print a warning, and let the command go on
    Warn,
}
