use super::*;
use crate::cpu::efer;
use crate::workbench::*;

const NOW: u64 = 1_000_000;

fn read(bench: &Workbench, index: u32) -> u64 {
    match rdmsr(&bench.cpu, index, NOW) {
        Ok(MsrRead::Value(value)) => value,
        other => panic!("{index:#x}: {other:?}"),
    }
}

fn write(bench: &mut Workbench, index: u32, value: u64) -> Result<MsrWrite, Exception> {
    wrmsr(&mut bench.cpu, index, value, NOW)
}

#[test]
fn user_mode_reads_and_writes_none() {
    let mut bench = Workbench::new();
    bench.go_user();
    assert_eq!(rdmsr(&bench.cpu, TSC, NOW), Err(Exception::gp(0)));
    assert_eq!(write(&mut bench, STAR, 0), Err(Exception::gp(0)));
}

#[test]
fn addresses_must_be_canonical_and_land_where_they_belong() {
    let mut bench = Workbench::new();
    for index in [LSTAR, CSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE, SYSENTER_ESP, SYSENTER_EIP] {
        assert_eq!(write(&mut bench, index, 1 << 47), Err(Exception::gp(0)), "{index:#x}");
        write(&mut bench, index, 0xffff_8000_0000_0000 | index as u64).unwrap();
    }
    for index in [LSTAR, CSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE, SYSENTER_ESP, SYSENTER_EIP] {
        assert_eq!(read(&bench, index), 0xffff_8000_0000_0000 | index as u64);
    }
    assert_eq!(bench.cpu.segments[GS].base, 0xffff_8000_0000_0000 | GS_BASE as u64);
}

#[test]
fn the_machines_own_registers_are_elsewhere() {
    let mut bench = Workbench::new();
    for index in [0x1b, 0x6e0, 0x808, 0x8ff, 0x11, 0x12, 0x4b56_4d00, 0xdead_beef] {
        assert_eq!(rdmsr(&bench.cpu, index, NOW), Ok(MsrRead::Elsewhere));
        assert_eq!(write(&mut bench, index, 0), Ok(MsrWrite::Elsewhere));
    }
}

#[test]
fn a_write_to_the_counter_shows_in_its_adjustment_and_the_other_way_round() {
    let mut bench = Workbench::new();
    bench.cpu.tsc_offset = 5;
    write(&mut bench, TSC, 0).unwrap();
    assert_eq!((read(&bench, TSC), read(&bench, TSC_ADJUST) as i64), (0, -(NOW as i64) - 5));
    write(&mut bench, TSC_ADJUST, 7).unwrap();
    assert_eq!((read(&bench, TSC), bench.cpu.tsc_offset), (NOW + 5 + 7, 12));
}

#[test]
fn a_page_attribute_table_with_a_type_that_does_not_exist_is_refused() {
    let mut bench = Workbench::new();
    let linux = 0x0407_0506_0007_0106;
    write(&mut bench, PAT, linux).unwrap();
    for bad in [2, 3, 8] {
        assert_eq!(write(&mut bench, PAT, linux & !0xff | bad), Err(Exception::gp(0)));
    }
    assert_eq!(read(&bench, PAT), linux);
}

#[test]
fn what_says_how_the_processor_is_cannot_be_written() {
    let mut bench = Workbench::new();
    for index in [MTRR_CAP, ARCH_CAPABILITIES, MCG_CAP] {
        let value = read(&bench, index);
        assert_eq!(write(&mut bench, index, value), Err(Exception::gp(0)));
    }
}

#[test]
fn a_prediction_barrier_is_accepted_and_cannot_be_read() {
    let mut bench = Workbench::new();
    assert_eq!(write(&mut bench, PRED_CMD, 1), Ok(MsrWrite::Done(Effect::default())));
    assert_eq!(write(&mut bench, PRED_CMD, 2), Err(Exception::gp(0)));
    assert_eq!(rdmsr(&bench.cpu, PRED_CMD, NOW), Err(Exception::gp(0)));
}

#[test]
fn efer_reports_what_it_changed() {
    let mut bench = Workbench::new();
    let value = bench.cpu.efer & !efer::NXE;
    let expected = Effect { rights_changed: true, ..Effect::default() };
    assert_eq!(write(&mut bench, EFER, value), Ok(MsrWrite::Done(expected)));
}

#[test]
fn a_processor_number_has_32_bits() {
    let mut bench = Workbench::new();
    assert_eq!(write(&mut bench, TSC_AUX, 1 << 32), Err(Exception::gp(0)));
    write(&mut bench, TSC_AUX, 3).unwrap();
    assert_eq!(read(&bench, TSC_AUX), 3);
}
