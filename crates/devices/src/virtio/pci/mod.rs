//! Virtio over PCI (virtio 1.2, 4.1): a function with one BAR, and an interrupt for each queue.
//!
//! ```text
//!   BAR 0   0000 common configuration     1000 interrupt status     2000 the device's configuration
//!           3000 notifications, four bytes a queue                  4000 MSI-X table   4800 its pending bits
//! ```
//! Capabilities in the configuration space say so ([`capabilities`]), so a driver takes nothing of this for granted. A device
//! interrupts by messages once the driver has turned MSI-X on, each queue by the vector it was given; before, and with drivers
//! that never do, by its line, whose cause stands in the interrupt status. Several queues may share a vector.

mod capabilities;
mod registers;

use std::ops::Range;

use super::QueueIndex;
use super::life::Life;
use super::rings::Signals;
use super::waker::Wakes;
use crate::outside::{InterruptLine, Messages};
use crate::pci::bus::Function;
use crate::pci::configuration::Configuration;
use crate::pci::msix::{ENABLE, FUNCTION_MASK, Message, Msix};
use capabilities::{Access, Places};
use registers::Registers;

/// Bytes behind the BAR.
pub const SIZE: u32 = 0x8000;

/// The parts behind the BAR.
mod part {
    use std::ops::Range;

    pub const COMMON: Range<u64> = 0..0x1000;
    pub const INTERRUPT: Range<u64> = 0x1000..0x2000;
    pub const DEVICE: Range<u64> = 0x2000..0x3000;
    pub const NOTIFY: Range<u64> = 0x3000..0x4000;
    pub const TABLE: Range<u64> = 0x4000..0x4800;
    pub const PENDING: Range<u64> = 0x4800..0x5000;
}

/// Bytes between the places of two queues' notifications.
const NOTIFY_STEP: u64 = 4;
/// Bits of the interrupt status (4.1.4.5).
const QUEUE_INTERRUPT: u8 = 1;
const CONFIGURATION_INTERRUPT: u8 = 2;

/// A device behind PCI's registers.
pub struct PciTransport<L, M> {
    life: Life,
    space: Configuration,
    places: Places,
    registers: Registers,
    msix: Msix,
    line: L,
    messages: M,
    /// Causes of the line, cleared by reading them.
    status: u8,
}

impl<L: InterruptLine, M: Messages> PciTransport<L, M> {
    /// The function of a device, at first at this address in memory. `line` is the fallback for `messages`.
    pub fn new(life: Life, address: u32, line: L, messages: M) -> Self {
        Self::with(life, address, line, messages, true)
    }

    /// The same for a machine that has no messages: the driver finds no MSI-X.
    pub fn without_messages(life: Life, address: u32, line: L, messages: M) -> Self {
        Self::with(life, address, line, messages, false)
    }

    fn with(life: Life, address: u32, line: L, messages: M, by_messages: bool) -> Self {
        // A vector a queue, and one for changes of the configuration.
        let msix = Msix::new(usize::from(life.queue_count()) + 1);
        let registers = Registers::new(life.queue_count(), msix.vectors());
        let (space, places) = capabilities::space(life.kind(), address, by_messages.then(|| msix.vectors()));
        PciTransport { life, space, places, registers, msix, line, messages, status: 0 }
    }

    /// The device behind.
    pub fn life(&self) -> &Life {
        &self.life
    }

    /// Interrupts for what a call of the device brought.
    fn signal(&mut self, Signals { used, changed }: Signals) {
        if self.msix.is_enabled() {
            for queue in used.iter() {
                self.raise(self.registers.queue_vector(queue));
            }
            if changed {
                self.raise(self.registers.configuration_vector());
            }
        } else {
            self.status |= if used.is_empty() { 0 } else { QUEUE_INTERRUPT };
            self.status |= if changed { CONFIGURATION_INTERRUPT } else { 0 };
            self.settle_line();
        }
    }

    fn raise(&mut self, vector: u16) {
        let message = self.msix.raise(vector);
        self.send(message);
    }

    fn send(&self, messages: impl IntoIterator<Item = Message>) {
        messages.into_iter().for_each(|message| self.messages.send(message.address, message.data));
    }

    /// The line follows its causes, unless the driver uses messages or has turned it off.
    fn settle_line(&mut self) {
        let up = self.status != 0 && !self.msix.is_enabled();
        self.space.show_line(up);
        self.line.set(up && self.space.may_use_line());
    }

    /// The Guest has changed its command register or message control.
    fn settle_interrupts(&mut self) {
        let control = self.places.msix.map_or(0, |msix| self.space.word(msix + 2));
        // A function that may not write memory by itself cannot send a message either; what it has to say waits.
        let masked = control & FUNCTION_MASK != 0 || !self.space.is_bus_master();
        let released = self.msix.control(control & ENABLE != 0, masked);
        self.send(released);
        self.settle_line();
    }

    fn set_status(&mut self, value: u8) {
        self.life.set_status(value);
        if value == 0 {
            // A device that was reset interrupts no more (2.4.1), and its queues have lost their vectors.
            self.registers.reset();
            self.msix.forget();
            self.status = 0;
            self.settle_line();
        }
    }

    /// The access that the configuration space describes, if it is one (4.1.4.9): the same as through the BAR.
    fn access(&self) -> Option<(u64, usize)> {
        let Access { bar, offset, length } = capabilities::access(&self.space, self.places);
        let length = usize::try_from(length).ok().filter(|length| matches!(length, 1 | 2 | 4))?;
        (bar == 0 && offset.is_multiple_of(length as u32) && offset < SIZE).then_some((offset.into(), length))
    }

    /// Whether an access to the configuration space reaches the bytes that stand for such an access.
    fn reaches_access(&self, at: usize, length: usize) -> bool {
        let data = self.places.access_data();
        at < data.end && data.start < at + length
    }
}

impl<L: InterruptLine, M: Messages> Function for PciTransport<L, M> {
    fn read_configuration(&mut self, at: usize, data: &mut [u8]) {
        if let (true, Some((offset, length))) = (self.reaches_access(at, data.len()), self.access()) {
            let mut bytes = [0; 4];
            self.read_memory(offset, &mut bytes[..length]);
            self.space.write(self.places.access_data().start, &bytes);
        }
        self.space.read(at, data);
    }

    fn write_configuration(&mut self, at: usize, data: &[u8]) {
        self.space.write(at, data);
        if let (true, Some((offset, length))) = (self.reaches_access(at, data.len()), self.access()) {
            let mut bytes = [0; 4];
            self.space.read(self.places.access_data().start, &mut bytes);
            self.write_memory(offset, &bytes[..length]);
        }
        self.settle_interrupts();
    }

    fn memory(&self) -> Option<Range<u64>> {
        self.space.memory()
    }

    fn read_memory(&mut self, offset: u64, data: &mut [u8]) {
        let Some((part, at)) = place(offset, data.len()) else { return };
        match part {
            Part::Common => self.registers.read(&self.life, at as usize, data),
            Part::Interrupt => {
                data.fill(0);
                if at == 0 {
                    data[0] = std::mem::take(&mut self.status);
                    self.settle_line();
                }
            }
            Part::Device => {
                let fields = self.life.configuration();
                for (at, byte) in (at as usize..).zip(data) {
                    // Behind the configuration there is nothing, which reads as zeroes.
                    *byte = fields.get(at).copied().unwrap_or(0);
                }
            }
            Part::Notify => data.fill(0),
            Part::Table => self.msix.read_table(at as usize, data),
            Part::Pending => self.msix.read_pending(at as usize, data),
        }
    }

    fn write_memory(&mut self, offset: u64, data: &[u8]) {
        let Some((part, at)) = place(offset, data.len()) else { return };
        match part {
            Part::Common => {
                if let Some(status) = self.registers.write(&mut self.life, at as usize, data) {
                    self.set_status(status);
                }
            }
            Part::Device => self.life.write_configuration(at, data),
            Part::Notify => {
                let queue = QueueIndex((at / NOTIFY_STEP) as u16);
                let signals = self.life.notify(queue);
                self.signal(signals);
            }
            Part::Table => {
                let released = self.msix.write_table(at as usize, data);
                self.send(released);
            }
            // Not the Guest's to write.
            Part::Interrupt | Part::Pending => {}
        }
    }
}

impl<L: InterruptLine, M: Messages> Wakes for PciTransport<L, M> {
    fn wake(&mut self) {
        let signals = self.life.wake();
        self.signal(signals);
    }
}

/// What is behind the BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Common,
    Interrupt,
    Device,
    Notify,
    Table,
    Pending,
}

/// The part that holds a whole access, and the offset in it.
fn place(offset: u64, length: usize) -> Option<(Part, u64)> {
    let parts = [
        (Part::Common, part::COMMON),
        (Part::Interrupt, part::INTERRUPT),
        (Part::Device, part::DEVICE),
        (Part::Notify, part::NOTIFY),
        (Part::Table, part::TABLE),
        (Part::Pending, part::PENDING),
    ];
    let end = offset.checked_add(length as u64)?;
    let (part, range) = parts.into_iter().find(|(_, range)| range.contains(&offset) && end <= range.end)?;
    Some((part, offset - range.start))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
