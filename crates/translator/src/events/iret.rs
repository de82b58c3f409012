//! `iretq` and its narrower forms in 64-bit mode (SDM vol. 2, IRET): the way out of a handler.

use crate::cpu::segments::{CS, SS, rpl};
use crate::cpu::{Cpu, RSP, flags};
use crate::events::exception::{Exception, Refusal};
use crate::events::returns;
use crate::memory::access::GuestMemory;
use crate::memory::walk::{Access, Intent};

/// Returns from a handler; `size` is the operand size in bytes, 8 for `iretq`, 4 or 2.
///
/// # Errors
/// #GP(0) when NT is set, #SS and #PF for the frame, #GP, #NP and #SS for its segments; death for a return to a mode
/// that this engine does not run. Nothing has changed then.
pub fn iret(cpu: &mut Cpu, memory: &mut GuestMemory, size: usize) -> Result<(), Refusal> {
    if cpu.rflags & flags::NT != 0 {
        return Err(Exception::gp(0).into());
    }
    // 64-bit mode pops the stack pointer and segment whatever the privilege.
    let access = Access::by_operand(cpu, Intent::Read);
    let [rip, cs, image, rsp, ss] = memory.read_stack(cpu, cpu.gpr[RSP], size, access)?;
    let code = returns::code_segment(cpu, memory, cs as u16, rip)?;
    let cpl = rpl(cs as u16);
    let stack = returns::stack_segment(cpu, memory, ss as u16, cpl)?;

    let writable = writable_flags(cpu, size);
    cpu.rflags = cpu.rflags & !writable | image & writable;
    cpu.segments[CS] = code;
    cpu.segments[SS] = stack;
    cpu.rip = rip;
    cpu.gpr[RSP] = rsp;
    cpu.interrupt_shadow = false;
    if cpl != cpu.cpl {
        cpu.cpl = cpl;
        returns::drop_privileged_segments(cpu);
    }
    Ok(())
}

/// The flags that the current privilege level may set this way.
fn writable_flags(cpu: &Cpu, size: usize) -> u64 {
    let mut writable = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT;
    if size > 2 {
        writable |= flags::AC | flags::ID | flags::RF;
    }
    if cpu.cpl as u64 <= (cpu.rflags & flags::IOPL) >> flags::IOPL_SHIFT {
        writable |= flags::IF;
    }
    if cpu.cpl == 0 {
        writable |= flags::IOPL;
        if size > 2 {
            writable |= flags::VIF | flags::VIP;
        }
    }
    writable
}

#[cfg(test)]
mod tests;
