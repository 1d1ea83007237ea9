//! The calls of the store to its file, for tests that watch them or make them fail.

use std::fmt;
use std::io;
use std::sync::Arc;

/// A call of the store to its file, as a [`storage_hook`](crate::Builder::storage_hook) sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageCall<'a> {
    /// Asks for the file's length.
    Len,
    /// Reads a range, in bytes.
    Read {
        /// Where it begins.
        offset: u64,
        /// How long it is.
        len: usize,
    },
    /// Writes a range, in bytes.
    Write {
        /// Where it begins.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// Makes the file longer or shorter.
    SetLen {
        /// Its new length in bytes.
        len: u64,
    },
    /// Waits until all that was written is on the disk.
    Sync,
    /// Takes, or waits for, a lock that the processes of a store share.
    Lock,
    /// Gives such a lock back.
    Unlock,
}

/// Is called before each [`StorageCall`].
#[derive(Clone)]
pub(crate) struct StorageHook(Arc<dyn Fn(StorageCall<'_>) -> io::Result<()> + Send + Sync>);

impl StorageHook {
    pub(crate) fn new(
        hook: impl Fn(StorageCall<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(hook))
    }

    pub(crate) fn before(&self, call: StorageCall<'_>) -> io::Result<()> {
        (self.0)(call)
    }
}

impl fmt::Debug for StorageHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageHook")
    }
}
