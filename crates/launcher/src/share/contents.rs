//! What is in files.

use std::os::fd::OwnedFd;

use lguest_devices::fuse::request::Span;
use lguest_devices::fuse::{Answer, HandleId, MOST_DATA, NodeId};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, copy_file_range, fallocate, seek};
use rustix::io::{Errno, Result, pread, pwrite};

use super::{Share, is_plain};

/// What the Guest has of a file stays good when it is opened again, until its size or time turn out changed
/// (FOPEN_KEEP_CACHE); for a directory also what it read of it (FOPEN_CACHE_DIR).
pub const CACHED: u32 = 1 << 1;
pub const CACHED_DIRECTORY: u32 = 1 << 1 | 1 << 3;

/// The most bytes copied in one request: a vCPU waits for it.
const MOST_COPIED: u64 = 16 << 20;
/// SEEK_DATA and SEEK_HOLE (lseek(2)); what else there is, Linux does by itself.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

/// What of a Guest's flags counts for the host's file: how it is used, where writes go, whether they wait for the disk.
/// Links, terminals, directories and direct access are the Guest kernel's affair or ours.
pub fn opened_with(flags: OFlags) -> OFlags {
    let access = OFlags::from_bits_retain(flags.bits() & OFlags::ACCMODE.bits());
    access | flags & (OFlags::APPEND | OFlags::DSYNC | OFlags::SYNC)
}

impl Share {
    pub(super) fn open(
        &mut self,
        node: NodeId,
        flags: u32,
        drop_privileges: bool,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        is_plain(self.nodes.kind(node)?)?;
        let wanted = OFlags::from_bits_retain(flags);
        let used = opened_with(wanted) | wanted & OFlags::TRUNC;
        if used.bits() & OFlags::ACCMODE.bits() == OFlags::ACCMODE.bits() {
            return Err(Errno::INVAL);
        }
        if self.readonly && (used.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC)) {
            return Err(Errno::ROFS);
        }
        let descriptor = self.nodes.descriptor(node)?;
        let file = self.reopen(&descriptor, used)?;
        if drop_privileges {
            self.drop_privileges(&file)?;
        }
        if used.contains(OFlags::TRUNC) {
            self.drop_capability(&file)?;
        }
        let handle = self.hand_out(node, file)?;
        answer.opened(handle, CACHED);
        Ok(())
    }

    /// The file behind a handle.
    pub(super) fn file(&self, handle: HandleId) -> Result<&OwnedFd> {
        self.handle(handle).map(|open| &*open.file)
    }

    pub(super) fn read(&mut self, at: Span, answer: &mut Answer<'_>) -> Result<()> {
        let file = self.file(at.handle)?;
        let size = at.size.min(MOST_DATA) as usize;
        answer.fill(size, |room| {
            let mut filled = 0;
            // A signal may cut a read short, and the Guest would take that for the end of the file.
            while filled < room.len() {
                match pread(file, &mut room[filled..], at.offset.saturating_add(filled as u64)) {
                    Ok(0) => break,
                    Ok(more) => filled += more,
                    Err(Errno::INTR) => {}
                    Err(_) if filled > 0 => break,
                    Err(errno) => return Err(errno),
                }
            }
            Ok(filled)
        })
    }

    pub(super) fn write(
        &mut self,
        at: Span,
        data: &[u8],
        drop_privileges: bool,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let file = self.file(at.handle)?;
        let mut written = 0;
        while written < data.len() {
            match pwrite(file, &data[written..], at.offset.saturating_add(written as u64)) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(Errno::INTR) => {}
                Err(_) if written > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        let file = self.file(at.handle)?;
        if drop_privileges {
            self.drop_privileges(file)?;
        }
        self.drop_capability(file)?;
        answer.amount(written as u32);
        Ok(())
    }

    pub(super) fn allocate(&mut self, handle: HandleId, offset: u64, length: u64, mode: u32) -> Result<()> {
        let flags = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        let known = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !known.contains(flags) {
            return Err(Errno::OPNOTSUPP);
        }
        fallocate(self.file(handle)?, flags, offset, length)
    }

    pub(super) fn seek(
        &mut self,
        handle: HandleId,
        offset: u64,
        whence: u32,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let wanted = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        answer.offset(seek(self.file(handle)?, wanted)?);
        Ok(())
    }

    pub(super) fn copy(
        &mut self,
        (from, mut offset): (HandleId, u64),
        (to, mut place): (HandleId, u64),
        length: u64,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let (from, to) = (self.file(from)?, self.file(to)?);
        let length = length.min(MOST_COPIED) as usize;
        let copied = copy_file_range(from, Some(&mut offset), to, Some(&mut place), length)?;
        answer.amount(copied as u32);
        Ok(())
    }
}
