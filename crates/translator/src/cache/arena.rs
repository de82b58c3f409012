//! Memory for generated code: one piece, mapped twice. Code is written through one view and run through the other, so
//! no address is ever writable and executable.
//!
//! ```text
//!   doors | hot paths of all units ->     free     | their stubs ->     free     |
//!                                                  ^ STUBS
//! ```
//! Stubs, which are asked for once or never, stand apart: a fifth of the code, between the paths of a program that is larger than the
//! processor's caches.
//!
//! The piece is shared anonymous memory and its second view a copy of the first (mremap(2), "old_size is zero"): to `perf`
//! that is code that no file holds, whose names it looks for in a map (`lguest run --perf-map`). A host that
//! refuses the copy gets a memory file instead, and no names.

#![allow(unsafe_code)] // Mappings, and copies into them.

use crate::SetupError;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Bytes of generated code at most. A Debian boot takes an eighth, a compiler half of it; a Guest that needs more makes the
/// cache start over. Only touched pages cost memory.
pub const SIZE: usize = 96 << 20;

/// Where stubs begin.
pub const STUBS: usize = SIZE / 4 * 3;

/// Bytes of a large page of the host's.
const LARGE_PAGE: usize = 2 << 20;

/// The two views and how much is used.
pub struct Arena {
    writable: *mut u8,
    executable: *const u8,
    hot: Part,
    stubs: Part,
}

/// One of the two parts.
struct Part {
    /// Where it begins.
    start: usize,
    /// The first byte that is free.
    free: usize,
    /// Where it ends.
    end: usize,
    /// What lies before was offered to the host as large pages.
    gathered: usize,
}

impl Part {
    fn new(start: usize, end: usize) -> Part {
        Part { start, free: start, end, gathered: start }
    }

    /// Whether so many bytes fit, with room for a reader's last word and the next one's alignment.
    fn fits(&self, length: usize) -> bool {
        self.free + length + 16 <= self.end
    }
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
        Ok(Arena::of(writable, executable))
    }

    fn of(writable: *mut u8, executable: *const u8) -> Arena {
        Arena { writable, executable, hot: Part::new(0, STUBS), stubs: Part::new(STUBS, SIZE) }
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

    /// Bytes used so far, of hot paths and of stubs.
    pub fn bytes(&self) -> usize {
        self.hot.free + (self.stubs.free - self.stubs.start)
    }

    /// Where the next hot path will stand.
    pub fn used(&self) -> usize {
        self.hot.free
    }

    /// Where the next stubs will stand.
    pub fn stubs(&self) -> usize {
        self.stubs.free
    }

    /// Forgets hot paths past `used` and all stubs.
    pub fn reset(&mut self, used: usize) {
        self.hot.free = used;
        self.stubs.free = self.stubs.start;
    }

    /// Appends code to the hot paths, aligned for the decoder; `None` when it does not fit.
    pub fn append(&mut self, code: &[u8]) -> Option<usize> {
        self.append_unit(code, &[]).map(|(hot, _)| hot)
    }

    /// Appends a unit's hot path and its stubs; `None` when one of the two does not fit.
    pub fn append_unit(&mut self, hot: &[u8], stubs: &[u8]) -> Option<(usize, usize)> {
        if !self.hot.fits(hot.len()) || !self.stubs.fits(stubs.len()) {
            return None;
        }
        let places = (self.hot.free, self.stubs.free);
        self.write(places.0, hot);
        self.write(places.1, stubs);
        self.hot.free = (places.0 + hot.len()).next_multiple_of(16);
        self.stubs.free = places.1 + stubs.len();
        let full = self.hot.free - self.hot.free % LARGE_PAGE;
        if full > self.hot.gathered {
            self.gather(full);
        }
        Some(places)
    }

    /// Asks the host to put hot paths that fill a large page into one: a compiler's code is many times what
    /// the processor's TLB holds in small pages. Nothing is gathered before it is full, so it takes no memory.
    fn gather(&mut self, full: usize) {
        let length = full - self.hot.gathered;
        for view in [self.writable, self.executable.cast_mut()] {
            let start = view.wrapping_add(self.hot.gathered).cast();
            // SAFETY: a range of a mapping of ours, whose bytes stay as they are.
            if unsafe { libc::madvise(start, length, libc::MADV_COLLAPSE) } != 0 {
                // A host without large pages (or one that is out of them) is not asked again.
                self.hot.gathered = self.hot.end;
                return;
            }
        }
        self.hot.gathered = full;
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
            let mut arena = Arena::of(writable, executable);
            // mov eax, 42 ; ret
            let offset = arena.append(&[0xb8, 42, 0, 0, 0, 0xc3]).unwrap();
            let entry = arena.address(offset);
            // SAFETY: a function of this type was just written there.
            let entry: extern "C" fn() -> u32 = unsafe { std::mem::transmute(entry) };
            assert_eq!(entry(), 42);
        }
    }
}
