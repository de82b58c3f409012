//! A request of the driver's: what was found in a queue, checked, and out of the Guest's reach from then on.
//!
//! The spans were memory when the chain was taken, and Guest memory goes nowhere, so they are memory for good.

use vm_memory::{Bytes, GuestAddress};

use super::memory::DmaMemory;

/// One side of a chain: where its bytes are, and how far they have been used.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) spans: Vec<(GuestAddress, u32)>,
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
///
/// It owns what it knows, so a device may keep it, hand it to a worker, and give it back in a later call.
#[derive(Debug)]
pub struct Chain {
    pub(super) head: u16,
    pub(super) readable: Side,
    pub(super) writable: Side,
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

    /// Where its writable part lies: Guest-physical address and length of each piece, for a device to which the place is what
    /// matters.
    pub fn room(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        // A piece of no bytes may name any address at all.
        let some = self.writable.spans.iter().filter(|(_, length)| *length > 0);
        some.map(|(address, length)| (address.0, u64::from(*length)))
    }

    /// Fills `bytes`; false when the chain has fewer.
    pub fn read(&mut self, memory: &DmaMemory, mut bytes: &mut [u8]) -> bool {
        while !bytes.is_empty() {
            let Some((address, length)) = self.readable.take(bytes.len()) else { return false };
            let (here, rest) = bytes.split_at_mut(length);
            if memory.read_slice(here, address).is_err() {
                return false;
            }
            bytes = rest;
        }
        true
    }

    /// Puts `bytes` into it; false when they have no room.
    pub fn write(&mut self, memory: &DmaMemory, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let Some((address, length)) = self.writable.take(bytes.len()) else { return false };
            let (here, rest) = bytes.split_at(length);
            if memory.write_slice(here, address).is_err() {
                return false;
            }
            bytes = rest;
        }
        true
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
