//! The doors between Rust and generated code: one way in, one way out, and a small entrance hall for each reason.

use super::arena::Arena;
use super::wide::{has_wide_vectors, load_if_awake, store_if_awake};
use super::{calls, returns};
use crate::SetupError;
use crate::assemble::host::{FRAME, GUEST_RSP, RAX, S0};
use crate::assemble::{Code, Mem, Patch, Reg, cond};
use crate::frame::Frame;
use std::mem::offset_of;

/// Why generated code came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// The unit for the Guest address in the scratch register is not in the jump table.
    Lookup = 0,
    /// A memory access found no usable entry.
    Slow = 1,
    /// A direct exit wants to be linked.
    Link = 2,
    /// An instruction for Rust.
    System = 3,
    /// A played instruction is done.
    Played = 4,
    /// The host raised a signal inside a unit: see the frame's `fault`.
    Fault = 5,
    /// A kick came while the way in was being walked; no unit has run.
    Kicked = 6,
}

impl Reason {
    /// The reason the frame's number stands for.
    pub fn from_number(number: u32) -> Reason {
        match number {
            0 => Reason::Lookup,
            1 => Reason::Slow,
            2 => Reason::Link,
            3 => Reason::System,
            4 => Reason::Played,
            5 => Reason::Fault,
            6 => Reason::Kicked,
            _ => unreachable!("only thunks write the reason"),
        }
    }
}

/// Host addresses of the thunks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Thunks {
    /// `extern "sysv64" fn(frame)`: runs generated code from the frame's target on; returns when it leaves.
    pub enter: u64,
    /// End of the way in: a kick before it redirects the frame's target.
    pub enter_end: u64,
    /// Jumped to with a Guest address in the first scratch register.
    pub lookup: u64,
    /// Called: see [`Reason::Slow`].
    pub slow: u64,
    /// Called: see [`Reason::Link`].
    pub link: u64,
    /// Called: see [`Reason::System`].
    pub system: u64,
    /// Called: see [`Reason::Played`].
    pub played: u64,
    /// Resumed at by the signal handler.
    pub fault: u64,
    /// Jumped to in place of the target.
    pub kicked: u64,
    /// Jumped to: see `calls.rs`.
    pub syscall: u64,
    /// Likewise.
    pub sysret: u64,
    /// Called: see `returns.rs`.
    pub iret: u64,
    /// Where all of them arrive; a kick between here and the end starts over here.
    pub landing: u64,
    /// The end of it.
    pub landing_end: u64,
}

/// Guest registers with a host register of their own.
const HOMES: [(usize, Reg); 13] = [
    (1, Reg(1)),
    (2, Reg(2)),
    (3, Reg(3)),
    (5, Reg(5)),
    (6, Reg(6)),
    (7, Reg(7)),
    (8, Reg(8)),
    (4, GUEST_RSP),
    (12, Reg(12)),
    (13, Reg(13)),
    (14, Reg(14)),
    (15, Reg(15)),
    (0, RAX),
];

/// Registers the System V ABI makes us keep.
const CALLEE_SAVED: [Reg; 6] = [Reg(3), Reg(5), Reg(12), Reg(13), Reg(14), Reg(15)];

/// Writes the thunks at the arena's start.
pub fn write(arena: &mut Arena) -> Result<Thunks, SetupError> {
    let base = arena.address(arena.used());
    let mut code = Code::default();
    let at = |code: &Code| base + code.here() as u64;
    let out = code.here();
    way_out(&mut code);
    let mut thunks = Thunks::default();
    let called = |code: &mut Code, reason: Reason| {
        let here = at(code);
        code.pop_memory(Mem::frame(offset_of!(Frame, site)));
        hall(code, reason, out);
        here
    };
    thunks.slow = called(&mut code, Reason::Slow);
    thunks.link = called(&mut code, Reason::Link);
    thunks.system = called(&mut code, Reason::System);
    let system = code.here();
    hall(&mut code, Reason::System, out);
    thunks.played = called(&mut code, Reason::Played);
    let jumped = |code: &mut Code, reason: Reason| {
        let here = at(code);
        hall(code, reason, out);
        here
    };
    thunks.lookup = jumped(&mut code, Reason::Lookup);
    thunks.fault = jumped(&mut code, Reason::Fault);
    thunks.kicked = jumped(&mut code, Reason::Kicked);
    calls::write(&mut code, &mut thunks, base);
    returns::write(&mut code, &mut thunks, base, system);
    thunks.enter = at(&code);
    way_in(&mut code, thunks.kicked);
    thunks.enter_end = at(&code);
    arena.append(&code.bytes).ok_or(SetupError::Processor("room for its thunks"))?;
    Ok(thunks)
}

fn hall(code: &mut Code, reason: Reason, out: usize) {
    code.store32_immediate(Mem::frame(offset_of!(Frame, reason)), reason as u32);
    let jump: Patch = code.jump();
    code.bind(jump, out);
}

/// Saves what the ABI wants kept, changes to the frame's stack and loads the Guest: vectors, flags, registers. A kick
/// that came before is seen here; one that comes from here on finds the handler, which redirects the target.
fn way_in(code: &mut Code, kicked: u64) {
    const RDI: Reg = Reg(7);
    for register in CALLEE_SAVED {
        push(code, register);
    }
    code.store(Mem::at(RDI, offset_of!(Frame, host_rsp) as i32), FRAME);
    code.mov(FRAME, RDI);
    code.load(RAX, Mem::frame(offset_of!(Frame, kick)));
    code.raw(&[0x80, 0x38, 0]); // cmp byte [rax], 0
    let calm = code.jump_if(cond::Z);
    code.constant(RAX, kicked);
    code.store(Mem::frame(offset_of!(Frame, target)), RAX);
    let here = code.here();
    code.bind(calm, here);
    code.stmxcsr(Mem::frame(offset_of!(Frame, host_mxcsr)));
    load_vectors(code);
    code.ldmxcsr(Mem::frame(offset_of!(Frame, mxcsr)));
    code.load32(RAX, Mem::frame(offset_of!(Frame, flags)));
    code.flags_from_ax();
    code.load(S0, Mem::frame(offset_of!(Frame, scratch)));
    for (guest, register) in HOMES {
        code.load(register, Mem::frame(Frame::gpr(guest)));
    }
    code.jump_memory(Mem::frame(offset_of!(Frame, target)));
}

/// The reverse.
fn way_out(code: &mut Code) {
    for (guest, register) in HOMES {
        code.store(Mem::frame(Frame::gpr(guest)), register);
    }
    code.store(Mem::frame(offset_of!(Frame, scratch)), S0);
    code.flags_to_ax();
    code.store32(Mem::frame(offset_of!(Frame, flags)), RAX);
    store_vectors(code);
    code.stmxcsr(Mem::frame(offset_of!(Frame, mxcsr)));
    code.ldmxcsr(Mem::frame(offset_of!(Frame, host_mxcsr)));
    code.load(FRAME, Mem::frame(offset_of!(Frame, host_rsp)));
    for register in CALLEE_SAVED.into_iter().rev() {
        pop(code, register);
    }
    code.raw(&[0xc3]); // ret
}

/// Loads the Guest's vectors, upper halves only if they hold something: a processor whose upper halves are dirty makes
/// each SSE instruction wait for its destination's old value (a loop of divisions took 3.7 ns a round instead of 0.9).
/// AVX-512's part of them follows rules of its own: see `wide.rs`.
fn load_vectors(code: &mut Code) {
    let done_wide = has_wide_vectors().then(|| load_if_awake(code));
    code.cmp32_memory(Mem::frame(offset_of!(Frame, wide)), 0);
    let narrow = code.jump_if(cond::Z);
    code.vectors(Mem::frame(offset_of!(Frame, vectors)), 32, false);
    let done = code.jump();
    let here = code.here();
    code.bind(narrow, here);
    code.vzeroupper();
    code.vectors(Mem::frame(offset_of!(Frame, vectors)), 16, false);
    let here = code.here();
    code.bind(done, here);
    done_wide.into_iter().for_each(|jump| code.bind(jump, here));
}

/// Stores the Guest's vectors, and finds out whether any upper half holds something. The processor's own word for it
/// (XGETBV with 1 in ecx) stays "yes" on AMD once an upper half was ever written, so the halves are looked at: all of
/// them or-ed together, once they are stored.
fn store_vectors(code: &mut Code) {
    let done_wide = has_wide_vectors().then(|| store_if_awake(code));
    code.vectors(Mem::frame(offset_of!(Frame, vectors)), 32, true);
    for n in 1..8 {
        // vorps ymm0, ymm0, ymmN; vorps ymm8, ymm8, ymm(8+N)
        code.raw(&[0xc5, 0xfc, 0x56, 0xc0 | n]);
        code.raw(&[0xc4, 0x41, 0x3c, 0x56, 0xc0 | n]);
    }
    code.raw(&[0xc4, 0xc1, 0x7c, 0x56, 0xc0]); // vorps ymm0, ymm0, ymm8
    code.raw(&[0xc4, 0xe3, 0x7d, 0x19, 0xc0, 0x01]); // vextractf128 xmm0, ymm0, 1
    code.raw(&[0xc4, 0xe2, 0x79, 0x17, 0xc0]); // vptest xmm0, xmm0
    code.raw(&[0x0f, 0x95, 0xc0, 0x0f, 0xb6, 0xc0]); // setnz al; movzx eax, al
    let here = code.here();
    done_wide.into_iter().for_each(|jump| code.bind(jump, here));
    code.store32(Mem::frame(offset_of!(Frame, wide)), RAX);
    code.vzeroupper();
}

fn push(code: &mut Code, register: Reg) {
    if register.0 >= 8 {
        code.raw(&[0x41]);
    }
    code.raw(&[0x50 | register.0 & 7]);
}

fn pop(code: &mut Code, register: Reg) {
    if register.0 >= 8 {
        code.raw(&[0x41]);
    }
    code.raw(&[0x58 | register.0 & 7]);
}
