//! Memory operands: from a Guest-virtual address to host bytes through the addend table.
//!
//! ```text
//!   lea   s0, [Guest's operand]          the effective address
//!   lea   s1, [s0 + size - 1]            does it cross a page?
//!   xor   s1, s0 ; test s1, 0x1000 ; jnz cold
//!   mov   s1, s0 ; shl s1, 16 ; shr s1, 28      bits 12..47: the page's number
//!   mov   s1, gs:[s1*8]                  the table: host address minus Guest address, or 0
//!   test  s1, s1 ; jz cold
//!   op    [s0 + s1]
//! ```
//! The sign bits above 47 take no part in the index, but they do take part in the sum: an address that is not
//! canonical misses host memory by a multiple of 2^48 and faults, which is the Guest's #GP.

use super::cold::Jumps;
use super::flags::touches_flags;
use super::remembered::Wanted;
use super::{Ask, Cold, Restore, Rewriter};
use crate::assemble::host::{GUEST_RSP, S0, S1};
use crate::assemble::{Mem, Patch, Reg, cond};
use crate::frame::Frame;
use crate::unit::Part;
use iced_x86::{Code, Instruction, Register};
use smallvec::smallvec;
use std::mem::offset_of;

/// An effective address, as far as it is known.
#[derive(Debug, Clone, Copy)]
enum Address {
    /// Known now.
    Constant(u64),
    /// A register that stays as it is, and a displacement.
    Based(Reg, i32),
    /// The stack pointer of 32-bit code and a displacement.
    Stack(i32),
    /// In the first scratch register.
    Computed,
}

impl Rewriter<'_> {
    /// An instruction with one memory operand.
    pub(super) fn memory(&mut self, instruction: &Instruction) {
        let size = operand_size(instruction);
        if size == 0 {
            return self.system(instruction);
        }
        let write = self.writes_memory(instruction);
        let mut place = self.operand_place(instruction, size, write);
        if self.aside && touches_flags(instruction) {
            self.code.lea(true, S0, place);
            self.settle_flags();
            place = Mem::at(S0, 0);
        }
        self.operation(instruction, Some(place));
    }

    /// The host bytes of the memory operand. Flags that are live are set aside; scratch registers are spoilt.
    pub(super) fn operand_place(&mut self, instruction: &Instruction, size: usize, write: bool) -> Mem {
        if let Some(place) = self.operand_together(instruction, size, write) {
            return place;
        }
        self.set_flags_aside();
        let address = self.effective_address(instruction, size);
        self.translate(address, size, write)
    }

    /// `bt [mem], reg` and its family: the register's upper bits choose the word (SDM vol. 2, BT).
    /// The sum wraps where addresses do. What compilers do not write is Rust's: 32-bit addresses in 64-bit code, and segments with
    /// a limit.
    pub(super) fn bit_string(&mut self, instruction: &Instruction) {
        let long = self.key.mode.long();
        let segment = matches!(instruction.memory_segment(), Register::FS | Register::GS);
        if if long { !address_is_wide(instruction) } else { segment } {
            return self.system(instruction);
        }
        let size = operand_size(instruction);
        let write = self.writes_memory(instruction);
        self.set_flags_aside();
        let address = self.effective_address(instruction, size);
        self.in_scratch(address);
        self.bit_register(instruction, S1);
        match size {
            2 => self.code.raw(&[0x4d, 0x0f, 0xbf, 0xdb]), // movsx r11, r11w
            4 => self.code.raw(&[0x4d, 0x63, 0xdb]),       // movsxd r11, r11d
            _ => {}
        }
        let bits = (size * 8).trailing_zeros() as u8;
        self.code.raw(&[0x49, 0xc1, 0xfb, bits]); // sar r11, bits: the word's number
        let words = Mem { base: Some(S0), index: Some((S1, size as u8)), disp: 0 };
        self.code.lea(long, S0, words);
        let place = self.translate(Address::Computed, size, write);
        self.code.lea(true, S0, place);
        self.settle_flags();
        self.bit_string_operation(instruction, Mem::at(S0, 0));
    }

    /// The bit test itself, on the word that `place` (not using the second scratch register) names. The register's
    /// upper bits must not choose again; `and` would spoil ZF, which a bit test keeps, so `pext` takes the low bits.
    pub(super) fn bit_string_operation(&mut self, instruction: &Instruction, place: Mem) {
        let size = operand_size(instruction);
        self.bit_register(instruction, S1);
        let mask = (size * 8 - 1) as u64;
        self.code.store_immediate(Mem::frame(offset_of!(Frame, kept)), mask as i32);
        self.code.pext(S1, S1, Mem::frame(offset_of!(Frame, kept)));
        let mut changed = *instruction;
        let wide = instruction.op1_register();
        changed.set_op1_register(crate::classify::renumber(wide, S1.0));
        self.encode_at(&mut changed, place);
    }

    fn bit_register(&mut self, instruction: &Instruction, to: Reg) {
        let number = instruction.op1_register().full_register().number() as u8;
        match self.home(number) {
            Some(register) => self.code.mov(to, register),
            None => self.code.load(to, Mem::frame(self.frame_place(number))),
        }
    }

    /// Encodes an instruction whose registers are renamed already.
    fn encode_at(&mut self, changed: &mut Instruction, place: Mem) {
        super::operands::point_at(changed, place);
        self.encode(changed);
    }

    /// Leaves the host bytes of the Guest's operand in the place returned; spoils flags and scratch registers.
    fn translate(&mut self, address: Address, size: usize, write: bool) -> Mem {
        let part = Part::Operand { size: size as u16, write };
        let start = match address {
            Address::Based(base, disp) => Some(Mem::at(base, disp)),
            Address::Computed => Some(Mem::at(S0, 0)),
            Address::Stack(_) => {
                self.in_scratch(address);
                Some(Mem::at(S0, 0))
            }
            Address::Constant(_) => None,
        };
        if let Some(start) = start
            && self.remember(&Wanted { start, size, before: 0, part, apart: None }).is_some()
        {
            return Mem { index: Some((S1, 1)), ..start };
        }
        let mut jumps = Jumps::new();
        let place = match address {
            Address::Constant(constant) => {
                self.code.constant(S0, constant);
                if constant % 4096 + size as u64 > 4096 {
                    jumps.push(self.code.jump());
                }
                self.code.constant(S1, constant >> 12 & 0xf_ffff_ffff);
                Mem::sum(S0, S1, 0)
            }
            Address::Based(base, disp) => {
                if disp == 0 {
                    self.code.mov(S0, base);
                } else {
                    self.code.lea(true, S0, Mem::at(base, disp));
                }
                let safe =
                    base == GUEST_RSP && !self.key.mode.ragged_stack && (disp & 7) as usize + size <= 8;
                if !safe {
                    jumps.extend(self.check_crossing(size));
                }
                self.page_number();
                Mem::sum(base, S1, disp)
            }
            Address::Stack(disp) => {
                // A word of an aligned stack does not cross a page. With seven registers, most of a function's values live there.
                if self.key.mode.ragged_stack || (disp & 3) as usize + size > 4 {
                    jumps.extend(self.check_crossing(size));
                }
                self.page_number();
                Mem::sum(S0, S1, 0)
            }
            Address::Computed => {
                jumps.extend(self.check_crossing(size));
                self.page_number();
                Mem::sum(S0, S1, 0)
            }
        };
        self.code.load_table(S1, S1);
        self.code.test(S1);
        jumps.push(self.code.jump_if(cond::Z));
        let ask = self.memory_site(part);
        self.colds.push(Cold { jumps, restore: Restore::Nothing, ask });
        place
    }

    /// Jumps when `size` bytes from the first scratch register on do not lie in one page.
    pub(super) fn check_crossing(&mut self, size: usize) -> Option<Patch> {
        if size == 1 {
            return None;
        }
        self.code.lea(false, S1, Mem::at(S0, size as i32 - 1));
        self.code.raw(&[0x45, 0x31, 0xd3]); // xor r11d, r10d
        self.code.raw(&[0x41, 0xf7, 0xc3, 0x00, 0x10, 0x00, 0x00]); // test r11d, 0x1000
        Some(self.code.jump_if(cond::NZ))
    }

    /// The page number of the first scratch register into the second.
    pub(super) fn page_number(&mut self) {
        self.code.mov(S1, S0);
        self.code.shl(S1, 16);
        self.code.shr(S1, 28);
    }

    fn in_scratch(&mut self, address: Address) {
        match address {
            Address::Constant(constant) => self.code.constant(S0, constant),
            Address::Based(base, disp) => self.code.lea(true, S0, Mem::at(base, disp)),
            Address::Stack(disp) => self.code.lea(false, S0, Mem::at(GUEST_RSP, disp)),
            Address::Computed => {}
        }
    }

    /// The effective address with its segment; may spoil flags and scratch registers.
    fn effective_address(&mut self, instruction: &Instruction, size: usize) -> Address {
        let segment = match instruction.memory_segment() {
            Register::FS => Some(crate::cpu::segments::FS),
            Register::GS => Some(crate::cpu::segments::GS),
            _ => None,
        };
        let wide = address_is_wide(instruction);
        let address = match (instruction.memory_base(), instruction.memory_index()) {
            (Register::RIP | Register::EIP, _) => Address::Constant(instruction.memory_displacement64()),
            (Register::None, Register::None) => Address::Constant(instruction.memory_displacement64()),
            (base, Register::None)
                if wide && segment.is_none() && self.home(base.number() as u8).is_some() =>
            {
                let home = self.home(base.number() as u8).expect("just asked");
                Address::Based(home, instruction.memory_displacement64() as i32)
            }
            (Register::ESP, Register::None) if !self.key.mode.long() && segment.is_none() => {
                Address::Stack(instruction.memory_displacement64() as i32)
            }
            _ => {
                let place = self.effective_address_without_segment(instruction);
                self.code.lea(wide, S0, place);
                Address::Computed
            }
        };
        let Some(segment) = segment else { return address };
        self.in_scratch(address);
        if self.key.mode.long() {
            self.code.add_memory(S0, Mem::frame(segment_base(segment)));
        } else {
            self.based_address(segment, size);
        }
        Address::Computed
    }

    /// The offset in the first scratch register becomes an address in FS or GS of 32-bit code. What the segment may not
    /// allow is left to Rust.
    fn based_address(&mut self, segment: usize, size: usize) {
        let reach = offset_of!(Frame, reach) + 8 * (segment - crate::cpu::segments::FS);
        self.code.lea(true, S1, Mem::at(S0, size as i32 - 1));
        self.code.cmp_memory(S1, Mem::frame(reach));
        let beyond = self.code.jump_if(cond::AE);
        self.code.add_memory(S0, Mem::frame(segment_base(segment)));
        self.code.mov32(S0, S0);
        let site = self.system_site(false);
        let restore = if self.aside { Restore::Flags } else { Restore::Nothing };
        let ask = Ask::Site { thunk: self.thunks.system, site };
        self.colds.push(Cold { jumps: smallvec![beyond], restore, ask });
    }

    /// The operand as a host operand: registers of the frame are brought into scratch registers. Spoils no flag.
    pub(super) fn effective_address_without_segment(&mut self, instruction: &Instruction) -> Mem {
        let displacement = instruction.memory_displacement64();
        if matches!(instruction.memory_base(), Register::RIP | Register::EIP) {
            self.code.constant(S0, displacement);
            return Mem::at(S0, 0);
        }
        let base = self.address_register(instruction.memory_base(), S0);
        let index = self.address_register(instruction.memory_index(), S1);
        let scale = instruction.memory_index_scale() as u8;
        Mem { base, index: index.map(|r| (r, scale)), disp: displacement as i32 }
    }

    pub(super) fn address_register(&mut self, register: Register, scratch: Reg) -> Option<Reg> {
        if register == Register::None {
            return None;
        }
        let number = register.number() as u8;
        Some(self.home(number).unwrap_or_else(|| {
            self.code.load(scratch, Mem::frame(self.frame_place(number)));
            scratch
        }))
    }
}

/// Offset of a segment's base in the frame.
pub fn segment_base(segment: usize) -> usize {
    use crate::cpu::{Cpu, segments::Segment};
    offset_of!(Frame, cpu)
        + offset_of!(Cpu, segments)
        + segment * size_of::<Segment>()
        + offset_of!(Segment, base)
}

/// True when an operand's address has 64 bits.
pub fn address_is_wide(instruction: &Instruction) -> bool {
    address_bits(instruction) == 64
}

/// Bits that the address of an operand has: where it wraps.
pub fn address_bits(instruction: &Instruction) -> u32 {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    // A gather's index is a vector.
    let index = if index.is_gpr() { index.size() } else { 0 };
    match base.size().max(index) {
        0 if instruction.memory_displ_size() == 2 => 16,
        0 if instruction.memory_displ_size() == 4 => 32,
        2 => 16,
        4 => 32,
        _ => 64,
    }
}

/// Bytes the memory operand covers, as the host's processor accesses it; 0 when that depends on state.
pub fn operand_size(instruction: &Instruction) -> usize {
    match instruction.code() {
        // AMD reads a double word here, Intel a word (APM vol. 3, MOVSXD). No compiler writes this form; what matters is that
        // no byte is accessed that was not looked up.
        Code::Movsxd_r16_rm16 => 4,
        _ => instruction.memory_size().size(),
    }
}
