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
//! Hot code tries the page of last time first (`remembered.rs`).
//!
//! 32-bit code moves its stack pointer first: `[r9 + s1 - 4]` would not wrap with it, and an address that was not looked
//! up must not be used. Whatever stops such a push moves it back.

use super::cold::Jumps;
use super::remembered::Wanted;
use super::{Cold, Restore, Rewriter};
use crate::assemble::host::{GUEST_RSP, RCX, S0, S1};
use crate::assemble::{Mem, Patch, Reg, cond};
use crate::frame::Frame;
use crate::unit::{Lent, Part};
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
    /// `push`, `pop` and `leave` of a stack word.
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
                match self.home(number as u8) {
                    Some(GUEST_RSP) if !self.key.mode.long() => {
                        // What is pushed is the pointer before it moves.
                        self.code.store(Mem::frame(offset_of!(Frame, kept)), GUEST_RSP);
                        Pushed::Kept(offset_of!(Frame, kept))
                    }
                    Some(register) => Pushed::Register(register),
                    None => Pushed::Kept(self.frame_place(number as u8)),
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

    /// Loads a stack word's bytes of memory operand into `to`.
    pub(super) fn load_operand(&mut self, instruction: &Instruction, to: Reg) {
        let place = self.operand_place(instruction, self.key.mode.word(), false);
        self.note_flags();
        self.load_word(to, place);
    }

    /// Loads as much as a stack word holds; what is above is clear.
    pub(super) fn load_word(&mut self, to: Reg, place: Mem) {
        if self.key.mode.long() { self.code.load(to, place) } else { self.code.load32(to, place) }
    }

    /// Moves the stack pointer to `at`, in its width.
    pub(super) fn move_stack(&mut self, at: Mem) {
        self.code.lea(self.key.mode.long(), GUEST_RSP, at);
    }

    /// A push of 32-bit code: see the module.
    fn push_narrow(&mut self, value: Pushed) {
        let ragged = self.key.mode.ragged_stack;
        // A span's address does not wrap.
        let together = if ragged { None } else { self.word_together(Mem::at(GUEST_RSP, -4), Part::Push) };
        let moves_later = ragged || together.is_some();
        let place = if let Some(place) = together {
            place
        } else if ragged {
            self.checked_place(Mem::at(GUEST_RSP, -4), Part::Push)
        } else {
            self.move_stack(Mem::at(GUEST_RSP, -4));
            let from = self.near_here();
            if let Some(mark) = self.marks.last_mut() {
                mark.lent = Lent::Push { from };
            }
            self.stack_place(Mem::at(GUEST_RSP, 0), Part::Push)
        };
        match value {
            Pushed::Register(register) => self.code.store32(place, register),
            Pushed::Constant(constant) => self.code.store32_immediate(place, constant as u32),
            Pushed::Kept(offset) => {
                let place = self.free_first_scratch(place);
                self.code.load32(S0, Mem::frame(offset));
                self.code.store32(place, S0);
            }
        }
        if moves_later {
            self.move_stack(Mem::at(GUEST_RSP, -4));
        }
    }

    /// Writes a word below the stack pointer and moves it.
    pub(super) fn push(&mut self, value: Pushed) {
        if !self.key.mode.long() {
            return self.push_narrow(value);
        }
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
        match self.home(number as u8) {
            // `pop rsp` ends with what it read.
            Some(GUEST_RSP) => {
                self.load_word(GUEST_RSP, place);
                self.end_islands(true);
                return self.keep_stack_aligned(instruction);
            }
            Some(register) => self.load_word(register, place),
            None => {
                self.code.load(S0, place);
                let place = self.frame_place(number as u8);
                self.code.store(Mem::frame(place), S0);
            }
        }
        self.move_stack(Mem::at(GUEST_RSP, self.key.mode.word() as i32));
        self.end_islands(true);
    }

    /// `leave`: the frame pointer's word, and the stack above it. The frame pointer may be anything.
    fn leave_frame(&mut self, instruction: &Instruction) {
        const RBP: Reg = Reg(5);
        let at = Mem::at(RBP, 0);
        let place = self.word_together(at, Part::Pop).unwrap_or_else(|| self.checked_place(at, Part::Pop));
        self.load_word(S1, place);
        self.move_stack(Mem::at(RBP, self.key.mode.word() as i32));
        self.code.mov(RBP, S1);
        self.force_stack_check(instruction);
    }

    /// The host bytes of an aligned stack word. Live flags are untouched; scratch registers are spoilt.
    pub(super) fn stack_place(&mut self, at: Mem, part: Part) -> Mem {
        if self.key.mode.ragged_stack {
            return self.checked_place(at, part);
        }
        if let Some(place) = self.word_together(at, part) {
            return place;
        }
        self.note_flags();
        if let Some(place) = self.remembered_word(at, part) {
            return place;
        }
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
            let restore = Restore::CounterAndAddress(at, self.undoes(part));
            self.islands.push((missing, Cold { jumps: smallvec![], restore, ask }));
        } else {
            self.code.load_table(S1, S1);
            self.code.test(S1);
            let missing = self.code.jump_if(cond::Z);
            let ask = self.memory_site(part);
            let restore = Restore::Address(at, self.undoes(part));
            self.colds.push(Cold { jumps: smallvec![missing], restore, ask });
        }
        place
    }

    /// The same, with a memo.
    fn remembered_word(&mut self, at: Mem, part: Part) -> Option<Mem> {
        if !self.live || self.aside {
            let size = self.key.mode.word();
            self.remember(&Wanted { start: at, size, before: 0, part, apart: None })?;
        } else {
            self.remember_keeping_flags(at, part)?;
        }
        Some(Mem::sum(GUEST_RSP, S1, at.disp))
    }

    /// Whether the stack pointer must move back up before Rust looks.
    pub(super) fn undoes(&self, part: Part) -> bool {
        part == Part::Push && !self.key.mode.long() && !self.key.mode.ragged_stack
    }

    /// The host bytes of a word that may lie anywhere. Live flags are set aside.
    fn checked_place(&mut self, at: Mem, part: Part) -> Mem {
        self.set_flags_aside();
        self.note_flags();
        self.code.lea(self.key.mode.long(), S0, at);
        let mut jumps: Jumps = self.check_crossing(self.key.mode.word()).into_iter().collect();
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
