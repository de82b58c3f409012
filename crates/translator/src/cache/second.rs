//! A second look for targets of user code whose slot in the jump table another target holds.
//!
//! A jump table has one slot for each value of a target's low sixteen bits, so two targets a multiple of 64 KiB apart
//! take turns in one. A program of a megabyte has many such pairs, and each turn was an exit to Rust: a benchmark of
//! sqlite made 2.7 million of them, which was half of its time. So each user space has a second, smaller table, of pairs of
//! a target and its code, found by another hash of the same address. A unit that finds it was not meant looks there.
//!
//! An empty pair is target 0 with the way to Rust as its code, so that it is right for whoever jumps to address 0.

use super::thunks::Thunks;
use crate::assemble::host::{FRAME, RAX, S0, S1};
use crate::assemble::{Code, Mem, cond};
use crate::frame::{Frame, FrameMapping, JUMP_SLOTS, PAIRS};
use std::mem::offset_of;

/// How far the hash brings the bits down that the jump table does not look at.
const SHIFT: u32 = PAIRS.trailing_zeros();

/// Bytes of a space's pairs by the slots of its jump table: what turns the frame's `jump_space` into a distance.
const SCALE: usize = PAIRS * 16 / JUMP_SLOTS;
const _: () = assert!(matches!(SCALE, 2 | 4 | 8));

/// The pair that a target may stand in.
pub fn place(pc: u64) -> usize {
    (pc ^ pc >> SHIFT) as usize & (PAIRS - 1)
}

/// Writes the thunk. Jumped to with a target in the first scratch register, from a unit of user code; the arithmetic
/// flags are the Guest's and stay.
///
/// The end may be interrupted anywhere and started over, as the landing of `calls.rs`: it reads memory only.
pub fn write(code: &mut Code, thunks: &mut Thunks, base: u64, lookup: usize) {
    let aside = Mem::frame(offset_of!(Frame, saved_flags));
    let kept = Mem::frame(offset_of!(Frame, kept));
    thunks.second = base + code.here() as u64;
    code.store(kept, RAX);
    code.flags_to_ax();
    code.store32(aside, RAX);
    code.mov(S1, S0);
    code.raw(&[0x49, 0xc1, 0xeb, SHIFT as u8]); // shr r11, SHIFT
    code.raw(&[0x4d, 0x31, 0xd3]); // xor r11, r10
    code.raw(&[0x41, 0x81, 0xe3]); // and r11d, PAIRS - 1
    code.raw(&(PAIRS as u32 - 1).to_le_bytes());
    code.raw(&[0x49, 0xc1, 0xe3, 4]); // shl r11, 4
    code.load32(RAX, Mem::frame(offset_of!(Frame, jump_space)));
    code.lea(true, S1, Mem { base: Some(S1), index: Some((RAX, SCALE as u8)), disp: 0 });
    let pair = |word: i32| Mem {
        base: Some(FRAME),
        index: Some((S1, 1)),
        disp: FrameMapping::PAIRS as i32 + 8 * word,
    };
    code.load(RAX, pair(0));
    code.raw(&[0x4c, 0x39, 0xd0]); // cmp rax, r10
    let other = code.jump_if(cond::NZ);
    code.load(RAX, pair(1));
    code.store(Mem::frame(offset_of!(Frame, second)), RAX);
    thunks.second_end_from = base + code.here() as u64;
    code.load(S1, Mem::frame(offset_of!(Frame, kick)));
    code.raw(&[0x41, 0x80, 0x3b, 0]); // cmp byte [r11], 0
    let kicked = code.jump_if(cond::NZ);
    put_back(code, aside, kept);
    code.jump_memory(Mem::frame(offset_of!(Frame, second)));
    thunks.second_end = base + code.here() as u64;
    let here = code.here();
    code.bind(other, here);
    code.bind(kicked, here);
    put_back(code, aside, kept);
    let jump = code.jump();
    code.bind(jump, lookup);
}

/// The flags and rax as they came.
fn put_back(code: &mut Code, aside: Mem, kept: Mem) {
    code.load32(RAX, aside);
    code.flags_from_ax();
    code.load(RAX, kept);
}
