//! A Guest that pokes everywhere: no access to any device may panic, hang or make it grow.
//!
//! The sequences are pseudo-random from fixed seeds, so that a failure repeats.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::bus::{Bus, Device};
use crate::cmos::Cmos;
use crate::outside::{Clock, InterruptLine, Output, PowerChange, PowerSwitch};
use crate::pci::{self, PciBus, PciRoot};
use crate::pm::{self, Pm};
use crate::reset::KeyboardReset;
use crate::serial::{self, Serial};

/// A world that only counts, so that even it cannot grow.
#[derive(Clone, Default)]
struct World(Arc<AtomicUsize>);

impl InterruptLine for World {
    fn set(&self, _up: bool) {}
}
impl Output for World {
    fn put(&mut self, _byte: u8) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
impl Clock for World {
    fn monotonic(&self) -> u64 {
        self.0.fetch_add(0x1234_5678_9abc_def1, Ordering::Relaxed) as u64
    }
    fn wall(&self) -> u64 {
        // Anything up to the year 30,000: further than that no kernel and no test machine will see.
        self.monotonic() >> 24
    }
}
impl PowerSwitch for World {
    fn ask(&self, _change: PowerChange) {}
}

/// Marsaglia's xorshift.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// First port, how many, and who is there.
type Placed = (u64, u64, Arc<Mutex<dyn Device>>);

fn devices() -> Vec<Placed> {
    let world = World::default;
    vec![
        (0x3f8, serial::REGISTERS, Arc::new(Mutex::new(Serial::new(world(), world())))),
        (0x70, 2, Arc::new(Mutex::new(Cmos::new(world())))),
        (0x600, pm::REGISTERS, Arc::new(Mutex::new(Pm::new(world(), world(), world())))),
        (0x64, 1, Arc::new(Mutex::new(KeyboardReset::new(world())))),
        (0xcf8, pci::REGISTERS, Arc::new(Mutex::new(PciRoot::new(world(), Arc::new(PciBus::new(0..0)))))),
    ]
}

#[test]
fn random_accesses_to_every_device_change_nothing_but_its_registers() {
    for seed in 1..=8 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        for (first, length, device) in devices() {
            let mut bus = Bus::new();
            bus.attach(first..first + length, device).unwrap();
            for _ in 0..50_000 {
                let address = first + random.next() % (length + 2);
                let size = [1, 2, 4, 8][(random.next() % 4) as usize];
                if random.next().is_multiple_of(2) {
                    bus.write(address, size, random.next());
                } else if size < 8 {
                    assert!(bus.read(address, size) < 1 << (size * 8), "{address:#x}, {size} bytes");
                } else {
                    bus.read(address, size);
                }
            }
        }
    }
}

#[test]
fn random_accesses_without_a_bus_do_not_panic_either() {
    let mut random = Random(42);
    for (_, _, device) in devices() {
        let mut device = device.lock().unwrap();
        for _ in 0..50_000 {
            let mut bytes = random.next().to_le_bytes();
            let offset =
                if random.next().is_multiple_of(8) { random.next() >> 1 } else { random.next() % 16 };
            let size = 1 + (random.next() % 8) as usize;
            if random.next().is_multiple_of(2) {
                device.write(offset, &bytes[..size]);
            } else {
                device.read(offset, &mut bytes[..size]);
            }
        }
    }
}
