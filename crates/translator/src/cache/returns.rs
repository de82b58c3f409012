//! `iretq` without leaving generated code: the end of every interrupt, page fault and `sync_core`.
//!
//! The rules stay in `events/iret.rs`. Whenever Rust has returned from the supervisor, it keeps what the return loaded
//! ([`Return`]): both selectors, the words of the descriptor table behind them, and the segments they gave. A later
//! return that finds the same selectors in its frame and the same words in the table passes the same checks, so what is
//! left to do here is to look whether it does, and to refuse everything unusual: flags that mean more than themselves
//! (TF, NT, VM, AC), a stack pointer off its alignment, addresses that are not canonical, a page without an entry,
//! data segments that the return would take away. Refused is not wrong: Rust does those from the start.
//!
//! A Debian kernel's boot returns 108,625 times, mostly to itself: it orders its processor by `iretq` after each place
//! of its own code that it patches. A page fault in a process came to four exits with this one, and comes to three.

use super::calls::{change_level, cpu, land_at};
use super::thunks::Thunks;
use crate::assemble::host::{GUEST_RSP, RAX, S0, S1};
use crate::assemble::{Code, Mem, Patch, cond};
use crate::cpu::descriptors;
use crate::cpu::segments::{CS, DS, ES, FS, GS, SS, Segment, TableRegister, attributes, is_null};
use crate::cpu::{Cpu, flags};
use crate::frame::Frame;
use crate::memory::access::GuestMemory;
use crate::memory::walk::canonical;
use std::mem::offset_of;

/// Bytes that `iretq` pops.
const POPPED: u32 = 40;
/// Flags whose return is Rust's, when they are set in the frame. RF is set in every fault's, and means nothing here: see
/// [`Cpu::rflags`].
const UNUSUAL: u64 = flags::TF | flags::NT | flags::VM | flags::AC | flags::VIF | flags::VIP;
/// Flags that the supervisor's return loads (SDM vol. 2, IRET), less those above.
const LOADED: u64 = flags::ARITHMETIC | flags::DF | flags::IF | flags::IOPL | flags::ID;
/// A table index, table and privilege level that a selector cannot be: see [`Return::code_selector`].
const NO_SELECTOR: u32 = u32::MAX;

/// What a return loaded. Part of the frame.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Return {
    /// CS and SS, as they were loaded.
    segments: [Segment; 2],
    /// Linear addresses of the two descriptors.
    places: [u64; 2],
    /// What stood there.
    words: [u64; 2],
    /// The frame's CS, or [`NO_SELECTOR`] when nothing is kept here.
    code_selector: u32,
    /// The frame's SS.
    stack_selector: u32,
}

/// The last returns of each kind. Part of the frame.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Returns {
    /// To the supervisor, to the supervisor with a null stack segment, to a user.
    kinds: [Return; 3],
    /// The descriptor table they were looked up in.
    table: TableRegister,
}

/// Which of [`Returns::kinds`].
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Supervisor = 0,
    SupervisorWithoutStack = 1,
    User = 2,
}

impl Returns {
    /// Nothing yet.
    pub fn none(table: TableRegister) -> Returns {
        let nothing = Return {
            segments: [Segment::default(); 2],
            places: [0; 2],
            words: [0; 2],
            code_selector: NO_SELECTOR,
            stack_selector: NO_SELECTOR,
        };
        Returns { kinds: [nothing; 3], table }
    }

    /// Forgets what came from another descriptor table than the processor's.
    pub fn heed_table(&mut self, table: TableRegister) {
        if self.table != table {
            *self = Returns::none(table);
        }
    }

    /// Keeps the return that the supervisor just made with `iretq`, if it is one that may be done again in place.
    /// Gives the addresses of descriptors that the thunk will look at.
    pub fn keep(&mut self, cpu: &Cpu, memory: &GuestMemory) -> Option<[u64; 2]> {
        let (code, stack) = (cpu.segments[CS], cpu.segments[SS]);
        let kind = match (cpu.cpl, is_null(stack.selector)) {
            (0, false) => Kind::Supervisor,
            (0, true) if stack.selector == 0 => Kind::SupervisorWithoutStack,
            (3, false) => Kind::User,
            _ => return None,
        };
        self.heed_table(cpu.gdtr);
        let (code_place, code_word) = settled(cpu, memory, &code)?;
        let (stack_place, stack_word) = match kind {
            Kind::SupervisorWithoutStack => (code_place, code_word),
            Kind::Supervisor | Kind::User => settled(cpu, memory, &stack)?,
        };
        if !code.is_long() {
            return None;
        }
        self.kinds[kind as usize] = Return {
            segments: [code, stack],
            places: [code_place, stack_place],
            words: [code_word, stack_word],
            code_selector: code.selector.into(),
            stack_selector: stack.selector.into(),
        };
        Some([code_place, stack_place])
    }
}

/// Place and word of a loaded segment's descriptor, if it stands in the global table, aligned, and says just that.
fn settled(cpu: &Cpu, memory: &GuestMemory, segment: &Segment) -> Option<(u64, u64)> {
    const LOCAL: u16 = 4;
    if segment.selector & LOCAL != 0 {
        return None;
    }
    let found = descriptors::read(cpu, memory, segment.selector).ok()?;
    let word = u64::from_le_bytes(memory.read_system(cpu, found.address).ok()?);
    let plain = found.segment == *segment && found.address % 8 == 0 && canonical(found.address);
    plain.then_some((found.address, word))
}

const fn kept(kind: Kind, field: usize) -> usize {
    offset_of!(Frame, returns) + offset_of!(Returns, kinds) + kind as usize * size_of::<Return>() + field
}

/// Writes the thunk: called like [`super::thunks::Reason::System`]'s, with the flags aside. Goes on at `system` with the
/// flags back in their place when the return is not one of the plain ones.
pub fn write(code: &mut Code, thunks: &mut Thunks, base: u64, system: usize) {
    thunks.iret = base + code.here() as u64;
    code.pop_memory(Mem::frame(offset_of!(Frame, site)));
    code.store(Mem::frame(offset_of!(Frame, kept)), RAX);
    // Before anything is checked, as in Rust: even a return that faults lets non-maskable interrupts in again.
    code.store8_immediate(Mem::frame(cpu(offset_of!(Cpu, nmi_blocked))), 0);
    let mut refused = Vec::new();
    find_frame(code, &mut refused);
    code.load32(S0, Mem::at(RAX, 8));
    code.test32(S0, 3);
    let user = code.jump_if(cond::NZ);
    code.load32(S0, Mem::at(RAX, 32));
    code.test32(S0, 0xffff);
    let no_stack = code.jump_if(cond::Z);
    let mut landings = vec![return_to(code, Kind::Supervisor, &mut refused)];
    let here = code.here();
    code.bind(no_stack, here);
    landings.push(return_to(code, Kind::SupervisorWithoutStack, &mut refused));
    let here = code.here();
    code.bind(user, here);
    landings.push(return_to(code, Kind::User, &mut refused));

    let here = code.here();
    refused.into_iter().for_each(|jump| code.bind(jump, here));
    code.load32(RAX, Mem::frame(offset_of!(Frame, saved_flags)));
    code.flags_from_ax();
    code.load(RAX, Mem::frame(offset_of!(Frame, kept)));
    let jump = code.jump();
    code.bind(jump, system);
    let landing = (thunks.landing - base) as usize;
    landings.into_iter().for_each(|jump| code.bind(jump, landing));
}

/// The host address of the five words on the Guest's stack into rax. The supervisor's view without AC is the one that
/// the processor's own look at its tables has too.
fn find_frame(code: &mut Code, refused: &mut Vec<Patch>) {
    code.test_memory32(Mem::frame(cpu(offset_of!(Cpu, rflags))), (flags::NT | flags::AC) as u32);
    refused.push(code.jump_if(cond::NZ));
    code.mov(S0, GUEST_RSP);
    refused.push(check_canonical(code));
    code.mov32(S1, S0);
    code.and32(S1, 4095);
    code.cmp(S1, 4096 - POPPED);
    refused.push(code.jump_if(cond::A));
    refused.push(host_address(code));
    code.lea(true, RAX, Mem::sum(S0, S1, 0));
}

/// Jumps when the first scratch register is no canonical address: it would miss the page its middle bits name. Spoils
/// the second.
fn check_canonical(code: &mut Code) -> Patch {
    code.mov(S1, S0);
    code.shl(S1, 16);
    code.sar(S1, 16);
    code.cmp_registers(S1, S0);
    code.jump_if(cond::NZ)
}

/// The addend for the first scratch register into the second; jumps when there is none.
fn host_address(code: &mut Code) -> Patch {
    code.mov(S1, S0);
    code.shl(S1, 16);
    code.shr(S1, 28);
    code.load_table(S1, S1);
    code.test(S1);
    code.jump_if(cond::Z)
}

/// Checks the rest, and only then changes the state; a jump to the landing comes back.
fn return_to(code: &mut Code, kind: Kind, refused: &mut Vec<Patch>) -> Patch {
    same_segment(code, kind, 0, 8, refused);
    if kind != Kind::SupervisorWithoutStack {
        same_segment(code, kind, 1, 32, refused);
    }
    code.load32(S0, Mem::at(RAX, 16));
    code.test32(S0, UNUSUAL as u32);
    refused.push(code.jump_if(cond::NZ));
    code.load32(S0, Mem::at(RAX, 24));
    code.test32(S0, 7);
    refused.push(code.jump_if(cond::NZ));
    if kind == Kind::User {
        refused.push(keeps_data_segments(code));
    }
    code.load(S0, Mem::at(RAX, 0));
    refused.push(check_canonical(code));

    code.store(Mem::frame(cpu(offset_of!(Cpu, rip))), S0);
    code.load32(S0, Mem::at(RAX, 16));
    code.and32(S0, LOADED as u32);
    code.load32(S1, Mem::frame(cpu(offset_of!(Cpu, rflags))));
    code.and32(S1, !((LOADED | UNUSUAL) as u32));
    code.or32(S0, S1);
    code.store(Mem::frame(cpu(offset_of!(Cpu, rflags))), S0);
    code.load(GUEST_RSP, Mem::at(RAX, 24));
    // Within the supervisor neither AC nor the view changes.
    let (level, view) = match kind {
        Kind::User => (3, Some(offset_of!(Frame, view_of_user))),
        Kind::Supervisor | Kind::SupervisorWithoutStack => (0, None),
    };
    change_level(code, level, kept(kind, offset_of!(Return, segments)), view);
    land_at(code, level);
    code.jump()
}

/// Refuses unless the selector at `[rax + at]` and the descriptor behind it are the ones that were kept.
fn same_segment(code: &mut Code, kind: Kind, which: usize, at: i32, refused: &mut Vec<Patch>) {
    let selector = [offset_of!(Return, code_selector), offset_of!(Return, stack_selector)][which];
    code.load_selector(S0, Mem::at(RAX, at));
    code.load32(S1, Mem::frame(kept(kind, selector)));
    code.cmp_registers(S0, S1);
    refused.push(code.jump_if(cond::NZ));
    code.load(S0, Mem::frame(kept(kind, offset_of!(Return, places) + 8 * which)));
    refused.push(host_address(code));
    code.load(S0, Mem::sum(S0, S1, 0));
    code.cmp_memory(S0, Mem::frame(kept(kind, offset_of!(Return, words) + 8 * which)));
    refused.push(code.jump_if(cond::NZ));
}

/// Jumps when a data segment may be one that a user must not have: present, and not of level 3.
fn keeps_data_segments(code: &mut Code) -> Patch {
    const LEVEL_3: u32 = 3 << attributes::DPL_SHIFT;
    const PRESENT: u32 = attributes::PRESENT as u32;
    code.constant(S1, 0);
    for index in [ES, DS, FS, GS] {
        let place =
            offset_of!(Cpu, segments) + index * size_of::<Segment>() + offset_of!(Segment, attributes);
        code.load_selector(S0, Mem::frame(cpu(place)));
        code.and32(S0, PRESENT | LEVEL_3);
        // Adding one to the level carries out of a present segment's level 3 and out of nothing else that is present;
        // what is not present has its bit 7 clear unless its level is 3, which is refused in vain.
        code.lea(false, S0, Mem::at(S0, 1 << attributes::DPL_SHIFT));
        code.or32(S1, S0);
    }
    code.test32(S1, PRESENT);
    code.jump_if(cond::NZ)
}
