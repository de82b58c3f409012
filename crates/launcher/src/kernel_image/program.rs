//! The kernel proper on its way to a loader: bytes that were just unpacked, or a file of the cache.
//!
//! A cached kernel is fifty megabytes that nobody has to look at: the host's kernel copies its segments from the file
//! to Guest memory, and only the headers come through here.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use lguest_host::memory::{GuestAddress, Memory, MemoryError};

use super::KernelImage;

/// Bytes that hold a file's headers: linkers put ELF's first, and a kernel has about five; Multiboot 2's may end here.
const BEGINNING: u64 = 32 << 10;

/// The bytes of a kernel.
#[derive(Debug)]
pub enum Program {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a file that nobody changes: the cache replaces files, it does not write to them.
    File(File),
}

/// A kernel for a machine.
#[derive(Debug)]
pub struct Kernel {
    /// The kernel proper.
    pub program: Program,
    /// As in [`KernelImage::setup_header`].
    pub setup_header: Option<Vec<u8>>,
}

impl From<KernelImage> for Kernel {
    fn from(image: KernelImage) -> Kernel {
        Kernel { program: Program::Bytes(image.vmlinux), setup_header: image.setup_header }
    }
}

impl Program {
    /// Its length in bytes.
    ///
    /// # Errors
    /// When the host cannot say.
    pub fn length(&self) -> io::Result<u64> {
        match self {
            Program::Bytes(bytes) => Ok(bytes.len() as u64),
            Program::File(file) => Ok(file.metadata()?.len()),
        }
    }

    /// Its first bytes, the headers among them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn beginning(&self) -> io::Result<Vec<u8>> {
        self.read(0, BEGINNING)
    }

    /// At most so many bytes from `start` on: fewer where the program ends.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, start: u64, length: u64) -> io::Result<Vec<u8>> {
        match self {
            Program::Bytes(bytes) => {
                let start = start.min(bytes.len() as u64) as usize;
                let length = length.min((bytes.len() - start) as u64) as usize;
                Ok(bytes[start..start + length].to_vec())
            }
            Program::File(file) => {
                let mut read = Vec::new();
                let mut file = file;
                file.seek(SeekFrom::Start(start))?;
                file.take(length).read_to_end(&mut read)?;
                Ok(read)
            }
        }
    }

    /// Copies a part of it into Guest memory. The caller has checked that the program has that part.
    ///
    /// # Errors
    /// When the file cannot be read or the memory is not there.
    pub fn copy(&self, part: Range<u64>, memory: &Memory, to: GuestAddress) -> Result<(), MemoryError> {
        match self {
            Program::Bytes(bytes) => memory.write(to, &bytes[part.start as usize..part.end as usize]),
            Program::File(file) => memory.write_from(to, file, part),
        }
    }
}
