//! The fast way in and out: `syscall`, `sysret`, `swapgs` (APM vol. 3, SYSCALL and SYSRET; SDM vol. 2).
//!
//! No table is read: the segments come from STAR and are flat by decree.

use crate::cpu::segments::{CS, GS, SS, Segment};
use crate::cpu::{Cpu, R11, RCX, RDX, RSP, descriptors, efer, flags};
use crate::events::exception::Exception;
use crate::memory::walk::canonical;

/// Flags that `sysret` takes from R11: all that exist but RF and VM.
pub const RETURNED: u64 = flags::STORED & !(flags::RF | flags::VM);

/// `syscall`; `next_rip` is the instruction after it. From compatibility mode it goes where CSTAR says, as on AMD; Intel
/// refuses it there, and no system that runs on both can tell.
///
/// # Errors
/// #UD when EFER.SCE is off, and outside long mode.
pub fn syscall(cpu: &mut Cpu, next_rip: u64) -> Result<(), Exception> {
    if cpu.efer & efer::SCE == 0 || !cpu.long_mode() {
        return Err(Exception::ud());
    }
    cpu.gpr[RCX] = next_rip;
    cpu.gpr[R11] = cpu.rflags;
    cpu.rip = if cpu.in_64_bit_mode() { cpu.lstar } else { cpu.cstar };
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
/// on the second, not the other way round.
pub fn sysret(cpu: &mut Cpu, to_64_bit: bool) -> Result<(), Exception> {
    if cpu.efer & efer::SCE == 0 || !cpu.in_64_bit_mode() {
        return Err(Exception::ud());
    }
    descriptors::privileged(cpu)?;
    let rip = if to_64_bit { cpu.gpr[RCX] } else { cpu.gpr[RCX] & 0xffff_ffff };
    if !canonical(rip) {
        return Err(Exception::gp(0));
    }
    let base = (cpu.star >> 48) as u16;
    cpu.rflags = cpu.gpr[R11] & RETURNED | flags::ALWAYS_ONE;
    let code = if to_64_bit {
        Segment::long_code(base.wrapping_add(16) | 3, 3)
    } else {
        Segment::flat_code(base | 3, 3)
    };
    cpu.enter_code(code, rip);
    cpu.segments[SS] = Segment::flat_data(base.wrapping_add(8) | 3, 3);
    cpu.cpl = 3;
    cpu.interrupt_shadow = false;
    Ok(())
}

/// `swapgs`: exchanges GS.base with the hidden kernel base.
///
/// # Errors
/// #GP(0) above CPL 0, #UD outside 64-bit mode.
pub fn swapgs(cpu: &mut Cpu) -> Result<(), Exception> {
    if !cpu.in_64_bit_mode() {
        return Err(Exception::ud());
    }
    descriptors::privileged(cpu)?;
    std::mem::swap(&mut cpu.segments[GS].base, &mut cpu.kernel_gs_base);
    Ok(())
}

/// `sysenter`: to the supervisor at IA32_SYSENTER_EIP; the way back is its business (SDM vol. 2, SYSENTER). AMD refuses it in
/// long mode; no system that runs on both can tell.
///
/// # Errors
/// #GP(0) in real mode, and while IA32_SYSENTER_CS is null.
pub fn sysenter(cpu: &mut Cpu) -> Result<(), Exception> {
    let selector = cpu.sysenter.cs as u16 & !3;
    if !cpu.protected() || selector == 0 {
        return Err(Exception::gp(0));
    }
    let long = cpu.long_mode();
    cpu.rflags &= !(flags::VM | flags::IF | flags::RF);
    let code = if long { Segment::long_code(selector, 0) } else { Segment::flat_code(selector, 0) };
    cpu.enter_code(code, if long { cpu.sysenter.rip } else { cpu.sysenter.rip & 0xffff_ffff });
    cpu.segments[SS] = Segment::flat_data(selector.wrapping_add(8), 0);
    cpu.gpr[RSP] = if long { cpu.sysenter.rsp } else { cpu.sysenter.rsp & 0xffff_ffff };
    cpu.cpl = 0;
    cpu.interrupt_shadow = false;
    Ok(())
}

/// `sysexit`: to a user at edx with the stack pointer in ecx; `to_64_bit` is its operand size (SDM vol. 2, SYSEXIT).
///
/// # Errors
/// #GP(0) in real mode, above CPL 0, while IA32_SYSENTER_CS is null, and for addresses that are not canonical.
pub fn sysexit(cpu: &mut Cpu, to_64_bit: bool) -> Result<(), Exception> {
    let base = cpu.sysenter.cs as u16 & !3;
    if !cpu.protected() || base == 0 || cpu.cpl != 0 {
        return Err(Exception::gp(0));
    }
    let mask = if to_64_bit { u64::MAX } else { 0xffff_ffff };
    let (rip, rsp) = (cpu.gpr[RDX] & mask, cpu.gpr[RCX] & mask);
    if !canonical(rip) || !canonical(rsp) {
        return Err(Exception::gp(0));
    }
    let (code, data) = if to_64_bit {
        (Segment::long_code(base.wrapping_add(32) | 3, 3), base.wrapping_add(40))
    } else {
        (Segment::flat_code(base.wrapping_add(16) | 3, 3), base.wrapping_add(24))
    };
    cpu.enter_code(code, rip);
    cpu.segments[SS] = Segment::flat_data(data | 3, 3);
    cpu.gpr[RSP] = rsp;
    cpu.cpl = 3;
    cpu.interrupt_shadow = false;
    Ok(())
}

#[cfg(test)]
mod tests;
