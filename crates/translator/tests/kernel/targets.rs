//! Targets of user code that generated code must find by itself: those that share a slot of the jump table with another, and
//! instructions that lie in two pages. Each is counted, and each moves with its mapping (SDM vol. 3, 4.10.4).

use crate::machine::*;

const TURNS: u64 = 10_000;
/// Exits that finding everything once may take; a turn each would be thousands.
const FEW: u64 = 200;

/// Two routines a multiple of 64 KiB apart.
const ROUTINES: [u64; 2] = [USER_CODE + 0x1_0040, USER_CODE + 0x2_0040];
/// Where the first one's page moves to.
const ELSEWHERE: u64 = USER_CODE + 0x5_0000;

/// A user that calls both routines in turn, then traps; again and again. Their addresses are in registers or, `known`,
/// in the calls.
fn calls(known: bool) -> Machine {
    let mut machine = Machine::new();
    let mut code =
        assembled!("xor eax, eax", "mov ecx, 10000", "2: call r8", "call r9", "dec ecx", "jne 2b", "int3");
    if known {
        let calls = code.len() - 11;
        let start = USER_CODE + calls as u64;
        let near = [call(start, ROUTINES[0]), call(start + 5, ROUTINES[1])].concat();
        // dec ecx ; jne back ; int3
        code.splice(calls.., near.into_iter().chain([0xff, 0xc9, 0x75, 0xf2, 0xcc]));
    }
    machine.load(USER_CODE, &code);
    machine.load(ROUTINES[0], &assembled!("add eax, 1", "ret"));
    machine.load(ROUTINES[1], &assembled!("add eax, 1000", "ret"));
    machine.start_user(USER_CODE);
    machine.vcpu.set_gpr(reg::R8, ROUTINES[0]);
    machine.vcpu.set_gpr(reg::R9, ROUTINES[1]);
    machine
}

/// A `call` at one address of another.
fn call(at: u64, target: u64) -> Vec<u8> {
    let distance = (target - at) as u32 - 5;
    [&[0xe8][..], &distance.to_le_bytes()].concat()
}

/// Lets the handler forget the page of `address` and go back to the user's beginning.
fn forget_and_begin_anew(machine: &mut Machine, address: u64) {
    machine.load(CODE, &assembled!("invlpg [rbx]", "add rsp, 16", "iretq"));
    machine.return_to(USER_CODE);
    machine.vcpu.set_gpr(reg::RBX, address);
    machine.vcpu.cpu_mut().rip = CODE;
}

#[test]
fn targets_that_share_a_slot_need_no_turns() {
    for known in [false, true] {
        let mut machine = calls(known);
        assert_eq!(machine.run_to_trap().vector, 3);
        assert_eq!(machine.vcpu.gpr(reg::RAX), 1001 * TURNS);
        let lookups = machine.vcpu.statistics().lookups;
        assert!(lookups < FEW, "{lookups} lookups");
    }
}

#[test]
fn a_target_that_shares_a_slot_moves_with_its_mapping() {
    for (moved, known) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut machine = calls(known);
        assert_eq!(machine.run_to_trap().vector, 3);
        machine.load(ELSEWHERE + 0x40, &assembled!("add eax, 7", "ret"));
        machine.map(ROUTINES[moved], ELSEWHERE, P | U | W);
        forget_and_begin_anew(&mut machine, ROUTINES[moved]);
        assert_eq!(machine.run_to_trap().vector, 3);
        let stays = [1000, 1][moved];
        assert_eq!(machine.vcpu.gpr(reg::RAX), (stays + 7) * TURNS, "routine {moved}, known {known}");
    }
}

#[test]
fn a_target_that_shares_a_slot_dies_with_its_bytes() {
    for known in [false, true] {
        let mut machine = calls(known);
        assert_eq!(machine.run_to_trap().vector, 3);
        // The user writes over both routines' constants and calls on.
        machine.load(
            USER_CODE + 0x100,
            &assembled!("mov byte ptr [r8 + 2], 2", "mov dword ptr [r9 + 1], 50", "jmp rbx"),
        );
        machine.return_to(USER_CODE + 0x100);
        machine.vcpu.set_gpr(reg::RBX, USER_CODE);
        assert_eq!(machine.run_to_trap().vector, 3);
        assert_eq!(machine.vcpu.gpr(reg::RAX), 52 * TURNS);
    }
}

#[test]
fn a_known_target_is_each_address_spaces_own() {
    const HERE: u64 = 0x7000_0000_0000;
    const THERE: u64 = HERE + 0x1000;
    // mov ecx, 1000 ; call THERE ; dec ecx ; jne back ; int3
    let caller =
        [&[0xb9, 0xe8, 3, 0, 0][..], &call(HERE + 5, THERE), &[0xff, 0xc9, 0x75, 0xf7, 0xcc]].concat();
    let mut machine = Machine::with(&assembled!("mov rax, cr4", "or rax, 0x20000", "mov cr4, rax", "hlt"));
    machine.run_to_halt();
    machine.load(DATA, &caller);
    machine.load(DATA + 0x1000, &assembled!("add eax, 1", "ret"));
    machine.load(DATA + 0x2000, &assembled!("add eax, 1000", "ret"));
    let second = machine.new_table();
    for slot in 0..512 {
        machine.put(second + 8 * slot, machine.get(ROOT + 8 * slot));
    }
    for (root, routine) in [(ROOT, DATA + 0x1000), (second, DATA + 0x2000)] {
        for (linear, physical) in [(HERE, DATA), (THERE, routine)] {
            let entry = machine.entry(root, linear);
            machine.put(entry, physical | P | U);
        }
    }
    machine.start_user(HERE);
    machine.vcpu.set_gpr(reg::RAX, 0);
    assert_eq!(machine.run_to_trap().vector, 3);
    machine.load(CODE, &assembled!("mov cr3, r8", "add rsp, 16", "iretq"));
    for context in [second | 2, ROOT, second | 2, ROOT] {
        machine.return_to(HERE);
        machine.vcpu.set_gpr(reg::R8, context | 1 << 63);
        machine.vcpu.cpu_mut().rip = CODE;
        assert_eq!(machine.run_to_trap().vector, 3);
    }
    assert_eq!(machine.vcpu.gpr(reg::RAX), 3 * 1000 + 2 * 1_000_000);
    let lookups = machine.vcpu.statistics().lookups;
    assert!(lookups < FEW, "{lookups} lookups");
}

#[test]
fn a_jump_to_address_zero_past_a_unit_of_its_slot_faults_there() {
    let mut machine = Machine::new();
    machine.load(USER_CODE, &assembled!("jmp r8"));
    machine.load(USER_CODE + 0x1_0000, &assembled!("jmp r9"));
    machine.start_user(USER_CODE);
    machine.vcpu.set_gpr(reg::R8, USER_CODE + 0x1_0000);
    machine.vcpu.set_gpr(reg::R9, 0);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.rip, trapped.cr2), (14, 0, 0));
}

#[test]
fn an_instruction_in_two_pages_is_linked_and_moves_with_its_second_page() {
    const SECOND: u64 = USER_CODE + 0x1000;
    let mut machine = Machine::new();
    let code = assembled!("2: add eax, 0x12345", "dec ecx", "jne 2b", "int3");
    // Three bytes lie in the first page: the second begins with the constant's third.
    machine.load(SECOND - 3, &code);
    let mut other = code[3..].to_vec();
    assert_eq!(other[0], 1);
    other[0] = 0;
    machine.load(ELSEWHERE, &other);
    machine.load(USER_CODE, &assembled!("xor eax, eax", "mov ecx, 10000", "jmp r8"));
    machine.start_user(USER_CODE);
    machine.vcpu.set_gpr(reg::R8, SECOND - 3);
    assert_eq!(machine.run_to_trap().vector, 3);
    assert_eq!(machine.vcpu.gpr(reg::RAX), (0x12345 * TURNS) & 0xffff_ffff);
    let entries = machine.vcpu.statistics().entries;
    assert!(entries < FEW, "{entries} entries");
    machine.map(SECOND, ELSEWHERE, P | U | W);
    forget_and_begin_anew(&mut machine, SECOND);
    assert_eq!(machine.run_to_trap().vector, 3);
    assert_eq!(machine.vcpu.gpr(reg::RAX), (0x2345 * TURNS) & 0xffff_ffff);
}
