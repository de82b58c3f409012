//! The beginning of a unit: who comes from where, and what has to be looked at first.

use super::Rewriter;
use crate::assemble::Mem;
use crate::assemble::host::{FRAME, RCX, S0, S1};
use crate::frame::{Frame, FrameMapping};
use std::mem::offset_of;

impl Rewriter<'_> {
    /// Entry of computed jumps: the first scratch register must hold this unit's address, else the jump table's
    /// slot belonged to another target. No flag is touched, for whether they are live is the jumper's secret.
    /// ```text
    ///   mov s1, rcx ; lea rcx, [s0 - pc] ; jrcxz here ; mov rcx, s1 ; jmp miss ; here: mov rcx, s1
    /// ```
    /// Returns where user code's gate is, which joins it: see `cache/gates.rs`.
    pub(super) fn check_target(&mut self) -> Option<u16> {
        self.code.mov(S1, RCX);
        let minus = self.key.pc.wrapping_neg();
        match i32::try_from(minus as i64) {
            Ok(short) => self.code.lea(true, RCX, Mem::at(S0, short)),
            Err(_) => {
                self.code.constant(RCX, minus);
                self.code.lea(true, RCX, Mem::sum(RCX, S0, 0));
            }
        }
        let same = self.code.jrcxz();
        let other = self.code.here();
        self.code.mov(RCX, S1);
        let second = self.key.mode.has_second_table();
        self.jump_to(if second { self.thunks.second } else { self.thunks.lookup });
        let gate = second.then(|| self.gate(other));
        self.code.bind_short(same);
        self.code.mov(RCX, S1);
        gate
    }

    /// The gate; one that is closed goes on at `other` with the target in the first scratch register.
    fn gate(&mut self, other: usize) -> u16 {
        let gate = self.near_here();
        self.code.mov(S1, RCX);
        self.code.load32(RCX, Mem::frame(offset_of!(Frame, jump_space)));
        let known = FrameMapping::GATES as i32 + i32::from(self.place.gate);
        self.code.load8(RCX, Mem::sum(FRAME, RCX, known));
        let open = self.code.jrcxz();
        self.code.constant(S0, self.key.pc);
        let closed = self.code.jump();
        self.code.bind(closed, other);
        self.code.bind_short(open);
        gate
    }
}
