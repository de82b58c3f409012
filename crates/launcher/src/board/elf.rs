//! Loading a kernel: the program headers of an x86 ELF file of 32 or 64 bits, each of their lies a sentence.

use std::ops::Range;

use lguest_host::memory::{GuestAddress, Memory};

use super::layout;
use crate::kernel_image::elf::{self, ElfVerdict};
use crate::kernel_image::elf_headers::{FileHeader, LOAD, ProgramHeader};
use crate::kernel_image::program::Program;

/// `ET_EXEC` and `ET_DYN`.
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
/// A kernel has about five segments. The file's own field allows 65,535.
const MAXIMUM_SEGMENTS: u16 = 64;

/// Why a file cannot be loaded as a kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Wrong magic, class, byte order, machine or type.
    #[error("the kernel is not an ELF file for x86: {0}")]
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
    let length = program.length().map_err(unreadable)?;
    let header = check_header(&beginning, length)?;
    let segments = segments(&header, &beginning, length)?;
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
    Ok(LoadedKernel { entry: entry_address(header.entry, &segments)?, occupied: lowest..highest })
}

/// Checks that the file is for this machine and reads its header.
fn check_header(file: &[u8], length: u64) -> Result<FileHeader, ElfError> {
    match elf::machine(file) {
        Ok(class) => FileHeader::parse(class, file).ok_or(ElfError::Truncated {
            what: "the ELF header",
            end: class.file_header() as u64,
            length,
        }),
        Err(ElfVerdict::NotElf) => Err(ElfError::NotForUs("it does not begin with the ELF magic")),
        Err(ElfVerdict::Truncated { needs: end }) => {
            Err(ElfError::Truncated { what: "the ELF header", end, length })
        }
        Err(_) => Err(ElfError::NotForUs("it is for another architecture")),
    }
}

/// The loadable segments that take memory, checked against the file.
fn segments(header: &FileHeader, file: &[u8], length: u64) -> Result<Vec<Segment>, ElfError> {
    if !matches!(header.kind, TYPE_EXECUTABLE | TYPE_SHARED) {
        return Err(ElfError::NotForUs("it is not a program"));
    }
    if usize::from(header.entry_size) != header.class.program_header() {
        return Err(ElfError::Wrong("its program headers have an unknown size"));
    }
    if header.count == 0 || header.count > MAXIMUM_SEGMENTS {
        return Err(ElfError::Wrong("it has no program headers, or more than 64"));
    }
    let end = header.table_end().ok_or(ElfError::Wrong("its program headers wrap around"))?;
    if end > length {
        return Err(ElfError::Truncated { what: "the table of program headers", end, length });
    }
    let programs =
        header.programs(file).ok_or(ElfError::Wrong("its program headers are not at its beginning"))?;
    let loaded = programs.filter(|one| one.kind == LOAD && one.in_memory != 0);
    let segments = loaded.map(|one| segment(&one, length)).collect::<Result<Vec<_>, _>>()?;
    if segments.is_empty() {
        return Err(ElfError::Wrong("it has nothing to load"));
    }
    Ok(segments)
}

fn segment(header: &ProgramHeader, length: u64) -> Result<Segment, ElfError> {
    let wraps = ElfError::Wrong("a segment wraps around the end of the address space");
    let end = header.offset.checked_add(header.in_file).ok_or(wraps.clone())?;
    if end > length {
        return Err(ElfError::Truncated { what: "a segment", end, length });
    }
    if header.in_file > header.in_memory {
        return Err(ElfError::Wrong("a segment is larger in the file than in memory"));
    }
    let physical_end = header.physical_start.checked_add(header.in_memory).ok_or(wraps)?;
    Ok(Segment {
        file: header.offset..end,
        physical: header.physical_start..physical_end,
        virtual_start: header.virtual_start,
    })
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

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
