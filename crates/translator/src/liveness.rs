//! Which arithmetic flags the Guest may still look at, instruction by instruction.
//!
//! Address translation computes with the host's flags. Where the Guest's are dead (two accesses out of three in
//! compiled code sit between the flags' last use and their next setting) nothing is saved. The pass runs backward
//! over one unit; where a unit is left, every flag counts as live, so flags are exact wherever an interrupt can
//! come or another unit begins. A fault in the middle of a unit may see dead flags in its saved image: flags that
//! the interrupted code sets anew before it reads them.

use crate::classify::{Class, classify};
use crate::cpu::mode::CodeSize;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic as M, OpKind, Register, RflagsBits};

/// The six flags that arithmetic sets, in iced's numbering.
pub const ALL: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Flags an instruction certainly gives new values.
pub fn overwritten(instruction: &Instruction, class: Class) -> u32 {
    if !matches!(class, Class::Harmless | Class::Memory | Class::BitString) || may_keep_flags(instruction) {
        return 0;
    }
    instruction.rflags_modified() & ALL
}

/// Flags an instruction looks at, or that must be exact when it runs.
pub fn read(instruction: &Instruction, class: Class) -> u32 {
    match class {
        Class::System | Class::Undefined | Class::Flow => ALL,
        _ => instruction.rflags_read() & ALL,
    }
}

/// Shifts whose count may be zero set nothing then.
fn may_keep_flags(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        M::Shl | M::Shr | M::Sar | M::Sal | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd => {
            let count = instruction.op_count() - 1;
            let by_register = instruction.op_kind(count) == OpKind::Register
                && instruction.op_register(count) == Register::CL;
            by_register
                || instruction.op_kind(count) == OpKind::Immediate8 && instruction.immediate8() & 31 == 0
        }
        _ => false,
    }
}

/// For each instruction of a unit: the flags that are live just before it.
pub fn live_before(instructions: &[(Instruction, Class)], after_last: u32) -> Vec<u32> {
    let mut live = after_last;
    let mut result = vec![0; instructions.len()];
    for (n, (instruction, class)) in instructions.iter().enumerate().rev() {
        live = live & !overwritten(instruction, *class) | read(instruction, *class);
        result[n] = live;
    }
    result
}

/// Instructions looked at behind a jump.
const PEEKED: usize = 8;

/// Flags that are live at Guest bytes that a unit is about to jump to, as far as a short look tells.
pub fn live_at(bytes: &[u8], pc: u64, size: CodeSize) -> u32 {
    let mut live = 0;
    let mut settled = 0;
    for instruction in Decoder::with_ip(size.bits(), bytes, pc, DecoderOptions::NONE).iter().take(PEEKED) {
        let class = classify(&instruction);
        live |= read(&instruction, class) & !settled;
        settled |= overwritten(&instruction, class);
        if settled == ALL || live | settled == ALL {
            return live;
        }
    }
    live | !settled & ALL
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(bytes: &[u8]) -> Vec<bool> {
        let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
        let list: Vec<_> = decoder.iter().map(|i| (i, classify(&i))).collect();
        live_before(&list, ALL).iter().map(|&f| f != 0).collect()
    }

    #[test]
    fn a_load_before_an_addition_may_spoil_the_flags() {
        // mov rax, [rbx]; add rax, rcx
        assert_eq!(live(&[0x48, 0x8b, 0x03, 0x48, 0x01, 0xc8]), [false, false]);
    }

    #[test]
    fn a_load_between_compare_and_branch_may_not() {
        // cmp rax, rcx; mov rdx, [rbx]; jz
        assert_eq!(live(&[0x48, 0x39, 0xc8, 0x48, 0x8b, 0x13, 0x74, 0x00]), [false, true, true]);
    }

    #[test]
    fn a_shift_by_a_register_keeps_what_was_before_it() {
        // mov rdx, [rbx]; shl rax, cl; mov ... : the count may be zero
        assert_eq!(live(&[0x48, 0x8b, 0x13, 0x48, 0xd3, 0xe0]), [true, true]);
    }

    #[test]
    fn an_increment_keeps_the_carry() {
        // mov rdx, [rbx]; inc rax; adc rax, 0
        assert_eq!(live(&[0x48, 0x8b, 0x13, 0x48, 0xff, 0xc0, 0x48, 0x83, 0xd0, 0x00]), [true, true, true]);
    }
}
