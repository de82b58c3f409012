//! A disk in a qcow2 file. imago knows the format; this room decides which files may be opened for one.
//!
//! A qcow2 file may name another for what it lacks, and that one a third: whoever made the image chose those names. None is
//! opened because an image says so, only because the user did (`backing=PATH`, from the top down), and only where both say the
//! same. imago itself opens nothing here.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::file::File as ImageFile;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, qcow2::Qcow2, raw::Raw};
use lguest_devices::lguest::block::DiskError;
use lguest_devices::virtio::block::Storage;

use super::option::DiskOption;
use super::{SECTOR, lock, only_read, refcounts, write_zeroes};

type Image = FormatAccess<ImageFile>;

/// The disk in the file.
pub struct Qcow2Disk {
    /// Discarding takes clusters away under whoever reads them, so it is done alone.
    image: RwLock<Image>,
    length: u64,
    writable: bool,
}

impl Qcow2Disk {
    /// Opens and locks the file and the backing files that were allowed.
    ///
    /// # Errors
    /// The rest of a sentence: no qcow2, damaged, features that imago lacks, or a backing file that was not allowed.
    pub fn open(option: &DiskOption) -> Result<Qcow2Disk, String> {
        let file = lock::open(&option.path, option.writable)?;
        let mut layers = Layers { opened: vec![identity(&file)?], allowed: &option.backing };
        let image = layers.open(file, &option.path, option.writable)?;
        if let Some(left) = layers.allowed.first() {
            return Err(format!(
                "no image asks for the backing file {}; leave backing={0} out",
                left.display()
            ));
        }
        let length = image.size() / SECTOR * SECTOR;
        if length == 0 {
            return Err("holds a disk of no sectors; qemu-img resize makes it larger".to_owned());
        }
        Ok(Qcow2Disk { image: RwLock::new(image), length, writable: option.writable })
    }

    /// For whom others do not disturb.
    fn shared(&self) -> RwLockReadGuard<'_, Image> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Image> {
        self.image.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_write(&self) -> Result<(), DiskError> {
        if self.writable { Ok(()) } else { Err(only_read()) }
    }
}

/// Which file this is, whatever its name: device and inode.
fn identity(file: &File) -> Result<(u64, u64), String> {
    let facts = file.metadata().map_err(|cause| format!("cannot be looked at: {cause}"))?;
    Ok((facts.dev(), facts.ino()))
}

/// Images on top of one another, from the top down.
struct Layers<'a> {
    opened: Vec<(u64, u64)>,
    /// What may still be opened, in this order.
    allowed: &'a [PathBuf],
}

impl Layers<'_> {
    fn open(&mut self, file: File, path: &Path, writable: bool) -> Result<Image, String> {
        let damaged = |cause: io::Error| format!("{} cannot be opened as qcow2: {cause}", path.display());
        if let Some(fault) = refcounts::fault(&file).filter(|_| writable) {
            return Err(format!(
                "{} {fault}; qemu-img convert -O qcow2 makes a sound copy, and with readonly it can be read",
                path.display()
            ));
        }
        let file = ImageFile::try_from(file).map_err(damaged)?;
        let mut image = Qcow2::<ImageFile>::builder(file)
            .write(writable)
            .backing(None)
            .data_file(None)
            .open(DenyImplicitOpenGate::default())
            .map_err(damaged)?;
        if image.requires_external_data_file() {
            return Err(format!(
                "{} keeps its data in another file, which lguest opens for no image; qemu-img convert makes one file of it",
                path.display()
            ));
        }
        let named = image.implicit_backing_file().cloned();
        if let Some(named) = named {
            let format = image.implicit_backing_format().cloned();
            image.set_backing(Some(self.backing(path, &named, format.as_deref())?));
        }
        Ok(FormatAccess::new(image))
    }

    /// Opens the backing file that an image names, if the user named it too.
    fn backing(&mut self, above: &Path, named: &str, format: Option<&str>) -> Result<Image, String> {
        // The name comes from whoever made the image, and ends in somebody's terminal.
        let shown = named.escape_debug();
        let Some((path, rest)) = self.allowed.split_first() else {
            return Err(format!(
                "{} asks for the backing file {shown}, which was not allowed; add backing=PATH if it may be read",
                above.display()
            ));
        };
        self.allowed = rest;
        let place = above.parent().unwrap_or(Path::new("")).join(named);
        // Looked at only after the user's own: what the image names is compared, never opened.
        let file = File::open(path)
            .map_err(|cause| format!("backing={} cannot be opened: {cause}", path.display()))?;
        let own = identity(&file)?;
        let other = std::fs::metadata(&place).ok().map(|facts| (facts.dev(), facts.ino()));
        if other.is_some_and(|other| other != own) {
            return Err(format!(
                "{} asks for the backing file {shown}, which is not backing={}",
                above.display(),
                path.display()
            ));
        }
        if self.opened.contains(&own) {
            return Err(format!("its backing files run in a circle: {} comes twice", path.display()));
        }
        self.opened.push(own);
        drop(file);
        let file = lock::open(path, false).map_err(|what| format!("backing={} {what}", path.display()))?;
        match format {
            Some("qcow2") => self.open(file, path, false),
            Some("raw" | "file") => raw_layer(file)
                .map_err(|cause| format!("backing={} cannot be opened: {cause}", path.display())),
            // To guess would let who wrote the backing file as a raw disk choose what is opened next.
            _ => Err(format!(
                "{} does not say whether its backing file is raw or qcow2; qemu-img rebase -u -F makes it say so",
                above.display()
            )),
        }
    }
}

fn raw_layer(file: File) -> io::Result<Image> {
    let file = ImageFile::try_from(file)?;
    Ok(FormatAccess::new(Raw::builder(file).open(DenyImplicitOpenGate::default())?))
}

impl Storage for Qcow2Disk {
    fn length(&self) -> u64 {
        self.length
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        Ok(self.shared().read(bytes, offset)?)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.may_write()?;
        Ok(self.shared().write(bytes, offset)?)
    }

    fn flush(&self) -> Result<(), DiskError> {
        if !self.writable {
            return Ok(());
        }
        let image = self.shared();
        image.flush()?;
        Ok(image.sync()?)
    }

    fn discard(&self, range: Range<u64>) -> Result<(), DiskError> {
        self.may_write()?;
        match self.alone().discard_to_any(range.start, range.end - range.start) {
            // Nothing is freed, which loses nothing: the bytes are of no use.
            Err(cause) if cause.kind() == io::ErrorKind::Unsupported => Ok(()),
            done => Ok(done?),
        }
    }

    fn zero(&self, range: Range<u64>, unmap: bool) -> Result<(), DiskError> {
        self.may_write()?;
        let length = range.end - range.start;
        let done = match unmap {
            true => self.alone().discard_to_zero(range.start, length),
            false => self.shared().write_zeroes(range.start, length),
        };
        match done {
            Err(cause) if cause.kind() == io::ErrorKind::Unsupported => write_zeroes(self, range),
            done => Ok(done?),
        }
    }
}

impl Drop for Qcow2Disk {
    /// As a raw disk's: what was written is in the file when the machine has ended.
    fn drop(&mut self) {
        let _ = self.flush();
    }
}
