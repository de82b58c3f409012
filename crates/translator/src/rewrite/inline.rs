//! System instructions whose common case is a move between the processor's state and a register: done in place.
//!
//! A kernel executes these as often as calls: an interrupt-safe lock is `pushf; pop; cli; ...; sti`. Leaving generated
//! code for each took half of a null system call's time (589 ns; 6.4 million exits in one run of guestbench). What
//! depends on privilege is known here, because a unit is translated for one privilege level.

use super::cold::Jumps;
use super::{Ask, Cold, Restore, Rewriter};
use crate::assemble::host::{GUEST_RSP, RAX, S0, S1};
use crate::assemble::{Mem, Reg, cond};
use crate::cache::calls::{Calls, flags_image};
use crate::cpu::segments::{DS, ES, FS, GS, Segment};
use crate::cpu::{Cpu, R11, flags};
use crate::frame::Frame;
use crate::rewrite::memory::segment_base;
use crate::rewrite::stack::Pushed;
use crate::unit::Part;
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};
use smallvec::smallvec;
use std::mem::offset_of;

const RDX: Reg = Reg(2);
const RCX: Reg = Reg(1);

/// Offset of a field of the architectural state in the frame.
const fn cpu(field: usize) -> usize {
    offset_of!(Frame, cpu) + field
}

impl Rewriter<'_> {
    /// Writes the instruction in place, if it is one of these and may be; says whether it did.
    pub(super) fn inline(&mut self, instruction: &Instruction) -> bool {
        let mode = self.key.mode;
        let kernel = !mode.user && !mode.middle && !mode.single();
        match instruction.mnemonic() {
            M::Swapgs if kernel && mode.long() => self.swap_gs(),
            M::Cli if kernel => self.change_flag(flags::IF, false),
            M::Sti if kernel && !self.last => self.allow_interrupts(),
            M::Stac if kernel => self.change_access(true),
            M::Clac if kernel => self.change_access(false),
            // Alone, nobody is waited for.
            M::Pause if !self.tools.several => self.code.raw(&[0xf3, 0x90]),
            M::Cld => self.change_flag(flags::DF, false),
            M::Std => self.change_flag(flags::DF, true),
            M::Pushfq if !mode.single() => self.push_flags(),
            M::Syscall if mode.user && mode.long() && !mode.single() => self.call_kernel(instruction),
            M::Sysretq if kernel => self.call_kernel(instruction),
            M::Iretq if kernel && mode.long() => self.return_from_handler(),
            M::Rdtsc | M::Rdtscp if !mode.clock_hidden => self.read_clock(instruction),
            M::Mov if kernel && mode.long() && instruction.op1_register().is_cr() => {
                return self.read_control(instruction);
            }
            M::Mov | M::Pop if mode.middle && self.reloads_segment(instruction) => {}
            M::Push if is_segment_push(instruction) && !mode.single() => self.push_selector(instruction),
            M::Mov if is_segment_read(instruction) => self.read_selector(instruction),
            M::Mov if is_segment_store(instruction) => self.store_selector(instruction),
            _ => return false,
        }
        true
    }

    fn swap_gs(&mut self) {
        let (active, other) =
            (Mem::frame(segment_base(GS)), Mem::frame(cpu(offset_of!(Cpu, kernel_gs_base))));
        self.code.load(S0, active);
        self.code.load(S1, other);
        self.code.store(active, S1);
        self.code.store(other, S0);
    }

    /// Sets or clears one of the flags that the host's flags do not hold.
    fn change_flag(&mut self, flag: u64, on: bool) {
        self.set_flags_aside();
        let at = Mem::frame(cpu(offset_of!(Cpu, rflags)));
        if on { self.code.or_memory32(at, flag as u32) } else { self.code.and_memory32(at, !(flag as u32)) }
    }

    /// `sti`. When the Host waits for the chance to interrupt, Rust sees to it after one more instruction; so that
    /// instruction must be part of this unit, or nobody would know of the grace it has.
    fn allow_interrupts(&mut self) {
        self.set_flags_aside();
        self.code.cmp32_memory(Mem::frame(offset_of!(Frame, window)), 0);
        let wanted = self.code.jump_if(cond::NZ);
        self.code.or_memory32(Mem::frame(cpu(offset_of!(Cpu, rflags))), flags::IF as u32);
        let site = self.system_site(false);
        let restore = if self.aside { Restore::Flags } else { Restore::Nothing };
        self.colds.push(Cold {
            jumps: smallvec![wanted],
            restore,
            ask: Ask::Site { thunk: self.thunks.system, site },
        });
    }

    /// `stac` and `clac`: the AC flag, and the view that goes with it.
    fn change_access(&mut self, on: bool) {
        self.change_flag(flags::AC, on);
        let view = if on { offset_of!(Frame, view_with_user) } else { offset_of!(Frame, view_without_user) };
        self.code.load(S0, Mem::frame(view));
        self.code.store(Mem::frame(offset_of!(Frame, view)), S0);
        self.code.wrgsbase(S0);
    }

    /// `pushfq`: the state's flags with the arithmetic ones from where they are aside.
    fn push_flags(&mut self) {
        self.set_flags_aside();
        flags_image(&mut self.code);
        self.code.store(Mem::frame(offset_of!(Frame, kept)), S0);
        self.push(Pushed::Kept(offset_of!(Frame, kept)));
    }

    /// `syscall` and `sysretq` through their thunks, once Rust says that these may.
    fn call_kernel(&mut self, instruction: &Instruction) {
        self.set_flags_aside();
        let ready = offset_of!(Frame, calls) + offset_of!(Calls, ready);
        self.code.cmp32_memory(Mem::frame(ready), 0);
        let mut slow: Jumps = smallvec![self.code.jump_if(cond::Z)];
        if instruction.mnemonic() == M::Syscall {
            self.code.constant(S0, instruction.next_ip());
            self.jump_to(self.thunks.syscall);
        } else {
            // Only a return to the lower half is ordinary.
            self.code.mov(S0, RCX);
            self.code.shr(S0, 47);
            slow.push(self.code.jump_if(cond::NZ));
            // One that goes on step by step is Rust's.
            self.code.test_memory32(Mem::frame(Frame::gpr(R11)), flags::TF as u32);
            slow.push(self.code.jump_if(cond::NZ));
            self.jump_to(self.thunks.sysret);
        }
        let site = self.system_site(false);
        let restore = if self.aside { Restore::Flags } else { Restore::Nothing };
        self.colds.push(Cold { jumps: slow, restore, ask: Ask::Site { thunk: self.thunks.system, site } });
        self.aside = false;
    }

    /// `iretq` through its thunk, which asks Rust about all but the plain ones.
    fn return_from_handler(&mut self) {
        self.set_flags_aside();
        debug_assert!(self.aside, "system instructions count as readers of every flag");
        self.aside = false;
        let site = self.system_site(false);
        self.call_site(self.thunks.iret, site);
    }

    /// `rdtsc` and `rdtscp`: the host's counter plus the Guest's offset.
    fn read_clock(&mut self, instruction: &Instruction) {
        self.set_flags_aside();
        let ordered = instruction.mnemonic() == M::Rdtscp;
        self.code.raw(if ordered { &[0x0f, 0x01, 0xf9] } else { &[0x0f, 0x31] });
        self.code.shl(RDX, 32);
        self.code.lea(true, RAX, Mem::sum(RAX, RDX, 0));
        self.code.add_memory(RAX, Mem::frame(cpu(offset_of!(Cpu, tsc_offset))));
        self.code.mov(RDX, RAX);
        self.code.shr(RDX, 32);
        self.code.mov32(RAX, RAX);
        if ordered {
            self.code.load32(RCX, Mem::frame(cpu(offset_of!(Cpu, tsc_aux))));
        }
    }

    /// `mov r, cr2` and its like; CR8 is somebody else's.
    fn read_control(&mut self, instruction: &Instruction) -> bool {
        let field = match instruction.op1_register() {
            Register::CR0 => offset_of!(Cpu, cr0),
            Register::CR2 => offset_of!(Cpu, cr2),
            Register::CR3 => offset_of!(Cpu, cr3),
            Register::CR4 => offset_of!(Cpu, cr4),
            _ => return false,
        };
        let number = instruction.op0_register().number();
        self.code.load(self.home(number as u8).unwrap_or(S0), Mem::frame(cpu(field)));
        if self.home(number as u8).is_none() {
            self.code.store(Mem::frame(Frame::gpr(number)), S0);
        }
        true
    }

    /// `mov r, segment`; the 16-bit form keeps the rest of its register.
    fn read_selector(&mut self, instruction: &Instruction) {
        let target = instruction.op0_register();
        let number = target.full_register().number();
        let narrow = target.size() == 2;
        self.code.load_selector(S0, Mem::frame(selector(instruction.op1_register())));
        match (self.home(number as u8), narrow) {
            (Some(to), false) => self.code.mov(to, S0),
            (Some(to), true) => self.code.mov16(to, S0),
            (None, false) => self.code.store(Mem::frame(Frame::gpr(number)), S0),
            (None, true) => {
                self.code.raw(&[0x66]);
                self.code.store32(Mem::frame(Frame::gpr(number)), S0);
            }
        }
    }

    /// `mov segment, r` and `pop segment` of a hosted kernel, whose entries load what is there already, in most cases: then
    /// nothing changes. Everything else is Rust's.
    fn reloads_segment(&mut self, instruction: &Instruction) -> bool {
        let segment = instruction.op0_register();
        let index = segment.number();
        let register = instruction.op0_kind() == OpKind::Register && segment.is_segment_register();
        if !register || !matches!(index, ES | DS | FS | GS) || self.key.mode.single() {
            return false;
        }
        let pops = instruction.mnemonic() == M::Pop;
        if pops && instruction.stack_pointer_increment() != 4 {
            return false;
        }
        if !pops && instruction.op1_kind() != OpKind::Register {
            return false;
        }
        self.set_flags_aside();
        if pops {
            let place = self.stack_place(Mem::at(GUEST_RSP, 0), Part::Pop);
            self.load_word(S1, place);
            self.code.movzx16(S1, S1);
        } else {
            let from = self.home(instruction.op1_register().full_register().number() as u8);
            self.code.movzx16(S1, from.expect("32-bit code has no registers in the frame"));
        }
        self.code.load_selector(S0, Mem::frame(selector(segment)));
        self.code.raw(&[0x45, 0x39, 0xd3]); // cmp r11d, r10d
        let another = self.code.jump_if(cond::NZ);
        self.code.test_memory32(Mem::frame(cpu(offset_of!(Cpu, reloadable))), 1 << index);
        let changed = self.code.jump_if(cond::Z);
        if pops {
            self.move_stack(Mem::at(GUEST_RSP, 4));
        }
        let site = self.system_site(false);
        let restore = if self.aside { Restore::Flags } else { Restore::Nothing };
        let ask = Ask::Site { thunk: self.thunks.system, site };
        self.colds.push(Cold { jumps: smallvec![another, changed], restore, ask });
        // In other code it would have to be looked up anew how what follows is run, so that a unit ends here.
        self.leave_to(instruction.next_ip());
        true
    }

    /// `push segment` of 32-bit code: four bytes, the upper two clear.
    fn push_selector(&mut self, instruction: &Instruction) {
        self.code.load_selector(S0, Mem::frame(selector(instruction.op0_register())));
        self.code.store(Mem::frame(offset_of!(Frame, kept)), S0);
        self.push(Pushed::Kept(offset_of!(Frame, kept)));
        self.end_islands(true);
    }

    /// `mov [mem], segment`: two bytes.
    fn store_selector(&mut self, instruction: &Instruction) {
        let place = self.operand_place(instruction, 2, true);
        self.code.lea(true, S1, place);
        self.note_flags();
        self.code.load_selector(S0, Mem::frame(selector(instruction.op1_register())));
        self.code.raw(&[0x66]);
        self.code.store32(Mem::at(S1, 0), S0);
    }
}

/// Offset of a segment register's selector in the frame.
fn selector(register: Register) -> usize {
    cpu(offset_of!(Cpu, segments)) + register.number() * size_of::<Segment>() + offset_of!(Segment, selector)
}

fn is_segment_store(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register
        && instruction.op1_register().is_segment_register()
}

fn is_segment_push(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register
        && instruction.op0_register().is_segment_register()
        && instruction.stack_pointer_increment() == -4
}

fn is_segment_read(instruction: &Instruction) -> bool {
    let register = |n| instruction.op_kind(n) == OpKind::Register;
    register(0) && register(1) && instruction.op1_register().is_segment_register()
}
