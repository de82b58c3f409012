//! `syscall` and `sysret` without leaving generated code.
//!
//! The rules stay in `events/syscall.rs`: whenever a register they depend on is written, Rust plays both instructions on a
//! copy of the state and keeps the segments they load ([`Calls`]). What is left to do here is the same for every call: flags,
//! privilege level, view, and a jump through the table of the level arrived at. A null system call took 267 ns with
//! two exits and takes about 200 without them.
//!
//! The landing may be interrupted anywhere and started over: it reads memory only, and what it changes last is the
//! Guest's to see. A kick that finds the thread there starts it over, and then it sees the kick.

use super::thunks::Thunks;
use crate::assemble::host::{FRAME, RAX, RCX, S0, S1};
use crate::assemble::{Code, Mem, cond};
use crate::cpu::segments::{CS, Segment};
use crate::cpu::{Cpu, R11, cr4, efer, flags};
use crate::events::syscall::{RETURNED, syscall, sysret};
use crate::frame::{Frame, FrameMapping};
use std::mem::offset_of;

/// What both instructions load, worked out in advance. Part of the frame.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Calls {
    /// Not zero when generated code may do them.
    pub ready: u32,
    /// First slot of the jump table to land through.
    pub landing: u32,
    /// Flags that `syscall` keeps.
    pub kept_flags: u64,
    /// CS and SS after `syscall`.
    pub kernel: [Segment; 2],
    /// CS and SS after `sysret`.
    pub user: [Segment; 2],
}

impl Calls {
    /// What the state's registers mean for the two instructions.
    pub fn of(cpu: &Cpu) -> Calls {
        let mut probe = cpu.clone();
        probe.segments[CS] = Segment::long_code(0, 0);
        probe.cpl = 0;
        probe.gpr[RCX.0 as usize] = 0;
        let returned = sysret(&mut probe, true).is_ok();
        let user = [probe.segments[CS], probe.segments[CS + 1]];
        let called = syscall(&mut probe, 0).is_ok();
        let kernel = [probe.segments[CS], probe.segments[CS + 1]];
        // The kernel must arrive without AC, whose view is not the one set here, and at an address that exists.
        let plain = cpu.sfmask & flags::AC != 0 || cpu.cr4 & cr4::SMAP == 0;
        let ready = returned && called && plain && cpu.efer & efer::SCE != 0;
        Calls { ready: ready.into(), landing: 0, kept_flags: !cpu.sfmask, kernel, user }
    }
}

const fn calls(field: usize) -> usize {
    offset_of!(Frame, calls) + field
}

pub(super) const fn cpu(field: usize) -> usize {
    offset_of!(Frame, cpu) + field
}

/// Puts the whole flags register into the first scratch register, the arithmetic ones from where they are aside.
pub fn flags_image(code: &mut Code) {
    let aside = Mem::frame(offset_of!(Frame, saved_flags));
    code.load32(S0, aside);
    code.load32(S1, aside);
    code.shr(S0, 8);
    code.and32(S0, (flags::ARITHMETIC & 0xff) as u32);
    code.and32(S1, 1);
    code.shl(S1, 11);
    code.or32(S0, S1);
    code.load32(S1, Mem::frame(cpu(offset_of!(Cpu, rflags))));
    code.and32(S1, !(flags::ARITHMETIC as u32));
    code.or32(S0, S1);
}

/// Says through which jump table to land: the kernel's, or that of the current space's users.
pub(super) fn land_at(code: &mut Code, level: u8) {
    if level == 0 {
        return code.store32_immediate(Mem::frame(calls(offset_of!(Calls, landing))), 0);
    }
    code.load32(S0, Mem::frame(offset_of!(Frame, jump_space)));
    code.store32(Mem::frame(calls(offset_of!(Calls, landing))), S0);
}

/// Writes the thunks. `syscall` is jumped to with the flags aside and the next instruction's address in the first scratch
/// register, `sysret` with a return address in rcx that is canonical.
pub fn write(code: &mut Code, thunks: &mut Thunks, base: u64) {
    let at = |code: &Code| base + code.here() as u64;
    thunks.syscall = at(code);
    code.mov(RCX, S0);
    flags_image(code);
    code.store(Mem::frame(Frame::gpr(R11)), S0);
    code.and_memory(S0, Mem::frame(calls(offset_of!(Calls, kept_flags))));
    code.store(Mem::frame(cpu(offset_of!(Cpu, rflags))), S0);
    code.load(S0, Mem::frame(cpu(offset_of!(Cpu, lstar))));
    code.store(Mem::frame(cpu(offset_of!(Cpu, rip))), S0);
    land_at(code, 0);
    change_level(code, 0, calls(offset_of!(Calls, kernel)), Some(offset_of!(Frame, view_without_user)));
    let join = code.jump();

    thunks.sysret = at(code);
    code.load32(S0, Mem::frame(Frame::gpr(R11)));
    code.and32(S0, RETURNED as u32);
    code.store(Mem::frame(cpu(offset_of!(Cpu, rflags))), S0);
    code.store(Mem::frame(cpu(offset_of!(Cpu, rip))), RCX);
    land_at(code, 3);
    change_level(code, 3, calls(offset_of!(Calls, user)), Some(offset_of!(Frame, view_of_user)));

    let here = code.here();
    code.bind(join, here);
    code.or_memory32(Mem::frame(cpu(offset_of!(Cpu, rflags))), flags::ALWAYS_ONE as u32);
    code.store(Mem::frame(offset_of!(Frame, kept)), RAX);
    land(code, thunks, base);
}

/// Segments, privilege level and view of the level that is entered. `segments` is the frame's field of CS and SS, `view`
/// that of the view, if it changes.
pub(super) fn change_level(code: &mut Code, level: u8, segments: usize, view: Option<usize>) {
    for word in 0..4 {
        code.load(S0, Mem::frame(segments + 8 * word));
        let place = offset_of!(Cpu, segments) + CS * size_of::<Segment>() + 8 * word;
        code.store(Mem::frame(cpu(place)), S0);
    }
    code.store8_immediate(Mem::frame(cpu(offset_of!(Cpu, cpl))), level);
    code.store8_immediate(Mem::frame(cpu(offset_of!(Cpu, interrupt_shadow))), 0);
    if let Some(view) = view {
        code.load(S0, Mem::frame(view));
        code.store(Mem::frame(offset_of!(Frame, view)), S0);
        code.wrgsbase(S0);
    }
}

/// Goes to the state's `rip` with its flags; to Rust, if somebody wants the vCPU.
fn land(code: &mut Code, thunks: &mut Thunks, base: u64) {
    thunks.landing = base + code.here() as u64;
    code.load(S1, Mem::frame(offset_of!(Frame, kick)));
    code.raw(&[0x41, 0x80, 0x3b, 0]); // cmp byte [r11], 0
    let kicked = code.jump_if(cond::NZ);
    code.cmp32_memory(Mem::frame(offset_of!(Frame, window)), 0);
    let wanted = code.jump_if(cond::NZ);
    settle(code);
    code.load32(S1, Mem::frame(calls(offset_of!(Calls, landing))));
    code.mov16(S1, S0);
    code.jump_memory(Mem { base: Some(FRAME), index: Some((S1, 8)), disp: FrameMapping::JUMPS as i32 });
    thunks.landing_end = base + code.here() as u64;
    let here = code.here();
    code.bind(kicked, here);
    code.bind(wanted, here);
    settle(code);
    let lookup = code.jump();
    let to = thunks.lookup.wrapping_sub(base) as usize;
    code.bind(lookup, to);
}

/// The state's arithmetic flags into the host's, rax from where it was kept, and `rip` into the first scratch register.
fn settle(code: &mut Code) {
    code.load32(RAX, Mem::frame(cpu(offset_of!(Cpu, rflags))));
    code.mov32(S1, RAX);
    code.shl(RAX, 8);
    code.shr(S1, 11);
    code.and32(S1, 1);
    code.or32(RAX, S1);
    code.flags_from_ax();
    code.load(RAX, Mem::frame(offset_of!(Frame, kept)));
    code.load(S0, Mem::frame(cpu(offset_of!(Cpu, rip))));
}
