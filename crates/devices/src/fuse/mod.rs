//! FUSE's messages (Linux's `include/uapi/linux/fuse.h`, version 7.31 and on): what a virtio-fs driver sends, and how it
//! wants to be answered.
//!
//! ```text
//!   bytes ─► request  what is asked, checked: names are names, lengths are within the message
//!                │
//!                ▼  whoever holds the files (the Launcher's `share`)
//!                │
//!   bytes ◄─ answer   attributes, entries, directory listings
//! ```
//! Nothing here opens a file. Numbers are little-endian, which is the Guest's order (virtio 1.2, 5.11.6). Bytes are taken
//! apart with ordinary arithmetic: a message is forty bytes and a name, and the copy of its data costs far more.

pub mod request;
pub mod answer;

pub use answer::{Answer, Attributes, Validity};
pub use request::{FileName, Header, Request};

/// The version of the protocol that we speak. A driver that is newer speaks ours.
pub const MAJOR: u32 = 7;
/// The least minor version: virtio-fs came with 7.31 (Linux 5.4).
pub const LEAST_MINOR: u32 = 31;
/// The minor version whose layouts these are; an older driver's differ in nothing that is used here.
pub const MINOR: u32 = 38;

/// The most bytes of data in a READ or WRITE: 256 pages, the most that Linux asks for.
pub const MOST_DATA: u32 = 1 << 20;

/// A file of the tree, as the driver knows it. Given out by LOOKUP and its like, valid until as many FORGETs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The shared directory itself (FUSE_ROOT_ID).
    pub const ROOT: NodeId = NodeId(1);
}

/// An open file or directory, as the driver knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

/// Why a request was refused: Linux's numbers (errno(3)), which the protocol carries as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Not permitted.
    pub const PERM: Errno = Errno(libc::EPERM);
    /// The message makes no sense.
    pub const INVAL: Errno = Errno(libc::EINVAL);
    /// A request that we do not know; Linux does without from then on.
    pub const NOSYS: Errno = Errno(libc::ENOSYS);
    /// A name of more than 255 bytes.
    pub const NAMETOOLONG: Errno = Errno(libc::ENAMETOOLONG);
    /// The driver speaks another protocol.
    pub const PROTO: Errno = Errno(libc::EPROTO);
}

/// What both sides can do beyond the least (FUSE_INIT's flags).
pub mod ability {
    /// Several reads of a file at once.
    pub const ASYNC_READ: u64 = 1 << 0;
    /// O_TRUNC comes with OPEN.
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    /// Writes larger than a page.
    pub const BIG_WRITES: u64 = 1 << 5;
    /// Cached pages are dropped when size or time of a file turn out changed.
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    /// READDIRPLUS exists.
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    /// ... and is used where it pays.
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Lookups in one directory side by side.
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    /// `max_pages` of the answer counts.
    pub const MAX_PAGES: u64 = 1 << 22;
    /// What a symbolic link says is remembered.
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    /// The server takes set-user-ID away when told; without it Linux asks for capabilities before every write.
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// There are 32 flags more.
    pub const INIT_EXT: u64 = 1 << 30;
}
