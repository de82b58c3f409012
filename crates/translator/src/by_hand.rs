//! Code that is not translated ahead: 16-bit code, and 32-bit code whose segments are not flat.
//!
//! Such code is on its way somewhere else: a boot loader, a second processor's first steps, a switch between modes. So each
//! instruction is fetched, looked at and carried out by itself, with bases added and limits checked in Rust. What it
//! computes is still the host's work: an instruction that touches registers runs as it is, one that touches memory runs on
//! a copy of its operand (`play.rs`); only what 64-bit mode lacks is told in Rust (`system/legacy.rs`).
//!
//! Nothing is remembered between instructions, so code that writes itself, moves its segments or switches modes needs
//! nobody's attention. It costs about a quarter of a microsecond an instruction (a Guest's loop
//! of 18 million instructions took 4.0 s).

use crate::cpu::mode::CodeSize;
use crate::decode::LONGEST_INSTRUCTION;
use crate::events::exception::Exception;
use crate::exit::{Death, Exit};
use crate::memory::access::Fault;
use crate::memory::walk::{Access, Intent};
use crate::vcpu::Vcpu;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

/// The last page of 32-bit code: what runs over its end goes on at zero, which units do not know.
const LAST_PAGE: u64 = 0xffff_f000;

impl Vcpu {
    /// True when the code at `rip` is translated in units.
    pub(crate) fn in_units(&self) -> bool {
        let cpu = self.cpu();
        match cpu.code_size() {
            CodeSize::Long => true,
            CodeSize::Wide => cpu.rip < LAST_PAGE && cpu.flat(),
            CodeSize::Narrow => false,
        }
    }

    /// Carries out the instruction at `rip`.
    pub(crate) fn step_by_hand(&mut self) -> Result<(), Exit> {
        let mask = self.cpu().pointer_mask();
        let cpu = self.cpu_mut();
        cpu.rip &= mask;
        let fetched = self.fetch();
        self.cpu_mut().interrupt_shadow = false;
        match fetched {
            Ok(instruction) => {
                self.statistics.system += 1;
                self.carry_out(&instruction)
            }
            Err(Fault::Exception(exception)) => self.raise(exception),
            Err(Fault::NotRam { physical }) => {
                Err(Exit::Dead(Death::NoMemoryToExecute { rip: self.cpu().rip, address: physical }))
            }
        }
    }

    /// The instruction at `rip`. Bytes of the next page, or beyond the limit, are asked for only when it has some there.
    fn fetch(&mut self) -> Result<Instruction, Fault> {
        let cpu = self.cpu();
        let (pointer, bits) = (cpu.rip, cpu.code_size().bits());
        let start = cpu.linear_code(pointer)?;
        let room = match cpu.code_size() {
            CodeSize::Long => u64::MAX,
            _ => u64::from(cpu.segments[crate::cpu::segments::CS].limit) - pointer + 1,
        };
        let room = room.min(LONGEST_INSTRUCTION as u64) as usize;
        let mut bytes = [0; LONGEST_INSTRUCTION];
        let first = room.min((4096 - (start & 0xfff)) as usize);
        self.fetch_bytes(start, &mut bytes[..first])?;
        let mut have = first;
        loop {
            let mut decoder = Decoder::with_ip(bits, &bytes[..have], pointer, DecoderOptions::NONE);
            let instruction = decoder.decode();
            if !instruction.is_invalid() || decoder.last_error() != DecoderError::NoMoreBytes {
                return Ok(instruction);
            }
            if have == room {
                // Longer than any instruction, or beyond the segment's limit.
                return Err(Exception::gp(0).into());
            }
            let next = start.wrapping_add(first as u64) & self.cpu().linear_mask();
            self.fetch_bytes(next, &mut bytes[first..room])?;
            have = room;
        }
    }

    fn fetch_bytes(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let access = Access { intent: Intent::Execute, user: self.cpu().cpl == 3, smap_allowed: false };
        self.with_memory(|cpu, memory| memory.read_virtual(cpu, address, bytes, access))
    }
}
