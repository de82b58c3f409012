//! What a processor raises when an instruction cannot go on (SDM vol. 3, 6.15; APM vol. 2, 8.2).
//!
//! An [`Exception`] is a value: functions return it, and `deliver.rs` turns it into a call of the Guest's handler.
//! A [`Refusal`] is the wider answer of the few instructions that can also end the machine.

use crate::exit::Death;

/// An exception that has been raised and not yet delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Which one, 0 to 31.
    pub vector: u8,
    /// What is pushed for the handler, for those that push something.
    pub error_code: Option<u32>,
    /// The address that goes to CR2: page faults only.
    pub cr2: Option<u64>,
}

/// Vector numbers by their manual names.
pub mod vectors {
    /// Divide error.
    pub const DE: u8 = 0;
    /// Debug.
    pub const DB: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Breakpoint.
    pub const BP: u8 = 3;
    /// Overflow.
    pub const OF: u8 = 4;
    /// `bound` exceeded.
    pub const BR: u8 = 5;
    /// Invalid instruction.
    pub const UD: u8 = 6;
    /// Floating-point unit not available.
    pub const NM: u8 = 7;
    /// Double fault.
    pub const DF: u8 = 8;
    /// Invalid task-state segment.
    pub const TS: u8 = 10;
    /// Segment not present.
    pub const NP: u8 = 11;
    /// Stack.
    pub const SS: u8 = 12;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
    /// x87 floating point.
    pub const MF: u8 = 16;
    /// Alignment check.
    pub const AC: u8 = 17;
    /// Machine check.
    pub const MC: u8 = 18;
    /// SSE floating point.
    pub const XM: u8 = 19;
}

/// Bits of a page fault's error code (SDM vol. 3, figure 4-12).
pub mod page_fault {
    /// The page was there; the access was not allowed.
    pub const PRESENT: u32 = 1;
    /// The access was a write.
    pub const WRITE: u32 = 1 << 1;
    /// The access was made in user mode.
    pub const USER: u32 = 1 << 2;
    /// A table entry had a reserved bit set.
    pub const RESERVED: u32 = 1 << 3;
    /// The access was an instruction fetch.
    pub const FETCH: u32 = 1 << 4;
}

impl Exception {
    const fn plain(vector: u8) -> Exception {
        Exception { vector, error_code: None, cr2: None }
    }

    const fn coded(vector: u8, code: u32) -> Exception {
        Exception { vector, error_code: Some(code), cr2: None }
    }

    /// Divide error.
    pub const fn de() -> Exception {
        Exception::plain(vectors::DE)
    }
    /// Debug: a fault or a trap; for a trap the caller moves `rip` on before delivering.
    pub const fn db() -> Exception {
        Exception::plain(vectors::DB)
    }
    /// Breakpoint, when it needs no privilege check; `int3` itself is `Event::Software`.
    pub const fn bp() -> Exception {
        Exception::plain(vectors::BP)
    }
    /// Overflow.
    pub const fn of() -> Exception {
        Exception::plain(vectors::OF)
    }
    /// `bound` exceeded.
    pub const fn br() -> Exception {
        Exception::plain(vectors::BR)
    }
    /// Invalid instruction.
    pub const fn ud() -> Exception {
        Exception::plain(vectors::UD)
    }
    /// The floating-point unit is switched off by CR0.TS or CR0.EM.
    pub const fn nm() -> Exception {
        Exception::plain(vectors::NM)
    }
    /// Double fault; its error code is always zero.
    pub const fn df() -> Exception {
        Exception::coded(vectors::DF, 0)
    }
    /// Invalid task-state segment.
    pub const fn ts(code: u32) -> Exception {
        Exception::coded(vectors::TS, code)
    }
    /// Segment not present.
    pub const fn np(code: u32) -> Exception {
        Exception::coded(vectors::NP, code)
    }
    /// Stack-segment fault.
    pub const fn ss(code: u32) -> Exception {
        Exception::coded(vectors::SS, code)
    }
    /// General protection.
    pub const fn gp(code: u32) -> Exception {
        Exception::coded(vectors::GP, code)
    }
    /// Page fault at `address` with the bits of [`page_fault`].
    pub const fn pf(address: u64, code: u32) -> Exception {
        Exception { vector: vectors::PF, error_code: Some(code), cr2: Some(address) }
    }
    /// x87 floating-point error.
    pub const fn mf() -> Exception {
        Exception::plain(vectors::MF)
    }
    /// Alignment check; its error code is always zero.
    pub const fn ac() -> Exception {
        Exception::coded(vectors::AC, 0)
    }
    /// SSE floating-point error.
    pub const fn xm() -> Exception {
        Exception::plain(vectors::XM)
    }
}

/// Why an instruction of this crate's system rooms did not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The Guest gets an exception; the instruction changed nothing.
    Exception(Exception),
    /// The machine cannot go on.
    Dead(Death),
}

impl From<Exception> for Refusal {
    fn from(exception: Exception) -> Refusal {
        Refusal::Exception(exception)
    }
}
