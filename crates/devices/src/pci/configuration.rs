//! A function's configuration space: 256 bytes, some of which the Guest may write.
//!
//! ```text
//!   00 vendor, device   04 command, status   08 revision, class   0c .., header type
//!   10 BAR 0, the only one: memory, 32 bits       2c subsystem      34 first capability     3c interrupt line, pin
//!   40 capabilities, each: id, next, then its own
//! ```
//! PCI 3.0, chapter 6.

use std::ops::Range;

/// Bytes of the space that the ports reach.
pub const SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR: usize = 0x10;
const FIRST_CAPABILITY: usize = 0x34;
/// Where capabilities begin: behind the header.
const CAPABILITIES: usize = 0x40;
/// Command: answers in memory; may write memory by itself, which a message is; does not use its interrupt line.
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const LINE_DISABLED: u16 = 1 << 10;
/// Status: the line is up; there are capabilities.
const LINE_UP: u8 = 1 << 3;
const HAS_CAPABILITIES: u8 = 1 << 4;
/// Interrupt pin A.
const PIN_A: u8 = 1;

/// Who a function is (PCI 3.0, 6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device, in that vendor's numbering.
    pub device: u16,
    /// Class, subclass and programming interface, in three bytes.
    pub class: u32,
    /// Revision.
    pub revision: u8,
}

/// The space.
pub struct Configuration {
    bytes: [u8; SIZE],
    /// A bit for each that the Guest may write.
    writable: [u8; SIZE],
    /// Bytes behind the BAR.
    size: u32,
    /// The link to the next capability, and where that goes.
    last: usize,
    free: usize,
}

impl Configuration {
    /// A function with `size` bytes of registers in memory, at first at `address`, which it does not answer to until the
    /// Guest says so.
    ///
    /// # Panics
    /// When the size is no power of two of at least 16 bytes, or the address no multiple of it: the board is wrong.
    pub fn new(identity: Identity, size: u32, address: u32) -> Configuration {
        assert!(
            size.is_power_of_two() && size >= 16 && address.is_multiple_of(size),
            "a BAR is aligned to its size"
        );
        let (bytes, writable) = ([0; SIZE], [0; SIZE]);
        let mut space = Configuration { bytes, writable, size, last: FIRST_CAPABILITY, free: CAPABILITIES };
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.put(0x08, &(identity.class << 8 | u32::from(identity.revision)).to_le_bytes());
        // The subsystem is the same: nobody built a card around it.
        space.put(0x2c, &identity.vendor.to_le_bytes());
        space.put(0x2e, &identity.device.to_le_bytes());
        space.put(BAR, &address.to_le_bytes());
        space.put(0x3d, &[PIN_A]);
        space.allow(COMMAND, &(MEMORY_SPACE | BUS_MASTER | LINE_DISABLED).to_le_bytes());
        space.allow(BAR, &(!(size - 1)).to_le_bytes());
        // The interrupt line register is the Guest's to remember something in.
        space.allow(0x3c, &[0xff]);
        space
    }

    /// Adds a capability: its identifier, what follows the link, and the bits of that which the Guest may write. Returns
    /// where it is.
    ///
    /// # Panics
    /// When there is no room: the device is wrong, not the Guest.
    pub fn capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let at = self.free;
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        self.put(self.last, &[at as u8]);
        self.bytes[STATUS] |= HAS_CAPABILITIES;
        self.last = at + 1;
        self.free = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, at: usize, bits: &[u8]) {
        self.writable[at..at + bits.len()].copy_from_slice(bits);
    }

    /// Reads; nothing is behind the end.
    pub fn read(&self, at: usize, data: &mut [u8]) {
        for (at, byte) in (at..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0xff);
        }
    }

    /// The Guest writes: what it may not change stays.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        for (at, byte) in (at..).zip(data) {
            if let (Some(old), Some(may)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *old = *old & !may | byte & may;
            }
        }
    }

    /// Two bytes of it.
    pub fn word(&self, at: usize) -> u16 {
        let mut bytes = [0; 2];
        self.read(at, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Four bytes of it.
    pub fn double_word(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Where its registers are in memory; nowhere while the Guest has turned them off.
    pub fn memory(&self) -> Option<Range<u64>> {
        let start = u64::from(self.double_word(BAR));
        (self.word(COMMAND) & MEMORY_SPACE != 0).then(|| start..start + u64::from(self.size))
    }

    /// Whether it may write memory by itself: send messages.
    pub fn is_bus_master(&self) -> bool {
        self.word(COMMAND) & BUS_MASTER != 0
    }

    /// Whether it may use its interrupt line.
    pub fn may_use_line(&self) -> bool {
        self.word(COMMAND) & LINE_DISABLED == 0
    }

    /// Shows in the status whether it wants attention by its line, allowed or not (6.2.3).
    pub fn show_line(&mut self, up: bool) {
        self.bytes[STATUS] = self.bytes[STATUS] & !LINE_UP | if up { LINE_UP } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Configuration {
        let identity = Identity { vendor: 0x1af4, device: 0x1042, class: 0x01_8000, revision: 1 };
        Configuration::new(identity, 0x4000, 0xe000_4000)
    }

    #[test]
    fn a_bar_is_sized_and_moved_and_answers_only_when_told_to() {
        let mut space = space();
        assert_eq!((space.double_word(BAR), space.memory()), (0xe000_4000, None));
        space.write(BAR, &[0xff; 4]);
        assert_eq!(space.double_word(BAR), 0xffff_c000, "16 KiB of 32-bit memory");
        space.write(BAR, &0xe800_1234u32.to_le_bytes());
        space.write(COMMAND, &[0x02, 0]);
        assert_eq!(space.memory(), Some(0xe800_0000..0xe800_4000));
        space.write(BAR, &[0xff; 4]);
        assert_eq!(space.memory(), Some(0xffff_c000..0x1_0000_0000), "the last 16 KiB below 4 GiB");
    }

    #[test]
    fn who_it_is_cannot_be_written() {
        let mut space = space();
        for at in 0..SIZE {
            space.write(at, &[0xff]);
        }
        assert_eq!((space.double_word(0), space.double_word(8)), (0x1042_1af4, 0x0180_0001));
        assert_eq!((space.word(STATUS), space.word(0x3c)), (0, 0x01ff));
        space.write(254, &[1, 2, 3, 4]);
        let mut behind = [0; 4];
        space.read(254, &mut behind);
        assert_eq!(behind, [0, 0, 0xff, 0xff]);
    }

    #[test]
    fn capabilities_are_a_list_that_ends() {
        let mut space = space();
        let first = space.capability(9, &[1, 2, 3], &[0, 0xff]);
        let second = space.capability(0x11, &[7; 10], &[]);
        assert_eq!(space.double_word(FIRST_CAPABILITY) as usize, first);
        assert_eq!(space.word(first), 9 | (second as u16) << 8);
        assert_eq!(space.word(second), 0x11);
        space.write(first + 2, &[9, 9, 9]);
        assert_eq!(space.word(first + 2), 0x0901);
        assert_eq!(space.word(STATUS) & 0x10, 0x10);
    }
}
