//! Segments, descriptor tables and transfers of control that change more than `rip`.

use super::{Done, Then};
use crate::cpu::segments::{CS, SS, TableRegister, load_segment};
use crate::cpu::{RSP, descriptors, flags};
use crate::events::deliver::Event;
use crate::events::exception::Exception;
use crate::events::{far, iret, syscall};
use crate::memory::access::{Fault, GuestMemory};
use crate::memory::walk::{Access, Intent, canonical};
use crate::mend::through_stack;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

impl Vcpu {
    pub(super) fn segment_or_transfer(&mut self, instruction: &Instruction) -> Done {
        let next = instruction.next_ip();
        match instruction.mnemonic() {
            M::Swapgs => syscall::swapgs(self.cpu_mut())?,
            M::Syscall => {
                syscall::syscall(self.cpu_mut(), next)?;
                return Ok(Then::Moved);
            }
            M::Sysret | M::Sysretq => {
                let wide = instruction.mnemonic() == M::Sysretq;
                syscall::sysret(self.cpu_mut(), wide)?;
                self.sysret_traps();
                return Ok(Then::Moved);
            }
            M::Iret | M::Iretd | M::Iretq => {
                let size = match instruction.mnemonic() {
                    M::Iret => 2,
                    M::Iretd => 4,
                    _ => 8,
                };
                self.with_memory(|cpu, memory| iret::iret(cpu, memory, size))?;
                return Ok(Then::Moved);
            }
            M::Int | M::Int3 => {
                let vector = if instruction.mnemonic() == M::Int3 { 3 } else { instruction.immediate8() };
                self.deliver(Event::Software { vector, next_rip: next })?;
                return Ok(Then::Moved);
            }
            M::Int1 => {
                self.cpu_mut().rip = next;
                return Err(Exception::db().into());
            }
            M::Retf => {
                let size = far_return_size(instruction);
                let release = if instruction.op_count() == 1 { instruction.immediate16() } else { 0 };
                self.with_memory(|cpu, memory| far::ret(cpu, memory, size, release))?;
                return Ok(Then::Moved);
            }
            M::Ret => {
                // `ret n` with a ragged n: the ordinary path assumes an aligned stack pointer.
                self.play(instruction)?;
                return Ok(Then::Moved);
            }
            M::Jmp | M::Call => return self.far_transfer(instruction),
            M::Mov | M::Push | M::Pop | M::Lss | M::Lfs | M::Lgs => return self.move_segment(instruction),
            M::Enter | M::Leave => return self.frames_on_stack(instruction),
            M::Xlatb => {
                let address = self.address_of(instruction, 0).unwrap_or(0);
                let byte = self.with_memory(|cpu, memory| {
                    memory.read_number(cpu, address, 1, Access::by_operand(cpu, Intent::Read))
                })?;
                self.set_register(Register::AL, byte);
            }
            M::Lgdt | M::Lidt | M::Sgdt | M::Sidt => self.descriptor_table(instruction)?,
            _ => return self.descriptor_query(instruction),
        }
        Ok(Then::Next)
    }

    /// Reads an offset of the operand's size and a selector, and goes there.
    fn far_transfer(&mut self, instruction: &Instruction) -> Done {
        let size = instruction.memory_size().size().saturating_sub(2);
        if instruction.op0_kind() != OpKind::Memory || !matches!(size, 2 | 4 | 8) {
            return Err(Exception::ud().into());
        }
        let address = self.address_of(instruction, 0).unwrap_or(0);
        let call = instruction.mnemonic() == M::Call;
        let next = instruction.next_ip();
        self.with_memory(|cpu, memory| -> Done {
            let access = Access::by_operand(cpu, Intent::Read);
            let offset = memory.read_number(cpu, address, size, access)?;
            let selector = memory.read_number(cpu, address.wrapping_add(size as u64), 2, access)? as u16;
            if call {
                far::call(cpu, memory, selector, offset, next, size)?;
            } else {
                far::jump(cpu, memory, selector, offset)?;
            }
            Ok(Then::Moved)
        })
    }

    fn move_segment(&mut self, instruction: &Instruction) -> Done {
        let to = instruction.op0_register();
        match instruction.mnemonic() {
            M::Mov if instruction.op0_kind() == OpKind::Register && to.is_segment_register() => {
                let selector = self.operand(instruction, 1, 2)? as u16;
                self.load(to, selector)?;
            }
            M::Mov => {
                let selector = self.cpu().segments[instruction.op1_register().number()].selector;
                self.set_operand(instruction, 0, 2, selector.into())?;
            }
            M::Push => return self.push_narrow(instruction),
            M::Pop => return self.pop_narrow(instruction),
            _ => {
                let size = instruction.memory_size().size().saturating_sub(2);
                let address = self.address_of(instruction, 1).unwrap_or(0);
                let (offset, selector) = self.with_memory(|cpu, memory| -> Result<(u64, u16), Fault> {
                    let access = Access::by_operand(cpu, Intent::Read);
                    let offset = memory.read_number(cpu, address, size, access)?;
                    Ok((
                        offset,
                        memory.read_number(cpu, address.wrapping_add(size as u64), 2, access)? as u16,
                    ))
                })?;
                let segment = match instruction.mnemonic() {
                    M::Lss => Register::SS,
                    M::Lfs => Register::FS,
                    _ => Register::GS,
                };
                self.load(segment, selector)?;
                self.set_register(to, offset);
            }
        }
        Ok(Then::Next)
    }

    fn load(&mut self, segment: Register, selector: u16) -> Result<(), Exception> {
        let index = segment.number();
        if index == CS {
            return Err(Exception::ud());
        }
        self.with_memory(|cpu, memory| load_segment(cpu, memory, index, selector))?;
        self.cpu_mut().interrupt_shadow |= index == SS;
        Ok(())
    }

    /// `push` of a segment register or of 16 bits, and what else has no fast path.
    fn push_narrow(&mut self, instruction: &Instruction) -> Done {
        let size = instruction.stack_pointer_increment().unsigned_abs() as usize;
        let value = match instruction.op0_kind() {
            OpKind::Register if instruction.op0_register().is_segment_register() => {
                self.cpu().segments[instruction.op0_register().number()].selector.into()
            }
            _ => self.operand(instruction, 0, size)?,
        };
        self.with_memory(|cpu, memory| write_below(cpu, memory, size, value)).map_err(on_stack)?;
        Ok(Then::Next)
    }

    fn pop_narrow(&mut self, instruction: &Instruction) -> Done {
        let size = instruction.stack_pointer_increment().unsigned_abs() as usize;
        let rsp = self.cpu().gpr[RSP];
        let value = self.stack_number(rsp, size)?;
        let register = instruction.op0_register();
        // An operand relative to rsp counts after the pop (SDM vol. 2, POP).
        self.cpu_mut().gpr[RSP] = rsp.wrapping_add(size as u64);
        let stored = if instruction.op0_kind() == OpKind::Register && register.is_segment_register() {
            self.load(register, value as u16).map_err(Fault::from)
        } else {
            self.set_operand(instruction, 0, size, value)
        };
        if let Err(fault) = stored {
            self.cpu_mut().gpr[RSP] = rsp;
            return Err(fault.into());
        }
        Ok(Then::Next)
    }

    /// Reads `size` bytes of the stack.
    fn stack_number(&mut self, address: u64, size: usize) -> Result<u64, Fault> {
        let access = Access::by_operand(self.cpu(), Intent::Read);
        self.with_memory(|cpu, memory| memory.read_number(cpu, address, size, access)).map_err(on_stack)
    }

    /// `enter`, and `leave` with an operand-size prefix.
    fn frames_on_stack(&mut self, instruction: &Instruction) -> Done {
        const RBP: usize = 5;
        if instruction.mnemonic() == M::Leave {
            let frame = self.cpu().gpr[RBP];
            let value = self.stack_number(frame, 2)?;
            self.cpu_mut().gpr[RSP] = frame.wrapping_add(2);
            self.set_register(Register::BP, value);
            return Ok(Then::Next);
        }
        let size: usize = if instruction.code() == iced_x86::Code::Enterw_imm16_imm8 { 2 } else { 8 };
        let (room, level) = (u64::from(instruction.immediate16()), instruction.immediate8_2nd() & 31);
        let before = (self.cpu().gpr[RSP], self.cpu().gpr[RBP]);
        let done = self.with_memory(|cpu, memory| -> Result<(), Fault> {
            write_below(cpu, memory, size, cpu.gpr[RBP])?;
            let frame = cpu.gpr[RSP];
            for n in 1..level {
                let link = before.1.wrapping_sub(size as u64 * u64::from(n));
                let value = memory.read_number(cpu, link, size, Access::by_operand(cpu, Intent::Read))?;
                write_below(cpu, memory, size, value)?;
            }
            if level > 0 {
                write_below(cpu, memory, size, frame)?;
            }
            // The new stack's end must be there to be written (SDM vol. 2, ENTER).
            let end = cpu.gpr[RSP].wrapping_sub(room);
            memory.probe(cpu, end, size, Access::by_operand(cpu, Intent::Write))?;
            let mask = if size == 2 { 0xffff } else { u64::MAX };
            cpu.gpr[RBP] = before.1 & !mask | frame & mask;
            cpu.gpr[RSP] = end;
            Ok(())
        });
        if let Err(fault) = done {
            self.cpu_mut().gpr[RSP] = before.0;
            return Err(on_stack(fault).into());
        }
        Ok(Then::Next)
    }

    /// `lgdt`, `lidt` and their stores: ten bytes, limit first.
    fn descriptor_table(&mut self, instruction: &Instruction) -> Result<(), super::Stop> {
        let address = self.address_of(instruction, 0).unwrap_or(0);
        let global = matches!(instruction.mnemonic(), M::Lgdt | M::Sgdt);
        let load = matches!(instruction.mnemonic(), M::Lgdt | M::Lidt);
        self.with_memory(|cpu, memory| {
            if !load {
                let table = if global { cpu.gdtr } else { cpu.idtr };
                let access = Access::by_operand(cpu, Intent::Write);
                memory.probe(cpu, address, 10, access)?;
                memory.write_number(cpu, address, 2, table.limit.into(), access)?;
                return Ok(memory.write_number(cpu, address.wrapping_add(2), 8, table.base, access)?);
            }
            descriptors::privileged(cpu)?;
            let access = Access::by_operand(cpu, Intent::Read);
            let limit = memory.read_number(cpu, address, 2, access)? as u16;
            let base = memory.read_number(cpu, address.wrapping_add(2), 8, access)?;
            if !canonical(base) {
                return Err(Exception::gp(0).into());
            }
            let table = TableRegister { base, limit };
            if global {
                cpu.gdtr = table
            } else {
                cpu.idtr = table
            }
            Ok(())
        })
    }

    fn descriptor_query(&mut self, instruction: &Instruction) -> Done {
        match instruction.mnemonic() {
            M::Sldt | M::Str => {
                let cpu = self.cpu();
                let selector =
                    if instruction.mnemonic() == M::Sldt { cpu.ldtr.selector } else { cpu.tr.selector };
                self.set_operand(instruction, 0, 2, selector.into())?;
            }
            M::Lldt | M::Ltr => {
                descriptors::privileged(self.cpu())?;
                let selector = self.operand(instruction, 0, 2)? as u16;
                let local = instruction.mnemonic() == M::Lldt;
                self.with_memory(|cpu, memory| {
                    if local {
                        descriptors::lldt(cpu, memory, selector)
                    } else {
                        descriptors::ltr(cpu, memory, selector)
                    }
                })?;
            }
            M::Lar | M::Lsl => {
                let selector = self.operand(instruction, 1, 2)? as u16;
                let rights = instruction.mnemonic() == M::Lar;
                let found = self.with_memory(|cpu, memory| {
                    if rights {
                        descriptors::lar(cpu, memory, selector)
                    } else {
                        descriptors::lsl(cpu, memory, selector)
                    }
                })?;
                if let Some(value) = found {
                    self.set_register(instruction.op0_register(), value.into());
                }
                self.set_flags(flags::ZF, found.is_some());
            }
            M::Verr | M::Verw => {
                let selector = self.operand(instruction, 0, 2)? as u16;
                let read = instruction.mnemonic() == M::Verr;
                let yes = self.with_memory(|cpu, memory| {
                    if read {
                        descriptors::verr(cpu, memory, selector)
                    } else {
                        descriptors::verw(cpu, memory, selector)
                    }
                })?;
                self.set_flags(flags::ZF, yes);
            }
            _ => return Err(Exception::ud().into()),
        }
        Ok(Then::Next)
    }
}

fn far_return_size(instruction: &Instruction) -> usize {
    use iced_x86::Code as C;
    match instruction.code() {
        C::Retfw | C::Retfw_imm16 => 2,
        C::Retfd | C::Retfd_imm16 => 4,
        _ => 8,
    }
}

/// Pushes `size` bytes.
fn write_below(
    cpu: &mut crate::cpu::Cpu,
    memory: &mut GuestMemory,
    size: usize,
    value: u64,
) -> Result<(), Fault> {
    let below = cpu.gpr[RSP].wrapping_sub(size as u64);
    memory.write_number(cpu, below, size, value, Access::by_operand(cpu, Intent::Write))?;
    cpu.gpr[RSP] = below;
    Ok(())
}

/// An operand's address that is not canonical is the fault of its segment.
pub(crate) fn in_segment(instruction: &Instruction, fault: Fault) -> Fault {
    if through_stack(instruction) { on_stack(fault) } else { fault }
}

/// An address that is not canonical is the stack segment's fault.
pub(crate) fn on_stack(fault: Fault) -> Fault {
    match fault {
        Fault::Exception(exception) if exception == Exception::gp(0) => Fault::Exception(Exception::ss(0)),
        other => other,
    }
}
