//! Stores of single bytes that a register's top bits choose: `maskmovq` and `maskmovdqu`.

use super::{Done, Stop, Then};
use crate::memory::walk::{Access, Intent};
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
}
