//! Defines the arguments of `list` and `completions`.

use crate::complete::locks;
use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use std::ffi::OsString;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        lockmgr list                    all locks of the store\n  \
        lockmgr list job: backup        locks whose names begin with one of these\n  \
        lockmgr list --sort until       locks that expire first come first\n  \
        lockmgr list -q | wc -l         only the names, one a line\n\n\
        HELD BY shows the holder that --locked-by named, and the program that holds the lock; \
        `this host` if neither is known. PROCESS shows the process that the lock is bound to. \
        `lockmgr help choosing` explains each column.")]
pub(crate) struct List {
    /// The beginnings of the locks' names
    #[arg(value_name = "PREFIX", add = ArgValueCompleter::new(locks))]
    pub(crate) prefixes: Vec<OsString>,
    /// The order of the locks; `age` puts the oldest first, `until` the first to expire
    #[arg(long, value_enum, value_name = "ORDER", default_value_t = Order::Name)]
    pub(crate) sort: Order,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Order {
    Name,
    Until,
    Age,
    Holder,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        echo 'source <(lockmgr completions bash)' >> ~/.bashrc\n  \
        echo 'source <(lockmgr completions zsh)' >> ~/.zshrc\n  \
        lockmgr completions fish > ~/.config/fish/completions/lockmgr.fish")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub(crate) shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}
