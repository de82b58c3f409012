//! Names for register numbers and flag bits, so that no other file writes a bare 4 where it means the stack
//! pointer. Numbers are those that instructions encode (SDM vol. 2, table 2-2); bits are those of SDM vol. 1, 3.4.3.

/// Accumulator.
pub const RAX: usize = 0;
/// Counter; `syscall` leaves the return address here.
pub const RCX: usize = 1;
/// Data.
pub const RDX: usize = 2;
/// Base.
pub const RBX: usize = 3;
/// Stack pointer.
pub const RSP: usize = 4;
/// Frame pointer.
pub const RBP: usize = 5;
/// Source index.
pub const RSI: usize = 6;
/// Destination index.
pub const RDI: usize = 7;
/// The first of the registers that long mode added.
pub const R8: usize = 8;
/// Long mode's second.
pub const R9: usize = 9;
/// Long mode's third.
pub const R10: usize = 10;
/// Long mode's fourth; `syscall` leaves the flags here.
pub const R11: usize = 11;
/// Long mode's fifth.
pub const R12: usize = 12;
/// Long mode's sixth.
pub const R13: usize = 13;
/// Long mode's seventh.
pub const R14: usize = 14;
/// Long mode's eighth.
pub const R15: usize = 15;

/// Bits of the flags register.
pub mod flags {
    /// Carry.
    pub const CF: u64 = 1;
    /// The bit that is always one.
    pub const ALWAYS_ONE: u64 = 1 << 1;
    /// Parity of the low byte.
    pub const PF: u64 = 1 << 2;
    /// Carry out of bit 3.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Trap after each instruction.
    pub const TF: u64 = 1 << 8;
    /// Interrupts are let in.
    pub const IF: u64 = 1 << 9;
    /// String instructions go down.
    pub const DF: u64 = 1 << 10;
    /// Signed overflow.
    pub const OF: u64 = 1 << 11;
    /// The two bits that say which privilege levels may do I/O and change IF.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task: in long mode, only a reason for `iret` to fail.
    pub const NT: u64 = 1 << 14;
    /// Resume: hold instruction breakpoints back for one instruction.
    pub const RF: u64 = 1 << 16;
    /// Virtual-8086 mode, which long mode does not have.
    pub const VM: u64 = 1 << 17;
    /// Alignment checks in user mode; in supervisor mode, user pages may be touched despite SMAP.
    pub const AC: u64 = 1 << 18;
    /// Virtual interrupt flag.
    pub const VIF: u64 = 1 << 19;
    /// Virtual interrupt pending.
    pub const VIP: u64 = 1 << 20;
    /// Can be toggled: `cpuid` exists.
    pub const ID: u64 = 1 << 21;

    /// The flags that arithmetic sets.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
    /// Every flag that can be stored; the rest read as zero (or one, for [`ALWAYS_ONE`]).
    pub const STORED: u64 = ARITHMETIC | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
    /// How far [`IOPL`] is from bit 0.
    pub const IOPL_SHIFT: u32 = 12;
}

/// Bits of CR0 (SDM vol. 3, 2.5).
pub mod cr0 {
    /// Protected mode.
    pub const PE: u64 = 1;
    /// `wait` heeds TS.
    pub const MP: u64 = 1 << 1;
    /// No floating-point unit.
    pub const EM: u64 = 1 << 2;
    /// Task switched: the next floating-point instruction faults.
    pub const TS: u64 = 1 << 3;
    /// Always one.
    pub const ET: u64 = 1 << 4;
    /// Floating-point errors are exceptions, not interrupts.
    pub const NE: u64 = 1 << 5;
    /// Supervisor writes heed read-only pages.
    pub const WP: u64 = 1 << 16;
    /// Alignment checks may be turned on by the AC flag.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
}

/// Bits of CR4 (SDM vol. 3, 2.5).
pub mod cr4 {
    /// `rdtsc` is for the supervisor only.
    pub const TSD: u64 = 1 << 2;
    /// Debug registers 4 and 5 do not exist.
    pub const DE: u64 = 1 << 3;
    /// Large pages without PAE.
    pub const PSE: u64 = 1 << 4;
    /// 64-bit page-table entries.
    pub const PAE: u64 = 1 << 5;
    /// Machine checks are reported.
    pub const MCE: u64 = 1 << 6;
    /// Global pages stay when CR3 is written.
    pub const PGE: u64 = 1 << 7;
    /// `rdpmc` is for everybody.
    pub const PCE: u64 = 1 << 8;
    /// The system saves SSE state.
    pub const OSFXSR: u64 = 1 << 9;
    /// The system handles SSE exceptions.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// `rdfsbase` and its kin exist.
    pub const FSGSBASE: u64 = 1 << 16;
    /// Address spaces are tagged with CR3's low 12 bits.
    pub const PCIDE: u64 = 1 << 17;
    /// The system uses `xsave`.
    pub const OSXSAVE: u64 = 1 << 18;
    /// The supervisor may not execute user pages.
    pub const SMEP: u64 = 1 << 20;
    /// The supervisor may not touch user pages unless the AC flag is set.
    pub const SMAP: u64 = 1 << 21;
}

/// Bits of the EFER model-specific register (APM vol. 2, 3.1.7).
pub mod efer {
    /// `syscall` exists.
    pub const SCE: u64 = 1;
    /// Long mode is wanted.
    pub const LME: u64 = 1 << 8;
    /// Long mode is on; the processor sets it.
    pub const LMA: u64 = 1 << 10;
    /// Bit 63 of a page-table entry forbids execution.
    pub const NXE: u64 = 1 << 11;
}

/// Bits of XCR0 (SDM vol. 1, 13.3).
pub mod xcr0 {
    /// x87; always one.
    pub const X87: u64 = 1;
    /// The xmm registers and MXCSR.
    pub const SSE: u64 = 1 << 1;
    /// The upper halves of the ymm registers.
    pub const AVX: u64 = 1 << 2;
    /// AVX-512's three: the masks, the upper halves of zmm0 to zmm15, and zmm16 to zmm31. All or none of them.
    pub const AVX512: u64 = 0b111 << 5;
}

/// Bits of the debug registers (SDM vol. 3, 18.2).
pub mod debug {
    /// Bits of DR6 that are always one.
    pub const DR6_FIXED: u64 = 0xffff_0ff0;
    /// Bits of DR6 that can be written: which breakpoint it was, BD, BS, BT.
    pub const DR6_WRITABLE: u64 = 0xe00f;
    /// The bit of DR7 that is always one.
    pub const DR7_FIXED: u64 = 0x400;
    /// Bits of DR7 that can be written.
    pub const DR7_WRITABLE: u64 = 0xffff_23ff;
    /// General detect: any access to a debug register is a #DB.
    pub const GENERAL_DETECT: u64 = 1 << 13;
    /// DR6: which breakpoint it was.
    pub const DR6_POINTS: u64 = 15;
    /// DR6: TF was set.
    pub const SINGLE_STEP: u64 = 1 << 14;
    /// DR7: the bits of which one enables a breakpoint.
    pub const DR7_ENABLED: u64 = 0xff;
    /// DR6: the access that general detect caught.
    pub const DETECTED: u64 = 1 << 13;
}
