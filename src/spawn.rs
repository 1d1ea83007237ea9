//! Runs one thread of a manager in the background, from the first call that needs it on.

use crate::process::Origin;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Owns a thread that is started at most once.
#[derive(Debug)]
pub(crate) struct Background {
    thread: Mutex<Option<JoinHandle<()>>>,
    origin: Origin,
}

impl Default for Background {
    fn default() -> Self {
        Self {
            thread: Mutex::default(),
            origin: Origin::here(),
        }
    }
}

impl Background {
    /// Starts the thread, unless it was started before.
    pub(crate) fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = Some(thread::Builder::new().name(name.into()).spawn(run)?);
        }
        Ok(())
    }

    /// Tells whether this process was forked off by the thread's. The thread was not forked along,
    /// and may have held its mutexes at the fork.
    pub(crate) fn is_inherited(&self) -> bool {
        self.origin.elsewhere().is_some()
    }

    /// Waits until the thread ends. The thread itself may drop the last manager, and cannot join
    /// itself.
    pub(crate) fn join(&mut self) {
        let thread = self.thread.get_mut();
        let thread = thread.unwrap_or_else(PoisonError::into_inner).take();
        let is_here = |it: &JoinHandle<()>| it.thread().id() == thread::current().id();
        if let Some(thread) = thread.filter(|it| !is_here(it)) {
            let _ = thread.join();
        }
    }
}
