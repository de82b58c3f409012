//! A queue from the driver's side: a few slots, each with room for one chain in flight.
//!
//! Layout: virtio 1.2, 2.7. The chain of slot `n` begins at descriptor `n * stride` every time, so nobody keeps a list of
//! free descriptors.

use alloc::rc::Rc;
use core::cell::Cell;

use super::Registers;
use crate::model::{Buffer, Memory};

/// Entries this Guest uses at most: a header, sixteen sections and a status fit, or eight frames of three pieces.
const SIZE: u16 = 32;
const DESCRIPTOR: u64 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Flag of a used ring: the device looks by itself (2.7.10).
const NO_NOTIFY: u16 = 1;

/// A stretch of memory in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub address: u64,
    pub length: u32,
    /// The device writes it.
    pub writable: bool,
}

/// The queue.
pub(super) struct Queue {
    index: u16,
    size: u16,
    slots: u16,
    descriptors: Buffer,
    available: Buffer,
    used: Buffer,
    /// Chains offered, and chains seen to come back.
    offered: Cell<u16>,
    seen: Cell<u16>,
    /// Slots whose chain is in flight, a bit each.
    busy: Cell<u32>,
}

impl Queue {
    /// Takes a queue into use, with so many slots. None when there is no such queue, or no memory.
    pub fn start(
        registers: &dyn Registers,
        index: u16,
        slots: u16,
        memory: &Rc<dyn Memory>,
    ) -> Option<Queue> {
        let limit = registers.queue_limit(index);
        if !limit.is_power_of_two() {
            return None;
        }
        let (size, [descriptors, available, used]) = match registers.placed_queue(index) {
            Some(parts) => (limit, parts),
            None => {
                let size = limit.min(SIZE);
                let part =
                    |header: usize, each: usize| Buffer::allocate(memory, header + usize::from(size) * each);
                (size, [part(0, DESCRIPTOR as usize)?, part(4, 2)?, part(4, 8)?])
            }
        };
        if slots > size {
            return None;
        }
        let (offered, seen, busy) = Default::default();
        let queue = Queue { index, size, slots, descriptors, available, used, offered, seen, busy };
        queue.restart(registers);
        Some(queue)
    }

    /// Begins anew: after a reset of the device, which has let go of everything.
    pub fn restart(&self, registers: &dyn Registers) {
        self.available.write_u32(0, 0);
        self.used.write_u32(0, 0);
        self.offered.set(0);
        self.seen.set(0);
        self.busy.set(0);
        let parts = [self.descriptors.address(), self.available.address(), self.used.address()];
        registers.start_queue(self.index, self.size, parts);
    }

    /// Offers a chain in a slot. False when one is in flight there, or when it has no pieces or too many.
    pub fn offer(&self, registers: &dyn Registers, slot: u16, pieces: &[Piece]) -> bool {
        let stride = self.size / self.slots;
        let fits = !pieces.is_empty() && pieces.len() <= usize::from(stride);
        if slot >= self.slots || !fits || self.busy.get() & 1 << slot != 0 {
            return false;
        }
        let head = slot * stride;
        for (index, piece) in (head..).zip(pieces) {
            let more = usize::from(index - head) + 1 < pieces.len();
            let flags = if piece.writable { WRITE } else { 0 } | if more { NEXT } else { 0 };
            let mut bytes = [0; DESCRIPTOR as usize];
            bytes[..8].copy_from_slice(&piece.address.to_le_bytes());
            bytes[8..12].copy_from_slice(&piece.length.to_le_bytes());
            bytes[12..14].copy_from_slice(&flags.to_le_bytes());
            bytes[14..].copy_from_slice(&(index + 1).to_le_bytes());
            self.descriptors.write(u64::from(index) * DESCRIPTOR, &bytes);
        }
        let place = 4 + u64::from(self.offered.get() % self.size) * 2;
        self.available.write(place, &head.to_le_bytes());
        self.offered.set(self.offered.get().wrapping_add(1));
        self.busy.set(self.busy.get() | 1 << slot);
        // The chain first, then the index that offers it, then the word to the device.
        self.available.barrier();
        self.available.write(2, &self.offered.get().to_le_bytes());
        self.available.barrier();
        let mut flags = [0; 2];
        self.used.read(0, &mut flags);
        if u16::from_le_bytes(flags) & NO_NOTIFY == 0 {
            registers.notify(self.index);
        }
        true
    }

    /// The next slot whose chain came back, and how many bytes the device wrote into it. What a device that lies says of chains
    /// that are not in flight is not heard.
    pub fn came_back(&self) -> Option<(u16, u32)> {
        loop {
            let mut index = [0; 2];
            self.used.read(2, &mut index);
            let back = u16::from_le_bytes(index).wrapping_sub(self.seen.get());
            let in_flight = self.offered.get().wrapping_sub(self.seen.get());
            if back == 0 || back > in_flight {
                return None;
            }
            // What the device wrote was there before the index; it must be read after it.
            self.used.barrier();
            let place = 4 + u64::from(self.seen.get() % self.size) * 8;
            let (head, length) = (self.used.read_u32(place), self.used.read_u32(place + 4));
            self.seen.set(self.seen.get().wrapping_add(1));
            let slot = head / u32::from(self.size / self.slots);
            if slot < u32::from(self.slots) && self.busy.get() & 1 << slot != 0 {
                self.busy.set(self.busy.get() & !(1 << slot));
                return Some((slot as u16, length));
            }
        }
    }
}
