//! The descriptor page, field by field, as it stands at the moment of asking.

use alloc::rc::Rc;

use lguest_abi::descriptor::{Descriptor, MAX_DEVICES, Status};
use lguest_abi::meeting::PAGE_SIZE;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::model::{Buffer, Memory};

const SIZE: usize = size_of::<Descriptor>();
/// Offset of the status in a descriptor.
const STATUS: u64 = core::mem::offset_of!(Descriptor, status) as u64;

/// The mapped page.
pub struct Descriptors(Buffer);

impl Descriptors {
    /// Maps the page at a guest-physical address.
    #[must_use]
    pub fn map(memory: &Rc<dyn Memory>, at: u64) -> Descriptors {
        Descriptors(Buffer::mapped(memory, at, PAGE_SIZE as usize))
    }

    /// A copy of one descriptor; an empty one where the array ends.
    #[must_use]
    pub fn get(&self, index: usize) -> Descriptor {
        let mut bytes = [0; SIZE];
        if index < MAX_DEVICES {
            self.0.read((index * SIZE) as u64, &mut bytes);
        }
        Descriptor::read_from_bytes(&bytes).unwrap_or_else(|_| Descriptor::new_zeroed())
    }

    /// Adds status bits.
    pub fn add_status(&self, index: usize, bits: u16) {
        debug_assert!(bits & Status::REMOVED == 0, "REMOVED is the Host's bit");
        self.set_status(index, self.get(index).status | bits);
    }

    /// Overwrites the status: only the attribute of that name may clear bits.
    pub fn set_status(&self, index: usize, status: u16) {
        if index < MAX_DEVICES {
            self.0.write((index * SIZE) as u64 + STATUS, status.as_bytes());
        }
    }
}
