//! Encodings that 64-bit mode gave away: what means the same there under another number.
//!
//! Whatever has no such twin is told in Rust: see `system/legacy.rs`.

use super::Rewriter;
use super::memory::address_bits;
use crate::cpu::segments::CS;
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind};

impl Rewriter<'_> {
    /// True for what 32-bit code may do and no compiler has done for decades, so that Rust does it: 16-bit addresses, jumps
    /// and calls of 16 bits, and writes through the code segment, which must fault.
    pub(super) fn is_out_of_date(&mut self, instruction: &Instruction) -> bool {
        if self.key.mode.long() {
            return false;
        }
        let memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory);
        if memory && address_bits(instruction) != 32 {
            return true;
        }
        if memory && instruction.memory_segment().number() == CS && instruction.mnemonic() != Mnemonic::Lea {
            return true;
        }
        if matches!(instruction.mnemonic(), Mnemonic::Vzeroall | Mnemonic::Vzeroupper) {
            // They clear the eight registers that 32-bit code has, not the host's sixteen.
            return true;
        }
        match instruction.flow_control() {
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                instruction.op0_kind() == OpKind::NearBranch16 || counts_in_16_bits(instruction)
            }
            FlowControl::IndirectBranch => narrow_target(instruction),
            FlowControl::Call | FlowControl::IndirectCall => {
                instruction.stack_pointer_increment() == -2 || narrow_target(instruction)
            }
            FlowControl::Return => matches!(instruction.code(), Code::Retnw | Code::Retnw_imm16),
            _ => false,
        }
    }
}

fn narrow_target(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register && instruction.op0_register().size() == 2
        || instruction.op0_kind() == OpKind::Memory && instruction.memory_size().size() == 2
}

fn counts_in_16_bits(instruction: &Instruction) -> bool {
    use Code as C;
    matches!(
        instruction.code(),
        C::Jcxz_rel8_32 | C::Loop_rel8_32_CX | C::Loope_rel8_32_CX | C::Loopne_rel8_32_CX
    )
}

/// The same instruction in an encoding that 64-bit mode has.
pub(super) fn modern(instruction: &Instruction) -> Instruction {
    let twin = match instruction.code() {
        // 40 to 4f became REX.
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        // 82 was another name of 80.
        Code::Add_rm8_imm8_82 => Code::Add_rm8_imm8,
        Code::Or_rm8_imm8_82 => Code::Or_rm8_imm8,
        Code::Adc_rm8_imm8_82 => Code::Adc_rm8_imm8,
        Code::Sbb_rm8_imm8_82 => Code::Sbb_rm8_imm8,
        Code::And_rm8_imm8_82 => Code::And_rm8_imm8,
        Code::Sub_rm8_imm8_82 => Code::Sub_rm8_imm8,
        Code::Xor_rm8_imm8_82 => Code::Xor_rm8_imm8,
        Code::Cmp_rm8_imm8_82 => Code::Cmp_rm8_imm8,
        _ => return *instruction,
    };
    let mut changed = *instruction;
    changed.set_code(twin);
    changed
}

#[cfg(test)]
mod tests {
    use super::modern;
    use iced_x86::{Decoder, DecoderOptions, Encoder};

    #[test]
    fn what_64_bit_mode_gave_away_reads_back_as_the_same_instruction() {
        for bytes in [&[0x40][..], &[0x4f], &[0x66, 0x43], &[0x82, 0xc0, 5], &[0x82, 0xf9, 0x80]] {
            let old = Decoder::new(32, bytes, DecoderOptions::NONE).decode();
            let mut encoder = Encoder::new(64);
            let length = encoder.encode(&modern(&old), 0).unwrap();
            let bytes = encoder.take_buffer();
            let new = Decoder::new(64, &bytes[..length], DecoderOptions::NONE).decode();
            assert_eq!((old.mnemonic(), old.op0_register()), (new.mnemonic(), new.op0_register()));
        }
    }
}
