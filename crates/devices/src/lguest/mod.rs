//! The devices of lguest's first generation (facts 7), as the original's Launcher served them.
//!
//! A device here hears of a list that its Guest sent to its key, and fills lists that its Guest bound there. It sees
//! neither the hypercall nor the memory: a [`Carrier`] moves the bytes and raises the interrupt, and has checked
//! that every section of a list is the Guest's memory.

pub mod console;
pub mod block;
pub mod net;
pub mod pipe;

use lguest_abi::dma::Sections;

/// A bound list that a device has reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// The carrier's name for it.
    pub list: u64,
    /// The interrupt its Guest wants for it.
    pub irq: u8,
    /// Where the bytes go.
    pub sections: Sections,
}

/// What connects a device with its Guest.
pub trait Carrier {
    /// Copies Guest bytes out; false when they are no memory.
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool;
    /// Copies bytes into the Guest; false when there is no memory.
    fn write(&self, address: u64, bytes: &[u8]) -> bool;
    /// Reserves a free list bound to `key`.
    fn take(&self, key: u64) -> Option<Reserved>;
    /// Gives it back with so many bytes in it; 0 leaves it free.
    fn finish(&self, reserved: &Reserved, used: u32);
    /// Raises the interrupt of a list that was finished.
    fn interrupt(&self, reserved: &Reserved);
}

/// The Host's side of a device on this bus.
pub trait LguestDevice: Send {
    /// The Guest sent this list to the device's key. What comes back is stored in its `used_len`.
    fn sent(&mut self, carrier: &dyn Carrier, list: &Sections) -> u32;
}

/// The bytes of a list, at most `limit`.
pub fn gather(carrier: &dyn Carrier, list: &Sections, limit: usize) -> Vec<u8> {
    let mut bytes = vec![0; list.total().min(limit)];
    let mut rest = &mut bytes[..];
    for section in list.as_slice() {
        let length = usize::from(section.length).min(rest.len());
        let (here, after) = std::mem::take(&mut rest).split_at_mut(length);
        carrier.read(section.address, here);
        rest = after;
    }
    bytes
}

/// Puts bytes into a list; how many had room.
pub fn scatter(carrier: &dyn Carrier, list: &Sections, mut bytes: &[u8]) -> u32 {
    let mut done = 0;
    for section in list.as_slice() {
        let length = usize::from(section.length).min(bytes.len());
        let (here, after) = bytes.split_at(length);
        if length == 0 || !carrier.write(section.address, here) {
            break;
        }
        done += length as u32;
        bytes = after;
    }
    done
}

#[cfg(test)]
pub(crate) mod bench;
