//! Extended attributes and folders' times of an image: what an archive says of files that is neither contents nor owner.
//!
//! A program's capabilities are kept where the share that shows the folder to a Guest finds them ([`CAPABILITY`]), the
//! user's own attributes under their names. Everything else (labels, lists of rights, an overlay's marks) means something
//! to a host's kernel or to programs that are not the image's, and goes. What lies in a folder changes its time, so times
//! of folders are noted by inode and set in one walk at the end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags, fstat, openat, statat,
};
use rustix::io::Errno;

use super::tree::{Facts, InsidePath, OddKind, Tree, TreeError};
use crate::share::{CAPABILITY, is_capability};

/// Names that are ours or other programs' on the host: an image must not write them.
const NOT_THEIRS: [&[u8]; 2] = [b"user.containers.", b"user.lguest."];

/// An attribute's name and value.
pub type Attribute = (Vec<u8>, Vec<u8>);

impl Tree {
    /// Keeps attributes of a file or a folder that was just written. What the host has no room for beside a file is left out:
    /// no program of an image needs 4 KiB of the user's attributes.
    ///
    /// # Errors
    /// When the host forbids it.
    pub fn keep_attributes(
        &mut self,
        path: &InsidePath<'_>,
        attributes: &[Attribute],
    ) -> Result<(), TreeError> {
        let mut kept =
            attributes.iter().filter_map(|(name, value)| Some((kept_name(name, value)?, value))).peekable();
        let Some(name) = path.name().filter(|_| kept.peek().is_some()) else { return Ok(()) };
        let Some(parent) = self.existing_parent(path) else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&parent.handle, name, flags, Mode::empty()).map_err(|cause| path.host(cause))?;
        for (name, value) in kept {
            match rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOTSUP) => self.lose_owners(),
                Err(Errno::TOOBIG | Errno::RANGE | Errno::NOSPC) if name != CAPABILITY.as_bytes() => {}
                Err(cause) => return Err(path.host(cause)),
            }
        }
        Ok(())
    }

    /// Gives every folder the time that its image says.
    ///
    /// # Errors
    /// When the host forbids it.
    pub fn set_folder_times(&self) -> io::Result<()> {
        let root = openat(self.root(), ".", FOLDER, Mode::empty())?;
        self.set_times_below(root)
    }

    /// As deep as an image may be, with two files open a level.
    fn set_times_below(&self, folder: OwnedFd) -> io::Result<()> {
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_folder = match entry.file_type() {
                FileType::Unknown => {
                    let facts = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(facts.st_mode) == FileType::Directory
                }
                kind => kind == FileType::Directory,
            };
            if is_folder {
                self.set_times_below(openat(&folder, name, FOLDER, Mode::empty())?)?;
            }
        }
        match self.time_of_folder(fstat(&folder)?.st_ino) {
            Some(seconds) => Ok(rustix::fs::futimens(&folder, &times(seconds))?),
            None => Ok(()),
        }
    }
}

/// A folder to read, never a link to one.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The name by which an attribute is kept; none for what goes.
fn kept_name<'a>(name: &'a [u8], value: &[u8]) -> Option<&'a [u8]> {
    if name == b"security.capability" {
        return is_capability(value).then_some(CAPABILITY.as_bytes());
    }
    let theirs = name.starts_with(b"user.") && !NOT_THEIRS.iter().any(|other| name.starts_with(other));
    // A NUL ends a name, and what is behind it would be another one.
    (theirs && name.len() <= 255 && !name.contains(&0)).then_some(name)
}

/// The text of [`super::tree::OVERRIDE`].
pub(super) fn override_text(facts: Facts, odd: Option<OddKind>) -> String {
    let Facts { user, group, permissions, .. } = facts;
    let (kind, suffix) = match odd {
        None => (0, String::new()),
        Some(OddKind::Character(major, minor)) => (0o020_000, format!(":char-{major}-{minor}")),
        Some(OddKind::Block(major, minor)) => (0o060_000, format!(":block-{major}-{minor}")),
        Some(OddKind::Pipe) => (0o010_000, ":pipe".to_owned()),
    };
    format!("{user}:{group}:{:o}{suffix}", kind | permissions)
}

/// Sets the time of a file's last change.
pub(super) fn set_time(file: &File, seconds: u64) -> Result<(), Errno> {
    rustix::fs::futimens(file.as_fd(), &times(seconds))
}

fn times(seconds: u64) -> Timestamps {
    // A time that no file system has is no reason to refuse an image.
    let seconds = i64::try_from(seconds).unwrap_or(0).min(u32::MAX.into());
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
    }
}
