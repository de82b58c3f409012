//! `--disk`: what a disk may be, and how it is opened before anything starts.
//!
//! ```text
//!   PATH[,readonly][,format=raw|qcow2][,serial=TEXT][,backing=PATH]...
//!     option     the words above, read
//!     lock       one writer or many readers of a file
//!     raw        the file is the disk
//!     refcounts  what a qcow2 file has to say before anything is written into it
//!     qcow2      the file holds the disk in clusters, perhaps over a backing file (by imago)
//!     crew       the threads that a slow disk of the host's keeps waiting, in place of a vCPU
//! ```
//! A format is never guessed: a Guest with a raw disk may write whatever it likes to the first sectors, and a guess would make
//! its next run open the files that it named there.

mod option;
mod lock;
mod raw;
mod refcounts;
mod qcow2;
pub mod crew;

use std::ops::Range;
use std::sync::Arc;

use lguest_devices::lguest::block::{Disk, DiskError};
use lguest_devices::virtio::block::Storage;

use crate::request::Mistake;
use option::{DiskOption, Format};

/// Bytes of a sector, of which a disk has a whole number.
const SECTOR: u64 = 512;

/// A disk that is open, locked against a second machine that would write it.
#[derive(Clone)]
pub struct AttachedDisk {
    image: Arc<dyn Storage>,
    serial: Option<String>,
}

impl AttachedDisk {
    /// Opens what `--disk` names.
    ///
    /// # Errors
    /// One sentence: missing, a directory, empty, no whole number of sectors, in use, not of this format, or an option that
    /// is none.
    pub fn open(text: &str) -> Result<AttachedDisk, Mistake> {
        let fault = |what: String| Mistake(format!("--disk {text}: {what}"));
        let option = DiskOption::read(text).map_err(fault)?;
        let image: Arc<dyn Storage> = match option.format {
            Format::Raw => Arc::new(raw::RawDisk::open(&option).map_err(fault)?),
            Format::Qcow2 => Arc::new(qcow2::Qcow2Disk::open(&option).map_err(fault)?),
        };
        Ok(AttachedDisk { image, serial: option.serial })
    }

    /// The disk's bytes.
    pub fn image(&self) -> Arc<dyn Storage> {
        self.image.clone()
    }

    /// The serial number that was asked for.
    pub fn serial(&self) -> Option<&str> {
        self.serial.as_deref()
    }
}

impl std::fmt::Debug for AttachedDisk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.image.length();
        formatter.debug_struct("AttachedDisk").field("bytes", &bytes).field("serial", &self.serial).finish()
    }
}

/// The first generation's view of the same disk.
impl Disk for AttachedDisk {
    fn length(&self) -> u64 {
        self.image.length()
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.image.read(offset, bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.image.write(offset, bytes)
    }
}

/// What a disk that may only be read says to who would write it.
fn only_read() -> DiskError {
    std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem).into()
}

/// Writes zeroes the long way.
fn write_zeroes(disk: &dyn Storage, range: Range<u64>) -> Result<(), DiskError> {
    static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
    let mut at = range.start;
    while at < range.end {
        let length = (range.end - at).min(ZEROES.len() as u64) as usize;
        disk.write(at, &ZEROES[..length])?;
        at += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
