use super::*;
use crate::workbench::*;

fn at_stack(words: &[u64]) -> Workbench {
    let mut bench = Workbench::new();
    bench.cpu.gpr[RSP] = STACK - 0x100;
    for (word, value) in words.iter().enumerate() {
        bench.put(bench.cpu.gpr[RSP] + 8 * word as u64, *value);
    }
    bench
}

fn jump_to(selector: u16, offset: u64) -> (Workbench, Result<(), Exception>) {
    let mut bench = Workbench::new();
    let mut memory = GuestMemory::new(&bench.ram);
    let result = jump(&mut bench.cpu, &mut memory, selector, offset);
    (bench, result)
}

#[test]
fn a_far_return_in_the_kernel_reloads_the_code_segment() {
    let mut bench = at_stack(&[0x6000, KERNEL_CODE as u64]);
    let mut memory = GuestMemory::new(&bench.ram);
    ret(&mut bench.cpu, &mut memory, 8, 0x20).unwrap();
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[RSP]), (0x6000, STACK - 0x100 + 16 + 0x20));
    assert_eq!(bench.cpu.segments[CS], Segment::long_code(KERNEL_CODE, 0));
}

#[test]
fn a_far_return_to_user_mode_releases_arguments_on_both_stacks() {
    let words = [0x40_0000, USER_CODE as u64, 0xaaaa, 0x7fff_0000, USER_DATA as u64];
    let mut bench = at_stack(&words);
    let mut memory = GuestMemory::new(&bench.ram);
    ret(&mut bench.cpu, &mut memory, 8, 8).unwrap();
    let cpu = &bench.cpu;
    assert_eq!((cpu.rip, cpu.gpr[RSP], cpu.cpl), (0x40_0000, 0x7fff_0008, 3));
    assert_eq!(cpu.segments[SS], Segment::flat_data(USER_DATA, 3));
}

#[test]
fn a_far_call_pushes_where_to_come_back_and_a_far_return_goes_there() {
    for size in [8, 4, 2] {
        let mut bench = at_stack(&[]);
        let before = bench.cpu.gpr[RSP];
        let mut memory = GuestMemory::new(&bench.ram);
        call(&mut bench.cpu, &mut memory, KERNEL_CODE, 0x6000, 0x5007, size).unwrap();
        assert_eq!((bench.cpu.rip, bench.cpu.gpr[RSP]), (0x6000, before - 2 * size as u64));
        ret(&mut bench.cpu, &mut memory, size, 0).unwrap();
        assert_eq!((bench.cpu.rip, bench.cpu.gpr[RSP]), (0x5007, before));
    }
}

#[test]
fn a_far_jump_goes_only_where_the_privilege_may() {
    let (bench, done) = jump_to(CONFORMING, 0x6000);
    assert_eq!((done, bench.cpu.rip, bench.cpu.segments[CS].selector), (Ok(()), 0x6000, CONFORMING));
    let cases = [
        (0, 0x6000, 0),
        (USER_CODE, 0x6000, USER_CODE as u32 & !3),
        (KERNEL_DATA, 0x6000, KERNEL_DATA as u32),
        (TASK, 0x6000, TASK as u32),
        (0x200, 0x6000, 0x200),
        (KERNEL_CODE, 0x8000_0000_0000, 0),
    ];
    for (selector, offset, code) in cases {
        let (bench, refused) = jump_to(selector, offset);
        assert_eq!(refused, Err(Exception::gp(code)), "{selector:#x} {offset:#x}");
        assert_eq!(bench.cpu.rip, 0x5000);
    }
}

#[test]
fn a_call_gate_leads_to_the_inner_level_and_its_stack() {
    // SDM vol. 3, 5.8.5.1: SS is null, and the frame is SS, RSP, CS, RIP. A jump may not change the level.
    let mut bench = Workbench::new();
    bench.put(GDT + LOCAL as u64, 0x0000_ec00_0010_6000);
    bench.put(GDT + LOCAL as u64 + 8, 0);
    bench.go_user();
    let (outer, mut memory) = (bench.cpu.gpr[RSP], GuestMemory::new(&bench.ram));
    let refused = jump(&mut bench.cpu, &mut memory, LOCAL, 0);
    assert_eq!(refused, Err(Exception::gp(KERNEL_CODE.into())));
    call(&mut bench.cpu, &mut memory, LOCAL, 0x1234, 0x40_0007, 8).unwrap();
    assert_eq!((bench.cpu.rip, bench.cpu.cpl, bench.cpu.gpr[RSP]), (0x6000, 0, RSP0 - 32));
    assert_eq!(bench.cpu.segments[SS], Segment::null(0));
    let frame = [0, 8, 16, 24].map(|at| bench.get(RSP0 - 32 + at));
    assert_eq!(frame, [0x40_0007, USER_CODE.into(), outer, USER_DATA.into()]);
    let mut memory = GuestMemory::new(&bench.ram);
    ret(&mut bench.cpu, &mut memory, 8, 0).unwrap();
    assert_eq!((bench.cpu.rip, bench.cpu.cpl, bench.cpu.gpr[RSP]), (0x40_0007, 3, outer));
}

#[test]
fn a_call_gate_that_is_not_the_users_is_refused() {
    let mut bench = Workbench::new();
    bench.put(GDT + LOCAL as u64, 0x0000_8c00_0010_6000);
    bench.put(GDT + LOCAL as u64 + 8, 0);
    bench.go_user();
    let mut memory = GuestMemory::new(&bench.ram);
    let refused = call(&mut bench.cpu, &mut memory, LOCAL, 0, 0, 8);
    assert_eq!(refused, Err(Exception::gp(LOCAL.into())));
}

#[test]
fn code_that_is_both_64_and_32_bit_is_refused() {
    let mut bench = Workbench::new();
    bench.put(GDT + KERNEL_DATA as u64, 0x00ef_9b00_0000_ffff);
    let mut memory = GuestMemory::new(&bench.ram);
    let refused = jump(&mut bench.cpu, &mut memory, KERNEL_DATA, 0x6000);
    assert_eq!(refused, Err(Exception::gp(KERNEL_DATA as u32)));
}
