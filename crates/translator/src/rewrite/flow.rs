//! Control flow: how the Guest gets from unit to unit.
//!
//! A known target is linked: the exit is a plain jump to the target's code, patched when the target is first
//! reached. That is right as long as the mapping of the target's page stays; the cache cuts links when it changes.
//! User code changes address spaces too often for that, so its jumps to other pages arrive at gates, which look whether
//! the page is there now (`cache/gates.rs`). Computed targets go through the address space's jump table, and so do 32-bit
//! user code's in other pages: one indirect jump, and the target checks that it was meant.
//!
//! A processor foresees such a jump by what was before, and a compiler returns to more places than it remembers so: a seventh
//! of gcc's samples stood where returns arrive. A host `call` for each of the Guest's, and a host `ret` to what a shadow of
//! the stack's words holds, were tried: gcc 7.7 to 6.9 s, a script of 1,000 processes 1.05 to 0.88 s; but Lua 71 to 82 ms, sqlite
//! 145 to 165, and a read of 4 KiB 527 to 645 ns, for each pair takes three taken branches and ten operations more. It would
//! pay in traces that go on behind a call, where the landing is the code itself.

use super::stack::Pushed;
use super::{Ask, Cold, Restore, Rewriter};
use crate::assemble::host::{FRAME, GUEST_RSP, S0, S1};
use crate::assemble::{Mem, Patch};
use crate::frame::{BANK_SLOTS, Frame, FrameMapping};
use crate::unit::{Exit, Part};
use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};
use smallvec::smallvec;
use std::mem::offset_of;

impl Rewriter<'_> {
    /// Near jumps, calls, returns and loops.
    pub(super) fn flow(&mut self, instruction: &Instruction) {
        match instruction.flow_control() {
            FlowControl::ConditionalBranch => self.branch(instruction),
            FlowControl::UnconditionalBranch => self.leave_to(instruction.near_branch_target()),
            FlowControl::IndirectBranch => {
                self.target(instruction);
                self.leave_computed();
            }
            FlowControl::Call => {
                self.push(Pushed::Constant(instruction.next_ip()));
                self.leave_to(instruction.near_branch_target());
            }
            FlowControl::IndirectCall => self.call_computed(instruction),
            FlowControl::Return => self.give_back(instruction),
            _ => self.system(instruction),
        }
        self.end_islands(instruction.flow_control() == FlowControl::ConditionalBranch);
    }

    fn branch(&mut self, instruction: &Instruction) {
        self.settle_flags();
        let target = instruction.near_branch_target();
        let opcode = match instruction.mnemonic() {
            Mnemonic::Loopne => 0xe0,
            Mnemonic::Loope => 0xe1,
            Mnemonic::Loop => 0xe2,
            Mnemonic::Jrcxz | Mnemonic::Jecxz => 0xe3,
            _ => {
                let condition = instruction.condition_code() as u8 - 1;
                let taken = self.code.jump_if(condition);
                return self.side_exit(taken, target);
            }
        };
        // These test the counter, which lives in its own register, and reach 127 bytes only.
        if instruction.mnemonic() == Mnemonic::Jecxz || counts_in_32_bits(instruction) {
            self.code.raw(&[0x67]);
        }
        self.code.raw(&[opcode, 0]);
        let taken = Patch(self.code.here());
        self.code.raw(&[0xeb, 0]);
        let not_taken = Patch(self.code.here());
        self.code.bind_short(taken);
        self.leave_to(target);
        self.code.bind_short(not_taken);
    }

    fn side_exit(&mut self, taken: Patch, target: u64) {
        let ask = if self.key.mode.single() {
            Ask::Resync(target)
        } else if !self.linkable(target) {
            Ask::Leave(target)
        } else if self.swaps.none() || target == self.key.pc {
            return self.link(taken, target);
        } else {
            Ask::LeaveDirectly(target)
        };
        self.colds.push(Cold { jumps: smallvec![taken], restore: Restore::Nothing, ask });
    }

    /// Leaves the unit for a known target.
    pub(super) fn leave_to(&mut self, target: u64) {
        self.settle_flags();
        if target != self.key.pc || !self.linkable(target) {
            self.swap_back();
        }
        if self.key.mode.single() {
            self.resync(target);
        } else if self.linkable(target) {
            let jump = self.code.jump();
            self.link(jump, target);
        } else {
            self.leave_by_table(target);
        }
    }

    fn linkable(&self, target: u64) -> bool {
        let mode = self.key.mode;
        !mode.user || mode.has_second_table() || target >> 12 == self.key.pc >> 12
    }

    fn link(&mut self, jump: Patch, target: u64) {
        let exit = self.exits.len();
        let inner = if target == self.key.pc && !self.swaps.none() { self.inner } else { None };
        let after = self.near(jump.0);
        self.exits.push(Exit::Direct { after, stub: 0, target, apart: false, inner, linked: None });
        self.colds.push(Cold { jumps: smallvec![jump], restore: Restore::Nothing, ask: Ask::Link(exit) });
    }

    /// Leaves for a known target through the address space's jump table.
    pub(super) fn leave_by_table(&mut self, target: u64) {
        self.code.constant(S0, target);
        self.code.load32(S1, Mem::frame(offset_of!(Frame, jump_space)));
        let slot = self.jump_tables() + 8 * (target & 0xffff) as i32;
        self.table_jump(slot);
    }

    /// Leaves for the target in the first scratch register.
    pub(super) fn leave_computed(&mut self) {
        self.settle_flags();
        self.swap_back();
        if self.key.mode.single() {
            return self.jump_to(self.thunks.lookup);
        }
        if self.key.mode.user {
            self.code.load32(S1, Mem::frame(offset_of!(Frame, jump_space)));
            self.code.raw(&[0x66, 0x45, 0x89, 0xd3]); // mov r11w, r10w
        } else {
            self.code.movzx16(S1, S0);
        }
        self.table_jump(self.jump_tables());
    }

    /// The jump tables that hold units of this one's kind, counted from the frame.
    fn jump_tables(&self) -> i32 {
        (FrameMapping::JUMPS + 8 * BANK_SLOTS * self.key.mode.bank()) as i32
    }

    fn table_jump(&mut self, disp: i32) {
        self.exits.push(Exit::Table { at: self.near_here(), disp });
        self.code.jump_memory(Mem { base: Some(FRAME), index: Some((S1, 8)), disp });
    }

    /// The target of a computed jump or call into the first scratch register.
    fn target(&mut self, instruction: &Instruction) {
        if instruction.op0_kind() == OpKind::Memory {
            return self.load_operand(instruction, S0);
        }
        let number = instruction.op0_register().number();
        match self.home(number as u8) {
            Some(register) => self.code.mov(S0, register),
            None => self.code.load(S0, Mem::frame(self.frame_place(number as u8))),
        }
    }

    fn call_computed(&mut self, instruction: &Instruction) {
        let kept = Mem::frame(offset_of!(Frame, kept));
        self.target(instruction);
        self.code.store(kept, S0);
        self.push(Pushed::Constant(instruction.next_ip()));
        self.code.load(S0, kept);
        self.leave_computed();
    }

    /// `ret` and `ret n`.
    fn give_back(&mut self, instruction: &Instruction) {
        let dropped = if instruction.op_count() == 1 { i32::from(instruction.immediate16()) } else { 0 };
        let word = self.key.mode.word() as i32;
        if dropped & (word - 1) != 0 && !self.key.mode.ragged_stack {
            return self.system(instruction);
        }
        let place = self.stack_place(Mem::at(GUEST_RSP, 0), Part::Pop);
        self.load_word(S0, place);
        self.move_stack(Mem::at(GUEST_RSP, word + dropped));
        self.leave_computed();
    }
}

fn counts_in_32_bits(instruction: &Instruction) -> bool {
    use iced_x86::Code as C;
    matches!(
        instruction.code(),
        C::Loop_rel8_64_ECX
            | C::Loope_rel8_64_ECX
            | C::Loopne_rel8_64_ECX
            | C::Loop_rel8_32_ECX
            | C::Loope_rel8_32_ECX
            | C::Loopne_rel8_32_ECX
    )
}
