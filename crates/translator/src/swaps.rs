//! Registers that a unit uses more than others: they change places with some that it uses less.
//!
//! Guest r9, r10 and r11 live in the frame, because compiled code uses them least. A loop that keeps its sums there pays a
//! store and a load a step, one waiting for the other (a hash of a dozen variables took 640 to 1,900 ns for 360). So a
//! unit that uses them often lets each change places with a register that it uses less, on its way in, and back on
//! every way out. A loop that jumps to its own beginning stays swapped.
//!
//! ```text
//!   in    mov [swapped], r14 ; mov r14, [r9's place]      r14 is now what the Guest calls r9
//!   out   mov [r9's place], r14 ; mov r14, [swapped]
//! ```
//! Rust finds registers where they belong: a unit's stubs and faults tell which unit it was, and the unit how it swapped.

use crate::classify::Class;
use crate::cpu::{RBP, RBX};
use crate::unit::UnitIndex;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

/// The first of the registers that live in the frame; the other two follow.
pub const FIRST: u8 = 9;

/// How many they are.
pub const COUNT: usize = 3;

/// Registers that may give way: those that few instructions use without naming them.
const CANDIDATES: [usize; 7] = [15, 14, 13, 12, 8, RBP, RBX];

/// Uses from which on a swap can pay: it costs two moves on the way in and two on the way out.
const WORTH: u32 = 4;

/// Which host register each of the frame's registers is in; 0 (no candidate) for those that stayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swaps(pub [u8; COUNT]);

/// Where a Guest register is, as a unit sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// Where it belongs.
    Usual,
    /// In this host register.
    Host(u8),
    /// Swapped out: at this place of [`crate::frame::Frame::swapped`].
    Out(usize),
}

impl Swaps {
    /// No register moved.
    pub fn none(self) -> bool {
        self == Swaps::default()
    }

    /// Pairs of a Guest register of the frame and the host register it is in.
    pub fn pairs(self) -> impl Iterator<Item = (usize, usize)> {
        let pair = |(n, host): (usize, u8)| (host != 0).then_some((n + usize::from(FIRST), host.into()));
        self.0.into_iter().enumerate().filter_map(pair)
    }

    /// Where to find a Guest register.
    pub fn find(self, guest: u8) -> Whereabouts {
        match self.0.iter().position(|&host| host != 0 && host == guest) {
            Some(place) => Whereabouts::Out(place),
            None => match guest.checked_sub(FIRST).and_then(|n| self.0.get(usize::from(n))) {
                Some(&host) if host != 0 => Whereabouts::Host(host),
                _ => Whereabouts::Usual,
            },
        }
    }
}

/// Chooses a unit's swaps. A unit that asks Rust for an instruction has none: Rust would have to swap each time.
pub fn choose(block: &[(Instruction, Class)]) -> Swaps {
    let mut uses = [0; 16];
    let mut taken = [false; 16];
    for (instruction, class) in block {
        if matches!(class, Class::System | Class::Undefined) {
            return Swaps::default();
        }
        count(instruction, &mut uses);
        reserve(instruction, &mut taken);
    }
    let mut swaps = Swaps::default();
    let mut order = [0, 1, 2];
    order.sort_by_key(|&n| std::cmp::Reverse(uses[n + usize::from(FIRST)]));
    for n in order {
        let wanted: u32 = uses[n + usize::from(FIRST)];
        let least = CANDIDATES.into_iter().filter(|&c| !taken[c]).min_by_key(|&c| uses[c]);
        let Some(host) = least else { break };
        if wanted < uses[host] + WORTH {
            break;
        }
        taken[host] = true;
        swaps.0[n] = host as u8;
    }
    swaps
}

fn count(instruction: &Instruction, uses: &mut [u32; 16]) {
    for n in 0..instruction.op_count() {
        let register = instruction.op_register(n);
        if instruction.op_kind(n) == OpKind::Register && register.is_gpr() {
            // The first operand is written as well, in most cases.
            uses[register.full_register().number()] += 1 + u32::from(n == 0);
        }
    }
    for register in [instruction.memory_base(), instruction.memory_index()] {
        if register.is_gpr() {
            uses[register.full_register().number()] += 1;
        }
    }
}

/// Registers that an instruction uses without naming them, or by a name that only they have.
fn reserve(instruction: &Instruction, taken: &mut [bool; 16]) {
    match instruction.mnemonic() {
        M::Leave | M::Enter => taken[RBP] = true,
        M::Xlatb | M::Cmpxchg8b | M::Cmpxchg16b => taken[RBX] = true,
        _ => {}
    }
    let high = |n| instruction.op_kind(n) == OpKind::Register && instruction.op_register(n) == Register::BH;
    if (0..instruction.op_count()).any(high) {
        taken[RBX] = true;
    }
}

impl Vcpu {
    /// Puts the registers that a unit let change places back, before Rust looks at them.
    pub(crate) fn swap_back(&mut self, unit: UnitIndex) {
        let swaps = self.cache.unit(unit).swaps;
        let frame = self.frame();
        for (guest, host) in swaps.pairs() {
            frame.cpu.gpr[guest] = frame.cpu.gpr[host];
            frame.cpu.gpr[host] = frame.swapped[guest - usize::from(FIRST)];
        }
    }

    /// Lets them change places again, before the unit goes on in its middle.
    pub(crate) fn swap(&mut self, unit: UnitIndex) {
        let swaps = self.cache.unit(unit).swaps;
        let frame = self.frame();
        for (guest, host) in swaps.pairs() {
            frame.swapped[guest - usize::from(FIRST)] = frame.cpu.gpr[host];
            frame.cpu.gpr[host] = frame.cpu.gpr[guest];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::classify;
    use iced_x86::{Decoder, DecoderOptions};

    fn swaps(bytes: &[u8]) -> Swaps {
        let block: Vec<_> =
            Decoder::new(64, bytes, DecoderOptions::NONE).iter().map(|i| (i, classify(&i))).collect();
        choose(&block)
    }

    #[test]
    fn a_register_that_is_used_often_changes_places_with_one_that_is_not() {
        // add r9, rax; rol r9, 5; xor r9, r15
        let found = swaps(&[0x49, 0x01, 0xc1, 0x49, 0xc1, 0xc1, 0x05, 0x4d, 0x31, 0xf9]);
        assert_eq!(found, Swaps([14, 0, 0]), "r15 is used");
        assert_eq!(found.find(9), Whereabouts::Host(14));
        assert_eq!(found.find(14), Whereabouts::Out(0));
        assert_eq!(found.find(10), Whereabouts::Usual);
    }

    #[test]
    fn one_use_is_not_worth_it() {
        assert!(swaps(&[0x49, 0x01, 0xc1]).none());
    }

    #[test]
    fn a_unit_that_asks_rust_stays_as_it_is() {
        // add r9, rax; add r9, rax; add r9, rax; cpuid
        let add = [0x49, 0x01, 0xc1];
        assert!(!swaps(&[add, add, add].concat()).none());
        assert!(swaps(&[&[add, add, add].concat()[..], &[0x0f, 0xa2]].concat()).none());
    }
}
