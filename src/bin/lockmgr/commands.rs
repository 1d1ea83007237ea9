//! Runs each command: one call of the library, and its output.

use crate::args::{Bound, Cli, Command, Renew, Set};
use crate::complete;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::man;
use crate::misuse;
use crate::output;
use crate::place::{Place, holder, names, text, valid};
use crate::processes::{is_proc_there, is_zombie};
use crate::run::run_command;
use crate::table;
use lockmgr::{
    Error, Lock, LockManager, LockName, LockRef, Printable, RenewOptions, SetOptions, Status,
    Timeout,
};
use rustix::io::Errno;
use rustix::process::{Pid, getppid, test_kill_process};
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, Write};

/// Runs the command that the command line names.
pub(crate) fn run(cli: Cli, arguments: &[OsString]) -> Result<ExitCode, Failure> {
    // Read first: later, the caller may have ended, and the parent would be the process that
    // inherited this one.
    let parent = getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    let store = Place::of(&cli)?;
    let done = match &cli.command {
        Command::Run(run) => {
            misuse::of_flock(run, arguments).and_then(|()| run_command(&store, run))
        }
        Command::Check { name, token } => store.check(name, *token),
        Command::Queue { prefix } => store.queue(prefix.as_deref()),
        Command::Set(set) => store.set(set, parent),
        Command::Get(get) => store.get(get, parent),
        Command::Renew(renew) => store.renew(renew, parent),
        Command::Unlock(unlock) => store.unlock(unlock),
        Command::IsLocked { name } => store.is_locked(name),
        Command::Find { name } => store.find(name),
        Command::List(list) => store.list(list),
        Command::Watch { prefix } => store.watch(prefix.as_deref()),
        Command::Completions(completions) => complete::print(completions),
        Command::Man { directory } => man::write(directory),
        Command::Doctor => store.doctor(),
        Command::Clean => store.clean(),
        Command::Reset { force } => store.reset(*force),
    };
    done.map_err(|failure| failure.at(&store))
}

impl Place {
    fn set(&self, set: &Set, parent: Option<u32>) -> Result<ExitCode, Failure> {
        let names = names(&set.names)?;
        if set.bound_to.is_some() && !set.fail && !set.no_renew {
            let message = "set --while binds only locks that it creates, and would renew an \
                existing lock without binding it: say --fail or --no-renew too, or use \
                `lockmgr get NAME --while PID`";
            return Err(Failure::Usage(message.into()));
        }
        let lease = set.lease.timeout_or(match set.bound_to {
            Some(_) => Timeout::Never,
            None => Timeout::DEFAULT,
        })?;
        let mut options = SetOptions::new().timeout(lease);
        if set.no_renew {
            options = options.no_renew();
        }
        if set.only_renew {
            options = options.only_renew();
        }
        if set.fail {
            options = options.fail();
        }
        if let Some(by) = &set.holder.locked_by {
            options = options.locked_by(holder(by)?);
        }
        if let Some(process_id) = set.holder.process_id {
            options = options.process_id(process_id);
        }
        if let Some(process_id) = there_is(set.bound_to, parent)? {
            options = options.bound_to(process_id);
        }
        let manager = self.to_write()?;
        let result = manager
            .set_lock(names, options)
            .map_err(|error| match error {
                error @ Error::Reserved { .. } => Failure::SetFail(error),
                error => error.into(),
            })?;
        let printed = self.try_print(&result, || table::set_result(&manager, &result));
        let is_created = |lock: &&Lock| {
            let status = result.status(lock.name().as_str());
            status.is_some_and(|status| status.status == Status::Create)
        };
        let created = result.locks().iter().filter(is_created);
        let told = output::printed(printed).map_err(Failure::from);
        self.or_give_back(&manager, created, told.map(|()| ExitCode::Success))
    }

    fn check(&self, name: &OsStr, token: u64) -> Result<ExitCode, Failure> {
        let name = valid(name)?;
        let holders = self.to_read()?.holders(name)?;
        self.answer(holders.iter().any(|lock| lock.is_held_by(token)))
    }

    fn queue(&self, prefix: Option<&OsStr>) -> Result<ExitCode, Failure> {
        let prefix = text("prefix", prefix.unwrap_or_default())?;
        let requests = self.to_read()?.requests(prefix)?;
        self.print(&requests, || match requests.is_empty() {
            true => vec![format!("nobody waits for locks{}", self.of_prefix(prefix))],
            false => table::queue(&requests),
        })?;
        Ok(ExitCode::Success)
    }

    /// Describes the locks that an empty list would have: their prefix, and the store.
    pub(crate) fn of_prefix(&self, prefix: &str) -> String {
        let store = self.shown();
        match prefix {
            "" => format!(" in {store}"),
            prefix => format!(" beginning with \"{}\" in {store}", Printable(prefix)),
        }
    }

    fn answer(&self, answer: bool) -> Result<ExitCode, Failure> {
        if self.is_missing() && !self.quiet && !self.json {
            let _ = writeln!(io::stderr(), "lockmgr: {}", self.shown());
        }
        self.print(&answer, || [answer])?;
        Ok(if answer {
            ExitCode::Success
        } else {
            ExitCode::No
        })
    }

    fn renew(&self, renew: &Renew, parent: Option<u32>) -> Result<ExitCode, Failure> {
        let name = valid(&renew.name)?;
        let bound_to = there_is(renew.bound_to, parent)?;
        let lease = renew.lease.timeout_or(Timeout::DEFAULT)?;
        let mut options = RenewOptions::new().timeout(lease);
        if renew.add_time {
            options = options.add_time();
        }
        if renew.shorten {
            options = options.shorten();
        }
        if renew.create {
            options = options.create();
        }
        if let Some(by) = &renew.locked_by {
            options = options.locked_by(holder(by)?);
        }
        if let Some(process_id) = renew.process_id {
            options = options.process_id(process_id);
        }
        if let Some(process_id) = bound_to {
            options = options.bound_to(process_id);
        }
        let manager = self.to_write()?;
        let lock = manager.renew_lock(lock_ref(&name, renew.token), options)?;
        let told = self.print_lock(&manager, &lock);
        let created = Some(&lock).filter(|lock| lock.created_at() == lock.updated_at());
        self.or_give_back(&manager, created, told)
    }

    /// Releases the locks if the answer could not be printed for the caller.
    pub(crate) fn or_give_back<'a>(
        &self,
        manager: &LockManager,
        locks: impl IntoIterator<Item = &'a Lock>,
        told: Result<ExitCode, Failure>,
    ) -> Result<ExitCode, Failure> {
        if told.is_err() {
            manager.unlock_all(locks)?;
        }
        told
    }

    fn is_locked(&self, name: &OsStr) -> Result<ExitCode, Failure> {
        let name = valid(name)?;
        let is_locked = self.to_read()?.is_locked(name)?;
        self.answer(is_locked)
    }

    fn find(&self, name: &OsStr) -> Result<ExitCode, Failure> {
        let name = valid(name)?;
        let manager = self.to_read()?;
        match manager.find(&name)? {
            Some(lock) => self.print_lock(&manager, &lock),
            None => {
                self.print(&None::<Lock>, || {
                    let name = table::name(name.as_str());
                    [format!("{name}: not locked in {}", self.shown())]
                })?;
                Ok(ExitCode::No)
            }
        }
    }

    fn clean(&self) -> Result<ExitCode, Failure> {
        let removed = self.to_write()?.clean_locks()?;
        self.print_removed(removed, "expired")
    }

    fn print_lock(&self, manager: &LockManager, lock: &Lock) -> Result<ExitCode, Failure> {
        self.print(lock, || table::locks(manager, std::slice::from_ref(lock)))?;
        Ok(ExitCode::Success)
    }

    pub(crate) fn print<T: Display, L: IntoIterator<Item = T>>(
        &self,
        document: &impl Serialize,
        lines: impl FnOnce() -> L,
    ) -> io::Result<()> {
        output::printed(self.try_print(document, lines))
    }

    /// Prints like [`Self::print`], but returns an error if the pipe is closed.
    fn try_print<T: Display, L: IntoIterator<Item = T>>(
        &self,
        document: &impl Serialize,
        lines: impl FnOnce() -> L,
    ) -> io::Result<()> {
        match (self.quiet, self.json) {
            (true, _) => Ok(()),
            (false, true) => output::json(document),
            (false, false) => output::lines(lines()),
        }
    }
}

/// Returns the process to bind locks to, after a check that it exists. The check runs before the
/// store is opened. The library checks again.
pub(crate) fn there_is(
    bound_to: Option<Bound>,
    parent: Option<u32>,
) -> Result<Option<u32>, Failure> {
    let pid = match (bound_to, parent) {
        (None, _) => return Ok(None),
        (Some(Bound::Pid(pid)), _) => pid,
        (Some(Bound::Parent), Some(parent)) => parent,
        (Some(Bound::Parent), None) => {
            let message = "the process that called lockmgr cannot be seen from here: give a number";
            return Err(Failure::Usage(message.into()));
        }
    };
    need_proc("leave out --while, and say --timeout")?;
    let exists = |pid| !matches!(test_kill_process(pid), Err(Errno::SRCH));
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if raw.is_some_and(exists) && !is_zombie(pid) {
        Ok(Some(pid))
    } else {
        let message = "there is no such process, or it cannot be seen from here";
        Err(Failure::Usage(format!(
            "cannot bind to process {pid}: {message}"
        )))
    }
}

/// Refuses to bind a lock to a process if the end of the process cannot be detected.
pub(crate) fn need_proc(remedy: &str) -> Result<(), Failure> {
    if is_proc_there() {
        return Ok(());
    }
    Err(Failure::Invalid {
        kind: "Unsupported",
        message: format!(
            "cannot bind a lock to a process: there is no /proc, so its end cannot be detected; \
                {remedy}"
        ),
    })
}

pub(crate) fn lock_ref(name: &LockName, token: Option<u64>) -> LockRef<'_> {
    match token {
        Some(token) => LockRef::with_token(name.as_str(), token),
        None => name.into(),
    }
}
