//! An answer on its way to a driver: a header (`fuse_out_header`) and what was asked for.

use super::{Errno, HandleId, NodeId};

/// Bytes of the header.
pub const HEADER: usize = 16;
/// Bytes of attributes (`fuse_attr`).
const ATTRIBUTES: usize = 88;
/// Bytes of an entry (`fuse_entry_out`).
const ENTRY: usize = 40 + ATTRIBUTES;
/// Bytes of a directory's entry before its name (`fuse_dirent`).
const LISTED: usize = 24;

/// A file's facts as the Guest sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Number of the file, the same for all its names.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Pieces of 512 bytes that it takes up.
    pub blocks: u64,
    /// Last reading, last writing, last change of facts: seconds since 1970 and nanoseconds.
    pub times: [(i64, u32); 3],
    /// Kind and permissions (inode(7)).
    pub mode: u32,
    /// Names.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The size of pieces that reads well.
    pub block_size: u32,
}

/// How long the driver may believe what it was told without asking again, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity(pub u64);

/// A file system's figures (statfs(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of statvfs(3)")]
pub struct FileSystemFigures {
    pub blocks: u64,
    pub free: u64,
    pub available: u64,
    pub files: u64,
    pub free_files: u64,
    pub block_size: u32,
    pub fragment_size: u32,
}

/// The bytes of an answer. It never takes more room than the driver gave.
pub struct Answer<'a> {
    bytes: &'a mut Vec<u8>,
    room: usize,
}

impl<'a> Answer<'a> {
    /// An answer without content, in a buffer that is used over and over.
    pub fn new(bytes: &'a mut Vec<u8>, room: usize) -> Answer<'a> {
        bytes.clear();
        bytes.resize(HEADER, 0);
        Answer { bytes, room }
    }

    /// Room for content that is left.
    pub fn room(&self) -> usize {
        self.room.saturating_sub(self.bytes.len())
    }

    /// Completes it: the header tells the length, the error and whose answer it is. An error, or content that finds no
    /// room, goes without content.
    pub fn finish(self, unique: u64, result: Result<(), Errno>) {
        let result = if self.bytes.len() > self.room { Err(Errno(libc::ERANGE)) } else { result };
        if result.is_err() {
            self.bytes.truncate(HEADER);
        }
        let error = result.err().map_or(0, |errno| -errno.0);
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&error.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&unique.to_le_bytes());
    }

    fn u32s(&mut self, values: &[u32]) {
        values.iter().for_each(|value| self.bytes.extend(value.to_le_bytes()));
    }

    fn u64s(&mut self, values: &[u64]) {
        values.iter().for_each(|value| self.bytes.extend(value.to_le_bytes()));
    }

    /// Bytes as they are.
    pub fn data(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Up to `size` bytes, which `fill` puts there; it says how many.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn fill<E>(
        &mut self,
        size: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let (start, size) = (self.bytes.len(), size.min(self.room()));
        self.bytes.resize(start + size, 0);
        let filled = fill(&mut self.bytes[start..]).inspect_err(|_| self.bytes.truncate(start))?;
        self.bytes.truncate(start + filled.min(size));
        Ok(())
    }

    fn attributes(&mut self, facts: &Attributes) {
        let [accessed, modified, changed] = facts.times;
        self.u64s(&[facts.inode, facts.size, facts.blocks]);
        self.u64s(&[accessed.0 as u64, modified.0 as u64, changed.0 as u64]);
        self.u32s(&[accessed.1, modified.1, changed.1, facts.mode, facts.links]);
        // No device's number: what is a device here is one nowhere else. No flags.
        self.u32s(&[facts.uid, facts.gid, 0, facts.block_size, 0]);
    }

    /// The answer to GETATTR and SETATTR (`fuse_attr_out`).
    pub fn facts(&mut self, facts: &Attributes, validity: Validity) {
        self.u64s(&[validity.0, 0]);
        self.attributes(facts);
    }

    /// The answer to LOOKUP and whatever makes a name (`fuse_entry_out`).
    pub fn entry(&mut self, node: NodeId, facts: &Attributes, validity: Validity) {
        self.u64s(&[node.0, 0, validity.0, validity.0, 0]);
        self.attributes(facts);
    }

    /// There is no such name, which may be believed as long as an entry.
    pub fn no_entry(&mut self, validity: Validity) {
        self.entry(NodeId(0), &Attributes::default(), validity);
    }

    /// The answer to OPEN (`fuse_open_out`).
    pub fn opened(&mut self, handle: HandleId, flags: u32) {
        self.u64s(&[handle.0]);
        self.u32s(&[flags, 0]);
    }

    /// The answer to WRITE and COPY_FILE_RANGE (`fuse_write_out`), and to questions for a size.
    pub fn amount(&mut self, bytes: u32) {
        self.u32s(&[bytes, 0]);
    }

    /// The answer to LSEEK.
    pub fn offset(&mut self, offset: u64) {
        self.u64s(&[offset]);
    }

    /// The answer to STATFS (`fuse_statfs_out`).
    pub fn figures(&mut self, figures: &FileSystemFigures) {
        self.u64s(&[figures.blocks, figures.free, figures.available, figures.files, figures.free_files]);
        self.u32s(&[figures.block_size, 255, figures.fragment_size, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// The answer to INIT (`fuse_init_out`): what we agree to.
    pub fn agreed(&mut self, readahead: u32, abilities: u64) {
        /// Requests that wait for an answer while nobody waits for them, at most; half of it is a lot.
        const BACKGROUND: u32 = 64;
        self.u32s(&[super::MAJOR, super::MINOR, readahead, abilities as u32]);
        self.u32s(&[BACKGROUND | (BACKGROUND / 2) << 16, super::MOST_DATA]);
        // Times are kept to the nanosecond; data by pages; nothing is mapped.
        self.u32s(&[1, super::MOST_DATA >> 12, (abilities >> 32) as u32]);
        self.u32s(&[0; 7]);
    }

    /// One entry of a directory (`fuse_dirent`, or `fuse_direntplus` where facts come with it). False, and nothing
    /// written, when there is no room for it. `cookie` leads to the next, `kind` is the four upper bits of a mode.
    pub fn listed(
        &mut self,
        name: &[u8],
        inode: u64,
        cookie: u64,
        kind: u32,
        known: Option<Option<(NodeId, &Attributes, Validity)>>,
    ) -> bool {
        let head = if known.is_some() { ENTRY } else { 0 };
        if (head + LISTED + name.len()).next_multiple_of(8) > self.room() {
            return false;
        }
        match known {
            Some(Some((node, facts, validity))) => self.entry(node, facts, validity),
            // Its facts are asked for when they are wanted.
            Some(None) => self.bytes.resize(self.bytes.len() + ENTRY, 0),
            None => {}
        }
        self.u64s(&[inode, cookie]);
        self.u32s(&[name.len() as u32, kind]);
        self.data(name);
        let padding = (LISTED + name.len()).next_multiple_of(8) - LISTED - name.len();
        self.bytes.resize(self.bytes.len() + padding, 0);
        true
    }

    /// Whether an entry of a directory with this name has room, with its facts.
    pub fn has_room_for(&self, name: &[u8]) -> bool {
        (ENTRY + LISTED + name.len()).next_multiple_of(8) <= self.room()
    }

    /// From here on at most so many bytes more: the driver may want fewer than it has room for.
    pub fn limit(&mut self, bytes: usize) {
        self.room = self.room.min(self.bytes.len() + bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(room: usize, write: impl FnOnce(&mut Answer<'_>)) -> Vec<u8> {
        let mut bytes = vec![9; 3];
        let mut answer = Answer::new(&mut bytes, room);
        write(&mut answer);
        answer.finish(7, Ok(()));
        bytes
    }

    #[test]
    fn every_answer_has_the_length_of_its_structure_in_fuse_h() {
        let facts = Attributes::default();
        let length = |write: &dyn Fn(&mut Answer<'_>)| made(4096, |answer| write(answer)).len() - HEADER;
        assert_eq!(length(&|answer| answer.facts(&facts, Validity(1))), 104);
        assert_eq!(length(&|answer| answer.entry(NodeId(2), &facts, Validity(1))), 128);
        assert_eq!(length(&|answer| answer.opened(HandleId(1), 0)), 16);
        assert_eq!(length(&|answer| answer.figures(&FileSystemFigures::default())), 80);
        assert_eq!(length(&|answer| answer.agreed(0, 0)), 64);
        assert_eq!(length(&|answer| assert!(answer.listed(b"abc", 1, 2, 8, None))), 32);
        assert_eq!(length(&|answer| assert!(answer.listed(b"abc", 1, 2, 8, Some(None)))), 160);
    }

    #[test]
    fn an_answer_larger_than_its_room_is_an_error_instead() {
        let bytes = made(HEADER + 10, |answer| answer.data(&[1; 11]));
        assert_eq!(bytes.len(), HEADER);
        assert_eq!(bytes[4..8], (-libc::ERANGE).to_le_bytes());
        assert_eq!(made(HEADER + 10, |answer| answer.data(&[1; 10])).len(), HEADER + 10);
    }

    #[test]
    fn an_entry_of_a_directory_that_finds_no_room_leaves_nothing() {
        let bytes = made(HEADER + 40, |answer| {
            assert!(answer.listed(b"abcdefgh", 1, 2, 8, None));
            assert!(!answer.listed(b"a", 1, 2, 8, None));
        });
        assert_eq!(bytes.len(), HEADER + 32);
    }

    #[test]
    fn data_is_as_long_as_was_filled_and_gone_after_an_error() {
        let bytes = made(HEADER + 100, |answer| {
            let filled: Result<(), ()> = answer.fill(1000, |room| {
                assert_eq!(room.len(), 100);
                room[..3].copy_from_slice(b"abc");
                Ok(3)
            });
            assert_eq!(filled, Ok(()));
            assert_eq!(answer.fill(50, |_| Err(Errno::PERM)), Err(Errno::PERM));
        });
        assert_eq!(&bytes[HEADER..], b"abc");
    }
}
