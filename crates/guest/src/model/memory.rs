//! Memory that Guest and Host both touch: copied in and out, never borrowed.

use alloc::rc::Rc;

use lguest_abi::dma::Section;
use lguest_abi::meeting::PAGE_SIZE;

/// What a kernel offers of its memory. Addresses are guest-physical.
pub trait Memory {
    /// Copies bytes out. The Host may write at the same time: each byte is read once.
    fn read(&self, at: u64, bytes: &mut [u8]);
    /// Copies bytes in, each written once, in ascending order.
    fn write(&self, at: u64, bytes: &[u8]);
    /// No access after it is seen before one that came before it.
    fn barrier(&self);
    /// Zeroed, physically contiguous memory, aligned to its size rounded up to a power of two, at most to a page: what
    /// fits a page never crosses one. `None` when there is none.
    fn allocate(&self, bytes: usize) -> Option<u64>;
    /// Takes back what `allocate` gave, with the same size.
    fn free(&self, at: u64, bytes: usize);
}

/// A stretch of shared memory with its bounds.
pub struct Buffer {
    memory: Rc<dyn Memory>,
    at: u64,
    size: usize,
    owned: bool,
}

impl Buffer {
    /// New memory, given back when dropped. `None` when there is none.
    #[must_use]
    pub fn allocate(memory: &Rc<dyn Memory>, size: usize) -> Option<Buffer> {
        let at = memory.allocate(size)?;
        Some(Buffer { memory: memory.clone(), at, size, owned: true })
    }

    /// Memory that is there anyway: a device's pages.
    #[must_use]
    pub fn mapped(memory: &Rc<dyn Memory>, at: u64, size: usize) -> Buffer {
        Buffer { memory: memory.clone(), at, size, owned: false }
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.at
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Copies out, from an offset.
    ///
    /// # Panics
    /// When it would go past the end: the caller's mistake.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        self.memory.read(self.at + offset, bytes);
    }

    /// Copies in, at an offset.
    ///
    /// # Panics
    /// When it would go past the end: the caller's mistake.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.check(offset, bytes.len());
        self.memory.write(self.at + offset, bytes);
    }

    /// A little-endian word.
    #[must_use]
    pub fn read_u32(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// A little-endian word.
    pub fn write_u32(&self, offset: u64, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    /// See [`Memory::barrier`].
    pub fn barrier(&self) {
        self.memory.barrier();
    }

    /// Its first `length` bytes as a section; at most a page.
    ///
    /// # Panics
    /// When it is not that long: the caller's mistake.
    #[must_use]
    pub fn section(&self, length: usize) -> Section {
        self.check(0, length);
        assert!(length as u64 <= PAGE_SIZE, "a section is at most a page");
        Section { address: self.at, length: length as u16 }
    }

    fn check(&self, offset: u64, length: usize) {
        let fits = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(length));
        assert!(fits.is_some_and(|end| end <= self.size), "an access past the end of a shared buffer");
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.owned {
            self.memory.free(self.at, self.size);
        }
    }
}
