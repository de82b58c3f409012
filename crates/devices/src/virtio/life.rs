//! A device's life (virtio 1.2, 2.1 and 3.1): what is the same for every device on every transport.
//!
//! ```text
//!   reset ─► ACKNOWLEDGE ─► DRIVER ─► features ─► FEATURES_OK ─► queues ─► DRIVER_OK ─► requests
//!     ▲                                 refused: the bit stays 0                           │
//!     └──────────── 0 is written ◄──── DEVICE_NEEDS_RESET ◄──── the driver broke a rule ◄──┘
//! ```
//! What a driver does out of turn is ignored.

use std::sync::Arc;

use virtio_queue::{Queue, QueueT};

use super::memory::DmaMemory;
use super::ring::Broken;
use super::rings::{QueueSet, Rings, Served, Signals};
use super::{DeviceKind, QueueIndex, VirtioDevice, feature};

/// Bits of the device status (2.1).
pub mod status {
    /// The Guest has noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// It knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u8 = 8;
    /// The device cannot go on.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}

/// A part of a queue, as the driver names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueuePart {
    /// Descriptor table.
    Descriptors,
    /// Available ring, which the driver writes.
    Driver,
    /// Used ring, which the device writes.
    Device,
}

/// Half of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 31.
    Low(u32),
    /// Bits 32 to 63.
    High(u32),
}

/// A device with its status, features and queues.
pub struct Life {
    device: Box<dyn VirtioDevice>,
    memory: Arc<DmaMemory>,
    queues: Vec<Served>,
    status: u8,
    accepted: u64,
    broken: Option<Broken>,
    generation: u32,
}

impl Life {
    /// A device after reset.
    ///
    /// # Panics
    /// When the device has a queue whose size is no power of two, or more queues than there may be: the device is wrong,
    /// not the Guest.
    pub fn new(device: Box<dyn VirtioDevice>, memory: Arc<DmaMemory>) -> Life {
        let queues: Vec<Served> = device.queue_sizes().iter().map(|size| Served::new(*size)).collect();
        assert!(queues.len() <= QueueSet::MOST, "a device has at most {} queues", QueueSet::MOST);
        Life { device, memory, queues, status: 0, accepted: 0, broken: None, generation: 0 }
    }

    /// What the device is.
    pub fn kind(&self) -> DeviceKind {
        self.device.kind()
    }

    /// Its configuration.
    pub fn configuration(&self) -> &[u8] {
        self.device.configuration()
    }

    /// Another number each time the configuration changed by itself (2.5.1).
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The driver writes into the configuration.
    pub fn write_configuration(&mut self, offset: u64, data: &[u8]) {
        self.device.write_configuration(offset, data);
    }

    /// How many queues it has.
    pub fn queue_count(&self) -> u16 {
        self.queues.len() as u16
    }

    /// The status byte.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// Which rule the driver broke, since the last reset.
    pub fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// The driver writes the status. Zero resets; else bits are only added (2.1.1), in turn.
    pub fn set_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        self.status |= value & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED);
        if value & status::FEATURES_OK != 0 && self.has(status::DRIVER) && self.can_agree() {
            self.status |= status::FEATURES_OK;
        }
        let starts = value & status::DRIVER_OK != 0 && !self.has(status::DRIVER_OK);
        if starts && self.has(status::FEATURES_OK) {
            self.status |= status::DRIVER_OK;
            self.device.activate(self.accepted);
        }
    }

    /// Starts the device for a driver from before 1.0 (virtio 1.2, 1.3.1), which agrees by its transport's own means: it
    /// accepted `features`, and the parts of queue 0, 1, ... lie at these addresses: descriptors, available and used ring.
    /// Queues behind those stay out of use. Nothing happens to a device that is in use.
    pub fn start_legacy(&mut self, features: u32, places: &[[u64; 3]]) {
        if self.status != 0 {
            return;
        }
        self.accepted = features.into();
        for (Served { queue, .. }, [descriptors, available, used]) in self.queues.iter_mut().zip(places) {
            let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
            let ((low, high), available, used) = (halves(*descriptors), halves(*available), halves(*used));
            queue.set_desc_table_address(low, high);
            queue.set_avail_ring_address(available.0, available.1);
            queue.set_used_ring_address(used.0, used.1);
            queue.set_ready(true);
        }
        self.status = status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK;
        self.device.activate(self.accepted);
    }

    /// The device itself, for a transport that has to know what it offers.
    pub(super) fn device(&self) -> &dyn VirtioDevice {
        &*self.device
    }

    fn has(&self, bit: u8) -> bool {
        self.status & bit != 0
    }

    /// Nothing accepted that was not offered (2.2.1), and no driver from before 1.0 (6.1).
    fn can_agree(&self) -> bool {
        self.accepted & !self.offered() == 0 && self.accepted & feature::VERSION_1 != 0
    }

    fn reset(&mut self) {
        self.status = 0;
        self.accepted = 0;
        self.broken = None;
        // First the device, which may have work under way in chains of these queues.
        self.device.reset();
        self.queues.iter_mut().for_each(|served| served.queue.reset());
    }

    /// All features on offer.
    pub fn offered(&self) -> u64 {
        self.device.features() | feature::VERSION_1 | feature::INDIRECT_DESCRIPTORS | feature::EVENT_INDEX
    }

    /// What the driver accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// The driver accepts features: word 0 or 1 of the 64. Too late once they are agreed on.
    pub fn accept(&mut self, word: u32, bits: u32) {
        if word > 1 || self.has(status::FEATURES_OK) {
            return;
        }
        let shift = word * 32;
        self.accepted = self.accepted & !(0xffff_ffff << shift) | u64::from(bits) << shift;
    }

    /// The queue's largest size; 0 where there is none.
    pub fn queue_limit(&self, index: QueueIndex) -> u16 {
        self.queue(index).map_or(0, QueueT::max_size)
    }

    /// Whether the queue is in use.
    pub fn queue_ready(&self, index: QueueIndex) -> bool {
        self.queue(index).is_some_and(QueueT::ready)
    }

    /// A queue's size, as the driver chose it; 0 where there is none.
    pub fn queue_size(&self, index: QueueIndex) -> u16 {
        self.queue(index).map_or(0, QueueT::size)
    }

    /// Where a part of a queue is; 0 where there is none.
    pub fn queue_address(&self, index: QueueIndex, part: QueuePart) -> u64 {
        self.queue(index).map_or(0, |queue| match part {
            QueuePart::Descriptors => queue.desc_table(),
            QueuePart::Driver => queue.avail_ring(),
            QueuePart::Device => queue.used_ring(),
        })
    }

    fn queue(&self, index: QueueIndex) -> Option<&Queue> {
        self.queues.get(usize::from(index.0)).map(|served| &served.queue)
    }

    fn queue_mut(&mut self, index: QueueIndex) -> Option<&mut Queue> {
        self.queues.get_mut(usize::from(index.0)).map(|served| &mut served.queue)
    }

    /// A queue that may still be changed: not in use.
    fn idle_queue(&mut self, index: QueueIndex) -> Option<&mut Queue> {
        self.queue_mut(index).filter(|queue| !queue.ready())
    }

    /// The driver chooses a queue's size. One that is no size is ignored, as is the size of a queue in use.
    pub fn set_queue_size(&mut self, index: QueueIndex, size: u32) {
        if let (Some(queue), Ok(size)) = (self.idle_queue(index), u16::try_from(size)) {
            queue.set_size(size);
        }
    }

    /// The driver says where a part of a queue is. Ignored for a queue in use, and for an address that is not aligned
    /// (2.7): the queue then has no such part, which the first notification finds out.
    pub fn set_queue_address(&mut self, index: QueueIndex, part: QueuePart, half: Half) {
        let Some(queue) = self.idle_queue(index) else { return };
        let (low, high) = match half {
            Half::Low(bits) => (Some(bits), None),
            Half::High(bits) => (None, Some(bits)),
        };
        match part {
            QueuePart::Descriptors => queue.set_desc_table_address(low, high),
            QueuePart::Driver => queue.set_avail_ring_address(low, high),
            QueuePart::Device => queue.set_used_ring_address(low, high),
        }
    }

    /// The driver takes a queue into use, or out of it. Out of use it begins anew, at index 0.
    pub fn set_queue_ready(&mut self, index: QueueIndex, ready: bool) {
        let agreed = self.has(status::FEATURES_OK);
        let by_index = self.accepted & feature::EVENT_INDEX != 0;
        let Some(queue) = self.queue_mut(index) else { return };
        match (ready, queue.ready()) {
            (true, false) if agreed => {
                queue.set_event_idx(by_index);
                queue.set_ready(true);
            }
            (false, true) => queue.reset(),
            _ => {}
        }
    }

    /// The driver says that a queue has something. What to tell it in turn.
    pub fn notify(&mut self, index: QueueIndex) -> Signals {
        if self.queue_ready(index) {
            self.serve(|device, rings| device.notify(index, rings))
        } else {
            Signals::default()
        }
    }

    /// The outside has something for the device. What to tell the driver; nothing while there is none.
    pub fn wake(&mut self) -> Signals {
        self.serve(|device, rings| device.wake(rings))
    }

    /// Calls the device, if its driver is ready and has kept the rules so far.
    fn serve(
        &mut self,
        call: impl FnOnce(&mut dyn VirtioDevice, &mut Rings<'_>) -> Result<(), Broken>,
    ) -> Signals {
        let serving = status::DRIVER_OK | status::NEEDS_RESET | status::FAILED;
        if self.status & serving != status::DRIVER_OK {
            return Signals::default();
        }
        let mut rings = Rings::begin(&mut self.queues, &self.memory);
        let served = call(&mut *self.device, &mut rings);
        // What was finished before something went wrong was finished.
        let on_empty = self.accepted & feature::NOTIFY_ON_EMPTY != 0;
        let mut signals = rings.end(on_empty);
        if signals.changed {
            self.generation = self.generation.wrapping_add(1);
        }
        if let Err(broken) = served {
            self.status |= status::NEEDS_RESET;
            self.broken = Some(broken);
            signals.changed = true;
        }
        signals
    }
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
