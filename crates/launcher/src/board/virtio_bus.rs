//! Virtio on this board: a window of registers and an interrupt for each device, at the places that `layout` draws.
//!
//! The ACPI tables name the windows ([`super::acpi`]), so a kernel finds them without a word on its command line. Disks
//! come first, then a source of entropy, which costs nothing and every kernel wants.

use std::sync::{Arc, Mutex};

use lguest_devices::bus::{Bus, BusError};
use lguest_devices::virtio::VirtioDevice;
use lguest_devices::virtio::block::VirtioBlock;
use lguest_devices::virtio::life::Life;
use lguest_devices::virtio::memory::{self, DmaMemory, NoView, Part, Written};
use lguest_devices::virtio::mmio::{MmioTransport, REGISTERS};
use lguest_devices::virtio::rng::{Entropy, VirtioRng};
use lguest_host::memory::Memory;
use lguest_host::platform::Platform;

use super::layout;
use super::platform::BoardLine;
use crate::disks::AttachedDisk;

/// More disks than there are places for.
#[derive(Debug, thiserror::Error)]
#[error("--disk: --bus mmio has room for {MOST_DISKS} disks, and {0} were asked for")]
pub struct TooManyDisks(usize);

/// Why the bus could not be built.
#[derive(Debug, thiserror::Error)]
pub enum VirtioBusError {
    /// The host.
    #[error(transparent)]
    View(#[from] NoView),
    /// Two devices in one place.
    #[error("the board is laid out wrongly: {0}")]
    Layout(#[from] BusError),
}

/// All places but the one of the source of entropy.
const MOST_DISKS: usize = layout::VIRTIO_SLOTS as usize - 1;

/// What is on the bus.
#[derive(Debug)]
pub struct VirtioSpec {
    disks: Vec<AttachedDisk>,
}

impl VirtioSpec {
    /// These disks, and a source of entropy.
    ///
    /// # Errors
    /// [`TooManyDisks`].
    pub fn new(disks: Vec<AttachedDisk>) -> Result<VirtioSpec, TooManyDisks> {
        if disks.len() > MOST_DISKS { Err(TooManyDisks(disks.len())) } else { Ok(VirtioSpec { disks }) }
    }

    /// Places taken, from the first on.
    pub(super) fn slots(&self) -> u8 {
        self.disks.len() as u8 + 1
    }
}

/// What devices write, the translator hears of: it may have made code from what was there.
struct Told(Arc<Memory>);

impl Written for Told {
    fn wrote(&self, offset: u64, length: u64) {
        self.0.device_wrote(offset, length);
    }
}

/// Guest memory as virtio devices reach it.
///
/// # Errors
/// [`NoView`] when the host refuses a mapping.
pub fn view(memory: &Arc<Memory>) -> Result<DmaMemory, NoView> {
    let parts: Vec<Part> = memory
        .regions()
        .iter()
        .map(|region| Part { guest: region.start, offset: region.offset, length: region.length })
        .collect();
    let told: Arc<dyn Written> = Arc::new(Told(memory.clone()));
    memory::view(memory.file(), &parts, &told)
}

/// The host's random numbers.
struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&mut self, bytes: &mut [u8]) -> usize {
        // Up to 256 bytes come whole once the host has started (getrandom(2)); a signal may cut a longer answer short.
        rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty()).unwrap_or(0)
    }
}

/// Puts the devices at their places.
///
/// # Errors
/// [`VirtioBusError`].
pub fn attach(
    mapped: &mut Bus,
    spec: VirtioSpec,
    memory: &Arc<Memory>,
    platform: &Platform,
) -> Result<(), VirtioBusError> {
    let view = Arc::new(view(memory)?);
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for (number, disk) in spec.disks.into_iter().enumerate() {
        let usual = format!("lguest-disk-{number}");
        devices.push(Box::new(VirtioBlock::new(disk.image(), disk.serial().unwrap_or(&usual))));
    }
    devices.push(Box::new(VirtioRng::new(HostEntropy)));
    for (slot, device) in (0..).zip(devices) {
        let line = BoardLine::new(platform, layout::virtio_gsi(slot));
        let transport = MmioTransport::new(Life::new(device, view.clone()), line);
        let window = layout::virtio_window(slot);
        mapped.attach(window..window + REGISTERS, Arc::new(Mutex::new(transport)))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "virtio_bus_tests.rs"]
mod tests;
