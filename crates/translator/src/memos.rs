//! What an access found last time: the page it went to, and that page's addend.
//!
//! A look into the table must be over before the access can begin, and pointers that are followed wait for one look after
//! the other. But most instructions go where they went before. So each keeps a memo: a page and its addend. While the
//! page is the same, which the processor predicts, the access need not wait, and is six host instructions in place of eleven:
//!
//! ```text
//!   lea s1, [address] ; xor s1, [memo's page] ; cmp s1, 4096 - size ; ja look it up    (same page, and not across its end)
//!   mov s1, [memo's addend] ; op [address + s1]
//! ```
//! A memo says only what an entry of the tables said, and is forgotten when entries are taken away: looking into the
//! table notes in which [`STRETCH`] memos it wrote, and before generated code runs again after a loss, those are wiped.
//! The supervisor's memos keep high addresses only, which are the same in all its views; users' are forgotten when their
//! address space changes.

use crate::frame::{FrameMapping, MEMOS};
use crate::unit::Key;
use rustc_hash::FxHashMap;

/// Memos that are wiped together: a kilobyte.
pub const STRETCH: usize = 64;

/// A page that no address lies in: all addresses of a page have the same bits above bit 47.
pub const NO_PAGE: u64 = 1 << 63;

/// A half of the memos belongs to users' code, the other to the supervisor's.
const HALF: usize = MEMOS / 2;

/// The books of one vCPU's memos.
#[derive(Debug, Default)]
pub struct Memos {
    /// How many of each half are given to units: supervisor's, users'.
    given: [usize; 2],
    /// How often kicks met units.
    met: FxHashMap<Key, u8>,
}

/// Meetings that make a unit hot. Kicks come a few hundred times a second, most of them with a Guest's clock: so it has
/// used up about as many milliseconds as that takes.
const HOT: u8 = 2;

/// Units that are remembered as met, at most.
const MET_LIMIT: usize = 1 << 14;

impl Memos {
    /// The first memo that is free for a unit's code, and how many there are.
    pub fn free(&self, user: bool) -> (u32, u32) {
        let half = usize::from(user);
        ((half * HALF + self.given[half]) as u32, (HALF - self.given[half]) as u32)
    }

    /// Gives a unit the next ones.
    pub fn give(&mut self, user: bool, count: u32, frames: &FrameMapping) {
        let (first, _) = self.free(user);
        for memo in first..first + count {
            frames.set_memo(memo as usize, NO_PAGE);
        }
        self.given[usize::from(user)] += count as usize;
    }

    /// Forgets what the memos of users, or of the supervisor, say.
    pub fn forget(&self, user: bool, frames: &FrameMapping) {
        let half = usize::from(user);
        let first = half * HALF / STRETCH;
        for stretch in first..first + self.given[half].div_ceil(STRETCH) {
            if frames.take_memo_mark(stretch) {
                let start = stretch * STRETCH;
                let end = (start + STRETCH).min(half * HALF + self.given[half]);
                (start..end).for_each(|memo| frames.set_memo(memo, NO_PAGE));
            }
        }
    }

    /// A kick met this unit; true when it should be made anew.
    pub fn met(&mut self, key: Key) -> bool {
        if self.met.len() >= MET_LIMIT {
            self.met.clear();
        }
        let times = self.met.entry(key).or_default();
        *times = times.saturating_add(1);
        *times == HOT
    }

    /// Whether a unit should have memos.
    pub fn wanted(&self, key: &Key) -> bool {
        self.met.get(key).is_some_and(|&times| times >= HOT)
    }

    /// All units are gone.
    pub fn reset(&mut self) {
        self.given = [0; 2];
    }
}
