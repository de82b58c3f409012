//! The Guest's side of the test: a supervisor of forty instructions, written for this processor's own assembler.
//!
//! `init` switches the processor's features on. `next` tells the host that it is ready (`out`), loads every register
//! from the save area and enters the case with `iretq`. Every exception arrives at one of the gates on a stack of
//! its own, where the registers are pushed and stay for the host to read. So one Guest runs any number of cases, and
//! each case also passes through `iretq`, the exception's delivery, `xrstor` and `xsave`.

use std::arch::global_asm;

/// Linear address at which the Guest sees its guest-physical address zero: the supervisor's half.
pub const SUPERVISOR: u64 = 0xffff_8000_0000_0000;
/// Guest-physical place of the stubs.
pub const STUBS: u64 = 0x10_0000;
/// Guest-physical place of the save area.
pub const SAVE: u64 = 0x11_0000;
/// Guest-physical end of the stack that exceptions use.
pub const EXCEPTION_STACK: u64 = 0x12_4000;
/// The port that says "ready for the next case".
pub const READY_PORT: u16 = 0xf4;
/// Bytes between two vectors' gates.
pub const GATE_STEP: u64 = 16;
/// How many vectors have a gate.
pub const GATES: u64 = 256;

/// Places in the save area.
pub mod save {
    /// Sixteen general registers to load.
    pub const GPR: u64 = 0;
    /// rip, cs, rflags, rsp, ss as `iretq` pops them.
    pub const FRAME: u64 = 0x80;
    /// FS.base to load.
    pub const FS_BASE: u64 = 0xa8;
    /// GS.base to load.
    pub const GS_BASE: u64 = 0xb0;
    /// CR2 as found.
    pub const CR2: u64 = 0xc0;
    /// FS.base as found.
    pub const FS_FOUND: u64 = 0xc8;
    /// GS.base as found.
    pub const GS_FOUND: u64 = 0xd0;
    /// Limit and base of the interrupt descriptor table.
    pub const IDTR: u64 = 0xe0;
    /// What XCR0 is set to.
    pub const XCR0: u64 = 0xf0;
    /// The selector to load into DS and ES.
    pub const DATA: u64 = 0xf8;
    /// Vector state to load.
    pub const VECTORS: u64 = 0x1000;
    /// Vector state as found.
    pub const VECTORS_FOUND: u64 = 0x2000;
}

global_asm!(
    ".pushsection .rodata.differential, \"a\"",
    ".balign 16",
    ".globl differential_stubs, differential_gates, differential_stubs_end",
    "differential_stubs:",
    "mov rbx, {save}",
    "mov rax, cr4",
    "or rax, 0x50600", // OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE
    "mov cr4, rax",
    "mov rax, cr0",
    "and rax, ~0xc", // EM, TS
    "or rax, 0x10022", // WP, NE, MP
    "mov cr0, rax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x801", // NXE, SCE
    "wrmsr",
    "xor ecx, ecx",
    "mov eax, [rbx + {xcr0}]",
    "xor edx, edx",
    "xsetbv",
    "lidt [rbx + {idtr}]",
    "mov eax, 0x40",
    "ltr ax",
    "xor eax, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "2:", // next
    "out {ready}, al",
    "mov rbx, {save}",
    "mov ecx, 0xc0000100",
    "mov eax, [rbx + {fs_base}]",
    "mov edx, [rbx + {fs_base} + 4]",
    "wrmsr",
    "mov ecx, 0xc0000101",
    "mov eax, [rbx + {gs_base}]",
    "mov edx, [rbx + {gs_base} + 4]",
    "wrmsr",
    "mov eax, [rbx + {data}]",
    "mov ds, eax",
    "mov es, eax",
    "mov eax, [rbx + {xcr0}]",
    "xor edx, edx",
    "xrstor64 [rbx + {vectors}]",
    "lea rsp, [rbx + {frame}]",
    "mov rax, [rbx]",
    "mov rcx, [rbx + 8]",
    "mov rdx, [rbx + 16]",
    "mov rbp, [rbx + 40]",
    "mov rsi, [rbx + 48]",
    "mov rdi, [rbx + 56]",
    "mov r8, [rbx + 64]",
    "mov r9, [rbx + 72]",
    "mov r10, [rbx + 80]",
    "mov r11, [rbx + 88]",
    "mov r12, [rbx + 96]",
    "mov r13, [rbx + 104]",
    "mov r14, [rbx + 112]",
    "mov r15, [rbx + 120]",
    "mov rbx, [rbx + 24]",
    "iretq",
    "3:", // every gate comes here, with vector and error code on the stack
    "push r15",
    "push r14",
    "push r13",
    "push r12",
    "push r11",
    "push r10",
    "push r9",
    "push r8",
    "push rdi",
    "push rsi",
    "push rbp",
    "push rbx",
    "push rdx",
    "push rcx",
    "push rax",
    "cld",
    "mov rbx, {save}",
    "mov rax, cr2",
    "mov [rbx + {cr2}], rax",
    "mov ecx, 0xc0000100",
    "rdmsr",
    "mov [rbx + {fs_found}], eax",
    "mov [rbx + {fs_found} + 4], edx",
    "mov ecx, 0xc0000101",
    "rdmsr",
    "mov [rbx + {gs_found}], eax",
    "mov [rbx + {gs_found} + 4], edx",
    "mov eax, [rbx + {xcr0}]",
    "xor edx, edx",
    "xsave64 [rbx + {vectors_found}]",
    "jmp 2b",
    ".balign 16",
    "differential_gates:",
    ".set vector, 0",
    ".rept {gates}",
    ".balign {gate_step}",
    // Those that push an error code themselves: #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP.
    ".if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21)",
    "push 0",
    ".endif",
    "push vector",
    "jmp 3b",
    ".set vector, vector + 1",
    ".endr",
    "differential_stubs_end:",
    ".popsection",
    save = const SUPERVISOR + SAVE,
    ready = const READY_PORT,
    xcr0 = const save::XCR0,
    data = const save::DATA,
    idtr = const save::IDTR,
    fs_base = const save::FS_BASE,
    gs_base = const save::GS_BASE,
    vectors = const save::VECTORS,
    frame = const save::FRAME,
    cr2 = const save::CR2,
    fs_found = const save::FS_FOUND,
    gs_found = const save::GS_FOUND,
    vectors_found = const save::VECTORS_FOUND,
    gates = const GATES,
    gate_step = const GATE_STEP,
);

unsafe extern "C" {
    static differential_stubs: u8;
    static differential_gates: u8;
    static differential_stubs_end: u8;
}

/// The stubs' bytes. They hold no address of the host's.
pub fn bytes() -> &'static [u8] {
    let start = &raw const differential_stubs;
    let length = (&raw const differential_stubs_end) as usize - start as usize;
    // SAFETY: the assembler laid both labels around one piece of read-only data.
    unsafe { std::slice::from_raw_parts(start, length) }
}

/// Guest-physical address of a vector's gate.
pub fn gate(vector: u64) -> u64 {
    let gates = (&raw const differential_gates) as u64 - (&raw const differential_stubs) as u64;
    STUBS + gates + vector * GATE_STEP
}
