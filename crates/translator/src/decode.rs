//! Bytes to unit: where a unit starts and ends.
//!
//! A unit is straight-line Guest code: it begins at a jump target and ends at an unconditional jump, at an
//! instruction that changes how code is run, at the page's end, or after [`LONGEST`] instructions. Conditional
//! jumps inside it are exits to the side. It never crosses a page, except that one instruction may: that one is a
//! unit alone, because it depends on two pages.

use crate::classify::{Class, classify};
use crate::unit::Mode;
use iced_x86::{Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic as M};

/// Instructions in a unit at most: long enough for any loop body that compilers make, short enough that a unit's
/// host code stays within a few kilobytes.
pub const LONGEST: usize = 64;

/// Bytes of the longest instruction (SDM vol. 2, 2.3.11).
pub const LONGEST_INSTRUCTION: usize = 15;

/// What a unit is made from.
#[derive(Debug, Default)]
pub struct Block {
    /// Instructions with their class.
    pub instructions: Vec<(Instruction, Class)>,
    /// The last instruction leaves the unit by itself; otherwise the unit falls through.
    pub leaves: bool,
}

/// Decodes from `pc` into `block`; `bytes` start there and end at the page's end (or 15 bytes on for a crossing
/// instruction). False when the first instruction does not end within `bytes`.
pub fn block(bytes: &[u8], pc: u64, mode: Mode, block: &mut Block) -> bool {
    let mut decoder = Decoder::with_ip(mode.size.bits(), bytes, pc, DecoderOptions::NONE);
    block.instructions.clear();
    block.leaves = false;
    let longest = if mode.single() { 1 } else { LONGEST };
    while block.instructions.len() < longest && decoder.can_decode() {
        let instruction = decoder.decode();
        let cut_off = bytes.len() - (instruction.ip() - pc) as usize <= 15;
        if instruction.is_invalid() && decoder.last_error() == DecoderError::NoMoreBytes && cut_off {
            break;
        }
        let class = classify(&instruction);
        block.instructions.push((instruction, class));
        if ends_unit(&instruction, class) {
            block.leaves = true;
            break;
        }
    }
    !block.instructions.is_empty()
}

/// True when nothing after the instruction may run without asking again where the Guest is.
pub fn ends_unit(instruction: &Instruction, class: Class) -> bool {
    match class {
        Class::Undefined => true,
        Class::Flow => instruction.flow_control() != FlowControl::ConditionalBranch,
        // The instruction after `sti` belongs to the same unit: see rewrite/inline.rs.
        Class::System => !resumes(instruction) && instruction.mnemonic() != M::Sti,
        _ => false,
    }
}

/// System instructions after which the same code simply goes on: they change no mapping, mode or target.
pub fn resumes(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        M::Cpuid
        | M::Rdtsc
        | M::Rdtscp
        | M::Rdpid
        | M::Xgetbv
        | M::Pushfq
        | M::Pushf
        | M::Cli
        | M::Pause
        | M::Cld
        | M::Std
        | M::Stac
        | M::Clac
        | M::Rdfsbase
        | M::Rdgsbase
        | M::Wrfsbase
        | M::Wrgsbase
        | M::Swapgs
        | M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xsavec
        | M::Xsavec64
        | M::Xsaves
        | M::Xsaves64
        | M::Xrstors
        | M::Xrstors64
        | M::Xrstor
        | M::Xrstor64
        | M::Fxsave
        | M::Fxsave64
        | M::Fxrstor
        | M::Fxrstor64
        | M::Fnstenv
        | M::Fnsave
        | M::Rdmsr
        | M::Smsw
        | M::Sgdt
        | M::Sidt
        | M::Str
        | M::Sldt
        | M::Lar
        | M::Lsl
        | M::Verr
        | M::Verw
        | M::Vzeroall
        | M::Vzeroupper => true,
        M::Mov => {
            !instruction.op0_register().is_cr()
                && !instruction.op0_register().is_dr()
                && !instruction.op0_register().is_segment_register()
        }
        M::Push => instruction.op0_register().is_segment_register(),
        _ if instruction.is_string_instruction() => {
            !matches!(instruction.mnemonic(), M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd)
        }
        _ if instruction.is_vsib() => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Instructions of the unit, and whether it leaves by itself.
    fn decoded(bytes: &[u8], pc: u64) -> Option<(usize, bool)> {
        let mut found = Block::default();
        block(bytes, pc, Mode::default(), &mut found).then_some((found.instructions.len(), found.leaves))
    }

    #[test]
    fn a_unit_ends_at_a_return() {
        assert_eq!(decoded(&[0x90, 0xc3, 0x90], 0x1000), Some((2, true)));
    }

    #[test]
    fn a_conditional_jump_is_an_exit_to_the_side() {
        assert_eq!(decoded(&[0x74, 0x10, 0x90, 0xc3], 0x1000), Some((3, true)));
    }

    #[test]
    fn an_instruction_cut_off_by_the_page_is_left_for_a_unit_of_its_own() {
        let cut = [0x90, 0x48, 0x8b];
        assert_eq!(decoded(&cut, 0x1ffd), Some((1, false)));
        assert_eq!(decoded(&cut[1..], 0x1ffe), None);
    }
}
