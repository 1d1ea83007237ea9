//! Teaches how to hold locks safely, how to come from other tools, and how to type commands.
//!
//! Each chapter is a module below. The command has the same text: `lockmgr help topics` lists the
//! chapters, `lockmgr help recipes` prints one, and `lockmgr man DIRECTORY` writes
//! `lockmgr-guide(7)` and `lockmgr-recipes(7)`.
//!
//! | to learn | read |
//! |---|---|
//! | which verb to use, and what the tables of the command show | [`choosing`] |
//! | when a lock ends | [`leases`] |
//! | which file is the store, and how several users and containers share it | [`sharing`] |
//! | how a program holds locks | [`guards`] |
//! | in which order requests are granted | [`waiting`] |
//! | exclusive locks, shared ones, slots, any of several | [`kinds`] |
//! | what a token is for | [`fencing`] |
//! | how to hold locks in async code | [`futures`] |
//! | how to test a program that holds leases | [`testing`] |
//! | which promises hold, how, and which do not | [`limits`] |
//! | each error and exit status, its cause and its remedy | [`errors`] |
//! | what to write instead of flock, django-lockmgr, sem, or a table in SQLite | [`flock`], [`django_lockmgr`], [`sem`], [`sqlite`] |
//! | recipes for cron, systemd, scripts | [`recipes`] |

#[doc = include_str!("guide/choosing.md")]
pub mod choosing {}
#[doc = include_str!("guide/leases.md")]
pub mod leases {}
#[doc = include_str!("guide/sharing.md")]
pub mod sharing {}
#[doc = include_str!("guide/guards.md")]
pub mod guards {}
#[doc = include_str!("guide/waiting.md")]
pub mod waiting {}
#[doc = include_str!("guide/kinds.md")]
pub mod kinds {}
#[doc = include_str!("guide/fencing.md")]
pub mod fencing {}
#[doc = include_str!("guide/futures.md")]
pub mod futures {}
#[doc = include_str!("guide/testing.md")]
pub mod testing {}
#[doc = include_str!("guide/limits.md")]
pub mod limits {}
#[doc = include_str!("guide/errors.md")]
pub mod errors {}
#[doc = include_str!("guide/flock.md")]
pub mod flock {}
#[doc = include_str!("guide/django_lockmgr.md")]
pub mod django_lockmgr {}
#[doc = include_str!("guide/sem.md")]
pub mod sem {}
#[doc = include_str!("guide/sqlite.md")]
pub mod sqlite {}
#[doc = include_str!("guide/recipes.md")]
pub mod recipes {}
