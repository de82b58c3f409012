//! Pushes and pops. An aligned stack access cannot cross a page, so it needs the table only.
//!
//! With dead flags, as for memory operands:
//! ```text
//!   lea s0, [r9 - 8] ; pext s1, s0, [mask] ; mov s1, gs:[s1*8] ; test s1, s1 ; jz cold ; mov [r9 + s1 - 8], value
//! ```
//! With live flags (a call or return passes them on, for all we know) nothing may be tested, so rcx, the one
//! register that a jump tests without flags, steps in:
//! ```text
//!   pext s1, s0, [mask] ; mov s0, rcx ; mov rcx, gs:[s1*8] ; jrcxz cold ; mov s1, rcx ; mov rcx, s0 ; ...
//! ```

use super::cold::Jumps;
use super::{Cold, Restore, Rewriter};
use crate::assemble::host::{GUEST_RSP, RCX, S0, S1};
use crate::assemble::{Mem, Patch, Reg, cond};
use crate::frame::Frame;
use crate::rewrite::operands::home;
use crate::unit::Part;
use iced_x86::{Instruction, Mnemonic, OpKind};
use smallvec::smallvec;
use std::mem::offset_of;

/// Where a pushed value comes from.
#[derive(Debug, Clone, Copy)]
pub enum Pushed {
    /// A host register other than the scratch registers.
    Register(Reg),
    /// A field of the frame.
    Kept(usize),
    /// A constant.
    Constant(u64),
}

impl Rewriter<'_> {
    /// `push`, `pop` and `leave` of eight bytes.
    pub(super) fn stack(&mut self, instruction: &Instruction) {
        match instruction.mnemonic() {
            Mnemonic::Push => {
                let value = self.push_source(instruction);
                self.push(value);
                self.end_islands(true);
            }
            Mnemonic::Pop => self.pop(instruction),
            _ => self.leave_frame(instruction),
        }
    }

    fn push_source(&mut self, instruction: &Instruction) -> Pushed {
        match instruction.op0_kind() {
            OpKind::Register => {
                let number = instruction.op0_register().full_register().number();
                match home(number as u8) {
                    Some(register) => Pushed::Register(register),
                    None => Pushed::Kept(Frame::gpr(number)),
                }
            }
            OpKind::Memory => {
                self.load_operand(instruction, S0);
                self.code.store(Mem::frame(offset_of!(Frame, kept)), S0);
                Pushed::Kept(offset_of!(Frame, kept))
            }
            _ => Pushed::Constant(instruction.immediate(0)),
        }
    }

    /// Loads eight bytes of memory operand into `to`.
    pub(super) fn load_operand(&mut self, instruction: &Instruction, to: Reg) {
        let place = self.operand_place(instruction, 8, false);
        self.note_flags();
        self.code.load(to, place);
    }

    /// Writes eight bytes below the stack pointer and moves it.
    pub(super) fn push(&mut self, value: Pushed) {
        let place = self.stack_place(Mem::at(GUEST_RSP, -8), Part::Push);
        match value {
            Pushed::Register(register) => self.code.store(place, register),
            Pushed::Constant(constant) => match i32::try_from(constant as i64) {
                Ok(short) => self.code.store_immediate(place, short),
                Err(_) => {
                    let place = self.free_first_scratch(place);
                    self.code.constant(S0, constant);
                    self.code.store(place, S0);
                }
            },
            Pushed::Kept(offset) => {
                let place = self.free_first_scratch(place);
                self.code.load(S0, Mem::frame(offset));
                self.code.store(place, S0);
            }
        }
        self.code.lea(true, GUEST_RSP, Mem::at(GUEST_RSP, -8));
    }

    /// Makes the first scratch register free for a value.
    fn free_first_scratch(&mut self, place: Mem) -> Mem {
        if place.base != Some(S0) {
            return place;
        }
        self.code.lea(true, S1, place);
        Mem::at(S1, 0)
    }

    fn pop(&mut self, instruction: &Instruction) {
        let place = self.stack_place(Mem::at(GUEST_RSP, 0), Part::Pop);
        let number = instruction.op0_register().number();
        match home(number as u8) {
            // `pop rsp` ends with what it read.
            Some(GUEST_RSP) => {
                self.code.load(GUEST_RSP, place);
                self.end_islands(true);
                return self.keep_stack_aligned(instruction);
            }
            Some(register) => self.code.load(register, place),
            None => {
                self.code.load(S0, place);
                self.code.store(Mem::frame(Frame::gpr(number)), S0);
            }
        }
        self.code.lea(true, GUEST_RSP, Mem::at(GUEST_RSP, 8));
        self.end_islands(true);
    }

    /// `leave`: the frame pointer's word, and the stack above it. The frame pointer may be anything.
    fn leave_frame(&mut self, instruction: &Instruction) {
        const RBP: Reg = Reg(5);
        let place = self.checked_place(Mem::at(RBP, 0), Part::Pop);
        self.code.load(S1, place);
        self.code.lea(true, GUEST_RSP, Mem::at(RBP, 8));
        self.code.mov(RBP, S1);
        self.force_stack_check(instruction);
    }

    /// The host bytes of an aligned stack word. Live flags are untouched; scratch registers are spoilt.
    pub(super) fn stack_place(&mut self, at: Mem, part: Part) -> Mem {
        if self.key.mode.ragged_stack {
            return self.checked_place(at, part);
        }
        self.note_flags();
        let mask = Mem::frame(offset_of!(Frame, page_mask));
        if at.disp == 0 {
            self.code.pext(S1, GUEST_RSP, mask);
        } else {
            self.code.lea(true, S0, at);
            self.code.pext(S1, S0, mask);
        }
        let place = Mem::sum(GUEST_RSP, S1, at.disp);
        if self.live && !self.aside {
            self.code.mov(S0, RCX);
            self.code.load_table(RCX, S1);
            let missing = self.code.jrcxz();
            self.code.mov(S1, RCX);
            self.code.mov(RCX, S0);
            let ask = self.memory_site(part);
            self.islands
                .push((missing, Cold { jumps: smallvec![], restore: Restore::CounterAndAddress(at), ask }));
        } else {
            self.code.load_table(S1, S1);
            self.code.test(S1);
            let missing = self.code.jump_if(cond::Z);
            let ask = self.memory_site(part);
            self.colds.push(Cold { jumps: smallvec![missing], restore: Restore::Address(at), ask });
        }
        place
    }

    /// The host bytes of a word that may lie anywhere. Live flags are set aside.
    fn checked_place(&mut self, at: Mem, part: Part) -> Mem {
        self.set_flags_aside();
        self.note_flags();
        self.code.lea(true, S0, at);
        let mut jumps: Jumps = self.check_crossing(8).into_iter().collect();
        self.page_number();
        self.code.load_table(S1, S1);
        self.code.test(S1);
        jumps.push(self.code.jump_if(cond::Z));
        let ask = self.memory_site(part);
        self.colds.push(Cold { jumps, restore: Restore::Nothing, ask });
        Mem::sum(S0, S1, 0)
    }

    /// Puts the far jumps that `jrcxz` could not reach: right here, with a jump around them if code falls into them.
    pub(super) fn end_islands(&mut self, falls_through: bool) {
        if self.islands.is_empty() {
            return;
        }
        let around = falls_through.then(|| {
            self.code.raw(&[0xeb, 0]);
            Patch(self.code.here())
        });
        for (short, mut cold) in std::mem::take(&mut self.islands) {
            self.code.bind_short(short);
            cold.jumps.push(self.code.jump());
            self.colds.push(cold);
        }
        if let Some(around) = around {
            self.code.bind_short(around);
        }
    }
}
