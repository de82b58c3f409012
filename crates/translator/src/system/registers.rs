//! Operands of system instructions, by value, and the instructions that talk to what is around the processor:
//! identification, clocks, model-specific registers, ports, halt.

use super::segments::in_segment;
use super::{Done, Then};
use crate::cpu::control::{xgetbv, xsetbv};
use crate::cpu::descriptors::privileged;
use crate::cpu::msr::{MsrRead, MsrWrite, rdmsr, wrmsr};
use crate::cpu::segments::{FS, GS};
use crate::cpu::{RAX, RCX, RDX, privilege};
use crate::events::exception::Exception;
use crate::exit::Exit;
use crate::memory::access::Fault;
use crate::memory::walk::{Access, Intent, canonical};
use crate::play::Pending;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

/// The host's time-stamp counter.
pub fn host_tsc() -> u64 {
    #[allow(unsafe_code)]
    // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
}

impl Vcpu {
    /// A general register as an instruction names it.
    pub(crate) fn register(&self, register: Register) -> u64 {
        let whole = self.cpu().gpr[register.full_register().number()];
        match register {
            Register::AH | Register::CH | Register::DH | Register::BH => whole >> 8 & 0xff,
            _ => whole & mask(register.size()),
        }
    }

    /// Sets a general register as an instruction names it: narrow writes keep the rest, 32-bit ones clear it.
    pub(crate) fn set_register(&mut self, register: Register, value: u64) {
        let whole = &mut self.cpu_mut().gpr[register.full_register().number()];
        *whole = match register {
            Register::AH | Register::CH | Register::DH | Register::BH => {
                *whole & !0xff00 | (value & 0xff) << 8
            }
            _ if register.size() < 4 => *whole & !mask(register.size()) | value & mask(register.size()),
            _ => value & mask(register.size()),
        };
    }

    /// An operand's value, `size` bytes of it if it is in memory.
    pub(crate) fn operand(&mut self, instruction: &Instruction, n: u32, size: usize) -> Result<u64, Fault> {
        match instruction.op_kind(n) {
            OpKind::Register => Ok(self.register(instruction.op_register(n))),
            OpKind::Memory => {
                let address = self.place(instruction, n, size, Intent::Read)?;
                self.with_memory(|cpu, memory| {
                    memory.read_number(cpu, address, size, Access::by_operand(cpu, Intent::Read))
                })
                .map_err(|fault| in_segment(instruction, fault))
            }
            _ => Ok(instruction.immediate(n)),
        }
    }

    /// Sets an operand, `size` bytes of it if it is in memory.
    pub(crate) fn set_operand(
        &mut self,
        instruction: &Instruction,
        n: u32,
        size: usize,
        value: u64,
    ) -> Result<(), Fault> {
        if instruction.op_kind(n) == OpKind::Register {
            self.set_register(instruction.op_register(n), value);
            return Ok(());
        }
        let address = self.place(instruction, n, size, Intent::Write)?;
        self.with_memory(|cpu, memory| {
            memory.write_number(cpu, address, size, value, Access::by_operand(cpu, Intent::Write))
        })
        .map_err(|fault| in_segment(instruction, fault))
    }

    fn set_pair(&mut self, value: u64) {
        self.cpu_mut().gpr[RAX] = value & 0xffff_ffff;
        self.cpu_mut().gpr[RDX] = value >> 32;
    }

    fn pair(&self) -> u64 {
        self.cpu().gpr[RAX] & 0xffff_ffff | self.cpu().gpr[RDX] << 32
    }

    /// Instructions that ask or tell the world around the processor.
    pub(super) fn outward(&mut self, instruction: &Instruction) -> Done {
        let next = instruction.next_ip();
        match instruction.mnemonic() {
            M::Cpuid => {
                let (leaf, subleaf) = (self.cpu().gpr[RAX] as u32, self.cpu().gpr[RCX] as u32);
                let [a, b, c, d] = self.cpuid.answer(self.cpu(), leaf, subleaf);
                const RBX: usize = 3;
                let gpr = &mut self.cpu_mut().gpr;
                (gpr[RAX], gpr[RBX], gpr[RCX], gpr[RDX]) = (a.into(), b.into(), c.into(), d.into());
            }
            M::Rdtsc | M::Rdtscp => {
                privilege::rdtsc(self.cpu())?;
                let now = host_tsc().wrapping_add(self.cpu().tsc_offset);
                self.set_pair(now);
                if instruction.mnemonic() == M::Rdtscp {
                    self.cpu_mut().gpr[RCX] = self.cpu().tsc_aux & 0xffff_ffff;
                }
            }
            M::Rdpid => {
                let aux = self.cpu().tsc_aux;
                self.set_register(instruction.op0_register(), aux);
            }
            M::Rdpmc => self.set_register(Register::RAX, privilege::rdpmc()?),
            M::Xgetbv => {
                let value = xgetbv(self.cpu(), self.cpu().gpr[RCX] as u32)?;
                self.set_pair(value);
            }
            M::Xsetbv => {
                let (number, value) = (self.cpu().gpr[RCX] as u32, self.pair());
                let effect = xsetbv(self.cpu_mut(), number, value)?;
                self.apply(effect);
            }
            M::Rdmsr => return self.read_msr(next),
            M::Wrmsr => return self.write_msr(next),
            M::In | M::Out => return self.port(instruction),
            M::Hlt => {
                privileged(self.cpu())?;
                self.cpu_mut().rip = next;
                return Err(Exit::Halt.into());
            }
            M::Vmcall | M::Vmmcall => {
                let cpu = self.cpu();
                if cpu.hosted.is_some() && (cpu.cpl == 3 || instruction.mnemonic() == M::Vmmcall) {
                    return Err(Exception::ud().into());
                }
                self.cpu_mut().rip = next;
                return Err(Exit::Hypercall.into());
            }
            _ => self.segment_base(instruction)?,
        }
        Ok(Then::Next)
    }

    /// `rdfsbase` and its three siblings.
    fn segment_base(&mut self, instruction: &Instruction) -> Result<(), Exception> {
        privilege::fsgsbase(self.cpu())?;
        let register = instruction.op0_register();
        let (segment, write) = match instruction.mnemonic() {
            M::Rdfsbase => (FS, false),
            M::Rdgsbase => (GS, false),
            M::Wrfsbase => (FS, true),
            _ => (GS, true),
        };
        if !write {
            let base = self.cpu().segments[segment].base;
            self.set_register(register, base);
            return Ok(());
        }
        let base = self.register(register);
        if !canonical(base) {
            return Err(Exception::gp(0));
        }
        self.cpu_mut().segments[segment].base = base;
        Ok(())
    }

    fn read_msr(&mut self, next: u64) -> Done {
        let index = self.cpu().gpr[RCX] as u32;
        match rdmsr(self.cpu(), index, host_tsc())? {
            MsrRead::Value(value) => {
                self.set_pair(value);
                Ok(Then::Next)
            }
            MsrRead::Elsewhere => {
                self.pending = Some(Pending::Pair { next });
                Err(Exit::ReadMsr { index }.into())
            }
        }
    }

    fn write_msr(&mut self, next: u64) -> Done {
        let (index, value) = (self.cpu().gpr[RCX] as u32, self.pair());
        match wrmsr(self.cpu_mut(), index, value, host_tsc())? {
            MsrWrite::Done(effect) => {
                self.apply(effect);
                self.refresh_calls();
                Ok(Then::Next)
            }
            MsrWrite::Elsewhere => {
                self.pending = Some(Pending::Nothing { next });
                Err(Exit::WriteMsr { index, value }.into())
            }
        }
    }

    /// `in` and `out` of one element.
    fn port(&mut self, instruction: &Instruction) -> Done {
        let next = instruction.next_ip();
        let input = instruction.mnemonic() == M::In;
        let (data, number) = if input { (0, 1) } else { (1, 0) };
        let size = instruction.op_register(data).size() as u8;
        let port = self.operand(instruction, number, 2)? as u16;
        self.check_port(port, size)?;
        self.touch_port(port, size);
        if input {
            self.pending = Some(Pending::Accumulator { size, next });
            return Err(Exit::PortIn { port, size }.into());
        }
        let value = self.register(instruction.op_register(data)) as u32;
        self.cpu_mut().rip = next;
        Err(Exit::PortOut { port, size, value }.into())
    }

    /// Whether the Guest's program may use a port.
    pub(super) fn check_port(&mut self, port: u16, size: u8) -> Result<(), Exception> {
        self.with_memory(|cpu, memory| privilege::port(cpu, memory, port, size))
    }
}

fn mask(size: usize) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}
