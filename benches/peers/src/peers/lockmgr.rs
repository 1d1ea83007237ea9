//! Drives lockmgr by its public API.

use super::{CACHE, LEASE, Mode, Peer};
use anyhow::{Result, bail};
use lockmgr::{Builder, Error, LockManager, SetOptions};
use std::path::Path;
use std::time::Duration;

pub(crate) struct Lockmgr {
    pub(crate) manager: LockManager,
    lease: Duration,
}

pub(crate) fn builder(mode: Mode) -> Builder {
    let builder = LockManager::builder().cache_size(CACHE);
    match mode {
        Mode::Exclusive => builder.exclusive(),
        Mode::Shared => builder,
    }
}

impl Lockmgr {
    pub(crate) fn open(file: &Path, mode: Mode) -> Result<Self> {
        Ok(builder(mode).open(file)?.into())
    }

    pub(crate) fn with_lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    fn options(&self) -> SetOptions {
        SetOptions::new().timeout(self.lease)
    }

    /// Runs a write transaction over an existing lock, which changes nothing.
    pub(crate) fn set_unchanged(&self, present: &str) -> Result<()> {
        self.manager
            .set_lock([present], self.options().no_renew())?;
        Ok(())
    }

    /// Runs a write transaction that would take `absent`, meets `present`, and is refused by
    /// `fail`.
    pub(crate) fn set_refused(&self, absent: &str, present: &str) -> Result<()> {
        match self
            .manager
            .set_lock([absent, present], self.options().fail())
        {
            Err(Error::LockFail(_)) => Ok(()),
            other => bail!("expected a refusal, got {other:?}"),
        }
    }
}

impl From<LockManager> for Lockmgr {
    fn from(manager: LockManager) -> Self {
        Self {
            manager,
            lease: LEASE,
        }
    }
}

impl Peer for Lockmgr {
    fn set(&mut self, names: &[String]) -> Result<()> {
        self.manager.set_lock(names, self.options())?;
        Ok(())
    }

    fn remove(&mut self, names: &[String]) -> Result<()> {
        self.manager.unlock_all(names.iter().map(String::as_str))?;
        Ok(())
    }

    fn is_locked(&mut self, name: &str) -> Result<bool> {
        Ok(self.manager.is_locked(name)?)
    }

    fn find(&mut self, name: &str) -> Result<bool> {
        Ok(self.manager.find(name)?.is_some())
    }

    fn list(&mut self, prefix: &str) -> Result<usize> {
        Ok(self.manager.locks(prefix)?.len())
    }
}
