//! One question to two processors, and its answer.

use crate::components::{XSAVE_BYTES, XSAVE_HEADER, YMM_UPPER, state as all_state, wide};
use crate::world::BYTES;

/// Flags that a comparison looks at by default: all but RF, which only a debugger can see.
pub const FLAGS_COMPARED: u64 = !(1 << 16);

/// What an instruction can read and write besides memory.
#[repr(C)]
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    /// General registers in encoding order.
    pub gpr: [u64; 16],
    /// The instruction pointer.
    pub rip: u64,
    /// The flags register.
    pub rflags: u64,
    /// Where FS-relative addresses begin.
    pub fs_base: u64,
    /// Where GS-relative addresses begin.
    pub gs_base: u64,
    /// x87, SSE, AVX and AVX-512 registers as `xsave` writes them.
    pub vectors: [u8; XSAVE_BYTES],
}

impl State {
    /// All zero; the x87 and SSE control words as after `fninit`.
    pub fn zero() -> State {
        let mut state =
            State { gpr: [0; 16], rip: 0, rflags: 0x202, fs_base: 0, gs_base: 0, vectors: [0; XSAVE_BYTES] };
        state.vectors[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        state.vectors[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        state.vectors[XSAVE_HEADER] = all_state() as u8;
        state
    }

    /// Takes away what 32-bit code does not have.
    pub fn narrow(&mut self) {
        for (number, register) in self.gpr.iter_mut().enumerate() {
            *register &= if number < 8 { 0xffff_ffff } else { 0 };
        }
        (self.fs_base, self.gs_base) = (0, 0);
    }

    /// Sets one of zmm0 to zmm31, as far as the host has it.
    pub fn set_zmm(&mut self, number: usize, value: [u64; 8]) {
        for (i, eight) in value.iter().enumerate() {
            let place = match (i, wide()) {
                (0..2, _) if number < 16 => 160 + number * 16 + i * 8,
                (0..4, _) if number < 16 => YMM_UPPER + number * 16 + (i - 2) * 8,
                (_, None) => continue,
                (_, Some(wide)) if number < 16 => wide.upper + number * 32 + (i - 4) * 8,
                (_, Some(wide)) => wide.more + (number - 16) * 64 + i * 8,
            };
            self.vectors[place..place + 8].copy_from_slice(&eight.to_le_bytes());
        }
    }

    /// Sets one of k0 to k7, if the host has it.
    pub fn set_mask(&mut self, number: usize, value: u64) {
        if let Some(wide) = wide() {
            let place = wide.masks + number * 8;
            self.vectors[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Writes the initial values where the header says that a part is in its initial state, so that images from two
    /// writers compare; and clears what no instruction's result is: the addresses of the last x87 instruction.
    pub fn settle_vectors(&mut self) {
        let present = self.vectors[XSAVE_HEADER];
        if present & 1 == 0 {
            self.vectors[0..24].fill(0);
            self.vectors[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
            self.vectors[32..160].fill(0);
        }
        if present & 2 == 0 {
            self.vectors[160..416].fill(0);
        }
        if present & 4 == 0 {
            self.vectors[YMM_UPPER..YMM_UPPER + 256].fill(0);
        }
        if let Some(wide) = wide() {
            for (component, place, bytes) in [(5, wide.masks, 64), (6, wide.upper, 512), (7, wide.more, 1024)]
            {
                if present >> component & 1 == 0 {
                    self.vectors[place..place + bytes].fill(0);
                }
            }
        }
        self.vectors[5..24].fill(0);
        self.vectors[28..32].fill(0);
        self.vectors[416..576].fill(0);
        for register in 0..8 {
            self.vectors[32 + register * 16 + 10..32 + register * 16 + 16].fill(0);
        }
    }
}

/// One question: run this code from this state over this memory.
#[derive(Clone)]
pub struct Case {
    /// The number that made it, for reports.
    pub seed: u64,
    /// Instructions, placed at `state.rip`; traps (`int3`) surround them.
    pub code: Vec<u8>,
    /// Registers before the first instruction.
    pub state: State,
    /// What fills the memory, see [`crate::world::fill`].
    pub memory_seed: u64,
    /// Eight-byte values put over that.
    pub patches: Vec<(u64, u64)>,
    /// Privilege level in the Guest: 3 or 0. Natively it is always 3.
    pub ring: u8,
    /// How wide the code is: 64 bits, or 32 in compatibility mode.
    pub bits: u32,
}

/// How many changed bytes an answer can hold: more than any one instruction writes, `rep` and `xsave` included.
pub const MOST_CHANGES: usize = 1024;

/// A byte of memory that is not what [`crate::world::fill`] put there.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// Index into the world's memory.
    pub index: u16,
    /// Its value.
    pub value: u8,
}

const _: () = assert!(BYTES <= 1 << 16, "an index fits 16 bits");

/// Where and how the code ended. Plain bytes, because it crosses from a child process in shared memory.
#[repr(C)]
#[derive(Clone)]
pub struct Outcome {
    /// Registers at the end.
    pub state: State,
    /// The exception that ended it; 3 (`int3`) is an ordinary end.
    pub vector: u64,
    /// Its error code, zero where it has none.
    pub error_code: u64,
    /// The faulting address of a page fault, else zero.
    pub fault_address: u64,
    /// How many of `changes` count; more than [`MOST_CHANGES`] when they did not fit.
    pub changed: u64,
    /// Bytes of memory that changed, by rising index.
    pub changes: [Change; MOST_CHANGES],
}

impl Outcome {
    /// Notes what differs between the memory as it was filled and as it is now. Allocates nothing.
    pub fn note_changes(&mut self, before: &[u8; BYTES], after: &[u8; BYTES]) {
        self.changed = 0;
        for place in 0..BYTES {
            if before[place] != after[place] {
                if let Some(change) = self.changes.get_mut(self.changed as usize) {
                    *change = Change { index: place as u16, value: after[place] };
                }
                self.changed += 1;
            }
        }
    }

    /// The changes that were noted.
    pub fn changes(&self) -> &[Change] {
        &self.changes[..(self.changed as usize).min(MOST_CHANGES)]
    }
}
