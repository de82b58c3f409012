//! User code that jumps to another page by a jump that is linked: what it finds there is what the address space of the
//! moment has there (SDM vol. 3, 4.10.4), however often the jump went elsewhere before.

use crate::machine::*;

/// The page that is called, beside the caller's.
const CALLED_PAGE: u64 = USER_CODE + 0x1000;
/// What it may be instead.
const OTHER_PAGE: u64 = USER_CODE + 0x2000;
/// Calls a round.
const CALLS: u64 = 100;

/// A user that calls the next page a hundred times, traps, and does so again.
fn machine() -> Machine {
    let mut machine = Machine::new();
    let caller =
        assembled!("2: call 2b + 0x1000", "add rsi, rax", "loop 2b", "mov ecx, 100", "int3", "jmp 2b");
    machine.load(USER_CODE, &caller);
    machine.load(CALLED_PAGE, &assembled!("mov eax, 1", "ret"));
    machine.load(OTHER_PAGE, &assembled!("mov eax, 1000", "ret"));
    machine.start_user(USER_CODE);
    machine.vcpu.set_gpr(reg::RCX, CALLS);
    machine.vcpu.set_gpr(reg::RSI, 0);
    machine
}

/// Lets the handler go back by way of `code`.
fn go_back(machine: &mut Machine, code: &[u8]) {
    machine.load(CODE, code);
    machine.vcpu.cpu_mut().rip = CODE;
}

#[test]
fn a_linked_page_that_moved_is_called_where_it_is_now() {
    let mut machine = machine();
    assert_eq!(machine.run_to_trap().vector, 3);
    assert_eq!(machine.vcpu.gpr(reg::RSI), CALLS);
    let entry = machine.entry(ROOT, CALLED_PAGE);
    machine.put(entry, OTHER_PAGE | P | U);
    go_back(&mut machine, &assembled!("mov rdx, cr3", "mov cr3, rdx", "add rsp, 16", "iretq"));
    assert_eq!(machine.run_to_trap().vector, 3);
    assert_eq!(machine.vcpu.gpr(reg::RSI), CALLS + 1000 * CALLS);
}

#[test]
fn a_linked_page_that_is_gone_faults_at_the_target() {
    let mut machine = machine();
    assert_eq!(machine.run_to_trap().vector, 3);
    let entry = machine.entry(ROOT, CALLED_PAGE);
    machine.put(entry, 0);
    go_back(&mut machine, &assembled!("invlpg [{page}]", "add rsp, 16", "iretq"; page = CALLED_PAGE));
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.rip), (14, CALLED_PAGE));
}

#[test]
fn two_processes_that_share_the_caller_each_call_their_own_page() {
    const ROUNDS: u64 = 20;
    let mut machine = machine();
    machine.vcpu.cpu_mut().cr4 |= 1 << 17; // PCIDE
    let second = machine.new_table();
    for slot in 0..512 {
        machine.put(second + 8 * slot, machine.get(ROOT + 8 * slot));
    }
    // The second root gets tables of its own down to the called page, and the first one's entries in them.
    let (mut from, mut to) = (ROOT, second);
    for level in [39, 30, 21] {
        let slot = 8 * (CALLED_PAGE >> level & 511);
        let table = machine.new_table();
        let old = machine.get(from + slot);
        machine.put(to + slot, table | (old & 0xfff));
        from = old & 0xf_ffff_ffff_f000;
        for slot in 0..512 {
            machine.put(table + 8 * slot, machine.get(from + 8 * slot));
        }
        to = table;
    }
    machine.put(to + 8 * (CALLED_PAGE >> 12 & 511), OTHER_PAGE | P | U);
    let keep = 1 << 63;
    machine.vcpu.set_gpr(reg::R8, second | 2 | keep);
    machine.vcpu.set_gpr(reg::R9, ROOT | 1 | keep);
    for round in 0..2 * ROUNDS {
        assert_eq!(machine.run_to_trap().vector, 3, "round {round}");
        go_back(&mut machine, &assembled!("mov cr3, r8", "xchg r8, r9", "add rsp, 16", "iretq"));
    }
    assert_eq!(machine.vcpu.gpr(reg::RSI), ROUNDS * CALLS + ROUNDS * 1000 * CALLS);
}

#[test]
fn a_linked_page_that_was_written_over_is_called_with_its_new_bytes() {
    let mut machine = machine();
    assert_eq!(machine.run_to_trap().vector, 3);
    // The handler writes the immediate of `mov eax, 1`.
    let code = assembled!("stac", "mov byte ptr [{place}], 7", "clac", "add rsp, 16", "iretq"; place = CALLED_PAGE + 1);
    go_back(&mut machine, &code);
    assert_eq!(machine.run_to_trap().vector, 3);
    assert_eq!(machine.vcpu.gpr(reg::RSI), CALLS + 7 * CALLS);
}
