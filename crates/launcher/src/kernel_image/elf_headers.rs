//! The two headers of an ELF file that a loader reads, of either width (System V ABI, "Object files", chapters 4 and 5,
//! and the supplements for i386 and AMD64). Everything is read with checked slices, because the file may be anybody's.

/// `EM_386`.
pub const MACHINE_386: u16 = 3;
/// `EM_X86_64`.
pub const MACHINE_X86_64: u16 = 62;
/// `PT_LOAD`: a segment that is loaded.
pub const LOAD: u32 = 1;
/// `PT_NOTE`: notes for whoever loads the file.
pub const NOTE: u32 = 4;

/// How wide the addresses in a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// ELF32.
    Bits32,
    /// ELF64.
    Bits64,
}

impl Class {
    /// Bytes of the file header.
    pub const fn file_header(self) -> usize {
        match self {
            Class::Bits32 => 52,
            Class::Bits64 => 64,
        }
    }

    /// Bytes of one program header.
    pub const fn program_header(self) -> usize {
        match self {
            Class::Bits32 => 32,
            Class::Bits64 => 56,
        }
    }

    /// The address field at one of these places: the first in an ELF32 structure, the second in an ELF64 one.
    fn address(self, bytes: &[u8], narrow: usize, wide: usize) -> u64 {
        match self {
            Class::Bits32 => u32_at(bytes, narrow).into(),
            Class::Bits64 => u64_at(bytes, wide),
        }
    }
}

/// The file header, as far as a loader reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// How wide the file is.
    pub class: Class,
    /// `e_type`: 2 is a program at a fixed address, 3 one that may move.
    pub kind: u16,
    /// The first instruction, physical or virtual.
    pub entry: u64,
    /// Where the program headers begin in the file.
    pub table: u64,
    /// Bytes of one program header, as the file says.
    pub entry_size: u16,
    /// How many there are.
    pub count: u16,
}

impl FileHeader {
    /// Reads the header of a little-endian file of this class; None when the file ends in it.
    pub fn parse(class: Class, file: &[u8]) -> Option<FileHeader> {
        let header = file.get(..class.file_header())?;
        // The halves follow the three addresses and a word of flags.
        let halves = match class {
            Class::Bits32 => 42,
            Class::Bits64 => 54,
        };
        Some(FileHeader {
            class,
            kind: u16_at(header, 16),
            entry: class.address(header, 24, 24),
            table: class.address(header, 28, 32),
            entry_size: u16_at(header, halves),
            count: u16_at(header, halves + 2),
        })
    }

    /// Where the table of program headers ends; None when it wraps around.
    pub fn table_end(&self) -> Option<u64> {
        self.table.checked_add(u64::from(self.count) * self.class.program_header() as u64)
    }

    /// The program headers, when the table is in these bytes from the file's beginning.
    pub fn programs<'a>(&self, file: &'a [u8]) -> Option<impl Iterator<Item = ProgramHeader> + use<'a>> {
        let (start, end) = (usize::try_from(self.table).ok()?, usize::try_from(self.table_end()?).ok()?);
        let class = self.class;
        let entries = file.get(start..end)?.chunks_exact(class.program_header());
        Some(entries.map(move |bytes| ProgramHeader::parse(class, bytes)))
    }
}

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramHeader {
    /// `p_type`.
    pub kind: u32,
    /// Where its bytes begin in the file.
    pub offset: u64,
    /// Where it wants to run.
    pub virtual_start: u64,
    /// Where it is loaded.
    pub physical_start: u64,
    /// Its bytes in the file.
    pub in_file: u64,
    /// Its bytes in memory; what the file does not have is zero.
    pub in_memory: u64,
    /// What its address is a multiple of.
    pub alignment: u64,
}

impl ProgramHeader {
    fn parse(class: Class, bytes: &[u8]) -> ProgramHeader {
        ProgramHeader {
            kind: u32_at(bytes, 0),
            offset: class.address(bytes, 4, 8),
            virtual_start: class.address(bytes, 8, 16),
            physical_start: class.address(bytes, 12, 24),
            in_file: class.address(bytes, 16, 32),
            in_memory: class.address(bytes, 20, 40),
            alignment: class.address(bytes, 28, 48),
        }
    }
}

// The callers have checked that the fields are there: a miss is our mistake, and a slice index says so.

/// The little-endian half at this place.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The little-endian word at this place.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
