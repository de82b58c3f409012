//! What a hosted processor has in the place of descriptor tables of its own: see [`crate::hosted`].

use super::Cpu;
use super::segments::TableRegister;
use crate::events::exception::Exception;
use crate::memory::access::GuestMemory;

/// Descriptors of a hosted processor's only table.
pub const HOSTED_DESCRIPTORS: usize = 32;

/// See the module.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hosted {
    /// The global descriptor table. Its owner sets the accessed bits; a load writes nothing back.
    pub table: [u64; HOSTED_DESCRIPTORS],
    /// First linear address that no page table maps, whatever it says: from here on is the owner's.
    pub ceiling: u64,
}

impl Hosted {
    /// A table with nothing kept back from the Guest.
    pub fn new(table: [u64; HOSTED_DESCRIPTORS]) -> Hosted {
        Hosted { table, ceiling: u64::MAX }
    }

    /// The table register that makes a selector's index an index of the table: as if it lay at linear address 0.
    pub const fn register() -> TableRegister {
        TableRegister { base: 0, limit: (HOSTED_DESCRIPTORS * 8 - 1) as u16 }
    }
}

impl Cpu {
    /// Segment register `index` was loaded.
    pub fn segment_loaded(&mut self, index: usize) {
        self.reloadable |= u32::from(self.hosted.is_some()) << index;
    }

    /// Sets a descriptor of the table. Segment registers keep what they loaded.
    pub fn set_hosted_descriptor(&mut self, index: usize, descriptor: u64) {
        let Some(place) = self.hosted.as_mut().and_then(|hosted| hosted.table.get_mut(index)) else { return };
        if std::mem::replace(place, descriptor) != descriptor {
            for (n, segment) in self.segments.iter().enumerate() {
                if usize::from(segment.selector >> 3) == index {
                    self.reloadable &= !(1 << n);
                }
            }
        }
    }

    /// A descriptor's eight bytes, from an address inside its table.
    ///
    /// # Errors
    /// #PF from reading the table.
    pub fn descriptor_at(&self, memory: &GuestMemory, address: u64) -> Result<u64, Exception> {
        match &self.hosted {
            // Only this table can have been looked in: a hosted processor has no other, and this one never moves.
            Some(hosted) => Ok(hosted.table.get(address as usize / 8).copied().unwrap_or(0)),
            None => Ok(u64::from_le_bytes(memory.read_system(self, address)?)),
        }
    }
}
