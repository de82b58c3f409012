//! Far jumps, calls and returns (SDM vol. 2, JMP, CALL, RET): in real mode a new base, in the others a descriptor that says
//! what code comes next. Every way between 16, 32 and 64 bits that is not an event goes through here.
//!
//! There are no task switches: a jump or call to a task-state segment or task gate is #GP naming it, as if it were no
//! such segment. Call gates have a room of their own.

use crate::cpu::descriptors::{self, Descriptor, system};
use crate::cpu::segments::{CS, SS, Segment, code_of, is_null, rpl};
use crate::cpu::{Cpu, RSP};
use crate::events::call_gate;
use crate::events::exception::Exception;
use crate::events::returns;
use crate::events::stack::Stack;
use crate::memory::access::GuestMemory;

/// `jmp far`: to `offset` in the segment `selector`.
///
/// # Errors
/// #GP and #NP for the segment or gate, #GP(0) for an offset that is not canonical or beyond the limit, #PF.
pub fn jump(cpu: &mut Cpu, memory: &mut GuestMemory, selector: u16, offset: u64) -> Result<(), Exception> {
    match target(cpu, memory, selector, offset)? {
        Target::Code(code) => cpu.enter_code(code, offset),
        Target::Gate(gate) => call_gate::go(cpu, memory, &gate, None)?,
    }
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
) -> Result<(), Exception> {
    let code = match target(cpu, memory, selector, offset)? {
        Target::Code(code) => code,
        Target::Gate(gate) => return call_gate::go(cpu, memory, &gate, Some(next_rip)),
    };
    let mut stack = Stack::current(cpu);
    stack.push_words(cpu, memory, size, &[cpu.segments[CS].selector.into(), next_rip])?;
    cpu.set_stack_pointer(stack.pointer);
    cpu.enter_code(code, offset);
    Ok(())
}

/// `ret far`: pops words of `size` bytes (8, 4 or 2), then releases `release` bytes of arguments.
///
/// # Errors
/// #GP, #NP and #SS for the segments, #SS and #PF for the stack.
pub fn ret(cpu: &mut Cpu, memory: &mut GuestMemory, size: usize, release: u16) -> Result<(), Exception> {
    let mut stack = Stack::current(cpu);
    let [rip, cs] = stack.pop_words(cpu, memory, size)?;
    if !cpu.protected() {
        let code = real_target(cpu, cs as u16, rip)?;
        stack.release(release.into());
        cpu.set_stack_pointer(stack.pointer);
        cpu.enter_code(code, rip);
        return Ok(());
    }
    let code = returns::code_segment(cpu, memory, cs as u16, rip)?;
    let cpl = rpl(cs as u16);
    stack.release(release.into());
    if cpl == cpu.cpl {
        cpu.set_stack_pointer(stack.pointer);
        cpu.enter_code(code, rip);
        return Ok(());
    }
    let [outer, ss] = stack.pop_words(cpu, memory, size)?;
    let segment = returns::stack_segment(cpu, memory, ss as u16, cpl, cpu.size_of(&code))?;
    cpu.segments[SS] = segment;
    cpu.enter_code(code, rip);
    cpu.gpr[RSP] = outer;
    cpu.set_stack_pointer(outer.wrapping_add(release.into()));
    cpu.cpl = cpl;
    returns::drop_privileged_segments(cpu);
    Ok(())
}

/// Real mode: any selector will do, and only the limit can be wrong.
fn real_target(cpu: &Cpu, selector: u16, offset: u64) -> Result<Segment, Exception> {
    let code = cpu.segments[CS].real(selector);
    if offset > code.limit.into() { Err(Exception::gp(0)) } else { Ok(code) }
}

/// What a selector leads to.
enum Target {
    /// A code segment, ready for CS.
    Code(Segment),
    /// A call gate.
    Gate(Descriptor),
}

/// The code segment of a jump or call, of the same privilege; or a gate.
fn target(cpu: &Cpu, memory: &mut GuestMemory, selector: u16, offset: u64) -> Result<Target, Exception> {
    if !cpu.protected() {
        return Ok(Target::Code(real_target(cpu, selector, offset)?));
    }
    if is_null(selector) {
        return Err(Exception::gp(0));
    }
    let code = code_of(selector);
    let found = descriptors::read(cpu, memory, selector)?;
    let segment = found.segment;
    let gate = match segment.system_type() {
        Some(system::CALL_GATE) => true,
        Some(system::CALL_GATE_16) => !cpu.long_mode(),
        _ => false,
    };
    if gate {
        return Ok(Target::Gate(found));
    }
    let level_fits = if segment.is_conforming() {
        segment.dpl() <= cpu.cpl
    } else {
        segment.dpl() == cpu.cpl && rpl(selector) <= cpu.cpl
    };
    if !segment.is_code() || !level_fits {
        return Err(Exception::gp(code));
    }
    if !segment.present() {
        return Err(Exception::np(code));
    }
    returns::runnable(cpu, &segment, offset)?;
    let segment = descriptors::mark_accessed(cpu, memory, &found)?;
    Ok(Target::Code(Segment { selector: selector & !3 | cpu.cpl as u16, ..segment }))
}

#[cfg(test)]
mod tests;
