//! What shows in which view, and for how long.

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

fn run(page: u32, global: bool) -> RunFill {
    RunFill { address: KERNEL & !0x3_ffff, page, writable: true, global, page_bits: 21 }
}

/// Host addresses of a run, counted from its first page.
fn hosts(page: u64) -> u64 {
    0x7000_0000 + (page << 12)
}

fn shown(tables: &Tables) -> Vec<u64> {
    let first = KERNEL & !0x3_ffff;
    (0..RUN).map(|page| look(tables, View::Kernel, first + (page << 12))).collect()
}

#[test]
fn a_run_shows_all_its_pages_until_it_is_flushed() {
    let mut tables = Tables::new().unwrap();
    tables.fill_run(Half::High, run(64, true), hosts);
    assert!(shown(&tables).iter().all(|&addend| addend == 0x7000_0000u64.wrapping_sub(KERNEL & !0x3_ffff)));
    assert!(tables.has_run(Half::High, KERNEL, true));
    tables.flush_passing();
    assert!(shown(&tables).iter().all(|&addend| addend != 0));
    tables.flush(Half::High);
    assert!(shown(&tables).iter().all(|&addend| addend == 0));
    assert!(!tables.has_run(Half::High, KERNEL, false));
}

#[test]
fn a_run_that_is_not_global_ends_with_an_address_space_switch() {
    let mut tables = Tables::new().unwrap();
    tables.fill_run(Half::High, run(64, false), hosts);
    tables.flush_passing();
    assert!(shown(&tables).iter().all(|&addend| addend == 0));
}

#[test]
fn invalidating_a_large_page_ends_its_runs() {
    for bits in [21, 30] {
        let mut tables = Tables::new().unwrap();
        tables.fill_run(Half::High, RunFill { page_bits: bits, ..run(64, true) }, hosts);
        tables.invalidate(Half::High, KERNEL ^ 0x10_0000);
        assert!(shown(&tables).iter().all(|&addend| addend == 0), "{bits}");
        assert!(!tables.has_run(Half::High, KERNEL, false));
    }
}

#[test]
fn a_page_of_a_run_that_becomes_code_goes_alone() {
    let mut tables = Tables::new().unwrap();
    tables.fill_run(Half::High, run(128, true), hosts);
    tables.forbid_writes(128 + 9);
    let gone: Vec<usize> =
        shown(&tables).iter().enumerate().filter(|(_, a)| **a == 0).map(|(n, _)| n).collect();
    assert_eq!(gone, [9]);
}
