//! Which features the Guest is told of: one table, a group a reason. What is not in it is not offered.
//!
//! Left out on purpose: AMX and AVX-512's half-precision numbers, which no host of ours has to test them on; MPX, PKU, CET and LA57, which need
//! control bits that nothing here has; MONITOR, VMX, SVM, SGX, TSX, user interrupts and performance counters, which need hardware
//! that a translator cannot pass on; UMIP, 3DNow!, SSE4A, XOP; VME, for there is no virtual-8086 mode.

use crate::cpu::xcr0;

/// A word of feature bits: leaf, subleaf, and the register (0 eax, 1 ebx, 2 ecx, 3 edx).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(pub u32, pub u32, pub usize);

pub(super) const BASIC_C: Word = Word(1, 0, 2);
pub(super) const BASIC_D: Word = Word(1, 0, 3);
pub(super) const POWER_A: Word = Word(6, 0, 0);
pub(super) const MORE_B: Word = Word(7, 0, 1);
pub(super) const MORE_C: Word = Word(7, 0, 2);
pub(super) const MORE_D: Word = Word(7, 0, 3);
pub(super) const FURTHER_A: Word = Word(7, 1, 0);
pub(super) const XSAVE_A: Word = Word(0xd, 1, 0);
pub(super) const EXTENDED_C: Word = Word(0x8000_0001, 0, 2);
pub(super) const EXTENDED_D: Word = Word(0x8000_0001, 0, 3);
pub(super) const CLOCK_D: Word = Word(0x8000_0007, 0, 3);
pub(super) const SIZES_B: Word = Word(0x8000_0008, 0, 1);
pub(super) const AMD_A: Word = Word(0x8000_0021, 0, 0);
pub(super) const AMD_C: Word = Word(0x8000_0021, 0, 2);

/// When a group's features are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Always: the engine does them itself.
    Always,
    /// When the host has them: the instructions are copied to it.
    Host,
    /// When the host has them and its system saves xmm state with `xsave`.
    HostXsave,
    /// When the host has them and its system saves ymm state.
    HostAvx,
    /// When the host has them and its system saves zmm state.
    HostAvx512,
    /// Always, on a processor that says it is AMD's; elsewhere these bits mean something else.
    AlwaysAmd,
    /// When the host has them, likewise.
    HostAmd,
}
use Rule::{Always, AlwaysAmd, Host, HostAmd, HostAvx, HostAvx512, HostXsave};

struct Group {
    rule: Rule,
    bits: &'static [(Word, &'static [u8])],
}

const GROUPS: &[Group] = &[
    // Addressing and privilege, done by the page walk, control.rs and events: PSE, MSR, PAE, MCE, APIC, SEP, MTRR, PGE, MCA,
    // PAT, PSE-36; DE: breakpoints are kept, never hit; SYSCALL, NX, 1 GiB pages, RDTSCP, long mode; FSGSBASE, SMEP, INVPCID, SMAP;
    // PCID; RDPID.
    Group {
        rule: Always,
        bits: &[
            (BASIC_D, &[2, 3, 5, 6, 7, 9, 11, 12, 13, 14, 16, 17]),
            (BASIC_C, &[17]),
            (MORE_B, &[0, 7, 10, 20]),
            (MORE_C, &[22]),
            (EXTENDED_D, &[11, 20, 26, 27, 29]),
        ],
    },
    // The machine around the processor: x2APIC, TSC deadline, a hypervisor is present; TSC_ADJUST; the APIC timer never stops.
    Group { rule: Always, bits: &[(BASIC_C, &[21, 24, 31]), (MORE_B, &[1]), (POWER_A, &[2])] },
    // SPEC_CTRL and PRED_CMD are accepted and ARCH_CAPABILITIES says that nothing of it is needed: see msr.rs.
    Group { rule: Always, bits: &[(MORE_D, &[26, 29])] },
    // Plain instructions, copied: FPU, TSC, CX8, CMOV, CLFLUSH, MMX, FXSR, SSE, SSE2; SSE3, PCLMUL, SSSE3, CX16, SSE4.1,
    // SSE4.2, MOVBE, POPCNT, AES, RDRAND; BMI1, BMI2, ERMS, RDSEED, ADX, CLFLUSHOPT, CLWB, SHA; GFNI; FSRM; LAHF, LZCNT,
    // PREFETCHW.
    Group {
        rule: Host,
        bits: &[
            (BASIC_D, &[0, 4, 8, 15, 19, 23, 24, 25, 26]),
            (BASIC_C, &[0, 1, 9, 13, 19, 20, 22, 23, 25, 30]),
            (MORE_B, &[3, 8, 9, 18, 19, 23, 24, 29]),
            (MORE_C, &[8]),
            (MORE_D, &[4]),
            (EXTENDED_C, &[0, 5, 8]),
        ],
    },
    // How the host's x87 behaves: when the data pointer is updated, that FCS and FDS are gone. And its clock's rate is constant.
    Group { rule: Host, bits: &[(MORE_B, &[6, 13]), (CLOCK_D, &[8])] },
    // XSAVE; XSAVEOPT, XSAVEC, XSAVES.
    Group { rule: HostXsave, bits: &[(BASIC_C, &[26]), (XSAVE_A, &[0, 1, 3])] },
    // FMA, AVX, F16C; AVX2; VAES and VPCLMULQDQ; VNNI in its VEX form.
    Group {
        rule: HostAvx,
        bits: &[(BASIC_C, &[12, 28, 29]), (MORE_B, &[5]), (MORE_C, &[9, 10]), (FURTHER_A, &[4])],
    },
    // AVX-512: F, DQ, IFMA, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; VP2INTERSECT; BF16.
    Group {
        rule: HostAvx512,
        bits: &[
            (MORE_B, &[16, 17, 21, 28, 30, 31]),
            (MORE_C, &[1, 6, 11, 12, 14]),
            (MORE_D, &[8]),
            (FURTHER_A, &[5]),
        ],
    },
    // AMD's own: MMX extensions; LFENCE waits for everything before it.
    Group { rule: HostAmd, bits: &[(EXTENDED_D, &[22]), (AMD_A, &[2])] },
    // AMD's own: topology leaves (topology.rs); null selectors clear the base (segments.rs); SSB_NO, BTC_NO, SRSO_NO and
    // TSA_*_NO, which say what ARCH_CAPABILITIES cannot.
    Group {
        rule: AlwaysAmd,
        bits: &[(EXTENDED_C, &[22]), (AMD_A, &[6, 29]), (AMD_C, &[1, 2]), (SIZES_B, &[26, 29])],
    },
];

/// AMD repeats these bits of leaf 1's edx in leaf 0x8000_0001's (APM vol. 3, appendix E.4.2).
const REPEATED: u32 = 0x0183_f3ff;

/// What decides, beside the host's own bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// The vendor is AMD or Hygon.
    pub amd: bool,
    /// What XCR0 may hold.
    pub xcr0: u64,
}

/// The bits of `word` that the Guest sees, of which the host has `host`.
pub(super) fn offered(word: Word, host: u32, circumstances: Circumstances) -> u32 {
    let mut bits = 0;
    for group in GROUPS {
        let listed = group.bits.iter().filter(|(of, _)| *of == word);
        let mask = listed.flat_map(|(_, bits)| bits.iter()).fold(0, |mask, bit| mask | 1 << bit);
        bits |= match group.rule {
            Always => mask,
            Host => mask & host,
            HostXsave if circumstances.xcr0 != 0 => mask & host,
            HostAvx if circumstances.xcr0 & xcr0::AVX != 0 => mask & host,
            AlwaysAmd if circumstances.amd => mask,
            HostAmd if circumstances.amd => mask & host,
            HostAvx512 if circumstances.xcr0 & xcr0::AVX512 != 0 => mask & host,
            HostXsave | HostAvx | HostAvx512 | AlwaysAmd | HostAmd => 0,
        };
    }
    bits
}

/// The bits of leaf 0x8000_0001's edx that repeat leaf 1's.
pub(super) fn repeated(basic_d: u32, circumstances: Circumstances) -> u32 {
    if circumstances.amd { basic_d & REPEATED } else { 0 }
}
