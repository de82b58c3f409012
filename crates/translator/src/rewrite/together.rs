//! Accesses of one span: the first looks for all of them, the others take what it found. See [`crate::spans`].
//!
//! ```text
//!   First    lea s0, [register + low]  ; lea s1, [s0 + length - 1] ; xor s1, s0 ; test s1, 0x1000 ; jnz apart
//!            s1 = table[s0]            ; mov [slot], s1            ; op [register + s1 + displacement]
//!   Member   mov s1, [slot]            ; op [register + s1 + displacement]
//! ```
//! With a memo ([`crate::memos`]), the first one's addend is there and is not stored again. In a known page nothing is to be checked, and the slot holds the page's host address: `op [s1 + place in the page]`.
//! A member touches no flag. In 32-bit code the first one also looks whether its page is one that spans may lie in.

use super::cold::Jumps;
use super::remembered::Wanted;
use super::{Ask, Cold, Restore, Rewriter};
use crate::assemble::host::{S0, S1};
use crate::assemble::{Mem, Patch, cond};
use crate::frame::Frame;
use crate::spans::{NARROW_PAGES, Role};
use crate::unit::Part;
use iced_x86::{Instruction, Register};
use smallvec::smallvec;

/// The part of a span around an access.
struct Around {
    slot: u8,
    before: u16,
    after: u16,
}

impl Rewriter<'_> {
    /// The host bytes of a memory operand that belongs to a span; none if it has to look for itself.
    pub(super) fn operand_together(
        &mut self,
        instruction: &Instruction,
        size: usize,
        write: bool,
    ) -> Option<Mem> {
        let role = self.role_now(self.roles.operand)?;
        let part = Part::Operand { size: size as u16, write };
        let displacement = instruction.memory_displacement64();
        if matches!(instruction.memory_base(), Register::RIP | Register::None) {
            return Some(self.in_known_page(role, displacement, part));
        }
        let base = instruction.memory_base();
        if let Role::First { .. } = role {
            self.set_flags_aside();
        }
        let base = self.address_register(base, S0)?;
        Some(self.together(role, Mem::at(base, displacement as i32), part))
    }

    /// The host bytes of a word that is pushed or popped.
    pub(super) fn word_together(&mut self, at: Mem, part: Part) -> Option<Mem> {
        let role = self.role_now(self.roles.stack)?;
        if let Role::First { .. } = role {
            self.set_flags_aside();
        }
        self.note_flags();
        Some(self.together(role, at, part))
    }

    /// The role, unless it is to look for itself or the first one could not do its part.
    fn role_now(&self, role: Role) -> Option<Role> {
        match role {
            Role::Alone => None,
            Role::First { .. } => Some(role),
            Role::Member { slot } => (self.found >> slot & 1 != 0).then_some(role),
        }
    }

    fn together(&mut self, role: Role, at: Mem, part: Part) -> Mem {
        let base = at.base.unwrap_or(S0);
        match role {
            Role::First { slot, before, after } => {
                self.first(at, &Around { slot, before, after }, part);
                // The first scratch register holds where the span begins.
                if base == S0 { Mem::sum(S0, S1, before.into()) } else { Mem::sum(base, S1, at.disp) }
            }
            Role::Member { slot } => {
                self.code.load(S1, self.slot(slot));
                Mem::sum(base, S1, at.disp)
            }
            Role::Alone => unreachable!("asked before"),
        }
    }

    /// Where a span's addend is.
    fn slot(&self, slot: u8) -> Mem {
        Mem::frame(self.slots[usize::from(slot)])
    }

    /// The span's addend is in this field of the frame from now on.
    fn found(&mut self, slot: u8, place: usize) {
        self.slots[usize::from(slot)] = place;
        self.found |= 1 << slot;
    }

    /// Leaves the addend of a span's page in its slot and in the second scratch register.
    fn first(&mut self, at: Mem, around: &Around, part: Part) {
        let before = i32::from(around.before);
        let size = usize::from(around.before + around.after);
        let start = Mem { disp: at.disp.wrapping_sub(before), ..at };
        let here = self.key.pc + self.marks.last().map_or(0, |mark| u64::from(mark.guest));
        let wanted = Wanted { start, size, before, part, apart: Some(here) };
        if let Some(place) = self.remember(&wanted) {
            return self.found(around.slot, place);
        }
        self.code.lea(true, S0, start);
        let mut apart: Jumps = self.check_crossing(size).into_iter().collect();
        apart.extend(self.check_ends());
        if !apart.is_empty() {
            let restore = if self.aside { Restore::Flags } else { Restore::Nothing };
            self.colds.push(Cold { jumps: apart, restore, ask: Ask::Apart(here) });
        }
        self.page_number();
        self.look_up(before, part);
        let place = Frame::span(around.slot.into());
        self.code.store(Mem::frame(place), S1);
        self.found(around.slot, place);
    }

    /// Jumps when the page of the first scratch register is not for a span of 32-bit code.
    pub(super) fn check_ends(&mut self) -> Option<Patch> {
        if self.key.mode.long() {
            return None;
        }
        let (first, last) = (*NARROW_PAGES.start(), *NARROW_PAGES.end());
        self.code.lea(true, S1, Mem::at(S0, -((first << 12) as i32)));
        self.code.shr(S1, 12);
        self.code.cmp(S1, (last - first) as u32);
        Some(self.code.jump_if(cond::A))
    }

    /// The entry of the page whose number is in the second scratch register. Rust is told of the access `before` bytes
    /// behind the address in the first.
    fn look_up(&mut self, before: i32, part: Part) {
        self.code.load_table(S1, S1);
        self.code.test(S1);
        let jumps: Jumps = smallvec![self.code.jump_if(cond::Z)];
        let restore = match before {
            0 => Restore::Nothing,
            _ => Restore::Address(Mem::at(S0, before), false),
        };
        let ask = self.memory_site(part);
        self.colds.push(Cold { jumps, restore, ask });
    }

    /// An access to an address that is known now.
    fn in_known_page(&mut self, role: Role, address: u64, part: Part) -> Mem {
        let within = (address & 0xfff) as i32;
        match role {
            Role::First { slot, .. } => {
                self.set_flags_aside();
                self.code.constant(S0, address);
                self.code.constant(S1, address >> 12 & 0xf_ffff_ffff);
                self.look_up(0, part);
                self.code.lea(true, S1, Mem { disp: -within, ..Mem::sum(S0, S1, 0) });
                let place = Frame::span(slot.into());
                self.code.store(Mem::frame(place), S1);
                self.found(slot, place);
            }
            Role::Member { slot } => self.code.load(S1, self.slot(slot)),
            Role::Alone => unreachable!("asked before"),
        }
        Mem::at(S1, within)
    }
}
