//! As much of ELF as tells a kernel from something else (System V ABI, chapters 4 and 5).

use super::elf_headers::{Class, FileHeader, LOAD, MACHINE_386, MACHINE_X86_64};

/// Where a file's width, byte order and machine are, in either width.
const CLASS: usize = 4;
const ORDER: usize = 5;
const MACHINE: usize = 18;

/// What an ELF file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfVerdict {
    /// An x86 program of 32 or 64 bits with segments to load, all inside the file.
    Kernel,
    /// Not an ELF file.
    NotElf,
    /// A program of this architecture.
    OtherArchitecture(&'static str),
    /// Not a program, or one with nothing to load.
    NotLoadable,
    /// A segment or a table ends at byte `needs`, after the end of the file.
    Truncated {
        /// The length that the headers account for.
        needs: u64,
    },
}

/// True when the file begins with ELF's magic.
pub fn looks_like_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

/// Reads the headers and says what the file is.
pub fn examine(file: &[u8]) -> ElfVerdict {
    match machine(file) {
        Ok(class) => segments(class, file),
        Err(verdict) => verdict,
    }
}

/// The width of an ELF file for this machine.
///
/// # Errors
/// What it is instead.
pub fn machine(file: &[u8]) -> Result<Class, ElfVerdict> {
    if !looks_like_elf(file) {
        return Err(ElfVerdict::NotElf);
    }
    let Some(header) = file.get(..MACHINE + 2) else {
        return Err(ElfVerdict::Truncated { needs: Class::Bits32.file_header() as u64 });
    };
    let little = header[ORDER] == 1;
    let machine = match (little, header[MACHINE], header[MACHINE + 1]) {
        (true, low, high) => u16::from_le_bytes([low, high]),
        (false, high, low) => u16::from_be_bytes([high, low]),
    };
    // 32-bit headers around x86-64 code are the x32 ABI; loaders of 32-bit kernels take them too.
    match (machine, little, header[CLASS]) {
        (MACHINE_386 | MACHINE_X86_64, true, 1) => Ok(Class::Bits32),
        (MACHINE_X86_64, true, 2) => Ok(Class::Bits64),
        _ => Err(ElfVerdict::OtherArchitecture(architecture(machine))),
    }
}

fn segments(class: Class, file: &[u8]) -> ElfVerdict {
    let Some(header) = FileHeader::parse(class, file) else {
        return ElfVerdict::Truncated { needs: class.file_header() as u64 };
    };
    // ET_EXEC and ET_DYN; an object file or a core dump cannot be entered.
    let expected = class.program_header();
    if !matches!(header.kind, 2 | 3) || header.count == 0 || usize::from(header.entry_size) != expected {
        return ElfVerdict::NotLoadable;
    }
    let Some(programs) = header.programs(file) else {
        return ElfVerdict::Truncated { needs: header.table_end().unwrap_or(u64::MAX) };
    };
    let ends = programs.filter(|one| one.kind == LOAD).map(|one| one.offset.saturating_add(one.in_file));
    match ends.max() {
        None => ElfVerdict::NotLoadable,
        Some(needs) if needs > file.len() as u64 => ElfVerdict::Truncated { needs },
        Some(_) => ElfVerdict::Kernel,
    }
}

/// The names of machines that run Linux (`e_machine`, System V ABI and its registry).
fn architecture(machine: u16) -> &'static str {
    match machine {
        2 | 18 | 43 => "SPARC",
        4 => "68000",
        8 => "MIPS",
        15 => "PA-RISC",
        20 | 21 => "PowerPC",
        22 => "IBM Z",
        40 => "32-bit ARM",
        42 => "SuperH",
        183 => "64-bit ARM",
        243 => "RISC-V",
        258 => "LoongArch",
        _ => "another architecture",
    }
}
