//! A folder of ours that somebody else's archive is written into.
//!
//! An archive may hold any path, any link and any order of both; whoever made it may want a file of ours. So every path
//! is looked up by the kernel with this folder as its root (openat2(2), `RESOLVE_IN_ROOT`): a link in the way is followed as a
//! machine that has this root would follow it, and cannot leave. The last part of a path is never followed at all.
//!
//! An ordinary user can give files to nobody and make no devices. What the archive says of owner, mode and kind is kept in the
//! extended attribute [`OVERRIDE`], where that differs from what a Guest would find: who shows the folder to a Guest
//! honours it. A device, a pipe or a socket becomes an empty file with that attribute.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::attributes::{override_text, set_time};
use super::sweep::Written;

/// Where owner, mode and kind are kept: "uid:gid:mode", the mode octal, with the bits of the file's kind
/// (stat(2)) when it is a device, a pipe or a socket. Rootless container tools use the same name.
pub const OVERRIDE: &str = "user.containers.override_stat";

/// The most bytes of files in one image. The largest that people publish, for machine learning, have about 30 GB.
pub const MOST_BYTES: u64 = 64 << 30;
/// The most entries in one image, all layers together. A desktop's have half a million.
pub const MOST_ENTRIES: u64 = 2 << 20;
/// The deepest folder. A tree is removed with an open file a level, and a process has 1,024 of those.
const MOST_DEPTH: u32 = 256;
/// The longest path: Linux's own limit, `PATH_MAX`, less its NUL.
const LONGEST_PATH: usize = 4095;
/// How much of a hostile path is shown in a sentence.
const SHOWN: usize = 100;

/// Why something cannot be written.
#[derive(Debug, Error)]
pub enum TreeError {
    /// `..`, or a name that no file can have.
    #[error("the path {0} leads outside of the image or is none")]
    BadPath(Shown),
    /// Deeper than [`MOST_DEPTH`].
    #[error("the path {0} lies deeper than {MOST_DEPTH} folders")]
    TooDeep(Shown),
    /// A part of the path is no folder, or a link to nowhere.
    #[error("a part of the path {0} is no folder")]
    NoFolder(Shown),
    /// A hard link to what is not there.
    #[error("the path {0} is a second name of a file that is not there")]
    NoTarget(Shown),
    /// More than [`MOST_ENTRIES`].
    #[error("it holds more than {MOST_ENTRIES} files")]
    TooMany,
    /// More than [`MOST_BYTES`].
    #[error("it unpacks to more than {} GiB", MOST_BYTES >> 30)]
    TooLarge,
    /// The Host refuses: a full disk, a missing right.
    #[error("{path} cannot be written: {cause}")]
    Host {
        /// The path in the image.
        path: Shown,
        /// What the Host said.
        cause: io::Error,
    },
    /// The archive cannot be read, or ends early.
    #[error("{path} cannot be read: {}", Shown::fault(cause))]
    Data {
        /// The path in the image.
        path: Shown,
        /// What is wrong.
        cause: io::Error,
    },
}

/// A path from an archive, fit to be printed: short, and without what a terminal would obey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    /// The beginning of these bytes.
    pub fn new(path: &[u8]) -> Shown {
        let text = String::from_utf8_lossy(&path[..path.len().min(4 * SHOWN)]);
        Shown(text.chars().take(SHOWN).flat_map(char::escape_debug).collect())
    }

    /// A fault's sentence: a library may quote the archive in it.
    pub fn fault(cause: &io::Error) -> Shown {
        Shown::new(cause.to_string().as_bytes())
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A path in the image: its parts, none of them empty, `.` or `..`. No parts are the image's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsidePath<'a> {
    text: &'a [u8],
    parts: Vec<&'a OsStr>,
}

impl<'a> InsidePath<'a> {
    /// Reads an archive's path. One that begins with a slash is taken as it would be from the image's root.
    ///
    /// # Errors
    /// For `..`, for a NUL, and for more than a path can be long or deep.
    pub fn read(text: &'a [u8]) -> Result<InsidePath<'a>, TreeError> {
        let bad = || TreeError::BadPath(Shown::new(text));
        if text.len() > LONGEST_PATH || text.contains(&0) {
            return Err(bad());
        }
        let parts: Vec<&OsStr> = text
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .map(OsStr::from_bytes)
            .collect();
        if parts.iter().any(|part| part.as_bytes() == b"..") {
            return Err(bad());
        }
        if parts.len() > MOST_DEPTH as usize {
            return Err(TreeError::TooDeep(Shown::new(text)));
        }
        Ok(InsidePath { text, parts })
    }

    /// The last part; none for the root.
    pub fn name(&self) -> Option<&'a OsStr> {
        self.parts.last().copied()
    }

    /// As it may be printed.
    pub fn shown(&self) -> Shown {
        Shown::new(self.text)
    }

    fn folders(&self) -> &[&'a OsStr] {
        &self.parts[..self.parts.len().saturating_sub(1)]
    }

    fn bad(&self) -> TreeError {
        TreeError::BadPath(self.shown())
    }

    pub(super) fn host(&self, cause: Errno) -> TreeError {
        TreeError::Host { path: self.shown(), cause: cause.into() }
    }
}

/// What an archive says of a file beside its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// The lower twelve bits of the mode.
    pub permissions: u32,
    /// Seconds since 1970.
    pub changed: u64,
}

/// What an ordinary user cannot make, or should not: opening a pipe may wait for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OddKind {
    /// A character device with its numbers.
    Character(u32, u32),
    /// A block device with its numbers.
    Block(u32, u32),
    /// A named pipe.
    Pipe,
}

/// A folder that was looked up, and its place.
pub(super) struct Folder {
    pub(super) handle: OwnedFd,
    pub(super) inode: u64,
}

/// The image's root while it is written.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// How deep each folder lies, by inode. Only we make folders here, and nothing moves.
    depths: HashMap<u64, u32>,
    /// When each folder was changed, if the image says it.
    times: HashMap<u64, u64>,
    entries: u64,
    bytes: u64,
    /// What the layer at hand wrote: whiteouts spare it.
    pub(super) written: Written,
    owners_lost: bool,
}

impl Tree {
    /// Begins in an empty folder.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn new(folder: &std::path::Path) -> io::Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(folder, flags, Mode::empty())?;
        let inode = rustix::fs::fstat(&root)?.st_ino;
        let depths = HashMap::from([(inode, 0)]);
        let (times, written) = (HashMap::new(), Written::default());
        Ok(Tree { root, depths, times, entries: 0, bytes: 0, written, owners_lost: false })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The file system below keeps no extended attributes.
    pub(super) fn lose_owners(&mut self) {
        self.owners_lost = true;
    }

    pub(super) fn time_of_folder(&self, inode: u64) -> Option<u64> {
        self.times.get(&inode).copied()
    }

    /// True when the file system below keeps no extended attributes, so that owners and odd modes are lost.
    pub fn owners_lost(&self) -> bool {
        self.owners_lost
    }

    /// Bytes of files so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts one entry of this size, of whatever kind, before anything is done for it.
    ///
    /// # Errors
    /// When the image is too large.
    pub fn count(&mut self, size: u64) -> Result<(), TreeError> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(size);
        match (self.entries > MOST_ENTRIES, self.bytes > MOST_BYTES) {
            (true, _) => Err(TreeError::TooMany),
            (_, true) => Err(TreeError::TooLarge),
            (false, false) => Ok(()),
        }
    }

    /// Another layer begins: what is there now is older.
    pub fn begin_layer(&mut self) {
        self.written = Written::default();
    }

    /// Sets what could not be set before, and waits until everything is on disk.
    ///
    /// # Errors
    /// When the Host cannot.
    pub fn flush(&self) -> io::Result<()> {
        self.set_folder_times()?;
        Ok(rustix::fs::syncfs(&self.root)?)
    }

    /// Makes a folder, or takes the one that is there.
    ///
    /// # Errors
    /// When the path or the Host forbids it.
    pub fn folder(&mut self, path: &InsidePath<'_>, facts: Facts) -> Result<(), TreeError> {
        let Some(name) = path.name() else {
            let root =
                self.root.try_clone().map_err(|cause| TreeError::Host { path: path.shown(), cause })?;
            return self.set_folder_facts(path, root.as_fd(), facts);
        };
        let parent = self.parent(path)?;
        match self.kind(&parent, path, name)? {
            Some(FileType::Directory) => {}
            Some(_) => self.remove(&parent, path, name)?,
            None => {}
        }
        self.make_folder(&parent, path, name)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&parent.handle, name, flags, Mode::empty())
            .map_err(|cause| path.host(cause))?;
        self.written.note(parent.inode, name);
        self.set_folder_facts(path, handle.as_fd(), facts)
    }

    /// Writes a file of so many bytes.
    ///
    /// # Errors
    /// When the path or the Host forbids it, or the contents end early.
    pub fn file(
        &mut self,
        path: &InsidePath<'_>,
        facts: Facts,
        size: u64,
        contents: &mut dyn Read,
    ) -> Result<(), TreeError> {
        let mut file = self.empty_file(path)?;
        let copied = io::copy(&mut contents.take(size), &mut file)
            .map_err(|cause| TreeError::Data { path: path.shown(), cause })?;
        if copied != size {
            let cause = io::ErrorKind::UnexpectedEof.into();
            return Err(TreeError::Data { path: path.shown(), cause });
        }
        // Its owner can always read and write what lies here; the override has the truth.
        let kept = (facts.permissions & 0o777) | 0o600;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(kept)).map_err(|cause| path.host(cause))?;
        self.keep_override(path, file.as_fd(), facts, kept, None)?;
        set_time(&file, facts.changed).map_err(|cause| path.host(cause))
    }

    /// Keeps a device or a pipe as an empty file that says what it is.
    ///
    /// # Errors
    /// When the path or the Host forbids it.
    pub fn odd(&mut self, path: &InsidePath<'_>, facts: Facts, kind: OddKind) -> Result<(), TreeError> {
        let file = self.empty_file(path)?;
        self.keep_override(path, file.as_fd(), facts, 0, Some(kind))
    }

    /// Makes a symbolic link. Where it leads is nobody's business before a Guest follows it.
    ///
    /// # Errors
    /// When the path or the Host forbids it.
    pub fn link(&mut self, path: &InsidePath<'_>, target: &[u8]) -> Result<(), TreeError> {
        let (parent, name) = self.place(path)?;
        let target = OsStr::from_bytes(target);
        rustix::fs::symlinkat(target, &parent.handle, name).map_err(|cause| path.host(cause))
    }

    /// Gives a file that is there a second name.
    ///
    /// # Errors
    /// When there is no such file, or the path or the Host forbids it.
    pub fn second_name(&mut self, path: &InsidePath<'_>, first: &InsidePath<'_>) -> Result<(), TreeError> {
        let lost = || TreeError::NoTarget(path.shown());
        let source_name = first.name().ok_or_else(lost)?;
        let source = self.look_up(first.folders()).map_err(|_| lost())?;
        let parent = self.parent(path)?;
        let name = path.name().ok_or_else(|| path.bad())?;
        if (source.inode, source_name) == (parent.inode, name) {
            return Ok(());
        }
        match self.kind(&source, path, source_name)? {
            None | Some(FileType::Directory) => return Err(lost()),
            Some(_) => {}
        }
        let (parent, name) = self.place(path)?;
        rustix::fs::linkat(&source.handle, source_name, &parent.handle, name, AtFlags::empty())
            .map_err(|cause| path.host(cause))
    }

    /// The folder of a path when it is there; whiteouts make none.
    pub(super) fn existing_parent(&self, path: &InsidePath<'_>) -> Option<Folder> {
        self.look_up(path.folders()).ok()
    }

    fn empty_file(&mut self, path: &InsidePath<'_>) -> Result<File, TreeError> {
        let (parent, name) = self.place(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent.handle, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|cause| path.host(cause))?;
        Ok(file.into())
    }

    /// A free place for a path: its folder is there, and nothing is at its name.
    fn place<'a>(&mut self, path: &InsidePath<'a>) -> Result<(Folder, &'a OsStr), TreeError> {
        let name = path.name().ok_or_else(|| path.bad())?;
        let parent = self.parent(path)?;
        if self.kind(&parent, path, name)?.is_some() {
            self.remove(&parent, path, name)?;
        }
        self.written.note(parent.inode, name);
        Ok((parent, name))
    }

    fn kind(
        &self,
        parent: &Folder,
        path: &InsidePath<'_>,
        name: &OsStr,
    ) -> Result<Option<FileType>, TreeError> {
        match rustix::fs::statat(&parent.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(facts) => Ok(Some(FileType::from_raw_mode(facts.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(cause) => Err(path.host(cause)),
        }
    }

    /// The folder that a path lies in; made where it is not there, as an archive may leave it out.
    fn parent(&mut self, path: &InsidePath<'_>) -> Result<Folder, TreeError> {
        match self.look_up(path.folders()) {
            Ok(folder) => return Ok(folder),
            Err(Errno::NOENT) => {}
            Err(cause) => return Err(no_folder(path, cause)),
        }
        let mut folder = self.look_up(&[]).map_err(|cause| path.host(cause))?;
        for end in 1..=path.folders().len() {
            let part = path.folders()[end - 1];
            folder = match self.look_up(&path.folders()[..end]) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    self.make_folder(&folder, path, part)?;
                    self.look_up(&path.folders()[..end]).map_err(|cause| no_folder(path, cause))?
                }
                Err(cause) => return Err(no_folder(path, cause)),
            };
        }
        Ok(folder)
    }

    fn look_up(&self, folders: &[&OsStr]) -> Result<Folder, Errno> {
        let mut joined = OsString::from(".");
        for part in folders {
            joined.push("/");
            joined.push(part);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let handle = rustix::fs::openat2(&self.root, joined, flags, Mode::empty(), resolve)?;
        let inode = rustix::fs::fstat(&handle)?.st_ino;
        Ok(Folder { handle, inode })
    }

    fn make_folder(&mut self, parent: &Folder, path: &InsidePath<'_>, name: &OsStr) -> Result<(), TreeError> {
        let depth = self.depths.get(&parent.inode).copied().unwrap_or(MOST_DEPTH) + 1;
        if depth > MOST_DEPTH {
            return Err(TreeError::TooDeep(path.shown()));
        }
        match rustix::fs::mkdirat(&parent.handle, name, Mode::RWXU | Mode::from_raw_mode(0o055)) {
            Err(Errno::EXIST) => return Ok(()),
            other => other.map_err(|cause| path.host(cause))?,
        }
        let facts = rustix::fs::statat(&parent.handle, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|cause| path.host(cause))?;
        self.depths.insert(facts.st_ino, depth);
        // The number may have been another folder's that is gone.
        self.times.remove(&facts.st_ino);
        Ok(())
    }

    fn set_folder_facts(
        &mut self,
        path: &InsidePath<'_>,
        handle: BorrowedFd<'_>,
        facts: Facts,
    ) -> Result<(), TreeError> {
        let kept = (facts.permissions & 0o777) | 0o700;
        rustix::fs::fchmod(handle, Mode::from_raw_mode(kept)).map_err(|cause| path.host(cause))?;
        let inode = rustix::fs::fstat(handle).map_err(|cause| path.host(cause))?.st_ino;
        self.times.insert(inode, facts.changed);
        self.keep_override(path, handle, facts, kept, None)
    }

    /// Writes down what this user cannot give a file; a file that needs nothing loses what an older layer said.
    fn keep_override(
        &mut self,
        path: &InsidePath<'_>,
        handle: BorrowedFd<'_>,
        facts: Facts,
        kept: u32,
        odd: Option<OddKind>,
    ) -> Result<(), TreeError> {
        let plain = facts.user == 0 && facts.group == 0 && facts.permissions == kept && odd.is_none();
        let done = if plain {
            match rustix::fs::fremovexattr(handle, OVERRIDE) {
                Err(Errno::NODATA) => Ok(()),
                other => other,
            }
        } else {
            let text = override_text(facts, odd);
            rustix::fs::fsetxattr(handle, OVERRIDE, text.as_bytes(), XattrFlags::empty())
        };
        match done {
            Err(Errno::NOTSUP) => {
                self.owners_lost |= !plain;
                Ok(())
            }
            other => other.map_err(|cause| path.host(cause)),
        }
    }
}

fn no_folder(path: &InsidePath<'_>, cause: Errno) -> TreeError {
    match cause {
        Errno::NOTDIR | Errno::NOENT | Errno::LOOP => TreeError::NoFolder(path.shown()),
        Errno::XDEV => path.bad(),
        other => path.host(other),
    }
}
