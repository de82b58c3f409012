//! What an access found last time: the page it went to, and that page's addend.
//!
//! A look into the table must be over before the access can begin, and pointers that are followed wait for one look after
//! the other. But most instructions go where they went before. So in hot code each keeps a memo: a page and its addend.
//! While the page is the same, which the processor predicts, the access need not wait, and is six host instructions in
//! place of eleven:
//!
//! ```text
//!   lea s1, [address] ; xor s1, [memo's page] ; cmp s1, 4096 - size ; ja look it up    (same page, and not across its end)
//!   mov s1, [memo's addend] ; op [address + s1]
//! ```
//! Words of the stack have memos too, flags or no flags (`rewrite/remembered.rs`): a hash that calls went from 449 to 425 ns
//! and a sort from 29.6 to 28.6 ms. What did not pay: to find hot code twice a millisecond by a timer (Lua 60 to 57 ms, but gcc 6.9
//! to 9.4 s), and to take memos away from accesses that miss often (zlib 81 to 92 ms: a look in a chain of loads
//! costs more than a wrong prediction).
//!
//! With memos in every unit, Lua ran a quarter faster, and gcc took 9.2 s in place of 6.2: code that is spread over
//! megabytes and runs seldom finds its memos neither filled nor in the processor's cache. So units are made without, and
//! anew with memos when a kick meets them at work; the kicks that a Guest's clock needs, a few hundred a second, find
//! what is hot soon enough. The supervisor's code never is for long: a call and a page fault pass through much of it.
//!
//! A memo says only what an entry of the tables said, and is forgotten when entries of users are taken away or another
//! address space comes: looking into the table marks the [`STRETCH`] of memos it wrote to, and those that are marked are
//! wiped before generated code runs again.

use crate::frame::{FrameMapping, MEMOS};
use crate::unit::Key;
use crate::vcpu::Vcpu;
use rustc_hash::FxHashSet;

/// Memos that are wiped together: a kilobyte.
pub const STRETCH: usize = 64;

/// A page that no address lies in: all addresses of a page have the same bits above bit 47.
const NO_PAGE: u64 = 1 << 63;

/// Hot units that are known, at most: far more than a program has hot places.
const HOT_LIMIT: usize = 1 << 14;

/// The books of one vCPU's memos.
#[derive(Debug, Default)]
pub struct Memos {
    /// How many are given to units.
    given: usize,
    /// Units that kicks met.
    hot: FxHashSet<Key>,
    /// All code of users is hot: for tests, which are over before a kick comes.
    pub all: bool,
}

impl Memos {
    /// A kick met this unit at work; true when it should be made anew.
    pub fn met(&mut self, key: Key) -> bool {
        if self.hot.len() >= HOT_LIMIT {
            self.hot.clear();
        }
        key.mode.user && self.hot.insert(key)
    }

    /// The first memo for a unit's code, and how many it may use.
    pub fn room(&self, key: &Key) -> (u32, u32) {
        let hot = self.all && key.mode.user || self.hot.contains(key);
        let free = if hot { MEMOS - self.given } else { 0 };
        (self.given as u32, free as u32)
    }

    /// Gives the unit that was just made what it uses.
    pub fn give(&mut self, count: u32, frames: &FrameMapping) {
        let end = self.given + count as usize;
        (self.given..end).for_each(|memo| frames.set_memo(memo, NO_PAGE));
        self.given = end;
    }

    /// Forgets what they say.
    pub fn wipe(&self, frames: &FrameMapping) {
        for stretch in 0..self.given.div_ceil(STRETCH) {
            if frames.take_memo_mark(stretch) {
                let end = self.given.min((stretch + 1) * STRETCH);
                (stretch * STRETCH..end).for_each(|memo| frames.set_memo(memo, NO_PAGE));
            }
        }
    }

    /// All units are gone.
    pub fn reset(&mut self) {
        self.given = 0;
    }
}

impl Vcpu {
    /// Makes users' code from now on as if it were hot, or no longer. For tests: a Guest cannot tell, and a program that
    /// runs for more than a moment is treated so anyway.
    pub fn take_all_code_for_hot(&mut self, yes: bool) {
        self.memos.all = yes;
    }
}
