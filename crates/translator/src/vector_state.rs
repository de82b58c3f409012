//! Which part of the vector state an instruction needs, and which part the Guest has switched on.
//!
//! Four switches (SDM vol. 1, 13.3 and 14.3; vol. 2, 2.4 and 2.8; vol. 3, 2.5): CR0.TS and CR0.EM take everything away, CR4.OSFXSR
//! gives SSE, CR4.OSXSAVE with XCR0 gives AVX and AVX-512. Code is translated for one setting, which is part of its
//! name: see [`crate::unit::Mode`]. What the setting does not give is not copied but asked of [`refusal`].

use crate::cpu::{Cpu, cr0, cr4, xcr0};
use crate::events::exception::Exception;
use iced_x86::{CpuidFeature, EncodingKind, Instruction, Mnemonic as M, OpKind};

/// A part of the vector state, with those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum VectorState {
    /// None of it.
    None,
    /// x87 and MMX registers.
    X87,
    /// xmm registers.
    Sse,
    /// ymm registers.
    Avx,
    /// zmm and mask registers: everything there is.
    #[default]
    Avx512,
}

impl VectorState {
    /// What the Guest has switched on.
    pub fn enabled(cpu: &Cpu) -> VectorState {
        let has = |state: u64| cpu.cr4 & cr4::OSXSAVE != 0 && cpu.xcr0 & state == state;
        if cpu.cr0 & (cr0::TS | cr0::EM) != 0 {
            VectorState::None
        } else if cpu.cr4 & cr4::OSFXSR == 0 {
            VectorState::X87
        } else if !has(xcr0::SSE | xcr0::AVX) {
            VectorState::Sse
        } else if !has(xcr0::AVX512) {
            VectorState::Avx
        } else {
            VectorState::Avx512
        }
    }

    /// Whether code translated for this setting may simply run the instruction.
    pub fn allows(self, instruction: &Instruction) -> bool {
        self == VectorState::Avx512 || needed(instruction) <= self
    }
}

/// True for instructions on zmm registers, mask registers or the upper sixteen.
pub fn needs_avx512(instruction: &Instruction) -> bool {
    match instruction.code().encoding() {
        EncodingKind::EVEX => true,
        EncodingKind::VEX => has_register(instruction, iced_x86::Register::is_k),
        _ => false,
    }
}

/// The part an instruction needs.
pub fn needed(instruction: &Instruction) -> VectorState {
    use CpuidFeature as F;
    if needs_avx512(instruction) {
        return VectorState::Avx512;
    }
    let features = instruction.cpuid_features();
    let vector = has_register(instruction, iced_x86::Register::is_vector_register);
    if instruction.code().encoding() == EncodingKind::VEX {
        // The others compute on general registers.
        return if vector || features.contains(&F::AVX) { VectorState::Avx } else { VectorState::None };
    }
    if is_indifferent(instruction) {
        return VectorState::None;
    }
    if is_x87(instruction) || instruction.mnemonic() == M::Wait {
        return VectorState::X87;
    }
    if vector || features.iter().any(|f| matches!(f, F::SSE | F::SSE2 | F::SSE3) && !on_mmx(instruction)) {
        VectorState::Sse
    } else if on_mmx(instruction)
        || features
            .iter()
            .any(|f| matches!(f, F::MMX | F::FXSR | F::XSAVE | F::XSAVEOPT | F::XSAVEC | F::XSAVES))
    {
        VectorState::X87
    } else {
        VectorState::None
    }
}

/// The exception of an instruction whose part of the state is switched off (SDM vol. 2, tables 2-2, 2-18 and 2-47; vol. 3,
/// tables 2-2 and 2-3). What is missing for good comes before what is only put off.
pub fn refusal(cpu: &Cpu, instruction: &Instruction) -> Option<Exception> {
    if instruction.mnemonic() == M::Wait {
        // It waits for the coprocessor, which there is; CR0.MP says whether TS concerns it (SDM vol. 3, table 2-2).
        let put_off = cpu.cr0 & (cr0::TS | cr0::MP) == cr0::TS | cr0::MP;
        return put_off.then(Exception::nm);
    }
    let has = |state: u64| cpu.cr4 & cr4::OSXSAVE != 0 && cpu.xcr0 & state == state;
    let missing = match needed(instruction) {
        VectorState::None => return None,
        VectorState::X87 => cpu.cr0 & cr0::EM != 0 && !is_x87(instruction),
        VectorState::Sse => cpu.cr0 & cr0::EM != 0 || cpu.cr4 & cr4::OSFXSR == 0,
        VectorState::Avx => !has(xcr0::SSE | xcr0::AVX),
        VectorState::Avx512 => !has(xcr0::SSE | xcr0::AVX | xcr0::AVX512),
    };
    if missing {
        Some(Exception::ud())
    } else if cpu.cr0 & (cr0::TS | cr0::EM) != 0 {
        Some(Exception::nm())
    } else {
        None
    }
}

fn is_x87(instruction: &Instruction) -> bool {
    use CpuidFeature as F;
    instruction.cpuid_features().iter().any(|f| matches!(f, F::FPU | F::FPU287 | F::FPU387))
}

fn has_register(instruction: &Instruction, is: fn(iced_x86::Register) -> bool) -> bool {
    (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && is(instruction.op_register(n)))
}

fn on_mmx(instruction: &Instruction) -> bool {
    has_register(instruction, iced_x86::Register::is_mm)
}

/// SSE's and SSE2's fences, hints and integer stores are not switched off with the vector state.
fn is_indifferent(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        M::Lfence
            | M::Mfence
            | M::Sfence
            | M::Movnti
            | M::Pause
            | M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Clflush
            | M::Xgetbv
            | M::Xsetbv
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workbench::Workbench;
    use iced_x86::{Decoder, DecoderOptions};

    fn decoded(bytes: &[u8]) -> Instruction {
        Decoder::new(64, bytes, DecoderOptions::NONE).decode()
    }

    const FADD: &[u8] = &[0xd8, 0xc1];
    const PADDQ_MM: &[u8] = &[0x0f, 0xd4, 0xc1];
    const MOVAPS: &[u8] = &[0x0f, 0x28, 0xc1];
    const VADDPS: &[u8] = &[0xc5, 0xfc, 0x58, 0xc1];
    const ANDN: &[u8] = &[0xc4, 0xe2, 0x78, 0xf2, 0xc1];
    const KMOVB: &[u8] = &[0xc5, 0xf9, 0x90, 0xc1];
    const VMOVDQU8_XMM: &[u8] = &[0x62, 0xf1, 0x7f, 0x08, 0x6f, 0xc1];
    const MFENCE: &[u8] = &[0x0f, 0xae, 0xf0];
    const FWAIT: &[u8] = &[0x9b];

    #[test]
    fn each_encoding_needs_its_part() {
        use VectorState::*;
        let parts = [
            (FADD, X87),
            (PADDQ_MM, X87),
            (MOVAPS, Sse),
            (VADDPS, Avx),
            (ANDN, None),
            (KMOVB, Avx512),
            (VMOVDQU8_XMM, Avx512),
            (MFENCE, None),
            (FWAIT, X87),
        ];
        for (bytes, part) in parts {
            assert_eq!(needed(&decoded(bytes)), part, "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_not_switched_on_is_undefined_and_what_is_put_off_is_not_available() {
        let mut cpu = Workbench::new().cpu;
        cpu.cr0 &= !(cr0::TS | cr0::EM);
        cpu.cr4 |= cr4::OSFXSR;
        cpu.cr4 &= !cr4::OSXSAVE;
        cpu.xcr0 = 0xe7;
        let of = |cpu: &Cpu, bytes| refusal(cpu, &decoded(bytes));
        assert_eq!(of(&cpu, MOVAPS), None);
        assert_eq!(of(&cpu, VADDPS), Some(Exception::ud()));
        assert_eq!(of(&cpu, VMOVDQU8_XMM), Some(Exception::ud()));
        cpu.cr4 |= cr4::OSXSAVE;
        assert_eq!(of(&cpu, VMOVDQU8_XMM), None);
        cpu.xcr0 = 7;
        assert_eq!(of(&cpu, VADDPS), None);
        assert_eq!(of(&cpu, KMOVB), Some(Exception::ud()));
        cpu.cr0 |= cr0::TS;
        assert_eq!(of(&cpu, KMOVB), Some(Exception::ud()));
        assert_eq!(of(&cpu, VADDPS), Some(Exception::nm()));
        assert_eq!(of(&cpu, FADD), Some(Exception::nm()));
        assert_eq!(of(&cpu, ANDN), None);
        cpu.cr4 &= !cr4::OSFXSR;
        assert_eq!(of(&cpu, MOVAPS), Some(Exception::ud()));
        assert_eq!(of(&cpu, PADDQ_MM), Some(Exception::nm()));
    }

    /// It was copied whatever TS said: iced calls it an instruction of the 8086.
    #[test]
    fn waiting_is_put_off_where_the_monitor_says_so() {
        let mut cpu = Workbench::new().cpu;
        for (switches, expected) in [
            (0, None),
            (cr0::EM, None),
            (cr0::MP, None),
            (cr0::TS, None),
            (cr0::MP | cr0::TS, Some(Exception::nm())),
            (cr0::EM | cr0::MP | cr0::TS, Some(Exception::nm())),
        ] {
            cpu.cr0 = cpu.cr0 & !(cr0::EM | cr0::MP | cr0::TS) | switches;
            assert_eq!(refusal(&cpu, &decoded(FWAIT)), expected, "{switches:#x}");
        }
    }

    #[test]
    fn whatever_a_setting_does_not_allow_is_refused_by_it() {
        let mut cpu = Workbench::new().cpu;
        for switches in 0..64u64 {
            let on = |bit: u64, value: u64| if switches >> bit & 1 != 0 { value } else { 0 };
            cpu.cr0 = cpu.cr0 & !(cr0::TS | cr0::EM) | on(0, cr0::TS) | on(1, cr0::EM);
            cpu.cr4 = cpu.cr4 & !(cr4::OSFXSR | cr4::OSXSAVE) | on(2, cr4::OSFXSR) | on(3, cr4::OSXSAVE);
            cpu.xcr0 = 3 | on(4, xcr0::AVX) | on(5, xcr0::AVX512);
            for bytes in [FADD, PADDQ_MM, MOVAPS, VADDPS, ANDN, KMOVB, VMOVDQU8_XMM, MFENCE, FWAIT] {
                let instruction = decoded(bytes);
                let allowed = VectorState::enabled(&cpu).allows(&instruction);
                // Code for a lower setting may ask in vain; code for a higher one may not run what is refused.
                assert!(!allowed || refusal(&cpu, &instruction).is_none(), "{switches:b} {bytes:x?}");
            }
        }
    }
}
