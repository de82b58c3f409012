//! The fast way in and out: `syscall`, `sysret`, `swapgs` (APM vol. 3, SYSCALL and SYSRET; SDM vol. 2).
//!
//! No table is read: the segments come from STAR and are flat by decree.

use crate::cpu::segments::{CS, GS, SS, Segment};
use crate::cpu::{Cpu, R11, RCX, descriptors, efer, flags};
use crate::events::exception::{Exception, Refusal};
use crate::exit::Death;
use crate::memory::walk::canonical;

/// Flags that `sysret` takes from R11: all that exist but RF and VM.
pub const RETURNED: u64 = flags::STORED & !(flags::RF | flags::VM);

/// `syscall` from 64-bit mode; `next_rip` is the instruction after it.
///
/// # Errors
/// #UD when EFER.SCE is off.
pub fn syscall(cpu: &mut Cpu, next_rip: u64) -> Result<(), Exception> {
    if cpu.efer & efer::SCE == 0 {
        return Err(Exception::ud());
    }
    cpu.gpr[RCX] = next_rip;
    cpu.gpr[R11] = cpu.rflags;
    cpu.rip = cpu.lstar;
    cpu.rflags &= !(cpu.sfmask | flags::RF);
    cpu.rflags |= flags::ALWAYS_ONE;
    let selector = (cpu.star >> 32) as u16 & !3;
    cpu.segments[CS] = Segment::long_code(selector, 0);
    cpu.segments[SS] = Segment::flat_data(selector.wrapping_add(8), 0);
    cpu.cpl = 0;
    cpu.interrupt_shadow = false;
    Ok(())
}

/// `sysret`; `to_64_bit` is its operand size: 64 bits (`sysretq`) or 32.
///
/// # Errors
/// #UD when EFER.SCE is off; #GP(0) above CPL 0, and for an RCX that is not canonical. The latter is Intel's rule: the
/// fault comes at CPL 0, before anything is loaded. AMD lets the user fault instead; a kernel that is safe on the first is safe
/// on the second, not the other way round. Death for a return to compatibility mode.
pub fn sysret(cpu: &mut Cpu, to_64_bit: bool) -> Result<(), Refusal> {
    if cpu.efer & efer::SCE == 0 {
        return Err(Exception::ud().into());
    }
    descriptors::privileged(cpu)?;
    let rip = cpu.gpr[RCX];
    if !to_64_bit {
        let mode = "32-bit compatibility mode";
        return Err(Refusal::Dead(Death::UnsupportedMode { mode, rip: rip as u32 as u64 }));
    }
    if !canonical(rip) {
        return Err(Exception::gp(0).into());
    }
    let base = (cpu.star >> 48) as u16;
    cpu.rip = rip;
    cpu.rflags = cpu.gpr[R11] & RETURNED | flags::ALWAYS_ONE;
    cpu.segments[CS] = Segment::long_code(base.wrapping_add(16) | 3, 3);
    cpu.segments[SS] = Segment::flat_data(base.wrapping_add(8) | 3, 3);
    cpu.cpl = 3;
    cpu.interrupt_shadow = false;
    Ok(())
}

/// `swapgs`: exchanges GS.base with the hidden kernel base.
///
/// # Errors
/// #GP(0) above CPL 0.
pub fn swapgs(cpu: &mut Cpu) -> Result<(), Exception> {
    descriptors::privileged(cpu)?;
    std::mem::swap(&mut cpu.segments[GS].base, &mut cpu.kernel_gs_base);
    Ok(())
}

#[cfg(test)]
mod tests;
