//! A queue from the driver's side: one chain in flight at a time, which is all that the drivers of 2007 ask for.
//!
//! Layout: virtio 1.2, 2.7. The chain begins at descriptor 0 every time.

use alloc::rc::Rc;
use core::cell::Cell;

use super::Registers;
use crate::model::{Buffer, Memory};

/// Entries this Guest uses at most: a header, sixteen sections and a status fit.
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
    descriptors: Buffer,
    available: Buffer,
    used: Buffer,
    /// Chains offered, and chains seen to come back.
    offered: Cell<u16>,
    seen: Cell<u16>,
}

impl Queue {
    /// Takes a queue into use. None when there is no such queue, or no memory.
    pub fn start(registers: &dyn Registers, index: u16, memory: &Rc<dyn Memory>) -> Option<Queue> {
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
        let parts = [descriptors.address(), available.address(), used.address()];
        registers.start_queue(index, size, parts);
        Some(Queue { index, size, descriptors, available, used, offered: Cell::new(0), seen: Cell::new(0) })
    }

    /// Offers a chain. False when one is in flight, or when it has no pieces or too many.
    pub fn offer(&self, registers: &dyn Registers, pieces: &[Piece]) -> bool {
        let fits = !pieces.is_empty() && pieces.len() <= usize::from(self.size);
        if !fits || self.offered.get() != self.seen.get() {
            return false;
        }
        for (index, piece) in (0u16..).zip(pieces) {
            let more = usize::from(index) + 1 < pieces.len();
            let flags = if piece.writable { WRITE } else { 0 } | if more { NEXT } else { 0 };
            let mut bytes = [0; DESCRIPTOR as usize];
            bytes[..8].copy_from_slice(&piece.address.to_le_bytes());
            bytes[8..12].copy_from_slice(&piece.length.to_le_bytes());
            bytes[12..14].copy_from_slice(&flags.to_le_bytes());
            bytes[14..].copy_from_slice(&(index + 1).to_le_bytes());
            self.descriptors.write(u64::from(index) * DESCRIPTOR, &bytes);
        }
        let place = 4 + u64::from(self.offered.get() % self.size) * 2;
        self.available.write(place, &0u16.to_le_bytes());
        self.offered.set(self.offered.get().wrapping_add(1));
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

    /// Whether the chain came back since this was asked last.
    pub fn came_back(&self) -> bool {
        let mut index = [0; 2];
        self.used.read(2, &mut index);
        let back = self.offered.get() != self.seen.get() && u16::from_le_bytes(index) == self.offered.get();
        if back {
            // What the device wrote was there before the index; it must be read after it.
            self.used.barrier();
            self.seen.set(self.offered.get());
        }
        back
    }
}
