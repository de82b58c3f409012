//! Guest-physical RAM: one memory file, mapped twice (writable, and read-only for pages whose writes must be seen).

use crate::memory::sharing::Sharing;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// A stretch of guest-physical addresses and the place of its bytes in the memory file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamRegion {
    /// First guest-physical address, page-aligned.
    pub start: u64,
    /// Length in bytes, a multiple of the page size.
    pub length: u64,
    /// Where the bytes begin in the memory file.
    pub offset: u64,
}

/// Why RAM could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The host refused a mapping.
    #[error("cannot map {length} bytes of Guest memory: {source}")]
    Map {
        /// How many.
        length: u64,
        /// Its answer.
        source: std::io::Error,
    },
}

/// The Guest's RAM. Everything is copied in and out; no Rust reference to Guest memory ever exists.
pub struct Ram {
    writable: *mut u8,
    readable: *const u8,
    length: u64,
    regions: Vec<RamRegion>,
    sharing: Arc<Sharing>,
}

// SAFETY: the pointers name shared memory mappings that live as long as the Ram; all access is by copy or atomic.
#[allow(unsafe_code)]
unsafe impl Send for Ram {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Ram {}

#[allow(unsafe_code)]
impl Ram {
    /// Maps `file`, whose first `length` bytes hold `regions`. The file stays open elsewhere; only mappings are kept.
    pub fn new(file: &File, length: u64, regions: Vec<RamRegion>) -> Result<Ram, RamError> {
        Ram::shared(file, length, regions, Arc::new(Sharing::new(length.div_ceil(PAGE_SIZE))))
    }

    /// The same, with the books of who made code from what kept in `sharing`, so that others who write the file can ask.
    ///
    /// # Errors
    /// When the host refuses a mapping.
    pub fn shared(
        file: &File,
        length: u64,
        regions: Vec<RamRegion>,
        sharing: Arc<Sharing>,
    ) -> Result<Ram, RamError> {
        use std::os::fd::AsRawFd;
        let map = |protection| {
            // SAFETY: a fresh shared mapping at an address the kernel picks; nothing else is touched.
            let address = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    length as usize,
                    protection,
                    libc::MAP_SHARED | libc::MAP_NORESERVE,
                    file.as_raw_fd(),
                    0,
                )
            };
            if address == libc::MAP_FAILED {
                return Err(RamError::Map { length, source: std::io::Error::last_os_error() });
            }
            Ok(address.cast::<u8>())
        };
        let writable = map(libc::PROT_READ | libc::PROT_WRITE)?;
        let readable = map(libc::PROT_READ)?;
        Ok(Ram { writable, readable, length, regions, sharing })
    }

    /// Maps the first page of another file in place of the page at the memory file's byte `offset`, in both views:
    /// memory that several machines share. The file must have that page as long as the mapping lives.
    ///
    /// # Errors
    /// When the host refuses.
    ///
    /// # Panics
    /// When `offset` is no page of this memory: the caller is wrong, not the Guest.
    pub fn graft(&mut self, offset: u64, file: &File) -> Result<(), RamError> {
        use std::os::fd::AsRawFd;
        assert!(offset.is_multiple_of(PAGE_SIZE));
        let views = [
            (self.writable(offset).cast_const(), libc::PROT_READ | libc::PROT_WRITE),
            (self.readable(offset), libc::PROT_READ),
        ];
        for (address, protection) in views {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            let place = address.cast_mut().cast();
            // SAFETY: replaces one page of a mapping of our own, which `&mut self` says nobody reaches now.
            let done =
                unsafe { libc::mmap(place, PAGE_SIZE as usize, protection, flags, file.as_raw_fd(), 0) };
            if done == libc::MAP_FAILED {
                return Err(RamError::Map { length: PAGE_SIZE, source: std::io::Error::last_os_error() });
            }
        }
        Ok(())
    }

    /// Place in the memory file of a guest-physical address, with the bytes that follow it in its region.
    pub fn offset(&self, address: u64) -> Option<(u64, u64)> {
        self.regions.iter().find_map(|r| {
            let within = address.checked_sub(r.start)?;
            (within < r.length).then(|| (r.offset + within, r.length - within))
        })
    }

    /// Host address of the writable view of the memory file's byte `offset`.
    pub(crate) fn writable(&self, offset: u64) -> *mut u8 {
        assert!(offset < self.length);
        self.writable.wrapping_add(offset as usize)
    }

    /// Host address of the read-only view of the memory file's byte `offset`.
    pub(crate) fn readable(&self, offset: u64) -> *const u8 {
        assert!(offset < self.length);
        self.readable.wrapping_add(offset as usize)
    }

    /// Pages of the memory file.
    pub(crate) fn pages(&self) -> u32 {
        (self.length / PAGE_SIZE) as u32
    }

    /// Who may write a page and who made code from it, for all vCPUs.
    pub fn sharing(&self) -> &Arc<Sharing> {
        &self.sharing
    }

    /// Copies out; false when any byte is not RAM. One, two, four or eight aligned bytes are read in one piece.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        match self.offset(address) {
            Some((offset, room)) if bytes.len() as u64 <= room => {
                // SAFETY: `offset` found the whole range inside the mapping; the Guest may race, bytes have no validity.
                unsafe { copy_out(self.readable(offset), bytes) };
                true
            }
            _ => false,
        }
    }

    /// Copies bytes out of the memory file; the range must lie in it.
    pub(crate) fn read_file(&self, offset: u64, bytes: &mut [u8]) {
        assert!(offset + bytes.len() as u64 <= self.length);
        // SAFETY: in range, as just checked.
        unsafe { std::ptr::copy_nonoverlapping(self.readable(offset), bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Copies in; false when any byte is not RAM. Comes back when no vCPU runs code made from the old bytes. For whoever is
    /// no running vCPU.
    pub fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let done = self.write_in_run(address, bytes);
        if let Some((offset, _)) = self.offset(address).filter(|_| done) {
            self.sharing.wrote(offset, bytes.len() as u64);
        }
        done
    }

    /// Copies in, for a running vCPU, which tells the others itself. One, two, four or eight aligned bytes are written in
    /// one piece.
    pub(crate) fn write_in_run(&self, address: u64, bytes: &[u8]) -> bool {
        match self.offset(address) {
            Some((offset, room)) if bytes.len() as u64 <= room => {
                // SAFETY: as in `read`, and the range belongs to the Guest.
                unsafe { copy_in(self.writable(offset), bytes) };
                true
            }
            _ => false,
        }
    }

    /// Reads a naturally aligned little-endian word in one piece; None when it is not RAM or not aligned.
    pub fn read_u64(&self, address: u64) -> Option<u64> {
        let (offset, room) = self.offset(address)?;
        if room < 8 || offset % 8 != 0 {
            return None;
        }
        // SAFETY: in range and aligned as just checked; atomic because other vCPUs may write it.
        Some(unsafe { AtomicU64::from_ptr(self.writable(offset).cast()) }.load(Ordering::Relaxed))
    }

    /// Sets bits in an aligned word in one piece, as a page walk sets accessed and dirty. False as for `read_u64`.
    pub fn set_bits(&self, address: u64, bits: u64) -> bool {
        match self.offset(address) {
            Some((offset, room)) if room >= 8 && offset % 8 == 0 => {
                // SAFETY: in range and aligned as just checked.
                let word = unsafe { AtomicU64::from_ptr(self.writable(offset).cast()) };
                word.fetch_or(bits, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }

    /// Puts `new` in an aligned word if it still is `old`, in one piece. False when it is not, or not RAM or not aligned.
    pub fn replace_u64(&self, address: u64, old: u64, new: u64) -> bool {
        match self.offset(address) {
            Some((offset, room)) if room >= 8 && offset % 8 == 0 => {
                // SAFETY: in range and aligned as just checked.
                let word = unsafe { AtomicU64::from_ptr(self.writable(offset).cast()) };
                word.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            }
            _ => false,
        }
    }

    /// True when translated code was made from the page that holds the memory file's byte `offset`.
    pub fn has_code(&self, offset: u64) -> bool {
        self.sharing.has_code((offset / PAGE_SIZE) as u32)
    }
}

/// Copies out of Guest memory. What a processor reads in one piece is read in one piece (SDM vol. 3, 9.1.1).
///
/// # Safety
/// `from` must be valid for `bytes.len()` bytes.
#[allow(unsafe_code)]
unsafe fn copy_out(from: *const u8, bytes: &mut [u8]) {
    let from = from.cast_mut();
    macro_rules! whole {
        ($atomic:ty) => {{
            // SAFETY: valid, as the caller says, and aligned, as the match below says; only read.
            let value = unsafe { <$atomic>::from_ptr(from.cast()) }.load(Ordering::Relaxed);
            bytes.copy_from_slice(&value.to_le_bytes());
        }};
    }
    match bytes.len() {
        1 => whole!(AtomicU8),
        2 if (from as usize).is_multiple_of(2) => whole!(AtomicU16),
        4 if (from as usize).is_multiple_of(4) => whole!(AtomicU32),
        8 if (from as usize).is_multiple_of(8) => whole!(AtomicU64),
        // SAFETY: valid, as the caller says.
        length => unsafe { std::ptr::copy_nonoverlapping(from.cast_const(), bytes.as_mut_ptr(), length) },
    }
}

/// Copies into Guest memory, in one piece as [`copy_out`] does. `memcpy` may write a byte twice, and between the two
/// another vCPU may have written it.
///
/// # Safety
/// `to` must be valid for `bytes.len()` bytes.
#[allow(unsafe_code)]
unsafe fn copy_in(to: *mut u8, bytes: &[u8]) {
    macro_rules! whole {
        ($atomic:ty, $number:ty) => {{
            let mut word = [0; size_of::<$number>()];
            word.copy_from_slice(bytes);
            // SAFETY: valid, as the caller says, and aligned, as the match below says.
            unsafe { <$atomic>::from_ptr(to.cast()) }
                .store(<$number>::from_le_bytes(word), Ordering::Relaxed);
        }};
    }
    match bytes.len() {
        1 => whole!(AtomicU8, u8),
        2 if (to as usize).is_multiple_of(2) => whole!(AtomicU16, u16),
        4 if (to as usize).is_multiple_of(4) => whole!(AtomicU32, u32),
        8 if (to as usize).is_multiple_of(8) => whole!(AtomicU64, u64),
        // SAFETY: valid, as the caller says.
        length => unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, length) },
    }
}

#[allow(unsafe_code)]
impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and nobody can hold a pointer into it any more.
        unsafe { libc::munmap(self.writable.cast(), self.length as usize) };
        // SAFETY: as above.
        unsafe { libc::munmap(self.readable.cast_mut().cast(), self.length as usize) };
    }
}
