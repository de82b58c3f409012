use super::*;
use crate::cpu::segments::{DS, ES, FS, Segment};
use crate::workbench::*;

/// Lays a frame on the stack and returns through it.
fn run(bench: &mut Workbench, frame: [u64; 5]) -> Result<(), Refusal> {
    for (word, value) in frame.into_iter().enumerate() {
        bench.put(bench.cpu.gpr[RSP] + 8 * word as u64, value);
    }
    let mut memory = GuestMemory::new(&bench.ram);
    iret(&mut bench.cpu, &mut memory, 8)
}

fn on_stack() -> Workbench {
    let mut bench = Workbench::new();
    bench.cpu.gpr[RSP] = STACK - 0x100;
    bench
}

const USER_FLAGS: u64 = 0x202;
const TO_USER: [u64; 5] = [0x40_0000, USER_CODE as u64, USER_FLAGS, 0x7fff_0000, USER_DATA as u64];
const TO_KERNEL: [u64; 5] = [0x6000, KERNEL_CODE as u64, USER_FLAGS, STACK, KERNEL_DATA as u64];

fn gp(code: u32) -> Result<(), Refusal> {
    Err(Refusal::Exception(Exception::gp(code)))
}

#[test]
fn a_return_to_user_mode_takes_everything_from_the_frame() {
    let mut bench = on_stack();
    run(&mut bench, TO_USER).unwrap();
    let cpu = &bench.cpu;
    assert_eq!((cpu.rip, cpu.rflags, cpu.gpr[RSP], cpu.cpl), (0x40_0000, USER_FLAGS, 0x7fff_0000, 3));
    assert_eq!(cpu.segments[CS], Segment::long_code(USER_CODE, 3));
    assert_eq!(cpu.segments[SS], Segment::flat_data(USER_DATA, 3));
}

#[test]
fn a_return_within_the_kernel_pops_the_stack_too_and_may_have_a_null_one() {
    let mut bench = on_stack();
    run(&mut bench, [0x6000, KERNEL_CODE as u64, 2, 0x1_2345, 0]).unwrap();
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[RSP], bench.cpu.cpl), (0x6000, 0x1_2345, 0));
    assert_eq!(bench.cpu.segments[SS], Segment::null(0));
}

#[test]
fn a_nested_task_is_refused() {
    let mut bench = on_stack();
    bench.cpu.rflags |= flags::NT;
    assert_eq!(run(&mut bench, TO_USER), gp(0));
}

#[test]
fn a_refused_return_changes_nothing() {
    let with = |word: usize, value: u64| {
        let mut frame = TO_USER;
        frame[word] = value;
        frame
    };
    let np_data = ABSENT_DATA as u64;
    let cases = [
        (with(0, 0x8000_0000_0000), Exception::gp(0)),
        (with(1, 0), Exception::gp(0)),
        (with(1, 3), Exception::gp(0)),
        (with(1, 0x103), Exception::gp(0x100)),
        (with(1, USER_DATA as u64), Exception::gp(USER_DATA as u32 & !3)),
        (with(1, KERNEL_CODE as u64 | 3), Exception::gp(KERNEL_CODE as u32)),
        (with(1, 0x37), Exception::gp(0x34)),
        (with(4, 0), Exception::gp(0)),
        (with(4, 3), Exception::gp(0)),
        (with(4, KERNEL_DATA as u64), Exception::gp(KERNEL_DATA as u32)),
        (with(4, USER_CODE as u64), Exception::gp(USER_CODE as u32 & !3)),
        ([0x6000, KERNEL_CODE as u64, 2, STACK, np_data], Exception::ss(np_data as u32)),
        ([0x6000, KERNEL_CODE as u64, 2, STACK, 3], Exception::gp(0)),
    ];
    for (frame, expected) in cases {
        let mut bench = on_stack();
        let before = bench.cpu.clone();
        assert_eq!(run(&mut bench, frame), Err(Refusal::Exception(expected)), "{frame:x?}");
        assert_eq!(bench.cpu, before);
    }
}

#[test]
fn user_mode_cannot_return_to_the_kernel_nor_change_its_own_privileges() {
    let mut bench = on_stack();
    bench.go_user();
    assert_eq!(run(&mut bench, TO_KERNEL), gp(KERNEL_CODE as u32));
    let greedy = flags::STORED & !flags::NT;
    run(&mut bench, [0x40_0000, USER_CODE as u64, greedy, 0, USER_DATA as u64]).unwrap();
    let kept = flags::IF;
    let given = flags::ARITHMETIC | flags::TF | flags::DF | flags::AC | flags::ID | flags::RF;
    assert_eq!(bench.cpu.rflags, flags::ALWAYS_ONE | kept | given);
}

#[test]
fn the_kernel_may_set_every_flag_but_vm() {
    let mut bench = on_stack();
    let mut frame = TO_KERNEL;
    frame[2] = u64::MAX;
    run(&mut bench, frame).unwrap();
    assert_eq!(bench.cpu.rflags, (flags::STORED | flags::ALWAYS_ONE) & !flags::VM);
}

#[test]
fn data_segments_of_the_kernel_do_not_reach_the_user() {
    let mut bench = on_stack();
    bench.cpu.segments[ES] = Segment::flat_data(KERNEL_DATA, 0);
    bench.cpu.segments[DS] = Segment::flat_data(USER_DATA, 3);
    bench.cpu.segments[FS] = Segment { base: 0x7000, ..Segment::null(0) };
    run(&mut bench, TO_USER).unwrap();
    assert_eq!(bench.cpu.segments[ES], Segment::null(0));
    assert_eq!(bench.cpu.segments[DS].selector, USER_DATA);
    assert_eq!(bench.cpu.segments[FS].base, 0x7000);
}

#[test]
fn a_return_to_32_bit_code_clears_the_upper_halves_it_does_not_have() {
    let mut bench = on_stack();
    let mut frame = TO_USER;
    frame[1] = USER_CODE_32 as u64;
    frame[3] = 0x1_0000_5000;
    bench.cpu.gpr[0] = u64::MAX;
    bench.cpu.gpr[8] = u64::MAX;
    run(&mut bench, frame).unwrap();
    let cpu = &bench.cpu;
    assert_eq!((cpu.code_size(), cpu.rip, cpu.cpl), (crate::cpu::mode::CodeSize::Wide, 0x40_0000, 3));
    assert_eq!((cpu.gpr[0], cpu.gpr[RSP], cpu.gpr[8]), (0xffff_ffff, 0x5000, u64::MAX));
    frame[0] = 0x1_0000_0000;
    assert_eq!(run(&mut on_stack(), frame), gp(0));
}

#[test]
fn the_narrow_forms_pop_narrow_words_and_leave_the_wide_flags() {
    let mut bench = on_stack();
    bench.cpu.rflags |= flags::AC;
    let words = [0x6000_u16, KERNEL_CODE, 2, 0x4000, KERNEL_DATA];
    let bytes: Vec<u8> = words.into_iter().flat_map(u16::to_le_bytes).collect();
    assert!(bench.ram.write(bench.cpu.gpr[RSP], &bytes));
    let mut memory = GuestMemory::new(&bench.ram);
    iret(&mut bench.cpu, &mut memory, 2).unwrap();
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[RSP]), (0x6000, 0x4000));
    assert_eq!(bench.cpu.rflags, flags::ALWAYS_ONE | flags::AC);
}

#[test]
fn an_absent_stack_page_is_a_page_fault() {
    let mut bench = on_stack();
    bench.map(STACK, 0);
    bench.cpu.gpr[RSP] = STACK - 16;
    let mut memory = GuestMemory::new(&bench.ram);
    let refused = iret(&mut bench.cpu, &mut memory, 8);
    assert_eq!(refused, Err(Refusal::Exception(Exception::pf(STACK, 0))));
}
