//! Which flags a comparison must leave out, and why.

use crate::case::Case;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits};

/// Flags that no manual defines after the instructions so far, in iced's numbering.
#[derive(Debug, Clone, Copy, Default)]
pub struct Undefined {
    flags: u32,
    branched: bool,
}

impl Undefined {
    /// True when this instruction's result would depend on one of them.
    pub fn matters_to(self, instruction: &Instruction) -> bool {
        instruction.rflags_read() & self.flags != 0
    }

    /// Goes past one instruction.
    pub fn pass(&mut self, instruction: &Instruction) {
        // What a branch may have jumped over may not have defined anything.
        self.branched |= instruction.flow_control() != FlowControl::Next;
        if surely_runs(instruction) && !self.branched {
            self.flags &= !instruction.rflags_modified();
        }
        self.flags |= undefined_by(instruction);
        if matches!(instruction.mnemonic(), Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq)
            && !self.branched
        {
            self.flags = 0;
        }
    }
}

/// Flags that no manual defines after this instruction. iced takes `rcl` and `rcr` of a byte by 9 or 18, or of a word by
/// 17, for doing nothing; but only a count of zero leaves the overflow flag alone (SDM vol. 2, RCL), and processors do
/// set it.
fn undefined_by(instruction: &Instruction) -> u32 {
    let whole_turn = matches!(instruction.mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr)
        && instruction.op1_kind() == OpKind::Immediate8
        && instruction.immediate8() & 31 > 1;
    instruction.rflags_undefined() | if whole_turn { RflagsBits::OF } else { 0 }
}

/// A shift by a register may be by nothing and `rep` may do nothing: then the flags stay as they were.
fn surely_runs(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    let shifts =
        matches!(instruction.mnemonic(), Rol | Ror | Rcl | Rcr | Shl | Sal | Shr | Sar | Shld | Shrd);
    let by_register = (1..instruction.op_count()).any(|i| instruction.op_register(i) == Register::CL);
    !(instruction.is_string_instruction() || shifts && by_register)
}

/// The flags (as bits of the flags register) that mean nothing when the code stopped at `rip`.
///
/// Two kinds: those that are undefined there; and, when an instruction faulted, those that it and its successors
/// overwrite before anybody reads them. The translator does not keep those, because the program cannot tell once it
/// goes on; only a handler that looks at the saved flags could. `LGUEST_DIFFERENTIAL_STRICT=1` compares them.
pub fn without_meaning(case: &Case, rip: u64) -> u64 {
    let mut decoder = Decoder::with_ip(case.bits, &case.code, case.state.rip, DecoderOptions::NONE);
    let mut undefined = Undefined::default();
    let (mut dead, mut live, mut open) = (0, 0, std::env::var_os("LGUEST_DIFFERENTIAL_STRICT").is_none());
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.ip() < rip {
            undefined.pass(&instruction);
        } else if open {
            live |= instruction.rflags_read() & !dead;
            if surely_runs(&instruction) {
                dead |= instruction.rflags_modified() & !live;
            }
            open = instruction.flow_control() == FlowControl::Next;
        }
    }
    real_flags(undefined.flags | dead)
}

/// iced's flag numbering to the processor's.
fn real_flags(iced: u32) -> u64 {
    let pairs = [
        (RflagsBits::CF, 0),
        (RflagsBits::PF, 2),
        (RflagsBits::AF, 4),
        (RflagsBits::ZF, 6),
        (RflagsBits::SF, 7),
        (RflagsBits::DF, 10),
        (RflagsBits::OF, 11),
    ];
    pairs.iter().filter(|(bit, _)| iced & bit != 0).fold(0, |flags, (_, place)| flags | 1 << place)
}

#[test]
fn flags_mean_nothing_where_undefined_or_about_to_be_overwritten() {
    let mut state = crate::case::State::zero();
    state.rip = 0x1000;
    let code = vec![0xd1, 0xed, 0x01, 0x07]; // shr ebp, 1; add [rdi], eax
    let case = Case { seed: 0, code, state, memory_seed: 0, patches: Vec::new(), ring: 3, bits: 64 };
    assert_eq!(without_meaning(&case, 0x1005), 0, "add defines every arithmetic flag");
    assert_eq!(without_meaning(&case, 0x1002) & 0x8d5, 0x8d5, "add overwrites every arithmetic flag");
    assert_eq!(without_meaning(&case, 0x1002) & 0x400, 0, "nobody overwrites the direction flag");
}
