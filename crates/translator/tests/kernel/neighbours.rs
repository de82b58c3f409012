//! Two processors on one memory, a thread each: locked operations, order of writes, code that one writes and the other
//! runs, page tables that both change. Guests wait for each other in loops of their own; none is timed.

use crate::machine::*;
use lguest_translator::Exit;
use std::time::Duration;

/// Rounds of a Guest in which both wait for each other each time.
const ROUNDS: u64 = 2000;
/// The same where each round also asks the other to come out of its loop: on a busy host that takes a time slice.
const ASKING_ROUNDS: u64 = 200;
/// How long a Guest may take before it counts as hanging. Far more than any takes on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);

/// A word for handshakes, on a line of its own.
const TURN: u64 = DATA + 0x400;

/// Runs both to `hlt`, a thread each, and gives them back.
#[track_caller]
fn run_both(mut first: Machine, mut second: Machine) -> (Machine, Machine) {
    let kickers = [first.vcpu.kicker(), second.vcpu.kicker()];
    let (done, over) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        // Ends by the channel's end when both are through.
        while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = over.recv_timeout(PATIENCE) {
            kickers.iter().for_each(|kicker| kicker.kick());
        }
    });
    let both = std::thread::scope(|scope| {
        let other = scope.spawn(|| second.run());
        (first.run(), other.join().expect("the second processor's thread ends"))
    });
    drop(done);
    guard.join().expect("the guard ends");
    assert_eq!(both, (Stop::Exit(Exit::Halt), Stop::Exit(Exit::Halt)), "one of them hung or trapped");
    (first, second)
}

/// The same code on both; rdi is 0 and 1.
fn both_run(code: &[u8]) -> (Machine, Machine) {
    let (first, mut second) = two(code);
    second.start(CODE);
    second.vcpu.cpu_mut().gpr[reg::RDI] = 1;
    run_both(first, second)
}

fn two(code: &[u8]) -> (Machine, Machine) {
    let mut first = Machine::with(code);
    first.vcpu.cpu_mut().gpr[reg::RDI] = 0;
    let second = first.beside();
    (first, second)
}

#[test]
fn locked_additions_of_both_all_count_also_across_a_page() {
    for place in [DATA + 0x200, DATA + 0xffc, DATA + 0x203e] {
        let code = assembled!(
            "mov ecx, 20000",
            "2: lock inc qword ptr [rsi]",
            "mov eax, 1",
            "lock xadd [rsi], rax",
            "3: mov rax, [rsi]",
            "lea rdx, [rax + 1]",
            "lock cmpxchg [rsi], rdx",
            "jne 3b",
            "loop 2b",
            "hlt"
        );
        let (mut first, mut second) = two(&code);
        second.start(CODE);
        for machine in [&mut first, &mut second] {
            machine.vcpu.cpu_mut().gpr[reg::RSI] = place;
        }
        // The rounds across a page are played alone, a few microseconds each.
        let crosses = place & 0xfff > 0xff8;
        if crosses {
            first.load(CODE, &assembled!("mov ecx, 1000"));
        }
        let (first, _) = run_both(first, second);
        assert_eq!(first.get(place), if crosses { 6000 } else { 120_000 }, "at {place:#x}");
    }
}

#[test]
fn locked_additions_to_a_page_of_code_all_count() {
    let code = assembled!(
        "mov ecx, 1000",
        "2: lock inc dword ptr [rip + 3f]",
        "loop 2b",
        "hlt",
        ".balign 8",
        "3: .quad 0"
    );
    let (first, _) = both_run(&code);
    assert_eq!(first.get(CODE + (code.len() as u64 - 8)), 2000);
}

#[test]
fn what_was_written_first_is_seen_first() {
    // One writes data, then the flag; the other sees the flag, then must see the data (SDM vol. 3, 9.2.3.2).
    let code = assembled!(
        "mov rbx, {data}",
        "mov ecx, 1",
        "test edi, edi",
        "jnz 4f",
        "2: mov [rbx], rcx",
        "mov [rbx + 0x1080], rcx",
        "3: pause",
        "cmp [rbx + 0x2100], rcx",
        "jne 3b",
        "inc ecx",
        "cmp ecx, {rounds}",
        "jbe 2b",
        "hlt",
        "4: xor r8d, r8d",
        "5: pause",
        "cmp [rbx + 0x1080], rcx",
        "jne 5b",
        "mov rax, [rbx]",
        "cmp rax, rcx",
        "setne al",
        "movzx eax, al",
        "add r8, rax",
        "mov [rbx + 0x2100], rcx",
        "inc ecx",
        "cmp ecx, {rounds}",
        "jbe 5b",
        "hlt"; data = DATA, rounds = ROUNDS
    );
    let (_, second) = both_run(&code);
    assert_eq!(second.vcpu.gpr(reg::R8), 0, "rounds in which the flag came before the data");
}

#[test]
fn with_fences_one_of_two_sees_the_others_write() {
    // x = 1; mfence; read y, and the reverse: never both zero (SDM vol. 3, 9.2.3.4 and 9.2.5).
    let code = assembled!(
        "mov rbx, {data}",
        "mov rsi, rdi",
        "shl rsi, 7",           // our word, and the other's
        "mov rdx, rsi",
        "xor rdx, 0x80",
        "mov ecx, 1",
        "2: mov [rbx + rsi], rcx",
        "mfence",
        "mov rax, [rbx + rdx]",
        "mov [rbx + rsi*8 + 0x1000], rax",
        // Meet, let the first look, meet again.
        "lock inc qword ptr [rbx + 0x2000]",
        "lea rax, [rcx*4 - 2]",
        "3: pause",
        "cmp [rbx + 0x2000], rax",
        "jb 3b",
        "mov rax, [rbx + 0x1000]",
        "cmp rax, rcx",
        "je 4f",
        "mov rax, [rbx + 0x1400]",
        "cmp rax, rcx",
        "je 4f",
        "lock inc qword ptr [rbx + 0x3000]",
        "4: lock inc qword ptr [rbx + 0x2000]",
        "lea rax, [rcx*4]",
        "5: pause",
        "cmp [rbx + 0x2000], rax",
        "jb 5b",
        "inc ecx",
        "cmp ecx, {rounds}",
        "jbe 2b",
        "hlt"; data = DATA, rounds = ROUNDS
    );
    let (first, _) = both_run(&code);
    assert_eq!(first.get(DATA + 0x3000), 0, "rounds in which neither saw the other");
}

#[test]
fn code_that_the_other_wrote_runs_as_written_once_both_agree() {
    // The first writes the function's number and a flag; the second sees the flag, serialises and calls (SDM vol. 3,
    // 9.1.3, "cross-modifying code"). Both call it, so both have units of it.
    let code = assembled!(
        "mov rbx, {turn}",
        "lea rsi, [rip + 9f]",
        "xor r8d, r8d",
        "mov r12d, 1",
        "test edi, edi",
        "jnz 4f",
        "2: mov [rsi + 1], r12d",
        "mov [rbx], r12",
        "call rsi",
        "cmp rax, r12",
        "setne al",
        "movzx eax, al",
        "add r8, rax",
        "3: pause",
        "cmp [rbx + 0x80], r12",
        "jne 3b",
        "inc r12d",
        "cmp r12d, {rounds}",
        "jbe 2b",
        "hlt",
        "4: pause",
        "cmp [rbx], r12",
        "jne 4b",
        "xor eax, eax",
        "push rbx",
        "cpuid",
        "pop rbx",
        "call rsi",
        "cmp rax, r12",
        "setne al",
        "movzx eax, al",
        "add r8, rax",
        "mov [rbx + 0x80], r12",
        "inc r12d",
        "cmp r12d, {rounds}",
        "jbe 4b",
        "hlt",
        ".balign 4096",
        "9: mov eax, 0",
        "ret"; turn = TURN, rounds = ASKING_ROUNDS
    );
    let (first, second) = both_run(&code);
    assert_eq!((first.vcpu.gpr(reg::R8), second.vcpu.gpr(reg::R8)), (0, 0), "calls of an old function");
}

#[test]
fn a_page_the_other_fills_with_new_code_each_time_runs_as_filled() {
    // Data becomes code becomes data: the first has a writable entry for the page each time the second marks it.
    let code = assembled!(
        "mov rbx, {turn}",
        "mov rsi, {place}",
        "xor r8d, r8d",
        "mov r12d, 1",
        "test edi, edi",
        "jnz 4f",
        "2: mov byte ptr [rsi], 0xb8", // mov eax, r12d; ret
        "mov [rsi + 1], r12d",
        "mov byte ptr [rsi + 5], 0xc3",
        "mov [rbx], r12",
        "3: pause",
        "cmp [rbx + 0x80], r12",
        "jne 3b",
        "add rsi, 0x400",
        "and rsi, ~0x4000",
        "inc r12d",
        "cmp r12d, {rounds}",
        "jbe 2b",
        "hlt",
        "4: pause",
        "cmp [rbx], r12",
        "jne 4b",
        "call rsi",
        "cmp rax, r12",
        "setne al",
        "movzx eax, al",
        "add r8, rax",
        "mov [rbx + 0x80], r12",
        "add rsi, 0x400",
        "and rsi, ~0x4000",
        "inc r12d",
        "cmp r12d, {rounds}",
        "jbe 4b",
        "hlt"; turn = TURN, place = DATA + 0x1_0000, rounds = ASKING_ROUNDS
    );
    let (_, second) = both_run(&code);
    assert_eq!(second.vcpu.gpr(reg::R8), 0, "calls of old bytes");
}

#[test]
fn both_writing_over_each_others_code_get_on() {
    // Each calls a function that the other rewrites all the time: what it returns is one of the numbers, and nobody hangs.
    let code = assembled!(
        "lea rsi, [rip + 8f]",
        "lea rdx, [rip + 9f]",
        "test edi, edi",
        "jz 2f",
        "xchg rsi, rdx",
        "2: xor r8d, r8d",
        "mov ecx, {rounds}",
        "3: mov [rsi + 1], cl",
        "call rdx",
        "test eax, 0xffffff00",
        "setnz al",
        "movzx eax, al",
        "add r8, rax",
        "loop 3b",
        "hlt",
        ".balign 4096",
        "8: mov eax, 0",
        "ret",
        ".balign 4096",
        "9: mov eax, 0",
        "ret"; rounds = ROUNDS
    );
    let (first, second) = both_run(&code);
    assert_eq!((first.vcpu.gpr(reg::R8), second.vcpu.gpr(reg::R8)), (0, 0));
}

#[test]
fn accessed_and_dirty_bits_lose_no_change_of_the_other() {
    // One counts in an entry's free bits with a locked addition while the other's accesses mark it (SDM vol. 3, 5.8).
    const PAGE: u64 = DATA + 0x8000;
    let code = assembled!(
        "mov ecx, 20000",
        "test edi, edi",
        "jnz 4f",
        "mov rax, 1",
        "shl rax, 52",
        "2: lock add [rsi], rax",
        "lock btr qword ptr [rsi], 6", // the dirty bit goes again
        "lock btr qword ptr [rsi], 5",
        "cmp ecx, 10000",
        "jne 3f",
        "3: dec ecx",
        "cmp ecx, 19000", // no more than the free bits hold
        "ja 2b",
        "hlt",
        "4: invlpg [rdx]",
        "mov al, [rdx]",
        "invlpg [rdx]",
        "inc byte ptr [rdx]",
        "loop 4b",
        "hlt"
    );
    let (mut first, mut second) = two(&code);
    let entry = first.entry(ROOT, PAGE);
    second.start(CODE);
    second.vcpu.cpu_mut().gpr[reg::RDI] = 1;
    for machine in [&mut first, &mut second] {
        machine.vcpu.cpu_mut().gpr[reg::RSI] = entry;
        machine.vcpu.cpu_mut().gpr[reg::RDX] = PAGE;
    }
    let (first, _) = run_both(first, second);
    assert_eq!(first.get(entry) >> 52 & 0x7ff, 1000, "additions that an access undid");
}

#[test]
fn a_write_from_outside_ends_a_loop_of_old_code() {
    // What a device does: no processor writes, and the processor is in the middle of what is written over.
    let mut machine = Machine::with(&assembled!("2: inc rax", "jmp 2b"));
    let (ram, kicker) = (machine.ram.clone(), machine.vcpu.kicker());
    let stop = std::thread::scope(|scope| {
        let running = scope.spawn(|| machine.run());
        while !ram.has_code(CODE) {
            std::thread::yield_now();
        }
        assert!(ram.write(CODE, &assembled!("hlt", "hlt", "hlt", "hlt", "hlt")));
        // Should the loop go on all the same, the test ends without an answer.
        for _ in 0..PATIENCE.as_millis() {
            if running.is_finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        kicker.kick();
        running.join().expect("the processor's thread ends")
    });
    assert_eq!(stop, Stop::Exit(Exit::Halt));
}

#[test]
fn a_write_from_outside_between_two_runs_is_run() {
    let mut machine = Machine::with(&assembled!("mov eax, 1", "hlt"));
    machine.run_to_halt();
    machine.load(CODE, &assembled!("mov eax, 2", "hlt"));
    machine.start(CODE);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 2);
}

#[test]
fn a_processor_that_is_parked_for_long_starts_over_when_it_is_asked_too_much() {
    // The second made code of more pages than its box holds letters, and the first writes over all of them.
    const PAGES: u64 = 1600;
    let code = assembled!(
        "mov rsi, {place}",
        "mov ecx, {pages}",
        "test edi, edi",
        "jnz 4f",
        "2: inc byte ptr [rsi + 1]",
        "add rsi, 0x1000",
        "loop 2b",
        "hlt",
        "4: call rsi",
        "add rbx, rax",
        "add rsi, 0x1000",
        "loop 4b",
        "hlt"; place = 0x50_0000, pages = PAGES
    );
    let (mut first, mut second) = two(&code);
    for page in 0..PAGES {
        first.load(0x50_0000 + page * 0x1000, &assembled!("mov eax, 1", "ret"));
    }
    for round in 1..=4 {
        second.start(CODE);
        let cpu = second.vcpu.cpu_mut();
        (cpu.gpr[reg::RDI], cpu.gpr[reg::RBX]) = (1, 0);
        second.run_to_halt();
        assert_eq!(second.vcpu.gpr(reg::RBX), PAGES * round);
        first.start(CODE);
        first.vcpu.cpu_mut().gpr[reg::RDI] = 0;
        first.run_to_halt();
    }
}
