//! The same devices on the lguest page: a driver made of bytes writes descriptors, rings and statuses, and notifies anything.
//!
//! ```text
//!   a tag and its operands, again and again:
//!   0 bytes into memory   1 kick the ring   2 wake      3 status, and the word about it   4 notify any value
//!   5 a byte of the page  6 accept features 7 a chain, made properly and offered
//! ```
//! A Guest that was killed may go on doing things; nothing of it may harm. A reset of one that lives must heal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lguest_devices::virtio::VirtioDevice;
use lguest_devices::virtio::memory::DmaMemory;
use lguest_devices::virtio::page::{DevicePage, Guest, Irq, NotCarried, Notified};
use vm_memory::{Bytes, GuestAddress};

use super::{Input, MOST_STEPS, descriptor, device, memory};

/// Where the page lies; rings behind it, data before.
const BASE: u64 = 0x8000;
/// Of the first descriptor: its status, its queue's entry. Behind that entry are the bitmaps.
const STATUS: u64 = BASE + 4;
const QUEUE: u64 = BASE + 5;
const FEATURES: u64 = QUEUE + 8;
/// The most text that one notify prints.
const MOST_TEXT: usize = 256;

/// Whether the Guest was killed.
#[derive(Default)]
struct Judge(AtomicBool);

impl Guest for Judge {
    fn interrupt(&self, irq: Irq) {
        assert_ne!(irq.number(), 0, "the timer is nobody's");
    }
    fn kill(&self, reason: String) {
        assert!(!reason.is_empty());
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Carries the rest of an input out.
pub fn drive(which: u8, input: &mut Input<'_>) {
    let (memory, judge) = (memory(), Arc::new(Judge::default()));
    let devices: Vec<Box<dyn VirtioDevice>> = vec![device(which)];
    let page = match DevicePage::new(devices, memory.clone(), BASE, judge.clone()) {
        Ok(page) => page,
        Err(NotCarried::Kind(_)) => return,
        Err(other) => panic!("{other}"),
    };
    let (_, _, ring) = page.rings().next().expect("a ring");
    let num = memory.read_obj(GuestAddress(QUEUE)).expect("it is memory");
    let mut driver = Driver { memory, page, ring, num, offered: 0 };
    driver.tell(0);
    driver.tell(3);
    for _ in 0..MOST_STEPS {
        if driver.step(input).is_none() {
            break;
        }
    }
    if !judge.0.load(Ordering::Relaxed) && driver.tell(0) == Notified::Status {
        driver.tell(3);
        assert_eq!(driver.page.notify(ring), Notified::Queue, "a reset heals");
    }
}

struct Driver {
    memory: Arc<DmaMemory>,
    page: DevicePage,
    ring: u64,
    num: u16,
    offered: u16,
}

impl Driver {
    fn put(&self, at: u64, bytes: &[u8]) {
        // Past the end of memory there is nothing to write to.
        let _ = self.memory.write_slice(bytes, GuestAddress(at));
    }

    fn tell(&mut self, status: u8) -> Notified {
        if status == 0 {
            self.offered = 0;
        }
        self.put(STATUS, &[status]);
        self.page.notify(BASE)
    }

    /// One step; none at the input's end.
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? & 7 {
            0 => {
                let (address, length) = (input.word()?, input.byte()?);
                let bytes = input.bytes(length.into());
                self.put(address.into(), &bytes);
            }
            1 => drop(self.page.notify(self.ring)),
            2 => self.page.waker(0)?.wake(),
            3 => {
                let status = input.byte()?;
                self.tell(status);
            }
            4 => {
                let value = u64::from(input.word()?) << (input.byte()? % 48);
                if let Notified::Text(text) = self.page.notify(value) {
                    assert!(text.len() <= MOST_TEXT && !text.contains(&0));
                }
            }
            5 => {
                let (at, byte) = (input.byte()?, input.byte()?);
                self.put(BASE + u64::from(at), &[byte]);
            }
            6 => {
                let bits = input.bytes(4);
                self.put(FEATURES + 2, &bits);
            }
            _ => self.offer(input)?,
        }
        Some(())
    }

    /// A chain of up to four buffers, made available.
    fn offer(&mut self, input: &mut Input<'_>) -> Option<()> {
        let count = u16::from(input.byte()?) % 4 + 1;
        for index in 0..count {
            let descriptor = descriptor(input, index + 1 < count, index + 1)?;
            self.put(self.ring + u64::from(index) * 16, &descriptor);
        }
        // Descriptors, then the ring that the driver writes (virtio 1.2, 2.7.2).
        let available = self.ring + 16 * u64::from(self.num);
        self.put(available + 4 + u64::from(self.offered % self.num) * 2, &[0, 0]);
        self.offered = self.offered.wrapping_add(1);
        self.put(available + 2, &self.offered.to_le_bytes());
        self.page.notify(self.ring);
        Some(())
    }
}
