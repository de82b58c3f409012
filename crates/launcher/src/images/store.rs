//! The images in the cache.
//!
//! ```text
//! CACHE/images/HEX/           an image, by its identity: the SHA-256 of its configuration
//!    image.json               its names, when it came, its size
//!    configuration.json       what it runs, as it arrived
//!    lock                     held shared by every machine that runs from it
//!    root/                    its files
//! ```
//! As with Debian's packages, a folder appears whole, by a rename, or not at all, and there is one writer at a time.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::digest::{Hashed, Sum};
use super::manifest::{self, Image, Layer};
use super::source::Source;
use super::tree::Tree;
use super::{ImageError, layer, part};
use crate::cache::{self, Cache, Shelf};
use crate::progress::Progress;
use crate::terminal;

const NOTE: &str = "image.json";
const CONFIGURATION: &str = "configuration.json";
const LOCK: &str = "lock";
const ROOT: &str = "root";

/// What is written down beside an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Its names, if it has any.
    pub names: Vec<String>,
    /// When it came, in seconds since 1970.
    pub since: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// An image in the cache that stays there while this lives.
#[derive(Debug)]
pub struct Held {
    /// Its identity.
    pub id: Sum,
    /// Its files.
    pub root: PathBuf,
    /// What it runs.
    pub configuration: ImageConfiguration,
    _lock: File,
}

/// One line of a list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The image's identity.
    pub id: Sum,
    /// What is written beside it.
    pub note: Note,
}

/// The shelf of images.
#[derive(Clone, Debug)]
pub struct Store {
    cache: Cache,
}

impl Store {
    /// The images in this cache.
    pub fn new(cache: Cache) -> Store {
        Store { cache }
    }

    /// The cache's folder for images.
    pub fn shelf(&self) -> PathBuf {
        self.cache.shelf(Shelf::Images)
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    fn folder(&self, id: &Sum) -> PathBuf {
        self.shelf().join(id.hex())
    }

    /// Takes the image in a file or folder: from the cache, or unpacked into it.
    ///
    /// # Errors
    /// When it cannot be had; the cache is as it was.
    pub fn take(&self, path: &Path, tag: Option<&str>, progress: &Progress) -> Result<Held, ImageError> {
        let source = Source::open(path, self.cache.root())?;
        let image = manifest::find(&source, tag)?;
        self.take_from(&source, image, progress)
    }

    /// Takes an image that was found in a source.
    ///
    /// # Errors
    /// As [`Store::take`].
    pub fn take_from(&self, source: &Source, image: Image, progress: &Progress) -> Result<Held, ImageError> {
        if let Some(held) = self.hold(&image.id)? {
            return Ok(held);
        }
        let lock = self.cache.lock(progress).map_err(|cause| self.unusable(cause))?;
        if !self.folder(&image.id).is_dir() {
            self.unpack(source, &image, progress)?;
        }
        drop(lock);
        self.hold(&image.id)?.ok_or_else(|| ImageError::Missing("the image, removed just now".to_owned()))
    }

    /// Holds an image that is there.
    ///
    /// # Errors
    /// When what is there cannot be read.
    pub fn hold(&self, id: &Sum) -> Result<Option<Held>, ImageError> {
        let folder = self.folder(id);
        let lock = match File::open(folder.join(LOCK)) {
            Ok(lock) => lock,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(ImageError::Cache { path: folder, cause }),
        };
        // Whoever removes it holds the lock for himself, and the folder is gone a moment later.
        lock.lock_shared().map_err(|cause| self.unusable(cause))?;
        let path = folder.join(CONFIGURATION);
        match fs::read(&path) {
            Ok(document) => {
                let configuration = manifest::read(CONFIGURATION, &document)?;
                Ok(Some(Held { id: id.clone(), root: folder.join(ROOT), configuration, _lock: lock }))
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(ImageError::Cache { path, cause }),
        }
    }

    fn unpack(&self, source: &Source, image: &Image, progress: &Progress) -> Result<(), ImageError> {
        let draft = self.cache.draft(Shelf::Images).map_err(|cause| self.unusable(cause))?;
        let root = draft.path().join(ROOT);
        let tree = fs::create_dir(&root).and_then(|()| Tree::new(&root));
        let mut tree = tree.map_err(|cause| self.unusable(cause))?;
        let of = image.layers.len();
        for (index, layer) in image.layers.iter().enumerate() {
            unpack_layer(source, layer, (index + 1, of), &mut tree, progress)?;
        }
        if tree.owners_lost() {
            terminal::say(
                "the cache's file system keeps no extended attributes: every file belongs to the Guest's root",
            );
        }
        let note = Note { names: image.names.clone(), since: now(), bytes: tree.bytes() };
        let finish = || {
            write_note(draft.path(), &note)?;
            cache::write_through(&draft.path().join(LOCK), b"")?;
            cache::write_through(&draft.path().join(CONFIGURATION), &image.document)?;
            tree.flush()
        };
        finish().map_err(|cause| self.unusable(cause))?;
        self.cache.keep(draft, &self.folder(&image.id)).map_err(|cause| self.unusable(cause))
    }

    /// The images there are, newest first. What cannot be read is no image.
    pub fn list(&self) -> Vec<Listed> {
        let entries = fs::read_dir(self.shelf()).into_iter().flatten().flatten();
        let mut listed: Vec<Listed> = entries
            .filter_map(|entry| {
                let id = Sum::from_hex(entry.file_name().to_str()?)?;
                Some(Listed { id, note: read_note(&entry.path())? })
            })
            .collect();
        listed.sort_by(|a, b| b.note.since.cmp(&a.note.since).then_with(|| a.id.cmp(&b.id)));
        listed
    }

    /// Gives an image a name, which every other one loses.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn name(&self, id: &Sum, name: &str, progress: &Progress) -> Result<(), ImageError> {
        let rename = || -> io::Result<()> {
            let _lock = self.cache.lock(progress)?;
            for mut one in self.list() {
                let had = one.note.names.iter().any(|other| other == name);
                if had == (one.id == *id) {
                    continue;
                }
                one.note.names.retain(|other| other != name);
                if one.id == *id {
                    one.note.names.push(name.to_owned());
                }
                write_note(&self.folder(&one.id), &one.note)?;
            }
            Ok(())
        };
        rename().map_err(|cause| self.unusable(cause))
    }

    /// Removes an image, unless a machine runs from it. True when it is gone.
    ///
    /// # Errors
    /// When the Host refuses.
    pub fn remove(&self, id: &Sum, progress: &Progress) -> Result<bool, ImageError> {
        let remove = || -> io::Result<bool> {
            let _lock = self.cache.lock(progress)?;
            let folder = self.folder(id);
            let lock = File::open(folder.join(LOCK))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(false),
                Err(TryLockError::Error(cause)) => return Err(cause),
            }
            self.cache.discard(&folder)?;
            Ok(true)
        };
        remove().map_err(|cause| self.unusable(cause))
    }

    /// An error about this cache.
    pub fn unusable(&self, cause: io::Error) -> ImageError {
        ImageError::Cache { path: self.shelf(), cause }
    }
}

fn unpack_layer(
    source: &Source,
    layer: &Layer,
    (number, of): (usize, usize),
    tree: &mut Tree,
    progress: &Progress,
) -> Result<(), ImageError> {
    let fault = |cause| ImageError::Layer { number, of, cause };
    let damaged = |cause: io::Error| fault(cause.into());
    let packed = source.part(&layer.part)?;
    let wrong = || ImageError::WrongSum { part: part("layer", &layer.unpacked) };
    if layer.packed.as_ref().is_some_and(|(_, size)| *size != packed.size) {
        return Err(wrong());
    }
    let step = progress.transfer(format!("unpacking layer {number} of {of}"), packed.size);
    let mut outer = Hashed::new(packed.bytes.take(packed.size), Some(&step));
    let mut inner = Hashed::new(layer::unpacked(&mut outer).map_err(damaged)?, None);
    layer::apply(&mut inner, tree).map_err(fault)?;
    let unpacked = inner.finish().map_err(damaged)?;
    let arrived = outer.finish().map_err(damaged)?;
    let true_to_name = layer.packed.as_ref().is_none_or(|(sum, _)| *sum == arrived);
    if unpacked == layer.unpacked && true_to_name { Ok(()) } else { Err(wrong()) }
}

fn read_note(folder: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(folder.join(NOTE)).ok()?).ok()
}

fn write_note(folder: &Path, note: &Note) -> io::Result<()> {
    let draft = folder.join("image.json.new");
    cache::write_through(&draft, &serde_json::to_vec_pretty(note).map_err(io::Error::other)?)?;
    fs::rename(draft, folder.join(NOTE))
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
