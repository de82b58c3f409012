//! Whiteouts: how a layer says that something of the layers below is gone.
//!
//! From the image specification, "Representing Changes": `.wh.NAME` stands for the absence of NAME, `.wh..wh..opq` for the
//! absence of everything that the folder held. Both mean what is older than their own layer, wherever in the layer
//! they stand. So what the layer wrote is remembered, by its folder and its name, and spared.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::tree::{Folder, InsidePath, Tree, TreeError};

/// What a whiteout's name begins with.
const WHITEOUT: &[u8] = b".wh.";
/// The whole name of the one that empties its folder.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What names of aufs' own files begin with, which old archives hold.
const AUFS: &[u8] = b".wh..wh.";

/// What one layer wrote: folder's inode and name.
#[derive(Debug, Default)]
pub struct Written(HashSet<(u64, OsString)>);

impl Written {
    /// Remembers an entry.
    pub fn note(&mut self, folder: u64, name: &OsStr) {
        self.0.insert((folder, name.to_owned()));
    }

    fn holds(&self, folder: u64, name: &OsStr) -> bool {
        self.0.contains(&(folder, name.to_owned()))
    }
}

/// What the name of an entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// A file like any other.
    File,
    /// This name in its folder is gone.
    Gone(&'a OsStr),
    /// Everything in its folder is gone.
    Empty,
    /// A storage driver's own file.
    Nothing,
    /// A whiteout of no name, of the folder itself or of the one above.
    Bad,
}

/// Reads a name.
pub fn meaning(name: &OsStr) -> Meaning<'_> {
    let bytes = name.as_bytes();
    let Some(rest) = bytes.strip_prefix(WHITEOUT) else { return Meaning::File };
    match rest {
        _ if bytes == OPAQUE => Meaning::Empty,
        _ if bytes.starts_with(AUFS) => Meaning::Nothing,
        b"" | b"." | b".." => Meaning::Bad,
        gone => Meaning::Gone(OsStr::from_bytes(gone)),
    }
}

impl Tree {
    /// Removes what older layers have at `gone` in the folder of `path`.
    ///
    /// # Errors
    /// When the Host refuses.
    pub fn white_out(&mut self, path: &InsidePath<'_>, gone: &OsStr) -> Result<(), TreeError> {
        let Some(folder) = self.existing_parent(path) else { return Ok(()) };
        sweep_one(&folder.handle, folder.inode, gone, Some(&self.written)).map_err(|cause| path.host(cause))
    }

    /// Removes everything that older layers have in the folder of `path`.
    ///
    /// # Errors
    /// When the Host refuses.
    pub fn empty_folder(&mut self, path: &InsidePath<'_>) -> Result<(), TreeError> {
        let Some(folder) = self.existing_parent(path) else { return Ok(()) };
        open(&folder.handle, OsStr::new("."))
            .and_then(|handle| sweep(&handle, folder.inode, Some(&self.written)))
            .map_err(|cause| path.host(cause))
    }

    /// Removes whatever is at a name, to make room for another kind of file.
    pub(super) fn remove(
        &mut self,
        parent: &Folder,
        path: &InsidePath<'_>,
        name: &OsStr,
    ) -> Result<(), TreeError> {
        sweep_one(&parent.handle, parent.inode, name, None).map_err(|cause| path.host(cause))
    }
}

fn open(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Removes what is in an open folder. The depth is bounded where folders are made.
fn sweep(folder: &OwnedFd, inode: u64, spared: Option<&Written>) -> Result<(), Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.iter().try_for_each(|name| sweep_one(folder, inode, name, spared))
}

/// Removes a name and what is below it, but for what is spared and the folders that lead there.
fn sweep_one(parent: &OwnedFd, inode: u64, name: &OsStr, spared: Option<&Written>) -> Result<(), Errno> {
    let facts = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let keep = spared.is_some_and(|written| written.holds(inode, name));
    let is_folder = FileType::from_raw_mode(facts.st_mode) == FileType::Directory;
    if is_folder {
        sweep(&open(parent, name)?, facts.st_ino, spared)?;
    }
    match (keep, is_folder) {
        (true, _) => Ok(()),
        (false, false) => rustix::fs::unlinkat(parent, name, AtFlags::empty()),
        (false, true) => match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            // Something of this layer's lies in it.
            Err(Errno::NOTEMPTY) if spared.is_some() => Ok(()),
            other => other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (name, expected) in [
            ("wh.txt", Meaning::File),
            (".wh.txt", Meaning::Gone(OsStr::new("txt"))),
            (".wh..txt", Meaning::Gone(OsStr::new(".txt"))),
            (".wh..wh..opq", Meaning::Empty),
            (".wh..wh.plnk", Meaning::Nothing),
            (".wh.", Meaning::Bad),
            (".wh..", Meaning::Bad),
            (".wh...", Meaning::Bad),
            (".wh....", Meaning::Gone(OsStr::new("..."))),
        ] {
            assert_eq!(meaning(OsStr::new(name)), expected, "{name}");
        }
    }
}
