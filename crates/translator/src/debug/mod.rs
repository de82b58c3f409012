//! Stopping between two instructions: single step (TF), the debug registers, and the same for a debugger on the Host
//! (SDM vol. 3, chapter 18).
//!
//! A Guest that arms nothing pays one comparison whenever Rust is asked for the next unit. Once something is armed:
//! - **One instruction at a time** (TF, the Host's step): units of the mode `one_step` hold one instruction and come back.
//! - **Breakpoints** cut units: none runs past a breakpoint's address, and the one that begins there is of that mode, so it
//!   is neither linked nor in a jump table, and every way to the address leads past [`Vcpu::step_watched`].
//! - **Watched data** is kept out of the addend tables, a page around it: accesses to the page are played by hand, and
//!   every access by hand goes through [`crate::memory::access::GuestMemory`], which compares.
//!
//! The Guest's own points and the Host's live side by side; neither sees the other's. The Host's never show in memory or in
//! a register.

pub(crate) mod points;
mod debugger;

use crate::cache::thunks::Reason;
use crate::cpu::flags;
use crate::cpu::registers::debug as bits;
use crate::decode::Block;
use crate::events::deliver::Event;
use crate::events::exception::Exception;
use crate::exit::Exit;
use crate::unit::UnitIndex;
use crate::vcpu::Vcpu;
pub use debugger::Registers;
use iced_x86::Mnemonic;
use points::Points;
pub use points::{Stop, WatchKind};

/// What a vCPU knows about stopping.
#[derive(Default)]
pub(crate) struct Debug {
    pub(crate) points: Points,
    /// The Host wants one instruction at a time.
    pub(crate) host_step: bool,
    /// Bits of DR6 for a debug trap that is due before the next instruction.
    owed: u64,
    /// After `mov ss` and `pop ss` traps wait for one more instruction (SDM vol. 3, 6.8.3).
    held: bool,
    /// What to tell the Host before the next instruction.
    pub(crate) host_owed: Option<Stop>,
    /// The instruction here has been checked for breakpoints and not completed since.
    passed: Option<u64>,
    /// The Host has been told of its breakpoint here.
    told: Option<u64>,
    /// Units are of one instruction now.
    one: bool,
    /// The last instruction that Rust carried out.
    last: Option<Mnemonic>,
}

impl Debug {
    /// Whether [`Vcpu::step_watched`] has to see to the next instruction, apart from TF and RF.
    fn armed(&self) -> bool {
        self.host_step || self.owed != 0 || self.host_owed.is_some() || !self.points.none()
    }

    /// Whether the unit at `pc` must be of one instruction.
    pub(crate) fn single(&self, pc: u64) -> bool {
        self.one || self.points.stops_at(pc)
    }

    /// Rust carries this instruction out.
    pub(crate) fn note(&mut self, mnemonic: Mnemonic) {
        self.last = Some(mnemonic);
    }

    /// A string instruction does one element now: between two of them there is a boundary (SDM vol. 3, 18.3.1.4).
    pub(crate) fn one_element(&self) -> bool {
        self.one || self.owed != 0 || self.host_owed.is_some()
    }

    /// A trap is due, so interrupts wait; and while the Host steps they would lead it astray.
    pub(crate) fn holds_interrupts(&self) -> bool {
        self.owed != 0 || self.host_step
    }

    /// A trap is due after the current instruction, with these bits in DR6.
    pub(crate) fn owe(&mut self, dr6: u64) {
        self.owed |= dr6;
    }

    /// An event is delivered: what was due for the interrupted instruction is lost.
    pub(crate) fn event(&mut self) {
        (self.owed, self.held, self.passed, self.told) = (0, false, None, None);
    }

    /// Watched data was touched; bit n stands for watch n of the points.
    pub(crate) fn touched(&mut self, hits: u32) {
        let (guest, host) = self.points.touched(hits);
        self.owed |= guest;
        if self.host_owed.is_none() {
            self.host_owed = host;
        }
    }

    /// Ends a block before the first breakpoint inside it.
    pub(crate) fn cut(&self, block: &mut Block) {
        let inside = block.instructions.iter().skip(1).position(|(i, _)| self.points.stops_at(i.ip()));
        if let Some(n) = inside {
            block.instructions.truncate(n + 1);
            block.leaves = false;
        }
    }
}

impl Vcpu {
    /// Whether the next instruction needs [`Self::step_watched`].
    pub(crate) fn is_watched(&self) -> bool {
        self.cpu().rflags & (flags::TF | flags::RF) != 0 || self.debug.armed()
    }

    /// From one decision of Rust's to the next, with a look before and after.
    pub(crate) fn step_watched(&mut self) -> Result<(), Exit> {
        if !std::mem::take(&mut self.debug.held) && self.trap_if_due()? {
            return Ok(());
        }
        if self.stop_here()? {
            return Ok(());
        }
        let (rip, rflags) = (self.cpu().rip, self.cpu().rflags);
        // Past the check for breakpoints RF has served (SDM vol. 3, 18.3.1.1).
        self.cpu_mut().rflags &= !flags::RF;
        self.debug.passed = Some(rip);
        self.debug.one = rflags & flags::TF != 0 || self.debug.host_step;
        if self.debug.single(rip) {
            self.resume = None;
        }
        let (events, by_rust) = (self.statistics.events, self.by_rust());
        self.debug.last = None;
        let outcome = self.go_once();
        self.debug.one = false;
        let interrupted = self.statistics.events != events;
        let completed = !interrupted
            && match &outcome {
                Ok(Some(Reason::Lookup)) | Err(_) => true,
                Ok(_) => self.by_rust() != by_rust,
            };
        if completed {
            (self.debug.passed, self.debug.told) = (None, None);
            self.completed(rflags);
        }
        if (completed || interrupted) && self.debug.host_step && self.debug.host_owed.is_none() {
            self.debug.host_owed = Some(Stop::Step);
        }
        match outcome {
            // A trap comes before the halt it would end; and a step over `hlt` does not wait.
            Err(Exit::Halt) if self.debug.owed != 0 || self.debug.host_step => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Instructions that Rust completed or tried to.
    fn by_rust(&self) -> u64 {
        self.statistics.played + self.statistics.system
    }

    /// An instruction that began with these flags is over.
    fn completed(&mut self, before: u64) {
        let calls = matches!(self.debug.last, Some(Mnemonic::Syscall));
        // `syscall` traps if TF is still set behind it; the others if it was set before them.
        let traps = if calls { self.cpu().rflags } else { before };
        // `sysret` owes its trap already, see `sysret_traps`.
        if traps & flags::TF != 0 {
            self.debug.owe(bits::SINGLE_STEP);
        }
        let segment = matches!(self.debug.last, Some(Mnemonic::Mov | Mnemonic::Pop));
        self.debug.held = segment && self.cpu().interrupt_shadow;
    }

    /// `sysret` that sets TF traps at once, before the first instruction it returns to.
    pub(crate) fn sysret_traps(&mut self) {
        if self.cpu().rflags & flags::TF != 0 {
            self.debug.owe(bits::SINGLE_STEP);
        }
    }

    /// Tells the Host or the Guest what is due between two instructions; true when the Guest was told.
    fn trap_if_due(&mut self) -> Result<bool, Exit> {
        if let Some(stop) = self.debug.host_owed.take() {
            self.resume = None;
            return Err(Exit::Debug(stop));
        }
        if self.debug.owed == 0 {
            return Ok(false);
        }
        self.raise_debug(self.debug.owed)?;
        Ok(true)
    }

    /// A breakpoint at the current instruction: true when the Guest was told.
    fn stop_here(&mut self) -> Result<bool, Exit> {
        let rip = self.cpu().rip;
        if self.cpu().rflags & flags::RF != 0 || self.debug.passed == Some(rip) {
            return Ok(false);
        }
        // Breakpoints are linear addresses; only outside 64-bit mode is that another number.
        let linear = self.cpu().linear_code(rip).unwrap_or(rip);
        let (host, guest) = self.debug.points.at(linear);
        if host && self.debug.told != Some(rip) {
            self.debug.told = Some(rip);
            self.resume = None;
            return Err(Exit::Debug(Stop::Breakpoint));
        }
        if guest != 0 {
            self.raise_debug(guest)?;
        }
        Ok(guest != 0)
    }

    /// #DB with these bits of DR6. B0 to B3 say what it was this time, the others gather; the handler may touch debug
    /// registers whatever DR7.GD said (SDM vol. 3, 18.2.3 and 18.2.4).
    fn raise_debug(&mut self, dr6: u64) -> Result<(), Exit> {
        let cpu = self.cpu_mut();
        cpu.dr[6] = cpu.dr[6] & !bits::DR6_POINTS | dr6 | bits::DR6_FIXED;
        cpu.dr[7] &= !bits::GENERAL_DETECT;
        self.deliver(Event::Exception(Exception::db()))
    }

    /// A port is read or written: I/O breakpoints trap behind the instruction (SDM vol. 3, 18.2.4, with CR4.DE).
    pub(crate) fn touch_port(&mut self, port: u16, size: u8) {
        let dr6 = points::ports_touched(self.cpu(), port, size);
        self.debug.owe(dr6);
    }

    /// The Guest wrote a debug register.
    pub(crate) fn rearm(&mut self) {
        let dr = self.cpu().dr;
        let change = self.debug.points.set_guest(&dr);
        change.stops.iter().for_each(|&stop| self.cut_units(stop));
        change.watches.iter().for_each(|&address| self.hide(address));
    }

    /// Forgets every unit that holds the instruction at `address`, whatever memory it is made from.
    pub(crate) fn cut_units(&mut self, address: u64) {
        let holds = |index: UnitIndex| {
            let unit = self.cache.unit(index);
            let offset = address.wrapping_sub(unit.key.pc);
            unit.alive && self.cache.marks(index).iter().any(|mark| u64::from(mark.guest) == offset)
        };
        let found: Vec<UnitIndex> = (0..self.cache.units.len() as UnitIndex).filter(|&n| holds(n)).collect();
        for unit in found {
            self.cache.kill(unit, &self.frames);
        }
        self.forget_returns();
        self.resume = None;
    }

    /// Takes the page of `address` out of all tables; while it is watched it does not come back.
    pub(crate) fn hide(&mut self, address: u64) {
        self.spaces.hide(address);
    }
}
