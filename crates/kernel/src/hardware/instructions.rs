//! Single instructions that the language does not have.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _rdtsc, CpuidResult};

/// Reads a byte from a port.
pub fn port_in(port: u16) -> u8 {
    let value;
    // SAFETY: port access touches no memory of this program.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte to a port.
pub fn port_out(port: u16, value: u8) {
    // SAFETY: port access touches no memory of this program.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes two bytes to a port.
pub fn port_out_16(port: u16, value: u16) {
    // SAFETY: port access touches no memory of this program.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads four bytes from a port.
pub fn port_in_32(port: u16) -> u32 {
    let value;
    // SAFETY: port access touches no memory of this program.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes four bytes to a port.
pub fn port_out_32(port: u16, value: u32) {
    // SAFETY: port access touches no memory of this program.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads a model-specific register, which the caller knows to exist.
pub fn read_msr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading a register that exists has no effect on memory.
    unsafe { asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register, which the caller knows to exist and to mean what it wants.
pub fn write_msr(index: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the registers this kernel writes (APIC, EFER.NXE) do not move memory from under the program.
    unsafe { asm!("wrmsr", in("ecx") index, in("eax") low, in("edx") high, options(nostack)) };
}

/// One leaf of what the processor says of itself; zeros above its last leaf.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let last = __cpuid_count(leaf & 0xf000_0000, 0).eax;
    if leaf > last {
        return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    __cpuid_count(leaf, subleaf)
}

/// The time-stamp counter.
pub fn counter() -> u64 {
    // SAFETY: reading the counter has no precondition on this processor.
    unsafe { _rdtsc() }
}

/// Takes no interrupts from here.
pub fn interrupts_off() {
    // SAFETY: an interrupt that waits does no harm.
    unsafe { asm!("cli", options(nostack)) };
}

/// Sleeps until an interrupt, with interrupts on for just so long. The instruction after `sti` runs before any
/// interrupt, so none can slip in between the two and leave the processor asleep.
pub fn sleep() {
    // SAFETY: the handlers keep every register.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Takes the interrupts that wait, without sleeping: `sti` holds them off for one instruction more.
pub fn let_in() {
    // SAFETY: the handlers keep every register.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) };
}

/// Sleeps for ever.
pub fn stop() -> ! {
    loop {
        interrupts_off();
        // SAFETY: nothing is left to do.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}
