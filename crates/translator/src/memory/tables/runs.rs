//! Runs: neighbouring entries of one large mapping, made together.
//!
//! A kernel reaches all of memory through a few large pages, and touches it in runs: it clears pages that it is about to
//! hand out, one after the other. An entry a miss made each of them an exit (645,806 in one program's 655,360 page
//! faults). A large page says the same of all its small ones, so a miss makes [`RUN`] of them: as many as fill a
//! quarter of what the first miss there costs anyway, an untouched page of table. A processor's TLB does the same with one
//! entry for the large page.
//!
//! What is remembered of a run is remembered once: for the flush, and for the page of memory that becomes code.

use super::{Half, Tables, page_number};
use rustc_hash::{FxHashMap, FxHashSet};

/// Entries in a run, a power of two. 64 pages are 256 KiB: a Guest that touches only one of them pays as for two.
pub const RUN: u64 = 64;

/// Runs remembered as writers of one stretch of memory before stale ones are weeded out, for the first time.
const WRITERS_LIMIT: usize = 32;

/// A run by the number of its first entry, divided by [`RUN`].
pub type RunNumber = u32;

const fn run_number(address: u64) -> RunNumber {
    (page_number(address) / RUN) as RunNumber
}

/// What a run of entries is made from.
pub struct RunFill {
    /// Guest-virtual address of the first page.
    pub address: u64,
    /// Its page of the memory file; the others follow.
    pub page: u32,
    /// Some entry lets the Guest write.
    pub writable: bool,
    /// Survives address-space switches.
    pub global: bool,
    /// log2 of the Guest's page size.
    pub page_bits: u8,
}

/// The runs of one half.
#[derive(Default)]
pub struct Runs {
    /// Whether each was made with the right to write.
    made: FxHashMap<RunNumber, bool>,
    /// Those that an address-space switch ends.
    passing: FxHashSet<RunNumber>,
}

impl Runs {
    /// Remembers a run.
    pub fn note(&mut self, run: RunNumber, writable: bool, passing: bool) {
        self.made.insert(run, writable);
        if passing {
            self.passing.insert(run);
        }
    }

    /// Whether the run was made, with the right to write if that is asked. One of its entries that is gone was taken
    /// away, and comes back alone.
    pub fn has(&self, run: RunNumber, writable: bool) -> bool {
        self.made.get(&run).is_some_and(|&may| may || !writable)
    }

    /// Whether the run was made.
    pub fn holds(&self, run: RunNumber) -> bool {
        self.made.contains_key(&run)
    }

    /// Forgets all of them, and gives them.
    pub fn take(&mut self) -> Vec<RunNumber> {
        self.passing.clear();
        self.made.drain().map(|(run, _)| run).collect()
    }

    /// Forgets those that an address-space switch ends, and gives them.
    pub fn take_passing(&mut self) -> Vec<RunNumber> {
        let passing: Vec<RunNumber> = self.passing.drain().collect();
        passing.iter().for_each(|run| _ = self.made.remove(run));
        passing
    }

    /// Forgets those among `2^bits` entries that hold entry `number`, and gives them.
    pub fn take_around(&mut self, number: u64, bits: u32) -> Vec<RunNumber> {
        let same = |run: RunNumber| ((u64::from(run) * RUN) ^ number) >> bits == 0;
        let around: Vec<RunNumber> = self.made.keys().copied().filter(|&run| same(run)).collect();
        for run in &around {
            self.made.remove(run);
            self.passing.remove(run);
        }
        around
    }
}

/// Which runs let the Guest write which [`RUN`] pages of the memory file.
#[derive(Default)]
pub struct RunWriters(FxHashMap<u32, Vec<(u8, RunNumber)>>);

impl RunWriters {
    /// Remembers a run of a half that shows the pages from `page` on. `still_there` says of others whether they are.
    pub fn note(&mut self, page: u32, half: u8, run: RunNumber, still_there: impl Fn(u8, RunNumber) -> bool) {
        let list = self.0.entry(page / RUN as u32).or_default();
        if list.contains(&(half, run)) {
            return;
        }
        list.push((half, run));
        if list.len() >= WRITERS_LIMIT && list.len().is_power_of_two() {
            list.retain(|&(half, run)| still_there(half, run));
        }
    }

    /// The entries that may let the Guest write `page`: half and number.
    pub fn of(&self, page: u32) -> impl Iterator<Item = (u8, u64)> {
        let within = u64::from(page) % RUN;
        let list = self.0.get(&(page / RUN as u32)).map_or(&[][..], Vec::as_slice);
        list.iter().map(move |&(half, run)| (half, u64::from(run) * RUN + within))
    }
}

impl Tables {
    /// Whether the run of `address` was made already, with the right to write if that is asked.
    pub fn has_run(&self, half: Half, address: u64, writable: bool) -> bool {
        self.books[half.number()].runs.has(run_number(address), writable)
    }

    /// Makes [`RUN`] entries; `host` gives the host address of each page.
    pub fn fill_run(&mut self, half: Half, fill: RunFill, mut host: impl FnMut(u64) -> u64) {
        let n = half.number();
        self.touch(half, fill.address);
        let (first, run) = (page_number(fill.address), run_number(fill.address));
        let book = &mut self.books[n];
        match fill.page_bits {
            21 => _ = book.large.insert((first >> 9) as u32),
            _ => _ = book.huge.insert((first >> 18) as u32),
        }
        book.runs.note(run, fill.writable, half == Half::High && !fill.global);
        if fill.writable {
            let books = &self.books;
            let still_there = |half: u8, run| books[usize::from(half)].runs.holds(run);
            self.run_writers.note(fill.page, n as u8, run, still_there);
        }
        self.fills += 1;
        for within in 0..RUN {
            let address = (fill.address & !0xfff).wrapping_add(within << 12);
            self.set(n, first + within, host(within).wrapping_sub(address));
        }
    }

    /// Ends the entries of runs.
    pub(super) fn clear_runs(&self, half: usize, runs: Vec<RunNumber>) {
        for run in runs {
            let first = u64::from(run) * RUN;
            (first..first + RUN).for_each(|number| self.set(half, number, 0));
        }
    }
}
