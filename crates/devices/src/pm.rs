//! ACPI power management: the fixed registers by which a Guest turns its machine off (ACPI 6.5, 4.8.3).
//!
//! ```text
//!   0  PM1a status    2 bytes   write ones to clear
//!   2  PM1a enable    2 bytes
//!   4  PM1a control   2 bytes   sleep type and the bit that means it
//!   8  PM timer       4 bytes   3.579545 MHz, 32 bits, read-only
//! ```
//!
//! The power button is here too, as a fixed event: [`Pm::press_power_button`] asks a Guest to go. The timer's
//! overflow event is left out: kernels turn it off first thing and watch the count.

use crate::bus::Device;
use crate::outside::{Clock, InterruptLine, PowerChange, PowerSwitch};

/// Bytes of registers.
pub const REGISTERS: u64 = 12;
/// Offset and bytes of the event block, the control block and the timer, for the FADT.
pub const EVENT_BLOCK: (u64, u8) = (0, 4);
/// As above.
pub const CONTROL_BLOCK: (u64, u8) = (4, 2);
/// As above.
pub const TIMER_BLOCK: (u64, u8) = (8, 4);
/// The sleep type that means soft-off here; the DSDT's `\_S5` carries it.
pub const SLEEP_TYPE_OFF: u8 = 5;

const STATUS: u64 = 0;
const ENABLE: u64 = 2;
const CONTROL: u64 = 4;
const TIMER: u64 = 8;

/// Status and enable bits: global lock, power button, sleep button, RTC alarm.
const EVENTS: u16 = 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10;
const POWER_BUTTON: u16 = 1 << 8;
/// Control bits: ACPI mode (always on, there is no other), sleep type, sleep enable.
const SCI_ENABLE: u16 = 1;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;
const CONTROL_WRITABLE: u16 = 7 << SLEEP_TYPE_SHIFT | 1 << 1;
/// Ticks of the PM timer in a second.
const TIMER_HERTZ: u128 = 3_579_545;

/// The registers, with their interrupt, their clock and the switch they work.
pub struct Pm<L, C, P> {
    line: L,
    clock: C,
    power: P,
    status: u16,
    enable: u16,
    control: u16,
}

impl<L: InterruptLine, C: Clock, P: PowerSwitch> Pm<L, C, P> {
    /// Registers after power-on.
    pub fn new(line: L, clock: C, power: P) -> Self {
        Pm { line, clock, power, status: 0, enable: 0, control: SCI_ENABLE }
    }

    /// A user presses the power button; a Guest that listens shuts down.
    pub fn press_power_button(&mut self) {
        self.status |= POWER_BUTTON;
        self.update_line();
    }

    fn update_line(&self) {
        self.line.set(self.status & self.enable != 0);
    }

    /// The PM timer, which wraps after 20 minutes.
    fn timer(&self) -> u32 {
        (u128::from(self.clock.monotonic()) * TIMER_HERTZ / 1_000_000_000) as u32
    }

    /// All registers as bytes, so that any width and offset reads right.
    fn registers(&self) -> [u8; REGISTERS as usize] {
        let mut bytes = [0; REGISTERS as usize];
        for (at, value) in [(STATUS, self.status), (ENABLE, self.enable), (CONTROL, self.control)] {
            bytes[at as usize..at as usize + 2].copy_from_slice(&value.to_le_bytes());
        }
        bytes[TIMER as usize..].copy_from_slice(&self.timer().to_le_bytes());
        bytes
    }

    fn write_control(&mut self, value: u16) {
        self.control = value & CONTROL_WRITABLE | SCI_ENABLE;
        let kind = (value >> SLEEP_TYPE_SHIFT & 7) as u8;
        if value & SLEEP_ENABLE != 0 && kind == SLEEP_TYPE_OFF {
            self.power.ask(PowerChange::Off);
        }
    }
}

/// Replaces the byte of `value` that lies at `offset - register`.
fn with_byte(value: u16, register: u64, offset: u64, byte: u8) -> u16 {
    let mut bytes = value.to_le_bytes();
    bytes[(offset - register) as usize] = byte;
    u16::from_le_bytes(bytes)
}

impl<L: InterruptLine, C: Clock, P: PowerSwitch> Device for Pm<L, C, P> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let registers = self.registers();
        for (at, byte) in (offset..).zip(data) {
            *byte = registers.get(at as usize).copied().unwrap_or(0xff);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, &byte) in (offset..).zip(data) {
            match at {
                STATUS..ENABLE => self.status &= !with_byte(0, STATUS, at, byte),
                ENABLE..CONTROL => self.enable = with_byte(self.enable, ENABLE, at, byte) & EVENTS,
                // The sleep bits are all in the high byte, so byte by byte is as good as at once.
                4 | 5 => self.write_control(with_byte(self.control, CONTROL, at, byte)),
                _ => {}
            }
        }
        self.update_line();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// The world around the registers: level, nanoseconds, wishes.
    #[derive(Clone, Default)]
    struct World(Arc<Mutex<(bool, u64, Vec<PowerChange>)>>);

    impl InterruptLine for World {
        fn set(&self, up: bool) {
            self.0.lock().unwrap().0 = up;
        }
    }
    impl Clock for World {
        fn monotonic(&self) -> u64 {
            self.0.lock().unwrap().1
        }
        fn wall(&self) -> u64 {
            0
        }
    }
    impl PowerSwitch for World {
        fn ask(&self, change: PowerChange) {
            self.0.lock().unwrap().2.push(change);
        }
    }

    fn pm() -> (Pm<World, World, World>, World) {
        let world = World::default();
        (Pm::new(world.clone(), world.clone(), world.clone()), world)
    }

    fn read<const N: usize>(pm: &mut Pm<World, World, World>, offset: u64) -> [u8; N] {
        let mut bytes = [0xff; N];
        pm.read(offset, &mut bytes);
        bytes
    }

    #[test]
    fn soft_off_needs_its_type_and_the_enable_bit() {
        let (mut pm, world) = pm();
        pm.write(CONTROL, &(5u16 << 10).to_le_bytes());
        pm.write(CONTROL, &(1 << 10 | SLEEP_ENABLE).to_le_bytes());
        assert!(world.0.lock().unwrap().2.is_empty());
        pm.write(CONTROL, &(5 << 10 | SLEEP_ENABLE).to_le_bytes());
        assert_eq!(world.0.lock().unwrap().2, [PowerChange::Off]);
    }

    #[test]
    fn acpi_mode_is_on_and_stays_on() {
        let (mut pm, _) = pm();
        pm.write(CONTROL, &[0, 0]);
        assert_eq!(read::<2>(&mut pm, CONTROL), [1, 0]);
    }

    #[test]
    fn the_power_button_interrupts_until_its_status_is_cleared() {
        let (mut pm, world) = pm();
        pm.press_power_button();
        assert!(!world.0.lock().unwrap().0, "not enabled yet");
        pm.write(ENABLE, &POWER_BUTTON.to_le_bytes());
        assert!(world.0.lock().unwrap().0);
        assert_eq!(read::<2>(&mut pm, STATUS), POWER_BUTTON.to_le_bytes());
        pm.write(STATUS, &POWER_BUTTON.to_le_bytes());
        assert!(!world.0.lock().unwrap().0);
    }

    #[test]
    fn the_timer_counts_its_own_rate_and_wraps() {
        let (mut pm, world) = pm();
        world.0.lock().unwrap().1 = 1_000_000_000;
        assert_eq!(u32::from_le_bytes(read(&mut pm, TIMER)), 3_579_545);
        world.0.lock().unwrap().1 = u64::MAX;
        assert_eq!(read::<4>(&mut pm, TIMER).len(), 4);
    }

    #[test]
    fn an_event_block_reads_in_one_piece() {
        let (mut pm, _) = pm();
        pm.press_power_button();
        pm.write(ENABLE, &[0xff, 0xff]);
        let wanted = u32::from(POWER_BUTTON) | u32::from(EVENTS) << 16;
        assert_eq!(u32::from_le_bytes(read(&mut pm, 0)), wanted);
    }
}
