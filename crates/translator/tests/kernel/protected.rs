//! 32-bit protected mode: segments, privilege levels, gates, and the two kinds of paging that long mode left behind.

use crate::bare::*;
use crate::machine::*;

#[test]
fn a_user_of_32_bits_is_interrupted_on_the_stack_of_the_task_state() {
    // SDM vol. 3, 6.12.1, figure 6-4.
    let mut bare = protected(&assembled!(
        ".code32",
        "push 0x3b",
        "push 0xc000",
        "push 0x202",
        "push 0x33",
        "push 0x9100",
        "iretd",
        ".skip 0x100 - (. - 771b)",
        "mov eax, 7",
        "int 0x80",
        "mov ebx, eax",
        "hlt", // #GP(0) for a user
        ".code64"
    ));
    bare.handle(0x80, 3, &assembled!(".code32", "add eax, 35", "iretd", ".code64"));
    bare.handle(13, 0, &assembled!(".code32", "mov ebp, esp", "hlt", ".code64"));
    bare.run_to_halt();
    assert_eq!(bare.low(reg::RBX), 42);
    let frame: Vec<u64> = (0..6).map(|n| bare.word(bare.low(5) + 4 * n)).collect();
    let flags = frame[3];
    assert_eq!(frame, [0, 0x9109, 0x33, flags, 0xc000, 0x3b]);
    assert_eq!(flags & 0x1_0202, 0x1_0202, "RF, IF");
    assert_eq!((bare.low(5), bare.vcpu.cpu().cpl), (0xb000 - 24, 0));
}

#[test]
fn a_segments_base_is_added_and_its_limit_is_kept() {
    let mut bare = protected(&assembled!(
        ".code32",
        "mov eax, 0x50", // base 0x20000, limit 0xfff
        "mov ds, eax",
        "mov dword ptr [0xffc], 0x11223344",
        "mov ecx, [0xffd]",
        "hlt",
        ".code64"
    ));
    bare.handle(13, 0, &assembled!(".code32", "pop ebx", "pop edx", "hlt", ".code64"));
    bare.run_to_halt();
    assert_eq!(bare.word(0x2_0ffc), 0x1122_3344);
    assert_eq!((bare.low(reg::RBX), bare.low(reg::RDX)), (0, PROTECTED + 0x11));
}

#[test]
fn privilege_level_1_is_the_supervisor_to_pages_and_not_to_instructions() {
    // Level 1: selectors 0x58 and 0x60.
    let mut bare = protected(&assembled!(
        ".code32",
        "mov word ptr [0x3100], 0x67",
        ".byte 0x0f, 0x01, 0x15, 0x00, 0x31, 0, 0", // lgdt [0x3100]
        "mov eax, 0x10000",
        "mov cr3, eax",
        "mov eax, 0x10", // PSE
        "mov cr4, eax",
        "mov eax, cr0",
        "or eax, 0x80000000",
        "mov cr0, eax",
        "push 0x61",
        "push 0xc000",
        "push 0x1202", // IOPL 1
        "push 0x59",
        "push 0x9100",
        "iretd",
        ".skip 0x100 - (. - 771b)",
        "mov eax, 0x61", // the supervisor's own went with its level
        "mov ds, eax",
        "mov eax, [0x9000]", // a page without the user bit
        "cli",
        "pushfd",
        "pop ebx",
        "mov ecx, 5",
        "2: dec ecx",
        "jnz 2b",
        "hlt",
        ".code64"
    ));
    bare.put(TABLE + 0x58, 0x00cf_bb00_0000_ffff);
    bare.put(TABLE + 0x60, 0x00cf_b300_0000_ffff);
    bare.put(0x1_0000, P | W | PS);
    bare.handle(13, 0, &assembled!(".code32", "mov esi, cs", "hlt", ".code64"));
    bare.run_to_halt();
    assert_eq!(bare.low(reg::RBX) & 0x3200, 0x1000, "`cli` worked below IOPL");
    assert_eq!((bare.low(reg::RCX), bare.low(reg::RSI)), (0, 8), "`hlt` did not");
    assert_eq!(bare.word(0xb000 - 16), 0x59);
}

#[test]
fn pages_of_4_mib_and_4_kib_are_walked_in_32_bit_paging() {
    // SDM vol. 3, 4.3: linear 0x400000 is a page of 4 MiB, 0x800000 one of 4 KiB; both show 0x200000.
    let mut bare = protected(&assembled!(
        ".code32",
        "mov eax, 0x10000",
        "mov cr3, eax",
        "mov eax, 0x10",
        "mov cr4, eax",
        "mov eax, cr0",
        "or eax, 0x80010000",
        "mov cr0, eax",
        "mov dword ptr [0x600004], 7",
        "mov ebx, [0x800004]",
        "mov ecx, [0x801000]",
        "hlt",
        ".code64"
    ));
    let entries = |low: u64, high: u64| low | high << 32;
    bare.put(0x1_0000, entries(P | W | PS, P | W | PS));
    bare.put(0x1_0008, entries(0x1_1000 | P | W, 0));
    bare.put(0x1_1000, entries(0x20_0000 | P, 0));
    bare.handle(14, 0, &assembled!(".code32", "pop esi", "mov edi, cr2", "hlt", ".code64"));
    bare.run_to_halt();
    assert_eq!(bare.low(reg::RBX), 7);
    assert_eq!((bare.low(reg::RSI), bare.low(reg::RDI)), (0, 0x80_1000));
    assert_eq!(bare.word(0x1_0004), P | W | PS | A | D);
    assert_eq!(bare.word(0x1_1000), 0x20_0000 | P | A);
}

#[test]
fn pae_paging_reads_its_directory_pointers_once_and_refuses_reserved_bits() {
    // SDM vol. 3, 4.4.1.
    let mut bare = protected(&assembled!(
        ".code32",
        "mov eax, 0x20",
        "mov cr4, eax",
        "mov eax, 0x10000",
        "mov cr3, eax",
        "mov eax, cr0",
        "or eax, 0x80000000",
        "mov cr0, eax",
        "mov dword ptr [0x10000], 0", // the pointer in use is in the processor
        "mov ebx, [0x200000]",
        "mov ecx, 0x10020",
        "mov cr3, ecx", // whose first pointer has a reserved bit
        "hlt",
        ".code64"
    ));
    bare.put(0x1_0000, 0x1_1000 | P);
    bare.put(0x1_0020, 0x1_1000 | P | W);
    bare.put(0x1_1000, P | W | PS);
    bare.put(0x1_1008, 0x40_0000 | P | W | PS);
    bare.put(0x40_0000, 99);
    bare.handle(13, 0, &assembled!(".code32", "mov edx, cr3", "hlt", ".code64"));
    bare.run_to_halt();
    assert_eq!((bare.low(reg::RBX), bare.low(reg::RDX)), (99, 0x1_0000));
}

#[test]
fn a_push_at_the_bottom_of_the_address_space_wraps_and_faults_there() {
    let mut bare = protected(&assembled!(
        ".code32",
        "mov eax, 0x10000",
        "mov cr3, eax",
        "mov eax, 0x10",
        "mov cr4, eax",
        "mov eax, cr0",
        "or eax, 0x80000000",
        "mov cr0, eax",
        "xor esp, esp",
        "push 5",
        "mov ebx, [0xfffffffc]",
        "pop ecx",
        "call 2f",
        "2: pop edx",
        "mov esi, esp",
        "hlt",
        ".code64"
    ));
    bare.put(0x1_0000, P | W | PS);
    // The last 4 MiB show the second.
    bare.put(0x1_0ff8, (0x40_0000 | P | W | PS) << 32);
    bare.run_to_halt();
    assert_eq!((bare.low(reg::RBX), bare.low(reg::RCX)), (5, 5));
    assert_eq!(bare.word(0x7f_fffc), bare.low(reg::RDX));
    assert_eq!(bare.low(reg::RSI), 0);
}

#[test]
fn a_call_gate_takes_its_callers_arguments_to_the_inner_stack() {
    // SDM vol. 3, 5.8.5, figure 5-14: two arguments, and a return that releases them on both stacks.
    let mut bare = protected(&assembled!(
        ".code32",
        "push 0x3b",
        "push 0xc000",
        "push 0x2",
        "push 0x33",
        "push 0x9100",
        "iretd",
        ".skip 0x100 - (. - 771b)",
        "push 30",
        "push 12",
        ".byte 0x9a, 0, 0, 0, 0, 0x4b, 0", // call 0x4b:0
        "mov ebx, eax",
        "mov ecx, esp",
        "hlt",
        ".code64"
    ));
    bare.put(TABLE + 0x48, 0x9200 | 0x08 << 16 | 0xec02 << 32);
    let inner = assembled!(
        ".code32",
        "mov eax, [esp + 8]",
        "add eax, [esp + 12]",
        "mov edx, [esp + 16]",
        "retf 8",
        ".code64"
    );
    bare.load(0x9200, &inner);
    bare.handle(13, 0, &assembled!(".code32", "hlt", ".code64"));
    bare.run_to_halt();
    assert_eq!((bare.low(reg::RBX), bare.low(reg::RCX)), (42, 0xc000));
    assert_eq!(bare.low(reg::RDX), 0xc000 - 8, "the outer stack pointer, above the arguments");
}
