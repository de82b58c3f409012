//! Known targets of user code on other pages: each has a slot of its own in every address space.
//!
//! Where such a jump leads depends on the mapping, so it goes through memory that belongs to the address space; but unlike
//! a computed jump it need not share a slot with others. What stands in a target's own slot was meant, so nothing is
//! checked there: four instructions and a taken branch less for a call of a function on another page, and no turns
//! taken with a target that has the same low bits.
//!
//! Measured (minima): gcc 9.4 to 8.6 s, python 162 to 145 ms, Lua 59 to 55, sqlite 131 to 124; a hash in one page did not
//! change.
//!
//! Slots are numbered as targets are met, in the order in which units are made, and a slot is written in each space when it is
//! given: as in the jump tables it holds the way to Rust until the target was found in that space.

use crate::frame::{BANK_SLOTS, BANKS, FrameMapping, JUMP_SLOTS, SPACES};
use rustc_hash::FxHashMap;

/// The numbers that are given.
#[derive(Debug, Default)]
pub struct Direct {
    numbers: FxHashMap<u64, u32>,
}

impl Direct {
    /// The number of a target's slot; a new one is to be [`Self::clear_from`]ed. None when all are given.
    pub fn give(&mut self, target: u64) -> Option<u32> {
        let next = self.numbers.len() as u32;
        match self.numbers.get(&target) {
            Some(&number) => Some(number),
            None if next as usize == JUMP_SLOTS => None,
            None => {
                self.numbers.insert(target, next);
                Some(next)
            }
        }
    }

    /// How many are given.
    pub fn given(&self) -> u32 {
        self.numbers.len() as u32
    }

    /// Place of a target's slot in a space, among the jump tables' entries.
    pub fn place(&self, space: usize, target: u64) -> Option<usize> {
        self.numbers.get(&target).map(|&number| place(space, number))
    }

    /// Sets the slots from number `first` on to the way to Rust, in every space.
    pub fn clear_from(&self, first: u32, jumps: &FrameMapping, lookup: u64) {
        (1..=SPACES).for_each(|space| self.clear_in(space, first, jumps, lookup));
    }

    /// The same in one space.
    pub fn clear_in(&self, space: usize, first: u32, jumps: &FrameMapping, lookup: u64) {
        (first..self.given()).for_each(|number| jumps.set_jump(place(space, number), lookup));
    }

    /// Takes all numbers back: the code that knows them is gone.
    pub fn reset(&mut self) {
        self.numbers.clear();
    }
}

/// Place of a slot among the jump tables' entries: behind them, laid out as they are.
fn place(space: usize, number: u32) -> usize {
    BANKS * BANK_SLOTS + space * JUMP_SLOTS + number as usize
}

/// Distance from the frame to a slot, less what the space's number adds.
pub fn distance(number: u32) -> i32 {
    (FrameMapping::JUMPS + 8 * place(0, number)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_keeps_its_number_and_no_two_have_one() {
        let mut direct = Direct::default();
        let numbers: Vec<_> = [0x1000, 0x11000, 0x1000].map(|target| direct.give(target).unwrap()).into();
        assert_eq!(numbers, [0, 1, 0]);
        assert_ne!(direct.place(1, 0x1000), direct.place(1, 0x11000));
        assert_ne!(direct.place(1, 0x1000), direct.place(2, 0x1000));
        assert_eq!(direct.place(1, 0x2000), None);
    }

    #[test]
    fn what_is_more_than_there_are_slots_has_none() {
        let mut direct = Direct::default();
        (0..JUMP_SLOTS as u64).for_each(|target| assert!(direct.give(target).is_some()));
        assert_eq!(direct.give(1 << 40), None);
        assert_eq!(direct.give(7), Some(7));
        direct.reset();
        assert_eq!(direct.give(1 << 40), Some(0));
    }
}
