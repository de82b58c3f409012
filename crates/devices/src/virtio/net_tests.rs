//! A driver with both queues, by hand.
//!
//! ```text
//!   q * 8000 + 1000 descriptors  + 2000 available ring  + 3000 used ring      2_0000 .. buffers, 2 KiB each
//! ```

use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::super::life::{Half, Life, QueuePart, status};
use super::super::memory::{DmaMemory, Part, Written, view};
use super::super::ring::Broken;
use super::*;
use crate::frame::{Large, Unfinished};

struct Deaf;

impl Written for Deaf {
    fn wrote(&self, _offset: u64, _length: u64) {}
}

#[derive(Default)]
struct Both {
    sent: Vec<Frame>,
    coming: VecDeque<Frame>,
    room: usize,
    started: Vec<Abilities>,
    stopped: u32,
    down: bool,
}

/// Both directions of a wire, seen from the test.
#[derive(Clone, Default)]
struct Cable(Arc<Mutex<Both>>);

impl Wire for Cable {
    fn abilities(&self) -> Abilities {
        Abilities { unfinished: true, large: true }
    }
    fn start(&mut self, driver: Abilities) {
        self.0.lock().unwrap().started.push(driver);
    }
    fn stop(&mut self) {
        self.0.lock().unwrap().stopped += 1;
    }
    fn carrier(&self) -> Option<bool> {
        Some(!self.0.lock().unwrap().down)
    }
    fn has_room(&mut self) -> bool {
        let both = self.0.lock().unwrap();
        both.sent.len() < both.room
    }
    fn put(&mut self, frame: Frame) {
        self.0.lock().unwrap().sent.push(frame);
    }
    fn take(&mut self) -> Option<Frame> {
        self.0.lock().unwrap().coming.pop_front()
    }
}

const QUEUE: u64 = 0x8000;
const BUFFERS: u64 = 0x2_0000;
const BUFFER: u64 = 2048;

struct Driver {
    life: Life,
    memory: Arc<DmaMemory>,
    cable: Cable,
    offered: [u16; 2],
}

impl Driver {
    fn start(features: u64) -> Driver {
        let file = tempfile::tempfile().unwrap();
        let length = BUFFERS + 256 * BUFFER;
        file.set_len(length).unwrap();
        let hears: Arc<dyn Written> = Arc::new(Deaf);
        let memory = Arc::new(view(&file, &[Part { guest: 0, offset: 0, length }], &hears).unwrap());
        let cable = Cable::default();
        cable.0.lock().unwrap().room = usize::MAX;
        let life = Life::new(Box::new(VirtioNet::new(cable.clone(), [2, 0, 0, 0, 0, 9])), memory.clone());
        let mut driver = Driver { life, memory, cable, offered: [0; 2] };
        driver.ready(features);
        driver
    }

    fn ready(&mut self, features: u64) {
        let life = &mut self.life;
        life.set_status(0);
        self.offered = [0; 2];
        life.set_status(status::ACKNOWLEDGE | status::DRIVER);
        life.accept(0, features as u32);
        life.accept(1, 1);
        life.set_status(life.status() | status::FEATURES_OK);
        for queue in 0..2 {
            let (index, base) = (QueueIndex(queue), u64::from(queue) * QUEUE);
            self.memory.write_slice(&[0; 0x3000], GuestAddress(base + 0x1000)).unwrap();
            life.set_queue_size(index, 16);
            for (part, at) in
                [(QueuePart::Descriptors, 0x1000), (QueuePart::Driver, 0x2000), (QueuePart::Device, 0x3000)]
            {
                life.set_queue_address(index, part, Half::Low((base + at) as u32));
                life.set_queue_address(index, part, Half::High(0));
            }
            life.set_queue_ready(index, true);
        }
        life.set_status(life.status() | status::DRIVER_OK);
    }

    fn all() -> Driver {
        Driver::start(Driver::offered())
    }

    fn offered() -> u64 {
        VirtioNet::new(Cable::default(), [0; 6]).features()
    }

    /// Makes a buffer of this length available: descriptor `slot`, whose bytes are buffer `slot`.
    fn offer(&mut self, queue: u16, slot: u16, length: u32, writable: bool) {
        let base = u64::from(queue) * QUEUE;
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&place(slot).to_le_bytes());
        descriptor[8..12].copy_from_slice(&length.to_le_bytes());
        descriptor[12] = if writable { 2 } else { 0 };
        self.write(base + 0x1000 + u64::from(slot) * 16, &descriptor);
        let offered = &mut self.offered[usize::from(queue)];
        let at = base + 0x2004 + u64::from(*offered % 16) * 2;
        *offered += 1;
        let index = *offered;
        self.write(at, &slot.to_le_bytes());
        self.write(base + 0x2002, &index.to_le_bytes());
    }

    /// Sends a header and a frame.
    fn send(&mut self, slot: u16, header: &[u8], frame: &[u8]) {
        self.write(place(slot), &[header, frame].concat());
        self.offer(1, slot, (header.len() + frame.len()) as u32, false);
        self.life.notify(TRANSMIT);
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// What was used of a queue: slots and lengths, from the first on.
    fn used(&self, queue: u16) -> Vec<(u32, u32)> {
        let base = u64::from(queue) * QUEUE + 0x3000;
        let count = self.bytes(base + 2, 2)[0];
        let word = |at: u64| u32::from_le_bytes(self.bytes(at, 4).try_into().unwrap());
        (0..u64::from(count)).map(|n| (word(base + 4 + n * 8), word(base + 8 + n * 8))).collect()
    }

    fn sent(&self) -> Vec<Frame> {
        self.cable.0.lock().unwrap().sent.clone()
    }

    /// A frame comes from the wire.
    fn come(&mut self, frame: Frame) {
        self.cable.0.lock().unwrap().coming.push_back(frame);
        self.life.wake();
    }
}

fn place(slot: u16) -> u64 {
    BUFFERS + u64::from(slot) * BUFFER
}

#[test]
fn a_frame_goes_out_with_what_is_left_to_do_on_it() {
    let mut driver = Driver::all();
    driver.send(3, &[1, 1, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0], &[7; 1000]);
    let expected = Frame {
        bytes: vec![7; 1000],
        unfinished: Some(Unfinished { start: 34, offset: 16 }),
        large: Some(Large { headers: 54, size: 100, marks: false }),
    };
    assert_eq!(driver.sent(), [expected]);
    assert_eq!(driver.used(1), [(3, 0)]);
}

#[test]
fn what_is_no_frame_is_dropped_and_given_back() {
    let mut driver = Driver::all();
    driver.send(0, &[0; HEADER], &[1; frame::SHORTEST - 1]);
    driver.send(1, &[0; 5], &[]);
    driver.send(2, &[1, 0, 0, 0, 0, 0, 255, 255, 16, 0, 0, 0], &[1; 100]);
    assert_eq!(driver.used(1), [(0, 0), (1, 0), (2, 0)]);
    assert!(driver.sent().is_empty() && driver.life.broken().is_none());
}

#[test]
fn a_frame_comes_in_with_its_header() {
    let mut driver = Driver::all();
    driver.offer(0, 5, 1526, true);
    driver.life.notify(RECEIVE);
    driver.come(Frame::whole(vec![9; 60]));
    assert_eq!(driver.used(0), [(5, 72)]);
    assert_eq!(driver.bytes(place(5), 13), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9]);
}

#[test]
fn a_large_frame_fills_several_buffers_that_come_back_together() {
    let mut driver = Driver::all();
    let frame = Frame::whole((0..3000).map(|at| at as u8).collect());
    driver.come(frame.clone());
    driver.offer(0, 0, 1000, true);
    driver.offer(0, 1, 1000, true);
    driver.life.notify(RECEIVE);
    assert_eq!(driver.used(0), [], "not before there is room for all of it");
    driver.offer(0, 2, 1000, true);
    driver.offer(0, 3, 1000, true);
    driver.life.notify(RECEIVE);
    assert_eq!(driver.used(0), [(0, 1000), (1, 1000), (2, 1000), (3, 12)]);
    assert_eq!(driver.bytes(place(0) + 10, 2), [4, 0], "the number of buffers");
    let mut whole = driver.bytes(place(0) + 12, 988);
    whole.extend([1, 2].map(|slot| driver.bytes(place(slot), 1000)).concat());
    whole.extend(driver.bytes(place(3), 12));
    assert_eq!(whole, frame.bytes);
}

#[test]
fn without_merged_buffers_a_frame_that_does_not_fit_is_lost_and_the_buffer_is_kept() {
    let mut driver = Driver::start(Driver::offered() & !feature::MERGED_BUFFERS);
    driver.offer(0, 0, 100, true);
    driver.life.notify(RECEIVE);
    driver.come(Frame::whole(vec![1; 200]));
    assert_eq!(driver.used(0), []);
    driver.come(Frame::whole(vec![2; 88]));
    assert_eq!(driver.used(0), [(0, 100)]);
    let both = driver.cable.0.lock().unwrap();
    assert_eq!(
        both.started,
        [Abilities { unfinished: true, large: false }],
        "no large segments without merged buffers"
    );
}

#[test]
fn a_full_wire_leaves_frames_with_the_driver_until_it_has_room() {
    let mut driver = Driver::all();
    driver.cable.0.lock().unwrap().room = 1;
    driver.send(0, &[0; HEADER], &[1; 60]);
    driver.send(1, &[0; HEADER], &[2; 60]);
    assert_eq!((driver.sent().len(), driver.used(1).len()), (1, 1));
    driver.cable.0.lock().unwrap().room = 2;
    driver.life.wake();
    assert_eq!((driver.sent().len(), driver.used(1).len()), (2, 2));
}

#[test]
fn a_reset_forgets_buffers_and_frames_of_the_old_driver() {
    let mut driver = Driver::all();
    driver.offer(0, 0, 100, true);
    driver.life.notify(RECEIVE);
    driver.come(Frame::whole(vec![1; 200]));
    driver.ready(Driver::offered());
    driver.offer(0, 1, 1000, true);
    driver.life.notify(RECEIVE);
    driver.come(Frame::whole(vec![2; 60]));
    assert_eq!(driver.used(0), [(1, 72)]);
    assert_eq!(driver.cable.0.lock().unwrap().stopped, 2);
}

#[test]
fn a_lost_carrier_is_told() {
    let mut driver = Driver::all();
    assert_eq!(driver.life.configuration(), [2, 0, 0, 0, 0, 9, 1, 0, 1, 0, 0xdc, 5]);
    driver.cable.0.lock().unwrap().down = true;
    let signals = driver.life.wake();
    assert!(signals.changed && driver.life.configuration()[6] == 0);
    assert!(!driver.life.wake().changed, "once is enough");
}

#[test]
fn a_buffer_without_room_for_a_header_needs_a_reset() {
    let mut driver = Driver::all();
    driver.offer(0, 0, 11, true);
    driver.come(Frame::whole(vec![1; 60]));
    assert_eq!(driver.life.broken(), Some(Broken::NoRoom));
}
