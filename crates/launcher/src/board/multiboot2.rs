//! What a Multiboot 2 kernel finds: a magic number in `eax`, and in `ebx` the address of a list of tags.
//!
//! Source of every offset: Multiboot2 Specification 2.0, 3.3 and 3.6. The list begins with its size and a reserved word; a
//! tag is its type, its size and its contents, and the next one begins at a multiple of eight. The command line stands in
//! its tag, so there is no other place for it.

use lguest_host::memory::{GuestAddress, Memory};
use lguest_translator::ProtectedModeEntry;

use super::boot::{Boot, BootError};
use super::elf::LoadedKernel;
use super::layout;
use super::multiboot1::{MODULE_NAME, two_sizes};
use super::placing;

const MAGIC: u32 = 0x36d7_6289;
const INFORMATION: u64 = layout::BOOT_PARAMETERS.0;
/// What the list takes beside the command line is less than half of its page.
const COMMAND_LINE_LIMIT: usize = 2047;

/// Types of tags.
const END: u32 = 0;
const COMMAND_LINE: u32 = 1;
const LOADER_NAME: u32 = 2;
const MODULE: u32 = 3;
const TWO_SIZES: u32 = 4;
const MEMORY_MAP: u32 = 6;
/// A copy of ACPI's root pointer: the part that its first version had, or all of it.
const OLD_ROOT: u32 = 14;
const NEW_ROOT: u32 = 15;
/// Bytes of that pointer in either version (ACPI 6.5, 5.2.5.3).
const OLD_ROOT_SIZE: usize = 20;
const NEW_ROOT_SIZE: usize = 36;
/// Bytes of an entry in the memory map, and the version of such entries.
const ENTRY_SIZE: u32 = 24;
const ENTRY_VERSION: u32 = 0;

/// Writes everything into Guest memory and says how to enter the kernel.
pub fn place(boot: &Boot, kernel: &LoadedKernel, memory: &Memory) -> Result<ProtectedModeEntry, BootError> {
    let text = boot.command_line.as_bytes();
    if text.len() > COMMAND_LINE_LIMIT {
        return Err(BootError::CommandLineLength { length: text.len(), limit: COMMAND_LINE_LIMIT as u32 });
    }
    if text.contains(&0) {
        return Err(BootError::CommandLineNul);
    }
    let mut list = TagList::default();
    list.add(COMMAND_LINE, &[text, &[0]]);
    list.add(LOADER_NAME, &[b"lguest\0"]);
    if let Some(range) = placing::initrd(boot.initrd, u64::MAX, kernel, memory)? {
        let bounds = [range.start as u32, range.end as u32].map(u32::to_le_bytes).concat();
        list.add(MODULE, &[&bounds, MODULE_NAME]);
    }
    list.add(TWO_SIZES, &[&two_sizes(memory).map(u32::to_le_bytes).concat()]);
    let mut map = [ENTRY_SIZE, ENTRY_VERSION].map(u32::to_le_bytes).concat();
    for (range, kind) in placing::memory_map(memory) {
        map.extend([range.start, range.end - range.start, kind.into()].map(u64::to_le_bytes).concat());
    }
    list.add(MEMORY_MAP, &[&map]);
    let mut root = [0; NEW_ROOT_SIZE];
    memory.read(boot.acpi_root, &mut root)?;
    list.add(OLD_ROOT, &[&root[..OLD_ROOT_SIZE]]);
    list.add(NEW_ROOT, &[&root]);
    memory.write(GuestAddress(INFORMATION), &list.finish())?;
    let entry = placing::protected_mode(kernel, memory)?;
    Ok(ProtectedModeEntry { eax: MAGIC, ebx: INFORMATION as u32, ..entry })
}

/// The list in the making, without its own size.
#[derive(Default)]
struct TagList(Vec<u8>);

impl TagList {
    fn add(&mut self, kind: u32, parts: &[&[u8]]) {
        let contents = parts.concat();
        self.0.extend(kind.to_le_bytes());
        // The size counts itself and the type, and not the bytes up to the next multiple of eight.
        self.0.extend((8 + contents.len() as u32).to_le_bytes());
        self.0.extend(contents);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add(END, &[]);
        let size = 8 + self.0.len() as u32;
        [&size.to_le_bytes()[..], &[0; 4], &self.0].concat()
    }
}
