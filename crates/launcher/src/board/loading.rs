//! From a kernel's file to its bytes in memory and the state it is entered in, by the protocol that it asks for.

use std::ops::Range;

use lguest_host::memory::{GuestAddress, Memory};
use lguest_translator::StartState;

use super::boot::{Boot, BootError};
use super::elf::{self, ElfError, LoadedKernel};
use super::layout;
use super::{multiboot1, multiboot2, pvh};
use crate::kernel_image::flat::Addresses;
use crate::kernel_image::program::{Kernel, Program};
use crate::kernel_image::protocol::{Protocol, ProtocolError};
use crate::kernel_image::setup_header;

/// Why a kernel cannot be loaded. Each is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It asks for what this machine does not have.
    #[error("the kernel {0}")]
    Protocol(#[from] ProtocolError),
    /// Its bytes.
    #[error(transparent)]
    Kernel(#[from] ElfError),
    /// The command line, the initrd, the setup header.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The lguest bus tells its Guest where it is by Linux' boot parameters.
    #[error(
        "--bus lguest-dma: this kernel is entered by {0}, which cannot tell it of that bus; leave it out"
    )]
    NoBus(&'static str),
}

/// Loads a kernel and all that it is told, and says how to enter it. `by_parameters`: the machine's bus is announced in Linux'
/// boot parameters.
///
/// # Errors
/// [`LoadError`]; nothing was run, some bytes may have been copied.
pub fn place(
    kernel: &Kernel,
    boot: &Boot,
    by_parameters: bool,
    memory: &Memory,
) -> Result<StartState, LoadError> {
    let protocol = Protocol::of(kernel)?;
    if let (true, Some(name)) = (by_parameters, foreign(&protocol)) {
        return Err(LoadError::NoBus(name));
    }
    let mut loaded = match (&protocol, protocol.addresses()) {
        (Protocol::Compressed32, _) => decompressor(kernel, memory)?,
        (_, Some(addresses)) => flat(&kernel.program, &addresses, memory)?,
        (_, None) => elf::load(&kernel.program, memory)?,
    };
    let own_entry = match &protocol {
        Protocol::Pvh(entry) => Some(*entry),
        Protocol::Multiboot2(header) => header.entry.map(u64::from),
        _ => None,
    };
    if let Some(entry) = own_entry {
        if !loaded.occupied.contains(&entry) {
            return Err(ElfError::Wrong("the entry that it asks for lies in no segment").into());
        }
        loaded.entry = GuestAddress(entry);
    }
    Ok(match protocol {
        Protocol::Linux64 => StartState::Long(boot.place(&loaded, memory)?),
        Protocol::Linux32 | Protocol::Compressed32 => StartState::Protected(boot.place_32(&loaded, memory)?),
        Protocol::Pvh(_) => StartState::Protected(pvh::place(boot, &loaded, memory)?),
        Protocol::Multiboot1(_) => StartState::Protected(multiboot1::place(boot, &loaded, memory)?),
        Protocol::Multiboot2(_) => StartState::Protected(multiboot2::place(boot, &loaded, memory)?),
    })
}

/// The name of a protocol that has no boot parameters.
fn foreign(protocol: &Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Linux64 | Protocol::Linux32 | Protocol::Compressed32 => None,
        Protocol::Pvh(_) => Some("PVH"),
        Protocol::Multiboot1(_) => Some("Multiboot"),
        Protocol::Multiboot2(_) => Some("Multiboot 2"),
    }
}

/// Bytes that go where a header says. Memory is zero already.
fn flat(program: &Program, addresses: &Addresses, memory: &Memory) -> Result<LoadedKernel, LoadError> {
    let length = program.length().map_err(|cause| ElfError::Unreadable(cause.to_string()))?;
    let (file, occupied) = addresses.ranges(length).ok_or(ProtocolError::Addresses)?;
    copy(program, file, &occupied, memory)?;
    Ok(LoadedKernel { entry: GuestAddress(addresses.entry.into()), occupied })
}

/// The code of a bzImage, at the first address that kernels may have. It moves itself to where it wants to unpack.
pub(super) fn decompressor(kernel: &Kernel, memory: &Memory) -> Result<LoadedKernel, LoadError> {
    let length = kernel.program.length().map_err(|cause| ElfError::Unreadable(cause.to_string()))?;
    let start = layout::KERNEL_MINIMUM.0;
    let header = kernel.setup_header.as_deref().unwrap_or_default();
    let end = setup_header::unpacked_end(header, start).ok_or(BootError::SetupHeader)?;
    let occupied = start..end.max(start + length);
    copy(&kernel.program, 0..length, &occupied, memory)?;
    Ok(LoadedKernel { entry: GuestAddress(start), occupied })
}

fn copy(program: &Program, file: Range<u64>, to: &Range<u64>, memory: &Memory) -> Result<(), LoadError> {
    let possible = layout::KERNEL_MINIMUM.0..memory.low_end().0;
    if to.start < possible.start || to.end > possible.end {
        return Err(ElfError::OutsideMemory { wanted: to.clone(), possible }.into());
    }
    let copied = program.copy(file, memory, GuestAddress(to.start));
    Ok(copied.map_err(|cause| ElfError::Unreadable(cause.to_string()))?)
}
