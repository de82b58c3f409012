//! The little world that instructions run in: the same linear addresses hold the same bytes natively and in the Guest.
//!
//! ```text
//! 0x2000_0000  code      16 MiB of slots, readable and executable
//! 0x3000_0000  data      4 pages, writable         (what lies before is not mapped)
//! 0x3000_4000  constant  1 page, read-only         (what lies behind is not mapped)
//! 0x3800_0000  stack     2 pages, writable
//! 0x6000_1234_5000 far   2 pages, writable, out of reach of 32 bits
//! ```

use crate::random::Random;

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// First address of the code slots.
pub const CODE: u64 = 0x2000_0000;
/// Bytes of one slot: room for a sequence, for the traps around it, and for the tail of the slot before.
pub const SLOT: u64 = 512;
/// A case's code begins at least this far into its slot; what is before belongs to the tail of the previous slot.
pub const SLOT_HEAD: u64 = 160;
/// Longest code of a case.
pub const MOST_CODE: usize = 120;
/// Where indirect branches go: so far behind the code's first byte are only traps, even in a tail.
pub const TRAPS: u64 = MOST_CODE as u64 + 8;
/// How many of these traps there are.
pub const TRAPS_LONG: u64 = 16;
const _: () = assert!(TRAPS + TRAPS_LONG < SLOT_HEAD, "the traps lie inside the slot or its tail");
/// How many slots there are. A slot is used once per Guest, as the host cannot tell the Guest that it rewrote code.
pub const SLOTS: u64 = 0x100_0000 / SLOT;

/// A stretch of the world's memory.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// First linear address.
    pub start: u64,
    /// Length in pages.
    pub pages: u64,
    /// False for the constant page.
    pub writable: bool,
}

/// The data pages.
pub const DATA: Window = Window { start: 0x3000_0000, pages: 4, writable: true };
/// The page that faults on writes.
pub const CONSTANT: Window = Window { start: 0x3000_4000, pages: 1, writable: false };
/// The stack pages.
pub const STACK: Window = Window { start: 0x3800_0000, pages: 2, writable: true };
/// The pages beyond 32 bits.
pub const FAR: Window = Window { start: 0x6000_1234_5000, pages: 2, writable: true };

/// All windows, in the order in which they lie in [`Memory`].
pub const WINDOWS: [Window; 4] = [DATA, CONSTANT, STACK, FAR];

/// Bytes of all windows together.
pub const BYTES: usize = 9 * PAGE as usize;

/// The bytes of all windows, one behind the other.
pub type Memory = [u8; BYTES];

/// Where each window's bytes begin in [`Memory`].
pub fn windows() -> impl Iterator<Item = (usize, Window)> {
    WINDOWS.iter().scan(0, |offset, window| {
        let here = *offset;
        *offset += (window.pages * PAGE) as usize;
        Some((here, *window))
    })
}

/// Index into [`Memory`] of a linear address, None when it is in no window.
pub fn index(address: u64) -> Option<usize> {
    windows().find_map(|(offset, window)| {
        let within = address.checked_sub(window.start)?;
        (within < window.pages * PAGE).then(|| offset + within as usize)
    })
}

/// The linear address of an index into [`Memory`].
pub fn address(index: usize) -> u64 {
    let found = windows().find(|(offset, window)| index < offset + (window.pages * PAGE) as usize);
    let (offset, window) = found.expect("an index lies in the memory");
    window.start + (index - offset) as u64
}

/// Fills the memory as the seed says, then puts the patches in. Allocates nothing: the native child calls it too.
pub fn fill(memory: &mut Memory, seed: u64, patches: &[(u64, u64)]) {
    let mut random = Random::new(seed);
    for eight in memory.chunks_exact_mut(8) {
        eight.copy_from_slice(&random.eight_bytes().to_le_bytes());
    }
    for (address, value) in patches {
        for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
            if let Some(place) = index(address.wrapping_add(i as u64)) {
                memory[place] = byte;
            }
        }
    }
}

#[test]
fn addresses_and_indices_are_two_names_of_one_byte() {
    for place in (0..BYTES).step_by(997) {
        assert_eq!(index(address(place)), Some(place));
    }
    assert_eq!(index(DATA.start - 1), None);
    assert_eq!(index(CONSTANT.start + PAGE), None);
    assert_eq!(windows().map(|(_, w)| (w.pages * PAGE) as usize).sum::<usize>(), BYTES);
}
