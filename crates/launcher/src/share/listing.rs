//! Directories: what is in them, from a cookie on.

use std::os::fd::OwnedFd;

use lguest_devices::fuse::request::Span;
use lguest_devices::fuse::{Answer, FileName, MOST_DATA, NodeId};
use rustix::fs::{AtFlags, FileType, OFlags, RawDir, SeekFrom, seek, statat};
use rustix::io::{Errno, Result};

use super::{Share, contents};

impl Share {
    pub(super) fn open_directory(&mut self, node: NodeId, answer: &mut Answer<'_>) -> Result<()> {
        if self.nodes.kind(node)? != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let descriptor = self.nodes.descriptor(node)?;
        let file = self.reopen(&descriptor, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let handle = self.hand_out(node, file)?;
        answer.opened(handle, contents::CACHED_DIRECTORY);
        Ok(())
    }

    /// As many entries as the Guest has room for.
    pub(super) fn list(&mut self, at: Span, with_attributes: bool, answer: &mut Answer<'_>) -> Result<()> {
        let open = self.handle(at.handle)?;
        let parent = open.node;
        let directory = open.file.clone();
        seek(&directory, SeekFrom::Start(at.offset))?;
        answer.limit(at.size.min(MOST_DATA) as usize);
        let mut buffer = std::mem::take(&mut self.listing);
        let listed = self.list_into(parent, &directory, &mut buffer, with_attributes, answer);
        self.listing = buffer;
        listed
    }

    fn list_into(
        &mut self,
        parent: NodeId,
        directory: &OwnedFd,
        buffer: &mut [std::mem::MaybeUninit<u8>],
        with_attributes: bool,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let mut entries = RawDir::new(directory, buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let kind = entry.file_type().as_raw_mode() >> 12;
            let (inode, cookie) = (entry.ino(), entry.next_entry_cookie());
            if !with_attributes {
                if !answer.listed(name, inode, cookie, kind, None) {
                    break;
                }
                continue;
            }
            // A node that is remembered has to reach the driver, or nobody would forget it.
            if !answer.has_room_for(name) {
                break;
            }
            // The directory itself and its parent come without facts (FUSE leaves them to Linux), as does what is gone since.
            let found = FileName::new(name).ok().and_then(|name| {
                let stat = statat(directory, name.bytes(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
                self.admit(directory, name, &stat).ok()?;
                let facts = self.facts_within(directory, name.bytes(), &stat);
                Some((self.nodes.remember(parent, name, &stat).ok()?, facts))
            });
            let known = found.as_ref().map(|(node, facts)| (*node, facts, self.validity));
            answer.listed(name, inode, cookie, kind, Some(known));
        }
        Ok(())
    }
}
