//! The engine's interrupt lines, as this board's devices want them.

use lguest_devices::outside::InterruptLine;
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
