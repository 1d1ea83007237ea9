//! `lockmgr get`: locks that outlive the command, for its caller.
//!
//! Until the answer is written the locks are bound to this process: if it is killed, or nobody can
//! be told, they are free again.

use crate::args::Get;
use crate::commands::there_is;
use crate::duration::{self, Wait};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::output;
use crate::place::{Place, holder, names};
use crate::signals::{Signals, end_by};
use crate::table;
use crate::waiting;
use lockmgr::{Lock, LockManager, Timeout};
use serde_json::{Value, json};
use std::io::{self, Write};

impl Place {
    /// `parent` is the process that called this one.
    pub(crate) fn get(&self, get: &Get, parent: Option<u32>) -> Result<ExitCode, Failure> {
        let mut signals = Signals::catch().map_err(|error| Failure::System("wait", error))?;
        let names = names(&get.names)?;
        let bound_to = there_is(get.bound_to, parent)?;
        let lease = get.lease.timeout_or(match bound_to {
            Some(_) => Timeout::Never,
            None => Timeout::DEFAULT,
        })?;
        let wait = get.wait.as_deref().map(duration::wait).transpose()?;
        let by = get.holder.locked_by.as_deref().map(holder).transpose()?;
        let manager = self.to_write()?;
        let mut acquire = manager.acquire(&names).timeout(lease);
        if let Some(by) = by {
            acquire = acquire.locked_by(by);
        }
        if let Some(process_id) = get.holder.process_id {
            acquire = acquire.process_id(process_id);
        }
        let acquire = match wait.unwrap_or(Wait::Not) {
            Wait::Not => acquire,
            Wait::For(bound) => acquire.wait(bound),
            Wait::Forever => acquire.wait_forever(),
        };
        let guard = match wait {
            None | Some(Wait::Not) => acquire.lock()?,
            Some(_) => waiting::ask(self, &manager, &names, false, &mut signals, || {
                acquire.lock()
            })??,
        };
        if let Some(signal) = signals.ending() {
            drop(guard);
            end_by(signal);
        }
        let mut locks = Vec::new();
        for (name, _) in guard.tokens() {
            locks.extend(manager.find(name)?);
        }
        // What cannot be told is given back: the guard is dropped.
        self.tell(&manager, get, &locks, bound_to)?;
        let bound = match bound_to {
            Some(process_id) => guard.detach_to(process_id),
            None => guard.detach(),
        };
        if let Err(error) = bound {
            // The one document is written.
            let failure = Failure::from(error).at(self);
            let _ = writeln!(io::stderr(), "lockmgr: {}", failure.message());
            return Ok(failure.kind().1);
        }
        Ok(ExitCode::Success)
    }

    /// Prints the locks as they will be: bound to that process, or to none.
    fn tell(
        &self,
        manager: &LockManager,
        get: &Get,
        locks: &[Lock],
        bound_to: Option<u32>,
    ) -> io::Result<()> {
        if self.quiet {
            return Ok(());
        }
        if !self.json {
            return output::lines(table::bound_locks(manager, locks, Some(bound_to)));
        }
        let document = |lock: &Lock| {
            let mut document = json!(lock);
            document["bound_to"] =
                bound_to.map_or(Value::Null, |pid| json!({ "pid": pid, "alive": true }));
            document
        };
        match locks {
            [lock] if get.names.len() == 1 => output::json(&document(lock)),
            locks => output::json(&locks.iter().map(document).collect::<Vec<_>>()),
        }
    }
}
