//! How a kernel wants to be entered, found out by what its file is.
//!
//! | file | protocol |
//! |---|---|
//! | bzImage with a 64-bit entry | Linux', 64 bits: the kernel inside is unpacked here |
//! | bzImage without one | Linux', 32 bits: its own decompressor runs in the Guest |
//! | ELF with the note XEN_ELFNOTE_PHYS32_ENTRY | PVH |
//! | header of Multiboot 2, then 1 | that, as ELF or by the header's addresses |
//! | any other ELF | Linux' of its width |
//!
//! The note comes first because only a loader reads it: a kernel that has both loses nothing by it.

use std::io;

use thiserror::Error;

use super::elf_headers::Class;
use super::flat::Addresses;
use super::program::Kernel;
use super::setup_header;
use super::{elf, multiboot1, multiboot2, note};

/// The state and the information that a kernel is entered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Linux' 64-bit boot protocol, for an ELF file.
    Linux64,
    /// Linux' 32-bit boot protocol, for an ELF file.
    Linux32,
    /// The same for the code of a bzImage, which decompresses itself.
    Compressed32,
    /// PVH, at this entry.
    Pvh(u64),
    /// Multiboot.
    Multiboot1(multiboot1::Header),
    /// Multiboot 2.
    Multiboot2(multiboot2::Header),
}

/// Why a kernel that says how it wants to be loaded cannot be. Each reads on after the file's name, or after "the kernel".
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProtocolError {
    /// The file.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Graphics, or text in a PC's video memory.
    #[error(
        "asks for a screen ({0}), and this machine has only serial ports; build it to print on the first one"
    )]
    Screen(&'static str),
    /// Of Multiboot.
    #[error(
        "asks for what no loader knows yet: flag {0} of its Multiboot header; flags 0, 1 and 16 would do"
    )]
    UnknownFlag(u32),
    /// Of Multiboot 2.
    #[error(
        "asks for what this machine does not have: tag {0} of its Multiboot 2 header; mark it as optional"
    )]
    UnknownTag(u16),
    /// Of Multiboot 2.
    #[error("asks for boot information of type {0}, which this machine does not have; mark it as optional")]
    Information(u32),
    /// Of Multiboot 2.
    #[error("has a Multiboot 2 header for MIPS; one for i386 (architecture 0) is needed")]
    OtherArchitecture,
    /// Of either.
    #[error("has a Multiboot header that is cut off")]
    CutHeader,
    /// Of either.
    #[error("has a Multiboot header whose addresses contradict each other or the file")]
    Addresses,
}

impl Protocol {
    /// Looks at a kernel.
    ///
    /// # Errors
    /// When it asks for what this machine does not have.
    pub fn of(kernel: &Kernel) -> Result<Protocol, ProtocolError> {
        let unreadable = |cause: io::Error| ProtocolError::Unreadable(cause.to_string());
        if let Some(header) = &kernel.setup_header {
            let wide = setup_header::has_64_bit_entry(header);
            return Ok(if wide { Protocol::Linux64 } else { Protocol::Compressed32 });
        }
        if let Some(entry) = note::pvh_entry(&kernel.program).map_err(unreadable)? {
            return Ok(Protocol::Pvh(entry));
        }
        let beginning = kernel.program.beginning().map_err(unreadable)?;
        let multiboot = Protocol::by_header(&beginning)?;
        Ok(multiboot.unwrap_or(match elf::machine(&beginning) {
            Ok(Class::Bits32) => Protocol::Linux32,
            // Whatever is no ELF file is found out by who loads it.
            _ => Protocol::Linux64,
        }))
    }

    /// Multiboot's protocols, of which a file needs nothing but its header.
    ///
    /// # Errors
    /// When a header asks for what this machine does not have.
    pub fn by_header(beginning: &[u8]) -> Result<Option<Protocol>, ProtocolError> {
        if let Some(header) = multiboot2::Header::find(beginning)? {
            return Ok(Some(Protocol::Multiboot2(header)));
        }
        Ok(multiboot1::Header::find(beginning)?.map(Protocol::Multiboot1))
    }

    /// Where the header says that the bytes go; None for ELF files.
    pub fn addresses(&self) -> Option<Addresses> {
        match self {
            Protocol::Multiboot1(header) => header.addresses,
            Protocol::Multiboot2(header) => header
                .addresses
                .map(|addresses| Addresses { entry: header.entry.unwrap_or(addresses.entry), ..addresses }),
            _ => None,
        }
    }
}
