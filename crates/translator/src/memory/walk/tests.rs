use super::*;
use crate::workbench::*;

const BOOLS: [bool; 2] = [false, true];
const INTENTS: [Intent; 3] = [Intent::Read, Intent::Write, Intent::Execute];

fn supervisor(intent: Intent) -> Access {
    Access { intent, user: false, smap_allowed: false }
}

fn user(intent: Intent) -> Access {
    Access { intent, user: true, smap_allowed: false }
}

fn code(result: Result<Translation, Exception>) -> Option<u32> {
    result.err().map(|exception| {
        assert_eq!(exception.vector, 14);
        exception.error_code.unwrap()
    })
}

/// Three ways to map linear 0x5000: by a small page, by a 2 MiB page, by a 1 GiB page; and where their entries are.
fn mappings() -> [(u8, Vec<u64>); 3] {
    [(12, vec![PML4, PDPT, PD, PT + 5 * 8]), (21, vec![PML4, PDPT, PD]), (30, vec![PML4, PDPT])]
}

/// The rules of SDM vol. 3, 4.6.1, sentence by sentence, for a page with these rights.
fn allowed(paging: &Paging, access: Access, page: (bool, bool, bool)) -> bool {
    let (page_user, page_writable, page_no_execute) = page;
    if page_no_execute && paging.no_execute && access.intent == Intent::Execute {
        return false; // "instructions may be fetched from any linear address ... for which the XD flag is 0"
    }
    match (access.user, page_user, access.intent) {
        (true, false, _) => false, // "user-mode accesses to supervisor-mode addresses: not allowed"
        (true, true, Intent::Write) => page_writable,
        (true, true, _) => true,
        (false, false, Intent::Write) => page_writable || !paging.write_protect,
        (false, false, _) => true,
        (false, true, Intent::Execute) => !paging.smep,
        (false, true, _) if paging.smap && !access.smap_allowed => false,
        (false, true, Intent::Read) => true,
        (false, true, Intent::Write) => page_writable || !paging.write_protect,
    }
}

#[test]
fn every_combination_of_rights_and_switches_is_allowed_or_refused_as_the_manual_says() {
    let bench = Workbench::new();
    let mut cases = 0;
    for (bits, entries) in mappings() {
        for level in 0..entries.len() {
            for number in 0..8 {
                let rights = (number & 1 != 0, number & 2 != 0, number & 4 != 0);
                lay(&bench, &entries, level, rights);
                for switches in 0..16 {
                    cases += check(&bench, bits, rights, switches);
                }
            }
        }
    }
    assert!(cases > 5_000, "{cases}");
}

/// Gives every entry all rights, and the one at `level` just these.
fn lay(
    bench: &Workbench,
    entries: &[u64],
    level: usize,
    (page_user, writable, no_execute): (bool, bool, bool),
) {
    for (step, &place) in entries.iter().enumerate() {
        let last = step == entries.len() - 1;
        let target = if !last {
            PDPT + 0x1000 * step as u64
        } else if step == 3 {
            0x5000
        } else {
            0
        };
        let mut entry = target | P | W | U;
        if last && step < 3 {
            entry |= PS;
        }
        if step == level {
            entry &= !(W | U);
            entry |= if page_user { U } else { 0 } | if writable { W } else { 0 };
            entry |= if no_execute { NX } else { 0 };
        }
        bench.put(place, entry);
    }
}

fn check(bench: &Workbench, bits: u8, rights: (bool, bool, bool), switches: u32) -> u32 {
    let paging = Paging {
        root: Root::Four(PML4),
        write_protect: switches & 1 != 0,
        no_execute: switches & 2 != 0,
        smep: switches & 4 != 0,
        smap: switches & 8 != 0,
        global: true,
        ceiling: u64::MAX,
    };
    let mut cases = 0;
    for intent in INTENTS {
        for (by_user, smap_allowed) in [(false, false), (false, true), (true, false)] {
            let access = Access { intent, user: by_user, smap_allowed };
            let result = walk_quiet(&bench.ram, &paging, 0x5678, access);
            let what = format!("{bits} {rights:?} {paging:?} {access:?}");
            cases += 1;
            if rights.2 && !paging.no_execute {
                // Bit 63 is reserved then.
                let expected = 0b1001 | expected_code(&paging, access);
                assert_eq!(code(result), Some(expected), "{what}");
            } else if allowed(&paging, access, rights) {
                let translation = result.expect(&what);
                assert_eq!((translation.physical, translation.page_bits), (0x5678, bits), "{what}");
            } else {
                assert_eq!(code(result), Some(1 | expected_code(&paging, access)), "{what}");
            }
        }
    }
    cases
}

/// W, U and I bits of the error code (SDM vol. 3, figure 4-12).
fn expected_code(paging: &Paging, access: Access) -> u32 {
    let write = u32::from(access.intent == Intent::Write) << 1;
    let fetch = access.intent == Intent::Execute && (paging.smep || paging.no_execute);
    write | u32::from(access.user) << 2 | u32::from(fetch) << 4
}

#[test]
fn an_absent_entry_at_any_level_is_a_fault_without_the_present_bit() {
    for entry in [PML4, PDPT, PD, PT + 5 * 8] {
        let bench = Workbench::new();
        bench.put(entry, bench.get(entry) & !P);
        let paging = Paging::of(&bench.cpu);
        let refused = walk(&bench.ram, &paging, 0x5123, user(Intent::Write)).unwrap_err();
        assert_eq!(refused, Exception::pf(0x5123, 0b110));
    }
}

#[test]
fn an_absent_entry_may_have_any_other_bit_set() {
    let bench = Workbench::new();
    bench.map(0x5000, !P);
    let paging = Paging::of(&bench.cpu);
    assert_eq!(code(walk(&bench.ram, &paging, 0x5000, supervisor(Intent::Read))), Some(0));
}

#[test]
fn reserved_bits_fault_with_the_reserved_bit() {
    let beyond = 1 << PHYSICAL_BITS;
    let cases = [
        (PML4, PDPT | P | W | PS),
        (PML4, PDPT | P | W | beyond),
        (PDPT, PD | P | W | 1 << 51),
        (PD, P | W | PS | 1 << 13),
        (PD, P | W | PS | 1 << 20),
        (PDPT, P | W | PS | 1 << 29),
        (PT + 5 * 8, 0x5000 | P | W | beyond),
    ];
    for (place, entry) in cases {
        let bench = Workbench::new();
        bench.put(place, entry);
        let paging = Paging::of(&bench.cpu);
        let got = code(walk(&bench.ram, &paging, 0x5000, supervisor(Intent::Read)));
        assert_eq!(got, Some(0b1001), "{place:#x} {entry:#x}");
    }
}

#[test]
fn a_large_page_keeps_its_attribute_bit_out_of_the_address() {
    let bench = Workbench::new();
    bench.put(PD, P | W | PS | 1 << 12);
    let paging = Paging::of(&bench.cpu);
    let found = walk(&bench.ram, &paging, 0x1f_fabc, supervisor(Intent::Read)).unwrap();
    assert_eq!((found.physical, found.page_bits), (0x1f_fabc, 21));
}

#[test]
fn a_table_outside_ram_reads_as_ones_and_so_has_reserved_bits() {
    let bench = Workbench::new();
    bench.put(PDPT, RAM_BYTES | P | W);
    let paging = Paging::of(&bench.cpu);
    assert_eq!(code(walk(&bench.ram, &paging, 0x5000, supervisor(Intent::Read))), Some(0b1001));
    let nowhere = Paging { root: Root::Four(ADDRESS), ..paging };
    assert_eq!(code(walk(&bench.ram, &nowhere, 0x5000, supervisor(Intent::Read))), Some(0b1001));
}

#[test]
fn tables_that_point_at_themselves_end_after_four_levels() {
    let bench = Workbench::new();
    bench.put(PML4, PML4 | P | W | U);
    let paging = Paging::of(&bench.cpu);
    let found = walk(&bench.ram, &paging, 0x123, supervisor(Intent::Read));
    // The table maps itself as a user page, which SMAP refuses; the point is that an answer comes.
    assert_eq!(code(found), Some(1));
    assert_eq!(walk(&bench.ram, &paging, 0x123, user(Intent::Read)).unwrap().physical, PML4 | 0x123);
}

#[test]
fn an_address_that_is_not_canonical_is_a_general_protection_fault() {
    let bench = Workbench::new();
    let paging = Paging::of(&bench.cpu);
    for address in [0x0000_8000_0000_0000, 0xffff_7fff_ffff_ffff, 0x8000_0000_0000_0000] {
        let refused = walk(&bench.ram, &paging, address, supervisor(Intent::Read));
        assert_eq!(refused, Err(Exception::gp(0)));
    }
    assert!(canonical(0x0000_7fff_ffff_ffff) && canonical(0xffff_8000_0000_0000));
}

#[test]
fn a_read_marks_every_level_accessed_and_nothing_dirty() {
    let bench = Workbench::new();
    let paging = Paging::of(&bench.cpu);
    let found = walk(&bench.ram, &paging, 0x5000, supervisor(Intent::Read)).unwrap();
    assert!(!found.dirty);
    for place in [PML4, PDPT, PD, PT + 5 * 8] {
        assert_eq!(bench.get(place) & (A | D), A);
    }
}

#[test]
fn a_write_marks_only_the_last_level_dirty() {
    let bench = Workbench::new();
    let paging = Paging::of(&bench.cpu);
    assert!(walk(&bench.ram, &paging, 0x5000, supervisor(Intent::Write)).unwrap().dirty);
    assert_eq!([PML4, PDPT, PD, PT + 5 * 8].map(|place| bench.get(place) & (A | D)), [A, A, A, A | D]);
}

#[test]
fn a_refused_or_quiet_walk_marks_nothing() {
    let bench = Workbench::new();
    let paging = Paging::of(&bench.cpu);
    walk(&bench.ram, &paging, 0x5000, user(Intent::Write)).unwrap_err();
    walk_quiet(&bench.ram, &paging, 0x5000, supervisor(Intent::Write)).unwrap();
    assert_eq!([PML4, PDPT, PD, PT + 5 * 8].map(|place| bench.get(place) & (A | D)), [0; 4]);
}

#[test]
fn an_entry_changed_under_a_walk_is_not_marked() {
    let bench = Workbench::new();
    let paging = Paging::of(&bench.cpu);
    let (_, path) = follow(&bench.ram, &paging, 0x5000, supervisor(Intent::Read)).unwrap();
    bench.map(0x5000, 0x5000);
    assert!(!mark(&bench.ram, &path, Intent::Read));
    assert_eq!(bench.page_entry(0x5000), 0x5000);
}

#[test]
fn a_page_is_global_only_while_the_switch_is_on() {
    let bench = Workbench::new();
    bench.map(0x5000, 0x5000 | P | G);
    for global in BOOLS {
        let paging = Paging { global, ..Paging::of(&bench.cpu) };
        let found = walk(&bench.ram, &paging, 0x5000, supervisor(Intent::Read)).unwrap();
        assert_eq!(found.global, global);
    }
}
