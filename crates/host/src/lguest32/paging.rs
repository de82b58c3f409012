//! Kinds of page tables, and those that 2.6.32 begins with (facts 6.5 and 14).
//!
//! No kernel says which kind of tables it was built for; the first ones that it shows are looked at. 2.6.32 shows none: it wants
//! to be started with tables of its Host's. Its own image tells: a kernel with PAE has its first directory in its data, four
//! pointers and nothing behind them, and one without has that page empty until it fills it.

use lguest_translator::cpu::translations::Invalidation;
use lguest_translator::{HostedPaging, Ram};

use super::Death;
use super::data::{Generation, read_word};
use super::vcpu::Lguest32Vcpu;

const PAGE: u32 = 4096;
const PRESENT: u32 = 1;
/// Present, writable, the user's: what the first tables and what they name have.
const ALL_RIGHTS: u32 = 7;
/// Flags that a directory's entry may have: present, writable, user, accessed, dirty.
const DIRECTORY_FLAGS: u32 = 0x67;
const LARGE: u32 = 1 << 7;
const ACCESSED_OR_DIRTY: u32 = 0x60;
/// How far from `lguest_data`, which is among the kernel's data, a directory of PAE's is looked for.
const NEAR: u32 = 4 << 20;
/// The first address a kernel may have.
const IMAGE_START: u32 = 1 << 20;

/// Whether these eight words could be PAE's four pointers: only the present bit among the flags, no upper half.
fn are_pointers(words: [u32; 8]) -> bool {
    let pairs = || words.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    pairs().all(|(low, high)| high == 0 && low & 0xfff <= PRESENT)
        && pairs().any(|(low, _)| low & PRESENT != 0)
}

/// Which kind of tables begin at `root`.
pub(super) fn kind_at(ram: &Ram, root: u32) -> HostedPaging {
    let words = std::array::from_fn(|n| read_word(ram, u64::from(root) + 4 * n as u64));
    if are_pointers(words) { HostedPaging::Wide } else { HostedPaging::Narrow }
}

/// Which kind of tables the kernel in memory, whose data is at `data`, was built for.
fn kind_of_image(ram: &Ram, data: u32, end: u32) -> HostedPaging {
    let mut page = [0; PAGE as usize];
    let data = data & !(PAGE - 1);
    let near = data.saturating_sub(NEAR).max(IMAGE_START)..data.saturating_add(NEAR).min(end);
    for place in near.step_by(PAGE as usize) {
        if !ram.read(place.into(), &mut page) {
            break;
        }
        let word =
            |n: usize| u32::from_le_bytes([page[4 * n], page[4 * n + 1], page[4 * n + 2], page[4 * n + 3]]);
        let first: [u32; 8] = std::array::from_fn(word);
        // The identity mapping is the kernel's own, one to three gigabytes up.
        let again = first[2] == first[0] || first[4] == first[0] || first[6] == first[0];
        if first[0] & PRESENT != 0
            && are_pointers(first)
            && again
            && first.iter().step_by(2).all(|&low| low & !PRESENT < end)
            && page[32..].iter().all(|&byte| byte == 0)
        {
            return HostedPaging::Wide;
        }
    }
    HostedPaging::Narrow
}

impl Lguest32Vcpu {
    /// NEW_PGTABLE: the tables at `root` are the current ones from now on.
    pub(super) fn load_tables(&mut self, root: u32) -> Result<(), Death> {
        let outside =
            || Death::new(format_args!("NEW_PGTABLE named tables at {root:#x}, outside the Guest's memory"));
        let kind = match self.paging {
            Some((_, kind)) => kind,
            None => kind_at(&self.ram, root),
        };
        let size = if kind == HostedPaging::Wide { 32 } else { u64::from(PAGE) };
        if u64::from(root) + size > self.limit {
            return Err(outside());
        }
        self.cpu.load_page_tables(root, kind).map_err(|_| {
            Death::new(format_args!(
                "NEW_PGTABLE named pointers at {root:#x} that have other flags than the present bit"
            ))
        })?;
        self.paging = Some((root, kind));
        Ok(())
    }

    /// SET_PGD: an entry of a top-level table changed.
    pub(super) fn top_level_changed(&mut self, table: u32, index: u32) -> Result<(), Death> {
        let wide = matches!(self.paging, Some((_, HostedPaging::Wide)));
        let (count, size, flags) = if wide { (4, 8, PRESENT) } else { (1024, 4, DIRECTORY_FLAGS) };
        let base = if wide { table & !31 } else { table & !(PAGE - 1) };
        let place = u64::from(base) + u64::from(size * index);
        if index >= count || place + u64::from(size) > self.limit {
            return Err(Death::new(format_args!(
                "SET_PGD of entry {index} at {table:#x}: no such entry of a table in the Guest's memory"
            )));
        }
        let entry = read_word(&self.ram, place);
        let frame = u64::from(entry & !(PAGE - 1));
        // The top entry leads to the Host's own in the original, which does not look at it.
        let own = !wide && index >= self.ceiling >> 22;
        if entry & PRESENT != 0 && !own && (entry & 0xfff & !flags != 0 || frame >= self.limit) {
            return Err(Death::new(format_args!(
                "a page directory's entry {entry:#x} has flags that lguest does not know, or names memory that the Guest \
                 does not have"
            )));
        }
        match self.paging {
            // The four pointers live in the processor.
            Some((root, HostedPaging::Wide)) if root & !31 == base => self.load_tables(root),
            Some((root, _)) if root & !(PAGE - 1) == base => {
                self.part_changed(index << 22);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// SET_PMD: an entry of a directory of PAE's changed. One that the current space does not have is nothing here.
    pub(super) fn directory_changed(&mut self, directory: u32) {
        let Some((root, HostedPaging::Wide)) = self.paging else {
            return self.cpu.forget_translations(Invalidation::All);
        };
        let names = |slot: &u32| {
            let pointer = read_word(&self.ram, u64::from((root & !31) + 8 * slot));
            pointer & PRESENT != 0 && pointer & !(PAGE - 1) == directory & !(PAGE - 1)
        };
        // The highest of the addresses that it is for: the kernel's part is at the top.
        if let Some(slot) = (0..4).rev().find(names) {
            self.part_changed(slot << 30 | 0x3fff_f000);
        }
    }

    /// The tables for `address` changed: what is forgotten is the user's part, or everything.
    fn part_changed(&mut self, address: u32) {
        let shared = self.data.as_ref().is_none_or(|data| address >= data.kernel_address);
        self.flush(shared);
    }

    /// SET_PTE: a page's entry changed. The value is a hint, and never stored.
    pub(super) fn entry_changed(&mut self, root: u32, address: u32, value: u32) -> Result<(), Death> {
        let named = value & PRESENT != 0 && value & ACCESSED_OR_DIRTY != 0;
        // On PCI, what lies beyond memory are the devices' registers.
        let registers = self.data.as_ref().is_some_and(|data| data.generation == Generation::G41);
        let beyond = u64::from(value & !(PAGE - 1)) >= self.limit && !registers;
        if named && (value & LARGE != 0 || beyond) {
            return Err(Death::new(format_args!(
                "the page table entry {value:#x} for {address:#x} is a large page's, or names memory that the Guest does \
                 not have"
            )));
        }
        if address >= self.ceiling {
            return Err(Death::new(format_args!(
                "SET_PTE for {address:#x}, which is in the part of the address space that the Host keeps"
            )));
        }
        let shared = self.data.as_ref().is_some_and(|data| address >= data.kernel_address);
        let current = self.paging.is_some_and(|(current, _)| current == root);
        if shared || current {
            let page = Invalidation::Page { address: address.into(), pcid: 0, global_too: true };
            self.cpu.forget_translations(page);
        }
        Ok(())
    }

    /// FLUSH_TLB.
    pub(super) fn flush(&mut self, everything: bool) {
        let what = if everything { Invalidation::All } else { Invalidation::Space { pcid: 0 } };
        self.cpu.forget_translations(what);
    }

    /// Builds the tables that 2.6.32 is used to begin with, below its initial RAM disk, and turns paging on: all of memory at
    /// 0 and at the kernel's address. `data` is where its `lguest_data` is. Their address.
    pub(super) fn make_first_tables(&mut self, kernel_address: u32, data: u32) -> Result<u32, Death> {
        let kind = kind_of_image(&self.ram, data, self.entry.memory);
        let pages = self.entry.memory / PAGE;
        let (width, per_table) = if kind == HostedPaging::Wide { (8, 512) } else { (4, 1024) };
        let tables = pages.div_ceil(per_table);
        let directories = if kind == HostedPaging::Wide { 2 } else { 1 };
        let first = self.entry.tables_end.checked_sub((tables + directories) * PAGE);
        let Some(first) = first.filter(|&first| first > IMAGE_START) else {
            return Err(Death::new(
                "the Guest's memory has no room for its first page tables; give it more with --memory",
            ));
        };
        let put = |place: u32, value: u32| {
            let bytes = u64::from(value).to_le_bytes();
            self.ram.write(place.into(), &bytes[..width as usize]);
        };
        for n in 0..tables + directories {
            self.ram.write((first + n * PAGE).into(), &[0; PAGE as usize]);
        }
        for page in 0..pages {
            put(first + page * width, (page * PAGE) | ALL_RIGHTS);
        }
        let directory = first + tables * PAGE;
        let span = per_table * PAGE;
        // What no directory entry can name stays unmapped, as the kernel leaves it: high memory.
        let reach = match kind {
            HostedPaging::Wide => tables.min(512),
            HostedPaging::Narrow => tables.min((self.ceiling - kernel_address) / span),
        };
        let root = match kind {
            HostedPaging::Narrow => {
                for n in 0..reach {
                    let entry = (first + n * PAGE) | ALL_RIGHTS;
                    put(directory + 4 * n, entry);
                    put(directory + 4 * (kernel_address / span + n), entry);
                }
                directory
            }
            HostedPaging::Wide => {
                for n in 0..reach {
                    put(directory + 8 * n, (first + n * PAGE) | ALL_RIGHTS);
                }
                let top = directory + PAGE;
                for slot in [0, kernel_address >> 30] {
                    put(top + 8 * slot, directory | PRESENT);
                }
                top
            }
        };
        self.paging = Some((root, kind));
        self.load_tables(root)?;
        Ok(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_pointers_are_told_from_a_directory() {
        assert!(are_pointers([0x123_4001, 0, 0, 0, 0, 0, 0x123_4001, 0]));
        assert!(!are_pointers([0x123_4067, 0x123_5067, 0x123_6067, 0x123_7067, 0, 0, 0, 0]));
        assert!(!are_pointers([0x123_4063, 0, 0, 0, 0, 0, 0, 0]));
        assert!(!are_pointers([0; 8]), "an empty directory says nothing, and most kernels are without PAE");
    }
}
