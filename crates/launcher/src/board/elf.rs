//! Loading a kernel: the program headers of a 64-bit x86 ELF file, each of their lies a sentence.
//!
//! Numbers and field offsets: System V ABI, "Object files", and its AMD64 supplement. Everything is read with
//! checked slices, because the file may be anybody's.

use std::ops::Range;

use lguest_host::memory::{GuestAddress, Memory};

use super::layout;
use crate::kernel_image::program::Program;

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: u64 = 56;
const MACHINE_X86_64: u16 = 62;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const SEGMENT_LOAD: u32 = 1;
/// A kernel has about five segments. The file's own field allows 65,535.
const MAXIMUM_SEGMENTS: u16 = 64;

/// Why a file cannot be loaded as a kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Wrong magic, class, byte order, machine or type.
    #[error("the kernel is not an ELF file for 64-bit x86: {0}")]
    NotForUs(&'static str),
    /// A header or segment goes past the end of the file.
    #[error("the kernel is cut short: {what} ends at byte {end} of a file with {length}")]
    Truncated {
        /// What is missing.
        what: &'static str,
        /// Where it would end.
        end: u64,
        /// How long the file is.
        length: u64,
    },
    /// A field that cannot be true.
    #[error("the kernel's ELF headers are wrong: {0}")]
    Wrong(&'static str),
    /// The file, or memory, failed.
    #[error("the kernel cannot be loaded: {0}")]
    Unreadable(String),
    /// A segment does not fit between the boot structures and the end of RAM below the hole.
    #[error("the kernel wants memory from {start:#x} to {end:#x}, but a kernel can use {first:#x} to {last:#x} of this machine: try a larger --memory", start = .wanted.start, end = .wanted.end, first = .possible.start, last = .possible.end)]
    OutsideMemory {
        /// What the segment asks for.
        wanted: Range<u64>,
        /// What there is.
        possible: Range<u64>,
    },
}

/// Where a kernel was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedKernel {
    /// Physical address of the first instruction.
    pub entry: GuestAddress,
    /// First and last address of what was loaded, uninitialised data included.
    pub occupied: Range<u64>,
}

/// What is looked at of a file.
struct Headers<'a> {
    beginning: &'a [u8],
    length: u64,
}

struct Segment {
    file: Range<u64>,
    physical: Range<u64>,
    virtual_start: u64,
}

/// Copies the kernel's segments to their physical addresses in RAM below the hole.
///
/// # Errors
/// [`ElfError`] for every way in which the file can be wrong; nothing was run, some bytes may have been copied.
pub fn load(program: &Program, memory: &Memory) -> Result<LoadedKernel, ElfError> {
    let unreadable = |cause: std::io::Error| ElfError::Unreadable(cause.to_string());
    let beginning = program.beginning().map_err(unreadable)?;
    let file = Headers { beginning: &beginning, length: program.length().map_err(unreadable)? };
    let entry = check_header(&file)?;
    let segments = segments(&file)?;
    let possible = layout::KERNEL_MINIMUM.0..memory.low_end().0;
    let (mut lowest, mut highest) = (u64::MAX, 0);
    for (index, segment) in segments.iter().enumerate() {
        let Range { start, end } = segment.physical;
        if start < possible.start || end > possible.end {
            return Err(ElfError::OutsideMemory { wanted: segment.physical.clone(), possible });
        }
        let overlaps = |other: &Segment| other.physical.start < end && start < other.physical.end;
        if segments[..index].iter().any(overlaps) {
            return Err(ElfError::Wrong("two segments claim the same memory"));
        }
        program
            .copy(segment.file.clone(), memory, GuestAddress(start))
            .map_err(|cause| ElfError::Unreadable(cause.to_string()))?;
        (lowest, highest) = (lowest.min(start), highest.max(end));
    }
    Ok(LoadedKernel { entry: entry_address(entry, &segments)?, occupied: lowest..highest })
}

/// Checks that the file is for this machine. Returns its entry point as it stands there.
fn check_header(headers: &Headers) -> Result<u64, ElfError> {
    let file = headers.beginning;
    if !file.starts_with(b"\x7fELF") {
        return Err(ElfError::NotForUs("it does not begin with the ELF magic"));
    }
    if file.len() < HEADER_SIZE {
        return Err(truncated("the ELF header", HEADER_SIZE as u64, headers));
    }
    if file[4] != 2 {
        return Err(ElfError::NotForUs("it is for 32-bit machines"));
    }
    if file[5] != 1 {
        return Err(ElfError::NotForUs("its bytes are in the wrong order"));
    }
    if u16_at(file, 18) != MACHINE_X86_64 {
        return Err(ElfError::NotForUs("it is for another architecture"));
    }
    if !matches!(u16_at(file, 16), TYPE_EXECUTABLE | TYPE_SHARED) {
        return Err(ElfError::NotForUs("it is not a program"));
    }
    Ok(u64_at(file, 24))
}

/// The loadable segments that take memory, checked against the file.
fn segments(headers: &Headers) -> Result<Vec<Segment>, ElfError> {
    let file = headers.beginning;
    let table = u64_at(file, 32);
    let count = u16_at(file, 56);
    if u64::from(u16_at(file, 54)) != PROGRAM_HEADER_SIZE {
        return Err(ElfError::Wrong("its program headers have an unknown size"));
    }
    if count == 0 || count > MAXIMUM_SEGMENTS {
        return Err(ElfError::Wrong("it has no program headers, or more than 64"));
    }
    let length = u64::from(count) * PROGRAM_HEADER_SIZE;
    let end = table.checked_add(length).ok_or(ElfError::Wrong("its program headers wrap around"))?;
    if end > headers.length {
        return Err(truncated("the table of program headers", end, headers));
    }
    if end > file.len() as u64 {
        return Err(ElfError::Wrong("its program headers are not at its beginning"));
    }
    let table = file[table as usize..end as usize].chunks_exact(PROGRAM_HEADER_SIZE as usize);
    let mut segments = Vec::new();
    for header in table.filter(|header| u32_at(header, 0) == SEGMENT_LOAD && u64_at(header, 40) != 0) {
        segments.push(segment(header, headers)?);
    }
    if segments.is_empty() {
        return Err(ElfError::Wrong("it has nothing to load"));
    }
    Ok(segments)
}

fn segment(header: &[u8], file: &Headers) -> Result<Segment, ElfError> {
    let (offset, virtual_start, physical) = (u64_at(header, 8), u64_at(header, 16), u64_at(header, 24));
    let (in_file, in_memory) = (u64_at(header, 32), u64_at(header, 40));
    let wraps = ElfError::Wrong("a segment wraps around the end of the address space");
    let end = offset.checked_add(in_file).ok_or(wraps.clone())?;
    if end > file.length {
        return Err(truncated("a segment", end, file));
    }
    if in_file > in_memory {
        return Err(ElfError::Wrong("a segment is larger in the file than in memory"));
    }
    let physical_end = physical.checked_add(in_memory).ok_or(wraps)?;
    Ok(Segment { file: offset..end, physical: physical..physical_end, virtual_start })
}

/// The entry point as a physical address. Linux writes a physical one; others write a virtual one.
fn entry_address(entry: u64, segments: &[Segment]) -> Result<GuestAddress, ElfError> {
    if segments.iter().any(|segment| segment.physical.contains(&entry)) {
        return Ok(GuestAddress(entry));
    }
    let from_virtual = segments.iter().find_map(|segment| {
        let within = entry.checked_sub(segment.virtual_start)?;
        let length = segment.physical.end - segment.physical.start;
        (within < length).then(|| GuestAddress(segment.physical.start + within))
    });
    from_virtual.ok_or(ElfError::Wrong("its entry point lies in no segment"))
}

fn truncated(what: &'static str, end: u64, file: &Headers) -> ElfError {
    ElfError::Truncated { what, end, length: file.length }
}

// The callers have checked that the fields are there: a miss is our mistake, and a slice index says so.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
