//! Small instructions whose whole meaning is who may do what: `cli`, `sti`, `popf`, port access, `rdtsc`, `rdpmc`,
//! `rdfsbase`.

use crate::cpu::descriptors::privileged;
use crate::cpu::{Cpu, cr4, flags};
use crate::events::exception::Exception;
use crate::memory::access::GuestMemory;

/// Place of the I/O permission map's offset in a task-state segment (SDM vol. 3, figure 8-11).
const TSS_IO_MAP: u64 = 0x66;

/// The privilege level that RFLAGS.IOPL names.
fn io_level(cpu: &Cpu) -> u8 {
    (cpu.rflags >> flags::IOPL_SHIFT & 3) as u8
}

/// `cli`.
///
/// # Errors
/// #GP(0) when CPL is above IOPL.
pub fn cli(cpu: &mut Cpu) -> Result<(), Exception> {
    if cpu.cpl > io_level(cpu) {
        return Err(Exception::gp(0));
    }
    cpu.rflags &= !flags::IF;
    Ok(())
}

/// `sti`: interrupts come in after the next instruction, if they were shut out before.
///
/// # Errors
/// #GP(0) when CPL is above IOPL.
pub fn sti(cpu: &mut Cpu) -> Result<(), Exception> {
    if cpu.cpl > io_level(cpu) {
        return Err(Exception::gp(0));
    }
    if cpu.rflags & flags::IF == 0 {
        cpu.rflags |= flags::IF;
        cpu.interrupt_shadow = true;
    }
    Ok(())
}

/// `popf` in 64-bit mode, once the value has been popped; `size` is the operand size in bytes, 8 or 2. What the privilege
/// level may not change stays as it is, and nothing is said (SDM vol. 2, POPF, table 4-18).
pub fn popf(cpu: &mut Cpu, value: u64, size: usize) {
    let mut writable = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT;
    if size > 2 {
        writable |= flags::AC | flags::ID;
    }
    if cpu.cpl <= io_level(cpu) {
        writable |= flags::IF;
    }
    if cpu.cpl == 0 {
        writable |= flags::IOPL;
    }
    cpu.rflags = cpu.rflags & !writable | value & writable;
}

/// What `pushf` pushes: the flags without RF and VM.
pub fn pushf(cpu: &Cpu) -> u64 {
    cpu.rflags & !(flags::RF | flags::VM)
}

/// Whether `in` or `out` of `size` bytes (1, 2 or 4) may touch `port`: by privilege, or by the task's permission map
/// (SDM vol. 1, 19.5.2).
///
/// # Errors
/// #GP(0) when it may not; #PF from reading the map.
pub fn port(cpu: &Cpu, memory: &GuestMemory, port: u16, size: u8) -> Result<(), Exception> {
    if cpu.cpl <= io_level(cpu) {
        return Ok(());
    }
    let refused = Err(Exception::gp(0));
    let limit = cpu.tr.limit as u64;
    if !cpu.tr.present() || TSS_IO_MAP + 1 > limit {
        return refused;
    }
    let map = u16::from_le_bytes(memory.read_system(cpu, cpu.tr.base.wrapping_add(TSS_IO_MAP))?) as u64;
    // The processor always reads two bytes, so that the ports may cross from one to the next.
    let place = map + port as u64 / 8;
    if place + 1 > limit {
        return refused;
    }
    let bits = u16::from_le_bytes(memory.read_system(cpu, cpu.tr.base.wrapping_add(place))?);
    let asked = (1u16 << size) - 1;
    if bits >> (port % 8) & asked == 0 { Ok(()) } else { refused }
}

/// Whether `rdtsc` and `rdtscp` may run.
///
/// # Errors
/// #GP(0) above CPL 0 under CR4.TSD.
pub fn rdtsc(cpu: &Cpu) -> Result<(), Exception> {
    if cpu.cr4 & cr4::TSD != 0 { privileged(cpu) } else { Ok(()) }
}

/// `rdpmc`: there are no counters, so every number is wrong.
///
/// # Errors
/// Always #GP(0).
pub fn rdpmc() -> Result<u64, Exception> {
    Err(Exception::gp(0))
}

/// Whether `rdfsbase`, `rdgsbase`, `wrfsbase` and `wrgsbase` exist.
///
/// # Errors
/// #UD while CR4.FSGSBASE is off.
pub fn fsgsbase(cpu: &Cpu) -> Result<(), Exception> {
    if cpu.cr4 & cr4::FSGSBASE != 0 { Ok(()) } else { Err(Exception::ud()) }
}

#[cfg(test)]
mod tests;
