//! Guest memory: one memory file, mapped once for the Launcher's own use.
//!
//! Why a file and not just anonymous memory: the translator maps the same bytes a second time, read-only, and a
//! device in another process can be handed the file. Why copies and never references: the Guest writes its memory
//! whenever it likes, so a Rust reference to it would be a lie. One function checks bounds: `Memory::offset`.
//!
//! ```text
//!   guest-physical             in the file
//!   0 ........ 3 GiB    low    0 ........ 3 GiB
//!   3 GiB .... 4 GiB    hole   (devices: APICs, PCI windows)
//!   4 GiB .... end      high   3 GiB .... end
//! ```
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};

use lguest_translator::{Ram, RamError, RamRegion};

/// Where RAM stops below 4 GiB. 3 GiB leaves the top gigabyte to devices, as PC chipsets do.
pub const HOLE_START: u64 = 3 << 30;
/// Where RAM goes on.
pub const HOLE_END: u64 = 4 << 30;
/// Bytes in a page.
pub const PAGE_SIZE: u64 = lguest_translator::memory::ram::PAGE_SIZE;

/// An address on the Guest's physical bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestAddress(pub u64);

impl std::fmt::Display for GuestAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Why Guest memory could not be made or reached.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A size that is no whole number of pages, or nothing at all.
    #[error("{0} bytes of Guest memory: a machine needs a whole number of 4096-byte pages, and at least one")]
    Size(u64),
    /// The host has no memory file or no address space for it.
    #[error("the host does not give {bytes} bytes of Guest memory: {source}")]
    Host {
        /// How much was asked for.
        bytes: u64,
        /// What the host said.
        source: std::io::Error,
    },
    /// Some byte of a range is not RAM.
    #[error("{length} bytes at guest-physical {address} are not all memory")]
    OutOfRange {
        /// First byte.
        address: GuestAddress,
        /// How many.
        length: u64,
    },
    /// A file that should fill memory cannot be read.
    #[error("the kernel's file cannot be copied into Guest memory: {0}")]
    File(std::io::Error),
    /// The translator's mapping failed.
    #[error(transparent)]
    Ram(#[from] RamError),
}

/// The Guest's RAM as the Launcher and its devices see it.
pub struct Memory {
    file: File,
    mapping: *mut u8,
    length: u64,
    regions: Vec<RamRegion>,
}

// SAFETY: the mapping is shared memory that lives as long as the Memory; all access is by copy.
unsafe impl Send for Memory {}
// SAFETY: as above; racing copies of bytes are what real DMA does too.
unsafe impl Sync for Memory {}

impl Memory {
    /// Makes `bytes` of zeroed Guest memory. Costs host memory only for the pages that get touched.
    ///
    /// # Errors
    /// [`MemoryError::Size`] for 0 or a broken page, [`MemoryError::Host`] when the host refuses.
    pub fn new(bytes: u64) -> Result<Memory, MemoryError> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) || i64::try_from(bytes).is_err() {
            return Err(MemoryError::Size(bytes));
        }
        let host = |source| MemoryError::Host { bytes, source };
        let file = memory_file().map_err(host)?;
        file.set_len(bytes).map_err(host)?;
        let mapping = map_shared(&file, bytes).map_err(host)?;
        Ok(Memory { file, mapping, length: bytes, regions: regions(bytes) })
    }

    /// Total bytes of RAM.
    pub fn size(&self) -> u64 {
        self.length
    }

    /// The RAM regions, lowest first: one below the hole, and one above 4 GiB if there is more.
    pub fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    /// First address after the RAM below the hole.
    pub fn low_end(&self) -> GuestAddress {
        GuestAddress(self.length.min(HOLE_START))
    }

    /// The same bytes, mapped the way the translator wants them.
    ///
    /// # Errors
    /// [`MemoryError::Ram`] when the host refuses a mapping.
    pub fn ram(&self) -> Result<Ram, MemoryError> {
        Ok(Ram::new(&self.file, self.length, self.regions.clone())?)
    }

    /// Copies Guest bytes out.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] when any byte is not RAM; then nothing was copied.
    pub fn read(&self, address: GuestAddress, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let offset = self.offset(address, bytes.len() as u64)?;
        // SAFETY: `offset` found the whole range inside the mapping, and `bytes` is ours alone.
        unsafe {
            std::ptr::copy_nonoverlapping(self.mapping.wrapping_add(offset), bytes.as_mut_ptr(), bytes.len())
        };
        Ok(())
    }

    /// Copies bytes into the Guest. For loaders and devices; it does not tell the translator that code changed.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] when any byte is not RAM; then nothing was copied.
    pub fn write(&self, address: GuestAddress, bytes: &[u8]) -> Result<(), MemoryError> {
        let offset = self.offset(address, bytes.len() as u64)?;
        // SAFETY: `offset` found the whole range inside the mapping, which no Rust object overlaps.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.mapping.wrapping_add(offset), bytes.len())
        };
        Ok(())
    }

    /// Copies a part of a file into the Guest, without a way through this process. For loaders.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] when any byte is not RAM, [`MemoryError::File`] when the file ends early or cannot
    /// be read; then some bytes may have been copied.
    pub fn write_from(
        &self,
        address: GuestAddress,
        file: &File,
        part: Range<u64>,
    ) -> Result<(), MemoryError> {
        let length = part.end.saturating_sub(part.start);
        let offset = self.offset(address, length)?;
        let copy = || {
            let (mut from, mut to) = (file, &self.file);
            from.seek(SeekFrom::Start(part.start))?;
            to.seek(SeekFrom::Start(offset as u64))?;
            match std::io::copy(&mut from.take(length), &mut to)? {
                copied if copied == length => Ok(()),
                _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
            }
        };
        copy().map_err(MemoryError::File)
    }

    /// The one bounds check: place in the file of `length` bytes at `address`, all in one region.
    fn offset(&self, address: GuestAddress, length: u64) -> Result<usize, MemoryError> {
        self.regions
            .iter()
            .find_map(|region| {
                let within = address.0.checked_sub(region.start)?;
                let room = region.length.checked_sub(within)?;
                (length <= room).then_some((region.offset + within) as usize)
            })
            .ok_or(MemoryError::OutOfRange { address, length })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and only `self` could reach it.
        unsafe { libc::munmap(self.mapping.cast(), self.length as usize) };
    }
}

/// Draws the map at the top of this file for `bytes` of RAM.
fn regions(bytes: u64) -> Vec<RamRegion> {
    let low = bytes.min(HOLE_START);
    let mut regions = vec![RamRegion { start: 0, length: low, offset: 0 }];
    if bytes > low {
        regions.push(RamRegion { start: HOLE_END, length: bytes - low, offset: low });
    }
    regions
}

fn memory_file() -> std::io::Result<File> {
    // SAFETY: the name is a NUL-terminated literal; the call makes a new descriptor and touches nothing else.
    let descriptor = unsafe { libc::memfd_create(c"lguest-memory".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn map_shared(file: &File, bytes: u64) -> std::io::Result<*mut u8> {
    // SAFETY: a fresh shared mapping at an address the kernel picks; no existing mapping is touched.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    Ok(address.cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_through_both_mappings() {
        let memory = Memory::new(1 << 20).unwrap();
        memory.write(GuestAddress(0x1234), b"lguest").unwrap();
        let mut bytes = [0; 6];
        memory.read(GuestAddress(0x1234), &mut bytes).unwrap();
        assert_eq!(&bytes, b"lguest");
        let mut bytes = [0; 6];
        assert!(memory.ram().unwrap().read(0x1234, &mut bytes));
        assert_eq!(&bytes, b"lguest");
    }

    #[test]
    fn a_part_of_a_file_lands_where_it_should() {
        use std::io::Write;
        let mut file = memory_file().unwrap();
        file.write_all(b"hello lguest").unwrap();
        let memory = Memory::new(0x2000).unwrap();
        memory.write_from(GuestAddress(0x1001), &file, 6..12).unwrap();
        let mut bytes = [0; 8];
        memory.read(GuestAddress(0x1000), &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0lguest\0");
        let short = memory.write_from(GuestAddress(0), &file, 6..13);
        assert!(matches!(short, Err(MemoryError::File(_))));
        let outside = memory.write_from(GuestAddress(0x1fff), &file, 0..2);
        assert!(matches!(outside, Err(MemoryError::OutOfRange { .. })));
    }

    #[test]
    fn a_read_past_the_end_is_refused() {
        let memory = Memory::new(0x2000).unwrap();
        for (address, length) in [(0x1fff, 2), (0x2000, 1), (u64::MAX, 1), (0, 0x2001)] {
            let mut bytes = vec![0; length];
            assert!(memory.read(GuestAddress(address), &mut bytes).is_err(), "{address:#x} + {length}");
            assert!(memory.write(GuestAddress(address), &bytes).is_err(), "{address:#x} + {length}");
        }
    }

    #[test]
    fn memory_over_three_gibibytes_goes_on_above_the_hole() {
        let memory = Memory::new(HOLE_START + PAGE_SIZE).unwrap();
        assert_eq!(memory.low_end(), GuestAddress(HOLE_START));
        memory.write(GuestAddress(HOLE_END), b"high").unwrap();
        assert!(memory.write(GuestAddress(HOLE_START), b"hole").is_err());
        assert!(memory.write(GuestAddress(HOLE_START - 2), b"hole").is_err());
        assert!(memory.write(GuestAddress(HOLE_END + PAGE_SIZE), b"end").is_err());
    }

    #[test]
    fn no_memory_and_half_a_page_are_refused() {
        for bytes in [0, 1, PAGE_SIZE + 1, !(PAGE_SIZE - 1)] {
            assert!(matches!(Memory::new(bytes), Err(MemoryError::Size(_))), "{bytes:#x}");
        }
    }
}
