//! What the loader says: the boot parameters, read once.
//!
//! Offsets: Documentation/arch/x86/zero-page.rst.

use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use lguest_abi::meeting::{
    BOOT_SETUP_DATA, BOOT_SUBARCH, BOOT_SUBARCH_DATA, GENERATION_1, GENERATION_2, GENERATION_MASK,
    HYPERCALL_BY_PORT, KERNEL_MINIMUM, SETUP_DATA_HEADER, SETUP_DEVICE_TREE, SUBARCH_LGUEST, descriptor_page,
};

use super::{heap, host, interrupts, paging, serial, tables};

const MEMORY_MAP_COUNT: usize = 0x1e8;
const MEMORY_MAP: usize = 0x2d0;
const MEMORY_MAP_ENTRY: usize = 20;
const MEMORY_MAP_MAXIMUM: usize = 128;
const USABLE: u32 = 1;
const RAMDISK_IMAGE: usize = 0x218;
const COMMAND_LINE: usize = 0x228;
/// Longer command lines are cut.
const COMMAND_LINE_MAXIMUM: usize = 2047;
/// Where the heap begins; see link.ld.
const HEAP_START: u64 = 0x20_0000;
/// Entries of setup_data looked at before the list is taken for a loop.
const SETUP_DATA_MAXIMUM: usize = 16;
/// A device tree larger than this is not ours.
const DEVICE_TREE_MAXIMUM: usize = 64 * 1024;
/// The program is started once, and so is its hardware.
static STARTED: AtomicBool = AtomicBool::new(false);

/// What a Guest has to know about its machine.
#[derive(Clone, Copy)]
pub struct BootInfo {
    /// End of the RAM that begins below the kernel.
    pub low_ram_end: u64,
    /// Where the descriptor page is, on an lguest machine of the first generation.
    pub descriptors: Option<u64>,
    /// Where the page of virtio devices is, on one of the second.
    pub device_page: Option<u64>,
    /// The command line.
    pub command_line: &'static str,
    /// A flattened device tree, if the loader left one.
    pub device_tree: &'static [u8],
}

/// Reads the boot parameters and starts what every Guest needs: tables, pages, heap. `entry!` calls it.
///
/// # Panics
/// When called a second time.
pub fn start(parameters: u64) -> BootInfo {
    assert!(!STARTED.swap(true, Ordering::Relaxed), "a machine is started once");
    serial::start();
    tables::load();
    interrupts::mask_legacy();
    paging::load();
    let at = |offset: usize| parameters + offset as u64;
    let low_ram_end = low_ram_end(parameters);
    let initrd = u64::from(read_u32(at(RAMDISK_IMAGE)));
    let heap_end = if initrd == 0 { low_ram_end } else { initrd.min(low_ram_end) };
    heap::give(HEAP_START, heap_end);
    let data = read_u64(at(BOOT_SUBARCH_DATA));
    let ours = read_u32(at(BOOT_SUBARCH)) == SUBARCH_LGUEST;
    let page_of =
        |generation| (ours && data & GENERATION_MASK == generation).then(|| descriptor_page(low_ram_end));
    host::choose(data & HYPERCALL_BY_PORT != 0);
    BootInfo {
        low_ram_end,
        descriptors: page_of(GENERATION_1),
        device_page: page_of(GENERATION_2),
        command_line: command_line(u64::from(read_u32(at(COMMAND_LINE)))),
        device_tree: device_tree(read_u64(at(BOOT_SETUP_DATA))),
    }
}

/// The end of the usable range that holds the kernel.
fn low_ram_end(parameters: u64) -> u64 {
    let count = usize::from(read_u8(parameters + MEMORY_MAP_COUNT as u64)).min(MEMORY_MAP_MAXIMUM);
    for index in 0..count {
        let entry = parameters + (MEMORY_MAP + index * MEMORY_MAP_ENTRY) as u64;
        let (start, length, kind) = (read_u64(entry), read_u64(entry + 8), read_u32(entry + 16));
        let end = start.saturating_add(length);
        if kind == USABLE && start <= KERNEL_MINIMUM && KERNEL_MINIMUM < end {
            return end;
        }
    }
    panic!("the memory map has no RAM where the kernel is");
}

fn command_line(at: u64) -> &'static str {
    if at == 0 {
        return "";
    }
    let length = (0..COMMAND_LINE_MAXIMUM).find(|index| read_u8(at + *index as u64) == 0);
    core::str::from_utf8(stay(at, length.unwrap_or(COMMAND_LINE_MAXIMUM))).unwrap_or("")
}

/// The device tree in the list of further boot data.
fn device_tree(head: u64) -> &'static [u8] {
    let mut at = head;
    for _ in 0..SETUP_DATA_MAXIMUM {
        if at == 0 {
            break;
        }
        let (next, kind, length) = (read_u64(at), read_u32(at + 8), read_u32(at + 12));
        if kind == SETUP_DEVICE_TREE && length as usize <= DEVICE_TREE_MAXIMUM {
            return stay(at + SETUP_DATA_HEADER as u64, length as usize);
        }
        at = next;
    }
    &[]
}

/// What the loader left and nobody overwrites: the heap begins above it, or ends below.
fn stay(at: u64, length: usize) -> &'static [u8] {
    // SAFETY: the loader placed these bytes outside the heap and the image, in mapped memory; nobody writes them.
    unsafe { core::slice::from_raw_parts(at as *const u8, length) }
}

fn read_u8(at: u64) -> u8 {
    // SAFETY: the boot parameters are mapped memory, and any bytes are a number.
    unsafe { ptr::read_volatile(at as *const u8) }
}

fn read_u32(at: u64) -> u32 {
    // SAFETY: the boot parameters are mapped memory, and any bytes are a number.
    unsafe { ptr::read_unaligned(at as *const u32) }
}

fn read_u64(at: u64) -> u64 {
    // SAFETY: the boot parameters are mapped memory, and any bytes are a number.
    unsafe { ptr::read_unaligned(at as *const u64) }
}
