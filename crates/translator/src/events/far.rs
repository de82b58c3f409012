//! Far jumps, calls and returns within 64-bit mode (SDM vol. 2, JMP, CALL, RET). Linux reloads CS with `lretq` while it
//! starts, and little else still uses these. Call gates are not walked: no 64-bit system has been seen to have one.

use crate::cpu::descriptors::{self, system};
use crate::cpu::segments::{CS, SS, Segment, code_of, is_null, rpl};
use crate::cpu::{Cpu, RSP};
use crate::events::exception::{Exception, Refusal};
use crate::events::returns;
use crate::exit::Death;
use crate::memory::access::GuestMemory;
use crate::memory::walk::{Access, Intent};

/// `jmp far`: to `offset` in the segment `selector`.
///
/// # Errors
/// #GP and #NP for the segment, #GP(0) for an offset that is not canonical, #PF; death for a call gate and for modes that
/// this engine does not run.
pub fn jump(cpu: &mut Cpu, memory: &mut GuestMemory, selector: u16, offset: u64) -> Result<(), Refusal> {
    let code = target(cpu, memory, selector, offset)?;
    cpu.segments[CS] = code;
    cpu.rip = offset;
    Ok(())
}

/// `call far`: pushes CS and `next_rip` in words of `size` bytes (8, 4 or 2), then goes as [`jump`] does.
///
/// # Errors
/// Those of [`jump`], and #SS and #PF for the stack.
pub fn call(
    cpu: &mut Cpu,
    memory: &mut GuestMemory,
    selector: u16,
    offset: u64,
    next_rip: u64,
    size: usize,
) -> Result<(), Refusal> {
    let code = target(cpu, memory, selector, offset)?;
    let mut frame = [0; 16];
    frame[..size].copy_from_slice(&next_rip.to_le_bytes()[..size]);
    frame[size..2 * size].copy_from_slice(&(cpu.segments[CS].selector as u64).to_le_bytes()[..size]);
    let rsp = cpu.gpr[RSP].wrapping_sub(2 * size as u64);
    memory.write_stack(cpu, rsp, &frame[..2 * size], Access::by_operand(cpu, Intent::Write))?;
    cpu.gpr[RSP] = rsp;
    cpu.segments[CS] = code;
    cpu.rip = offset;
    Ok(())
}

/// `ret far`: pops words of `size` bytes (8, 4 or 2), then releases `release` bytes of arguments.
///
/// # Errors
/// #GP, #NP and #SS for the segments, #SS and #PF for the stack; death for modes that this engine does not run.
pub fn ret(cpu: &mut Cpu, memory: &mut GuestMemory, size: usize, release: u16) -> Result<(), Refusal> {
    let rsp = cpu.gpr[RSP];
    let access = Access::by_operand(cpu, Intent::Read);
    let [rip, cs] = memory.read_stack(cpu, rsp, size, access)?;
    let code = returns::code_segment(cpu, memory, cs as u16, rip)?;
    let cpl = rpl(cs as u16);
    let after = rsp.wrapping_add(2 * size as u64 + release as u64);
    if cpl == cpu.cpl {
        cpu.gpr[RSP] = after;
    } else {
        let [outer_rsp, ss] = memory.read_stack(cpu, after, size, access)?;
        cpu.segments[SS] = returns::stack_segment(cpu, memory, ss as u16, cpl)?;
        cpu.gpr[RSP] = outer_rsp.wrapping_add(release as u64);
        cpu.cpl = cpl;
        returns::drop_privileged_segments(cpu);
    }
    cpu.segments[CS] = code;
    cpu.rip = rip;
    Ok(())
}

/// The code segment of a jump or call, ready for CS: same privilege, 64-bit.
fn target(cpu: &Cpu, memory: &mut GuestMemory, selector: u16, offset: u64) -> Result<Segment, Refusal> {
    if is_null(selector) {
        return Err(Exception::gp(0).into());
    }
    let code = code_of(selector);
    let found = descriptors::read(cpu, memory, selector)?;
    let segment = found.segment;
    if segment.system_type() == Some(system::CALL_GATE) {
        let what = "a far call or jump through a call gate";
        return Err(Refusal::Dead(Death::UnsupportedInstruction { what, rip: cpu.rip }));
    }
    let level_fits = if segment.is_conforming() {
        segment.dpl() <= cpu.cpl
    } else {
        segment.dpl() == cpu.cpl && rpl(selector) <= cpu.cpl
    };
    if !segment.is_code() || !level_fits {
        return Err(Exception::gp(code).into());
    }
    if !segment.present() {
        return Err(Exception::np(code).into());
    }
    returns::runnable(&segment, cpu.cpl, offset)?;
    let segment = descriptors::mark_accessed(cpu, memory, &found)?;
    Ok(Segment { selector: selector & !3 | cpu.cpl as u16, ..segment })
}

#[cfg(test)]
mod tests;
