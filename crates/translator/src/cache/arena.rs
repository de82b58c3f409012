//! Memory for generated code: one piece, mapped twice. Code is written through one view and run through the other, so
//! no address is ever writable and executable.
//!
//! The piece is shared anonymous memory and its second view a copy of the first (mremap(2), "old_size is zero"): to `perf`
//! that is code that no file holds, whose names it looks for in a map (`lguest run --perf-map`). A host that
//! refuses the copy gets a memory file instead, and no names.

#![allow(unsafe_code)] // Mappings, and copies into them.

use crate::SetupError;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Bytes of generated code at most. A Debian kernel's boot takes about a third; a Guest that needs more makes the
/// cache start over. Only touched pages cost memory.
pub const SIZE: usize = 64 << 20;

/// The two views and how much is used.
pub struct Arena {
    writable: *mut u8,
    executable: *const u8,
    used: usize,
}

// SAFETY: the mappings are owned; they move between threads with their vCPU.
unsafe impl Send for Arena {}

impl Arena {
    /// An empty arena.
    pub fn new() -> Result<Arena, SetupError> {
        let (writable, executable) = match anonymous() {
            Some(views) => views,
            None => in_a_file()?,
        };
        Ok(Arena { writable, executable, used: 0 })
    }

    /// Host address where byte `offset` runs.
    pub fn address(&self, offset: usize) -> u64 {
        self.executable as u64 + offset as u64
    }

    /// Offset of a host address in the executable view.
    pub fn offset(&self, address: u64) -> Option<usize> {
        let offset = address.checked_sub(self.executable as u64)? as usize;
        (offset < SIZE).then_some(offset)
    }

    /// Bytes used so far.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Forgets everything past `used`.
    pub fn reset(&mut self, used: usize) {
        self.used = used;
    }

    /// Appends code, aligned for the decoder; `None` when it does not fit.
    pub fn append(&mut self, code: &[u8]) -> Option<usize> {
        let offset = self.used;
        if offset + code.len() + 16 > SIZE {
            return None;
        }
        self.write(offset, code);
        self.used = (offset + code.len()).next_multiple_of(16);
        Some(offset)
    }

    /// Writes over code that is there.
    pub fn write(&mut self, offset: usize, code: &[u8]) {
        assert!(offset + code.len() <= SIZE);
        // SAFETY: the range was just checked to lie in the mapping, which no reference points into.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.wrapping_add(offset), code.len())
        };
    }

    /// Reads a little-endian word.
    pub fn read_u32(&self, offset: usize) -> u32 {
        assert!(offset + 4 <= SIZE);
        // SAFETY: in range, as just checked; alignment is not asked for.
        unsafe { self.writable.wrapping_add(offset).cast::<u32>().read_unaligned() }
    }
}

/// Two views of shared anonymous memory, the second of which can be executed.
fn anonymous() -> Option<(*mut u8, *mut u8)> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: fresh memory where the kernel likes.
    let writable = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, protection, flags, -1, 0) };
    if writable == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: an old size of zero makes another mapping of the same pages and leaves the first alone.
    let copy = unsafe { libc::mremap(writable, 0, SIZE, libc::MREMAP_MAYMOVE) };
    if copy == libc::MAP_FAILED {
        // SAFETY: made above; nobody knows it yet.
        unsafe { libc::munmap(writable, SIZE) };
        return None;
    }
    // SAFETY: the mapping just made, which nobody uses yet; it stops being writable.
    if unsafe { libc::mprotect(copy, SIZE, libc::PROT_READ | libc::PROT_EXEC) } == 0 {
        return Some((writable.cast(), copy.cast()));
    }
    for view in [writable, copy] {
        // SAFETY: made above; nobody knows it yet.
        unsafe { libc::munmap(view, SIZE) };
    }
    None
}

/// Two views of a memory file.
fn in_a_file() -> Result<(*mut u8, *mut u8), SetupError> {
    // SAFETY: the name is a constant C string; the result is checked.
    let fd = unsafe { libc::memfd_create(c"lguest-code".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(SetupError::host("cannot make a memory file for code"));
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a valid descriptor; only its size changes.
    if unsafe { libc::ftruncate(file.as_raw_fd(), SIZE as i64) } != 0 {
        return Err(SetupError::host("cannot size the memory file for code"));
    }
    Ok((map(&file, libc::PROT_READ | libc::PROT_WRITE)?, map(&file, libc::PROT_READ | libc::PROT_EXEC)?))
}

fn map(file: &OwnedFd, protection: i32) -> Result<*mut u8, SetupError> {
    // SAFETY: a fresh shared mapping where the kernel likes.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), SIZE, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED {
        return Err(SetupError::host("cannot map memory for code"));
    }
    Ok(address.cast())
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: made by `new`; its vCPU is gone.
        unsafe { libc::munmap(self.writable.cast(), SIZE) };
        // SAFETY: as above.
        unsafe { libc::munmap(self.executable.cast_mut().cast(), SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_view_writes_the_other_runs_whichever_way_they_are_made() {
        for (writable, executable) in [anonymous(), in_a_file().ok()].into_iter().flatten() {
            let mut arena = Arena { writable, executable, used: 0 };
            // mov eax, 42 ; ret
            let offset = arena.append(&[0xb8, 42, 0, 0, 0, 0xc3]).unwrap();
            let entry = arena.address(offset);
            // SAFETY: a function of this type was just written there.
            let entry: extern "C" fn() -> u32 = unsafe { std::mem::transmute(entry) };
            assert_eq!(entry(), 42);
        }
    }
}
