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

mod runs;

use crate::SetupError;
use crate::frame::SPACES;
pub use runs::{RUN, RunFill};
use runs::{RunNumber, RunWriters, Runs};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use std::cell::Cell;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Entries in a half.
const ENTRIES: u64 = 1 << 35;
/// Bytes of a half.
const HALF: usize = 8 << 35;
/// Pages of table a Guest may touch in all halves together before the fullest is emptied: 32 MiB, enough for 16 GiB of
/// Guest-virtual space in use at once. Without a limit a Guest could make the Launcher grow by reading addresses all over.
/// A page of table that has none beside it takes a page of the host's page tables too, in each view it is read through.
const TOUCHED_LIMIT: usize = 8192;
/// Pages of the host's page tables that users' reads of high addresses may take in one view, where no entry ever is:
/// 8 MiB.
const VOID_LIMIT: usize = 2048;
/// Entries remembered for the next flush of a half before those that are gone again are weeded out: 8 MiB. A Guest that
/// fills and invalidates one page in turn adds one each time.
const FILLED_LIMIT: usize = 1 << 20;
/// Writable entries remembered for one page of memory before stale ones are weeded out, for the first time.
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
    runs: Runs,
}

/// Entries that were taken away or replaced, counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// In the halves that only the supervisor sees.
    pub of_supervisor: u64,
    /// In users' halves.
    pub of_users: u64,
}

/// Halves that are the supervisor's: the first ones.
const SUPERVISORS: usize = 2;

/// All tables of one vCPU.
pub struct Tables {
    file: OwnedFd,
    halves: Vec<*mut u64>,
    books: Vec<Book>,
    views: Vec<*mut u8>,
    writers: FxHashMap<u32, SmallVec<[(u8, u64); 1]>>,
    run_writers: RunWriters,
    /// What users' reads of high addresses touched, a space each: numbers of pages of the host's page tables.
    void: Vec<FxHashSet<u32>>,
    /// Entries filled since the start.
    pub fills: u64,
    /// Who holds on to what an entry said looks whether this moved.
    pub losses: Cell<Losses>,
}

// SAFETY: the mappings are owned; they move between threads with their vCPU.
unsafe impl Send for Tables {}

/// All halves there are.
const ALL_HALVES: [Half; 2 + SPACES] = {
    let mut halves = [Half::High; 2 + SPACES];
    halves[1] = Half::SupervisorLow;
    let mut space = 0;
    while space < SPACES {
        halves[2 + space] = Half::User(space);
        space += 1;
    }
    halves
};

/// Why a mapping that replaces the like of it is not refused.
const SAME_AGAIN: &str = "a mapping in the place of the same mapping takes nothing more";

/// Address space that reads as zeros, "no entry": `at` a place that is the tables' own (with MAP_FIXED), or anywhere.
fn reserve(at: *mut libc::c_void, length: usize, fixed: i32) -> Result<*mut u8, SetupError> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    // SAFETY: a private mapping where the kernel likes, or in the place of such a one of the tables' own.
    let start = unsafe { libc::mmap(at, length, libc::PROT_READ, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(SetupError::host("cannot reserve address space for tables"));
    }
    Ok(start.cast())
}

const fn page_number(address: u64) -> u64 {
    address >> 12 & (ENTRIES - 1)
}

fn entry(halves: &[*mut u64], half: usize, number: u64) -> *mut u64 {
    assert!(number < ENTRIES);
    halves[half].wrapping_add(number as usize)
}

fn peek(halves: &[*mut u64], half: usize, number: u64) -> u64 {
    // SAFETY: `entry` checked the number; only this vCPU's thread touches its tables.
    unsafe { entry(halves, half, number).read() }
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
            run_writers: RunWriters::default(),
            void: (0..SPACES).map(|_| FxHashSet::default()).collect(),
            fills: 0,
            losses: Cell::default(),
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
        let start = reserve(std::ptr::null_mut(), 2 * HALF, 0)?;
        self.place(start, low)?;
        if let Some(high) = high {
            self.place(start.wrapping_add(HALF), high)?;
        }
        Ok(start)
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

    /// Where a view begins.
    pub fn base(&self, view: View) -> u64 {
        let number = match view {
            View::Kernel => 0,
            View::User(space) => 1 + 2 * space,
            View::KernelAndUser(space) => 2 + 2 * space,
        };
        self.views[number] as u64
    }

    fn set(&self, half: usize, number: u64, value: u64) {
        let old = self.get(half, number);
        if old != 0 && old != value {
            let mut losses = self.losses.get();
            *(if half < SUPERVISORS { &mut losses.of_supervisor } else { &mut losses.of_users }) += 1;
            self.losses.set(losses);
        }
        // SAFETY: `entry` checked the number; only this vCPU's thread touches its tables.
        unsafe { entry(&self.halves, half, number).write(value) };
    }

    fn get(&self, half: usize, number: u64) -> u64 {
        peek(&self.halves, half, number)
    }

    /// What generated code finds for an address: the addend, or 0.
    pub fn look(&self, half: Half, address: u64) -> u64 {
        self.get(half.number(), page_number(address))
    }

    /// Makes an entry.
    pub fn fill(&mut self, half: Half, fill: Fill) {
        let number = page_number(fill.address);
        let n = half.number();
        self.touch(half, fill.address);
        if self.books[n].filled.len() >= FILLED_LIMIT {
            self.weed(half);
        }
        let book = &mut self.books[n];
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
        self.touch(half, address);
    }

    /// The same for a user's look at a high address, where its view shows nothing: even zeros that are only read take
    /// pages of the host's page tables.
    pub fn missed_nothing(&mut self, space: usize, address: u64) {
        self.void[space].insert((page_number(address) >> 18) as u32);
        if self.void[space].len() > VOID_LIMIT {
            self.void[space].clear();
            let nothing = self.views[1 + 2 * space].wrapping_add(HALF);
            reserve(nothing.cast(), HALF, libc::MAP_FIXED).expect(SAME_AGAIN);
        }
    }

    /// Counts a page of table as touched, and empties the fullest half when there are too many.
    fn touch(&mut self, half: Half, address: u64) {
        if !self.books[half.number()].touched.insert((page_number(address) >> 9) as u32) {
            return;
        }
        if self.books.iter().map(|b| b.touched.len()).sum::<usize>() > TOUCHED_LIMIT {
            let fullest = ALL_HALVES.into_iter().max_by_key(|h| self.books[h.number()].touched.len());
            self.discard(fullest.unwrap_or(half));
            self.books[half.number()].touched.insert((page_number(address) >> 9) as u32);
        }
    }

    /// Forgets entries that are gone; should most be there still, ends them all.
    fn weed(&mut self, half: Half) {
        let n = half.number();
        let book = &mut self.books[n];
        let (filled, passing) = (std::mem::take(&mut book.filled), std::mem::take(&mut book.passing));
        let (filled, passing) = (self.still_there(n, filled), self.still_there(n, passing));
        let full = filled.len() > FILLED_LIMIT / 2;
        (self.books[n].filled, self.books[n].passing) = (filled, passing);
        if full {
            self.flush(half);
        }
    }

    fn still_there(&self, half: usize, mut numbers: Vec<u64>) -> Vec<u64> {
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|&number| self.get(half, number) != 0);
        numbers
    }

    fn note_writer(&mut self, page: u32, half: u8, number: u64) {
        let halves = &self.halves;
        let list = self.writers.entry(page).or_default();
        match list.as_mut_slice() {
            // Most pages have one writer at a time: a process' own entry takes the place of a dead process'.
            [only] if peek(halves, only.0.into(), only.1) == 0 => *only = (half, number),
            [.., last] if *last == (half, number) => {}
            _ => list.push((half, number)),
        }
        // Weeding when the list has doubled keeps its cost in proportion, however many are not stale.
        if list.len() >= WRITERS_LIMIT && list.len().is_power_of_two() {
            let mut list = std::mem::take(list);
            list.sort_unstable();
            list.dedup();
            list.retain(|&mut (h, n)| self.get(h.into(), n) != 0);
            self.writers.insert(page, list);
        }
    }

    /// Takes away every entry that lets the Guest write a page of the memory file.
    pub fn forbid_writes(&mut self, page: u32) {
        for (half, number) in self.writers.remove(&page).unwrap_or_default() {
            // The entry may show another page by now; clearing it costs one look at the page tables.
            self.set(half.into(), number, 0);
        }
        for (half, number) in self.run_writers.of(page) {
            // One that is gone must not be touched: its page of table may have been given back.
            if self.books[usize::from(half)].runs.holds((number / RUN) as RunNumber) {
                self.set(half.into(), number, 0);
            }
        }
    }

    /// Ends all entries there are.
    pub fn flush_all(&mut self) {
        ALL_HALVES.into_iter().for_each(|half| self.flush(half));
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
            let runs = self.books[n].runs.take_around(number, 18);
            self.clear_runs(n, runs);
        }
        if self.books[n].large.remove(&frame) {
            for other in u64::from(frame) << 9..u64::from(frame + 1) << 9 {
                self.set(n, other, 0);
            }
            self.books[n].runs.take_around(number, 9);
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
        let runs = self.books[n].runs.take();
        self.clear_runs(n, runs);
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
        let runs = self.books[0].runs.take_passing();
        self.clear_runs(0, runs);
    }

    /// Ends all entries of a half and gives its memory back.
    fn discard(&mut self, half: Half) {
        self.flush(half);
        let n = half.number();
        self.books[n].touched.clear();
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a valid descriptor; the range is the half's own, and zeros mean "no entry".
        unsafe { libc::fallocate(self.file.as_raw_fd(), mode, (n * HALF) as i64, HALF as i64) };
        // The host keeps its own page tables for as long as the mapping stands; so it is made anew.
        for at in self.shown_at(half) {
            self.place(at, half).expect(SAME_AGAIN);
        }
    }

    /// Where views show a half.
    fn shown_at(&self, half: Half) -> Vec<*mut u8> {
        let kernel_and_user = (0..SPACES).map(|space| self.views[2 + 2 * space]);
        match half {
            Half::High => [self.views[0]]
                .into_iter()
                .chain(kernel_and_user)
                .map(|view| view.wrapping_add(HALF))
                .collect(),
            Half::SupervisorLow => vec![self.views[0]],
            Half::User(space) => vec![self.views[1 + 2 * space], self.views[2 + 2 * space]],
        }
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
mod tests;
