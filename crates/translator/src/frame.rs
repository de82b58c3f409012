//! What generated code reaches through the host's stack pointer: one vCPU's state and the jump tables behind it.
//!
//! ```text
//!   guard page | small stack (calls to thunks) | Frame | jump table of the kernel | jump tables of address spaces | ... | second tables | memos | marks | gates
//!                                              ^ rsp while the Guest runs
//! ```
//! There is a bank of jump tables for each of the modes that must not find each other's units ([`BANKS`]).
//! The host's `rsp` is the only register that generated code, the host kernel's signal frames and Rust agree on, so
//! it points here; the Guest's stack pointer lives in another register. Everything a unit touches without a
//! Guest's memory access is `[rsp + constant]`.

#![allow(unsafe_code)] // One mapping, made and freed here.

use crate::SetupError;
use crate::cache::calls::Calls;
use crate::cache::gates::GATES;
use crate::cache::returns::Returns;
use crate::cpu::{Cpu, flags};
use crate::memos::STRETCH;
use std::mem::offset_of;

/// Entries in one jump table: one for each value of a target's low sixteen bits, the hash that `movzx` computes.
pub const JUMP_SLOTS: usize = 1 << 16;

/// Address spaces that keep their user-side tables at the same time. Linux rotates six PCIDs; eight covers it.
pub const SPACES: usize = 8;

/// Banks of jump tables: 64-bit code; 32-bit code; 32-bit code between supervisor and user.
pub const BANKS: usize = 3;

/// Slots of one bank.
pub const BANK_SLOTS: usize = (1 + SPACES) * JUMP_SLOTS;

/// Pairs of a target and its code in one user space's second table: see `cache/second.rs`.
pub const PAIRS: usize = 1 << 15;

/// Bytes of all second tables; the supervisor's place stays empty, so that one multiplication finds a space's.
const ALL_PAIRS: usize = (1 + SPACES) * PAIRS * 16;

/// Memos of all units: see `memos.rs`. As many as the code of a full arena has accesses.
pub const MEMOS: usize = 1 << 20;

/// Spans of one unit at most: see `spans.rs`.
pub const SPANS: usize = 16;

/// Room for calls to thunks, which push eight bytes, and for a signal whose handler asked for no stack of its own: its
/// frame takes 3.5 KiB with AVX-512 and 11 KiB with AMX state, and the handler something on top. Only touched pages exist.
const STACK: usize = 32 << 10;

/// Where a frame may end. Generated code reads `gs:[frame + page * 8]`, and a processor (a Zen 4, seen) may raise #GP when that
/// sum is not canonical, though with gs it is: the frame is kept away from the end of the addresses that a process has.
const HIGHEST: usize = 1 << 46;
/// Multiples of this are asked for, one after the other: far below where the kernel puts what nobody wishes anywhere.
const WISH: usize = 1 << 36;
/// How many of them.
const WISHES: usize = 512;

/// See the module's drawing. The first fields sit where an 8-bit displacement reaches them.
#[repr(C, align(64))]
pub struct Frame {
    /// Bits 12 to 47: what `pext` makes a page number of.
    pub page_mask: u64,
    /// Bits 0 to 2: what must be clear in an aligned stack pointer.
    pub stack_mask: u64,
    /// Arithmetic flags that a memory access inside a unit set aside, as `lahf; seto al` gives them.
    pub saved_flags: u32,
    /// First entry of the current address space's jump table, counted from the kernel's.
    pub jump_space: u32,
    /// The first of a unit's spans, as `spans` holds the others: four of five accesses through a span are through the first.
    pub first_span: u64,
    /// Architectural state; its general registers come first, and those that live in memory are the last to be reached by an
    /// 8-bit displacement.
    pub cpu: Cpu,
    /// A Guest register lent to a rewritten instruction.
    pub borrowed: u64,
    /// Bits 0 and 1: what must be clear in an aligned stack pointer of 32-bit code.
    pub narrow_stack_mask: u64,
    /// Arithmetic flags at the last exit, as `lahf; seto al` gives them.
    pub flags: u32,
    /// Why generated code came back: a [`crate::cache::thunks::Reason`].
    pub reason: u32,
    /// Return address of the call into a thunk: a site number stands there.
    pub site: u64,
    /// First scratch register at the last exit: an effective address or a jump target.
    pub scratch: u64,
    /// Where `enter` jumps to.
    pub target: u64,
    /// Address of the byte that says a kick is pending.
    pub kick: u64,
    /// Not zero while the Host waits for a chance to interrupt.
    pub window: u32,
    /// What gs holds.
    pub view: u64,
    /// What gs holds at CPL 0 with the AC flag set.
    pub view_with_user: u64,
    /// What gs holds at CPL 0 with the AC flag clear.
    pub view_without_user: u64,
    /// What gs holds at CPL 3.
    pub view_of_user: u64,
    /// What `syscall` and `sysret` load.
    pub calls: Calls,
    /// What `iretq` loaded before.
    pub returns: Returns,
    /// A jump target or value kept over a push.
    pub kept: u64,
    /// Addends that accesses of one span share; in a span of a known page, the page's host address. The first is `first_span`.
    pub spans: [u64; SPANS - 1],
    /// Registers that gave way in the unit that runs: see `swaps.rs`.
    pub swapped: [u64; crate::swaps::COUNT],
    /// First offset in FS, and in GS, that 32-bit code may not use without Rust's look at the segment.
    pub reach: [u64; 2],
    /// Where a second look goes on.
    pub second: u64,
    /// The host's stack pointer while the Guest runs.
    pub host_rsp: u64,
    /// The Guest's MXCSR while Rust runs.
    pub mxcsr: u32,
    /// The host's MXCSR.
    pub host_mxcsr: u32,
    /// Host address and signal of a fault in generated code.
    pub fault: Fault,
    /// Which lanes above the xmm registers may hold something other than zero in some register of the first sixteen: see
    /// [`YMM_LANES`] and [`ZMM_LANES`].
    pub wide: u32,
    /// Not zero when all of AVX-512's registers are in the processor while the Guest runs: see `cache/wide.rs`.
    pub awake: u32,
    /// zmm0 to zmm31 while Rust runs.
    pub vectors: [[u8; 64]; 32],
    /// k0 to k7 while Rust runs, or sleep.
    pub masks: [u64; 8],
}

/// Bits of [`Frame::wide`] for the upper halves of ymm registers: one for each lane of 64 bits.
pub const YMM_LANES: u32 = 0b11;

/// Bits of [`Frame::wide`] for the upper halves of zmm registers.
pub const ZMM_LANES: u32 = 0b11_1100;

/// A host signal that generated code caused.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Fault {
    /// Host instruction.
    pub rip: u64,
    /// Faulting host address, or 0 when the processor did not name one.
    pub address: u64,
    /// Signal number.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
}

impl Frame {
    /// Offset of a span's slot.
    pub fn span(slot: usize) -> usize {
        match slot.checked_sub(1) {
            None => offset_of!(Frame, first_span),
            Some(other) => offset_of!(Frame, spans) + 8 * other,
        }
    }

    /// Offset of a general register's place in memory.
    pub fn gpr(number: usize) -> usize {
        offset_of!(Frame, cpu) + offset_of!(Cpu, gpr) + 8 * number
    }
}

/// The arithmetic flags as `lahf; seto al` leave them in ax.
pub fn pack_flags(rflags: u64) -> u32 {
    let low = (rflags & 0xff) as u32;
    low << 8 | u32::from(rflags & flags::OF != 0)
}

/// The arithmetic flags back in their places.
pub fn unpack_flags(ax: u32) -> u64 {
    let low = u64::from(ax >> 8) & (flags::CF | flags::PF | flags::AF | flags::ZF | flags::SF);
    low | if ax & 1 != 0 { flags::OF } else { 0 }
}

/// The mapping of the module's drawing.
pub struct FrameMapping {
    start: *mut u8,
    length: usize,
}

// SAFETY: the mapping is owned; it moves between threads with its vCPU.
unsafe impl Send for FrameMapping {}

impl FrameMapping {
    const FRAME: usize = 2 * STACK;
    /// Distance from the frame to the first jump table.
    pub const JUMPS: usize = size_of::<Frame>().next_multiple_of(4096);

    /// Distance from the frame to the first second table.
    pub const PAIRS: usize = Self::JUMPS + BANKS * BANK_SLOTS * 8;

    /// Distance from the frame to the memos, sixteen bytes each: a page and its addend.
    pub const MEMOS: usize = Self::PAIRS + ALL_PAIRS;

    /// Distance from the frame to the marks, a byte for each stretch of memos.
    pub const MEMO_MARKS: usize = Self::MEMOS + 16 * MEMOS;

    /// Distance from the frame to the bytes of gates, one for each gate in each space: see `cache/gates.rs`. The supervisor's
    /// place stays empty.
    pub const GATES: usize = Self::MEMO_MARKS + MEMOS / STRETCH;

    /// Maps a frame of zeros.
    pub fn new() -> Result<FrameMapping, SetupError> {
        let length = Self::FRAME + Self::GATES + (1 + SPACES) * GATES;
        let wishes = (1..=WISHES).map(|n| std::ptr::without_provenance_mut::<u8>(n * WISH));
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        for wish in wishes {
            // SAFETY: a fresh private mapping, where it is wished for if nothing is there, else where the kernel likes.
            let start = unsafe { libc::mmap(wish.cast(), length, protection, flags, -1, 0) };
            if start == libc::MAP_FAILED {
                break;
            }
            let mapping = FrameMapping { start: start.cast(), length };
            if mapping.start as usize + length <= HIGHEST {
                // SAFETY: the first page of the mapping just made; it only becomes a guard.
                unsafe { libc::mprotect(start, STACK, libc::PROT_NONE) };
                return Ok(mapping);
            }
        }
        Err(SetupError::host("cannot map a vCPU's state"))
    }

    /// The frame. Generated code and Rust take turns with it on one thread.
    pub fn frame(&self) -> *mut Frame {
        self.start.wrapping_add(Self::FRAME).cast()
    }

    /// Entry `index` of the jump tables, counted from the kernel's first.
    pub fn jump(&self, index: usize) -> *mut u64 {
        assert!(index < BANKS * BANK_SLOTS);
        self.start.wrapping_add(Self::FRAME + Self::JUMPS + 8 * index).cast()
    }

    /// Sets entry `index` of the jump tables.
    pub fn set_jump(&self, index: usize, host: u64) {
        // SAFETY: `jump` checked the index; the tables are only touched by the vCPU's thread.
        unsafe { self.jump(index).write(host) };
    }

    /// Sets entry `index` if it is `old`.
    pub fn replace(&self, index: usize, old: u64, new: u64) {
        // SAFETY: as above.
        if unsafe { self.jump(index).read() } == old {
            self.set_jump(index, new);
        }
    }

    /// Pair `index` of a user space's second table (spaces count from 1): a target and its code.
    fn pair(&self, space: usize, index: usize) -> *mut [u64; 2] {
        assert!(space <= SPACES && index < PAIRS);
        self.start.wrapping_add(Self::FRAME + Self::PAIRS + 16 * (space * PAIRS + index)).cast()
    }

    /// What stands there.
    pub fn get_pair(&self, space: usize, index: usize) -> [u64; 2] {
        // SAFETY: `pair` checked the place; the tables are only touched by the vCPU's thread.
        unsafe { self.pair(space, index).read() }
    }

    /// Sets it.
    pub fn set_pair(&self, space: usize, index: usize, pair: [u64; 2]) {
        // SAFETY: as above.
        unsafe { self.pair(space, index).write(pair) };
    }

    /// Lets a memo say that its access went to `page`, or nowhere.
    pub fn set_memo(&self, memo: usize, page: u64) {
        assert!(memo < MEMOS);
        let place = self.start.wrapping_add(Self::FRAME + Self::MEMOS + 16 * memo).cast::<u64>();
        // SAFETY: the number was checked; the memos are only touched by the vCPU's thread.
        unsafe { place.write(page) };
    }

    /// Whether generated code wrote a memo of this stretch since it was last asked.
    pub fn take_memo_mark(&self, stretch: usize) -> bool {
        assert!(stretch < MEMOS / STRETCH);
        let place = self.start.wrapping_add(Self::FRAME + Self::MEMO_MARKS + stretch);
        // SAFETY: the number was checked; the marks are only touched by the vCPU's thread.
        unsafe { place.replace(0) != 0 }
    }

    /// Opens a gate in a user space (spaces count from 1), or closes it.
    pub fn set_gate(&self, space: usize, gate: u16, open: bool) {
        assert!(space <= SPACES);
        let place = self.start.wrapping_add(Self::FRAME + Self::GATES + space * GATES + usize::from(gate));
        // SAFETY: both numbers are in range; the bytes are only touched by the vCPU's thread.
        unsafe { place.write(u8::from(!open)) };
    }

    /// Sets all entries of one table, counted from the first bank's first.
    pub fn fill_jumps(&self, table: usize, host: u64) {
        for slot in 0..JUMP_SLOTS {
            self.set_jump(table * JUMP_SLOTS + slot, host);
        }
    }
}

impl Drop for FrameMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`; its vCPU is gone.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}
