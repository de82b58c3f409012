//! Call gates: a far call or jump whose selector names a gate, and the gate says where to go (SDM vol. 3, 5.8.3 to 5.8.6).
//!
//! A call to an inner level changes to that level's stack, as an interrupt does; a gate of 16 or 32 bits takes its
//! caller's arguments along. In long mode a gate has 16 bytes, leads to 64-bit code and takes nothing along.

use crate::cpu::descriptors::{self, Descriptor, system};
use crate::cpu::segments::{CS, SS, Segment, code_of, is_null, rpl};
use crate::cpu::{Cpu, RSP};
use crate::events::deliver::level_stack;
use crate::events::deliver_legacy::inner_stack;
use crate::events::exception::Exception;
use crate::events::returns;
use crate::events::stack::Stack;
use crate::memory::access::GuestMemory;

/// What a gate says.
struct Gate {
    selector: u16,
    offset: u64,
    /// Bytes of each word it pushes.
    size: usize,
    /// Words it copies to an inner stack.
    arguments: usize,
}

/// Goes through the gate that `found` is; a call pushes `next_rip` first.
///
/// # Errors
/// #GP and #NP for the gate and for its segment, #TS and #SS for an inner stack, #PF. Nothing has changed then.
pub(super) fn go(
    cpu: &mut Cpu,
    memory: &mut GuestMemory,
    found: &Descriptor,
    next_rip: Option<u64>,
) -> Result<(), Exception> {
    let gate = read(cpu, memory, found)?;
    let (code, cpl) = target(cpu, memory, &gate, next_rip.is_some())?;
    returns::runnable(cpu, &code.segment, gate.offset).map_err(|_| Exception::gp(0))?;
    if let Some(next_rip) = next_rip {
        push(cpu, memory, &gate, cpl, next_rip)?;
    }
    let segment = descriptors::mark_accessed(cpu, memory, &code)?;
    cpu.cpl = cpl;
    cpu.enter_code(Segment { selector: gate.selector & !3 | u16::from(cpl), ..segment }, gate.offset);
    Ok(())
}

fn read(cpu: &Cpu, memory: &GuestMemory, found: &Descriptor) -> Result<Gate, Exception> {
    let selector = found.segment.selector;
    let code = code_of(selector);
    if found.segment.dpl() < rpl(selector).max(cpu.cpl) {
        return Err(Exception::gp(code));
    }
    if !found.segment.present() {
        return Err(Exception::np(code));
    }
    let low = cpu.descriptor_at(memory, found.address)?;
    let target = (low >> 16) as u16;
    let near = low & 0xffff;
    let wide = near | low >> 32 & 0xffff_0000;
    let arguments = (low >> 32) as usize & 31;
    if cpu.long_mode() {
        let second = descriptors::second_half(cpu, memory, selector, found)?;
        return Ok(Gate { selector: target, offset: wide | second << 32, size: 8, arguments: 0 });
    }
    Ok(match found.segment.system_type() {
        Some(system::CALL_GATE_16) => Gate { selector: target, offset: near, size: 2, arguments },
        _ => Gate { selector: target, offset: wide, size: 4, arguments },
    })
}

/// The gate's code segment, and the privilege level it runs at: a jump changes none.
fn target(cpu: &Cpu, memory: &GuestMemory, gate: &Gate, call: bool) -> Result<(Descriptor, u8), Exception> {
    if is_null(gate.selector) {
        return Err(Exception::gp(0));
    }
    let code = code_of(gate.selector);
    let found = descriptors::read(cpu, memory, gate.selector)?;
    let segment = found.segment;
    let long = segment.is_long() && !segment.is_big();
    let level_fits = segment.dpl() == cpu.cpl || segment.dpl() < cpu.cpl && (call || segment.is_conforming());
    if !segment.is_code() || !level_fits || cpu.long_mode() && !long {
        return Err(Exception::gp(code));
    }
    if !segment.present() {
        return Err(Exception::np(code));
    }
    Ok((found, if segment.is_conforming() { cpu.cpl } else { segment.dpl() }))
}

/// Pushes the way back, on the stack of the level that is entered.
fn push(
    cpu: &mut Cpu,
    memory: &mut GuestMemory,
    gate: &Gate,
    cpl: u8,
    next_rip: u64,
) -> Result<(), Exception> {
    let back = [cpu.segments[CS].selector.into(), next_rip];
    if cpl == cpu.cpl {
        // In long mode the gate's words are 64 bits wide even from compatibility mode, on the stack as it is.
        let mut stack = Stack::current(cpu);
        stack.push_words(cpu, memory, gate.size, &back)?;
        cpu.set_stack_pointer(stack.pointer);
        return Ok(());
    }
    let outer = Stack::current(cpu);
    let mut words = vec![cpu.segments[SS].selector.into(), outer.pointer];
    let (segment, mut stack) = if cpu.long_mode() {
        let top = level_stack(cpu, memory, cpl, 0)?;
        (Segment::null(cpl.into()), Stack::inner_long(top, cpl))
    } else {
        let (segment, pointer) = inner_stack(cpu, memory, cpl, 0)?;
        words.extend(arguments(cpu, memory, gate, outer)?);
        (segment, Stack::inner(segment, pointer, cpl, 0))
    };
    words.extend(back);
    stack.push_words(cpu, memory, gate.size, &words)?;
    cpu.segments[SS] = segment;
    cpu.gpr[RSP] = stack.pointer;
    Ok(())
}

/// The caller's arguments, the last pushed last.
fn arguments(cpu: &Cpu, memory: &GuestMemory, gate: &Gate, outer: Stack) -> Result<Vec<u64>, Exception> {
    let mut outer = outer;
    let mut words = Vec::with_capacity(gate.arguments);
    for _ in 0..gate.arguments {
        let [word] = outer.pop_words(cpu, memory, gate.size)?;
        words.push(word);
    }
    words.reverse();
    Ok(words)
}
