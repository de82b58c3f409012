//! A unit: a run of Guest instructions and the host code made from it.

use crate::cpu::mode::CodeSize;
use crate::swaps::Swaps;
use crate::vector_state::VectorState;
use smallvec::SmallVec;
use std::num::NonZeroU16;

/// What a translation depends on besides the bytes: part of a unit's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mode {
    /// How wide the code is: 64 bits, or 32 with flat segments. Other code has no units.
    pub size: CodeSize,
    /// Privilege level 3.
    pub user: bool,
    /// Privilege level 1 or 2: the supervisor to page tables, and not allowed what level 0 is.
    pub middle: bool,
    /// The stack pointer is not a multiple of a stack word, so that stack accesses may cross pages. Rare and slow.
    pub ragged_stack: bool,
    /// The part of the vector state that is switched on.
    pub vectors: VectorState,
    /// CR4.TSD: code above level 0 may not read the time-stamp counter. (Never set at level 0.)
    pub clock_hidden: bool,
    /// Every access looks for itself: the spans of the ordinary unit do not lie in one page (`spans.rs`).
    pub apart: bool,
    /// One instruction, then back to Rust: for the instruction after `sti`.
    pub one_step: bool,
}

impl Mode {
    /// True when units of this mode hold one instruction and leave for Rust.
    pub fn single(self) -> bool {
        self.ragged_stack || self.one_step || self.middle && self.long()
    }

    /// 64-bit code.
    pub fn long(self) -> bool {
        self.size == CodeSize::Long
    }

    /// Bytes that a push moves.
    pub fn word(self) -> usize {
        self.size.bits() as usize / 8
    }

    /// The mode in which others look for the target of a jump.
    pub fn together(self) -> Mode {
        Mode { apart: false, ..self }
    }

    /// True for code whose targets have a second place to be found in (`cache/second.rs`), and which is reached from other
    /// pages through gates (`cache/gates.rs`).
    pub fn has_second_table(self) -> bool {
        self.user && self.long()
    }

    /// Which bank of jump tables holds units of this mode. Code of another width, or of another privilege of the
    /// supervisor's, must not find them at the same address; users and supervisor have tables of their own anyway.
    pub fn bank(self) -> usize {
        match (self.size, self.middle) {
            (CodeSize::Long, _) => 0,
            (_, false) => 1,
            (_, true) => 2,
        }
    }
}

/// A unit's number in the cache.
pub type UnitIndex = u32;

/// A unit's name: where the Guest sees it, where it really is, and how it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Guest-virtual address of the first instruction.
    pub pc: u64,
    /// Page of the memory file that holds the first byte.
    pub page: u32,
    /// See [`Mode`].
    pub mode: Mode,
}

/// Where one Guest instruction begins in host code.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// Bytes from the unit's host start. Sixteen bits, for there are half a million of these after a boot, and a unit of
    /// 64 instructions takes a few thousand bytes.
    pub host: u16,
    /// Bytes from the unit's first Guest instruction.
    pub guest: u16,
    /// What is not in its place while the instruction itself runs.
    pub lent: Lent,
    /// The Guest's flags are in [`crate::frame::Frame::saved_flags`] while the instruction itself runs.
    pub flags_aside: bool,
}

/// Guest state that a fault's handler has to put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lent {
    /// Nothing.
    Nothing,
    /// The register of this number is in [`crate::frame::Frame::borrowed`].
    Register(u8),
    /// From this offset of host code on, the stack pointer has moved down by a 32-bit word.
    Push {
        /// Bytes from the unit's host start.
        from: u16,
    },
    /// From this offset of host code on, rdi, and rsi if there is a `source`, are host addresses: the frame's
    /// `borrowed` and `kept` are what was added.
    Strings {
        /// rsi too.
        source: bool,
        /// Bytes from the unit's host start.
        from: u16,
    },
}

/// A way out of a unit.
#[derive(Debug, Clone, Copy)]
pub enum Exit {
    /// A `jmp` or `jcc` with a 32-bit distance, linked to its target when that is known.
    Direct {
        /// Just past the distance, in bytes from the unit's host start.
        after: u16,
        /// The stub that asks for the target.
        stub: u16,
        /// Guest-virtual target.
        target: u64,
        /// The target is wanted with [`Mode::apart`].
        apart: bool,
        /// Set for a jump to the unit's own beginning that leaves its registers swapped: where it may be linked to, from the
        /// unit's host start. Nothing else may be linked then.
        inner: Option<NonZeroU16>,
        /// The unit it is linked to.
        linked: Option<UnitIndex>,
    },
    /// The `jmp [table]` of a computed target: eight bytes that a kick replaces.
    Table {
        /// Its first byte, from the unit's host start.
        at: u16,
        /// Its displacement.
        disp: i32,
    },
}

/// Why generated code calls a thunk: what stands behind a site number.
#[derive(Debug, Clone, Copy)]
pub enum Site {
    /// No usable entry for the address in the scratch register: fill the table or play the instruction by hand.
    Memory { unit: UnitIndex, mark: u16, flags_aside: bool, part: Part },
    /// A direct exit that is not linked yet.
    Link { unit: UnitIndex, exit: u16 },
    /// An instruction that Rust carries out.
    System { unit: UnitIndex, mark: u16, resumes: bool },
}

// Of each unit there are a dozen marks, seven sites and three exits, and of units 47,000 after a boot: with marks and exits in a
// list of the unit's own, and sites that held the instruction, that was 690 bytes a unit, half of what the Launcher took.
const _: () = assert!(size_of::<Mark>() == 10 && size_of::<Site>() == 12 && size_of::<Exit>() == 24);

/// Which access of an instruction misses: most have one; a call through memory has its operand and its push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The explicit memory operand; `write` when it may be written.
    Operand { size: u16, write: bool },
    /// The word a push writes.
    Push,
    /// The word a pop reads.
    Pop,
}

/// What there are several of in each unit; the cache keeps those of all units one behind the other.
#[derive(Debug, Default)]
pub struct Parts {
    /// See [`Mark`].
    pub marks: Vec<Mark>,
    /// See [`Exit`].
    pub exits: Vec<Exit>,
    /// See [`Site`].
    pub sites: Vec<Site>,
}

/// A finished unit.
#[derive(Debug)]
pub struct Unit {
    /// Its name.
    pub key: Key,
    /// The second page of the memory file it read, when its last instruction crosses a page.
    pub second_page: Option<u32>,
    /// Offset of the hot path in the arena; computed jumps enter here and are checked.
    pub start: u32,
    /// Offset of the stubs in the arena.
    pub cold: u32,
    /// Bytes of the hot path. Host code is counted as if the stubs stood behind it: see [`Unit::place`].
    pub hot: u16,
    /// Bytes of host code.
    pub size: u16,
    /// The entry for those who know where they go.
    pub entry: u16,
    /// Where linked jumps arrive: the entry, or a jump through the jump table, for user code that lies in
    /// two pages. Whether the second is still the one it was is what the table knows.
    pub door: u16,
    /// Where linked jumps of users from other pages arrive: see `cache/gates.rs`.
    pub gate: u16,
    /// Registers that are elsewhere between its entry and its exits.
    pub swaps: Swaps,
    /// Where its instruction starts begin among the cache's, ascending.
    pub marks: u32,
    /// Where its ways out begin among the cache's.
    pub exits: u32,
    /// Direct exits of other units that are linked here: (unit, exit).
    pub incoming: SmallVec<[(UnitIndex, u32); 2]>,
    /// Where the Guest bytes it was made from begin among the cache's.
    pub bytes: u32,
    /// False once the Guest changed the bytes or the mapping.
    pub alive: bool,
}

impl Unit {
    /// Offset in the arena of the unit's byte `offset`.
    pub fn place(&self, offset: u16) -> u32 {
        match offset.checked_sub(self.hot) {
            None => self.start + u32::from(offset),
            Some(offset) => self.cold + u32::from(offset),
        }
    }

    /// The reverse; none if the place is not the unit's.
    pub fn offset(&self, place: u32) -> Option<u16> {
        let stubs = self.size - self.hot;
        match (place.checked_sub(self.start), place.checked_sub(self.cold)) {
            (Some(hot), _) if hot < self.hot.into() => Some(hot as u16),
            (_, Some(cold)) if cold < stubs.into() => Some(self.hot + cold as u16),
            _ => None,
        }
    }
}
