//! The host's own state: flags, control words, segments and protection keys are what they were, whatever the Guest set.

use crate::machine::*;
use crate::surrounded::Surrounded;
use std::arch::asm;

/// What a Guest could leave behind in this thread.
#[derive(Debug, PartialEq, Eq)]
struct HostState {
    /// Flags that survive from one instruction to the next: TF, DF, IOPL, NT, AC, ID.
    flags: u64,
    mxcsr: u32,
    x87: u16,
    /// Selectors: ds, es, fs, gs, ss, cs.
    selectors: [u16; 6],
    /// A word behind the thread's own segment.
    thread: usize,
    /// Bits the compiler relies on being clear in upper halves of vectors are of no concern; keys are.
    keys: Option<u32>,
}

const LASTING: u64 = 0x100 | 0x400 | 0x3000 | 0x4000 | 0x4_0000;

thread_local!(static OURS: u64 = const { 0x0123_4567_89ab_cdef });

fn host_state() -> HostState {
    let flags: u64;
    // SAFETY: reads the flags through the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    let (mut mxcsr, mut x87) = (0u32, 0u16);
    // SAFETY: stores four bytes in a variable of that size.
    unsafe { asm!("stmxcsr [{}]", in(reg) &mut mxcsr) };
    // SAFETY: stores two bytes in a variable of that size.
    unsafe { asm!("fnstcw [{}]", in(reg) &mut x87) };
    let mut selectors = [0u16; 6];
    // SAFETY: moves selectors to registers.
    unsafe {
        asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs", "mov {4:x}, ss", "mov {5:x}, cs",
            out(reg) selectors[0], out(reg) selectors[1], out(reg) selectors[2],
            out(reg) selectors[3], out(reg) selectors[4], out(reg) selectors[5])
    };
    assert_eq!(OURS.with(|word| *word), 0x0123_4567_89ab_cdef, "the thread's own memory");
    let thread = OURS.with(|word| std::ptr::from_ref(word) as usize);
    HostState { flags: flags & LASTING, mxcsr, x87, selectors, thread, keys: keys() }
}

/// PKRU, where the host has protection keys switched on.
fn keys() -> Option<u32> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))?
        .split_whitespace()
        .find(|&word| word == "ospke")?;
    let keys: u32;
    // SAFETY: reads a register that cpuid says is there.
    unsafe { asm!("rdpkru", in("ecx") 0, out("eax") keys, out("edx") _) };
    Some(keys)
}

/// Code that spoils something, and comes back to the host in the middle of it.
fn spoilers() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("direction", assembled!("std", "out 0x80, al", "int3")),
        ("every flag", assembled!("push 0x254dd5", "popfq", "out 0x80, al", "mov rax, [rbx]", "int3")),
        ("alignment check", assembled!("stac", "out 0x80, al", "mov rax, [rbx]", "int3")),
        ("nested task", assembled!("push 0x4002", "popfq", "out 0x80, al", "int3")),
        ("single step", assembled!("push 0x102", "popfq", "nop", "out 0x80, al", "int3")),
        (
            "flags by iret",
            assembled!(
                "push 0x18",
                "push rsp",
                "push 0x244dd5",
                "push 0x10",
                "lea rax, [rip + 2f]",
                "push rax",
                "iretq",
                "2:",
                "out 0x80, al",
                "int3"
            ),
        ),
        (
            "rounding and unmasked exceptions",
            assembled!(
                "push 0x6000",
                "ldmxcsr [rsp]",
                "out 0x80, al",
                "mov rax, [rbx]",
                "xorps xmm0, xmm0",
                "divss xmm0, xmm0",
                "int3"
            ),
        ),
        (
            "x87 unmasked and pending",
            assembled!(
                "push 0xc00",
                "fldcw [rsp]",
                "fldz",
                "fld1",
                "fdiv st, st(1)",
                "out 0x80, al",
                "mov rax, [rbx]",
                "fwait",
                "int3"
            ),
        ),
        (
            "x87 stack full",
            assembled!(
                "fld1",
                "fld1",
                "fld1",
                "fld1",
                "fld1",
                "fld1",
                "fld1",
                "fld1",
                "fld1",
                "out 0x80, al",
                "int3"
            ),
        ),
        ("mmx", assembled!("pcmpeqb mm0, mm0", "out 0x80, al", "int3")),
        ("fs base", assembled!("wrfsbase rbx", "out 0x80, al", "mov rax, fs:[0]", "int3")),
        ("gs base", assembled!("wrgsbase rbx", "out 0x80, al", "mov rax, gs:[0]", "int3")),
        ("swapgs", assembled!("swapgs", "out 0x80, al", "mov rax, gs:[0]", "int3")),
        (
            "fs selector",
            assembled!(
                "mov eax, 0x18",
                "mov fs, ax",
                "mov gs, ax",
                "mov ds, ax",
                "mov es, ax",
                "out 0x80, al",
                "int3"
            ),
        ),
        (
            "null selectors",
            assembled!(
                "xor eax, eax",
                "mov fs, ax",
                "mov gs, ax",
                "mov ds, ax",
                "mov es, ax",
                "out 0x80, al",
                "int3"
            ),
        ),
        (
            "fs base by msr",
            assembled!(
                "mov ecx, 0xc0000100",
                "mov eax, ebx",
                "mov rdx, rbx",
                "shr rdx, 32",
                "wrmsr",
                "out 0x80, al",
                "int3"
            ),
        ),
        ("keys", assembled!("xor ecx, ecx", "xor edx, edx", "mov eax, -1", "wrpkru", "out 0x80, al", "int3")),
        (
            "enabled state",
            assembled!("xor ecx, ecx", "xor edx, edx", "mov eax, 0x2e7", "xsetbv", "out 0x80, al", "int3"),
        ),
        ("shadow stack", assembled!("mov eax, 1", "incsspq rax", "rdsspq rax", "int3")),
        (
            "saved state with reserved mxcsr",
            assembled!("mov esi, {data}", "fxsave [rsi]", "mov dword ptr [rsi + 24], -1", "fxrstor [rsi]", "int3"; data = DATA),
        ),
        (
            "saved state with components it has not",
            assembled!(
                "mov esi, {data}", "mov eax, -1", "mov edx, -1", "xsave [rsi]", "mov qword ptr [rsi + 512], -1", "xrstor [rsi]", "int3"; data = DATA
            ),
        ),
        (
            "saved state with a reserved header",
            assembled!(
                "mov esi, {data}", "mov eax, 7", "xor edx, edx", "xsave [rsi]", "mov qword ptr [rsi + 528], -1", "xrstor [rsi]", "int3"; data = DATA
            ),
        ),
        ("system call of the host's", assembled!("mov eax, 60", "mov edi, 42", "syscall", "int3")),
        ("system call by interrupt", assembled!("mov eax, 1", "mov ebx, 42", "int 0x80")),
        ("sysenter", assembled!("mov eax, 1", "sysenter")),
        ("vmcall", assembled!("vmcall", "int3")),
        ("halt", assembled!("cli", "hlt", "int3")),
        (
            "debug registers",
            assembled!("mov dr0, rbx", "mov eax, 0x2aa", "mov dr7, rax", "out 0x80, al", "int3"),
        ),
    ]
}

/// Model-specific registers through which a real processor would be taken over, and values that would hurt there.
#[test]
fn no_model_specific_register_of_the_hosts_is_written() {
    let mut guest = Surrounded::new();
    let place = guest.machine.load_anew(CODE, &assembled!("wrmsr", "rdmsr", "int3"));
    let before = host_state();
    let registers =
        [0xc000_0080, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0100, 0xc000_0101];
    let others =
        [0xc000_0102, 0x10, 0x1b, 0x174, 0x175, 0x176, 0x1a0, 0x277, 0x48, 0x6a0, 0x8ff, u64::from(u32::MAX)];
    for register in registers.into_iter().chain(others) {
        for value in [0, 1, u64::MAX, 0x8000_0000_0000, place, &raw const place as u64] {
            guest.machine.start(place);
            guest.machine.vcpu.set_gpr(reg::RCX, register);
            guest.machine.vcpu.set_gpr(reg::RAX, value & 0xffff_ffff);
            guest.machine.vcpu.set_gpr(reg::RDX, value >> 32);
            let what = format!("register {register:#x}, value {value:#x}");
            let trapped = guest.run(&what);
            assert_eq!(host_state(), before, "{what}");
            guest.assert_untouched(&what);
            let base =
                matches!(register, 0xc000_0082 | 0xc000_0083 | 0xc000_0100 | 0xc000_0101 | 0xc000_0102);
            if base && value == 0x8000_0000_0000 {
                assert_eq!(trapped, Some(13), "{what}: not canonical");
            }
            // It may have switched off what its handlers need.
            guest = Surrounded::new();
            guest.machine.load_anew(CODE, &assembled!("wrmsr", "rdmsr", "int3"));
        }
    }
}

#[test]
fn what_a_guest_sets_is_not_set_in_the_host() {
    let before = host_state();
    for (name, code) in spoilers() {
        for user in [false, true] {
            let mut guest = Surrounded::new();
            let place = guest.machine.load_anew(if user { USER_CODE } else { CODE }, &code);
            if user {
                guest.machine.start_user(place);
            } else {
                guest.machine.start(place);
            }
            let host = &raw const before as u64;
            guest.machine.vcpu.set_gpr(reg::RBX, host);
            // Step by step: every exit is a moment at which Rust runs with what the Guest left.
            for _ in 0..64 {
                let stop = guest.machine.run();
                assert_eq!(host_state(), before, "{name}, user {user}");
                match stop {
                    Stop::Exit(lguest_translator::Exit::PortOut { .. }) => {}
                    _ => break,
                }
            }
            guest.assert_nothing_stolen(name);
        }
    }
}

#[test]
fn no_page_is_writable_and_executable() {
    let mut guest = Surrounded::new();
    let place = guest.machine.load_anew(CODE, &assembled!("mov [rbx], rax", "int3"));
    guest.machine.start(place);
    guest.machine.vcpu.set_gpr(reg::RBX, DATA);
    guest.machine.run_to_trap();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux tells");
    for line in maps.lines() {
        let rights = line.split_whitespace().nth(1).unwrap_or_default();
        assert!(!(rights.contains('w') && rights.contains('x')), "{line}");
    }
    // The code arena is there at all, or the test would show nothing.
    assert!(maps.lines().any(|line| line.contains(" r-xs ")), "no shared view runs:\n{maps}");
}

#[test]
fn an_instruction_that_the_user_hid_is_undefined_and_its_state_cannot_be_enabled() {
    use lguest_translator::{HiddenFeatures, Options, Vcpu};
    let code = assembled!("popcnt rax, rbx", "hlt");
    let enable = assembled!(
        "mov rax, cr4",
        "or eax, 0x40000",
        "mov cr4, rax",
        "xor ecx, ecx",
        "xor edx, edx",
        "mov eax, 7",
        "xsetbv",
        "hlt"
    );
    for (list, code, hidden) in
        [("-popcnt", &code, true), ("-avx", &enable, true), ("host", &code, false), ("host", &enable, false)]
    {
        let ram = Machine::with(code).ram;
        let hidden_features = HiddenFeatures::read(list).expect("a list");
        let options = Options { count: 1, hidden: hidden_features, ..Options::default() };
        let mut vcpu = Vcpu::new(ram, options).expect("a vCPU can be made");
        // Where the other processor is, without its interrupt table: an exception is the end.
        let entry = lguest_translator::LongModeEntry {
            rip: CODE,
            rsp: STACK,
            rsi: 0,
            cr3: ROOT,
            gdt: 0x2000,
            gdt_limit: 0x4f,
        };
        vcpu.enter_long_mode(entry);
        let expected =
            if hidden { lguest_translator::Exit::TripleFault } else { lguest_translator::Exit::Halt };
        assert_eq!(vcpu.run(), expected, "{list}");
    }
}
