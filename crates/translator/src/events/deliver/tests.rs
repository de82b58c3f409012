use super::*;
use crate::cpu::segments::{DS, FS};
use crate::cpu::{RAX, cr0};
use crate::events::iret::iret;
use crate::memory::ram::PAGE_SIZE;
use crate::workbench::*;

fn event(bench: &mut Workbench, event: Event) -> Result<(), TripleFault> {
    let mut memory = GuestMemory::new(&bench.ram);
    deliver(&mut bench.cpu, &mut memory, event)
}

/// The frame at the stack pointer: error code first if there is one.
fn frame(bench: &Workbench, words: u64) -> Vec<u64> {
    (0..words).map(|word| bench.get(bench.cpu.gpr[RSP] + word * 8)).collect()
}

#[test]
fn an_interrupt_at_cpl_0_stays_on_the_aligned_stack_and_shuts_interrupts_out() {
    let mut bench = Workbench::new();
    bench.cpu.gpr[RSP] = STACK - 0x18 + 5;
    bench.cpu.interrupt_shadow = true;
    bench.cpu.rflags |= flags::TF | flags::NT | flags::CF;
    let before = bench.cpu.clone();
    event(&mut bench, Event::Interrupt(0x20)).unwrap();
    assert_eq!(bench.cpu.gpr[RSP], STACK - 0x20 - 40);
    let ss = KERNEL_DATA as u64;
    let expected = [before.rip, KERNEL_CODE as u64, before.rflags, before.gpr[RSP], ss];
    assert_eq!(frame(&bench, 5), expected);
    assert_eq!(bench.cpu.rip, HANDLER + 0x20);
    assert_eq!(bench.cpu.rflags, flags::ALWAYS_ONE | flags::CF);
    assert_eq!(bench.cpu.segments[SS], before.segments[SS]);
    assert!(!bench.cpu.interrupt_shadow);
}

#[test]
fn a_trap_gate_leaves_interrupts_on() {
    let mut bench = Workbench::new();
    bench.gate(0x20, HANDLER, KERNEL_CODE, 0x8f, 0);
    event(&mut bench, Event::Interrupt(0x20)).unwrap();
    assert_ne!(bench.cpu.rflags & flags::IF, 0);
}

#[test]
fn a_fault_in_user_mode_goes_to_the_kernels_stack_with_its_error_code_and_address() {
    let mut bench = Workbench::new();
    bench.go_user();
    let before = bench.cpu.clone();
    event(&mut bench, Event::Exception(Exception::pf(0xdead_beef, 6))).unwrap();
    assert_eq!(bench.cpu.gpr[RSP], RSP0 - 48);
    let (cs, ss) = (USER_CODE as u64, USER_DATA as u64);
    assert_eq!(frame(&bench, 6), [6, before.rip, cs, before.rflags | flags::RF, before.gpr[RSP], ss]);
    assert_eq!((bench.cpu.cpl, bench.cpu.cr2), (0, 0xdead_beef));
    assert_eq!(bench.cpu.segments[CS].selector, KERNEL_CODE);
    // SDM vol. 3, 6.14.4: the new stack segment is null, with the new privilege level.
    assert_eq!(bench.cpu.segments[SS], Segment::null(0));
}

#[test]
fn an_interrupt_stack_is_taken_whatever_the_privilege() {
    for user in [false, true] {
        let mut bench = Workbench::new();
        if user {
            bench.go_user();
        }
        bench.gate(8, HANDLER, KERNEL_CODE, 0x8e, 1);
        event(&mut bench, Event::Exception(Exception::df())).unwrap();
        assert_eq!(bench.cpu.gpr[RSP], IST1 - 48);
        let null = bench.cpu.segments[SS].selector == 0;
        assert_eq!(null, user, "the stack segment changes only with the privilege");
    }
}

#[test]
fn iret_undoes_a_delivery_at_either_privilege() {
    for user in [false, true] {
        let mut bench = Workbench::new();
        if user {
            bench.go_user();
            bench.cpu.segments[DS] = Segment::flat_data(USER_DATA, 3);
            bench.cpu.segments[FS] = Segment { base: 0x1234, ..Segment::null(0) };
        }
        bench.cpu.gpr[RAX] = 7;
        let before = bench.cpu.clone();
        event(&mut bench, Event::Exception(Exception::gp(0))).unwrap();
        bench.cpu.gpr[RSP] += 8;
        let mut memory = GuestMemory::new(&bench.ram);
        iret(&mut bench.cpu, &mut memory, 8).unwrap();
        // What a return loads from the GDT has the table's own bits, which are those of the flat segments.
        let after = bench.cpu.clone();
        // A fault's frame has RF, which holds breakpoints back for one instruction.
        let rflags = before.rflags | flags::RF;
        assert_eq!((after.rip, after.rflags, after.cpl), (before.rip, rflags, before.cpl));
        assert_eq!((after.gpr, after.segments), (before.gpr, before.segments));
    }
}

#[test]
fn a_software_interrupt_needs_the_gates_permission() {
    let mut bench = Workbench::new();
    bench.go_user();
    event(&mut bench, Event::Software { vector: 0x80, next_rip: 0x5002 }).unwrap();
    assert_eq!(bench.cpu.rip, HANDLER + 13);
    // Its index, in the IDT, not external; and the instruction itself, which can be tried again.
    assert_eq!(frame(&bench, 2), [0x80 * 8 + 2, 0x5000]);
}

#[test]
fn a_permitted_software_interrupt_returns_after_itself() {
    let mut bench = Workbench::new();
    bench.go_user();
    bench.gate(0x80, HANDLER + 0x80, KERNEL_CODE, 0xee, 0);
    event(&mut bench, Event::Software { vector: 0x80, next_rip: 0x5002 }).unwrap();
    assert_eq!((bench.cpu.rip, frame(&bench, 1)[0]), (HANDLER + 0x80, 0x5002));
}

#[test]
fn an_exception_needs_no_permission() {
    let mut bench = Workbench::new();
    bench.go_user();
    event(&mut bench, Event::Exception(Exception::ud())).unwrap();
    assert_eq!(bench.cpu.rip, HANDLER + 6);
}

#[test]
fn a_bad_gate_is_a_fault_that_names_it() {
    // A call gate; an absent gate; a null, a data and a 32-bit code segment.
    let kernel = KERNEL_CODE;
    let cases: [(u16, u8, u8, u32); 5] = [
        (kernel, 0x8c, 13, 0x20 * 8 + 3),
        (kernel, 0x0e, 11, 0x20 * 8 + 3),
        (0, 0x8e, 13, 1),
        (KERNEL_DATA, 0x8e, 13, KERNEL_DATA as u32 + 1),
        (USER_CODE_32 & !3, 0x8e, 13, (USER_CODE_32 & !3) as u32 + 1),
    ];
    for (selector, kind, vector, code) in cases {
        let mut bench = Workbench::new();
        bench.gate(0x20, HANDLER, selector, kind, 0);
        event(&mut bench, Event::Interrupt(0x20)).unwrap();
        assert_eq!(bench.cpu.rip, HANDLER + vector as u64);
        assert_eq!(frame(&bench, 1)[0], code as u64, "{selector:#x} {kind:#x}");
    }
    let mut bench = Workbench::new();
    bench.cpu.idtr.limit = 0x20 * 16 + 14;
    event(&mut bench, Event::Interrupt(0x20)).unwrap();
    assert_eq!(frame(&bench, 1)[0], 0x20 * 8 + 3);
}

#[test]
fn a_contributory_fault_during_another_is_a_double_fault() {
    let mut bench = Workbench::new();
    bench.gate(13, HANDLER, KERNEL_CODE, 0x0e, 0);
    event(&mut bench, Event::Exception(Exception::gp(0))).unwrap();
    assert_eq!((bench.cpu.rip, frame(&bench, 1)[0]), (HANDLER + 8, 0));
}

#[test]
fn a_page_fault_while_delivering_a_page_fault_is_a_double_fault_that_tells_the_second_address() {
    let mut bench = Workbench::new();
    bench.gate(8, HANDLER + 8, KERNEL_CODE, 0x8e, 1);
    bench.cpu.gpr[RSP] = 0x50_0000 + 0x100;
    event(&mut bench, Event::Exception(Exception::pf(0x1234, 0))).unwrap();
    assert_eq!(bench.cpu.rip, HANDLER + 8);
    assert_eq!(bench.cpu.cr2, 0x50_0000 + 0x100 - 48);
}

#[test]
fn a_page_fault_while_delivering_an_interrupt_is_just_that_page_fault() {
    let mut bench = Workbench::new();
    bench.gate(14, HANDLER + 14, KERNEL_CODE, 0x8e, 1);
    bench.cpu.gpr[RSP] = 0x50_0000 + 0x100;
    event(&mut bench, Event::Interrupt(0x20)).unwrap();
    assert_eq!(bench.cpu.rip, HANDLER + 14);
    assert_eq!(frame(&bench, 2), [2, 0x5000]);
}

#[test]
fn the_table_of_nested_faults_is_the_manuals() {
    let contributory =
        [Exception::de(), Exception::ts(0), Exception::np(0), Exception::ss(0), Exception::gp(0)];
    let page = Exception::pf(0, 0);
    for first in contributory {
        for second in contributory {
            assert_eq!(combine(Event::Exception(first), second), Ok(Exception::df()));
        }
        assert_eq!(combine(Event::Exception(first), page), Ok(page));
        assert_eq!(combine(Event::Exception(page), first), Ok(Exception::df()));
        assert_eq!(combine(Event::Exception(Exception::df()), first), Err(TripleFault));
        assert_eq!(combine(Event::Exception(Exception::ud()), first), Ok(first));
        assert_eq!(combine(Event::Interrupt(13), first), Ok(first));
        assert_eq!(combine(Event::Software { vector: 13, next_rip: 0 }, first), Ok(first));
    }
    assert_eq!(combine(Event::Exception(page), page), Ok(Exception::df()));
    assert_eq!(combine(Event::Exception(Exception::df()), page), Err(TripleFault));
}

#[test]
fn a_machine_without_a_table_of_handlers_shuts_down_and_keeps_its_state() {
    let mut bench = Workbench::new();
    bench.cpu.idtr.limit = 0;
    let before = bench.cpu.clone();
    assert_eq!(event(&mut bench, Event::Exception(Exception::ud())), Err(TripleFault));
    assert_eq!(bench.cpu, before);
}

#[test]
fn a_task_state_segment_too_short_for_the_stack_is_an_invalid_one() {
    let mut bench = Workbench::new();
    bench.go_user();
    // Long enough for IST1, not for IST2.
    bench.cpu.tr.limit = 36 + 7;
    bench.gate(10, HANDLER + 10, KERNEL_CODE, 0x8e, 1);
    bench.gate(0x20, HANDLER, KERNEL_CODE, 0x8e, 2);
    event(&mut bench, Event::Interrupt(0x20)).unwrap();
    assert_eq!((bench.cpu.rip, frame(&bench, 1)[0]), (HANDLER + 10, TASK as u64 + 1));
}

#[test]
fn a_task_state_segment_without_any_stack_shuts_the_machine_down() {
    let mut bench = Workbench::new();
    bench.go_user();
    bench.cpu.tr.limit = 10;
    assert_eq!(event(&mut bench, Event::Interrupt(0x20)), Err(TripleFault));
}

#[test]
fn a_stack_that_is_not_canonical_is_a_stack_fault() {
    let mut bench = Workbench::new();
    bench.gate(12, HANDLER + 12, KERNEL_CODE, 0x8e, 1);
    bench.cpu.gpr[RSP] = 0x9000_0000_0000;
    event(&mut bench, Event::Interrupt(0x20)).unwrap();
    assert_eq!((bench.cpu.rip, frame(&bench, 1)[0]), (HANDLER + 12, 1));
}

#[test]
fn the_frame_is_the_processors_write_so_smap_refuses_a_user_page_even_with_ac() {
    let mut bench = Workbench::new();
    bench.cpu.rflags |= flags::AC;
    bench.cpu.gpr[RSP] = USER_PAGE + PAGE_SIZE;
    bench.gate(14, HANDLER + 14, KERNEL_CODE, 0x8e, 1);
    event(&mut bench, Event::Interrupt(0x20)).unwrap();
    assert_eq!(frame(&bench, 1)[0], 3, "present, write, supervisor");
}

#[test]
fn a_read_only_descriptor_table_is_not_written_when_the_segment_is_accessed_already() {
    let mut bench = Workbench::new();
    bench.map(GDT, GDT | P);
    assert_ne!(bench.cpu.cr0 & cr0::WP, 0);
    event(&mut bench, Event::Interrupt(0x20)).unwrap();
    assert_eq!(bench.cpu.rip, HANDLER + 0x20);
}

#[test]
fn a_conforming_handler_runs_at_the_privilege_it_interrupts() {
    let mut bench = Workbench::new();
    bench.go_user();
    bench.gate(0x20, USER_PAGE, CONFORMING, 0x8e, 0);
    event(&mut bench, Event::Interrupt(0x20)).unwrap();
    assert_eq!((bench.cpu.cpl, bench.cpu.segments[CS].selector), (3, CONFORMING | 3));
    assert_eq!(bench.cpu.gpr[RSP], USER_PAGE + 0x800 - 40);
}

#[test]
fn a_handler_at_privilege_level_1_runs_on_that_levels_stack() {
    let mut bench = Workbench::new();
    bench.go_user();
    bench.put(TSS + 12, RSP0 - 0x800);
    bench.gate(0x20, HANDLER, LEVEL_1_CODE & !3, 0x8e, 0);
    event(&mut bench, Event::Interrupt(0x20)).unwrap();
    assert_eq!((bench.cpu.cpl, bench.cpu.segments[CS].selector), (1, LEVEL_1_CODE));
    assert_eq!(bench.cpu.segments[SS], Segment::null(1));
    assert_eq!(bench.cpu.gpr[RSP], RSP0 - 0x800 - 40);
}
