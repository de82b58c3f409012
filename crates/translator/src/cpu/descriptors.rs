//! Descriptor tables: finding a descriptor, the registers that name whole tables (LDTR, TR), and the instructions that
//! only ask (`lar`, `lsl`, `verr`, `verw`).

use crate::cpu::Cpu;
use crate::cpu::segments::attributes::{ACCESSED, GRANULARITY, MASK};
use crate::cpu::segments::{Segment, code_of, is_null, rpl};
use crate::events::exception::Exception;
use crate::memory::access::GuestMemory;
use crate::memory::walk::canonical;

/// System descriptor types (SDM vol. 3, table 3-2). Long mode has only those of 64 bits, which have the numbers that 32
/// bits had before.
pub mod system {
    /// 16-bit task-state segment, free.
    pub const TSS_AVAILABLE_16: u8 = 0x1;
    /// 16-bit task-state segment, in use.
    pub const TSS_BUSY_16: u8 = 0x3;
    /// 16-bit call gate.
    pub const CALL_GATE_16: u8 = 0x4;
    /// Task gate.
    pub const TASK_GATE: u8 = 0x5;
    /// 16-bit interrupt gate.
    pub const INTERRUPT_GATE_16: u8 = 0x6;
    /// 16-bit trap gate.
    pub const TRAP_GATE_16: u8 = 0x7;
    /// Local descriptor table.
    pub const LDT: u8 = 0x2;
    /// 32-bit or 64-bit task-state segment, free.
    pub const TSS_AVAILABLE: u8 = 0x9;
    /// 32-bit or 64-bit task-state segment, in use.
    pub const TSS_BUSY: u8 = 0xb;
    /// 32-bit or 64-bit call gate.
    pub const CALL_GATE: u8 = 0xc;
    /// 32-bit or 64-bit interrupt gate.
    pub const INTERRUPT_GATE: u8 = 0xe;
    /// 32-bit or 64-bit trap gate.
    pub const TRAP_GATE: u8 = 0xf;
}

/// The busy bit of a task-state segment's type, in a descriptor's first eight bytes.
const BUSY: u64 = 1 << 41;
/// The accessed bit in a descriptor's eight bytes.
const ACCESSED_IN_MEMORY: u64 = 1 << 40;

/// A descriptor and where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// What it says, with the selector it was looked up by.
    pub segment: Segment,
    /// Linear address of its first byte.
    pub address: u64,
}

/// Reads the eight-byte descriptor of `selector`, which must not be null.
///
/// # Errors
/// #GP naming the selector when it lies outside its table, #PF from reading it.
pub fn read(cpu: &Cpu, memory: &GuestMemory, selector: u16) -> Result<Descriptor, Exception> {
    let address = locate(cpu, selector, 8).ok_or(Exception::gp(code_of(selector)))?;
    let word = cpu.descriptor_at(memory, address)?;
    Ok(Descriptor { segment: parse(selector, word), address })
}

/// Reads the descriptor of a system segment, LDT or TSS: sixteen bytes in long mode, eight outside it.
fn read_system(cpu: &Cpu, memory: &GuestMemory, selector: u16) -> Result<Descriptor, Exception> {
    if !cpu.long_mode() {
        return read(cpu, memory, selector);
    }
    let outside = Exception::gp(code_of(selector));
    let address = locate(cpu, selector, 16).ok_or(outside)?;
    let bytes = u128::from_le_bytes(memory.read_system(cpu, address)?);
    let mut segment = parse(selector, bytes as u64);
    segment.base |= ((bytes >> 64) as u64) << 32;
    // Bits 8 to 12 of the last word keep an eight-byte descriptor from being read as one half of this (APM vol. 2, 4.8.3).
    if bytes >> 104 & 0x1f != 0 || !canonical(segment.base) {
        return Err(outside);
    }
    Ok(Descriptor { segment, address })
}

/// The upper eight bytes of a long-mode call gate that `read` found the lower ones of.
///
/// # Errors
/// #GP naming the selector when they lie outside the table or carry a type of their own, #PF.
pub fn second_half(
    cpu: &Cpu,
    memory: &GuestMemory,
    selector: u16,
    found: &Descriptor,
) -> Result<u64, Exception> {
    let outside = Exception::gp(code_of(selector));
    locate(cpu, selector, 16).ok_or(outside)?;
    let upper = u64::from_le_bytes(memory.read_system(cpu, found.address.wrapping_add(8))?);
    if upper >> 40 & 0x1f != 0 { Err(outside) } else { Ok(upper) }
}

/// Address of a descriptor of `size` bytes, if its table holds all of it.
fn locate(cpu: &Cpu, selector: u16, size: u64) -> Option<u64> {
    let (base, limit) = if selector & 4 == 0 {
        (cpu.gdtr.base, cpu.gdtr.limit as u64)
    } else if cpu.ldtr.present() {
        (cpu.ldtr.base, cpu.ldtr.limit as u64)
    } else {
        return None;
    };
    let index = (selector & !7) as u64;
    (index + size - 1 <= limit).then(|| base.wrapping_add(index))
}

fn parse(selector: u16, word: u64) -> Segment {
    let attributes = (word >> 40) as u16;
    let mut limit = (word & 0xffff | word >> 32 & 0xf_0000) as u32;
    if attributes & GRANULARITY != 0 {
        limit = limit << 12 | 0xfff;
    }
    let base = word >> 16 & 0xff_ffff | word >> 32 & 0xff00_0000;
    Segment { selector, attributes: attributes & MASK, limit, base }
}

/// Marks a code or data descriptor as accessed, in memory only if it was not, and gives the segment to load.
pub fn mark_accessed(
    cpu: &Cpu,
    memory: &mut GuestMemory,
    descriptor: &Descriptor,
) -> Result<Segment, Exception> {
    let mut segment = descriptor.segment;
    if segment.attributes & ACCESSED == 0 {
        if cpu.hosted.is_none() {
            memory.set_bits_system(cpu, descriptor.address, ACCESSED_IN_MEMORY)?;
        }
        segment.attributes |= ACCESSED;
    }
    Ok(segment)
}

/// `lldt`.
///
/// # Errors
/// #GP(0) above CPL 0; #GP or #NP naming the selector; #PF.
pub fn lldt(cpu: &mut Cpu, memory: &mut GuestMemory, selector: u16) -> Result<(), Exception> {
    privileged(cpu)?;
    if is_null(selector) {
        cpu.ldtr = Segment::null(selector);
        return Ok(());
    }
    cpu.ldtr = system_segment(cpu, memory, selector, &[system::LDT])?.segment;
    Ok(())
}

/// `ltr`: loads the task register and marks the task-state segment busy.
///
/// # Errors
/// #GP(0) above CPL 0 or for a null selector; #GP or #NP naming the selector; #PF.
pub fn ltr(cpu: &mut Cpu, memory: &mut GuestMemory, selector: u16) -> Result<(), Exception> {
    privileged(cpu)?;
    if is_null(selector) {
        return Err(Exception::gp(0));
    }
    let kinds: &[u8] = if cpu.long_mode() {
        &[system::TSS_AVAILABLE]
    } else {
        &[system::TSS_AVAILABLE, system::TSS_AVAILABLE_16]
    };
    let mut found = system_segment(cpu, memory, selector, kinds)?;
    memory.set_bits_system(cpu, found.address, BUSY)?;
    found.segment.attributes |= (system::TSS_BUSY ^ system::TSS_AVAILABLE) as u16;
    cpu.tr = found.segment;
    Ok(())
}

fn system_segment(
    cpu: &Cpu,
    memory: &GuestMemory,
    selector: u16,
    kinds: &[u8],
) -> Result<Descriptor, Exception> {
    let code = code_of(selector);
    if selector & 4 != 0 {
        return Err(Exception::gp(code));
    }
    let found = read_system(cpu, memory, selector)?;
    if !found.segment.system_type().is_some_and(|kind| kinds.contains(&kind)) {
        return Err(Exception::gp(code));
    }
    if !found.segment.present() {
        return Err(Exception::np(code));
    }
    Ok(found)
}

/// #GP(0) unless at CPL 0.
pub fn privileged(cpu: &Cpu) -> Result<(), Exception> {
    if cpu.cpl == 0 { Ok(()) } else { Err(Exception::gp(0)) }
}

/// Kinds of system segment that have a limit, as a mask of types, and those among them that long mode lacks.
const SIZED: u16 = 1 << system::LDT | 1 << system::TSS_AVAILABLE | 1 << system::TSS_BUSY;
const SIZED_16: u16 = 1 << system::TSS_AVAILABLE_16 | 1 << system::TSS_BUSY_16;

/// `lar`: the access rights of a segment in bits 8 to 23, or None where the instruction clears ZF.
pub fn lar(cpu: &Cpu, memory: &GuestMemory, selector: u16) -> Result<Option<u32>, Exception> {
    const LONG: u16 = SIZED | 1 << system::CALL_GATE;
    const LEGACY: u16 = LONG | SIZED_16 | 1 << system::CALL_GATE_16 | 1 << system::TASK_GATE;
    let allowed = if cpu.long_mode() { LONG } else { LEGACY };
    let Some(found) = visible(cpu, memory, selector, allowed)? else { return Ok(None) };
    let word = cpu.descriptor_at(memory, found.address)?;
    Ok(Some((word >> 32) as u32 & 0x00ff_ff00))
}

/// `lsl`: the limit of a segment in bytes, or None where the instruction clears ZF.
pub fn lsl(cpu: &Cpu, memory: &GuestMemory, selector: u16) -> Result<Option<u32>, Exception> {
    let allowed = if cpu.long_mode() { SIZED } else { SIZED | SIZED_16 };
    Ok(visible(cpu, memory, selector, allowed)?.map(|found| found.segment.limit))
}

/// `verr`: whether the segment could be read from the current privilege level.
pub fn verr(cpu: &Cpu, memory: &GuestMemory, selector: u16) -> Result<bool, Exception> {
    Ok(visible(cpu, memory, selector, 0)?.is_some_and(|found| found.segment.is_readable()))
}

/// `verw`: whether the segment could be written from the current privilege level.
pub fn verw(cpu: &Cpu, memory: &GuestMemory, selector: u16) -> Result<bool, Exception> {
    Ok(visible(cpu, memory, selector, 0)?.is_some_and(|found| found.segment.is_writable_data()))
}

/// The descriptor, if it is one of the system types in the mask `allowed` or code or data, and its privilege level
/// lets this selector see it.
fn visible(
    cpu: &Cpu,
    memory: &GuestMemory,
    selector: u16,
    allowed: u16,
) -> Result<Option<Descriptor>, Exception> {
    if is_null(selector) || locate(cpu, selector, 8).is_none() {
        return Ok(None);
    }
    let found = read(cpu, memory, selector)?;
    let segment = found.segment;
    let right_kind = segment.system_type().is_none_or(|kind| allowed & 1 << kind != 0);
    let near_enough = segment.is_conforming() || rpl(selector).max(cpu.cpl) <= segment.dpl();
    Ok((right_kind && near_enough).then_some(found))
}

#[cfg(test)]
mod tests;
