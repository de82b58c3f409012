//! Registers from outside: Linux's way, and every other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::bench::{AVAILABLE, Bench, DESCRIPTORS, Echo, Keeper, USED};
use super::super::life::status;
use super::*;
use crate::hostile::Random;

#[derive(Clone, Default)]
struct Level(Arc<AtomicBool>);

impl InterruptLine for Level {
    fn set(&self, up: bool) {
        self.0.store(up, Ordering::Relaxed);
    }
}

/// A bench whose device sits behind registers.
fn transport() -> (MmioTransport<Level>, Bench, Level) {
    transport_of(Echo::default())
}

fn transport_of(device: impl super::super::VirtioDevice + 'static) -> (MmioTransport<Level>, Bench, Level) {
    let mut bench = Bench::new(device);
    let memory = bench.memory.clone();
    let life = std::mem::replace(&mut bench.life, Life::new(Box::new(Echo::default()), memory));
    let line = Level::default();
    (MmioTransport::new(life, line.clone()), bench, line)
}

fn get(transport: &mut MmioTransport<Level>, at: u64) -> u32 {
    let mut bytes = [0xff; 4];
    transport.read(at, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn set(transport: &mut MmioTransport<Level>, at: u64, value: u32) {
    transport.write(at, &value.to_le_bytes());
}

/// As Linux's virtio_mmio.c does it.
fn start(transport: &mut MmioTransport<Level>) {
    set(transport, 0x70, 0);
    set(transport, 0x70, 1);
    set(transport, 0x70, 3);
    for word in [1, 0] {
        set(transport, 0x14, word);
        let offered = get(transport, 0x10);
        set(transport, 0x24, word);
        set(transport, 0x20, offered);
    }
    set(transport, 0x70, 0xb);
    assert_eq!(get(transport, 0x70), 0xb);
    set(transport, 0x30, 0);
    set(transport, 0x38, 8);
    for (at, address) in [(0x80, DESCRIPTORS), (0x90, AVAILABLE), (0xa0, USED)] {
        set(transport, at, address as u32);
        set(transport, at + 4, 0);
    }
    set(transport, 0x44, 1);
    set(transport, 0x70, 0xf);
}

#[test]
fn a_driver_finds_and_uses_the_device() {
    let (mut transport, mut bench, line) = transport();
    let identity = [0, 4, 8].map(|at| get(&mut transport, at));
    assert_eq!(identity, [0x7472_6976, 2, 4]);
    start(&mut transport);
    bench.offer(0, &[(0x8000, 1, true)]);
    set(&mut transport, 0x50, 0);
    assert_eq!(bench.used(), [(0, 0)]);
    assert_eq!((get(&mut transport, 0x60), line.0.load(Ordering::Relaxed)), (1, true));
    set(&mut transport, 0x64, 1);
    assert_eq!((get(&mut transport, 0x60), line.0.load(Ordering::Relaxed)), (0, false));
}

#[test]
fn a_broken_rule_is_a_configuration_change_and_a_reset_ends_it() {
    let (mut transport, bench, line) = transport();
    start(&mut transport);
    bench.set_available_index(1000);
    set(&mut transport, 0x50, 0);
    assert_eq!((get(&mut transport, 0x60), get(&mut transport, 0x70) & 0x40), (2, 0x40));
    set(&mut transport, 0x70, 0);
    assert_eq!((get(&mut transport, 0x60), get(&mut transport, 0x70)), (0, 0));
    assert!(!line.0.load(Ordering::Relaxed));
}

#[test]
fn registers_answer_only_to_aligned_words() {
    let (mut transport, ..) = transport();
    set(&mut transport, 0x70, 1);
    transport.write(0x70, &[3]);
    transport.write(0x70, &[3, 0]);
    transport.write(0x6e, &[0, 0, 3, 0]);
    transport.write(0x70, &[3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(get(&mut transport, 0x70), 1);
    for (at, length) in [(0, 1), (1, 4), (2, 2), (0, 8)] {
        let mut bytes = vec![0xff; length];
        transport.read(at, &mut bytes);
        assert_eq!(bytes, vec![0xff; length], "{length} bytes at {at}");
    }
}

#[test]
fn the_configuration_reads_in_any_way_and_ends_in_zeroes() {
    let (mut transport, ..) = transport();
    for (at, expected) in [
        (0x100u64, vec![1]),
        (0x101, vec![2, 3]),
        (0x102, vec![3, 4, 5, 0]),
        (0x1fc, vec![0; 4]),
        (0x104, vec![5, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        let mut bytes = vec![0xff; expected.len()];
        transport.read(at, &mut bytes);
        assert_eq!(bytes, expected, "at {at:#x}");
    }
    transport.write(0x100, &[9]);
    set(&mut transport, 0x100, 9);
    assert_eq!(get(&mut transport, 0x100), 0x0403_0201);
}

#[test]
fn a_selected_queue_that_is_not_there_has_no_size() {
    let (mut transport, ..) = transport();
    for queue in [2, 0xffff, 0x1_0000, u32::MAX] {
        set(&mut transport, 0x30, queue);
        set(&mut transport, 0x44, 1);
        assert_eq!((get(&mut transport, 0x34), get(&mut transport, 0x44)), (0, 0), "queue {queue:#x}");
        set(&mut transport, 0x50, queue);
    }
    assert_eq!(get(&mut transport, 0xb0), u32::MAX, "no shared memory");
}

#[test]
fn random_accesses_leave_a_device_that_can_be_reset() {
    for seed in 1..=8 {
        let (mut transport, bench, _) = transport();
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        start(&mut transport);
        for _ in 0..20_000 {
            let at = random.next() % (REGISTERS + 8);
            let bytes = random.next().to_le_bytes();
            let length = [1, 2, 4, 4, 4, 8][(random.next() % 6) as usize];
            match random.next() % 8 {
                0 => start(&mut transport),
                1..3 => bench.write(DESCRIPTORS + random.next() % 0x2080, &bytes),
                3..6 => transport.write(at & !3, &bytes[..length]),
                6 => transport.write(at, &bytes[..length]),
                _ => transport.read(at, &mut [0xff; 8][..length]),
            }
        }
        start(&mut transport);
        assert_eq!(transport.life().status() & status::NEEDS_RESET, 0);
    }
}

#[test]
fn a_wake_interrupts_for_what_was_used_and_for_what_changed() {
    let (mut transport, mut bench, line) = transport_of(Keeper::default());
    start(&mut transport);
    bench.offer(0, &[(0x8000, 4, true)]);
    set(&mut transport, 0x50, 0);
    assert!(!line.0.load(Ordering::Relaxed));
    let generation = get(&mut transport, 0xfc);
    transport.wake();
    assert_eq!((get(&mut transport, 0x60), line.0.load(Ordering::Relaxed)), (3, true));
    assert_eq!(bench.used(), [(0, 4)]);
    assert_ne!(get(&mut transport, 0xfc), generation);
}

#[test]
fn a_field_that_may_be_written_is_written() {
    let (mut transport, ..) = transport_of(Keeper::default());
    transport.write(0x100, &[9]);
    transport.write(0x101, &[8]);
    assert_eq!(get(&mut transport, 0x100), 9);
}
