//! A disk of a few lines behind registers of a few more, and the driver of 2007 in front.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use lguest_abi::meeting::Irq;

use super::super::VirtioDevices;
use super::*;
use crate::drivers::block::{BlockDriver, Disk, Request, State, Wish};
use crate::mock_host::MockHost;
use crate::model::Registry;

const SECTOR: usize = 512;

/// Registers, and a disk that answers each notification at once or when it is told to.
struct FakeDisk {
    host: Rc<MockHost>,
    version_1: bool,
    status: Cell<u8>,
    parts: Cell<[u64; 3]>,
    served: Cell<u16>,
    answer: Cell<u8>,
    image: RefCell<Vec<u8>>,
}

impl FakeDisk {
    fn new(host: &Rc<MockHost>, version_1: bool) -> Rc<FakeDisk> {
        Rc::new(FakeDisk {
            host: host.clone(),
            version_1,
            status: Cell::new(0xff),
            parts: Cell::default(),
            served: Cell::new(0),
            answer: Cell::new(0),
            image: RefCell::new(vec![0; 8 * SECTOR]),
        })
    }

    fn number(&self, at: u64, bytes: usize) -> u64 {
        self.host.peek(at, bytes).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// Descriptors of the chain at 0: address, length, whether the device writes.
    fn chain(&self) -> Vec<(u64, usize, bool)> {
        let [table, ..] = self.parts.get();
        let mut chain = Vec::new();
        for at in (table..).step_by(16) {
            let flags = self.number(at + 12, 2);
            chain.push((self.number(at, 8), self.number(at + 8, 4) as usize, flags & 2 != 0));
            if flags & 1 == 0 {
                return chain;
            }
        }
        chain
    }

    fn serve(&self) {
        let chain = self.chain();
        let (header, last) = (chain[0].0, chain[chain.len() - 1]);
        assert_eq!((chain[0].1, chain[0].2, last.1, last.2), (16, false, 1, true));
        let (writes, mut at) = (self.number(header, 4) == 1, self.number(header + 8, 8) as usize * SECTOR);
        let mut image = self.image.borrow_mut();
        for (address, length, writable) in &chain[1..chain.len() - 1] {
            assert_eq!(*writable, !writes);
            if writes {
                image[at..at + length].copy_from_slice(&self.host.peek(*address, *length));
            } else {
                self.host.poke(*address, &image[at..at + length]);
            }
            at += length;
        }
        self.host.poke(last.0, &[self.answer.get()]);
        self.served.set(self.served.get() + 1);
        self.host.poke(self.parts.get()[2] + 2, &self.served.get().to_le_bytes());
    }
}

impl Registers for FakeDisk {
    fn kind(&self) -> u32 {
        2
    }
    fn status(&self) -> u8 {
        self.status.get()
    }
    fn set_status(&self, status: u8) {
        self.status.set(status);
    }
    fn offered(&self, word: u32) -> u32 {
        u32::from(word == 1 && self.version_1)
    }
    fn accept(&self, word: u32, bits: u32) {
        assert_eq!(bits, word, "version 1 and nothing else");
    }
    fn queue_limit(&self, queue: u16) -> u16 {
        if queue == 0 { 128 } else { 0 }
    }
    fn start_queue(&self, _queue: u16, size: u16, parts: [u64; 3]) {
        assert_eq!(size, 32);
        self.parts.set(parts);
    }
    fn notify(&self, _queue: u16) {
        self.serve();
    }
    fn acknowledge(&self) {}
    fn configuration(&self, at: u64) -> u32 {
        if at == 0 { 8 } else { 0 }
    }
}

struct Rig {
    host: Rc<MockHost>,
    fake: Rc<FakeDisk>,
    registry: Registry,
    devices: VirtioDevices,
    disk: Rc<Disk>,
}

const IRQ: Irq = Irq::new(3).unwrap();

fn rig() -> Rig {
    let (host, registry, mut devices) = (MockHost::new(), Registry::new(), VirtioDevices::default());
    let fake = FakeDisk::new(&host, true);
    registry.add_bus("virtio-test").unwrap();
    let driver = Rc::new(BlockDriver::new());
    registry.add_driver(driver.clone()).unwrap();
    let name = String::from("test1");
    assert_eq!(devices.add(name, IRQ, fake.clone(), &host.memory(), &registry), Ok(true));
    let disk = driver.disks().remove(0);
    Rig { host, fake, registry, devices, disk }
}

impl Rig {
    fn carry_out(&self, wish: Wish, sector: u32, address: u64, bytes: usize) -> State {
        let request = Request::new(wish, sector, address, bytes).unwrap();
        self.disk.submit(&request).unwrap();
        assert_eq!(request.state(), State::Waiting, "nothing is over before its interrupt");
        self.devices.interrupt(IRQ);
        self.registry.interrupt(IRQ);
        request.state()
    }
}

#[test]
fn a_page_becomes_a_request_and_its_status_a_result() {
    let rig = rig();
    assert_eq!((rig.disk.sectors(), rig.fake.status.get()), (8, 0xf));
    let memory = rig.host.memory();
    let bytes = memory.allocate(3 * SECTOR).unwrap();
    memory.write(bytes, &[7; 3 * SECTOR]);
    assert_eq!(rig.carry_out(Wish::Write, 2, bytes, 3 * SECTOR), State::Done);
    assert!(rig.fake.image.borrow()[2 * SECTOR..5 * SECTOR].iter().all(|byte| *byte == 7));
    let back = memory.allocate(2 * SECTOR).unwrap();
    assert_eq!(rig.carry_out(Wish::Read, 4, back, 2 * SECTOR), State::Done);
    assert_eq!(rig.host.peek(back, 2 * SECTOR), [[7; SECTOR], [0; SECTOR]].concat());
}

#[test]
fn an_error_of_the_disk_is_the_requests_and_the_next_one_goes_on() {
    let rig = rig();
    let bytes = rig.host.memory().allocate(SECTOR).unwrap();
    rig.fake.answer.set(1);
    assert_eq!(rig.carry_out(Wish::Read, 0, bytes, SECTOR), State::Failed);
    rig.fake.answer.set(0);
    for _ in 0..100 {
        assert_eq!(rig.carry_out(Wish::Read, 0, bytes, SECTOR), State::Done);
    }
}

#[test]
fn an_interrupt_without_a_reason_ends_nothing() {
    let rig = rig();
    let bytes = rig.host.memory().allocate(SECTOR).unwrap();
    let request = Request::new(Wish::Read, 0, bytes, SECTOR).unwrap();
    rig.fake.served.set(u16::MAX - 1);
    rig.disk.submit(&request).unwrap();
    // The used ring's index is not what was offered: a device that lies, or is not done.
    rig.devices.interrupt(IRQ);
    assert_eq!((rig.registry.interrupt(IRQ), request.state()), (0, State::Waiting));
}

#[test]
fn a_device_that_cannot_be_used_is_left_alone_and_takes_no_memory() {
    let (host, registry, mut devices) = (MockHost::new(), Registry::new(), VirtioDevices::default());
    let before = host.live.get();
    let old = FakeDisk::new(&host, false);
    assert_eq!(devices.add("old".into(), IRQ, old, &host.memory(), &registry), Ok(false));
    for allocations in 0..6 {
        host.allocations_left.set(allocations);
        let disk = FakeDisk::new(&host, true);
        assert_eq!(devices.add("poor".into(), IRQ, disk, &host.memory(), &registry), Ok(false));
        assert_eq!(host.live.get(), before, "{allocations} allocations");
    }
    assert!(registry.list().is_empty());
}
