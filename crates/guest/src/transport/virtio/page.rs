//! The descriptor page of lguest's second generation (facts of generation 2, 11; layout in `lguest_abi::device_page`).
//!
//! There are no registers: status, features and configuration are bytes of the page, and what the Host is to hear of goes
//! through one hypercall, NOTIFY, with an address that says what it is about. The Host has placed every ring, so a driver
//! takes those. A Host that lies is believed nothing: a page whose descriptors have no end, or whose rings lie over each other, has
//! no devices at all.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;

use lguest_abi::device_page::{
    Entry, MOST_TEXT, PageError, QueueEntry, SIZE, STATUS, check, entries, features, queue, ring_layout,
    set_features,
};
use lguest_abi::hypercall::Hypercall;
use lguest_abi::meeting::{Irq, PAGE_SIZE, PLATFORM_NAME};

use super::super::Hypercalls;
use super::{Registers, VirtioDevices};
use crate::model::{Buffer, Memory, RegisterError, Registry};

/// Name of the bus and of the root device above its devices: the first generation's, as in the original.
pub const NAME: &str = "lguest";
/// The vendor of every device on the page; its device number is virtio's (facts 11 of generation 1).
pub const VENDOR: u16 = 0;

/// Bit of the status by which a driver gives up.
const FAILED: u8 = 128;

/// What could not be added, for the kernel's log. The other devices are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// A page that is none; it has no devices then.
    Page(PageError),
    /// The registry has no room for this device.
    Device(usize, RegisterError),
}

/// Starts the bus on a machine whose platform has the right name, and takes every device of the page at `at` that this Guest
/// has a use for, in the page's order. Under any other name nothing is touched.
///
/// # Errors
/// [`RegisterError`] when the bus itself cannot be registered; a kernel should stop then.
pub fn start(
    platform: &str,
    at: u64,
    memory: &Rc<dyn Memory>,
    host: &Rc<dyn Hypercalls>,
    registry: &Registry,
    failed: &mut dyn FnMut(Failed),
) -> Result<VirtioDevices, RegisterError> {
    let mut devices = VirtioDevices::default();
    if platform != PLATFORM_NAME {
        return Ok(devices);
    }
    registry.add_bus(NAME)?;
    let page = Rc::new(Buffer::mapped(memory, at, SIZE));
    let mut bytes = Box::new([0; SIZE]);
    page.read(0, &mut bytes[..]);
    if let Err(error) = check(&bytes, (at / PAGE_SIZE) as u32) {
        failed(Failed::Page(error));
        return Ok(devices);
    }
    for (number, entry) in entries(&bytes).filter_map(Result::ok).enumerate() {
        let device = PageDevice { page: page.clone(), at, entry, memory: memory.clone(), host: host.clone() };
        // A device without a queue interrupts nobody, and no driver of ours wants it.
        let Some(irq) = device.queue_irq(0) else { continue };
        let others = (1..u16::from(entry.queues)).filter_map(|index| device.queue_irq(index));
        let others: alloc::vec::Vec<Irq> = others.collect();
        match devices.add(format!("{number}"), irq, Rc::new(device), memory, registry) {
            Ok(true) => devices.also(irq, &others),
            Ok(false) => {}
            Err(error) => failed(Failed::Device(number, error)),
        }
    }
    Ok(devices)
}

/// One descriptor.
struct PageDevice {
    page: Rc<Buffer>,
    /// Address of the page.
    at: u64,
    entry: Entry,
    memory: Rc<dyn Memory>,
    host: Rc<dyn Hypercalls>,
}

impl PageDevice {
    /// The entry of a queue, copied: its place may be odd.
    fn queue_entry(&self, index: u16) -> Option<QueueEntry> {
        let mut bytes = Box::new([0; SIZE]);
        self.page.read(0, &mut bytes[..]);
        queue(&bytes, &self.entry, index)
    }

    fn queue_irq(&self, index: u16) -> Option<Irq> {
        Irq::new(u8::try_from(self.queue_entry(index)?.irq).ok()?)
    }

    /// NOTIFY: something about the memory at this address.
    fn tell(&self, address: u64) {
        self.page.barrier();
        let _ = self.host.call(Hypercall::Notify, [0, address, 0]);
    }

    /// About this descriptor.
    fn tell_status(&self) {
        self.tell(self.at + self.entry.offset as u64);
    }

    /// Back to the beginning: 0, which the Host must hear of.
    fn reset(&self) {
        self.page.write((self.entry.offset + STATUS) as u64, &[0]);
        self.tell_status();
    }

    /// Stores a status that is not 0. The Host hears of a failure at once, and finds the others when it looks.
    fn store_status(&self, status: u8) {
        assert_ne!(status, 0, "a status of 0 is a reset");
        self.page.write((self.entry.offset + STATUS) as u64, &[status]);
        if status & FAILED != 0 {
            self.tell_status();
        }
    }

    /// Says which features this Guest takes, and that they are all: the other half of the bitmap is 0 but for these.
    fn finalise(&self, bits: u32) {
        let mut bitmap = [0; 255];
        let bitmap = &mut bitmap[..usize::from(self.entry.feature_bytes)];
        set_features(bitmap, bits);
        self.page.write(self.entry.accepted() as u64, bitmap);
        self.tell_status();
    }

    /// Bytes of the configuration.
    ///
    /// # Panics
    /// When they reach past its end: the driver's mistake, told loudly.
    fn read_configuration(&self, at: u64, bytes: &mut [u8]) {
        self.check_configuration(at, bytes.len());
        self.page.read(self.entry.configuration() as u64 + at, bytes);
    }

    fn check_configuration(&self, at: u64, length: usize) {
        let end = usize::try_from(at).ok().and_then(|at| at.checked_add(length));
        let fits = end.is_some_and(|end| end <= self.entry.configuration_bytes.into());
        assert!(fits, "an access past the end of a device's configuration");
    }
}

impl Registers for PageDevice {
    fn kind(&self) -> u32 {
        self.entry.kind.into()
    }

    fn is_legacy(&self) -> bool {
        true
    }

    fn status(&self) -> u8 {
        let mut status = [0];
        self.page.read((self.entry.offset + STATUS) as u64, &mut status);
        status[0]
    }

    fn set_status(&self, status: u8) {
        if status == 0 { self.reset() } else { self.store_status(status) }
    }

    fn offered(&self, word: u32) -> u32 {
        let mut bitmap = [0; 255];
        let bitmap = &mut bitmap[..usize::from(self.entry.feature_bytes)];
        self.page.read(self.entry.offered() as u64, bitmap);
        if word == 0 { features(bitmap) } else { 0 }
    }

    fn accept(&self, word: u32, bits: u32) {
        if word == 0 {
            self.finalise(bits);
        }
    }

    fn queue_limit(&self, queue: u16) -> u16 {
        self.queue_entry(queue).map_or(0, |entry| entry.num)
    }

    fn placed_queue(&self, queue: u16) -> Option<[Buffer; 3]> {
        let QueueEntry { num, pfn, .. } = self.queue_entry(queue)?;
        let (layout, ring, entries) = (ring_layout(num), u64::from(pfn) * PAGE_SIZE, usize::from(num));
        let part = |offset: u64, bytes: usize| Buffer::mapped(&self.memory, ring + offset, bytes);
        Some([
            part(0, 16 * entries),
            part(layout.available, 6 + 2 * entries),
            part(layout.used, 6 + 8 * entries),
        ])
    }

    /// The Host knows where its rings are.
    fn start_queue(&self, _queue: u16, _size: u16, _parts: [u64; 3]) {}

    fn notify(&self, queue: u16) {
        if let Some(entry) = self.queue_entry(queue) {
            self.tell(u64::from(entry.pfn) * PAGE_SIZE);
        }
    }

    /// Edges, one a ring: there is nothing to take note of.
    fn acknowledge(&self) {}

    fn configuration(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read_configuration(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }
}

/// A voice for a Guest that has no console yet: NOTIFY with the address of a text.
pub struct EarlyText {
    text: Buffer,
    host: Rc<dyn Hypercalls>,
}

impl EarlyText {
    /// `None` when memory is short.
    #[must_use]
    pub fn new(memory: &Rc<dyn Memory>, host: &Rc<dyn Hypercalls>) -> Option<EarlyText> {
        Some(EarlyText { text: Buffer::allocate(memory, MOST_TEXT)?, host: host.clone() })
    }

    /// Writes a text, whose zero bytes nobody sees.
    pub fn write(&self, text: &[u8]) {
        for part in text.split(|byte| *byte == 0).flat_map(|part| part.chunks(MOST_TEXT - 1)) {
            self.text.write(0, part);
            self.text.write(part.len() as u64, &[0]);
            self.text.barrier();
            let _ = self.host.call(Hypercall::Notify, [0, self.text.address(), 0]);
        }
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
