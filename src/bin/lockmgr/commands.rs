//! What each command does: one call of the library, and what it prints.

use crate::args::{self, Cli, Command, Get, Renew, Set, Unlock};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::output;
use crate::place::{Place, holder, names, text, valid};
use crate::run::run_command;
use lockmgr::{
    Error, GetOptions, Lock, LockManager, LockName, LockRef, Printable, RenewOptions, SetOptions,
};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::Serialize;
use serde_json::json;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, BufRead, IsTerminal, Write};

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let store = Place::of(&cli)?;
    match &cli.command {
        Command::Run(run) => run_command(&store, run),
        Command::Check { name, token } => store.check(name, *token),
        Command::Queue { prefix } => store.queue(prefix.as_deref()),
        Command::Set(set) => store.set(set),
        Command::Get(get) => store.get(get),
        Command::Renew(renew) => store.renew(renew),
        Command::Unlock(unlock) => store.unlock(unlock),
        Command::IsLocked { name } => store.is_locked(name),
        Command::Find { name } => store.find(name),
        Command::List { prefix } => store.list(prefix.as_deref()),
        Command::Clean => store.clean(),
        Command::Reset { force } => store.reset(*force),
    }
}

impl Place {
    fn set(&self, set: &Set) -> Result<ExitCode, Failure> {
        let names = names(&set.names)?;
        let mut options = SetOptions::new().timeout(set.lease.timeout()?);
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
        if let Some(process_id) = set.holder.bound_to {
            there_is(process_id)?;
            options = options.bound_to(process_id);
        }
        let manager = self.to_write()?;
        let result = manager
            .set_lock(names, options)
            .map_err(|error| match error {
                error @ Error::Reserved { .. } => Failure::SetFail(error),
                error => error.into(),
            })?;
        self.print(&result, || output::set_result(&manager, &result))?;
        Ok(ExitCode::Success)
    }

    fn get(&self, get: &Get) -> Result<ExitCode, Failure> {
        if get.wait.is_some() {
            return self.get_waiting(get);
        }
        let name = valid(&get.name)?;
        let mut options = GetOptions::new().timeout(get.lease.timeout()?);
        if let Some(by) = &get.holder.locked_by {
            options = options.locked_by(holder(by)?);
        }
        if let Some(process_id) = get.holder.process_id {
            options = options.process_id(process_id);
        }
        if let Some(process_id) = get.holder.bound_to {
            there_is(process_id)?;
            options = options.bound_to(process_id);
        }
        let manager = self.to_write()?;
        let lock = manager.get_lock(name, options)?;
        self.print_lock(&manager, &lock)
    }

    fn get_waiting(&self, get: &Get) -> Result<ExitCode, Failure> {
        let name = valid(&get.name)?;
        let timeout = get.lease.timeout()?;
        let bound = get.wait.as_deref().map(args::span).transpose()?;
        let by = get.holder.locked_by.as_deref().map(holder).transpose()?;
        if let Some(pid) = get.holder.bound_to {
            there_is(pid)?;
        }
        let manager = self.to_write()?;
        let mut acquire = manager.acquire([name]).lease(timeout).no_keep_alive();
        if let Some(by) = by {
            acquire = acquire.locked_by(by);
        }
        if let Some(process_id) = get.holder.process_id {
            acquire = acquire.process_id(process_id);
        }
        let guard = acquire.try_lock_for(bound.unwrap_or_default())?;
        let locks = match get.holder.bound_to {
            Some(process_id) => guard.detach_to(process_id)?,
            None => guard.detach()?,
        };
        self.print(&locks.first(), || output::table(&manager, &locks))?;
        Ok(ExitCode::Success)
    }

    fn check(&self, name: &OsStr, token: u64) -> Result<ExitCode, Failure> {
        let name = valid(name)?;
        let lock = self.to_read()?.find(name)?;
        self.answer(lock.is_some_and(|lock| lock.token() == token))
    }

    fn queue(&self, prefix: Option<&OsStr>) -> Result<ExitCode, Failure> {
        let prefix = text("prefix", prefix.unwrap_or_default())?;
        let requests = self.to_read()?.requests(prefix)?;
        self.print(&requests, || match requests.is_empty() {
            true => vec!["nobody waits".into()],
            false => output::queue(&requests),
        })?;
        Ok(ExitCode::Success)
    }

    fn answer(&self, answer: bool) -> Result<ExitCode, Failure> {
        self.print(&answer, || [answer])?;
        Ok(if answer {
            ExitCode::Success
        } else {
            ExitCode::No
        })
    }

    fn renew(&self, renew: &Renew) -> Result<ExitCode, Failure> {
        let name = valid(&renew.name)?;
        let mut options = RenewOptions::new().timeout(renew.lease.timeout()?);
        if renew.add_time {
            options = options.add_time();
        }
        if renew.create {
            options = options.create();
        }
        let manager = self.to_write()?;
        let lock = manager.renew_lock(lock_ref(&name, renew.token), options)?;
        self.print_lock(&manager, &lock)
    }

    fn unlock(&self, unlock: &Unlock) -> Result<ExitCode, Failure> {
        if unlock.token.is_some() && unlock.names.len() > 1 {
            let message = "--token goes with one name; unlock the locks one by one";
            return Err(Failure::Usage(message.into()));
        }
        let names = names(&unlock.names)?;
        let manager = self.to_write()?;
        let locks = names.iter().map(|name| lock_ref(name, unlock.token));
        let removed = manager.unlock_all(locks)?;
        let pairs: Vec<_> = names.iter().zip(&removed).collect();
        self.print(&pairs, || {
            pairs.iter().map(|(name, removed)| match removed {
                true => format!("{}: unlocked", Printable(name.as_str())),
                false => format!("{}: was not locked", Printable(name.as_str())),
            })
        })?;
        Ok(match (unlock.token, removed.as_slice()) {
            (Some(_), [false]) => ExitCode::No,
            _ => ExitCode::Success,
        })
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
                    [format!("{}: not locked", Printable(name.as_str()))]
                })?;
                Ok(ExitCode::No)
            }
        }
    }

    fn list(&self, prefix: Option<&OsStr>) -> Result<ExitCode, Failure> {
        let prefix = text("prefix", prefix.unwrap_or_default())?;
        let manager = self.to_read()?;
        let locks = manager.locks(prefix)?;
        self.print(&locks, || match locks.is_empty() {
            true => vec!["no locks".into()],
            false => output::table(&manager, &locks),
        })?;
        Ok(ExitCode::Success)
    }

    fn clean(&self) -> Result<ExitCode, Failure> {
        let removed = self.to_write()?.clean_locks()?;
        self.print_removed(removed, "expired")
    }

    fn reset(&self, force: bool) -> Result<ExitCode, Failure> {
        if !force && !self.confirms_reset()? {
            return self.print_removed(0, "existing").map(|_| ExitCode::No);
        }
        let removed = self.to_write()?.reset_locks()?;
        self.print_removed(removed, "existing")
    }

    fn confirms_reset(&self) -> Result<bool, Failure> {
        if !io::stdin().is_terminal() {
            let message = "reset removes every lock, whoever holds it: say --force, \
                or call it on a terminal";
            return Err(Failure::Usage(message.into()));
        }
        let path = self.path.to_string_lossy();
        let mut err = io::stderr();
        write!(err, "Remove every lock in {}? [y/N] ", Printable(&path))?;
        err.flush()?;
        let mut answer = Vec::new();
        let read = io::stdin().lock().read_until(b'\n', &mut answer);
        read.map_err(|error| Failure::System("read the answer", error))?;
        Ok(matches!(answer.trim_ascii(), b"y" | b"Y" | b"yes"))
    }

    fn print_lock(&self, manager: &LockManager, lock: &Lock) -> Result<ExitCode, Failure> {
        self.print(lock, || output::table(manager, std::slice::from_ref(lock)))?;
        Ok(ExitCode::Success)
    }

    fn print_removed(&self, removed: usize, what: &str) -> Result<ExitCode, Failure> {
        self.print(&json!({ "removed": removed }), || {
            let locks = if removed == 1 { "lock" } else { "locks" };
            [format!("removed {removed} {what} {locks}")]
        })?;
        Ok(ExitCode::Success)
    }

    fn print<T: Display, L: IntoIterator<Item = T>>(
        &self,
        document: &impl Serialize,
        lines: impl FnOnce() -> L,
    ) -> io::Result<()> {
        if self.json {
            output::json(document)
        } else {
            output::lines(lines())
        }
    }
}

/// Looks for a process before the store is opened, as the library will look again.
fn there_is(pid: u32) -> Result<(), Failure> {
    let exists = |pid| !matches!(test_kill_process(pid), Err(Errno::SRCH));
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if raw.is_some_and(exists) {
        Ok(())
    } else {
        let message = "there is none, or it cannot be seen from here";
        Err(Failure::Usage(format!(
            "cannot bind to process {pid}: {message}"
        )))
    }
}

fn lock_ref(name: &LockName, token: Option<u64>) -> LockRef<'_> {
    match token {
        Some(token) => LockRef::with_token(name.as_str(), token),
        None => name.into(),
    }
}
