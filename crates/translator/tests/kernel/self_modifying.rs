//! Code that changes code (SDM vol. 3, 12.6 "self-modifying code": a write by the same processor to the same or another
//! linear address of what it executes is seen by the next fetch that follows a jump; these Guests jump where a
//! portable one must, and one does not, for processors since the Pentium do not need it at the same address).

use crate::machine::*;
use lguest_translator::Exit;

#[test]
fn an_instruction_changed_by_the_one_before_it_runs_as_changed() {
    // The write and what it changes are in one unit.
    let mut machine = Machine::with(&assembled!(
        "lea rbx, [rip + 2f]",
        "mov byte ptr [rbx + 1], 7",
        "2: mov eax, 1",
        "hlt"
    ));
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 7);
}

#[test]
fn a_write_to_a_code_page_that_changes_no_code_goes_on_behind_the_write() {
    let mut machine = Machine::with(&assembled!(
        "xor eax, eax",
        "mov ecx, 1000",
        "2: inc dword ptr [rip + 3f]",
        "add eax, [rip + 3f]",
        "loop 2b",
        "hlt",
        "3: .long 0"
    ));
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 500_500);
}

#[test]
fn a_function_changed_between_calls_is_called_as_changed() {
    // `mov edx, imm32` counts up; caller and function are units of their own, linked.
    let mut machine = Machine::with(&assembled!(
        "lea rbx, [rip + 3f]",
        "xor eax, eax",
        "mov ecx, 1000",
        "2: mov [rbx + 1], ecx",
        "call rbx",
        "call 3f",
        "add eax, edx",
        "loop 2b",
        "hlt",
        ".balign 64",
        "3: mov edx, 0",
        "ret"
    ));
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 500_500);
}

#[test]
fn a_function_on_another_page_changed_while_jumps_lead_to_it_runs_as_changed() {
    let function = assembled!("mov edx, 0", "ret");
    let mut machine = Machine::with(&assembled!(
        "xor eax, eax",
        "mov ecx, 1000",
        "mov rbx, {function}",
        "2: mov [rbx + 1], ecx",
        "call 771b + 0x2000",
        "add eax, edx",
        "loop 2b",
        "hlt"; function = CODE + 0x2000
    ));
    machine.load(CODE + 0x2000, &function);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 500_500);
}

#[test]
fn an_instruction_across_two_pages_hears_of_changes_to_either() {
    // `mov eax, imm32` begins two bytes before the page's end.
    const PLACE: u64 = CODE + 0x1ffe;
    let mut machine = Machine::with(&assembled!(
        "mov rbx, {place}",
        "call rbx",
        "mov byte ptr [rbx + 3], 0x22",
        "call rbx",
        "mov esi, eax",
        "mov byte ptr [rbx + 1], 0x44",
        "call rbx",
        "hlt"; place = PLACE
    ));
    machine.load(PLACE, &[0xb8, 0x11, 0x11, 0x11, 0x11, 0xc3]);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RSI), 0x1122_1111);
    assert_eq!(machine.vcpu.gpr(reg::RAX), 0x1122_1144);
}

#[test]
fn code_changed_through_another_mapping_of_its_page_runs_as_changed() {
    const ALIAS: u64 = 0x6000_0000_0000;
    let mut machine = Machine::with(&assembled!(
        "mov rbx, {function}",
        "mov rdi, {alias}",
        "xor eax, eax",
        "mov ecx, 1000",
        "mov dword ptr [rdi + 8], 0", // the alias is writable in the table before there is code
        "2: call rbx",
        "add eax, edx",
        "mov [rdi + 1], ecx",
        "loop 2b",
        "hlt"; function = CODE + 0x2000, alias = ALIAS
    ));
    machine.load(CODE + 0x2000, &assembled!("mov edx, 0", "ret"));
    machine.map(ALIAS, CODE + 0x2000, P | W);
    machine.run_to_halt();
    // 0 first, then 1000 down to 2.
    assert_eq!(machine.vcpu.gpr(reg::RAX), 500_499);
}

#[test]
fn string_stores_over_code_are_seen() {
    let mut machine = Machine::with(&assembled!(
        "mov rbx, {function}",
        "call rbx",
        "mov rdi, rbx",
        "mov eax, 0xc3", // ret; the rest is nops
        "mov ecx, 4",
        "mov byte ptr [rbx + 4], 0x90",
        "mov al, 0x90",
        "rep stosb",
        "mov byte ptr [rdi], 0xc3",
        "mov edx, 5",
        "call rbx",
        "hlt"; function = CODE + 0x2000
    ));
    machine.load(CODE + 0x2000, &assembled!("mov edx, 3", "ret"));
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RDX), 5);
}

#[test]
fn a_vector_store_over_the_code_it_stands_in_is_seen() {
    let mut machine = Machine::with(&assembled!(
        "movdqu xmm0, [rip + 3f]",
        "movdqu [rip + 2f], xmm0",
        "2: mov eax, 1",
        "hlt",
        ".fill 16, 1, 0x90",
        "3: mov eax, 9",
        "hlt",
        ".fill 16, 1, 0x90"
    ));
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 9);
}

#[test]
fn a_guest_that_rewrites_its_code_for_ever_is_slow_and_no_larger() {
    /// Enough for the 72 MiB of hot paths, at two units of about a hundred bytes a round.
    const ROUNDS: u64 = 600_000;
    let mut machine = Machine::with(&assembled!(
        "lea rbx, [rip + 3f]",
        "mov ecx, {rounds}",
        "xor eax, eax",
        "2: mov [rbx + 1], ecx",
        "3: mov edx, 0",
        "add rax, rdx",
        "loop 2b",
        "hlt"; rounds = ROUNDS
    ));
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), ROUNDS * (ROUNDS + 1) / 2);
    let statistics = machine.vcpu.statistics();
    assert!(statistics.resets > 0, "the arena was full: {statistics:?}");
    assert!(statistics.units >= ROUNDS, "each round was translated: {statistics:?}");
    assert!(statistics.code_bytes <= 96 << 20, "{statistics:?}");
}

#[test]
fn a_guest_that_fills_the_cache_makes_it_start_over_and_notices_nothing() {
    // Sixty-four long functions, each on a page of its own, are rewritten and called until the arena was full twice.
    let mut machine = Machine::with(&assembled!(
        "2: mov rbx, {function}",
        "mov ecx, 64",
        "3: mov [rbx + 1], r8d",
        "xor edx, edx",
        "call rbx",
        "cmp edx, r8d",
        "jne 4f",
        "inc r8d",
        "add rbx, 4096",
        "loop 3b",
        "jmp 2b",
        "4: hlt"; function = CODE + 0x2000
    ));
    let mut function = assembled!("mov edx, 0");
    for _ in 0..60 {
        function.extend(assembled!("mov rsi, [rbx + rdx + 0x40]", "adc esi, esi"));
    }
    function.push(0xc3);
    for page in 0..64 {
        machine.load(CODE + 0x2000 + page * 0x1000, &function);
    }
    // rbx + rdx + 0x40 must lie in RAM: the count stays far below what is left above.
    let kicker = machine.vcpu.kicker();
    let watch = std::thread::spawn(move || {
        for _ in 0..2000 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            kicker.kick();
        }
    });
    for _ in 0..1900 {
        assert_eq!(
            machine.run(),
            Stop::Exit(Exit::Kicked),
            "the function gave what it was rewritten to give"
        );
        if machine.vcpu.statistics().resets >= 2 {
            break;
        }
    }
    drop(watch);
    let statistics = machine.vcpu.statistics();
    assert!(statistics.resets >= 2, "{statistics:?}");
    assert!(statistics.code_bytes <= 96 << 20, "{statistics:?}");
}

#[test]
fn the_cache_may_be_full_when_a_direct_call_is_linked() {
    // The function called directly is rewritten each round and nothing else is, so the arena fills up in that call.
    const FUNCTION: u64 = CODE + 0x2000;
    let mut machine = Machine::with(&assembled!(
        "mov rbx, {function}",
        "mov ecx, 15000",
        "2: inc r8d",
        "mov [rbx + 1], r8d",
        "call 771b + 0x2000",
        "add rax, rdx",
        "loop 2b",
        "hlt"; function = FUNCTION
    ));
    let mut function = assembled!("mov edx, 0");
    for _ in 0..60 {
        function.extend(assembled!("mov rsi, [rbx + rdi + 0x40]", "adc esi, esi"));
    }
    function.push(0xc3);
    machine.load(FUNCTION, &function);
    machine.vcpu.set_gpr(reg::R8, 0);
    machine.vcpu.set_gpr(reg::RAX, 0);
    // Accesses with an index are translated one by one, which takes room.
    machine.vcpu.set_gpr(reg::RDI, 0);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 15_000 * 15_001 / 2);
    assert!(machine.vcpu.statistics().resets > 0, "{:?}", machine.vcpu.statistics());
}
