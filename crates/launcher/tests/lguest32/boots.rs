//! From the command to the kernel's first words, its first process, and its end.

use crate::kernel::*;

/// What 2.6.32 and 3.1 print before they have a console.
fn early(program: &mut Program, text: u32) {
    program.call(call::NOTIFY, [text, 0, 0]);
}

#[test]
fn early_words_are_seen_and_a_power_down_is_a_clean_end() {
    for form in [Form::G26, Form::G31] {
        let kernel = Kernel::new(form, |program| {
            program.begin();
            early(program, BANNER);
            program.power_down();
        });
        for options in [&[][..], &["--bus", "lguest"], &["--machine", "lguest32"]] {
            let finished = kernel.run("early", options, "");
            assert_eq!(finished.status, Some(0), "{finished:?}");
            assert!(finished.output.contains("(made here)"), "{finished:?}");
            assert!(finished.messages.contains("lguest's machine of 32 bits"), "{finished:?}");
        }
    }
}

#[test]
fn a_crash_is_told_and_a_restart_too() {
    let crash = Kernel::new(Form::G31, |program| {
        program.begin();
        program.call(call::SHUTDOWN, [BANNER, 1, 0]);
    });
    let finished = crash.run("crash", &[], "");
    assert_eq!(finished.status, Some(126), "{finished:?}");
    assert!(finished.messages.contains("CRASH: Linux version 3.1.10"), "{finished:?}");
    let restart = Kernel::new(Form::G31, |program| {
        program.begin();
        program.call(call::SHUTDOWN, [0x4000_0000, 2, 0]);
    });
    let finished = restart.run("restart", &[], "");
    assert_eq!(finished.status, Some(126), "{finished:?}");
    assert!(finished.messages.contains("reset itself"), "{finished:?}");
}

/// The order of a kernel's boot (facts 4.2): tables and gates, the write-protection test, the clock, a process with system calls
/// and copy-on-write, the ring, floating point, an idle halt, the end.
fn whole_boot(form: Form) -> Kernel {
    const PAGE: u32 = 0x1_0000;
    Kernel::new(form, |program| {
        program.begin();
        for index in 0..32 {
            let high = match index {
                12 => 0x00cf_9a00,
                13 => 0x00cf_9200,
                14 => 0x00cf_fa00,
                15 => 0x00cf_f200,
                _ => 0,
            };
            program.call(call::LOAD_GDT_ENTRY, [index, if high == 0 { 0 } else { 0xffff }, high]);
        }
        program.call(call::FLUSH_TLB, [1, 0, 0]);
        for vector in 0..256 {
            let kind = match vector {
                3 | 4 | 0x80 => 0xef,
                7 | 13 | 14 | 32 => 0x8e,
                _ => 0,
            };
            program.gate(vector, kind);
        }
        program.call(call::TS, [8, 0, 0]);
        // The kernel's test whether it may write what is read-only: it may not.
        program.set(TABLE + 4 * (PAGE >> 12), PAGE | 1);
        program.call(call::SET_PTE, [DIRECTORY, PAGE, PAGE | 1]);
        program.set(PAGE, 1);
        // The clock: ten steps of a millisecond.
        program.set(DATA + data::BLOCKED, 0);
        program.set(DATA + data::IRQ_ENABLED, 0x200);
        program.set(SHOWN, 0);
        program.call(call::SET_CLOCKEVENT, [1_000_000, 0, 0]);
        program.wait_for(SHOWN);
        // Lazy mode: three calls in the ring, one that makes them.
        for (n, (number, arguments)) in (0..).zip([
            (call::SET_STACK, [0x69, TRAP_STACK, 2]),
            (call::LOAD_TLS, [BUFFERS, 0, 0]),
            (call::TS, [8, 0, 0]),
        ]) {
            let [b, c, d] = arguments;
            for (place, value) in (0..).zip([number, b, c, d]) {
                program.set(DATA + data::RING + 20 * n + 4 * place, value);
            }
            program.db(&[0xc6, 0x05]); // mov byte [status], 0
            program.db(&(DATA + data::STATUS + n).to_le_bytes());
            program.db(&[0]);
        }
        program.call(call::FLUSH_ASYNC, [0; 3]);
        program.call(call::HALT, [0; 3]);
        program.set(DATA + data::IRQ_ENABLED, 0x200);
        program.enter_user();
    })
    .handle(32, |program| {
        program.db(&[0x60, 0xff, 0x05]); // pushad; inc dword [SHOWN]
        program.db(&SHOWN.to_le_bytes());
        program.call(call::SET_CLOCKEVENT, [1_000_000, 0, 0]);
        program.set(DATA + data::IRQ_ENABLED, 0x200);
        program.db(&[0x61, 0xcf]); // popad; iretd
    })
    .handle(7, |program| {
        program.db(&[0x60]);
        program.call(call::TS, [0, 0, 0]);
        program.db(&[0x61, 0xcf]);
    })
    .handle(14, |program| {
        // Copy on write: the page becomes writable; the first error code of each level is kept.
        program.db(&[0x60]);
        program.load(EAX, DATA + data::CR2);
        program.db(&[0xc1, 0xe8, 12, 0x83, 0x0c, 0x85]); // shr eax, 12; or dword [TABLE + 4 * eax], 2
        program.db(&TABLE.to_le_bytes());
        program.db(&[2]);
        program.db(&[0x8b, 0x1d]); // mov ebx, [cr2]
        program.db(&(DATA + data::CR2).to_le_bytes());
        program.db(&[0x89, 0xd9]); // mov ecx, ebx
        program.mov(EAX, call::SET_PTE);
        program.mov(EBX, DIRECTORY);
        program.mov(EDX, 0);
        program.trap();
        program.db(&[0x61, 0x83, 0xc4, 4, 0xcf]); // popad; add esp, 4; iretd
    })
    .handle(0x80, |program| {
        // exit(0) powers down if the process counted right; anything else comes back.
        program.db(&[0x83, 0xf8, 1, 0x75, 20]); // cmp eax, 1; jne to the end
        let before = program.bytes.len();
        program.db(&[0x81, 0xfb]); // cmp ebx, 5000
        program.db(&5000u32.to_le_bytes());
        program.db(&[0x75, 12]); // jne to the end
        program.db(&[0xe9]); // jmp the last words
        program.db(&(LAST.wrapping_sub(HANDLERS + 256 * 0x80 + before as u32 + 13)).to_le_bytes());
        program.db(&[0x90; 7]);
        assert_eq!(program.bytes.len() - before, 20);
        program.db(&[0x43, 0xcf]); // inc ebx; iretd
    })
    .handle(13, |program| program.call(call::SHUTDOWN, [BANNER, 1, 0]))
    .user(|program| {
        program.mov(EBX, 0);
        program.db(&[0xd9, 0xee]); // fldz: #NM once
        program.set(USER + 0x2000, 1); // copy on write
        // loop: mov eax, 20; int 0x80; cmp ebx, 5000; jne loop
        program.mov(EAX, 20);
        program.db(&[0xcd, 0x80, 0x81, 0xfb]);
        program.db(&5000u32.to_le_bytes());
        program.db(&[0x75, 0xf1]);
        program.mov(EAX, 1);
        program.db(&[0xcd, 0x80, 0xeb, 0xfe]);
    })
}

/// Where the last words are: past the handler of the last vector.
const LAST: u32 = HANDLERS + 256 * 256;

#[test]
fn a_whole_boot_runs_to_its_first_process_and_its_end() {
    for form in FORMS {
        let mut kernel = whole_boot(form);
        let mut last = Program::new(form);
        if form != Form::G41 {
            early(&mut last, BANNER);
        }
        last.power_down();
        kernel.load(LAST, &last.bytes);
        // The process's page is read-only at first.
        kernel.put(TABLE + 4 * ((USER + 0x2000) >> 12), (USER + 0x2000) | 5);
        let finished = kernel.run("boot", &[], "");
        assert_eq!(finished.status, Some(0), "{form:?}: {finished:?}");
        assert_eq!(finished.output.contains("made here"), form != Form::G41, "{finished:?}");
    }
}
