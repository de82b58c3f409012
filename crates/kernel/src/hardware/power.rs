//! The end of the machine, wanted or not.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use lguest_abi::hypercall::{CRASH_TEXT, Hypercall, POWER_DOWN};

use super::host;
use super::instructions::{port_out, port_out_16, stop};
use super::serial::Serial;

/// The board's ACPI control register, and what means soft-off there (sleep type 5, sleep enable).
const PM_CONTROL: u16 = 0x604;
const SOFT_OFF: u16 = 5 << 10 | 1 << 13;
/// The reset register of a PC's chipset, and a full reset.
const RESET: u16 = 0xcf9;
const FULL_RESET: u8 = 0xe;

/// Whether there is a Host that knows CRASH.
static HAS_HOST: AtomicBool = AtomicBool::new(false);
/// A panic inside a panic says nothing more.
static PANICKING: AtomicBool = AtomicBool::new(false);

/// From now on endings go through the Host, with their reason.
pub fn tell_host() {
    HAS_HOST.store(true, Ordering::Relaxed);
}

/// Turns the machine off.
pub fn off() -> ! {
    if HAS_HOST.load(Ordering::Relaxed) {
        crash(POWER_DOWN);
    }
    port_out_16(PM_CONTROL, SOFT_OFF);
    stop()
}

fn crash(reason: &str) {
    let mut text = Text { bytes: [0; CRASH_TEXT], length: 0 };
    // A text that does not fit is cut, which is all that can go wrong.
    let _ = text.write_str(reason);
    text.send();
}

/// A reason of at most 127 bytes.
struct Text {
    bytes: [u8; CRASH_TEXT],
    length: usize,
}

impl Text {
    fn send(&self) {
        let _ = host::call(Hypercall::Crash, [self.bytes.as_ptr() as u64, 0, 0]);
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = CRASH_TEXT - 1 - self.length;
        let part = &text.as_bytes()[..text.len().min(room)];
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len();
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if PANICKING.swap(true, Ordering::Relaxed) {
        stop();
    }
    if HAS_HOST.load(Ordering::Relaxed) {
        let mut text = Text { bytes: [0; CRASH_TEXT], length: 0 };
        let _ = write!(text, "{}", info.message());
        text.send();
    }
    let _ = writeln!(Serial, "\r\nGuest panic: {info}\r");
    port_out(RESET, FULL_RESET);
    stop()
}
