//! Which kind of code the processor runs, and what follows from it for addresses, stacks and instruction pointers.
//!
//! ```text
//!   CR0.PE  EFER.LMA  CS.L  CS.D
//!     0        0       -     -     real mode: segments are bases, as the cached descriptors say
//!     1        0       -    0/1    protected mode, 16 or 32 bits
//!     1        1       0    0/1    compatibility mode, 16 or 32 bits
//!     1        1       1     0     64-bit mode
//! ```
//! (SDM vol. 3, 2.2; vol. 1, 3.6.) The size of code is CS's in every row: real mode is only 16 bits wide because that is
//! what is in CS after power-on, and a Guest that comes back from protected mode with other limits keeps them.

use super::segments::{CS, DS, ES, FS, GS, SS, Segment, attributes};
use super::{Cpu, RSP, cr0, efer};

/// The default size of operands and addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CodeSize {
    /// 64-bit mode.
    #[default]
    Long,
    /// 32 bits.
    Wide,
    /// 16 bits.
    Narrow,
}

impl CodeSize {
    /// As decoders count it.
    pub fn bits(self) -> u32 {
        match self {
            CodeSize::Long => 64,
            CodeSize::Wide => 32,
            CodeSize::Narrow => 16,
        }
    }
}

/// Attributes that a flat segment has, of those that make a difference to its user: present, writable where it is data,
/// growing up, and 32 bits wide.
const FLAT_BITS: u16 = attributes::PRESENT | attributes::NOT_SYSTEM | attributes::BIG;

impl Cpu {
    /// Protected mode, of either kind.
    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// Long mode: 64-bit mode and compatibility mode.
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// The size of the code that runs.
    pub fn code_size(&self) -> CodeSize {
        self.size_of(&self.segments[CS])
    }

    /// The size of code in `segment`.
    pub fn size_of(&self, segment: &Segment) -> CodeSize {
        if self.long_mode() && segment.is_long() {
            CodeSize::Long
        } else if segment.is_big() {
            CodeSize::Wide
        } else {
            CodeSize::Narrow
        }
    }

    /// 64-bit mode: segments other than FS and GS take no part.
    pub fn in_64_bit_mode(&self) -> bool {
        self.code_size() == CodeSize::Long
    }

    /// The bits of a linear address that exist.
    pub fn linear_mask(&self) -> u64 {
        if self.in_64_bit_mode() { u64::MAX } else { 0xffff_ffff }
    }

    /// The bits of an instruction pointer that exist. Only jumps of 16 bits cut it shorter (SDM vol. 2, JMP).
    pub fn pointer_mask(&self) -> u64 {
        self.linear_mask()
    }

    /// The bits of rsp that are the stack pointer: SS.B decides outside 64-bit mode (SDM vol. 1, 6.2.3).
    pub fn stack_mask(&self) -> u64 {
        match self.code_size() {
            CodeSize::Long => u64::MAX,
            _ => width_of(&self.segments[SS]),
        }
    }

    /// The stack pointer.
    pub fn stack_pointer(&self) -> u64 {
        self.gpr[RSP] & self.stack_mask()
    }

    /// Moves the stack pointer. Bits that a 16-bit stack does not have stay.
    pub fn set_stack_pointer(&mut self, value: u64) {
        let mask = self.stack_mask();
        let kept = if mask == 0xffff { self.gpr[RSP] & 0xffff_0000 } else { 0 };
        self.gpr[RSP] = kept | value & mask;
    }

    /// True when a word of the stack may lie across two pages.
    pub fn stack_is_ragged(&self) -> bool {
        let word = if self.in_64_bit_mode() { 8 } else { 4 };
        self.gpr[RSP] & (word - 1) != 0
    }

    /// How far offsets in FS and GS may go without being looked at again: for segments of any other kind than data that
    /// grows up and may be written, nowhere. Only code that is not 64-bit asks.
    pub fn based_reach(&self) -> [u64; 2] {
        [FS, GS].map(|index| {
            let segment = &self.segments[index];
            let plain = segment.present() && segment.is_writable_data() && segment.grows_up();
            if plain { u64::from(segment.limit) + 1 } else { 0 }
        })
    }

    /// True for 32-bit code whose CS, DS, ES and SS are the whole address space: then a linear address is an offset, and no
    /// limit or right has to be looked at. All 32-bit systems since the nineties run so.
    pub fn flat(&self) -> bool {
        let whole = |segment: &Segment| {
            segment.base == 0 && segment.limit == u32::MAX && segment.attributes & FLAT_BITS == FLAT_BITS
        };
        let data = |segment: &Segment| whole(segment) && segment.grows_up() && segment.is_writable_data();
        let code = &self.segments[CS];
        whole(code)
            && (code.is_readable() || !self.protected())
            && [ES, SS, DS].iter().all(|&n| data(&self.segments[n]))
    }

    /// Makes `code` the code segment and `pointer` the instruction pointer. Code that is not 64-bit begins with the upper
    /// halves of registers clear: the manual leaves them undefined (SDM vol. 1, 3.4.1.1), and translated code need not
    /// cut them off again and again.
    pub fn enter_code(&mut self, code: Segment, pointer: u64) {
        self.segments[CS] = code;
        self.rip = pointer;
        if !self.in_64_bit_mode() {
            for register in &mut self.gpr[..8] {
                *register &= 0xffff_ffff;
            }
        }
    }
}

/// The bits of a stack pointer into `segment`.
pub fn width_of(segment: &Segment) -> u64 {
    if segment.is_big() { 0xffff_ffff } else { 0xffff }
}
