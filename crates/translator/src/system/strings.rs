//! String instructions. Ordinary ones move as much as lies in one page on both sides at a time, with the host's own
//! string instruction; the rest goes element by element. Registers always show what is done, so an instruction that
//! faults or is interrupted goes on where it stopped.

#![allow(unsafe_code)] // The host's string instructions, on Guest memory.

use super::{Done, Then};
use crate::cpu::segments::{ES, FS, GS};
use crate::cpu::{RAX, RCX, RDI, RDX, RSI, flags};
use crate::events::exception::Exception;
use crate::exit::{Death, Exit};
use crate::memory::access::Fault;
use crate::memory::walk::{Access, Intent, Paging, walk};
use crate::play::Pending;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

/// Elements between two looks at whether somebody wants the vCPU.
const BATCH: u64 = 4096;

/// What a string instruction is made of.
#[derive(Clone, Copy)]
struct Shape {
    size: u64,
    repeat: bool,
    /// The bits of rsi, rdi and rcx that count: the address size's.
    mask: u64,
    /// The segment register of the source.
    source_segment: usize,
}

impl Vcpu {
    pub(super) fn string(&mut self, instruction: &Instruction) -> Done {
        let shape = self.shape(instruction);
        if matches!(instruction.mnemonic(), M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd) {
            return self.port_string(instruction, shape);
        }
        let mut left = BATCH;
        loop {
            if shape.repeat && self.count(shape) == 0 {
                return Ok(Then::Next);
            }
            let done = match self.batch(instruction, shape)? {
                0 => match self.element(instruction, shape) {
                    Ok(()) => 1,
                    Err(Fault::Exception(exception)) => return Err(exception.into()),
                    Err(Fault::NotRam { .. }) => {
                        let what = "a string instruction on a device's registers";
                        return Err(Exit::Dead(Death::UnsupportedInstruction {
                            what,
                            rip: instruction.ip(),
                        })
                        .into());
                    }
                },
                done => done,
            };
            if !shape.repeat || self.comparison_ends(instruction) {
                return Ok(Then::Next);
            }
            left = left.saturating_sub(done);
            if self.debug.one_element() {
                return Ok(if self.count(shape) == 0 { Then::Next } else { Then::Moved });
            }
            if left == 0 || self.kicker.0.pending() {
                if self.count(shape) == 0 {
                    return Ok(Then::Next);
                }
                if self.kicker.0.pending() {
                    return Ok(Then::Moved);
                }
                left = BATCH;
            }
        }
    }

    fn shape(&self, instruction: &Instruction) -> Shape {
        let has =
            |kinds: [OpKind; 3]| (0..instruction.op_count()).any(|n| kinds.contains(&instruction.op_kind(n)));
        let mask = if has([OpKind::MemorySegSI, OpKind::MemoryESDI, OpKind::MemorySegDI]) {
            0xffff
        } else if has([OpKind::MemorySegESI, OpKind::MemoryESEDI, OpKind::MemorySegEDI]) {
            0xffff_ffff
        } else {
            u64::MAX
        };
        let source_segment = instruction.memory_segment().number();
        let repeat = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        Shape { size: instruction.memory_size().size() as u64, repeat, mask, source_segment }
    }

    fn index(&self, register: usize, shape: Shape) -> u64 {
        self.cpu().gpr[register] & shape.mask
    }

    fn count(&self, shape: Shape) -> u64 {
        self.index(RCX, shape)
    }

    /// Linear address of the source's element.
    fn source(&self, shape: Shape) -> Result<u64, Exception> {
        self.cpu().linear(shape.source_segment, self.index(RSI, shape), shape.size, Intent::Read)
    }

    /// Linear address of the destination's element, which is always in ES.
    fn destination(&self, shape: Shape, intent: Intent) -> Result<u64, Exception> {
        self.cpu().linear(ES, self.index(RDI, shape), shape.size, intent)
    }

    /// Counts `elements` as done in the registers. 16-bit ones keep what is above; 32-bit ones clear it.
    fn advance(&mut self, shape: Shape, elements: u64, source: bool, destination: bool) {
        let distance = shape.size.wrapping_mul(elements);
        let distance = if self.downward() { distance.wrapping_neg() } else { distance };
        let kept = if shape.mask == 0xffff { !shape.mask } else { 0 };
        let gpr = &mut self.cpu_mut().gpr;
        let mut step = |register: usize, by: u64| {
            let value = gpr[register].wrapping_add(by);
            gpr[register] = gpr[register] & kept | value & shape.mask;
        };
        if source {
            step(RSI, distance);
        }
        if destination {
            step(RDI, distance);
        }
        if shape.repeat {
            step(RCX, elements.wrapping_neg());
        }
    }

    /// `repe` and `repne` stop when the flag says so.
    fn comparison_ends(&self, instruction: &Instruction) -> bool {
        let compares = matches!(
            instruction.mnemonic(),
            M::Scasb | M::Scasw | M::Scasd | M::Scasq | M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq
        );
        let equal = self.cpu().rflags & flags::ZF != 0;
        compares && if instruction.has_repne_prefix() { equal } else { !equal }
    }

    /// The host bytes behind `address`, how many there are up to the page's end, and the page of the memory file; `None`
    /// when they must be reached the slow way.
    fn direct(&mut self, address: u64, write: bool) -> Result<Option<(*mut u8, u64, u32)>, Exception> {
        let intent = if write { Intent::Write } else { Intent::Read };
        let access = Access::by_operand(self.cpu(), intent);
        let found = walk(&self.ram, &Paging::of(self.cpu()), address, access)?;
        let Some((offset, _)) = self.ram.offset(found.physical) else { return Ok(None) };
        if write && self.ram.has_code(offset) || self.debug.points.hides(address) {
            return Ok(None);
        }
        self.show(address, &found, offset);
        Ok(Some((self.ram.writable(offset), 4096 - (address & 0xfff), (offset >> 12) as u32)))
    }

    /// Moves or stores a run of elements that lies in one page on each side; 0 when there is none.
    fn batch(&mut self, instruction: &Instruction, shape: Shape) -> Result<u64, Exception> {
        let moves = matches!(instruction.mnemonic(), M::Movsb | M::Movsw | M::Movsd | M::Movsq);
        let stores = matches!(instruction.mnemonic(), M::Stosb | M::Stosw | M::Stosd | M::Stosq);
        // Where limits must be looked at, they are looked at for each element.
        let unlimited =
            self.cpu().in_64_bit_mode() || self.cpu().flat() && !matches!(shape.source_segment, FS | GS);
        let plain = unlimited && shape.mask != 0xffff && !self.debug.one_element();
        if !(moves || stores) || !shape.repeat || !plain || self.downward() {
            return Ok(0);
        }
        let mut source = (std::ptr::null_mut(), u64::MAX, 0);
        if moves {
            match self.direct(self.source(shape)?, false)? {
                // An element across two pages: both of its pages come before the destination's.
                Some(found) if found.1 >= shape.size => source = found,
                _ => return Ok(0),
            }
        }
        let Some((to, room, page)) = self.direct(self.destination(shape, Intent::Write)?, true)? else {
            return Ok(0);
        };
        let elements = self.count(shape).min(room / shape.size).min(source.1 / shape.size);
        if elements == 0 {
            return Ok(0);
        }
        let value = self.cpu().gpr[RAX];
        // SAFETY: `direct` found `elements` elements at both places within one page of Guest memory each; the
        // instructions copy them upward one after the other, which is what the Guest's own would do on overlap.
        unsafe { repeat(to, moves.then_some(source.0), value, elements, shape.size) };
        self.advance(shape, elements, moves, true);
        // Another vCPU may have made code of it since `direct` looked.
        self.wrote(page);
        Ok(elements)
    }

    /// One element, by the book.
    fn element(&mut self, instruction: &Instruction, shape: Shape) -> Result<(), Fault> {
        let size = shape.size as usize;
        let kind = instruction.mnemonic();
        let read_at = |vcpu: &mut Vcpu, address| {
            vcpu.with_memory(|cpu, memory| {
                memory.read_number(cpu, address, size, Access::by_operand(cpu, Intent::Read))
            })
        };
        let load = |vcpu: &mut Vcpu| read_at(vcpu, vcpu.source(shape)?);
        let look = |vcpu: &mut Vcpu| read_at(vcpu, vcpu.destination(shape, Intent::Read)?);
        let write = |vcpu: &mut Vcpu, value| {
            let address = vcpu.destination(shape, Intent::Write)?;
            vcpu.with_memory(|cpu, memory| {
                memory.write_number(cpu, address, size, value, Access::by_operand(cpu, Intent::Write))
            })
        };
        let accumulator = self.cpu().gpr[RAX] & low(size);
        match kind {
            M::Movsb | M::Movsw | M::Movsd | M::Movsq => {
                let value = load(self)?;
                write(self, value)?;
                self.advance(shape, 1, true, true);
            }
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => {
                write(self, accumulator)?;
                self.advance(shape, 1, false, true);
            }
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => {
                let value = load(self)?;
                let register =
                    [Register::AL, Register::AX, Register::EAX, Register::RAX][size.ilog2() as usize];
                self.set_register(register, value);
                self.advance(shape, 1, true, false);
            }
            M::Scasb | M::Scasw | M::Scasd | M::Scasq => {
                let value = look(self)?;
                self.compare(accumulator, value, size);
                self.advance(shape, 1, false, true);
            }
            _ => {
                let (first, second) = (load(self)?, look(self)?);
                self.compare(first, second, size);
                self.advance(shape, 1, true, true);
            }
        }
        Ok(())
    }

    /// The flags of `first - second`.
    fn compare(&mut self, first: u64, second: u64, size: usize) {
        let sign = 1 << (8 * size - 1);
        let result = first.wrapping_sub(second) & low(size);
        let mut set = 0;
        let mut when = |condition: bool, flag: u64| set |= if condition { flag } else { 0 };
        when(first < second, flags::CF);
        when((result as u8).count_ones().is_multiple_of(2), flags::PF);
        when((first ^ second ^ result) & 16 != 0, flags::AF);
        when(result == 0, flags::ZF);
        when(result & sign != 0, flags::SF);
        when((first ^ second) & (first ^ result) & sign != 0, flags::OF);
        let cpu = self.cpu_mut();
        cpu.rflags = cpu.rflags & !flags::ARITHMETIC | set;
    }

    /// `ins` and `outs`: each element is an exit.
    fn port_string(&mut self, instruction: &Instruction, shape: Shape) -> Done {
        let (port, size) = (self.cpu().gpr[RDX] as u16, shape.size as u8);
        self.check_port(port, size)?;
        if shape.repeat && self.count(shape) == 0 {
            return Ok(Then::Next);
        }
        self.touch_port(port, size);
        if matches!(instruction.mnemonic(), M::Insb | M::Insw | M::Insd) {
            let destination = self.destination(shape, Intent::Write)?;
            self.with_memory(|cpu, memory| {
                memory.probe(cpu, destination, size.into(), Access::by_operand(cpu, Intent::Write))
            })?;
            self.pending = Some(Pending::Element { instruction: Box::new(*instruction) });
            return Err(Exit::PortIn { port, size }.into());
        }
        let source = self.source(shape)?;
        let value = self.with_memory(|cpu, memory| {
            memory.read_number(cpu, source, size.into(), Access::by_operand(cpu, Intent::Read))
        })?;
        self.advance(shape, 1, true, false);
        self.end_of_port_element(instruction, shape);
        Err(Exit::PortOut { port, size, value: value as u32 }.into())
    }

    /// The answer to an `ins` element's exit.
    pub(crate) fn store_element(&mut self, instruction: &Instruction, value: u64) -> Result<(), Exit> {
        let shape = self.shape(instruction);
        let written = self.destination(shape, Intent::Write).map_err(Fault::from).and_then(|destination| {
            self.with_memory(|cpu, memory| {
                let access = Access::by_operand(cpu, Intent::Write);
                memory.write_number(cpu, destination, shape.size as usize, value, access)
            })
        });
        if let Err(Fault::Exception(exception)) = written {
            return self.raise(exception);
        }
        self.advance(shape, 1, false, true);
        self.end_of_port_element(instruction, shape);
        Ok(())
    }

    fn end_of_port_element(&mut self, instruction: &Instruction, shape: Shape) {
        if !shape.repeat || self.count(shape) == 0 {
            self.cpu_mut().rip = instruction.next_ip();
        }
    }
}

fn low(size: usize) -> u64 {
    u64::MAX >> (64 - 8 * size)
}

/// `rep movs` or `rep stos` of `count` elements of `size` bytes, upward.
///
/// # Safety
/// `to`, and `from` if given, must be valid for `count * size` bytes.
unsafe fn repeat(to: *mut u8, from: Option<*mut u8>, value: u64, count: u64, size: u64) {
    use std::arch::asm;
    macro_rules! run {
        ($moves:literal, $stores:literal) => {
            match from {
                Some(from) => {
                    // SAFETY: the caller vouches for both ranges.
                    unsafe {
                        asm!($moves, inout("rcx") count => _, inout("rsi") from => _, inout("rdi") to => _,
                             options(nostack, preserves_flags))
                    }
                }
                None => {
                    // SAFETY: the caller vouches for the range.
                    unsafe {
                        asm!($stores, inout("rcx") count => _, in("rax") value, inout("rdi") to => _,
                             options(nostack, preserves_flags))
                    }
                }
            }
        };
    }
    match size {
        1 => run!("rep movsb", "rep stosb"),
        2 => run!("rep movsw", "rep stosw"),
        4 => run!("rep movsd", "rep stosd"),
        _ => run!("rep movsq", "rep stosq"),
    }
}
