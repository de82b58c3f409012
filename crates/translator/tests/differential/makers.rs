//! What Intel's processors do otherwise than AMD's, where the manuals leave it open or say it of one maker only.
//!
//! The translator does as AMD's processors do, on which every form was first compared and is compared without any of this. On
//! Intel's, a difference of these sorts is not one: each has to do with how much is done, looked at or said when an instruction
//! faults, and no program asks for more than the manuals promise.

use crate::case::{Case, Outcome};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use std::arch::x86_64::__cpuid;
use std::sync::LazyLock;

/// The host's processor is Intel's.
pub static INTEL: LazyLock<bool> = LazyLock::new(|| __cpuid(0).ebx.to_le_bytes() == *b"Genu");

/// Their places in [`crate::case::State::gpr`].
const RCX: usize = 1;
const RSI: usize = 6;
const RDI: usize = 7;

/// What is not compared.
pub enum Allowed {
    /// All of it.
    Everything,
    /// What [`crate::report::differences`] calls by names that begin so.
    Fields(&'static [&'static str]),
}

/// A page at either end of 4 GiB.
fn at_an_end(address: u64) -> bool {
    address < 0x1000 || address >> 12 == 0xf_ffff
}

/// What the instruction that faulted may do otherwise on the host's processor.
pub fn allowed(case: &Case, native: &Outcome, translated: &Outcome) -> Option<Allowed> {
    if !*INTEL {
        return None;
    }
    let code = || Decoder::with_ip(case.bits, &case.code, case.state.rip, DecoderOptions::NONE).into_iter();
    // Of no rounds with 32-bit addresses, Intel's make 32-bit registers all the same: their lower halves are the same everywhere.
    let low = |outcome: &Outcome| [RCX, RSI, RDI].map(|register| outcome.state.gpr[register] as u32);
    let narrow = |one: Instruction| one.is_string_instruction() && uses_32_bit_addresses(&one);
    if case.bits == 64 && low(native) == low(translated) && code().any(narrow) {
        return Some(Allowed::Fields(&["rdi", "rsi", "rcx"]));
    }
    let one = code().find(|instruction| instruction.ip() == translated.state.rip)?;
    let faulted = |outcome: &Outcome| matches!(outcome.vector, 12..=14);
    if !faulted(translated) {
        return None;
    }
    if !(faulted(native) && native.state.rip == translated.state.rip) {
        return does_not_reach_memory(&one).then_some(Allowed::Everything);
    }
    // The SHA instructions look at alignment first; and an operand over the end of 4 GiB is a page fault of its first part, or of
    // what lies behind the end, before it is the segment's.
    let wraps = case.bits == 32 && native.vector == 14 && at_an_end(native.fault_address);
    if is_sha(&one) || wraps && matches!(translated.vector, 12 | 13) {
        return Some(Allowed::Everything);
    }
    what_a_fault_leaves(&one).map(Allowed::Fields)
}

/// True for what AMD's processors look up in memory, all of it, before they find another reason to stop, or need less of.
fn does_not_reach_memory(one: &Instruction) -> bool {
    use Mnemonic::*;
    match one.mnemonic() {
        // An exception of the x87's or of a conversion comes before the store (SDM vol. 1, 8.6); `bound` stops at its first half.
        Fst | Fstp | Fist | Fistp | Fisttp | Fbstp | Vcvtps2ph | Bound => true,
        // "movsxd r16, r/m16" (SDM vol. 2), which APM vol. 3 has with r/m32.
        Movsxd => one.op0_register().is_gpr16(),
        _ => false,
    }
}

fn uses_32_bit_addresses(one: &Instruction) -> bool {
    use OpKind::{MemoryESEDI, MemorySegESI};
    (0..one.op_count()).any(|n| matches!(one.op_kind(n), MemoryESEDI | MemorySegESI))
}

fn is_sha(one: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        one.mnemonic(),
        Sha1msg1 | Sha1msg2 | Sha1nexte | Sha1rnds4 | Sha256msg1 | Sha256msg2 | Sha256rnds2
    )
}

/// What a fault may leave otherwise.
fn what_a_fault_leaves(one: &Instruction) -> Option<&'static [&'static str]> {
    use Mnemonic::*;
    // MMX's way into the x87 state is taken before the operand is looked up, or after.
    if (0..one.op_count()).any(|n| one.op_kind(n) == OpKind::Register && one.op_register(n).is_mm()) {
        return Some(&["fsw", "ftw", "st", "fault"]);
    }
    match one.mnemonic() {
        // Which byte of a masked operand is named.
        Maskmovdqu | Maskmovq | Vmaskmovdqu | Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq => {
            Some(&["fault", "error"])
        }
        // Ten bytes over the end of a page: the part before it is written, or not.
        Fstp | Fbstp => Some(&["byte"]),
        // The mask is tidied, and the upper halves of both registers cleared, before the first element is looked up.
        Vgatherdps | Vgatherdpd | Vgatherqps | Vgatherqpd | Vpgatherdd | Vpgatherdq | Vpgatherqd
        | Vpgatherqq
            if one.op2_kind() == OpKind::Register && one.op_mask() == Register::None =>
        {
            Some(&["xmm", "ymm", "zmm"])
        }
        // The conversion's flags are set before the result is stored.
        Vcvtps2ph => Some(&["mxcsr"]),
        // Flags at a fault in the middle (SDM vol. 2, REP: "the EFLAGS register is restored").
        Scasb | Scasw | Scasd | Scasq | Cmpsb | Cmpsw | Cmpsd | Cmpsq
            if one.has_rep_prefix() || one.has_repne_prefix() =>
        {
            Some(&["rflags"])
        }
        _ => None,
    }
}
