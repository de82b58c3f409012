//! Interrupt controllers in software: what stands between a device's line and a vCPU.
//!
//! ```text
//!   device --> Line --+--> I/O APIC --message--> local APIC of a seat --+--> vCPU
//!                     +--> 8259 pair --------external (LINT0)-----------+
//!   8254 channel 0 ---+          local APIC timer ----^    other vCPUs --^ (IPI)
//! ```
//!
//! Locks are taken in one order: the chips, then a seat. Nothing holds a seat while it asks for the chips.
//! An engine with controllers of its own (KVM's in-kernel ones) uses none of this.

pub mod message;
pub mod lapic;
pub mod timer_register;
pub mod ioapic;
pub mod pic;
pub mod pit;
pub mod seat;
pub mod alarm;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::clock::{TscRate, host_tsc};

use alarm::Alarm;
use ioapic::IoApic;
use lapic::{Effect, Refused};
use message::{Delivery, Message};
use pic::Pic;
use pit::Pit;
use seat::{Entry, Seat, Takes};

/// IA32_TSC_DEADLINE (SDM vol. 3A, 11.5.4.1).
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// The I/O APIC's pin for the legacy timer, which is line 0 of the 8259 (the usual override of a PC).
pub const TIMER_PIN: usize = 2;

/// Takes a lock. A panic elsewhere must not take the whole machine with it: the state is plain registers.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Number of an interrupt line, as ACPI counts them: the pin of the I/O APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gsi(u8);

impl Gsi {
    /// Line `number`, if there is such a pin.
    pub fn new(number: u8) -> Option<Gsi> {
        (usize::from(number) < ioapic::PINS).then_some(Gsi(number))
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }
}

struct Chips {
    ioapic: IoApic,
    pic: Pic,
    pit: Pit,
}

/// All controllers of a machine.
pub struct Controllers {
    rate: TscRate,
    seats: Vec<Seat>,
    chips: Mutex<Chips>,
    /// Levels of the lines as devices set them, so that setting the same level again costs nothing.
    levels: [AtomicBool; ioapic::PINS],
    alarm: Arc<Alarm>,
}

impl Controllers {
    /// Controllers for `cpus` vCPUs, and the alarm's thread.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn new(cpus: u32, rate: TscRate) -> std::io::Result<Arc<Controllers>> {
        let chips = Chips { ioapic: IoApic::new(), pic: Pic::new(), pit: Pit::new(rate) };
        let controllers = Arc::new(Controllers {
            rate,
            seats: (0..cpus).map(|id| Seat::new(id, rate)).collect(),
            chips: Mutex::new(chips),
            levels: Default::default(),
            alarm: Arc::new(Alarm::new(rate)),
        });
        let (alarm, weak) = (controllers.alarm.clone(), Arc::downgrade(&controllers));
        std::thread::Builder::new().name("lguest-alarm".into()).spawn(move || alarm_thread(&alarm, &weak))?;
        Ok(controllers)
    }

    /// Rate of the host's counter.
    pub fn rate(&self) -> TscRate {
        self.rate
    }

    /// The place of a vCPU.
    ///
    /// # Panics
    /// When there is no such vCPU: the board is wrong, not the Guest.
    pub fn seat(&self, vcpu: u32) -> &Seat {
        &self.seats[vcpu as usize]
    }

    /// The handle by which a device holds its line.
    pub fn line(self: &Arc<Self>, gsi: Gsi) -> Line {
        Line { controllers: self.clone(), gsi }
    }

    /// Ends the run of every vCPU.
    pub fn stop(&self) {
        self.seats.iter().for_each(Seat::stop);
    }

    /// Has every vCPU come out for a moment.
    pub fn summon(&self) {
        self.seats.iter().for_each(Seat::summon);
    }

    /// Takes a stop back.
    pub fn resume(&self) {
        self.seats.iter().for_each(Seat::resume);
    }

    /// A vCPU is about to sleep with interrupts off, or until it is started: true when that leaves nobody who could ever wake
    /// anybody.
    pub fn nobody_is_left(&self, vcpu: u32) -> bool {
        self.seat(vcpu).fall_deaf();
        self.seats.iter().all(Seat::is_deaf)
    }

    /// What the vCPU does next; arms the alarm when it goes into the Guest.
    pub fn enter(&self, vcpu: u32, takes: Takes) -> Entry {
        let entry = self.seat(vcpu).enter(takes);
        match entry {
            Entry::External => return Entry::Interrupt(self.with_chips(|chips| chips.pic.acknowledge())),
            Entry::Run { deadline: Some(deadline), .. } => self.alarm.arm(deadline),
            _ => {}
        }
        entry
    }

    fn set_line(&self, gsi: Gsi, up: bool) {
        if self.levels[usize::from(gsi.0)].swap(up, Ordering::AcqRel) == up {
            return;
        }
        let message = self.with_chips(|chips| {
            chips.pic.set_line(gsi.0, up);
            chips.ioapic.set_line(usize::from(gsi.0), up)
        });
        message.into_iter().for_each(|message| self.deliver(message, None));
    }

    /// A message that came from no line: what a device's message-signalled interrupt is.
    pub fn send_message(&self, message: Message) {
        self.deliver(message, None);
    }

    /// Does something to the chips, and shows the first vCPU what became of the 8259's output.
    fn with_chips<R>(&self, act: impl FnOnce(&mut Chips) -> R) -> R {
        let mut chips = lock(&self.chips);
        let result = act(&mut chips);
        if let Some(first) = self.seats.first() {
            first.set_external(chips.pic.output());
        }
        result
    }

    /// Brings a message to the local APICs it names.
    fn deliver(&self, message: Message, from: Option<u32>) {
        match message.delivery {
            Delivery::Fixed => self.seats.iter().for_each(|seat| {
                seat.offer(message, from);
            }),
            // Of several that are not busier than the others, the first.
            Delivery::LowestPriority => {
                let bids = self
                    .seats
                    .iter()
                    .filter_map(|seat| seat.bid(message.destination, from).map(|bid| (bid, seat)));
                if let Some((_, seat)) = bids.min_by_key(|(bid, _)| *bid) {
                    seat.offer(message, from);
                }
            }
            Delivery::NonMaskable | Delivery::Init | Delivery::StartUp => {
                self.seats.iter().for_each(|seat| seat.rouse(message, from));
            }
            // The 8259 has its own wire.
            Delivery::External | Delivery::Ignored => {}
        }
    }

    /// Carries out what a local APIC's register asked for.
    fn carry_out(&self, vcpu: u32, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Send(message) => self.deliver(message, Some(vcpu)),
            Effect::EndOfInterrupt(vector) => {
                let again = self.with_chips(|chips| chips.ioapic.end_of_interrupt(vector));
                again.into_iter().for_each(|message| self.deliver(message, None));
            }
        }
    }

    /// Reads `size` bytes at a port, if a controller owns it.
    pub fn read_port(&self, port: u16, size: u8) -> Option<u32> {
        if !owns_port(port) {
            return None;
        }
        let mut bytes = [0xff; 4];
        self.with_chips(|chips| {
            for (byte, port) in bytes.iter_mut().zip(port..).take(usize::from(size)) {
                *byte = if pic::PORTS.contains(&port) {
                    chips.pic.read(port)
                } else {
                    chips.pit.read(port, host_tsc())
                };
            }
        });
        Some(u32::from_le_bytes(bytes))
    }

    /// Writes `size` bytes at a port; false when no controller owns it.
    pub fn write_port(&self, port: u16, size: u8, value: u32) -> bool {
        if !owns_port(port) {
            return false;
        }
        let deadline = self.with_chips(|chips| {
            for (byte, port) in value.to_le_bytes().into_iter().zip(port..).take(usize::from(size)) {
                chips.pic.write(port, byte);
                chips.pit.write(port, byte, host_tsc());
            }
            chips.pit.deadline()
        });
        deadline.into_iter().for_each(|deadline| self.alarm.arm(deadline));
        true
    }

    /// Reads memory-mapped registers for `vcpu`, if a controller owns the address.
    pub fn read_memory(&self, vcpu: u32, address: u64, size: u8) -> Option<u64> {
        let register = |word: u32| u64::from(word) >> (address % 4 * 8);
        if let Some(offset) = within(address, lapic::APIC_BASE) {
            let word = self.seat(vcpu).with_lapic(|lapic| {
                lapic.advance(host_tsc());
                lapic.answers_memory().then(|| lapic.read_memory(offset as u32, host_tsc()))
            });
            return word.map(register);
        }
        let offset = within(address, ioapic::IOAPIC_BASE)?;
        debug_assert!(size <= 8, "an engine reads at most eight bytes at once");
        Some(register(self.with_chips(|chips| chips.ioapic.read(offset & !3))))
    }

    /// Writes such registers; false when no controller owns the address. The parts take four aligned bytes, and
    /// swallow anything else.
    pub fn write_memory(&self, vcpu: u32, address: u64, size: u8, value: u64) -> bool {
        let whole = size >= 4 && address.is_multiple_of(4);
        if let Some(offset) = within(address, lapic::APIC_BASE) {
            let effect = self.seat(vcpu).with_lapic(|lapic| {
                let answers = lapic.answers_memory();
                let act = answers && whole;
                let effect = act.then(|| lapic.write_memory(offset as u32, value as u32, host_tsc()));
                (answers, effect.unwrap_or(Effect::None))
            });
            self.carry_out(vcpu, effect.1);
            return effect.0;
        }
        let Some(offset) = within(address, ioapic::IOAPIC_BASE) else { return false };
        if whole {
            let messages = self.with_chips(|chips| chips.ioapic.write(offset, value as u32));
            messages.into_iter().for_each(|message| self.deliver(message, None));
        }
        true
    }

    /// Reads an APIC register of `vcpu`, whose counter is the host's plus `tsc_offset`.
    ///
    /// # Errors
    /// [`Refused`] for a register that is not ours, or that faults.
    pub fn read_msr(&self, vcpu: u32, index: u32, tsc_offset: u64) -> Result<u64, Refused> {
        self.seat(vcpu).with_lapic(|lapic| {
            lapic.advance(host_tsc());
            if index != MSR_TSC_DEADLINE {
                return lapic.read_msr(index, host_tsc());
            }
            let deadline = lapic.tsc_deadline();
            Ok(if deadline == 0 { 0 } else { deadline.wrapping_add(tsc_offset) })
        })
    }

    /// Writes such a register.
    ///
    /// # Errors
    /// [`Refused`] as for [`Self::read_msr`].
    pub fn write_msr(&self, vcpu: u32, index: u32, value: u64, tsc_offset: u64) -> Result<(), Refused> {
        let effect = self.seat(vcpu).with_lapic(|lapic| {
            if index != MSR_TSC_DEADLINE {
                return lapic.write_msr(index, value, host_tsc());
            }
            // A deadline before the counter's start of time is one that has passed; 0 would mean "none".
            lapic.set_tsc_deadline(if value == 0 { 0 } else { value.saturating_sub(tsc_offset).max(1) });
            Ok(Effect::None)
        })?;
        self.carry_out(vcpu, effect);
        Ok(())
    }

    /// What the alarm's thread does when it wakes: timers that are due, and when to wake next.
    fn tick(&self) {
        let now = host_tsc();
        let (fired, mut next) = {
            let mut chips = lock(&self.chips);
            (chips.pit.advance(now), chips.pit.deadline())
        };
        if fired {
            self.pulse_timer();
        }
        for seat in &self.seats {
            next = [next, seat.tick(now)].into_iter().flatten().min();
        }
        next.into_iter().for_each(|deadline| self.alarm.arm(deadline));
    }

    /// The legacy timer's edge, on both controllers.
    fn pulse_timer(&self) {
        let message = self.with_chips(|chips| {
            chips.pic.set_line(0, false);
            chips.pic.set_line(0, true);
            chips.ioapic.set_line(TIMER_PIN, false);
            chips.ioapic.set_line(TIMER_PIN, true)
        });
        message.into_iter().for_each(|message| self.deliver(message, None));
    }
}

impl Drop for Controllers {
    fn drop(&mut self) {
        self.alarm.close();
    }
}

fn alarm_thread(alarm: &Alarm, controllers: &Weak<Controllers>) {
    while alarm.wait() {
        let Some(controllers) = controllers.upgrade() else { return };
        controllers.tick();
    }
}

fn owns_port(port: u16) -> bool {
    pic::PORTS.contains(&port) || pit::PORTS.contains(&port)
}

/// Offset in a controller's page.
fn within(address: u64, base: u64) -> Option<u64> {
    address.checked_sub(base).filter(|offset| *offset < ioapic::IOAPIC_SIZE)
}

/// A device's end of its interrupt line, usable from any thread.
#[derive(Clone)]
pub struct Line {
    controllers: Arc<Controllers>,
    gsi: Gsi,
}

impl Line {
    /// Raises (true) or lowers the line. Setting the level it has is cheap.
    pub fn set(&self, up: bool) {
        self.controllers.set_line(self.gsi, up);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod several_tests;
