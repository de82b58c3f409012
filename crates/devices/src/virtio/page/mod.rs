//! Virtio over the descriptor page of lguest's second generation (facts of generation 2, 11; layout in `lguest_abi::device_page`).
//!
//! ```text
//!   base            descriptors, back to back          the Guest writes status, accepted features, configuration
//!   base + 0x1000   rings, in the order of the devices, each on pages of its own, placed and zeroed by the Host
//!
//!   NOTIFY(value) ─► a descriptor's address: its status changed     ─► reset, or agreed
//!                    a ring's address: it has something             ─► started if it was not, then served
//!                    below the page: text, for who has no console   ─► to whoever prints
//!                    0: nothing.  Any other: the Guest is dead
//! ```
//! There are no registers, so nothing traps but NOTIFY. The page is the Guest's memory like any other: what the Host laid down
//! it keeps for itself too, and a Guest that wrote over that is found out at its next word about a status.
//!
//! **Two flows, one machine.** Drivers of 2009 tell every status and may kick a ring before DRIVER_OK; those of 2011 tell
//! reset, accepted features and failure. Both have written the features they accept before they kick a ring or tell DRIVER_OK, so
//! that is when a device starts here. A word about a running device is fine while it only adds status bits; else it is a
//! second start, which ends the Guest as it did in the original.
//!
//! A machine with such a page, of 32 or of 64 bits, needs [`DevicePage::new`], [`DevicePage::notify`] for hypercall 17, and
//! a [`Guest`] for what goes the other way. Everything here may be called from any thread.

mod legacy;
mod carried;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use lguest_abi::device_page::{
    Description, MOST_PAGES, MOST_TEXT, PageBuilder, PageError, QueueEntry, check, ring_layout,
};
pub use lguest_abi::meeting::Irq;
use lguest_abi::meeting::{IRQS, PAGE_SIZE};
use vm_memory::{Bytes, GuestAddress};

use super::memory::DmaMemory;
use super::waker::{Waker, Wakes};
use super::{DeviceKind, QueueIndex, VirtioDevice};
use carried::{Carried, Ring};

/// What a page of devices asks of its machine, from any thread.
pub trait Guest: Send + Sync {
    /// Raises an interrupt, as an edge: pending until it is taken.
    fn interrupt(&self, irq: Irq);
    /// The Guest broke a rule that leaves nothing to answer to; why. The first reason counts.
    fn kill(&self, reason: String);
}

/// Why a page cannot have these devices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCarried {
    /// A kind without a form from before virtio 1.0.
    #[error("a {0:?} device has no place on the lguest page")]
    Kind(DeviceKind),
    /// More devices than a page describes, more rings than there are pages or interrupts.
    #[error("the lguest page has no room for these devices: {0}")]
    Page(PageError),
    /// The page or a ring is no Guest memory.
    #[error("the lguest page and its rings are not all Guest memory")]
    Memory,
}

/// What became of a notify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notified {
    /// A ring was served.
    Queue,
    /// A status was heard.
    Status,
    /// Text for whoever prints, without its NUL.
    Text(Vec<u8>),
    /// Value 0, which means nothing.
    Nothing,
    /// The Guest is dead; the reason, which [`Guest::kill`] has heard too.
    Dead(String),
}

/// Whose an address is.
#[derive(Debug, Clone, Copy)]
enum Place {
    Descriptor(usize),
    Ring(usize, QueueIndex),
}

/// A page and the devices on it.
pub struct DevicePage {
    memory: Arc<DmaMemory>,
    base: u64,
    limit: u64,
    devices: Vec<Arc<Mutex<Carried>>>,
    places: BTreeMap<u64, Place>,
    guest: Arc<dyn Guest>,
}

/// Pages that these devices take: the page itself, and their rings.
///
/// # Errors
/// [`NotCarried::Kind`]; [`NotCarried::Page`] for more than there may be.
pub fn pages<'a>(devices: impl IntoIterator<Item = &'a dyn VirtioDevice>) -> Result<u64, NotCarried> {
    let mut pages = 1;
    for device in devices {
        let form = legacy::form(device).ok_or(NotCarried::Kind(device.kind()))?;
        let sizes = device.queue_sizes().iter().take(form.queues);
        pages += sizes.map(|size| ring_layout(*size).pages).sum::<u64>();
    }
    if pages > MOST_PAGES {
        Err(NotCarried::Page(PageError::Outside { pfn: pages as u32 }))
    } else {
        Ok(pages)
    }
}

impl DevicePage {
    /// Lays the page down at `base`, a page boundary below 16 TiB, and the rings behind it. What is there is overwritten.
    ///
    /// # Errors
    /// [`NotCarried`]; the memory may have been written then.
    pub fn new(
        devices: Vec<Box<dyn VirtioDevice>>,
        memory: Arc<DmaMemory>,
        base: u64,
        guest: Arc<dyn Guest>,
    ) -> Result<DevicePage, NotCarried> {
        pages(devices.iter().map(|device| &**device))?;
        let first = u32::try_from(base / PAGE_SIZE).map_err(|_| NotCarried::Memory)?;
        let mut page = DevicePage {
            memory: memory.clone(),
            base,
            limit: base + PAGE_SIZE,
            devices: Vec::new(),
            places: BTreeMap::new(),
            guest: guest.clone(),
        };
        let mut builder = PageBuilder::default();
        let mut irqs = 1u16..;
        for (number, device) in devices.into_iter().enumerate() {
            let form = legacy::form(&*device).ok_or(NotCarried::Kind(device.kind()))?;
            let sizes = device.queue_sizes().iter().take(form.queues);
            let mut entries = Vec::new();
            for (size, irq) in sizes.zip(&mut irqs) {
                entries.push(QueueEntry { num: *size, irq, pfn: (page.limit / PAGE_SIZE) as u32 });
                page.limit += ring_layout(*size).pages * PAGE_SIZE;
            }
            let entry = builder
                .add(&Description {
                    kind: device.kind() as u8,
                    queues: &entries,
                    features: form.features,
                    configuration: &device.configuration()[..form.configuration],
                })
                .map_err(NotCarried::Page)?;
            let no_interrupt = NotCarried::Page(PageError::Irq { irq: u16::from(IRQS) });
            let rings: Vec<Ring> =
                entries.iter().map(Ring::new).collect::<Option<_>>().ok_or(no_interrupt)?;
            page.places.insert(base + entry.offset as u64, Place::Descriptor(number));
            for (index, ring) in (0..).map(QueueIndex).zip(&rings) {
                page.places.insert(ring.address, Place::Ring(number, index));
            }
            let carried = Carried::new(device, memory.clone(), base, entry, form, rings, guest.clone());
            page.devices.push(Arc::new(Mutex::new(carried)));
        }
        check(builder.bytes(), first).map_err(NotCarried::Page)?;
        let blank = [0; PAGE_SIZE as usize];
        for at in (base + PAGE_SIZE..page.limit).step_by(PAGE_SIZE as usize) {
            memory.write_slice(&blank, GuestAddress(at)).map_err(|_| NotCarried::Memory)?;
        }
        memory.write_slice(builder.bytes(), GuestAddress(base)).map_err(|_| NotCarried::Memory)?;
        page.devices.iter().for_each(|device| lock(device).remember());
        Ok(page)
    }

    /// The first address behind the rings: a Guest's page limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Wakes device `number`, in the order they were given.
    pub fn waker(&self, number: usize) -> Option<Waker> {
        self.devices.get(number).map(Waker::new)
    }

    /// Each ring: its device's number, which queue of it, and the value with which it is notified.
    pub fn rings(&self) -> impl Iterator<Item = (usize, QueueIndex, u64)> + '_ {
        self.places.iter().filter_map(|(address, place)| match place {
            Place::Ring(number, queue) => Some((*number, *queue, *address)),
            Place::Descriptor(_) => None,
        })
    }

    /// The Guest made hypercall NOTIFY with this value (facts 11.1, from its second case on: who listens for a value by an eventfd
    /// comes first).
    pub fn notify(&self, value: u64) -> Notified {
        let done = match self.places.get(&value) {
            Some(Place::Descriptor(number)) => {
                self.device(*number, Carried::status_changed).map(|()| Notified::Status)
            }
            Some(Place::Ring(number, queue)) => {
                self.device(*number, |device| device.kick(*queue)).map(|()| Notified::Queue)
            }
            None if value == 0 => Ok(Notified::Nothing),
            None if value < self.base => self.text(value).map(Notified::Text),
            None => Err(format!("it notified {value:#x}, where no device of its page listens")),
        };
        done.unwrap_or_else(|reason| {
            self.guest.kill(reason.clone());
            Notified::Dead(reason)
        })
    }

    /// What each device's driver has written as its status, in hexadecimal, whatever became of the Guest's console.
    pub fn statuses(&self) -> String {
        let status = |device: &Arc<Mutex<Carried>>| lock(device).status();
        let words: Vec<String> = self
            .devices
            .iter()
            .enumerate()
            .map(|(number, device)| format!("{number}:{:x}", status(device)))
            .collect();
        words.join(" ")
    }

    fn device<T>(
        &self,
        number: usize,
        act: impl FnOnce(&mut Carried) -> Result<T, String>,
    ) -> Result<T, String> {
        act(&mut lock(&self.devices[number]))
    }

    fn text(&self, address: u64) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        for at in (address..self.base).take(MOST_TEXT) {
            match self.memory.read_obj::<u8>(GuestAddress(at)) {
                Ok(0) => break,
                Ok(byte) => text.push(byte),
                Err(_) if at == address => {
                    return Err(format!(
                        "it notified {address:#x}, which is neither its memory nor a device"
                    ));
                }
                Err(_) => break,
            }
        }
        Ok(text)
    }
}

impl Drop for DevicePage {
    /// No device touches Guest memory any more once its page is gone.
    fn drop(&mut self) {
        self.devices.iter().for_each(|device| lock(device).stop());
    }
}

/// A panic elsewhere must not take the device with it: what it holds is plain state.
fn lock(device: &Arc<Mutex<Carried>>) -> std::sync::MutexGuard<'_, Carried> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wakes for Carried {
    fn wake(&mut self) {
        self.woken();
    }
}

#[cfg(test)]
mod tests;
