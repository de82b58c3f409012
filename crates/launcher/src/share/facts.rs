//! Facts about files: attributes, whom they belong to, extended attributes.

use std::os::fd::{AsRawFd, OwnedFd};

use lguest_devices::fuse::request::{Changes, NewTime};
use lguest_devices::fuse::{Answer, Attributes, HandleId, NodeId};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, fgetxattr, fstat, ftruncate, getxattr, lgetxattr, listxattr, removexattr, setxattr,
    utimensat,
};
use rustix::io::{Errno, Result};

use super::nodes::{Place, kind};
use super::owner::{CAPABILITY, LONGEST_OVERRIDE, OVERRIDE, Owned, attributes, is_capability};
use super::{Share, is_plain};

/// The longest value of an extended attribute, and the longest list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const MOST_EXTENDED: usize = 64 << 10;
/// The names that are passed on. `security`, `trusted` and `system` mean something to the host's kernel, up to a file's
/// being run with a right of root's.
const PASSED: &[u8] = b"user.";
/// ... but this, which is kept under another one ([`CAPABILITY`]).
const CAPABILITY_INSIDE: &[u8] = b"security.capability";
/// Names that are passed on and are ours.
const OURS: [&[u8]; 2] = [OVERRIDE.as_bytes(), b"user.lguest."];

/// The path by which the calls that take no O_PATH descriptor find its file.
fn path_of(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Whether a file of this kind can have attributes of its own (xattr(7)).
fn has_extended(kind: FileType) -> bool {
    matches!(kind, FileType::RegularFile | FileType::Directory)
}

impl Share {
    /// The facts of a name in a directory, which was looked at.
    pub(super) fn facts_within(&self, directory: &OwnedFd, name: &[u8], stat: &Stat) -> Attributes {
        let kept = has_extended(kind(stat)).then(|| {
            let mut path = path_of(directory).into_bytes();
            path.push(b'/');
            path.extend_from_slice(name);
            let mut value = [0; LONGEST_OVERRIDE];
            let length = lgetxattr(path, OVERRIDE, &mut value).ok()?;
            Owned::read(&value[..length])
        });
        self.facts(stat, kept.flatten())
    }

    /// The facts of an open file.
    pub(super) fn facts_of_file(&self, file: &OwnedFd, stat: &Stat) -> Attributes {
        let mut value = [0; LONGEST_OVERRIDE];
        let kept =
            fgetxattr(file, OVERRIDE, &mut value).ok().and_then(|length| Owned::read(&value[..length]));
        self.facts(stat, kept)
    }

    fn facts(&self, stat: &Stat, kept: Option<Owned>) -> Attributes {
        attributes(stat, kept.unwrap_or_else(|| self.identity.seen(stat)), self.inode(stat))
    }

    /// What is kept beside a file that a descriptor names, able to read or not.
    fn kept(&self, file: &OwnedFd, kind: FileType) -> Option<Owned> {
        if !has_extended(kind) {
            return None;
        }
        let mut value = [0; LONGEST_OVERRIDE];
        let length = getxattr(path_of(file), OVERRIDE, &mut value).ok()?;
        Owned::read(&value[..length])
    }

    /// Whose a file is that a descriptor names.
    pub(super) fn owner_of(&self, file: &OwnedFd) -> Result<Owned> {
        let stat = fstat(file)?;
        Ok(self.kept(file, kind(&stat)).unwrap_or_else(|| self.identity.seen(&stat)))
    }

    pub(super) fn get_attributes(
        &mut self,
        node: NodeId,
        handle: Option<HandleId>,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let facts = match handle {
            Some(handle) => {
                let file = self.file(handle)?;
                self.facts_of_file(file, &fstat(file)?)
            }
            None => match self.nodes.look(node)? {
                (stat, Place::Itself(file)) => self.facts(&stat, self.kept(&file, kind(&stat))),
                (stat, Place::Within(directory, name)) => self.facts_within(&directory, &name, &stat),
            },
        };
        answer.facts(&facts, self.validity);
        Ok(())
    }

    pub(super) fn set_attributes(
        &mut self,
        node: NodeId,
        changes: &Changes,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let file = self.nodes.descriptor(node)?;
        let stat = fstat(&file)?;
        let kept = self.kept(&file, kind(&stat));
        let now = kept.unwrap_or_else(|| self.identity.seen(&stat));
        let mut wanted = Owned {
            uid: changes.uid.unwrap_or(now.uid),
            gid: changes.gid.unwrap_or(now.gid),
            mode: changes.mode.unwrap_or(now.mode),
        };
        if changes.drop_privileges || changes.uid.is_some() || changes.gid.is_some() {
            // A mode that comes with a new owner is meant as it is.
            wanted = if changes.mode.is_none() { wanted.without_privileges() } else { wanted };
        }
        if wanted != now {
            self.settle(&file, &stat, wanted, kept)?;
        }
        let changed = changes.size.is_some() || changes.uid.is_some() || changes.gid.is_some();
        if changed
            && kind(&stat) == FileType::RegularFile
            && getxattr(path_of(&file), CAPABILITY, &mut [0; 0]).is_ok()
        {
            removexattr(path_of(&file), CAPABILITY)?;
        }
        if let Some(size) = changes.size {
            match changes.handle.map(|handle| self.file(handle)).transpose()? {
                Some(open) => ftruncate(open, size)?,
                None => {
                    is_plain(kind(&stat))?;
                    ftruncate(self.reopen(&file, OFlags::WRONLY)?, size)?;
                }
            }
        }
        if changes.accessed.is_some() || changes.modified.is_some() {
            let times = Timestamps {
                last_access: time(changes.accessed)?,
                last_modification: time(changes.modified)?,
            };
            utimensat(&file, "", &times, AtFlags::EMPTY_PATH)?;
        }
        let stat = fstat(&file)?;
        answer.facts(&self.facts(&stat, self.kept(&file, kind(&stat))), self.validity);
        Ok(())
    }

    /// Makes a file the Guest's wish, as far as the host can, and keeps the rest beside it. `kept` is what is there now.
    ///
    /// # Errors
    /// The host's, [`Errno::PERM`] where it keeps nothing beside files, and [`Errno::INVAL`] for an owner that nobody can be.
    pub(super) fn settle(
        &self,
        file: &OwnedFd,
        stat: &Stat,
        wanted: Owned,
        kept: Option<Owned>,
    ) -> Result<()> {
        if !wanted.is_possible() {
            return Err(Errno::INVAL);
        }
        let kind = kind(stat);
        let mut keep = self.identity.keep(wanted, self.identity.seen(stat), kind);
        if let Some((uid, gid)) = keep.owner.filter(|owner| *owner != (stat.st_uid, stat.st_gid)) {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            match chownat(file, "", uid, gid, AtFlags::EMPTY_PATH) {
                // Root of a container may be root in name only.
                Err(Errno::PERM | Errno::INVAL) => keep.beside = true,
                done => done?,
            }
        }
        if kind == FileType::Symlink {
            // A link has neither permissions nor anything beside it; whose it is matters to nobody but ls.
            return Ok(());
        }
        // The set-user-ID bits that a file of the host's has already stay its owner's affair.
        if stat.st_mode & 0o1777 != keep.mode {
            let number = file.as_raw_fd().to_string();
            chmodat(&self.descriptors, number, Mode::from_raw_mode(keep.mode), AtFlags::empty())?;
        }
        if !has_extended(kind) {
            return Ok(());
        }
        if keep.beside {
            let flags = XattrFlags::empty();
            return match setxattr(path_of(file), OVERRIDE, wanted.text().as_bytes(), flags) {
                Err(Errno::OPNOTSUPP) => Err(Errno::PERM),
                done => done,
            };
        }
        if kept.is_some() { removexattr(path_of(file), OVERRIDE) } else { Ok(()) }
    }

    /// Takes set-user-ID and set-group-ID from a file that was written to.
    pub(super) fn drop_privileges(&self, file: &OwnedFd) -> Result<()> {
        let stat = fstat(file)?;
        let kept = self.kept(file, kind(&stat));
        let now = kept.unwrap_or_else(|| self.identity.seen(&stat));
        let wanted = now.without_privileges();
        if wanted == now { Ok(()) } else { self.settle(file, &stat, wanted, kept) }
    }

    /// Takes a program's capabilities away, for it was changed (capabilities(7), "File capabilities").
    pub(super) fn drop_capability(&self, file: &OwnedFd) -> Result<()> {
        match fgetxattr(file, CAPABILITY, &mut [0; 0]) {
            Ok(_) => removexattr(path_of(file), CAPABILITY),
            // None, or a file system that keeps nothing.
            Err(_) => Ok(()),
        }
    }

    /// Where a node's extended attributes are, if the name is one that is passed on or kept.
    fn extended(&mut self, node: NodeId, name: &[u8]) -> Result<(std::sync::Arc<OwnedFd>, String)> {
        let passed = name.starts_with(PASSED) || name == CAPABILITY_INSIDE;
        if !passed || !has_extended(self.nodes.kind(node)?) {
            return Err(Errno::OPNOTSUPP);
        }
        let file = self.nodes.descriptor(node)?;
        let path = path_of(&file);
        Ok((file, path))
    }

    pub(super) fn get_extended(
        &mut self,
        node: NodeId,
        name: &[u8],
        size: u32,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let (_file, path) = self.extended(node, name)?;
        if is_ours(name) {
            return Err(Errno::NODATA);
        }
        let mut value = vec![0; MOST_EXTENDED];
        let length = getxattr(path, outside(name), &mut value)?;
        told(&value[..length], size, answer)
    }

    pub(super) fn list_extended(&mut self, node: NodeId, size: u32, answer: &mut Answer<'_>) -> Result<()> {
        if !has_extended(self.nodes.kind(node)?) {
            return told(&[], size, answer);
        }
        let file = self.nodes.descriptor(node)?;
        let mut list = vec![0; MOST_EXTENDED];
        let length = listxattr(path_of(&file), &mut list)?;
        let names = list[..length].split(|byte| *byte == 0).filter_map(|name| match name {
            name if name == CAPABILITY.as_bytes() => Some(CAPABILITY_INSIDE),
            name => (name.starts_with(PASSED) && !is_ours(name)).then_some(name),
        });
        told(&names.flat_map(|name| [name, &[0]].concat()).collect::<Vec<u8>>(), size, answer)
    }

    pub(super) fn set_extended(&mut self, node: NodeId, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let (_file, path) = self.extended(node, name)?;
        if is_ours(name) {
            return Err(Errno::PERM);
        }
        if name == CAPABILITY_INSIDE && !is_capability(value) {
            return Err(Errno::INVAL);
        }
        setxattr(path, outside(name), value, XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?)
    }

    pub(super) fn remove_extended(&mut self, node: NodeId, name: &[u8]) -> Result<()> {
        let (_file, path) = self.extended(node, name)?;
        if is_ours(name) {
            return Err(Errno::PERM);
        }
        removexattr(path, outside(name))
    }
}

/// Whether a name is one by which we keep what the Guest must not write itself.
fn is_ours(name: &[u8]) -> bool {
    OURS.iter().any(|ours| name.starts_with(ours))
}

/// The name that an attribute of the Guest's has on the host.
fn outside(name: &[u8]) -> &[u8] {
    if name == CAPABILITY_INSIDE { CAPABILITY.as_bytes() } else { name }
}

/// A value, or how long it is for who asks with size 0 (getxattr(2)).
fn told(value: &[u8], size: u32, answer: &mut Answer<'_>) -> Result<()> {
    match size as usize {
        0 => answer.amount(value.len() as u32),
        size if size < value.len() => return Err(Errno::RANGE),
        _ => answer.data(value),
    }
    Ok(())
}

/// A time as the host takes it.
fn time(new: Option<NewTime>) -> Result<Timespec> {
    Ok(match new {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(NewTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(NewTime::At(seconds, part)) if part < 1_000_000_000 => {
            Timespec { tv_sec: seconds, tv_nsec: part.into() }
        }
        Some(NewTime::At(..)) => return Err(Errno::INVAL),
    })
}
