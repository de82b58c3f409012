//! Delivery outside long mode: through real mode's table of far addresses (SDM vol. 3, 21.1.4), and through the gates of
//! 16 and 32 bits (SDM vol. 3, 6.11 and 6.12).
//!
//! ```text
//!   real mode            gate, same level        gate, inner level
//!   | FLAGS |            | EFLAGS     |          | SS         |
//!   | CS    |            | CS         |          | ESP        |
//!   | IP    | <- new SP  | EIP        |          | EFLAGS     |
//!                        | error code |          | CS, EIP, error code
//! ```
//! A task gate is #GP naming it, for there are no task switches: a 32-bit Linux has one for double faults only.

use super::deliver::{Event, IN_IDT, handler_segment};
use super::returns;
use super::stack::Stack;
use crate::cpu::descriptors::{self, system};
use crate::cpu::segments::{CS, SS, Segment, code_of, is_null, rpl};
use crate::cpu::{Cpu, RSP, flags};
use crate::events::exception::Exception;
use crate::memory::access::GuestMemory;

/// Real mode: no gates, no privilege, no error codes.
pub(super) fn real(cpu: &mut Cpu, memory: &mut GuestMemory, event: Event) -> Result<(), Exception> {
    let index = u64::from(event.vector()) * 4;
    if index + 3 > cpu.idtr.limit.into() {
        return Err(Exception::gp(0));
    }
    let entry = u32::from_le_bytes(memory.read_system(cpu, cpu.idtr.base.wrapping_add(index))?);
    let (ip, selector) = (u64::from(entry & 0xffff), (entry >> 16) as u16);
    let code = cpu.segments[CS].real(selector);
    if ip > code.limit.into() {
        return Err(Exception::gp(0));
    }
    let mut stack = Stack::current(cpu);
    let words = [cpu.rflags, cpu.segments[CS].selector.into(), event.return_address(cpu)];
    stack.push_words(cpu, memory, 2, &words)?;
    cpu.set_stack_pointer(stack.pointer);
    cpu.enter_code(code, ip);
    cpu.rflags &= !(flags::IF | flags::TF | flags::AC | flags::RF);
    cpu.interrupt_shadow = false;
    Ok(())
}

/// A gate of 16 or 32 bits.
struct Gate {
    selector: u16,
    offset: u64,
    /// Bytes of each word it pushes.
    size: usize,
    masks_interrupts: bool,
}

/// Protected mode.
pub(super) fn protected(cpu: &mut Cpu, memory: &mut GuestMemory, event: Event) -> Result<(), Exception> {
    let external = event.external();
    let gate = read_gate(cpu, memory, event)?;
    let (code, cpl) = handler_segment(cpu, memory, gate.selector, external, |_| true)?;
    returns::runnable(cpu, &code.segment, gate.offset).map_err(|_| Exception::gp(external))?;
    let inner = if cpl == cpu.cpl { None } else { Some(inner_stack(cpu, memory, cpl, external)?) };

    let mut words = Vec::with_capacity(6);
    if inner.is_some() {
        words.extend([cpu.segments[SS].selector.into(), cpu.gpr[RSP]]);
    }
    words.extend([event.saved_flags(cpu), cpu.segments[CS].selector.into(), event.return_address(cpu)]);
    words.extend(event.error_code().map(u64::from));
    let mut stack = match inner {
        Some((segment, pointer)) => Stack::inner(segment, pointer, cpl, external),
        None => Stack::current(cpu).implicit(external),
    };
    stack.push_words(cpu, memory, gate.size, &words)?;
    let code = descriptors::mark_accessed(cpu, memory, &code)?;

    if let Some((segment, _)) = inner {
        cpu.segments[SS] = segment;
        cpu.gpr[RSP] = 0;
    }
    cpu.cpl = cpl;
    cpu.enter_code(Segment { selector: gate.selector & !3 | u16::from(cpl), ..code }, gate.offset);
    cpu.set_stack_pointer(stack.pointer);
    cpu.rflags &= !(flags::TF | flags::NT | flags::RF | flags::VM);
    if gate.masks_interrupts {
        cpu.rflags &= !flags::IF;
    }
    cpu.interrupt_shadow = false;
    Ok(())
}

fn read_gate(cpu: &Cpu, memory: &GuestMemory, event: Event) -> Result<Gate, Exception> {
    let index = u64::from(event.vector()) * 8;
    let code = u32::from(event.vector()) << 3 | IN_IDT | event.external();
    if index + 7 > cpu.idtr.limit.into() {
        return Err(Exception::gp(code));
    }
    let bits = u64::from_le_bytes(memory.read_system(cpu, cpu.idtr.base.wrapping_add(index))?);
    let (size, masks_interrupts) = match (bits >> 40) as u8 & 0x1f {
        system::INTERRUPT_GATE => (4, true),
        system::TRAP_GATE => (4, false),
        system::INTERRUPT_GATE_16 => (2, true),
        system::TRAP_GATE_16 => (2, false),
        _ => return Err(Exception::gp(code)),
    };
    if matches!(event, Event::Software { .. }) && ((bits >> 45) as u8 & 3) < cpu.cpl {
        return Err(Exception::gp(code));
    }
    if bits >> 47 & 1 == 0 {
        return Err(Exception::np(code));
    }
    let high = if size == 4 { bits >> 32 & 0xffff_0000 } else { 0 };
    Ok(Gate { selector: (bits >> 16) as u16, offset: bits & 0xffff | high, size, masks_interrupts })
}

/// The stack that the task-state segment keeps for privilege level `cpl` (SDM vol. 3, 6.12.1): its segment, checked, and
/// its pointer.
pub(super) fn inner_stack(
    cpu: &Cpu,
    memory: &mut GuestMemory,
    cpl: u8,
    external: u32,
) -> Result<(Segment, u64), Exception> {
    let narrow = matches!(cpu.tr.system_type(), Some(system::TSS_AVAILABLE_16 | system::TSS_BUSY_16));
    // SS:ESP for levels 0 to 2, eight bytes each from byte 4 on; SS:SP in four bytes from byte 2 on.
    let (place, size) = if narrow { (2 + 4 * u64::from(cpl), 4) } else { (4 + 8 * u64::from(cpl), 8) };
    if place + size - 1 > cpu.tr.limit.into() {
        return Err(Exception::ts(code_of(cpu.tr.selector) | external));
    }
    let word = u64::from_le_bytes(memory.read_system(cpu, cpu.tr.base.wrapping_add(place))?);
    let (pointer, selector) =
        if narrow { (word & 0xffff, (word >> 16) as u16) } else { (word & 0xffff_ffff, (word >> 32) as u16) };
    if is_null(selector) {
        return Err(Exception::ts(external));
    }
    let code = code_of(selector) | external;
    let found = descriptors::read(cpu, memory, selector).map_err(|exception| match exception.cr2 {
        Some(_) => exception,
        None => Exception::ts(code),
    })?;
    let segment = found.segment;
    if rpl(selector) != cpl || segment.dpl() != cpl || !segment.is_writable_data() {
        return Err(Exception::ts(code));
    }
    if !segment.present() {
        return Err(Exception::ss(code));
    }
    Ok((descriptors::mark_accessed(cpu, memory, &found)?, pointer))
}
