//! Operands: which host register holds which Guest register, and what happens to the three that have none.

use super::{Rewriter, Tools};
use crate::assemble::host::{FRAME, GUEST_RSP, S0, S1};
use crate::assemble::{Mem, Reg};
use crate::classify::renumber;
use crate::cpu::RSP;
use crate::frame::Frame;
use crate::swaps::Whereabouts;
use crate::unit::Lent;
use iced_x86::{Instruction, InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register};
use smallvec::{SmallVec, smallvec};
use std::mem::offset_of;

/// As many as an instruction has register operands.
type Few<T> = SmallVec<[T; 4]>;

/// The host register a Guest register usually lives in; `None` for those that live in the frame.
fn usual_home(guest: u8) -> Option<Reg> {
    match guest {
        4 => Some(GUEST_RSP),
        9..=11 => None,
        _ => Some(Reg(guest)),
    }
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// True when an instruction may leave the stack pointer off a multiple of a stack word, given that it was on one.
pub fn may_misalign_stack(tools: &mut Tools, instruction: &Instruction, word: usize) -> bool {
    let stack = |n| {
        instruction.op_kind(n) == OpKind::Register
            && instruction.op_register(n).is_gpr()
            && !is_high_byte(instruction.op_register(n))
            && instruction.op_register(n).full_register().number() == RSP
    };
    let Some(operand) = (0..instruction.op_count()).find(|&n| stack(n)) else { return false };
    let whole = instruction.op_register(operand).size() == word;
    let odd = |value: u64| value & (word as u64 - 1) != 0;
    match instruction.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Test => false,
        Mnemonic::Add | Mnemonic::Sub if whole && operand == 0 && has_immediate(instruction) => {
            odd(instruction.immediate(1))
        }
        Mnemonic::And if whole && operand == 0 && has_immediate(instruction) => false,
        Mnemonic::Lea
            if whole
                && matches!(instruction.memory_base(), Register::RSP | Register::ESP)
                && instruction.memory_index() == Register::None =>
        {
            odd(instruction.memory_displacement64())
        }
        _ => {
            let options = InstructionInfoOptions::NO_MEMORY_USAGE | InstructionInfoOptions::NO_REGISTER_USAGE;
            let info = tools.info.info_options(instruction, options);
            (0..instruction.op_count()).any(|n| stack(n) && writes(info.op_access(n)))
        }
    }
}

fn has_immediate(instruction: &Instruction) -> bool {
    matches!(
        instruction.op_kind(1),
        OpKind::Immediate8to64 | OpKind::Immediate32to64 | OpKind::Immediate8to32 | OpKind::Immediate32
    )
}

fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// True when an instruction may write its memory operand.
pub fn writes_memory(tools: &mut Tools, instruction: &Instruction) -> bool {
    let options = InstructionInfoOptions::NO_MEMORY_USAGE | InstructionInfoOptions::NO_REGISTER_USAGE;
    let info = tools.info.info_options(instruction, options);
    (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory && writes(info.op_access(n)))
}

/// The stand-in for one Guest register of the frame during one instruction.
struct StandIn {
    guest: u8,
    host: Reg,
    written: bool,
}

impl Rewriter<'_> {
    /// The host register that holds a Guest register here; `None` if it is in the frame.
    pub(super) fn home(&self, guest: u8) -> Option<Reg> {
        match self.swaps.find(guest) {
            Whereabouts::Usual => usual_home(guest),
            Whereabouts::Host(host) => Some(Reg(host)),
            Whereabouts::Out(_) => None,
        }
    }

    /// The place in the frame of a Guest register without a home.
    pub(super) fn frame_place(&self, guest: u8) -> usize {
        match self.swaps.find(guest) {
            Whereabouts::Out(place) => offset_of!(Frame, swapped) + 8 * place,
            _ => Frame::gpr(guest.into()),
        }
    }

    /// Lets registers change places: the way into a unit.
    pub(super) fn swap(&mut self) {
        for (guest, host) in self.swaps.pairs() {
            let (out, host) = (Mem::frame(self.frame_place(host as u8)), Reg(host as u8));
            self.code.store(out, host);
            self.code.load(host, Mem::frame(Frame::gpr(guest)));
        }
    }

    /// And back: every way out.
    pub(super) fn swap_back(&mut self) {
        for (guest, host) in self.swaps.pairs() {
            let (out, host) = (Mem::frame(self.frame_place(host as u8)), Reg(host as u8));
            self.code.store(Mem::frame(Frame::gpr(guest)), host);
            self.code.load(host, out);
        }
    }

    /// True when a register operand is not where the Guest's encoding says.
    fn moved(&self, register: Register) -> bool {
        let number = register.full_register().number() as u8;
        register.is_gpr() && !is_high_byte(register) && self.home(number) != Some(Reg(number))
    }

    /// True when an instruction without memory operand must be encoded anew.
    pub(super) fn renamed(&self, instruction: &Instruction) -> bool {
        (0..instruction.op_count())
            .any(|n| instruction.op_kind(n) == OpKind::Register && self.moved(instruction.op_register(n)))
    }

    /// Encodes `instruction` with its registers renamed and its memory operand at `memory`, which may use both scratch
    /// registers. Registers of the frame are brought into scratch registers, or into a borrowed one when the scratch
    /// registers do not suffice.
    pub(super) fn operation(&mut self, instruction: &Instruction, memory: Option<Mem>) {
        if memory.is_none() && uses_high_byte(instruction) && names(instruction, RSP) {
            return self.operation_on_low_stack_pointer(instruction);
        }
        let mut changed = super::legacy::modern(instruction);
        let mut memory = memory;
        let mut free: Few<Reg> = smallvec![S1, S0];
        if let Some(place) = memory {
            free.retain(|&mut r| place.base != Some(r) && place.index.is_none_or(|(i, _)| i != r));
        }
        let guests = self.frame_registers(instruction);
        if guests.len() > free.len()
            && let Some(place) = memory
            && place.index.is_some()
        {
            // Fold the sum into one scratch register, which frees the other.
            self.code.lea(true, S0, place);
            memory = Some(Mem::at(S0, 0));
            free = smallvec![S1];
        }
        let mut lent = Few::new();
        if guests.len() > free.len() {
            let borrowed = self.borrowable(instruction);
            self.lend(borrowed);
            lent.push(borrowed);
            free.push(borrowed);
        }
        if let Some(place) = memory
            && uses_high_byte(instruction)
        {
            // ah..bh cannot be encoded beside r8..r15: the address moves to a borrowed low register.
            let low = self.borrowable_low(instruction);
            self.lend(low);
            lent.push(low);
            self.code.lea(true, low, place);
            memory = Some(Mem::at(low, 0));
        }
        let stand_ins = self.bring_in(instruction, &guests, &free);
        self.rename(&mut changed, &stand_ins);
        if let Some(place) = memory {
            point_at(&mut changed, place);
        }
        self.note_flags();
        self.encode(&changed);
        for stand_in in &stand_ins {
            if stand_in.written {
                let place = self.frame_place(stand_in.guest);
                self.code.store(Mem::frame(place), stand_in.host);
            }
        }
        for register in lent {
            self.code.load(register, Mem::frame(offset_of!(Frame, borrowed)));
        }
    }

    /// ah..bh into the stack pointer (`movsx esp, dh`): its home needs a prefix that ah..bh forbid, so a low register
    /// plays its part.
    fn operation_on_low_stack_pointer(&mut self, instruction: &Instruction) {
        let low = self.borrowable_low(instruction);
        self.lend(low);
        self.code.mov(low, GUEST_RSP);
        let mut changed = super::legacy::modern(instruction);
        self.rename(&mut changed, &[StandIn { guest: RSP as u8, host: low, written: true }]);
        self.encode(&changed);
        self.code.mov(GUEST_RSP, low);
        self.code.load(low, Mem::frame(offset_of!(Frame, borrowed)));
    }

    /// Keeps a Guest register in the frame while the instruction runs; a fault's handler finds it there.
    fn lend(&mut self, register: Reg) {
        self.code.store(Mem::frame(offset_of!(Frame, borrowed)), register);
        if let Some(mark) = self.marks.last_mut() {
            mark.lent = Lent::Register(register.0);
        }
    }

    fn bring_in(&mut self, instruction: &Instruction, guests: &[u8], free: &[Reg]) -> Few<StandIn> {
        if guests.is_empty() {
            return Few::new();
        }
        let options = InstructionInfoOptions::NO_MEMORY_USAGE | InstructionInfoOptions::NO_REGISTER_USAGE;
        let places: Few<usize> = guests.iter().map(|&guest| self.frame_place(guest)).collect();
        let info = self.tools.info.info_options(instruction, options);
        let mut result = Few::new();
        for ((&guest, &host), place) in guests.iter().zip(free).zip(places) {
            let (mut read, mut written) = (false, false);
            for n in 0..instruction.op_count() {
                let register = instruction.op_register(n);
                if instruction.op_kind(n) != OpKind::Register
                    || !register.is_gpr()
                    || register.full_register().number() != guest.into()
                {
                    continue;
                }
                let access = info.op_access(n);
                written |= writes(access);
                // A narrow or conditional write keeps the rest of the register.
                read |= access != OpAccess::Write || register.size() < 4;
            }
            if read {
                self.code.load(host, Mem::frame(place));
            }
            result.push(StandIn { guest, host, written });
        }
        result
    }

    /// The frame's registers among the register operands, each once.
    fn frame_registers(&self, instruction: &Instruction) -> Few<u8> {
        let mut result = Few::new();
        for n in 0..instruction.op_count() {
            let register = instruction.op_register(n);
            if instruction.op_kind(n) == OpKind::Register && register.is_gpr() {
                let number = register.full_register().number() as u8;
                if self.home(number).is_none() && !result.contains(&number) {
                    result.push(number);
                }
            }
        }
        result
    }

    /// True when an operand is in this host register.
    fn names_host(&self, instruction: &Instruction, host: Reg) -> bool {
        (0..instruction.op_count()).any(|n| {
            let register = instruction.op_register(n);
            instruction.op_kind(n) == OpKind::Register
                && register.is_gpr()
                && (is_high_byte(register) && register.full_register().number() == host.0.into()
                    || self.home(register.full_register().number() as u8) == Some(host))
        })
    }

    /// A register that the instruction neither names nor uses without naming it: no instruction uses r12 to r15 so.
    fn borrowable(&self, instruction: &Instruction) -> Reg {
        (12..16)
            .map(Reg)
            .find(|&r| !self.names_host(instruction, r))
            .expect("three operands leave one of four registers")
    }

    /// The same among registers that need no prefix. rbp, rsi and rdi are implicit only in string and frame instructions.
    fn borrowable_low(&self, instruction: &Instruction) -> Reg {
        [7, 6, 5]
            .map(Reg)
            .into_iter()
            .find(|&r| !self.names_host(instruction, r))
            .expect("one operand is a high byte")
    }

    /// Renames register operands to where their values are.
    fn rename(&self, changed: &mut Instruction, stand_ins: &[StandIn]) {
        for n in 0..changed.op_count() {
            let register = changed.op_register(n);
            if changed.op_kind(n) != OpKind::Register || !self.moved(register) {
                continue;
            }
            let guest = register.full_register().number() as u8;
            let host = stand_ins.iter().find(|s| s.guest == guest).map(|s| s.host).or(self.home(guest));
            let host = host.expect("every register of the frame has a stand-in");
            changed.set_op_register(n, renumber(register, host.0));
        }
    }

    /// Encodes a changed instruction here. One that has no encoding any more is left to Rust: see `instruction`.
    pub(super) fn encode(&mut self, instruction: &Instruction) {
        let encoder = &mut self.tools.encoder;
        encoder.set_buffer(std::mem::take(&mut self.code.bytes));
        let done = encoder.encode(instruction, 0);
        self.code.bytes = encoder.take_buffer();
        self.failed |= done.is_err();
    }
}

fn uses_high_byte(instruction: &Instruction) -> bool {
    (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && is_high_byte(instruction.op_register(n)))
}

fn names(instruction: &Instruction, number: usize) -> bool {
    (0..instruction.op_count()).any(|n| {
        instruction.op_kind(n) == OpKind::Register
            && instruction.op_register(n).is_gpr()
            && instruction.op_register(n).full_register().number() == number
    })
}

/// Replaces the memory operand by one that is relative to host registers.
pub(super) fn point_at(changed: &mut Instruction, place: Mem) {
    let wide = |r: Reg| Register::RAX + u32::from(r.0);
    use iced_x86::Code as C;
    // The forms with a bare 64-bit address have twins with an ordinary operand.
    let twin = match changed.code() {
        C::Mov_AL_moffs8 => Some(C::Mov_r8_rm8),
        C::Mov_AX_moffs16 => Some(C::Mov_r16_rm16),
        C::Mov_EAX_moffs32 => Some(C::Mov_r32_rm32),
        C::Mov_RAX_moffs64 => Some(C::Mov_r64_rm64),
        C::Mov_moffs8_AL => Some(C::Mov_rm8_r8),
        C::Mov_moffs16_AX => Some(C::Mov_rm16_r16),
        C::Mov_moffs32_EAX => Some(C::Mov_rm32_r32),
        C::Mov_moffs64_RAX => Some(C::Mov_rm64_r64),
        _ => None,
    };
    if let Some(code) = twin {
        changed.set_code(code);
    }
    debug_assert_ne!(place.base, Some(FRAME));
    changed.set_segment_prefix(Register::None);
    changed.set_memory_base(place.base.map_or(Register::None, wide));
    changed.set_memory_index(place.index.map_or(Register::None, |(r, _)| wide(r)));
    changed.set_memory_index_scale(place.index.map_or(1, |(_, s)| s.into()));
    changed.set_memory_displacement64(place.disp as i64 as u64);
    let short = i8::try_from(place.disp).is_ok();
    changed.set_memory_displ_size(if place.disp == 0 {
        0
    } else if short {
        1
    } else {
        8
    });
}
