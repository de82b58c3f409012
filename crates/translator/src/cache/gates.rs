//! Gates: where user code arrives from another page by a jump that is known.
//!
//! What stands at a user's address depends on the address space, so a jump into another page cannot simply go to the code that
//! was there last time. It used to go through the jump table as computed targets do; but a jump whose target the processor
//! reads from a table of half a megabyte is a jump that it foresees badly, and code that is executed a few times is made of
//! such jumps: of a compiler's time in generated code a third was spent on arriving. So a known jump is linked to a gate
//! of the target's unit, and the gate looks whether the current space has the unit's page where the unit has it:
//! ```text
//!   gate   mov s1, rcx ; mov ecx, [space] ; movzx ecx, byte [known + rcx + number] ; jrcxz same
//!          s0 = target ; jump to the second table, which asks Rust (second.rs)
//!   same   mov rcx, s1
//! ```
//! The number stands for a page of the Guest's addresses and the page of memory that was there: a byte for each in each
//! space, 0 where Rust has walked the page tables and found just that, and nothing ended it since.

use super::Cache;
use crate::unit::{Key, UnitIndex};

/// Numbers there are: as many as bytes of a space, by which the frame's `jump_space` counts. With the page of a Guest's
/// code that each stands for it is 256 MB of code, more than the arena has room for. A unit without one has a
/// gate that is never open.
pub const GATES: usize = crate::frame::JUMP_SLOTS;

/// The number of those that got none.
pub const NO_GATE: u16 = 0;

/// A page of user code: where the Guest sees it, and the page of memory it is.
pub type CodePlace = (u64, u32);

impl Cache {
    /// The number of a page of user code, if some unit on it was made.
    pub fn gate(&self, place: CodePlace) -> Option<u16> {
        self.gates.get(&place).copied()
    }

    /// A new one.
    pub fn new_gate(&mut self, place: CodePlace) -> u16 {
        let number = u16::try_from(1 + self.gates.len()).unwrap_or(NO_GATE);
        if number != NO_GATE {
            self.gates.insert(place, number);
        }
        number
    }

    /// Where a jump from one unit to another arrives, as the latter's bytes are counted.
    pub(super) fn way_in(&self, from: &Key, to: UnitIndex) -> u16 {
        let unit = self.unit(to);
        let other_page = from.mode.user && from.pc >> 12 != unit.key.pc >> 12;
        if other_page { unit.gate } else { unit.door }
    }
}
