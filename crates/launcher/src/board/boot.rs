//! What a boot loader leaves in memory for a Linux kernel, and the state it enters with.
//!
//! Rules and offsets: Documentation/arch/x86/boot.rst ("32-bit Boot Protocol", "64-bit Boot Protocol") and zero-page.rst.
//! The header of the bzImage the kernel came from, if there was one, is copied into the boot parameters because the kernel
//! reads its own promises back from there.

use lguest_host::memory::{GuestAddress, Memory, MemoryError, PAGE_SIZE};
use lguest_translator::{LongModeEntry, ProtectedModeEntry};

use super::elf::LoadedKernel;
use super::layout;
use super::placing;

/// Bytes of the boot parameters.
const PARAMETERS_SIZE: usize = 4096;
/// Where the setup header lies in a bzImage and in the boot parameters alike.
const SETUP_HEADER: usize = 0x1f1;
/// The most a setup header can take before the next field of the boot parameters.
const SETUP_HEADER_END: usize = 0x290;
/// Where the length of the setup header is: the operand of the jump that skips it.
const SETUP_JUMP: usize = 0x201;
const ACPI_ROOT: usize = 0x070;
const MEMORY_MAP_COUNT: usize = 0x1e8;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const LOADER_TYPE: usize = 0x210;
const LOAD_FLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const COMMAND_LINE_POINTER: usize = 0x228;
const RAMDISK_MAXIMUM: usize = 0x22c;
const KERNEL_ALIGNMENT: usize = 0x230;
const COMMAND_LINE_SIZE: usize = 0x238;
const MEMORY_MAP: usize = 0x2d0;
/// "A boot loader without an assigned number."
const LOADER_UNKNOWN: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
/// The protocol version claimed for a kernel that came without a header: 2.12, the first with a 64-bit entry.
const PROTOCOL_2_12: u16 = 0x020c;
/// What x86 Linux accepts, without the final NUL, when its header does not say.
const COMMAND_LINE_DEFAULT: u32 = 2047;
/// The highest address of an initrd when the header does not say (boot.rst: 0x37ffffff for old kernels).
const RAMDISK_MAXIMUM_DEFAULT: u32 = 0x37ff_ffff;
/// The descriptor of flat 64-bit code (SDM vol. 3, 3.4.5).
const CODE_64: u64 = 0x00af_9b00_0000_ffff;

/// Why a kernel cannot be started with what it was given.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The bytes that should be a setup header are not one.
    #[error("the kernel's setup header has no HdrS magic: it is not a Linux bzImage, or older than 2.4")]
    SetupHeader,
    /// More text than the kernel reads.
    #[error("--cmdline is {length} bytes long, and this kernel reads {limit}")]
    CommandLineLength {
        /// What was asked.
        length: usize,
        /// What fits.
        limit: u32,
    },
    /// A NUL would end the text early.
    #[error("--cmdline contains a NUL byte")]
    CommandLineNul,
    /// No room between the kernel and the end of low memory.
    #[error(
        "the initrd takes {length} bytes, but only {room} bytes of memory are free above the kernel: try a larger --memory"
    )]
    InitrdSize {
        /// Its size.
        length: u64,
        /// What is free.
        room: u64,
    },
    /// A boot structure does not fit: the machine is smaller than its firmware area.
    #[error("a machine needs at least 1 MiB of memory to boot")]
    Memory(#[from] MemoryError),
}

/// What the loader is given besides the kernel.
pub struct Boot<'a> {
    /// The bzImage's bytes from 0x1f1, if the kernel came in one.
    pub setup_header: Option<&'a [u8]>,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// The initial RAM disk; empty for none.
    pub initrd: &'a [u8],
    /// Where the ACPI root pointer was put.
    pub acpi_root: GuestAddress,
}

impl Boot<'_> {
    /// Writes everything into Guest memory and says how to enter the kernel in 64-bit mode.
    ///
    /// # Errors
    /// [`BootError`], each one sentence for the user.
    pub fn place(&self, kernel: &LoadedKernel, memory: &Memory) -> Result<LongModeEntry, BootError> {
        self.place_parameters(kernel, memory)?;
        write_page_tables(memory)?;
        let gdt_limit = placing::descriptors(CODE_64, memory)?;
        Ok(LongModeEntry {
            rip: kernel.entry.0,
            rsp: layout::BOOT_STACK.0,
            rsi: layout::BOOT_PARAMETERS.0,
            cr3: layout::PAGE_TABLES.0,
            gdt: layout::GDT.0,
            gdt_limit,
        })
    }

    /// The same for 32-bit mode.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn place_32(&self, kernel: &LoadedKernel, memory: &Memory) -> Result<ProtectedModeEntry, BootError> {
        self.place_parameters(kernel, memory)?;
        let esi = layout::BOOT_PARAMETERS.0 as u32;
        Ok(ProtectedModeEntry { esi, ..placing::protected_mode(kernel, memory)? })
    }

    fn place_parameters(&self, kernel: &LoadedKernel, memory: &Memory) -> Result<(), BootError> {
        let mut parameters = self.parameters()?;
        let limit = get_u32(&parameters, COMMAND_LINE_SIZE);
        let text = placing::command_line(self.command_line, limit, memory)?;
        put(&mut parameters, COMMAND_LINE_POINTER, &text.to_le_bytes());
        let top = u64::from(get_u32(&parameters, RAMDISK_MAXIMUM)) + 1;
        if let Some(initrd) = placing::initrd(self.initrd, top, kernel, memory)? {
            put(&mut parameters, RAMDISK_IMAGE, &(initrd.start as u32).to_le_bytes());
            put(&mut parameters, RAMDISK_SIZE, &((initrd.end - initrd.start) as u32).to_le_bytes());
        }
        write_memory_map(&mut parameters, memory);
        Ok(memory.write(layout::BOOT_PARAMETERS, &parameters)?)
    }

    /// Boot parameters with the setup header in them, whoever wrote it, and the loader's own fields.
    fn parameters(&self) -> Result<[u8; PARAMETERS_SIZE], BootError> {
        let mut parameters = [0; PARAMETERS_SIZE];
        match self.setup_header {
            Some(header) => copy_header(&mut parameters, header)?,
            None => {
                put(&mut parameters, BOOT_FLAG, &0xaa55u16.to_le_bytes());
                put(&mut parameters, MAGIC, b"HdrS");
                put(&mut parameters, VERSION, &PROTOCOL_2_12.to_le_bytes());
                put(&mut parameters, RAMDISK_MAXIMUM, &RAMDISK_MAXIMUM_DEFAULT.to_le_bytes());
                put(&mut parameters, KERNEL_ALIGNMENT, &(2u32 << 20).to_le_bytes());
                put(&mut parameters, COMMAND_LINE_SIZE, &COMMAND_LINE_DEFAULT.to_le_bytes());
            }
        }
        parameters[LOADER_TYPE] = LOADER_UNKNOWN;
        parameters[LOAD_FLAGS] |= LOADED_HIGH;
        put(&mut parameters, ACPI_ROOT, &self.acpi_root.0.to_le_bytes());
        Ok(parameters)
    }
}

/// Copies as much of the header as it says it has, and never past the field's end.
fn copy_header(parameters: &mut [u8], header: &[u8]) -> Result<(), BootError> {
    let magic = MAGIC - SETUP_HEADER;
    if header.get(magic..magic + 4) != Some(b"HdrS") {
        return Err(BootError::SetupHeader);
    }
    let said = MAGIC + usize::from(header[SETUP_JUMP - SETUP_HEADER]);
    let end = said.min(SETUP_HEADER_END).min(SETUP_HEADER + header.len());
    put(parameters, SETUP_HEADER, &header[..end.saturating_sub(SETUP_HEADER)]);
    // A header too old to have these fields (2.02 and 2.05) gets what such kernels accept.
    for (at, default) in [(RAMDISK_MAXIMUM, RAMDISK_MAXIMUM_DEFAULT), (COMMAND_LINE_SIZE, 255)] {
        if get_u32(parameters, at) == 0 {
            put(parameters, at, &default.to_le_bytes());
        }
    }
    Ok(())
}

fn write_memory_map(parameters: &mut [u8], memory: &Memory) {
    let map = placing::memory_map(memory);
    parameters[MEMORY_MAP_COUNT] = map.len() as u8;
    for (index, (range, kind)) in map.into_iter().enumerate() {
        let at = MEMORY_MAP + index * 20;
        put(parameters, at, &range.start.to_le_bytes());
        put(parameters, at + 8, &(range.end - range.start).to_le_bytes());
        put(parameters, at + 16, &kind.to_le_bytes());
    }
}

/// Identity page tables of 2 MiB pages, which every 64-bit processor has.
fn write_page_tables(memory: &Memory) -> Result<(), BootError> {
    const PRESENT_WRITABLE: u64 = 0x3;
    const LARGE: u64 = 0x80;
    let root = layout::PAGE_TABLES.0;
    let pointers = root + PAGE_SIZE;
    let directories = pointers + PAGE_SIZE;
    put_entry(memory, root, 0, pointers | PRESENT_WRITABLE)?;
    for gibibyte in 0..layout::IDENTITY_GIBIBYTES {
        let directory = directories + gibibyte * PAGE_SIZE;
        put_entry(memory, pointers, gibibyte, directory | PRESENT_WRITABLE)?;
        for page in 0..512 {
            let target = gibibyte << 30 | page << 21;
            put_entry(memory, directory, page, target | PRESENT_WRITABLE | LARGE)?;
        }
    }
    Ok(())
}

fn put_entry(memory: &Memory, table: u64, index: u64, entry: u64) -> Result<(), BootError> {
    Ok(memory.write(GuestAddress(table + index * 8), &entry.to_le_bytes())?)
}

fn put(parameters: &mut [u8], at: usize, bytes: &[u8]) {
    parameters[at..at + bytes.len()].copy_from_slice(bytes);
}

fn get_u32(parameters: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&parameters[at..at + 4]);
    u32::from_le_bytes(bytes)
}

#[cfg(test)]
#[path = "boot_tests.rs"]
mod tests;
