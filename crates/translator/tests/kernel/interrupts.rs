//! Interrupts and kicks at every point of a running Guest, and the grace that `sti` gives (SDM vol. 3, 6.8.3).

use crate::machine::*;
use lguest_translator::{Exit, Kicker};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The vector the tests interrupt with.
const VECTOR: u8 = 0x20;
/// How long a test that kicks at random goes on.
const STORM: Duration = Duration::from_millis(1500);

/// Kicks a vCPU from a thread of its own until dropped.
struct KickStorm {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl KickStorm {
    fn on(kicker: Kicker) -> KickStorm {
        let over = Arc::new(AtomicBool::new(false));
        let watched = over.clone();
        let thread = std::thread::spawn(move || {
            let mut pause = 1u64;
            while !watched.load(Ordering::Relaxed) {
                kicker.kick();
                // Pauses of about 50 to 80 microseconds, so that kicks meet every place.
                pause = pause.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                std::thread::sleep(Duration::from_nanos(pause >> 49));
            }
        });
        KickStorm { over, thread: Some(thread) }
    }
}

impl Drop for KickStorm {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the kicking thread does nothing that could panic");
        }
    }
}

/// A checksum over memory with flags live across accesses, calls, pushes, string instructions, x87 and vectors.
fn checksum_code() -> Vec<u8> {
    assembled!(
        "xor eax, eax",
        "xor edx, edx",
        "xor r9d, r9d",
        "mov r10d, 12345",
        "cvtsi2sd xmm0, r10",
        "xorps xmm1, xmm1",
        "2: mov rsi, {data}",
        "lea rdi, [rsi + 0x1000]",
        "mov ecx, 64",
        "rep movsb",
        "mov rsi, {data}",
        "mov ecx, 32",
        "3: add eax, [rsi]",
        "adc rdx, [rsi + 8]",
        "rol rax, 7",
        "push rax",
        "call 4f",
        "pop r11",
        "xor r9, r11",
        "addsd xmm1, xmm0",
        "add rsi, 16",
        "dec ecx",
        "jnz 3b",
        "lock inc qword ptr [rsi + 0x2000]",
        "dec r8",
        "jnz 2b",
        "cvttsd2si rbx, xmm1",
        "hlt",
        "4: xadd [rsi + 0x1800], r10",
        "ret"; data = DATA
    )
}

fn checksum_machine(rounds: u64) -> Machine {
    let mut machine = Machine::with(&checksum_code());
    for word in 0..0x400 {
        machine.put(DATA + 8 * word, word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    machine.vcpu.set_gpr(reg::R8, rounds);
    machine
}

/// Registers that the checksum ends with, and the memory it wrote.
fn result(machine: &Machine) -> Vec<u64> {
    let registers = [reg::RAX, reg::RDX, reg::RBX, reg::RSI, reg::R9, 10];
    let memory = (0..0x600).map(|word| machine.get(DATA + 8 * word));
    registers.iter().map(|&register| machine.vcpu.gpr(register)).chain(memory).collect()
}

#[test]
fn a_storm_of_kicks_changes_no_result() {
    const ROUNDS: u64 = 600_000;
    let mut calm = checksum_machine(ROUNDS);
    calm.run_to_halt();
    let mut kicked = checksum_machine(ROUNDS);
    let storm = KickStorm::on(kicked.vcpu.kicker());
    let mut kicks = 0;
    loop {
        match kicked.run() {
            Stop::Exit(Exit::Kicked) => kicks += 1,
            Stop::Exit(Exit::Halt) => break,
            other => panic!("{other:?}"),
        }
    }
    drop(storm);
    assert!(kicks > 20, "only {kicks} kicks arrived");
    assert!(result(&calm) == result(&kicked), "after {kicks} kicks");
}

#[test]
fn interrupts_everywhere_change_no_result() {
    const ROUNDS: u64 = 400_000;
    let mut calm = checksum_machine(ROUNDS);
    calm.run_to_halt();
    let mut machine = checksum_machine(ROUNDS);
    interrupts_on(&mut machine);
    let storm = KickStorm::on(machine.vcpu.kicker());
    let mut taken = 0u64;
    loop {
        match machine.run() {
            Stop::Exit(Exit::Kicked) if machine.vcpu.interruptible() => {
                machine.vcpu.interrupt(VECTOR);
                taken += 1;
            }
            Stop::Exit(Exit::Kicked) => {}
            Stop::Trap(trapped) => {
                assert_eq!(trapped.vector, u64::from(VECTOR));
                // A handler that uses the registers would save them; this one spoils what it may not rely on.
                machine.vcpu.cpu_mut().rflags ^= 0x8d5;
            }
            Stop::Exit(Exit::Halt) => break,
            other => panic!("{other:?}"),
        }
    }
    drop(storm);
    assert!(taken > 20, "only {taken} interrupts were taken");
    assert!(result(&calm) == result(&machine), "after {taken} interrupts");
}

/// Sets IF in the frame that [`Machine::start`] prepared.
fn interrupts_on(machine: &mut Machine) {
    let frame = machine.vcpu.gpr(reg::RSP);
    machine.put(frame + 16, 0x202);
}

#[test]
fn a_window_opens_as_soon_as_interrupts_are_let_in() {
    let mut machine =
        Machine::with(&assembled!("2: mov eax, 1", "sti", "mov eax, 2", "mov eax, 3", "cli", "jmp 2b"));
    machine.vcpu.request_interrupt_window(true);
    for _ in 0..100 {
        assert_eq!(machine.run(), Stop::Exit(Exit::InterruptWindow));
        assert!(machine.vcpu.interruptible());
        // One instruction of grace, and not a second one.
        assert_eq!(machine.vcpu.gpr(reg::RAX), 2);
        machine.vcpu.interrupt(VECTOR);
        assert_eq!(machine.run_to_trap().vector, u64::from(VECTOR));
    }
}

#[test]
fn a_window_opens_after_popf_and_iret_without_grace() {
    let mut machine = Machine::with(&assembled!("push 0x202", "popfq", "mov eax, 2", "cli", "hlt"));
    machine.vcpu.request_interrupt_window(true);
    assert_eq!(machine.run(), Stop::Exit(Exit::InterruptWindow));
    assert_eq!(machine.vcpu.gpr(reg::RAX) & 0xff, 0x40, "still the prologue's");
}

#[test]
fn an_interrupt_that_waits_for_sti_comes_after_the_hlt_behind_it() {
    // The idle loop's promise: between `sti` and `hlt` nothing comes, so no wake-up is lost.
    let mut machine = Machine::with(&assembled!("2: cli", "nop", "sti", "hlt", "inc rbx", "jmp 2b"));
    let after_halt = CODE + 4;
    machine.vcpu.request_interrupt_window(true);
    for round in 0..1000 {
        assert_eq!(machine.run(), Stop::Exit(Exit::Halt), "round {round}");
        assert_eq!(machine.vcpu.rip(), after_halt);
        assert!(machine.vcpu.interruptible());
        machine.vcpu.interrupt(VECTOR);
        let trapped = machine.run_to_trap();
        assert_eq!((trapped.vector, trapped.rip), (u64::from(VECTOR), after_halt));
        // The handler returns with interrupts off, so that the next window is the loop's `sti`.
        machine.return_with_flags(2);
    }
}

#[test]
fn sti_hlt_under_a_storm_of_kicks_loses_no_interrupt() {
    let mut machine = Machine::with(&assembled!("2: cli", "inc rbx", "sti", "hlt", "jmp 2b"));
    machine.vcpu.set_gpr(reg::RBX, 0);
    let after_halt = CODE + 6;
    let storm = KickStorm::on(machine.vcpu.kicker());
    let start = Instant::now();
    let (mut halts, mut taken, mut waiting) = (0u64, 0u64, false);
    while start.elapsed() < STORM {
        machine.vcpu.request_interrupt_window(waiting);
        match machine.run() {
            Stop::Exit(Exit::Kicked) => waiting = true,
            Stop::Exit(Exit::Halt) => {
                halts += 1;
                assert_eq!(machine.vcpu.rip(), after_halt);
                assert!(machine.vcpu.interruptible(), "`sti; hlt` halts with interrupts on");
                machine.vcpu.interrupt(VECTOR);
                taken += 1;
            }
            Stop::Exit(Exit::InterruptWindow) => {
                assert_ne!(machine.vcpu.rip(), after_halt - 1, "no interrupt between `sti` and `hlt`");
                machine.vcpu.interrupt(VECTOR);
                taken += 1;
                waiting = false;
            }
            Stop::Trap(trapped) => assert_ne!(trapped.rip, after_halt - 1, "none was taken there"),
            other => panic!("{other:?}"),
        }
    }
    drop(storm);
    assert!(halts > 100 && taken >= halts, "{halts} halts, {taken} interrupts");
}

#[test]
fn a_kick_before_the_run_is_not_lost() {
    let mut machine = Machine::with(&assembled!("2: jmp 2b"));
    machine.vcpu.kicker().kick();
    assert_eq!(machine.run(), Stop::Exit(Exit::Kicked));
}

#[test]
fn every_kind_of_endless_loop_ends_with_a_kick() {
    let loops = [
        assembled!("2: jmp 2b"),
        assembled!("lea rbx, [rip + 2f]", "2: jmp rbx"),
        assembled!("2: call 3f", "3: add rsp, 8", "jmp 2b"),
        assembled!("mov ecx, 1", "2: inc ecx", "loop 2b"),
        assembled!("2: mov rsi, {data}", "mov rdi, rsi", "mov ecx, 100000", "rep movsb", "jmp 2b"; data = DATA),
        assembled!("2: cpuid", "jmp 2b"),
        assembled!("2: mov rax, cr3", "mov cr3, rax", "jmp 2b"),
        assembled!("lea rbx, [rip + 3f]", "2: inc dword ptr [rbx + 1]", "3: mov eax, 0", "jmp 2b"),
        assembled!("add rsp, 3", "2: push rax", "pop rax", "jmp 2b"),
        assembled!("mov rbx, {data} + 0xffd", "2: lock inc dword ptr [rbx]", "jmp 2b"; data = DATA),
    ];
    for (n, code) in loops.iter().enumerate() {
        let mut machine = Machine::with(code);
        let storm = KickStorm::on(machine.vcpu.kicker());
        for _ in 0..50 {
            assert_eq!(machine.run(), Stop::Exit(Exit::Kicked), "loop {n}");
        }
        drop(storm);
    }
}

#[test]
fn a_long_string_instruction_is_interrupted_where_it_is_and_goes_on_there() {
    const BUFFER: u64 = 0x80_0000;
    const COUNT: u64 = 0x40_0000;
    /// One time in a few a kick meets the instruction in its middle.
    const MOST_TRIES: usize = 2000;
    let mut machine = Machine::with(&assembled!("rep stosb", "hlt"));
    let storm = KickStorm::on(machine.vcpu.kicker());
    let mut met_in_the_middle = 0;
    for round in 0..MOST_TRIES {
        let byte = round as u64 & 0x7f | 0x80;
        machine.start(CODE);
        interrupts_on(&mut machine);
        machine.vcpu.set_gpr(reg::RAX, byte);
        machine.vcpu.set_gpr(reg::RCX, COUNT);
        machine.vcpu.set_gpr(reg::RDI, BUFFER);
        loop {
            match machine.run() {
                Stop::Exit(Exit::Halt) => break,
                Stop::Exit(Exit::Kicked) if machine.vcpu.interruptible() => machine.vcpu.interrupt(VECTOR),
                Stop::Exit(Exit::Kicked) => {}
                Stop::Trap(trapped) if trapped.rip == CODE => {
                    let (done, left) = (machine.vcpu.gpr(reg::RDI) - BUFFER, machine.vcpu.gpr(reg::RCX));
                    assert_eq!(done + left, COUNT);
                    met_in_the_middle += u64::from(done != 0);
                }
                Stop::Trap(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((machine.vcpu.gpr(reg::RDI), machine.vcpu.gpr(reg::RCX)), (BUFFER + COUNT, 0));
        assert_eq!(machine.get(BUFFER + COUNT - 8), byte * 0x0101_0101_0101_0101);
        assert_eq!(machine.get(BUFFER + COUNT), 0);
        if met_in_the_middle >= 3 {
            break;
        }
    }
    drop(storm);
    assert!(met_in_the_middle > 0, "it was interrupted");
}

#[test]
fn a_non_maskable_interrupt_waits_for_the_return_from_the_one_before() {
    // Interrupts are off all the time. The return that lets the next one in is told twice: a translator may do it in
    // another way once it has seen it (SDM vol. 3, 6.7.1).
    let mut machine = Machine::with(&assembled!("2: inc rbx", "jmp 2b"));
    for round in 0..3 {
        machine.vcpu.request_nmi_window(true);
        assert_eq!(machine.run(), Stop::Exit(Exit::InterruptWindow), "round {round}");
        machine.vcpu.nmi();
        assert!(!machine.vcpu.takes_nmi(), "round {round}");
        let trapped = machine.run_to_trap();
        assert_eq!((trapped.vector, trapped.rflags & 0x200), (2, 0));
        // The handler goes on to its `iretq`, and then there is room for another.
    }
}

#[test]
fn init_leaves_a_processor_in_real_mode_with_its_registers_for_models() {
    let mut machine =
        Machine::with(&assembled!("mov ecx, 0xc0000102", "mov eax, 77", "xor edx, edx", "wrmsr", "hlt"));
    machine.run_to_halt();
    machine.vcpu.initialize();
    let cpu = machine.vcpu.cpu();
    // SDM vol. 3, table 9-1.
    assert_eq!((cpu.cr0 & !0x6000_0000, cpu.cr3, cpu.cr4, cpu.efer, cpu.rflags), (0x10, 0, 0, 0, 2));
    assert_eq!((cpu.kernel_gs_base, cpu.gpr[reg::RAX], cpu.rip), (77, 0, 0xfff0));
    assert_ne!(cpu.gpr[reg::RDX], 0, "family, model and stepping");
    machine.load(0x9_f000, &assembled!(".code16", "mov bx, cs", "hlt", ".code64"));
    machine.vcpu.start_up(0x9f);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RBX), 0x9f00);
}

#[test]
fn kicks_on_the_way_back_into_a_unit_leave_its_registers_in_their_places() {
    // Every page is a miss, after which a unit with swapped registers is entered in its middle; a kick may come just
    // then. (stress-ng's vm found it: a count of errors that was a stack pointer.)
    const PAGES: u64 = 128;
    const PASSES: u64 = 400;
    let mut machine = Machine::with(&assembled!(
        "2: mov rax, cr3",
        "mov cr3, rax",
        "mov rbx, {data}",
        "mov esi, {pages}",
        "jmp 3f",
        "3: add r9, [rbx]",
        "xor r9, r10",
        "rol r9, 3",
        "add r10, r9",
        "add r11, r10",
        "add rbx, 0x1000",
        "dec esi",
        "jnz 3b",
        "jmp 4f",
        "4: dec rdi",
        "jnz 2b",
        "hlt"; data = DATA, pages = PAGES
    ));
    (0..PAGES).for_each(|page| machine.put(DATA + page * 0x1000, page * 0x1234_5678_9abc));
    for register in 8..16 {
        machine.vcpu.set_gpr(register, register as u64 * 0x1111_1111);
    }
    machine.vcpu.set_gpr(reg::RDI, PASSES);
    let [mut r9, mut r10, mut r11] = [9, 10, 11].map(|register: u64| register * 0x1111_1111);
    for n in 0..PASSES * PAGES {
        r9 = (r9.wrapping_add(n % PAGES * 0x1234_5678_9abc) ^ r10).rotate_left(3);
        r10 = r10.wrapping_add(r9);
        r11 = r11.wrapping_add(r10);
    }
    let storm = KickStorm::on(machine.vcpu.kicker());
    while machine.run() == Stop::Exit(Exit::Kicked) {}
    drop(storm);
    assert_eq!([9, 10, 11].map(|register| machine.vcpu.gpr(register)), [r9, r10, r11]);
    for register in [8, 12, 13, 14, 15] {
        assert_eq!(machine.vcpu.gpr(register), register as u64 * 0x1111_1111, "r{register}");
    }
}
