//! Control and debug registers, flags, and what drops translations.

use super::{Done, Then};
use crate::cpu::control::{self, ControlRead, ControlWrite, Effect};
use crate::cpu::descriptors::privileged;
use crate::cpu::translations::{invlpg, invpcid};
use crate::cpu::{Cpu, flags, privilege};
use crate::events::exception::Exception;
use crate::events::stack::Stack;
use crate::exit::Exit;
use crate::play::Pending;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic as M};

/// The x2APIC's task-priority register, which CR8 is bits 4 to 7 of (SDM vol. 3, 11.8.6).
const TASK_PRIORITY_MSR: u32 = 0x808;

impl Vcpu {
    pub(super) fn control(&mut self, instruction: &Instruction) -> Done {
        match instruction.mnemonic() {
            M::Cli => privilege::cli(self.cpu_mut())?,
            M::Sti => privilege::sti(self.cpu_mut())?,
            M::Cld => self.set_flags(flags::DF, false),
            M::Std => self.set_flags(flags::DF, true),
            M::Stac | M::Clac => {
                if self.cpu().cpl != 0 {
                    return Err(Exception::ud().into());
                }
                self.set_flags(flags::AC, instruction.mnemonic() == M::Stac);
            }
            M::Clts => {
                let effect = control::clts(self.cpu_mut())?;
                self.apply(effect);
            }
            M::Lmsw => {
                let value = self.operand(instruction, 0, 2)? as u16;
                let before = self.cpu().clone();
                let effect = control::lmsw(self.cpu_mut(), value)?;
                self.changed_control(effect, before)?;
            }
            M::Smsw => {
                let value = control::smsw(self.cpu());
                self.set_operand(instruction, 0, 2, value)?;
            }
            M::Wbinvd | M::Invd => privileged(self.cpu())?,
            M::Invlpg => {
                let address = self.operand_address(instruction).unwrap_or(0);
                let what = invlpg(self.cpu(), address)?;
                self.with_reach(|spaces, reach| spaces.invalidate(reach, what));
            }
            M::Invpcid => {
                let kind = self.register(instruction.op0_register());
                let address = self.operand_place(instruction, 16, false)?.unwrap_or(0);
                let what = self.with_memory(|cpu, memory| invpcid(cpu, memory, kind, address))?;
                self.with_reach(|spaces, reach| spaces.invalidate(reach, what));
            }
            M::Pushfq | M::Pushfd | M::Pushf | M::Popfq | M::Popfd | M::Popf => {
                return self.flags_on_stack(instruction);
            }
            _ => return self.move_control(instruction),
        }
        Ok(Then::Next)
    }

    /// A control register was written: what hangs on it follows, or the write is undone.
    fn changed_control(&mut self, effect: Effect, before: Cpu) -> Result<(), Exception> {
        if effect.directories_due {
            match control::directories(self.cpu(), &self.ram) {
                Ok(entries) => self.cpu_mut().directories = entries,
                Err(exception) => {
                    *self.cpu_mut() = before;
                    return Err(exception);
                }
            }
        }
        self.apply(effect);
        Ok(())
    }

    fn flags_on_stack(&mut self, instruction: &Instruction) -> Done {
        let size = instruction.stack_pointer_increment().unsigned_abs() as usize;
        let push = instruction.stack_pointer_increment() < 0;
        self.with_memory(|cpu, memory| {
            let mut stack = Stack::current(cpu);
            if push {
                stack.push(cpu, memory, size, privilege::pushf(cpu))?;
                cpu.set_stack_pointer(stack.pointer);
            } else {
                let value = stack.pop(cpu, memory, size)?;
                cpu.set_stack_pointer(stack.pointer);
                privilege::popf(cpu, value, size);
            }
            Ok(Then::Next)
        })
    }

    fn move_control(&mut self, instruction: &Instruction) -> Done {
        let (to, from) = (instruction.op0_register(), instruction.op1_register());
        let next = instruction.next_ip();
        if to.is_cr() {
            let value = self.register(from);
            let before = self.cpu().clone();
            match control::write_control(self.cpu_mut(), to.number() as u8, value)? {
                ControlWrite::Done(effect) => self.changed_control(effect, before)?,
                ControlWrite::TaskPriority(priority) => {
                    self.pending = Some(Pending::Nothing { next });
                    return Err(Exit::WriteMsr { index: TASK_PRIORITY_MSR, value: priority << 4 }.into());
                }
            }
        } else if from.is_cr() {
            match control::read_control(self.cpu(), from.number() as u8)? {
                ControlRead::Value(value) => self.set_register(to, value),
                ControlRead::TaskPriority => {
                    self.pending = Some(Pending::Priority { number: to.number(), next });
                    return Err(Exit::ReadMsr { index: TASK_PRIORITY_MSR }.into());
                }
            }
        } else if to.is_dr() {
            let value = self.register(from);
            control::write_debug(self.cpu_mut(), to.number() as u8, value)?;
            self.rearm();
        } else {
            let value = control::read_debug(self.cpu_mut(), from.number() as u8)?;
            self.set_register(to, value);
        }
        Ok(Then::Next)
    }
}
