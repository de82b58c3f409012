//! A Guest that breaks rules or asks for too much: it gets its exception or its end, and the Launcher keeps its size.

use crate::machine::*;
use lguest_translator::Exit;
use std::time::Duration;

/// Bytes that the host's page tables and the addend tables may take for one vCPU while a Guest looks everywhere: a half
/// may touch 32 MiB of table before it is emptied, and each page of it may cost a page of the host's tables in two views.
const MOST_BYTES: u64 = 256 << 20;

/// A line of /proc/self/status in bytes: "VmPTE" is what the host's page tables take.
pub fn process_memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with(name)).expect("it has that line");
    let number = line.split_whitespace().nth(1).expect("a number");
    number.parse::<u64>().expect("a number") << 10
}

/// Runs a test's body in a process of its own, whose memory nobody else's tests use.
fn alone(test: &str, body: impl FnOnce()) {
    const CHILD: &str = "LGUEST_TEST_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let program = std::env::current_exe().expect("Linux tells");
    let arguments = ["--exact", &format!("limits::{test}"), "--nocapture"];
    let output =
        std::process::Command::new(program).args(arguments).env(CHILD, "1").output().expect("it starts");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// A table whose every entry leads to itself: any address is mapped, on the table's own page.
fn hall_of_mirrors(machine: &mut Machine, rights: u64) -> u64 {
    let mirror = machine.new_table();
    for slot in 0..512 {
        machine.put(mirror + 8 * slot, mirror | rights);
    }
    mirror
}

#[test]
fn an_exception_without_a_descriptor_table_is_a_triple_fault() {
    let mut machine = Machine::with(&assembled!("push 0", "push 0", "lidt [rsp]", "ud2"));
    assert_eq!(machine.run(), Stop::Exit(Exit::TripleFault));
    // It stays down.
    assert_eq!(machine.run(), Stop::Exit(Exit::TripleFault));
}

#[test]
fn a_page_fault_that_cannot_be_delivered_is_a_double_fault() {
    let mut machine = Machine::with(&assembled!("mov rax, [rbx]", "hlt"));
    // The page-fault gate names a segment that is not there: #NP during #PF (SDM vol. 3, table 6-5).
    let gate = 0x4000 + 14 * 16;
    machine.put(gate, machine.get(gate) & !0xffff_0000 | 0x48 << 16);
    machine.vcpu.set_gpr(reg::RBX, 0x7000_0000_0000);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.rip), (8, 0, CODE));
    assert_eq!(trapped.cr2, 0x7000_0000_0000);
}

#[test]
fn a_stack_that_is_not_there_is_a_double_fault_without_an_interrupt_stack_of_its_own() {
    let mut machine =
        Machine::with(&assembled!("mov rsp, {nowhere}", "push rax", "hlt"; nowhere = 0x7000_0000_0000u64));
    // The page-fault gate uses the stack in use; the double fault's keeps IST1.
    let gate = 0x4000 + 14 * 16;
    machine.put(gate, machine.get(gate) & !(7 << 32));
    assert_eq!(machine.run_to_trap().vector, 8);
}

#[test]
fn a_jump_to_what_is_no_memory_ends_the_guest_with_a_sentence() {
    const NOWHERE: u64 = 0xffff_9000_0000_0000;
    let mut machine = Machine::with(&assembled!("mov rbx, {nowhere}", "jmp rbx"; nowhere = NOWHERE));
    machine.map(NOWHERE, DEVICE, P | W);
    let Stop::Exit(Exit::Dead(death)) = machine.run() else { panic!("it goes on") };
    assert_eq!(
        death.to_string(),
        "the Guest jumped to 0xffff900000000000, guest-physical 0xd0000000, where there is no memory"
    );
}

#[test]
fn running_off_the_end_of_memory_ends_the_guest_with_a_sentence() {
    const EDGE: u64 = 0xffff_9000_0000_0000;
    // One instruction begins on the last page of RAM and ends where there is none.
    let mut machine = Machine::with(&assembled!("mov rbx, {edge} + 0xffe", "jmp rbx"; edge = EDGE));
    machine.map(EDGE, RAM_BYTES - 0x1000, P | W);
    machine.map(EDGE + 0x1000, RAM_BYTES, P | W);
    machine.load(RAM_BYTES - 2, &[0x48, 0xb8]);
    assert!(matches!(machine.run(), Stop::Exit(Exit::Dead(_))));
}

#[test]
fn a_jump_to_what_is_not_mapped_is_a_page_fault_at_the_target() {
    let mut machine =
        Machine::with(&assembled!("mov rbx, {nowhere}", "call rbx"; nowhere = 0x7000_0000_0123u64));
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code), (14, 16));
    assert_eq!((trapped.cr2, trapped.rip), (0x7000_0000_0123, 0x7000_0000_0123));
}

#[test]
fn an_instruction_that_goes_on_on_a_missing_page_faults_there_and_runs_when_it_has_come() {
    const EDGE: u64 = 0xffff_9000_0000_0000;
    let mut machine = Machine::with(&assembled!("mov rbx, {edge} + 0xffe", "jmp rbx"; edge = EDGE));
    machine.map(EDGE, DATA, P | W);
    machine.load(DATA + 0xffe, &[0xb8, 0x78, 0x56, 0x34, 0x12, 0xf4]);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code), (14, 16));
    assert_eq!((trapped.cr2, trapped.rip), (EDGE + 0x1000, EDGE + 0xffe));
    machine.map(EDGE + 0x1000, DATA + 0x1000, P | W);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 0x1234_5678);
}

#[test]
fn tables_that_point_at_themselves_are_walked_to_their_end() {
    // The last slot of the root leads to the root: a table seen as a page.
    const SLOT: u64 = 0x1ff;
    const ROOT_SEEN: u64 = 0xffff << 48 | SLOT << 39 | SLOT << 30 | SLOT << 21 | SLOT << 12;
    let mut machine =
        Machine::with(&assembled!("mov rbx, {seen}", "mov rax, [rbx + 511*8]", "hlt"; seen = ROOT_SEEN));
    machine.put(ROOT + SLOT * 8, ROOT | P | W);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), ROOT | P | W | A);
}

#[test]
fn a_table_of_nothing_but_itself_maps_everything() {
    let mut machine = Machine::with(&assembled!("mov cr3, r8", "mov rax, [rbx]", "hlt"));
    let mirror = hall_of_mirrors(&mut machine, P | W);
    // The code itself must stay reachable over the switch.
    machine.put(mirror, machine.get(ROOT));
    machine.vcpu.set_gpr(reg::R8, mirror);
    machine.vcpu.set_gpr(reg::RBX, 0xffff_ffff_ffff_fff8);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), mirror | P | W | A);
}

#[test]
fn tables_where_there_is_no_memory_fault_as_reserved() {
    let mut machine = Machine::with(&assembled!("mov rax, [rbx]", "hlt"));
    machine.put(ROOT + 8 * 0x100, DEVICE | P | W);
    machine.vcpu.set_gpr(reg::RBX, 0xffff_8000_0000_0000);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code), (14, 9));
}

#[test]
fn a_root_where_there_is_no_memory_ends_in_a_triple_fault() {
    let mut machine =
        Machine::with(&assembled!("mov rax, {nowhere}", "mov cr3, rax", "hlt"; nowhere = DEVICE));
    assert_eq!(machine.run(), Stop::Exit(Exit::TripleFault));
}

/// Lets a Guest read at every `stride` of its low or high half; what the process grew by.
fn growth_by_reading_everywhere(start: u64, stride: u64, count: u64) -> u64 {
    let mut machine =
        Machine::with(&assembled!("mov cr3, r8", "2: mov rax, [rbx]", "add rbx, r9", "loop 2b", "hlt"));
    let mirror = hall_of_mirrors(&mut machine, P | W);
    machine.put(mirror, machine.get(ROOT));
    for (register, value) in [(reg::R8, mirror), (reg::RBX, start), (reg::R9, stride), (reg::RCX, count)] {
        machine.vcpu.set_gpr(register, value);
    }
    let before = process_memory("VmPTE") + process_memory("VmRSS");
    machine.run_to_halt();
    let statistics = machine.vcpu.statistics();
    assert!(statistics.table_bytes < MOST_BYTES, "{statistics:?}");
    (process_memory("VmPTE") + process_memory("VmRSS")).saturating_sub(before)
}

#[test]
fn reading_addresses_all_over_grows_the_process_by_a_bounded_amount() {
    // Each stride is the address range of one page of the host's page tables; the whole half in 131,072 of them.
    alone("reading_addresses_all_over_grows_the_process_by_a_bounded_amount", || {
        for start in [1 << 39, 0xffff_8000_0000_0000] {
            let grown = growth_by_reading_everywhere(start, 1 << 30, 131_072 - 512);
            assert!(grown < MOST_BYTES, "from {start:#x}: {} MiB", grown >> 20);
        }
    });
}

#[test]
fn a_user_that_reads_the_supervisors_half_all_over_grows_the_process_by_a_bounded_amount() {
    alone(
        "a_user_that_reads_the_supervisors_half_all_over_grows_the_process_by_a_bounded_amount",
        read_the_supervisors_half,
    );
}

fn read_the_supervisors_half() {
    let mut machine = Machine::new();
    let place = machine.load_anew(USER_CODE, &assembled!("mov rax, [rbx]", "2: add rbx, r9", "jmp 771b"));
    machine.start_user(place);
    machine.vcpu.set_gpr(reg::RBX, 0xffff_8000_0000_0000);
    machine.vcpu.set_gpr(reg::R9, 1 << 30);
    let before = process_memory("VmPTE") + process_memory("VmRSS");
    for _ in 0..131_000 {
        let trapped = machine.run_to_trap();
        assert_eq!((trapped.vector, trapped.error_code), (14, 4));
        machine.return_to(place + 3);
    }
    let grown = (process_memory("VmPTE") + process_memory("VmRSS")).saturating_sub(before);
    assert!(grown < MOST_BYTES, "{} MiB", grown >> 20);
}

#[test]
fn invalidating_and_reading_one_page_for_ever_does_not_grow_the_process() {
    alone("invalidating_and_reading_one_page_for_ever_does_not_grow_the_process", invalidate_for_ever);
}

fn invalidate_for_ever() {
    const ROUNDS: u64 = 3_000_000;
    let mut machine = Machine::with(&assembled!("2: mov [rbx], rcx", "invlpg [rbx]", "loop 2b", "hlt"));
    machine.vcpu.set_gpr(reg::RBX, 0xffff_9000_0000_0000);
    machine.map(0xffff_9000_0000_0000, DATA, P | W);
    machine.vcpu.set_gpr(reg::RCX, ROUNDS);
    let before = process_memory("VmRSS");
    machine.run_to_halt();
    let grown = process_memory("VmRSS").saturating_sub(before);
    assert!(grown < 24 << 20, "{} MiB", grown >> 20);
}

#[test]
fn one_page_written_at_a_million_addresses_is_bounded_and_can_become_code() {
    const ADDRESSES: u64 = 200_000;
    let mut machine = Machine::with(&assembled!(
        "mov cr3, r8",
        "2: mov [rbx + 0xff8], rcx",
        "add rbx, r9",
        "loop 2b",
        "hlt"
    ));
    let mirror = hall_of_mirrors(&mut machine, P | W);
    machine.put(mirror, machine.get(ROOT));
    // The page that is written must be no table: the last level leads to a page of data.
    let last = machine.new_table();
    for slot in 0..512 {
        machine.put(last + 8 * slot, DATA | P | W);
    }
    let directory = machine.new_table();
    for slot in 0..512 {
        machine.put(directory + 8 * slot, last | P | W);
    }
    let pointers = machine.new_table();
    for slot in 0..512 {
        machine.put(pointers + 8 * slot, directory | P | W);
        if slot > 0 {
            machine.put(mirror + 8 * slot, pointers | P | W);
        }
    }
    let values =
        [(reg::R8, mirror), (reg::RBX, 0xffff_8000_0000_0000), (reg::R9, 0x1000), (reg::RCX, ADDRESSES)];
    for (register, value) in values {
        machine.vcpu.set_gpr(register, value);
    }
    let started = std::time::Instant::now();
    machine.run_to_halt();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(machine.get(DATA + 0xff8), 1);
}
