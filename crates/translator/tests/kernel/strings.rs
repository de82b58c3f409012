//! String instructions that end at a page that is not there: what is done is in the registers and in memory, and the
//! rest is done when the page is there (SDM vol. 2, REP: "the processor can be interrupted at iteration boundaries").

use crate::machine::*;

/// Three pages of which the third is missing.
const BUFFER: u64 = 0xffff_9000_0000_0000;
const MISSING: u64 = BUFFER + 0x2000;
/// Above the missing page, for instructions that go down.
const ABOVE: u64 = BUFFER + 0x3000;

fn machine(code: &[u8]) -> Machine {
    let mut machine = Machine::with(code);
    for page in [0, 1, 3] {
        machine.map(BUFFER + page * 0x1000, DATA + 0x10_0000 + page * 0x1000, P | W);
    }
    for byte in 0..0x4000 {
        machine.load(DATA + byte, &[(byte * 7 % 251) as u8 + 1]);
    }
    machine
}

struct Registers {
    rax: u64,
    rcx: u64,
    rsi: u64,
    rdi: u64,
}

fn set(machine: &mut Machine, registers: Registers) {
    machine.vcpu.set_gpr(reg::RAX, registers.rax);
    machine.vcpu.set_gpr(reg::RCX, registers.rcx);
    machine.vcpu.set_gpr(reg::RSI, registers.rsi);
    machine.vcpu.set_gpr(reg::RDI, registers.rdi);
}

/// rcx, rsi and rdi.
fn now(machine: &Machine) -> (u64, u64, u64) {
    (machine.vcpu.gpr(reg::RCX), machine.vcpu.gpr(reg::RSI), machine.vcpu.gpr(reg::RDI))
}

fn memory(machine: &Machine, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    assert!(machine.ram.read(at, &mut bytes));
    bytes
}

#[test]
fn stores_stop_at_the_missing_page_and_go_on_when_it_is_there() {
    // Each element size, starting so that the last element before the page is whole.
    let sizes = [
        (1, assembled!("rep stosb", "hlt")),
        (2, assembled!("rep stosw", "hlt")),
        (4, assembled!("rep stosd", "hlt")),
        (8, assembled!("rep stosq", "hlt")),
    ];
    for (size, code) in sizes {
        for bytes_before in [0x18, 0x1018] {
            let mut machine = machine(&code);
            let (start, count) = (MISSING - bytes_before, bytes_before / size + 10);
            set(&mut machine, Registers { rax: 0x1111_1111_1111_1111, rcx: count, rsi: 0, rdi: start });
            let trapped = machine.run_to_trap();
            assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, 2, MISSING));
            assert_eq!(trapped.rip, CODE);
            assert_eq!(now(&machine), (10, 0, MISSING));
            machine.map(MISSING, DATA + 0x10_2000, P | W);
            machine.run_to_halt();
            assert_eq!(now(&machine), (0, 0, MISSING + 10 * size));
            let length = (bytes_before + 10 * size) as usize;
            let place = DATA + 0x10_2000 - bytes_before;
            assert_eq!(memory(&machine, place, length), vec![0x11; length]);
            assert_eq!(memory(&machine, place - 8, 8), [0; 8]);
            assert_eq!(memory(&machine, place + length as u64, 8), [0; 8]);
        }
    }
}

#[test]
fn an_element_that_reaches_into_the_missing_page_is_not_begun() {
    let mut machine = machine(&assembled!("rep stosq", "hlt"));
    set(&mut machine, Registers { rax: u64::MAX, rcx: 4, rsi: 0, rdi: MISSING - 20 });
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, 2, MISSING));
    assert_eq!(now(&machine), (2, 0, MISSING - 4));
    assert_eq!(memory(&machine, DATA + 0x10_2000 - 4, 4), [0; 4]);
}

#[test]
fn moves_stop_where_source_or_destination_ends() {
    for (source_missing, code) in [(true, 0), (false, 2)] {
        let mut machine = machine(&assembled!("rep movsb", "hlt"));
        let present = DATA + 0x123;
        let (rsi, rdi) = if source_missing { (MISSING - 100, present) } else { (present, MISSING - 100) };
        set(&mut machine, Registers { rax: 0, rcx: 300, rsi, rdi });
        let trapped = machine.run_to_trap();
        assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, code, MISSING));
        assert_eq!(now(&machine), (200, rsi + 100, rdi + 100));
        machine.map(MISSING, DATA + 0x10_2000, P | W);
        machine.run_to_halt();
        assert_eq!(now(&machine), (0, rsi + 300, rdi + 300));
        if !source_missing {
            let moved = memory(&machine, DATA + 0x10_2000 - 100, 300);
            assert_eq!(moved, memory(&machine, present, 300));
        }
    }
}

#[test]
fn moves_downward_stop_at_the_missing_page_below() {
    let mut machine = machine(&assembled!("std", "rep movsd", "cld", "hlt"));
    let top = DATA + 0x1000;
    set(&mut machine, Registers { rax: 0, rcx: 20, rsi: top, rdi: ABOVE + 32 });
    let trapped = machine.run_to_trap();
    // Elements at 32, 28, ... 0 are nine; the next one lies below the page.
    assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, 2, ABOVE - 4));
    assert_eq!(now(&machine), (11, top - 36, ABOVE - 4));
    assert_eq!(memory(&machine, DATA + 0x10_3000, 36), memory(&machine, top - 32, 36));
}

#[test]
fn overlapping_moves_upward_repeat_the_first_bytes() {
    let mut machine = machine(&assembled!("rep movsb", "hlt"));
    machine.load(DATA, b"abc");
    set(&mut machine, Registers { rax: 0, rcx: 0x1800, rsi: DATA, rdi: DATA + 3 });
    machine.run_to_halt();
    let bytes = memory(&machine, DATA, 0x1803);
    assert!(bytes.chunks(3).all(|three| three == b"abc"));
}

#[test]
fn scans_and_comparisons_stop_at_the_missing_page_with_exact_registers() {
    let mut machine = machine(&assembled!("xor eax, eax", "mov al, 0xff", "repne scasb", "hlt"));
    set(&mut machine, Registers { rax: 0, rcx: 1000, rsi: 0, rdi: MISSING - 50 });
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, 0, MISSING));
    assert_eq!(now(&machine), (950, 0, MISSING));
    let mut machine = self::machine(&assembled!("repe cmpsb", "hlt"));
    machine.load(DATA + 0x10_2000 - 50, &memory(&machine, DATA, 50));
    set(&mut machine, Registers { rax: 0, rcx: 1000, rsi: DATA, rdi: MISSING - 50 });
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, 0, MISSING));
    assert_eq!(now(&machine), (950, DATA + 50, MISSING));
}

#[test]
fn nothing_to_do_touches_nothing() {
    let mut machine = machine(&assembled!("rep movsq", "rep stosb", "repe cmpsb", "rep lodsb", "hlt"));
    set(&mut machine, Registers { rax: 5, rcx: 0, rsi: MISSING, rdi: MISSING });
    machine.run_to_halt();
    assert_eq!(now(&machine), (0, MISSING, MISSING));
    assert_eq!(machine.vcpu.gpr(reg::RAX), 5);
}

#[test]
fn a_store_marks_the_pages_it_writes_dirty_and_no_more() {
    let mut machine = machine(&assembled!("rep stosb", "hlt"));
    set(&mut machine, Registers { rax: 1, rcx: 0x1000, rsi: 0, rdi: BUFFER });
    machine.run_to_halt();
    let [first, second] = [BUFFER, BUFFER + 0x1000].map(|page| machine.entry(ROOT, page));
    assert_eq!(machine.get(first) & (A | D), A | D);
    assert_eq!(machine.get(second) & (A | D), 0);
}
