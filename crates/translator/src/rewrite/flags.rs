//! The Guest's arithmetic flags are the host's, and the arithmetic of addresses would spoil them: where somebody may still
//! look at them they are set aside first.

use super::Rewriter;
use crate::assemble::Mem;
use crate::assemble::host::{RAX, S0, S1};
use crate::frame::Frame;
use iced_x86::Instruction;
use std::mem::offset_of;

impl Rewriter<'_> {
    /// Sets the Guest's flags aside, if somebody may still want them, so that address arithmetic may use the host's.
    /// They stay aside over any number of accesses.
    pub(super) fn set_flags_aside(&mut self) {
        if !self.live || self.aside {
            return;
        }
        self.code.mov(S0, RAX);
        self.code.flags_to_ax();
        self.code.store32(Mem::frame(offset_of!(Frame, saved_flags)), RAX);
        self.code.mov(RAX, S0);
        self.aside = true;
    }

    /// Brings them back, before somebody looks at them or another unit begins; spoils the second scratch register.
    pub(super) fn settle_flags(&mut self) {
        if !self.aside {
            return;
        }
        self.code.mov(S1, RAX);
        self.code.load32(RAX, Mem::frame(offset_of!(Frame, saved_flags)));
        self.code.flags_from_ax();
        self.code.mov(RAX, S1);
        self.aside = false;
    }

    /// Says where the flags are when the current instruction's own access faults.
    pub(super) fn note_flags(&mut self) {
        if let Some(mark) = self.marks.last_mut() {
            mark.flags_aside = self.aside;
        }
    }
}

/// True when an instruction reads flags or changes some of them.
pub(super) fn touches_flags(instruction: &Instruction) -> bool {
    instruction.rflags_read() | instruction.rflags_modified() != 0
}
