//! What a Multiboot kernel finds: a magic number in `eax`, and in `ebx` the address of the information.
//!
//! Source of every offset: Multiboot Specification 0.6.96, 3.2 and 3.3.
//!
//! ```text
//!   0x7000 information   0x7080 one module   0x70a0 names   0x7100 memory map, 24 bytes an entry
//! ```

use lguest_host::memory::{GuestAddress, Memory};
use lguest_translator::ProtectedModeEntry;

use super::boot::{Boot, BootError};
use super::elf::LoadedKernel;
use super::layout;
use super::placing;

const MAGIC: u32 = 0x2bad_b002;
const INFORMATION: u64 = layout::BOOT_PARAMETERS.0;
const MODULE: u64 = INFORMATION + 0x80;
const NAMES: u64 = INFORMATION + 0xa0;
const MEMORY_MAP: u64 = INFORMATION + 0x100;
/// Bytes of the information, whose last fields (a screen's) stay zero.
const INFORMATION_SIZE: usize = 116;
/// The protocol has no limit; this one is generous to every kernel seen.
const COMMAND_LINE_LIMIT: u32 = 4095;

/// Flags: which fields mean something.
const HAS_MEMORY: u32 = 1 << 0;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MEMORY_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;

/// What the loader and the module are called, one behind the other.
const LOADER_NAME: &[u8] = b"lguest\0";
/// What the module is called.
pub const MODULE_NAME: &[u8] = b"initrd\0";

/// Bytes of a memory map's entry behind its own first field, which says so.
const ENTRY_SIZE: u32 = 20;

/// Memory below 640 KiB and from 1 MiB to the first hole, in KiB: what kernels of 1995 asked the firmware for.
pub fn two_sizes(memory: &Memory) -> [u32; 2] {
    let upper = memory.low_end().0.saturating_sub(layout::KERNEL_MINIMUM.0);
    [(layout::LOW_RAM_END.0 >> 10) as u32, (upper >> 10) as u32]
}

/// Writes everything into Guest memory and says how to enter the kernel.
pub fn place(boot: &Boot, kernel: &LoadedKernel, memory: &Memory) -> Result<ProtectedModeEntry, BootError> {
    let text = placing::command_line(boot.command_line, COMMAND_LINE_LIMIT, memory)?;
    let module = placing::initrd(boot.initrd, u64::MAX, kernel, memory)?;
    let map = placing::memory_map(memory);
    let [lower, upper] = two_sizes(memory);
    let modules = if module.is_some() { HAS_MODULES } else { 0 };
    let flags = HAS_MEMORY | HAS_COMMAND_LINE | HAS_MEMORY_MAP | HAS_LOADER_NAME | modules;

    let mut information = [0; INFORMATION_SIZE];
    let map_length = map.len() as u32 * (ENTRY_SIZE + 4);
    let fields = [
        (0, flags),
        (4, lower),
        (8, upper),
        (16, text),
        (20, module.iter().len() as u32),
        (24, MODULE as u32),
        (44, map_length),
        (48, MEMORY_MAP as u32),
        (64, NAMES as u32),
    ];
    for (at, value) in fields {
        information[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    memory.write(GuestAddress(INFORMATION), &information)?;
    memory.write(GuestAddress(NAMES), &[LOADER_NAME, MODULE_NAME].concat())?;
    if let Some(range) = module {
        let name = NAMES + LOADER_NAME.len() as u64;
        let entry = [range.start as u32, range.end as u32, name as u32, 0].map(u32::to_le_bytes).concat();
        memory.write(GuestAddress(MODULE), &entry)?;
    }
    let mut entries = Vec::new();
    for (range, kind) in map {
        entries.extend(ENTRY_SIZE.to_le_bytes());
        entries.extend(range.start.to_le_bytes());
        entries.extend((range.end - range.start).to_le_bytes());
        entries.extend(kind.to_le_bytes());
    }
    memory.write(GuestAddress(MEMORY_MAP), &entries)?;
    let entry = placing::protected_mode(kernel, memory)?;
    Ok(ProtectedModeEntry { eax: MAGIC, ebx: INFORMATION as u32, ..entry })
}
