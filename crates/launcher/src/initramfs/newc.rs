//! Writing an initramfs: the "newc" cpio format that the kernel unpacks into its first root.
//!
//! The format is told in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: every entry
//! is a header of thirteen 8-digit hexadecimal fields after the magic `070701`, the name with its NUL, the
//! data; name and data are each padded to four bytes. An entry named `TRAILER!!!` ends an archive. The kernel
//! unpacks archives that follow each other in one initrd, so a small one may be appended to a large one.

/// The length of an entry's header, from buffer-format.rst: the magic and thirteen fields.
pub const HEADER_LENGTH: usize = 6 + 13 * 8;

/// The magic of an entry without checksum.
pub const MAGIC: &[u8; 6] = b"070701";

/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// What a file is, as the upper bits of its mode (stat(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A file with bytes.
    Regular,
    /// A symbolic link; the data is its target.
    Link,
    /// A character device with its major and minor number.
    Character(u32, u32),
}

impl FileKind {
    fn mode_bits(self) -> u32 {
        match self {
            FileKind::Directory => 0o040_000,
            FileKind::Regular => 0o100_000,
            FileKind::Link => 0o120_000,
            FileKind::Character(..) => 0o020_000,
        }
    }
}

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    next_inode: u32,
}

impl Archive {
    /// An archive with no entries.
    pub fn new() -> Archive {
        Archive::default()
    }

    /// Appends one entry. `path` has no leading slash; `permissions` are the lower twelve bits of the mode.
    ///
    /// # Panics
    /// When `data` is 4 GiB or longer, which the format cannot say; the builder's own limit is far lower.
    pub fn entry(&mut self, path: &str, kind: FileKind, permissions: u32, data: &[u8]) {
        self.next_inode += 1;
        let links = if kind == FileKind::Directory { 2 } else { 1 };
        let (major, minor) = match kind {
            FileKind::Character(major, minor) => (major, minor),
            _ => (0, 0),
        };
        let length = u32::try_from(data.len()).expect("an entry shorter than 4 GiB");
        let mode = kind.mode_bits() | (permissions & 0o7777);
        let name_length = u32::try_from(path.len() + 1).expect("a name shorter than 4 GiB");
        // inode, mode, uid, gid, links, mtime, size, device, device, rdev, rdev, name's length, checksum
        let fields = [self.next_inode, mode, 0, 0, links, 0, length, 0, 0, major, minor, name_length, 0];
        self.bytes.extend_from_slice(MAGIC);
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    /// Ends the archive and hands over its bytes, a multiple of four long.
    pub fn finish(mut self) -> Vec<u8> {
        self.next_inode = 0;
        self.entry(TRAILER, FileKind::Regular, 0, b"");
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The name of the first entry of a newc archive, when these bytes begin with one.
pub fn first_name(archive: &[u8]) -> Option<&str> {
    let header = archive.get(..HEADER_LENGTH)?;
    if !header.starts_with(MAGIC) {
        return None;
    }
    let digits = std::str::from_utf8(&header[94..102]).ok()?;
    let name_length = usize::from_str_radix(digits, 16).ok()?;
    let name = archive.get(HEADER_LENGTH..HEADER_LENGTH.checked_add(name_length)?)?;
    std::str::from_utf8(name.strip_suffix(&[0])?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slow twin: reads an archive back as (name, mode, data).
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], MAGIC);
            let field = |index: usize| {
                let digits = std::str::from_utf8(&bytes[6 + index * 8..14 + index * 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (mode, size, name_length) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_length - 1].to_vec()).unwrap();
            let data_at = (110 + name_length).next_multiple_of(4);
            let data = bytes[data_at..data_at + size].to_vec();
            bytes = &bytes[(data_at + size).next_multiple_of(4)..];
            if name == TRAILER {
                assert!(bytes.is_empty());
                return entries;
            }
            entries.push((name, mode, data));
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut archive = Archive::new();
        archive.entry("bin", FileKind::Directory, 0o755, b"");
        archive.entry("bin/sh", FileKind::Link, 0o777, b"busybox");
        archive.entry("odd", FileKind::Regular, 0o640, b"12345");
        archive.entry("dev/console", FileKind::Character(5, 1), 0o600, b"");
        let entries = read(&archive.finish());
        assert_eq!(entries[0], ("bin".into(), 0o040_755, vec![]));
        assert_eq!(entries[1], ("bin/sh".into(), 0o120_777, b"busybox".to_vec()));
        assert_eq!(entries[2], ("odd".into(), 0o100_640, b"12345".to_vec()));
        assert_eq!(entries[3].1, 0o020_600);
    }

    #[test]
    fn the_first_name_of_an_archive_is_found() {
        let mut archive = Archive::new();
        archive.entry("lguest", FileKind::Directory, 0o755, b"");
        assert_eq!(first_name(&archive.finish()), Some("lguest"));
    }

    #[test]
    fn bytes_that_are_no_archive_have_no_first_name() {
        assert_eq!(first_name(b""), None);
        assert_eq!(first_name(&[0; 200]), None);
        let mut lie = b"070701".to_vec();
        lie.extend_from_slice(&[b'f'; 104]);
        assert_eq!(first_name(&lie), None);
    }
}
