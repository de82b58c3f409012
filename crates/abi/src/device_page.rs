//! The descriptor page of the second generation: virtio devices, back to back (facts of generation 2, 11.2 and 11.3).
//!
//! ```text
//!   offset  0      1        2             3            4         5               5 + 8q         + f        + f
//!           type   num_vq   feature_len   config_len   status    q queues        offered        accepted   configuration
//!           Host   Host     Host          Host         Guest     8 bytes each    f bytes, Host  f, Guest   both
//!
//!   a queue:  num u16   irq u16   pfn u32        all little endian, nothing aligned
//! ```
//! The next descriptor starts where one ends; type 0, or the end of the page, ends the list. Bytes are the same for Guests of 32
//! and of 64 bits. A Host places each ring (virtio 1.2, 2.7.2, the legacy layout with 4096 bytes as alignment) and says where
//! by page number; the address of a ring is what NOTIFY is called with when it has something, and the address of a
//! descriptor is what NOTIFY is called with when its status or its accepted features changed.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::meeting::PAGE_SIZE;

/// Bytes of a descriptor before its queues.
pub const HEAD: usize = 5;
/// Bytes of a queue's entry.
pub const QUEUE: usize = 8;
/// Offset of the status byte in a descriptor.
pub const STATUS: usize = 4;
/// Bytes of the page.
pub const SIZE: usize = PAGE_SIZE as usize;
/// Features that the bitmaps carry: the rest of them means nothing (facts 11.2).
pub const FEATURES: usize = 32;
/// Pages there may be above a Guest's memory: this one and all rings (facts 2.1).
pub const MOST_PAGES: u64 = 256;
/// Alignment of a used ring in the legacy layout, in bytes.
pub const RING_ALIGNMENT: u64 = PAGE_SIZE;
/// The most entries a ring may have (virtio 1.2, 2.7).
pub const MOST_ENTRIES: u16 = 1 << 15;
/// Early text: bytes that a Host looks at behind a NOTIFY below the page, until it finds the NUL.
pub const MOST_TEXT: usize = 256;

/// One queue: how long, which interrupt, where. Host writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QueueEntry {
    /// Entries, a power of two.
    pub num: u16,
    /// Interrupt, from 1.
    pub irq: u16,
    /// Number of the ring's first page.
    pub pfn: u32,
}

const _: () = assert!(size_of::<QueueEntry>() == QUEUE);

/// Why a page, or a device for it, is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageError {
    /// A descriptor reaches past the page's end: a list that never ends.
    Endless {
        /// Where it begins in the page.
        offset: usize,
    },
    /// A ring with no entries, too many, or not a power of two.
    Entries {
        /// What it says.
        num: u16,
    },
    /// Two rings in the same memory, or a ring over this page.
    Overlap {
        /// Page number of the later one.
        pfn: u32,
    },
    /// A ring that reaches past the pages there may be above the Guest's memory.
    Outside {
        /// Its page number.
        pfn: u32,
    },
    /// An interrupt that does not exist, or the timer's.
    Irq {
        /// Its number.
        irq: u16,
    },
    /// Type 0, or more queues, features or configuration than a byte counts.
    Device,
}

impl core::fmt::Display for PageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            PageError::Endless { offset } => {
                write!(f, "the descriptor at offset {offset:#x} has no end in its page")
            }
            PageError::Entries { num } => {
                write!(f, "a ring of {num} entries, which is no power of two up to 32768")
            }
            PageError::Overlap { pfn } => write!(f, "the ring at page {pfn:#x} lies over another one"),
            PageError::Outside { pfn } => {
                write!(f, "the ring at page {pfn:#x} lies outside the device pages")
            }
            PageError::Irq { irq } => write!(f, "interrupt {irq} is none that a queue can have"),
            PageError::Device => write!(f, "a device that no descriptor can say"),
        }
    }
}

/// Where the parts of a ring are, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    /// The available ring, right behind the descriptors.
    pub available: u64,
    /// The used ring, on the next page.
    pub used: u64,
    /// All of it, in whole pages.
    pub pages: u64,
}

/// The legacy layout of a ring with so many entries.
#[must_use]
pub const fn ring_layout(num: u16) -> RingLayout {
    let entries = num as u64;
    // Flags, index, one word an entry, and the word of an event index whether or not it is in use.
    let available = 16 * entries;
    let used = (available + 2 * (3 + entries)).next_multiple_of(RING_ALIGNMENT);
    let end = used + 2 * 3 + 8 * entries;
    RingLayout { available, used, pages: end.div_ceil(PAGE_SIZE) }
}

/// One descriptor, by where its parts are in the page. The parts are inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it begins.
    pub offset: usize,
    /// What it is, in virtio's numbering.
    pub kind: u8,
    /// Its queues.
    pub queues: u8,
    /// Bytes of one bitmap.
    pub feature_bytes: u8,
    /// Bytes of its configuration.
    pub configuration_bytes: u8,
}

impl Entry {
    /// Offset of queue `index`'s entry; none where there is no such queue.
    #[must_use]
    pub const fn queue(&self, index: u16) -> Option<usize> {
        if index < self.queues as u16 { Some(self.offset + HEAD + index as usize * QUEUE) } else { None }
    }

    /// Offset of the bitmap of features on offer.
    #[must_use]
    pub const fn offered(&self) -> usize {
        self.offset + HEAD + self.queues as usize * QUEUE
    }

    /// Offset of the bitmap of features that the Guest accepted.
    #[must_use]
    pub const fn accepted(&self) -> usize {
        self.offered() + self.feature_bytes as usize
    }

    /// Offset of the configuration.
    #[must_use]
    pub const fn configuration(&self) -> usize {
        self.accepted() + self.feature_bytes as usize
    }

    /// Where the next descriptor begins.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.configuration() + self.configuration_bytes as usize
    }
}

/// The descriptor at an offset; none where the list ends.
///
/// # Errors
/// [`PageError::Endless`] for one that reaches past the page.
pub fn entry(page: &[u8; SIZE], offset: usize) -> Result<Option<Entry>, PageError> {
    let Some(&kind) = page.get(offset).filter(|kind| **kind != 0) else { return Ok(None) };
    let Some(&[queues, feature_bytes, configuration_bytes, _]) =
        page.get(offset + 1..).and_then(|rest| rest.first_chunk())
    else {
        return Err(PageError::Endless { offset });
    };
    let entry = Entry { offset, kind, queues, feature_bytes, configuration_bytes };
    if entry.end() <= SIZE { Ok(Some(entry)) } else { Err(PageError::Endless { offset }) }
}

/// All descriptors, in order; after an error nothing more.
pub fn entries(page: &[u8; SIZE]) -> impl Iterator<Item = Result<Entry, PageError>> + '_ {
    let mut at = Some(0);
    core::iter::from_fn(move || {
        let found = entry(page, at?).transpose();
        // Every descriptor has at least its head, so the list ends with the page.
        at = found.and_then(Result::ok).map(|entry| entry.end());
        found
    })
}

/// Queue `index` of a descriptor, copied: its place may be at an odd address.
#[must_use]
pub fn queue(page: &[u8; SIZE], entry: &Entry, index: u16) -> Option<QueueEntry> {
    let at = entry.queue(index)?;
    QueueEntry::read_from_bytes(page.get(at..at + QUEUE)?).ok()
}

/// The first thirty-two features of a bitmap (facts 11.2: bit i is byte i / 8, bit i % 8).
#[must_use]
pub fn features(bitmap: &[u8]) -> u32 {
    let bytes = bitmap.iter().take(FEATURES / 8).rev();
    bytes.fold(0, |features, byte| features << 8 | u32::from(*byte))
}

/// Puts features into a bitmap, all of whose other bits become 0. Those it has no room for are lost.
pub fn set_features(bitmap: &mut [u8], features: u32) {
    bitmap.fill(0);
    bitmap.iter_mut().zip(features.to_le_bytes()).for_each(|(byte, bits)| *byte = bits);
}

/// Bytes of a bitmap that has room for these features.
#[must_use]
pub const fn bitmap_bytes(features: u32) -> usize {
    (u32::BITS - features.leading_zeros()).div_ceil(8) as usize
}

/// Checks that a page found at page number `base` is one: every descriptor ends in it, every ring is one and has memory of its
/// own, at most [`MOST_PAGES`] above, and every interrupt exists.
///
/// # Errors
/// [`PageError`].
pub fn check(page: &[u8; SIZE], base: u32) -> Result<(), PageError> {
    let limit = u64::from(base) + MOST_PAGES;
    for (place, found) in queues(page) {
        let QueueEntry { num, irq, pfn } = found?;
        if num == 0 || num > MOST_ENTRIES || !num.is_power_of_two() {
            return Err(PageError::Entries { num });
        }
        if irq == 0 || irq >= u16::from(crate::meeting::IRQS) {
            return Err(PageError::Irq { irq });
        }
        let (start, end) = span(pfn, num);
        if start < u64::from(base) || end > limit {
            return Err(PageError::Outside { pfn });
        }
        // Those before it were found whole, or this one would not be looked at.
        let before = queues(page).take(place).filter_map(|(_, other)| other.ok());
        let mut taken =
            before.map(|other| span(other.pfn, other.num)).chain([(base.into(), u64::from(base) + 1)]);
        if taken.any(|(first, after)| first < end && start < after) {
            return Err(PageError::Overlap { pfn });
        }
    }
    Ok(())
}

/// First page of a ring, and the one behind it.
fn span(pfn: u32, num: u16) -> (u64, u64) {
    (pfn.into(), u64::from(pfn) + ring_layout(num).pages)
}

/// All queues of all devices, numbered.
fn queues(page: &[u8; SIZE]) -> impl Iterator<Item = (usize, Result<QueueEntry, PageError>)> + '_ {
    let of = move |entry: Entry| {
        (0..u16::from(entry.queues)).filter_map(move |index| queue(page, &entry, index).map(Ok))
    };
    let found = entries(page).flat_map(move |found| {
        let (good, bad) = match found {
            Ok(entry) => (Some(of(entry)), None),
            Err(error) => (None, Some(Err(error))),
        };
        good.into_iter().flatten().chain(bad)
    });
    found.enumerate()
}

/// What a device's descriptor says.
#[derive(Debug, Clone, Copy)]
pub struct Description<'a> {
    /// What it is, in virtio's numbering; not 0.
    pub kind: u8,
    /// Its queues.
    pub queues: &'a [QueueEntry],
    /// Features on offer.
    pub features: u32,
    /// Its configuration at first.
    pub configuration: &'a [u8],
}

/// A page while it is made.
pub struct PageBuilder {
    bytes: [u8; SIZE],
    used: usize,
}

impl Default for PageBuilder {
    fn default() -> Self {
        PageBuilder { bytes: [0; SIZE], used: 0 }
    }
}

impl PageBuilder {
    /// Adds a device behind those that are there, and says where its parts are.
    ///
    /// # Errors
    /// [`PageError::Endless`] when the page has no room; [`PageError::Device`] for one that no descriptor can say.
    pub fn add(&mut self, device: &Description<'_>) -> Result<Entry, PageError> {
        let feature_bytes = bitmap_bytes(device.features) as u8;
        let (queues, configuration) = (device.queues.len(), device.configuration.len());
        let (Ok(queues), Ok(configuration_bytes)) = (u8::try_from(queues), u8::try_from(configuration))
        else {
            return Err(PageError::Device);
        };
        if device.kind == 0 {
            return Err(PageError::Device);
        }
        let entry =
            Entry { offset: self.used, kind: device.kind, queues, feature_bytes, configuration_bytes };
        if entry.end() > SIZE {
            return Err(PageError::Endless { offset: self.used });
        }
        let head = [device.kind, queues, feature_bytes, configuration_bytes, 0];
        self.put(entry.offset, &head);
        for (index, queue) in device.queues.iter().enumerate() {
            self.put(entry.offset + HEAD + index * QUEUE, queue.as_bytes());
        }
        set_features(&mut self.bytes[entry.offered()..entry.accepted()], device.features);
        self.put(entry.configuration(), device.configuration);
        self.used = entry.end();
        Ok(entry)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The page as it stands.
    #[must_use]
    pub fn bytes(&self) -> &[u8; SIZE] {
        &self.bytes
    }
}

#[cfg(test)]
#[path = "device_page_tests.rs"]
mod tests;
