use super::*;
use crate::workbench::*;

const IOPL_3: u64 = 3 << flags::IOPL_SHIFT;

#[test]
fn user_mode_touches_the_interrupt_flag_only_by_io_privilege() {
    let mut bench = Workbench::new();
    bench.go_user();
    assert_eq!(cli(&mut bench.cpu), Err(Exception::gp(0)));
    assert_eq!(sti(&mut bench.cpu), Err(Exception::gp(0)));
    bench.cpu.rflags |= IOPL_3;
    assert_eq!(cli(&mut bench.cpu), Ok(()));
    assert_eq!(bench.cpu.rflags & flags::IF, 0);
}

#[test]
fn sti_casts_a_shadow_only_when_it_opens_the_door() {
    let mut bench = Workbench::new();
    sti(&mut bench.cpu).unwrap();
    assert!(!bench.cpu.interrupt_shadow);
    cli(&mut bench.cpu).unwrap();
    sti(&mut bench.cpu).unwrap();
    assert!(bench.cpu.interrupt_shadow);
}

#[test]
fn popf_changes_what_the_privilege_allows_and_keeps_the_rest() {
    let all = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT | flags::AC | flags::ID;
    let mut bench = Workbench::new();
    bench.cpu.rflags = flags::ALWAYS_ONE;
    popf(&mut bench.cpu, u64::MAX, 8);
    assert_eq!(bench.cpu.rflags, flags::ALWAYS_ONE | all | flags::IF | flags::IOPL);
    bench.go_user();
    bench.cpu.rflags = flags::ALWAYS_ONE | flags::IF;
    popf(&mut bench.cpu, 0, 8);
    assert_eq!(bench.cpu.rflags, flags::ALWAYS_ONE | flags::IF);
    popf(&mut bench.cpu, u64::MAX, 2);
    let narrow = all & !(flags::AC | flags::ID);
    assert_eq!(bench.cpu.rflags, flags::ALWAYS_ONE | flags::IF | narrow);
}

#[test]
fn the_permission_map_opens_single_ports() {
    let mut bench = Workbench::new();
    bench.go_user();
    bench.cpu.tr.limit = 0x67 + 0x2001;
    bench.put(TSS + 0x60, 0x0068 << 48);
    for place in 0..0x2000 / 8 {
        bench.put(TSS + 0x68 + place * 8, u64::MAX);
    }
    // Ports 0x3f8 to 0x3ff, but for 0x3fc.
    bench.put(TSS + 0x68 + 0x3f8 / 8, !0xff | 0x10);
    let ask = |number, size| port(&bench.cpu, &bench.memory(), number, size).is_ok();
    assert!(ask(0x3f8, 1) && ask(0x3f8, 4) && ask(0x3fd, 1));
    assert!(!ask(0x3fc, 1) && !ask(0x3fa, 4) && !ask(0x3ff, 2) && !ask(0x3f7, 1));
}

#[test]
fn without_a_map_or_beyond_it_user_mode_has_no_ports() {
    let mut bench = Workbench::new();
    bench.go_user();
    bench.put(TSS + 0x60, 0x0068 << 48);
    assert_eq!(port(&bench.cpu, &bench.memory(), 0x80, 1), Err(Exception::gp(0)));
    bench.cpu.tr.limit = 0x60;
    assert_eq!(port(&bench.cpu, &bench.memory(), 0x80, 1), Err(Exception::gp(0)));
    bench.cpu.rflags |= IOPL_3;
    assert_eq!(port(&bench.cpu, &bench.memory(), 0x80, 1), Ok(()));
}

#[test]
fn switches_take_instructions_away_from_users_or_from_everybody() {
    let mut bench = Workbench::new();
    assert_eq!(fsgsbase(&bench.cpu), Err(Exception::ud()));
    bench.cpu.cr4 |= cr4::FSGSBASE | cr4::TSD;
    assert_eq!((fsgsbase(&bench.cpu), rdtsc(&bench.cpu)), (Ok(()), Ok(())));
    bench.go_user();
    assert_eq!((fsgsbase(&bench.cpu), rdtsc(&bench.cpu)), (Ok(()), Err(Exception::gp(0))));
    bench.cpu.cr4 &= !cr4::TSD;
    assert_eq!(rdtsc(&bench.cpu), Ok(()));
}
