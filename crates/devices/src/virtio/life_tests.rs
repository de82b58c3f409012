//! Drivers by the book, and drivers out of turn.

use super::super::bench::{AVAILABLE, Bench, DESCRIPTORS, Echo, Keeper, MEMORY, QUEUE, USED};
use super::*;

fn echo() -> Bench {
    Bench::new(Echo::default())
}

/// Up to FEATURES_OK, with these features.
fn negotiate(bench: &mut Bench, features: u64) -> bool {
    bench.life.set_status(0);
    bench.life.set_status(status::ACKNOWLEDGE | status::DRIVER);
    bench.life.accept(0, features as u32);
    bench.life.accept(1, (features >> 32) as u32);
    bench.life.set_status(bench.life.status() | status::FEATURES_OK);
    bench.life.status() & status::FEATURES_OK != 0
}

#[test]
fn features_are_agreed_on_only_with_version_1_and_nothing_that_was_not_offered() {
    let mut bench = echo();
    let offered = bench.life.offered();
    assert!(negotiate(&mut bench, offered));
    assert!(negotiate(&mut bench, feature::VERSION_1));
    for wrong in [0, 1, offered & !feature::VERSION_1, offered | 2, offered | 1 << 63] {
        assert!(!negotiate(&mut bench, wrong), "{wrong:#x}");
    }
}

#[test]
fn features_can_be_tried_again_and_not_changed_once_agreed() {
    let mut bench = echo();
    assert!(!negotiate(&mut bench, 2));
    bench.life.accept(0, 1);
    bench.life.accept(1, 1);
    bench.life.accept(2, 0xffff);
    bench.life.set_status(bench.life.status() | status::FEATURES_OK);
    assert_ne!(bench.life.status() & status::FEATURES_OK, 0);
    bench.life.accept(0, 2);
    bench.life.set_status(bench.life.status() | status::FEATURES_OK | status::DRIVER_OK);
    assert_eq!(bench.life.status(), 0xf);
}

#[test]
fn status_bits_come_in_turn_and_only_a_reset_takes_them_away() {
    let mut bench = echo();
    bench.life.set_status(status::FEATURES_OK | status::DRIVER_OK);
    assert_eq!(bench.life.status(), 0, "no driver yet, so nothing is agreed on");
    bench.life.set_status(status::DRIVER);
    bench.life.set_status(status::ACKNOWLEDGE);
    assert_eq!(bench.life.status(), status::ACKNOWLEDGE | status::DRIVER);
    bench.life.set_status(status::DRIVER_OK);
    assert_eq!(bench.life.status(), status::ACKNOWLEDGE | status::DRIVER, "features first");
    bench.life.set_status(status::NEEDS_RESET | status::FAILED);
    assert_eq!(bench.life.status() & status::NEEDS_RESET, 0, "that bit is the device's");
    bench.life.set_status(0);
    assert_eq!(bench.life.status(), 0);
}

#[test]
fn nothing_is_served_before_the_driver_is_ready_or_after_it_failed() {
    let mut bench = echo();
    assert!(negotiate(&mut bench, feature::VERSION_1));
    bench.place_queue();
    bench.life.set_queue_ready(QUEUE, true);
    bench.offer(0, &[(0x8000, 1, true)]);
    assert_eq!(bench.life.notify(QUEUE), Signals::default());
    bench.life.set_status(bench.life.status() | status::DRIVER_OK);
    assert_eq!(bench.notify(), Ok(vec![(0, 0)]));
    bench.offer(0, &[(0x8000, 1, true)]);
    bench.life.set_status(bench.life.status() | status::FAILED);
    assert_eq!(bench.life.notify(QUEUE), Signals::default());
}

#[test]
fn a_queue_outside_memory_needs_a_reset_and_a_reset_heals() {
    let parts =
        [(QueuePart::Descriptors, DESCRIPTORS), (QueuePart::Driver, AVAILABLE), (QueuePart::Device, USED)];
    for (part, _) in parts {
        // Behind memory, over its end, at the end of all addresses, nowhere.
        for address in [MEMORY, MEMORY - 16, 0xffff_ffff_ffff_fff0, 1 << 40] {
            let mut bench = Bench::start(Echo::default());
            bench.life.set_queue_ready(QUEUE, false);
            bench.place_queue();
            bench.life.set_queue_address(QUEUE, part, Half::Low(address as u32));
            bench.life.set_queue_address(QUEUE, part, Half::High((address >> 32) as u32));
            bench.life.set_queue_ready(QUEUE, true);
            assert_eq!(bench.notify(), Err(Broken::Queue), "{part:?} at {address:#x}");
            assert_eq!(bench.life.notify(QUEUE), Signals::default(), "said once");
            bench.start_with(0);
            bench.offer(0, &[(0x8000, 1, true)]);
            assert_eq!(bench.notify(), Ok(vec![(0, 0)]));
        }
    }
}

#[test]
fn a_queue_that_was_never_placed_or_not_aligned_needs_a_reset() {
    let mut bench = Bench::start(Echo::default());
    bench.life.set_queue_ready(QUEUE, false);
    bench.life.set_queue_address(QUEUE, QueuePart::Driver, Half::Low(AVAILABLE as u32 + 1));
    bench.life.set_queue_ready(QUEUE, true);
    assert_eq!(bench.notify(), Err(Broken::Queue));
}

#[test]
fn a_queue_in_use_cannot_be_moved_or_resized() {
    let mut bench = Bench::start(Echo::default());
    bench.life.set_queue_address(QUEUE, QueuePart::Descriptors, Half::Low(0x6000));
    bench.life.set_queue_address(QUEUE, QueuePart::Device, Half::High(1));
    bench.life.set_queue_size(QUEUE, 2);
    bench.life.set_queue_ready(QUEUE, true);
    for head in 0..4 {
        bench.offer(head, &[(0x8000, 1, true)]);
    }
    assert_eq!(bench.notify(), Ok((0..4).map(|head| (head, 0)).collect()));
}

#[test]
fn a_size_that_is_none_is_ignored() {
    let mut bench = Bench::start(Echo::default());
    bench.life.set_queue_ready(QUEUE, false);
    for size in [0, 3, 16, 0xffff, 0x1_0008] {
        bench.life.set_queue_size(QUEUE, size);
    }
    bench.start_with(0);
    bench.offer(7, &[(0x8000, 1, true)]);
    assert_eq!(bench.notify(), Ok(vec![(7, 0)]));
}

#[test]
fn a_queue_that_is_not_there_is_nobodys() {
    let mut bench = Bench::start(Echo::default());
    for index in [2, 3, u16::MAX].map(QueueIndex) {
        bench.life.set_queue_ready(index, true);
        assert!(!bench.life.queue_ready(index));
        assert_eq!(bench.life.queue_limit(index), 0);
        assert_eq!(bench.life.notify(index), Signals::default());
    }
}

#[test]
fn a_device_may_keep_a_chain_and_give_it_back_when_it_is_woken() {
    let mut bench = Bench::start(Keeper::default());
    bench.offer(0, &[(0x8000, 16, true)]);
    bench.offer(3, &[(0x9000, 2, true)]);
    assert_eq!(bench.notify(), Ok(vec![]));
    let signals = bench.life.wake();
    assert_eq!(signals, Signals { used: [QUEUE].into_iter().collect(), changed: true });
    assert_eq!(bench.used(), [(0, 4), (3, 0)]);
    assert_eq!(bench.bytes(0x8000, 5), b"late\0");
    assert_eq!(
        bench.life.wake(),
        Signals { used: QueueSet::default(), changed: true },
        "nothing is kept now"
    );
    assert_eq!((bench.life.configuration(), bench.life.generation()), (&[2][..], 2));
}

#[test]
fn a_reset_forgets_what_the_device_kept() {
    let mut bench = Bench::start(Keeper::default());
    bench.offer(0, &[(0x8000, 16, true)]);
    assert_eq!(bench.notify(), Ok(vec![]));
    bench.start_with(0);
    assert!(bench.life.wake().used.is_empty());
    assert_eq!(bench.bytes(0x8000, 4), [0; 4]);
}

#[test]
fn a_device_without_a_driver_is_not_woken() {
    let mut bench = Bench::new(Keeper::default());
    assert_eq!(bench.life.wake(), Signals::default());
    assert!(negotiate(&mut bench, feature::VERSION_1));
    assert_eq!(bench.life.wake(), Signals::default());
    assert_eq!(bench.life.configuration(), [0]);
}

#[test]
fn a_queue_that_its_driver_left_out_needs_a_reset_only_when_the_device_wants_it() {
    let mut bench = Bench::start(Keeper::default());
    bench.offer(0, &[(0x8000, 16, true)]);
    assert_eq!(bench.notify(), Ok(vec![]));
    bench.life.set_queue_ready(QUEUE, false);
    assert!(bench.life.wake().changed);
    assert_eq!(bench.life.broken(), Some(Broken::Queue));
}
