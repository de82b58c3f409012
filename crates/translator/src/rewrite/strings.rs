//! `rep movs` and `rep stos` within a page: how kernels clear and copy pages, and what `memcpy` is on new processors.
//!
//! The host's own instruction does the work on host addresses, and the registers are turned back into Guest addresses
//! behind it. Anything but the plain case (downward, more than a page, a page without an entry) is Rust's, which does
//! it page by page. Leaving generated code for each cost a third of a page fault.
//! ```text
//!   flags aside ; DF clear? ; rcx * size + (rdi & 0xfff) <= 4096?    the same for rsi
//!   s1 = table[rsi] ; kept = s1 ; s1 = table[rdi] ; borrowed = s1    the addends
//!   rsi += kept ; rdi += borrowed ; rep movs ; rsi -= kept ; rdi -= borrowed
//! ```

use super::cold::Jumps;
use super::{Ask, Cold, Restore, Rewriter};
use crate::assemble::host::{FRAME, RCX, S0, S1};
use crate::assemble::{Mem, Patch, Reg, cond};
use crate::cpu::{Cpu, flags};
use crate::frame::Frame;
use crate::unit::Lent;
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};
use smallvec::smallvec;
use std::mem::offset_of;

const RSI: Reg = Reg(6);
const RDI: Reg = Reg(7);

/// Bytes in a page, as comparisons want it.
const PAGE: u32 = 4096;

impl Rewriter<'_> {
    /// Writes a repeated move or store in place, if it is of the plain kind; says whether it did.
    pub(super) fn repeated(&mut self, instruction: &Instruction) -> bool {
        let moves = matches!(instruction.mnemonic(), M::Movsb | M::Movsw | M::Movsd | M::Movsq);
        let stores = matches!(instruction.mnemonic(), M::Stosb | M::Stosw | M::Stosd | M::Stosq);
        let plain = instruction.has_rep_prefix()
            && instruction.is_string_instruction()
            && instruction.segment_prefix() == Register::None
            && (0..instruction.op_count()).all(|n| self.is_full_width(instruction.op_kind(n)));
        if !(moves || stores) || !plain || self.key.mode.single() {
            return false;
        }
        self.set_flags_aside();
        let size = instruction.memory_size().size() as u32;
        let mut cold = self.check_count(size);
        if moves {
            cold.extend(self.string_addend(RSI, offset_of!(Frame, kept)));
        }
        cold.extend(self.string_addend(RDI, offset_of!(Frame, borrowed)));
        if moves {
            self.code.add_memory(RSI, Mem::frame(offset_of!(Frame, kept)));
        }
        self.code.add_memory(RDI, Mem::frame(offset_of!(Frame, borrowed)));
        self.lend_strings(moves);
        self.copy(instruction);
        if moves {
            self.code.sub_memory(RSI, Mem::frame(offset_of!(Frame, kept)));
        }
        self.code.sub_memory(RDI, Mem::frame(offset_of!(Frame, borrowed)));
        if !self.key.mode.long() {
            // Behind the last byte of 4 GiB comes the first.
            self.code.mov32(RSI, RSI);
            self.code.mov32(RDI, RDI);
        }
        let site = self.system_site(true);
        let restore = if self.aside { Restore::Flags } else { Restore::Nothing };
        let ask = Ask::SiteAndBack { thunk: self.thunks.system, site, back: self.code.here() };
        self.colds.push(Cold { jumps: cold, restore, ask });
        true
    }

    /// A string operand whose registers are as wide as the code's: their upper halves, if there are any, are clear.
    fn is_full_width(&self, kind: OpKind) -> bool {
        match kind {
            OpKind::MemorySegESI | OpKind::MemoryESEDI => !self.key.mode.long(),
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => self.key.mode.long(),
            OpKind::MemorySegSI | OpKind::MemoryESDI => false,
            _ => true,
        }
    }

    /// Leaves when the direction is downward or there is more than a page to do; the bytes to do in the first scratch
    /// register.
    fn check_count(&mut self, size: u32) -> Jumps {
        let flags_at = offset_of!(Frame, cpu) + offset_of!(Cpu, rflags);
        self.code.test_memory32(Mem::at(FRAME, flags_at as i32), flags::DF as u32);
        let downward = self.code.jump_if(cond::NZ);
        self.code.cmp(RCX, PAGE);
        let many = self.code.jump_if(cond::A);
        self.code.mov32(S0, RCX);
        self.code.shl(S0, size.trailing_zeros() as u8);
        smallvec![downward, many]
    }

    /// The addend of the page an index register points into, to a field of the frame; leaves when the bytes do not
    /// lie in that page or it has no entry. Keeps the first scratch register.
    fn string_addend(&mut self, index: Reg, field: usize) -> [Patch; 2] {
        self.code.mov32(S1, index);
        self.code.and32(S1, PAGE - 1);
        self.code.lea(false, S1, Mem::sum(S1, S0, 0));
        self.code.cmp(S1, PAGE);
        let crosses = self.code.jump_if(cond::A);
        self.code.mov(S1, index);
        self.code.shl(S1, 16);
        self.code.shr(S1, 28);
        self.code.load_table(S1, S1);
        self.code.test(S1);
        let missing = self.code.jump_if(cond::Z);
        self.code.store(Mem::frame(field), S1);
        [crosses, missing]
    }

    fn lend_strings(&mut self, source: bool) {
        self.note_flags();
        let host = self.near_here();
        if let Some(mark) = self.marks.last_mut() {
            mark.lent = Lent::Strings { source, from: host };
        }
    }

    /// The Guest's own bytes.
    fn copy(&mut self, instruction: &Instruction) {
        let start = (instruction.ip() - self.key.pc) as usize;
        self.code.raw(&self.bytes[start..start + instruction.len()]);
    }
}
