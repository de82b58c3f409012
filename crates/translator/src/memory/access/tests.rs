use super::*;
use crate::workbench::*;

const READ: Access = Access { intent: Intent::Read, user: false, smap_allowed: false };
const WRITE: Access = Access { intent: Intent::Write, user: false, smap_allowed: false };

#[test]
fn an_access_across_two_pages_follows_each_pages_own_translation() {
    let bench = Workbench::new();
    bench.map(0x5000, 0x8000 | P | W);
    bench.map(0x6000, 0x7000 | P | W);
    let mut memory = bench.memory();
    memory.write_number(&bench.cpu, 0x5ffd, 8, 0x1122_3344_5566_7788, WRITE).unwrap();
    assert_eq!(bench.get(0x8ff8) >> 40, 0x66_7788);
    assert_eq!(bench.get(0x7000), 0x11_2233_4455);
    assert_eq!(memory.read_number(&bench.cpu, 0x5ffd, 8, READ), Ok(0x1122_3344_5566_7788));
}

#[test]
fn a_write_whose_second_page_faults_leaves_the_first_alone() {
    let bench = Workbench::new();
    bench.map(0x6000, 0);
    bench.put(0x5ff8, 7);
    let mut memory = bench.memory();
    let refused = memory.write_number(&bench.cpu, 0x5ffc, 8, u64::MAX, WRITE);
    assert_eq!(refused, Err(Fault::Exception(Exception::pf(0x6000, 0b10))));
    assert_eq!(bench.get(0x5ff8), 7);
}

#[test]
fn the_fault_address_of_a_crossing_access_is_the_first_byte_that_fails() {
    let bench = Workbench::new();
    bench.map(0x5000, 0);
    let refused = bench.memory().read_number(&bench.cpu, 0x5ffc, 8, READ);
    assert_eq!(refused, Err(Fault::Exception(Exception::pf(0x5ffc, 0))));
}

#[test]
fn an_address_without_ram_is_named_and_nothing_is_written() {
    let bench = Workbench::new();
    bench.map(0x6000, 0xfee0_0000 | P | W);
    let mut memory = bench.memory();
    assert_eq!(memory.read_number(&bench.cpu, 0x6020, 4, READ), Err(Fault::NotRam { physical: 0xfee0_0020 }));
    let refused = memory.write_number(&bench.cpu, 0x5ffe, 4, u64::MAX, WRITE);
    assert_eq!(refused, Err(Fault::NotRam { physical: 0xfee0_0000 }));
    assert_eq!(bench.get(0x5ff8), 0);
}

#[test]
fn the_end_of_the_lower_half_is_not_followed_by_anything() {
    let bench = Workbench::new();
    let last = 0x0000_7fff_ffff_f000;
    // Maps the last page of the lower half through the same tables' last entries.
    bench.put(PML4 + 255 * 8, PDPT | P | W);
    bench.put(PDPT + 511 * 8, PD | P | W);
    bench.put(PD + 511 * 8, PT | P | W);
    bench.put(PT + 511 * 8, 0x5000 | P | W);
    assert!(bench.memory().read_number(&bench.cpu, last + 0xff8, 8, READ).is_ok());
    let refused = bench.memory().read_number(&bench.cpu, last + 0xffc, 8, READ);
    assert_eq!(refused, Err(Fault::Exception(Exception::gp(0))));
    let refused = bench.memory().read_stack::<1>(&bench.cpu, last + 0xffc, 8, READ);
    assert_eq!(refused, Err(Exception::ss(0)));
}

#[test]
fn writes_over_translated_code_are_remembered_once_a_page() {
    let bench = Workbench::new();
    bench.ram.sharing().claim_code(0, 5);
    bench.ram.sharing().claim_code(0, 6);
    let mut memory = bench.memory();
    memory.write_number(&bench.cpu, 0x5ffc, 8, 1, WRITE).unwrap();
    memory.write_number(&bench.cpu, 0x5000, 8, 1, WRITE).unwrap();
    memory.write_number(&bench.cpu, 0x7000, 8, 1, WRITE).unwrap();
    assert_eq!(memory.take_code_writes().pages(), Some(&[0x5000, 0x6000][..]));
    assert!(memory.take_code_writes().is_empty());
}

#[test]
fn more_code_pages_than_are_remembered_mean_all_of_them() {
    let bench = Workbench::new();
    let mut memory = bench.memory();
    for page in 0..=CODE_WRITES_LIMIT as u64 {
        let address = 0x40000 + page * PAGE_SIZE;
        bench.ram.sharing().claim_code(0, (address / PAGE_SIZE) as u32);
        memory.write_number(&bench.cpu, address, 1, 0, WRITE).unwrap();
    }
    assert_eq!(memory.take_code_writes().pages(), None);
}

#[test]
fn the_processors_own_reads_of_no_ram_are_ones() {
    let bench = Workbench::new();
    bench.map(0x6000, 0xfee0_0000 | P | W);
    assert_eq!(bench.memory().read_system::<4>(&bench.cpu, 0x6000), Ok([0xff; 4]));
}

#[test]
fn stack_words_narrower_than_a_register_are_zero_extended_and_no_byte_beyond_them_is_read() {
    let bench = Workbench::new();
    bench.map(0x6000, 0);
    bench.put(0x5ff8, 0x8888_7777_6666_5555);
    let words = bench.memory().read_stack::<2>(&bench.cpu, 0x5ff8, 4, READ);
    assert_eq!(words, Ok([0x6666_5555, 0x8888_7777]));
}
