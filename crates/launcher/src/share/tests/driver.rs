//! A driver of a few lines: it writes fuse.h's structures by hand, so that a mistake in ours is not made twice.

use std::path::Path;

use lguest_devices::fuse::Validity;
use lguest_devices::virtio::fs::FuseServer;
use rustix::fs::{Mode, OFlags};

use super::super::Share;

pub const LOOKUP: u32 = 1;
pub const FORGET: u32 = 2;
pub const GETATTR: u32 = 3;
pub const SETATTR: u32 = 4;
pub const READLINK: u32 = 5;
pub const SYMLINK: u32 = 6;
pub const MKNOD: u32 = 8;
pub const MKDIR: u32 = 9;
pub const UNLINK: u32 = 10;
pub const RMDIR: u32 = 11;
pub const LINK: u32 = 13;
pub const OPEN: u32 = 14;
pub const READ: u32 = 15;
pub const WRITE: u32 = 16;
pub const RELEASE: u32 = 18;
pub const FSYNC: u32 = 20;
pub const SETXATTR: u32 = 21;
pub const GETXATTR: u32 = 22;
pub const LISTXATTR: u32 = 23;
pub const INIT: u32 = 26;
pub const OPENDIR: u32 = 27;
pub const READDIR: u32 = 28;
pub const CREATE: u32 = 35;
pub const FALLOCATE: u32 = 43;
pub const READDIRPLUS: u32 = 44;
pub const RENAME2: u32 = 45;
pub const LSEEK: u32 = 46;
pub const COPY: u32 = 47;
pub const SYNCFS: u32 = 50;

/// Bytes of numbers, as they lie in a structure.
pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// What of `fuse_attr` the tests look at.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Seen {
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

pub fn seen(attr: &[u8]) -> Seen {
    Seen { size: u64_at(attr, 8), mode: u32_at(attr, 60), uid: u32_at(attr, 68), gid: u32_at(attr, 72) }
}

pub struct Driver {
    pub share: Share,
    pub uid: u32,
}

impl Driver {
    pub fn new(directory: &Path, readonly: bool) -> Driver {
        let root = rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut driver = Driver { share: Share::new(root.into(), readonly, Validity(1)).unwrap(), uid: 0 };
        driver.call(INIT, 1, &words(&[7, 40, 1 << 20, u32::MAX, 0])).unwrap();
        driver
    }

    pub fn message(&self, opcode: u32, node: u64, content: &[u8]) -> Vec<u8> {
        let mut bytes = words(&[40 + content.len() as u32, opcode]);
        bytes.extend(longs(&[99, node]));
        bytes.extend(words(&[self.uid, self.uid, 1, 0]));
        bytes.extend(content);
        bytes
    }

    /// The content of an answer, or the error's number.
    pub fn call(&mut self, opcode: u32, node: u64, content: &[u8]) -> Result<Vec<u8>, i32> {
        let message = self.message(opcode, node, content);
        let mut answer = Vec::new();
        self.share.serve(&message, 1 << 16, false, &mut answer);
        assert_eq!(u32_at(&answer, 0) as usize, answer.len());
        assert_eq!(u64_at(&answer, 8), 99);
        match u32_at(&answer, 4) as i32 {
            0 => Ok(answer[16..].to_vec()),
            error => Err(-error),
        }
    }

    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<(u64, Seen), i32> {
        let entry = self.call(LOOKUP, parent, &[name.as_bytes(), b"\0"].concat())?;
        match u64_at(&entry, 0) {
            0 => Err(libc::ENOENT),
            node => Ok((node, seen(&entry[40..]))),
        }
    }

    pub fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        self.call(OPEN, node, &words(&[flags as u32, 0])).map(|answer| u64_at(&answer, 0))
    }

    pub fn create(&mut self, parent: u64, name: &str, mode: u32) -> Result<(u64, u64), i32> {
        let content =
            [words(&[libc::O_RDWR as u32, 0o100_000 | mode, 0, 0]), [name.as_bytes(), b"\0"].concat()];
        let answer = self.call(CREATE, parent, &content.concat())?;
        Ok((u64_at(&answer, 0), u64_at(&answer, 128)))
    }

    pub fn mkdir(&mut self, parent: u64, name: &str, mode: u32) -> Result<u64, i32> {
        let content = [words(&[mode, 0]), [name.as_bytes(), b"\0"].concat()].concat();
        self.call(MKDIR, parent, &content).map(|entry| u64_at(&entry, 0))
    }

    pub fn write(&mut self, handle: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        let head = [longs(&[handle, offset]), words(&[data.len() as u32, 0, 0, 0, 0, 0])].concat();
        self.call(WRITE, 1, &[&head, data].concat()).map(|answer| u32_at(&answer, 0))
    }

    pub fn read(&mut self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        self.call(READ, 1, &[longs(&[handle, offset]), words(&[size, 0, 0, 0, 0, 0])].concat())
    }

    pub fn attributes(&mut self, node: u64) -> Result<Seen, i32> {
        self.call(GETATTR, node, &[0; 16]).map(|answer| seen(&answer[16..]))
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Result<(), i32> {
        let names = [from.1.as_bytes(), b"\0", to.1.as_bytes(), b"\0"].concat();
        self.call(RENAME2, from.0, &[longs(&[to.0]), words(&[flags, 0]), names].concat()).map(drop)
    }

    /// `valid` and the fields it names: mode, uid, gid, size.
    pub fn change(&mut self, node: u64, valid: u32, of: Seen) -> Result<Seen, i32> {
        let mut content = words(&[valid, 0]);
        content.extend(longs(&[0, of.size, 0, 0, 0, 0]));
        content.extend(words(&[0, 0, 0, of.mode, 0, of.uid, of.gid, 0]));
        self.call(SETATTR, node, &content).map(|answer| seen(&answer[16..]))
    }

    /// Names in a directory, in order; with READDIRPLUS also the node of each.
    pub fn list(&mut self, node: u64, opcode: u32, size: u32) -> Vec<(String, u64)> {
        let handle = u64_at(&self.call(OPENDIR, node, &words(&[0, 0])).unwrap(), 0);
        let (mut found, mut offset) = (Vec::new(), 0);
        loop {
            let at = [longs(&[handle, offset]), words(&[size, 0, 0, 0, 0, 0])].concat();
            let bytes = self.call(opcode, node, &at).unwrap();
            assert!(bytes.len() <= size as usize);
            if bytes.is_empty() {
                break;
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let head = if opcode == READDIRPLUS { 128 } else { 0 };
                let length = u32_at(rest, head + 16) as usize;
                let name = String::from_utf8(rest[head + 24..head + 24 + length].to_vec()).unwrap();
                offset = u64_at(rest, head + 8);
                found.push((name, if head > 0 { u64_at(rest, 0) } else { 0 }));
                rest = &rest[(head + 24 + length).next_multiple_of(8)..];
            }
        }
        self.call(RELEASE, node, &longs(&[handle, 0, 0])).unwrap();
        found.sort();
        found
    }
}
