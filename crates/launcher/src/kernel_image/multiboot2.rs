//! The header by which a kernel says that it wants to be loaded by Multiboot 2.
//!
//! Source: Multiboot2 Specification 2.0, 3.1. Somewhere in the first 32768 bytes of the file, at a multiple of eight: four
//! words (magic, architecture, length, checksum), then tags of eight bytes and more (type, flags, size), each at a multiple of
//! eight, up to one of type 0. A tag whose flag 0 is set may be ignored by who does not know it.

use super::elf_headers::{u16_at, u32_at};
use super::flat::Addresses;
use super::protocol::ProtocolError;

const MAGIC: u32 = 0xe852_50d6;
/// i386: entered in 32-bit protected mode.
const ARCHITECTURE_I386: u32 = 0;
const SEARCHED: usize = 32768;
const SHORTEST: usize = 16;
const TAG_HEADER: usize = 8;
const OPTIONAL: u16 = 1;
/// What `load_addr` says for "the file from its first byte on".
const WHOLE_FILE: u32 = u32::MAX;

/// Types of tags (3.1.4 to 3.1.14).
const END: u16 = 0;
const INFORMATION_REQUEST: u16 = 1;
const ADDRESS: u16 = 2;
const ENTRY: u16 = 3;
const CONSOLE: u16 = 4;
const FRAMEBUFFER: u16 = 5;
const MODULE_ALIGNMENT: u16 = 6;
/// The entries for EFI machines, which this one is not.
const EFI_ENTRIES: [u16; 2] = [8, 9];
/// The kernel may be loaded elsewhere; it is loaded where it asks to be.
const RELOCATABLE: u16 = 10;
/// Console flag: there has to be one of those that the specification knows, all of them screens.
const CONSOLE_REQUIRED: u32 = 1;

/// The information that is given: the types of `board::multiboot2`'s tags.
pub const GIVEN: [u32; 7] = [1, 2, 3, 4, 6, 14, 15];

/// What the kernel asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Where the bytes go, when the header says it; otherwise the file is ELF.
    pub addresses: Option<Addresses>,
    /// The first instruction, in place of the ELF file's own.
    pub entry: Option<u32>,
}

impl Header {
    /// Looks for the header in the beginning of a file.
    ///
    /// # Errors
    /// When it is there and is broken, or asks for what this machine does not have.
    pub fn find(file: &[u8]) -> Result<Option<Header>, ProtocolError> {
        let searched = &file[..file.len().min(SEARCHED)];
        let place = (0..searched.len()).step_by(8).find(|&at| is_header(&searched[at..]));
        let Some(at) = place else { return Ok(None) };
        if u32_at(&searched[at..], 4) != ARCHITECTURE_I386 {
            return Err(ProtocolError::OtherArchitecture);
        }
        let length = u32_at(&searched[at..], 8) as usize;
        let header = searched[at..].get(..length).ok_or(ProtocolError::CutHeader)?;
        read_tags(header, at).map(Some)
    }
}

/// Magic, architecture, length and checksum add up to nothing.
fn is_header(bytes: &[u8]) -> bool {
    let word = |index: usize| u32_at(bytes, 4 * index);
    bytes.len() >= SHORTEST && word(0) == MAGIC && (1..4).map(word).fold(MAGIC, u32::wrapping_add) == 0
}

fn read_tags(header: &[u8], at: usize) -> Result<Header, ProtocolError> {
    let mut found = Header::default();
    let mut rest = header.get(SHORTEST..).ok_or(ProtocolError::CutHeader)?;
    loop {
        if rest.len() < TAG_HEADER {
            return Err(ProtocolError::CutHeader);
        }
        let (kind, flags, size) = (u16_at(rest, 0), u16_at(rest, 2), u32_at(rest, 4) as usize);
        let body = rest.get(TAG_HEADER..size).ok_or(ProtocolError::CutHeader)?;
        if kind == END {
            return Ok(found);
        }
        let understood = read_tag(&mut found, kind, body, at);
        if flags & OPTIONAL == 0 {
            understood?;
        }
        rest = rest.get(size.next_multiple_of(8)..).ok_or(ProtocolError::CutHeader)?;
    }
}

fn read_tag(found: &mut Header, kind: u16, body: &[u8], at: usize) -> Result<(), ProtocolError> {
    let word = |index: usize| match body.get(4 * index..4 * index + 4) {
        Some(bytes) => Ok(u32_at(bytes, 0)),
        None => Err(ProtocolError::CutHeader),
    };
    match kind {
        ADDRESS => found.addresses = Some(addresses([word(0)?, word(1)?, word(2)?, word(3)?], at)?),
        ENTRY => found.entry = Some(word(0)?),
        INFORMATION_REQUEST => {
            let mut asked = body.chunks_exact(4).map(|bytes| u32_at(bytes, 0));
            if let Some(unknown) = asked.find(|kind| !GIVEN.contains(kind)) {
                return Err(ProtocolError::Information(unknown));
            }
        }
        CONSOLE if word(0)? & CONSOLE_REQUIRED == 0 => {}
        CONSOLE => return Err(ProtocolError::Screen("Multiboot 2's console tag")),
        FRAMEBUFFER => return Err(ProtocolError::Screen("Multiboot 2's framebuffer tag")),
        MODULE_ALIGNMENT | RELOCATABLE => {}
        kind if EFI_ENTRIES.contains(&kind) => {}
        unknown => return Err(ProtocolError::UnknownTag(unknown)),
    }
    Ok(())
}

/// The address tag's four words, with the entry still to come.
fn addresses([header, load, load_end, bss_end]: [u32; 4], at: usize) -> Result<Addresses, ProtocolError> {
    let place = u32::try_from(at).map_err(|_| ProtocolError::Addresses)?;
    let load = match load {
        WHOLE_FILE => header.checked_sub(place).ok_or(ProtocolError::Addresses)?,
        load => load,
    };
    let before = header.checked_sub(load).ok_or(ProtocolError::Addresses)?;
    let offset = place.checked_sub(before).ok_or(ProtocolError::Addresses)?;
    Ok(Addresses { offset: offset.into(), load, load_end, bss_end, entry: load })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(kind: u16, flags: u16, words: &[u32]) -> Vec<u8> {
        let mut bytes = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
        bytes.extend((TAG_HEADER as u32 + 4 * words.len() as u32).to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn header(architecture: u32, tags: &[Vec<u8>]) -> Vec<u8> {
        let tags = [tags.concat(), tag(END, 0, &[])].concat();
        let length = (SHORTEST + tags.len()) as u32;
        let sum = MAGIC.wrapping_add(architecture).wrapping_add(length);
        let words = [MAGIC, architecture, length, 0u32.wrapping_sub(sum)];
        words.iter().flat_map(|word| word.to_le_bytes()).chain(tags).collect()
    }

    #[test]
    fn tags_tell_where_the_file_goes_and_begins() {
        let tags = [tag(ADDRESS, 0, &[0x20_0010, WHOLE_FILE, 0, 0x30_0000]), tag(ENTRY, 0, &[0x20_0040])];
        let file = [vec![0; 16], header(0, &tags)].concat();
        let found = Header::find(&file).unwrap().unwrap();
        let addresses =
            Addresses { offset: 0, load: 0x20_0000, load_end: 0, bss_end: 0x30_0000, entry: 0x20_0000 };
        assert_eq!(found, Header { addresses: Some(addresses), entry: Some(0x20_0040) });
    }

    #[test]
    fn what_is_optional_may_be_missing() {
        for (kind, words) in [(FRAMEBUFFER, &[0, 0, 0][..]), (INFORMATION_REQUEST, &[1, 9, 99]), (77, &[])] {
            assert_eq!(
                Header::find(&header(0, &[tag(kind, OPTIONAL, words)])).unwrap(),
                Some(Header::default())
            );
            assert!(Header::find(&header(0, &[tag(kind, 0, words)])).is_err(), "{kind}");
        }
        let modest =
            [tag(INFORMATION_REQUEST, 0, &[6, 3]), tag(CONSOLE, 0, &[2]), tag(MODULE_ALIGNMENT, 0, &[])];
        assert_eq!(Header::find(&header(0, &modest)).unwrap(), Some(Header::default()));
    }

    #[test]
    fn what_cannot_be_given_is_a_sentence() {
        let sentence = |file: &[u8]| Header::find(file).unwrap_err().to_string();
        assert!(sentence(&header(0, &[tag(FRAMEBUFFER, 0, &[1024, 768, 32])])).contains("screen"));
        assert!(sentence(&header(0, &[tag(CONSOLE, 0, &[1])])).contains("screen"));
        assert!(sentence(&header(0, &[tag(INFORMATION_REQUEST, 0, &[8])])).contains("type 8"));
        assert!(sentence(&header(0, &[tag(7, 0, &[])])).contains("tag 7"));
        assert!(sentence(&header(4, &[])).contains("MIPS"));
        assert!(sentence(&header(0, &[tag(ADDRESS, 0, &[1, 2, 3])])).contains("cut"));
        assert!(sentence(&header(0, &[tag(ADDRESS, 0, &[0x1000, 0x2000, 0, 0])])).contains("contradict"));
    }

    #[test]
    fn a_header_cut_or_changed_anywhere_is_an_error_or_none() {
        let whole = header(0, &[tag(ENTRY, 0, &[5]), tag(CONSOLE, 0, &[2])]);
        for length in 0..whole.len() {
            assert!(!matches!(Header::find(&whole[..length]), Ok(Some(_))), "{length}");
        }
        for at in SHORTEST..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            let _ = Header::find(&changed);
        }
    }
}
