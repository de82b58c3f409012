use super::*;
use crate::cpu::segments::{CS, DS, ES, FS, GS, SS, load_segment};
use crate::workbench::*;

fn load(bench: &mut Workbench, index: usize, selector: u16) -> Result<(), Exception> {
    let mut memory = GuestMemory::new(&bench.ram);
    load_segment(&mut bench.cpu, &mut memory, index, selector)
}

#[test]
fn a_descriptor_is_taken_apart_into_base_limit_and_attributes() {
    let mut bench = Workbench::new();
    load(&mut bench, FS, READ_ONLY).unwrap();
    let segment = bench.cpu.segments[FS];
    assert_eq!((segment.base, segment.limit), (0x1234_5678, 0x5_0fff));
    assert_eq!((segment.dpl(), segment.is_data(), segment.is_writable_data()), (0, true, false));
    load(&mut bench, GS, USER_DATA).unwrap();
    assert_eq!(bench.cpu.segments[GS].limit, u32::MAX);
}

#[test]
fn a_first_load_sets_the_accessed_bit_in_memory() {
    let mut bench = Workbench::new();
    let before = bench.get(GDT + READ_ONLY as u64);
    load(&mut bench, DS, READ_ONLY).unwrap();
    assert_eq!(bench.get(GDT + READ_ONLY as u64), before | 1 << 40);
    assert_eq!(bench.cpu.segments[DS].attributes & ACCESSED, ACCESSED);
}

#[test]
fn data_segments_may_be_null_and_lose_their_base() {
    let mut bench = Workbench::new();
    bench.go_user();
    bench.cpu.segments[FS].base = 0x1000;
    for index in [ES, DS, FS, GS] {
        load(&mut bench, index, 3).unwrap();
        assert_eq!(bench.cpu.segments[index], Segment::null(3));
    }
}

#[test]
fn a_null_stack_segment_is_the_kernels_only() {
    let mut bench = Workbench::new();
    assert_eq!(load(&mut bench, SS, 0), Ok(()));
    assert_eq!(load(&mut bench, SS, 3), Err(Exception::gp(0)));
    bench.go_user();
    assert_eq!(load(&mut bench, SS, 3), Err(Exception::gp(0)));
}

#[test]
fn each_broken_rule_of_a_data_segment_is_its_own_fault() {
    let absent = ABSENT_DATA as u32;
    let cases = [
        (false, DS, 0x104, Exception::gp(0x104)),
        (false, DS, GDT_BYTES, Exception::gp(GDT_BYTES as u32)),
        (false, DS, EXECUTE_ONLY, Exception::gp(EXECUTE_ONLY as u32)),
        (false, DS, TASK, Exception::gp(TASK as u32)),
        (false, DS, ABSENT_DATA, Exception::np(absent)),
        (false, SS, ABSENT_DATA, Exception::ss(absent)),
        (false, SS, READ_ONLY, Exception::gp(READ_ONLY as u32)),
        (false, SS, KERNEL_DATA | 3, Exception::gp(KERNEL_DATA as u32)),
        (false, SS, USER_DATA, Exception::gp(USER_DATA as u32 & !3)),
        (false, DS, KERNEL_DATA | 3, Exception::gp(KERNEL_DATA as u32)),
        (true, DS, KERNEL_DATA, Exception::gp(KERNEL_DATA as u32)),
        (true, SS, KERNEL_DATA, Exception::gp(KERNEL_DATA as u32)),
        (true, CS, USER_CODE, Exception::ud()),
    ];
    for (user, index, selector, expected) in cases {
        let mut bench = Workbench::new();
        if user {
            bench.go_user();
        }
        let before = bench.cpu.clone();
        assert_eq!(load(&mut bench, index, selector), Err(expected), "{user} {index} {selector:#x}");
        assert_eq!(bench.cpu, before);
    }
}

#[test]
fn readable_and_conforming_code_can_be_read_as_data_from_anywhere() {
    let mut bench = Workbench::new();
    bench.go_user();
    assert_eq!(load(&mut bench, DS, USER_CODE), Ok(()));
    assert_eq!(load(&mut bench, DS, CONFORMING | 3), Ok(()));
}

#[test]
fn loading_the_task_register_marks_the_task_busy_and_a_busy_one_is_refused() {
    let mut bench = Workbench::new();
    let mut memory = GuestMemory::new(&bench.ram);
    bench.ram.write(GDT + TASK as u64 + 8, &0xffff_8880_u64.to_le_bytes());
    ltr(&mut bench.cpu, &mut memory, TASK).unwrap();
    assert_eq!((bench.cpu.tr.base, bench.cpu.tr.limit), (0xffff_8880_0001_2000, 0x67));
    assert_eq!(bench.cpu.tr.system_type(), Some(system::TSS_BUSY));
    let in_memory = memory.read_number(&bench.cpu, GDT + TASK as u64 + 5, 1, read_access()).unwrap();
    assert_eq!(in_memory, 0x8b);
    assert_eq!(ltr(&mut bench.cpu, &mut memory, TASK), Err(Exception::gp(TASK as u32)));
}

fn read_access() -> crate::memory::walk::Access {
    crate::memory::walk::Access::by_processor(crate::memory::walk::Intent::Read)
}

#[test]
fn a_system_descriptor_with_a_base_that_is_not_canonical_or_a_second_type_is_refused() {
    for upper in [0x1234_5678, 0x1f00_0000_0000] {
        let mut bench = Workbench::new();
        bench.put(GDT + LOCAL as u64 + 8, upper);
        let mut memory = GuestMemory::new(&bench.ram);
        assert_eq!(lldt(&mut bench.cpu, &mut memory, LOCAL), Err(Exception::gp(LOCAL as u32)));
    }
}

#[test]
fn a_local_table_is_used_once_it_is_loaded_and_not_after_a_null_one() {
    let mut bench = Workbench::new();
    bench.put(0x13000, bench.get(GDT + KERNEL_DATA as u64));
    let local = 4;
    bench.cpu.ldtr = Segment::null(0);
    assert_eq!(load(&mut bench, DS, local), Err(Exception::gp(4)));
    let mut memory = GuestMemory::new(&bench.ram);
    lldt(&mut bench.cpu, &mut memory, LOCAL).unwrap();
    assert_eq!(load(&mut bench, DS, local), Ok(()));
    assert_eq!(load(&mut bench, DS, local + 16), Err(Exception::gp(20)));
    let mut memory = GuestMemory::new(&bench.ram);
    lldt(&mut bench.cpu, &mut memory, 0).unwrap();
    assert_eq!(load(&mut bench, DS, local), Err(Exception::gp(4)));
}

#[test]
fn table_registers_are_the_kernels() {
    let mut bench = Workbench::new();
    bench.go_user();
    let mut memory = GuestMemory::new(&bench.ram);
    assert_eq!(lldt(&mut bench.cpu, &mut memory, 0), Err(Exception::gp(0)));
    assert_eq!(ltr(&mut bench.cpu, &mut memory, TASK), Err(Exception::gp(0)));
}

#[test]
fn the_asking_instructions_answer_without_faulting() {
    let mut bench = Workbench::new();
    bench.go_user();
    let memory = bench.memory();
    let cpu = &bench.cpu;
    assert_eq!(lar(cpu, &memory, USER_DATA), Ok(Some(0x00cf_f300 & 0xff_ff00)));
    assert_eq!(lsl(cpu, &memory, USER_DATA), Ok(Some(u32::MAX)));
    assert_eq!(verr(cpu, &memory, USER_CODE), Ok(true));
    assert_eq!((verw(cpu, &memory, USER_CODE), verw(cpu, &memory, USER_DATA)), (Ok(false), Ok(true)));
    for hidden in [0, 3, KERNEL_DATA, TASK, 0x300, 7] {
        assert_eq!((lar(cpu, &memory, hidden), lsl(cpu, &memory, hidden)), (Ok(None), Ok(None)));
        assert_eq!((verr(cpu, &memory, hidden), verw(cpu, &memory, hidden)), (Ok(false), Ok(false)));
    }
}

#[test]
fn lsl_knows_system_segments_that_verr_does_not() {
    let bench = Workbench::new();
    assert_eq!(lsl(&bench.cpu, &bench.memory(), TASK), Ok(Some(0x67)));
    assert_eq!(verr(&bench.cpu, &bench.memory(), TASK), Ok(false));
}
