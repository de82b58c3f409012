//! Moves that a register's top bits thin out, each element an access of its own: `maskmovq`, `maskmovdqu`, `vmaskmov`.

use super::segments::in_segment;
use super::{Done, Stop, Then};
use crate::cpu::Cpu;
use crate::memory::walk::{Access, Intent};
use crate::near::segment_of;
use crate::vcpu::Vcpu;
use iced_x86::{Code, Instruction, MemoryOperand, Mnemonic as M, OpKind, Register};

impl Vcpu {
    /// `maskmovdqu`: bytes of the first register whose mask byte has its top bit set go to [rdi].
    pub(super) fn masked_bytes(&mut self, instruction: &Instruction) -> Done {
        let registers = (0..instruction.op_count()).filter(|&n| instruction.op_kind(n) == OpKind::Register);
        let registers: Vec<Register> = registers.map(|n| instruction.op_register(n)).collect();
        let half = instruction.mnemonic() == M::Maskmovq;
        let (data, mask) = if half {
            (self.mmx(registers[0])?, self.mmx(registers[1])?)
        } else {
            (self.low_half(registers[0]), self.low_half(registers[1]))
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

    fn low_half(&self, register: Register) -> [u8; 16] {
        *self.vector(register.number()).first_chunk().expect("a register is longer")
    }

    /// An MMX register, in the low bytes.
    fn mmx(&mut self, register: Register) -> Result<[u8; 16], Stop> {
        let place = MemoryOperand::with_base(Register::RAX);
        let Ok(store) = Instruction::with2(Code::Movq_mmm64_mm, place, register) else {
            unreachable!("the form exists")
        };
        self.run_snippet(&store, 0)??;
        let mut bytes = [0; 16];
        self.bounce.read(0, &mut bytes[..8]);
        Ok(bytes)
    }

    /// `vmaskmov` and `vpmaskmov`, lane by lane: only lanes whose mask has its top bit set are accesses.
    pub(super) fn masked_move(&mut self, instruction: &Instruction) -> Done {
        self.note_wide();
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
            let mut result = [0; 64];
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
