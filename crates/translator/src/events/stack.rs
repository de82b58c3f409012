//! Stacks as pushes and pops see them, in every mode: a segment, a width and a pointer.
//!
//! 64-bit mode has one stack as large as the address space. Elsewhere the stack lies in a segment whose limit is checked,
//! its pointer wraps at the segment's width, and a gate may bring a stack of its own (SDM vol. 3, 5.8.5). A [`Stack`] is
//! a value: pushes and pops move its pointer, and whoever made it decides whether the processor's follows. Several words
//! are looked up before the first is written, so that an event that faults has written nothing.

use crate::cpu::mode::width_of;
use crate::cpu::segments::{SS, Segment};
use crate::cpu::{Cpu, flags};
use crate::events::exception::Exception;
use crate::memory::access::{Fault, GuestMemory};
use crate::memory::walk::{Access, Intent};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Stack {
    /// Where the next pop reads.
    pub pointer: u64,
    /// The bits of the pointer that count.
    mask: u64,
    /// The segment; `None` in 64-bit mode.
    segment: Option<Segment>,
    protected: bool,
    /// By whose right it is read and written.
    user: bool,
    smap_allowed: bool,
    /// Error code of the stack fault: 1 while an outside event is delivered.
    code: u32,
}

impl Stack {
    /// The stack that instructions use now.
    pub fn current(cpu: &Cpu) -> Stack {
        Stack {
            pointer: cpu.stack_pointer(),
            mask: cpu.stack_mask(),
            segment: (!cpu.in_64_bit_mode()).then_some(cpu.segments[SS]),
            protected: cpu.protected(),
            user: cpu.cpl == 3,
            smap_allowed: cpu.rflags & flags::AC != 0,
            code: 0,
        }
    }

    /// A stack that a gate brings, in a segment that was checked already, for code at privilege level `cpl`.
    pub fn inner(segment: Segment, pointer: u64, cpl: u8, code: u32) -> Stack {
        let mask = width_of(&segment);
        let user = cpl == 3;
        Stack {
            pointer: pointer & mask,
            mask,
            segment: Some(segment),
            protected: true,
            user,
            smap_allowed: false,
            code,
        }
    }

    /// A stack that a gate of long mode brings.
    pub fn inner_long(pointer: u64, cpl: u8) -> Stack {
        Stack { segment: None, mask: u64::MAX, pointer, ..Stack::inner(Segment::null(0), 0, cpl, 0) }
    }

    /// The same stack as the processor itself uses it while it delivers an event: SMAP holds whatever AC says.
    pub fn implicit(self, code: u32) -> Stack {
        Stack { smap_allowed: false, code, ..self }
    }

    /// Moves the pointer up past `bytes` bytes.
    pub fn release(&mut self, bytes: u64) {
        self.pointer = self.pointer.wrapping_add(bytes) & self.mask;
    }

    /// The same stack with another pointer.
    pub fn at(self, pointer: u64) -> Stack {
        Stack { pointer: pointer & self.mask, ..self }
    }

    /// Linear address of `size` bytes at `pointer`.
    fn linear(&self, pointer: u64, size: usize, intent: Intent) -> Result<u64, Fault> {
        match self.segment {
            None => Ok(pointer),
            Some(segment) => segment
                .linear(pointer, size as u64, intent, self.protected)
                .ok_or(Exception::ss(self.code).into()),
        }
    }

    fn access(&self, intent: Intent) -> Access {
        Access { intent, user: self.user, smap_allowed: self.smap_allowed }
    }

    /// An address that is not canonical is the stack segment's fault.
    fn blame(&self, fault: Fault) -> Fault {
        match fault {
            Fault::Exception(exception) if exception == Exception::gp(0) => Exception::ss(self.code).into(),
            other => other,
        }
    }

    /// Pops `size` bytes.
    pub fn pop(&mut self, cpu: &Cpu, memory: &GuestMemory, size: usize) -> Result<u64, Fault> {
        let address = self.linear(self.pointer, size, Intent::Read)?;
        let value = memory
            .read_number(cpu, address, size, self.access(Intent::Read))
            .map_err(|fault| self.blame(fault))?;
        self.release(size as u64);
        Ok(value)
    }

    /// Pops `N` words, the first popped first; a stack on no RAM reads as ones.
    pub fn pop_words<const N: usize>(
        &mut self,
        cpu: &Cpu,
        memory: &GuestMemory,
        size: usize,
    ) -> Result<[u64; N], Exception> {
        if self.segment.is_none() {
            let words = memory.read_stack(cpu, self.pointer, size, self.access(Intent::Read))?;
            self.release((N * size) as u64);
            return Ok(words);
        }
        let mut words = [0; N];
        for word in &mut words {
            *word = match self.pop(cpu, memory, size) {
                Ok(value) => value,
                Err(Fault::Exception(exception)) => return Err(exception),
                Err(Fault::NotRam { .. }) => {
                    self.release(size as u64);
                    u64::MAX >> (64 - 8 * size)
                }
            };
        }
        Ok(words)
    }

    /// Whether `size` bytes at the pointer could be written.
    pub fn probe(&self, cpu: &Cpu, memory: &GuestMemory, size: usize) -> Result<(), Fault> {
        let address = self.linear(self.pointer, size, Intent::Write)?;
        memory.probe(cpu, address, size, self.access(Intent::Write)).map_err(|fault| self.blame(fault))
    }

    /// Pushes the low `size` bytes of a value.
    pub fn push(
        &mut self,
        cpu: &Cpu,
        memory: &mut GuestMemory,
        size: usize,
        value: u64,
    ) -> Result<(), Fault> {
        let pointer = self.pointer.wrapping_sub(size as u64) & self.mask;
        let address = self.linear(pointer, size, Intent::Write)?;
        memory
            .write_number(cpu, address, size, value, self.access(Intent::Write))
            .map_err(|fault| self.blame(fault))?;
        self.pointer = pointer;
        Ok(())
    }

    /// Pushes words in their order, all or none; a stack on no RAM takes nothing.
    ///
    /// # Errors
    /// #SS for the segment, #PF.
    pub fn push_words(
        &mut self,
        cpu: &Cpu,
        memory: &mut GuestMemory,
        size: usize,
        words: &[u64],
    ) -> Result<(), Exception> {
        if self.segment.is_none() {
            let bytes: Vec<u8> =
                words.iter().rev().flat_map(|word| word.to_le_bytes().into_iter().take(size)).collect();
            let pointer = self.pointer.wrapping_sub(bytes.len() as u64);
            memory.write_stack(cpu, pointer, &bytes, self.access(Intent::Write))?;
            self.pointer = pointer;
            return Ok(());
        }
        let mut probe = *self;
        for _ in words {
            probe.pointer = probe.pointer.wrapping_sub(size as u64) & self.mask;
            dropping_no_ram(probe.probe(cpu, memory, size))?;
        }
        for &word in words {
            let before = self.pointer;
            dropping_no_ram(self.push(cpu, memory, size, word))?;
            self.pointer = before.wrapping_sub(size as u64) & self.mask;
        }
        Ok(())
    }
}

fn dropping_no_ram(result: Result<(), Fault>) -> Result<(), Exception> {
    match result {
        Ok(()) | Err(Fault::NotRam { .. }) => Ok(()),
        Err(Fault::Exception(exception)) => Err(exception),
    }
}
