//! One vCPU's architectural state: everything a manual says a processor remembers, except the floating-point
//! and vector registers, which stay in the host's own registers while the Guest runs (see `run.rs`).

pub mod registers;
pub mod segments;
pub mod mode;
pub mod segmentation;
pub mod descriptors;
pub mod start;
pub mod privilege;
pub mod control;
pub mod translations;
pub mod msr;
pub mod inert;
pub mod components;
pub mod cpuid;
pub mod hosted;

use segments::{Segment, TableRegister};

/// Numbers of the general registers as instructions encode them; indices into [`Cpu::gpr`].
pub use registers::*;

/// The state. `repr(C)` because generated code reaches the fields by their offset.
#[repr(C)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// General registers in encoding order: rax rcx rdx rbx rsp rbp rsi rdi r8..r15.
    pub gpr: [u64; 16],
    /// Address of the next instruction; in the functions of this crate's system rooms, of the current one.
    pub rip: u64,
    /// The flags register, whole. While generated code runs, its arithmetic flags live in the host's own flags.
    /// RF is only ever set between an `iret` and the next instruction.
    pub rflags: u64,
    /// Current privilege level, 0 to 3.
    pub cpl: u8,
    /// One instruction of grace after `sti`, `mov ss`, `pop ss`: no interrupt is taken (SDM vol. 3, 6.8.3).
    pub interrupt_shadow: bool,
    /// A non-maskable interrupt was taken and `iret` has not run since: no other is taken (SDM vol. 3, 6.7.1).
    pub nmi_blocked: bool,
    /// ES, CS, SS, DS, FS, GS in encoding order; see the constants in [`segments`].
    pub segments: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: TableRegister,
    /// Interrupt descriptor table.
    pub idtr: TableRegister,
    /// Control registers.
    pub cr0: u64,
    /// The address that last page-faulted.
    pub cr2: u64,
    /// Page-table base, PCID and PWT/PCD.
    pub cr3: u64,
    /// PAE paging's four page-directory pointers, as they were when they were loaded (SDM vol. 3, 4.4.1).
    pub directories: [u64; 4],
    /// Feature switches.
    pub cr4: u64,
    /// Extended control register 0: which vector state the Guest enabled.
    pub xcr0: u64,
    /// Extended features: SCE, LME, LMA, NXE.
    pub efer: u64,
    /// `syscall` target selectors.
    pub star: u64,
    /// `syscall` target from 64-bit mode.
    pub lstar: u64,
    /// `syscall` target from compatibility mode.
    pub cstar: u64,
    /// Flags that `syscall` clears.
    pub sfmask: u64,
    /// `sysenter` code selector (the others follow from it), stack pointer and target.
    pub sysenter: Sysenter,
    /// What `swapgs` exchanges with GS.base.
    pub kernel_gs_base: u64,
    /// What `rdtscp` and `rdpid` report.
    pub tsc_aux: u64,
    /// Guest time-stamp counter minus the host's.
    pub tsc_offset: u64,
    /// What the Guest itself added to its time-stamp counter, by writing it or this register.
    pub tsc_adjust: u64,
    /// Debug registers; DR4 and DR5 are unused. What they ask for is `debug`'s.
    pub dr: [u64; 8],
    /// What XCR0 may hold: the vector state that `cpuid` offers. Zero when there is no `xsave`.
    pub xcr0_offered: u64,
    /// Registers the Guest may set and read back but that change nothing here (MTRRs, PAT, SPEC_CTRL ...).
    pub inert: inert::InertMsrs,
    /// Of a hosted processor, bit n: segment register n holds what the descriptor of its selector still says, so that loading
    /// it with that selector changes nothing.
    pub reloadable: u32,
    /// What a hosted processor has in the place of tables of its own; none for an ordinary one.
    pub hosted: Option<hosted::Hosted>,
}

/// The registers behind `sysenter` (SDM vol. 3, 5.8.7).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sysenter {
    /// IA32_SYSENTER_CS.
    pub cs: u64,
    /// IA32_SYSENTER_ESP.
    pub rsp: u64,
    /// IA32_SYSENTER_EIP.
    pub rip: u64,
}
