//! Instructions that 64-bit mode lacks, so that the host cannot carry them out: decimal arithmetic, `bound`, `arpl`, all
//! registers at once, and `salc`, which no manual names and every processor has.

use super::{Done, Then};
use crate::cpu::flags::{AF, ARITHMETIC, CF, OF, PF, SF, ZF};
use crate::cpu::{RAX, RSP};
use crate::events::exception::Exception;
use crate::events::stack::Stack;
use crate::memory::access::Fault;
use crate::memory::walk::Intent;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

impl Vcpu {
    pub(super) fn legacy(&mut self, instruction: &Instruction) -> Done {
        if self.cpu().in_64_bit_mode() {
            return Err(Exception::ud().into());
        }
        match instruction.mnemonic() {
            M::Aaa | M::Aas => self.adjust_ascii(instruction.mnemonic() == M::Aas),
            M::Daa | M::Das => self.adjust_decimal(instruction.mnemonic() == M::Das),
            M::Aam => self.split_decimal(instruction.immediate8())?,
            M::Aad => self.join_decimal(instruction.immediate8()),
            M::Salc => {
                let carry = self.cpu().rflags & CF != 0;
                self.set_register(Register::AL, if carry { 0xff } else { 0 });
            }
            M::Bound => self.bound(instruction)?,
            M::Arpl => self.adjust_privilege(instruction)?,
            M::Pusha | M::Pushad => self.push_all(if instruction.mnemonic() == M::Pusha { 2 } else { 4 })?,
            _ => self.pop_all(if instruction.mnemonic() == M::Popa { 2 } else { 4 })?,
        }
        Ok(Then::Next)
    }

    fn set_arithmetic(&mut self, set: u64) {
        let cpu = self.cpu_mut();
        cpu.rflags = cpu.rflags & !ARITHMETIC | set;
    }

    /// `aaa` and `aas` (SDM vol. 2): one unpacked decimal digit in al, its carry in ah. Flags that the manual leaves undefined
    /// are clear.
    fn adjust_ascii(&mut self, subtract: bool) {
        let (ax, flags) = (self.cpu().gpr[RAX] as u16, self.cpu().rflags);
        let adjust = ax & 0xf > 9 || flags & AF != 0;
        let moved = match (adjust, subtract) {
            (false, _) => ax,
            (true, false) => ax.wrapping_add(0x106),
            (true, true) => ax.wrapping_sub(0x106),
        };
        self.set_register(Register::AX, u64::from(moved & 0xff0f));
        let carries = if adjust { CF | AF } else { 0 };
        self.set_arithmetic(carries | signs(moved as u8 & 0xf));
    }

    /// `daa` and `das` (SDM vol. 2): two packed decimal digits in al.
    fn adjust_decimal(&mut self, subtract: bool) {
        let (old, flags) = (self.cpu().gpr[RAX] as u8, self.cpu().rflags);
        let low = old & 0xf > 9 || flags & AF != 0;
        let high = old > 0x99 || flags & CF != 0;
        let by = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
        let new = if subtract { old.wrapping_sub(by) } else { old.wrapping_add(by) };
        // `das` borrows out of the first step alone as well.
        let carry = high || subtract && low && old < 6;
        self.set_register(Register::AL, new.into());
        self.set_arithmetic(if low { AF } else { 0 } | if carry { CF } else { 0 } | signs(new));
    }

    /// `aam`: al divided by the base, ten unless the instruction says otherwise.
    fn split_decimal(&mut self, base: u8) -> Result<(), Exception> {
        let al = self.cpu().gpr[RAX] as u8;
        let (Some(quotient), Some(rest)) = (al.checked_div(base), al.checked_rem(base)) else {
            return Err(Exception::de());
        };
        self.set_register(Register::AX, u64::from(quotient) << 8 | u64::from(rest));
        self.set_arithmetic(signs(rest));
        Ok(())
    }

    /// `aad`: the reverse.
    fn join_decimal(&mut self, base: u8) {
        let [al, ah] = (self.cpu().gpr[RAX] as u16).to_le_bytes();
        let joined = al.wrapping_add(ah.wrapping_mul(base));
        self.set_register(Register::AX, joined.into());
        self.set_arithmetic(signs(joined));
    }

    /// `bound`: #BR unless the register lies between the two signed numbers in memory, both included.
    fn bound(&mut self, instruction: &Instruction) -> Result<(), Fault> {
        let size = instruction.op0_register().size();
        let address = self.place(instruction, 1, 2 * size, Intent::Read)?;
        let [lower, upper] = self.with_memory(|cpu, memory| -> Result<_, Fault> {
            let access = crate::memory::walk::Access::by_operand(cpu, Intent::Read);
            let lower = memory.read_number(cpu, address, size, access)?;
            Ok([lower, memory.read_number(cpu, address.wrapping_add(size as u64), size, access)?])
        })?;
        let signed = |value: u64| if size == 2 { value as i16 as i32 } else { value as i32 };
        let index = signed(self.register(instruction.op0_register()));
        if (signed(lower)..=signed(upper)).contains(&index) { Ok(()) } else { Err(Exception::br().into()) }
    }

    /// `arpl`: raises a selector's requested privilege level to another's.
    fn adjust_privilege(&mut self, instruction: &Instruction) -> Result<(), Fault> {
        if !self.cpu().protected() {
            return Err(Exception::ud().into());
        }
        let (to, from) =
            (self.operand(instruction, 0, 2)? & 0xffff, self.register(instruction.op1_register()));
        let raise = to & 3 < from & 3;
        if raise {
            let register = instruction.op0_register();
            let value = to & !3 | from & 3;
            if instruction.op0_kind() == OpKind::Register {
                // The operand has 16 bits, whatever the prefix says.
                self.set_register(crate::classify::renumber(Register::AX, register.number() as u8), value);
            } else {
                self.set_operand(instruction, 0, 2, value)?;
            }
        }
        let cpu = self.cpu_mut();
        cpu.rflags = cpu.rflags & !ZF | if raise { ZF } else { 0 };
        Ok(())
    }

    /// `pusha`: eax ecx edx ebx esp ebp esi edi, with esp as it was.
    fn push_all(&mut self, size: usize) -> Result<(), Fault> {
        let mut stack = Stack::current(self.cpu());
        let words: [u64; 8] = std::array::from_fn(|n| self.cpu().gpr[n]);
        // Words before one that faults stay written, as on the host.
        for word in words {
            self.with_memory(|cpu, memory| stack.push(cpu, memory, size, word))?;
        }
        self.cpu_mut().set_stack_pointer(stack.pointer);
        Ok(())
    }

    /// `vzeroupper` and `vzeroall` outside 64-bit mode: the eight registers that there are.
    pub(super) fn clear_vectors(&mut self, all: bool) {
        for vector in &mut self.frame().vectors[..8] {
            vector[if all { 0 } else { 16 }..].fill(0);
        }
    }

    /// `popa`: the reverse, but for esp, which only moves.
    fn pop_all(&mut self, size: usize) -> Result<(), Fault> {
        let mut stack = Stack::current(self.cpu());
        let base = if size == 2 { Register::AX } else { Register::EAX };
        // Registers before a word that faults stay loaded, as on the host.
        for n in (0..8).rev() {
            let value = self.with_memory(|cpu, memory| stack.pop(cpu, memory, size))?;
            if n != RSP {
                self.set_register(base + n as u32, value);
            }
        }
        self.cpu_mut().set_stack_pointer(stack.pointer);
        Ok(())
    }
}

/// SF, ZF and PF of a byte.
fn signs(value: u8) -> u64 {
    let sign = if value & 0x80 != 0 { SF } else { 0 };
    let zero = if value == 0 { ZF } else { 0 };
    let parity = if value.count_ones().is_multiple_of(2) { PF } else { 0 };
    debug_assert_eq!((sign | zero | parity) & (CF | OF | AF), 0);
    sign | zero | parity
}
