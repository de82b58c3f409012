//! What a device may ask of the world: an interrupt line, the time, a place for output, the power switch.

/// A level: a device holds it up while it wants attention. Whether the Guest sees level or edge is the
/// controller's business.
pub trait InterruptLine: Send {
    /// Raises (true) or lowers (false) the line. Setting the level it already has changes nothing.
    fn set(&self, up: bool);
}

/// Where messages of message-signalled interrupts go: a write of `data` at `address`, which only interrupt controllers hear.
pub trait Messages: Send {
    /// Sends one. An address where no controller listens, and data that no controller understands, are lost.
    fn send(&self, address: u64, data: u32);
}

/// Time, as devices with a clock of their own need it.
pub trait Clock: Send {
    /// Nanoseconds since some fixed moment; never goes back.
    fn monotonic(&self) -> u64;
    /// Seconds since 1970-01-01 00:00 UTC.
    fn wall(&self) -> u64;
}

/// Where a serial port's bytes go.
pub trait Output: Send {
    /// Takes one byte. May wait until there is room, never grows without bound, and drops bytes nobody will read.
    fn put(&mut self, byte: u8);
}

/// The end of a machine, as the Guest asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerChange {
    /// Turn off (ACPI S5).
    Off,
    /// Start over (reset register, keyboard controller).
    Reset,
}

/// The switch that carries a Guest's wish to end. The first wish wins.
pub trait PowerSwitch: Send {
    /// Asks for it. The vCPU that asked comes back from its exit; nothing runs after.
    fn ask(&self, change: PowerChange);
}
