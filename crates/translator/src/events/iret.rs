//! `iret` in its three sizes (SDM vol. 2, IRET): the way out of a handler, and a kernel's way into its users.
//!
//! ```text
//!   64-bit mode      pops rip, cs, rflags, rsp, ss, whatever the privilege
//!   other modes      pop eip, cs, eflags, and esp and ss only on the way to a lower privilege
//! ```

use crate::cpu::segments::{CS, SS, rpl};
use crate::cpu::{Cpu, RSP, flags};
use crate::events::exception::{Exception, Refusal};
use crate::events::returns;
use crate::events::stack::Stack;
use crate::exit::Death;
use crate::memory::access::GuestMemory;

/// Returns from a handler; `size` is the operand size in bytes, 8 for `iretq`, 4 or 2.
///
/// # Errors
/// #GP(0) when NT is set (there are no task switches), #SS and #PF for the frame, #GP, #NP and #SS for its segments;
/// death for a return to virtual-8086 mode. Nothing has changed then.
pub fn iret(cpu: &mut Cpu, memory: &mut GuestMemory, size: usize) -> Result<(), Refusal> {
    // Whatever comes of it (SDM vol. 3, 6.7.1).
    cpu.nmi_blocked = false;
    let mut stack = Stack::current(cpu);
    if !cpu.protected() {
        return real_iret(cpu, memory, size, stack);
    }
    if cpu.rflags & flags::NT != 0 {
        return Err(Exception::gp(0).into());
    }
    if cpu.in_64_bit_mode() {
        let [rip, cs, image, rsp, ss] = stack.pop_words(cpu, memory, size)?;
        return enter(cpu, memory, size, [rip, cs, image], Some([rsp, ss]));
    }
    let [rip, cs, image] = stack.pop_words(cpu, memory, size)?;
    if image & flags::VM != 0 && size == 4 && cpu.cpl == 0 && !cpu.long_mode() {
        let mode = "virtual-8086 mode";
        return Err(Refusal::Dead(Death::UnsupportedMode { mode, rip }));
    }
    let outer = if rpl(cs as u16) == cpu.cpl { None } else { Some(stack.pop_words(cpu, memory, size)?) };
    let inside = stack.pointer;
    enter(cpu, memory, size, [rip, cs, image], outer)?;
    if outer.is_none() {
        cpu.set_stack_pointer(inside);
    }
    Ok(())
}

/// Goes where a frame says: `outer` is its stack, if it has one.
fn enter(
    cpu: &mut Cpu,
    memory: &mut GuestMemory,
    size: usize,
    [rip, cs, image]: [u64; 3],
    outer: Option<[u64; 2]>,
) -> Result<(), Refusal> {
    let code = returns::code_segment(cpu, memory, cs as u16, rip)?;
    let cpl = rpl(cs as u16);
    let stack = match outer {
        Some([pointer, ss]) => {
            Some((pointer, returns::stack_segment(cpu, memory, ss as u16, cpl, cpu.size_of(&code))?))
        }
        None => None,
    };
    let writable = writable_flags(cpu, size);
    cpu.rflags = cpu.rflags & !writable | image & writable;
    if let Some((pointer, segment)) = stack {
        cpu.segments[SS] = segment;
        cpu.gpr[RSP] = pointer;
    }
    cpu.enter_code(code, rip);
    cpu.interrupt_shadow = false;
    if cpl != cpu.cpl {
        cpu.cpl = cpl;
        returns::drop_privileged_segments(cpu);
    }
    Ok(())
}

/// Real mode's: every flag that exists is popped, and only the limit can be wrong.
fn real_iret(cpu: &mut Cpu, memory: &mut GuestMemory, size: usize, stack: Stack) -> Result<(), Refusal> {
    let mut stack = stack;
    let [ip, cs, image] = stack.pop_words(cpu, memory, size)?;
    let code = cpu.segments[CS].real(cs as u16);
    if ip > code.limit.into() {
        return Err(Exception::gp(0).into());
    }
    let writable = writable_flags(cpu, size) & !(flags::VIF | flags::VIP);
    cpu.rflags = cpu.rflags & !writable | image & writable;
    cpu.set_stack_pointer(stack.pointer);
    cpu.enter_code(code, ip);
    cpu.interrupt_shadow = false;
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
