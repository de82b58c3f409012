//! The serial port: text before anything else works, and on a machine with no lguest bus the only text there is.
//!
//! Registers: the 16550A data sheet.

use alloc::string::String;
use core::fmt::{self, Write as _};

use super::instructions::{port_in, port_out};

const DATA: u16 = 0x3f8;
const INTERRUPTS: u16 = DATA + 1;
const FIFO: u16 = DATA + 2;
const MODEM: u16 = DATA + 4;
const LINE: u16 = DATA + 5;
/// Interrupt when a byte came.
const RECEIVED: u8 = 1;
/// FIFO on, both cleared.
const FIFO_ON: u8 = 7;
/// DTR, RTS, and OUT2, which lets the interrupt out.
const MODEM_ON: u8 = 0b1011;
const BYTE_READY: u8 = 1;
const ROOM: u8 = 1 << 5;
/// No port: an empty bus reads as ones.
const NO_PORT: u8 = 0xff;
/// Its line at the I/O APIC.
pub const LINE_NUMBER: u32 = 4;

/// Sets the port up. Called once, by [`super::boot::start`].
pub(super) fn start() {
    port_out(FIFO, FIFO_ON);
    port_out(MODEM, MODEM_ON);
    port_out(INTERRUPTS, RECEIVED);
}

/// A byte that came.
#[must_use]
pub fn get() -> Option<u8> {
    let line = port_in(LINE);
    (line != NO_PORT && line & BYTE_READY != 0).then(|| port_in(DATA))
}

/// Sends a byte, waiting for room.
pub fn put(byte: u8) {
    while port_in(LINE) & ROOM == 0 {
        core::hint::spin_loop();
    }
    port_out(DATA, byte);
}

/// The second port: the Launcher's control channel, on which a Guest says how its work ended.
const REPORTS: u16 = 0x2f8;
const REPORTS_LINE: u16 = REPORTS + 5;

/// Reports the exit status of what this Guest was asked to run.
pub fn report(status: u8) {
    // A String takes everything.
    let mut line = String::new();
    let _ = writeln!(line, "status {status}");
    for byte in line.bytes() {
        while port_in(REPORTS_LINE) & ROOM == 0 {
            core::hint::spin_loop();
        }
        port_out(REPORTS, byte);
    }
}

/// The port as a place to print.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(put);
        Ok(())
    }
}
