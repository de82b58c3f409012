//! Device registers behind guest-physical addresses that are no RAM: which exits the Guest's accesses become, and what
//! becomes of the answers. And atomic instructions across a page's end, which take the same way.

use crate::machine::*;
use lguest_translator::Exit;

/// Where the device's page is seen.
const WINDOW: u64 = 0xffff_9000_0000_0000;

/// A machine whose rbx points to a device's page.
fn machine(code: &[u8]) -> Machine {
    let mut machine = Machine::with(code);
    machine.map(WINDOW, DEVICE, P | W);
    machine.vcpu.set_gpr(reg::RBX, WINDOW);
    machine
}

#[track_caller]
fn answer(machine: &mut Machine, offset: u64, size: u8, value: u64) {
    assert_eq!(machine.run(), Stop::Exit(Exit::MmioRead { address: DEVICE + offset, size }));
    machine.vcpu.reply(value);
}

#[track_caller]
fn written(machine: &mut Machine, offset: u64, size: u8, value: u64) {
    assert_eq!(machine.run(), Stop::Exit(Exit::MmioWrite { address: DEVICE + offset, size, value }));
}

#[test]
fn reads_of_every_size_take_the_answers_low_bytes() {
    let mut machine = machine(&assembled!(
        "mov al, [rbx]",
        "mov cx, [rbx + 2]",
        "mov edx, [rbx + 4]",
        "mov r9, [rbx + 8]",
        "movzx esi, byte ptr [rbx + 1]",
        "movsx rdi, word ptr [rbx + 6]",
        "hlt"
    ));
    for (register, value) in [(reg::RAX, u64::MAX), (reg::RCX, u64::MAX), (reg::RDX, u64::MAX)] {
        machine.vcpu.set_gpr(register, value);
    }
    answer(&mut machine, 0, 1, 0x1122_3344_5566_7788);
    answer(&mut machine, 2, 2, 0x1122_3344_5566_7788);
    answer(&mut machine, 4, 4, 0x1122_3344_5566_7788);
    answer(&mut machine, 8, 8, 0x1122_3344_5566_7788);
    answer(&mut machine, 1, 1, 0xff80);
    answer(&mut machine, 6, 2, 0x8000);
    machine.run_to_halt();
    let register = |number| machine.vcpu.gpr(number);
    assert_eq!(register(reg::RAX), 0xffff_ffff_ffff_ff88);
    assert_eq!(register(reg::RCX), 0xffff_ffff_ffff_7788);
    assert_eq!(register(reg::RDX), 0x5566_7788);
    assert_eq!(register(reg::R9), 0x1122_3344_5566_7788);
    assert_eq!(register(reg::RSI), 0x80);
    assert_eq!(register(reg::RDI), 0xffff_ffff_ffff_8000);
}

#[test]
fn writes_of_every_size_carry_the_registers_low_bytes() {
    let mut machine = machine(&assembled!(
        "mov rax, 0x1122334455667788",
        "mov r9, rax",
        "mov [rbx], al",
        "mov [rbx + 1], ah",
        "mov [rbx + 2], ax",
        "mov [rbx + 4], eax",
        "mov [rbx + 8], r9",
        "mov dword ptr [rbx + 16], 0x55",
        "mov qword ptr [rbx + 24], -2",
        "movnti [rbx + 32], r9d",
        "hlt"
    ));
    written(&mut machine, 0, 1, 0x88);
    written(&mut machine, 1, 1, 0x77);
    written(&mut machine, 2, 2, 0x7788);
    written(&mut machine, 4, 4, 0x5566_7788);
    written(&mut machine, 8, 8, 0x1122_3344_5566_7788);
    written(&mut machine, 16, 4, 0x55);
    written(&mut machine, 24, 8, u64::MAX - 1);
    written(&mut machine, 32, 4, 0x5566_7788);
    machine.run_to_halt();
}

#[test]
fn an_instruction_that_changes_a_register_of_a_device_reads_and_then_writes_it() {
    let mut machine = machine(&assembled!(
        "or dword ptr [rbx + 4], 0x80",
        "lock xadd [rbx + 8], rcx",
        "xchg [rbx], dl",
        "inc word ptr [rbx + 2]",
        "bts dword ptr [rbx + 12], 3",
        "setc al",
        "neg dword ptr [rbx]",
        "hlt"
    ));
    machine.vcpu.set_gpr(reg::RCX, 5);
    machine.vcpu.set_gpr(reg::RDX, 0x1234);
    answer(&mut machine, 4, 4, 0x1001);
    written(&mut machine, 4, 4, 0x1081);
    answer(&mut machine, 8, 8, 100);
    written(&mut machine, 8, 8, 105);
    answer(&mut machine, 0, 1, 0x99);
    written(&mut machine, 0, 1, 0x34);
    answer(&mut machine, 2, 2, 0xffff);
    written(&mut machine, 2, 2, 0);
    answer(&mut machine, 12, 4, 8);
    written(&mut machine, 12, 4, 8);
    answer(&mut machine, 0, 4, 1);
    written(&mut machine, 0, 4, 0xffff_ffff);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RCX), 100);
    assert_eq!(machine.vcpu.gpr(reg::RDX), 0x1299);
    assert_eq!(machine.vcpu.gpr(reg::RAX) & 0xff, 1);
}

#[test]
fn a_comparison_with_a_devices_register_sets_the_flags_and_writes_nothing() {
    let mut machine = machine(&assembled!(
        "2: cmp dword ptr [rbx], 5",
        "jne 2b",
        "test byte ptr [rbx + 4], 1",
        "jz 2b",
        "hlt"
    ));
    answer(&mut machine, 0, 4, 4);
    answer(&mut machine, 0, 4, 5);
    answer(&mut machine, 4, 1, 0);
    answer(&mut machine, 0, 4, 5);
    answer(&mut machine, 4, 1, 1);
    machine.run_to_halt();
}

#[test]
fn vector_accesses_become_pieces_of_eight_bytes() {
    let mut machine = machine(&assembled!(
        "movdqu xmm1, [rbx]",
        "paddq xmm1, xmm1",
        "movaps [rbx + 16], xmm1",
        "movq xmm2, [rbx + 8]",
        "vmovdqu ymm3, [rbx + 32]",
        "vmovdqu [rbx + 64], ymm3",
        "movss [rbx + 4], xmm1",
        "hlt"
    ));
    answer(&mut machine, 0, 8, 1);
    answer(&mut machine, 8, 8, 2);
    written(&mut machine, 16, 8, 2);
    written(&mut machine, 24, 8, 4);
    answer(&mut machine, 8, 8, 77);
    for piece in 0..4 {
        answer(&mut machine, 32 + 8 * piece, 8, 10 + piece);
    }
    for piece in 0..4 {
        written(&mut machine, 64 + 8 * piece, 8, 10 + piece);
    }
    written(&mut machine, 4, 4, 2);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.vectors()[2][..8], 77u64.to_le_bytes());
}

#[test]
fn an_answer_that_an_instruction_faults_on_is_the_guests_fault() {
    // The host's processor raises these while the answer is being taken.
    let mut machine = machine(&assembled!("mov eax, 1", "xor edx, edx", "div dword ptr [rbx]", "hlt"));
    answer(&mut machine, 0, 4, 0);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.rip, machine.vcpu.gpr(reg::RAX)), (0, CODE + 7, 1));
    let mut machine = self::machine(&assembled!(
        "push 0x1d80", // division by zero is not masked
        "ldmxcsr [rsp]",
        "mov eax, 1",
        "cvtsi2sd xmm0, eax",
        "divsd xmm0, [rbx]",
        "hlt"
    ));
    answer(&mut machine, 0, 8, 0);
    assert_eq!(machine.run_to_trap().vector, 19);
}

#[test]
fn an_unanswered_read_is_ones() {
    let mut machine = machine(&assembled!("mov rax, [rbx]", "in al, 0x80", "hlt"));
    assert_eq!(machine.run(), Stop::Exit(Exit::MmioRead { address: DEVICE, size: 8 }));
    assert_eq!(machine.run(), Stop::Exit(Exit::PortIn { port: 0x80, size: 1 }));
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), u64::MAX);
}

#[test]
fn ports_take_and_give_each_size_and_strings_go_element_by_element() {
    let mut machine = machine(&assembled!(
        "mov edx, 0x1234",
        "mov eax, 0x11223344",
        "out dx, eax",
        "out dx, ax",
        "out 0x70, al",
        "in eax, dx",
        "in ax, dx",
        "in al, 0x71",
        "mov rdi, {data}",
        "mov ecx, 3",
        "rep insw",
        "mov rsi, {data}",
        "mov ecx, 3",
        "rep outsb",
        "hlt"; data = DATA
    ));
    let out = |machine: &mut Machine, port, size, value| {
        assert_eq!(machine.run(), Stop::Exit(Exit::PortOut { port, size, value }));
    };
    let into = |machine: &mut Machine, port, size, value| {
        assert_eq!(machine.run(), Stop::Exit(Exit::PortIn { port, size }));
        machine.vcpu.reply(value);
    };
    out(&mut machine, 0x1234, 4, 0x1122_3344);
    out(&mut machine, 0x1234, 2, 0x3344);
    out(&mut machine, 0x70, 1, 0x44);
    into(&mut machine, 0x1234, 4, 0xaabb_ccdd);
    into(&mut machine, 0x1234, 2, 0xffff_1111);
    into(&mut machine, 0x71, 1, 0xffff_ff22);
    for value in [0x4241, 0x4443, 0x4645] {
        into(&mut machine, 0x1234, 2, value);
    }
    for value in [0x41, 0x42, 0x43] {
        out(&mut machine, 0x1234, 1, value);
    }
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 0xaabb_1122);
    assert_eq!((machine.vcpu.gpr(reg::RDI), machine.vcpu.gpr(reg::RSI)), (DATA + 6, DATA + 3));
    assert_eq!(machine.vcpu.gpr(reg::RCX), 0);
}

#[test]
fn a_users_port_access_is_refused() {
    let mut machine = Machine::new();
    let place = machine.load_anew(USER_CODE, &assembled!("out 0x80, al"));
    machine.start_user(place);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.rip, trapped.cs), (13, 0, place, 0x33));
}

#[test]
fn a_register_the_machine_does_not_know_is_a_protection_fault() {
    let mut machine =
        machine(&assembled!("mov ecx, 0x4b564d00", "rdmsr", "mov ecx, 0x12345", "wrmsr", "hlt"));
    assert_eq!(machine.run(), Stop::Exit(Exit::ReadMsr { index: 0x4b56_4d00 }));
    machine.vcpu.reply(0x1_0000_0002);
    assert_eq!(machine.run(), Stop::Exit(Exit::WriteMsr { index: 0x12345, value: 0x1_0000_0002 }));
    machine.vcpu.refuse();
    assert_eq!(machine.run_to_trap().vector, 13);
}

#[test]
fn atomic_instructions_across_a_pages_end_change_both_pages() {
    let mut machine = Machine::with(&assembled!(
        "mov rbx, {edge}",
        "mov qword ptr [rbx], -1",
        "lock inc qword ptr [rbx]",
        "mov eax, 1",
        "lock xadd [rbx], rax",
        "mov eax, 1",
        "mov edx, 0x77",
        "lock cmpxchg [rbx], rdx",
        "setz cl",
        "mov rsi, 0x0102030405060708",
        "xchg [rbx], rsi",
        "mov rdi, [rbx]",
        "lock cmpxchg8b [rbx]",
        "setz ch",
        "hlt"; edge = DATA + 0xffd
    ));
    machine.vcpu.set_gpr(reg::RCX, 0);
    machine.run_to_halt();
    let register = |number| machine.vcpu.gpr(number);
    assert_eq!(register(reg::RCX), 1, "the second comparison was not equal");
    assert_eq!((register(reg::RSI), register(reg::RDI)), (0x77, 0x0102_0304_0506_0708));
    assert_eq!((register(reg::RAX), register(reg::RDX)), (0x0506_0708, 0x0102_0304));
    assert_eq!(machine.get(DATA + 0xffd), 0x0102_0304_0506_0708);
}

#[test]
fn an_atomic_instruction_across_pages_of_which_one_is_read_only_changes_neither() {
    const EDGE: u64 = 0xffff_9000_0000_0000;
    let mut machine = Machine::with(&assembled!("lock add qword ptr [rbx], -1", "hlt"));
    machine.map(EDGE, DATA, P | W);
    machine.map(EDGE + 0x1000, DATA + 0x1000, P);
    machine.vcpu.set_gpr(reg::RBX, EDGE + 0xffc);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, 3, EDGE + 0x1000));
    assert_eq!(machine.get(DATA + 0xffc), 0);
}
