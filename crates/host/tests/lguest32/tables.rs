//! Page tables by hypercall, of either kind, and those that 2.6.32 begins with (facts 6, 14).

use crate::guest::*;

/// PAE tables in the place of the others: four pointers, a directory each for 0 and 0xc0000000, one table.
fn make_wide(guest: &Guest) {
    let long = |at: u32, value: u32| {
        guest.put(at, value);
        guest.put(at + 4, 0);
    };
    (0..8).for_each(|n| guest.put(DIRECTORY + 4 * n, 0));
    guest.put(DIRECTORY + 4 * (KERNEL >> 22), 0);
    let directory = DIRECTORY + 0x2000;
    for slot in [0, KERNEL >> 30] {
        long(DIRECTORY + 8 * slot, directory | 1);
    }
    for n in 0..2 {
        long(directory + 8 * n, (DIRECTORY + 0x3000 + 0x1000 * n) | 7);
    }
    for page in 0..1024 {
        long(DIRECTORY + 0x3000 + 8 * page, page << 12 | 7);
    }
}

#[test]
fn a_kernel_with_pae_is_told_by_its_first_tables() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.set(0x1300, 0x77);
            program.load(EAX, KERNEL + 0x1300);
            program.note(EAX);
            // A page's entry changes behind a SET_PTE of four arguments; another space's is nothing here.
            program.load(EAX, 0x1_0000);
            program.set(DIRECTORY + 0x3000 + 8 * 0x10, 0x1_1000 | 7);
            program.mov(ESI, 0);
            program.call(call::SET_PTE, [DIRECTORY, 0x1_0000, 0x1_1000 | 7]);
            program.load(EAX, 0x1_0000);
            program.note(EAX);
            // A pointer of the top level changes: no processor looks at it again by itself.
            program.set(DIRECTORY + 8, (DIRECTORY + 0x2000) | 1);
            program.call(call::SET_PGD, [DIRECTORY, 1, 0]);
            program.load(EAX, 0x4000_1300);
            program.note(EAX);
        });
        make_wide(&guest);
        guest.put(0x1_1000, 0x88);
        guest.run_to_off();
        assert_eq!([guest.noted(0), guest.noted(1), guest.noted(2)], [0x77, 0x88, 0x77], "{form:?}");
        assert_eq!(guest.word(DIRECTORY + 0x3000 + 8) & 0x60, 0x60, "accessed and dirty are marked");
    }
}

#[test]
fn a_changed_entry_is_seen_after_its_call_and_the_value_is_never_stored() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.load(EAX, 0x1_0000);
            program.note(EAX);
            program.set(TABLE + 4 * 0x10, 0x1_1000 | 3);
            // A flush of one page comes with the value 0 for an entry that holds.
            program.call(call::SET_PTE, [DIRECTORY, 0x1_0000, 0]);
            program.load(EAX, 0x1_0000);
            program.note(EAX);
            program.set(TABLE + 4 * 0x10, 0x1_2000 | 3);
            program.call(call::SET_PTE, [0, KERNEL + 0x1_0000, 0]);
            program.load(EAX, KERNEL + 0x1_0000);
            program.note(EAX);
            program.set(TABLE + 4 * 0x10, 0x1_0000 | 3);
            program.call(call::FLUSH_TLB, [1, 0, 0]);
            program.load(EAX, 0x1_0000);
            program.note(EAX);
            program.note_word(TABLE + 4 * 0x10);
        });
        (0..3).for_each(|n| guest.put(0x1_0000 + 0x1000 * n, 5 + n));
        guest.run_to_off();
        let noted: Vec<u32> = (0..4).map(|n| guest.noted(n)).collect();
        assert_eq!(noted, [5, 6, 7, 5], "{form:?}");
        assert_eq!(guest.noted(4), 0x1_0000 | 0x23, "as the kernel left it, and accessed");
    }
}

#[test]
fn a_directory_entry_becomes_present_without_a_call_and_another_space_is_another_space() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.set(DIRECTORY + 4 * 4, TABLE | 7); // 0x1000000
            program.load(EAX, 0x101_0000);
            program.note(EAX);
            program.call(call::NEW_PGTABLE, [DIRECTORY + 0x8000, 0, 0]);
            program.load(EAX, 0x1_0000);
            program.note(EAX);
            program.call(call::FLUSH_TLB, [0, 0, 0]);
            program.call(call::SET_PMD, [DIRECTORY, 0, 0]);
            program.load(EAX, 0x1_0000);
            program.note(EAX);
        });
        for slot in [0, KERNEL >> 22] {
            guest.put(DIRECTORY + 0x8000 + 4 * slot, (DIRECTORY + 0x9000) | 7);
        }
        for page in 0..1024 {
            let frame = if page == 0x10 { 0x11 } else { page };
            guest.put(DIRECTORY + 0x9000 + 4 * page, frame << 12 | 7);
        }
        guest.put(0x1_0000, 5);
        guest.put(0x1_1000, 6);
        guest.run_to_off();
        assert_eq!([guest.noted(0), guest.noted(1), guest.noted(2)], [5, 6, 6], "{form:?}");
    }
}

#[test]
fn a_write_to_a_read_only_page_faults_in_the_kernel_too_and_is_tried_again() {
    // The kernel's own test at boot, and copy-on-write in its copies to users.
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.gate(14, 0x8e);
            program.set(TABLE + 4 * 0x10, 0x1_0000 | 1);
            program.call(call::SET_PTE, [DIRECTORY, 0x1_0000, 0x1_0000 | 1]);
            program.set(0x1_0004, 9);
            program.load(EAX, 0x1_0004);
            program.note(EAX);
        })
        .handle(14, |program| {
            program.db(&[0x58]); // pop eax: the error code
            program.store(SHOWN, EAX);
            program.set(TABLE + 4 * 0x10, 0x1_0000 | 3);
            program.call(call::SET_PTE, [DIRECTORY, 0x1_0000, 0x1_0000 | 3]);
            program.db(&[0xcf]);
        });
        guest.run_to_off();
        assert_eq!([guest.word(SHOWN), guest.noted(0)], [3, 9], "{form:?}");
        assert_eq!(guest.word(DATA + data::CR2), 0x1_0004);
    }
}

#[test]
fn bad_tables_and_entries_kill() {
    for form in FORMS {
        let with =
            |number: u32, arguments: [u32; 3]| guest(form, |program| program.call(number, arguments)).death();
        let huge = |root: u32| with(call::NEW_PGTABLE, [root, 0, 0]);
        for root in [LIMIT, 0xffff_f000] {
            assert!(huge(root).contains(&format!("{root:#x}")), "{form:?}");
        }
        assert!(with(call::SET_PTE, [DIRECTORY, 0x1_0000, 0x1_00e3]).contains("large page"));
        let mut beyond =
            guest(form, |program| program.call(call::SET_PTE, [DIRECTORY, 0x1_0000, LIMIT | 0x63]));
        match form {
            // Registers of PCI are there.
            Form::G41 => beyond.run_to_off(),
            _ => assert!(beyond.death().contains("does not have"), "{form:?}"),
        }
        assert!(with(call::SET_PTE, [DIRECTORY, 0xffff_f000, 0]).contains("the Host keeps"), "{form:?}");
        assert!(with(call::SET_PGD, [DIRECTORY, 1024, 0]).contains("entry 1024"));
        assert!(with(call::SET_PGD, [0xffff_f000, 5, 0]).contains("SET_PGD"));
        let mut odd = guest(form, |program| {
            program.set(DIRECTORY + 4 * 5, TABLE | 0x1e7);
            program.call(call::SET_PGD, [DIRECTORY, 5, 0]);
        });
        assert!(odd.death().contains("flags"), "{form:?}");
        let mut outside = guest(form, |program| {
            program.set(DIRECTORY + 4 * 5, LIMIT | 7);
            program.call(call::SET_PGD, [DIRECTORY, 5, 0]);
        });
        assert!(outside.death().contains("memory"), "{form:?}");
        let mut own = guest(form, |program| {
            program.set(DIRECTORY + 4 * 1023, 0xffff_ffff);
            program.call(call::SET_PGD, [DIRECTORY, 1023, 0]);
        });
        own.run_to_off();
    }
}

#[test]
fn nothing_is_mapped_in_the_hosts_part_and_a_kernel_that_touches_it_is_killed() {
    let touch = |form| {
        guest(form, |program| {
            program.gate(14, 0x8e);
            program.set(DIRECTORY + 4 * 1023, TABLE | 7);
            program.load(EAX, 0xffc0_0010);
        })
        .handle(14, |program| program.show(14))
    };
    for form in [Form::G26, Form::G31] {
        assert!(touch(form).death().contains("0xffc00010"));
    }
    let mut late = touch(Form::G41);
    late.run_to_off();
    assert_eq!(late.shown()[..2], [14, 0], "an ordinary fault from 4.1 on");
    // A user's wild pointer is the user's business on every form.
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.gate(14, 0x8e);
            program.enter_user();
        })
        .user(|program| program.load(EAX, 0xffff_fff0))
        .handle(14, |program| program.show(14));
        guest.run_to_off();
        assert_eq!(guest.shown()[..3], [14, 4, USER], "{form:?}");
    }
}

/// What 2.6.32 does between INIT and its own tables.
fn with_first_tables(wide: bool) -> Guest {
    let guest = raw(Form::G26, |program| {
        program.mov(ESP, STACK);
        program.call(call::INIT, [DATA, 0, 0]);
        program.load(EAX, KERNEL + 0x1300);
        program.note(EAX);
        program.load(EAX, KERNEL + MEMORY - 4);
        program.note(EAX);
        program.load(EAX, MEMORY - 4);
        program.note(EAX);
        program.note_word(DATA + data::FORM);
        program.off();
    });
    if wide {
        // The first directory of a kernel with PAE, in its image.
        for slot in [0, 3] {
            guest.put(0x15_0000 + 8 * slot, 0x16_0001);
        }
    }
    guest.put(0x1300, 0x77);
    guest.put(MEMORY - 4, 0x88);
    guest
}

#[test]
fn the_first_tables_of_2_6_32_map_memory_at_zero_and_at_the_kernels_address() {
    for wide in [false, true] {
        let mut guest = with_first_tables(wide);
        guest.run_to_off();
        assert_eq!([guest.noted(0), guest.noted(1), guest.noted(2)], [0x77, 0x88, 0x88], "wide: {wide}");
        // Just below the initial RAM disk, which is at MEMORY - 0x1000.
        let root = guest.noted(3);
        assert_eq!(root, MEMORY - 0x2000, "wide: {wide}");
        if wide {
            assert_eq!([guest.word(root), guest.word(root + 24)], [(root - 0x1000) | 1; 2]);
            assert_eq!(guest.word(root + 4), 0);
        } else {
            assert_eq!(guest.word(root) & !0x60, (root - 0x2000) | 7);
            assert_eq!(guest.word(root + 4 * (KERNEL >> 22)) & !0x60, (root - 0x2000) | 7);
        }
    }
}
