//! The I/O APIC: turns twenty-four interrupt lines into messages to local APICs.
//!
//! Registers are behind an index and a window (Intel 82093AA data sheet, section 3). Level-triggered entries
//! wait for the end of their interrupt (remote IRR); edge-triggered ones forget at once.

use super::message::{Delivery, Destination, Message};

/// Where it sits in memory.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Bytes of its memory window; registers repeat nowhere.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// Lines, as the part has.
pub const PINS: usize = 24;

/// Offsets in the window: the index, the register it names, and version 0x20's end-of-interrupt.
const INDEX: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;
// Registers behind the index.
const ID: u8 = 0x00;
const VERSION: u8 = 0x01;
const ARBITRATION: u8 = 0x02;
const FIRST_ENTRY: u8 = 0x10;
/// Version 0x20 (the first with [`EOI`]), highest entry in bits 16 to 23.
const VERSION_VALUE: u32 = 0x20 | (PINS as u32 - 1) << 16;

// A redirection entry.
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Bits software may write; delivery status and remote IRR are the part's own.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// The controller.
pub struct IoApic {
    id: u32,
    index: u8,
    entries: [u64; PINS],
    /// Levels of the lines, polarity not applied: a device that wants attention is true.
    lines: [bool; PINS],
}

impl IoApic {
    /// After reset: everything masked.
    pub fn new() -> IoApic {
        IoApic { id: 0, index: 0, entries: [MASKED; PINS], lines: [false; PINS] }
    }

    /// A line changes. The message it causes, if any. Pins that do not exist are ignored.
    ///
    /// Polarity is what the Guest and the board agree on; a line here is asserted or not, so the bit means nothing.
    pub fn set_line(&mut self, pin: usize, up: bool) -> Option<Message> {
        let line = self.lines.get_mut(pin)?;
        let rose = up && !*line;
        *line = up;
        if self.entries[pin] & LEVEL != 0 { self.deliver_level(pin) } else { self.deliver_edge(pin, rose) }
    }

    /// The end of a level-triggered interrupt. A line that is still up interrupts again.
    pub fn end_of_interrupt(&mut self, vector: u8) -> Vec<Message> {
        let mut again = Vec::new();
        for pin in 0..PINS {
            let entry = self.entries[pin];
            if entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR && entry as u8 == vector {
                self.entries[pin] &= !REMOTE_IRR;
                again.extend(self.deliver_level(pin));
            }
        }
        again
    }

    fn deliver_edge(&self, pin: usize, rose: bool) -> Option<Message> {
        (rose && self.entries[pin] & MASKED == 0).then(|| message(self.entries[pin]))
    }

    fn deliver_level(&mut self, pin: usize) -> Option<Message> {
        let entry = self.entries[pin];
        if !self.lines[pin] || entry & (MASKED | REMOTE_IRR) != 0 {
            return None;
        }
        self.entries[pin] |= REMOTE_IRR;
        Some(message(entry))
    }

    /// Reads four bytes at an offset of the window.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            INDEX => u32::from(self.index),
            WINDOW => self.read_register(),
            _ => 0,
        }
    }

    /// Writes four bytes at an offset. What it causes: unmasking a level that is up interrupts at once.
    pub fn write(&mut self, offset: u64, value: u32) -> Vec<Message> {
        match offset {
            INDEX => self.index = value as u8,
            WINDOW => return self.write_register(value).into_iter().collect(),
            EOI => return self.end_of_interrupt(value as u8),
            _ => {}
        }
        Vec::new()
    }

    fn read_register(&self) -> u32 {
        match self.index {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_VALUE,
            _ => self.selected_entry().map_or(0, |(pin, shift)| (self.entries[pin] >> shift) as u32),
        }
    }

    fn write_register(&mut self, value: u32) -> Option<Message> {
        if self.index == ID {
            self.id = value & 0x0f00_0000;
            return None;
        }
        let (pin, shift) = self.selected_entry()?;
        let half = 0xffff_ffffu64 << shift;
        let written = u64::from(value) << shift & WRITABLE & half;
        let entry = &mut self.entries[pin];
        *entry = *entry & !(half & WRITABLE) | written;
        if *entry & LEVEL == 0 {
            // Switching to edge forgets the level; Linux clears a stuck remote IRR this way.
            *entry &= !REMOTE_IRR;
            return None;
        }
        self.deliver_level(pin)
    }

    /// The entry the index names, and the bit its half starts at.
    fn selected_entry(&self) -> Option<(usize, u32)> {
        let number = usize::from(self.index.checked_sub(FIRST_ENTRY)?);
        (number / 2 < PINS).then_some((number / 2, number as u32 % 2 * 32))
    }
}

impl Default for IoApic {
    fn default() -> Self {
        IoApic::new()
    }
}

fn message(entry: u64) -> Message {
    let destination = (entry >> 56) as u32;
    let destination = match entry & LOGICAL {
        0 => Destination::Physical(destination),
        _ => Destination::Logical(destination),
    };
    let level = entry & LEVEL != 0;
    Message { vector: entry as u8, delivery: Delivery::from_bits(entry as u32 >> 8), destination, level }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_entry(pin: u8, entry: u64) -> IoApic {
        let mut ioapic = IoApic::new();
        for (half, value) in [entry as u32, (entry >> 32) as u32].into_iter().enumerate() {
            ioapic.write(INDEX, u32::from(FIRST_ENTRY + pin * 2) + half as u32);
            ioapic.write(WINDOW, value);
        }
        ioapic
    }

    #[test]
    fn an_edge_is_one_message_however_long_the_line_stays_up() {
        let mut ioapic = with_entry(4, 0x0100_0000_0000_0034);
        let message = ioapic.set_line(4, true).unwrap();
        assert_eq!((message.vector, message.destination), (0x34, Destination::Physical(1)));
        assert_eq!(ioapic.set_line(4, true), None);
        assert_eq!(ioapic.set_line(4, false), None);
        assert!(ioapic.set_line(4, true).is_some());
    }

    #[test]
    fn a_level_waits_for_its_end_and_comes_again_while_the_line_is_up() {
        let mut ioapic = with_entry(9, LEVEL | 0x59);
        assert!(ioapic.set_line(9, true).unwrap().level);
        assert_eq!(ioapic.set_line(9, true), None, "remote IRR is set");
        assert_eq!(ioapic.end_of_interrupt(0x59).len(), 1);
        ioapic.set_line(9, false);
        assert!(ioapic.end_of_interrupt(0x59).is_empty());
        assert!(ioapic.set_line(9, true).is_some());
    }

    #[test]
    fn a_masked_pin_is_silent_and_a_level_shows_when_unmasked() {
        let mut ioapic = with_entry(5, LEVEL | MASKED | 0x40);
        assert_eq!(ioapic.set_line(5, true), None);
        ioapic.write(INDEX, u32::from(FIRST_ENTRY) + 10);
        assert_eq!(ioapic.write(WINDOW, LEVEL as u32 | 0x40).len(), 1);
    }

    #[test]
    fn an_edge_while_masked_is_lost() {
        let mut ioapic = with_entry(4, MASKED | 0x34);
        assert_eq!(ioapic.set_line(4, true), None);
        ioapic.write(INDEX, u32::from(FIRST_ENTRY) + 8);
        assert!(ioapic.write(WINDOW, 0x34).is_empty());
    }

    #[test]
    fn the_parts_own_bits_cannot_be_written() {
        let ioapic = with_entry(0, u64::MAX);
        assert_eq!(ioapic.entries[0] & (REMOTE_IRR | 1 << 12), 0);
        assert_ne!(ioapic.entries[0] & 1 << 13, 0, "polarity is software's");
    }

    #[test]
    fn registers_that_do_not_exist_are_zero_and_pins_that_do_not_exist_are_silent() {
        let mut ioapic = IoApic::new();
        assert_eq!(ioapic.set_line(24, true), None);
        for index in [3, 0x0f, 0x40, 0xff] {
            ioapic.write(INDEX, index);
            ioapic.write(WINDOW, u32::MAX);
            assert_eq!(ioapic.read(WINDOW), 0);
        }
        ioapic.write(INDEX, 1);
        assert_eq!(ioapic.read(WINDOW), 0x0017_0020);
    }
}
