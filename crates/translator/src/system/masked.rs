//! Accesses that a mask thins out: gathers, masked moves, and stores of single bytes. Each element is an access of its own.

use super::segments::in_segment;
use super::{Done, Stop, Then};
use crate::cpu::Cpu;
use crate::memory::access::Fault;
use crate::memory::walk::{Access, Intent};
use crate::near::segment_of;
use crate::rewrite::address_bits;
use crate::vcpu::Vcpu;
use iced_x86::{Code, Instruction, MemoryOperand, Mnemonic as M, OpKind, Register};

impl Vcpu {
    /// AVX2's gathers: elements whose mask has its top bit set are loaded, and their mask cleared, in order.
    pub(super) fn gather(&mut self, instruction: &Instruction) -> Done {
        self.frame().wide = 1;
        let (to, mask) = (instruction.op0_register(), instruction.op2_register());
        let size = instruction.memory_size().size();
        let index_size = match instruction.mnemonic() {
            M::Vpgatherdd | M::Vpgatherdq | M::Vgatherdps | M::Vgatherdpd => 4,
            _ => 8,
        };
        // As many as the narrower of index and data vectors holds.
        let index_width = if instruction.memory_index().is_ymm() { 32 } else { 16 };
        let data_width = if to.is_ymm() { 32 } else { 16 };
        let elements = (index_width / index_size).min(data_width / size);
        for n in 0..elements {
            if self.element_of(mask, n, size) >> (8 * size - 1) & 1 != 0 {
                let offset = self.gathered_offset(instruction, n, index_size);
                let address = self.cpu().linear(
                    instruction.memory_segment().number(),
                    offset,
                    size as u64,
                    Intent::Read,
                )?;
                let value = self.read_element(address, size).map_err(|f| in_segment(instruction, f))?;
                self.set_element(to, n, size, value);
            }
            self.set_element(mask, n, size, 0);
        }
        for register in [to, mask] {
            let kept = elements * size;
            self.frame().vectors[register.number()][kept..].fill(0);
        }
        Ok(Then::Next)
    }

    fn gathered_offset(&self, instruction: &Instruction, n: usize, index_size: usize) -> u64 {
        let index = self.element_of(instruction.memory_index(), n, index_size);
        let index = if index_size == 4 { index as u32 as i32 as i64 as u64 } else { index };
        let base = match instruction.memory_base() {
            Register::None => 0,
            base => self.register(base),
        };
        let scale = u64::from(instruction.memory_index_scale());
        let sum =
            base.wrapping_add(index.wrapping_mul(scale)).wrapping_add(instruction.memory_displacement64());
        sum & u64::MAX >> (64 - address_bits(instruction))
    }

    fn read_element(&mut self, address: u64, size: usize) -> Result<u64, Fault> {
        self.with_memory(|cpu, memory| {
            memory.read_number(cpu, address, size, Access::by_operand(cpu, Intent::Read))
        })
    }

    fn element_of(&self, register: Register, n: usize, size: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&self.vector(register.number())[n * size..(n + 1) * size]);
        u64::from_le_bytes(bytes)
    }

    fn set_element(&mut self, register: Register, n: usize, size: usize, value: u64) {
        let vector = &mut self.frame().vectors[register.number()];
        vector[n * size..(n + 1) * size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    /// `maskmovdqu`: bytes of the first register whose mask byte has its top bit set go to [rdi].
    pub(super) fn masked_bytes(&mut self, instruction: &Instruction) -> Done {
        let registers = (0..instruction.op_count()).filter(|&n| instruction.op_kind(n) == OpKind::Register);
        let registers: Vec<Register> = registers.map(|n| instruction.op_register(n)).collect();
        let half = instruction.mnemonic() == M::Maskmovq;
        let (data, mask) = if half {
            (self.mmx(registers[0])?, self.mmx(registers[1])?)
        } else {
            (*self.vector(registers[0].number()), *self.vector(registers[1].number()))
        };
        let size = if half { 8 } else { 16 };
        let start = self.place(instruction, 0, size, Intent::Write)?;
        // Whether bytes that the mask leaves out can fault is the processor's choice (SDM vol. 2, MASKMOVDQU); AMD's
        // looks at the whole operand, and so nothing is half done.
        self.with_memory(|cpu, memory| {
            memory.probe(cpu, start, size, Access::by_operand(cpu, Intent::Write))
        })?;
        for n in (0..size).filter(|&n| mask[n] & 0x80 != 0) {
            let address = start.wrapping_add(n as u64);
            self.with_memory(|cpu, memory| {
                memory.write_number(cpu, address, 1, data[n].into(), Access::by_operand(cpu, Intent::Write))
            })?;
        }
        Ok(Then::Next)
    }

    /// An MMX register, in the low bytes.
    fn mmx(&mut self, register: Register) -> Result<[u8; 32], Stop> {
        let place = MemoryOperand::with_base(Register::RAX);
        let Ok(store) = Instruction::with2(Code::Movq_mmm64_mm, place, register) else {
            unreachable!("the form exists")
        };
        self.run_snippet(&store, 0)??;
        let mut bytes = [0; 32];
        self.bounce.read(0, &mut bytes[..8]);
        Ok(bytes)
    }

    /// `vmaskmov` and `vpmaskmov`, lane by lane: only lanes whose mask has its top bit set are accesses.
    pub(super) fn masked_move(&mut self, instruction: &Instruction) -> Done {
        self.frame().wide = 1;
        let wide = matches!(instruction.mnemonic(), M::Vmaskmovpd | M::Vpmaskmovq);
        let size = if wide { 8 } else { 4 };
        let lanes = instruction.memory_size().size() / size;
        let load = instruction.op0_kind() == OpKind::Register;
        let mask = *self.vector(instruction.op1_register().number());
        let chosen = |n: usize| mask[(n + 1) * size - 1] & 0x80 != 0;
        let operand = if load { 2 } else { 0 };
        let (segment, base) =
            (segment_of(instruction, operand), self.offset_of(instruction, operand).unwrap_or(0));
        // A lane that the mask leaves out is not even checked against its segment.
        let address = |cpu: &Cpu, n: usize, intent| {
            cpu.linear(segment, base.wrapping_add((n * size) as u64), size as u64, intent)
        };
        if load {
            let mut result = [0; 32];
            for n in (0..lanes).filter(|&n| chosen(n)) {
                let place = address(self.cpu(), n, Intent::Read)?;
                let value = self.read_element(place, size).map_err(|f| in_segment(instruction, f))?;
                result[n * size..(n + 1) * size].copy_from_slice(&value.to_le_bytes()[..size]);
            }
            self.frame().vectors[instruction.op0_register().number()] = result;
            return Ok(Then::Next);
        }
        let data = instruction.op2_register();
        let write = |vcpu: &mut Vcpu, n: usize, value: Option<u64>| {
            vcpu.with_memory(|cpu, memory| {
                let access = Access::by_operand(cpu, Intent::Write);
                let place = address(cpu, n, Intent::Write)?;
                match value {
                    Some(value) => memory.write_number(cpu, place, size, value, access),
                    None => memory.probe(cpu, place, size, access),
                }
            })
        };
        for n in (0..lanes).filter(|&n| chosen(n)) {
            write(self, n, None).map_err(|f| in_segment(instruction, f))?;
        }
        for n in (0..lanes).filter(|&n| chosen(n)) {
            let value = self.element_of(data, n, size);
            write(self, n, Some(value))?;
        }
        Ok(Then::Next)
    }
}
