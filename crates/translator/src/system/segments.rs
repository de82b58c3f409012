//! Segments, descriptor tables and transfers of control that change more than `rip`.

use super::{Done, Then};
use crate::cpu::segments::{CS, SS, TableRegister, load_segment};
use crate::cpu::{RSP, descriptors, flags};
use crate::events::deliver::Event;
use crate::events::exception::Exception;
use crate::events::stack::Stack;
use crate::events::{far, iret, syscall};
use crate::memory::access::Fault;
use crate::memory::walk::{Access, Intent, canonical};
use crate::mend::through_stack;
use crate::vcpu::Vcpu;
use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};

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
            M::Sysenter => {
                syscall::sysenter(self.cpu_mut())?;
                return Ok(Then::Moved);
            }
            M::Sysexit | M::Sysexitq => {
                let wide = instruction.mnemonic() == M::Sysexitq;
                syscall::sysexit(self.cpu_mut(), wide)?;
                return Ok(Then::Moved);
            }
            M::Iret | M::Iretd | M::Iretq => {
                let size = match instruction.mnemonic() {
                    M::Iret => 2,
                    M::Iretd => 4,
                    _ => 8,
                };
                self.return_from_handler(size)?;
                return Ok(Then::Moved);
            }
            M::Int | M::Int3 | M::Into => {
                let vector = match instruction.mnemonic() {
                    M::Int3 => 3,
                    M::Into if self.cpu().rflags & flags::OF == 0 => return Ok(Then::Next),
                    M::Into => 4,
                    _ => instruction.immediate8(),
                };
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
            M::Jmp | M::Call => return self.far_transfer(instruction),
            M::Mov | M::Push | M::Pop | M::Lss | M::Lds | M::Les | M::Lfs | M::Lgs => {
                return self.move_segment(instruction);
            }
            M::Enter => return self.enter_frame(instruction),
            M::Leave => {
                self.near(instruction)?;
                return Ok(Then::Moved);
            }
            M::Xlatb => {
                let address = self.place(instruction, 0, 1, Intent::Read)?;
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

    /// `iret`. What the supervisor's loads is kept, for the next one like it to be done in place; not while somebody
    /// stops at an instruction, for then RF in the flags means something.
    fn return_from_handler(&mut self, size: usize) -> Result<(), super::Stop> {
        let supervisor = self.cpu().cpl == 0;
        self.with_memory(|cpu, memory| iret::iret(cpu, memory, size))?;
        if supervisor && size == 8 && self.debug.points.none() {
            let mut returns = self.frame().returns;
            let places = self.with_memory(|cpu, memory| returns.keep(cpu, memory));
            self.frame().returns = returns;
            places.into_iter().flatten().for_each(|place| self.show_to_processor(place));
        }
        Ok(())
    }

    /// Reads an offset of the operand's size and a selector, and goes there.
    fn far_transfer(&mut self, instruction: &Instruction) -> Done {
        let (offset, selector, size) = match instruction.op0_kind() {
            OpKind::FarBranch16 => (instruction.far_branch16().into(), instruction.far_branch_selector(), 2),
            OpKind::FarBranch32 => (instruction.far_branch32().into(), instruction.far_branch_selector(), 4),
            OpKind::Memory => {
                let size = instruction.memory_size().size().saturating_sub(2);
                if !matches!(size, 2 | 4 | 8) {
                    return Err(Exception::ud().into());
                }
                let (offset, selector) = self.far_pointer(instruction, 0, size)?;
                (offset, selector, size)
            }
            _ => return Err(Exception::ud().into()),
        };
        let call = instruction.mnemonic() == M::Call;
        let next = instruction.next_ip();
        self.with_memory(|cpu, memory| -> Done {
            if call {
                far::call(cpu, memory, selector, offset, next, size)?;
            } else {
                far::jump(cpu, memory, selector, offset)?;
            }
            Ok(Then::Moved)
        })
    }

    /// An offset of `size` bytes and the selector behind it.
    fn far_pointer(&mut self, instruction: &Instruction, n: u32, size: usize) -> Result<(u64, u16), Fault> {
        let address = self.place(instruction, n, size + 2, Intent::Read)?;
        self.with_memory(|cpu, memory| {
            let access = Access::by_operand(cpu, Intent::Read);
            let offset = memory.read_number(cpu, address, size, access)?;
            let selector = memory.read_number(cpu, address.wrapping_add(size as u64), 2, access)?;
            Ok((offset, selector as u16))
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
                let (offset, selector) = self.far_pointer(instruction, 1, size)?;
                let segment = match instruction.mnemonic() {
                    M::Lss => Register::SS,
                    M::Lds => Register::DS,
                    M::Les => Register::ES,
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
        self.cpu_mut().segment_loaded(index);
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
        self.push_value(size, value)?;
        Ok(Then::Next)
    }

    fn pop_narrow(&mut self, instruction: &Instruction) -> Done {
        let size = instruction.stack_pointer_increment().unsigned_abs() as usize;
        let before = self.cpu().gpr[RSP];
        let mut stack = Stack::current(self.cpu());
        let value = self.with_memory(|cpu, memory| stack.pop(cpu, memory, size))?;
        let register = instruction.op0_register();
        // An operand relative to rsp counts after the pop (SDM vol. 2, POP).
        self.cpu_mut().set_stack_pointer(stack.pointer);
        let stored = if instruction.op0_kind() == OpKind::Register && register.is_segment_register() {
            self.load(register, value as u16).map_err(Fault::from)
        } else {
            self.set_operand(instruction, 0, size, value)
        };
        if let Err(fault) = stored {
            self.cpu_mut().gpr[RSP] = before;
            return Err(fault.into());
        }
        Ok(Then::Next)
    }

    /// `enter` (SDM vol. 2): the old frame pointer, links to the frames around this one, and room.
    fn enter_frame(&mut self, instruction: &Instruction) -> Done {
        const RBP: usize = 5;
        let (size, register) = match instruction.code() {
            Code::Enterw_imm16_imm8 => (2, Register::BP),
            Code::Enterd_imm16_imm8 => (4, Register::EBP),
            _ => (8, Register::RBP),
        };
        let (room, level) = (u64::from(instruction.immediate16()), instruction.immediate8_2nd() & 31);
        let frame = self.with_memory(|cpu, memory| -> Result<u64, Fault> {
            let mut stack = Stack::current(cpu);
            let mut links = stack.at(cpu.gpr[RBP]);
            stack.push(cpu, memory, size, cpu.gpr[RBP])?;
            let frame = stack.pointer;
            for _ in 1..level {
                links = links.at(links.pointer.wrapping_sub(size as u64));
                let value = { links }.pop(cpu, memory, size)?;
                stack.push(cpu, memory, size, value)?;
            }
            if level > 0 {
                stack.push(cpu, memory, size, frame)?;
            }
            // The new stack's end must be there to be written (SDM vol. 2, ENTER).
            let end = stack.at(stack.pointer.wrapping_sub(room));
            end.probe(cpu, memory, size)?;
            cpu.set_stack_pointer(end.pointer);
            Ok(frame)
        })?;
        self.set_register(register, frame);
        Ok(Then::Next)
    }

    /// `lgdt`, `lidt` and their stores: limit first, then the base.
    fn descriptor_table(&mut self, instruction: &Instruction) -> Result<(), super::Stop> {
        let global = matches!(instruction.mnemonic(), M::Lgdt | M::Sgdt);
        let load = matches!(instruction.mnemonic(), M::Lgdt | M::Lidt);
        // Six bytes outside 64-bit mode; a load with 16-bit operands takes three of the base's four (SDM vol. 2, LGDT).
        let long = self.cpu().in_64_bit_mode();
        let size = if long { 8 } else { 4 };
        let narrow = matches!(instruction.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16);
        let mask = if narrow { 0xff_ffff } else { u64::MAX };
        if load {
            descriptors::privileged(self.cpu())?;
        }
        let intent = if load { Intent::Read } else { Intent::Write };
        let address = self.place(instruction, 0, 2 + size, intent)?;
        self.with_memory(|cpu, memory| -> Result<(), super::Stop> {
            let access = Access::by_operand(cpu, intent);
            if !load {
                let table = if global { cpu.gdtr } else { cpu.idtr };
                memory.probe(cpu, address, 2 + size, access)?;
                memory.write_number(cpu, address, 2, table.limit.into(), access)?;
                return Ok(memory.write_number(cpu, address.wrapping_add(2), size, table.base, access)?);
            }
            let limit = memory.read_number(cpu, address, 2, access)? as u16;
            let base = memory.read_number(cpu, address.wrapping_add(2), size, access)? & mask;
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
        })?;
        self.refresh_returns();
        Ok(())
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

/// An operand's address that is not canonical is the fault of its segment.
pub(crate) fn in_segment(instruction: &Instruction, fault: Fault) -> Fault {
    match fault {
        Fault::Exception(exception) if exception == Exception::gp(0) && through_stack(instruction) => {
            Exception::ss(0).into()
        }
        other => other,
    }
}
