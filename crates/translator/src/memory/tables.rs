//! The addend tables: from a page of Guest-virtual space to "host address minus Guest address", or 0.
//!
//! A *half* is the table of half the address space: 2^35 entries, 256 GiB of address space in one sparse memory file,
//! of which only touched pages exist. A *view* is what gs points at: two halves side by side.
//! ```text
//!                        low addresses            high addresses
//!   user, space n      | space n's half         | nothing               |
//!   kernel             | supervisor's low half  | supervisor's high half|
//!   kernel, AC set     | space n's half         | supervisor's high half|
//! ```
//! The kernel's half is one and the same memory in every view, so the kernel stays translated when it switches
//! address spaces, and SMAP costs nothing: `stac` and `clac` choose between two views.
//!
//! This is the isolation argument. Generated code reaches Guest memory only through an entry, an entry only ever
//! names a page of the Guest's own memory file, and an access cannot leave the page it was looked up for.

#![allow(unsafe_code)] // Mappings, and entries in them.

use crate::SetupError;
use crate::frame::SPACES;
use rustc_hash::{FxHashMap, FxHashSet};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Entries in a half.
const ENTRIES: u64 = 1 << 35;
/// Bytes of a half.
const HALF: usize = 8 << 35;
/// Pages of table a Guest may touch in one half before the half is emptied: 32 MiB, enough for 16 GiB of Guest-virtual
/// space in use at once. Without a limit a Guest could make the Launcher grow by reading addresses all over.
const TOUCHED_LIMIT: usize = 8192;
/// Writable entries remembered for one page of memory before stale ones are weeded out.
const WRITERS_LIMIT: usize = 32;

/// Which half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// High addresses, supervisor.
    High,
    /// Low addresses as the supervisor sees them without AC.
    SupervisorLow,
    /// Low addresses of an address space's user pages.
    User(usize),
}

impl Half {
    fn number(self) -> usize {
        match self {
            Half::High => 0,
            Half::SupervisorLow => 1,
            Half::User(space) => 2 + space,
        }
    }
}

/// Which view gs points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// CPL 3.
    User(usize),
    /// CPL 0.
    Kernel,
    /// CPL 0 with access to user pages.
    KernelAndUser(usize),
}

/// What an entry was made from.
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    /// Guest-virtual address.
    pub address: u64,
    /// Host address of that page's first byte.
    pub host: u64,
    /// Page of the memory file, when the entry lets the Guest write it.
    pub writable: Option<u32>,
    /// Survives address-space switches.
    pub global: bool,
    /// log2 of the Guest's page size.
    pub page_bits: u8,
}

#[derive(Default)]
struct Book {
    /// Filled entries, oldest first; some may have been cleared since.
    filled: Vec<u64>,
    /// Those among them that an address-space switch ends (only kept for [`Half::High`]).
    passing: Vec<u64>,
    touched: FxHashSet<u32>,
    /// 2 MiB frames with entries from 2 MiB pages.
    large: FxHashSet<u32>,
    /// 1 GiB frames with entries from 1 GiB pages.
    huge: FxHashSet<u32>,
}

/// All tables of one vCPU.
pub struct Tables {
    file: OwnedFd,
    halves: Vec<*mut u64>,
    books: Vec<Book>,
    views: Vec<*mut u8>,
    writers: FxHashMap<u32, Vec<(u8, u64)>>,
    /// Entries filled since the start.
    pub fills: u64,
}

// SAFETY: the mappings are owned; they move between threads with their vCPU.
unsafe impl Send for Tables {}

const fn page_number(address: u64) -> u64 {
    address >> 12 & (ENTRIES - 1)
}

impl Tables {
    /// Empty tables.
    pub fn new() -> Result<Tables, SetupError> {
        // SAFETY: the name is a constant C string; the result is checked.
        let fd = unsafe { libc::memfd_create(c"lguest-tables".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(SetupError::host("cannot make a memory file for address tables"));
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        let halves = 2 + SPACES;
        // SAFETY: a valid descriptor; only its size changes.
        if unsafe { libc::ftruncate(file.as_raw_fd(), (halves * HALF) as i64) } != 0 {
            return Err(SetupError::host("cannot size the memory file for address tables"));
        }
        let mut tables = Tables {
            file,
            halves: Vec::new(),
            books: (0..halves).map(|_| Book::default()).collect(),
            views: Vec::new(),
            writers: FxHashMap::default(),
            fills: 0,
        };
        tables.views.push(tables.map_view(Half::SupervisorLow, Some(Half::High))?);
        for space in 0..SPACES {
            tables.views.push(tables.map_view(Half::User(space), None)?);
            tables.views.push(tables.map_view(Half::User(space), Some(Half::High))?);
        }
        // The first view that shows a half is where Rust writes it.
        let kernel = tables.views[0];
        tables.halves = vec![kernel.wrapping_add(HALF).cast(), kernel.cast()];
        for space in 0..SPACES {
            tables.halves.push(tables.views[1 + 2 * space].cast());
        }
        Ok(tables)
    }

    fn map_view(&self, low: Half, high: Option<Half>) -> Result<*mut u8, SetupError> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh private mapping where the kernel likes; it reads as zeros, "no entry".
        let start = unsafe { libc::mmap(std::ptr::null_mut(), 2 * HALF, libc::PROT_READ, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(SetupError::host("cannot reserve address space for tables"));
        }
        self.place(start.cast(), low)?;
        if let Some(high) = high {
            self.place(start.cast::<u8>().wrapping_add(HALF), high)?;
        }
        Ok(start.cast())
    }

    fn place(&self, at: *mut u8, half: Half) -> Result<(), SetupError> {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let offset = (half.number() * HALF) as i64;
        // SAFETY: replaces a part of the reservation that `map_view` just made and nobody uses yet.
        let done = unsafe { libc::mmap(at.cast(), HALF, protection, flags, self.file.as_raw_fd(), offset) };
        if done == libc::MAP_FAILED {
            return Err(SetupError::host("cannot map an address table"));
        }
        Ok(())
    }

    /// What gs must hold for a view.
    pub fn base(&self, view: View) -> u64 {
        let number = match view {
            View::Kernel => 0,
            View::User(space) => 1 + 2 * space,
            View::KernelAndUser(space) => 2 + 2 * space,
        };
        self.views[number] as u64
    }

    fn entry(&self, half: usize, number: u64) -> *mut u64 {
        assert!(number < ENTRIES);
        self.halves[half].wrapping_add(number as usize)
    }

    fn set(&self, half: usize, number: u64, value: u64) {
        // SAFETY: `entry` checked the number; only this vCPU's thread touches its tables.
        unsafe { self.entry(half, number).write(value) };
    }

    fn get(&self, half: usize, number: u64) -> u64 {
        // SAFETY: as above.
        unsafe { self.entry(half, number).read() }
    }

    /// Makes an entry.
    pub fn fill(&mut self, half: Half, fill: Fill) {
        let number = page_number(fill.address);
        let n = half.number();
        if self.books[n].touched.len() >= TOUCHED_LIMIT {
            self.discard(half);
        }
        let book = &mut self.books[n];
        book.touched.insert((number >> 9) as u32);
        book.filled.push(number);
        match fill.page_bits {
            12 => {}
            21 => _ = book.large.insert((number >> 9) as u32),
            _ => _ = book.huge.insert((number >> 18) as u32),
        }
        if half == Half::High && !fill.global {
            book.passing.push(number);
        }
        if let Some(page) = fill.writable {
            self.note_writer(page, n as u8, number);
        }
        self.fills += 1;
        self.set(n, number, fill.host.wrapping_sub(fill.address & !0xfff));
    }

    /// Says that the Guest looked an address up in vain, so that looking cannot touch tables without bound.
    pub fn missed(&mut self, half: Half, address: u64) {
        let book = &mut self.books[half.number()];
        book.touched.insert((page_number(address) >> 9) as u32);
        if book.touched.len() >= TOUCHED_LIMIT {
            self.discard(half);
        }
    }

    fn note_writer(&mut self, page: u32, half: u8, number: u64) {
        let list = self.writers.entry(page).or_default();
        if list.last() != Some(&(half, number)) {
            list.push((half, number));
        }
        if list.len() > WRITERS_LIMIT {
            let mut list = std::mem::take(list);
            list.sort_unstable();
            list.dedup();
            list.retain(|&(h, n)| self.get(h.into(), n) != 0);
            self.writers.insert(page, list);
        }
    }

    /// Takes away every entry that lets the Guest write a page of the memory file.
    pub fn forbid_writes(&mut self, page: u32) {
        for (half, number) in self.writers.remove(&page).unwrap_or_default() {
            // The entry may show another page by now; clearing it costs one look at the page tables.
            self.set(half.into(), number, 0);
        }
    }

    /// Ends one page's entries, as `invlpg` does.
    pub fn invalidate(&mut self, half: Half, address: u64) {
        let n = half.number();
        let number = page_number(address);
        let frame = (number >> 9) as u32;
        if self.books[n].huge.remove(&((number >> 18) as u32)) {
            let filled = std::mem::take(&mut self.books[n].filled);
            for &other in filled.iter().filter(|&&f| f >> 18 == number >> 18) {
                self.set(n, other, 0);
            }
            self.books[n].filled = filled;
        }
        if self.books[n].large.remove(&frame) {
            for other in u64::from(frame) << 9..u64::from(frame + 1) << 9 {
                self.set(n, other, 0);
            }
        } else if self.books[n].touched.contains(&frame) {
            self.set(n, number, 0);
        }
    }

    /// Ends all entries of a half.
    pub fn flush(&mut self, half: Half) {
        let n = half.number();
        let mut filled = std::mem::take(&mut self.books[n].filled);
        for &number in &filled {
            self.set(n, number, 0);
        }
        filled.clear();
        let book = &mut self.books[n];
        book.filled = filled;
        book.passing.clear();
        book.large.clear();
        book.huge.clear();
    }

    /// Ends the entries of high addresses that are not global.
    pub fn flush_passing(&mut self) {
        let mut passing = std::mem::take(&mut self.books[0].passing);
        for &number in &passing {
            self.set(0, number, 0);
        }
        passing.clear();
        self.books[0].passing = passing;
    }

    /// Ends all entries of a half and gives its memory back.
    fn discard(&mut self, half: Half) {
        self.flush(half);
        let n = half.number();
        self.books[n].touched.clear();
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a valid descriptor; the range is the half's own, and zeros mean "no entry".
        unsafe { libc::fallocate(self.file.as_raw_fd(), mode, (n * HALF) as i64, HALF as i64) };
    }

    /// Memory that the tables of all halves take, in bytes.
    pub fn resident(&self) -> u64 {
        self.books.iter().map(|b| b.touched.len() as u64 * 4096).sum()
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        for &view in &self.views {
            // SAFETY: made by `map_view`; its vCPU is gone.
            unsafe { libc::munmap(view.cast(), 2 * HALF) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(address: u64, page_bits: u8, global: bool) -> Fill {
        Fill { address, host: 0x7000_0000, writable: Some(7), global, page_bits }
    }

    fn look(tables: &Tables, view: View, address: u64) -> u64 {
        let base = tables.base(view) as *const u64;
        // SAFETY: inside the view, which is always readable.
        unsafe { base.wrapping_add((address >> 12 & 0xf_ffff_ffff) as usize).read() }
    }

    const KERNEL: u64 = 0xffff_8880_0123_4000;

    #[test]
    fn the_kernels_half_shows_in_every_kernel_view_and_in_no_user_view() {
        let mut tables = Tables::new().unwrap();
        tables.fill(Half::High, fill(KERNEL, 12, true));
        for view in [View::Kernel, View::KernelAndUser(3)] {
            assert_eq!(look(&tables, view, KERNEL).wrapping_add(KERNEL), 0x7000_0000);
        }
        assert_eq!(look(&tables, View::User(3), KERNEL), 0);
    }

    #[test]
    fn user_pages_do_not_show_in_the_kernels_view_without_ac() {
        let mut tables = Tables::new().unwrap();
        tables.fill(Half::User(1), fill(0x40_0000, 12, false));
        assert_ne!(look(&tables, View::KernelAndUser(1), 0x40_0000), 0);
        assert_eq!(look(&tables, View::Kernel, 0x40_0000), 0);
        assert_eq!(look(&tables, View::User(0), 0x40_0000), 0);
    }

    #[test]
    fn invalidating_an_address_in_a_large_page_ends_all_of_that_page() {
        let mut tables = Tables::new().unwrap();
        tables.fill(Half::High, fill(KERNEL, 21, true));
        tables.invalidate(Half::High, KERNEL ^ 0x1000);
        assert_eq!(look(&tables, View::Kernel, KERNEL), 0);
        tables.fill(Half::High, fill(KERNEL, 30, true));
        tables.invalidate(Half::High, KERNEL ^ 0x100_0000);
        assert_eq!(look(&tables, View::Kernel, KERNEL), 0);
    }

    #[test]
    fn global_entries_outlive_an_address_space_switch() {
        let mut tables = Tables::new().unwrap();
        tables.fill(Half::High, fill(KERNEL, 12, true));
        tables.fill(Half::High, fill(KERNEL + 0x1000, 12, false));
        tables.flush_passing();
        assert_ne!(look(&tables, View::Kernel, KERNEL), 0);
        assert_eq!(look(&tables, View::Kernel, KERNEL + 0x1000), 0);
    }

    #[test]
    fn a_page_that_becomes_code_loses_its_writable_entries() {
        let mut tables = Tables::new().unwrap();
        tables.fill(Half::High, fill(KERNEL, 12, true));
        tables.fill(Half::User(0), fill(0x1000, 12, false));
        tables.forbid_writes(7);
        assert_eq!(look(&tables, View::Kernel, KERNEL), 0);
        assert_eq!(look(&tables, View::User(0), 0x1000), 0);
    }

    #[test]
    fn looking_everywhere_does_not_grow_the_tables_past_their_limit() {
        let mut tables = Tables::new().unwrap();
        for n in 0..3 * TOUCHED_LIMIT as u64 {
            tables.missed(Half::User(0), n << 21);
        }
        assert!(tables.resident() <= TOUCHED_LIMIT as u64 * 4096);
    }
}
