//! The buffer on which single instructions run when their operand is not one piece of the Guest's memory.
//!
//! ```text
//!   page 0   page 1   page 2    page 3    page 4
//!   there    there    nowhere   nowhere   there
//! ```
//! An operand keeps its place within its page, so that alignment faults come out right, and touches a page and perhaps the
//! next. Pages that the Guest cannot reach have a stand-in that the host cannot reach: whether a masked instruction
//! touches them is then the processor's own answer.

#![allow(unsafe_code)] // One mapping, made and freed here.

use crate::SetupError;

const PAGE: usize = 4096;
const PAGES: usize = 5;
/// The pages that do not exist.
const NOWHERE: std::ops::Range<usize> = 2..4;

/// See the module.
pub(crate) struct Bounce {
    start: *mut u8,
    /// Page on which the operand begins.
    page: usize,
}

// SAFETY: the mapping is owned; it moves between threads with its vCPU.
unsafe impl Send for Bounce {}

impl Bounce {
    /// Maps the pages.
    pub(crate) fn new() -> Result<Bounce, SetupError> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh private mapping where the kernel likes.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), PAGES * PAGE, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(SetupError::host("cannot map a buffer for single instructions"));
        }
        let bounce = Bounce { start: start.cast(), page: 0 };
        let hole = bounce.start.wrapping_add(NOWHERE.start * PAGE).cast();
        // SAFETY: two pages of the mapping just made, which nobody has seen.
        if unsafe { libc::mprotect(hole, NOWHERE.len() * PAGE, libc::PROT_NONE) } != 0 {
            return Err(SetupError::host("cannot protect a buffer for single instructions"));
        }
        Ok(bounce)
    }

    /// Chooses where the operand begins: whether its first page is there, and the one after it.
    pub(crate) fn choose(&mut self, first: bool, second: bool) {
        self.page = match (first, second) {
            (true, true) => 0,
            (true, false) => NOWHERE.start - 1,
            (false, false) => NOWHERE.start,
            (false, true) => NOWHERE.end - 1,
        };
    }

    /// Host address of the operand whose Guest address is `address`.
    pub(crate) fn host(&self, address: u64) -> u64 {
        self.start as u64 + (self.page * PAGE) as u64 + address % PAGE as u64
    }

    /// Bytes of the operand at `address`; its pages must be there.
    pub(crate) fn read(&self, address: u64, into: &mut [u8]) {
        self.read_at((address % PAGE as u64) as usize, into);
    }

    /// The same, counted from the start of the operand's first page.
    pub(crate) fn read_at(&self, within: usize, into: &mut [u8]) {
        let from = self.place(within, into.len());
        // SAFETY: `place` checked that these bytes are there; a caller's slice is no part of the mapping.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
    }

    /// Sets bytes of the operand at `address`.
    pub(crate) fn write(&mut self, address: u64, from: &[u8]) {
        self.write_at((address % PAGE as u64) as usize, from);
    }

    /// Sets bytes at a place counted from the start of the operand's first page.
    pub(crate) fn write_at(&mut self, within: usize, from: &[u8]) {
        let to = self.place(within, from.len());
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    }

    fn place(&self, within: usize, length: usize) -> *mut u8 {
        let start = self.page * PAGE + within;
        let hole = NOWHERE.start * PAGE..NOWHERE.end * PAGE;
        let there = start + length <= hole.start || start >= hole.end && start + length <= PAGES * PAGE;
        assert!(there || length == 0, "{length} bytes at {start} of the buffer are not there");
        self.start.wrapping_add(start)
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; its vCPU is gone.
        unsafe { libc::munmap(self.start.cast(), PAGES * PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operand_keeps_its_place_within_its_page_and_its_bytes_over_two_pages() {
        let mut bounce = Bounce::new().unwrap();
        bounce.write(0x1234_5ffc, b"12345678");
        assert_eq!(bounce.host(0x1234_5ffc) % 4096, 0xffc);
        let mut back = [0; 8];
        bounce.read(0x1234_5ffc, &mut back);
        assert_eq!(&back, b"12345678");
    }

    #[test]
    #[should_panic(expected = "are not there")]
    fn a_page_that_is_chosen_away_cannot_be_read() {
        let mut bounce = Bounce::new().unwrap();
        bounce.choose(true, false);
        bounce.read(0xffc, &mut [0; 8]);
    }

    #[test]
    fn what_is_there_can_be_written_beside_what_is_not() {
        let mut bounce = Bounce::new().unwrap();
        bounce.choose(true, false);
        bounce.write(0xffc, b"1234");
        bounce.choose(false, true);
        bounce.write_at(4096, b"5678");
        assert_eq!(bounce.host(0xffc) % 4096, 0xffc);
        bounce.choose(true, false);
        let mut back = [0; 4];
        bounce.read(0xffc, &mut back);
        assert_eq!(&back, b"1234");
    }
}
