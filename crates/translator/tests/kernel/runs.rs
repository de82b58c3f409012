//! Large pages (memory/runs.rs): one miss makes the entries of the pages around it, and they end when one of them would
//! (SDM vol. 3, 4.10.4.1: `invlpg` ends all of a large page's translations).

use crate::machine::*;

/// A large page, mapped at [`LARGE`].
const FIRST: u64 = 0x60_0000;
/// Another for the same place.
const SECOND: u64 = 0xa0_0000;
/// Where: supervisor, high half.
const LARGE: u64 = 0xffff_9000_0000_0000;
/// Pages in it.
const PAGES: u64 = 512;

/// The page-directory entry of [`LARGE`], which this makes.
fn map_large(machine: &mut Machine, entry: u64) -> u64 {
    machine.map(LARGE, 0, P | W);
    let directory = |machine: &Machine| {
        let table = machine.get(ROOT + (LARGE >> 39 & 511) * 8) & !0xfff;
        machine.get(table + (LARGE >> 30 & 511) * 8) & !0xfff
    };
    let place = directory(machine) + (LARGE >> 21 & 511) * 8;
    machine.put(place, entry);
    place
}

/// Adds one to a word in each of its pages, and the words up in rax.
fn walk_pages() -> Vec<u8> {
    assembled!(
        "mov rsi, rbx",
        "mov ecx, 512",
        "xor eax, eax",
        "2: inc qword ptr [rsi]",
        "add rax, [rsi]",
        "add rsi, 0x1000",
        "loop 2b"
    )
}

/// [`walk_pages`], then `then`, then [`walk_pages`] and a halt.
fn twice(then: &[u8]) -> Vec<u8> {
    [&walk_pages(), then, &walk_pages(), &assembled!("hlt")[..]].concat()
}

fn machine(code: &[u8], rights: u64) -> (Machine, u64) {
    let mut machine = Machine::with(code);
    let place = map_large(&mut machine, FIRST | rights | PS);
    machine.vcpu.set_gpr(reg::RBX, LARGE);
    machine.vcpu.set_gpr(reg::R8, place);
    (machine, place)
}

#[test]
fn a_pass_over_a_large_page_misses_a_few_times_only() {
    let (mut machine, place) = machine(&twice(&[]), P | W);
    let before = machine.vcpu.statistics();
    machine.run_to_halt();
    let after = machine.vcpu.statistics();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 2 * PAGES);
    assert!(after.fills - before.fills < 20, "{} fills", after.fills - before.fills);
    assert!(after.faults - before.faults < 20, "{} faults", after.faults - before.faults);
    assert_eq!(machine.get(place) & (A | D), A | D);
    for page in 0..PAGES {
        assert_eq!(machine.get(FIRST + page * 0x1000), 2);
    }
}

#[test]
fn all_of_a_large_page_moves_when_one_of_its_addresses_is_invalidated() {
    for global in [0, G] {
        let then = assembled!("mov [r8], r9", "invlpg [rbx + 0x123456]");
        let (mut machine, _) = machine(&twice(&then), P | W | global);
        machine.vcpu.set_gpr(reg::R9, SECOND | P | W | PS);
        machine.run_to_halt();
        for page in 0..PAGES {
            assert_eq!(machine.get(FIRST + page * 0x1000), 1, "page {page}");
            assert_eq!(machine.get(SECOND + page * 0x1000), 1, "page {page}");
        }
    }
}

#[test]
fn a_large_page_that_is_not_global_ends_with_a_write_to_cr3() {
    let then = assembled!("mov [r8], r9", "mov rax, cr3", "mov cr3, rax");
    let (mut machine, _) = machine(&twice(&then), P | W);
    machine.vcpu.set_gpr(reg::R9, SECOND | P | W | PS);
    machine.run_to_halt();
    assert_eq!((machine.get(FIRST + 0x7000), machine.get(SECOND + 0x7000)), (1, 1));
}

#[test]
fn a_large_page_that_becomes_read_only_refuses_each_of_its_pages() {
    for page in [0u64, 1, 63, 64, 300, 511] {
        let then = assembled!("and qword ptr [r8], ~2", "invlpg [rbx]", "mov [r12], rax", "hlt");
        let (mut machine, _) = machine(&[&walk_pages()[..], &then].concat(), P | W);
        machine.vcpu.set_gpr(12, LARGE + page * 0x1000 + 8);
        let trapped = machine.run_to_trap();
        assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, 3, LARGE + page * 0x1000 + 8));
    }
}

#[test]
fn a_page_of_a_large_page_that_is_only_read_stays_clean_and_is_dirty_after_a_write() {
    let code =
        assembled!("mov rax, [rbx]", "mov r10, [r8]", "mov [rbx + 0x3000], rax", "mov r11, [r8]", "hlt");
    let (mut machine, _) = machine(&code, P | W);
    machine.run_to_halt();
    assert_eq!((machine.vcpu.gpr(10) & (A | D), machine.vcpu.gpr(11) & (A | D)), (A, A | D));
}

#[test]
fn code_made_from_a_page_of_a_run_is_forgotten_when_the_run_writes_it() {
    // The whole run is writable before there is code in it: calls into page 5, then writes over its immediate.
    let code = assembled!(
        "mov [rbx], rax",
        "mov ecx, 100",
        "xor esi, esi",
        "lea r12, [rbx + 0x5000]",
        "2: call r12",
        "add esi, eax",
        "inc dword ptr [r12 + 1]",
        "loop 2b",
        "hlt"
    );
    let (mut machine, _) = machine(&code, P | W);
    machine.load(FIRST + 0x5000, &assembled!("mov eax, 1", "ret"));
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RSI), 100 * 101 / 2);
}

#[test]
fn filling_and_invalidating_runs_for_long_does_not_lose_one() {
    let code = assembled!(
        "2: mov rax, [rbx]",
        "mov [rbx + 0x40000], rcx",
        "xchg [r8], r9",
        "invlpg [rbx]",
        "loop 2b",
        "hlt"
    );
    let (mut machine, _) = machine(&code, P | W);
    machine.vcpu.set_gpr(reg::R9, SECOND | P | W | PS);
    machine.vcpu.set_gpr(reg::RCX, 2001);
    machine.run_to_halt();
    assert_eq!((machine.get(FIRST + 0x4_0000), machine.get(SECOND + 0x4_0000)), (1, 2));
}

#[test]
fn a_watched_page_in_a_large_one_is_in_no_run() {
    // The watch is set before anything was touched, so that its page would come into the tables with its neighbours.
    let arm = assembled!("mov dr0, r9", "mov dr7, rdx");
    let code = [&arm[..], &walk_pages(), &assembled!("hlt")[..]].concat();
    let (mut machine, _) = machine(&code, P | W);
    machine.vcpu.set_gpr(reg::R9, LARGE + 5 * 0x1000);
    // R/W0 = 1, LEN0 = 3: a write to four bytes.
    machine.vcpu.set_gpr(reg::RDX, 1 | 0xd << 16);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, machine.vcpu.cpu().dr[6] & 1), (1, 1), "{trapped:x?}");
    assert_eq!(machine.vcpu.gpr(reg::RSI), LARGE + 5 * 0x1000);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), PAGES);
}
