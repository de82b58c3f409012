//! A DMA list in Guest memory: read with every check, and its `used_len`, the word both sides take turns on.

use lguest_abi::dma::{Dma32, Dma64, SectionFault, Sections, USED_LEN};
use zerocopy::{FromZeros, IntoBytes};

use crate::memory::{GuestAddress, Memory, MemoryError};

/// Which of the two layouts a Guest's lists have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The original's: 100 bytes.
    Bits32,
    /// Our Guests': 168 bytes.
    Bits64,
}

impl Form {
    /// Bytes of a list, which is also the stride of an array of them.
    pub fn stride(self) -> u64 {
        match self {
            Form::Bits32 => size_of::<Dma32>() as u64,
            Form::Bits64 => size_of::<Dma64>() as u64,
        }
    }
}

/// One machine's memory as DMA sees it: nothing at or above the page limit exists.
pub struct Area {
    memory: std::sync::Arc<Memory>,
    limit: u64,
    form: Form,
}

impl Area {
    /// The memory of one machine, up to `limit` (bytes).
    pub fn new(memory: std::sync::Arc<Memory>, limit: u64, form: Form) -> Area {
        Area { memory, limit, form }
    }

    /// First address out of reach.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The layout of this machine's lists.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The memory itself.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The range test used everywhere (facts 4, with D4 put right): the end may touch the limit and may not wrap.
    pub fn holds(&self, address: u64, length: u64) -> bool {
        address.checked_add(length).is_some_and(|end| end <= self.limit)
    }

    /// Where a list's sections have to end: at the descriptor page. Device pages are keys' and devices' own; data that a
    /// list brought there would change a descriptor, or be lost behind a link's page.
    pub fn data_limit(&self) -> u64 {
        self.limit.min(self.memory.low_end().0)
    }

    /// `used_len` and sections of the list at `address`.
    ///
    /// # Errors
    /// When the list is not all memory below the limit.
    pub fn list(&self, address: u64) -> Result<(u32, Sections), MemoryError> {
        let used = self.used(address)?;
        let sections = match self.form {
            Form::Bits32 => {
                let mut dma = Dma32::new_zeroed();
                self.read(address, dma.as_mut_bytes())?;
                dma.sections()
            }
            Form::Bits64 => {
                let mut dma = Dma64::new_zeroed();
                self.read(address, dma.as_mut_bytes())?;
                dma.sections()
            }
        };
        Ok((used, sections))
    }

    /// The list's `used_len`.
    ///
    /// # Errors
    /// When the list is not all memory below the limit.
    pub fn used(&self, address: u64) -> Result<u32, MemoryError> {
        self.memory.load_word(self.check(address, self.form.stride())?)
    }

    /// Stores `used_len`, after all that was written before.
    ///
    /// # Errors
    /// When the list is not all memory below the limit.
    pub fn set_used(&self, address: u64, used: u32) -> Result<(), MemoryError> {
        let list = self.check(address, self.form.stride())?;
        self.memory.store_word(GuestAddress(list.0 + USED_LEN), used)
    }

    /// Copies out, below the limit.
    ///
    /// # Errors
    /// When a byte is no memory.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(self.check(address, bytes.len() as u64)?, bytes)
    }

    /// Copies in, below the limit.
    ///
    /// # Errors
    /// When a byte is no memory.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.memory.write(self.check(address, bytes.len() as u64)?, bytes)
    }

    fn check(&self, address: u64, length: u64) -> Result<GuestAddress, MemoryError> {
        let address = GuestAddress(address);
        self.holds(address.0, length).then_some(address).ok_or(MemoryError::OutOfRange { address, length })
    }

    /// The page rule for every section; the sentence that kills the list's owner otherwise.
    ///
    /// # Errors
    /// `bad DMA entry: <len>@<addr hex>`, the original's words.
    pub fn check_page_rule(&self, sections: &Sections) -> Result<(), String> {
        for section in sections.as_slice() {
            // Out of range and across a page die of the same words, as in the original.
            if let Err(SectionFault::OutsideMemory | SectionFault::CrossesPage) =
                section.check_page_rule(self.data_limit())
            {
                return Err(format!("bad DMA entry: {}@{:x}", section.length, section.address));
            }
        }
        Ok(())
    }
}
