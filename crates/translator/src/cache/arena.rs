//! Memory for generated code: one piece, mapped twice. Code is written through one view and run through the other, so
//! no address is ever writable and executable.
//!
//! The piece is shared anonymous memory and its second view a copy of the first (mremap(2), "old_size is zero"): to `perf`
//! that is code that no file holds, whose names it looks for in a map (`lguest run --perf-map`). A host that
//! refuses the copy gets a memory file instead, and no names.

#![allow(unsafe_code)] // Mappings, and copies into them.

use crate::SetupError;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Bytes of generated code at most. A Debian boot takes a fifth, a compiler all of it; a Guest that needs more makes the
/// cache start over. Only touched pages cost memory.
pub const SIZE: usize = 64 << 20;

/// Bytes of a large page of the host's.
const LARGE_PAGE: usize = 2 << 20;

/// The two views and how much is used.
pub struct Arena {
    writable: *mut u8,
    executable: *const u8,
    used: usize,
    /// Bytes from the start that were offered to the host as large pages; all of them once it refused.
    gathered: usize,
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
        Ok(Arena { writable, executable, used: 0, gathered: 0 })
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
        if self.used - self.used % LARGE_PAGE > self.gathered {
            self.gather();
        }
        Some(offset)
    }

    /// Asks the host to put what is full into large pages: a compiler's code fills the whole arena, which is eight times what
    /// the processor's TLB holds in small pages. Nothing is gathered before it is full, so it takes no memory.
    fn gather(&mut self) {
        let full = self.used - self.used % LARGE_PAGE;
        let length = full - self.gathered;
        for view in [self.writable, self.executable.cast_mut()] {
            let start = view.wrapping_add(self.gathered).cast();
            // SAFETY: a range of a mapping of ours, whose bytes stay as they are.
            if unsafe { libc::madvise(start, length, libc::MADV_COLLAPSE) } != 0 {
                // A host without large pages (or one that is out of them) is not asked again.
                self.gathered = SIZE;
                return;
            }
        }
        self.gathered = full;
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

/// Address space for a view, where large pages can lie.
fn reserve() -> Option<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let length = SIZE + LARGE_PAGE;
    // SAFETY: a fresh mapping that nobody may touch, where the kernel likes.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return None;
    }
    let before = (start as usize).next_multiple_of(LARGE_PAGE) - start as usize;
    let view = start.cast::<u8>().wrapping_add(before);
    // SAFETY: a part of the mapping just made, before what is used of it.
    unsafe { libc::munmap(start, before) };
    // SAFETY: the part behind it.
    unsafe { libc::munmap(view.wrapping_add(SIZE).cast(), LARGE_PAGE - before) };
    Some(view)
}

fn give_back(view: *mut u8) {
    // SAFETY: made by `reserve`, or mapped in its place; nobody knows it.
    unsafe { libc::munmap(view.cast(), SIZE) };
}

/// Two views of shared anonymous memory, the second of which can be executed.
fn anonymous() -> Option<(*mut u8, *mut u8)> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let writable = reserve()?;
    let Some(executable) = reserve() else {
        give_back(writable);
        return None;
    };
    // SAFETY: takes the place of a reservation of ours.
    let made = unsafe { libc::mmap(writable.cast(), SIZE, protection, flags, -1, 0) };
    let moved = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let copied = made != libc::MAP_FAILED
        // SAFETY: an old size of zero makes another mapping of the same pages, in the place of a reservation of ours, and
        // leaves the first alone.
        && unsafe { libc::mremap(made, 0, SIZE, moved, executable) } != libc::MAP_FAILED;
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: the mapping just made, which nobody uses yet; it stops being writable.
    if copied && unsafe { libc::mprotect(executable.cast(), SIZE, protection) } == 0 {
        return Some((writable, executable));
    }
    give_back(writable);
    give_back(executable);
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
    let view = reserve().ok_or_else(|| SetupError::host("cannot map memory for code"))?;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    // SAFETY: takes the place of the reservation just made.
    let address = unsafe { libc::mmap(view.cast(), SIZE, protection, flags, file.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED {
        return Err(SetupError::host("cannot map memory for code"));
    }
    Ok(view)
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
            let mut arena = Arena { writable, executable, used: 0, gathered: 0 };
            // mov eax, 42 ; ret
            let offset = arena.append(&[0xb8, 42, 0, 0, 0, 0xc3]).unwrap();
            let entry = arena.address(offset);
            // SAFETY: a function of this type was just written there.
            let entry: extern "C" fn() -> u32 = unsafe { std::mem::transmute(entry) };
            assert_eq!(entry(), 42);
        }
    }
}
