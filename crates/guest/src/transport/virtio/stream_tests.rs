//! A network, a console and ports of a few lines behind registers, and the drivers of 2007 in front.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use lguest_abi::meeting::Irq;

use super::super::VirtioDevices;
use super::*;
use crate::drivers::console::ConsoleDriver;
use crate::drivers::net::NetDriver;
use crate::drivers::pipe::PipeDriver;
use crate::mock_host::MockHost;
use crate::model::{Driver, Registry};

const MULTIPORT: u32 = 2;
const IRQ: Irq = Irq::new(3).unwrap();

/// A device that gives what goes back at once, and fills what comes from a list of messages for each queue.
struct Fake {
    host: Rc<MockHost>,
    kind: u32,
    offered: u32,
    status: Cell<u8>,
    resets: Cell<u32>,
    parts: RefCell<Vec<[u64; 3]>>,
    taken: RefCell<Vec<u16>>,
    sent: RefCell<Vec<(u16, Vec<u8>)>>,
    coming: RefCell<Vec<VecDeque<Vec<u8>>>>,
    broken: Cell<bool>,
}

impl Fake {
    fn new(host: &Rc<MockHost>, kind: u32, offered: u32) -> Rc<Fake> {
        Rc::new(Fake {
            host: host.clone(),
            kind,
            offered,
            status: Cell::new(0xff),
            resets: Cell::new(0),
            parts: RefCell::new(vec![[0; 3]; 8]),
            taken: RefCell::new(vec![0; 8]),
            sent: RefCell::default(),
            coming: RefCell::new(vec![VecDeque::new(); 8]),
            broken: Cell::new(false),
        })
    }

    fn number(&self, at: u64, bytes: usize) -> u64 {
        self.host.peek(at, bytes).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// Takes what was offered on a queue: odd queues go, even ones come.
    fn serve(&self, queue: u16) {
        let index = usize::from(queue);
        let [table, available, used] = self.parts.borrow()[index];
        while available != 0 && u64::from(self.taken.borrow()[index]) != self.number(available + 2, 2) {
            let message = if queue & 1 == 0 { self.coming.borrow_mut()[index].pop_front() } else { None };
            if queue & 1 == 0 && message.is_none() {
                return;
            }
            let taken = self.taken.borrow()[index];
            let head = self.number(available + 4 + u64::from(taken % 32) * 2, 2);
            let (mut at, mut bytes, mut left) = (head, Vec::new(), message.unwrap_or_default());
            let length = left.len() as u32;
            loop {
                let descriptor = table + at * 16;
                let (address, room) = (self.number(descriptor, 8), self.number(descriptor + 8, 4) as usize);
                if queue & 1 == 0 {
                    let rest = left.split_off(room.min(left.len()));
                    self.host.poke(address, &left);
                    left = rest;
                } else {
                    bytes.extend(self.host.peek(address, room));
                }
                if self.number(descriptor + 12, 2) & 1 == 0 {
                    break;
                }
                at = self.number(descriptor + 14, 2);
            }
            let element = used + 4 + u64::from(taken % 32) * 8;
            self.host.poke(element, &(head as u32).to_le_bytes());
            self.host.poke(element + 4, &length.to_le_bytes());
            self.taken.borrow_mut()[index] = taken + 1;
            self.host.poke(used + 2, &(taken + 1).to_le_bytes());
            if queue & 1 == 1 {
                self.hear(queue, &bytes);
                self.sent.borrow_mut().push((queue, bytes));
            }
        }
    }

    /// Two ports are added to whoever says that it is ready.
    fn hear(&self, queue: u16, bytes: &[u8]) {
        if self.offered & MULTIPORT != 0 && queue == 3 && bytes[4] == 0 {
            let add = |port: u8| vec![port, 0, 0, 0, 1, 0, 0, 0];
            self.coming.borrow_mut()[2].extend([add(1), add(2)]);
            self.serve(2);
        }
    }

    /// Something comes on a queue.
    fn come(&self, queue: u16, bytes: &[u8]) {
        self.coming.borrow_mut()[usize::from(queue)].push_back(bytes.to_vec());
        self.serve(queue);
    }
}

impl Registers for Fake {
    fn kind(&self) -> u32 {
        self.kind
    }
    fn status(&self) -> u8 {
        self.status.get() | if self.broken.get() { NEEDS_RESET } else { 0 }
    }
    fn set_status(&self, status: u8) {
        if status == 0 {
            self.resets.set(self.resets.get() + 1);
            *self.parts.borrow_mut() = vec![[0; 3]; 8];
            *self.taken.borrow_mut() = vec![0; 8];
        }
        self.status.set(status);
    }
    fn offered(&self, word: u32) -> u32 {
        if word == 1 { 1 } else { self.offered }
    }
    fn accept(&self, word: u32, bits: u32) {
        assert_eq!(bits & !self.offered(word), 0, "nothing that was not offered");
    }
    fn queue_limit(&self, queue: u16) -> u16 {
        if queue < 8 { 64 } else { 0 }
    }
    fn start_queue(&self, queue: u16, size: u16, parts: [u64; 3]) {
        assert_eq!(size, 32);
        self.parts.borrow_mut()[usize::from(queue)] = parts;
    }
    fn notify(&self, queue: u16) {
        if !self.broken.get() {
            self.serve(queue);
        }
    }
    fn acknowledge(&self) {}
    fn configuration(&self, at: u64) -> u32 {
        // A network's address, or the number of ports.
        match (self.kind, at) {
            (1, 0) => u32::from_le_bytes([2, 1, 2, 3]),
            (1, 4) => u32::from_le_bytes([4, 5, 1, 0]),
            (3, 4) => 3,
            _ => 0,
        }
    }
}

struct Rig {
    host: Rc<MockHost>,
    fake: Rc<Fake>,
    registry: Registry,
    devices: VirtioDevices,
}

fn rig(kind: u32, offered: u32, driver: impl FnOnce(&Rc<MockHost>) -> Rc<dyn Driver>) -> Rig {
    let (host, registry, mut devices) = (MockHost::new(), Registry::new(), VirtioDevices::default());
    let fake = Fake::new(&host, kind, offered);
    registry.add_bus("virtio-test").unwrap();
    registry.add_driver(driver(&host)).unwrap();
    let name = String::from("test1");
    assert_eq!(devices.add(name, IRQ, fake.clone(), &host.memory(), &registry), Ok(true));
    Rig { host, fake, registry, devices }
}

impl Rig {
    fn interrupt(&self) {
        self.devices.interrupt(IRQ);
        self.registry.interrupt(IRQ);
    }
}

fn console(rig: &mut Option<Rc<ConsoleDriver>>, host: &Rc<MockHost>) -> Rc<dyn Driver> {
    let driver = Rc::new(ConsoleDriver::new(&host.memory()));
    *rig = Some(driver.clone());
    driver
}

#[test]
fn the_console_prints_and_hears_and_its_buffer_is_offered_again() {
    let mut driver = None;
    let rig = rig(3, 0, |host| console(&mut driver, host));
    let console = driver.unwrap().console().expect("it was found");
    assert_eq!(console.put(&[7; 300]), 300);
    let sent = rig.fake.sent.borrow().clone();
    assert_eq!(sent, [(1, vec![7; 256]), (1, vec![7; 44])]);
    for round in 0..100_u8 {
        rig.fake.come(0, &[round; 20]);
        rig.interrupt();
        let mut bytes = [0; 16];
        assert_eq!((console.get(&mut bytes), bytes), (16, [round; 16]));
        assert_eq!((console.get(&mut bytes), console.get(&mut bytes)), (4, 0));
    }
}

#[test]
fn a_console_that_is_broken_keeps_nobody_waiting() {
    let mut driver = None;
    let rig = rig(3, 0, |host| console(&mut driver, host));
    rig.fake.broken.set(true);
    assert_eq!(driver.unwrap().console().unwrap().put(b"lost"), 4);
}

#[test]
fn a_network_has_its_buss_address_and_carries_frames_behind_a_header() {
    let mut networks = None;
    let rig = rig(1, 1 << 5, |host| {
        let driver = Rc::new(NetDriver::new(&host.memory(), 9));
        networks = Some(driver.clone());
        driver
    });
    let net = networks.unwrap().devices().remove(0);
    assert_eq!(net.address().0, [2, 1, 2, 3, 4, 5]);
    net.open().unwrap();
    assert_eq!(net.transmit(&[5; 60]), 1, "the Host takes every frame");
    assert_eq!(*rig.fake.sent.borrow(), [(1, [vec![0; 12], vec![5; 60]].concat())]);
    assert_eq!(net.statistics().tx_packets, 1);
    for round in 0..100_u8 {
        rig.fake.come(0, &[vec![0xee; 12], vec![round; 1514]].concat());
        rig.fake.come(0, &[vec![0xee; 12], vec![round; 14]].concat());
        rig.interrupt();
        assert_eq!(net.receive().unwrap().bytes, [round; 1514]);
        assert_eq!(net.receive().unwrap().bytes, [round; 14]);
        assert!(net.receive().is_none());
    }
}

#[test]
fn a_network_that_is_closed_has_let_go_of_its_buffers_and_opens_again() {
    let mut networks = None;
    let rig = rig(1, 0, |host| {
        let driver = Rc::new(NetDriver::new(&host.memory(), 9));
        networks = Some(driver.clone());
        driver
    });
    let net = networks.unwrap().devices().remove(0);
    assert_eq!(net.address().0, [2, 0, 9, 0, 0, 0], "without an address of the bus's, its own");
    let live = rig.host.live.get();
    net.open().unwrap();
    let resets = rig.fake.resets.get();
    net.close();
    assert_eq!((rig.fake.resets.get(), rig.host.live.get()), (resets + 1, live));
    net.open().unwrap();
    rig.fake.come(0, &[3; 12 + 20]);
    rig.interrupt();
    assert_eq!(net.receive().unwrap().bytes, [3; 20]);
}

#[test]
fn every_named_port_is_a_pipe() {
    let mut pipes = None;
    let rig = rig(3, MULTIPORT, |host| {
        let driver = Rc::new(PipeDriver::new(&host.memory()));
        pipes = Some(driver.clone());
        driver
    });
    let pipes = pipes.unwrap().pipes();
    assert_eq!(pipes.iter().map(|pipe| pipe.name()).collect::<Vec<_>>(), ["test1.1", "test1.2"]);
    let said: Vec<(u8, u8)> = rig.fake.sent.borrow().iter().map(|(_, bytes)| (bytes[0], bytes[4])).collect();
    assert_eq!(said, [(0, 0), (1, 3), (1, 6), (2, 3), (2, 6)], "ready; each port ready and open");
    rig.fake.come(6, b"The driver need not know the bus.");
    rig.interrupt();
    let mut bytes = [0; 100];
    assert_eq!(pipes[1].read(&mut bytes[..10]), Ok(10));
    assert_eq!(pipes[1].read(&mut bytes[10..]), Ok(23));
    assert_eq!(&bytes[..33], b"The driver need not know the bus.");
    assert_eq!((pipes[1].read(&mut bytes), pipes[0].read(&mut bytes)), (Ok(0), Ok(0)));
    assert_eq!(pipes[0].write(b"back"), Ok(4));
    assert_eq!(rig.fake.sent.borrow().last(), Some(&(5, b"back".to_vec())));
}

#[test]
fn a_stream_whose_memory_is_short_is_left_alone_and_takes_none() {
    for (kind, offered) in [(1, 0), (3, 0), (3, MULTIPORT)] {
        let (host, registry, mut devices) = (MockHost::new(), Registry::new(), VirtioDevices::default());
        for allocations in 0..6 {
            host.allocations_left.set(allocations);
            let fake = Fake::new(&host, kind, offered);
            assert_eq!(devices.add("poor".into(), IRQ, fake, &host.memory(), &registry), Ok(false));
            assert_eq!(host.live.get(), 0, "kind {kind}, {allocations} allocations");
        }
        assert!(registry.list().is_empty());
    }
}
