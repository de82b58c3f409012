//! Every trap, from the kernel and from its user: what its handler is shown (facts 8 and 13).

use lguest_host::engine::Exit;

use crate::guest::*;

/// Flags that a frame is compared in: interrupts, I/O level, direction.
const LOOKED_AT: u32 = 0x3600;

/// Instructions that trap, by vector, and the error code that they push.
fn instructions() -> Vec<(u32, &'static [u8], Option<u32>)> {
    vec![
        (0, &[0x31, 0xc9, 0xf7, 0xf1], None), // xor ecx, ecx; div ecx
        (6, &[0x0f, 0x0b], None),             // ud2
        (13, &[0x0f, 0x32], Some(0)),         // rdmsr
        (13, &[0xb8, 0x3b, 0, 0, 0, 0x8e, 0xe8], Some(0x38)), // mov eax, 0x3b; mov gs, eax: not set
        (13, &[0xcd, 0x21], Some(0x10a)),     // int 0x21, which has no gate
        (14, &[0xa1, 0, 0, 0x50, 0], Some(0)), // mov eax, [0x500000]
        (14, &[0xc7, 0x05, 0, 0, 0x50, 0, 1, 0, 0, 0], Some(2)), // mov dword [0x500000], 1
        (5, &[0x31, 0xc0, 0x62, 0x05, 0, 0x10, 0x28, 0], None), // xor eax, eax; bound eax, [USER + 0x1000]
        (16, &[0xdb, 0xe3, 0xd9, 0x2d, 8, 0x10, 0x28, 0, 0xd9, 0xee, 0xd9, 0xe8, 0xd8, 0xf1, 0x9b], None),
    ]
}

#[test]
fn each_trap_calls_its_handler_with_the_guests_own_interrupt_flag() {
    for form in FORMS {
        for user in [false, true] {
            for (vector, bytes, error_code) in instructions() {
                for (gate, enabled) in [(0x8e, 0x200), (0x8f, 0x200), (0x8e, 0)] {
                    let mut guest = guest(form, |program| {
                        program.gate(vector, gate);
                        program.set(DATA + data::IRQ_ENABLED, enabled);
                        if user {
                            program.enter_user();
                        } else {
                            program.db(bytes);
                        }
                    })
                    .user(|program| program.db(bytes))
                    .handle(vector, |program| program.show(vector));
                    // Bounds 5 and 9; a control word that lets no x87 error pass in silence.
                    for (n, word) in [(0, 5), (1, 9), (2, 0x0340)] {
                        guest.put(USER + 0x1000 + 4 * n, word);
                    }
                    let what = format!("{form:?}, user {user}, trap {vector}, gate {gate:#x}, {bytes:x?}");
                    guest.run_to_off();
                    let shown = guest.shown();
                    assert_eq!(shown[0], vector, "{what}");
                    let frame = match error_code {
                        Some(code) => {
                            let by_user = if user && vector == 14 { 4 } else { 0 };
                            assert_eq!(shown[1], code | by_user, "{what}");
                            &shown[2..]
                        }
                        None => &shown[1..],
                    };
                    let (code, selector) = if user { (USER, 0x73) } else { (CODE, 0x61) };
                    assert!(frame[0] >= code && frame[0] < code + 0x1_0000, "{what}: {:#x}", frame[0]);
                    assert_eq!(frame[1], selector, "{what}");
                    assert_eq!(frame[2] & LOOKED_AT, enabled, "{what}: the pushed flag is the Guest's");
                    if user {
                        assert_eq!(frame[3], USER_STACK, "{what}");
                    }
                    assert_eq!(shown[7], if gate == 0x8e { 0 } else { enabled }, "{what}: irq_enabled");
                    if vector == 14 {
                        assert_eq!(guest.word(DATA + data::CR2), 0x50_0000, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_trap_without_a_handler_kills_and_says_where() {
    for form in FORMS {
        for (bytes, words) in [
            (&[0x0f, 0x0b][..], ["trap 6", "invalid instruction"]),
            (&[0xa1, 0, 0, 0x50, 0], ["trap 14", "touching 0x500000"]),
            (&[0x0f, 0x32], ["trap 13", "error code 0x0"]),
        ] {
            let mut guest = guest(form, |program| program.db(bytes));
            let death = guest.death();
            assert!(words.iter().all(|word| death.contains(word)), "{death}");
        }
        let mut early = raw(form, |program| program.db(&[0x0f, 0x0b]));
        assert!(early.death().contains("0x100000"));
    }
}

#[test]
fn a_users_system_call_goes_to_the_kernels_stack_and_back() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.gate(0x80, 0xef);
            program.gate(13, 0x8e);
            program.set(DATA + data::IRQ_ENABLED, 0x200);
            program.enter_user();
        })
        .user(|program| {
            program.mov(EBX, 0);
            for n in 0..3 {
                program.mov(EAX, n);
                program.db(&[0xcd, 0x80]);
                program.db(&[0x01, 0xc3]); // add ebx, eax
            }
            program.db(&[0xfa]); // cli: the end
        })
        .handle(0x80, |program| {
            program.store(SHOWN + 0x100, ESP);
            program.load(ECX, DATA + data::IRQ_ENABLED);
            program.store(SHOWN + 0x104, ECX);
            program.db(&[0x83, 0xc0, 10, 0xcf]); // add eax, 10; iretd
        })
        .handle(13, |program| {
            program.store(SHOWN + 0x108, EBX);
            program.show(13);
        });
        guest.run_to_off();
        let word = |n: u32| guest.word(SHOWN + 0x100 + 4 * n);
        assert_eq!(
            [word(0), word(1)],
            [TRAP_STACK - 20, 0x200],
            "{form:?}: a trap gate leaves interrupts on"
        );
        assert_eq!(word(2), 10 + 11 + 12, "{form:?}");
    }
}

#[test]
fn the_call_of_the_kernel_is_a_protection_fault_for_its_user() {
    for form in [Form::G31, Form::G41] {
        let mut guest = guest(form, |program| {
            program.gate(13, 0x8e);
            program.enter_user();
        })
        .user(|program| program.db(&[0xcd, 0x1f]))
        .handle(13, |program| program.show(13));
        guest.run_to_off();
        assert_eq!(guest.shown()[..4], [13, 0xfa, USER, 0x73]);
    }
    // 2.6.32's is an instruction that does not exist.
    let mut guest = guest(Form::G26, |program| {
        program.gate(6, 0x8e);
        program.enter_user();
    })
    .user(|program| program.db(&[0x0f, 0x01, 0xc1]))
    .handle(6, |program| program.show(6));
    guest.run_to_off();
    assert_eq!(guest.shown()[..3], [6, USER, 0x73]);
}

#[test]
fn a_breakpoint_needs_a_gate_that_lets_the_user_in() {
    for (kind, shown) in [(0xee, [3, USER + 1, 0x73]), (0x8e, [13, 0x1a, USER])] {
        let mut guest = guest(Form::G31, |program| {
            program.gate(3, kind);
            program.gate(13, 0x8e);
            program.enter_user();
        })
        .user(|program| program.db(&[0xcc]))
        .handle(3, |program| program.show(3))
        .handle(13, |program| program.show(13));
        guest.run_to_off();
        assert_eq!(guest.shown()[..3], shown);
    }
}

#[test]
fn a_kernel_of_the_form_before_init_gets_no_mercy_and_the_user_no_ports() {
    let mut guest = guest(Form::G31, |program| {
        program.gate(13, 0x8e);
        program.enter_user();
    })
    .user(|program| program.db(&[0xe4, 0x71])) // in al, 0x71
    .handle(13, |program| program.show(13));
    guest.run_to_off();
    assert_eq!(guest.shown()[..3], [13, 0, USER]);
}

#[test]
fn task_switched_makes_floating_point_trap_until_it_is_taken_back() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.gate(7, 0x8e);
            program.db(&[0xd9, 0xee]); // fldz: TS is clear at the start
            program.call(call::TS, [8, 0, 0]);
            program.db(&[0xd9, 0xee]);
            program.db(&[0x66, 0x0f, 0x6e, 0xc0]); // movd xmm0, eax
        })
        .handle(7, |program| {
            program.db(&[0xff, 0x05]); // inc dword [SHOWN]
            program.db(&SHOWN.to_le_bytes());
            program.call(call::TS, [0, 0, 0]);
            program.db(&[0xcf]);
        });
        guest.run_to_off();
        assert_eq!(guest.word(SHOWN), 1, "{form:?}");
    }
}

#[test]
fn single_steps_are_the_users_and_flags_of_a_handler_are_clean() {
    // TF by `popf`: the trap comes behind the next instruction, and the handler itself is not stepped.
    let mut guest = guest(Form::G31, |program| {
        program.gate(1, 0x8e);
        program.enter_user();
    })
    .user(|program| {
        program.push(0x302);
        program.db(&[0x9d, 0x90, 0x90]); // popfd; nop; nop
    })
    .handle(1, |program| {
        program.db(&[0x9c, 0x58]); // pushfd; pop eax
        program.note(EAX);
        program.show(1);
    });
    guest.run_to_off();
    assert_eq!(guest.shown()[..2], [1, USER + 7]);
    assert_eq!(guest.shown()[3] & 0x100, 0x100, "the frame keeps TF");
}

#[test]
fn a_kernel_stack_that_is_not_there_kills() {
    let mut guest = guest(Form::G31, |program| {
        program.gate(13, 0x8e);
        program.call(call::SET_STACK, [0x69, 0x60_0000, 1]);
        program.enter_user();
    })
    .user(|program| program.db(&[0xfa]));
    let death = guest.death();
    assert!(death.contains("stack") && death.contains("0x5ffffc"), "{death}");
}

#[test]
fn what_lies_beyond_memory_kills_a_kernel_without_pci_and_is_the_boards_with_it() {
    let wild = |form| {
        guest(form, |program| {
            program.set(TABLE + 4 * 0x100, 0x1000_0000 | 3);
            program.load(EAX, 0x10_0008);
        })
    };
    for form in [Form::G26, Form::G31] {
        let death = wild(form).death();
        assert!(death.contains("0x10000008"), "{form:?}: {death}");
    }
    let mut guest = guest(Form::G41, |program| {
        program.set(TABLE + 4 * 0x150, (MEMORY + 0x10_0000) | 3);
        program.load(EAX, 0x15_0008);
        program.note(EAX);
    });
    assert_eq!(guest.run(), Exit::MmioRead { address: u64::from(MEMORY) + 0x10_0008, size: 4 });
    use lguest_host::engine::Vcpu;
    guest.vcpu.reply(77);
    guest.run_to_off();
    assert_eq!(guest.noted(0), 77);
}
