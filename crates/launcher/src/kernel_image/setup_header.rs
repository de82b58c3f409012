//! The setup header of a bzImage: what the kernel tells a boot loader about itself.
//!
//! Source of every offset: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".

use super::KernelError;

/// Where the header begins, in the file and in the boot parameters alike.
pub const START: usize = 0x1f1;
const SETUP_SECTORS: usize = 0x1f1;
const SYSTEM_SIZE: usize = 0x1f4;
const BOOT_FLAG: usize = 0x1fe;
/// The second byte of the jump at 0x200: how far the header reaches after 0x202.
const JUMP_LENGTH: usize = 0x201;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const EXTENDED_FLAGS: usize = 0x236;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const ALIGNMENT: usize = 0x230;
const PREFERRED: usize = 0x258;
const INITIAL_SIZE: usize = 0x260;
/// The end of the last field that every image has.
const SHORTEST: usize = 0x250;

/// Protocol 2.10: from here on the header says how much memory the decompressor needs.
const OLDEST_VERSION: u16 = 0x020a;
/// Protocol 2.12: from here on `xloadflags` says whether there is a 64-bit kernel.
const FLAGS_VERSION: u16 = 0x020c;
/// Protocol 2.13, which Linux 3.14 came with and 4.x has.
const LATE_VERSION: u16 = 0x020d;
/// `XLF_KERNEL_64`: the kernel can be entered in 64-bit mode.
const KERNEL_64: u16 = 1 << 0;
/// What zero setup sectors mean, for historical reasons.
const DEFAULT_SETUP_SECTORS: u64 = 4;
const SECTOR: u64 = 512;
/// `syssize` counts the protected-mode code in paragraphs of sixteen bytes.
const PARAGRAPH: u64 = 16;

/// The fields that lead to the kernel inside.
#[derive(Clone, Copy, Debug)]
pub struct SetupHeader {
    /// Where the protected-mode code begins in the file, in bytes.
    code_start: u64,
    /// Its length in bytes.
    code_length: u64,
    payload_offset: u64,
    payload_length: u64,
    /// Where the header ends in the file.
    end: usize,
}

/// True when a kernel with this header (the bytes from 0x1f1 on) can be entered in 64-bit mode.
pub fn has_64_bit_entry(header: &[u8]) -> bool {
    half(header, VERSION) >= FLAGS_VERSION && half(header, EXTENDED_FLAGS) & KERNEL_64 != 0
}

/// True when a kernel with this header is at least 3.14, which is all that a header says of a 4.x.
pub fn is_late(header: &[u8]) -> bool {
    half(header, VERSION) >= LATE_VERSION
}

/// Two bytes of a header; zero behind its end.
fn half(header: &[u8], at: usize) -> u16 {
    match header.get(at - START..at - START + 2) {
        Some(bytes) => u16::from_le_bytes([bytes[0], bytes[1]]),
        None => 0,
    }
}

/// Where the memory ends that a kernel with this header (the bytes from 0x1f1 on) uses before it knows what is free, when its
/// code is at `start` (boot.rst, "init_size"): it unpacks itself at the preferred address or, if it may move, at the next
/// multiple of its alignment. None when the header ends before these fields.
pub fn unpacked_end(header: &[u8], start: u64) -> Option<u64> {
    let word = |at: usize| Some(u32::from_le_bytes(header.get(at - START..at - START + 4)?.try_into().ok()?));
    let alignment = u64::from(word(ALIGNMENT)?).max(1);
    let preferred = u64::from(word(PREFERRED)?) | u64::from(word(PREFERRED + 4)?) << 32;
    let runs_at = start.next_multiple_of(alignment).max(preferred);
    runs_at.checked_add(word(INITIAL_SIZE)?.into())
}

/// The compressed kernel in the code that a setup header (the bytes from 0x1f1 on) belongs to; none when it lies elsewhere.
pub fn payload_of<'a>(header: &[u8], code: &'a [u8]) -> Option<&'a [u8]> {
    let word = |at: usize| {
        let bytes = header.get(at - START..at - START + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let (start, length) = (word(PAYLOAD_OFFSET)?, word(PAYLOAD_LENGTH)?);
    code.get(start..start.checked_add(length)?)
}

impl SetupHeader {
    /// True when the file has the two magic numbers of a bzImage.
    pub fn is_present(file: &[u8]) -> bool {
        file.get(BOOT_FLAG..BOOT_FLAG + 2) == Some(&[0x55, 0xaa])
            && file.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
    }

    /// Reads the header and checks that all it speaks of is in the file.
    ///
    /// # Errors
    /// When the kernel is too old, or the file ends early.
    pub fn parse(file: &[u8]) -> Result<SetupHeader, KernelError> {
        let has = file.len() as u64;
        if file.len() < SHORTEST {
            return Err(KernelError::Truncated { has, needs: SHORTEST as u64 });
        }
        let half = |at: usize| u16::from_le_bytes([file[at], file[at + 1]]);
        let word =
            |at: usize| u64::from(u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes")));
        if half(VERSION) < OLDEST_VERSION {
            return Err(KernelError::TooOld { version: half(VERSION) });
        }
        let sectors = match u64::from(file[SETUP_SECTORS]) {
            0 => DEFAULT_SETUP_SECTORS,
            sectors => sectors,
        };
        let header = SetupHeader {
            code_start: (sectors + 1) * SECTOR,
            code_length: word(SYSTEM_SIZE) * PARAGRAPH,
            payload_offset: word(PAYLOAD_OFFSET),
            payload_length: word(PAYLOAD_LENGTH),
            end: MAGIC + usize::from(file[JUMP_LENGTH]),
        };
        // The last paragraph need not be whole, but where there is none the setup program still is.
        let needs = (header.code_start + header.code_length - (PARAGRAPH - 1)).max(header.code_start);
        if has < needs {
            return Err(KernelError::Truncated { has, needs: header.code_start + header.code_length });
        }
        if header.end < SHORTEST || header.end > file.len() {
            return Err(KernelError::DamagedHeader);
        }
        Ok(header)
    }

    /// The compressed kernel inside the file that this header came from.
    ///
    /// # Errors
    /// When the header places it outside the protected-mode code.
    pub fn payload<'a>(&self, file: &'a [u8]) -> Result<&'a [u8], KernelError> {
        let end = self.payload_offset + self.payload_length;
        if self.payload_length == 0 || end > self.code_length {
            return Err(KernelError::DamagedHeader);
        }
        let start = (self.code_start + self.payload_offset) as usize;
        file.get(start..start + self.payload_length as usize).ok_or(KernelError::DamagedHeader)
    }

    /// The protected-mode code: the decompressor with the kernel inside it. What the file has behind it is no part of it.
    pub fn code<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        let end = (self.code_start + self.code_length).min(file.len() as u64);
        &file[self.code_start as usize..end as usize]
    }

    /// The header itself, as the boot parameters want it.
    pub fn bytes<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        &file[START..self.end]
    }
}
