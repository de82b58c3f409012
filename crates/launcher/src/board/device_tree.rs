//! The 2007 mail's first transport on this board: a device tree in the boot data, bytes by two hypercalls (lguest-abi,
//! `pipe`).
//!
//! ```text
//!   boot parameters --setup_data--> header {0, 2, length} | flattened tree: one node a pipe
//! ```
//! Layout: Devicetree Specification 0.4, chapter 5. A tree of one kind of node is a page of code, so it is ours. The default
//! Guest finds virtio in memory by such a tree too; Linux on a PC reads the ACPI tables instead.

use lguest_abi::meeting::{BOOT_SETUP_DATA, SETUP_DATA_HEADER, SETUP_DEVICE_TREE};
use lguest_abi::pipe::{BUFFER_SIZE, COMPATIBLE, DEVICE, FIRST_IRQ, GREETING, ID_PROPERTY};
use lguest_devices::virtio::mmio::REGISTERS;
use lguest_host::dma::Area;
use lguest_host::memory::{GuestAddress, Memory, MemoryError};

use super::layout;

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;
/// Version of the layout, and the oldest one that a reader may know.
const VERSION: [u32; 2] = [17, 16];
/// Bytes of the header, and of the empty list of reserved ranges behind it.
const HEADER: usize = 40;
const NO_RESERVED_RANGES: usize = 16;
/// -EFAULT: the bytes are no memory of the Guest.
const NO_MEMORY: u64 = -14i64 as u64;
/// -ENODEV: nothing has that handle.
const NO_DEVICE: u64 = -19i64 as u64;
/// The one pipe's handle.
const HANDLE: u64 = 1;

/// Two blocks that a tree is written into.
#[derive(Default)]
struct Tree {
    structure: Vec<u8>,
    names: Vec<u8>,
}

impl Tree {
    fn token(&mut self, token: u32) {
        self.structure.extend(token.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.structure.extend(bytes);
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn begin(&mut self, name: &str) {
        self.token(BEGIN_NODE);
        self.bytes(&[name.as_bytes(), &[0]].concat());
    }

    fn property(&mut self, name: &str, value: &[u8]) {
        self.token(PROPERTY);
        self.token(value.len() as u32);
        self.token(self.names.len() as u32);
        self.names.extend(name.as_bytes());
        self.names.push(0);
        self.bytes(value);
    }

    /// Header, no reserved ranges, structure, names.
    fn blob(self) -> Vec<u8> {
        let structure = HEADER + NO_RESERVED_RANGES;
        let names = structure + self.structure.len();
        let total = names + self.names.len();
        let [version, oldest] = VERSION;
        let lengths = [self.names.len(), self.structure.len()].map(|length| length as u32);
        let offsets = [total, structure, names, HEADER].map(|offset| offset as u32);
        let header = [&[MAGIC][..], &offsets, &[version, oldest, 0], &lengths].concat();
        let header = header.iter().flat_map(|word| word.to_be_bytes());
        header.chain([0; NO_RESERVED_RANGES]).chain(self.structure).chain(self.names).collect()
    }
}

/// The tree of a machine with one pipe.
fn tree() -> Vec<u8> {
    let mut tree = Tree::default();
    tree.begin("");
    tree.property("#address-cells", &1u32.to_be_bytes());
    tree.property("#size-cells", &0u32.to_be_bytes());
    tree.begin(&format!("pipe@{HANDLE:x}"));
    tree.property("compatible", format!("{COMPATIBLE}\0").as_bytes());
    tree.property(ID_PROPERTY, &u32::from(DEVICE).to_be_bytes());
    tree.property("reg", &(HANDLE as u32).to_be_bytes());
    tree.property("interrupts", &u32::from(FIRST_IRQ).to_be_bytes());
    tree.token(END_NODE);
    tree.token(END_NODE);
    tree.token(END);
    tree.blob()
}

/// The tree of a machine with so many virtio devices in memory (virtio 1.2, 4.2.1).
fn virtio_tree(devices: u8) -> Vec<u8> {
    let mut tree = Tree::default();
    tree.begin("");
    tree.property("#address-cells", &1u32.to_be_bytes());
    tree.property("#size-cells", &1u32.to_be_bytes());
    for slot in 0..devices {
        let window = layout::virtio_window(slot) as u32;
        tree.begin(&format!("virtio_mmio@{window:x}"));
        tree.property("compatible", b"virtio,mmio\0");
        tree.property("reg", &[window, REGISTERS as u32].map(u32::to_be_bytes).concat());
        tree.property("interrupts", &u32::from(layout::MAPPED_GSIS[usize::from(slot)]).to_be_bytes());
        tree.token(END_NODE);
    }
    tree.token(END_NODE);
    tree.token(END);
    tree.blob()
}

/// Adds the tree of the lguest bus to the boot data of a Guest whose boot parameters are written.
///
/// # Errors
/// [`MemoryError`] for a machine smaller than its boot parameters.
pub fn place(memory: &Memory) -> Result<(), MemoryError> {
    place_blob(memory, tree())
}

/// The same with the tree of so many virtio devices.
///
/// # Errors
/// As for [`place`].
pub fn place_virtio(memory: &Memory, devices: u8) -> Result<(), MemoryError> {
    place_blob(memory, virtio_tree(devices))
}

fn place_blob(memory: &Memory, blob: Vec<u8>) -> Result<(), MemoryError> {
    let mut data = [0; SETUP_DATA_HEADER];
    data[8..12].copy_from_slice(&SETUP_DEVICE_TREE.to_le_bytes());
    data[12..].copy_from_slice(&(blob.len() as u32).to_le_bytes());
    let at = layout::DEVICE_TREE;
    memory.write(at, &data)?;
    memory.write(GuestAddress(at.0 + data.len() as u64), &blob)?;
    let head = GuestAddress(layout::BOOT_PARAMETERS.0 + BOOT_SETUP_DATA as u64);
    memory.write(head, &at.0.to_le_bytes())
}

/// The Host's end of the tree's pipe.
#[derive(Default)]
pub struct TreePipe {
    /// How much of the text the Guest has.
    given: usize,
}

impl TreePipe {
    /// HV_READ and HV_WRITE: what goes to rax. One transfer moves at most [`BUFFER_SIZE`] bytes, whatever was asked.
    pub fn transfer(&mut self, area: &Area, write: bool, handle: u64, buffer: u64, length: u64) -> u64 {
        if handle != HANDLE {
            return NO_DEVICE;
        }
        if !area.holds(buffer, length) {
            return NO_MEMORY;
        }
        let length = length.min(BUFFER_SIZE.into());
        if write {
            // Connected to nothing, like its twin on the page: the bytes are read, and forgotten.
            let mut bytes = vec![0; length as usize];
            return area.read(buffer, &mut bytes).map_or(NO_MEMORY, |()| length);
        }
        let rest = &GREETING.as_bytes()[self.given..];
        let count = rest.len().min(length as usize);
        if area.write(buffer, &rest[..count]).is_err() {
            return NO_MEMORY;
        }
        self.given += count;
        count as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lguest_host::dma::Form;
    use std::sync::Arc;

    const LIMIT: u64 = 0x2_0000;

    fn area() -> Area {
        Area::new(Arc::new(Memory::new(LIMIT).unwrap()), LIMIT, Form::Bits64)
    }

    #[test]
    fn the_tree_lies_where_the_boot_parameters_say_and_has_the_pipe() {
        let memory = Memory::new(1 << 20).unwrap();
        place(&memory).unwrap();
        let word = |at: u64| {
            let mut bytes = [0; 8];
            memory.read(GuestAddress(at), &mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        };
        let at = word(layout::BOOT_PARAMETERS.0 + 0x250);
        let mut blob = vec![0; (word(at + 8) >> 32) as usize];
        assert_eq!((word(at), word(at + 8) as u32), (0, 2));
        memory.read(GuestAddress(at + 16), &mut blob).unwrap();
        assert_eq!(blob, tree());
        let big = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!((big(0), big(4)), (0xd00d_feed, blob.len()));
        assert_eq!(big(8) + big(36), big(12), "the names follow the structure");
        assert_eq!(big(12) + big(32), blob.len(), "and end the tree");
        assert_eq!(big(big(12) - 4), 9);
    }

    #[test]
    fn the_text_comes_in_pieces_and_then_nothing() {
        let (area, mut pipe, mut text) = (area(), TreePipe::default(), Vec::new());
        loop {
            let count = pipe.transfer(&area, false, HANDLE, 0x1000, 10);
            let mut piece = vec![0; count as usize];
            area.read(0x1000, &mut piece).unwrap();
            text.extend(piece);
            if count == 0 {
                break;
            }
        }
        assert_eq!(text, GREETING.as_bytes());
        assert_eq!(pipe.transfer(&area, true, HANDLE, 0x1000, 10), 10);
        assert_eq!(pipe.transfer(&area, true, HANDLE, 0, LIMIT), 4096, "no transfer is longer");
    }

    #[test]
    fn no_memory_and_no_such_handle_are_error_numbers() {
        let (area, mut pipe) = (area(), TreePipe::default());
        for write in [false, true] {
            for (buffer, length) in [(LIMIT, 1), (LIMIT - 1, 2), (u64::MAX, 1), (0, u64::MAX)] {
                assert_eq!(pipe.transfer(&area, write, HANDLE, buffer, length) as i64, -14);
            }
            assert_eq!(pipe.transfer(&area, write, 0, 0x1000, 10) as i64, -19);
            assert_eq!(pipe.transfer(&area, write, 2, 0x1000, 10) as i64, -19);
        }
        assert_eq!(pipe.transfer(&area, false, HANDLE, LIMIT - 10, 10), 10, "refusals lost no byte");
    }
}
