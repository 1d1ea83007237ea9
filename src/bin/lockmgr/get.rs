//! Implements `lockmgr get`: takes locks that outlive the command, for its caller.
//!
//! If the answer cannot be printed for the caller, the locks are released.

use crate::args::Get;
use crate::commands::there_is;
use crate::duration::{self, Wait};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::output;
use crate::place::{Place, holder, note};
use crate::signals::Signals;
use crate::table;
use crate::waiting;
use lockmgr::{Lock, LockGuard, LockManager, Timeout};
use serde_json::json;
use std::io::{self, Write};

impl Place {
    /// `parent` is the process that called this one.
    pub(crate) fn get(&self, get: &Get, parent: Option<u32>) -> Result<ExitCode, Failure> {
        let mut signals = Signals::catch().map_err(|error| Failure::System("wait", error))?;
        let asked = get.asking.asked()?;
        let bound_to = there_is(get.bound_to, parent)?;
        let lease = get.lease.timeout_or(match bound_to {
            Some(_) => Timeout::Never,
            None => Timeout::DEFAULT,
        })?;
        let wait = get.wait.as_deref().map(duration::wait).transpose()?;
        let by = get.holder.locked_by.as_deref().map(holder).transpose()?;
        let note = get.note.as_deref().map(note).transpose()?;
        let at_least = get.at_least.as_deref().map(duration::duration);
        let at_least = at_least.transpose()?;
        let manager = waiting::attended(&mut signals, None, None, || self.to_write())??;
        let mut acquire = asked.acquire(&manager).lease(lease).no_keep_alive();
        if let Some(by) = by {
            acquire = acquire.locked_by(by);
        }
        if let Some(note) = note {
            acquire = acquire.note(note);
        }
        if let Some(at_least) = at_least {
            acquire = acquire.at_least(at_least);
        }
        if let Some(process_id) = get.holder.process_id {
            acquire = acquire.process_id(process_id);
        }
        let wait = wait.unwrap_or(Wait::Not);
        let line = match wait {
            Wait::Not => None,
            _ => waiting::line(self, &manager, &asked, false),
        };
        let guard = waiting::acquire(&mut signals, line, acquire, wait)??;
        waiting::attended(&mut signals, None, None, || match bound_to {
            None => {
                let locks = guard.detach()?;
                let told = self.tell(&manager, get, &locks, None);
                self.or_give_back(&manager, &locks, told)
            }
            Some(process_id) => self.bind(&manager, get, guard, process_id),
        })?
    }

    /// Binds the locks to a process after the answer was printed. If this process is killed before
    /// that, it leaves no lock bound to the other process.
    fn bind(
        &self,
        manager: &LockManager,
        get: &Get,
        guard: LockGuard,
        process_id: u32,
    ) -> Result<ExitCode, Failure> {
        guard.check_detach_to(process_id)?;
        self.tell(manager, get, &guard.locks(), Some(process_id))?;
        match guard.detach_to(process_id) {
            Ok(_) => Ok(ExitCode::Success),
            Err(error) => {
                // The one JSON document has been written already.
                let failure = Failure::from(error).at(self);
                let _ = writeln!(io::stderr(), "lockmgr: {}", failure.message());
                Ok(failure.kind().1)
            }
        }
    }

    /// Prints the locks as they will be, bound to this process.
    fn tell(
        &self,
        manager: &LockManager,
        get: &Get,
        locks: &[Lock],
        bound_to: Option<u32>,
    ) -> Result<ExitCode, Failure> {
        let document = |lock: &Lock| {
            let mut document = json!(lock);
            if let Some(pid) = bound_to {
                document["bound_to"] = json!({ "pid": pid, "alive": true });
            }
            document
        };
        let told = match locks {
            _ if self.quiet => Ok(()),
            _ if !self.json => output::lines(table::bound_locks(manager, locks, bound_to)),
            [lock] if get.asking.names().len() == 1 => output::json(&document(lock)),
            locks => output::json(&locks.iter().map(document).collect::<Vec<_>>()),
        };
        told?;
        Ok(ExitCode::Success)
    }
}
