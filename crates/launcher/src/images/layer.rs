//! One layer: a tar archive, packed or not, whose entries are laid over what older layers left.
//!
//! tar's headers are taken one by one as they stand (ustar's, GNU's and PAX's; POSIX pax, "Interchange Format"), because
//! a library that joins them for us reads a long name of any length into memory first. Layers are made by Go's archive/tar;
//! what that never writes, sparse files, is refused rather than guessed.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};

use tar::{Entry, EntryType, Header};
use thiserror::Error;

use super::attributes::Attribute;
use super::sweep::{self, Meaning};
use super::tree::{Facts, InsidePath, OddKind, Shown, Tree, TreeError};

/// The longest list of PAX records or long name taken; a path has 4 KiB, and records of extended attributes a few.
const LONGEST_EXTENSION: u64 = 1 << 20;
/// How the records of extended attributes begin: star's name for them, which Go and GNU tar write too.
const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";
/// What may follow an archive's end. tar pads to 10 KiB; some programs to more.
const MOST_PADDING: u64 = 1 << 20;

/// Why a layer cannot be unpacked.
#[derive(Debug, Error)]
pub enum LayerError {
    /// The packing or tar's structure.
    #[error("it is damaged: {}", Shown::fault(.0))]
    Damaged(#[from] io::Error),
    /// Something that layers do not have.
    #[error("its entry {path} is {what}, which layers do not have")]
    Odd {
        /// The entry.
        path: Shown,
        /// What it is.
        what: &'static str,
    },
    /// Data behind the archive's end.
    #[error("more than {} KiB follow its end", MOST_PADDING >> 10)]
    Trailing,
    /// An entry that cannot be written.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Opens a stream that may be packed with gzip or zstd, as its first bytes say. Media types differ between tools; the bytes do
/// not lie.
///
/// # Errors
/// When it cannot be read.
pub fn unpacked<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(1 << 16, stream);
    let beginning = stream.fill_buf()?;
    Ok(match beginning {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(stream)?),
        _ => Box::new(stream),
    })
}

/// Lays an unpacked archive over a tree.
///
/// # Errors
/// At the first entry that cannot be had; the tree is of no use then.
pub fn apply(mut stream: impl Read, tree: &mut Tree) -> Result<(), LayerError> {
    tree.begin_layer();
    let mut archive = tar::Archive::new(&mut stream);
    let mut extension = Extension::default();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        // Everything counts, or an archive of nothing but long names would never end.
        tree.count(entry.header().entry_size()?)?;
        match entry.header().entry_type() {
            EntryType::XHeader => extension.read_pax(&extension_bytes(&mut entry)?)?,
            EntryType::GNULongName => extension.path = Some(without_nul(extension_bytes(&mut entry)?)),
            EntryType::GNULongLink => extension.target = Some(without_nul(extension_bytes(&mut entry)?)),
            EntryType::XGlobalHeader => {}
            kind => place(tree, &mut entry, kind, std::mem::take(&mut extension))?,
        }
    }
    let padding = io::copy(&mut stream.by_ref().take(MOST_PADDING + 1), &mut io::sink())?;
    if padding > MOST_PADDING { Err(LayerError::Trailing) } else { Ok(()) }
}

/// What stands before an entry and belongs to it.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    user: Option<u32>,
    group: Option<u32>,
    changed: Option<u64>,
    size: Option<u64>,
    attributes: Vec<Attribute>,
}

impl Extension {
    fn read_pax(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (key, value, behind) = pax_record(rest)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a PAX record that is none"))?;
            rest = behind;
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"uid" => self.user = number(value).and_then(|id| u32::try_from(id).ok()),
                b"gid" => self.group = number(value).and_then(|id| u32::try_from(id).ok()),
                b"size" => self.size = number(value),
                b"mtime" => self.changed = number(value),
                // Access times and comments: a Guest lives without.
                key => {
                    if let Some(name) = key.strip_prefix(ATTRIBUTE) {
                        self.attributes.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The first of some records, `LENGTH KEY=VALUE` and a line's end, and what is behind it (POSIX pax, "Extended Header"). The
/// length counts the whole record, so a value may hold any bytes, as those of extended attributes do.
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let digits = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok()?;
    let record = bytes.get(digits + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

/// A decimal number, of which a fraction is dropped.
fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.split('.').next()?.parse().ok()
}

fn extension_bytes(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, LayerError> {
    let size = entry.header().entry_size()?;
    if size > LONGEST_EXTENSION {
        let path = Shown::new(&entry.header().path_bytes());
        return Err(LayerError::Odd { path, what: "a name or a list of attributes of more than 1 MiB" });
    }
    let mut bytes = Vec::new();
    entry.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// GNU ends a long name with a NUL.
fn without_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    bytes
}

fn facts(header: &Header, extension: &Extension) -> Facts {
    // An owner that no kernel has is the overflow user's, as in a user namespace (user_namespaces(7)). A blank field is a zero.
    let id = |said: Option<u32>, header: Option<u64>| {
        said.unwrap_or_else(|| u32::try_from(header.unwrap_or(0)).unwrap_or(65_534))
    };
    Facts {
        user: id(extension.user, header.uid().ok()),
        group: id(extension.group, header.gid().ok()),
        permissions: header.mode().unwrap_or(0) & 0o7777,
        changed: extension.changed.unwrap_or_else(|| header.mtime().unwrap_or(0)),
    }
}

fn place(
    tree: &mut Tree,
    entry: &mut Entry<'_, impl Read>,
    kind: EntryType,
    extension: Extension,
) -> Result<(), LayerError> {
    let facts = facts(entry.header(), &extension);
    let size = entry.header().entry_size()?;
    let text = match extension.path {
        Some(path) => path,
        None => entry.header().path_bytes().into_owned(),
    };
    let odd = |what| LayerError::Odd { path: Shown::new(&text), what };
    if extension.size.is_some_and(|said| said != size) {
        return Err(odd("of a size that its header cannot say (8 GiB or more)"));
    }
    let path = InsidePath::read(&text)?;
    match sweep::meaning(path.name().unwrap_or(OsStr::new(""))) {
        Meaning::File => {}
        Meaning::Nothing => return Ok(()),
        Meaning::Gone(gone) => return Ok(tree.white_out(&path, gone)?),
        Meaning::Empty => return Ok(tree.empty_folder(&path)?),
        Meaning::Bad => return Err(odd("a whiteout of no name")),
    }
    let target = match extension.target {
        Some(target) => Some(target),
        None => entry.header().link_name_bytes().map(|bytes| bytes.into_owned()),
    };
    let target = || target.as_deref().filter(|target| !target.is_empty()).ok_or(odd("a link to nothing"));
    let device = |header: &Header| -> io::Result<(u32, u32)> {
        Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
    };
    match kind {
        // Before POSIX, a folder was a file whose name ends with a slash.
        EntryType::Regular | EntryType::Continuous if text.ends_with(b"/") => tree.folder(&path, facts)?,
        EntryType::Regular | EntryType::Continuous => {
            tree.file(&path, facts, size, entry)?;
            tree.keep_attributes(&path, &extension.attributes)?;
        }
        EntryType::Directory => {
            tree.folder(&path, facts)?;
            tree.keep_attributes(&path, &extension.attributes)?;
        }
        EntryType::Symlink => tree.link(&path, target()?)?,
        EntryType::Link => tree.second_name(&path, &InsidePath::read(target()?)?)?,
        EntryType::Char => {
            let (major, minor) = device(entry.header())?;
            tree.odd(&path, facts, OddKind::Character(major, minor))?;
        }
        EntryType::Block => {
            let (major, minor) = device(entry.header())?;
            tree.odd(&path, facts, OddKind::Block(major, minor))?;
        }
        EntryType::Fifo => tree.odd(&path, facts, OddKind::Pipe)?,
        _ => return Err(odd("neither a file, a folder, a link nor a device")),
    }
    Ok(())
}
