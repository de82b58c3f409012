//! Vector, x87 and MXCSR state over everything that leaves generated code: it is the Guest's and stays as it is.

use crate::machine::*;
use lguest_translator::Exit;

/// Sixteen different ymm registers.
fn pattern(number: usize) -> [u8; 32] {
    std::array::from_fn(|byte| (number * 32 + byte + 1) as u8)
}

fn set_ymm(machine: &mut Machine, number: usize) {
    machine.vcpu.vectors()[number][..32].copy_from_slice(&pattern(number));
}

#[test]
fn upper_halves_live_through_every_kind_of_exit() {
    let mut machine = Machine::with(&assembled!(
        "out 0x80, al",
        "cpuid",
        "mov rax, cr3",
        "mov cr3, rax",
        "mov rbx, {edge}",
        "mov [rbx], rax",
        "int3",
        "mov rcx, [rdi]",
        "push rax",
        "lea rdx, [rip + 2f]",
        "jmp rdx",
        "2: hlt"; edge = DATA + 0xffd
    ));
    machine.map(0xffff_9000_0000_0000, DEVICE, P | W);
    machine.vcpu.set_gpr(reg::RDI, 0xffff_9000_0000_0000);
    for number in 0..16 {
        set_ymm(&mut machine, number);
    }
    assert!(matches!(machine.run(), Stop::Exit(Exit::PortOut { port: 0x80, .. })));
    assert_eq!(machine.run_to_trap().vector, 3);
    assert!(matches!(machine.run(), Stop::Exit(Exit::MmioRead { .. })));
    machine.vcpu.reply(0);
    machine.run_to_halt();
    for number in 0..16 {
        assert_eq!(machine.vcpu.vectors()[number][..32], pattern(number), "ymm{number}");
    }
}

#[test]
fn upper_halves_that_become_zero_are_zero_and_those_that_come_back_are_back() {
    let mut machine = Machine::with(&assembled!(
        "vzeroupper",
        "out 0x80, al",
        "out 0x80, al",
        "vpcmpeqb ymm5, ymm5, ymm5",
        "out 0x80, al",
        "vextracti128 xmm6, ymm5, 1",
        "movq rax, xmm6",
        "hlt"
    ));
    for number in 0..16 {
        set_ymm(&mut machine, number);
    }
    for _ in 0..3 {
        assert!(matches!(machine.run(), Stop::Exit(Exit::PortOut { port: 0x80, .. })));
    }
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), u64::MAX);
    assert_eq!(machine.vcpu.vectors()[5][..32], [0xff; 32]);
    assert_eq!(machine.vcpu.vectors()[4][..16], pattern(4)[..16]);
    assert_eq!(machine.vcpu.vectors()[4][16..], [0; 48]);
}

#[test]
fn x87_registers_and_control_live_through_exits_and_rust_in_between() {
    let mut machine = Machine::with(&assembled!(
        "fninit",
        "push 0x77f", // round down
        "fldcw [rsp]",
        "fldpi",
        "fld1",
        "fldl2t",
        "out 0x80, al",
        "mov rbx, {edge}",
        "fstp tbyte ptr [rbx]",
        "fstp tbyte ptr [rbx + 16]",
        "int3",
        "fldl2e",
        "fmulp st(1), st",
        "frndint",
        "fistp qword ptr [rbx + 32]",
        "fnstcw [rbx + 48]",
        "fnstsw [rbx + 56]",
        "hlt"; edge = DATA + 0xffd
    ));
    assert!(matches!(machine.run(), Stop::Exit(Exit::PortOut { port: 0x80, .. })));
    // Floating point on the host in between.
    let host = (0..100).map(|n| f64::from(n).sqrt()).sum::<f64>();
    assert!(host > 600.0);
    assert_eq!(machine.run_to_trap().vector, 3);
    machine.run_to_halt();
    // log2(10) rounded down, one, and pi times log2(e) = 4.53.. rounded down (SDM vol. 1, table 8-10).
    let bytes = |at: u64| {
        let mut bytes = [0; 10];
        assert!(machine.ram.read(DATA + 0xffd + at, &mut bytes));
        bytes
    };
    assert_eq!(bytes(0), [0xfe, 0x8a, 0x1b, 0xcd, 0x4b, 0x78, 0x9a, 0xd4, 0x00, 0x40]);
    assert_eq!(bytes(16), [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
    assert_eq!(machine.get(DATA + 0xffd + 32), 4);
    assert_eq!(machine.get(DATA + 0xffd + 48) & 0xffff, 0x77f);
    assert_eq!(machine.get(DATA + 0xffd + 56) & 0x3800, 0, "the stack is empty again");
}

#[test]
fn mxcsr_is_the_guests_while_it_runs_and_the_hosts_otherwise() {
    let mut machine = Machine::with(&assembled!(
        "push 0x7f80", // round toward zero
        "ldmxcsr [rsp]",
        "out 0x80, al",
        "mov eax, 1",
        "mov ecx, 3",
        "cvtsi2sd xmm0, eax",
        "cvtsi2sd xmm1, ecx",
        "divsd xmm0, xmm1",
        "movq rax, xmm0",
        "stmxcsr [rsp]",
        "mov ecx, [rsp]",
        "hlt"
    ));
    assert!(matches!(machine.run(), Stop::Exit(Exit::PortOut { port: 0x80, .. })));
    assert_eq!(*machine.vcpu.mxcsr(), 0x7f80);
    let (two, three) = std::hint::black_box((2.0f64, 3.0f64));
    assert_eq!((two / three).to_bits(), 0x3fe5_5555_5555_5555, "the host rounds to nearest");
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), 0x3fd5_5555_5555_5555);
    assert_eq!(machine.vcpu.gpr(reg::RCX), 0x7fa0, "rounding mode, and the precision exception noted");
}

#[test]
fn an_unmasked_sse_exception_is_the_guests() {
    let mut machine = Machine::with(&assembled!(
        "push 0x1d80", // division by zero is not masked
        "ldmxcsr [rsp]",
        "mov eax, 1",
        "cvtsi2sd xmm0, eax",
        "xorps xmm1, xmm1",
        "divsd xmm0, xmm1",
        "hlt"
    ));
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.error_code), (19, 0));
    assert_eq!(f64::from_le_bytes(machine.vcpu.vectors()[0][..8].try_into().unwrap()), 1.0);
}

#[test]
fn an_unmasked_x87_exception_comes_with_the_next_instruction_that_waits() {
    let mut machine = Machine::with(&assembled!(
        "fninit",
        "push 0x37b", // division by zero is not masked
        "fldcw [rsp]",
        "fld1",
        "fldz",
        "fdivp st(1), st",
        "mov eax, 7",
        "fnop",
        "hlt"
    ));
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, machine.vcpu.gpr(reg::RAX)), (16, 7));
}

#[test]
fn a_pending_x87_exception_does_not_meet_the_host_nor_another_guest() {
    let mut machine = Machine::with(&assembled!(
        "fninit",
        "push 0x77b", // division by zero is not masked; rounding is down
        "fldcw [rsp]",
        "fld1",
        "fldz",
        "fdivp st(1), st",
        "out 0x80, al",
        "fnop",
        "hlt"
    ));
    assert!(matches!(machine.run(), Stop::Exit(Exit::PortOut { port: 0x80, .. })));
    let mut word = 0u16;
    // SAFETY: waits for x87, whose pending exception would end this process, and stores two bytes.
    unsafe { std::arch::asm!("wait", "fnstcw [{word}]", word = in(reg) &raw mut word, options(nostack)) };
    assert_eq!(word, 0x37f);
    let mut other = Machine::with(&assembled!("fnstcw [rsp - 8]", "mov ax, [rsp - 8]", "fld1", "hlt"));
    other.run_to_halt();
    assert_eq!(other.vcpu.gpr(reg::RAX) & 0xffff, 0x37f);
    assert_eq!(machine.run_to_trap().vector, 16);
}

#[test]
fn with_ts_set_vector_instructions_fault_and_others_do_not() {
    for code in [
        assembled!("mov rax, cr0", "or rax, 8", "mov cr0, rax", "mov eax, 1", "movaps xmm0, xmm1", "hlt"),
        assembled!("mov rax, cr0", "or rax, 8", "mov cr0, rax", "mov eax, 1", "fld1", "hlt"),
        assembled!(
            "mov rax, cr0",
            "or rax, 8",
            "mov cr0, rax",
            "mov eax, 1",
            "vaddps ymm0, ymm0, ymm0",
            "hlt"
        ),
    ] {
        let mut machine = Machine::with(&code);
        let trapped = machine.run_to_trap();
        assert_eq!((trapped.vector, machine.vcpu.gpr(reg::RAX)), (7, 1));
    }
}

#[test]
fn what_is_saved_with_xsave_is_loaded_with_xrstor() {
    let mut machine = Machine::with(&assembled!(
        "mov rbx, {area}",
        "mov eax, 7",
        "xor edx, edx",
        "fninit",
        "fldpi",
        "xsave64 [rbx]",
        "vxorps ymm3, ymm3, ymm3",
        "vzeroall",
        "fninit",
        "xrstor64 [rbx]",
        "fstp tbyte ptr [rbx + 0x1000]",
        "hlt"; area = DATA + 0xfc0
    ));
    for number in 0..16 {
        set_ymm(&mut machine, number);
    }
    machine.run_to_halt();
    for number in 0..16 {
        assert_eq!(machine.vcpu.vectors()[number][..32], pattern(number), "ymm{number}");
    }
    assert_eq!(machine.get(DATA + 0x1fc0), 0xc90f_daa2_2168_c235);
    assert_eq!(machine.get(DATA + 0xfc0 + 512), 7, "the header names all three components");
}
