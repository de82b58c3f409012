//! A crew behind a real device, over a disk that answers when the test lets it.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};

use lguest_devices::lguest::block::DiskError;
use lguest_devices::virtio::QueueIndex;
use lguest_devices::virtio::block::VirtioBlock;
use lguest_devices::virtio::life::{Half, Life, QueuePart, status};
use lguest_devices::virtio::memory::{DmaMemory, Part, Written, view};
use lguest_devices::virtio::waker::Wakes;
use vm_memory::{Bytes, GuestAddress};

use super::*;

const QUEUE: QueueIndex = QueueIndex(0);
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADER: u64 = 0x4000;
const STATUS: u64 = 0x5000;
const FLUSH: u32 = 4;
const LONG: Duration = Duration::from_secs(20);

/// A disk whose flushes take until the test says so.
struct Gate {
    begun: Mutex<Sender<()>>,
    open: Mutex<Receiver<()>>,
}

impl Storage for Gate {
    fn length(&self) -> u64 {
        1 << 20
    }
    fn is_writable(&self) -> bool {
        true
    }
    fn read(&self, _offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        bytes.fill(7);
        Ok(())
    }
    fn write(&self, _offset: u64, _bytes: &[u8]) -> Result<(), DiskError> {
        Ok(())
    }
    fn flush(&self) -> Result<(), DiskError> {
        let _ = self.begun.lock().unwrap().send(());
        let _ = self.open.lock().unwrap().recv();
        Ok(())
    }
    fn discard(&self, _range: Range<u64>) -> Result<(), DiskError> {
        Ok(())
    }
    fn zero(&self, _range: Range<u64>, _unmap: bool) -> Result<(), DiskError> {
        Ok(())
    }
}

struct Deaf;

impl Written for Deaf {
    fn wrote(&self, _offset: u64, _length: u64) {}
}

/// A device without registers: what a transport would hold.
struct Carrier(Life);

impl Wakes for Carrier {
    fn wake(&mut self) {
        self.0.wake();
    }
}

/// A Guest with a disk: its device, its memory, and both ends of the gate.
struct Machine {
    device: Arc<Mutex<Carrier>>,
    memory: Arc<DmaMemory>,
    begun: Receiver<()>,
    open: Option<Sender<()>>,
    yard: Arc<Yard>,
}

impl Machine {
    fn start() -> Machine {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 16).unwrap();
        let hears: Arc<dyn Written> = Arc::new(Deaf);
        let memory = view(&file, &[Part { guest: 0, offset: 0, length: 1 << 16 }], &hears).unwrap();
        let memory = Arc::new(memory);
        let ((begun, begins), (open, opens)) = (channel(), channel());
        let disk: Arc<dyn Storage> = Arc::new(Gate { begun: Mutex::new(begun), open: Mutex::new(opens) });
        let (crew, start) = Workers::new(disk.clone());
        let device = Box::new(VirtioBlock::new(&disk, "", 1, crew));
        let device = Arc::new(Mutex::new(Carrier(Life::new(device, memory.clone()))));
        let yard = start.0.clone();
        start.with(Waker::new(&device));
        let machine = Machine { device, memory, begun: begins, open: Some(open), yard };
        machine.ready();
        machine
    }

    /// A driver that is ready, with descriptors for a flush.
    fn ready(&self) {
        let life = &mut self.device.lock().unwrap().0;
        life.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let features = life.offered();
        life.accept(0, features as u32);
        life.accept(1, (features >> 32) as u32);
        life.set_status(life.status() | status::FEATURES_OK);
        let parts = [
            (QueuePart::Descriptors, DESCRIPTORS),
            (QueuePart::Driver, AVAILABLE),
            (QueuePart::Device, USED),
        ];
        for (part, address) in parts {
            life.set_queue_address(QUEUE, part, Half::Low(address as u32));
        }
        life.set_queue_ready(QUEUE, true);
        life.set_status(life.status() | status::DRIVER_OK);
        let put = |address: u64, value: u64| self.memory.write_obj(value, GuestAddress(address)).unwrap();
        put(AVAILABLE, 0);
        put(USED, 0);
        put(DESCRIPTORS, HEADER);
        // 16 bytes, and another descriptor, 1; then 1 byte to write.
        put(DESCRIPTORS + 8, 16 | 1 << 32 | 1 << 48);
        put(DESCRIPTORS + 16, STATUS);
        put(DESCRIPTORS + 24, 1 | 2 << 32);
        put(HEADER, FLUSH.into());
    }

    fn offer_a_flush(&self, index: u16) {
        self.memory.write_obj(index, GuestAddress(AVAILABLE + 2)).unwrap();
        self.device.lock().unwrap().0.notify(QUEUE);
    }

    fn used(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 2)).unwrap()
    }

    fn wait_for(&self, used: u16) {
        let end = Instant::now() + LONG;
        while self.used() != used {
            assert!(Instant::now() < end, "{} used", self.used());
            std::thread::yield_now();
        }
    }
}

impl Drop for Machine {
    /// Whoever waits at the gate goes through.
    fn drop(&mut self) {
        self.open = None;
    }
}

#[test]
fn a_disk_that_does_not_answer_lets_its_vcpu_go_on_and_is_answered_for_when_it_does() {
    let machine = Machine::start();
    machine.offer_a_flush(1);
    machine.begun.recv_timeout(LONG).unwrap();
    // `notify` came back while the disk is still at it.
    assert_eq!(machine.used(), 0);
    machine.open.as_ref().unwrap().send(()).unwrap();
    machine.wait_for(1);
    assert_eq!(machine.memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap(), 0);
}

#[test]
fn a_reset_waits_for_what_is_under_way_and_forgets_the_rest() {
    let machine = Machine::start();
    for index in 1..=WORKERS as u16 + 3 {
        machine.offer_a_flush(index);
    }
    for _ in 0..WORKERS {
        machine.begun.recv_timeout(LONG).unwrap();
    }
    let device = machine.device.clone();
    let reset = std::thread::spawn(move || device.lock().unwrap().0.set_status(0));
    // Until the reset has begun, a worker that ends its work takes what waits.
    let end = std::time::Instant::now() + LONG;
    while !machine.yard.books().waiting.is_empty() {
        assert!(std::time::Instant::now() < end, "a reset forgets what waits");
        std::thread::yield_now();
    }
    for _ in 0..WORKERS {
        assert!(!reset.is_finished());
        machine.open.as_ref().unwrap().send(()).unwrap();
    }
    reset.join().unwrap();
    assert!(machine.begun.try_recv().is_err(), "what waited is not begun any more");
    machine.ready();
    machine.open.as_ref().unwrap().send(()).unwrap();
    machine.offer_a_flush(1);
    machine.wait_for(1);
}

#[test]
fn a_slow_write_leaves_the_next_ones_to_the_workers_until_theirs_are_quick() {
    let (pace, slow) = (Pace::default(), QUICK + Duration::from_nanos(1));
    assert!(pace.is_quick(SHORT) && !pace.is_quick(SHORT + 1));
    pace.took(QUICK);
    assert!(pace.is_quick(SHORT));
    pace.took(slow);
    for _ in 1..AGAIN {
        pace.took(QUICK);
        assert!(!pace.is_quick(4096));
    }
    pace.took(slow);
    for _ in 0..AGAIN {
        assert!(!pace.is_quick(4096));
        pace.took(QUICK);
    }
    assert!(pace.is_quick(4096));
}
