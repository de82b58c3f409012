//! Where an image's parts are: a folder, or an archive that is read in place.
//!
//! A part is named by its path: `index.json`, `blobs/sha256/HEX`, or whatever a manifest of `docker save` says. Old
//! versions of that write a layer once and link to it, so links between an archive's members are followed, one step.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ImageError;
use super::layer;
use super::tree::MOST_BYTES;

/// The most members of an archive: a few for each layer, of which an image has at most 127 (Docker's own limit).
const MOST_MEMBERS: usize = 10_000;
/// The longest name of a member taken.
const LONGEST_NAME: usize = 1024;
/// The largest document: index, manifest, configuration. Registries take manifests of 4 MiB.
const LARGEST_DOCUMENT: u64 = 4 << 20;

/// What a tar archive has in its first header since 1988 (POSIX pax, "ustar Interchange Format"), and where.
const MARK: &[u8; 5] = b"ustar";
const MARK_AT: u64 = 257;

/// An image's parts.
#[derive(Debug)]
pub enum Source {
    /// An OCI layout, as a folder.
    Folder(PathBuf),
    /// A tar archive.
    Archive(Archive),
}

/// A part, ready to be read once.
pub struct Part {
    /// Its bytes.
    pub bytes: Box<dyn Read>,
    /// How many.
    pub size: u64,
}

impl Source {
    /// Opens a folder or an archive. One that is packed as a whole (`docker save | gzip`) is unpacked into a nameless file in
    /// `room` first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path, room: &Path) -> Result<Source, ImageError> {
        if path.is_dir() {
            return Ok(Source::Folder(path.to_owned()));
        }
        let file = File::open(path).map_err(ImageError::Unreadable)?;
        match Archive::read(file, room).map_err(ImageError::Unreadable)? {
            Some(archive) => Ok(Source::Archive(archive)),
            None => Err(ImageError::NoImage),
        }
    }

    /// True when a path is an image that [`Source::open`] takes: a layout, or an archive, packed or not.
    pub fn is_one(path: &Path) -> bool {
        if path.is_dir() {
            return path.join("oci-layout").is_file() && path.join("index.json").is_file();
        }
        let mut beginning = Vec::new();
        let read = File::open(path).and_then(|file| file.take(512).read_to_end(&mut beginning));
        // A gzip file may be a kernel too, but none that we take.
        read.is_ok()
            && (beginning.get(MARK_AT as usize..).is_some_and(|rest| rest.starts_with(MARK))
                || beginning.starts_with(&[0x1f, 0x8b])
                || beginning.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]))
    }

    /// Opens a part.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn part(&self, name: &str) -> Result<Part, ImageError> {
        let missing = || ImageError::Missing(name.chars().take(LONGEST_NAME).collect());
        match self {
            Source::Folder(folder) => {
                let path = folder.join(name.trim_start_matches('/'));
                let inside = !name.split('/').any(|part| part == "..");
                // Opening a pipe would wait; a folder has no bytes.
                if !inside || !path.is_file() {
                    return Err(missing());
                }
                let file = File::open(path).map_err(ImageError::Unreadable)?;
                let size = file.metadata().map_err(ImageError::Unreadable)?.len();
                Ok(Part { bytes: Box::new(file), size })
            }
            Source::Archive(archive) => archive.part(name).ok_or_else(missing),
        }
    }

    /// True when there is such a part.
    pub fn holds(&self, name: &str) -> bool {
        self.part(name).is_ok()
    }

    /// Reads a document.
    ///
    /// # Errors
    /// When it is not there, cannot be read, or is larger than documents are.
    pub fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let part = self.part(name)?;
        if part.size > LARGEST_DOCUMENT {
            let cause = format!("it has more than {} MiB", LARGEST_DOCUMENT >> 20);
            return Err(ImageError::Document { part: name.to_owned(), cause });
        }
        let mut bytes = Vec::new();
        part.bytes.take(part.size).read_to_end(&mut bytes).map_err(ImageError::Unreadable)?;
        Ok(bytes)
    }
}

/// A tar archive whose members are read in place.
#[derive(Debug)]
pub struct Archive {
    file: Arc<File>,
    members: HashMap<String, Member>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Member {
    Bytes { at: u64, size: u64 },
    LinkTo(String),
}

impl Archive {
    /// Reads the members' places; none when this is no archive.
    fn read(file: File, room: &Path) -> io::Result<Option<Archive>> {
        let mut beginning = [0; 4];
        let length = file.read_at(&mut beginning, 0)?;
        let packed = beginning[..length].starts_with(&[0x1f, 0x8b]) || beginning == [0x28, 0xb5, 0x2f, 0xfd];
        let mut file = if packed { unpack_whole(file, room)? } else { file };
        let mut mark = [0; MARK.len()];
        if file.read_at(&mut mark, MARK_AT)? < MARK.len() || mark != *MARK {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(0))?;
        let mut members = HashMap::new();
        let mut archive = tar::Archive::new(BufReader::new(&file));
        // Raw, because names are short here: a long one is no part of an image, and is never read into memory.
        for entry in archive.entries_with_seek()?.raw(true) {
            let entry = entry?;
            if members.len() == MOST_MEMBERS {
                return Err(io::Error::other(format!("it has more than {MOST_MEMBERS} members")));
            }
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let member = match entry.header().entry_type() {
                kind if kind.is_file() => {
                    Member::Bytes { at: entry.raw_file_position(), size: entry.header().entry_size()? }
                }
                tar::EntryType::Symlink => {
                    let target = entry.header().link_name_bytes().unwrap_or_default();
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    Member::LinkTo(joined(folder, &String::from_utf8_lossy(&target)))
                }
                _ => continue,
            };
            members.insert(joined("", &path), member);
        }
        Ok(Some(Archive { file: Arc::new(file), members }))
    }

    fn part(&self, name: &str) -> Option<Part> {
        let mut member = self.members.get(&joined("", name))?;
        if let Member::LinkTo(target) = member {
            member = self.members.get(target)?;
        }
        match *member {
            Member::Bytes { at, size } => {
                let bytes = Box::new(Window { file: self.file.clone(), at, left: size });
                Some(Part { bytes, size })
            }
            Member::LinkTo(_) => None,
        }
    }
}

/// A path from a folder, without `.`, and `..` resolved. What leads out of the archive names nothing in it.
fn joined(folder: &str, path: &str) -> String {
    let mut parts = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn unpack_whole(file: File, room: &Path) -> io::Result<File> {
    std::fs::create_dir_all(room)?;
    let mut whole = tempfile::tempfile_in(room)?;
    let copied = io::copy(&mut layer::unpacked(file)?.take(MOST_BYTES + 1), &mut whole)?;
    if copied > MOST_BYTES {
        return Err(io::Error::other(format!("it unpacks to more than {} GiB", MOST_BYTES >> 30)));
    }
    Ok(whole)
}

/// A part of a file.
struct Window {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_between_members_are_resolved_inside() {
        assert_eq!(joined("a/b", "../c/layer.tar"), "a/c/layer.tar");
        assert_eq!(joined("", "./index.json"), "index.json");
        assert_eq!(joined("a", "../../../etc/passwd"), "etc/passwd");
    }

    #[test]
    fn a_layout_gives_no_file_outside_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), b"x").unwrap();
        let layout = folder.path().join("layout");
        std::fs::create_dir(&layout).unwrap();
        let source = Source::Folder(layout);
        assert!(matches!(source.part("../secret"), Err(ImageError::Missing(_))));
    }
}
