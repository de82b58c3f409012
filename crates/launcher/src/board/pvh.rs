//! What a PVH kernel finds: `ebx` points at `hvm_start_info`, and that at everything else.
//!
//! Source of every offset: Xen, xen/include/public/arch-x86/hvm/start_info.h (version 1 of the structure), and
//! docs/misc/pvh.pandoc for the state of the processor.
//!
//! ```text
//!   0x7000 start info   0x7040 one module   0x7080 memory map, 24 bytes an entry
//! ```

use lguest_host::memory::{GuestAddress, Memory};
use lguest_translator::ProtectedModeEntry;

use super::boot::{Boot, BootError};
use super::elf::LoadedKernel;
use super::layout;
use super::placing;

/// "xEn3" with the E's highest bit set.
const MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const VERSION: u32 = 1;
const START_INFO: u64 = layout::BOOT_PARAMETERS.0;
const MODULE: u64 = START_INFO + 0x40;
const MEMORY_MAP: u64 = START_INFO + 0x80;
/// The protocol has no limit; this one is generous to every kernel seen.
const COMMAND_LINE_LIMIT: u32 = 4095;

/// Writes everything into Guest memory and says how to enter the kernel.
pub fn place(boot: &Boot, kernel: &LoadedKernel, memory: &Memory) -> Result<ProtectedModeEntry, BootError> {
    let text = placing::command_line(boot.command_line, COMMAND_LINE_LIMIT, memory)?;
    let module = placing::initrd(boot.initrd, u64::MAX, kernel, memory)?;
    let map = placing::memory_map(memory);

    let mut info = Vec::new();
    [MAGIC, VERSION, 0, module.iter().len() as u32].iter().for_each(|word| info.extend(word.to_le_bytes()));
    for address in [module.as_ref().map_or(0, |_| MODULE), text.into(), boot.acpi_root.0, MEMORY_MAP] {
        info.extend(address.to_le_bytes());
    }
    info.extend((map.len() as u32).to_le_bytes());
    info.extend(0u32.to_le_bytes());
    memory.write(GuestAddress(START_INFO), &info)?;

    if let Some(range) = module {
        // Address, size, command line (none), reserved.
        let entry = [range.start, range.end - range.start, 0, 0];
        memory.write(GuestAddress(MODULE), &entry.map(u64::to_le_bytes).concat())?;
    }
    let entries = map.into_iter().flat_map(|(range, kind)| {
        [range.start, range.end - range.start, kind.into()].map(u64::to_le_bytes).concat()
    });
    memory.write(GuestAddress(MEMORY_MAP), &entries.collect::<Vec<u8>>())?;
    Ok(ProtectedModeEntry { ebx: START_INFO as u32, ..placing::protected_mode(kernel, memory)? })
}
