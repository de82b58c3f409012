use super::*;
use crate::workbench::*;

const HANDLER_FLAGS: u64 = flags::IF | flags::DF | flags::TF;

/// In user mode, with the registers that Linux sets: kernel code 0x10, user base 0x23.
fn ready() -> Workbench {
    let mut bench = Workbench::new();
    bench.go_user();
    bench.cpu.star = 0x0023_0010 << 32;
    bench.cpu.lstar = 0xffff_ffff_8100_0000;
    bench.cpu.sfmask = HANDLER_FLAGS;
    bench.cpu.rflags |= flags::DF | flags::ZF;
    bench
}

#[test]
fn syscall_saves_where_it_was_and_masks_the_flags() {
    let mut bench = ready();
    let before = bench.cpu.rflags;
    syscall(&mut bench.cpu, 0x40_0002).unwrap();
    let cpu = &bench.cpu;
    assert_eq!((cpu.rip, cpu.cpl), (0xffff_ffff_8100_0000, 0));
    assert_eq!((cpu.gpr[RCX], cpu.gpr[R11]), (0x40_0002, before));
    assert_eq!(cpu.rflags, flags::ALWAYS_ONE | flags::ZF);
    assert_eq!(cpu.segments[CS], Segment::long_code(0x10, 0));
    assert_eq!(cpu.segments[SS], Segment::flat_data(0x18, 0));
}

#[test]
fn the_flag_that_is_always_one_survives_any_mask() {
    let mut bench = ready();
    bench.cpu.sfmask = 0xffff_ffff;
    syscall(&mut bench.cpu, 0).unwrap();
    assert_eq!(bench.cpu.rflags, flags::ALWAYS_ONE);
}

#[test]
fn sysret_undoes_syscall() {
    let mut bench = ready();
    let before = bench.cpu.clone();
    syscall(&mut bench.cpu, 0x40_0002).unwrap();
    sysret(&mut bench.cpu, true).unwrap();
    let cpu = &bench.cpu;
    assert_eq!((cpu.rip, cpu.rflags, cpu.cpl), (0x40_0002, before.rflags, 3));
    assert_eq!(cpu.segments[CS], Segment::long_code(USER_CODE, 3));
    assert_eq!(cpu.segments[SS], Segment::flat_data(USER_DATA, 3));
}

#[test]
fn without_the_switch_neither_exists() {
    let mut bench = ready();
    bench.cpu.efer &= !efer::SCE;
    assert_eq!(syscall(&mut bench.cpu, 0), Err(Exception::ud()));
    assert_eq!(sysret(&mut bench.cpu, true), Err(Exception::ud()));
}

#[test]
fn sysret_is_the_kernels() {
    let mut bench = ready();
    assert_eq!(sysret(&mut bench.cpu, true), Err(Exception::gp(0)));
}

#[test]
fn sysret_to_an_address_that_is_not_canonical_faults_in_the_kernel() {
    let mut bench = ready();
    syscall(&mut bench.cpu, 0x8000_0000_0000).unwrap();
    let before = bench.cpu.clone();
    assert_eq!(sysret(&mut bench.cpu, true), Err(Exception::gp(0)));
    assert_eq!(bench.cpu, before);
}

#[test]
fn sysret_takes_only_the_flags_that_exist_and_not_rf_or_vm() {
    let mut bench = ready();
    syscall(&mut bench.cpu, 0).unwrap();
    bench.cpu.gpr[R11] = u64::MAX;
    sysret(&mut bench.cpu, true).unwrap();
    // SDM vol. 2, SYSRET: (R11 & 3C7FD7H) | 2.
    assert_eq!(bench.cpu.rflags, 0x3c_7fd7);
}

#[test]
fn sysret_returns_to_32_bit_code_with_the_halves_it_has() {
    let mut bench = ready();
    syscall(&mut bench.cpu, 0x40_0002).unwrap();
    let base = (bench.cpu.star >> 48) as u16;
    bench.cpu.gpr[RCX] |= 0xffff_ffff << 32;
    sysret(&mut bench.cpu, false).unwrap();
    assert_eq!((bench.cpu.rip, bench.cpu.cpl), (0x40_0002, 3));
    assert_eq!(bench.cpu.segments[CS], Segment::flat_code(base | 3, 3));
    assert_eq!(bench.cpu.gpr[RCX], 0x40_0002);
}

#[test]
fn syscall_from_32_bit_code_goes_where_cstar_says() {
    let mut bench = ready();
    bench.cpu.cstar = 0x7000;
    bench.cpu.segments[CS] = Segment::flat_code(USER_CODE_32, 3);
    syscall(&mut bench.cpu, 0x40_0002).unwrap();
    assert_eq!((bench.cpu.rip, bench.cpu.cpl), (0x7000, 0));
    assert!(bench.cpu.in_64_bit_mode());
}

#[test]
fn sysenter_and_sysexit_take_their_segments_from_one_register() {
    let mut bench = ready();
    assert_eq!(sysenter(&mut bench.cpu), Err(Exception::gp(0)));
    bench.cpu.sysenter = crate::cpu::Sysenter { cs: KERNEL_CODE.into(), rsp: 0x9000, rip: 0x7000 };
    bench.cpu.rflags |= flags::IF;
    sysenter(&mut bench.cpu).unwrap();
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[RSP], bench.cpu.cpl), (0x7000, 0x9000, 0));
    assert_eq!(bench.cpu.segments[CS], Segment::long_code(KERNEL_CODE, 0));
    assert_eq!(bench.cpu.rflags & flags::IF, 0);
    (bench.cpu.gpr[RDX], bench.cpu.gpr[RCX]) = (0x40_0000, 0x50_0000);
    sysexit(&mut bench.cpu, false).unwrap();
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[RSP], bench.cpu.cpl), (0x40_0000, 0x50_0000, 3));
    assert_eq!(bench.cpu.segments[CS].selector, (KERNEL_CODE + 16) | 3);
    assert_eq!(sysexit(&mut bench.cpu, false), Err(Exception::gp(0)));
}

#[test]
fn swapgs_exchanges_the_bases_and_is_the_kernels() {
    let mut bench = ready();
    assert_eq!(swapgs(&mut bench.cpu), Err(Exception::gp(0)));
    syscall(&mut bench.cpu, 0).unwrap();
    (bench.cpu.segments[GS].base, bench.cpu.kernel_gs_base) = (1, 2);
    swapgs(&mut bench.cpu).unwrap();
    assert_eq!((bench.cpu.segments[GS].base, bench.cpu.kernel_gs_base), (2, 1));
}
