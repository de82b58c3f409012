//! Accesses that share one look into the table, and registers that change places: what a unit does with many instructions
//! at once must be what they do one by one, wherever one of them faults (SDM vol. 3, 6.5: a fault leaves the state as it
//! was before its instruction).

use crate::machine::*;

/// Two pages that lie elsewhere in memory than behind each other.
const FIRST: u64 = 0xffff_9000_0000_0000;
const SECOND: u64 = FIRST + 0x1000;
const BEHIND_FIRST: u64 = 0x60_0000;
const BEHIND_SECOND: u64 = 0x70_0000;

fn two_pages(machine: &mut Machine, second: u64) {
    machine.map(FIRST, BEHIND_FIRST, P | W | A | D);
    machine.map(SECOND, BEHIND_SECOND, second);
}

/// Four words that follow each other, added up and written back, four times.
fn words() -> Vec<u8> {
    assembled!(
        "mov ecx, 4",
        "2: mov rax, [rbx]",
        "add rax, [rbx + 8]",
        "lea rdx, [rbx + 16]",
        "add rax, [rdx]",
        "add rax, [rdx + 8]",
        "mov [rbx + 24], rax",
        "mov [rdx - 8], ecx",
        "loop 2b",
        "hlt"
    )
}

/// The same by hand.
fn expected(mut words: [u64; 4]) -> [u64; 4] {
    for count in (1..=4).rev() {
        words[3] = words.iter().fold(0, |sum, word| sum.wrapping_add(*word));
        words[1] = words[1] & !0xffff_ffff | count;
    }
    words
}

const VALUES: [u64; 4] = [1 << 40 | 5, 7 << 33 | 9, 11, 13 << 50];

#[test]
fn a_span_gives_the_same_wherever_it_lies_in_one_page_or_across_two() {
    for start in (SECOND - 40..SECOND + 8).chain([FIRST, FIRST + 0x800]) {
        let mut machine = Machine::with(&words());
        two_pages(&mut machine, P | W | A | D);
        let physical = |address: u64| {
            let page = if address >= SECOND { BEHIND_SECOND } else { BEHIND_FIRST };
            page + (address & 0xfff)
        };
        let bytes: Vec<u8> = VALUES.iter().flat_map(|word| word.to_le_bytes()).collect();
        for (address, byte) in (start..).zip(&bytes) {
            machine.load(physical(address), &[*byte]);
        }
        machine.vcpu.set_gpr(reg::RBX, start);
        machine.run_to_halt();
        let read = |n: u64| {
            let byte = |at: u64| machine.get(physical(at) & !7).to_le_bytes()[physical(at) as usize & 7];
            u64::from_le_bytes(std::array::from_fn(|at| byte(start + 8 * n + at as u64)))
        };
        let found: [u64; 4] = std::array::from_fn(|n| read(n as u64));
        assert_eq!(found, expected(VALUES), "at {start:#x}");
    }
}

#[test]
fn a_fault_in_the_middle_of_a_span_is_the_access_s_own() {
    // The span begins in the first page and its third word is the first of the second, which is not there.
    let mut machine = Machine::with(&words());
    two_pages(&mut machine, 0);
    machine.vcpu.set_gpr(reg::RBX, SECOND - 16);
    machine.vcpu.set_gpr(reg::RAX, 0);
    machine.put(BEHIND_FIRST + 0xff0, 3);
    machine.put(BEHIND_FIRST + 0xff8, 4);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, 0, SECOND));
    assert_eq!(machine.vcpu.gpr(reg::RAX), 7, "what came before is done, and nothing else");
    // Mapped now, it goes on where it was.
    machine.map(SECOND, BEHIND_SECOND, P | W);
    machine.put(BEHIND_SECOND, 10);
    machine.put(BEHIND_SECOND + 8, 20);
    machine.run_to_halt();
    assert_eq!(machine.get(BEHIND_SECOND + 8), expected([3, 4, 10, 20])[3]);
}

#[test]
fn a_write_to_a_page_that_was_only_read_in_the_span_faults_and_then_goes_where_the_page_is() {
    // Read-only for the first load; the handler puts another page there, as copy-on-write does.
    let mut machine = Machine::with(&assembled!(
        "mov rax, [rbx]",
        "mov rdx, [rbx + 8]",
        "mov [rbx + 16], rax",
        "mov rsi, [rbx + 24]",
        "hlt"
    ));
    two_pages(&mut machine, 0);
    machine.map(FIRST, BEHIND_FIRST, P);
    machine.vcpu.cpu_mut().cr0 |= 1 << 16;
    for (n, word) in (0..).zip([1, 2, 3, 4]) {
        machine.put(BEHIND_FIRST + 8 * n, word);
        machine.put(BEHIND_SECOND + 8 * n, word + 100);
    }
    machine.vcpu.set_gpr(reg::RBX, FIRST);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, 3, FIRST + 16));
    machine.map(FIRST, BEHIND_SECOND, P | W);
    machine.run_to_halt();
    assert_eq!((machine.get(BEHIND_FIRST + 16), machine.get(BEHIND_SECOND + 16)), (3, 1));
    assert_eq!(machine.vcpu.gpr(reg::RSI), 104, "the new page's, for `#PF` ended the old translation");
}

#[test]
fn an_access_that_rust_plays_ends_what_the_span_knew() {
    // Between two accesses of one span a device is read, and while it answers the Host changes the page tables: the
    // last access of the loop's first turn may still see the old page, a flush and the second turn not.
    let mut machine = Machine::with(&assembled!(
        "mov rax, [rbx]",
        "mov rdx, [rdi]",
        "add rax, [rbx + 8]",
        "add rax, [rbx + 16]",
        "invlpg [rbx]",
        "mov rsi, [rbx]",
        "add rsi, [rbx + 8]",
        "add rsi, [rbx + 16]",
        "hlt"
    ));
    two_pages(&mut machine, 0);
    let place = 0xffff_a000_0000_0000;
    machine.map(place, DEVICE, P | W);
    for n in 0..3 {
        machine.put(BEHIND_FIRST + 8 * n, 1);
        machine.put(BEHIND_SECOND + 8 * n, 10);
    }
    machine.vcpu.set_gpr(reg::RBX, FIRST);
    machine.vcpu.set_gpr(reg::RDI, place);
    let stop = machine.run();
    assert!(matches!(stop, Stop::Exit(lguest_translator::Exit::MmioRead { .. })), "{stop:?}");
    machine.map(FIRST, BEHIND_SECOND, P | W);
    machine.vcpu.reply(5);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RDX), 5);
    assert!([3, 12, 21].contains(&machine.vcpu.gpr(reg::RAX)), "{}", machine.vcpu.gpr(reg::RAX));
    assert_eq!(machine.vcpu.gpr(reg::RSI), 30);
}

/// A user's page, and another for the same place.
const USERS: u64 = 0x6000_0000_0000;

#[test]
fn hot_code_forgets_where_a_page_was_when_it_moves() {
    // Reads, and then a write that the page forbids: the handler gives the user a page of its own, as copy-on-write does.
    let mut machine = Machine::new();
    machine.vcpu.take_all_code_for_hot(true);
    machine.map(USERS, BEHIND_FIRST, P | U);
    for page in [BEHIND_FIRST, BEHIND_SECOND] {
        (0..4).for_each(|n| machine.put(page + 8 * n, page + n));
    }
    let place = machine.load_anew(
        USER_CODE,
        &assembled!(
            "mov ecx, 3",
            "2: mov rax, [rbx]",
            "add rax, [rbx + 8]",
            "add rax, [rbx + rcx * 8]",
            "loop 2b",
            "mov [rbx + 16], ecx",
            "mov rax, [rbx]",
            "mov rdx, [rbx + 8]",
            "mov rsi, [rbx + rcx * 8 + 24]",
            "int3"
        ),
    );
    machine.start_user(place);
    machine.vcpu.set_gpr(reg::RBX, USERS);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, 7, USERS + 16));
    assert_eq!(machine.vcpu.gpr(reg::RAX), 3 * BEHIND_FIRST + 2);
    machine.map(USERS, BEHIND_SECOND, P | W | U);
    assert_eq!(machine.run_to_trap().vector, 3);
    let found = [reg::RAX, reg::RDX, reg::RSI].map(|register| machine.vcpu.gpr(register));
    assert_eq!(found, [BEHIND_SECOND, BEHIND_SECOND + 1, BEHIND_SECOND + 3]);
    assert_eq!(machine.get(BEHIND_FIRST + 16), BEHIND_FIRST + 2, "the old page is as it was");
}

#[test]
fn hot_code_finds_words_across_pages_and_pages_that_take_turns() {
    let mut machine = Machine::new();
    machine.vcpu.take_all_code_for_hot(true);
    machine.map(USERS, BEHIND_FIRST, P | W | U);
    machine.map(USERS + 0x1000, BEHIND_SECOND, P | W | U);
    let mut expected = 0u64;
    for n in 0..1024u64 {
        let physical = if n < 512 { BEHIND_FIRST + 8 * n } else { BEHIND_SECOND + 8 * (n - 512) };
        machine.put(physical, n * 0x0101_0101);
    }
    let word = |at: u64| {
        let byte = |at: u64| ((at / 8) * 0x0101_0101).to_le_bytes()[at as usize % 8];
        u64::from_le_bytes(std::array::from_fn(|n| byte(at + n as u64)))
    };
    // Steps of 777 bytes: of every alignment, in one page and the other, now and then across.
    for n in 0..10 {
        expected = expected.wrapping_add(word(n * 777)).wrapping_add(word(n * 777 + 5));
    }
    let place = machine.load_anew(
        USER_CODE,
        &assembled!(
            "mov ecx, 10",
            "xor eax, eax",
            "2: add rax, [rbx]",
            "add rax, [rbx + 5]",
            "add rbx, 777",
            "loop 2b",
            "int3"
        ),
    );
    machine.start_user(place);
    machine.vcpu.set_gpr(reg::RBX, USERS);
    assert_eq!(machine.run_to_trap().vector, 3);
    assert_eq!(machine.vcpu.gpr(reg::RAX), expected);
}

#[test]
fn hot_code_forgets_where_its_stack_was_when_it_moves() {
    // A carry lives over each pop. The push is the first write: the handler gives the user a page of its own.
    let mut machine = Machine::new();
    machine.vcpu.take_all_code_for_hot(true);
    machine.map(USERS, BEHIND_FIRST, P | U);
    for page in [BEHIND_FIRST, BEHIND_SECOND] {
        (0..2).for_each(|n| machine.put(page + 8 * n, page + n));
    }
    let place = machine.load_anew(
        USER_CODE,
        &assembled!(
            "mov ecx, 3",
            "2: xor edx, edx",
            "3: mov rsp, rbx",
            "stc",
            "jmp 4f",
            "4: pop rax",
            "adc rdx, rax",
            "loop 3b",
            "jmp 5f",
            "5: push rdx",
            "jmp 6f",
            "6: pop rsi",
            "jmp 7f",
            "7: pop rdi",
            "mov ecx, 1",
            "dec r8d",
            "jnz 2b",
            "int3"
        ),
    );
    machine.start_user(place);
    machine.vcpu.set_gpr(reg::RBX, USERS);
    machine.vcpu.set_gpr(reg::R8, 2);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code, trapped.cr2), (14, 7, USERS));
    let pushed = 3 * BEHIND_FIRST + 3;
    assert_eq!(machine.vcpu.gpr(reg::RDX), pushed);
    machine.map(USERS, BEHIND_SECOND, P | W | U);
    assert_eq!(machine.run_to_trap().vector, 3);
    let found = [reg::RSI, reg::RDI].map(|register| machine.vcpu.gpr(register));
    assert_eq!(found, [pushed + 1, BEHIND_SECOND + 1], "popped once more, with the carry");
    assert_eq!(machine.get(BEHIND_SECOND), pushed + 1);
    assert_eq!(machine.get(BEHIND_FIRST), BEHIND_FIRST, "the old page is as it was");
}

#[test]
fn hot_code_finds_its_stack_in_pages_that_take_turns() {
    let with_flags = assembled!(
        "mov ecx, 10",
        "xor edx, edx",
        "2: mov rsp, rbx",
        "xor rbx, 0x1000",
        "stc",
        "jmp 3f",
        "3: pop rax",
        "adc rdx, rax",
        "loop 2b",
        "int3"
    );
    let without = assembled!(
        "mov ecx, 10",
        "mov edx, 10",
        "2: mov rsp, rbx",
        "xor rbx, 0x1000",
        "jmp 3f",
        "3: pop rax",
        "add rdx, rax",
        "loop 2b",
        "int3"
    );
    for code in [with_flags, without] {
        let mut machine = Machine::new();
        machine.vcpu.take_all_code_for_hot(true);
        machine.map(USERS, BEHIND_FIRST, P | W | U);
        machine.map(USERS + 0x1000, BEHIND_SECOND, P | W | U);
        machine.put(BEHIND_FIRST, 7);
        machine.put(BEHIND_SECOND, 1000);
        let place = machine.load_anew(USER_CODE, &code);
        machine.start_user(place);
        machine.vcpu.set_gpr(reg::RBX, USERS);
        assert_eq!(machine.run_to_trap().vector, 3);
        assert_eq!(machine.vcpu.gpr(reg::RDX), 5 * 1007 + 10);
    }
}

/// r9 to r11 are used much, the others little: they change places. One access faults in the middle.
fn swapping() -> Vec<u8> {
    assembled!(
        "mov r10d, 3",
        "2: add r9, r10",
        "lea r11, [r9 + r10 * 2]",
        "xor r9, r11",
        "rol r11, 7",
        "add r11, [rbx]",
        "sub r9, r11",
        "add r9, r12",
        "mov [rbx + 8], r9",
        "dec r10",
        "jnz 2b",
        // A unit that asks Rust for something does not swap, and `hlt` does.
        "jmp 3f",
        "3: hlt"
    )
}

fn swapped_by_hand(mut r9: u64, r12: u64, word: u64) -> [u64; 2] {
    let mut r11 = 0;
    for r10 in [3, 2, 1] {
        r9 = r9.wrapping_add(r10);
        r11 = r9.wrapping_add(r10 * 2);
        r9 ^= r11;
        r11 = r11.rotate_left(7).wrapping_add(word);
        r9 = r9.wrapping_sub(r11).wrapping_add(r12);
    }
    [r9, r11]
}

#[test]
fn registers_that_change_places_are_found_where_they_belong() {
    const R11: usize = 11;
    for mapped in [true, false] {
        let mut machine = Machine::with(&swapping());
        two_pages(&mut machine, if mapped { P | W } else { 0 });
        for (n, value) in (8..16).zip(0x1111_0000..) {
            machine.vcpu.set_gpr(n, value);
        }
        machine.put(BEHIND_SECOND, 0x0123_4567_89ab_cdef);
        machine.vcpu.set_gpr(reg::RBX, SECOND);
        if !mapped {
            let trapped = machine.run_to_trap();
            assert_eq!((trapped.vector, trapped.cr2), (14, SECOND));
            for (n, value) in (12..16).zip(0x1111_0004..) {
                assert_eq!(machine.vcpu.gpr(n), value, "r{n}");
            }
            assert_eq!(machine.vcpu.gpr(10), 3);
            machine.map(SECOND, BEHIND_SECOND, P | W);
        }
        machine.run_to_halt();
        let [r9, r11] = swapped_by_hand(0x1111_0001, 0x1111_0004, 0x0123_4567_89ab_cdef);
        assert_eq!([machine.vcpu.gpr(reg::R9), machine.vcpu.gpr(R11)], [r9, r11], "mapped: {mapped}");
        assert_eq!(machine.get(BEHIND_SECOND + 8), r9);
        assert_eq!(machine.vcpu.gpr(8), 0x1111_0000);
        for (n, value) in (12..16).zip(0x1111_0004..) {
            assert_eq!(machine.vcpu.gpr(n), value, "r{n}");
        }
    }
}

#[test]
fn a_kick_gets_out_of_a_loop_whose_registers_stay_swapped() {
    let mut machine = Machine::with(&assembled!(
        "2: add r9, 1",
        "add r9, r9",
        "sub r9, 2",
        "xor r9, 0",
        "test r9, r9",
        "jmp 2b"
    ));
    machine.vcpu.set_gpr(15, 77);
    let kicker = machine.vcpu.kicker();
    let watch = kicks(kicker, 3);
    for _ in 0..3 {
        assert_eq!(machine.run(), Stop::Exit(lguest_translator::Exit::Kicked));
        assert_eq!(machine.vcpu.gpr(15), 77);
    }
    watch.join().expect("the kicking thread ends");
}

/// Kicks a vCPU so many times, until each was taken.
fn kicks(kicker: lguest_translator::Kicker, times: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for _ in 0..times {
            std::thread::sleep(std::time::Duration::from_millis(20));
            kicker.kick();
        }
    })
}
