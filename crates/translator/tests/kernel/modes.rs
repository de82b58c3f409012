//! Every way a processor changes its mode: from power-on to long mode as a second processor of a Linux does it, back
//! down, and through the modes that old systems stay in (SDM vol. 3, chapters 10.9 and 21).

use crate::bare::*;
use crate::machine::*;
use lguest_translator::{Exit, Options, Vcpu};
use std::sync::Arc;

/// Identity tables of long mode at 0x10000: the first GiB in pages of 2 MiB.
fn long_tables(bare: &Bare) {
    bare.put(0x1_0000, 0x1_1000 | P | W);
    bare.put(0x1_1000, 0x1_2000 | P | W);
    for n in 0..512 {
        bare.put(0x1_2000 + 8 * n, n << 21 | P | W | PS);
    }
}

#[test]
fn a_second_processor_of_a_linux_gets_from_real_mode_to_long_mode() {
    // The steps of arch/x86/realmode/rm/trampoline_64.S.
    let mut bare = Bare::with(&assembled!(
        ".code16",
        "cli",
        "wbinvd",
        "mov ax, cs",
        "mov ds, ax",
        "mov es, ax",
        "mov ss, ax",
        "mov sp, 0xf00",
        "call 2f",
        "jmp 3f",
        "2: pushf",
        "pop ax",
        "ret",
        "3: mov ebx, dword ptr [0xe00]",
        ".byte 0x66, 0x0f, 0x01, 0x1e, 0x10, 0x0e", // lidtl 0xe10
        ".byte 0x66, 0x0f, 0x01, 0x16, 0x18, 0x0e", // lgdtl 0xe18
        "mov ax, 1",
        "lmsw ax",
        ".byte 0x66, 0xea, 0x00, 0x81, 0, 0, 0x08, 0", // ljmpl 0x08:0x8100
        ".skip 0x100 - (. - 771b)",
        ".code32",
        "mov edx, 0x10",
        "mov ss, edx",
        "mov ds, edx",
        "mov es, edx",
        "mov fs, edx",
        "mov gs, edx",
        "mov esp, 0xa000",
        "push 0x1234",
        "pop esi",
        "mov eax, 0x20", // PAE
        "mov cr4, eax",
        "mov eax, 0x10000",
        "mov cr3, eax",
        "mov ecx, 0xc0000080",
        "mov eax, 0x100",
        "xor edx, edx",
        "wrmsr",
        "mov eax, 0x80000001",
        "mov cr0, eax",
        ".byte 0xea, 0x00, 0x82, 0, 0, 0x18, 0", // ljmpl 0x18:0x8200
        ".skip 0x200 - (. - 771b)",
        ".code64",
        "mov rdi, 0x1122334455667788",
        "mov rax, cr0",
        "mov r8, cs",
        "hlt"
    ));
    bare.load(START + 0xe00, &0xdead_beefu32.to_le_bytes());
    bare.load(START + 0xe10, &[0; 6]);
    bare.put(START + 0xe18, TABLE << 16 | 0x57);
    long_tables(&bare);
    bare.run_to_halt();
    assert_eq!(bare.low(reg::RBX), 0xdead_beef);
    assert_eq!(bare.low(reg::RSI), 0x1234);
    assert_eq!(bare.low(reg::RDI), 0x1122_3344_5566_7788);
    assert_eq!(bare.low(reg::R8), 0x18);
    assert_eq!(bare.low(reg::RAX), 0x8000_0011);
    assert_eq!(bare.vcpu.cpu().efer & 0x500, 0x500, "LME and LMA");
}

#[test]
fn real_mode_calls_its_handlers_through_the_table_at_zero_and_comes_back() {
    let mut bare = Bare::with(&assembled!(
        ".code16",
        "mov ax, 0x900",
        "mov ss, ax",
        "mov sp, 0x100",
        "mov ax, 7",
        "sti",
        "int 0x21",
        "pushf",
        "pop dx",
        "hlt",
        ".code64"
    ));
    bare.load(4 * 0x21, &[0x10, 0, 0x00, 0x06]); // 0600:0010
    bare.load(0x6010, &assembled!(".code16", "pushf", "pop bx", "add ax, 35", "iret", ".code64"));
    bare.run_to_halt();
    assert_eq!(bare.low(reg::RAX), 42);
    assert_eq!(bare.low(reg::RBX) & 0x200, 0, "interrupts are off in the handler");
    assert_eq!(bare.low(reg::RDX) & 0x200, 0x200, "and on again");
    assert_eq!(bare.low(reg::RSP), 0x100);
}

#[test]
fn real_mode_faults_beyond_64_kib_and_keeps_limits_it_got_in_protected_mode() {
    // SDM vol. 3, 21.1.1 and 10.9.2: unreal mode.
    let code = assembled!(
        ".code16",
        "cli",
        "mov ebx, 0x100000",
        ".byte 0x0f, 0x01, 0x16, 0x00, 0x31", // lgdt [0x3100]
        "mov eax, cr0",
        "inc ax",
        "mov cr0, eax",
        "mov dx, 0x10",
        "mov ds, dx",
        "dec ax",
        "mov cr0, eax",
        "xor dx, dx",
        "mov ds, dx",
        "mov ecx, [ebx]",
        "mov es, dx",
        "mov edx, es:[ebx]",
        "hlt",
        ".code64"
    );
    let mut bare = Bare::with(&code);
    bare.put(0x10_0000, 0x1234_5678);
    bare.load(4 * 13, &[0x00, 0x60, 0, 0]);
    bare.load(0x6000, &assembled!(".code16", "mov si, 13", "hlt", ".code64"));
    bare.run_to_halt();
    assert_eq!(bare.low(reg::RCX), 0x1234_5678, "DS kept the limit");
    assert_eq!(bare.low(reg::RSI), 13, "ES never had it: #GP, without an error code");
}

#[test]
fn code_that_writes_itself_in_real_mode_runs_what_it_wrote() {
    let mut bare = Bare::with(&assembled!(
        ".code16",
        "mov byte ptr cs:[7], 42", // the next instruction's operand
        "3: mov al, 1",
        "hlt",
        ".code64"
    ));
    bare.run_to_halt();
    assert_eq!(bare.low(reg::RAX), 42);
}

#[test]
fn the_same_bytes_at_the_same_address_are_two_programs_in_two_modes() {
    // 48 ff c0 is `inc rax`, and `dec eax; inc eax`. Both run often, so that jump tables and links hold them.
    let mut machine = Machine::with(&assembled!(
        "mov ebx, 100",
        "2: call 4f",
        "push 0x28",
        "lea rax, [rip + 3f]",
        "push rax",
        "xor eax, eax",
        "retfq",
        ".code32",
        "3: mov eax, 10",
        "call 4f",
        "call 4f",
        "cmp eax, 10",
        "jne 5f",
        ".byte 0xea", // jmp far 0x10:6
        ".long {code} + (6f - 771b)",
        ".word 0x10",
        ".code64",
        "6: xor eax, eax",
        "call 4f",
        "cmp eax, 1",
        "jne 5f",
        "dec ebx",
        "jnz 2b",
        "hlt",
        "4: .byte 0x48, 0xff, 0xc0, 0xc3",
        "5: ud2"; code = CODE
    ));
    machine.put(0x2000 + 0x28 + 16, 0);
    // 0x28: code of 32 bits at level 0; the user's data, which is there, is not needed.
    machine.put(0x2000 + 0x28, 0x00cf_9b00_0000_ffff);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RBX), 0);
}

#[test]
fn long_mode_is_left_the_way_it_was_entered() {
    // SDM vol. 3, 10.8.5.4: to compatibility mode, paging off, LME off.
    let mut machine = Machine::with(&assembled!(
        "push 0x28",
        "lea rax, [rip + 3f]",
        "push rax",
        "retfq",
        ".code32",
        "3: mov eax, 0x18",
        "mov ss, eax",
        "mov ds, eax",
        "mov es, eax",
        "mov eax, cr0",
        "and eax, 0x7fffffff",
        "mov cr0, eax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "mov esi, eax",
        "and eax, 0xfffffeff",
        "wrmsr",
        "mov edi, [0xd00000]",
        "hlt",
        ".code64"
    ));
    machine.put(0x2000 + 0x28, 0x00cf_9b00_0000_ffff);
    machine.put(0xd0_0000, 77);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RDI), 77);
    assert_eq!(machine.vcpu.gpr(reg::RSI) & 0x500, 0x100, "LMA is off, LME still on");
    assert!(!machine.vcpu.cpu().in_64_bit_mode());
}

#[test]
fn power_on_begins_sixteen_bytes_below_4_gib() {
    let ram = Arc::new(ram(RAM_BYTES));
    let mut vcpu = Vcpu::new(ram, Options::default()).expect("a vCPU can be made");
    let exit = vcpu.run();
    let expected = "the Guest jumped to 0xfff0, guest-physical 0xfffffff0, where there is no memory";
    assert!(matches!(exit, Exit::Dead(death) if death.to_string() == expected), "{exit:?}");
}
