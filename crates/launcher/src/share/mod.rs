//! A directory of the host's that a Guest mounts: a FUSE server below one descriptor.
//!
//! ```text
//!   --share DIR[:TAG][,readonly]
//!        option    the words, and the mistakes in them
//!        nodes     what the driver knows, and the way back to each file without ever leaving DIR
//!        owner     whose files they are, on both sides
//!        names     lookup, create, rename, remove          contents  open, read, write, room
//!        facts     attributes, extended attributes         listing   directories
//!        crew      who waits for the host's disk
//! ```
//! What keeps a Guest inside: a name is one component (`lguest_devices::fuse::FileName`), a file is found by one
//! `openat(directory, name, O_PATH | O_NOFOLLOW)` after another (`nodes`), a link is text for the Guest to read, and only
//! what turned out to be a regular file or a directory is ever opened. A second file system below DIR is served like the
//! rest, except /proc: through it a Guest could write this process's memory.
//!
//! Requests are answered on the thread of the vCPU that asks, one at a time: most take a few microseconds, which is less
//! than waking another thread. To synchronise takes as long as a disk, and is the crew's; a read that waits for one holds
//! its vCPU up.
//!
//! Locks (flock, fcntl) are the Guest kernel's affair: we do not offer to keep them, so it keeps them itself, among its own
//! processes. No file of the host's is locked, and no lock of the host's is seen. Access control lists are refused
//! (EOPNOTSUPP), since no host would enforce what they say of the Guest's users.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use lguest_devices::fuse::answer::FileSystemFigures;
use lguest_devices::fuse::request::{self, Request};
use lguest_devices::fuse::{self, Answer, HandleId, Header, NodeId, Validity, ability};
use lguest_devices::virtio::fs::{FuseServer, Served, Ticket};
use rustix::fs::{FileType, Mode, OFlags, Stat, openat};
use rustix::io::{Errno, Result};

pub mod option;
mod nodes;
mod owner;
mod names;
mod contents;
mod facts;
mod listing;
mod crew;

pub use crew::Start;
use crew::{Crew, Work};
use nodes::Nodes;
use owner::Identity;
pub use owner::{CAPABILITY, is_capability};

/// Files and directories open at once, at most. Linux opens 1024 for a process unless told otherwise (RLIMIT_NOFILE), and
/// these are the host's descriptors.
const MOST_OPEN: usize = 8192;
/// Descriptors kept for files that are only known.
const MOST_HELD: usize = 4096;
/// What a directory is read in.
const LISTING: usize = 32 << 10;
/// statfs's name for /proc (PROC_SUPER_MAGIC).
const PROC: u64 = 0x9fa0;

/// What we can do, as far as the driver can.
const ABILITIES: u64 = ability::ASYNC_READ
    | ability::ATOMIC_O_TRUNC
    | ability::BIG_WRITES
    | ability::AUTO_INVAL_DATA
    | ability::DO_READDIRPLUS
    | ability::READDIRPLUS_AUTO
    | ability::PARALLEL_DIROPS
    | ability::MAX_PAGES
    | ability::CACHE_SYMLINKS
    | ability::HANDLE_KILLPRIV_V2
    | ability::INIT_EXT;

/// An open file or directory.
struct Open {
    node: NodeId,
    file: Arc<OwnedFd>,
}

/// A server of one directory.
pub struct Share {
    /// The directory; never O_PATH, so that it can be synchronised.
    root: Arc<OwnedFd>,
    /// /proc/self/fd, through which a descriptor that can do nothing becomes one that reads.
    descriptors: OwnedFd,
    readonly: bool,
    validity: Validity,
    identity: Identity,
    nodes: Nodes,
    most_held: usize,
    open: HashMap<HandleId, Open>,
    next_handle: u64,
    most_open: usize,
    /// File systems met so far, the root's first; files are numbered within theirs.
    devices: Vec<u64>,
    listing: Box<[MaybeUninit<u8>]>,
    crew: Crew,
}

impl Share {
    /// Serves a directory. `validity`: how long the Guest may go without looking whether the host changed something.
    ///
    /// # Errors
    /// When it cannot be read, is in /proc, or there is no /proc.
    pub fn new(root: Arc<OwnedFd>, readonly: bool, validity: Validity) -> Result<Share> {
        let descriptors = rustix::fs::open(
            "/proc/self/fd",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        if rustix::fs::fstatfs(&root)?.f_type as u64 == PROC {
            return Err(Errno::ACCESS);
        }
        let room = descriptors_left();
        let most_held = MOST_HELD.min(room / 4);
        Ok(Share {
            devices: vec![rustix::fs::fstat(&root)?.st_dev],
            nodes: Nodes::new(root.clone(), most_held)?,
            most_held,
            root,
            descriptors,
            readonly,
            validity,
            identity: Identity::of_the_caller(),
            open: HashMap::new(),
            next_handle: 1,
            most_open: MOST_OPEN.min(room / 4),
            listing: vec![MaybeUninit::uninit(); LISTING].into_boxed_slice(),
            crew: Crew::default(),
        })
    }

    /// What begins the threads that wait for the host's disk, once the device is on its bus.
    pub fn start(&self) -> Start {
        self.crew.start()
    }

    /// [`FuseServer::serve`].
    fn serve_one(&mut self, message: &[u8], room: usize, may_wait: bool, bytes: &mut Vec<u8>) -> Served {
        bytes.clear();
        let Some((header, opcode)) = request::header(message) else { return Served::Answered };
        let mut answer = Answer::new(bytes, room);
        let result = match request::body(opcode, message) {
            Ok(Request::Forget { lookups }) => {
                self.nodes.forget(header.node, lookups);
                bytes.clear();
                return Served::Answered;
            }
            Ok(Request::BatchForget { list }) => {
                request::forgets(list).for_each(|(node, lookups)| self.nodes.forget(node, lookups));
                bytes.clear();
                return Served::Answered;
            }
            Ok(Request::Interrupt) => {
                bytes.clear();
                return Served::Answered;
            }
            Ok(request @ (Request::Sync { .. } | Request::SyncAll)) => match self.work(&request) {
                Ok(Some(work)) if may_wait => match self.crew.take(header.unique, work) {
                    Ok(ticket) => return Served::Later(ticket),
                    Err(work) => work.carry_out(),
                },
                Ok(work) => work.map_or(Ok(()), |work| work.carry_out()),
                Err(errno) => Err(errno),
            }
            .map_err(number),
            Ok(request) => self.answer(&header, request, &mut answer).map_err(number),
            Err(errno) => Err(errno),
        };
        tracing::trace!(opcode, node = header.node.0, ?result, "share");
        answer.finish(header.unique, result);
        Served::Answered
    }

    /// What a request to synchronise has to wait for, if anything.
    fn work(&self, request: &Request<'_>) -> Result<Option<Work>> {
        Ok(match *request {
            Request::Sync { handle, data_only } => {
                let file = self.handle(handle)?.file.clone();
                Some(if data_only { Work::Data(file) } else { Work::File(file) })
            }
            // What could not be written needs no writing back, and the host may have gigabytes of others' to write.
            Request::SyncAll if !self.readonly => Some(Work::All(self.root.clone())),
            _ => None,
        })
    }

    /// [`FuseServer::reset`].
    fn forget_all(&mut self) {
        self.crew.forget();
        self.open.clear();
        if let Ok(nodes) = Nodes::new(self.root.clone(), self.most_held) {
            self.nodes = nodes;
        }
    }

    fn answer(&mut self, header: &Header, request: Request<'_>, answer: &mut Answer<'_>) -> Result<()> {
        let node = header.node;
        if self.readonly && changes(&request) {
            return Err(Errno::ROFS);
        }
        match request {
            Request::Init { major, minor, readahead, abilities } => {
                if major != fuse::MAJOR || minor < fuse::LEAST_MINOR {
                    return Err(Errno::PROTO);
                }
                self.forget_all();
                answer.agreed(readahead.min(fuse::MOST_DATA), abilities & ABILITIES);
            }
            Request::Lookup { name } => self.lookup(node, name, answer)?,
            Request::GetAttributes { handle } => self.get_attributes(node, handle, answer)?,
            Request::SetAttributes(changes) => self.set_attributes(node, &changes, answer)?,
            Request::ReadLink => self.read_link(node, answer)?,
            Request::Symlink { name, target } => self.symlink(header, name, target, answer)?,
            Request::MakeNode { name, mode } => self.make_node(header, name, mode, answer)?,
            Request::MakeDirectory { name, mode } => self.make_directory(header, name, mode, answer)?,
            Request::Unlink { name } => self.remove(node, name, false)?,
            Request::RemoveDirectory { name } => self.remove(node, name, true)?,
            Request::Rename { name, to, new_name, flags } => {
                self.rename((node, name), (to, new_name), flags)?
            }
            Request::Link { of, name } => self.link(of, node, name, answer)?,
            Request::Open { flags, drop_privileges } => self.open(node, flags, drop_privileges, answer)?,
            Request::Create { name, flags, mode } => self.create(header, name, flags, mode, answer)?,
            Request::Read(at) => self.read(at, answer)?,
            Request::Write { at, data, drop_privileges } => self.write(at, data, drop_privileges, answer)?,
            Request::Release { handle } => self.release(handle),
            Request::StatFs => answer.figures(&self.figures()?),
            Request::SetExtended { name, value, flags } => self.set_extended(node, name, value, flags)?,
            Request::GetExtended { name, size } => self.get_extended(node, name, size, answer)?,
            Request::ListExtended { size } => self.list_extended(node, size, answer)?,
            Request::RemoveExtended { name } => self.remove_extended(node, name)?,
            Request::OpenDirectory => self.open_directory(node, answer)?,
            Request::ReadDirectory { at, with_attributes } => self.list(at, with_attributes, answer)?,
            Request::Allocate { handle, offset, length, mode } => {
                self.allocate(handle, offset, length, mode)?;
            }
            Request::Seek { handle, offset, whence } => self.seek(handle, offset, whence, answer)?,
            Request::CopyRange { from, to, length } => self.copy(from, to, length, answer)?,
            Request::Destroy => self.forget_all(),
            // Answered before, or not at all.
            Request::Sync { .. }
            | Request::SyncAll
            | Request::Forget { .. }
            | Request::BatchForget { .. }
            | Request::Interrupt => {}
        }
        Ok(())
    }

    fn figures(&self) -> Result<FileSystemFigures> {
        let found = rustix::fs::fstatvfs(&self.root)?;
        Ok(FileSystemFigures {
            blocks: found.f_blocks,
            free: found.f_bfree,
            available: found.f_bavail,
            files: found.f_files,
            free_files: found.f_ffree,
            block_size: found.f_bsize as u32,
            fragment_size: found.f_frsize as u32,
        })
    }

    /// Opens anew what a descriptor names: with rights, and with no name that anybody could have changed.
    fn reopen(&self, descriptor: &OwnedFd, flags: OFlags) -> Result<OwnedFd> {
        let number = descriptor.as_raw_fd().to_string();
        openat(&self.descriptors, number, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
    }

    /// The Guest's number for a file. The first file system's are the host's own; others differ in the upper bits, which
    /// no file system of this size uses, or two files of the same number would be taken for one (tar, du).
    fn inode(&self, stat: &Stat) -> u64 {
        let which = self.devices.iter().position(|device| *device == stat.st_dev).unwrap_or_default();
        stat.st_ino ^ (which as u64) << 48
    }

    fn hand_out(&mut self, node: NodeId, file: OwnedFd) -> Result<HandleId> {
        if self.open.len() >= self.most_open {
            return Err(Errno::NFILE);
        }
        let handle = HandleId(self.next_handle);
        self.next_handle += 1;
        self.open.insert(handle, Open { node, file: Arc::new(file) });
        self.nodes.opened(node);
        Ok(handle)
    }

    fn handle(&self, handle: HandleId) -> Result<&Open> {
        self.open.get(&handle).ok_or(Errno::BADF)
    }

    fn release(&mut self, handle: HandleId) {
        if let Some(open) = self.open.remove(&handle) {
            self.nodes.closed(open.node);
        }
    }
}

impl FuseServer for Share {
    fn serve(&mut self, request: &[u8], room: usize, may_wait: bool, answer: &mut Vec<u8>) -> Served {
        self.serve_one(request, room, may_wait, answer)
    }

    fn done(&mut self) -> Option<(Ticket, Vec<u8>)> {
        let (ticket, unique, result) = self.crew.done()?;
        let mut bytes = Vec::new();
        // An answer without content is a header, and every request has room for that.
        Answer::new(&mut bytes, fuse::answer::HEADER).finish(unique, result.map_err(number));
        Some((ticket, bytes))
    }

    fn reset(&mut self) {
        self.forget_all();
    }
}

/// The protocol's number of an error of the host's.
fn number(errno: Errno) -> fuse::Errno {
    fuse::Errno(errno.raw_os_error())
}

/// Whether a request would change something, for a share that is read only. Opening looks at its flags itself.
fn changes(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::SetAttributes(_)
            | Request::Symlink { .. }
            | Request::MakeNode { .. }
            | Request::MakeDirectory { .. }
            | Request::Unlink { .. }
            | Request::RemoveDirectory { .. }
            | Request::Rename { .. }
            | Request::Link { .. }
            | Request::Create { .. }
            | Request::Write { .. }
            | Request::SetExtended { .. }
            | Request::RemoveExtended { .. }
            | Request::Allocate { .. }
            | Request::CopyRange { .. }
    )
}

/// Files that may be opened and have contents.
fn is_plain(kind: FileType) -> Result<()> {
    match kind {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Errno::ISDIR),
        FileType::Symlink => Err(Errno::LOOP),
        // A pipe, a socket or a device is the Guest kernel's to open; the host's is another.
        _ => Err(Errno::NXIO),
    }
}

/// How many descriptors this process may have; raised as far as it goes, once a share wants many.
fn descriptors_left() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    // None is no limit at all.
    now.map_or(MOST_OPEN * 4, |most| usize::try_from(most).unwrap_or(MOST_OPEN * 4))
}

#[cfg(test)]
mod tests;
