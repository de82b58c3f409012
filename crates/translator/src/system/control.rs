//! Control and debug registers, flags, and what drops translations.

use super::segments::on_stack;
use super::{Done, Then};
use crate::cpu::control::{self, ControlRead, ControlWrite};
use crate::cpu::descriptors::privileged;
use crate::cpu::translations::{invlpg, invpcid};
use crate::cpu::{RSP, flags, privilege};
use crate::events::exception::Exception;
use crate::exit::Exit;
use crate::memory::walk::{Access, Intent};
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
                let effect = control::lmsw(self.cpu_mut(), value)?;
                self.apply(effect);
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
                let address = self.operand_address(instruction).unwrap_or(0);
                let what = self.with_memory(|cpu, memory| invpcid(cpu, memory, kind, address))?;
                self.with_reach(|spaces, reach| spaces.invalidate(reach, what));
            }
            M::Pushfq | M::Pushf | M::Popfq | M::Popf => return self.flags_on_stack(instruction),
            _ => return self.move_control(instruction),
        }
        Ok(Then::Next)
    }

    fn flags_on_stack(&mut self, instruction: &Instruction) -> Done {
        let size = if matches!(instruction.mnemonic(), M::Pushf | M::Popf) { 2 } else { 8 };
        let push = matches!(instruction.mnemonic(), M::Pushf | M::Pushfq);
        self.with_memory(|cpu, memory| {
            let rsp = cpu.gpr[RSP];
            if push {
                let below = rsp.wrapping_sub(size as u64);
                let value = privilege::pushf(cpu);
                memory
                    .write_number(cpu, below, size, value, Access::by_operand(cpu, Intent::Write))
                    .map_err(on_stack)?;
                cpu.gpr[RSP] = below;
            } else {
                let value = memory
                    .read_number(cpu, rsp, size, Access::by_operand(cpu, Intent::Read))
                    .map_err(on_stack)?;
                cpu.gpr[RSP] = rsp.wrapping_add(size as u64);
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
            match control::write_control(self.cpu_mut(), to.number() as u8, value)? {
                ControlWrite::Done(effect) => self.apply(effect),
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
