//! A driver made of bytes: each input is a device and a list of things that a driver, or the outside, does to it.
//!
//! ```text
//!   byte 0   which device; with bit 7 on the lguest page (`page`), with bit 5 behind a transport's registers (`registers`)
//!            with bit 6, events are awaited by index (EVENT_IDX)
//!   then     a tag and its operands, again and again:
//!            0 bytes into memory   1 notify    2 wake      3 status      4 a queue in or out of use
//!            5 a queue's address   6 config    7 a chain, made properly and offered
//! ```
//! Without inputs that begin properly nothing would get past the status byte, so every device starts with queues in use.

#[path = "page.rs"]
mod page;
#[path = "registers.rs"]
mod registers;

use std::ops::Range;
use std::sync::{Arc, Mutex};

use lguest_devices::frame::{Abilities, Frame};
use lguest_devices::lguest::block::DiskError;
use lguest_devices::virtio::balloon::{Pages, VirtioBalloon};
use lguest_devices::virtio::block::VirtioBlock;
use lguest_devices::virtio::block::storage::{Alone, Storage};
use lguest_devices::virtio::console::{End, Room, Size, VirtioConsole};
use lguest_devices::virtio::fs::{FuseServer, Served, Ticket, VirtioFs};
use lguest_devices::virtio::life::{Half, Life, QueuePart, status};
use lguest_devices::virtio::memory::{DmaMemory, Part, Written, view};
use lguest_devices::virtio::net::{VirtioNet, Wire};
use lguest_devices::virtio::rng::{Entropy, VirtioRng};
use lguest_devices::virtio::vsock::{Received, Stream, Streams, VirtioVsock};
use lguest_devices::virtio::{QueueIndex, VirtioDevice, feature};
use vm_memory::{Bytes, GuestAddress};

/// Bytes of the Guest's memory: a queue's three parts in each of the first pages, data behind.
const MEMORY: u64 = 1 << 16;
/// Queues that are set up; no device here has more.
const QUEUES: u16 = 8;
/// In byte 0: the driver takes EVENT_IDX.
const BY_INDEX: u8 = 0x40;
/// Steps of an input at most; what is behind them adds nothing new.
pub const MOST_STEPS: usize = 256;

/// Bits of the first byte.
const ON_THE_PAGE: u8 = 0x80;
const ON_REGISTERS: u8 = 0x20;

struct Deaf;

impl Written for Deaf {
    fn wrote(&self, _offset: u64, _length: u64) {}
}

/// The outside of every device: what it is asked for it gives.
struct Outside(Mutex<Vec<u8>>);

impl Storage for Outside {
    fn length(&self) -> u64 {
        1 << 15
    }
    fn is_writable(&self) -> bool {
        true
    }
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        bytes.copy_from_slice(&self.0.lock().unwrap()[offset as usize..][..bytes.len()]);
        Ok(())
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.0.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }
    fn discard(&self, range: Range<u64>) -> Result<(), DiskError> {
        self.zero(range, true)
    }
    fn zero(&self, range: Range<u64>, _unmap: bool) -> Result<(), DiskError> {
        self.0.lock().unwrap()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }
}

/// Entropy, pages and streams that are there and nothing more.
struct Simple(u64);

impl Entropy for Simple {
    fn fill(&mut self, bytes: &mut [u8]) -> usize {
        bytes.fill(7);
        bytes.len()
    }
}

impl Pages for Simple {
    fn give_back(&mut self, address: u64, length: u64) {
        assert!(address.is_multiple_of(4096) && length.is_multiple_of(4096) && length > 0, "whole pages");
    }
}

impl Streams for Simple {
    fn connect(&mut self, port: u32) -> Option<Stream> {
        self.0 += 1;
        port.is_multiple_of(2).then_some(Stream(self.0))
    }
    fn answered(&mut self, _stream: Stream) -> Option<bool> {
        // Some calls are answered at once, some later, some never.
        self.0 += 1;
        [Some(true), None, Some(false)].into_iter().cycle().nth(self.0 as usize % 3).flatten()
    }
    fn arrived(&mut self) -> Option<(Stream, u32)> {
        self.0 += 1;
        self.0.is_multiple_of(3).then_some((Stream(self.0), 1))
    }
    fn granted(&mut self, _stream: Stream, _port: u32) {}
    fn send(&mut self, _stream: Stream, bytes: &[u8]) -> Option<usize> {
        self.0 += 1;
        [Some(bytes.len()), Some(bytes.len() / 2), Some(0), None][self.0 as usize % 4]
    }
    fn receive(&mut self, _stream: Stream, bytes: &mut [u8]) -> Received {
        self.0 += 1;
        let more = [Received::Nothing, Received::End, Received::Gone, Received::Bytes(bytes.len())];
        more[self.0 as usize % 4]
    }
    fn end(&mut self, _stream: Stream) {}
    fn close(&mut self, _stream: Stream) {}
}

/// A wire that has frames of any length, also large ones whose sum is left to the driver, and now and then no room.
impl Wire for Simple {
    fn abilities(&self) -> Abilities {
        Abilities { unfinished: true, large: true }
    }
    fn start(&mut self, driver: Abilities) {
        assert!(driver.unfinished || !driver.large, "large frames only with the former");
    }
    fn stop(&mut self) {}
    fn carrier(&self) -> Option<bool> {
        Some(self.0.is_multiple_of(5))
    }
    fn has_room(&mut self) -> bool {
        self.0 += 1;
        !self.0.is_multiple_of(4)
    }
    fn put(&mut self, mut frame: Frame) {
        // Whoever has no wire of this kind makes its sum himself, wherever the driver said that it belongs.
        frame.finish();
    }
    fn take(&mut self) -> Option<Frame> {
        self.0 += 1;
        let length = [60, 0, 1514, 65_000, 14][self.0 as usize % 5];
        (!self.0.is_multiple_of(3)).then(|| Frame::whole(vec![self.0 as u8; length]))
    }
}

/// A server that answers at once, later or not at all, in no more than the room that there is.
#[derive(Default)]
struct Server {
    tickets: u64,
    later: Vec<Ticket>,
}

impl FuseServer for Server {
    fn serve(&mut self, request: &[u8], room: usize, may_wait: bool, answer: &mut Vec<u8>) -> Served {
        answer.clear();
        self.tickets += 1;
        if may_wait && self.tickets.is_multiple_of(3) {
            self.later.push(Ticket(self.tickets));
            return Served::Later(Ticket(self.tickets));
        }
        answer.extend(request.iter().rev().take(room));
        Served::Answered
    }
    fn done(&mut self) -> Option<(Ticket, Vec<u8>)> {
        // The newest first, and some that the device has forgotten.
        Some((self.later.pop()?, vec![5; 16]))
    }
    fn reset(&mut self) {}
}

/// An end that takes what it said and no byte more, comes and goes, and grows.
impl End for Simple {
    fn room(&mut self) -> Room {
        self.0 += 1;
        [Room::Bytes(0), Room::Bytes(3), Room::Nobody, Room::Bytes(5000)][self.0 as usize % 4]
    }
    fn put(&mut self, bytes: &[u8]) {
        let room = [0, 3, 0, 5000][self.0 as usize % 4];
        assert!(bytes.len() <= room, "{} bytes for a room of {room}", bytes.len());
    }
    fn take(&mut self, bytes: &mut [u8]) -> usize {
        self.0 += 1;
        if self.0.is_multiple_of(3) { 0 } else { bytes.len() }
    }
    fn is_connected(&mut self) -> bool {
        self.0.is_multiple_of(2)
    }
    fn size(&mut self) -> Option<Size> {
        Some(Size { columns: self.0 as u16, rows: 24 })
    }
}

/// The input, taken from its beginning.
pub struct Input<'a>(&'a [u8]);

impl Input<'_> {
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn word(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

/// Carries an input out. Panics when a device does, or when a reset does not heal.
pub fn drive(input: &[u8]) {
    let mut input = Input(input);
    let Some(which) = input.byte() else { return };
    if which & ON_THE_PAGE != 0 {
        return page::drive(which, &mut input);
    }
    let mut driver = Driver {
        memory: memory(),
        offered: [0; QUEUES as usize],
        life: None,
        by_index: which & BY_INDEX != 0,
    };
    driver.life = Some(Life::new(device(which), driver.memory.clone()));
    driver.start();
    if which & ON_REGISTERS != 0 {
        return registers::drive(driver, &mut input);
    }
    for _ in 0..MOST_STEPS {
        if driver.step(&mut input).is_none() {
            break;
        }
    }
    let life = driver.life();
    life.set_status(0);
    assert_eq!((life.status(), life.broken()), (0, None), "a reset heals");
    driver.start();
    assert_ne!(driver.life().status() & status::DRIVER_OK, 0, "and the device works again");
}

/// A Guest's memory.
pub fn memory() -> Arc<DmaMemory> {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(MEMORY).expect("of this length");
    let hears: Arc<dyn Written> = Arc::new(Deaf);
    Arc::new(view(&file, &[Part { guest: 0, offset: 0, length: MEMORY }], &hears).expect("a mapping"))
}

/// The device of that number.
pub fn device(which: u8) -> Box<dyn VirtioDevice> {
    match (which & !(ON_THE_PAGE | ON_REGISTERS | BY_INDEX)) % 7 {
        0 => {
            let storage: Arc<dyn Storage> = Arc::new(Outside(Mutex::new(vec![0; 1 << 15])));
            Box::new(VirtioBlock::new(&storage, "fuzz", 2, Alone::new(storage.clone())))
        }
        1 => Box::new(VirtioRng::new(Simple(0))),
        2 => Box::new(VirtioBalloon::new(Simple(0))),
        3 => Box::new(VirtioVsock::new(Simple(0))),
        5 => Box::new(VirtioNet::new(Simple(0), [2, 0, 0, 0, 0, 1])),
        6 => Box::new(VirtioFs::new("fuzz", Server::default())),
        _ => {
            let named =
                [1, 2].map(|number| (format!("port{number}"), Box::new(Simple(number)) as Box<dyn End>));
            Box::new(VirtioConsole::with_ports(Some(Box::new(Simple(0))), named.into()))
        }
    }
}

struct Driver {
    memory: Arc<DmaMemory>,
    offered: [u16; QUEUES as usize],
    life: Option<Life>,
    by_index: bool,
}

impl Driver {
    fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("it is there from the beginning")
    }

    /// By the book (3.1.1), each queue in three pages of its own.
    fn start(&mut self) {
        self.offered = [0; QUEUES as usize];
        for page in 0..u64::from(QUEUES) * 3 {
            self.memory.write_obj(0u64, GuestAddress(page * 0x400)).expect("it is memory");
        }
        let by_index = self.by_index;
        let life = self.life();
        life.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let features = life.offered() & if by_index { u64::MAX } else { !feature::EVENT_INDEX };
        life.accept(0, features as u32);
        life.accept(1, (features >> 32) as u32);
        life.set_status(life.status() | status::FEATURES_OK);
        for queue in 0..QUEUES {
            for (place, part) in (0..).zip([QueuePart::Descriptors, QueuePart::Driver, QueuePart::Device]) {
                let address = place_of(queue, place);
                life.set_queue_address(QueueIndex(queue), part, Half::Low(address as u32));
            }
            life.set_queue_size(QueueIndex(queue), 8);
            life.set_queue_ready(QueueIndex(queue), true);
        }
        life.set_status(life.status() | status::DRIVER_OK);
    }

    /// One step; none at the input's end.
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        let tag = input.byte()?;
        let queue = u16::from(tag >> 4) % (QUEUES + 1);
        match tag & 7 {
            0 => {
                let (address, length) = (input.word()?, input.byte()?);
                let bytes = input.bytes(length.into());
                let _ = self.memory.write_slice(&bytes, GuestAddress(address.into()));
            }
            1 => drop(self.life().notify(QueueIndex(queue))),
            2 => drop(self.life().wake()),
            3 => {
                let value = input.byte()?;
                self.life().set_status(value);
            }
            4 => {
                let ready = input.byte()? & 1 != 0;
                self.life().set_queue_ready(QueueIndex(queue), ready);
            }
            5 => {
                let (part, bits) = (input.byte()?, input.word()?);
                let part =
                    [QueuePart::Descriptors, QueuePart::Driver, QueuePart::Device][usize::from(part) % 3];
                self.life().set_queue_address(QueueIndex(queue), part, Half::Low(bits.into()));
            }
            6 => {
                let offset = input.word()?;
                let bytes = input.bytes(8);
                self.life().write_configuration(offset.into(), &bytes);
            }
            _ => self.offer(queue % QUEUES, input)?,
        }
        Some(())
    }

    /// A chain of up to four buffers, made available.
    fn offer(&mut self, queue: u16, input: &mut Input<'_>) -> Option<()> {
        make_chain(&self.memory, queue, &mut self.offered, input)?;
        self.life().notify(QueueIndex(queue));
        Some(())
    }
}

/// A descriptor of the input's, which goes on at `next` where there is more; none at the input's end.
fn descriptor(input: &mut Input<'_>, more: bool, next: u16) -> Option<[u8; 16]> {
    let (address, length, flags) = (input.word()?, input.word()?, input.byte()?);
    let mut descriptor = [0; 16];
    descriptor[..2].copy_from_slice(&address.to_le_bytes());
    descriptor[8..10].copy_from_slice(&length.to_le_bytes());
    descriptor[12..14].copy_from_slice(&(u16::from(flags & 6) | u16::from(more)).to_le_bytes());
    descriptor[14..].copy_from_slice(&next.to_le_bytes());
    Some(descriptor)
}

/// Writes a chain of up to four buffers and makes it available; none at the input's end.
fn make_chain(memory: &DmaMemory, queue: u16, offered: &mut [u16], input: &mut Input<'_>) -> Option<()> {
    let count = u16::from(input.byte()?) % 4 + 1;
    let head = u16::from(input.byte()?) % 8;
    for index in 0..count {
        let descriptor = descriptor(input, index + 1 < count, (head + index + 1) % 8)?;
        let place = place_of(queue, 0) + u64::from((head + index) % 8) * 16;
        memory.write_slice(&descriptor, GuestAddress(place)).ok()?;
    }
    let offered = &mut offered[usize::from(queue)];
    let place = place_of(queue, 1) + 4 + u64::from(*offered % 8) * 2;
    *offered = offered.wrapping_add(1);
    memory.write_obj(head, GuestAddress(place)).ok()?;
    memory.write_obj(*offered, GuestAddress(place_of(queue, 1) + 2)).ok()
}

/// Where descriptors (0), the available ring (1) and the used ring (2) of a queue are.
fn place_of(queue: u16, part: u64) -> u64 {
    (u64::from(queue) * 3 + part) * 0x400
}
