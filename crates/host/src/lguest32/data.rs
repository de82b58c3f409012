//! `lguest_data`, the page both sides write to: which form it has, and its fields.

use std::mem::offset_of;
use std::sync::Arc;

use lguest_abi::lguest32::{Common, Data26, Data31, Data41, RingCall, SYSCALL_VECTOR};
use lguest_translator::Ram;

use super::Death;

/// The forms, by the kernels that have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// 2.6.32: `vmcall`, page tables from the start, a descriptor page.
    G26,
    /// 3.1: `int 0x1f`, a descriptor page.
    G31,
    /// 4.1: `int 0x1f`, PCI.
    G41,
}

impl Generation {
    fn size(self) -> u64 {
        (match self {
            Generation::G26 => size_of::<Data26>(),
            Generation::G31 => size_of::<Data31>(),
            Generation::G41 => size_of::<Data41>(),
        }) as u64
    }

    /// Where `kernel_address` is; `syscall_vec` follows it in every form.
    fn kernel_address(self) -> u64 {
        (match self {
            Generation::G26 => offset_of!(Data26, kernel_address),
            Generation::G31 => offset_of!(Data31, kernel_address),
            Generation::G41 => offset_of!(Data41, kernel_address),
        }) as u64
    }
}

/// Where the Guest keeps its data, found at INIT, and what does not change after it.
pub(super) struct Data {
    ram: Arc<Ram>,
    address: u64,
    pub(super) generation: Generation,
    /// First address that all address spaces share.
    pub(super) kernel_address: u32,
    /// Addresses at which nothing is delivered: the kernel has turned interrupts on and not yet returned.
    pub(super) quiet: std::ops::Range<u32>,
}

/// Fields that every form has in one place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    IrqEnabled,
    BlockedInterrupts,
    Cr2,
    IrqPending,
    ReserveMem,
    TscKhz,
}

impl Field {
    fn offset(self) -> u64 {
        (match self {
            Field::IrqEnabled => offset_of!(Common, irq_enabled),
            Field::BlockedInterrupts => offset_of!(Common, blocked_interrupts),
            Field::Cr2 => offset_of!(Common, cr2),
            Field::IrqPending => offset_of!(Common, irq_pending),
            Field::ReserveMem => offset_of!(Common, reserve_mem),
            Field::TscKhz => offset_of!(Common, tsc_khz),
        }) as u64
    }
}

impl Data {
    /// Looks which form the data at `address` has (facts 5.3): the system call's vector, preceded by the kernel's address, is
    /// in a place of its own in each.
    pub(super) fn find(ram: &Arc<Ram>, address: u32, limit: u64) -> Result<Data, Death> {
        let base = u64::from(address);
        if base + size_of::<Common>() as u64 > limit {
            return Err(Death::new(format_args!(
                "LGUEST_INIT named {address:#x} as the Guest's data, which is outside its memory"
            )));
        }
        let word = |offset: u64| read_word(ram, base + offset);
        let fits = |generation: &Generation| {
            let place = generation.kernel_address();
            base + generation.size() <= limit && word(place + 4) == SYSCALL_VECTOR && word(place) >= 1 << 30
        };
        let Some(generation) = [Generation::G41, Generation::G31, Generation::G26].into_iter().find(fits)
        else {
            return Err(Death::new(format_args!(
                "LGUEST_INIT named data at {address:#x} of a form that is none of 2.6.32's, 3.1's and 4.1's, or a system \
                 call vector other than 0x80"
            )));
        };
        let quiet = match generation {
            Generation::G26 => {
                word(offset_of!(Data26, noirq_start) as u64)..word(offset_of!(Data26, noirq_end) as u64)
            }
            Generation::G31 => {
                word(offset_of!(Data31, noirq_start) as u64)..word(offset_of!(Data31, noirq_end) as u64)
            }
            Generation::G41 => {
                let iret = word(offset_of!(Data41, noirq_iret) as u64);
                iret..iret.wrapping_add(1)
            }
        };
        let kernel_address = word(generation.kernel_address());
        Ok(Data { ram: ram.clone(), address: base, generation, kernel_address, quiet })
    }

    pub(super) fn get(&self, field: Field) -> u32 {
        read_word(&self.ram, self.address + field.offset())
    }

    pub(super) fn set(&self, field: Field, value: u32) {
        self.ram.write(self.address + field.offset(), &value.to_le_bytes());
    }

    /// The time of day. A Guest reads the seconds twice, and it does not run meanwhile.
    pub(super) fn set_time(&self, seconds: u32, nanoseconds: u32) {
        let both = u64::from(nanoseconds) << 32 | u64::from(seconds);
        self.ram.write(self.address + offset_of!(Common, time) as u64, &both.to_le_bytes());
    }

    /// 2.6.32's `pgdir`.
    pub(super) fn set_first_tables(&self, root: u32) {
        self.ram.write(self.address + offset_of!(Data26, pgdir) as u64, &root.to_le_bytes());
    }

    pub(super) fn slot_status(&self, slot: usize) -> u8 {
        let mut status = [0];
        self.ram.read(self.address + (offset_of!(Common, hcall_status) + slot) as u64, &mut status);
        status[0]
    }

    pub(super) fn free_slot(&self, slot: usize) {
        let status = lguest_abi::lguest32::SLOT_FREE;
        self.ram.write(self.address + (offset_of!(Common, hcall_status) + slot) as u64, &[status]);
    }

    pub(super) fn slot(&self, slot: usize) -> RingCall {
        let base = self.address + (offset_of!(Common, hcalls) + slot * size_of::<RingCall>()) as u64;
        let word = |n: u64| read_word(&self.ram, base + 4 * n);
        RingCall { number: word(0), arguments: [word(1), word(2), word(3), word(4)] }
    }
}

/// A word of the Guest's; zero where there is no memory.
pub(super) fn read_word(ram: &Ram, address: u64) -> u32 {
    let mut bytes = [0; 4];
    if ram.read(address, &mut bytes) { u32::from_le_bytes(bytes) } else { 0 }
}
