//! Repairs the last commit of a file in memory, for users and mounts that may only read the file.
//!
//! redb checks every page of the commit while it repairs, so the copy then holds all pages, and the
//! file is never read again. A commit to the file changes its header. By the header the copy finds
//! out that it is no longer the last commit.

use redb::StorageBackend;
use redb::backends::FileBackend;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The bytes that the copy keeps together: redb's smallest page.
const BLOCK: usize = 4096;

/// The length of redb's header.
const HEADER: usize = 320;

/// Remembers the header of a file, to find out whether it is still the same.
pub(super) struct Seen {
    file: FileBackend,
    header: Box<[u8; HEADER]>,
}

impl Seen {
    pub(super) fn of(file: File) -> Result<Self, redb::Error> {
        let file = FileBackend::new(file)?;
        let header = header_of(&file)?;
        Ok(Self { file, header })
    }

    /// Tells whether nothing was committed since, and no repair changed the last commit.
    pub(super) fn is_current(&self) -> bool {
        header_of(&self.file).is_ok_and(|header| header == self.header)
    }
}

fn header_of(file: &FileBackend) -> io::Result<Box<[u8; HEADER]>> {
    let mut header = Box::new([0; HEADER]);
    file.read(0, &mut *header)?;
    Ok(header)
}

/// Reads a file once, and keeps its changes in memory. It has no locks, because it is shared with
/// no other process.
pub(super) struct InMemory<B> {
    file: B,
    pages: Mutex<Pages>,
}

struct Pages {
    blocks: BTreeMap<usize, Box<[u8; BLOCK]>>,
    len: u64,
    /// The offset up to which bytes outside of `blocks` are as in the file. Zeros follow.
    of_file: u64,
}

impl<B: StorageBackend> InMemory<B> {
    pub(super) fn of(file: B) -> Result<Self, redb::Error> {
        let len = file.len()?;
        let pages = Pages {
            blocks: BTreeMap::new(),
            len,
            of_file: len,
        };
        Ok(Self {
            file,
            pages: Mutex::new(pages),
        })
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a range into memory by one read, because the file judges each read as a page.
    fn fetch(&self, pages: &mut Pages, offset: usize, len: usize) -> io::Result<()> {
        let (first, last) = (offset / BLOCK, (offset + len).div_ceil(BLOCK));
        if (first..last).all(|block| pages.blocks.contains_key(&block)) {
            return Ok(());
        }
        let mut bytes = vec![0; (last - first) * BLOCK];
        let from = (first * BLOCK) as u64;
        let there = pages.of_file.saturating_sub(from).min(bytes.len() as u64);
        if there > 0 {
            self.file.read(from, &mut bytes[..there as usize])?;
        }
        for (block, bytes) in (first..last).zip(bytes.chunks_exact(BLOCK)) {
            let copy = || Box::new(bytes.try_into().expect("a piece is one block long"));
            pages.blocks.entry(block).or_insert_with(copy);
        }
        Ok(())
    }
}

impl Pages {
    /// Returns the start of a range, if the range is within the file.
    fn start(&self, offset: u64, len: usize) -> io::Result<usize> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        usize::try_from(offset).map_err(io::Error::other)
    }
}

impl<B> fmt::Debug for InMemory<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InMemory")
    }
}

/// Returns the parts of a range that lie in one block each: the block, and the start and end in it.
fn parts(offset: usize, len: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let end = offset + len;
    (offset / BLOCK..end.div_ceil(BLOCK)).map(move |block| {
        let start = block * BLOCK;
        (
            block,
            offset.max(start) - start..end.min(start + BLOCK) - start,
        )
    })
}

impl<B: StorageBackend> StorageBackend for InMemory<B> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.pages().len)
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let len = out.len();
        let mut pages = self.pages();
        let offset = pages.start(offset, len)?;
        self.fetch(&mut pages, offset, len)?;
        for (block, range) in parts(offset, len) {
            let (part, rest) = out.split_at_mut(range.len());
            part.copy_from_slice(&pages.blocks[&block][range]);
            out = rest;
        }
        Ok(())
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        let len = data.len();
        let mut pages = self.pages();
        let offset = pages.start(offset, len)?;
        for (block, range) in parts(offset, len) {
            let (part, rest) = data.split_at(range.len());
            if range.len() < BLOCK {
                self.fetch(&mut pages, block * BLOCK + range.start, range.len())?;
            }
            let bytes = pages.blocks.entry(block);
            bytes.or_insert_with(|| Box::new([0; BLOCK]))[range].copy_from_slice(part);
            data = rest;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut pages = self.pages();
        let blocks = usize::try_from(len.div_ceil(BLOCK as u64)).map_err(io::Error::other)?;
        pages.blocks.split_off(&blocks);
        pages.len = len;
        pages.of_file = pages.of_file.min(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
