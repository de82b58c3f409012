//! Page tables that change under code and data in use (SDM vol. 3, 4.10.4: what `invlpg`, a write to CR3 and `invpcid`
//! end). Before the invalidation either mapping may be seen; after it only the new one, which is what is asked here.

use crate::machine::*;

/// Linear page whose mapping changes: supervisor, high half.
const MOVING: u64 = 0xffff_9000_0000_0000;
const FIRST: u64 = DATA;
const SECOND: u64 = DATA + 0x1000;

/// A machine with [`MOVING`] on [`FIRST`], r8 at its page-table entry and r9 the other entry's value.
fn machine(code: &[u8], contents: [&[u8]; 2], rights: u64) -> Machine {
    let mut machine = Machine::with(code);
    machine.load(FIRST, contents[0]);
    machine.load(SECOND, contents[1]);
    machine.map(MOVING, FIRST, rights);
    let entry = machine.entry(ROOT, MOVING);
    machine.vcpu.set_gpr(reg::R8, entry);
    machine.vcpu.set_gpr(reg::R9, SECOND | rights);
    machine.vcpu.set_gpr(reg::RBX, MOVING);
    machine
}

#[test]
fn data_moves_with_its_mapping_after_invlpg() {
    let code = assembled!(
        "mov rax, [rbx]",
        "mov [r8], r9",
        "invlpg [rbx]",
        "add rax, [rbx]",
        "mov [rbx], rax",
        "hlt"
    );
    let mut machine = machine(&code, [&7u64.to_le_bytes(), &30u64.to_le_bytes()], P | W | G);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 37);
    assert_eq!((machine.get(FIRST), machine.get(SECOND)), (7, 37));
}

#[test]
fn code_moves_with_its_mapping_after_invlpg_also_when_it_is_linked() {
    let code = assembled!(
        "xor esi, esi",
        "mov ecx, 100",
        "2: call 3f",
        "add esi, eax",
        "loop 2b",
        "mov [r8], r9",
        "invlpg [rbx]",
        "mov ecx, 100",
        "4: call 3f",
        "add esi, eax",
        "loop 4b",
        "hlt",
        "3: jmp rbx"
    );
    let (first, second) = (assembled!("mov eax, 1", "ret"), assembled!("mov eax, 1000", "ret"));
    let mut machine = machine(&code, [&first, &second], P | G);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RSI), 100_100);
}

#[test]
fn code_whose_own_page_is_exchanged_under_it_goes_on_in_the_new_page() {
    // Both pages hold the same exchange; behind the invlpg, they differ.
    let code = assembled!("jmp rbx");
    let page = |last: u8| {
        let mut bytes = assembled!("mov [r8], r9", "invlpg [rbx]", "mov eax, 0", "hlt");
        let at = bytes.len() - 5;
        bytes[at] = last;
        bytes
    };
    let mut machine = machine(&code, [&page(1), &page(2)], P | G);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 2);
}

#[test]
fn a_page_taken_away_faults_after_a_write_to_cr3_unless_it_is_global() {
    for (rights, faults) in [(P | W, true), (P | W | G, false)] {
        let code = assembled!(
            "mov rax, [rbx]",
            "mov qword ptr [r8], 0",
            "mov rdx, cr3",
            "mov cr3, rdx",
            "mov rax, [rbx]",
            "hlt"
        );
        let mut machine = machine(&code, [&[1; 8], &[2; 8]], rights);
        if faults {
            let trapped = machine.run_to_trap();
            assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, 0, MOVING));
        } else {
            // A processor may forget a global page as well; ours keeps it, and shows that it heeds the bit.
            machine.run_to_halt();
            assert_eq!(machine.vcpu.gpr(reg::RAX), 0x0101_0101_0101_0101);
        }
    }
}

#[test]
fn a_low_page_of_a_user_moves_after_a_write_to_cr3() {
    const PAGE: u64 = USER_DATA + 0x8000;
    let mut machine = Machine::new();
    machine.load(USER_CODE, &assembled!("mov rax, [rbx]", "int3", "add rax, [rbx]", "int3"));
    let entry = machine.entry(ROOT, PAGE);
    machine.put(PAGE, 5);
    machine.put(PAGE + 0x1000, 90);
    machine.start_user(USER_CODE);
    machine.vcpu.set_gpr(reg::RBX, PAGE);
    assert_eq!(machine.run_to_trap().vector, 3);
    machine.put(entry, (PAGE + 0x1000) | P | U | W);
    // The handler's way back goes through a write to CR3.
    machine.load(CODE, &assembled!("mov rcx, cr3", "mov cr3, rcx", "add rsp, 16", "iretq"));
    machine.vcpu.cpu_mut().rip = CODE;
    assert_eq!(machine.run_to_trap().vector, 3);
    assert_eq!(machine.vcpu.gpr(reg::RAX), 95);
}

#[test]
fn each_process_context_sees_its_own_pages_and_keeps_them_over_switches() {
    const PAGE: u64 = 0x7000_0000_0000;
    const ROUNDS: u64 = 1000;
    let mut machine = Machine::with(&assembled!(
        "mov rax, cr4",
        "or rax, 0x20000", // PCIDE
        "mov cr4, rax",
        "mov rbx, {page}",
        "xor esi, esi",
        "xor edi, edi",
        "mov ecx, {rounds}",
        "2: mov cr3, r8",
        "add rsi, [rbx]",
        "inc qword ptr [rbx]",
        "mov cr3, r9",
        "add rdi, [rbx]",
        "loop 2b",
        "hlt"; page = PAGE, rounds = ROUNDS
    ));
    // A second root with the same tables below, but for the low slot that PAGE lies in.
    let second = machine.new_table();
    for slot in 0..512 {
        machine.put(second + 8 * slot, machine.get(ROOT + 8 * slot));
    }
    for (root, physical) in [(ROOT, FIRST), (second, SECOND)] {
        let entry = machine.entry(root, PAGE);
        machine.put(entry, physical | P | W);
    }
    machine.put(FIRST, 0);
    machine.put(SECOND, 1_000_000);
    // Bit 63: keep what is cached for that context.
    machine.vcpu.set_gpr(reg::R8, ROOT | 1 | 1 << 63);
    machine.vcpu.set_gpr(reg::R9, second | 2 | 1 << 63);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RSI), ROUNDS * (ROUNDS - 1) / 2);
    assert_eq!(machine.vcpu.gpr(reg::RDI), ROUNDS * 1_000_000);
}

#[test]
fn a_switch_without_the_keep_bit_forgets_what_that_context_had() {
    const PAGE: u64 = 0x7000_0000_0000;
    let mut machine = Machine::with(&assembled!(
        "mov rax, cr4",
        "or rax, 0x20000",
        "mov cr4, rax",
        "mov rbx, {page}",
        "mov cr3, r8",  // context 1
        "mov rsi, [rbx]",
        "mov cr3, r9",  // context 2
        "mov [r10], r11", // the page of context 1 moves
        "btr r8, 63",
        "mov cr3, r8",
        "mov rdi, [rbx]",
        "hlt"; page = PAGE
    ));
    let entry = machine.entry(ROOT, PAGE);
    machine.put(entry, FIRST | P | W);
    machine.put(FIRST, 11);
    machine.put(SECOND, 22);
    for (register, value) in [(8, ROOT | 1 | 1 << 63), (9, ROOT | 2), (10, entry), (11, SECOND | P | W)] {
        machine.vcpu.set_gpr(register, value);
    }
    machine.run_to_halt();
    assert_eq!((machine.vcpu.gpr(reg::RSI), machine.vcpu.gpr(reg::RDI)), (11, 22));
}

#[test]
fn invpcid_ends_one_address_of_another_context() {
    const PAGE: u64 = 0x7000_0000_0000;
    let mut machine = Machine::with(&assembled!(
        "mov rax, cr4",
        "or rax, 0x20000",
        "mov cr4, rax",
        "mov rbx, {page}",
        "mov cr3, r8",
        "mov rsi, [rbx]",
        "mov cr3, r9",
        "mov [r10], r11",
        "xor eax, eax", // kind 0: one address
        "push rbx",
        "push 1",
        "invpcid rax, [rsp]",
        "mov cr3, r8",
        "mov rdi, [rbx]",
        "hlt"; page = PAGE
    ));
    let entry = machine.entry(ROOT, PAGE);
    machine.put(entry, FIRST | P | W);
    machine.put(FIRST, 11);
    machine.put(SECOND, 22);
    for (register, value) in
        [(8, ROOT | 1 | 1 << 63), (9, ROOT | 2 | 1 << 63), (10, entry), (11, SECOND | P | W)]
    {
        machine.vcpu.set_gpr(register, value);
    }
    machine.run_to_halt();
    assert_eq!((machine.vcpu.gpr(reg::RSI), machine.vcpu.gpr(reg::RDI)), (11, 22));
}

#[test]
fn a_write_through_one_mapping_is_read_through_another() {
    let code =
        assembled!("mov ecx, 1000", "xor eax, eax", "2: mov [rbx], rcx", "add rax, [rdx]", "loop 2b", "hlt");
    let mut machine = machine(&code, [&[0; 8], &[0; 8]], P | W);
    machine.vcpu.set_gpr(reg::RDX, FIRST);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 500_500);
}

#[test]
fn invlpg_in_a_large_page_ends_all_of_it() {
    const LARGE: u64 = 0xffff_a000_0000_0000;
    let mut machine = Machine::with(&assembled!(
        "mov rbx, {large}",
        "mov rax, [rbx + 0x1000]",
        "mov rdx, [rbx + 0x5000]",
        "mov [r8], r9",
        "invlpg [rbx + 0x1ff000]",
        "add rax, [rbx + 0x1000]",
        "add rdx, [rbx + 0x5000]",
        "hlt"; large = LARGE
    ));
    // The directory's entry is one level above the last.
    machine.entry(ROOT, LARGE);
    let (pdpt, directory) = {
        let step = |table: u64, level: u32| machine.get(table + (LARGE >> level & 511) * 8) & !0xfff;
        let pdpt = step(ROOT, 39);
        (pdpt, step(pdpt, 30))
    };
    assert_ne!(pdpt, directory);
    let entry = directory + (LARGE >> 21 & 511) * 8;
    machine.put(entry, 0x60_0000 | P | W | PS);
    for (at, value) in [(0x60_1000, 1), (0x60_5000, 2), (0x80_1000, 10), (0x80_5000, 20)] {
        machine.put(at, value);
    }
    machine.vcpu.set_gpr(reg::R8, entry);
    machine.vcpu.set_gpr(reg::R9, 0x80_0000 | P | W | PS);
    machine.run_to_halt();
    assert_eq!((machine.vcpu.gpr(reg::RAX), machine.vcpu.gpr(reg::RDX)), (11, 22));
}
