//! The first root of a Debian Guest: busybox, its names, an `/init` and whatever the user adds.
//!
//! ```text
//! lguest/          first entry of every archive of ours; a run's wishes are appended here (session.rs)
//! init             the first process, of the crate `init`
//! bin/             busybox and a link for each of its names; sbin, usr/bin and usr/sbin lead here
//! dev/console      what the kernel opens as the first process's standard files
//! dev proc sys run tmp root etc
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub mod newc;
pub mod applets;
pub mod session;
pub mod modules;

use newc::{Archive, FileKind};

/// The entry that marks an archive as ours: such a Guest reads a session and reports on the control channel.
const MARK: &str = "lguest";

/// The most bytes of files in one initramfs. All of it is unpacked into Guest memory before the first process.
const LARGEST_ROOT: u64 = 1 << 30;

/// The most links followed on one path; the kernel's own limit is 40 (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Why an initramfs could not be built.
#[derive(Debug, Error)]
pub enum InitramfsError {
    /// A file of the user's cannot be read.
    #[error("cannot read {path}: {cause}")]
    Unreadable {
        /// The file on the Host.
        path: PathBuf,
        /// What the Host said.
        cause: io::Error,
    },
    /// More bytes than an initramfs may hold.
    #[error("{path} makes the initramfs larger than {} MiB; leave something out", LARGEST_ROOT >> 20)]
    TooLarge {
        /// The file that was one too many.
        path: PathBuf,
    },
    /// A socket, a pipe or a device among the user's files.
    #[error("{path} is neither a file, a directory nor a link, so it cannot go into an initramfs")]
    OddFile {
        /// The file on the Host.
        path: PathBuf,
    },
    /// A path that leaves the root or runs in a circle.
    #[error("the Guest path {path} cannot be placed: it leads outside the root or through a circle of links")]
    BadGuestPath {
        /// The path in the Guest.
        path: String,
    },
}

/// True when this initrd was built here, so that a session may be appended to it.
pub fn is_ours(initrd: &[u8]) -> bool {
    newc::first_name(initrd) == Some(MARK)
}

struct Node {
    kind: FileKind,
    permissions: u32,
    data: Vec<u8>,
}

/// A root file system in the making.
pub struct Initramfs {
    nodes: BTreeMap<String, Node>,
    total: u64,
    /// The first process is the one that knows sessions.
    takes_sessions: bool,
}

impl Initramfs {
    /// The root described above, around this busybox.
    pub fn new(busybox: &[u8]) -> Initramfs {
        let mut root =
            Initramfs { nodes: BTreeMap::new(), total: busybox.len() as u64, takes_sessions: true };
        for directory in ["bin", "dev", "etc", "proc", "root", "run", "sys", "usr"] {
            root.put(directory, FileKind::Directory, 0o755, b"");
        }
        root.put("tmp", FileKind::Directory, 0o1777, b"");
        for (link, target) in [("sbin", "bin"), ("usr/bin", "../bin"), ("usr/sbin", "../bin")] {
            root.put(link, FileKind::Link, 0o777, target.as_bytes());
        }
        root.put("dev/console", FileKind::Character(5, 1), 0o600, b"");
        root.put("dev/null", FileKind::Character(1, 3), 0o666, b"");
        root.put(
            "etc/passwd",
            FileKind::Regular,
            0o644,
            b"root::0:0:root:/root:/bin/sh\nnobody:*:65534:65534:nobody:/:/bin/sh\n",
        );
        root.put("etc/group", FileKind::Regular, 0o644, b"root:x:0:\nnogroup:x:65534:\n");
        root.put("etc/hosts", FileKind::Regular, 0o644, b"127.0.0.1 localhost\n");
        for name in applets::applet_names(busybox) {
            root.put(&format!("bin/{name}"), FileKind::Link, 0o777, b"busybox");
        }
        root.put("bin/sh", FileKind::Link, 0o777, b"busybox");
        // A tool of the first process's own, by its name (the crate `init`, `vsock`).
        root.put("bin/vsock", FileKind::Link, 0o777, b"/init");
        root.put("bin/busybox", FileKind::Regular, 0o755, busybox);
        root.put("init", FileKind::Regular, 0o755, lguest_init::IMAGE);
        root
    }

    /// Replaces the first process by this script or program; the result is a Guest like any other, not a session's.
    pub fn set_init(&mut self, init: &[u8]) {
        self.takes_sessions = false;
        self.put("init", FileKind::Regular, 0o755, init);
    }

    /// Adds a file, a link or a directory with all it holds, under a path in the Guest.
    ///
    /// # Errors
    /// When something cannot be read, is no file, does not fit, or the Guest path leads outside the root.
    pub fn add(&mut self, host: &Path, guest: &str) -> Result<(), InitramfsError> {
        let unreadable = |cause| InitramfsError::Unreadable { path: host.to_owned(), cause };
        // The path that the user named may be a link to the thing meant; inside a directory, links stay links.
        let facts = fs::metadata(host).map_err(unreadable)?;
        if facts.is_dir() {
            return self.add_directory(host, guest);
        }
        self.add_one(host, guest, &facts)
    }

    fn add_directory(&mut self, host: &Path, guest: &str) -> Result<(), InitramfsError> {
        let unreadable = |cause| InitramfsError::Unreadable { path: host.to_owned(), cause };
        let place = self.place(guest)?;
        if !place.is_empty() {
            self.make_directories(&place);
        }
        let mut entries: Vec<_> = fs::read_dir(host).and_then(Iterator::collect).map_err(unreadable)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let inside = format!("{guest}/{}", entry.file_name().to_string_lossy());
            let facts = entry.metadata().map_err(unreadable)?;
            if facts.is_dir() {
                self.add_directory(&entry.path(), &inside)?;
            } else {
                self.add_one(&entry.path(), &inside, &facts)?;
            }
        }
        Ok(())
    }

    fn add_one(&mut self, host: &Path, guest: &str, facts: &fs::Metadata) -> Result<(), InitramfsError> {
        let path = host.to_owned();
        let (kind, data) = if facts.is_symlink() {
            let target = fs::read_link(host)
                .map_err(|cause| InitramfsError::Unreadable { path: path.clone(), cause })?;
            (FileKind::Link, target.into_os_string().into_encoded_bytes())
        } else if facts.is_file() {
            self.total = self.total.saturating_add(facts.len());
            if self.total > LARGEST_ROOT {
                return Err(InitramfsError::TooLarge { path });
            }
            let data =
                fs::read(host).map_err(|cause| InitramfsError::Unreadable { path: path.clone(), cause })?;
            (FileKind::Regular, data)
        } else {
            return Err(InitramfsError::OddFile { path });
        };
        let trimmed = guest.trim_end_matches('/');
        let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        if name.is_empty() || name == "." || name == ".." {
            return Err(InitramfsError::BadGuestPath { path: guest.to_owned() });
        }
        let parent = self.place(parent)?;
        self.make_directories(&parent);
        let place = if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
        self.put(&place, kind, facts.permissions().mode(), &data);
        Ok(())
    }

    /// The archive, ready to be an initrd.
    pub fn finish(self) -> Vec<u8> {
        let mut archive = Archive::new();
        if self.takes_sessions {
            archive.entry(MARK, FileKind::Directory, 0o755, b"");
        }
        for (path, node) in &self.nodes {
            archive.entry(path, node.kind, node.permissions, &node.data);
        }
        archive.finish()
    }

    fn put(&mut self, path: &str, kind: FileKind, permissions: u32, data: &[u8]) {
        let node = Node { kind, permissions, data: data.to_vec() };
        self.nodes.insert(path.to_owned(), node);
    }

    /// Makes the directories on the way to `path`, itself included, where there is nothing yet.
    fn make_directories(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let directory = &path[..end];
            if !directory.is_empty() && !self.nodes.contains_key(directory) {
                self.put(directory, FileKind::Directory, 0o755, b"");
            }
        }
    }

    /// Where a Guest path lies once the links among our own entries are followed, without a leading slash.
    fn place(&self, guest: &str) -> Result<String, InitramfsError> {
        let refused = || InitramfsError::BadGuestPath { path: guest.to_owned() };
        let mut rest: Vec<String> = guest.split('/').rev().map(str::to_owned).collect();
        let mut place: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    place.pop().ok_or_else(refused)?;
                    continue;
                }
                _ => place.push(name),
            }
            let Some(node) = self.nodes.get(&place.join("/")) else { continue };
            match node.kind {
                FileKind::Directory => {}
                FileKind::Link => {
                    links += 1;
                    let target = String::from_utf8_lossy(&node.data);
                    if links > MOST_LINKS {
                        return Err(refused());
                    }
                    place.pop();
                    if target.starts_with('/') {
                        place.clear();
                    }
                    rest.extend(target.split('/').rev().map(str::to_owned));
                }
                FileKind::Regular | FileKind::Character(..) => return Err(refused()),
            }
        }
        Ok(place.join("/"))
    }
}

#[cfg(test)]
mod tests;
