//! Cold stubs: what is seldom needed of a unit and calls out to Rust.
//!
//! They stand in a part of the arena of their own (`cache/arena.rs`), so that hot paths lie close together.
//! A stub puts back what the hot path moved, and calls a thunk with a site's number behind the call. Rust then either starts
//! the instruction again or goes on elsewhere; only [`Ask::SiteAndBack`] comes back to the hot path.

use super::Rewriter;
use super::remembered::{LookUp, LookUpWord};
use crate::assemble::host::{GUEST_RSP, RCX, S0, S1};
use crate::assemble::{Apart, Mem, Patch};
use crate::cache::wide::wake;
use crate::unit::{Exit, Part, Site};
use smallvec::SmallVec;

/// The jumps that lead to one stub: a page crossing and a missing entry, in most cases.
pub(super) type Jumps = SmallVec<[Patch; 2]>;

/// A stub to be written.
pub(super) struct Cold {
    pub(super) jumps: Jumps,
    pub(super) restore: Restore,
    pub(super) ask: Ask,
}

/// What a stub puts right before it calls out.
pub(super) enum Restore {
    Nothing,
    /// rcx was kept in the first scratch register; the address is computed anew, and then, if so, the stack pointer moves
    /// back up by a 32-bit word.
    CounterAndAddress(Mem, bool),
    /// rcx was kept in the second scratch register.
    Counter,
    /// The address is computed anew, and the stack pointer likewise.
    Address(Mem, bool),
    /// The flags are brought back.
    Flags,
}

/// Whom a stub calls.
pub(super) enum Ask {
    Site {
        thunk: u64,
        site: Site,
    },
    /// As `Site`, and goes on at an offset of the hot path.
    SiteAndBack {
        thunk: u64,
        site: Site,
        back: usize,
    },
    /// Nobody: AVX-512's registers are fetched, and the hot path goes on.
    Wake {
        back: usize,
    },
    /// Goes to the Guest address that follows a checked instruction.
    Resync(u64),
    /// An exit to the side whose target must go through the jump table.
    Leave(u64),
    /// An exit to the side whose target may be linked, once the registers are back in their places.
    LeaveDirectly(u64),
    /// A direct exit's request for its target.
    Link(usize),
    /// A look into the table on a memo's behalf.
    LookUp(Box<LookUp>),
    /// The same for a stack word, with the Guest's flags in their place.
    LookUpWord(Box<LookUpWord>),
    /// An exit to the unit of the same code in which every access looks for itself.
    Apart(u64),
}

impl Rewriter<'_> {
    /// Calls a thunk; the site's number follows the call.
    pub(super) fn call_site(&mut self, thunk: u64, site: Site) {
        let number = self.place.first_site + self.sites.len() as u32;
        self.sites.push(site);
        self.call(thunk);
        self.code.dword(number);
    }

    pub(super) fn memory_site(&self, part: Part) -> Ask {
        let site =
            Site::Memory { unit: self.place.unit, mark: self.mark_now(), flags_aside: self.aside, part };
        Ask::Site { thunk: self.thunks.slow, site }
    }

    /// The site of the current instruction, for Rust to carry it out.
    pub(super) fn system_site(&self, resumes: bool) -> Site {
        Site::System { unit: self.place.unit, mark: self.mark_now(), resumes }
    }

    /// The number of the current instruction's mark.
    fn mark_now(&self) -> u16 {
        (self.marks.len() - 1) as u16
    }

    /// From here on the unit's code stands among the stubs.
    pub(super) fn set_apart(&mut self) {
        let from = self.code.here();
        let gap = self.place.stubs.wrapping_sub(self.place.address + from as u64) as i64;
        self.code.apart = Some(Apart { from, gap });
    }

    pub(super) fn write_colds(&mut self) {
        let mut colds = std::mem::take(&mut self.colds);
        for cold in colds.drain(..) {
            let here = self.code.here();
            for jump in cold.jumps {
                self.code.bind(jump, here);
            }
            match cold.restore {
                Restore::Nothing => {}
                Restore::Counter => self.code.mov(RCX, S1),
                Restore::Flags => {
                    self.aside = true;
                    self.settle_flags();
                }
                Restore::Address(address, undo) => self.address_anew(address, undo),
                Restore::CounterAndAddress(address, undo) => {
                    self.code.mov(RCX, S0);
                    self.address_anew(address, undo);
                }
            }
            match cold.ask {
                Ask::Site { thunk, site } => self.call_site(thunk, site),
                Ask::SiteAndBack { thunk, site, back } => {
                    self.call_site(thunk, site);
                    let jump = self.code.jump();
                    self.code.bind(jump, back);
                }
                Ask::Wake { back } => {
                    wake(&mut self.code);
                    let jump = self.code.jump();
                    self.code.bind(jump, back);
                }
                Ask::Resync(next) => {
                    self.swap_back();
                    self.resync(next);
                }
                Ask::Leave(target) => {
                    self.swap_back();
                    self.leave_by_table(target);
                }
                Ask::Link(number) => self.ask_for_target(number),
                Ask::LeaveDirectly(target) => self.leave_directly(target, false),
                Ask::Apart(target) => self.leave_directly(target, true),
                Ask::LookUp(look) => self.look_up_for_memo(*look),
                Ask::LookUpWord(look) => self.look_up_word(*look),
            }
        }
        self.tools.colds = colds;
    }

    /// A direct exit that is not on the hot path.
    pub(super) fn leave_directly(&mut self, target: u64, apart: bool) {
        self.swap_back();
        let jump = self.code.jump();
        let stub = self.code.here();
        self.code.bind(jump, stub);
        let number = self.exits.len();
        let after = self.near(jump.0);
        self.exits.push(Exit::Direct { after, stub: 0, target, apart, inner: None, linked: None });
        self.ask_for_target(number);
    }

    /// The stub of a direct exit.
    fn ask_for_target(&mut self, number: usize) {
        let here = self.near_here();
        if matches!(self.exits[number], Exit::Direct { inner: Some(_), .. }) {
            self.swap_back();
        }
        if let Exit::Direct { stub, .. } = &mut self.exits[number] {
            *stub = here;
        }
        let site = Site::Link { unit: self.place.unit, exit: number as u16 };
        self.call_site(self.thunks.link, site);
    }

    fn address_anew(&mut self, address: Mem, undo: bool) {
        self.code.lea(true, S0, address);
        if undo {
            self.move_stack(Mem::at(GUEST_RSP, 4));
        }
    }

    /// Leaves generated code for a Guest address, so that Rust looks at the mode again.
    pub(super) fn resync(&mut self, next: u64) {
        self.code.constant(S0, next);
        self.jump_to(self.thunks.lookup);
    }
}
