//! One local APIC: what decides which interrupt its processor takes next, and its timer.
//!
//! A pure machine. Time comes in as host counter ticks, and what concerns others goes out as an [`Effect`].
//! Both faces of the part are served: xAPIC (memory, 32-bit registers 16 bytes apart) and x2APIC (model-specific
//! registers 0x800 and up). Rules: SDM vol. 3A, chapter 11 ("Advanced Programmable Interrupt Controller").

use crate::clock::TscRate;

use super::message::{Delivery, Destination, Message};
use super::timer_register::{Timer, TimerMode};

/// Where local APICs sit after reset, and where this one stays (SDM 11.4.1).
pub const APIC_BASE: u64 = 0xfee0_0000;
/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// First x2APIC register; the register at memory offset `n` is at this plus `n / 16`.
pub const MSR_X2APIC: u32 = 0x800;

/// IA32_APIC_BASE bits.
const BASE_BOOTSTRAP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;

// Register offsets (SDM table 11-1).
const ID: u32 = 0x20;
const VERSION: u32 = 0x30;
const TPR: u32 = 0x80;
const APR: u32 = 0x90;
const PPR: u32 = 0xa0;
const EOI: u32 = 0xb0;
const LDR: u32 = 0xd0;
const DFR: u32 = 0xe0;
const SVR: u32 = 0xf0;
const ISR: u32 = 0x100;
const TMR: u32 = 0x180;
const IRR: u32 = 0x200;
const ESR: u32 = 0x280;
const ICR_LOW: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_ERROR: u32 = 0x370;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;
/// x2APIC only: write a vector to interrupt oneself.
const SELF_IPI: u32 = 0x3f0;

/// Version 0x14 with six LVT entries (timer, thermal, performance, LINT0, LINT1, error).
const VERSION_VALUE: u32 = 0x0005_0014;
const LVT_ENTRIES: usize = 6;
const LVT_MASKED: u32 = 1 << 16;
/// Mode bits of an LVT entry, and the one that takes its vector from the 8259.
const LVT_MODE: u32 = 7 << 8;
const LVT_EXTERNAL: u32 = 7 << 8;
/// Bits software may write in each LVT entry.
const LVT_WRITABLE: [u32; LVT_ENTRIES] =
    [0x0007_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];
const SVR_ENABLED: u32 = 1 << 8;
const SVR_WRITABLE: u32 = 0x0000_03ff;
const ICR_WRITABLE: u32 = 0x000c_cfff;

/// An access that the processor answers with #GP(0): a reserved register, or reserved bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// What a register write does outside the APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The end of a level-triggered interrupt: tell the I/O APIC.
    EndOfInterrupt(u8),
    /// An interrupt for somebody.
    Send(Message),
}

/// A set of 256 vectors, eight registers of 32.
#[derive(Debug, Clone, Default)]
struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8, on: bool) {
        let bit = 1 << (vector % 32);
        let word = &mut self.0[usize::from(vector / 32)];
        *word = if on { *word | bit } else { *word & !bit };
    }
    fn has(&self, vector: u8) -> bool {
        self.0[usize::from(vector / 32)] >> (vector % 32) & 1 != 0
    }
    fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        Some(index as u8 * 32 + (31 - word.leading_zeros() as u8))
    }
}

/// One processor's local APIC.
pub struct Lapic {
    id: u32,
    base: u64,
    requested: Vectors,
    in_service: Vectors,
    level: Vectors,
    task_priority: u32,
    logical: u32,
    format: u32,
    spurious: u32,
    lvt: [u32; LVT_ENTRIES],
    command: u64,
    errors: u32,
    timer: Timer,
}

impl Lapic {
    /// The APIC of vCPU `id` after reset. The first one is the bootstrap processor's and passes the 8259 through,
    /// as PC firmware leaves it ("virtual wire").
    pub fn new(id: u32, rate: TscRate) -> Lapic {
        let mut lvt = [LVT_MASKED; LVT_ENTRIES];
        if id == 0 {
            lvt[lvt_index(LVT_LINT0)] = LVT_EXTERNAL;
        }
        Lapic {
            id,
            base: APIC_BASE | BASE_ENABLED | if id == 0 { BASE_BOOTSTRAP } else { 0 },
            requested: Vectors::default(),
            in_service: Vectors::default(),
            level: Vectors::default(),
            task_priority: 0,
            logical: 0,
            format: u32::MAX,
            spurious: 0xff,
            lvt,
            command: 0,
            errors: 0,
            timer: Timer::new(rate),
        }
    }

    fn x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    fn enabled(&self) -> bool {
        self.base & BASE_ENABLED != 0 && self.spurious & SVR_ENABLED != 0
    }

    /// Accepts a fixed interrupt. Vectors below 16 are reserved, and a disabled APIC hears nothing.
    pub fn request(&mut self, vector: u8, level: bool) {
        if self.enabled() && vector >= 16 {
            self.requested.set(vector, true);
            self.level.set(vector, level);
        }
    }

    /// True when `destination`, sent by the APIC `from` (None: the I/O APIC), names this one.
    pub fn is_named(&self, destination: Destination, from: Option<u32>) -> bool {
        match destination {
            Destination::All => true,
            Destination::Oneself => from == Some(self.id),
            Destination::Others => from != Some(self.id),
            // The I/O APIC has eight bits for a destination, in which 0xff is everybody.
            Destination::Physical(id) => id == self.id || id == u32::MAX || id == 0xff,
            Destination::Logical(set) if self.x2apic() => {
                let own = self.logical_x2apic();
                set == u32::MAX || (set >> 16 == own >> 16 && set & own & 0xffff != 0)
            }
            Destination::Logical(set) => {
                let own = self.logical >> 24;
                let flat = self.format >> 28 == 0xf;
                let cluster = set >> 4 == own >> 4 || set >> 4 == 0xf;
                set & 0xff == 0xff || if flat { set & own != 0 } else { cluster && set & own & 0xf != 0 }
            }
        }
    }

    /// INIT: everything but identity, base and mode is as after reset (SDM 11.4.7.3).
    pub fn initialize(&mut self) {
        *self = Lapic { base: self.base, ..Lapic::new(self.id, self.timer.rate()) };
    }

    /// True for the first processor's.
    pub fn is_bootstrap(&self) -> bool {
        self.base & BASE_BOOTSTRAP != 0
    }

    /// How busy the processor is, for messages that go to the least busy one (SDM 11.6.2.4).
    pub fn busyness(&self) -> u32 {
        self.processor_priority() >> 4
    }

    /// True when messages reach this APIC at all. Software may have switched off its interrupts; INIT, start-up and
    /// non-maskable ones come through all the same (SDM 11.4.7.2).
    pub fn hears(&self) -> bool {
        self.base & BASE_ENABLED != 0
    }

    /// True when it would take a fixed interrupt.
    pub fn takes_fixed(&self) -> bool {
        self.enabled()
    }

    fn logical_x2apic(&self) -> u32 {
        self.id >> 4 << 16 | 1 << (self.id & 0xf)
    }

    /// Lets the timer fire if it is due.
    pub fn advance(&mut self, now: u64) {
        if self.timer.advance(now) && self.timer_entry() & LVT_MASKED == 0 {
            self.request(self.timer_entry() as u8, false);
        }
    }

    /// When the timer fires next, in host ticks. None also when nobody would notice.
    pub fn deadline(&self) -> Option<u64> {
        self.timer.deadline().filter(|_| self.enabled() && self.timer_entry() & LVT_MASKED == 0)
    }

    fn timer_entry(&self) -> u32 {
        self.lvt[lvt_index(LVT_TIMER)]
    }

    /// Priority of what the processor is doing (SDM 11.8.3.1).
    fn processor_priority(&self) -> u32 {
        let service = u32::from(self.in_service.highest().unwrap_or(0));
        if self.task_priority >> 4 >= service >> 4 { self.task_priority } else { service & 0xf0 }
    }

    /// The vector the processor would take now, if any.
    pub fn pending(&self) -> Option<u8> {
        let vector = self.requested.highest().filter(|_| self.enabled())?;
        (u32::from(vector) >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// The processor takes what [`Self::pending`] said.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.requested.set(vector, false);
        self.in_service.set(vector, true);
        Some(vector)
    }

    /// True when the 8259's output reaches this processor.
    pub fn passes_external(&self) -> bool {
        let entry = self.lvt[lvt_index(LVT_LINT0)];
        self.base & BASE_ENABLED == 0 || entry & (LVT_MASKED | LVT_MODE) == LVT_EXTERNAL
    }

    /// True when memory accesses at [`APIC_BASE`] reach this APIC.
    pub fn answers_memory(&self) -> bool {
        self.base & BASE_ENABLED != 0 && !self.x2apic()
    }

    /// Reads the register at a memory offset. Reserved ones are zero.
    pub fn read_memory(&self, offset: u32, now: u64) -> u32 {
        match offset & !0xf {
            ID => self.id << 24,
            LDR => self.logical,
            DFR => self.format,
            ICR_HIGH => (self.command >> 32) as u32,
            ICR_LOW => self.command as u32,
            register => self.read(register, now).unwrap_or(0),
        }
    }

    /// Writes the register at a memory offset. Reserved ones swallow it.
    pub fn write_memory(&mut self, offset: u32, value: u32, now: u64) -> Effect {
        match offset & !0xf {
            LDR => self.logical = value & 0xff00_0000,
            DFR => self.format = value | 0x0fff_ffff,
            ICR_HIGH => self.command = self.command & 0xffff_ffff | u64::from(value) << 32,
            ICR_LOW => {
                self.command = self.command >> 32 << 32 | u64::from(value & ICR_WRITABLE);
                return self.send((self.command >> 56) as u32);
            }
            // Only x2APIC mode has these.
            SELF_IPI => {}
            register => return self.write(register, value, now).unwrap_or(Effect::None),
        }
        Effect::None
    }

    /// Reads IA32_APIC_BASE, the deadline or an x2APIC register.
    ///
    /// # Errors
    /// [`Refused`] where a processor faults.
    pub fn read_msr(&self, index: u32, now: u64) -> Result<u64, Refused> {
        match index {
            MSR_APIC_BASE => return Ok(self.base),
            _ if !self.x2apic() => return Err(Refused),
            _ => {}
        }
        match x2apic_offset(index)? {
            ID => Ok(u64::from(self.id)),
            LDR => Ok(u64::from(self.logical_x2apic())),
            ICR_LOW => Ok(self.command),
            register => self.read(register, now).map(u64::from),
        }
    }

    /// Writes such a register.
    ///
    /// # Errors
    /// [`Refused`] where a processor faults.
    pub fn write_msr(&mut self, index: u32, value: u64, now: u64) -> Result<Effect, Refused> {
        if index == MSR_APIC_BASE {
            return self.write_base(value);
        }
        if !self.x2apic() {
            return Err(Refused);
        }
        let register = x2apic_offset(index)?;
        if register == ICR_LOW {
            self.command = value & (0xffff_ffff << 32 | u64::from(ICR_WRITABLE));
            return Ok(self.send((value >> 32) as u32));
        }
        let value = u32::try_from(value).map_err(|_| Refused)?;
        match register {
            EOI if value != 0 => Err(Refused),
            SELF_IPI => {
                self.request(value as u8, false);
                Ok(Effect::None)
            }
            register => self.write(register, value, now),
        }
    }

    /// Turning x2APIC on and off goes through the states of SDM figure 11-27; the base stays where it is.
    fn write_base(&mut self, value: u64) -> Result<Effect, Refused> {
        let modes = BASE_ENABLED | BASE_X2APIC;
        let (old, new) = (self.base & modes, value & modes);
        let allowed = new != BASE_X2APIC
            && !(old == modes && new == BASE_ENABLED)
            && !(old == 0 && new == modes)
            && value & !(modes | BASE_BOOTSTRAP) == APIC_BASE;
        if !allowed {
            return Err(Refused);
        }
        if new == 0 {
            let base = self.base & !modes;
            *self = Lapic { base, ..Lapic::new(self.id, self.timer.rate()) };
        }
        self.base = self.base & !modes | new;
        Ok(Effect::None)
    }

    /// Registers that are the same in both faces.
    fn read(&self, register: u32, now: u64) -> Result<u32, Refused> {
        let word = |vectors: &Vectors, first: u32| vectors.0[((register - first) >> 4) as usize];
        Ok(match register {
            VERSION => VERSION_VALUE,
            TPR => self.task_priority,
            APR if !self.x2apic() => 0,
            PPR => self.processor_priority(),
            SVR => self.spurious,
            ISR..TMR => word(&self.in_service, ISR),
            TMR..IRR => word(&self.level, TMR),
            IRR..ESR => word(&self.requested, IRR),
            ESR => self.errors,
            LVT_TIMER..=LVT_ERROR => self.lvt[lvt_index(register)],
            TIMER_INITIAL => self.timer.initial(),
            TIMER_CURRENT => self.timer.current(now),
            TIMER_DIVIDE => self.timer.divide(),
            _ => return Err(Refused),
        })
    }

    fn write(&mut self, register: u32, value: u32, now: u64) -> Result<Effect, Refused> {
        // A timer that ran out behind a mask is lost; it must not fire when the mask is lifted.
        self.advance(now);
        match register {
            TPR => self.task_priority = value & 0xff,
            EOI => return Ok(self.end_of_interrupt()),
            SVR => self.write_spurious(value),
            // Writing latches what went wrong since the last write. Nothing is ever recorded here.
            ESR => self.errors = 0,
            LVT_TIMER..=LVT_ERROR => self.write_lvt(register, value),
            TIMER_INITIAL => self.timer.start(value, now),
            TIMER_DIVIDE => self.timer.set_divide(value, now),
            _ => return Err(Refused),
        }
        Ok(Effect::None)
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.in_service.highest() else { return Effect::None };
        self.in_service.set(vector, false);
        if self.level.has(vector) { Effect::EndOfInterrupt(vector) } else { Effect::None }
    }

    fn write_spurious(&mut self, value: u32) {
        self.spurious = value & SVR_WRITABLE;
        if !self.enabled() {
            // A software-disabled APIC masks its whole local vector table (SDM 11.4.7.2).
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
    }

    fn write_lvt(&mut self, register: u32, value: u32) {
        let index = lvt_index(register);
        let mut entry = value & LVT_WRITABLE[index];
        if !self.enabled() {
            entry |= LVT_MASKED;
        }
        self.lvt[index] = entry;
        if register == LVT_TIMER {
            self.timer.set_mode(TimerMode::from_bits(entry >> 17));
        }
    }

    /// Turns the interrupt command register into a message.
    fn send(&mut self, destination: u32) -> Effect {
        let command = self.command as u32;
        let delivery = Delivery::from_bits(command >> 8);
        let deassert = command & (1 << 14) == 0;
        if delivery == Delivery::Init && deassert {
            // "INIT level de-assert": a message to synchronise arbitration, which nobody has had since the P6.
            return Effect::None;
        }
        let destination = match command >> 18 & 3 {
            1 => Destination::Oneself,
            2 => Destination::All,
            3 => Destination::Others,
            _ if command & (1 << 11) != 0 => Destination::Logical(destination),
            _ => Destination::Physical(destination),
        };
        Effect::Send(Message { vector: command as u8, delivery, destination, level: false })
    }

    /// The timer's deadline register, in host ticks; 0 when nothing is armed.
    pub fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline()
    }

    /// Arms the timer for a host tick, or disarms it with 0. Ignored outside TSC-deadline mode (SDM 11.5.4.1).
    pub fn set_tsc_deadline(&mut self, deadline: u64) {
        self.timer.set_tsc_deadline(deadline);
    }
}

/// Place of an LVT register in the table.
fn lvt_index(register: u32) -> usize {
    ((register - LVT_TIMER) >> 4) as usize
}

/// The memory offset of an x2APIC register.
fn x2apic_offset(index: u32) -> Result<u32, Refused> {
    match index.checked_sub(MSR_X2APIC) {
        // The high half of the command register, and the destination format, do not exist in this mode.
        Some(number @ 0..=0x3f) if number << 4 != ICR_HIGH && number << 4 != DFR => Ok(number << 4),
        _ => Err(Refused),
    }
}

#[cfg(test)]
#[path = "lapic_tests.rs"]
mod tests;
