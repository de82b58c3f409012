//! Guest memory as virtio devices see it: copied in and out by vm-memory, and every write is told.
//!
//! Somebody may have made something from the old bytes: the translator, code. vm-memory tells of writes through what it
//! calls a bitmap, meant for migration; ours keeps no bits and passes the word on. Everything that writes Guest memory here
//! goes that way, rings and data alike, so no device can forget to.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// Hears of what devices wrote into Guest memory, right after each write.
pub trait Written: Send + Sync {
    /// `length` bytes from byte `offset` of the memory file on are new.
    fn wrote(&self, offset: u64, length: u64);
}

/// A part of Guest-physical memory and where it is in the memory file. All in bytes, whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First Guest-physical address.
    pub guest: u64,
    /// Place in the file.
    pub offset: u64,
    /// How much.
    pub length: u64,
}

/// Guest memory, for devices.
pub type DmaMemory = GuestMemoryMmap<Watch>;

/// Devices cannot have their view of Guest memory.
#[derive(Debug, thiserror::Error)]
#[error("the host does not map Guest memory for devices: {0}")]
pub struct NoView(String);

/// Maps the parts of a memory file, lowest address first.
///
/// # Errors
/// [`NoView`] when the host refuses, or the parts overlap or lie outside the file.
pub fn view(file: &File, parts: &[Part], hears: &Arc<dyn Written>) -> Result<DmaMemory, NoView> {
    let refused = |cause: &dyn fmt::Display| NoView(cause.to_string());
    let bytes = file.metadata().map_err(|cause| refused(&cause))?.len();
    let mut regions = Vec::new();
    for part in parts {
        // A mapping behind the file's end would be a bus error for whoever touches it.
        if part.offset.checked_add(part.length).is_none_or(|end| end > bytes) {
            return Err(refused(&"a part lies outside the memory file"));
        }
        let own = file.try_clone().map_err(|cause| refused(&cause))?;
        let mapping = MmapRegionBuilder::new_with_bitmap(
            part.length as usize,
            Watch { hears: hears.clone(), base: part.offset },
        )
        .with_file_offset(FileOffset::new(own, part.offset))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        // The file's pages are the Guest's already; nothing is to be set aside for them again.
        .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
        .build()
        .map_err(|cause| refused(&cause))?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(part.guest));
        regions.push(region.ok_or_else(|| refused(&"a part wraps around the end of the address space"))?);
    }
    DmaMemory::from_regions(regions).map_err(|cause| refused(&cause))
}

/// The word on its way: a region's, in vm-memory's clothes.
pub struct Watch {
    hears: Arc<dyn Written>,
    /// Of the region, in the memory file.
    base: u64,
}

/// The same for a part of a region.
#[derive(Clone, Copy)]
pub struct WatchPart<'a> {
    hears: &'a dyn Written,
    base: u64,
}

impl<'a> WithBitmapSlice<'a> for Watch {
    type S = WatchPart<'a>;
}

impl Bitmap for Watch {
    fn mark_dirty(&self, offset: usize, length: usize) {
        self.slice_at(0).mark_dirty(offset, length);
    }

    /// Nothing is kept, so nothing is known to be dirty.
    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> WatchPart<'_> {
        WatchPart { hears: &*self.hears, base: self.base + offset as u64 }
    }
}

impl WithBitmapSlice<'_> for WatchPart<'_> {
    type S = Self;
}

impl BitmapSlice for WatchPart<'_> {}

impl Bitmap for WatchPart<'_> {
    fn mark_dirty(&self, offset: usize, length: usize) {
        self.hears.wrote(self.base + offset as u64, length as u64);
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> Self {
        WatchPart { hears: self.hears, base: self.base + offset as u64 }
    }
}

impl fmt::Debug for WatchPart<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "WatchPart({:#x})", self.base)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Watch({:#x})", self.base)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::Ordering;

    use vm_memory::Bytes;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<(u64, u64)>>);

    impl Written for Heard {
        fn wrote(&self, offset: u64, length: u64) {
            self.0.lock().unwrap().push((offset, length));
        }
    }

    fn two_parts() -> (DmaMemory, Arc<Heard>) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x4000).unwrap();
        let heard = Arc::new(Heard::default());
        let parts = [
            Part { guest: 0, offset: 0, length: 0x2000 },
            Part { guest: 0x10_0000, offset: 0x2000, length: 0x2000 },
        ];
        (view(&file, &parts, &(heard.clone() as Arc<dyn Written>)).unwrap(), heard)
    }

    #[test]
    fn every_kind_of_write_is_told_by_its_place_in_the_file() {
        let (memory, heard) = two_parts();
        memory.write_slice(&[1; 16], GuestAddress(0x1008)).unwrap();
        memory.write_obj(7u64, GuestAddress(0x10_0010)).unwrap();
        memory.store(7u16, GuestAddress(0x10_1002), Ordering::Release).unwrap();
        assert_eq!(*heard.0.lock().unwrap(), [(0x1008, 16), (0x2010, 8), (0x3002, 2)]);
    }

    #[test]
    fn reading_tells_nothing() {
        let (memory, heard) = two_parts();
        let mut bytes = [0; 8];
        memory.read_slice(&mut bytes, GuestAddress(0x10_0000)).unwrap();
        let _: u16 = memory.load(GuestAddress(0), Ordering::Acquire).unwrap();
        assert!(heard.0.lock().unwrap().is_empty());
    }

    #[test]
    fn parts_outside_the_file_or_over_each_other_are_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x2000).unwrap();
        let hears: Arc<dyn Written> = Arc::new(Heard::default());
        let outside = [Part { guest: 0, offset: 0x1000, length: 0x2000 }];
        assert!(view(&file, &outside, &hears).is_err());
        let twice = [Part { guest: 0, offset: 0, length: 0x1000 }; 2];
        assert!(view(&file, &twice, &hears).is_err());
    }
}
