//! A driver for tests: 64 KiB of Guest, one queue 0, everything by hand.
//!
//! ```text
//!   1000 descriptors   2000 available ring   3000 used ring   4000 indirect tables   8000 .. buffers
//! ```

use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::life::{Half, Life, QueuePart, status};
use super::memory::{DmaMemory, Part, Written, view};
use super::ring::Broken;
use super::rings::{Rings, Signals};
use super::{QueueIndex, VirtioDevice, feature};

pub const DESCRIPTORS: u64 = 0x1000;
pub const AVAILABLE: u64 = 0x2000;
pub const USED: u64 = 0x3000;
pub const MEMORY: u64 = 0x10_000;
pub const QUEUE: QueueIndex = QueueIndex(0);
/// Descriptor flags (2.7.5).
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Nobody wants to hear.
struct Deaf;

impl Written for Deaf {
    fn wrote(&self, _offset: u64, _length: u64) {}
}

/// A Guest's memory.
pub fn memory() -> Arc<DmaMemory> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MEMORY).unwrap();
    let hears: Arc<dyn Written> = Arc::new(Deaf);
    Arc::new(view(&file, &[Part { guest: 0, offset: 0, length: MEMORY }], &hears).unwrap())
}

/// A device with what its driver knows.
pub struct Bench {
    pub life: Life,
    pub memory: Arc<DmaMemory>,
    offered: u16,
    seen: u16,
    size: u16,
}

impl Bench {
    /// A device after reset.
    pub fn new(device: impl VirtioDevice + 'static) -> Bench {
        let memory = memory();
        let life = Life::new(Box::new(device), memory.clone());
        let size = life.queue_limit(QUEUE);
        Bench { life, memory, offered: 0, seen: 0, size }
    }

    /// A device whose driver accepted all features and is ready; it is told of every chain, as long as its flags say so.
    pub fn start(device: impl VirtioDevice + 'static) -> Bench {
        let mut bench = Bench::new(device);
        let features = bench.life.offered() & !feature::EVENT_INDEX;
        bench.start_with(features);
        bench
    }

    /// From reset to ready, by the book (3.1.1).
    pub fn start_with(&mut self, features: u64) {
        self.life.set_status(0);
        (self.offered, self.seen) = (0, 0);
        for address in [AVAILABLE, USED] {
            self.memory.write_obj(0u32, GuestAddress(address)).unwrap();
        }
        self.life.set_status(status::ACKNOWLEDGE | status::DRIVER);
        self.life.accept(0, features as u32);
        self.life.accept(1, ((features | feature::VERSION_1) >> 32) as u32);
        self.life.set_status(self.life.status() | status::FEATURES_OK);
        assert_ne!(self.life.status() & status::FEATURES_OK, 0);
        self.place_queue();
        self.life.set_queue_ready(QUEUE, true);
        self.life.set_status(self.life.status() | status::DRIVER_OK);
    }

    pub fn place_queue(&mut self) {
        for (part, address) in
            [(QueuePart::Descriptors, DESCRIPTORS), (QueuePart::Driver, AVAILABLE), (QueuePart::Device, USED)]
        {
            self.life.set_queue_address(QUEUE, part, Half::Low(address as u32));
            self.life.set_queue_address(QUEUE, part, Half::High(0));
        }
    }

    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    /// Writes descriptor `index` of the table at `table`.
    pub fn descriptor(&self, table: u64, index: u16, (address, length): (u64, u32), flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.write(table + u64::from(index) * 16, &bytes);
    }

    /// Makes a chain of these buffers, (address, length, writable), beginning at descriptor `head`, available.
    pub fn offer(&mut self, head: u16, buffers: &[(u64, u32, bool)]) {
        for (index, (address, length, writable)) in (head..).zip(buffers) {
            let last = usize::from(index - head) + 1 == buffers.len();
            let flags = if *writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.descriptor(DESCRIPTORS, index, (*address, *length), flags, index + 1);
        }
        self.make_available(head);
    }

    /// Makes the chain that begins at descriptor `head` available, whatever it is.
    pub fn make_available(&mut self, head: u16) {
        let place = AVAILABLE + 4 + u64::from(self.offered % self.size) * 2;
        self.write(place, &head.to_le_bytes());
        self.offered = self.offered.wrapping_add(1);
        self.set_available_index(self.offered);
    }

    pub fn set_available_index(&self, index: u16) {
        self.write(AVAILABLE + 2, &index.to_le_bytes());
    }

    /// From which used chain on the driver wants an interrupt (EVENT_IDX).
    pub fn set_used_event(&self, index: u16) {
        self.write(AVAILABLE + 4 + u64::from(self.size) * 2, &index.to_le_bytes());
    }

    /// From which chain on the device wants to be notified (EVENT_IDX).
    pub fn available_event(&self) -> u16 {
        let bytes = self.bytes(USED + 4 + u64::from(self.size) * 8, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    pub fn set_available_flags(&self, flags: u16) {
        self.write(AVAILABLE, &flags.to_le_bytes());
    }

    /// Notifies, and says what was used since: (head, length). Or the rule that was broken, after the signs of it.
    pub fn notify(&mut self) -> Result<Vec<(u32, u32)>, Broken> {
        let signals = self.life.notify(QUEUE);
        if let Some(broken) = self.life.broken() {
            assert!(signals.changed);
            assert_ne!(self.life.status() & status::NEEDS_RESET, 0);
            return Err(broken);
        }
        let used = self.used();
        let signalled = (!used.is_empty()).then_some(QUEUE).into_iter().collect();
        assert_eq!(signals, Signals { used: signalled, changed: false });
        Ok(used)
    }

    /// What was used since this was asked last.
    pub fn used(&mut self) -> Vec<(u32, u32)> {
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let index = self.bytes(USED + 2, 2);
        let index = u16::from_le_bytes([index[0], index[1]]);
        let mut used = Vec::new();
        while self.seen != index {
            let element = self.bytes(USED + 4 + u64::from(self.seen % self.size) * 8, 8);
            used.push((word(&element), word(&element[4..])));
            self.seen = self.seen.wrapping_add(1);
        }
        used
    }
}

/// A device that gives every chain back at once, and remembers how long both its sides were.
#[derive(Clone, Default)]
pub struct Echo(pub Arc<Mutex<Vec<(u64, u64)>>>);

impl VirtioDevice for Echo {
    fn kind(&self) -> super::DeviceKind {
        super::DeviceKind::Entropy
    }
    fn features(&self) -> u64 {
        1
    }
    fn queue_sizes(&self) -> &[u16] {
        &[8, 8]
    }
    fn configuration(&self) -> &[u8] {
        &[1, 2, 3, 4, 5]
    }
    fn activate(&mut self, _features: u64) {}
    fn notify(&mut self, queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let mut ring = rings.ring(queue)?;
        while let Some(chain) = ring.take()? {
            self.0.lock().unwrap().push((chain.readable(), chain.writable()));
            ring.finish(&chain, 0)?;
        }
        Ok(())
    }
}

/// A device that keeps all chains until it is woken, and counts its life in its configuration: one byte that may be written.
#[derive(Default)]
pub struct Keeper {
    kept: Vec<super::chain::Chain>,
    configuration: [u8; 1],
}

impl VirtioDevice for Keeper {
    fn kind(&self) -> super::DeviceKind {
        super::DeviceKind::Entropy
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[8, 8]
    }
    fn configuration(&self) -> &[u8] {
        &self.configuration
    }
    fn write_configuration(&mut self, offset: u64, data: &[u8]) {
        if let (0, [value, ..]) = (offset, data) {
            self.configuration = [*value];
        }
    }
    fn activate(&mut self, _features: u64) {}
    fn reset(&mut self) {
        self.kept.clear();
    }
    fn notify(&mut self, queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let mut ring = rings.ring(queue)?;
        while let Some(chain) = ring.take()? {
            self.kept.push(chain);
        }
        Ok(())
    }
    fn wake(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        self.configuration[0] = self.configuration[0].wrapping_add(1);
        rings.configuration_changed();
        for mut chain in self.kept.drain(..) {
            let written = chain.write(rings.memory(), b"late");
            rings.ring(QUEUE)?.finish(&chain, if written { 4 } else { 0 })?;
        }
        Ok(())
    }
}
