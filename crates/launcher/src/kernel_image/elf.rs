//! As much of ELF as tells a kernel from something else (System V ABI, chapters 4 and 5).

/// `EM_X86_64` of the x86-64 psABI.
const MACHINE_X86_64: u16 = 62;
/// `EM_386`.
const MACHINE_386: u16 = 3;
/// The size of an ELF64 file header and of one program header.
const FILE_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// `PT_LOAD`: a segment that is loaded.
const LOAD: u32 = 1;

/// What an ELF file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfVerdict {
    /// A 64-bit x86 program with segments to load, all inside the file.
    Kernel,
    /// Not an ELF file.
    NotElf,
    /// A program of this architecture.
    OtherArchitecture(&'static str),
    /// A 32-bit x86 program.
    ThirtyTwoBit,
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
    if !looks_like_elf(file) {
        return ElfVerdict::NotElf;
    }
    let Some(header) = file.get(..FILE_HEADER) else {
        return ElfVerdict::Truncated { needs: FILE_HEADER as u64 };
    };
    let little = header[5] == 1;
    let machine = match (little, header[18], header[19]) {
        (true, low, high) => u16::from_le_bytes([low, high]),
        (false, high, low) => u16::from_be_bytes([high, low]),
    };
    if machine == MACHINE_386 {
        return ElfVerdict::ThirtyTwoBit;
    }
    if machine != MACHINE_X86_64 || !little {
        return ElfVerdict::OtherArchitecture(architecture(machine));
    }
    // The x32 ABI has this machine number too, but 32-bit headers.
    if header[4] != 2 {
        return ElfVerdict::ThirtyTwoBit;
    }
    segments(file)
}

fn segments(file: &[u8]) -> ElfVerdict {
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| u16::from_le_bytes([file[at], file[at + 1]]);
    let (kind, table, entry_size, count) = (half(16), word(32), half(54), half(56));
    // ET_EXEC and ET_DYN; an object file or a core dump cannot be entered.
    if !matches!(kind, 2 | 3) || count == 0 || usize::from(entry_size) != PROGRAM_HEADER {
        return ElfVerdict::NotLoadable;
    }
    let length = file.len() as u64;
    let table_end = table.saturating_add(u64::from(count) * PROGRAM_HEADER as u64);
    if table_end > length {
        return ElfVerdict::Truncated { needs: table_end };
    }
    let (mut loads, mut end) = (0, 0);
    for index in 0..usize::from(count) {
        let at = table as usize + index * PROGRAM_HEADER;
        if u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes")) == LOAD {
            loads += 1;
            end = word(at + 8).saturating_add(word(at + 32)).max(end);
        }
    }
    match (loads, end) {
        (0, _) => ElfVerdict::NotLoadable,
        (_, needs) if needs > length => ElfVerdict::Truncated { needs },
        _ => ElfVerdict::Kernel,
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
