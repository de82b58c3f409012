//! Names: found, made, moved and removed.
//!
//! Whatever makes a name makes it with the exact parent, one component and, where the host could follow a link, a flag that
//! says not to. A file's owner is settled after it was made, for a mode that the host's umask thinned as much as for an owner
//! that only the Guest knows.

use std::os::fd::{AsRawFd, OwnedFd};

use lguest_devices::fuse::{Answer, FileName, Header, NodeId};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, fstat, linkat, mkdirat, mknodat, openat, readlinkat,
    renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::{Errno, Result};

use super::owner::{Owned, SET_GROUP_ID};
use super::{PROC, Share};

/// RENAME_NOREPLACE and RENAME_EXCHANGE (rename(2)). The third, which leaves a device node behind, is no use here.
const RENAMES: u32 = 1 | 2;

impl Share {
    pub(super) fn lookup(
        &mut self,
        parent: NodeId,
        name: FileName<'_>,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let directory = self.nodes.descriptor(parent)?;
        match statat(&directory, name.bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.enter(parent, &directory, name, &stat, answer),
            Err(Errno::NOENT) => {
                answer.no_entry(self.validity);
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    /// Gives out the node of what was found under a name.
    pub(super) fn enter(
        &mut self,
        parent: NodeId,
        directory: &OwnedFd,
        name: FileName<'_>,
        stat: &Stat,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        self.admit(directory, name, stat)?;
        let facts = self.facts_within(directory, name.bytes(), stat);
        let node = self.nodes.remember(parent, name, stat)?;
        answer.entry(node, &facts, self.validity);
        Ok(())
    }

    /// Lets in what is on another file system than all so far, unless that is /proc.
    pub(super) fn admit(&mut self, directory: &OwnedFd, name: FileName<'_>, stat: &Stat) -> Result<()> {
        if self.devices.contains(&stat.st_dev) {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(directory, name.bytes(), flags, Mode::empty())?;
        if rustix::fs::fstatfs(&file)?.f_type as u64 == PROC {
            return Err(Errno::ACCESS);
        }
        // What was opened may be another file than was looked at; it is the next look that counts then.
        self.devices.push(fstat(&file)?.st_dev);
        if self.devices.contains(&stat.st_dev) { Ok(()) } else { Err(Errno::STALE) }
    }

    pub(super) fn read_link(&mut self, node: NodeId, answer: &mut Answer<'_>) -> Result<()> {
        if self.nodes.kind(node)? != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let link = self.nodes.descriptor(node)?;
        answer.data(readlinkat(&link, "", Vec::new())?.as_bytes());
        Ok(())
    }

    /// The answer for a name that was just made: by then it may be another's, who is served as well.
    fn made(
        &mut self,
        header: &Header,
        directory: &OwnedFd,
        name: FileName<'_>,
        mode: u32,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let stat = statat(directory, name.bytes(), AtFlags::SYMLINK_NOFOLLOW)?;
        let wanted = self.owner_of_new(header, directory, mode)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(directory, name.bytes(), flags, Mode::empty())?;
        self.settle(&file, &fstat(&file)?, wanted, None)?;
        let stat = fstat(&file).unwrap_or(stat);
        self.enter(header.node, directory, name, &stat, answer)
    }

    /// Whose a new file is: who asks, and the group's that its directory says (inode(7), "The set-group-ID bit"). The driver
    /// leaves that to us, as it does with every server.
    fn owner_of_new(&self, header: &Header, directory: &OwnedFd, mode: u32) -> Result<Owned> {
        let above = self.owner_of(directory)?;
        let own = Owned { uid: header.uid, gid: header.gid, mode: mode & 0o7777 };
        Ok(if above.mode & SET_GROUP_ID == 0 {
            own
        } else if FileType::from_raw_mode(mode) == FileType::Directory {
            Owned { gid: above.gid, mode: own.mode | SET_GROUP_ID, ..own }
        } else {
            Owned { gid: above.gid, ..own }
        })
    }

    pub(super) fn symlink(
        &mut self,
        header: &Header,
        name: FileName<'_>,
        target: &[u8],
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let directory = self.nodes.descriptor(header.node)?;
        symlinkat(target, &directory, name.bytes())?;
        self.made(header, &directory, name, FileType::Symlink.as_raw_mode() | 0o777, answer)
    }

    pub(super) fn make_directory(
        &mut self,
        header: &Header,
        name: FileName<'_>,
        mode: u32,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let directory = self.nodes.descriptor(header.node)?;
        mkdirat(&directory, name.bytes(), Mode::from_raw_mode(mode & 0o777 | 0o700))?;
        let mode = FileType::Directory.as_raw_mode() | mode & 0o7777;
        self.made(header, &directory, name, mode, answer)
    }

    /// Files, pipes and sockets. A device's node would be one for the host's programs too.
    pub(super) fn make_node(
        &mut self,
        header: &Header,
        name: FileName<'_>,
        mode: u32,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let directory = self.nodes.descriptor(header.node)?;
        let permissions = Mode::from_raw_mode(mode & 0o777 | 0o600);
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile => {
                drop(openat(&directory, name.bytes(), NEW | OFlags::WRONLY, permissions)?);
            }
            kind @ (FileType::Fifo | FileType::Socket) => {
                mknodat(&directory, name.bytes(), kind, permissions, 0)?;
            }
            _ => return Err(Errno::PERM),
        }
        self.made(header, &directory, name, mode, answer)
    }

    pub(super) fn create(
        &mut self,
        header: &Header,
        name: FileName<'_>,
        flags: u32,
        mode: u32,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let directory = self.nodes.descriptor(header.node)?;
        let wanted = OFlags::from_bits_retain(flags);
        let permissions = Mode::from_raw_mode(mode & 0o777 | 0o600);
        match openat(&directory, name.bytes(), NEW | super::contents::opened_with(wanted), permissions) {
            Ok(file) => {
                let owned = self.owner_of_new(header, &directory, mode)?;
                self.settle(&file, &fstat(&file)?, owned, None)?;
                let stat = fstat(&file)?;
                let facts = self.facts_of_file(&file, &stat);
                let node = self.nodes.remember(header.node, name, &stat)?;
                let handle = self.hand_out(node, file).inspect_err(|_| self.nodes.forget(node, 1))?;
                answer.entry(node, &facts, self.validity);
                answer.opened(handle, super::contents::CACHED);
                Ok(())
            }
            // Somebody was faster, and the Guest does not mind.
            Err(Errno::EXIST) if !wanted.contains(OFlags::EXCL) => {
                let stat = statat(&directory, name.bytes(), AtFlags::SYMLINK_NOFOLLOW)?;
                super::is_plain(super::nodes::kind(&stat))?;
                self.enter(header.node, &directory, name, &stat, answer)?;
                let node = self.nodes.remember(header.node, name, &stat)?;
                self.nodes.forget(node, 1);
                self.open(node, flags, false, answer).inspect_err(|_| self.nodes.forget(node, 1))
            }
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn remove(&mut self, parent: NodeId, name: FileName<'_>, is_directory: bool) -> Result<()> {
        let directory = self.nodes.descriptor(parent)?;
        self.nodes.parting(&directory, name);
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        unlinkat(&directory, name.bytes(), flags)
    }

    pub(super) fn rename(
        &mut self,
        from: (NodeId, FileName<'_>),
        to: (NodeId, FileName<'_>),
        flags: u32,
    ) -> Result<()> {
        if flags & !RENAMES != 0 {
            return Err(Errno::INVAL);
        }
        let (here, there) = (self.nodes.descriptor(from.0)?, self.nodes.descriptor(to.0)?);
        self.nodes.parting(&there, to.1);
        let flags = RenameFlags::from_bits_truncate(flags);
        renameat_with(&here, from.1.bytes(), &there, to.1.bytes(), flags)?;
        self.nodes.moved(to.0, &there, to.1);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.nodes.moved(from.0, &here, from.1);
        }
        Ok(())
    }

    pub(super) fn link(
        &mut self,
        of: NodeId,
        parent: NodeId,
        name: FileName<'_>,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let (file, directory) = (self.nodes.descriptor(of)?, self.nodes.descriptor(parent)?);
        // The only way to name a file by its descriptor without a right of root's: this link leads to it and no further.
        let number = file.as_raw_fd().to_string();
        linkat(&self.descriptors, number, &directory, name.bytes(), AtFlags::SYMLINK_FOLLOW)?;
        let stat = fstat(&file)?;
        self.enter(parent, &directory, name, &stat, answer)
    }
}

/// A file that nobody had before, and no link.
const NEW: OFlags =
    OFlags::CREATE.union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);
