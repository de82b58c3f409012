//! The note by which an ELF kernel says that it can be entered as a PVH Guest.
//!
//! Source: Xen, docs/misc/pvh.pandoc and xen/include/public/elfnote.h: a note of the owner "Xen" and of type 18
//! (XEN_ELFNOTE_PHYS32_ENTRY) holds the physical address of a 32-bit entry, in four or eight bytes. Notes themselves:
//! System V ABI, chapter 5, "Note Section".

use std::io;

use super::elf;
use super::elf_headers::{FileHeader, NOTE, u32_at};
use super::program::Program;

const OWNER: &[u8] = b"Xen\0";
const PHYS32_ENTRY: u32 = 18;
/// Bytes of a note before its owner's name: the lengths of name and contents, and the type.
const NOTE_HEADER: usize = 12;
/// A kernel has a few hundred bytes of notes; what is behind so many is not looked at.
const MOST_NOTES: u64 = 64 << 10;

/// The 32-bit entry that a kernel's note names, as it stands there.
///
/// # Errors
/// When the file cannot be read.
pub fn pvh_entry(program: &Program) -> io::Result<Option<u64>> {
    let beginning = program.beginning()?;
    let Ok(class) = elf::machine(&beginning) else { return Ok(None) };
    let header = FileHeader::parse(class, &beginning);
    let Some(programs) = header.and_then(|header| header.programs(&beginning)) else { return Ok(None) };
    for notes in programs.filter(|one| one.kind == NOTE) {
        let bytes = program.read(notes.offset, notes.in_file.min(MOST_NOTES))?;
        // Eight only where the file says so: four is what the gABI's writers mean by any smaller number.
        let alignment = if notes.alignment == 8 { 8 } else { 4 };
        if let Some(entry) = find(&bytes, alignment) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Walks notes until it meets the one; whatever lies about its length ends the walk.
fn find(mut notes: &[u8], alignment: usize) -> Option<u64> {
    while notes.len() >= NOTE_HEADER {
        let (name, contents, kind) = (u32_at(notes, 0) as usize, u32_at(notes, 4) as usize, u32_at(notes, 8));
        let contents_start = (NOTE_HEADER + name).next_multiple_of(alignment);
        let end = contents_start + contents;
        let owner = notes.get(NOTE_HEADER..NOTE_HEADER + name)?;
        let value = notes.get(contents_start..end)?;
        if owner == OWNER && kind == PHYS32_ENTRY {
            return match *value {
                [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d]).into()),
                _ => value.try_into().map(u64::from_le_bytes).ok(),
            };
        }
        notes = notes.get(end.next_multiple_of(alignment)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(owner: &[u8], kind: u32, contents: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [owner.len() as u32, contents.len() as u32, kind] {
            bytes.extend(word.to_le_bytes());
        }
        for part in [owner, contents] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn the_note_is_found_among_others_in_either_width() {
        for contents in [&0x100_0000_u32.to_le_bytes()[..], &0x100_0000_u64.to_le_bytes()] {
            let notes = [
                note(b"GNU\0", 3, b"build identity"),
                note(b"Xen\0", 6, b"linux\0"),
                note(b"Xen\0", 18, contents),
            ];
            assert_eq!(find(&notes.concat(), 4), Some(0x100_0000));
        }
    }

    #[test]
    fn notes_cut_anywhere_or_with_any_length_are_no_entry_and_no_panic() {
        let whole = note(b"Xen\0", 18, &[0; 8]);
        for length in 0..whole.len() {
            assert_eq!(find(&whole[..length], 4), None, "{length}");
        }
        for word in [0, 4] {
            let mut lying = whole.clone();
            lying[word..word + 4].fill(0xff);
            assert_eq!(find(&lying, 4), None);
        }
        assert_eq!(find(&note(b"Xen\0", 18, &[0; 3]), 4), None, "three bytes are no address");
    }
}
