//! Who may do what to a page, by generated code's own accesses: page faults with their exact error codes (SDM vol. 3,
//! 4.6 and 4.7), and the accessed and dirty bits that a Guest finds in its tables (4.8).

use crate::machine::*;

/// Linear page whose rights vary.
const PAGE: u64 = 0xffff_9000_0000_0000;
/// The same for accesses by a user.
const LOW: u64 = 0x6000_0000_0000;

/// Error-code bits (SDM vol. 3, figure 4-12).
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const RESERVED: u64 = 8;
const FETCH: u64 = 16;

/// What the test page is used for.
#[derive(Debug, Clone, Copy)]
enum Use {
    Read,
    Write,
    /// An instruction that reads and writes.
    Change,
    Push,
    Execute,
}

impl Use {
    fn code(self) -> Vec<u8> {
        match self {
            Use::Read => assembled!("mov rax, [rbx + 8]", "int3"),
            Use::Write => assembled!("mov [rbx + 8], rax", "int3"),
            Use::Change => assembled!("lock inc qword ptr [rbx + 8]", "int3"),
            Use::Push => assembled!("lea rsp, [rbx + 16]", "push rax", "int3"),
            Use::Execute => assembled!("lea rbx, [rbx + 8]", "jmp rbx"),
        }
    }
}

/// Runs one access; the error code of its page fault, `None` when it came through to the `int3`.
fn error_code(machine: &mut Machine, user: bool, access: Use, at: u64) -> Option<u64> {
    let place = machine.load_anew(if user { USER_CODE } else { CODE }, &access.code());
    if user {
        machine.start_user(place)
    } else {
        machine.start(place)
    }
    machine.vcpu.set_gpr(reg::RBX, at);
    let trapped = machine.run_to_trap();
    if trapped.vector == 3 {
        return None;
    }
    assert_eq!((trapped.vector, trapped.cr2), (14, at + 8), "{access:?}");
    Some(trapped.error_code)
}

/// The same on a page of these rights, in a fresh machine: with the first access, nothing is cached.
fn code_on(user: bool, rights: u64, access: Use) -> Option<u64> {
    let mut machine = Machine::new();
    let at = if user || rights & U != 0 { LOW } else { PAGE };
    machine.put(DATA + 8, 0xcccc_cccc_cccc_cccc);
    machine.map(at, DATA, rights);
    error_code(&mut machine, user, access, at)
}

#[test]
fn the_supervisor_faults_with_the_manuals_codes() {
    let cases = [
        (0, Use::Read, Some(0)),
        (0, Use::Write, Some(WRITE)),
        (0, Use::Change, Some(WRITE)),
        (0, Use::Push, Some(WRITE)),
        (0, Use::Execute, Some(FETCH)),
        (P, Use::Read, None),
        (P, Use::Write, Some(PRESENT | WRITE)),
        (P, Use::Change, Some(PRESENT | WRITE)),
        (P, Use::Push, Some(PRESENT | WRITE)),
        (P, Use::Execute, None),
        (P | W, Use::Write, None),
        (P | W, Use::Change, None),
        (P | W | NX, Use::Execute, Some(PRESENT | FETCH)),
        (P | W | NX, Use::Read, None),
        // SMAP and SMEP.
        (P | W | U, Use::Read, Some(PRESENT)),
        (P | W | U, Use::Write, Some(PRESENT | WRITE)),
        (P | W | U, Use::Push, Some(PRESENT | WRITE)),
        (P | W | U, Use::Execute, Some(PRESENT | FETCH)),
        // Bit 51 is above every physical address.
        (P | W | 1 << 51, Use::Read, Some(PRESENT | RESERVED)),
        (P | W | 1 << 51, Use::Write, Some(PRESENT | RESERVED | WRITE)),
    ];
    for (rights, access, expected) in cases {
        assert_eq!(code_on(false, rights, access), expected, "{access:?} with rights {rights:#x}");
    }
}

#[test]
fn a_user_faults_with_the_manuals_codes() {
    let cases = [
        (0, Use::Read, Some(USER)),
        (0, Use::Write, Some(USER | WRITE)),
        (0, Use::Execute, Some(USER | FETCH)),
        (P | W, Use::Read, Some(USER | PRESENT)),
        (P | W, Use::Write, Some(USER | PRESENT | WRITE)),
        (P | W, Use::Execute, Some(USER | PRESENT | FETCH)),
        (P | U, Use::Read, None),
        (P | U, Use::Write, Some(USER | PRESENT | WRITE)),
        (P | U, Use::Change, Some(USER | PRESENT | WRITE)),
        (P | U, Use::Push, Some(USER | PRESENT | WRITE)),
        (P | U, Use::Execute, None),
        (P | W | U, Use::Write, None),
        (P | W | U | NX, Use::Execute, Some(USER | PRESENT | FETCH)),
        (P | W | U | 1 << 51, Use::Read, Some(USER | PRESENT | RESERVED)),
    ];
    for (rights, access, expected) in cases {
        assert_eq!(code_on(true, rights, access), expected, "{access:?} with rights {rights:#x}");
    }
}

#[test]
fn a_user_cannot_reach_what_the_supervisor_just_used() {
    // The supervisor's table entry must not serve the user, in either half.
    for at in [PAGE, LOW] {
        let mut machine = Machine::new();
        machine.map(at, DATA, P | W);
        assert_eq!(error_code(&mut machine, false, Use::Write, at), None);
        assert_eq!(error_code(&mut machine, true, Use::Read, at), Some(USER | PRESENT));
        assert_eq!(error_code(&mut machine, true, Use::Write, at), Some(USER | PRESENT | WRITE));
    }
}

#[test]
fn the_supervisor_reaches_a_users_page_between_stac_and_clac_only() {
    let mut machine = Machine::with(&assembled!(
        "mov rbx, {low}",
        "stac",
        "mov rax, [rbx]",
        "mov [rbx + 8], rax",
        "clac",
        "mov rax, [rbx]",
        "hlt"; low = LOW
    ));
    machine.map(LOW, DATA, P | W | U);
    machine.put(DATA, 5);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, PRESENT, LOW));
    assert_eq!(machine.get(DATA + 8), 5);
}

#[test]
fn without_write_protection_the_supervisor_writes_read_only_pages_and_a_user_does_not() {
    let mut machine = Machine::with(&assembled!(
        "mov rax, cr0",
        "btr rax, 16", // WP
        "mov cr0, rax",
        "mov rbx, {page}",
        "mov qword ptr [rbx], 77",
        "bts rax, 16",
        "mov cr0, rax",
        "mov qword ptr [rbx], 88",
        "hlt"; page = PAGE
    ));
    machine.map(PAGE, DATA, P);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, PRESENT | WRITE, PAGE));
    assert_eq!(machine.get(DATA), 77);
}

#[test]
fn a_fault_leaves_the_registers_and_memory_as_they_were() {
    let mut machine = Machine::with(&assembled!("mov r9, 5", "xadd [rbx + r10], r9", "hlt"));
    machine.map(PAGE, DATA, P);
    machine.put(DATA, 1);
    machine.vcpu.set_gpr(reg::RBX, PAGE - 8);
    machine.vcpu.set_gpr(10, 8);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code), (14, PRESENT | WRITE));
    assert_eq!((machine.vcpu.gpr(9), machine.vcpu.gpr(10), machine.get(DATA)), (5, 8, 1));
    assert_eq!(trapped.rip, CODE + 7);
}

#[test]
fn reading_marks_a_page_accessed_and_writing_marks_it_dirty() {
    let mut machine = Machine::new();
    machine.map(PAGE, DATA, P | W);
    let entry = machine.entry(ROOT, PAGE);
    assert_eq!(error_code(&mut machine, false, Use::Read, PAGE), None);
    assert_eq!(machine.get(entry), DATA | P | W | A);
    assert_eq!(error_code(&mut machine, false, Use::Write, PAGE), None);
    assert_eq!(machine.get(entry), DATA | P | W | A | D);
}

#[test]
fn dirty_bits_taken_away_come_back_with_the_next_write_after_invlpg() {
    let mut machine = Machine::with(&assembled!(
        "mov rbx, {page}",
        "xor edx, edx",
        "mov ecx, 100",
        "2: mov [rbx], rcx",
        "mov rax, [r8]",
        "shr eax, 6",
        "and eax, 1",
        "add edx, eax",
        "and qword ptr [r8], ~0x60",
        "invlpg [rbx]",
        "mov rax, [rbx]",
        "mov rax, [r8]",
        "test eax, 0x40",
        "jnz 3f", // reading alone must not make it dirty
        "test eax, 0x20",
        "jz 3f",
        "loop 2b",
        "hlt",
        "3: ud2"; page = PAGE
    ));
    machine.map(PAGE, DATA, P | W);
    let entry = machine.entry(ROOT, PAGE);
    machine.vcpu.set_gpr(reg::R8, entry);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RDX), 100);
}

#[test]
fn a_page_that_may_not_be_accessed_is_not_marked() {
    let mut machine = Machine::new();
    machine.map(PAGE, DATA, P);
    let entry = machine.entry(ROOT, PAGE);
    assert_eq!(error_code(&mut machine, false, Use::Write, PAGE), Some(PRESENT | WRITE));
    assert_eq!(machine.get(entry) & D, 0);
}

#[test]
fn an_access_across_two_pages_faults_at_the_second_pages_first_byte_and_writes_nothing() {
    let mut machine = Machine::with(&assembled!("mov qword ptr [rbx + 0xffc], -1", "hlt"));
    machine.map(PAGE, DATA, P | W);
    machine.vcpu.set_gpr(reg::RBX, PAGE);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, WRITE, PAGE + 0x1000));
    assert_eq!(machine.get(DATA + 0xff8), 0);
}
