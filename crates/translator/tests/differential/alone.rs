//! Leaves a forked child alone with what it needs.
//!
//! The parent's Guests have wide tables and shared memory mapped all over the address space, and a child inherits
//! them. An address that must be mapped nowhere would then be found mapped, and a stray write would reach into the
//! parent's Guest. So the child unmaps them. It runs after `fork` in a process that had threads: no allocation.

/// Room for the list of mappings; lines are about eighty bytes, and a test process has some hundreds of them.
const LIST_BYTES: usize = 1 << 18;
/// A private mapping this large is no stack, heap or program.
const WIDE: u64 = 128 << 20;

/// Unmaps every shared or wide mapping but those that begin at one of `kept`. False when the list cannot be read.
pub fn be_alone(kept: [u64; 2]) -> bool {
    let mut list = [0; LIST_BYTES];
    let Some(length) = read_list(&mut list) else { return false };
    for line in list[..length].split(|byte| *byte == b'\n') {
        let Some((start, end, shared)) = mapping(line) else { continue };
        if (shared || end - start >= WIDE) && !kept.contains(&start) {
            // SAFETY: nothing the child still uses is shared or that wide, except what is kept.
            unsafe { libc::munmap(start as *mut libc::c_void, (end - start) as usize) };
        }
    }
    true
}

fn read_list(list: &mut [u8]) -> Option<usize> {
    // SAFETY: a constant name; the descriptor goes with the child.
    let file = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY) };
    let mut length = 0;
    loop {
        let room = &mut list[length..];
        // SAFETY: writes at most the room that is left.
        let count = unsafe { libc::read(file, room.as_mut_ptr().cast(), room.len()) };
        match count {
            0 => return (length < list.len()).then_some(length),
            n if n > 0 => length += n as usize,
            _ => return None,
        }
    }
}

/// Start, end and whether shared, of a line of proc(5)'s `maps`: `start-end perms …` in hexadecimal.
fn mapping(line: &[u8]) -> Option<(u64, u64, bool)> {
    let (start, rest) = hexadecimal(line, b'-')?;
    let (end, rest) = hexadecimal(rest, b' ')?;
    // The kernel's own page at the end of the address space cannot be unmapped and need not be.
    (end >> 63 == 0).then_some((start, end, rest.get(3) == Some(&b's')))
}

fn hexadecimal(text: &[u8], stop: u8) -> Option<(u64, &[u8])> {
    let place = text.iter().position(|byte| *byte == stop)?;
    let digit = |value: u64, byte: &u8| Some(value << 4 | u64::from((*byte as char).to_digit(16)?));
    Some((text[..place].iter().try_fold(0, digit)?, &text[place + 1..]))
}

#[test]
fn a_line_of_the_list_is_read() {
    let line = b"7f0000001000-7f0000003000 rw-s 00000000 00:01 42    /memfd:x (deleted)";
    assert_eq!(mapping(line), Some((0x7f00_0000_1000, 0x7f00_0000_3000, true)));
    assert_eq!(mapping(b"1000-2000 r-xp 00000000 00:00 0"), Some((0x1000, 0x2000, false)));
    assert_eq!(mapping(b""), None);
}
