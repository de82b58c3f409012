//! Pulling: an image's parts from a registry into the cache, as a layout that is unpacked like any other.
//!
//! ```text
//! CACHE/pulls/lock                     one pull at a time
//!             index.json               the image that is being pulled
//!             blobs/sha256/HEX         parts that are there and are what they were named
//!             blobs/sha256/HEX.part    the beginning of one; the next pull goes on from its end
//! ```
//! A part that stays behind, because a pull was interrupted, is used by the next one, or goes after a week.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde_json::json;

use super::ImageError;
use super::credentials::Credentials;
use super::digest::{Hashed, Sum};
use super::manifest;
use super::name::ImageName;
use super::registry::{Registry, RegistryError};
use super::source::Source;
use super::store::{Held, Store};
use super::tree::MOST_BYTES;
use crate::cache;
use crate::progress::Progress;

/// How long what an interrupted pull left is kept.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// How often a connection that breaks in the middle of a part is made anew.
const ATTEMPTS: usize = 3;
/// What the beginning of a part is called.
const BEGUN: &str = "part";
/// What a small manifest is, when its registry's index says nothing: enough to be read by.
const MANIFEST_KIND: &str = "application/vnd.oci.image.manifest.v1+json";

/// The folder of unfinished pulls.
pub fn folder(store: &Store) -> PathBuf {
    store.cache().root().join("pulls")
}

/// Pulls an image, and unpacks it unless it is there. It keeps its name in the cache. A registry that wants a name and a
/// password gets those of `credentials`.
///
/// # Errors
/// When the registry does not give it, or it is not what it should be. What arrived whole stays for the next attempt.
pub fn pull(
    store: &Store,
    name: &ImageName,
    credentials: &Credentials,
    progress: &Progress,
) -> Result<Held, ImageError> {
    let here = Layout { folder: folder(store) };
    let unusable = |cause| ImageError::Cache { path: here.folder.clone(), cause };
    let _lock = here.begin(progress).map_err(unusable)?;
    let mut registry = Registry::new(name.clone(), credentials.clone());
    let step = progress.step(format!("asking {}", name.host()));
    let (sum, bytes) = fetch_manifest(&mut registry, name)?;
    step.finish();
    let read: ImageManifest = manifest::read("manifest", &bytes)?;
    let id = manifest::sum_of(read.config())?;
    if let Some(held) = store.hold(&id)? {
        store.name(&id, &name.whole(), progress)?;
        return Ok(held);
    }
    let total = read.layers().iter().map(Descriptor::size).fold(0, u64::saturating_add);
    if total > MOST_BYTES {
        return Err(ImageError::Document {
            part: "manifest".to_owned(),
            cause: "its layers are too large".to_owned(),
        });
    }
    here.fetch(&mut registry, read.config(), "configuration", progress)?;
    let of = read.layers().len();
    for (index, layer) in read.layers().iter().enumerate() {
        here.fetch(&mut registry, layer, &format!("layer {} of {of}", index + 1), progress)?;
    }
    here.write_index(&sum, &bytes, name).map_err(unusable)?;
    let source = Source::Folder(here.folder.clone());
    let image = manifest::find(&source, None)?;
    let held = store.take_from(&source, image, progress)?;
    store.name(&held.id, &name.whole(), progress)?;
    here.clear(|_| true).map_err(unusable)?;
    Ok(held)
}

/// Removes what interrupted pulls left, unless one is going on. The bytes that were freed.
///
/// # Errors
/// When the Host refuses.
pub fn prune(store: &Store) -> io::Result<u64> {
    let here = Layout { folder: folder(store) };
    match File::open(here.folder.join("lock")) {
        Ok(lock) if lock.try_lock().is_ok() => here.clear(|_| true),
        _ => Ok(0),
    }
}

/// The manifest for our platform; an index leads to it.
fn fetch_manifest(registry: &mut Registry, name: &ImageName) -> Result<(Sum, Vec<u8>), ImageError> {
    let bytes = registry.manifest(name.manifest())?;
    let sum = Sum::over(&bytes);
    if name.sum().is_some_and(|wanted| wanted != sum) {
        return Err(ImageError::WrongSum { part: "manifest".to_owned() });
    }
    // An index names manifests; a manifest names a configuration.
    let Ok(index) = serde_json::from_slice::<ImageIndex>(&bytes) else { return Ok((sum, bytes)) };
    let platforms = index.manifests().iter().filter_map(|one| one.platform().as_ref());
    let held: Vec<String> = platforms.map(|one| format!("{}/{}", one.os(), one.architecture())).collect();
    let ours = |one: &&Descriptor| one.platform().as_ref().is_none_or(manifest::is_ours);
    let chosen = index.manifests().iter().find(ours).ok_or(ImageError::NoPlatform(held.join(", ")))?;
    let sum = manifest::sum_of(chosen)?;
    let bytes = registry.manifest(&sum.to_string())?;
    match Sum::over(&bytes) == sum {
        true => Ok((sum, bytes)),
        false => Err(ImageError::WrongSum { part: "manifest".to_owned() }),
    }
}

struct Layout {
    folder: PathBuf,
}

impl Layout {
    fn blobs(&self) -> PathBuf {
        self.folder.join("blobs/sha256")
    }

    /// Waits for other pulls, and removes what is too old to be gone on with.
    fn begin(&self, progress: &Progress) -> io::Result<File> {
        fs::create_dir_all(self.blobs())?;
        let lock = File::options().create(true).append(true).open(self.folder.join("lock"))?;
        if lock.try_lock().is_err() {
            let step = progress.step("waiting for another lguest that pulls an image".to_owned());
            lock.lock()?;
            step.finish();
        }
        let now = SystemTime::now();
        let old = |changed: SystemTime| now.duration_since(changed).is_ok_and(|age| age > KEPT);
        self.clear(old)?;
        Ok(lock)
    }

    /// Removes parts whose last change is of that kind.
    fn clear(&self, goes: impl Fn(SystemTime) -> bool) -> io::Result<u64> {
        let mut freed = 0;
        for entry in fs::read_dir(self.blobs())? {
            let entry = entry?;
            let facts = entry.metadata()?;
            if goes(facts.modified()?) {
                fs::remove_file(entry.path())?;
                freed += facts.len();
            }
        }
        Ok(freed)
    }

    /// Makes the layout one of this image alone.
    fn write_index(&self, sum: &Sum, bytes: &[u8], name: &ImageName) -> io::Result<()> {
        cache::write_through(&self.blobs().join(sum.hex()), bytes)?;
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": MANIFEST_KIND, "digest": sum.to_string(), "size": bytes.len(),
            "annotations": {"org.opencontainers.image.ref.name": name.whole()},
        }]});
        cache::write_through(&self.folder.join("index.json"), &serde_json::to_vec(&index)?)
    }

    /// Has a part here whole, whatever of it was here before.
    fn fetch(
        &self,
        registry: &mut Registry,
        part: &Descriptor,
        what: &str,
        progress: &Progress,
    ) -> Result<(), ImageError> {
        let sum = manifest::sum_of(part)?;
        let path = self.blobs().join(sum.hex());
        let begun = path.with_extension(BEGUN);
        let unusable = |cause| ImageError::Cache { path: begun.clone(), cause };
        if path.is_file() {
            return Ok(());
        }
        let step = progress.transfer(format!("pulling {what}"), part.size());
        let mut file = File::options().create(true).read(true).append(true).open(&begun).map_err(unusable)?;
        let mut attempts = 0;
        while file.metadata().map_err(unusable)?.len() < part.size() {
            let from = file.metadata().map_err(unusable)?.len();
            let rest = registry.blob(&sum, from)?;
            if rest.from != from {
                file.set_len(rest.from).map_err(unusable)?;
            }
            let copied = copy(rest.bytes, &mut file, rest.from, part.size(), |at| step.at(at));
            attempts += 1;
            match copied {
                Ok(()) => {}
                Err(Broken::Here(cause)) => return Err(unusable(cause)),
                Err(Broken::There(cause)) if attempts == ATTEMPTS => {
                    let host = registry.host().to_owned();
                    return Err(RegistryError::Broken { host, cause }.into());
                }
                Err(Broken::There(_)) => {}
            }
        }
        step.finish();
        self.accept(&begun, &path, &sum, what, unusable)
    }

    /// A part becomes what its name says, or goes.
    fn accept(
        &self,
        begun: &Path,
        path: &Path,
        sum: &Sum,
        what: &str,
        unusable: impl Fn(io::Error) -> ImageError,
    ) -> Result<(), ImageError> {
        let file = File::open(begun).map_err(&unusable)?;
        if Hashed::new(file, None).finish().map_err(&unusable)? != *sum {
            fs::remove_file(begun).map_err(&unusable)?;
            return Err(ImageError::WrongSum { part: what.to_owned() });
        }
        fs::rename(begun, path).map_err(unusable)
    }
}

/// Which side of a copy failed.
enum Broken {
    Here(io::Error),
    There(io::Error),
}

/// Copies up to `size` bytes in all. An end before that is the other side's fault; what is more is not read.
fn copy(
    mut bytes: impl Read,
    file: &mut File,
    from: u64,
    size: u64,
    shown: impl Fn(u64),
) -> Result<(), Broken> {
    let (mut at, mut buffer) = (from, vec![0; 1 << 16]);
    while at < size {
        let most = usize::try_from(size - at).unwrap_or(usize::MAX).min(buffer.len());
        let length = match bytes.read(&mut buffer[..most]) {
            Ok(0) => return Err(Broken::There(io::ErrorKind::UnexpectedEof.into())),
            Ok(length) => length,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(Broken::There(cause)),
        };
        file.write_all(&buffer[..length]).map_err(Broken::Here)?;
        at += length as u64;
        shown(at);
    }
    Ok(())
}
