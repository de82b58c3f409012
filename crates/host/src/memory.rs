//! Guest memory: one memory file, mapped once for the Launcher's own use.
//!
//! Why a file and not just anonymous memory: the translator maps the same bytes a second time, read-only, and a
//! device in another process can be handed the file. Why copies and never references: the Guest writes its memory
//! whenever it likes, so a Rust reference to it would be a lie. One function checks bounds: `Memory::offset`. And every
//! write tells the translator, which may have made code from what was there; there is no other way to write. Only what
//! another process writes (the broker of a link) is not heard of: a Guest that executes its receive buffers may run what
//! it received before.
//!
//! ```text
//!   guest-physical             in the file
//!   0 ........ 3 GiB    low    0 ........ 3 GiB
//!   end of low ...      lguest's descriptor and device pages, if there are any, right behind low RAM in both
//!   3 GiB .... 4 GiB    hole   (devices: APICs, PCI windows)
//!   4 GiB .... end      high   behind all that
//! ```
//!
//! A device page may be a *graft*: a page of another file (a link's table of addresses) mapped in place of ours, so that
//! several Guests share it. Grafts also answer the question that DMA keys ask: whose memory is this?
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, fence};

use lguest_translator::{Ram, RamError, RamRegion, Sharing};

mod turns;
mod give_back;

/// Where RAM stops below 4 GiB. 3 GiB leaves the top gigabyte to devices, as PC chipsets do.
pub const HOLE_START: u64 = 3 << 30;
/// Where RAM goes on.
pub const HOLE_END: u64 = 4 << 30;
/// Bytes in a page.
pub const PAGE_SIZE: u64 = lguest_translator::memory::ram::PAGE_SIZE;

/// The most device pages: sixteen devices of at most seven pages and the descriptor page are far fewer.
pub const DEVICE_PAGES_MAXIMUM: u64 = 256;

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

/// A page of the link's file that stands in place of one of ours.
struct Graft {
    offset: u64,
    file: File,
}

/// What memory lies under an address, as DMA keys see it (facts 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This machine's own: the byte's place in its memory file.
    Private(u64),
    /// Shared with other machines.
    Shared {
        /// Which graft, in the order they were made.
        graft: usize,
        /// The byte's place in the shared page.
        offset: u64,
    },
}

/// The Guest's RAM as the Launcher and its devices see it.
pub struct Memory {
    file: File,
    mapping: *mut u8,
    /// Bytes of RAM.
    length: u64,
    /// Bytes of RAM and device pages: the mapping's.
    mapped: u64,
    regions: Vec<RamRegion>,
    grafts: Vec<Graft>,
    /// What the translator made code from, which hears of every write here.
    sharing: Arc<Sharing>,
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
        Memory::with_device_pages(bytes, 0)
    }

    /// The same, with `pages` of zeroed device memory right behind low RAM.
    ///
    /// # Errors
    /// As [`Self::new`]; [`MemoryError::Size`] also for more device pages than the hole has room for.
    pub fn with_device_pages(bytes: u64, pages: u64) -> Result<Memory, MemoryError> {
        let mapped = check_size(bytes, pages)?;
        let host = |source| MemoryError::Host { bytes, source };
        let file = memory_file().map_err(host)?;
        file.set_len(mapped).map_err(host)?;
        seal(&file).map_err(host)?;
        Memory::map(file, bytes, pages)
    }

    /// Maps a memory file that another process made with [`Self::with_device_pages`]. It must be sealed against
    /// shrinking, for a file cut short under a mapping is a bus error for whoever touches it.
    ///
    /// # Errors
    /// [`MemoryError::Size`] when the file is smaller than it should be or not sealed.
    pub fn adopt(file: File, bytes: u64, pages: u64) -> Result<Memory, MemoryError> {
        let mapped = check_size(bytes, pages)?;
        let host = |source| MemoryError::Host { bytes, source };
        let long_enough = file.metadata().map_err(host)?.len() >= mapped;
        if !long_enough || !is_sealed(&file) {
            return Err(MemoryError::Size(bytes));
        }
        Memory::map(file, bytes, pages)
    }

    fn map(file: File, bytes: u64, pages: u64) -> Result<Memory, MemoryError> {
        let devices = pages * PAGE_SIZE;
        let mapped = bytes + devices;
        let mapping = map_shared(&file, mapped).map_err(|source| MemoryError::Host { bytes, source })?;
        Ok(Memory {
            file,
            mapping,
            length: bytes,
            mapped,
            regions: regions(bytes, devices),
            grafts: Vec::new(),
            sharing: Arc::new(Sharing::new(mapped / PAGE_SIZE)),
        })
    }

    /// The memory file, for whom it is handed to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Puts the first page of `file` in place of the page at `address`, a device page. Before [`Self::ram`].
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] for an address that is no page of this memory; [`MemoryError::Host`] when the file is
    /// shorter than a page, not sealed against shrinking, or the host refuses.
    pub fn graft(&mut self, address: GuestAddress, file: File) -> Result<(), MemoryError> {
        let offset = self.offset(address, PAGE_SIZE)? as u64;
        if !offset.is_multiple_of(PAGE_SIZE) {
            return Err(MemoryError::OutOfRange { address, length: PAGE_SIZE });
        }
        let host = |source| MemoryError::Host { bytes: PAGE_SIZE, source };
        if file.metadata().map_err(host)?.len() < PAGE_SIZE || !is_sealed(&file) {
            return Err(MemoryError::Size(PAGE_SIZE));
        }
        let place = self.mapping.wrapping_add(offset as usize).cast();
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: replaces one page of our own mapping, found in range above; all access to it is by copy.
        let done = unsafe {
            libc::mmap(
                place,
                PAGE_SIZE as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        if done == libc::MAP_FAILED {
            return Err(host(std::io::Error::last_os_error()));
        }
        self.grafts.push(Graft { offset, file });
        Ok(())
    }

    /// What lies under an address: whose memory, and which byte of it. None when it is no memory.
    pub fn place(&self, address: GuestAddress) -> Option<Place> {
        let offset = self.offset(address, 1).ok()? as u64;
        let graft = self.grafts.iter().position(|graft| graft.offset == offset & !(PAGE_SIZE - 1));
        Some(match graft {
            Some(graft) => Place::Shared { graft, offset: offset % PAGE_SIZE },
            None => Place::Private(offset),
        })
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
        let mut ram = Ram::shared(&self.file, self.mapped, self.regions.clone(), self.sharing.clone())?;
        for graft in &self.grafts {
            ram.graft(graft.offset, &graft.file)?;
        }
        Ok(ram)
    }

    /// Where a region is mapped in this process, for the engine that lets hardware reach it.
    pub(crate) fn host_address(&self, region: &RamRegion) -> u64 {
        debug_assert!(region.offset + region.length <= self.mapped);
        self.mapping.wrapping_add(region.offset as usize) as u64
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

    /// Copies bytes into the Guest. For loaders and devices. Comes back when no vCPU runs code made from the old bytes.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] when any byte is not RAM; then nothing was copied.
    pub fn write(&self, address: GuestAddress, bytes: &[u8]) -> Result<(), MemoryError> {
        let offset = self.offset(address, bytes.len() as u64)?;
        // SAFETY: `offset` found the whole range inside the mapping, which no Rust object overlaps.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.mapping.wrapping_add(offset), bytes.len())
        };
        self.sharing.wrote(offset as u64, bytes.len() as u64);
        Ok(())
    }

    /// Somebody who maps [`Self::file`] too has written there: `length` bytes from the file's byte `offset` on. Comes back
    /// when no vCPU runs code made from the old bytes.
    pub fn device_wrote(&self, offset: u64, length: u64) {
        self.sharing.wrote(offset, length);
    }

    /// Pages of the memory file from which some vCPU has made code, by number, in order.
    pub fn pages_with_code(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.mapped / PAGE_SIZE).filter(|page| self.sharing.has_code(*page as u32))
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
        let copied = copy().map_err(MemoryError::File);
        self.sharing.wrote(offset as u64, length);
        copied
    }

    /// Copies `length` bytes from here to another Guest (or elsewhere in this one), with no stop between.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] of the side that lacks a byte; then nothing was copied.
    pub fn copy_to(
        &self,
        from: GuestAddress,
        other: &Memory,
        to: GuestAddress,
        length: u64,
    ) -> Result<(), MemoryError> {
        let source = self.mapping.wrapping_add(self.offset(from, length)?);
        let offset = other.offset(to, length)?;
        let target = other.mapping.wrapping_add(offset);
        // SAFETY: both ranges were found inside their mappings; `copy` allows them to overlap.
        unsafe { std::ptr::copy(source, target, length as usize) };
        other.sharing.wrote(offset as u64, length);
        Ok(())
    }

    /// Reads a word that both sides write, after everything that was written before it.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn load_word(&self, address: GuestAddress) -> Result<u32, MemoryError> {
        let mut bytes = [0; 4];
        let offset = self.offset(address, 4)?;
        if !offset.is_multiple_of(4) {
            self.read(address, &mut bytes)?;
            fence(turns::TAKE);
            return Ok(u32::from_le_bytes(bytes));
        }
        let word = self.mapping.wrapping_add(offset).cast();
        // SAFETY: in range and aligned as just checked; atomic because the Guest may write it.
        Ok(unsafe { AtomicU32::from_ptr(word) }.load(turns::TAKE))
    }

    /// Writes such a word: everything written before is seen by whoever sees the word.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn store_word(&self, address: GuestAddress, value: u32) -> Result<(), MemoryError> {
        let offset = self.offset(address, 4)?;
        if !offset.is_multiple_of(4) {
            fence(turns::GIVE);
            return self.write(address, &value.to_le_bytes());
        }
        let word = self.mapping.wrapping_add(offset).cast();
        // SAFETY: as in `load_word`.
        unsafe { AtomicU32::from_ptr(word) }.store(value, turns::GIVE);
        self.sharing.wrote(offset as u64, 4);
        Ok(())
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
        // SAFETY: the mapping was made by `map` with this length, and only `self` could reach it.
        unsafe { libc::munmap(self.mapping.cast(), self.mapped as usize) };
    }
}

/// Bytes of the memory file for `bytes` of RAM and `pages` of device memory.
fn check_size(bytes: u64, pages: u64) -> Result<u64, MemoryError> {
    let whole = bytes != 0 && bytes.is_multiple_of(PAGE_SIZE);
    let fits = pages <= DEVICE_PAGES_MAXIMUM;
    let mapped = bytes.checked_add(pages.saturating_mul(PAGE_SIZE)).filter(|m| i64::try_from(*m).is_ok());
    mapped.filter(|_| whole && fits).ok_or(MemoryError::Size(bytes))
}

/// Draws the map at the top of this file for `bytes` of RAM and `devices` bytes of device pages.
fn regions(bytes: u64, devices: u64) -> Vec<RamRegion> {
    let low = bytes.min(HOLE_START);
    let mut regions = vec![RamRegion { start: 0, length: low + devices, offset: 0 }];
    if bytes > low {
        regions.push(RamRegion { start: HOLE_END, length: bytes - low, offset: low + devices });
    }
    regions
}

/// Nobody can cut the file short any more.
fn seal(file: &File) -> std::io::Result<()> {
    // SAFETY: sets a property of a descriptor that we own.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn is_sealed(file: &File) -> bool {
    // SAFETY: asks for a property of a descriptor that we own.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_SHRINK != 0
}

/// A file of one zeroed page that several machines can [`Memory::graft`].
///
/// # Errors
/// What the host says.
pub fn shared_page() -> std::io::Result<File> {
    let file = memory_file()?;
    file.set_len(PAGE_SIZE)?;
    seal(&file)?;
    Ok(file)
}

fn memory_file() -> std::io::Result<File> {
    // SAFETY: the name is a NUL-terminated literal; the call makes a new descriptor and touches nothing else.
    let descriptor =
        unsafe { libc::memfd_create(c"lguest-memory".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
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
#[path = "memory_tests.rs"]
mod tests;
