//! Virtio (virtio 1.2): one implementation of each device, over any transport.
//!
//! ```text
//!   driver's writes ─► transport (mmio, pci, page)     ─► life     status, features, queues: what every device has
//!                                                       │
//!                                                       ▼
//!   interrupt       ◄─ Signals  ◄─────────────────── device    block, rng: takes chains from a ring, gives them back
//!                                                       │
//!   Guest memory    ◄───────────────────────────────── ring    virtio-queue's rings, over `memory`
//! ```
//!
//! A device sees chains of bytes and nothing of rings, registers or interrupts; what it serves (a disk's bytes, entropy)
//! comes in as a trait. It may keep a chain and give it back when the outside wakes it ([`waker`]). Who
//! carries a disk's requests out, and when, is the Launcher's business (`block::storage::Crew`).
//! A driver that breaks a rule which leaves the device nothing to answer to gets DEVICE_NEEDS_RESET (2.1.2).
//!
//! Reading order: memory, a chain, the rings, a device's life, the transport, how the outside wakes a device, the devices.

pub mod memory;
pub mod chain;
pub mod ring;
pub mod rings;
pub mod life;
pub mod waker;
pub mod mmio;
pub mod pci;
pub mod page;
pub mod rng;
pub mod console;
pub mod net;
pub mod block;
pub mod balloon;
pub mod vsock;
pub mod fs;

#[cfg(test)]
mod bench;

use ring::Broken;
use rings::Rings;

/// Which of its device's queues, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueIndex(pub u16);

/// What a device is (virtio 1.2, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceKind {
    /// A network interface (5.1).
    Network = 1,
    /// A disk (5.2).
    Block = 2,
    /// A console, or ports that have names (5.3).
    Console = 3,
    /// A source of entropy (5.4).
    Entropy = 4,
    /// A balloon (5.5).
    Balloon = 5,
    /// Sockets between Guest and host (5.10).
    Socket = 19,
    /// A shared directory (5.11).
    FileSystem = 26,
}

/// Feature bits that belong to no single kind of device (section 6).
pub mod feature {
    /// The device follows the specification from 1.0 on. Without it there is no working together.
    pub const VERSION_1: u64 = 1 << 32;
    /// Before 1.0: the driver wants to hear of a ring that ran empty even where it polls (6.3, NOTIFY_ON_EMPTY).
    pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
    /// A descriptor may name a table of descriptors.
    pub const INDIRECT_DESCRIPTORS: u64 = 1 << 28;
    /// Each side says from which index on it wants to hear of chains (2.7.10).
    pub const EVENT_INDEX: u64 = 1 << 29;
}

/// A device, whatever carries it.
pub trait VirtioDevice: Send {
    /// What it is.
    fn kind(&self) -> DeviceKind;

    /// Features of this kind of device (bits 0 to 23 and 50 on) that it offers.
    fn features(&self) -> u64;

    /// The largest size of each of its queues, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// Its configuration as the driver sees it now. A change in a call is told by [`Rings::configuration_changed`].
    fn configuration(&self) -> &[u8];

    /// The driver writes into the configuration, at any offset and 1 to 8 bytes. Ignored unless a device has fields that
    /// may be written.
    fn write_configuration(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready (DRIVER_OK), having accepted these features. Comes again after each reset.
    fn activate(&mut self, features: u64);

    /// Forget every chain and all else of the driver's so far. Comes back when nobody touches Guest memory for it any more;
    /// a worker that wakes the device says so first ([`waker`]).
    fn reset(&mut self) {}

    /// The driver has put chains into this queue.
    ///
    /// # Errors
    /// [`Broken`] when the device cannot go on before a reset.
    fn notify(&mut self, queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken>;

    /// The outside has something. Comes at any time while the driver is ready, and also without a reason.
    ///
    /// # Errors
    /// As for [`Self::notify`].
    fn wake(&mut self, _rings: &mut Rings<'_>) -> Result<(), Broken> {
        Ok(())
    }
}
