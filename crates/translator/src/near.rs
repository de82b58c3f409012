//! Near jumps, calls and returns, pushes and pops by hand, in every mode: as the manual's pseudo-code has them (SDM vol. 2).
//!
//! Units do this in place; here comes what they give up on (a stack across two pages or in a device's registers) and all
//! of it for code that has no units.

use crate::cpu::segments::CS;
use crate::cpu::{RCX, flags};
use crate::events::exception::Exception;
use crate::events::stack::Stack;
use crate::memory::access::Fault;
use crate::memory::walk::Intent;
use crate::vcpu::Vcpu;
use iced_x86::{Code, ConditionCode, FlowControl, Instruction, Mnemonic, OpKind, Register};

const RBP: usize = 5;

impl Vcpu {
    /// Carries out an instruction of the classes `Stack` and `Flow`; `rip` follows. A fault leaves the state as it was.
    pub(crate) fn near(&mut self, instruction: &Instruction) -> Result<(), Fault> {
        let next = instruction.next_ip();
        match (instruction.mnemonic(), instruction.flow_control()) {
            (Mnemonic::Push, _) => {
                let size = instruction.stack_pointer_increment().unsigned_abs() as usize;
                let value = self.near_operand(instruction)?;
                self.push_value(size, value)?;
                self.cpu_mut().rip = next;
            }
            (Mnemonic::Pop, _) => {
                let size = instruction.stack_pointer_increment().unsigned_abs() as usize;
                let value = self.pop_value(size)?;
                self.set_register(instruction.op0_register(), value);
                self.cpu_mut().rip = next;
            }
            (Mnemonic::Leave, _) => self.leave(instruction)?,
            (_, FlowControl::Call) => {
                self.check_target(instruction.near_branch_target())?;
                self.push_value(transfer_size(instruction), next)?;
                self.cpu_mut().rip = instruction.near_branch_target();
            }
            (_, FlowControl::IndirectCall) => {
                let target = self.near_operand(instruction)?;
                self.check_target(target)?;
                self.push_value(transfer_size(instruction), next)?;
                self.cpu_mut().rip = target;
            }
            (_, FlowControl::IndirectBranch) => {
                let target = self.near_operand(instruction)?;
                self.go_near(target)?;
            }
            (_, FlowControl::Return) => {
                let mut stack = Stack::current(self.cpu());
                let size = transfer_size(instruction);
                let target = self.with_memory(|cpu, memory| stack.pop(cpu, memory, size))?;
                self.go_near(target)?;
                let dropped = if instruction.op_count() == 1 { instruction.immediate16() } else { 0 };
                stack.release(dropped.into());
                self.cpu_mut().set_stack_pointer(stack.pointer);
            }
            (_, FlowControl::ConditionalBranch) => {
                let taken = self.taken(instruction);
                self.go_near(if taken { instruction.near_branch_target() } else { next })?;
                self.count_down(instruction);
            }
            _ => self.go_near(instruction.near_branch_target())?,
        }
        Ok(())
    }

    fn go_near(&mut self, target: u64) -> Result<(), Exception> {
        self.check_target(target)?;
        self.cpu_mut().rip = target;
        Ok(())
    }

    /// A target beyond the code segment's limit is the jump's own fault; 64-bit mode has none (ARCHITECTURE.md says what
    /// becomes of targets that are not canonical).
    fn check_target(&self, target: u64) -> Result<(), Exception> {
        let cpu = self.cpu();
        let reachable = cpu.in_64_bit_mode() || target <= cpu.segments[CS].limit.into();
        if reachable { Ok(()) } else { Err(Exception::gp(0)) }
    }

    /// `leave`: the frame pointer's word, and the stack above it.
    fn leave(&mut self, instruction: &Instruction) -> Result<(), Fault> {
        let (size, register) = match instruction.code() {
            Code::Leavew => (2, Register::BP),
            Code::Leaved => (4, Register::EBP),
            _ => (8, Register::RBP),
        };
        let mut stack = Stack::current(self.cpu()).at(self.cpu().gpr[RBP]);
        let value = self.with_memory(|cpu, memory| stack.pop(cpu, memory, size))?;
        self.cpu_mut().set_stack_pointer(stack.pointer);
        self.set_register(register, value);
        self.cpu_mut().rip = instruction.next_ip();
        Ok(())
    }

    /// The value to push or the target to go to.
    fn near_operand(&mut self, instruction: &Instruction) -> Result<u64, Fault> {
        match instruction.op0_kind() {
            OpKind::Register => Ok(self.register(instruction.op0_register())),
            OpKind::Memory => {
                let size = instruction.memory_size().size();
                self.operand(instruction, 0, size)
            }
            _ => Ok(instruction.immediate(0)),
        }
    }

    fn pop_value(&mut self, size: usize) -> Result<u64, Fault> {
        let mut stack = Stack::current(self.cpu());
        let value = self.with_memory(|cpu, memory| stack.pop(cpu, memory, size))?;
        self.cpu_mut().set_stack_pointer(stack.pointer);
        Ok(value)
    }

    pub(crate) fn push_value(&mut self, size: usize, value: u64) -> Result<(), Fault> {
        let mut stack = Stack::current(self.cpu());
        self.with_memory(|cpu, memory| stack.push(cpu, memory, size, value))?;
        self.cpu_mut().set_stack_pointer(stack.pointer);
        Ok(())
    }

    /// Whether a conditional jump is taken; `loop` counts first.
    fn taken(&self, instruction: &Instruction) -> bool {
        let Some(mask) = counter_mask(instruction) else { return self.holds(instruction.condition_code()) };
        let count = self.cpu().gpr[RCX] & mask;
        let zero = self.cpu().rflags & flags::ZF != 0;
        match instruction.mnemonic() {
            Mnemonic::Loop => count != 1,
            Mnemonic::Loope => count != 1 && zero,
            Mnemonic::Loopne => count != 1 && !zero,
            _ => count == 0,
        }
    }

    fn count_down(&mut self, instruction: &Instruction) {
        let counts = matches!(instruction.mnemonic(), Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne);
        if let Some(mask) = counter_mask(instruction)
            && counts
        {
            let value = self.cpu().gpr[RCX].wrapping_sub(1);
            let register = [Register::CX, Register::ECX, Register::RCX][(mask.count_ones() / 32) as usize];
            self.set_register(register, value);
        }
    }

    /// Whether the flags fulfil a condition (SDM vol. 1, appendix B).
    fn holds(&self, condition: ConditionCode) -> bool {
        let set = |bits: u64| self.cpu().rflags & bits != 0;
        let less = set(flags::SF) != set(flags::OF);
        match condition {
            ConditionCode::None => false,
            ConditionCode::o => set(flags::OF),
            ConditionCode::no => !set(flags::OF),
            ConditionCode::b => set(flags::CF),
            ConditionCode::ae => !set(flags::CF),
            ConditionCode::e => set(flags::ZF),
            ConditionCode::ne => !set(flags::ZF),
            ConditionCode::be => set(flags::CF | flags::ZF),
            ConditionCode::a => !set(flags::CF | flags::ZF),
            ConditionCode::s => set(flags::SF),
            ConditionCode::ns => !set(flags::SF),
            ConditionCode::p => set(flags::PF),
            ConditionCode::np => !set(flags::PF),
            ConditionCode::l => less,
            ConditionCode::ge => !less,
            ConditionCode::le => less || set(flags::ZF),
            ConditionCode::g => !less && !set(flags::ZF),
        }
    }

    /// The checked linear address of operand `operand` for an access of `size` bytes.
    ///
    /// # Errors
    /// The segment's: limit, kind. What is wrong about the address itself is found by whoever uses it.
    pub(crate) fn place(
        &self,
        instruction: &Instruction,
        operand: u32,
        size: usize,
        intent: Intent,
    ) -> Result<u64, Exception> {
        let offset = self.offset_of(instruction, operand).unwrap_or(0);
        self.cpu().linear(segment_of(instruction, operand), offset, size as u64, intent)
    }
}

/// The segment register that an operand's address is relative to.
pub(crate) fn segment_of(instruction: &Instruction, operand: u32) -> usize {
    match instruction.op_kind(operand) {
        OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI => crate::cpu::segments::ES,
        _ => instruction.memory_segment().number(),
    }
}

/// Bytes that a call pushes or a return pops.
fn transfer_size(instruction: &Instruction) -> usize {
    let argument = if instruction.flow_control() == FlowControl::Return && instruction.op_count() == 1 {
        i32::from(instruction.immediate16())
    } else {
        0
    };
    (instruction.stack_pointer_increment().abs() - argument) as usize
}

/// The bits of rcx that `loop` and `jcxz` look at, which the address size decides; `None` for other jumps.
fn counter_mask(instruction: &Instruction) -> Option<u64> {
    use Code as C;
    match instruction.code() {
        C::Jcxz_rel8_16
        | C::Jcxz_rel8_32
        | C::Loop_rel8_16_CX
        | C::Loop_rel8_32_CX
        | C::Loope_rel8_16_CX
        | C::Loope_rel8_32_CX
        | C::Loopne_rel8_16_CX
        | C::Loopne_rel8_32_CX => Some(0xffff),
        C::Jecxz_rel8_16
        | C::Jecxz_rel8_32
        | C::Jecxz_rel8_64
        | C::Loop_rel8_16_ECX
        | C::Loop_rel8_32_ECX
        | C::Loop_rel8_64_ECX
        | C::Loope_rel8_16_ECX
        | C::Loope_rel8_32_ECX
        | C::Loope_rel8_64_ECX
        | C::Loopne_rel8_16_ECX
        | C::Loopne_rel8_32_ECX
        | C::Loopne_rel8_64_ECX => Some(0xffff_ffff),
        C::Jrcxz_rel8_16
        | C::Jrcxz_rel8_64
        | C::Loop_rel8_16_RCX
        | C::Loop_rel8_64_RCX
        | C::Loope_rel8_16_RCX
        | C::Loope_rel8_64_RCX
        | C::Loopne_rel8_16_RCX
        | C::Loopne_rel8_64_RCX => Some(u64::MAX),
        _ => None,
    }
}
