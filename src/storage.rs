//! Shows the calls of the store to its file, to tests that watch them or make them fail.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Describes a call of the store to its file, as a [`storage_hook`](crate::Builder::storage_hook)
/// sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageCall<'a> {
    /// Asks for the file's length.
    Len,
    /// Reads a range, in bytes.
    Read {
        /// The start of the range.
        offset: u64,
        /// The length of the range.
        len: usize,
    },
    /// Writes a range, in bytes.
    Write {
        /// The start of the range.
        offset: u64,
        /// The bytes to write.
        data: &'a [u8],
    },
    /// Makes the file longer or shorter.
    SetLen {
        /// The new length in bytes.
        len: u64,
    },
    /// Waits until all written bytes are on the disk.
    Sync,
    /// Takes, or waits for, a lock that the processes of a store share.
    Lock,
    /// Releases such a lock.
    Unlock,
}

/// Holds the hook that runs before each [`StorageCall`].
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
