//! A queue while a device serves it: chains come out checked, and go back with a length.
//!
//! The `virtio-queue` crate walks rings and tables. It ends a chain that it does not like as if it were complete; a device
//! must not take half a request for a whole one, so [`Ring::take`] looks at how each walk ended. A chain is walked once:
//! what the Guest writes into its descriptors afterwards changes nothing. An indirect table is followed whether or not the
//! driver accepted that feature: it then harms only itself.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use super::chain::{Chain, Side};
use super::memory::DmaMemory;
use super::rings::Service;

/// The flag by which a driver says that it polls (VIRTQ_AVAIL_F_NO_INTERRUPT, 2.7.6).
const NO_INTERRUPT: u16 = 1;

/// Bytes of a used ring before its first element, and of each (2.7.8).
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;
/// The same of an available ring (2.7.6).
const AVAILABLE_HEADER: u64 = 4;
const AVAILABLE_ELEMENT: u64 = 2;
/// How often the driver may come in between while it is asked to notify.
const MOST_LOOKS: u32 = 100;

/// The driver broke a rule that leaves nothing to answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The queue's parts are not all memory, or were never named.
    #[error("a queue that is not in memory")]
    Queue,
    /// More chains than the queue has room for.
    #[error("an index of the available ring that runs ahead of the queue")]
    Available,
    /// A loop, a descriptor outside its table, an indirect table in another, more than 4 GiB (2.7.5).
    #[error("a chain without an end")]
    Endless,
    /// More descriptors than the queue's size (2.7.5.3.1).
    #[error("a chain longer than its queue")]
    TooLong,
    /// A buffer that is not memory.
    #[error("a buffer that is not memory")]
    Buffer,
    /// A buffer to read behind one to write (2.7.4.2).
    #[error("a readable buffer behind a writable one")]
    Order,
    /// A chain in which this device finds no place for its answer.
    #[error("a request without room for an answer")]
    NoRoom,
}

/// A queue in service.
pub struct Ring<'a> {
    queue: &'a mut Queue,
    memory: &'a DmaMemory,
    service: &'a mut Service,
}

impl<'a> Ring<'a> {
    /// Opens a queue.
    ///
    /// # Errors
    /// [`Broken::Queue`] when it is not in use, or not all in memory.
    pub(super) fn open(
        queue: &'a mut Queue,
        memory: &'a DmaMemory,
        service: &'a mut Service,
    ) -> Result<Ring<'a>, Broken> {
        if !queue.is_valid(memory) {
            return Err(Broken::Queue);
        }
        if queue.event_idx_enabled() && service.until.is_none() {
            service.until = Some(ask_for_more(queue, memory)?);
        }
        Ok(Ring { queue, memory, service })
    }

    /// The next chain; none when there is none, or when a queue full was taken since the device was called.
    ///
    /// # Errors
    /// [`Broken`] for a queue or a chain that is none.
    pub fn take(&mut self) -> Result<Option<Chain>, Broken> {
        if self.service.left == 0 || self.service.until == Some(self.queue.next_avail()) {
            return Ok(None);
        }
        let limit = usize::from(self.queue.size());
        let found = match self.queue.iter(self.memory) {
            Ok(mut available) => available.next(),
            Err(virtio_queue::Error::QueueNotReady) => return Err(Broken::Queue),
            Err(_) => return Err(Broken::Available),
        };
        let Some(found) = found else { return Ok(None) };
        self.service.left -= 1;
        let mut chain =
            Chain { head: found.head_index(), readable: Side::default(), writable: Side::default() };
        let mut more = true;
        for (count, descriptor) in found.enumerate() {
            if count == limit {
                return Err(Broken::TooLong);
            }
            let (address, length) = (descriptor.addr(), descriptor.len());
            let (side, right) = if descriptor.is_write_only() {
                (&mut chain.writable, Permissions::Write)
            } else if chain.writable.spans.is_empty() {
                (&mut chain.readable, Permissions::Read)
            } else {
                return Err(Broken::Order);
            };
            if length > 0 && !self.memory.check_range(address, length as usize, right) {
                return Err(Broken::Buffer);
            }
            side.spans.push((address, length));
            more = descriptor.has_next();
        }
        if more { Err(Broken::Endless) } else { Ok(Some(chain)) }
    }

    /// Fills `bytes` from the chain; false when it has fewer.
    pub fn read(&self, chain: &mut Chain, bytes: &mut [u8]) -> bool {
        chain.read(self.memory, bytes)
    }

    /// Puts `bytes` into the chain; false when they have no room.
    pub fn write(&self, chain: &mut Chain, bytes: &[u8]) -> bool {
        chain.write(self.memory, bytes)
    }

    /// Gives a chain back, with `written` bytes from the beginning of its writable part on (2.7.8.2).
    ///
    /// # Errors
    /// [`Broken::Available`] for a chain whose head lies outside the queue.
    pub fn finish(&mut self, chain: &Chain, written: u32) -> Result<(), Broken> {
        self.service.used = true;
        self.queue.add_used(self.memory, chain.head, written).map_err(|_| Broken::Available)
    }

    /// Gives chains back that belong together: a driver sees all or none of them.
    ///
    /// # Errors
    /// As for [`Self::finish`].
    pub fn finish_together(&mut self, chains: &[(Chain, u32)]) -> Result<(), Broken> {
        let Some(((last, written), others)) = chains.split_last() else { return Ok(()) };
        let next = self.queue.next_used();
        for (number, (chain, written)) in (0u16..).zip(others) {
            // Behind an index that does not name them yet (2.7.8), so nobody looks until the last is there.
            let place = next.wrapping_add(number) % self.queue.size();
            let at = self.queue.used_ring() + USED_HEADER + u64::from(place) * USED_ELEMENT;
            let mut element = [0; USED_ELEMENT as usize];
            element[..4].copy_from_slice(&u32::from(chain.head).to_le_bytes());
            element[4..].copy_from_slice(&written.to_le_bytes());
            self.memory.write_slice(&element, GuestAddress(at)).map_err(|_| Broken::Queue)?;
        }
        self.queue.set_next_used(next.wrapping_add(others.len() as u16));
        self.finish(last, *written)
    }
}

/// With EVENT_IDX: asks the driver to notify of the first chain that this call does not see, and says which that is.
///
/// The driver adds a chain, then looks whether to notify; we name an index, then look whether it is still the driver's. Only
/// when it is, whoever adds the next chain sees what we asked for. A driver that always comes in between has others that
/// notify, or harms itself.
fn ask_for_more(queue: &Queue, memory: &DmaMemory) -> Result<u16, Broken> {
    let look = || queue.avail_idx(memory, Ordering::Acquire).map_err(|_| Broken::Queue);
    let elements = u64::from(queue.size()) * USED_ELEMENT;
    let place = GuestAddress(queue.used_ring() + USED_HEADER + elements);
    let mut until = look()?;
    for _ in 0..MOST_LOOKS {
        memory.store(until.0.to_le(), place, Ordering::Relaxed).map_err(|_| Broken::Queue)?;
        fence(Ordering::SeqCst);
        let now = look()?;
        if now == until {
            break;
        }
        until = now;
    }
    Ok(until.0)
}

/// Whether the driver wants to hear that chains were used since the used ring's index was `before`.
pub(super) fn wants_interrupt(queue: &Queue, before: u16, memory: &DmaMemory) -> bool {
    // What was used has to be seen before what the driver wants is read.
    fence(Ordering::SeqCst);
    let word = |offset: u64| {
        let word = memory.load::<u16>(GuestAddress(queue.avail_ring() + offset), Ordering::Acquire);
        word.map(u16::from_le)
    };
    if !queue.event_idx_enabled() {
        return word(0).is_ok_and(|flags| flags & NO_INTERRUPT == 0);
    }
    // The index that the driver waits for to be used is among those that were (2.7.7.2).
    let next = queue.next_used();
    let event = word(AVAILABLE_HEADER + u64::from(queue.size()) * AVAILABLE_ELEMENT);
    event.is_ok_and(|event| next.wrapping_sub(event).wrapping_sub(1) < next.wrapping_sub(before))
}

/// Whether every chain that the driver offered was taken.
pub(super) fn ran_empty(queue: &Queue, memory: &DmaMemory) -> bool {
    queue.avail_idx(memory, Ordering::Acquire).is_ok_and(|index| index.0 == queue.next_avail())
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
