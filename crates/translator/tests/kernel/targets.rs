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

/// A user that calls both routines in turn, then traps; again and again.
fn calls() -> Machine {
    let mut machine = Machine::new();
    machine.load(
        USER_CODE,
        &assembled!("xor eax, eax", "mov ecx, 10000", "2: call r8", "call r9", "dec ecx", "jne 2b", "int3"),
    );
    machine.load(ROUTINES[0], &assembled!("add eax, 1", "ret"));
    machine.load(ROUTINES[1], &assembled!("add eax, 1000", "ret"));
    machine.start_user(USER_CODE);
    machine.vcpu.set_gpr(reg::R8, ROUTINES[0]);
    machine.vcpu.set_gpr(reg::R9, ROUTINES[1]);
    machine
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
    let mut machine = calls();
    assert_eq!(machine.run_to_trap().vector, 3);
    assert_eq!(machine.vcpu.gpr(reg::RAX), 1001 * TURNS);
    let lookups = machine.vcpu.statistics().lookups;
    assert!(lookups < FEW, "{lookups} lookups");
}

#[test]
fn a_target_that_shares_a_slot_moves_with_its_mapping() {
    for moved in 0..2 {
        let mut machine = calls();
        assert_eq!(machine.run_to_trap().vector, 3);
        machine.load(ELSEWHERE + 0x40, &assembled!("add eax, 7", "ret"));
        machine.map(ROUTINES[moved], ELSEWHERE, P | U | W);
        forget_and_begin_anew(&mut machine, ROUTINES[moved]);
        assert_eq!(machine.run_to_trap().vector, 3);
        let stays = [1000, 1][moved];
        assert_eq!(machine.vcpu.gpr(reg::RAX), (stays + 7) * TURNS, "routine {moved}");
    }
}

#[test]
fn a_target_that_shares_a_slot_dies_with_its_bytes() {
    let mut machine = calls();
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
