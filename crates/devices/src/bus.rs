//! How a Guest's access finds a device: ranges that do not overlap, one owner each.
//!
//! One structure serves the ports (0 to 0xffff) and the memory-mapped registers; the addresses are only numbers
//! here. Nobody at an address means all ones, as on a bus whose lines float high.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Something with registers. Offsets count from the start of the range it was attached at.
pub trait Device: Send {
    /// Fills `data` (1 to 8 bytes) from the registers at `offset`. Comes in with all ones.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data` (1 to 8 bytes) into the registers at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A range of addresses behind which others decide who answers: PCI's memory. It does its own locking.
pub trait Window: Send + Sync {
    /// As [`Device::read`].
    fn read(&self, offset: u64, data: &mut [u8]);
    /// As [`Device::write`].
    fn write(&self, offset: u64, data: &[u8]);
}

/// A device that a bus and somebody else (an input thread) share.
pub type Shared<D> = Arc<Mutex<D>>;

/// Why a device could not be attached. It is the board that is wrong, not the Guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Two devices claim an address.
    #[error("{new:#x?} overlaps {old:#x?}, which has an owner")]
    Overlap {
        /// The range that was refused.
        new: Range<u64>,
        /// The range that was there.
        old: Range<u64>,
    },
    /// A range without addresses.
    #[error("{0:#x?} is an empty range")]
    Empty(Range<u64>),
}

enum Owner {
    Device(Arc<Mutex<dyn Device>>),
    Window(Arc<dyn Window>),
}

impl Owner {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self {
            Owner::Device(device) => device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data),
            Owner::Window(window) => window.read(offset, data),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match self {
            Owner::Device(device) => {
                device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data)
            }
            Owner::Window(window) => window.write(offset, data),
        }
    }
}

struct Attached {
    range: Range<u64>,
    owner: Owner,
}

/// Addresses and their owners, sorted.
#[derive(Default)]
pub struct Bus {
    attached: Vec<Attached>,
}

impl Bus {
    /// A bus with nothing on it.
    pub fn new() -> Bus {
        Bus::default()
    }

    /// Gives `range` to `device`. A device may have several ranges; offsets start again in each.
    ///
    /// # Errors
    /// [`BusError`] when the range is empty or has an owner.
    pub fn attach(&mut self, range: Range<u64>, device: Arc<Mutex<dyn Device>>) -> Result<(), BusError> {
        self.give(range, Owner::Device(device))
    }

    /// Gives `range` to a window.
    ///
    /// # Errors
    /// As for [`Self::attach`].
    pub fn attach_window(&mut self, range: Range<u64>, window: Arc<dyn Window>) -> Result<(), BusError> {
        self.give(range, Owner::Window(window))
    }

    fn give(&mut self, range: Range<u64>, owner: Owner) -> Result<(), BusError> {
        if range.is_empty() {
            return Err(BusError::Empty(range));
        }
        let place = self.attached.partition_point(|a| a.range.start < range.start);
        let before = place.checked_sub(1).map(|i| &self.attached[i]);
        let overlap = before
            .filter(|a| a.range.end > range.start)
            .or(self.attached.get(place).filter(|a| a.range.start < range.end));
        if let Some(old) = overlap {
            return Err(BusError::Overlap { new: range, old: old.range.clone() });
        }
        self.attached.insert(place, Attached { range, owner });
        Ok(())
    }

    /// Reads `size` bytes (1 to 8) at `address`; the answer sits in the low bytes.
    pub fn read(&self, address: u64, size: u8) -> u64 {
        let mut bytes = [0xff; 8];
        let data = &mut bytes[..usize::from(size.clamp(1, 8))];
        if let Some((owner, offset)) = self.find(address, data.len()) {
            owner.read(offset, data);
        }
        let bits = data.len() * 8;
        u64::from_le_bytes(bytes) & (u64::MAX >> (64 - bits))
    }

    /// Writes the low `size` bytes (1 to 8) of `value` at `address`.
    pub fn write(&self, address: u64, size: u8, value: u64) {
        let bytes = value.to_le_bytes();
        let data = &bytes[..usize::from(size.clamp(1, 8))];
        if let Some((owner, offset)) = self.find(address, data.len()) {
            owner.write(offset, data);
        }
    }

    /// The owner of the whole access. One that straddles a range's end belongs to nobody.
    fn find(&self, address: u64, size: usize) -> Option<(&Owner, u64)> {
        let place = self.attached.partition_point(|a| a.range.start <= address);
        let found = &self.attached[place.checked_sub(1)?];
        let end = address.checked_add(size as u64)?;
        (end <= found.range.end).then(|| (&found.owner, address - found.range.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers the last access.
    #[derive(Default)]
    struct Probe {
        last: Option<(u64, Vec<u8>)>,
    }

    impl Device for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.last = Some((offset, data.to_vec()));
        }
    }

    #[test]
    fn an_access_reaches_its_owner_with_an_offset() {
        let probe: Shared<Probe> = Arc::default();
        let mut bus = Bus::new();
        bus.attach(0x3f8..0x400, probe.clone()).unwrap();
        bus.write(0x3f9, 2, 0xdead_beef);
        assert_eq!(probe.lock().unwrap().last, Some((1, vec![0xef, 0xbe])));
        assert_eq!(bus.read(0x3fb, 2), 0x0303);
    }

    #[test]
    fn nobody_at_an_address_means_all_ones() {
        let bus = Bus::new();
        assert_eq!(bus.read(0x60, 1), 0xff);
        assert_eq!(bus.read(0xffff, 4), 0xffff_ffff);
        assert_eq!(bus.read(u64::MAX, 8), u64::MAX);
        bus.write(u64::MAX, 8, 0);
    }

    #[test]
    fn an_access_over_the_end_of_a_range_belongs_to_nobody() {
        let mut bus = Bus::new();
        bus.attach(0x10..0x12, Shared::<Probe>::default()).unwrap();
        assert_eq!(bus.read(0x11, 2), 0xffff);
        assert_eq!(bus.read(0x11, 1), 1);
        assert_eq!(bus.read(0x12, 1), 0xff);
    }

    #[test]
    fn overlapping_and_empty_ranges_are_refused() {
        let mut bus = Bus::new();
        bus.attach(0x10..0x20, Shared::<Probe>::default()).unwrap();
        bus.attach(0x20..0x21, Shared::<Probe>::default()).unwrap();
        for range in [0x10..0x11, 0xf..0x11, 0x1f..0x21, 0x0..0x100, 0x12..0x13] {
            let refused = bus.attach(range.clone(), Shared::<Probe>::default());
            assert!(matches!(refused, Err(BusError::Overlap { .. })), "{range:x?}");
        }
        assert!(matches!(bus.attach(5..5, Shared::<Probe>::default()), Err(BusError::Empty(_))));
    }
}
