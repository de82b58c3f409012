//! Guest-physical RAM: one memory file, mapped twice (writable, and read-only for pages whose writes must be seen).

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

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
    code: Vec<AtomicU64>,
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
        let words = (length / PAGE_SIZE).div_ceil(64) as usize;
        let code = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(Ram { writable, readable, length, regions, code })
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

    /// Copies out; false when any byte is not RAM.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        match self.offset(address) {
            Some((offset, room)) if bytes.len() as u64 <= room => {
                // SAFETY: `offset` found the whole range inside the mapping; the Guest may race, bytes have no validity.
                unsafe {
                    std::ptr::copy_nonoverlapping(self.readable(offset), bytes.as_mut_ptr(), bytes.len())
                };
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

    /// Copies in; false when any byte is not RAM. Does not tell translated code: see [`Self::has_code`].
    pub fn write(&self, address: u64, bytes: &[u8]) -> bool {
        match self.offset(address) {
            Some((offset, room)) if bytes.len() as u64 <= room => {
                // SAFETY: as in `read`, and the range belongs to the Guest.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.writable(offset), bytes.len()) };
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
        let page = (offset / PAGE_SIZE) as usize;
        self.code[page / 64].load(Ordering::Relaxed) & 1 << (page % 64) != 0
    }

    /// Says whether translated code was made from that page.
    pub(crate) fn set_has_code(&self, offset: u64, yes: bool) {
        let page = (offset / PAGE_SIZE) as usize;
        let bit = 1 << (page % 64);
        if yes {
            self.code[page / 64].fetch_or(bit, Ordering::Relaxed);
        } else {
            self.code[page / 64].fetch_and(!bit, Ordering::Relaxed);
        }
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
