//! Memory that the Guest has no use for goes back to the host.
//!
//! A hole is punched into the memory file: the host frees the pages, whoever maps the file goes on mapping it, and the next
//! touch finds a fresh page of zeroes. So no table changes, in the translator or under KVM; only code that was made from the
//! old bytes has to go.

use rustix::fs::FallocateFlags;

use super::{GuestAddress, Memory, MemoryError, PAGE_SIZE};

impl Memory {
    /// Frees the host's pages behind `length` bytes of RAM. They read as zeroes from then on.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] when these are not all RAM of one region, or no whole pages, or device pages are among
    /// them; [`MemoryError::Host`] when the host refuses. Then nothing has changed.
    pub fn give_back(&self, address: GuestAddress, length: u64) -> Result<(), MemoryError> {
        let refused = MemoryError::OutOfRange { address, length };
        let Ok(offset) = self.offset(address, length) else { return Err(refused) };
        let whole = address.0.is_multiple_of(PAGE_SIZE) && length.is_multiple_of(PAGE_SIZE) && length > 0;
        // Device pages lie right behind low RAM, in the same region.
        let devices = self.low_end().0..self.low_end().0 + (self.mapped - self.length);
        let beside = address.0 + length <= devices.start || address.0 >= devices.end;
        if !whole || !beside {
            return Err(refused);
        }
        let way = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, way, offset as u64, length)
            .map_err(|errno| MemoryError::Host { bytes: length, source: errno.into() })?;
        self.sharing.wrote(offset as u64, length);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::{HOLE_END, HOLE_START};
    use super::*;

    /// Bytes of the host's that the file takes.
    fn taken(memory: &Memory) -> u64 {
        memory.file().metadata().unwrap().blocks() * 512
    }

    #[test]
    fn pages_that_are_given_back_take_no_room_and_read_as_zeroes() {
        let memory = Memory::new(16 << 20).unwrap();
        memory.write(GuestAddress(0), &vec![7; 8 << 20]).unwrap();
        assert!(taken(&memory) >= 8 << 20);
        memory.give_back(GuestAddress(1 << 20), 6 << 20).unwrap();
        assert!(taken(&memory) <= 2 << 20, "{} bytes", taken(&memory));
        let mut bytes = [1; 16];
        memory.read(GuestAddress((1 << 20) - 8), &mut bytes).unwrap();
        assert_eq!(bytes, [[7; 8], [0; 8]].concat()[..]);
        memory.write(GuestAddress(2 << 20), b"again").unwrap();
        memory.read(GuestAddress(2 << 20), &mut bytes[..5]).unwrap();
        assert_eq!(&bytes[..5], b"again");
    }

    #[test]
    fn what_is_no_whole_ram_is_not_given_back() {
        let memory = Memory::with_device_pages(1 << 20, 2).unwrap();
        memory.write(GuestAddress(0), &vec![7; (1 << 20) + 0x2000]).unwrap();
        let before = taken(&memory);
        let end = 1 << 20;
        for (address, length) in [
            (0, 0),
            (0, 1),
            (1, 0x1000),
            (0x800, 0x1000),
            (end, 0x1000),
            (end - 0x1000, 0x2000),
            (end + 0x1000, 0x1000),
            (0, end + 0x2000),
            (end + 0x2000, 0x1000),
            (u64::MAX - 0xfff, 0x1000),
            (0, u64::MAX - 0xfff),
        ] {
            assert!(
                memory.give_back(GuestAddress(address), length).is_err(),
                "{length} bytes at {address:#x}"
            );
        }
        assert_eq!(taken(&memory), before);
    }

    #[test]
    fn both_parts_of_a_large_memory_can_be_given_back_and_nothing_across() {
        let memory = Memory::with_device_pages(HOLE_START + (2 << 20), 1).unwrap();
        for address in [0, HOLE_START - 0x1000, HOLE_END, HOLE_END + (2 << 20) - 0x1000] {
            memory.write(GuestAddress(address), &[7; 0x1000]).unwrap();
            memory.give_back(GuestAddress(address), 0x1000).unwrap();
        }
        assert_eq!(taken(&memory), 0);
        assert!(memory.give_back(GuestAddress(HOLE_START - 0x1000), 0x3000).is_err());
    }
}
