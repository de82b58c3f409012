//! Every hypercall, and what bad input gets (facts 4, 5, 7 and 12.3).

use lguest_host::engine::Exit;

use crate::guest::*;

#[test]
fn init_fills_the_shared_page() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as u32;
    for form in FORMS {
        let mut guest = guest(form, |_| {});
        guest.run_to_off();
        assert_eq!(guest.word(DATA + data::RESERVE_MEM), 4 << 20, "{form:?}");
        let khz = guest.word(DATA + data::TSC_KHZ);
        assert!(khz == 0 || khz == 2_000_000, "{khz}");
        assert!(guest.word(DATA + data::SECONDS).wrapping_sub(now) < 100, "{form:?}");
        assert_eq!(guest.word(DATA + data::FORM) == 0xffff_fff0, form != Form::G26, "pgdir");
    }
}

#[test]
fn no_call_changes_a_register() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.mov(ESI, 0x1111);
            program.mov(EDI, 0x2222);
            program.mov(EBP, 0x3333);
            program.call(call::FLUSH_TLB, [1, 0x4444, 0x5555]);
            for register in [EAX, EBX, ECX, EDX, ESI, EDI, EBP, ESP] {
                program.note(register);
            }
        });
        guest.run_to_off();
        let registers: Vec<u32> = (0..8).map(|n| guest.noted(n)).collect();
        assert_eq!(registers, [5, 1, 0x4444, 0x5555, 0x1111, 0x2222, 0x3333, STACK], "{form:?}");
    }
}

#[test]
fn any_call_before_init_kills() {
    for form in FORMS {
        for number in (0..20).filter(|&number| number != call::INIT) {
            let mut guest = raw(form, |program| program.call(number, [0; 3]));
            assert_eq!(guest.death(), format!("hypercall {number} came before LGUEST_INIT"));
        }
    }
}

#[test]
fn numbers_without_a_meaning_kill_and_so_does_a_second_init() {
    for form in FORMS {
        let mut holes = vec![3, 11, 12, 20, 0xffff_ffff];
        if form == Form::G41 {
            holes.push(call::NOTIFY);
        }
        for number in holes {
            let mut guest = guest(form, |program| program.call(number, [0; 3]));
            assert_eq!(guest.death(), format!("there is no hypercall {number}"), "{form:?}");
            assert_eq!(guest.death(), format!("there is no hypercall {number}"), "it stays dead");
        }
        let mut guest = guest(form, |program| program.call(call::INIT, [DATA, 0, 0]));
        assert_eq!(guest.death(), "LGUEST_INIT came a second time");
    }
}

#[test]
fn init_with_data_outside_memory_or_of_no_known_form_kills() {
    for form in FORMS {
        for address in [LIMIT, LIMIT - 1000, 0xffff_ffff] {
            let mut guest = raw(form, |program| program.call(call::INIT, [address, 0, 0]));
            let death = guest.death();
            assert!(
                death.contains("outside its memory") && death.contains(&format!("{address:#x}")),
                "{death}"
            );
        }
        let mut guest = raw(form, |program| program.call(call::INIT, [NOTES, 0, 0]));
        assert!(guest.death().contains("none of 2.6.32's, 3.1's and 4.1's"));
    }
}

#[test]
fn a_kernel_whose_space_begins_in_the_hosts_part_is_killed() {
    let mut guest = raw(Form::G31, |program| program.call(call::INIT, [DATA, 0, 0]));
    guest.put(DATA + 1384, 0xffc0_0000);
    assert!(guest.death().contains("0xffc00000"));
}

#[test]
fn shutdown_tells_a_power_off_from_a_crash_and_a_restart() {
    for form in FORMS {
        let shut =
            |text: u32, reason: u32| guest(form, |program| program.call(call::SHUTDOWN, [text, reason, 0]));
        assert_eq!(shut(TEXT, 1).run(), Exit::Off);
        let mut crash = shut(0x1100, 1);
        crash.load(0x1100, b"Attempted to kill init!\n\x1b\0");
        assert_eq!(crash.death(), "CRASH: Attempted to kill init!\\n\\u{1b}");
        assert_eq!(shut(0x4000_0000, 2).run(), Exit::Restart, "a plain reboot names a text that is nowhere");
        assert!(shut(0x4000_0000, 1).death().contains("outside the Guest's memory"));
        let mut long = shut(0x1100, 1);
        long.load(0x1100, &[b'x'; 500]);
        assert_eq!(long.death(), format!("CRASH: {}", "x".repeat(127)));
        let mut edge = shut(LIMIT - 4, 1);
        edge.load(LIMIT - 4, b"oops");
        assert_eq!(edge.death(), "CRASH: oops");
    }
}

#[test]
fn notify_is_text_below_the_end_of_memory_and_a_device_above_it() {
    for form in [Form::G26, Form::G31] {
        let mut guest = guest(form, |program| {
            program.call(call::NOTIFY, [0, 0, 0]);
            program.call(call::NOTIFY, [0x1100, 0, 0]);
            program.call(call::NOTIFY, [MEMORY, 0, 0]);
            program.call(call::NOTIFY, [0xffff_f000, 0, 0]);
        });
        guest.load(0x1100, b"Linux version 3\0");
        assert_eq!(guest.run(), Exit::Text(b"Linux version 3".to_vec()));
        assert_eq!(guest.run(), Exit::Notify { value: MEMORY.into() });
        assert_eq!(guest.run(), Exit::Notify { value: 0xffff_f000 });
        guest.run_to_off();
    }
}

#[test]
fn set_stack_takes_level_1_and_two_pages() {
    for form in FORMS {
        for (selector, pages, word) in [(0x68, 1, "0x68"), (0x7b, 1, "0x7b"), (0x69, 3, "3 pages")] {
            let mut guest = guest(form, |program| program.call(call::SET_STACK, [selector, STACK, pages]));
            let death = guest.death();
            assert!(death.contains(word), "{death}");
        }
    }
}

#[test]
fn descriptors_and_gates_that_do_not_exist_kill() {
    for form in FORMS {
        let with =
            |number: u32, arguments: [u32; 3]| guest(form, |program| program.call(number, arguments)).death();
        assert!(with(call::LOAD_GDT_ENTRY, [32, 0, 0]).contains("LOAD_GDT_ENTRY 32"));
        assert!(with(call::LOAD_IDT_ENTRY, [256, 0, 0x8e00]).contains("LOAD_IDT_ENTRY 256"));
        assert!(with(call::LOAD_IDT_ENTRY, [14, 0, 0x8500]).contains("type 0x5"));
        assert!(with(call::LOAD_TLS, [LIMIT - 8, 0, 0]).contains("LOAD_TLS"));
        assert!(with(call::LOAD_TLS, [0xffff_fff8, 0, 0]).contains("LOAD_TLS"));
    }
}

#[test]
fn the_hosts_own_descriptors_are_heard_and_not_used() {
    let mut guest = guest(Form::G31, |program| {
        for index in [10, 11, 16, 31] {
            program.call(call::LOAD_GDT_ENTRY, [index, 0xffff, 0x00cf_f200]);
        }
        program.gate(13, 0x8e);
        program.mov(EAX, 0x53);
        program.db(&[0x8e, 0xe0]); // mov fs, eax
    })
    .handle(13, |program| program.show(13));
    guest.run_to_off();
    assert_eq!(guest.shown()[..2], [13, 0x50]);
}

#[test]
fn thread_storage_is_loaded_into_three_descriptors() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.call(call::LOAD_TLS, [0x1200, 0, 0]);
            for index in 6..9u32 {
                program.mov(EAX, index << 3 | 3);
                program.db(&[0x8e, 0xe8]); // mov gs, eax
                program.db(&[0x65, 0xa1, 4, 0, 0, 0]); // mov eax, gs:[4]
                program.note(EAX);
            }
            program.db(&[0x8c, 0xe8]); // mov eax, gs
            program.note(EAX);
        });
        for n in 0..3u32 {
            guest.put(0x1200 + 8 * n, 0x0000_0fff | (0x4000 + 0x1000 * n) << 16);
            guest.put(0x1204 + 8 * n, 0x0040_f200);
            guest.put(0x4004 + 0x1000 * n, 70 + n);
        }
        guest.run_to_off();
        let read: Vec<u32> = (0..4).map(|n| guest.noted(n)).collect();
        assert_eq!(read, [70, 71, 72, 0x43], "{form:?}");
    }
}

#[test]
fn ports_read_ones_and_swallow_what_is_written() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.mov(EAX, 0x1234_5678);
            program.db(&[0xe4, 0x71]); // in al, 0x71
            program.note(EAX);
            program.mov(EAX, 0x1234_5678);
            program.mov(EDX, 0x3f9);
            program.db(&[0x66, 0xed]); // in ax, dx
            program.note(EAX);
            program.db(&[0xed]); // in eax, dx
            program.note(EAX);
            program.mov(EAX, 0);
            program.db(&[0xe4, 0x64]); // in al, 0x64
            program.note(EAX);
            program.db(&[0xe6, 0x21]); // out 0x21, al
            program.db(&[0x66, 0xef]); // out dx, ax
            program.db(&[0xef]); // out dx, eax
            program.db(&[0xfa]); // cli
            program.db(&[0x9c]); // pushfd
            program.db(&[0x58]); // pop eax
            program.note(EAX);
        });
        guest.run_to_off();
        let read: Vec<u32> = (0..4).map(|n| guest.noted(n)).collect();
        assert_eq!(read, [0x1234_56ff, 0x1234_ffff, 0xffff_ffff, 1], "{form:?}");
        assert_eq!(guest.noted(4) & 0x3200, 0x200, "`cli` was skipped");
    }
}

#[test]
fn configuration_ports_are_the_boards_from_4_1_on() {
    let mut guest = guest(Form::G41, |program| {
        program.mov(EDX, 0xcf8);
        program.mov(EAX, 0x8000_0800);
        program.db(&[0xef]); // out dx, eax
        program.mov(EDX, 0xcfe);
        program.db(&[0x66, 0xed]); // in ax, dx
        program.note(EAX);
    });
    use lguest_host::engine::Vcpu;
    assert_eq!(guest.run(), Exit::PortOut { port: 0xcf8, size: 4, value: 0x8000_0800 });
    assert_eq!(guest.run(), Exit::PortIn { port: 0xcfe, size: 2 });
    guest.vcpu.reply(0xffff_1043);
    guest.run_to_off();
    assert_eq!(guest.noted(0), 0x8000_1043);
}

#[test]
fn vmcall_is_no_instruction_of_the_later_kernels() {
    for form in [Form::G31, Form::G41] {
        let mut guest = guest(form, |program| {
            program.gate(6, 0x8e);
            program.db(&[0x0f, 0x01, 0xc1]);
        })
        .handle(6, |program| program.show(6));
        guest.run_to_off();
        let code = guest.shown();
        assert_eq!((code[0], code[2]), (6, 0x61), "{form:?}");
        let mut at = [0; 3];
        guest.memory.read(lguest_host::memory::GuestAddress(code[1].into()), &mut at).unwrap();
        assert_eq!(at, [0x0f, 0x01, 0xc1]);
    }
}

#[test]
fn registers_of_the_model_are_zero_before_init() {
    for form in FORMS {
        let mut guest = raw(form, |program| {
            program.mov(ECX, 0x8b);
            program.db(&[0x0f, 0x30]); // wrmsr
            program.mov(EAX, 5);
            program.mov(EDX, 6);
            program.db(&[0x0f, 0x32]); // rdmsr
            program.note(EAX);
            program.note(EDX);
            program.begin();
            program.off();
        });
        (0..2).for_each(|n| guest.put(NOTES + 4 * n, 7));
        guest.run_to_off();
        assert_eq!([guest.noted(0), guest.noted(1)], [0, 0], "{form:?}");
    }
}

#[test]
fn a_port_instruction_over_the_end_of_a_page_is_found_by_its_addresses() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.mov(EAX, 0);
            program.push(0x1_0fff);
            program.db(&[0xc3]); // ret
        });
        // The second half lies in another frame than the one that follows.
        guest.put(TABLE + 4 * 0x11, 0x1_2000 | 3);
        guest.load(0x1_0fff, &[0xe4]); // in al, 0x71
        let mut rest = Program::new(form);
        rest.db(&[0x71]);
        rest.note(EAX);
        rest.off();
        guest.load(0x1_2000, &rest.bytes);
        guest.run_to_off();
        assert_eq!(guest.noted(0), 0xff, "{form:?}");
    }
}
