//! Page tables: addresses stay what they are, and what is not code cannot be executed.
//!
//! ```text
//!   0 .. 4 KiB        nothing: a null pointer faults
//!   .. 1 MiB          boot structures                 read, write
//!   1 MiB .. 2 MiB    the kernel: text read + execute, constants read, the rest read + write
//!   2 MiB .. 4 GiB    heap, devices                   read, write, 2 MiB pages
//! ```
//! Entry bits: SDM vol. 3, 5.5.4.

use core::arch::asm;
use core::ptr;

use super::instructions::{read_msr, write_msr};

const ENTRIES: usize = 512;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const EFER: u32 = 0xc000_0080;
const EFER_NO_EXECUTE: u64 = 1 << 11;
const GIBIBYTES: usize = 4;

#[repr(C, align(4096))]
struct Table([u64; ENTRIES]);

#[repr(C)]
struct Tables {
    root: Table,
    pointers: Table,
    directories: [Table; GIBIBYTES],
    first: Table,
}

const EMPTY: Table = Table([0; ENTRIES]);
static mut TABLES: Tables =
    Tables { root: EMPTY, pointers: EMPTY, directories: [EMPTY; GIBIBYTES], first: EMPTY };

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
}

/// Builds the tables and switches to them. Called once, by [`super::boot::start`].
pub(super) fn load() {
    write_msr(EFER, read_msr(EFER) | EFER_NO_EXECUTE);
    let raw = &raw mut TABLES;
    // SAFETY: called once, before anything else runs; nobody else names the tables.
    let tables = unsafe { &mut *raw };
    let address = |table: &Table| ptr::from_ref(table) as u64;
    tables.root.0[0] = address(&tables.pointers) | PRESENT | WRITABLE;
    for (gibibyte, directory) in tables.directories.iter_mut().enumerate() {
        tables.pointers.0[gibibyte] = address(directory) | PRESENT | WRITABLE;
        for (page, entry) in directory.0.iter_mut().enumerate() {
            *entry = (gibibyte << 30 | page << 21) as u64 | PRESENT | WRITABLE | LARGE | NO_EXECUTE;
        }
    }
    tables.directories[0].0[0] = address(&tables.first) | PRESENT | WRITABLE;
    for (page, entry) in tables.first.0.iter_mut().enumerate().skip(1) {
        *entry = (page as u64) << 12 | rights((page as u64) << 12);
    }
    let root = address(&tables.root);
    // SAFETY: the new tables map the code that runs, its stack and all it uses where they were.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack)) };
}

/// What a page of the kernel's first 2 MiB may be used for.
fn rights(page: u64) -> u64 {
    let (text, text_end, rodata_end) =
        ((&raw const __text_start) as u64, (&raw const __text_end) as u64, (&raw const __rodata_end) as u64);
    if (text..text_end).contains(&page) {
        PRESENT
    } else if (text_end..rodata_end).contains(&page) {
        PRESENT | NO_EXECUTE
    } else {
        PRESENT | WRITABLE | NO_EXECUTE
    }
}
