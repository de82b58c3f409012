//! One table: what kind of rewriting a Guest instruction needs, and why.

use iced_x86::{Code, CodeSize, CpuidFeature, FlowControl, Instruction, Mnemonic as M, OpKind, Register};

/// What the translator does with an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Does nothing a Guest can see: hints, prefetches, landing pads.
    Nothing,
    /// Touches registers only: copied, with reserved registers renamed.
    Harmless,
    /// `lea`: computes an address and touches no memory.
    Address,
    /// Has one memory operand: its address goes through the addend table.
    Memory,
    /// A bit test whose register operand also moves the address.
    BitString,
    /// Moves the stack pointer and one value.
    Stack,
    /// Decides where the Guest goes next; ends a unit, or may leave it.
    Flow,
    /// Leaves generated code: privileged, or needs the whole state, or is rare.
    System,
    /// No instruction of the processor that `cpuid` describes.
    Undefined,
}

/// Instruction sets whose instructions are copied to the host. Anything else is undefined to the Guest, which
/// `cpuid` tells it as well (see `cpu/cpuid.rs`).
fn is_offered(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    matches!(
        feature,
        F::INTEL8086
            | F::INTEL186
            | F::INTEL286
            | F::INTEL386
            | F::INTEL486
            | F::X64
            | F::FPU
            | F::FPU287
            | F::FPU387
            | F::CPUID
            | F::CMOV
            | F::CX8
            | F::CMPXCHG16B
            | F::MMX
            | F::SSE
            | F::SSE2
            | F::SSE3
            | F::SSSE3
            | F::SSE4_1
            | F::SSE4_2
            | F::POPCNT
            | F::AES
            | F::PCLMULQDQ
            | F::MOVBE
            | F::FXSR
            | F::AVX
            | F::AVX2
            | F::FMA
            | F::F16C
            | F::BMI1
            | F::BMI2
            | F::LZCNT
            | F::ADX
            | F::SHA
            | F::RDRAND
            | F::RDSEED
            | F::RDTSCP
            | F::TSC
            | F::MSR
            | F::CLFSH
            | F::CLFLUSHOPT
            | F::CLWB
            | F::PREFETCHW
            | F::PAUSE
            | F::MULTIBYTENOP
            | F::SYSCALL
            | F::XSAVE
            | F::XSAVEOPT
            | F::XSAVEC
            | F::XSAVES
            | F::FSGSBASE
            | F::INVPCID
            | F::RDPID
            | F::SMAP
            | F::GFNI
            | F::AVX_VNNI
            | F::AVX512F
            | F::AVX512DQ
            | F::AVX512CD
            | F::AVX512BW
            | F::AVX512VL
            | F::AVX512_IFMA
            | F::AVX512_VBMI
            | F::AVX512_VBMI2
            | F::AVX512_VNNI
            | F::AVX512_BITALG
            | F::AVX512_VPOPCNTDQ
            | F::AVX512_BF16
            | F::AVX512_VP2INTERSECT
            | F::VAES
            | F::VPCLMULQDQ
            | F::CET_IBT
            | F::VMX
            | F::SVM
            | F::CLDEMOTE
            | F::SMX
            | F::SEP
            | F::FPU287XL_ONLY
            | F::INTEL286_ONLY
            | F::INTEL386_ONLY
            | F::RDPMC
            | F::PREFETCHWT1
            | F::PREFETCHITI
            | F::PCOMMIT
    )
}

/// Looks an instruction up. `iced` has already refused what no processor decodes.
pub fn classify(instruction: &Instruction) -> Class {
    // Shadow stacks are not offered, and without them reading their pointer does nothing: compilers rely on it (SDM
    // vol. 2, RDSSPD/RDSSPQ).
    if matches!(instruction.mnemonic(), M::Rdsspd | M::Rdsspq) {
        return Class::Nothing;
    }
    if instruction.is_invalid() || !instruction.cpuid_features().iter().all(|&f| is_offered(f)) {
        return Class::Undefined;
    }
    match instruction.mnemonic() {
        M::Nop
        | M::Endbr64
        | M::Endbr32
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Prefetch
        | M::Prefetchwt1
        | M::Prefetchit0
        | M::Prefetchit1
        | M::Cldemote
        | M::Reservednop => Class::Nothing,
        M::Lea => Class::Address,
        M::Push | M::Pop | M::Leave => stack(instruction),
        M::Bt | M::Bts | M::Btr | M::Btc => match (instruction.op0_kind(), instruction.op1_kind()) {
            (OpKind::Memory, OpKind::Register) => Class::BitString,
            (OpKind::Memory, _) => Class::Memory,
            _ => Class::Harmless,
        },
        // They would tell the Guest where its translated code stands.
        M::Fnstenv | M::Fnsave => Class::System,
        // Rare, or in need of the whole state.
        M::Enter
        | M::Pushfq
        | M::Pushfd
        | M::Pushf
        | M::Popfq
        | M::Popfd
        | M::Popf
        | M::Cpuid
        | M::Rdpmc
        | M::Xgetbv
        | M::Xsetbv
        | M::Rdpid
        | M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xsavec
        | M::Xsavec64
        | M::Xsaves
        | M::Xsaves64
        | M::Xrstor
        | M::Xrstor64
        | M::Xrstors
        | M::Xrstors64
        | M::Rdfsbase
        | M::Rdgsbase
        | M::Wrfsbase
        | M::Wrgsbase
        | M::Rdtsc
        | M::Rdtscp
        | M::Fxsave
        | M::Fxsave64
        | M::Fxrstor
        | M::Fxrstor64 => Class::System,
        // Two addresses, or an address in rdi: one element at a time, outside generated code.
        M::Movsb
        | M::Movsw
        | M::Movsq
        | M::Stosb
        | M::Stosw
        | M::Stosd
        | M::Stosq
        | M::Lodsb
        | M::Lodsw
        | M::Lodsd
        | M::Lodsq
        | M::Scasb
        | M::Scasw
        | M::Scasd
        | M::Scasq
        | M::Cmpsb
        | M::Cmpsw
        | M::Cmpsq
        | M::Insb
        | M::Insw
        | M::Insd
        | M::Outsb
        | M::Outsw
        | M::Outsd
        | M::Maskmovdqu
        | M::Maskmovq
        | M::Vmaskmovdqu => Class::System,
        M::Movsd | M::Cmpsd if instruction.is_string_instruction() => Class::System,
        M::Lar
        | M::Lsl
        | M::Verr
        | M::Verw
        | M::Sgdt
        | M::Sidt
        | M::Sldt
        | M::Str
        | M::Smsw
        | M::Lmsw
        | M::Lgdt
        | M::Lidt
        | M::Lldt
        | M::Ltr
        | M::Invlpg
        | M::Invpcid
        | M::Wbinvd
        | M::Invd
        | M::Clts
        | M::Swapgs
        | M::Hlt
        | M::Cli
        | M::Sti
        | M::Std
        | M::Cld
        | M::Stac
        | M::Clac
        | M::In
        | M::Out
        | M::Rdmsr
        | M::Wrmsr
        | M::Lss
        | M::Lfs
        | M::Lgs
        | M::Xlatb
        | M::Syscall
        | M::Sysret
        | M::Sysretq
        | M::Sysenter
        | M::Sysexit
        | M::Sysexitq
        | M::Iret
        | M::Iretd
        | M::Iretq
        | M::Int
        | M::Int1
        | M::Int3
        | M::Retf
        | M::Vmcall
        | M::Vmmcall => Class::System,
        // 64-bit mode lacks them.
        M::Aaa
        | M::Aas
        | M::Aam
        | M::Aad
        | M::Daa
        | M::Das
        | M::Salc
        | M::Bound
        | M::Arpl
        | M::Pusha
        | M::Pushad
        | M::Popa
        | M::Popad
        | M::Lds
        | M::Les => Class::System,
        // A processor that waits for another lets it run: see rewrite/inline.rs. With a REX.B between its two bytes the decoder
        // names it so too, and the processor exchanges rax and r8; that one is copied.
        M::Pause if instruction.len() == 2 => Class::System,
        _ if instruction.is_privileged() => Class::System,
        _ if is_gather(instruction) => Class::System,
        _ if moves_segment(instruction) => Class::System,
        _ => match instruction.flow_control() {
            FlowControl::Next => memory_or_not(instruction),
            FlowControl::UnconditionalBranch | FlowControl::IndirectBranch if is_far(instruction) => {
                Class::System
            }
            FlowControl::Call | FlowControl::IndirectCall if is_far(instruction) => Class::System,
            FlowControl::UnconditionalBranch
            | FlowControl::ConditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::Call
            | FlowControl::IndirectCall
            | FlowControl::Return => Class::Flow,
            FlowControl::Interrupt => Class::System,
            FlowControl::XbeginXabortXend | FlowControl::Exception => Class::Undefined,
        },
    }
}

fn memory_or_not(instruction: &Instruction) -> Class {
    let has_memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory);
    if has_memory { Class::Memory } else { Class::Harmless }
}

/// Segment pushes and stack moves of another size than the code's own are not worth a fast path.
fn stack(instruction: &Instruction) -> Class {
    let segment = instruction.op_count() > 0 && instruction.op0_register().is_segment_register();
    let word = match instruction.code_size() {
        CodeSize::Code16 => 2,
        CodeSize::Code32 => 4,
        _ => 8,
    };
    let ordinary =
        instruction.stack_pointer_increment().unsigned_abs() == word || instruction.mnemonic() == M::Leave;
    let memory = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
    let narrow_leave = instruction.code() == Code::Leavew;
    // `pop [mem]` needs two addresses at once.
    let pops_memory = memory && instruction.mnemonic() == M::Pop;
    if segment || !ordinary || narrow_leave || pops_memory { Class::System } else { Class::Stack }
}

fn is_far(instruction: &Instruction) -> bool {
    instruction.is_jmp_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far()
        || instruction.is_call_far_indirect()
}

fn is_gather(instruction: &Instruction) -> bool {
    instruction.is_vsib()
}

fn moves_segment(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|n| {
        let register = instruction.op_register(n);
        instruction.op_kind(n) == OpKind::Register
            && (register.is_segment_register() || register.is_cr() || register.is_dr() || register.is_tr())
    })
}

/// The same general register in another number: `renumber(R9W, 10) == R10W`.
pub fn renumber(register: Register, number: u8) -> Register {
    let base = match register.size() {
        1 => [
            Register::AL,
            Register::CL,
            Register::DL,
            Register::BL,
            Register::SPL,
            Register::BPL,
            Register::SIL,
            Register::DIL,
            Register::R8L,
            Register::R9L,
            Register::R10L,
            Register::R11L,
            Register::R12L,
            Register::R13L,
            Register::R14L,
            Register::R15L,
        ][usize::from(number)],
        2 => Register::AX + u32::from(number),
        4 => Register::EAX + u32::from(number),
        _ => Register::RAX + u32::from(number),
    };
    debug_assert_eq!(base.size(), register.size());
    base
}
