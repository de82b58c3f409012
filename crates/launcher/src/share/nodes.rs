//! The files of a share that the driver knows, and the way back to each of them.
//!
//! A node is a directory's node and a name in it, and the file that was found there (device and inode number). A descriptor
//! is opened when one is wanted, name by name from the nearest directory that is open, and what was opened must be that
//! file: a host that renamed or replaced it makes the node stale, and Linux looks again. So a tree of a million files does
//! not need a million descriptors.
//!
//! Each step is `openat(directory, name, O_PATH | O_NOFOLLOW)` with a name that is one component: it finds what is in that
//! directory, opens no device, wakes no pipe, follows no link, and cannot leave. `..` is never a name. Whoever renames files
//! meanwhile can make a step fail; there is nothing that they could make it follow.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lguest_devices::fuse::{FileName, NodeId};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::{Errno, Result};

/// Nodes at most. Linux spends about a kilobyte of the Guest's memory on each file that it remembers, so half a gigabyte of
/// it is full by then; with the longest names they take about 200 MB of ours.
const MOST: usize = 1 << 19;
/// Directories above one another at most: a path of Linux's has 4096 bytes, thus 2048 names.
const DEEPEST: usize = 2048;

/// Which file of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// File system.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

impl FileKey {
    /// Of a file that was looked at.
    pub fn of(stat: &Stat) -> FileKey {
        FileKey { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// What kind of file it is.
pub fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

struct Node {
    key: FileKey,
    kind: FileType,
    parent: NodeId,
    name: Box<[u8]>,
    /// How often it was given out and not yet forgotten.
    lookups: u64,
    /// Open files of it.
    open: u32,
    held: Option<Arc<OwnedFd>>,
    /// Its name is gone while it is open: the descriptor is the only way to it.
    pinned: bool,
}

/// Where a file is: itself, or a directory and its name there.
pub enum Place {
    /// A descriptor of the file.
    Itself(Arc<OwnedFd>),
    /// A descriptor of its directory, and the name.
    Within(Arc<OwnedFd>, Box<[u8]>),
}

/// The nodes of a share.
pub struct Nodes {
    table: HashMap<NodeId, Node>,
    by_key: HashMap<FileKey, NodeId>,
    next: u64,
    /// Who holds a descriptor, oldest first.
    held: VecDeque<NodeId>,
    most_held: usize,
}

impl Nodes {
    /// A tree of which only the root is known. At most about `most_held` descriptors are kept open.
    ///
    /// # Errors
    /// When the root cannot be looked at.
    pub fn new(root: Arc<OwnedFd>, most_held: usize) -> Result<Nodes> {
        let stat = fstat(&root)?;
        let node = Node {
            key: FileKey::of(&stat),
            kind: kind(&stat),
            parent: NodeId::ROOT,
            name: Box::default(),
            lookups: 1,
            open: 0,
            held: Some(root),
            pinned: true,
        };
        Ok(Nodes {
            by_key: HashMap::from([(node.key, NodeId::ROOT)]),
            table: HashMap::from([(NodeId::ROOT, node)]),
            next: NodeId::ROOT.0 + 1,
            held: VecDeque::new(),
            most_held,
        })
    }

    /// From now on at most so many descriptors are kept, for tests that want none to help.
    #[cfg(test)]
    pub fn keep_at_most(&mut self, most: usize) {
        self.most_held = most;
    }

    fn node(&self, id: NodeId) -> Result<&Node> {
        self.table.get(&id).ok_or(Errno::STALE)
    }

    /// What kind of file a node is.
    ///
    /// # Errors
    /// [`Errno::STALE`] for none.
    pub fn kind(&self, id: NodeId) -> Result<FileType> {
        self.node(id).map(|node| node.kind)
    }

    /// The node of what was found under a name, given out once more.
    ///
    /// # Errors
    /// [`Errno::NFILE`] when there are too many.
    pub fn remember(&mut self, parent: NodeId, name: FileName<'_>, stat: &Stat) -> Result<NodeId> {
        let (key, kind) = (FileKey::of(stat), kind(stat));
        let known = self.by_key.get(&key).copied();
        if let Some(node) = known.and_then(|id| self.table.get_mut(&id)).filter(|node| node.kind == kind) {
            node.lookups = node.lookups.saturating_add(1);
            if !node.pinned {
                node.parent = parent;
                node.name = name.bytes().into();
            }
            return Ok(known.unwrap_or(NodeId::ROOT));
        }
        if self.table.len() >= MOST {
            return Err(Errno::NFILE);
        }
        let id = NodeId(self.next);
        self.next += 1;
        // A number that the host has given to another kind of file since is the newer file's.
        self.by_key.insert(key, id);
        let name = name.bytes().into();
        let node = Node { key, kind, parent, name, lookups: 1, open: 0, held: None, pinned: false };
        self.table.insert(id, node);
        Ok(id)
    }

    /// The driver gives back so many of a node's lookups. The root stays.
    pub fn forget(&mut self, id: NodeId, lookups: u64) {
        let Some(node) = self.table.get_mut(&id).filter(|_| id != NodeId::ROOT) else { return };
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups == 0 {
            let key = node.key;
            self.table.remove(&id);
            if self.by_key.get(&key) == Some(&id) {
                self.by_key.remove(&key);
            }
        }
    }

    /// A descriptor that names the file and can do nothing else with it (O_PATH).
    ///
    /// # Errors
    /// [`Errno::STALE`] when it is not where it was; the host's.
    pub fn descriptor(&mut self, id: NodeId) -> Result<Arc<OwnedFd>> {
        let mut missing = Vec::new();
        let mut at = id;
        let mut found = loop {
            let node = self.node(at)?;
            if let Some(held) = &node.held {
                break held.clone();
            }
            if missing.len() == DEEPEST {
                return Err(Errno::STALE);
            }
            missing.push(at);
            at = node.parent;
        };
        for id in missing.into_iter().rev() {
            let node = self.node(id)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = openat(&found, &*node.name, flags, Mode::empty()).map_err(stale)?;
            node.expect(&fstat(&opened)?)?;
            found = Arc::new(opened);
            self.hold(id, found.clone());
        }
        Ok(found)
    }

    /// The host's facts of a file, and where it is.
    ///
    /// # Errors
    /// As for [`Nodes::descriptor`].
    pub fn look(&mut self, id: NodeId) -> Result<(Stat, Place)> {
        let node = self.node(id)?;
        if let Some(held) = node.held.clone() {
            return Ok((fstat(&held)?, Place::Itself(held)));
        }
        let directory = self.descriptor(node.parent)?;
        let node = self.node(id)?;
        let stat = statat(&directory, &*node.name, AtFlags::SYMLINK_NOFOLLOW).map_err(stale)?;
        node.expect(&stat)?;
        Ok((stat, Place::Within(directory, node.name.clone())))
    }

    /// Keeps a descriptor, and lets the oldest go.
    fn hold(&mut self, id: NodeId, descriptor: Arc<OwnedFd>) {
        let Some(node) = self.table.get_mut(&id) else { return };
        node.held = Some(descriptor);
        self.held.push_back(id);
        for _ in 0..self.held.len() {
            if self.held.len() <= self.most_held {
                return;
            }
            let Some(oldest) = self.held.pop_front() else { return };
            match self.table.get_mut(&oldest) {
                Some(node) if node.pinned => self.held.push_back(oldest),
                Some(node) => node.held = None,
                None => {}
            }
        }
    }

    /// A file of this node was opened.
    pub fn opened(&mut self, id: NodeId) {
        if let Some(node) = self.table.get_mut(&id) {
            node.open += 1;
        }
    }

    /// ... and closed.
    pub fn closed(&mut self, id: NodeId) {
        if let Some(node) = self.table.get_mut(&id) {
            node.open = node.open.saturating_sub(1);
            node.pinned &= node.open > 0 || id == NodeId::ROOT;
        }
    }

    /// The name is about to go, or to be another file's. Who has the file open goes on with it.
    pub fn parting(&mut self, directory: &OwnedFd, name: FileName<'_>) {
        let Ok(stat) = statat(directory, name.bytes(), AtFlags::SYMLINK_NOFOLLOW) else { return };
        let Some(id) = self.by_key.get(&FileKey::of(&stat)).copied() else { return };
        let is_open = self.node(id).is_ok_and(|node| node.open > 0) && self.descriptor(id).is_ok();
        if let Some(node) = self.table.get_mut(&id).filter(|_| is_open) {
            node.pinned = true;
        }
    }

    /// What is now under this name may have had another one.
    pub fn moved(&mut self, parent: NodeId, directory: &OwnedFd, name: FileName<'_>) {
        let Ok(stat) = statat(directory, name.bytes(), AtFlags::SYMLINK_NOFOLLOW) else { return };
        let known = self.by_key.get(&FileKey::of(&stat)).copied();
        if let Some(node) = known.and_then(|id| self.table.get_mut(&id)) {
            node.parent = parent;
            node.name = name.bytes().into();
        }
    }
}

impl Node {
    fn expect(&self, stat: &Stat) -> Result<()> {
        if FileKey::of(stat) == self.key && kind(stat) == self.kind { Ok(()) } else { Err(Errno::STALE) }
    }
}

/// A file that is not there any more was there once, or there would be no node. Linux looks again.
fn stale(errno: Errno) -> Errno {
    if errno == Errno::NOENT || errno == Errno::NOTDIR { Errno::STALE } else { errno }
}
