//! From a file that may be a kernel to the program that an engine can enter.
//!
//! Distributions ship a *bzImage*: a real-mode setup program, a decompressor, and the kernel proper as a compressed
//! ELF file inside it. We unpack that ELF file here, with native code, and boot it by the 64-bit boot protocol,
//! so that an engine never has to run the decompressor; only a kernel of 32 bits unpacks itself. What the setup header says of the kernel is kept, because the boot
//! parameters repeat it (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
//!
//! ```text
//! bzImage   0        0x1f1          0x200      (setup_sects+1)*512   + payload_offset      + payload_length
//!           | boot   | setup header | setup    | decompressor        | compressed vmlinux  |
//! ```
//!
//! Kernels that are no Linux come as ELF files of either width or as plain bytes behind a Multiboot header; [`protocol`] finds
//! out how each wants to be entered. Anything else is told apart far enough to say in one sentence what it is.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use thiserror::Error;

pub mod setup_header;
pub mod payload;
pub mod elf_headers;
pub mod elf;
pub mod program;
pub mod note;
pub mod flat;
pub mod multiboot1;
pub mod multiboot2;
pub mod protocol;
pub mod lguest;

use elf::ElfVerdict;
pub use payload::PayloadError;
use protocol::{Protocol, ProtocolError};
use setup_header::SetupHeader;

/// The largest kernel file read. Debian's largest is 8 MiB to 14 MiB; one with every driver built in, tens of MiB.
pub const LARGEST_FILE: u64 = 512 << 20;

/// A kernel that an engine can enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// The kernel proper: an x86 ELF file whose program headers lie inside it, a file with a Multiboot header that says where
    /// its bytes go, or the code of a bzImage that has to unpack itself. Bytes after the last segment (section tables,
    /// relocations) may follow.
    pub vmlinux: Vec<u8>,
    /// The bzImage's setup header, the bytes from 0x1f1 to its own end, as boot parameters hold them at the same
    /// offset; none when the file was an ELF file already.
    pub setup_header: Option<Vec<u8>>,
}

/// Why a file is no kernel that can start here. Each reads on after the file's name.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KernelError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// It is larger than any kernel.
    #[error("is larger than {} MiB, so it is no kernel", LARGEST_FILE >> 20)]
    TooLarge,
    /// It has no bytes.
    #[error("is empty")]
    Empty,
    /// Nothing known.
    #[error(
        "is no kernel: it begins neither like a bzImage nor like an ELF file, and has no Multiboot header"
    )]
    NoKernel,
    /// A kernel of another architecture.
    #[error("is a kernel or program for {0}; this machine runs kernels for 64-bit x86 (x86-64)")]
    OtherArchitecture(&'static str),
    /// A file that someone compressed as a whole.
    #[error("is a {0} file; unpack it first and give the kernel inside")]
    Compressed(&'static str),
    /// A bzImage from before the protocol told where the payload is.
    #[error(
        "speaks boot protocol {}.{:02}; 2.10 (Linux 2.6.31) or later is needed",
        version >> 8,
        version & 0xff
    )]
    TooOld {
        /// As in the header: major in the upper byte.
        version: u16,
    },
    /// The file ends early.
    #[error("is a truncated kernel: {has} bytes are there, its header speaks of {needs}; copy it again")]
    Truncated {
        /// Bytes in the file.
        has: u64,
        /// Bytes that its header accounts for.
        needs: u64,
    },
    /// A header whose fields contradict each other.
    #[error("has a damaged boot header: the compressed kernel would lie outside the image")]
    DamagedHeader,
    /// The kernel inside cannot be unpacked.
    #[error("cannot be unpacked: {0}")]
    Payload(#[from] PayloadError),
    /// What came out is no kernel.
    #[error("unpacks into something that is no 64-bit x86 ELF file")]
    OddPayload,
    /// It says how it wants to be loaded, and that cannot be.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// An ELF file that is no kernel: a library or an object file.
    #[error("is an ELF file but has nothing to load; a kernel (vmlinux) is needed")]
    NotLoadable,
}

impl KernelImage {
    /// Reads a kernel from a file.
    ///
    /// # Errors
    /// When the file cannot be read or is no kernel for this machine.
    pub fn open(path: &Path) -> Result<KernelImage, KernelError> {
        let unreadable = |cause: io::Error| KernelError::Unreadable(cause.to_string());
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(KernelError::TooLarge);
        }
        KernelImage::parse(bytes)
    }

    /// Recognises a kernel by its bytes and unpacks it.
    ///
    /// # Errors
    /// When these bytes are no kernel for this machine.
    pub fn parse(file: Vec<u8>) -> Result<KernelImage, KernelError> {
        if file.is_empty() {
            return Err(KernelError::Empty);
        }
        if elf::looks_like_elf(&file) {
            check_elf(&file)?;
            // Wishes that nobody can meet are told here, with the file's name.
            Protocol::by_header(&file)?;
            return Ok(KernelImage { vmlinux: file, setup_header: None });
        }
        if SetupHeader::is_present(&file) {
            return parse_bzimage(&file);
        }
        // Only a header that says where the bytes go makes a kernel of a file that is nothing else.
        match Protocol::by_header(&file)?.and_then(|protocol| protocol.addresses()) {
            Some(_) => Ok(KernelImage { vmlinux: file, setup_header: None }),
            None => Err(what_else(&file)),
        }
    }
}

fn parse_bzimage(file: &[u8]) -> Result<KernelImage, KernelError> {
    let header = SetupHeader::parse(file)?;
    let setup_header = Some(header.bytes(file).to_vec());
    if !setup_header::has_64_bit_entry(header.bytes(file)) {
        return Ok(KernelImage { vmlinux: header.code(file).to_vec(), setup_header });
    }
    let vmlinux = payload::unpack(header.payload(file)?)?;
    match check_elf(&vmlinux) {
        Err(KernelError::NoKernel | KernelError::NotLoadable) => return Err(KernelError::OddPayload),
        other => other?,
    }
    Ok(KernelImage { vmlinux, setup_header })
}

fn check_elf(file: &[u8]) -> Result<(), KernelError> {
    match elf::examine(file) {
        ElfVerdict::Kernel => Ok(()),
        ElfVerdict::NotElf => Err(KernelError::NoKernel),
        ElfVerdict::OtherArchitecture(name) => Err(KernelError::OtherArchitecture(name)),
        ElfVerdict::NotLoadable => Err(KernelError::NotLoadable),
        ElfVerdict::Truncated { needs } => Err(KernelError::Truncated { has: file.len() as u64, needs }),
    }
}

/// Marks of files that people take for a kernel: where, which bytes, what that makes of it.
fn what_else(file: &[u8]) -> KernelError {
    let holds = |at: usize, mark: &[u8]| file.get(at..at + mark.len()) == Some(mark);
    // Documentation/arch/arm64/booting.rst and Documentation/arch/riscv/boot-image-header.rst.
    if holds(0x38, b"ARM\x64") {
        return KernelError::OtherArchitecture("64-bit ARM");
    }
    if holds(0x30, b"RISCV\0\0\0") || holds(0x38, b"RSC\x05") {
        return KernelError::OtherArchitecture("RISC-V");
    }
    if holds(0, b"MZ") && holds(4, b"zimg") {
        return KernelError::OtherArchitecture("another architecture (an EFI zboot image)");
    }
    // The 32-bit ARM zImage's magic number, little-endian (arch/arm/boot/compressed/head.S).
    if holds(0x24, &0x016f_2818_u32.to_le_bytes()) {
        return KernelError::OtherArchitecture("32-bit ARM");
    }
    match payload::compression_of(file) {
        Some(compression) => KernelError::Compressed(compression.name()),
        None => KernelError::NoKernel,
    }
}

#[cfg(test)]
mod tests;
