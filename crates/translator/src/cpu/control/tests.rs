use super::*;
use crate::workbench::*;

fn gp<T>() -> Result<T, Exception> {
    Err(Exception::gp(0))
}

fn write(bench: &mut Workbench, number: u8, value: u64) -> Result<Effect, Exception> {
    match write_control(&mut bench.cpu, number, value)? {
        ControlWrite::Done(effect) => Ok(effect),
        ControlWrite::TaskPriority(_) => panic!("not a register of the processor's"),
    }
}

#[test]
fn every_control_register_is_the_kernels() {
    let mut bench = Workbench::new();
    bench.go_user();
    for number in [0, 2, 3, 4, 8] {
        assert_eq!(read_control(&bench.cpu, number), gp());
        assert_eq!(write_control(&mut bench.cpu, number, 0), gp());
    }
    assert_eq!(clts(&mut bench.cpu), gp());
    assert_eq!(lmsw(&mut bench.cpu, 0), gp());
}

#[test]
fn numbers_without_a_register_are_invalid_instructions_at_any_privilege() {
    let mut bench = Workbench::new();
    bench.go_user();
    for number in [1, 5, 7, 9, 15] {
        assert_eq!(read_control(&bench.cpu, number), Err(Exception::ud()));
        assert_eq!(write_control(&mut bench.cpu, number, 0), Err(Exception::ud()));
    }
}

#[test]
fn long_mode_cannot_be_left_through_a_control_register() {
    let mut bench = Workbench::new();
    let before = bench.cpu.clone();
    assert_eq!(write(&mut bench, 0, before.cr0 & !cr0::PG), gp());
    assert_eq!(write(&mut bench, 0, before.cr0 & !(cr0::PG | cr0::PE)), gp());
    assert_eq!(write(&mut bench, 4, before.cr4 & !cr4::PAE), gp());
    assert_eq!(write_efer(&mut bench.cpu, before.efer & !efer::LME), gp());
    assert_eq!(bench.cpu, before);
}

#[test]
fn cr0_refuses_what_makes_no_sense_and_ignores_what_does_not_exist() {
    let mut bench = Workbench::new();
    let old = bench.cpu.cr0;
    assert_eq!(write(&mut bench, 0, old | 1 << 32), gp());
    assert_eq!(write(&mut bench, 0, old | cr0::NW), gp());
    write(&mut bench, 0, old & !cr0::ET | 1 << 10 | 1 << 20).unwrap();
    assert_eq!(bench.cpu.cr0, old);
}

#[test]
fn cr0_tells_rights_from_vector_state() {
    let mut bench = Workbench::new();
    let old = bench.cpu.cr0;
    let effect = write(&mut bench, 0, old ^ cr0::WP).unwrap();
    assert_eq!(effect, Effect { rights_changed: true, ..Effect::default() });
    let effect = write(&mut bench, 0, old ^ cr0::WP ^ cr0::TS).unwrap();
    assert_eq!(effect, Effect { vector_state_changed: true, ..Effect::default() });
    let effect = clts(&mut bench.cpu).unwrap();
    assert_eq!(effect, Effect { vector_state_changed: true, ..Effect::default() });
    assert_eq!(clts(&mut bench.cpu), Ok(Effect::default()));
}

#[test]
fn lmsw_loads_four_bits_and_cannot_clear_the_first() {
    let mut bench = Workbench::new();
    let old = bench.cpu.cr0;
    lmsw(&mut bench.cpu, 0xfff0 | cr0::TS as u16).unwrap();
    assert_eq!(bench.cpu.cr0, old & !cr0::MP | cr0::TS);
}

#[test]
fn cr3_without_pcids_flushes_all_but_global_pages() {
    let mut bench = Workbench::new();
    let effect = write(&mut bench, 3, 0x9000).unwrap();
    let expected = Effect { flush_nonglobal: true, address_space_changed: true, ..Effect::default() };
    assert_eq!(effect, expected);
    // The same root with other caching bits is the same address space.
    let effect = write(&mut bench, 3, 0x9018).unwrap();
    assert_eq!(effect, Effect { address_space_changed: false, ..expected });
    assert_eq!(bench.cpu.cr3, 0x9018);
    assert_eq!(write(&mut bench, 3, 1 << 63), gp());
    assert_eq!(write(&mut bench, 3, 1 << PHYSICAL_BITS), gp());
}

#[test]
fn cr3_with_pcids_may_keep_what_is_cached() {
    let mut bench = Workbench::new();
    let old = bench.cpu.cr4;
    write(&mut bench, 4, old | cr4::PCIDE).unwrap();
    let effect = write(&mut bench, 3, PML4 | 5 | 1 << 63).unwrap();
    assert_eq!(effect, Effect { address_space_changed: true, ..Effect::default() });
    assert_eq!(bench.cpu.cr3, PML4 | 5);
    let effect = write(&mut bench, 3, PML4 | 5).unwrap();
    assert_eq!(effect, Effect { flush_nonglobal: true, ..Effect::default() });
}

#[test]
fn pcids_can_only_be_switched_on_in_address_space_zero() {
    let mut bench = Workbench::new();
    write(&mut bench, 3, PML4 | 8).unwrap();
    let value = bench.cpu.cr4 | cr4::PCIDE;
    assert_eq!(write(&mut bench, 4, value), gp());
    write(&mut bench, 3, PML4).unwrap();
    assert!(write(&mut bench, 4, value).unwrap().flush_all);
}

#[test]
fn cr4_refuses_what_cpuid_does_not_offer() {
    let mut bench = Workbench::new();
    let old = bench.cpu.cr4;
    // VME, PVI, UMIP, LA57, VMXE, SMXE, PKE, CET, PKS, and the upper half.
    for bit in [0, 1, 11, 12, 13, 14, 22, 23, 24, 32] {
        assert_eq!(write(&mut bench, 4, old | 1 << bit), gp(), "{bit}");
    }
    bench.cpu.xcr0_offered = 0;
    assert_eq!(write(&mut bench, 4, old | cr4::OSXSAVE), gp());
}

#[test]
fn cr4_tells_a_flush_from_a_change_of_rights() {
    let mut bench = Workbench::new();
    let old = bench.cpu.cr4;
    let effect = write(&mut bench, 4, old ^ cr4::PGE).unwrap();
    assert_eq!(effect, Effect { flush_all: true, ..Effect::default() });
    let effect = write(&mut bench, 4, old ^ cr4::PGE ^ cr4::SMAP).unwrap();
    assert_eq!(effect, Effect { rights_changed: true, ..Effect::default() });
}

#[test]
fn cr8_is_the_interrupt_controllers() {
    let mut bench = Workbench::new();
    assert_eq!(read_control(&bench.cpu, 8), Ok(ControlRead::TaskPriority));
    assert_eq!(write_control(&mut bench.cpu, 8, 15), Ok(ControlWrite::TaskPriority(15)));
    assert_eq!(write_control(&mut bench.cpu, 8, 16), gp());
}

#[test]
fn efer_knows_three_switches_and_keeps_its_own() {
    let mut bench = Workbench::new();
    let old = bench.cpu.efer;
    assert_eq!(write_efer(&mut bench.cpu, old | 1 << 12), gp());
    let effect = write_efer(&mut bench.cpu, old & !(efer::NXE | efer::LMA)).unwrap();
    assert!(effect.rights_changed);
    assert_eq!(bench.cpu.efer, old & !efer::NXE);
}

#[test]
fn xcr0_exists_once_the_system_says_so_and_takes_whole_sets_only() {
    let mut bench = Workbench::new();
    bench.cpu.xcr0_offered = 7;
    assert_eq!(xsetbv(&mut bench.cpu, 0, 7), Err(Exception::ud()));
    assert_eq!(xgetbv(&bench.cpu, 0), Err(Exception::ud()));
    bench.cpu.cr4 |= cr4::OSXSAVE;
    for (number, value) in [(1, 7), (0, 0), (0, 6), (0, 5), (0, 0xf), (0, 0xe7)] {
        assert_eq!(xsetbv(&mut bench.cpu, number, value), gp(), "{number} {value:#x}");
    }
    assert!(xsetbv(&mut bench.cpu, 0, 7).unwrap().vector_state_changed);
    assert_eq!((xgetbv(&bench.cpu, 0), xgetbv(&bench.cpu, 1)), (Ok(7), gp()));
    bench.go_user();
    assert_eq!((xgetbv(&bench.cpu, 0), xsetbv(&mut bench.cpu, 0, 7)), (Ok(7), gp()));
}

#[test]
fn debug_registers_keep_what_they_can_hold() {
    let mut bench = Workbench::new();
    let cpu = &mut bench.cpu;
    write_debug(cpu, 0, u64::MAX).unwrap();
    write_debug(cpu, 6, 0).unwrap();
    write_debug(cpu, 5, 0).unwrap();
    assert_eq!((cpu.dr[0], cpu.dr[6], cpu.dr[7]), (u64::MAX, 0xffff_0ff0, 0x400));
    assert_eq!(write_debug(cpu, 7, 1 << 32), gp());
    cpu.cr4 |= cr4::DE;
    assert_eq!(read_debug(cpu, 4), Err(Exception::ud()));
    bench.go_user();
    assert_eq!(read_debug(&mut bench.cpu, 0), gp());
}

#[test]
fn general_detect_catches_one_access_and_lets_the_handler_look() {
    let mut bench = Workbench::new();
    write_debug(&mut bench.cpu, 7, debug::GENERAL_DETECT).unwrap();
    assert_eq!(read_debug(&mut bench.cpu, 0), Err(Exception::db()));
    assert_eq!(read_debug(&mut bench.cpu, 6), Ok(debug::DR6_FIXED | debug::DETECTED));
}
