//! A queue while a device serves it: chains come out checked, and go back with a length.
//!
//! The `virtio-queue` crate walks rings and tables. It ends a chain that it does not like as if it were complete; a device
//! must not take half a request for a whole one, so [`Ring::take`] looks at how each walk ended. A chain is walked once:
//! what the Guest writes into its descriptors afterwards changes nothing. An indirect table is followed whether or not the
//! driver accepted that feature: it then harms only itself.

use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use super::memory::DmaMemory;

/// The flag by which a driver says that it polls (VIRTQ_AVAIL_F_NO_INTERRUPT, 2.7.6).
const NO_INTERRUPT: u16 = 1;

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

/// One side of a chain: where its bytes are, and how far they have been used.
#[derive(Debug, Default)]
struct Side {
    spans: Vec<(GuestAddress, u32)>,
    /// The span in turn, and how much of it is used.
    at: (usize, u32),
}

impl Side {
    fn left(&self) -> u64 {
        let (index, used) = self.at;
        self.spans.iter().skip(index).map(|(_, length)| u64::from(*length)).sum::<u64>() - u64::from(used)
    }

    /// The next run of at most `most` bytes, in one piece.
    fn take(&mut self, most: usize) -> Option<(GuestAddress, usize)> {
        loop {
            let (index, used) = self.at;
            let (address, length) = *self.spans.get(index)?;
            if used == length {
                self.at = (index + 1, 0);
                continue;
            }
            let here = ((length - used) as usize).min(most);
            self.at.1 += here as u32;
            return Some((GuestAddress(address.0 + u64::from(used)), here));
        }
    }
}

/// One request of the driver's: bytes to read, then room to write. How they are cut into descriptors means nothing (2.7.4).
#[derive(Debug)]
pub struct Chain {
    head: u16,
    readable: Side,
    writable: Side,
}

impl Chain {
    /// Bytes not yet read.
    pub fn readable(&self) -> u64 {
        self.readable.left()
    }

    /// Room not yet written.
    pub fn writable(&self) -> u64 {
        self.writable.left()
    }

    /// Leaves out room, for what is behind it.
    pub fn skip_room(&mut self, mut bytes: u64) {
        while bytes > 0 {
            let most = usize::try_from(bytes).unwrap_or(usize::MAX);
            let Some((_, skipped)) = self.writable.take(most) else { return };
            bytes -= skipped as u64;
        }
    }
}

/// A queue in service.
pub struct Ring<'a> {
    queue: &'a mut Queue,
    memory: &'a DmaMemory,
    /// Chains that may still be taken on this notification: others may add as fast as we take.
    left: u16,
    used: bool,
}

impl<'a> Ring<'a> {
    /// Opens a queue for one notification.
    ///
    /// # Errors
    /// [`Broken::Queue`] when it is not all in memory.
    pub fn open(queue: &'a mut Queue, memory: &'a DmaMemory) -> Result<Ring<'a>, Broken> {
        if !queue.is_valid(memory) {
            return Err(Broken::Queue);
        }
        let left = queue.size();
        Ok(Ring { queue, memory, left, used: false })
    }

    /// The next chain; none when there is none, or when a queue full was taken.
    ///
    /// # Errors
    /// [`Broken`] for a queue or a chain that is none.
    pub fn take(&mut self) -> Result<Option<Chain>, Broken> {
        if self.left == 0 {
            return Ok(None);
        }
        let limit = usize::from(self.queue.size());
        let found = match self.queue.iter(self.memory) {
            Ok(mut available) => available.next(),
            Err(virtio_queue::Error::QueueNotReady) => return Err(Broken::Queue),
            Err(_) => return Err(Broken::Available),
        };
        let Some(found) = found else { return Ok(None) };
        self.left -= 1;
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
    pub fn read(&self, chain: &mut Chain, mut bytes: &mut [u8]) -> bool {
        while !bytes.is_empty() {
            let Some((address, length)) = chain.readable.take(bytes.len()) else { return false };
            let (here, rest) = bytes.split_at_mut(length);
            if self.memory.read_slice(here, address).is_err() {
                return false;
            }
            bytes = rest;
        }
        true
    }

    /// Puts `bytes` into the chain; false when they have no room.
    pub fn write(&self, chain: &mut Chain, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let Some((address, length)) = chain.writable.take(bytes.len()) else { return false };
            let (here, rest) = bytes.split_at(length);
            if self.memory.write_slice(here, address).is_err() {
                return false;
            }
            bytes = rest;
        }
        true
    }

    /// Gives a chain back, with `written` bytes from the beginning of its writable part on (2.7.8.2).
    ///
    /// # Errors
    /// [`Broken::Available`] for a chain whose head lies outside the queue.
    pub fn finish(&mut self, chain: &Chain, written: u32) -> Result<(), Broken> {
        self.used = true;
        self.queue.add_used(self.memory, chain.head, written).map_err(|_| Broken::Available)
    }

    /// Whether the driver wants to hear of it: chains were given back, and it does not poll.
    pub fn interrupts(&self) -> bool {
        let flags = self.memory.load::<u16>(GuestAddress(self.queue.avail_ring()), Ordering::Acquire);
        self.used && flags.is_ok_and(|flags| u16::from_le(flags) & NO_INTERRUPT == 0)
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
