//! The configuration space of a virtio function: who it is, and where the parts of its registers are (virtio 1.2, 4.1.2
//! and 4.1.4).

use std::ops::Range;

use super::super::DeviceKind;
use super::{NOTIFY_STEP, SIZE, part};
use crate::pci::configuration::{Configuration, Identity};
use crate::pci::msix::{ENABLE, FUNCTION_MASK};

/// Red Hat's vendor number, under which virtio is known (4.1.2).
const VENDOR: u16 = 0x1af4;
/// The first device number of virtio 1.0; the kind is added.
const FIRST_DEVICE: u16 = 0x1040;
/// A device that no driver from before 1.0 can mistake for its own (4.1.2.1).
const REVISION: u8 = 1;
/// Capability identifiers (PCI 3.0, appendix H).
const VENDOR_SPECIFIC: u8 = 9;
const MSI_X: u8 = 0x11;
/// Kinds of virtio capability (4.1.4).
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const INTERRUPT: u8 = 3;
const DEVICE: u8 = 4;
const ACCESS: u8 = 5;
/// Bytes of a virtio capability without what some have behind it.
const LENGTH: usize = 16;

/// Where in the space those parts are that more than the driver looks at.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// The MSI-X capability, if it has one.
    pub msix: Option<usize>,
    /// The capability by which the driver reaches the BAR without memory accesses.
    access: usize,
}

impl Places {
    /// The four bytes that stand for such an access.
    pub fn access_data(self) -> Range<usize> {
        self.access + LENGTH..self.access + LENGTH + 4
    }
}

/// An access as the space describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Which BAR.
    pub bar: u8,
    /// Where behind it.
    pub offset: u32,
    /// How many bytes.
    pub length: u32,
}

/// What the driver wants to reach through the space.
pub fn access(space: &Configuration, places: Places) -> Access {
    let word = |at: usize| space.double_word(places.access + at);
    Access { bar: word(4) as u8, offset: word(8), length: word(12) }
}

/// The space of a device of this kind, with so many MSI-X vectors, or without them.
pub fn space(kind: DeviceKind, address: u32, vectors: Option<u16>) -> (Configuration, Places) {
    let device = FIRST_DEVICE + kind as u16;
    let identity = Identity { vendor: VENDOR, device, class: class(kind), revision: REVISION };
    let mut space = Configuration::new(identity, SIZE, address);
    for (kind, part) in [(COMMON, part::COMMON), (INTERRUPT, part::INTERRUPT), (DEVICE, part::DEVICE)] {
        space.capability(VENDOR_SPECIFIC, &body(kind, &part, &[]), &[]);
    }
    let step = (NOTIFY_STEP as u32).to_le_bytes();
    space.capability(VENDOR_SPECIFIC, &body(NOTIFY, &part::NOTIFY, &step), &[]);
    // Bar, offset, length and data are the driver's to write; the length of the capability and its kind are not.
    let mut writable = [0xff; LENGTH - 2 + 4];
    writable[..2].fill(0);
    writable[3..6].fill(0);
    let access = space.capability(VENDOR_SPECIFIC, &body(ACCESS, &(0..0), &[0; 4]), &writable);
    let msix = vectors.map(|vectors| {
        let mut table = Vec::new();
        table.extend((vectors - 1).to_le_bytes());
        table.extend((part::TABLE.start as u32).to_le_bytes());
        table.extend((part::PENDING.start as u32).to_le_bytes());
        space.capability(MSI_X, &table, &(ENABLE | FUNCTION_MASK).to_le_bytes())
    });
    (space, Places { msix, access })
}

/// `struct virtio_pci_cap` behind its link, with what follows it (4.1.4).
fn body(kind: u8, part: &Range<u64>, more: &[u8]) -> Vec<u8> {
    let mut body = vec![(LENGTH + more.len()) as u8, kind, 0, 0, 0, 0];
    body.extend((part.start as u32).to_le_bytes());
    body.extend(((part.end - part.start) as u32).to_le_bytes());
    body.extend(more);
    body
}

/// The class by which programs that list devices tell what each is for (PCI 3.0, appendix D); no driver looks at it.
fn class(kind: DeviceKind) -> u32 {
    match kind {
        DeviceKind::Network => 0x02_0000,
        DeviceKind::Block => 0x01_8000,
        // Another communication controller.
        DeviceKind::Console => 0x07_8000,
        // No class that there is says what these are.
        DeviceKind::Entropy | DeviceKind::Balloon | DeviceKind::Socket | DeviceKind::FileSystem => 0xff_0000,
    }
}
