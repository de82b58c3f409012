//! The state in which a 64-bit program's Guest begins.
//!
//! ```text
//!   rip    the start that INITIALIZE names            rsp    where the tables begin: a stack grows down from there
//!   rsi    0, the address of the boot parameters      cr3    identity tables for all of its memory, in pages of 2 MiB
//!   cs, ds flat, of privilege 0                       IF     clear
//! ```
//! Tables and segments lie in the last pages below the page limit. As with the original's, they are the Guest's memory like any other, and
//! it may use those pages again once it has tables of its own.

use lguest_host::memory::{GuestAddress, Memory, PAGE_SIZE};
use lguest_translator::LongModeEntry;

const GIBIBYTE: u64 = 1 << 30;
const LARGE_PAGE: u64 = 2 << 20;
/// Present and writable; and large.
const TABLE: u64 = 3;
const LARGE: u64 = 0x83;
/// Flat code of 64 bits, flat data: the third and fourth descriptor.
const SEGMENTS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Writes the tables into the end of `bytes` of memory. None when it is too small for them.
pub fn prepare(memory: &Memory, bytes: u64, start: u64) -> Option<LongModeEntry> {
    let directories = bytes.div_ceil(GIBIBYTE);
    // One page each: the root, the table below it, the segments.
    let first = bytes.checked_sub((directories + 3) * PAGE_SIZE)?;
    let (root, pointers, gdt) = (first, first + PAGE_SIZE, first + 2 * PAGE_SIZE);
    let directory = |number: u64| first + (3 + number) * PAGE_SIZE;
    let put = |at: u64, value: u64| memory.write(GuestAddress(at), &value.to_le_bytes()).ok();
    for page in (first..bytes).step_by(PAGE_SIZE as usize) {
        memory.write(GuestAddress(page), &[0; PAGE_SIZE as usize]).ok()?;
    }
    put(root, pointers | TABLE)?;
    for number in 0..directories {
        put(pointers + number * 8, directory(number) | TABLE)?;
    }
    for (number, at) in (0..bytes).step_by(LARGE_PAGE as usize).enumerate() {
        put(directory(0) + number as u64 * 8, at | LARGE)?;
    }
    for (number, segment) in SEGMENTS.iter().enumerate() {
        put(gdt + number as u64 * 8, *segment)?;
    }
    let gdt_limit = size_of_val(&SEGMENTS) as u16 - 1;
    Some(LongModeEntry { rip: start, rsp: first, rsi: 0, cr3: root, gdt, gdt_limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_mapped_to_itself_and_the_tables_lie_at_the_end() {
        let memory = Memory::new(3 << 20).unwrap();
        let entry = prepare(&memory, 3 << 20, 0x1000).unwrap();
        let word = |at: u64| {
            let mut bytes = [0; 8];
            memory.read(GuestAddress(at), &mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        };
        let walk = |address: u64| {
            let pointers = word(entry.cr3) & !0xfff;
            let directory = word(pointers + address / GIBIBYTE * 8) & !0xfff;
            let page = word(directory + address % GIBIBYTE / LARGE_PAGE * 8);
            (page & 0xfff == LARGE).then(|| (page & !0xfff) + address % LARGE_PAGE)
        };
        for address in [0, 0x1000, LARGE_PAGE - 1, LARGE_PAGE, (3 << 20) - 1] {
            assert_eq!(walk(address), Some(address));
        }
        assert_eq!((entry.rip, entry.rsp, entry.cr3), (0x1000, (3 << 20) - 0x4000, (3 << 20) - 0x4000));
        assert_eq!(word(entry.gdt + 16), SEGMENTS[2]);
        assert!(prepare(&memory, 0x3000, 0).is_none());
    }
}
