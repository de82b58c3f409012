//! What every loader puts into memory: a command line, a RAM disk, flat segments, and the list of what is RAM.

use std::ops::Range;

use lguest_host::memory::{GuestAddress, HOLE_END, Memory, PAGE_SIZE};
use lguest_translator::ProtectedModeEntry;

use super::boot::BootError;
use super::elf::LoadedKernel;
use super::layout;

/// A range of memory that is RAM (ACPI 6.5, 15.1; Multiboot and PVH took these numbers over).
pub const MAP_USABLE: u32 = 1;
/// One that is not.
pub const MAP_RESERVED: u32 = 2;

/// The descriptor of flat 32-bit code, and of flat data for code of any width (SDM vol. 3, 3.4.5).
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;

/// Writes the kernel's command line, of at most `limit` bytes, and says where it is.
pub fn command_line(text: &str, limit: u32, memory: &Memory) -> Result<u32, BootError> {
    // The limit comes from a file that may be anybody's; the room below the firmware is ours.
    let room = (layout::LOW_RAM_END.0 - layout::COMMAND_LINE.0) as u32 - 1;
    let limit = limit.min(room);
    if text.len() > limit as usize {
        return Err(BootError::CommandLineLength { length: text.len(), limit });
    }
    if text.as_bytes().contains(&0) {
        return Err(BootError::CommandLineNul);
    }
    memory.write(layout::COMMAND_LINE, text.as_bytes())?;
    memory.write(GuestAddress(layout::COMMAND_LINE.0 + text.len() as u64), &[0])?;
    Ok(layout::COMMAND_LINE.0 as u32)
}

/// Puts the initrd below `top` as high in RAM as it goes, at a page; None when there is none.
pub fn initrd(
    initrd: &[u8],
    top: u64,
    kernel: &LoadedKernel,
    memory: &Memory,
) -> Result<Option<Range<u64>>, BootError> {
    let length = initrd.len() as u64;
    if length == 0 {
        return Ok(None);
    }
    let top = memory.low_end().0.min(top);
    let bottom = kernel.occupied.end.next_multiple_of(PAGE_SIZE);
    let room = top.saturating_sub(bottom);
    let refused = BootError::InitrdSize { length, room };
    let Some(highest) = top.checked_sub(length) else { return Err(refused) };
    let start = highest & !(PAGE_SIZE - 1);
    if start < bottom {
        return Err(refused);
    }
    memory.write(GuestAddress(start), initrd)?;
    Ok(Some(start..start + length))
}

/// What is RAM and what is not, as a PC's firmware would say it.
pub fn memory_map(memory: &Memory) -> Vec<(Range<u64>, u32)> {
    let mut map = vec![
        (0..layout::LOW_RAM_END.0, MAP_USABLE),
        (layout::LOW_RAM_END.0..layout::KERNEL_MINIMUM.0, MAP_RESERVED),
        (layout::KERNEL_MINIMUM.0..memory.low_end().0, MAP_USABLE),
    ];
    let high = memory.regions().iter().filter(|region| region.start >= HOLE_END);
    map.extend(high.map(|region| (region.start..region.start + region.length, MAP_USABLE)));
    map
}

/// The two segments that Linux' protocols ask for and the others allow: code at 0x10, data at 0x18. Returns the table's limit.
pub fn descriptors(code: u64, memory: &Memory) -> Result<u16, BootError> {
    let table: Vec<u8> = [0, 0, code, DATA].iter().flat_map(|one: &u64| one.to_le_bytes()).collect();
    memory.write(layout::GDT, &table)?;
    Ok(table.len() as u16 - 1)
}

/// A start in 32-bit mode with no registers set but the stack's.
pub fn protected_mode(kernel: &LoadedKernel, memory: &Memory) -> Result<ProtectedModeEntry, BootError> {
    let gdt_limit = descriptors(CODE_32, memory)?;
    // RAM below the hole ends below 4 GiB, and kernels are loaded nowhere else.
    let eip = u32::try_from(kernel.entry.0).expect("a kernel lies below 4 GiB");
    Ok(ProtectedModeEntry {
        eip,
        eax: 0,
        ebx: 0,
        esi: 0,
        esp: layout::BOOT_STACK.0 as u32,
        gdt: layout::GDT.0 as u32,
        gdt_limit,
    })
}
