//! Makes chosen calls of the store to its file fail.

use arbitrary::Arbitrary;
use lockmgr::StorageCall;
use rustix::io::Errno;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A kind of call.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Len,
    Read,
    Write,
    SetLen,
    Sync,
    Lock,
    Unlock,
}

impl Kind {
    fn of(call: StorageCall<'_>) -> Self {
        match call {
            StorageCall::Len => Self::Len,
            StorageCall::Read { .. } => Self::Read,
            StorageCall::Write { .. } => Self::Write,
            StorageCall::SetLen { .. } => Self::SetLen,
            StorageCall::Sync => Self::Sync,
            StorageCall::Lock => Self::Lock,
            StorageCall::Unlock => Self::Unlock,
            other => panic!("{other:?} is not tried"),
        }
    }

    /// Tells whether a verb's change is lost if such a call fails.
    pub fn loses(self) -> bool {
        matches!(self, Self::Write | Self::SetLen | Self::Sync)
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Cause {
    Full,
    Broken,
    Interrupted,
}

impl Cause {
    fn errno(self) -> Errno {
        match self {
            Self::Full => Errno::NOSPC,
            Self::Broken => Errno::IO,
            Self::Interrupted => Errno::INTR,
        }
    }
}

/// The calls that fail.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Fault {
    /// The kind of call. None stands for any kind.
    kind: Option<Kind>,
    /// The number of such calls that work before the first failure.
    passes: u8,
    /// Tells whether later calls fail too.
    lasts: bool,
    cause: Cause,
}

/// The storage of a run.
#[derive(Clone, Default)]
pub struct Storage(Arc<Mutex<Calls>>);

#[derive(Default)]
struct Calls {
    fault: Option<Fault>,
    /// The first call that failed since the last question, and its failure.
    failed: Option<(Kind, Errno)>,
}

impl Storage {
    pub fn hook(&self) -> impl Fn(StorageCall<'_>) -> io::Result<()> + Send + Sync + 'static {
        let storage = self.clone();
        move |call| storage.before(Kind::of(call))
    }

    fn before(&self, kind: Kind) -> io::Result<()> {
        let mut calls = self.calls();
        let is_meant = |fault: &&mut Fault| fault.kind.is_none_or(|it| it == kind);
        let Some(fault) = calls.fault.as_mut().filter(is_meant) else {
            return Ok(());
        };
        if let Some(passes) = fault.passes.checked_sub(1) {
            fault.passes = passes;
            return Ok(());
        }
        let Fault { lasts, cause, .. } = *fault;
        if !lasts {
            calls.fault = None;
        }
        calls.failed.get_or_insert((kind, cause.errno()));
        Err(cause.errno().into())
    }

    /// Makes calls fail from now on, or repairs the storage.
    pub fn set(&self, fault: Option<Fault>) {
        self.calls().fault = fault;
    }

    /// Runs some work during which no call fails.
    pub fn undisturbed<T>(&self, work: impl FnOnce() -> T) -> T {
        let fault = self.calls().fault.take();
        let done = work();
        self.set(fault);
        done
    }

    /// Returns the first call that failed since the last question, and its failure.
    pub fn take_failed(&self) -> Option<(Kind, Errno)> {
        self.calls().failed.take()
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
