//! Stopping between instructions, as the manual has it (SDM vol. 3, chapter 18): single step, breakpoints on execution,
//! data and ports, and a debugger on the Host that the Guest cannot see.

use crate::machine::*;
use lguest_translator::Exit;
use lguest_translator::debug::{Stop as Seen, WatchKind};

/// #DB.
const DB: u64 = 1;
/// The trap flag, and RF.
const TF: u64 = 0x100;
const RF: u64 = 0x1_0000;
/// DR6: single step, general detect.
const BS: u64 = 1 << 14;
const BD: u64 = 1 << 13;

/// DR6 as far as it says what happened.
fn why(machine: &Machine) -> u64 {
    machine.vcpu.cpu().dr[6] & 0xe00f
}

/// The address of the instruction that is `n` bytes behind the code's start, for traps.
fn at(trapped: Trapped) -> u64 {
    trapped.rip - CODE
}

/// Runs to #DB and says where, and what DR6 says.
#[track_caller]
fn debug(machine: &mut Machine) -> (u64, u64) {
    let trapped = machine.run_to_trap();
    assert_eq!(trapped.vector, DB, "{trapped:x?}");
    (at(trapped), why(machine))
}

#[test]
fn tf_traps_after_each_instruction_that_began_with_it() {
    // 18.3.1.4: not after the `popf` that sets it, but after each one from the next on; after the one that clears it.
    let mut machine = Machine::with(&assembled!(
        "pushfq",                      // 0
        "or qword ptr [rsp], 0x100",   // 1
        "popfq",                       // 9
        "mov eax, 5",                  // 10
        "push rax",                    // 15
        "pop rcx",                     // 16
        "pushfq",                      // 17
        "and qword ptr [rsp], ~0x100", // 18
        "popfq",                       // 26
        "nop",                         // 27
        "hlt"                          // 28
    ));
    for place in [15, 16, 17, 18, 26, 27] {
        assert_eq!(debug(&mut machine), (place, BS));
    }
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RCX), 5);
}

#[test]
fn the_frame_of_a_single_step_has_tf_set_and_the_handler_runs_without() {
    let mut machine = Machine::with(&assembled!("push 0x102", "popfq", "nop", "hlt"));
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.rflags & (TF | RF)), (DB, TF));
    assert_eq!(machine.vcpu.rflags() & TF, 0);
}

#[test]
fn mov_ss_holds_the_trap_back_for_one_instruction() {
    // 6.8.3 and 18.3.1.4: no trap between `mov ss` and what follows it.
    let mut machine = Machine::with(&assembled!(
        "mov ecx, 0x18", // 0
        "push 0x102",    // 5
        "popfq",         // 10
        "mov ss, ecx",   // 11
        "nop",           // 13
        "nop",           // 14
        "hlt"
    ));
    assert_eq!(debug(&mut machine), (14, BS));
    assert_eq!(debug(&mut machine), (15, BS));
}

#[test]
fn a_repeated_string_instruction_traps_after_each_element() {
    let mut machine = Machine::with(&assembled!(
        "push 0x102", // 0
        "popfq",      // 5
        "rep stosb",  // 6
        "nop",        // 8
        "hlt"
    ));
    machine.vcpu.set_gpr(reg::RDI, DATA);
    machine.vcpu.set_gpr(reg::RCX, 3);
    let steps: Vec<_> = (0..4).map(|_| debug(&mut machine)).collect();
    assert_eq!(steps, [(6, BS), (6, BS), (8, BS), (9, BS)]);
    assert_eq!(machine.vcpu.gpr(reg::RCX), 0);
}

#[test]
fn an_exception_takes_the_place_of_the_trap() {
    // 6.9: the fault is delivered with TF in its frame, and the handler is not stepped.
    let mut machine = Machine::with(&assembled!("push 0x102", "popfq", "ud2", "hlt"));
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.rflags & TF), (6, TF));
    machine.return_to(trapped.rip + 2);
    // The frame brings TF back, and a trap ends the halt that it follows.
    assert_eq!(debug(&mut machine), (9, BS));
}

#[test]
fn sysret_with_tf_traps_before_the_users_first_instruction() {
    let mut machine = Machine::new();
    machine.load(USER_CODE, &assembled!("nop", "nop", "int3"));
    machine.load(CODE, &assembled!("mov ecx, {user}", "mov r11d, 0x302", "sysretq"; user = USER_CODE));
    machine.start(CODE);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.rip, trapped.cs), (DB, USER_CODE, 0x33));
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.rip), (DB, USER_CODE + 1));
}

#[test]
fn syscall_that_masks_tf_does_not_trap() {
    let mut machine = Machine::new();
    machine.load(USER_CODE, &assembled!("push 0x302", "popfq", "syscall"));
    machine.start_user(USER_CODE);
    // The kernel's entry is `ud2`.
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.rip, trapped.rflags & TF), (6, CALLED, 0));
    assert_eq!(machine.vcpu.cpu().gpr[11] & TF, TF, "r11 has the flags from before");
}

#[test]
fn int1_traps_with_nothing_in_dr6() {
    let mut machine = Machine::with(&assembled!(".byte 0xf1", "hlt"));
    assert_eq!(debug(&mut machine), (1, 0));
}

/// Code that arms breakpoint 0 for `address` with DR7 in rcx, ten bytes of `nop` behind it, and so on.
fn armed(dr7: u64, address: u64) -> Machine {
    let mut machine = Machine::with(&assembled!(
        "mov dr0, rbx",       // 0
        "mov dr7, rcx",       // 3
        "xor eax, eax",       // 6
        "2: inc eax",         // 8
        "mov [rdi], rax",     // 10
        "mov rdx, [rdi + 8]", // 13
        "cmp eax, 3",         // 17
        "jne 2b",             // 20
        "hlt"                 // 22
    ));
    machine.vcpu.set_gpr(reg::RBX, address);
    machine.vcpu.set_gpr(reg::RCX, dr7);
    machine.vcpu.set_gpr(reg::RDI, DATA);
    machine
}

#[test]
fn an_execution_breakpoint_faults_before_its_instruction_until_rf_lets_it_by() {
    // 18.3.1.1.
    let mut machine = armed(1, CODE + 13);
    for turn in 1..=3 {
        let trapped = machine.run_to_trap();
        assert_eq!((trapped.vector, at(trapped), why(&machine)), (DB, 13, 1));
        assert_eq!(trapped.rflags & RF, 0, "the image has RF as it was");
        assert_eq!(machine.vcpu.gpr(reg::RAX), turn);
        machine.return_with_flags(trapped.rflags | RF);
    }
    machine.run_to_halt();
}

#[test]
fn without_rf_the_breakpoint_hits_again() {
    let mut machine = armed(1, CODE + 13);
    for _ in 0..3 {
        assert_eq!(debug(&mut machine), (13, 1));
        assert_eq!(machine.vcpu.gpr(reg::RAX), 1);
    }
}

#[test]
fn a_breakpoint_in_code_that_is_already_translated_and_linked_hits() {
    let code = assembled!(
        "xor eax, eax",     // 0
        "2: inc eax",       // 2
        "cmp eax, 1000",    // 4
        "jne 3f",           // 9
        "mov dr0, rbx",     // 11
        "mov dr7, rcx",     // 14
        "3: cmp eax, 1003", // 17
        "jne 2b",           // 22
        "hlt"
    );
    let mut machine = Machine::with(&code);
    machine.vcpu.set_gpr(reg::RBX, CODE + 4);
    machine.vcpu.set_gpr(reg::RCX, 2);
    for turn in 1001..=1003 {
        let trapped = machine.run_to_trap();
        assert_eq!((trapped.vector, at(trapped), machine.vcpu.gpr(reg::RAX)), (DB, 4, turn));
        machine.return_with_flags(trapped.rflags | RF);
    }
    machine.run_to_halt();
}

#[test]
fn a_write_watch_traps_behind_the_write_and_not_behind_a_read() {
    // R/W0 = 1, LEN0 = 3: four bytes. The read of the next eight does not touch them.
    let mut machine = armed(1 | 0xd << 16, DATA);
    for turn in 1..=3 {
        assert_eq!(debug(&mut machine), (13, 1));
        assert_eq!(machine.get(DATA), turn, "the write is done");
    }
    machine.run_to_halt();
}

#[test]
fn a_read_watch_traps_behind_reads_of_any_byte_of_it() {
    // R/W0 = 3, LEN0 = 0: one byte, inside what is read.
    let mut machine = armed(1 | 0x3 << 16, DATA + 15);
    for _ in 0..3 {
        assert_eq!(debug(&mut machine), (17, 1));
    }
    machine.run_to_halt();
}

#[test]
fn a_watch_on_a_page_in_use_leaves_its_neighbours_right() {
    let mut machine = armed(1 | 0xd << 16, DATA + 0x800);
    machine.put(DATA + 8, 77);
    machine.run_to_halt();
    assert_eq!((machine.get(DATA), machine.vcpu.gpr(reg::RDX)), (3, 77));
}

#[test]
fn watched_pushes_and_string_writes_trap() {
    let mut machine = Machine::with(&assembled!(
        "mov dr0, rbx",       // 0
        "mov dr7, rcx",       // 3
        "push rax",           // 6
        "lea rdi, [rsp - 2]", // 7
        "mov ecx, 4",         // 12
        "rep stosb",          // 17
        "hlt"                 // 19
    ));
    machine.vcpu.set_gpr(reg::RBX, STACK - 8);
    machine.vcpu.set_gpr(reg::RCX, 1 | 0x1 << 16);
    assert_eq!(debug(&mut machine), (7, 1));
    // The third of four elements reaches the watched byte.
    assert_eq!(debug(&mut machine), (17, 1));
    assert_eq!(machine.vcpu.gpr(reg::RCX), 1);
    machine.run_to_halt();
}

#[test]
fn a_port_breakpoint_traps_when_cr4_says_that_it_is_one() {
    // 18.2.4: R/W 2 means ports only with CR4.DE.
    for (cr4, hits) in [(8, true), (0, false)] {
        let mut machine = Machine::with(&assembled!(
            "mov rax, cr4",
            "or rax, rsi",
            "mov cr4, rax",
            "mov dr0, rbx",
            "mov dr7, rcx",
            "mov dx, 0x80",
            "out dx, al",
            "hlt"
        ));
        machine.vcpu.set_gpr(reg::RSI, cr4);
        machine.vcpu.set_gpr(reg::RBX, 0x80);
        machine.vcpu.set_gpr(reg::RCX, 1 | 0x2 << 16);
        assert!(matches!(machine.run(), Stop::Exit(Exit::PortOut { port: 0x80, .. })));
        match machine.run() {
            Stop::Trap(trapped) => assert!(hits && trapped.vector == DB && why(&machine) == 1),
            stop => assert!(!hits && stop == Stop::Exit(Exit::Halt), "{stop:?}"),
        }
    }
}

#[test]
fn general_detect_guards_the_debug_registers_once() {
    // 18.2.4: BD in DR6, before the instruction, and the handler may use them.
    let mut machine = Machine::with(&assembled!("mov dr7, rcx", "mov rax, dr0", "hlt"));
    machine.vcpu.set_gpr(reg::RCX, 1 << 13);
    assert_eq!(debug(&mut machine), (3, BD));
    assert_eq!(machine.vcpu.cpu().dr[7] >> 13 & 1, 0);
    machine.run_to_halt();
}

#[test]
fn the_hosts_breakpoint_stops_before_the_instruction_and_leaves_no_trace() {
    let code = assembled!("xor eax, eax", "2: inc eax", "cmp eax, 3", "jne 2b", "hlt");
    let mut machine = Machine::with(&code);
    assert!(machine.vcpu.debug_breakpoint(CODE + 4, true));
    for turn in 1..=3 {
        assert_eq!(machine.run(), Stop::Exit(Exit::Debug(Seen::Breakpoint)));
        assert_eq!((machine.vcpu.rip(), machine.vcpu.gpr(reg::RAX)), (CODE + 4, turn));
    }
    let mut bytes = vec![0; code.len()];
    assert_eq!(machine.vcpu.debug_read(CODE, &mut bytes), bytes.len());
    assert_eq!(bytes, code);
    assert_eq!(why(&machine), 0);
    machine.run_to_halt();
}

#[test]
fn a_breakpoint_that_was_taken_back_does_not_stop() {
    let mut machine = Machine::with(&assembled!("xor eax, eax", "2: inc eax", "cmp eax, 9", "jne 2b", "hlt"));
    machine.vcpu.debug_breakpoint(CODE + 4, true);
    assert_eq!(machine.run(), Stop::Exit(Exit::Debug(Seen::Breakpoint)));
    machine.vcpu.debug_breakpoint(CODE + 4, false);
    machine.run_to_halt();
}

#[test]
fn the_host_steps_one_instruction_a_run_over_faults_and_halts() {
    let mut machine =
        Machine::with(&assembled!("mov eax, 1", "push rax", "mov rdx, [rsp]", "hlt", "nop", "hlt"));
    machine.vcpu.debug_step(true);
    // The harness' own `iretq` is the first.
    for place in [0, 5, 6, 10, 11, 12] {
        assert_eq!(machine.run(), Stop::Exit(Exit::Debug(Seen::Step)));
        assert_eq!(machine.vcpu.rip(), CODE + place);
    }
    machine.vcpu.debug_step(false);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RDX), 1);
}

#[test]
fn the_hosts_watch_stops_behind_the_write() {
    let mut machine = armed(0, 0);
    assert!(machine.vcpu.debug_watch(DATA, 4, WatchKind::Write, true));
    let seen = Seen::Watch { address: DATA, kind: WatchKind::Write };
    for turn in 1..=3 {
        assert_eq!(machine.run(), Stop::Exit(Exit::Debug(seen)));
        assert_eq!((machine.get(DATA), machine.vcpu.rip()), (turn, CODE + 13));
    }
    machine.run_to_halt();
}

#[test]
fn code_that_the_host_writes_over_is_translated_anew() {
    let mut machine = Machine::with(&assembled!("2: inc eax", "jmp 3f", "3: hlt", "jmp 2b"));
    machine.run_to_halt();
    // The jump becomes two `nop`s and `hlt` stays: run the same place again with `inc` made `dec`.
    assert!(machine.vcpu.debug_write(CODE, &[0xff, 0xc8]));
    machine.vcpu.set_gpr(reg::RAX, 10);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 9);
}

#[test]
fn reading_where_nothing_is_mapped_reads_nothing() {
    let machine = Machine::with(&assembled!("hlt"));
    let mut bytes = [0; 16];
    assert_eq!(machine.vcpu.debug_read(RAM_BYTES - 8, &mut bytes), 8);
    assert_eq!(machine.vcpu.debug_read(0x7000_0000_0000, &mut bytes), 0);
}
