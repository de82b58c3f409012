//! From an event to the first instruction of the Guest's handler (SDM vol. 3, 6.12 to 6.15; APM vol. 2, 8.9).
//!
//! ```text
//!   vector -> gate in the IDT -> code segment in the GDT -> stack (RSP0 | ISTn | the same) -> frame
//!
//!   new RSP -> | error code |   only for some exceptions
//!              | RIP        |
//!              | CS         |
//!              | RFLAGS     |
//!              | RSP        |
//!              | SS         |
//!              +------------+   aligned to 16 bytes
//! ```
//!
//! This is long mode; `deliver_legacy.rs` has the others.
//!
//! A step that fails raises an exception of its own, which is delivered instead, alone or as a double fault. Nothing of
//! the state changes before the frame is written, so a failed delivery leaves only CR2 behind.

use crate::cpu::descriptors::{self, Descriptor, system};
use crate::cpu::segments::{CS, SS, Segment, code_of, is_null};
use crate::cpu::{Cpu, RSP, flags};
use crate::events::deliver_legacy;
use crate::events::exception::{Exception, vectors};
use crate::memory::access::GuestMemory;
use crate::memory::walk::{Access, Intent, canonical};

/// Something to interrupt the Guest with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The current instruction raised it. For traps, `cpu.rip` is already the next instruction.
    Exception(Exception),
    /// An external interrupt, between instructions.
    Interrupt(u8),
    /// `int n` and `int3`: checked against the gate's privilege level.
    Software {
        /// Which gate.
        vector: u8,
        /// The instruction to come back to.
        next_rip: u64,
    },
}

/// The Guest could not be told: a double fault could not be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TripleFault;

/// Error-code bit: something outside the program was being delivered (SDM vol. 3, 6.13).
const EXTERNAL: u32 = 1;
/// Error-code bit: the index is one of the IDT.
pub(super) const IN_IDT: u32 = 2;
/// Place of RSP0 in a 64-bit task-state segment; RSP1 and RSP2 follow.
const TSS_RSP0: u64 = 4;
/// Place of IST1; IST2 to IST7 follow.
const TSS_IST1: u64 = 36;

impl Event {
    pub(super) fn vector(self) -> u8 {
        match self {
            Event::Exception(exception) => exception.vector,
            Event::Interrupt(vector) | Event::Software { vector, .. } => vector,
        }
    }

    pub(super) fn external(self) -> u32 {
        if matches!(self, Event::Software { .. }) { 0 } else { EXTERNAL }
    }

    pub(super) fn error_code(self) -> Option<u32> {
        if let Event::Exception(exception) = self { exception.error_code } else { None }
    }

    /// Where the handler returns to.
    pub(super) fn return_address(self, cpu: &Cpu) -> u64 {
        if let Event::Software { next_rip, .. } = self { next_rip } else { cpu.rip }
    }

    /// The flags as the frame shows them. Faults show RF set, so that the instruction is not stopped at the same
    /// breakpoint when it is tried again (SDM vol. 3, 18.3.1.1).
    pub(super) fn saved_flags(self, cpu: &Cpu) -> u64 {
        let fault = match self {
            Event::Exception(exception) => {
                !matches!(exception.vector, vectors::DB | vectors::BP | vectors::OF | vectors::DF)
            }
            Event::Interrupt(_) | Event::Software { .. } => false,
        };
        if fault { cpu.rflags | flags::RF } else { cpu.rflags }
    }
}

/// Delivers `event`: on return the Guest is at the first instruction of a handler, not necessarily this event's.
///
/// # Errors
/// [`TripleFault`] when delivering a double fault fails.
pub fn deliver(cpu: &mut Cpu, memory: &mut GuestMemory, event: Event) -> Result<(), TripleFault> {
    let mut event = event;
    // Ends: a step can only raise a contributory exception or a page fault, of which the second makes a double
    // fault and the third a triple fault.
    loop {
        if let Event::Exception(Exception { cr2: Some(address), .. }) = event {
            cpu.cr2 = address;
        }
        let attempted = match (cpu.protected(), cpu.long_mode()) {
            (false, _) => deliver_legacy::real(cpu, memory, event),
            (true, false) => deliver_legacy::protected(cpu, memory, event),
            (true, true) => attempt(cpu, memory, event),
        };
        let Err(raised) = attempted else { return Ok(()) };
        if let Some(address) = raised.cr2 {
            cpu.cr2 = address;
        }
        event = Event::Exception(combine(event, raised)?);
    }
}

/// How an exception's vector weighs when another comes while it is delivered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn weigh(event: Event) -> Weight {
    let Event::Exception(exception) = event else { return Weight::Benign };
    match exception.vector {
        vectors::DE | vectors::TS | vectors::NP | vectors::SS | vectors::GP => Weight::Contributory,
        vectors::PF => Weight::PageFault,
        vectors::DF => Weight::DoubleFault,
        _ => Weight::Benign,
    }
}

/// What becomes of `raised` during `event` (SDM vol. 3, tables 6-4 and 6-5).
fn combine(event: Event, raised: Exception) -> Result<Exception, TripleFault> {
    use Weight::{Benign, Contributory, DoubleFault, PageFault};
    match (weigh(event), weigh(Event::Exception(raised))) {
        (DoubleFault, Contributory | PageFault) => Err(TripleFault),
        (Contributory, Contributory) | (PageFault, Contributory | PageFault) => Ok(Exception::df()),
        (Benign | Contributory | PageFault | DoubleFault, _) => Ok(raised),
    }
}

/// An interrupt or trap gate.
struct Gate {
    offset: u64,
    selector: u16,
    stack: u8,
    masks_interrupts: bool,
}

fn attempt(cpu: &mut Cpu, memory: &mut GuestMemory, event: Event) -> Result<(), Exception> {
    let external = event.external();
    let gate = read_gate(cpu, memory, event)?;
    let long = |segment: &Segment| segment.is_long() && !segment.is_big();
    let (code, cpl) = handler_segment(cpu, memory, gate.selector, external, long)?;
    let top = stack_top(cpu, memory, &gate, cpl, external)? & !15;
    if !canonical(gate.offset) {
        return Err(Exception::gp(external));
    }
    let rsp = push_frame(cpu, memory, event, top, cpl)?;
    let code = descriptors::mark_accessed(cpu, memory, &code)?;

    if cpl != cpu.cpl {
        cpu.segments[SS] = Segment::null(cpl as u16);
    }
    cpu.segments[CS] = Segment { selector: gate.selector & !3 | cpl as u16, ..code };
    cpu.cpl = cpl;
    cpu.gpr[RSP] = rsp;
    cpu.rip = gate.offset;
    cpu.rflags &= !(flags::TF | flags::NT | flags::RF | flags::VM);
    if gate.masks_interrupts {
        cpu.rflags &= !flags::IF;
    }
    cpu.interrupt_shadow = false;
    Ok(())
}

fn read_gate(cpu: &Cpu, memory: &GuestMemory, event: Event) -> Result<Gate, Exception> {
    let index = event.vector() as u64 * 16;
    let code = (event.vector() as u32) << 3 | IN_IDT | event.external();
    if index + 15 > cpu.idtr.limit as u64 {
        return Err(Exception::gp(code));
    }
    let bits = u128::from_le_bytes(memory.read_system(cpu, cpu.idtr.base.wrapping_add(index))?);
    // Five bits: the type, and the S bit, which is zero for gates.
    let masks_interrupts = match (bits >> 40) as u8 & 0x1f {
        system::INTERRUPT_GATE => true,
        system::TRAP_GATE => false,
        _ => return Err(Exception::gp(code)),
    };
    let dpl = (bits >> 45) as u8 & 3;
    if matches!(event, Event::Software { .. }) && dpl < cpu.cpl {
        return Err(Exception::gp(code));
    }
    if bits >> 47 & 1 == 0 {
        return Err(Exception::np(code));
    }
    let offset = bits as u64 & 0xffff | (bits >> 32) as u64 & 0xffff_0000 | (bits >> 64 << 32) as u64;
    Ok(Gate { offset, selector: (bits >> 16) as u16, stack: (bits >> 32) as u8 & 7, masks_interrupts })
}

/// The handler's code segment, which must be one that `runs` it, and the privilege level it runs at.
pub(super) fn handler_segment(
    cpu: &Cpu,
    memory: &GuestMemory,
    selector: u16,
    external: u32,
    runs: impl Fn(&Segment) -> bool,
) -> Result<(Descriptor, u8), Exception> {
    if is_null(selector) {
        return Err(Exception::gp(external));
    }
    let code = code_of(selector) | external;
    let found = descriptors::read(cpu, memory, selector).map_err(|exception| match exception.vector {
        vectors::GP if exception.error_code == Some(code_of(selector)) => Exception::gp(code),
        _ => exception,
    })?;
    let segment = found.segment;
    let right_kind = segment.is_code() && runs(&segment);
    if !right_kind || segment.dpl() > cpu.cpl {
        return Err(Exception::gp(code));
    }
    if !segment.present() {
        return Err(Exception::np(code));
    }
    Ok((found, if segment.is_conforming() { cpu.cpl } else { segment.dpl() }))
}

/// Where the frame goes, before alignment: an interrupt stack if the gate names one, the privilege level's stack if
/// that changes, else the current one.
fn stack_top(cpu: &Cpu, memory: &GuestMemory, gate: &Gate, cpl: u8, external: u32) -> Result<u64, Exception> {
    match gate.stack {
        0 if cpl == cpu.cpl => Ok(cpu.gpr[RSP]),
        0 => level_stack(cpu, memory, cpl, external),
        number => task_word(cpu, memory, TSS_IST1 + 8 * (number as u64 - 1), external),
    }
}

/// The stack pointer that the task-state segment keeps for a privilege level.
pub(super) fn level_stack(cpu: &Cpu, memory: &GuestMemory, cpl: u8, external: u32) -> Result<u64, Exception> {
    task_word(cpu, memory, TSS_RSP0 + 8 * cpl as u64, external)
}

fn task_word(cpu: &Cpu, memory: &GuestMemory, place: u64, external: u32) -> Result<u64, Exception> {
    if place + 7 > cpu.tr.limit as u64 {
        return Err(Exception::ts(code_of(cpu.tr.selector) | external));
    }
    Ok(u64::from_le_bytes(memory.read_system(cpu, cpu.tr.base.wrapping_add(place))?))
}

/// Writes the frame in one piece and says where it starts.
fn push_frame(
    cpu: &Cpu,
    memory: &mut GuestMemory,
    event: Event,
    top: u64,
    cpl: u8,
) -> Result<u64, Exception> {
    let words = [
        event.error_code().unwrap_or(0) as u64,
        event.return_address(cpu),
        cpu.segments[CS].selector as u64,
        event.saved_flags(cpu),
        cpu.gpr[RSP],
        cpu.segments[SS].selector as u64,
    ];
    let bytes = words.map(u64::to_le_bytes);
    let frame = &bytes.as_flattened()[if event.error_code().is_some() { 0 } else { 8 }..];
    let rsp = top.wrapping_sub(frame.len() as u64);
    // Made by the processor, so SMAP holds whatever AC says; with the handler's right, for a handler may be a user's.
    let access = Access { intent: Intent::Write, user: cpl == 3, smap_allowed: false };
    memory.write_stack(cpu, rsp, frame, access).map_err(|exception| match exception.vector {
        vectors::SS => Exception::ss(event.external()),
        _ => exception,
    })?;
    Ok(rsp)
}

#[cfg(test)]
mod tests;
