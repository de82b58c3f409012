//! The header by which a kernel says that it wants to be loaded by Multiboot.
//!
//! Source: Multiboot Specification 0.6.96, 3.1. Somewhere in the first 8192 bytes of the file, at a multiple of four:
//!
//! ```text
//!   0 magic   4 flags   8 checksum   12 header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr   32 mode_type ...
//! ```

use super::elf_headers::u32_at;
use super::flat::Addresses;
use super::protocol::ProtocolError;

const MAGIC: u32 = 0x1bad_b002;
/// How far into the file the header may be, to its end.
const SEARCHED: usize = 8192;
/// Bytes of a header without addresses, and with them.
const SHORTEST: usize = 12;
const WITH_ADDRESSES: usize = 32;

/// Flags: modules start at pages, which they do anyway; memory is told, and it is.
const UNDERSTOOD: u32 = 1 << 0 | 1 << 1;
/// Flag: a screen is wanted.
const VIDEO: u32 = 1 << 2;
/// Flags that a loader has to understand or refuse.
const REQUIRED: u32 = 0xffff;
/// Flag: the addresses are there.
const ADDRESSES: u32 = 1 << 16;

/// What the kernel asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the bytes go, when the header says it; otherwise the file is ELF.
    pub addresses: Option<Addresses>,
}

impl Header {
    /// Looks for the header in the beginning of a file.
    ///
    /// # Errors
    /// When it is there and asks for what this machine does not have.
    pub fn find(file: &[u8]) -> Result<Option<Header>, ProtocolError> {
        let searched = &file[..file.len().min(SEARCHED)];
        let place = (0..searched.len()).step_by(4).find(|&at| is_header(&searched[at..]));
        place.map(|at| Header::parse(searched, at)).transpose()
    }

    fn parse(file: &[u8], at: usize) -> Result<Header, ProtocolError> {
        let header = &file[at..];
        let flags = u32_at(header, 4);
        if flags & VIDEO != 0 {
            return Err(ProtocolError::Screen("Multiboot's flag 2"));
        }
        if let unknown @ 1.. = flags & REQUIRED & !UNDERSTOOD {
            return Err(ProtocolError::UnknownFlag(unknown.trailing_zeros()));
        }
        if flags & ADDRESSES == 0 {
            return Ok(Header { addresses: None });
        }
        if header.len() < WITH_ADDRESSES {
            return Err(ProtocolError::CutHeader);
        }
        let word = |field: usize| u32_at(header, 12 + 4 * field);
        // The header's own address and place tie the file to memory.
        let before = word(0).checked_sub(word(1)).ok_or(ProtocolError::Addresses)?;
        let offset = (at as u64).checked_sub(before.into()).ok_or(ProtocolError::Addresses)?;
        let addresses =
            Addresses { offset, load: word(1), load_end: word(2), bss_end: word(3), entry: word(4) };
        Ok(Header { addresses: Some(addresses) })
    }
}

/// Magic, flags and checksum add up to nothing.
fn is_header(bytes: &[u8]) -> bool {
    bytes.len() >= SHORTEST
        && u32_at(bytes, 0) == MAGIC
        && u32_at(bytes, 4).wrapping_add(u32_at(bytes, 8)).wrapping_add(MAGIC) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u32, fields: &[u32]) -> Vec<u8> {
        let words = [MAGIC, flags, 0u32.wrapping_sub(MAGIC).wrapping_sub(flags)];
        words.iter().chain(fields).flat_map(|word| word.to_le_bytes()).collect()
    }

    fn placed(at: usize, header: &[u8]) -> Vec<u8> {
        [&vec![0x90; at], header].concat()
    }

    #[test]
    fn a_header_is_found_anywhere_in_its_first_8192_bytes_and_nowhere_else() {
        let header = header(3, &[]);
        for at in [0, 4, 4096, 8180] {
            assert_eq!(Header::find(&placed(at, &header)).unwrap(), Some(Header { addresses: None }));
        }
        for at in [1, 2, 8184, 8192, 100_000] {
            assert_eq!(Header::find(&placed(at, &header)).unwrap(), None, "{at}");
        }
        let mut wrong = header.clone();
        wrong[8] ^= 1;
        assert_eq!(Header::find(&wrong).unwrap(), None, "its checksum is wrong");
        assert_eq!(Header::find(&header[..11]).unwrap(), None);
        assert_eq!(Header::find(&[]).unwrap(), None);
    }

    #[test]
    fn addresses_tell_where_the_file_goes() {
        let file = placed(16, &header(1 << 16, &[0x10_0110, 0x10_0104, 0, 0x10_2000, 0x10_0140]));
        let addresses = Header::find(&file).unwrap().unwrap().addresses.unwrap();
        let expected =
            Addresses { offset: 4, load: 0x10_0104, load_end: 0, bss_end: 0x10_2000, entry: 0x10_0140 };
        assert_eq!(addresses, expected);
    }

    #[test]
    fn what_cannot_be_given_is_a_sentence() {
        let sentence = |file: &[u8]| Header::find(file).unwrap_err().to_string();
        assert!(sentence(&header(4, &[0; 9])).contains("screen"));
        assert!(sentence(&header(1 << 9, &[])).contains("flag 9"));
        assert!(sentence(&header(1 << 16, &[1, 2])).contains("cut"));
        assert!(sentence(&header(1 << 16, &[0x1000, 0x2000, 0, 0, 0])).contains("contradict"));
        assert!(sentence(&header(1 << 16, &[0x2000, 0x1000, 0, 0, 0])).contains("contradict"));
    }
}
