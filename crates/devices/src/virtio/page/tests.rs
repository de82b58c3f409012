//! Drivers of both years before devices of a few lines, in a Guest of 64 KiB whose page lies at 16 KiB.

use std::ops::Range;
use std::sync::Mutex;

use lguest_abi::device_page::{self, SIZE, entries, features, queue, set_features};

use super::super::bench::{Echo, Keeper, MEMORY, NEXT, WRITE, memory};
use super::super::block::VirtioBlock;
use super::super::block::storage::{Alone, Storage};
use super::super::net::{VirtioNet, Wire};
use super::super::rng::{Entropy, VirtioRng};
use super::*;
use crate::frame::{Abilities, Frame};
use crate::lguest::block::DiskError;

const BASE: u64 = 0x4000;
const DATA: u64 = 0x1000;
const NO_INTERRUPT: u16 = 1;

/// What the machine heard.
#[derive(Default)]
struct Heard {
    irqs: Mutex<Vec<u8>>,
    reasons: Mutex<Vec<String>>,
}

impl Guest for Heard {
    fn interrupt(&self, irq: Irq) {
        self.irqs.lock().unwrap().push(irq.number());
    }
    fn kill(&self, reason: String) {
        self.reasons.lock().unwrap().push(reason);
    }
}

struct Sevens;

impl Entropy for Sevens {
    fn fill(&mut self, bytes: &mut [u8]) -> usize {
        bytes.fill(7);
        bytes.len()
    }
}

/// A page, and what its Guest's drivers know.
struct Machine {
    memory: Arc<DmaMemory>,
    page: DevicePage,
    heard: Arc<Heard>,
    offered: BTreeMap<u64, u16>,
}

fn boxed(device: impl VirtioDevice + 'static) -> Box<dyn VirtioDevice> {
    Box::new(device)
}

impl Machine {
    fn new(devices: Vec<Box<dyn VirtioDevice>>) -> Machine {
        let (memory, heard) = (memory(), Arc::new(Heard::default()));
        let page = DevicePage::new(devices, memory.clone(), BASE, heard.clone()).unwrap();
        Machine { memory, page, heard, offered: BTreeMap::new() }
    }

    fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn descriptors(&self) -> [u8; SIZE] {
        self.bytes(BASE, SIZE).try_into().unwrap()
    }

    fn entry(&self, device: usize) -> device_page::Entry {
        entries(&self.descriptors()).nth(device).unwrap().unwrap()
    }

    /// Queue `index` of a device: entries, interrupt, address.
    fn queue(&self, device: usize, index: u16) -> (u16, u16, u64) {
        let found = queue(&self.descriptors(), &self.entry(device), index).unwrap();
        (found.num, found.irq, u64::from(found.pfn) << 12)
    }

    fn set_status(&self, device: usize, status: u8) {
        self.put(BASE + (self.entry(device).offset + device_page::STATUS) as u64, &[status]);
    }

    /// Writes a status and tells of it.
    fn tell(&self, device: usize, status: u8) -> Notified {
        self.set_status(device, status);
        self.page.notify(BASE + self.entry(device).offset as u64)
    }

    fn accept(&self, device: usize, bits: u32) {
        let entry = self.entry(device);
        let mut bitmap = vec![0; entry.configuration() - entry.accepted()];
        set_features(&mut bitmap, bits);
        self.put(BASE + entry.accepted() as u64, &bitmap);
    }

    fn offered(&self, device: usize) -> u32 {
        let entry = self.entry(device);
        features(&self.descriptors()[entry.offered()..entry.accepted()])
    }

    fn accepted(&self, device: usize) -> u32 {
        let entry = self.entry(device);
        features(&self.descriptors()[entry.accepted()..entry.configuration()])
    }

    /// Offers a chain, from descriptor 0 on, and kicks its ring.
    fn kick(&mut self, ring: (u16, u16, u64), buffers: &[(u64, u32, bool)]) -> Notified {
        let (num, _, address) = ring;
        for (index, (at, length, writable)) in (0u16..).zip(buffers) {
            let more = usize::from(index) + 1 < buffers.len();
            let flags = if *writable { WRITE } else { 0 } | if more { NEXT } else { 0 };
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&at.to_le_bytes());
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            bytes[12..14].copy_from_slice(&flags.to_le_bytes());
            bytes[14..].copy_from_slice(&(index + 1).to_le_bytes());
            self.put(address + u64::from(index) * 16, &bytes);
        }
        let available = address + ring_layout(num).available;
        let offered = self.offered.entry(address).or_default();
        let place = available + 4 + u64::from(*offered % num) * 2;
        *offered += 1;
        let index = *offered;
        self.put(place, &[0, 0]);
        self.put(available + 2, &index.to_le_bytes());
        self.page.notify(address)
    }

    /// Index of the used ring.
    fn used(&self, (num, _, address): (u16, u16, u64)) -> u16 {
        let bytes = self.bytes(address + ring_layout(num).used + 2, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    fn irqs(&self) -> Vec<u8> {
        std::mem::take(&mut self.heard.irqs.lock().unwrap())
    }

    fn dead(&self, notified: Notified) -> String {
        let Notified::Dead(reason) = notified else { panic!("alive: {notified:?}") };
        assert_eq!(*self.heard.reasons.lock().unwrap(), std::slice::from_ref(&reason));
        reason
    }
}

const ROOM: [(u64, u32, bool); 1] = [(DATA, 16, true)];

#[test]
fn the_page_says_what_there_is_and_the_rings_lie_behind_it_in_order() {
    let net = VirtioNet::new(Loop::default(), [2, 0, 0, 0, 0, 1]);
    let machine = Machine::new(vec![boxed(net), boxed(VirtioRng::new(Sevens)), boxed(Keeper::default())]);
    let page = machine.descriptors();
    let kinds: Vec<(u8, u8)> =
        entries(&page).map(Result::unwrap).map(|entry| (entry.kind, entry.queues)).collect();
    assert_eq!(kinds, [(1, 2), (4, 1), (4, 1)]);
    assert_eq!([machine.queue(0, 0), machine.queue(0, 1)], [(256, 1, 0x5000), (256, 2, 0x8000)]);
    assert_eq!([machine.queue(1, 0), machine.queue(2, 0)], [(8, 3, 0xb000), (8, 4, 0xd000)]);
    assert_eq!((machine.page.limit(), check(&page, 4)), (0xf000, Ok(())));
    let entry = machine.entry(0);
    assert_eq!(page[entry.configuration()..entry.end()], [2, 0, 0, 0, 0, 1, 1, 0]);
    assert_eq!(
        machine.page.rings().map(|(device, queue, _)| (device, queue.0)).collect::<Vec<_>>(),
        [(0, 0), (0, 1), (1, 0), (2, 0)]
    );
}

#[test]
fn a_driver_of_2011_tells_its_features_and_starts_with_the_first_ring_it_fills() {
    let mut machine = Machine::new(vec![boxed(VirtioRng::new(Sevens))]);
    assert_eq!(machine.tell(0, 0), Notified::Status);
    machine.set_status(0, 1);
    assert_eq!(machine.tell(0, 3), Notified::Status, "finalise");
    assert_eq!(machine.kick(machine.queue(0, 0), &ROOM), Notified::Queue);
    machine.set_status(0, 7);
    assert_eq!((machine.bytes(DATA, 17), machine.irqs()), ([vec![7; 16], vec![0]].concat(), vec![1]));
    assert_eq!(machine.kick(machine.queue(0, 0), &ROOM), Notified::Queue);
    assert_eq!(
        (machine.used(machine.queue(0, 0)), machine.irqs(), machine.page.statuses()),
        (2, vec![1], "0:7".into())
    );
}

#[test]
fn a_driver_of_2009_tells_every_status_and_its_early_kick_is_not_lost() {
    let mut machine = Machine::new(vec![boxed(VirtioRng::new(Sevens))]);
    for status in [0, 1, 3] {
        assert_eq!(machine.tell(0, status), Notified::Status);
    }
    assert_eq!(machine.kick(machine.queue(0, 0), &ROOM), Notified::Queue);
    assert_eq!((machine.bytes(DATA, 1), machine.irqs()), (vec![7], vec![1]));
    assert_eq!(machine.tell(0, 7), Notified::Status, "after the start, which its early kick was");
    assert_eq!(machine.kick(machine.queue(0, 0), &ROOM), Notified::Queue);
    assert_eq!(machine.used(machine.queue(0, 0)), 2);
}

#[test]
fn driver_ok_starts_a_device_that_nobody_kicked() {
    let heard = Echo::default();
    let machine = Machine::new(vec![boxed(heard)]);
    machine.tell(0, 3);
    assert_eq!(machine.tell(0, 7), Notified::Status);
    let again = machine.tell(0, 7);
    assert!(machine.dead(again).contains("a second time without a reset"));
}

#[test]
fn a_second_start_without_a_reset_ends_the_guest_and_with_one_it_is_usual() {
    let mut machine = Machine::new(vec![boxed(VirtioRng::new(Sevens))]);
    for _ in 0..3 {
        machine.offered.clear();
        machine.tell(0, 0);
        machine.tell(0, 3);
        assert_eq!(machine.kick(machine.queue(0, 0), &ROOM), Notified::Queue);
        assert_eq!(machine.used(machine.queue(0, 0)), 1, "the rings were zeroed");
    }
    let again = machine.tell(0, 3);
    assert_eq!(machine.dead(again), "it started the Entropy device at 0x4000 a second time without a reset");
}

#[test]
fn features_that_change_under_a_running_device_are_a_second_start() {
    let net = VirtioNet::new(Loop::default(), [2; 6]);
    let mut machine = Machine::new(vec![boxed(net)]);
    machine.accept(0, 1 << 5);
    machine.tell(0, 3);
    machine.kick(machine.queue(0, 0), &ROOM);
    machine.accept(0, 0);
    let again = machine.tell(0, 7);
    assert!(machine.dead(again).contains("a second time"));
}

#[test]
fn reset_and_failure_forget_what_was_accepted_and_zero_the_rings() {
    let net = VirtioNet::new(Loop::default(), [2; 6]);
    let mut machine = Machine::new(vec![boxed(net)]);
    for end in [0, 0x83] {
        machine.offered.clear();
        machine.accept(0, 1 << 5);
        machine.tell(0, 3);
        assert_eq!(machine.kick(machine.queue(0, 0), &ROOM), Notified::Queue);
        assert_eq!(machine.tell(0, end), Notified::Status);
        assert_eq!((machine.accepted(0), machine.entry(0).offset), (0, 0));
        assert_eq!(machine.bytes(0x5000, 0x6000), vec![0; 0x6000]);
        assert_eq!(machine.page.statuses(), format!("0:{end:x}"), "the status is the Guest's");
    }
}

#[test]
fn a_ring_kicked_before_its_driver_is_there_ends_the_guest() {
    let mut machine = Machine::new(vec![boxed(VirtioRng::new(Sevens))]);
    let early = machine.kick(machine.queue(0, 0), &ROOM);
    assert_eq!(
        machine.dead(early),
        "it notified a ring of the Entropy device at 0x4000 before its driver was there"
    );
}

#[test]
fn text_below_the_page_is_printed_and_a_notify_for_nothing_ends_the_guest() {
    let machine = Machine::new(vec![boxed(VirtioRng::new(Sevens))]);
    machine.put(DATA, b"early\0late");
    assert_eq!(machine.page.notify(DATA), Notified::Text(b"early".to_vec()));
    machine.put(DATA, &[b'x'; 1000]);
    assert_eq!(machine.page.notify(DATA), Notified::Text(vec![b'x'; MOST_TEXT]));
    machine.put(BASE - 2, b"xy");
    assert_eq!(machine.page.notify(BASE - 2), Notified::Text(b"xy".to_vec()), "and no byte of the page");
    assert_eq!(machine.page.notify(0), Notified::Nothing);
    let nothing = machine.page.notify(BASE + 1);
    assert_eq!(machine.dead(nothing), "it notified 0x4001, where no device of its page listens");
    for value in [machine.page.limit(), MEMORY, 1 << 40, u64::MAX] {
        assert!(matches!(machine.page.notify(value), Notified::Dead(_)), "{value:#x}");
    }
}

#[test]
fn a_descriptor_that_its_guest_wrote_over_is_found_out() {
    // Type, queues, lengths, the ring's size, its interrupt, its place: an endless list, or a ring outside memory.
    for (at, byte) in [(0, 9), (1, 255), (2, 255), (3, 255), (5, 0xff), (7, 9), (9, 0xff)] {
        let machine = Machine::new(vec![boxed(VirtioRng::new(Sevens))]);
        machine.put(BASE + at, &[byte]);
        let found = machine.page.notify(BASE);
        assert_eq!(machine.dead(found), "it wrote over the descriptor of the Entropy device at 0x4000");
    }
}

#[test]
fn features_that_were_not_offered_end_the_guest() {
    let net = VirtioNet::new(Loop::default(), [2; 6]);
    let mut machine = Machine::new(vec![boxed(net)]);
    machine.accept(0, 1 << 5 | 1 << 15);
    machine.tell(0, 3);
    let started = machine.kick(machine.queue(0, 0), &ROOM);
    assert!(machine.dead(started).contains("features 0x8000"));
}

#[test]
fn a_ring_that_breaks_a_rule_ends_the_guest_from_a_kick_and_from_outside() {
    let mut machine = Machine::new(vec![boxed(VirtioRng::new(Sevens))]);
    machine.tell(0, 3);
    let kicked = machine.kick(machine.queue(0, 0), &[(MEMORY, 16, true)]);
    assert_eq!(
        machine.dead(kicked),
        "its driver of the Entropy device at 0x4000 left a buffer that is not memory"
    );
    let mut machine = Machine::new(vec![boxed(Keeper::default())]);
    machine.tell(0, 3);
    let ring = machine.queue(0, 0);
    assert_eq!(machine.kick(ring, &ROOM), Notified::Queue);
    machine.page.waker(0).unwrap().wake();
    assert_eq!((machine.bytes(DATA, 4), machine.irqs()), (b"late".to_vec(), vec![1]));
}

#[test]
fn a_driver_that_polls_hears_nothing_unless_it_asked_for_a_ring_that_ran_empty() {
    for (accepted, interrupts) in [(0, vec![]), (1 << 24, vec![2])] {
        let net = VirtioNet::new(Loop::default(), [2; 6]);
        let mut machine = Machine::new(vec![boxed(net)]);
        machine.accept(0, accepted);
        machine.tell(0, 3);
        let transmit = machine.queue(0, 1);
        machine.put(transmit.2 + ring_layout(256).available, &NO_INTERRUPT.to_le_bytes());
        assert_eq!(machine.kick(transmit, &[(DATA, 10, false), (DATA, 60, false)]), Notified::Queue);
        assert_eq!((machine.used(transmit), machine.irqs()), (1, interrupts), "{accepted:#x}");
    }
}

/// What is sent comes back.
#[derive(Default)]
struct Loop(Option<Frame>);

impl Wire for Loop {
    fn abilities(&self) -> Abilities {
        Abilities { unfinished: true, large: true }
    }
    fn start(&mut self, _driver: Abilities) {}
    fn stop(&mut self) {
        self.0 = None;
    }
    fn has_room(&mut self) -> bool {
        self.0.is_none()
    }
    fn put(&mut self, frame: Frame) {
        self.0 = Some(frame);
    }
    fn take(&mut self) -> Option<Frame> {
        self.0.take()
    }
}

#[test]
fn a_net_header_has_ten_bytes_either_way() {
    let net = VirtioNet::new(Loop::default(), [2; 6]);
    let mut machine = Machine::new(vec![boxed(net)]);
    assert_eq!(machine.offered(0), 1 << 28 | 1 << 24 | 1 << 11 | 1 << 7 | 1 << 5 | 3);
    machine.accept(0, 1 << 5);
    machine.tell(0, 3);
    machine.put(DATA + 10, &(0..60).collect::<Vec<u8>>());
    machine.kick(machine.queue(0, 1), &[(DATA, 10, false), (DATA + 10, 60, false)]);
    machine.put(0x2000, &[0xee; 12]);
    assert_eq!(
        machine.kick(machine.queue(0, 0), &[(0x2000, 10, true), (0x3000, 100, true)]),
        Notified::Queue
    );
    assert_eq!(machine.bytes(0x3000, 60), (0..60).collect::<Vec<u8>>());
    assert_eq!(machine.bytes(0x2000, 12), [vec![0; 10], vec![0xee; 2]].concat());
    assert_eq!(machine.irqs(), [2, 1]);
}

/// Two sectors.
struct Sectors(Mutex<Vec<u8>>);

impl Storage for Sectors {
    fn length(&self) -> u64 {
        1024
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
    fn discard(&self, _range: Range<u64>) -> Result<(), DiskError> {
        Ok(())
    }
    fn zero(&self, _range: Range<u64>, _unmap: bool) -> Result<(), DiskError> {
        Ok(())
    }
}

#[test]
fn a_disk_has_one_queue_and_answers_the_originals_requests() {
    let storage: Arc<dyn Storage> = Arc::new(Sectors(Mutex::new(vec![5; 1024])));
    let mut machine =
        Machine::new(vec![boxed(VirtioBlock::new(&storage, "page", 4, Alone::new(storage.clone())))]);
    assert_eq!((machine.entry(0).queues, machine.offered(0)), (1, 1 << 9 | 1 << 6 | 1 << 2 | 1 << 1));
    let entry = machine.entry(0);
    assert_eq!(machine.bytes(BASE + entry.configuration() as u64, 8), [2, 0, 0, 0, 0, 0, 0, 0], "sectors");
    machine.accept(0, 1 << 9);
    machine.tell(0, 3);
    // Read sector 1; then SCSI (2), which is none of ours.
    for (kind, status, written) in [(0, 0, 5), (2, 2, 0)] {
        machine.put(DATA, &[kind, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        machine.put(0x2000, &[0; 512]);
        machine.put(0x3000, &[0xff]);
        let request = [(DATA, 16, false), (0x2000, 512, true), (0x3000, 1, true)];
        assert_eq!(machine.kick(machine.queue(0, 0), &request), Notified::Queue);
        assert_eq!(
            (machine.bytes(0x3000, 1), machine.bytes(0x2000, 512)),
            (vec![status], vec![written; 512])
        );
    }
}

#[test]
fn what_has_no_place_on_the_page_is_refused() {
    let make = |count: usize, base: u64| {
        let devices = (0..count).map(|_| boxed(VirtioRng::new(Sevens))).collect();
        DevicePage::new(devices, memory(), base, Arc::new(Heard::default())).map(drop)
    };
    assert_eq!(make(31, MEMORY - 3 * PAGE_SIZE), Err(NotCarried::Memory));
    assert_eq!(make(32, BASE), Err(NotCarried::Page(PageError::Irq { irq: 32 })));
    assert_eq!(make(128, BASE), Err(NotCarried::Page(PageError::Outside { pfn: 257 })));
    let socket = super::super::balloon::VirtioBalloon::new(Nobody);
    let refused = pages([&socket as &dyn VirtioDevice]);
    assert_eq!(refused, Err(NotCarried::Kind(DeviceKind::Balloon)));
}

struct Nobody;

impl super::super::balloon::Pages for Nobody {
    fn give_back(&mut self, _address: u64, _length: u64) {}
}
