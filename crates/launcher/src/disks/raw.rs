//! A raw disk: its bytes are the file's.

use std::fs::File;
use std::io::{IoSliceMut, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use lguest_devices::lguest::block::DiskError;
use lguest_devices::virtio::block::Storage;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::option::DiskOption;
use super::{SECTOR, lock, only_read, write_zeroes};

/// How a qcow2 file begins; a raw disk that does so is one whose format was forgotten.
const QCOW2: &[u8; 4] = b"QFI\xfb";

/// A file, or a device of the host's, as it is.
pub struct RawDisk {
    file: File,
    length: u64,
    writable: bool,
}

impl RawDisk {
    /// Opens and locks it.
    ///
    /// # Errors
    /// The rest of a sentence.
    pub fn open(option: &DiskOption) -> Result<RawDisk, String> {
        let mut file = lock::open(&option.path, option.writable)?;
        // Unlike the metadata's, this length is right for the host's own disks too.
        let length = file.seek(SeekFrom::End(0)).map_err(|cause| format!("has no length: {cause}"))?;
        if length == 0 {
            return Err("is empty; truncate -s 64M makes a disk of 64 MiB".to_owned());
        }
        if !length.is_multiple_of(SECTOR) {
            return Err(format!(
                "is {length} bytes long, which is no multiple of {SECTOR}; truncate -s %{SECTOR} rounds it up"
            ));
        }
        let mut beginning = [0; QCOW2.len()];
        let known = file.read_exact_at(&mut beginning, 0).is_ok() && &beginning == QCOW2;
        if known && !option.raw_was_said {
            return Err("looks like qcow2; add format=qcow2, or format=raw if it is meant so".to_owned());
        }
        Ok(RawDisk { file, length, writable: option.writable })
    }

    fn change_room(&self, way: FallocateFlags, range: &Range<u64>) -> rustix::io::Result<()> {
        let length = range.end - range.start;
        rustix::fs::fallocate(&self.file, way | FallocateFlags::KEEP_SIZE, range.start, length)
    }
}

impl Storage for RawDisk {
    fn length(&self) -> u64 {
        self.length
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        Ok(self.file.read_exact_at(bytes, offset)?)
    }

    fn read_at_once(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let mut room = [IoSliceMut::new(bytes)];
        let read = rustix::io::preadv2(&self.file, &mut room, offset, ReadWriteFlags::NOWAIT);
        // A part is in the page cache, or nothing, or this file system cannot tell.
        read.is_ok_and(|length| length == bytes.len())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        if !self.writable {
            return Err(only_read());
        }
        Ok(self.file.write_all_at(bytes, offset)?)
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(self.file.sync_data()?)
    }

    fn discard(&self, range: Range<u64>) -> Result<(), DiskError> {
        match self.change_room(FallocateFlags::PUNCH_HOLE, &range) {
            // A file system that frees no room loses nothing by it: the bytes are of no use.
            Err(cause) if is_unsupported(cause) => Ok(()),
            done => Ok(done.map_err(std::io::Error::from)?),
        }
    }

    fn zero(&self, range: Range<u64>, unmap: bool) -> Result<(), DiskError> {
        let way = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        match self.change_room(way, &range) {
            Err(cause) if is_unsupported(cause) => write_zeroes(self, range),
            done => Ok(done.map_err(std::io::Error::from)?),
        }
    }
}

/// The file system, or the host's kernel, has no such thing.
fn is_unsupported(cause: Errno) -> bool {
    matches!(cause, Errno::OPNOTSUPP | Errno::NOSYS)
}

impl Drop for RawDisk {
    /// The first generation has no way to flush, so the end of the machine is one.
    fn drop(&mut self) {
        if self.writable {
            let _ = self.file.sync_data();
        }
    }
}
