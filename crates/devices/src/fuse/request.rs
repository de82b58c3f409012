//! What a driver asks for, taken out of its bytes.
//!
//! A name is checked where it is made ([`FileName`]): one component, which leads nowhere but into its directory. That is the
//! first half of why nothing outside a share is reached; the second is how the server opens them.

use super::{Errno, HandleId, NodeId};

/// The longest name of a file (NAME_MAX).
const LONGEST_NAME: usize = 255;
/// Bytes of the header before every request (`fuse_in_header`).
pub const HEADER: usize = 40;

/// What every request begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The number under which the answer is expected.
    pub unique: u64,
    /// The file that it is about.
    pub node: NodeId,
    /// Who asks, in the Guest's numbers.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
}

/// One component of a path: 1 to 255 bytes, no slash, no NUL, neither `.` nor `..`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileName<'a>(&'a [u8]);

impl<'a> FileName<'a> {
    /// Checks a name.
    ///
    /// # Errors
    /// [`Errno::NAMETOOLONG`], or [`Errno::INVAL`] for what is no name.
    pub fn new(bytes: &'a [u8]) -> Result<FileName<'a>, Errno> {
        match bytes {
            _ if bytes.len() > LONGEST_NAME => Err(Errno::NAMETOOLONG),
            b"" | b"." | b".." => Err(Errno::INVAL),
            _ if bytes.contains(&b'/') || bytes.contains(&0) => Err(Errno::INVAL),
            _ => Ok(FileName(bytes)),
        }
    }

    /// Its bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// A time that a file shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewTime {
    /// The present.
    Now,
    /// Seconds since 1970 and nanoseconds.
    At(i64, u32),
}

/// What SETATTR shall change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// An open file to go by.
    pub handle: Option<HandleId>,
    /// Permissions, without the kind of file.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Time of the last reading.
    pub accessed: Option<NewTime>,
    /// Time of the last writing.
    pub modified: Option<NewTime>,
    /// Set-user-ID and set-group-ID go.
    pub drop_privileges: bool,
}

/// Where data is in an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The open file.
    pub handle: HandleId,
    /// First byte; in a directory, the cookie behind which to go on.
    pub offset: u64,
    /// How many.
    pub size: u32,
}

/// A request. Names are those of fuse.h without the shouting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are those of fuse.h, and a sentence each would repeat their names"
)]
pub enum Request<'a> {
    Init {
        major: u32,
        minor: u32,
        readahead: u32,
        abilities: u64,
    },
    Lookup {
        name: FileName<'a>,
    },
    Forget {
        lookups: u64,
    },
    /// Pairs of a node and a count, read by [`forgets`].
    BatchForget {
        list: &'a [u8],
    },
    GetAttributes {
        handle: Option<HandleId>,
    },
    SetAttributes(Changes),
    ReadLink,
    Symlink {
        name: FileName<'a>,
        target: &'a [u8],
    },
    MakeNode {
        name: FileName<'a>,
        mode: u32,
    },
    MakeDirectory {
        name: FileName<'a>,
        mode: u32,
    },
    Unlink {
        name: FileName<'a>,
    },
    RemoveDirectory {
        name: FileName<'a>,
    },
    Rename {
        name: FileName<'a>,
        to: NodeId,
        new_name: FileName<'a>,
        flags: u32,
    },
    Link {
        of: NodeId,
        name: FileName<'a>,
    },
    Open {
        flags: u32,
        drop_privileges: bool,
    },
    Create {
        name: FileName<'a>,
        flags: u32,
        mode: u32,
    },
    Read(Span),
    Write {
        at: Span,
        data: &'a [u8],
        drop_privileges: bool,
    },
    Release {
        handle: HandleId,
    },
    StatFs,
    Sync {
        handle: HandleId,
        data_only: bool,
    },
    SyncAll,
    SetExtended {
        name: &'a [u8],
        value: &'a [u8],
        flags: u32,
    },
    GetExtended {
        name: &'a [u8],
        size: u32,
    },
    ListExtended {
        size: u32,
    },
    RemoveExtended {
        name: &'a [u8],
    },
    OpenDirectory,
    ReadDirectory {
        at: Span,
        with_attributes: bool,
    },
    Allocate {
        handle: HandleId,
        offset: u64,
        length: u64,
        mode: u32,
    },
    Seek {
        handle: HandleId,
        offset: u64,
        whence: u32,
    },
    CopyRange {
        from: (HandleId, u64),
        to: (HandleId, u64),
        length: u64,
    },
    Destroy,
    /// Never answered, and nothing here takes long enough to be interrupted.
    Interrupt,
}

/// Bytes on their way to being a request.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_le_bytes)
    }

    fn handle(&mut self) -> Result<HandleId, Errno> {
        self.u64().map(HandleId)
    }

    /// The bytes up to a NUL, which is taken and left out.
    fn text(&mut self) -> Result<&'a [u8], Errno> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Errno::INVAL)?;
        let (text, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Ok(text)
    }

    fn name(&mut self) -> Result<FileName<'a>, Errno> {
        FileName::new(self.text()?)
    }

    fn extended_name(&mut self) -> Result<&'a [u8], Errno> {
        match self.text()? {
            b"" => Err(Errno::INVAL),
            name if name.len() > LONGEST_NAME => Err(Errno(libc::ERANGE)),
            name => Ok(name),
        }
    }
}

/// Reads the header; none when there are too few bytes for one.
pub fn header(bytes: &[u8]) -> Option<(Header, u32)> {
    let mut reader = Reader(bytes.get(..HEADER)?);
    let (_length, opcode) = (reader.u32().ok()?, reader.u32().ok()?);
    let (unique, node) = (reader.u64().ok()?, NodeId(reader.u64().ok()?));
    let (uid, gid) = (reader.u32().ok()?, reader.u32().ok()?);
    Some((Header { unique, node, uid, gid }, opcode))
}

/// Reads what follows the header.
///
/// # Errors
/// [`Errno::NOSYS`] for a request that is not known here, [`Errno::INVAL`] or [`Errno::NAMETOOLONG`] for one that is none.
pub fn body(opcode: u32, bytes: &[u8]) -> Result<Request<'_>, Errno> {
    let mut reader = Reader(bytes.get(HEADER..).ok_or(Errno::INVAL)?);
    match opcode {
        1..=13 | 35 | 42 | 45 => names(opcode, &mut reader),
        21..=24 => extended(opcode, &mut reader),
        26 => init(&mut reader),
        _ => contents(opcode, &mut reader),
    }
}

fn init<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, Errno> {
    let (major, minor, readahead) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let low = u64::from(reader.u32()?);
    // Drivers before 7.36 end here.
    let high = if low & super::ability::INIT_EXT != 0 { u64::from(reader.u32()?) } else { 0 };
    Ok(Request::Init { major, minor, readahead, abilities: high << 32 | low })
}

/// Requests about names in a directory, and about a file by itself.
fn names<'a>(opcode: u32, reader: &mut Reader<'a>) -> Result<Request<'a>, Errno> {
    Ok(match opcode {
        1 => Request::Lookup { name: reader.name()? },
        2 => Request::Forget { lookups: reader.u64()? },
        3 => {
            let (flags, _, handle) = (reader.u32()?, reader.u32()?, reader.handle()?);
            Request::GetAttributes { handle: (flags & 1 != 0).then_some(handle) }
        }
        4 => Request::SetAttributes(changes(reader)?),
        5 => Request::ReadLink,
        6 => Request::Symlink { name: reader.name()?, target: reader.text()? },
        8 => {
            let (mode, _device, _mask, _) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
            Request::MakeNode { name: reader.name()?, mode }
        }
        9 => {
            let (mode, _mask) = (reader.u32()?, reader.u32()?);
            Request::MakeDirectory { name: reader.name()?, mode }
        }
        10 => Request::Unlink { name: reader.name()? },
        11 => Request::RemoveDirectory { name: reader.name()? },
        12 | 45 => {
            let to = NodeId(reader.u64()?);
            let flags = if opcode == 45 { (reader.u32()?, reader.u32()?).0 } else { 0 };
            Request::Rename { name: reader.name()?, to, new_name: reader.name()?, flags }
        }
        13 => Request::Link { of: NodeId(reader.u64()?), name: reader.name()? },
        35 => {
            let (flags, mode, _mask, _) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
            Request::Create { name: reader.name()?, flags, mode }
        }
        42 => {
            let (count, _) = (reader.u32()?, reader.u32()?);
            let length = (count as usize).checked_mul(16).ok_or(Errno::INVAL)?;
            Request::BatchForget { list: reader.0.get(..length).ok_or(Errno::INVAL)? }
        }
        _ => return Err(Errno::NOSYS),
    })
}

/// `fuse_setattr_in`, whose first word says which of the others count.
fn changes(reader: &mut Reader<'_>) -> Result<Changes, Errno> {
    let (valid, _, handle) = (reader.u32()?, reader.u32()?, reader.handle()?);
    let (size, _owner) = (reader.u64()?, reader.u64()?);
    let (accessed, modified, _changed) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let (accessed_part, modified_part, _) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let (mode, _, uid, gid) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let has = |bit: u32| valid >> bit & 1 != 0;
    let time = |bit: u32, now: u32, seconds: u64, part: u32| match (has(bit), has(now)) {
        (_, true) => Some(NewTime::Now),
        (true, _) => Some(NewTime::At(seconds as i64, part)),
        _ => None,
    };
    Ok(Changes {
        handle: has(6).then_some(handle),
        mode: has(0).then_some(mode & 0o7777),
        uid: has(1).then_some(uid),
        gid: has(2).then_some(gid),
        size: has(3).then_some(size),
        accessed: time(4, 7, accessed, accessed_part),
        modified: time(5, 8, modified, modified_part),
        drop_privileges: has(11),
    })
}

/// Requests about extended attributes (xattr(7)).
fn extended<'a>(opcode: u32, reader: &mut Reader<'a>) -> Result<Request<'a>, Errno> {
    if opcode == 24 {
        return Ok(Request::RemoveExtended { name: reader.extended_name()? });
    }
    let (size, flags) = (reader.u32()?, reader.u32()?);
    Ok(match opcode {
        21 => {
            let name = reader.extended_name()?;
            let value = reader.0.get(..size as usize).ok_or(Errno::INVAL)?;
            Request::SetExtended { name, value, flags }
        }
        22 => Request::GetExtended { name: reader.extended_name()?, size },
        _ => Request::ListExtended { size },
    })
}

/// Requests about what is in files and directories.
fn contents<'a>(opcode: u32, reader: &mut Reader<'a>) -> Result<Request<'a>, Errno> {
    Ok(match opcode {
        14 => {
            let (flags, more) = (reader.u32()?, reader.u32()?);
            Request::Open { flags, drop_privileges: more & 1 != 0 }
        }
        15 => Request::Read(span(reader)?),
        16 => {
            let at = span(reader)?;
            let (flags, _owner, _) = (reader.u32()?, reader.u64()?, reader.u64()?);
            let data = reader.0.get(..at.size as usize).ok_or(Errno::INVAL)?;
            Request::Write { at, data, drop_privileges: flags & 4 != 0 }
        }
        17 => Request::StatFs,
        18 | 29 => Request::Release { handle: reader.handle()? },
        20 | 30 => {
            let (handle, flags) = (reader.handle()?, reader.u32()?);
            Request::Sync { handle, data_only: flags & 1 != 0 }
        }
        27 => Request::OpenDirectory,
        28 | 44 => Request::ReadDirectory { at: span(reader)?, with_attributes: opcode == 44 },
        36 => Request::Interrupt,
        38 => Request::Destroy,
        43 => {
            let (handle, offset, length) = (reader.handle()?, reader.u64()?, reader.u64()?);
            Request::Allocate { handle, offset, length, mode: reader.u32()? }
        }
        46 => {
            let (handle, offset) = (reader.handle()?, reader.u64()?);
            Request::Seek { handle, offset, whence: reader.u32()? }
        }
        47 => {
            let (from, _node) = ((reader.handle()?, reader.u64()?), reader.u64()?);
            let to = (reader.handle()?, reader.u64()?);
            Request::CopyRange { from, to, length: reader.u64()? }
        }
        50 => Request::SyncAll,
        _ => return Err(Errno::NOSYS),
    })
}

fn span(reader: &mut Reader<'_>) -> Result<Span, Errno> {
    Ok(Span { handle: reader.handle()?, offset: reader.u64()?, size: reader.u32()? })
}

/// The pairs of a [`Request::BatchForget`].
pub fn forgets(list: &[u8]) -> impl Iterator<Item = (NodeId, u64)> {
    list.chunks_exact(16).map(|pair| {
        let (node, count) = pair.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        (NodeId(number(node)), number(count))
    })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
