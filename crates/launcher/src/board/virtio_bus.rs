//! Virtio on this board: a window of registers and an interrupt for each device, at the places that `layout` draws.
//!
//! The ACPI tables name the windows ([`super::acpi`]), so a kernel finds them without a word on its command line. The user's
//! devices come first, in their order, then a source of entropy, which costs nothing and every kernel wants.

use std::sync::{Arc, Mutex};

use lguest_devices::bus::{Bus, BusError};
use lguest_devices::virtio::block::VirtioBlock;
use lguest_devices::virtio::life::Life;
use lguest_devices::virtio::memory::{self, DmaMemory, NoView, Part, Written};
use lguest_devices::virtio::mmio::{MmioTransport, REGISTERS};
use lguest_devices::virtio::rng::{Entropy, VirtioRng};
use lguest_devices::virtio::waker::Waker;
use lguest_devices::virtio::{DeviceKind, VirtioDevice};
use lguest_host::memory::Memory;
use lguest_host::platform::Platform;

use super::layout;
use super::platform::BoardLine;
use crate::disks::AttachedDisk;
use crate::disks::crew::Workers;

/// More devices than there are places for.
#[derive(Debug, thiserror::Error)]
#[error(
    "--bus mmio has room for {MOST_DEVICES} devices, and {0} were asked for; leave out a --disk or --net"
)]
pub struct TooManyDevices(usize);

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
const MOST_DEVICES: usize = layout::VIRTIO_SLOTS as usize - 1;

/// Who is given a device's waker.
type Listener = Box<dyn FnOnce(Waker) + Send>;

/// A device on its way to the bus, and what wants to know how to wake it: its threads, which live outside.
pub struct Plug {
    device: Box<dyn VirtioDevice>,
    listener: Option<Listener>,
}

impl Plug {
    /// A device that nobody wakes.
    pub fn new(device: impl VirtioDevice + 'static) -> Plug {
        Plug { device: Box::new(device), listener: None }
    }

    /// A device that the outside wakes. `listener` gets its waker once it is on the bus, before the Guest runs.
    pub fn woken(device: impl VirtioDevice + 'static, listener: impl FnOnce(Waker) + Send + 'static) -> Plug {
        Plug { device: Box::new(device), listener: Some(Box::new(listener)) }
    }

    /// The `number`th disk, with a queue for each of so many vCPUs.
    pub fn disk(number: usize, disk: AttachedDisk, cpus: u32) -> Plug {
        let usual = format!("lguest-disk-{number}");
        let serial = disk.serial().unwrap_or(&usual);
        let (crew, start) = Workers::new(disk.image());
        let queues = u16::try_from(cpus).unwrap_or(u16::MAX);
        let device = VirtioBlock::new(&disk.image(), serial, queues, crew);
        Plug::woken(device, |waker| start.with(waker))
    }
}

/// What is on the bus.
pub struct VirtioSpec {
    plugs: Vec<Plug>,
}

impl VirtioSpec {
    /// These devices in this order, and a source of entropy.
    ///
    /// # Errors
    /// [`TooManyDevices`].
    pub fn new(mut plugs: Vec<Plug>) -> Result<VirtioSpec, TooManyDevices> {
        if plugs.len() > MOST_DEVICES {
            return Err(TooManyDevices(plugs.len()));
        }
        plugs.push(Plug::new(VirtioRng::new(HostEntropy)));
        Ok(VirtioSpec { plugs })
    }

    /// Whether there is a device of this kind.
    pub fn has(&self, kind: DeviceKind) -> bool {
        self.plugs.iter().any(|plug| plug.device.kind() == kind)
    }

    /// Places taken, from the first on.
    pub(super) fn slots(&self) -> u8 {
        self.plugs.len() as u8
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
    for (slot, Plug { device, listener }) in (0..).zip(spec.plugs) {
        let line = BoardLine::new(platform, layout::virtio_gsi(slot));
        let transport = Arc::new(Mutex::new(MmioTransport::new(Life::new(device, view.clone()), line)));
        listener.into_iter().for_each(|listener| listener(Waker::new(&transport)));
        let window = layout::virtio_window(slot);
        mapped.attach(window..window + REGISTERS, transport)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "virtio_bus_tests.rs"]
mod tests;
