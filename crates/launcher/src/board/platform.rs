//! The engine's interrupt lines, as this board's devices want them.

use std::sync::{Arc, Mutex, PoisonError};

use lguest_devices::outside::{InterruptLine, Messages};
use lguest_host::irq::Gsi;
use lguest_host::platform::{Platform, PlatformLine};

/// An interrupt line of this board.
pub struct BoardLine(PlatformLine);

impl BoardLine {
    /// Line `number` of the layout.
    pub fn new(platform: &Platform, number: u8) -> BoardLine {
        let gsi = Gsi::new(number).expect("the layout names only lines that the I/O APIC has");
        BoardLine(platform.line(gsi))
    }
}

impl InterruptLine for BoardLine {
    fn set(&self, up: bool) {
        self.0.set(up);
    }
}

/// A line that several devices share, as PCI's are: up while one of them holds it up.
#[derive(Clone)]
pub struct SharedLine(Arc<Mutex<(u32, BoardLine)>>);

impl SharedLine {
    /// Nobody holds it up.
    pub fn new(line: BoardLine) -> SharedLine {
        SharedLine(Arc::new(Mutex::new((0, line))))
    }

    /// The end of device `number`, below 32, which no other device has.
    pub fn wire(&self, number: u8) -> SharedWire {
        assert!(u32::from(number) < u32::BITS, "a bus has at most 32 devices");
        SharedWire { line: self.clone(), bit: 1 << number }
    }
}

/// One device's end of a line.
pub struct SharedWire {
    line: SharedLine,
    bit: u32,
}

impl InterruptLine for SharedWire {
    fn set(&self, up: bool) {
        let mut shared = self.line.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = if up { shared.0 | self.bit } else { shared.0 & !self.bit };
        if held != shared.0 {
            shared.0 = held;
            shared.1.set(held != 0);
        }
    }
}

/// Interrupt messages of this board's devices.
pub struct BoardMessages(Platform);

impl BoardMessages {
    /// To this engine's APICs.
    pub fn new(platform: &Platform) -> BoardMessages {
        BoardMessages(platform.clone())
    }
}

impl Messages for BoardMessages {
    fn send(&self, address: u64, data: u32) {
        self.0.send_message(address, data);
    }
}
