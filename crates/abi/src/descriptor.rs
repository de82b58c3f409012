//! The descriptor page: an array of sixteen devices (facts 2).
//!
//! ```text
//!   offset  0      2          4        6           8      12
//!           type   features   status   num_pages   pfn
//!           Host   Host       Guest *  Host        Host         * REMOVED is the Host's one bit
//! ```
//! Type 0 is an empty entry, and a scan goes on after it: holes are legal in this generation.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::meeting::{Irq, PAGE_SIZE};

/// Descriptors in the page: half of the thirty-two DMA bindings, for a device uses up to two.
pub const MAX_DEVICES: usize = 16;

/// One device, as both sides see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Descriptor {
    /// What it is, one of [`kind`]; 0 for nothing. Host writes.
    pub kind: u16,
    /// [`feature`] bits. Host writes.
    pub features: u16,
    /// [`Status`] bits. Guest writes, save one.
    pub status: u16,
    /// Pages of device memory. Host writes.
    pub num_pages: u16,
    /// Number of the first page of device memory, 0 if there is none. Host writes.
    pub pfn: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Descriptor>() == 12);
    assert!(offset_of!(Descriptor, kind) == 0);
    assert!(offset_of!(Descriptor, features) == 2);
    assert!(offset_of!(Descriptor, status) == 4);
    assert!(offset_of!(Descriptor, num_pages) == 6);
    assert!(offset_of!(Descriptor, pfn) == 8);
    assert!(size_of::<Descriptor>() * MAX_DEVICES == 192);
};

/// Device types of the first generation, and one of ours.
pub mod kind {
    /// No device here.
    pub const NONE: u16 = 0;
    /// Console: no pages, key 0.
    pub const CONSOLE: u16 = 1;
    /// Network: one page, the table of addresses.
    pub const NET: u16 = 2;
    /// Block: one private page.
    pub const BLOCK: u16 = 3;
    /// Pipe: one private page, which only gives the key. Not in the original.
    pub const PIPE: u16 = 4;
}

/// Feature bits (facts 2.3).
pub mod feature {
    /// The moments of its interrupts are a fair source of entropy. Any type may have it.
    pub const RANDOMNESS: u16 = 0x8000;
    /// Network: packets never leave this host, so nobody has to compute their checksums.
    pub const NET_NO_CHECKSUM: u16 = 0x4000;
}

/// The Guest's progress with a device (facts 2.4). Bits are only ever added: 0, 1, 3, 7 is a normal life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// The Guest has seen the device.
    pub const ACKNOWLEDGE: u16 = 1;
    /// The Guest has a driver for it and is about to call it.
    pub const DRIVER: u16 = 2;
    /// The driver said yes.
    pub const DRIVER_OK: u16 = 4;
    /// The device went away. The Host's bit; a Guest never sets it.
    pub const REMOVED: u16 = 8;
    /// The driver was told so.
    pub const REMOVED_ACK: u16 = 16;
    /// The Guest could not even make an object for the device.
    pub const FAILED: u16 = 128;
    /// Bits from here up belong to the device type.
    pub const FIRST_OF_TYPE: u16 = 256;
}

impl Descriptor {
    /// Guest-physical address of the device's memory; `None` if it has none.
    #[must_use]
    pub const fn memory(&self) -> Option<u64> {
        if self.num_pages == 0 { None } else { Some(self.pfn as u64 * PAGE_SIZE) }
    }

    /// A net device's own slot: the low bits of the features, as many as address its memory (facts 2.3).
    #[must_use]
    pub const fn net_slot(&self) -> u16 {
        // Eight pages and more would let the slot overlap the feature bits (D14); such a device has no slot bits.
        match self.num_pages {
            pages @ 1..=7 => self.features & (pages * PAGE_SIZE as u16 - 1),
            _ => 0,
        }
    }
}

/// The interrupt of the device at an index: one more than the index, for 0 is the timer's.
#[must_use]
pub const fn irq(index: usize) -> Option<Irq> {
    if index < MAX_DEVICES { Irq::new(index as u8 + 1) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_these_twelve_bytes() {
        let bytes = [2, 0, 5, 0xc0, 7, 0, 1, 0, 2, 0x40, 0, 0];
        let descriptor = Descriptor::read_from_bytes(&bytes).unwrap();
        let expected = Descriptor { kind: kind::NET, features: 0xc005, status: 7, num_pages: 1, pfn: 0x4002 };
        assert_eq!(descriptor, expected);
        assert_eq!(descriptor.as_bytes(), bytes);
        assert_eq!(descriptor.memory(), Some(0x0400_2000));
        assert_eq!(descriptor.net_slot(), 5);
    }

    #[test]
    fn the_values_are_the_originals() {
        assert_eq!([kind::CONSOLE, kind::NET, kind::BLOCK], [1, 2, 3]);
        assert_eq!([feature::RANDOMNESS, feature::NET_NO_CHECKSUM], [0x8000, 0x4000]);
        let normal_life = Status::ACKNOWLEDGE | Status::DRIVER | Status::DRIVER_OK;
        assert_eq!((normal_life, Status::REMOVED, Status::REMOVED_ACK, Status::FAILED), (7, 8, 16, 128));
    }

    #[test]
    fn index_5_interrupts_on_6_and_index_0_never_on_0() {
        assert_eq!(irq(5).map(Irq::number), Some(6));
        assert_eq!(irq(0).map(Irq::number), Some(1));
        assert_eq!(irq(15).map(Irq::number), Some(16));
        assert_eq!(irq(16), None);
    }

    #[test]
    fn a_device_without_pages_has_no_memory_and_no_slot() {
        let console = Descriptor { kind: kind::CONSOLE, features: 0xffff, ..Descriptor::default() };
        assert_eq!((console.memory(), console.net_slot()), (None, 0));
        assert_eq!(Descriptor { num_pages: 8, ..console }.net_slot(), 0);
    }
}
