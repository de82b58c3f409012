//! `lguest_data`: what LGUEST_INIT makes both sides share (facts 9.1).
//!
//! The 32-bit form carries the processor's paravirtual half: the interrupt flag, the fault address, the ring of
//! asynchronous calls. A 64-bit Guest has a whole processor, so its form keeps only what the Host alone knows.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Slots of the ring of asynchronous calls.
pub const RING_SIZE: usize = 64;
/// A ring slot's status when it is free or done; anything else is ready.
pub const RING_FREE: u8 = 0xff;

/// One asynchronous call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RingCall {
    /// Number.
    pub eax: u32,
    /// First argument.
    pub edx: u32,
    /// Second argument.
    pub ebx: u32,
    /// Third argument.
    pub ecx: u32,
}

/// The original's data: 1120 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Data32 {
    /// 0x200 when the Guest takes interrupts, 0 when not. Both write.
    pub irq_enabled: u32,
    /// One bit an interrupt; starts as 1. Guest writes.
    pub blocked_interrupts: u32,
    /// The address of a page fault. Host writes.
    pub cr2: u32,
    /// One a slot; starts as [`RING_FREE`]. Both write.
    pub hcall_status: [u8; RING_SIZE],
    /// The calls. Guest writes.
    pub hcalls: [RingCall; RING_SIZE],
    /// Bytes at the top of the address space that the Guest must leave alone. Host writes.
    pub reserve_mem: u32,
    /// The Guest's number. Host writes.
    pub guest_id: u16,
    /// Padding of the C declaration.
    pub reserved: u16,
    /// Frequency of the time-stamp counter; 0 means "do not trust it". Host writes.
    pub tsc_khz: u32,
    /// First instruction that no interrupt may hit. Guest writes before LGUEST_INIT.
    pub noirq_start: u32,
    /// First instruction after those. Guest writes before LGUEST_INIT.
    pub noirq_end: u32,
}

/// A 64-bit Guest's data: 8 bytes, all written by the Host at LGUEST_INIT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Data64 {
    /// Frequency of the time-stamp counter in kHz; 0 means "do not trust it".
    pub tsc_khz: u32,
    /// The Guest's number, in its Ethernet address; different for every Guest of a host.
    pub guest_id: u16,
    /// Zero.
    pub reserved: u16,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Data32>() == 1120);
    assert!(offset_of!(Data32, hcall_status) == 12 && offset_of!(Data32, hcalls) == 76);
    assert!(offset_of!(Data32, reserve_mem) == 1100 && offset_of!(Data32, guest_id) == 1104);
    assert!(offset_of!(Data32, tsc_khz) == 1108 && offset_of!(Data32, noirq_start) == 1112);
    assert!(size_of::<Data64>() == 8 && offset_of!(Data64, guest_id) == 4);
};
