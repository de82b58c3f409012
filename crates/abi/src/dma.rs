//! `lguest_dma`: up to sixteen stretches of Guest memory, and how much of them was used (facts 4).
//!
//! Both forms follow one C declaration, `{ u32 used_len; unsigned long addr[16]; u16 len[16]; }`:
//!
//! | | used_len | addr | len | size |
//! |---|---|---|---|---|
//! | [`Dma32`], the original | 0 | 4, 16 x 4 bytes | 68 | 100 |
//! | [`Dma64`], our Guests' | 0 (4 bytes of padding follow) | 8, 16 x 8 bytes | 136 | 168 |
//!
//! The first length of 0 ends the list; a full list has no end mark; a list that begins with 0 is empty, a "ping".

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::meeting::PAGE_SIZE;

/// Address and length pairs in one list.
pub const MAX_SECTIONS: usize = 16;
/// Lists a Guest may have bound at a time.
pub const MAX_BINDINGS: usize = 32;
/// The most one list can carry under the page rule: 64 KiB.
pub const MAX_BYTES: usize = MAX_SECTIONS * PAGE_SIZE as usize;
/// Keys are multiples of this: the two low bits are the Host's.
pub const KEY_ALIGNMENT: u64 = 4;
/// Offset of `used_len`, a little-endian u32, in both forms.
pub const USED_LEN: u64 = 0;

/// One stretch of Guest memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Section {
    /// Guest-physical address of the first byte.
    pub address: u64,
    /// Bytes. Zero cannot stand in a list: it ends it.
    pub length: u16,
}

/// Why a section cannot take part in a copy between Guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionFault {
    /// It ends above the page limit, or wraps.
    OutsideMemory,
    /// It is longer than a page or crosses one.
    CrossesPage,
}

impl Section {
    /// The test that every access passes: all of it below `limit` (bytes), with no wrap. Ending there is fine (D4).
    ///
    /// # Errors
    /// [`SectionFault::OutsideMemory`].
    pub const fn check_range(&self, limit: u64) -> Result<(), SectionFault> {
        match self.address.checked_add(self.length as u64) {
            Some(end) if end <= limit => Ok(()),
            _ => Err(SectionFault::OutsideMemory),
        }
    }

    /// The page rule of copies between Guests (facts 4): in range, and inside one page.
    ///
    /// # Errors
    /// [`SectionFault`]. The owner of the list is killed with `bad DMA entry: <len>@<addr hex>`.
    pub const fn check_page_rule(&self, limit: u64) -> Result<(), SectionFault> {
        if let Err(fault) = self.check_range(limit) {
            return Err(fault);
        }
        if self.address % PAGE_SIZE + self.length as u64 > PAGE_SIZE {
            return Err(SectionFault::CrossesPage);
        }
        Ok(())
    }
}

/// A list of sections before it has a form: what builders fill and readers get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sections {
    list: [Section; MAX_SECTIONS],
    count: usize,
}

/// Why a section was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushError {
    /// There are sixteen already.
    Full,
    /// A length of zero would end the list.
    Empty,
}

impl Sections {
    /// An empty list: a ping.
    #[must_use]
    pub const fn new() -> Sections {
        Sections { list: [Section { address: 0, length: 0 }; MAX_SECTIONS], count: 0 }
    }

    /// Adds a section.
    ///
    /// # Errors
    /// [`PushError`]; the list stays as it was.
    pub fn push(&mut self, section: Section) -> Result<(), PushError> {
        if section.length == 0 {
            return Err(PushError::Empty);
        }
        *self.list.get_mut(self.count).ok_or(PushError::Full)? = section;
        self.count += 1;
        Ok(())
    }

    /// Adds `length` bytes from `address`, cut at page ends. Returns the bytes that fit: fewer if sixteen were too few.
    pub fn push_pages(&mut self, address: u64, length: usize) -> usize {
        let mut done = 0;
        while done < length {
            let at = address + done as u64;
            let here = (length - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            if self.push(Section { address: at, length: here as u16 }).is_err() {
                break;
            }
            done += here;
        }
        done
    }

    /// The sections in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Section] {
        &self.list[..self.count]
    }

    /// Bytes of all sections together.
    #[must_use]
    pub fn total(&self) -> usize {
        self.as_slice().iter().map(|section| usize::from(section.length)).sum()
    }
}

/// The original's list: 100 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Dma32 {
    /// Bytes used; 0 in a bound list means "free". Both sides write; see facts 4.1.
    pub used_len: u32,
    /// Guest-physical addresses. Guest writes.
    pub addr: [u32; MAX_SECTIONS],
    /// Lengths; the first 0 ends the list. Guest writes.
    pub len: [u16; MAX_SECTIONS],
}

/// The list of a 64-bit Guest: 168 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Dma64 {
    /// Bytes used; 0 in a bound list means "free". Both sides write; see facts 4.1.
    pub used_len: u32,
    /// Padding of the C declaration; never read.
    pub reserved: u32,
    /// Guest-physical addresses. Guest writes.
    pub addr: [u64; MAX_SECTIONS],
    /// Lengths; the first 0 ends the list. Guest writes.
    pub len: [u16; MAX_SECTIONS],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Dma32>() == 100 && align_of::<Dma32>() == 4);
    assert!(offset_of!(Dma32, used_len) == 0 && offset_of!(Dma32, addr) == 4 && offset_of!(Dma32, len) == 68);
    assert!(size_of::<Dma64>() == 168 && align_of::<Dma64>() == 8);
    assert!(
        offset_of!(Dma64, used_len) == 0 && offset_of!(Dma64, addr) == 8 && offset_of!(Dma64, len) == 136
    );
};

impl Dma32 {
    /// The list up to its end mark.
    #[must_use]
    pub fn sections(&self) -> Sections {
        read(self.addr.map(u64::from), self.len)
    }
}

impl Dma64 {
    /// A free list of these sections.
    #[must_use]
    pub fn new(sections: &Sections) -> Dma64 {
        let mut dma = Dma64::default();
        for (index, section) in sections.as_slice().iter().enumerate() {
            dma.addr[index] = section.address;
            dma.len[index] = section.length;
        }
        dma
    }

    /// The list up to its end mark.
    #[must_use]
    pub fn sections(&self) -> Sections {
        read(self.addr, self.len)
    }
}

fn read(addresses: [u64; MAX_SECTIONS], lengths: [u16; MAX_SECTIONS]) -> Sections {
    let mut sections = Sections::new();
    for (address, length) in addresses.into_iter().zip(lengths) {
        if sections.push(Section { address, length }).is_err() {
            break;
        }
    }
    sections
}

#[cfg(test)]
#[path = "dma_tests.rs"]
mod tests;
