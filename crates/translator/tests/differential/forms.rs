//! Which instruction forms are asked, and why some are not.
//!
//! A form is what iced calls a `Code`: one opcode with one kind of operands. The list is every form of the mode (64 bits, or
//! 32) whose processor feature is in [`FEATURES`] and which the host has, minus those in [`why_not`]: their result depends
//! on more than the registers and memory of a case.

use crate::makers::INTEL;
use iced_x86::{Code, CpuidFeature, EncodingKind, FlowControl, Mnemonic, OpCodeOperandKind};

/// Features whose instructions the translator must run: what a stock x86-64 kernel and its programs use, up to AVX-512.
const FEATURES: &[CpuidFeature] = {
    use CpuidFeature::*;
    &[
        INTEL8086,
        INTEL186,
        INTEL286,
        INTEL386,
        INTEL486,
        X64,
        ADX,
        AES,
        AVX,
        AVX2,
        BMI1,
        BMI2,
        CLFLUSHOPT,
        CLFSH,
        CLWB,
        CMOV,
        CMPXCHG16B,
        CX8,
        F16C,
        FMA,
        FPU,
        FPU287,
        FPU387,
        FSGSBASE,
        FXSR,
        GFNI,
        LZCNT,
        MMX,
        MOVBE,
        MULTIBYTENOP,
        PAUSE,
        PCLMULQDQ,
        POPCNT,
        PREFETCHW,
        SHA,
        SSE,
        SSE2,
        SSE3,
        SSE4_1,
        SSE4_2,
        SSSE3,
        VAES,
        VPCLMULQDQ,
        AVX_VNNI,
        AVX512F,
        AVX512DQ,
        AVX512CD,
        AVX512BW,
        AVX512VL,
        AVX512_IFMA,
        AVX512_VBMI,
        AVX512_VBMI2,
        AVX512_VNNI,
        AVX512_BITALG,
        AVX512_VPOPCNTDQ,
        AVX512_BF16,
        AVX512_VP2INTERSECT,
    ]
};

/// Features that are advertised too, and whose instructions no process can be the truth of.
const FOR_KERNELS: &[CpuidFeature] = {
    use CpuidFeature::*;
    &[
        CPUID,
        TSC,
        MSR,
        SYSCALL,
        SEP,
        RDTSCP,
        RDPMC,
        RDPID,
        RDRAND,
        RDSEED,
        XSAVE,
        XSAVEOPT,
        XSAVEC,
        XSAVES,
        INVPCID,
        SMAP,
        INTEL286_ONLY,
        INTEL386_ONLY,
        FPU287XL_ONLY,
    ]
};

/// Every form that is asked of code this wide.
pub fn all(bits: u32) -> Vec<Code> {
    let forms: Vec<Code> =
        Code::values().filter(|code| is_met(*code, bits) && why_not(*code).is_none()).collect();
    assert!(forms.len() > 1200, "iced knows many forms");
    forms
}

/// True for a form of the mode with one of the features.
fn is_met(code: Code, bits: u32) -> bool {
    let info = code.op_code();
    let exists = match bits {
        64 => info.mode64() && info.intel_decoder64() && info.amd_decoder64(),
        _ => info.mode32() && info.intel_decoder32() && info.amd_decoder32(),
    };
    info.is_instruction()
        && exists
        && !info.fwait()
        && info.decoder_option() == 0
        && matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX | EncodingKind::EVEX)
        && code.cpuid_features().iter().all(|feature| FEATURES.contains(feature) && host_has(*feature))
}

/// Whether the host has those of [`FEATURES`] that a processor of the last ten years may lack.
fn host_has(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    match feature {
        F::ADX => is_x86_feature_detected!("adx"),
        F::AES => is_x86_feature_detected!("aes"),
        F::GFNI => is_x86_feature_detected!("gfni"),
        F::SHA => is_x86_feature_detected!("sha"),
        F::VAES => is_x86_feature_detected!("vaes"),
        F::VPCLMULQDQ => is_x86_feature_detected!("vpclmulqdq"),
        F::AVX_VNNI => is_x86_feature_detected!("avxvnni"),
        F::AVX512F => is_x86_feature_detected!("avx512f"),
        F::AVX512DQ => is_x86_feature_detected!("avx512dq"),
        F::AVX512CD => is_x86_feature_detected!("avx512cd"),
        F::AVX512BW => is_x86_feature_detected!("avx512bw"),
        F::AVX512VL => is_x86_feature_detected!("avx512vl"),
        F::AVX512_IFMA => is_x86_feature_detected!("avx512ifma"),
        F::AVX512_VBMI => is_x86_feature_detected!("avx512vbmi"),
        F::AVX512_VBMI2 => is_x86_feature_detected!("avx512vbmi2"),
        F::AVX512_VNNI => is_x86_feature_detected!("avx512vnni"),
        F::AVX512_BITALG => is_x86_feature_detected!("avx512bitalg"),
        F::AVX512_VPOPCNTDQ => is_x86_feature_detected!("avx512vpopcntdq"),
        F::AVX512_BF16 => is_x86_feature_detected!("avx512bf16"),
        F::AVX512_VP2INTERSECT => is_x86_feature_detected!("avx512vp2intersect"),
        _ => true,
    }
}

/// True for a form of 64-bit code that the Guest's processor does not have, by a feature that CPUID does not advertise.
pub fn is_absent(code: Code) -> bool {
    let info = code.op_code();
    let decoded = info.is_instruction()
        && info.mode64()
        && info.decoder_option() == 0
        && matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX | EncodingKind::EVEX);
    let has = |feature: &CpuidFeature| {
        FEATURES.contains(feature) && host_has(*feature) || FOR_KERNELS.contains(feature)
    };
    let absent = code.cpuid_features().iter().any(|feature| !has(feature));
    decoded && absent && !is_nothing_where_absent(code)
}

/// Hints and landing pads that a processor without them takes for `nop`, so that programs need not ask; and calls of a
/// hypervisor, which there is.
fn is_nothing_where_absent(code: Code) -> bool {
    use Mnemonic::*;
    let hints =
        [Endbr32, Endbr64, Rdsspd, Rdsspq, Cldemote, Prefetchwt1, Prefetchit0, Prefetchit1, Reservednop];
    hints.contains(&code.mnemonic()) || matches!(code.mnemonic(), Vmcall | Vmmcall)
}

/// Why a form of an existing instruction cannot be compared, None when it can.
pub fn why_not(code: Code) -> Option<&'static str> {
    use Mnemonic::*;
    let info = code.op_code();
    let near = matches!(
        code.flow_control(),
        FlowControl::UnconditionalBranch
            | FlowControl::ConditionalBranch
            | FlowControl::Call
            | FlowControl::IndirectBranch
            | FlowControl::IndirectCall
            | FlowControl::Return
    );
    if near && info.operand_size() == 16 {
        return Some("Intel ignores the prefix before a near branch, AMD truncates the address");
    }
    match code.mnemonic() {
        Cpuid | Rdtsc | Rdtscp | Rdpmc | Rdpid | Xgetbv => Some("the answer is another one in a Guest"),
        Syscall | Sysenter | Sysexit | Sysret | Sysexitq | Sysretq | Int | Int1 | Rsm => {
            Some("natively it would call the host's kernel")
        }
        Sgdt | Sidt | Sldt | Str | Smsw | Lar | Lsl | Verr | Verw | Lgdt | Lidt | Lldt | Ltr | Lmsw => {
            Some("it reads or loads tables that are another kernel's natively")
        }
        Iret | Iretd | Iretq | Retf | Lss | Lds | Les | Lfs | Lgs => {
            Some("selectors are another kernel's natively")
        }
        Call | Jmp if ["m16:", "ptr16:"].iter().any(|far| info.instruction_string().contains(far)) => {
            Some("selectors are another kernel's natively")
        }
        Pop if is_segment(info.op0_kind()) => Some("as lfs"),
        Mov if info.op0_kind() == OpCodeOperandKind::seg_reg => Some("as lfs"),
        Push if is_segment(info.op0_kind()) && *INTEL => {
            Some("Intel's processors write the selector's two bytes only (SDM vol. 2, PUSH)")
        }
        Reservednop => Some("vendors do not reserve the same ones"),
        Fldenv | Fnstenv | Frstor | Fnsave | Fxsave | Fxsave64 | Fxrstor | Fxrstor64 => {
            Some("the image holds the host address of the last x87 instruction")
        }
        _ => None,
    }
}

fn is_segment(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind::{cs, ds, es, fs, gs, ss};
    [cs, ds, es, fs, gs, ss].contains(&kind)
}

/// True for a form that can only be compared at the user's level: the supervisor's result differs from what an
/// ordinary process, which is the truth here, can see.
pub fn only_for_users(code: Code) -> bool {
    use Mnemonic::*;
    let info = code.op_code();
    info.is_privileged()
        || info.must_be_cpl0()
        || info.is_input_output()
        || code.is_privileged()
        || matches!(code.mnemonic(), Popf | Popfd | Popfq | Cli | Sti | In | Out)
        || code.mnemonic() == Mov
            && (0..info.op_count()).any(|i| info.op_kind(i) == OpCodeOperandKind::seg_reg)
}

/// True for the forms every program is made of; sequences favour them.
pub fn is_everyday(code: Code) -> bool {
    use CpuidFeature::*;
    let everyday = [INTEL8086, INTEL186, INTEL386, INTEL486, X64, CMOV];
    !only_for_users(code) && code.cpuid_features().iter().all(|feature| everyday.contains(feature))
}

#[test]
fn the_list_holds_what_kernels_are_made_of_and_nothing_that_calls_the_host() {
    let forms = all(64);
    for code in
        [Code::Add_rm64_r64, Code::Movsb_m8_m8, Code::Cmpxchg16b_m128, Code::VEX_Vpaddb_ymm_ymm_ymmm256]
    {
        assert_eq!(forms.contains(&code), is_met(code, 64), "{code:?}");
    }
    assert!(!forms.contains(&Code::Syscall));
    assert!(!forms.contains(&Code::Int_imm8));
    let old = all(32);
    for code in [Code::Inc_r32, Code::Daa, Code::Pushad, Code::Bound_r32_m3232, Code::Into] {
        assert!(old.contains(&code) && !forms.contains(&code), "{code:?}");
    }
}
