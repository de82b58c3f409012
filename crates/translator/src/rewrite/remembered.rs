//! Accesses that try the page they went to last time first. See [`crate::memos`].
//!
//! ```text
//!   lea s1, [address] ; xor s1, [memo.page] ; cmp s1, 4096 - size ; ja cold
//!   back: mov s1, [memo.addend]
//!
//!   cold: lea s0, [address]           does it cross a page? its entry, as in memory.rs
//!         mov [memo.addend], s1
//!         mov byte [mark], 1 ; s1 = s0's page ; mov [memo.page], s1 ; jmp back
//! ```

use super::cold::{Ask, Jumps};
use super::{Cold, Restore, Rewriter};
use crate::assemble::host::{GUEST_RSP, RCX, S0, S1};
use crate::assemble::{Mem, cond};
use crate::frame::{Frame, FrameMapping};
use crate::memos::STRETCH;
use crate::unit::{Part, Site};
use smallvec::smallvec;
use std::mem::offset_of;

/// An access, or the first of a span.
pub(super) struct Wanted {
    /// Where it, or the span, begins.
    pub(super) start: Mem,
    /// Its bytes, or the span's.
    pub(super) size: usize,
    /// Bytes of the span before the access.
    pub(super) before: i32,
    /// What Rust is told when there is no entry.
    pub(super) part: Part,
    /// A span that crosses a page's end is left to the unit in which all are apart, from this instruction on.
    pub(super) apart: Option<u64>,
}

/// What a stub needs to look an address up.
pub(super) struct LookUp {
    start: Mem,
    size: usize,
    before: i32,
    apart: Option<u64>,
    undoes: bool,
    memo: usize,
    thunk: u64,
    site: Site,
    /// The Guest's flags are aside.
    aside: bool,
    /// Where the hot path goes on.
    back: usize,
}

/// What the stub of a stack word needs.
pub(super) struct LookUpWord {
    at: Mem,
    undoes: bool,
    memo: usize,
    thunk: u64,
    site: Site,
    back: usize,
}

/// A memo's fields, from the frame on.
fn page(memo: usize) -> usize {
    FrameMapping::MEMOS + 16 * memo
}

fn addend(memo: usize) -> usize {
    page(memo) + 8
}

impl Rewriter<'_> {
    /// Leaves the addend for an access in the second scratch register, and says in which field of the frame it is; none if
    /// there is no memo for it. Flags are spoilt.
    pub(super) fn remember(&mut self, wanted: &Wanted) -> Option<usize> {
        let memo = self.next_memo()?;
        // What is not a home register may change before the stub needs it.
        let start = match wanted.start {
            Mem { base: Some(S0), disp, .. } => {
                if disp != 0 {
                    self.code.lea(true, S0, wanted.start);
                }
                Mem::at(S0, 0)
            }
            start => start,
        };
        if start.disp == 0 {
            self.code.mov(S1, start.base.expect("an access has a base"));
        } else {
            self.code.lea(true, S1, start);
        }
        self.code.xor_memory(S1, Mem::frame(page(memo)));
        self.code.cmp(S1, 4096 - wanted.size as u32);
        let other = self.code.jump_if(cond::A);
        let back = self.code.here();
        self.code.load(S1, Mem::frame(addend(memo)));
        let Ask::Site { thunk, site } = self.memory_site(wanted.part) else {
            unreachable!("a memory site is a site")
        };
        let (size, before, apart, aside) = (wanted.size, wanted.before, wanted.apart, self.aside);
        // A span's push has not moved the stack pointer yet.
        let undoes = apart.is_none() && self.undoes(wanted.part);
        let look = LookUp { start, size, before, apart, undoes, memo, thunk, site, aside, back };
        self.colds.push(Cold {
            jumps: smallvec![other],
            restore: Restore::Nothing,
            ask: Ask::LookUp(Box::new(look)),
        });
        Some(addend(memo))
    }

    /// The same for an aligned stack word, when the Guest's flags are in the processor: the memo holds the page's number,
    /// negated, so that a sum and rcx can tell.
    /// ```text
    ///   lea s1, [address] ; pext s1, s1, [mask] ; mov s0, rcx ; mov rcx, [memo.page] ; lea rcx, [rcx + s1] ; jrcxz same
    ///   jmp cold ; same: mov rcx, s0 ; mov s1, [memo.addend]
    /// ```
    pub(super) fn remember_keeping_flags(&mut self, at: Mem, part: Part) -> Option<()> {
        let memo = self.next_memo()?;
        let mask = Mem::frame(offset_of!(Frame, page_mask));
        if at.disp == 0 {
            self.code.pext(S1, GUEST_RSP, mask);
        } else {
            self.code.lea(true, S1, at);
            self.code.pext(S1, S1, mask);
        }
        self.code.mov(S0, RCX);
        self.code.load(RCX, Mem::frame(page(memo)));
        self.code.lea(true, RCX, Mem::sum(RCX, S1, 0));
        let same = self.code.jrcxz();
        let other = self.code.jump();
        self.code.bind_short(same);
        self.code.mov(RCX, S0);
        self.code.load(S1, Mem::frame(addend(memo)));
        let back = self.code.here();
        let Ask::Site { thunk, site } = self.memory_site(part) else {
            unreachable!("a memory site is a site")
        };
        let undoes = self.undoes(part);
        self.colds.push(Cold {
            jumps: smallvec![other],
            restore: Restore::Nothing,
            ask: Ask::LookUpWord(Box::new(LookUpWord { at, undoes, memo, thunk, site, back })),
        });
        Some(())
    }

    /// The stub. The second scratch register holds the page's number, and the first what belongs into rcx.
    pub(super) fn look_up_word(&mut self, look: LookUpWord) {
        self.code.load_table(RCX, S1);
        let missing = self.code.jrcxz();
        self.code.store(Mem::frame(addend(look.memo)), RCX);
        self.code.store8_immediate(Mem::frame(FrameMapping::MEMO_MARKS + look.memo / STRETCH), 1);
        // Minus the number: its complement and one, without a flag.
        self.code.not(S1);
        self.code.lea(true, S1, Mem::at(S1, 1));
        self.code.store(Mem::frame(page(look.memo)), S1);
        self.code.mov(S1, RCX);
        self.code.mov(RCX, S0);
        let back = self.code.jump();
        self.code.bind(back, look.back);
        self.code.bind_short(missing);
        self.code.mov(RCX, S0);
        self.code.lea(true, S0, look.at);
        self.tell_of_miss(0, look.undoes, look.thunk, look.site);
    }

    /// A memo that nobody has, if this unit may have any.
    fn next_memo(&mut self) -> Option<usize> {
        let (first, free) = self.place.memos;
        if self.key.mode.single() || self.memos == free {
            return None;
        }
        self.memos += 1;
        Some((first + self.memos - 1) as usize)
    }

    /// The stub.
    pub(super) fn look_up_for_memo(&mut self, look: LookUp) {
        if look.start != Mem::at(S0, 0) {
            self.code.lea(true, S0, look.start);
        }
        let mut others: Jumps = self.check_crossing(look.size).into_iter().collect();
        if look.apart.is_some() {
            others.extend(self.check_ends());
        }
        self.page_number();
        self.code.load_table(S1, S1);
        self.code.test(S1);
        let missing = self.code.jump_if(cond::Z);
        self.code.store(Mem::frame(addend(look.memo)), S1);
        self.code.store8_immediate(Mem::frame(FrameMapping::MEMO_MARKS + look.memo / STRETCH), 1);
        self.code.mov(S1, S0);
        self.code.page_of(S1);
        self.code.store(Mem::frame(page(look.memo)), S1);
        let back = self.code.jump();
        self.code.bind(back, look.back);
        let here = self.code.here();
        self.code.bind(missing, here);
        match look.apart {
            Some(pc) if !others.is_empty() => {
                self.tell_of_miss(look.before, look.undoes, look.thunk, look.site);
                let here = self.code.here();
                others.into_iter().for_each(|other| self.code.bind(other, here));
                self.aside = look.aside;
                self.settle_flags();
                self.leave_directly(pc, true);
            }
            _ => {
                others.into_iter().for_each(|other| self.code.bind(other, here));
                self.tell_of_miss(look.before, look.undoes, look.thunk, look.site);
            }
        }
    }

    /// Rust looks at the access itself, not at where its span begins, with the stack pointer back up if a push moved it.
    fn tell_of_miss(&mut self, before: i32, undoes: bool, thunk: u64, site: Site) {
        if before != 0 {
            self.code.lea(true, S0, Mem::at(S0, before));
        }
        if undoes {
            self.move_stack(Mem::at(GUEST_RSP, 4));
        }
        self.call_site(thunk, site);
    }
}
