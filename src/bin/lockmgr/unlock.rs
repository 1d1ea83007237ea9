//! Implements `lockmgr unlock` and `lockmgr reset`. They remove locks of any holder. Without
//! `--force` they refuse locks of running programs and jobs, or ask first.

use crate::args::Unlock;
use crate::commands::lock_ref;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::outer::Outer;
use crate::place::{Place, names};
use crate::processes;
use crate::table;
use chrono::Utc;
use lockmgr::{Bound, Error, Lock, LockName};
use serde_json::json;
use std::io::{self, BufRead, IsTerminal, Write};

impl Place {
    pub(crate) fn unlock(&self, unlock: &Unlock) -> Result<ExitCode, Failure> {
        if unlock.token.is_some() && unlock.names.len() > 1 {
            let message = "--token goes with one name; unlock the locks one by one";
            return Err(Failure::Usage(message.into()));
        }
        let names = names(&unlock.names)?;
        let manager = self.to_write()?;
        let outer = Outer::of(self);
        // With its token a lock is released, and not lost: the caller's job goes on.
        let own = names.iter().map(|name| outer.holds_of(&manager, name));
        let own = own.collect::<lockmgr::Result<Vec<_>>>()?;
        let locks = names.iter().zip(&own).map(|(name, own)| {
            let own = own.first().filter(|_| !unlock.force).map(Lock::token);
            lock_ref(name, unlock.token.or(own))
        });
        let may = |lock: &Lock| {
            let is_asked_for = unlock.token.is_some() || !(is_running(lock) || is_kept(lock));
            unlock.force || outer.gives_back(lock) || is_asked_for
        };
        let removed = manager
            .unlock_all_if(locks, may)
            .map_err(|error| match error {
                Error::Locked(lock) => Failure::Running(lock),
                error => error.into(),
            })?;
        let pairs: Vec<_> = names.iter().zip(&removed).collect();
        let said = |(name, removed): &(&LockName, &bool)| {
            let shown = table::name(name.as_str());
            match (**removed, unlock.token) {
                (true, _) => format!("{shown}: unlocked"),
                (false, None) => format!("{shown}: was not locked"),
                (false, Some(token)) => match manager.find(name) {
                    Ok(Some(lock)) => {
                        let now = lock.token();
                        format!("{shown}: not unlocked: token {now} holds it, not {token}: {lock}")
                    }
                    _ => format!("{shown}: was not locked"),
                },
            }
        };
        self.print(&pairs, || pairs.iter().map(said))?;
        Ok(match (unlock.token, removed.as_slice()) {
            (Some(_), [false]) => ExitCode::No,
            _ => ExitCode::Success,
        })
    }

    pub(crate) fn reset(&self, force: bool) -> Result<ExitCode, Failure> {
        if !force && !self.confirms_reset()? {
            return self.print_removed(0, "existing").map(|_| ExitCode::No);
        }
        let removed = self.to_write()?.reset_locks()?;
        self.print_removed(removed, "existing")
    }

    /// Asks on the terminal, and names the running programs and jobs that would lose their locks.
    fn confirms_reset(&self) -> Result<bool, Failure> {
        if !io::stdin().is_terminal() {
            let message = "reset removes every lock, of every holder: say --force, or \
                call it on a terminal";
            return Err(Failure::Usage(message.into()));
        }
        let mut locks = self.to_read()?.locks("")?;
        locks.retain(is_running);
        let mut err = io::stderr();
        if !locks.is_empty() {
            writeln!(err, "Running programs and jobs would lose these locks:")?;
        }
        for lock in &locks {
            match processes::holder_of(lock) {
                Some(program) => writeln!(err, "  {lock}; {program}")?,
                None => writeln!(err, "  {lock}")?,
            }
        }
        write!(err, "Remove every lock in {}? [y/N] ", self.shown())?;
        err.flush()?;
        let mut answer = Vec::new();
        let read = io::stdin().lock().read_until(b'\n', &mut answer);
        read.map_err(|error| Failure::System("read the answer", error))?;
        Ok(matches!(answer.trim_ascii(), b"y" | b"Y" | b"yes"))
    }

    pub(crate) fn print_removed(&self, removed: usize, what: &str) -> Result<ExitCode, Failure> {
        self.print(&json!({ "removed": removed }), || {
            let locks = if removed == 1 { "lock" } else { "locks" };
            [format!("removed {removed} {what} {locks}")]
        })?;
        Ok(ExitCode::Success)
    }
}

/// Tells whether the at-least time of the name has not passed yet.
fn is_kept(lock: &Lock) -> bool {
    lock.at_least().is_some_and(|until| Utc::now() < until)
}

/// Tells whether a program or a job runs under this lock and does not expect to lose it. A lock of
/// `--while` does not count: its script unlocks the lock itself.
fn is_running(lock: &Lock) -> bool {
    let kind = lock.bound_to().map(|it| it.kind());
    matches!(kind, Some(Bound::Manager | Bound::Job))
}
