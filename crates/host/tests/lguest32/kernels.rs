//! Ways of the real kernels that a Guest written for a test would not think of: how they call before they patch themselves, what
//! is left of a lock on one processor, and faults that an exception table answers.

use crate::guest::*;

/// Pointers and code beside the program, and the second address at which it is the same.
const POINTERS: u32 = 0x21_2000;
const ROUTINES: u32 = 0x21_3000;
const ALIAS: u32 = KERNEL;

/// An instruction with an address behind it.
fn at(bytes: &[u8], address: u32) -> Vec<u8> {
    [bytes, &address.to_le_bytes()].concat()
}

#[test]
fn calls_and_jumps_go_by_pointers_in_the_code_segment_until_they_are_patched() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.db(&at(&[0x2e, 0xff, 0x15], POINTERS)); // call *%cs:pointer
            program.note(EAX);
            program.mov(ECX, 1);
            program.db(&at(&[0x2e, 0xff, 0x14, 0x8d], POINTERS)); // call *%cs:pointers(, %ecx, 4)
            program.note(EAX);
            // Patched by the kernel's other address, once it has run.
            program.db(&at(&[0xc6, 0x05], ALIAS + ROUTINES + 1));
            program.db(&[0x33]);
            program.db(&at(&[0x2e, 0xff, 0x15], POINTERS));
            program.note(EAX);
        });
        // mov eax, 0x11; ret
        guest.load(ROUTINES, &[0xb8, 0x11, 0, 0, 0, 0xc3]);
        // jmp *%cs:pointer, as `iret`'s place has it
        guest.load(ROUTINES + 16, &at(&[0x2e, 0xff, 0x25], POINTERS + 8));
        guest.load(ROUTINES + 32, &[0xb8, 0x22, 0, 0, 0, 0xc3]);
        for n in 0..3 {
            guest.put(POINTERS + 4 * n, ROUTINES + 16 * n);
        }
        guest.run_to_off();
        assert_eq!([0, 1, 2].map(|n| guest.noted(n)), [0x11, 0x22, 0x33], "{form:?}");
    }
}

#[test]
fn a_lock_that_was_patched_away_is_a_prefix_that_changes_nothing() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.push(6);
            program.db(&[0x3e, 0xff, 0x04, 0x24]); // ds incl (%esp)
            program.db(&[0x58]);
            program.note(EAX);
            program.mov(EAX, 5);
            program.set(POINTERS, 7);
            program.db(&at(&[0x3e, 0x0f, 0xc1, 0x05], POINTERS)); // ds xadd %eax, (pointer)
            program.note(EAX);
            program.note_word(POINTERS);
            // Eight bytes at once, as PAE's entries are written.
            program.set(POINTERS + 4, 0);
            program.mov(EAX, 12);
            program.mov(EDX, 0);
            program.mov(EBX, 3);
            program.mov(ECX, 4);
            program.db(&at(&[0x3e, 0x0f, 0xc7, 0x0d], POINTERS)); // ds cmpxchg8b
            program.note_word(POINTERS);
            program.note_word(POINTERS + 4);
            // The interrupt flag's way out: pushl 8(%esp); popl %ss:(...)
            program.push(0x202);
            program.push(0);
            program.push(0);
            program.db(&[0xff, 0x74, 0x24, 8]);
            program.db(&at(&[0x36, 0x8f, 0x05], POINTERS));
            program.note_word(POINTERS);
        });
        guest.run_to_off();
        assert_eq!([0, 1, 2, 3, 4, 5].map(|n| guest.noted(n)), [7, 7, 12, 3, 4, 0x202], "{form:?}");
    }
}

#[test]
fn a_return_to_a_segment_that_is_not_there_faults_where_it_stands() {
    // An exception table knows the return by its address; what it would have taken from the stack is still there.
    for form in FORMS {
        let mut back = 0;
        let mut guest = guest(form, |program| {
            program.gate(13, 0x8e);
            for word in [0x202, 0x20 | 1, CODE] {
                program.push(word);
            }
            back = CODE + program.bytes.len() as u32;
            program.db(&[0xcf]);
        })
        .handle(13, |program| program.show(13));
        guest.run_to_off();
        let shown = guest.shown();
        assert_eq!(shown[1..4], [0x20, back, 0x61], "{form:?}");
        assert_eq!(shown[5..7], [CODE, 0x21], "{form:?}");
    }
}

#[test]
fn a_copy_that_faults_halfway_says_how_much_is_left() {
    // What the kernels' copies to users count by.
    const PAGE: u32 = 0x1_0000;
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.gate(14, 0x8e);
            program.set(TABLE + 4 * (PAGE >> 12), PAGE | 1);
            program.call(call::SET_PTE, [DIRECTORY, PAGE, PAGE | 1]);
            program.mov(ESI, CODE);
            program.mov(EDI, PAGE - 8);
            program.mov(ECX, 5);
            program.db(&[0xf3, 0xa5]); // rep movsl
        })
        .handle(14, |program| {
            program.note(ECX);
            program.note(ESI);
            program.note(EDI);
            program.off();
        });
        guest.run_to_off();
        assert_eq!([0, 1, 2].map(|n| guest.noted(n)), [3, CODE + 8, PAGE], "{form:?}");
        assert_eq!(guest.word(DATA + data::CR2), PAGE);
    }
}

#[test]
fn rights_and_limits_of_a_segment_are_asked_for_without_a_trap() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.mov(EAX, 0x7b);
            program.db(&[0x0f, 0x02, 0xc8]); // lar ecx, eax
            program.note(ECX);
            program.db(&[0x0f, 0x03, 0xc8]); // lsl ecx, eax
            program.note(ECX);
            // One that is not there: the zero flag is off and nothing changes.
            program.mov(EAX, 0x33);
            program.db(&[0x0f, 0x03, 0xc8, 0x0f, 0x94, 0xc2]); // lsl ecx, eax; setz dl
            program.db(&[0x0f, 0xb6, 0xd2]);
            program.note(EDX);
        });
        guest.run_to_off();
        assert_eq!([0, 1, 2].map(|n| guest.noted(n)), [0x00cf_f300, u32::MAX, 0], "{form:?}");
    }
}

#[test]
fn the_tables_of_a_firmware_are_nowhere_before_init_and_no_business_after_it() {
    for form in FORMS {
        for register in [EAX, ESI] {
            let mut guest = raw(form, |program| {
                program.mov(register, 5);
                program.db(&[0x0f, 0x20, 0xd8 | register]); // mov register, cr3
                program.note(register);
                program.begin();
                program.gate(13, 0x8e);
                program.db(&[0x0f, 0x20, 0xd8 | register]);
            })
            .handle(13, |program| program.show(13));
            guest.put(NOTES, 7);
            guest.run_to_off();
            assert_eq!((guest.noted(0), guest.shown()[..2].to_vec()), (0, vec![13, 0]), "{form:?}");
        }
    }
}
