//! A driver with every queue of a console and two named ports, by hand.
//!
//! ```text
//!   q * 1000 + 0 descriptors  + 400 available ring  + 800 used ring      1_0000 .. buffers, 4 KiB for each queue
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::super::life::{Half, Life, QueuePart, status};
use super::super::memory::{DmaMemory, Part, Written, view};
use super::super::rings::Signals;
use super::*;

struct Deaf;

impl Written for Deaf {
    fn wrote(&self, _offset: u64, _length: u64) {}
}

#[derive(Default)]
struct Far {
    room: Option<usize>,
    got: Vec<u8>,
    coming: VecDeque<u8>,
    connected: bool,
    opened: Vec<bool>,
    size: Option<Size>,
}

/// An end, seen from the test.
#[derive(Clone)]
struct Wire(Arc<Mutex<Far>>);

impl Wire {
    fn new() -> Wire {
        let size = Some(Size { columns: 80, rows: 24 });
        Wire(Arc::new(Mutex::new(Far { room: Some(usize::MAX), connected: true, size, ..Far::default() })))
    }

    fn with<R>(&self, change: impl FnOnce(&mut Far) -> R) -> R {
        change(&mut self.0.lock().unwrap())
    }
}

impl End for Wire {
    fn room(&mut self) -> Room {
        self.with(|far| far.room.map_or(Room::Nobody, Room::Bytes))
    }
    fn put(&mut self, bytes: &[u8]) {
        self.with(|far| {
            far.room = far.room.map(|room| room.checked_sub(bytes.len()).expect("never more than it said"));
            far.got.extend(bytes);
        });
    }
    fn take(&mut self, bytes: &mut [u8]) -> usize {
        self.with(|far| {
            let length = far.coming.len().min(bytes.len());
            far.coming.drain(..length).zip(bytes).for_each(|(byte, place)| *place = byte);
            length
        })
    }
    fn is_connected(&mut self) -> bool {
        self.with(|far| far.connected)
    }
    fn opened(&mut self, open: bool) {
        self.with(|far| far.opened.push(open));
    }
    fn size(&mut self) -> Option<Size> {
        self.with(|far| far.size)
    }
}

const BUFFERS: u64 = 0x1_0000;
const MULTIPORT: u64 = feature::MULTIPORT;

struct Driver {
    life: Life,
    memory: Arc<DmaMemory>,
    offered: [u16; 8],
    seen: [u16; 8],
}

impl Driver {
    fn start(device: VirtioConsole, features: u64) -> Driver {
        let file = tempfile::tempfile().unwrap();
        let length = BUFFERS + 8 * 0x1000;
        file.set_len(length).unwrap();
        let hears: Arc<dyn Written> = Arc::new(Deaf);
        let memory = Arc::new(view(&file, &[Part { guest: 0, offset: 0, length }], &hears).unwrap());
        let life = Life::new(Box::new(device), memory.clone());
        let mut driver = Driver { life, memory, offered: [0; 8], seen: [0; 8] };
        driver.ready(features);
        driver
    }

    fn ready(&mut self, features: u64) {
        let life = &mut self.life;
        life.set_status(0);
        (self.offered, self.seen) = ([0; 8], [0; 8]);
        self.memory.write_slice(&vec![0; BUFFERS as usize], GuestAddress(0)).unwrap();
        life.set_status(status::ACKNOWLEDGE | status::DRIVER);
        life.accept(0, (features & life.offered() & !super::super::feature::EVENT_INDEX) as u32);
        life.accept(1, 1);
        life.set_status(life.status() | status::FEATURES_OK);
        for queue in 0..8 {
            let parts = [(QueuePart::Descriptors, 0), (QueuePart::Driver, 0x400), (QueuePart::Device, 0x800)];
            for (part, at) in parts {
                life.set_queue_address(QueueIndex(queue), part, Half::Low(u32::from(queue) * 0x1000 + at));
            }
            life.set_queue_ready(QueueIndex(queue), true);
        }
        life.set_status(life.status() | status::DRIVER_OK);
    }

    /// Offers `length` bytes of a queue's buffer from `at` on, as descriptor `slot`, and notifies.
    fn offer(&mut self, queue: u16, slot: u16, (at, length): (u64, u32), writable: bool) -> Signals {
        let base = u64::from(queue) * 0x1000;
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&(BUFFERS + base + at).to_le_bytes());
        descriptor[8..12].copy_from_slice(&length.to_le_bytes());
        descriptor[12] = if writable { 2 } else { 0 };
        self.write(base + u64::from(slot) * 16, &descriptor);
        let offered = &mut self.offered[usize::from(queue)];
        let place = base + 0x404 + u64::from(*offered % QUEUE_SIZE) * 2;
        *offered += 1;
        let index = *offered;
        self.write(place, &slot.to_le_bytes());
        self.write(base + 0x402, &index.to_le_bytes());
        self.life.notify(QueueIndex(queue))
    }

    /// Sends bytes on a queue.
    fn send(&mut self, queue: u16, slot: u16, bytes: &[u8]) -> Signals {
        let at = u64::from(slot) * 64;
        self.write(BUFFERS + u64::from(queue) * 0x1000 + at, bytes);
        self.offer(queue, slot, (at, bytes.len() as u32), false)
    }

    fn control(&mut self, slot: u16, port: u32, event: u16, value: u16) {
        let mut message = port.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        self.send(3, slot, &message);
    }

    /// Room for eight messages or pieces of 64 bytes.
    fn give_room(&mut self, queue: u16) {
        for slot in 0..8 {
            self.offer(queue, slot, (u64::from(slot) * 64, 64), true);
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// What came back on a queue since this was asked last: the bytes in each chain.
    fn came(&mut self, queue: u16) -> Vec<Vec<u8>> {
        let base = u64::from(queue) * 0x1000;
        let word = |at: u64| u32::from_le_bytes(self.bytes(at, 4).try_into().unwrap());
        let (index, mut came) = ((word(base + 0x800) >> 16) as u16, Vec::new());
        for number in self.seen[usize::from(queue)]..index {
            let at = base + 0x804 + u64::from(number % QUEUE_SIZE) * 8;
            let (slot, length) = (word(at), word(at + 4));
            came.push(self.bytes(BUFFERS + base + u64::from(slot) * 64, length as usize));
        }
        self.seen[usize::from(queue)] = index;
        came
    }
}

fn with_two_ports(console: &Wire, ports: [&Wire; 2]) -> VirtioConsole {
    let named = ["one", "two"].into_iter().zip(ports);
    let named = named.map(|(name, end)| (name.to_owned(), Box::new(end.clone()) as Box<dyn End>)).collect();
    VirtioConsole::with_ports(Some(Box::new(console.clone())), named)
}

/// A driver that knows all three ports and has not opened the named ones.
fn greeted(console: &Wire, ports: [&Wire; 2]) -> Driver {
    let mut driver = Driver::start(with_two_ports(console, ports), u64::MAX);
    driver.give_room(2);
    driver.control(0, 0, event::DEVICE_READY, 1);
    for port in 0..3 {
        driver.control(1 + port, port.into(), event::PORT_READY, 1);
    }
    driver
}

#[test]
fn a_console_alone_carries_bytes_both_ways_without_a_word_of_control() {
    let wire = Wire::new();
    let mut driver = Driver::start(VirtioConsole::console(Box::new(wire.clone())), u64::MAX);
    assert_eq!(driver.life.offered() & MULTIPORT, 0);
    driver.send(1, 0, b"hello ");
    driver.send(1, 1, b"world");
    assert_eq!(wire.with(|far| far.got.clone()), b"hello world");
    driver.give_room(0);
    wire.with(|far| far.coming.extend(b"typed"));
    assert!(driver.life.wake().used.contains(QueueIndex(0)));
    assert_eq!(driver.came(0), [b"typed"]);
}

#[test]
fn more_bytes_than_a_buffer_holds_fill_several_and_wait_for_more() {
    let wire = Wire::new();
    let mut driver = Driver::start(VirtioConsole::console(Box::new(wire.clone())), 0);
    let long: Vec<u8> = (0..8 * 64 + 10).map(|at| at as u8).collect();
    wire.with(|far| far.coming.extend(&long));
    driver.give_room(0);
    assert_eq!(driver.came(0).concat(), long[..8 * 64]);
    driver.offer(0, 0, (0, 64), true);
    assert_eq!(driver.came(0), [&long[8 * 64..]]);
}

#[test]
fn what_the_end_has_no_room_for_stays_with_the_driver() {
    let wire = Wire::new();
    wire.with(|far| far.room = Some(3));
    let mut driver = Driver::start(VirtioConsole::console(Box::new(wire.clone())), 0);
    driver.send(1, 0, b"hello");
    driver.send(1, 1, b"!");
    assert_eq!((driver.came(1).len(), wire.with(|far| far.got.clone())), (0, b"hel".to_vec()));
    wire.with(|far| far.room = Some(100));
    driver.life.wake();
    assert_eq!((driver.came(1).len(), wire.with(|far| far.got.clone())), (2, b"hello!".to_vec()));
}

#[test]
fn bytes_that_nobody_reads_are_given_back() {
    let wire = Wire::new();
    wire.with(|far| far.room = None);
    let mut driver = Driver::start(VirtioConsole::console(Box::new(wire.clone())), 0);
    driver.send(1, 0, b"hello");
    assert_eq!((driver.came(1).len(), wire.with(|far| far.got.len())), (1, 0));
}

#[test]
fn a_new_size_is_in_the_configuration_and_told_once() {
    let wire = Wire::new();
    let mut driver = Driver::start(VirtioConsole::console(Box::new(wire.clone())), u64::MAX);
    assert_eq!(driver.life.configuration(), [80, 0, 24, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    wire.with(|far| far.size = Some(Size { columns: 300, rows: 50 }));
    assert!(driver.life.wake().changed);
    assert_eq!(driver.life.configuration()[..4], [44, 1, 50, 0]);
    assert!(!driver.life.wake().changed);
}

#[test]
fn the_first_output_of_a_driver_tells_it_to_look_at_the_size() {
    let wire = Wire::new();
    let mut driver = Driver::start(VirtioConsole::console(Box::new(wire.clone())), u64::MAX);
    assert!(driver.send(1, 0, b"a").changed);
    assert!(!driver.send(1, 1, b"b").changed);
    wire.with(|far| far.size = None);
    let mut driver = Driver::start(VirtioConsole::console(Box::new(wire)), u64::MAX);
    assert_eq!(driver.life.offered() & feature::SIZE, 0, "no terminal, no size");
    assert!(!driver.send(1, 0, b"a").changed);
}

#[test]
fn a_byte_for_emergencies_needs_no_queue_and_no_driver() {
    let wire = Wire::new();
    let mut life = Driver::start(VirtioConsole::console(Box::new(wire.clone())), 0).life;
    life.set_status(0);
    life.write_configuration(EMERGENCY, &u32::from(b'!').to_le_bytes());
    life.write_configuration(0, b"????");
    wire.with(|far| far.room = Some(0));
    life.write_configuration(EMERGENCY, b"?");
    assert_eq!(wire.with(|far| far.got.clone()), b"!");
}

#[test]
fn ports_are_told_by_number_kind_size_and_name() {
    let (console, one, two) = (Wire::new(), Wire::new(), Wire::new());
    two.with(|far| far.connected = false);
    let mut driver = greeted(&console, [&one, &two]);
    let header = |port: u8, event: u16, value: u8| vec![port, 0, 0, 0, event as u8, 0, value, 0];
    let expected = [
        header(0, event::PORT_ADD, 0),
        header(1, event::PORT_ADD, 0),
        header(2, event::PORT_ADD, 0),
        header(0, event::CONSOLE_PORT, 1),
        [header(0, event::RESIZE, 0), vec![80, 0, 24, 0]].concat(),
        header(0, event::PORT_OPEN, 1),
        [header(1, event::PORT_NAME, 1), b"one".to_vec()].concat(),
        header(1, event::PORT_OPEN, 1),
    ];
    assert_eq!(driver.came(2), expected);
    // There was room for eight messages; the ninth comes with more.
    driver.offer(2, 0, (0, 64), true);
    assert_eq!(driver.came(2), [[header(2, event::PORT_NAME, 1), b"two".to_vec()].concat()]);
    two.with(|far| far.connected = true);
    driver.offer(2, 0, (0, 64), true);
    assert_eq!(driver.came(2), [header(2, event::PORT_OPEN, 1)]);
}

#[test]
fn a_named_port_carries_bytes_while_a_program_has_it_open() {
    let (console, one, two) = (Wire::new(), Wire::new(), Wire::new());
    let mut driver = greeted(&console, [&one, &two]);
    driver.give_room(6);
    two.with(|far| far.coming.extend(b"early"));
    driver.life.wake();
    assert_eq!(driver.came(6).len(), 0, "nobody in the Guest would get it");
    driver.control(5, 2, event::PORT_OPEN, 1);
    assert_eq!(driver.came(6), [b"early"]);
    driver.send(7, 0, b"back");
    assert_eq!(two.with(|far| (far.got.clone(), far.opened.clone())), (b"back".to_vec(), vec![true]));
    assert_eq!((one.with(|far| far.got.len()), console.with(|far| far.got.len())), (0, 0));
    driver.control(6, 2, event::PORT_OPEN, 0);
    assert_eq!(two.with(|far| far.opened.clone()), [true, false]);
}

#[test]
fn messages_without_end_get_one_answer_each_and_nonsense_none() {
    let (console, one, two) = (Wire::new(), Wire::new(), Wire::new());
    let mut driver = Driver::start(with_two_ports(&console, [&one, &two]), u64::MAX);
    for round in 0..1000 {
        driver.control(round % 8, 1, event::PORT_READY, 1);
        driver.control(round % 8, u32::MAX, event::PORT_READY, 1);
        driver.control(round % 8, 1, 999, 1);
        driver.send(3, round % 8, b"short");
    }
    driver.give_room(2);
    assert_eq!(driver.came(2).len(), 2, "its name, and that it is open");
    assert_eq!(driver.life.broken(), None);
}

#[test]
fn a_driver_without_multiport_has_the_console_alone() {
    let (console, one, two) = (Wire::new(), Wire::new(), Wire::new());
    let mut driver = Driver::start(with_two_ports(&console, [&one, &two]), 0);
    driver.send(1, 0, b"text");
    driver.send(5, 0, b"lost");
    driver.control(0, 0, event::DEVICE_READY, 1);
    driver.give_room(2);
    assert_eq!((driver.came(2).len(), one.with(|far| far.got.len())), (0, 0));
    assert_eq!(console.with(|far| far.got.clone()), b"text");
}

#[test]
fn ports_without_a_console_drop_what_is_said_to_it() {
    let one = Wire::new();
    let named = vec![("one".to_owned(), Box::new(one.clone()) as Box<dyn End>)];
    let mut driver = Driver::start(VirtioConsole::with_ports(None, named), u64::MAX);
    driver.send(1, 0, b"text");
    assert_eq!(driver.came(1).len(), 1);
    driver.give_room(2);
    driver.control(0, 0, event::DEVICE_READY, 1);
    assert_eq!(driver.came(2), [[1, 0, 0, 0, 1, 0, 0, 0]], "one port, and it is the second");
}

#[test]
fn a_reset_closes_ports_and_forgets_chains() {
    let (console, one, two) = (Wire::new(), Wire::new(), Wire::new());
    let mut driver = greeted(&console, [&one, &two]);
    driver.control(4, 1, event::PORT_OPEN, 1);
    one.with(|far| far.room = Some(1));
    driver.give_room(4);
    driver.send(5, 0, b"half");
    driver.ready(u64::MAX);
    one.with(|far| (far.room, far.coming) = (Some(100), b"late".iter().copied().collect()));
    driver.life.wake();
    assert_eq!(one.with(|far| (far.got.clone(), far.opened.clone())), (b"h".to_vec(), vec![true, false]));
    assert!(driver.came(4).is_empty());
}

#[test]
fn room_without_room_needs_a_reset() {
    let wire = Wire::new();
    let mut driver = Driver::start(VirtioConsole::console(Box::new(wire)), 0);
    driver.offer(0, 0, (0, 0), true);
    assert_eq!(driver.life.broken(), Some(Broken::NoRoom));
}
