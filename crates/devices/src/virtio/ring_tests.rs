//! Hostile chains: each ends with a reset needed or a short answer, never with a panic or endless work.

use super::super::bench::{AVAILABLE, Bench, DESCRIPTORS, Echo, INDIRECT, MEMORY, NEXT, QUEUE, WRITE};
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

/// A driver that waits for events by index, with all features.
fn by_index() -> Bench {
    let mut bench = Bench::new(Echo::default());
    let features = bench.life.offered();
    bench.start_with(features);
    bench
}

#[test]
fn by_index_an_interrupt_comes_when_the_awaited_chain_was_used_and_not_before() {
    let mut bench = by_index();
    // The driver waits for the third chain (index 2).
    bench.set_used_event(2);
    let mut interrupts = Vec::new();
    for chain in 0..8 {
        bench.offer(chain % 4, &[(0x8000, 4, true)]);
        interrupts.push(bench.life.notify(QUEUE).used.contains(QUEUE));
    }
    assert_eq!(interrupts, [false, false, true, false, false, false, false, false]);
    assert_eq!(bench.used().len(), 8);
    // Flags mean nothing then (2.7.7).
    bench.set_available_flags(1);
    bench.set_used_event(9);
    (0..2).for_each(|chain| bench.offer(chain, &[(0x8000, 4, true)]));
    assert!(bench.life.notify(QUEUE).used.contains(QUEUE), "two at once, the second awaited");
}

#[test]
fn by_index_the_driver_is_asked_to_notify_of_the_next_chain() {
    let mut bench = by_index();
    for round in 1..=5_u16 {
        bench.offer(0, &[(0x8000, 4, true)]);
        bench.offer(1, &[(0x8000, 4, true)]);
        bench.life.notify(QUEUE);
        assert_eq!((bench.used().len(), bench.available_event()), (2, round * 2));
    }
}

#[test]
fn indices_by_which_events_are_awaited_wrap_around() {
    let mut bench = by_index();
    let mut interrupts = 0;
    for chain in 0..=u16::MAX {
        // Each is awaited; the interrupt of the one before was the last.
        bench.set_used_event(chain);
        bench.offer(chain % 8, &[(0x8000, 4, true)]);
        interrupts += u32::from(bench.life.notify(QUEUE).used.contains(QUEUE));
        assert_eq!(bench.available_event(), chain.wrapping_add(1));
    }
    assert_eq!(interrupts, 1 << 16);
}
