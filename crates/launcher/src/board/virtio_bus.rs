//! Virtio on this board: the devices, and the bus that carries them.
//!
//! On `--bus pci` each is a function of the PCI bus, which a kernel finds by asking. On `--bus mmio` each has a window of
//! registers and an interrupt at the places that `layout` draws; the ACPI tables name them ([`super::acpi`]), so a kernel
//! finds them without a word on its command line, or that command line does ([`Announced`]). The user's devices come first, in
//! their order, then a source of entropy and a balloon, which cost nothing and every kernel wants.

use std::sync::{Arc, Mutex, OnceLock};

use lguest_devices::bus::{Bus, BusError};
use lguest_devices::pci::PciBus;
use lguest_devices::pci::bus::{NoSlot, SLOTS};
use lguest_devices::virtio::balloon::{Pages, VirtioBalloon};
use lguest_devices::virtio::block::VirtioBlock;
use lguest_devices::virtio::life::Life;
use lguest_devices::virtio::memory::{self, DmaMemory, NoView, Part, Written};
use lguest_devices::virtio::mmio::{MmioTransport, REGISTERS};
use lguest_devices::virtio::pci::PciTransport;
use lguest_devices::virtio::rng::{Entropy, VirtioRng};
use lguest_devices::virtio::waker::Waker;
use lguest_devices::virtio::{DeviceKind, VirtioDevice};
use lguest_host::memory::{GuestAddress, Memory};
use lguest_host::platform::Platform;

use super::acpi;
use super::layout;
use super::platform::{BoardLine, BoardMessages, SharedLine};
use crate::disks::AttachedDisk;
use crate::disks::crew::Workers;

/// More devices than there are places for.
#[derive(Debug, thiserror::Error)]
#[error("--bus {bus} has room for {most} devices, and {asked} were asked for; {hint}")]
pub struct TooManyDevices {
    bus: &'static str,
    most: usize,
    asked: usize,
    hint: &'static str,
}

/// Why the bus could not be built.
#[derive(Debug, thiserror::Error)]
pub enum VirtioBusError {
    /// The host.
    #[error(transparent)]
    View(#[from] NoView),
    /// Two devices in one place.
    #[error("the board is laid out wrongly: {0}")]
    Layout(#[from] BusError),
    /// More devices than slots.
    #[error("the board is laid out wrongly: {0}")]
    Slots(#[from] NoSlot),
}

/// Devices that are always there: the source of entropy and the balloon.
const OURS: usize = 2;
/// Devices on `--bus mmio`: all places but those of ours.
pub const MOST_MAPPED: usize = layout::VIRTIO_SLOTS as usize - OURS;
/// Devices on `--bus pci`: all slots but the host bridge's and those.
const MOST_ON_PCI: usize = SLOTS - 1 - OURS;

/// What carries virtio devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Functions of the PCI bus.
    Pci,
    /// Windows of registers.
    Mmio,
}

/// How a kernel learns of windows of registers, besides a device tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Announced {
    /// By the ACPI tables.
    #[default]
    Acpi,
    /// By its command line: for a kernel that reads no such tables.
    CommandLine,
}

impl Transport {
    /// How many devices there is room for, besides those that are always there.
    pub const fn most(self) -> usize {
        match self {
            Transport::Pci => MOST_ON_PCI,
            Transport::Mmio => MOST_MAPPED,
        }
    }
}

/// Who is given a device's waker.
pub(super) type Listener = Box<dyn FnOnce(Waker) + Send>;

/// A device on its way to the bus, and what wants to know how to wake it: its threads, which live outside.
pub struct Plug {
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) listener: Option<Listener>,
    /// Its driver is loaded only when somebody asks for it.
    later: bool,
}

impl Plug {
    /// A device that nobody wakes.
    pub fn new(device: impl VirtioDevice + 'static) -> Plug {
        Plug { device: Box::new(device), listener: None, later: false }
    }

    /// A device that the outside wakes. `listener` gets its waker once it is on the bus, before the Guest runs.
    pub fn woken(device: impl VirtioDevice + 'static, listener: impl FnOnce(Waker) + Send + 'static) -> Plug {
        Plug { device: Box::new(device), listener: Some(Box::new(listener)), later: false }
    }

    /// The same device, whose driver waits until somebody asks for it: it costs a boot its place on the bus alone.
    #[must_use]
    pub fn for_later(self) -> Plug {
        Plug { later: true, ..self }
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
    transport: Transport,
    plugs: Vec<Plug>,
    /// For a Guest that reads no ACPI tables.
    tree: bool,
    announced: Announced,
    /// How many of them the user asked for.
    asked_for: usize,
    /// Where the balloon finds the machine's memory, which is not there yet.
    memory: LateMemory,
}

impl VirtioSpec {
    /// These devices in this order, a source of entropy, and a balloon.
    ///
    /// # Errors
    /// [`TooManyDevices`].
    pub fn new(transport: Transport, mut plugs: Vec<Plug>) -> Result<VirtioSpec, TooManyDevices> {
        let most = transport.most();
        let (bus, hint) = match transport {
            Transport::Mmio => ("mmio", "--bus pci has room for more"),
            Transport::Pci => ("pci", "leave some out"),
        };
        let asked_for = plugs.iter().filter(|plug| !plug.later).count();
        if asked_for > most {
            return Err(TooManyDevices { bus, most, asked: asked_for, hint });
        }
        if plugs.len() > most {
            // What nobody asked for is no reason to refuse what somebody did.
            plugs.retain(|plug| !plug.later);
        }
        let memory = LateMemory::default();
        plugs.push(Plug::new(VirtioRng::new(HostEntropy)));
        plugs.push(Plug::new(VirtioBalloon::new(HostPages(memory.clone()))));
        Ok(VirtioSpec { transport, plugs, asked_for, memory, tree: false, announced: Announced::Acpi })
    }

    /// PCI with a source of entropy alone.
    pub fn bare() -> VirtioSpec {
        let plugs = vec![Plug::new(VirtioRng::new(HostEntropy))];
        VirtioSpec {
            transport: Transport::Pci,
            plugs,
            asked_for: 0,
            memory: LateMemory::default(),
            tree: false,
            announced: Announced::Acpi,
        }
    }

    /// The same, announced in this way.
    #[must_use]
    pub fn announced(self, announced: Announced) -> VirtioSpec {
        VirtioSpec { announced, ..self }
    }

    /// What the ACPI tables have to say of the devices.
    pub(super) fn in_acpi(&self) -> acpi::Virtio {
        match (self.transport, self.announced) {
            (Transport::Pci, _) => acpi::Virtio::Pci(self.devices()),
            (Transport::Mmio, Announced::Acpi) => acpi::Virtio::Mmio(self.devices()),
            (Transport::Mmio, Announced::CommandLine) => acpi::Virtio::Lines(self.devices()),
        }
    }

    /// What stands before the rest of the kernel's command line: for each device, by the rule of Linux's virtio_mmio.c, how
    /// long its window is, where it begins, its interrupt, and its number among such devices.
    pub(super) fn on_command_line(&self) -> String {
        let announced = self.transport == Transport::Mmio && self.announced == Announced::CommandLine;
        let word = |slot: u8| {
            let (window, line) = (layout::virtio_window(slot), layout::MAPPED_GSIS[usize::from(slot)]);
            format!("virtio_mmio.device={REGISTERS:#x}@{window:#x}:{line}:{slot} ")
        };
        (0..if announced { self.devices() } else { 0 }).map(word).collect()
    }

    /// The same, announced by a device tree too: for a Guest that reads no ACPI tables.
    #[must_use]
    pub fn with_tree(self) -> VirtioSpec {
        VirtioSpec { tree: true, ..self }
    }

    /// How many windows in memory a device tree has to name.
    pub(super) fn in_tree(&self) -> Option<u8> {
        (self.tree && self.transport == Transport::Mmio).then(|| self.devices())
    }

    /// How many devices the user asked for.
    pub fn asked_for(&self) -> usize {
        self.asked_for
    }

    /// How many devices there are.
    pub(super) fn devices(&self) -> u8 {
        self.plugs.len() as u8
    }

    /// The modules that a Linux kernel needs to find and drive these, if it has them as modules.
    ///
    /// For the two devices that are always there, there are none: the kernel has the processor's, and to load virtio's modules is 5 % of
    /// Debian's boot (2,600 of 57,000 translated units, and 230 exits). A kernel that has the drivers built in finds it.
    pub fn modules(&self) -> Vec<&'static str> {
        if self.asked_for() == 0 {
            return Vec::new();
        }
        let wanted = |plug: &&Plug| !plug.later && !can_wait(plug);
        modules(self.transport_module(), self.plugs.iter().filter(wanted))
    }

    /// The same for the devices that are always there, for which no program waits.
    pub fn soon_modules(&self) -> Vec<&'static str> {
        if self.asked_for() == 0 {
            return Vec::new();
        }
        modules(self.transport_module(), self.plugs.iter().filter(|plug| can_wait(plug)))
    }

    /// The same for those devices whose driver waits.
    pub fn later_modules(&self) -> Vec<&'static str> {
        match self.plugs.iter().any(|plug| plug.later) {
            true => modules(self.transport_module(), self.plugs.iter().filter(|plug| plug.later)),
            false => Vec::new(),
        }
    }

    fn transport_module(&self) -> &'static str {
        match self.transport {
            Transport::Pci => "virtio_pci",
            Transport::Mmio => "virtio_mmio",
        }
    }
}

fn can_wait(plug: &Plug) -> bool {
    matches!(plug.device.kind(), DeviceKind::Entropy | DeviceKind::Balloon)
}

/// The transport's module and each device's, once.
fn modules<'a>(transport: &'static str, plugs: impl Iterator<Item = &'a Plug>) -> Vec<&'static str> {
    let mut modules = vec![transport];
    for plug in plugs {
        let module = match plug.device.kind() {
            DeviceKind::Network => "virtio_net",
            DeviceKind::Block => "virtio_blk",
            DeviceKind::Console => "virtio_console",
            DeviceKind::Entropy => "virtio_rng",
            DeviceKind::Balloon => "virtio_balloon",
            DeviceKind::Socket => "vmw_vsock_virtio_transport",
            DeviceKind::FileSystem => "virtiofs",
        };
        if !modules.contains(&module) {
            modules.push(module);
        }
    }
    modules
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
pub(super) struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&mut self, bytes: &mut [u8]) -> usize {
        // Up to 256 bytes come whole once the host has started (getrandom(2)); a signal may cut a longer answer short.
        rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty()).unwrap_or(0)
    }
}

/// The machine's memory, once there is a machine.
type LateMemory = Arc<OnceLock<Arc<Memory>>>;

/// The memory file, into which holes are punched.
struct HostPages(LateMemory);

impl Pages for HostPages {
    fn give_back(&mut self, address: u64, length: u64) {
        let Some(memory) = self.0.get() else { return };
        // Refused for what is no RAM, which the Guest need not know; a host that frees nothing keeps it.
        if let Err(cause) = memory.give_back(GuestAddress(address), length) {
            tracing::debug!("memory that is not given back: {cause}");
        }
    }
}

/// Puts the devices at their places: windows into `mapped`, functions onto the PCI bus.
///
/// # Errors
/// [`VirtioBusError`].
pub fn attach(
    mapped: &mut Bus,
    pci: &mut PciBus,
    spec: VirtioSpec,
    memory: &Arc<Memory>,
    platform: &Platform,
) -> Result<(), VirtioBusError> {
    let view = Arc::new(view(memory)?);
    let _ = spec.memory.set(memory.clone());
    let lines: Vec<SharedLine> =
        layout::PCI_GSIS.map(|gsi| SharedLine::new(BoardLine::new(platform, gsi))).collect();
    for (number, Plug { device, listener, .. }) in (0..).zip(spec.plugs) {
        let life = Life::new(device, view.clone());
        let waker = match spec.transport {
            Transport::Mmio => {
                let line = BoardLine::new(platform, layout::MAPPED_GSIS[usize::from(number)]);
                let transport = Arc::new(Mutex::new(MmioTransport::new(life, line)));
                let window = layout::virtio_window(number);
                mapped.attach(window..window + REGISTERS, transport.clone())?;
                Waker::new(&transport)
            }
            Transport::Pci => {
                let line = lines[usize::from(number) % lines.len()].wire(number);
                let (address, messages) = (layout::pci_registers(number), BoardMessages::new(platform));
                let transport = Arc::new(Mutex::new(PciTransport::new(life, address, line, messages)));
                pci.add(transport.clone())?;
                Waker::new(&transport)
            }
        };
        if let Some(listener) = listener {
            listener(waker);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "virtio_bus_tests.rs"]
mod tests;
