//! The local APIC, by its model-specific registers (x2APIC, SDM vol. 3, 11.12), and the one line we take from the I/O APIC.

use core::ptr;

use lguest_abi::meeting::FIRST_VECTOR;

use super::clock::Clock;
use super::instructions::{counter, cpuid, read_msr, write_msr};

const APIC_BASE: u32 = 0x1b;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;
const SPURIOUS: u32 = 0x80f;
const SPURIOUS_ENABLED: u64 = 1 << 8;
/// Spurious interrupts come here. The number is the highest with a gate; they need no end-of-interrupt, and none comes.
const SPURIOUS_VECTOR: u64 = 0x3e;
const TIMER_ENTRY: u32 = 0x832;
const TIMER_INITIAL: u32 = 0x838;
const TIMER_DIVIDE: u32 = 0x83e;
/// Divide by one (SDM 11.5.4).
const DIVIDE_BY_1: u64 = 0xb;
const TIMER_DEADLINE_MODE: u64 = 2 << 17;
const TSC_DEADLINE: u32 = 0x6e0;
/// cpuid leaf 1, ecx.
const HAS_X2APIC: u32 = 1 << 21;
const HAS_DEADLINE: u32 = 1 << 24;
/// The leaf with the APIC timer's rate in ebx, in kHz.
const TIMING_LEAF: u32 = 0x4000_0010;
/// KVM's and our board's APIC bus, when nobody says: 1 GHz.
const BUS_KHZ_USUAL: u64 = 1_000_000;
const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

/// The I/O APIC's two registers: which, and what (82093AA data sheet, 3.1).
const IOAPIC_SELECT: u64 = 0xfec0_0000;
const IOAPIC_WINDOW: u64 = 0xfec0_0010;
const IOAPIC_FIRST_ENTRY: u32 = 0x10;

/// The timer of this processor.
pub struct Timer {
    deadline_mode: bool,
    bus_khz: u64,
}

/// Turns the local APIC on. Interrupts stay off at the processor until somebody sleeps.
///
/// # Panics
/// When the processor has no x2APIC: both engines offer one.
pub fn start() -> Timer {
    let features = cpuid(1, 0).ecx;
    assert!(features & HAS_X2APIC != 0, "this Guest needs an x2APIC");
    write_msr(APIC_BASE, read_msr(APIC_BASE) | BASE_ENABLED);
    write_msr(APIC_BASE, read_msr(APIC_BASE) | BASE_X2APIC);
    write_msr(SPURIOUS, SPURIOUS_ENABLED | SPURIOUS_VECTOR);
    let deadline_mode = features & HAS_DEADLINE != 0;
    let mode = if deadline_mode { TIMER_DEADLINE_MODE } else { 0 };
    write_msr(TIMER_ENTRY, mode | u64::from(FIRST_VECTOR));
    write_msr(TIMER_DIVIDE, DIVIDE_BY_1);
    let said = u64::from(cpuid(TIMING_LEAF, 0).ebx);
    Timer { deadline_mode, bus_khz: if said == 0 { BUS_KHZ_USUAL } else { said } }
}

impl Timer {
    /// Raises irq 0 after a time; a later call replaces it.
    pub fn after(&self, clock: &Clock, nanoseconds: u64) {
        if self.deadline_mode {
            write_msr(TSC_DEADLINE, counter() + clock.ticks(nanoseconds).max(1));
        } else {
            let count =
                u128::from(nanoseconds) * u128::from(self.bus_khz) / u128::from(NANOSECONDS_PER_MILLISECOND);
            write_msr(TIMER_INITIAL, u64::try_from(count).unwrap_or(u64::MAX).clamp(1, u32::MAX.into()));
        }
    }

    /// Raises nothing any more.
    pub fn cancel(&self) {
        write_msr(if self.deadline_mode { TSC_DEADLINE } else { TIMER_INITIAL }, 0);
    }
}

/// Routes an edge-triggered line of the I/O APIC to an irq's vector on this processor.
pub fn route(line: u32, irq: u8) {
    let entry = IOAPIC_FIRST_ENTRY + line * 2;
    write_ioapic(entry + 1, 0);
    write_ioapic(entry, u32::from(FIRST_VECTOR + irq));
}

fn write_ioapic(register: u32, value: u32) {
    // SAFETY: the board has an I/O APIC there, and the page is mapped for it.
    unsafe { ptr::write_volatile(IOAPIC_SELECT as *mut u32, register) };
    // SAFETY: as above.
    unsafe { ptr::write_volatile(IOAPIC_WINDOW as *mut u32, value) };
}
