//! The second generation's paravirtual half: what a Linux of 32 bits with CONFIG_LGUEST_GUEST and its Host agree on
//! (facts of generation 2, sections 2 to 5).
//!
//! Nothing of it was ever a stable interface, so there are three forms, named by the kernels that are known to have them:
//!
//! ```text
//!         2.6.32 (G26)        3.1 (G31)          4.1 (G41)
//!   0     irq_enabled blocked_interrupts cr2 time(2) irq_pending      the same in all three
//!   24    hcall_status[64] hcalls[64]
//!   1368  reserve_mem tsc_khz
//!   1376  pgdir               noirq_start        noirq_iret
//!   1380  noirq_start         noirq_end          kernel_address
//!   1384  noirq_end           kernel_address     syscall_vec
//!   1388  kernel_address      syscall_vec
//!   1392  syscall_vec
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The software interrupt of a hypercall from 3.1 on.
pub const TRAP_ENTRY: u8 = 0x1f;
/// `vmcall`, the hypercall of 2.6.32: three bytes that a processor without virtualisation refuses.
pub const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
/// Slots of the ring of asynchronous calls.
pub const RING_SLOTS: usize = 64;
/// A slot's status when it is free; 0 is filled.
pub const SLOT_FREE: u8 = 0xff;
/// The value of `irq_enabled` and `irq_pending` that means yes: the processor's interrupt flag.
pub const INTERRUPT_FLAG: u32 = 0x200;
/// Selector of the Guest kernel's code: descriptor 12, level 1.
pub const KERNEL_CODE: u16 = 0x61;
/// Selector of its data.
pub const KERNEL_DATA: u16 = 0x69;
/// The vector of a user's system call.
pub const SYSCALL_VECTOR: u32 = 0x80;
/// Interrupt `n` arrives at this vector plus `n`.
pub const FIRST_IRQ_VECTOR: u8 = 32;
/// `hardware_subarch` of the boot parameters: lguest.
pub const SUBARCH: u32 = 1;
/// Bytes at the top of the address space that the original keeps for its switcher.
pub const RESERVED_TOP: u32 = 4 << 20;
/// Bytes of text that SHUTDOWN reads at most, its NUL included.
pub const SHUTDOWN_TEXT: usize = 128;
/// SHUTDOWN's second argument: the Guest wants to begin anew. (1 is power-off or a panic, told apart by the text.)
pub const SHUTDOWN_RESTART: u32 = 2;

/// Hypercall numbers (facts 4.1). 3, 11 and 12 are holes.
#[expect(
    missing_docs,
    reason = "the facts' table 4.1 is the documentation; arguments are ebx, ecx, edx, esi"
)]
pub mod call {
    pub const FLUSH_ASYNC: u32 = 0;
    pub const INIT: u32 = 1;
    pub const SHUTDOWN: u32 = 2;
    pub const NEW_PGTABLE: u32 = 4;
    pub const FLUSH_TLB: u32 = 5;
    pub const LOAD_IDT_ENTRY: u32 = 6;
    pub const SET_STACK: u32 = 7;
    pub const TS: u32 = 8;
    pub const SET_CLOCKEVENT: u32 = 9;
    pub const HALT: u32 = 10;
    pub const SET_PMD: u32 = 13;
    pub const SET_PTE: u32 = 14;
    pub const SET_PGD: u32 = 15;
    pub const LOAD_TLS: u32 = 16;
    pub const NOTIFY: u32 = 17;
    pub const LOAD_GDT_ENTRY: u32 = 18;
    pub const SEND_INTERRUPTS: u32 = 19;
}

/// One call in the ring: a number and four arguments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RingCall {
    /// See [`call`].
    pub number: u32,
    /// ebx, ecx, edx, esi.
    pub arguments: [u32; 4],
}

/// What `lguest_data` begins with in every form: 1376 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Common {
    /// [`INTERRUPT_FLAG`] or 0. Guest writes; Host on delivery and halt.
    pub irq_enabled: u32,
    /// Bit n: irq n is masked. Guest writes.
    pub blocked_interrupts: u32,
    /// The address of the last page fault. Host writes.
    pub cr2: u32,
    /// Seconds and nanoseconds since 1970. Host writes.
    pub time: [u32; 2],
    /// [`INTERRUPT_FLAG`] while an interrupt waits for `irq_enabled`. Host writes.
    pub irq_pending: u32,
    /// One a slot of the ring. Both write.
    pub hcall_status: [u8; RING_SLOTS],
    /// The ring. Guest writes.
    pub hcalls: [RingCall; RING_SLOTS],
    /// Bytes at the top of the address space that the Guest must not use. Host writes at INIT.
    pub reserve_mem: u32,
    /// The time-stamp counter's rate, or 0: do not use it. Host writes at INIT.
    pub tsc_khz: u32,
}

/// `lguest_data` of 2.6.32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of the module's drawing")]
pub struct Data26 {
    pub common: Common,
    /// Physical address of the page tables the Guest was started with. Host writes at INIT.
    pub pgdir: u32,
    pub noirq_start: u32,
    pub noirq_end: u32,
    pub kernel_address: u32,
    pub syscall_vec: u32,
}

/// `lguest_data` of 3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of the module's drawing")]
pub struct Data31 {
    pub common: Common,
    pub noirq_start: u32,
    pub noirq_end: u32,
    pub kernel_address: u32,
    pub syscall_vec: u32,
}

/// `lguest_data` of 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of the module's drawing")]
pub struct Data41 {
    pub common: Common,
    pub noirq_iret: u32,
    pub kernel_address: u32,
    pub syscall_vec: u32,
}

const _: () = assert!(size_of::<RingCall>() == 20);
const _: () = assert!(size_of::<Common>() == 1376);
const _: () = assert!(size_of::<Data26>() == 1396);
const _: () = assert!(size_of::<Data31>() == 1392);
const _: () = assert!(size_of::<Data41>() == 1388);
