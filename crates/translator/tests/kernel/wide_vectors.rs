//! AVX-512's registers over everything that leaves generated code, the switches that give and take them, and the areas
//! they are saved in. On a host without AVX-512 these tests say so and pass.

use crate::machine::*;
use lguest_translator::Exit;

/// XCR0 with everything (SDM vol. 1, 13.3).
const ALL: u64 = 0xe7;
/// Place of the area that `xsave` writes.
const AREA: u64 = DATA + 0x1000;

/// A machine about to run `code` with AVX-512 switched on.
fn machine_with(code: &[u8]) -> Option<Machine> {
    if !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl")) {
        eprintln!("skipped: this host has no AVX-512");
        return None;
    }
    let mut all = assembled!("xor ecx, ecx", "mov eax, {all}", "xor edx, edx", "xsetbv"; all = ALL);
    all.extend_from_slice(code);
    Some(Machine::with(&all))
}

fn fill(machine: &mut Machine) {
    for number in 0..32 {
        machine.vcpu.vectors()[number] = pattern(number);
    }
    for number in 0..8 {
        machine.vcpu.masks()[number] = mask(number);
    }
}

fn pattern(number: usize) -> [u8; 64] {
    std::array::from_fn(|byte| (number * 37 + byte * 3 + 1) as u8)
}

fn mask(number: usize) -> u64 {
    0x0123_4567_89ab_cdef_u64.rotate_left(number as u32 * 5)
}

#[track_caller]
fn assert_filled(machine: &mut Machine) {
    for number in 0..32 {
        assert_eq!(machine.vcpu.vectors()[number], pattern(number), "zmm{number}");
    }
    for number in 0..8 {
        assert_eq!(machine.vcpu.masks()[number], mask(number), "k{number}");
    }
}

/// What Rust's copies and the C library's do to a processor's registers between two turns.
fn use_the_hosts_vectors() {
    let bytes: Vec<u8> = (0..20_000).map(|n| n as u8).collect();
    let copy = std::hint::black_box(bytes.clone());
    assert_eq!(copy.iter().filter(|&&byte| byte == 7).count(), 79);
    assert_eq!(std::hint::black_box("lguest").find('u'), Some(2));
}

#[test]
fn wide_registers_and_masks_live_through_every_kind_of_exit() {
    let code = assembled!(
        "vmovdqa64 zmm0, zmm0",
        "out 0x80, al",
        "cpuid",
        "mov rax, cr3",
        "mov cr3, rax",
        "mov rbx, {edge}",
        "mov [rbx], rax",
        "vmovdqu64 [rbx + 64], zmm17",
        "int3",
        "mov rcx, [rdi]",
        "lea rdx, [rip + 2f]",
        "jmp rdx",
        "2: kmovq k1, k1",
        "hlt"; edge = DATA + 0xffd
    );
    let Some(mut machine) = machine_with(&code) else { return };
    machine.map(0xffff_9000_0000_0000, DEVICE, P | W);
    machine.vcpu.set_gpr(reg::RDI, 0xffff_9000_0000_0000);
    fill(&mut machine);
    assert!(matches!(machine.run(), Stop::Exit(Exit::PortOut { port: 0x80, .. })));
    use_the_hosts_vectors();
    assert_eq!(machine.run_to_trap().vector, 3);
    use_the_hosts_vectors();
    assert!(matches!(machine.run(), Stop::Exit(Exit::MmioRead { .. })));
    use_the_hosts_vectors();
    machine.vcpu.reply(0);
    machine.run_to_halt();
    assert_filled(&mut machine);
    let mut stored = [0; 64];
    assert!(machine.ram.read(DATA + 0xffd + 64, &mut stored));
    assert_eq!(stored, pattern(17));
}

#[test]
fn what_sleeps_is_what_it_was_when_code_without_it_ran_in_between() {
    let code = assembled!(
        "vpternlogd zmm20, zmm20, zmm20, 0xff",
        "kxnorq k3, k3, k3",
        "vpxorq xmm1, xmm1, xmm1",
        "out 0x80, al",
        "mov ecx, 1000",
        "3: dec ecx",
        "jnz 3b",
        "out 0x80, al",
        "vaddps ymm1, ymm1, ymm1",
        "out 0x80, al",
        "kmovq rax, k3",
        "vmovq rbx, xmm20",
        "hlt"
    );
    let Some(mut machine) = machine_with(&code) else { return };
    for _ in 0..3 {
        assert!(matches!(machine.run(), Stop::Exit(Exit::PortOut { port: 0x80, .. })));
        use_the_hosts_vectors();
    }
    machine.run_to_halt();
    assert_eq!(machine.vcpu.gpr(reg::RAX), u64::MAX);
    assert_eq!(machine.vcpu.gpr(reg::RBX), u64::MAX);
}

#[test]
fn a_narrower_instruction_clears_what_lies_above_its_destination_wherever_that_is_kept() {
    let code = assembled!(
        "vpternlogd zmm5, zmm5, zmm5, 0xff",
        "vpternlogd zmm6, zmm6, zmm6, 0xff",
        "out 0x80, al",
        "vmovaps ymm5, ymm5",
        "movaps xmm6, xmm5",
        "out 0x80, al",
        "vmovdqa64 zmm7, zmm5",
        "vmovdqa64 zmm8, zmm6",
        "hlt"
    );
    let Some(mut machine) = machine_with(&code) else { return };
    for _ in 0..2 {
        assert!(matches!(machine.run(), Stop::Exit(Exit::PortOut { port: 0x80, .. })));
    }
    machine.run_to_halt();
    let vectors = machine.vcpu.vectors();
    assert_eq!((&vectors[7][..32], &vectors[7][32..]), ([0xff; 32].as_slice(), [0; 32].as_slice()));
    assert_eq!(vectors[8], [0xff; 64], "SSE keeps what lies above");
}

#[test]
fn without_its_bits_in_xcr0_avx_512_is_undefined_and_with_them_it_is_there() {
    let code = assembled!(
        "vpxord zmm1, zmm1, zmm1",
        "mov eax, 7",
        "xsetbv",
        "mov ebx, 1",
        "vaddps ymm0, ymm0, ymm0",
        "mov ebx, 2",
        "vpxord xmm1, xmm1, xmm1",
        "hlt"
    );
    let Some(mut machine) = machine_with(&code) else { return };
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, machine.vcpu.gpr(3)), (6, 2));
}

#[test]
fn without_osxsave_or_its_bit_avx_is_undefined() {
    for code in [
        assembled!("mov rax, cr4", "btr rax, 18", "mov cr4, rax", "vaddps ymm0, ymm0, ymm0", "hlt"),
        assembled!("xor ecx, ecx", "mov eax, 3", "xor edx, edx", "xsetbv", "vaddps xmm0, xmm0, xmm0", "hlt"),
    ] {
        assert_eq!(Machine::with(&code).run_to_trap().vector, 6);
    }
}

#[test]
fn without_osfxsr_sse_is_undefined_and_x87_is_not() {
    let mut machine =
        Machine::with(&assembled!("mov rax, cr4", "btr rax, 9", "mov cr4, rax", "fld1", "addps xmm0, xmm1"));
    assert_eq!(machine.run_to_trap().vector, 6);
}

#[test]
fn xcr0_takes_all_of_avx_512_or_none() {
    for value in [0x27, 0x67, 0xe3, 0xe5, 0x1e7] {
        let Some(mut machine) = machine_with(&assembled!("mov eax, edi", "xsetbv", "hlt")) else { return };
        machine.vcpu.set_gpr(reg::RDI, value);
        assert_eq!(machine.run_to_trap().vector, 13, "{value:#x}");
    }
}

#[test]
fn each_format_of_an_area_brings_everything_back() {
    let formats = [
        assembled!("xsave64 [rbx]", "call rsi", "xrstor64 [rbx]", "hlt"),
        assembled!("xsaveopt64 [rbx]", "call rsi", "xrstor64 [rbx]", "hlt"),
        assembled!("xsavec64 [rbx]", "call rsi", "xrstor64 [rbx]", "hlt"),
        assembled!("xsaves64 [rbx]", "call rsi", "xrstors64 [rbx]", "hlt"),
    ];
    let spoil = assembled!("vzeroall", "vpxorq zmm20, zmm20, zmm20", "kxorq k2, k2, k2", "ret");
    for (number, format) in formats.iter().enumerate() {
        let mut code = assembled!("mov rbx, {area}", "mov eax, 0xe7", "xor edx, edx"; area = AREA);
        code.extend_from_slice(format);
        let Some(mut machine) = machine_with(&code) else { return };
        let place = machine.load_anew(CODE, &spoil);
        machine.vcpu.set_gpr(reg::RSI, place);
        fill(&mut machine);
        machine.run_to_halt();
        assert_filled(&mut machine);
        let compact = if number < 2 { 0 } else { 1 << 63 | ALL };
        assert_eq!(machine.get(AREA + 520), compact);
        assert_eq!(machine.get(AREA + 512) & !1, ALL & !1);
    }
}

#[test]
fn a_compact_area_has_no_gaps_and_a_standard_one_has_its_places() {
    let code = assembled!(
        "mov rbx, {area}",
        "xor edx, edx",
        "mov eax, 0xa4", // ymm, k and zmm16 to zmm31
        "xsavec64 [rbx]",
        "mov eax, 0xd",
        "mov ecx, 7",
        "cpuid",
        "mov rdi, rbx",
        "mov rbx, {area} + 0x1000",
        "mov eax, 0xe7",
        "xor edx, edx",
        "xsave64 [rbx]",
        "hlt"; area = AREA
    );
    let Some(mut machine) = machine_with(&code) else { return };
    fill(&mut machine);
    machine.run_to_halt();
    let mut first = [0; 8];
    first.copy_from_slice(&pattern(16)[..8]);
    assert_eq!(machine.get(AREA + 576 + 256), mask(0));
    assert_eq!(machine.get(AREA + 576 + 256 + 64), u64::from_le_bytes(first));
    assert_eq!(machine.get(AREA + 0x1000 + machine.vcpu.gpr(reg::RDI)), u64::from_le_bytes(first));
}

#[test]
fn what_a_header_does_not_name_returns_to_zero() {
    let code = assembled!(
        "mov rbx, {area}",
        "mov eax, 0xe7",
        "xor edx, edx",
        "xrstor64 [rbx]",
        "hlt"; area = AREA
    );
    let Some(mut machine) = machine_with(&code) else { return };
    fill(&mut machine);
    machine.put(AREA + 24, 0x1f80);
    machine.put(AREA + 512, 1 << 1);
    machine.put(AREA + 160, 77);
    machine.run_to_halt();
    assert_eq!(machine.vcpu.masks(), &[0; 8]);
    assert_eq!(machine.vcpu.vectors()[0][..8], 77u64.to_le_bytes());
    assert!(machine.vcpu.vectors().iter().skip(1).all(|vector| *vector == [0; 64]));
}

#[test]
fn a_header_that_names_what_is_not_there_is_refused() {
    // XSTATE_BV, XCOMP_BV, a reserved word; SDM vol. 1, 13.8.
    for (present, form, reserved) in
        [(1 << 9, 0, 0), (1 << 5, 1 << 63 | 7, 0), (0, 1 << 63 | 1 << 9, 0), (0, 1, 0), (0, 0, 1)]
    {
        let code =
            assembled!("mov rbx, {area}", "mov eax, 0xe7", "xor edx, edx", "xrstor64 [rbx]"; area = AREA);
        let Some(mut machine) = machine_with(&code) else { return };
        machine.put(AREA + 24, 0x1f80);
        machine.put(AREA + 512, present);
        machine.put(AREA + 520, form);
        machine.put(AREA + 528, reserved);
        assert_eq!(machine.run_to_trap().vector, 13, "{present:#x} {form:#x} {reserved}");
    }
}

#[test]
fn lanes_that_a_mask_leaves_out_do_not_fault_at_a_pages_end() {
    const HOLE: u64 = DATA + 0x8000;
    let code = assembled!(
        "mov rbx, {hole}",
        "mov eax, 0xff",
        "kmovw k1, eax",
        "vmovdqu32 zmm1{{k1}}{{z}}, [rbx - 32]", // eight lanes before the hole
        "vmovdqu32 [rbx - 32]{{k1}}, zmm2",
        "knotw k2, k1",
        "mov ecx, 1",
        "vmovdqu32 [rbx - 32]{{k2}}, zmm2",
        "hlt"; hole = HOLE
    );
    let Some(mut machine) = machine_with(&code) else { return };
    machine.map(HOLE, HOLE, 0);
    fill(&mut machine);
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.cr2, machine.vcpu.gpr(reg::RCX)), (14, HOLE, 1));
    assert_eq!(trapped.error_code, 2, "a supervisor's write to what is not present");
    let mut stored = [0; 32];
    assert!(machine.ram.read(HOLE - 32, &mut stored));
    assert_eq!(stored, pattern(2)[..32]);
}

#[test]
fn a_scatter_that_faults_has_done_what_its_mask_no_longer_names() {
    const HOLE: u64 = DATA + 0x8000;
    let code = assembled!(
        "mov rbx, {hole}",
        "mov eax, 0xff",
        "kmovb k1, eax",
        "vpscatterqq [rbx + zmm3]{{k1}}, zmm4",
        "hlt"; hole = HOLE
    );
    let Some(mut machine) = machine_with(&code) else { return };
    machine.map(HOLE, HOLE, 0);
    for lane in 0..8u64 {
        // Lane 5 is the first behind the page's end.
        let index = (lane * 8).wrapping_sub(40);
        let place = lane as usize * 8;
        machine.vcpu.vectors()[3][place..place + 8].copy_from_slice(&index.to_le_bytes());
        machine.vcpu.vectors()[4][place..place + 8].copy_from_slice(&(lane + 100).to_le_bytes());
    }
    let trapped = machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.cr2), (14, HOLE));
    assert_eq!(machine.vcpu.masks()[1], 0b1110_0000);
    assert_eq!([0, 1, 2, 3, 4].map(|lane| machine.get(HOLE - 40 + lane * 8)), [100, 101, 102, 103, 104]);
}
