//! Hostile chains: each ends with a reset needed or a short answer, never with a panic or endless work.

use super::super::bench::{AVAILABLE, Bench, DESCRIPTORS, Echo, INDIRECT, MEMORY, NEXT, WRITE};
use super::Broken;

const TABLE: u64 = 0x4000;

fn bench() -> (Bench, Echo) {
    let echo = Echo::default();
    (Bench::start(echo.clone()), echo)
}

#[test]
fn chains_come_back_in_order_with_both_sides_counted() {
    let (mut bench, echo) = bench();
    bench.offer(0, &[(0x8000, 16, false), (0x9000, 512, true), (0xa000, 1, true)]);
    bench.offer(5, &[(0x8000, 3, false)]);
    assert_eq!(bench.notify(), Ok(vec![(0, 0), (5, 0)]));
    assert_eq!(*echo.0.lock().unwrap(), [(16, 513), (3, 0)]);
    assert_eq!(bench.notify(), Ok(vec![]), "nothing new");
}

#[test]
fn a_ring_runs_on_past_its_end() {
    let (mut bench, echo) = bench();
    for _ in 0..70_000 {
        bench.offer(1, &[(0x8000, 1, true)]);
        assert_eq!(bench.notify(), Ok(vec![(1, 0)]));
    }
    assert_eq!(echo.0.lock().unwrap().len(), 70_000);
}

#[test]
fn a_loop_of_descriptors_needs_a_reset() {
    let (mut bench, echo) = bench();
    bench.descriptor(DESCRIPTORS, 0, (0x8000, 16), NEXT, 1);
    bench.descriptor(DESCRIPTORS, 1, (0x8000, 16), NEXT, 0);
    bench.make_available(0);
    assert_eq!(bench.notify(), Err(Broken::Endless));
    assert!(echo.0.lock().unwrap().is_empty(), "half a chain is no request");
}

#[test]
fn a_descriptor_outside_the_table_needs_a_reset() {
    for (head, next) in [(0, 8), (0, 0xffff), (8, 0), (0xffff, 0)] {
        let (mut bench, _) = bench();
        bench.descriptor(DESCRIPTORS, 0, (0x8000, 16), NEXT, next);
        bench.make_available(head);
        assert_eq!(bench.notify(), Err(Broken::Endless), "head {head}, next {next}");
    }
}

#[test]
fn four_gibibytes_at_once_are_not_memory_and_more_have_no_end() {
    let (mut first, _) = bench();
    first.offer(0, &[(0x8000, u32::MAX, true)]);
    assert_eq!(first.notify(), Err(Broken::Buffer));
    let (mut second, _) = bench();
    second.offer(0, &[(0x8000, 1, true), (0x8000, u32::MAX, true)]);
    assert_eq!(second.notify(), Err(Broken::Endless), "2.7.5.2: no chain is longer than 2^32 bytes");
}

#[test]
fn a_descriptor_of_no_length_is_no_bytes() {
    let (mut bench, echo) = bench();
    bench.offer(0, &[(u64::MAX, 0, false), (0x8000, 4, false), (0, 0, true)]);
    assert_eq!(bench.notify(), Ok(vec![(0, 0)]));
    assert_eq!(*echo.0.lock().unwrap(), [(4, 0)]);
}

#[test]
fn a_buffer_outside_memory_needs_a_reset() {
    for (address, length) in
        [(MEMORY, 1), (MEMORY - 1, 2), (u64::MAX, 1), (u64::MAX - 3, 16), (1 << 63, 4096)]
    {
        for writable in [false, true] {
            let (mut bench, _) = bench();
            bench.offer(0, &[(address, length, writable)]);
            assert_eq!(bench.notify(), Err(Broken::Buffer), "{length} bytes at {address:#x}");
        }
    }
}

#[test]
fn a_readable_buffer_behind_a_writable_one_needs_a_reset() {
    let (mut bench, _) = bench();
    bench.offer(0, &[(0x8000, 4, true), (0x9000, 4, false)]);
    assert_eq!(bench.notify(), Err(Broken::Order));
}

#[test]
fn an_indirect_table_is_a_chain() {
    let (mut bench, echo) = bench();
    bench.descriptor(TABLE, 0, (0x8000, 16), NEXT, 1);
    bench.descriptor(TABLE, 1, (0x9000, 32), WRITE, 0);
    bench.descriptor(DESCRIPTORS, 3, (TABLE, 32), INDIRECT, 0);
    bench.make_available(3);
    assert_eq!(bench.notify(), Ok(vec![(3, 0)]));
    assert_eq!(*echo.0.lock().unwrap(), [(16, 32)]);
}

#[test]
fn indirect_tables_that_are_none_need_a_reset() {
    // In another table, an odd length, none at all, outside memory.
    for (table, length) in [(TABLE, 16), (TABLE + 16, 17), (TABLE + 16, 0), (MEMORY, 16), (u64::MAX - 7, 16)]
    {
        let (mut bench, _) = bench();
        bench.descriptor(TABLE, 0, (TABLE, 16), INDIRECT, 0);
        bench.descriptor(TABLE, 1, (0x8000, 16), 0, 0);
        bench.descriptor(DESCRIPTORS, 0, (table, length), INDIRECT, 0);
        bench.make_available(0);
        assert_eq!(bench.notify(), Err(Broken::Endless), "{length} bytes at {table:#x}");
    }
}

#[test]
fn an_indirect_table_longer_than_the_queue_needs_a_reset() {
    let (mut bench, _) = bench();
    for index in 0..9 {
        bench.descriptor(TABLE, index, (0x8000, 16), if index < 8 { NEXT } else { 0 }, index + 1);
    }
    bench.descriptor(DESCRIPTORS, 0, (TABLE, 9 * 16), INDIRECT, 0);
    bench.make_available(0);
    assert_eq!(bench.notify(), Err(Broken::TooLong));
}

#[test]
fn an_available_index_that_runs_ahead_needs_a_reset() {
    let (mut bench, _) = bench();
    bench.set_available_index(9);
    assert_eq!(bench.notify(), Err(Broken::Available));
}

#[test]
fn a_driver_that_polls_is_not_interrupted() {
    let (mut bench, _) = bench();
    bench.offer(0, &[(0x8000, 1, true)]);
    bench.set_available_flags(1);
    assert_eq!(bench.life.notify(super::super::bench::QUEUE), Default::default());
    assert_eq!(bench.used(), [(0, 0)]);
    assert_eq!(bench.bytes(AVAILABLE, 2), [1, 0]);
}
