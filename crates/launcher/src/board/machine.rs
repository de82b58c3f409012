//! The machine: everything wired together, and the loop that serves its exits.

use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use lguest_abi::meeting::GENERATION_1;
use lguest_devices::bus::{Bus, BusError, Device};
use lguest_devices::cmos::Cmos;
use lguest_devices::outside::{Clock, PowerChange, PowerSwitch};
use lguest_devices::pci::{self, PciBus, PciRoot};
use lguest_devices::pm::{self, Pm};
use lguest_devices::reset::{self, KeyboardReset};
use lguest_devices::serial;
use lguest_host::clock::Calibration;
use lguest_host::engine::Vcpu;
use lguest_host::memory::{Memory, MemoryError};
use lguest_host::platform::{Platform, PlatformError};
use lguest_host::sight::Report;
use lguest_translator::HiddenFeatures;

use super::acpi;
use super::boot::Boot;
use super::console::{self, ConsolePort, OutputPump};
use super::desk::Desk;
use super::device_tree;
use super::errands::{Errands, Summoner};
use super::layout;
use super::lguest_bus::{self, HypercallBus, LguestBus, LguestBusError, LguestInput, LinkPlace};
use super::lguest32::{self, Lguest32Error};
use super::loading::{self, LoadError};
use super::page_bus::{PageBus, PageBusError, PageInput, PageSpec};
use super::platform::BoardLine;
use super::processors::Board;
use super::virtio_bus::{self, VirtioBusError, VirtioSpec};
use crate::attachments::Attachment;
use crate::engine::Engine;
use crate::kernel_image::program::Kernel;
use crate::ports::HostEnd;

/// The bus on which a Guest finds its devices.
pub enum BusSpec {
    /// Virtio, on PCI or in memory.
    Virtio(VirtioSpec),
    /// lguest's first generation.
    LguestDma {
        /// Its devices, in this order; the console comes by itself.
        attachments: Vec<Attachment>,
        /// Where links are.
        links: LinkPlace,
    },
    /// lguest's second.
    Lguest(PageSpec),
    /// A machine of 32 bits for kernels with lguest's sub-architecture, with the same devices.
    Lguest32 {
        /// They.
        devices: PageSpec,
        /// They are on PCI, for kernels from 4.0 on.
        pci: bool,
    },
}

/// vCPUs at most: what the translator's books have room for (a bit of a byte each).
pub const MOST_CPUS: u32 = lguest_translator::VCPUS as u32;

/// What a machine is made of.
pub struct MachineSpec {
    /// What executes the Guest.
    pub engine: Engine,
    /// How it finds its devices.
    pub bus: BusSpec,
    /// RAM in bytes, a multiple of 4096.
    pub memory: u64,
    /// vCPUs.
    pub cpus: u32,
    /// Features of the processor that the Guest does not find.
    pub hidden: HiddenFeatures,
    /// The kernel and its setup header.
    pub kernel: Kernel,
    /// The initial RAM disk; empty for none.
    pub initrd: Vec<u8>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// Why a machine could not be built. Each is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// More vCPUs than an engine runs, or none.
    #[error("--cpus {0}: a machine has 1 to {MOST_CPUS} processors")]
    Cpus(u32),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel, its command line and its initrd.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] PlatformError),
    /// The lguest bus.
    #[error(transparent)]
    LguestBus(#[from] LguestBusError),
    /// The page of virtio devices.
    #[error(transparent)]
    PageBus(#[from] PageBusError),
    /// The machine of 32 bits.
    #[error(transparent)]
    Lguest32(#[from] Lguest32Error),
    /// Virtio.
    #[error(transparent)]
    VirtioBus(#[from] VirtioBusError),
    /// A thread.
    #[error("the host refuses a thread: {0}")]
    Thread(std::io::Error),
    /// Two devices in one place: our mistake, told rather than hidden.
    #[error("the board is laid out wrongly: {0}")]
    Layout(#[from] BusError),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The Guest turned its machine off.
    PowerOff,
    /// The Guest asked for a reset.
    Reset,
    /// [`Stopper::stop`] was called.
    Stopped,
    /// The Guest cannot go on; why.
    Dead(String),
}

/// The Host's time, as devices want it.
pub(super) struct HostClock {
    start: Instant,
}

impl HostClock {
    pub(super) fn new() -> HostClock {
        HostClock { start: Instant::now() }
    }
}

impl Clock for HostClock {
    fn monotonic(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn wall(&self) -> u64 {
        // A host clock before 1970 is a broken host; the Guest then sees 1970.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

/// Feeds a console. Cloneable, and usable from any thread.
#[derive(Clone)]
pub enum ConsoleInput {
    /// A serial port.
    Serial(console::ConsoleInput<BoardLine>),
    /// The lguest bus's console.
    Lguest(LguestInput),
    /// Virtio's console.
    Virtio(HostEnd),
    /// The console of the page of virtio devices.
    Page(PageInput),
}

impl ConsoleInput {
    /// Sends bytes to the Guest. Waits while nobody in the Guest takes them.
    ///
    /// # Errors
    /// [`console::MachineGone`] when the machine ended; some bytes may have been taken.
    pub fn send(&self, bytes: &[u8]) -> Result<(), console::MachineGone> {
        match self {
            ConsoleInput::Serial(input) => input.send(bytes),
            ConsoleInput::Lguest(input) => input.send(bytes),
            ConsoleInput::Virtio(end) => end.send(bytes),
            ConsoleInput::Page(input) => input.send(bytes),
        }
    }
}

/// Ends the run from any thread.
#[derive(Clone)]
pub struct Stopper {
    platform: Platform,
    outputs: [OutputPump; 2],
    desk: Arc<OnceLock<Arc<Desk>>>,
    ends: Vec<HostEnd>,
}

impl Stopper {
    /// Whoever waits for a reader of one of these, once the machine has ended, waits no more.
    #[must_use]
    pub fn with_ends(self, ends: Vec<HostEnd>) -> Stopper {
        Stopper { ends, ..self }
    }

    /// The machine's [`Machine::run`] returns [`Outcome::Stopped`] soon. Once is enough, more is harmless.
    pub fn stop(&self) {
        self.platform.stop();
        // One may stand at a debugger's desk.
        if let Some(desk) = self.desk.get() {
            desk.close();
        }
        // A vCPU may be waiting for a terminal that does not read.
        self.outputs.iter().for_each(OutputPump::abandon);
        self.ends.iter().for_each(HostEnd::abandon);
    }
}

/// What the Guest asked for: 0 nothing, 1 off, 2 reset. The first wish wins.
#[derive(Clone, Default)]
pub(super) struct Power(Arc<AtomicU8>);

impl PowerSwitch for Power {
    fn ask(&self, change: PowerChange) {
        let wish = match change {
            PowerChange::Off => 1,
            PowerChange::Reset => 2,
        };
        // Failing means that somebody asked before.
        let _ = self.0.compare_exchange(0, wish, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl Power {
    /// What becomes of the machine, once the Guest wished something.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Outcome::PowerOff),
            _ => Some(Outcome::Reset),
        }
    }
}

/// The power button, for any thread.
#[derive(Clone)]
pub struct PowerButton(Arc<Mutex<Pm<BoardLine, HostClock, Power>>>);

impl PowerButton {
    /// A button of these.
    pub(super) fn new(management: Arc<Mutex<Pm<BoardLine, HostClock, Power>>>) -> PowerButton {
        PowerButton(management)
    }

    /// Asks the Guest to go; one that listens shuts down.
    pub fn press(&self) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).press_power_button();
    }
}

/// A machine, ready to run.
pub struct Machine {
    pub(super) vcpus: Vec<Box<dyn Vcpu>>,
    pub(super) board: Board,
    pub(super) consoles: [Arc<Mutex<ConsolePort<BoardLine>>>; 2],
    pub(super) outputs: [OutputPump; 2],
    pub(super) button: PowerButton,
    /// Loaders are done with it, but it owns the memory file that the engines map.
    pub(super) _memory: Arc<Memory>,
}

impl Machine {
    /// Builds a machine and loads its Guest. `serial` are the sinks of ttyS0 and ttyS1.
    ///
    /// # Errors
    /// [`BoardError`] for everything that cannot work; nothing has run then.
    pub fn new(spec: MachineSpec, serial: [Box<dyn Write + Send>; 2]) -> Result<Machine, BoardError> {
        if !(1..=MOST_CPUS).contains(&spec.cpus) {
            return Err(BoardError::Cpus(spec.cpus));
        }
        if matches!(spec.bus, BusSpec::Lguest32 { .. }) {
            return lguest32::machine(spec, serial);
        }
        let calibration = Calibration::start();
        let (memory, links) = make_memory(spec.memory, &spec.bus)?;
        let (virtio, words) = match &spec.bus {
            BusSpec::Virtio(virtio) => (virtio.in_acpi(), virtio.on_command_line()),
            _ => (acpi::Virtio::None, String::new()),
        };
        let boot = Boot {
            setup_header: spec.kernel.setup_header.as_deref(),
            command_line: &(words + &spec.cmdline),
            initrd: &spec.initrd,
            acpi_root: acpi::place(&memory, spec.cpus, virtio)?,
        };
        let by_parameters = matches!(spec.bus, BusSpec::LguestDma { .. } | BusSpec::Lguest(_));
        let entry = loading::place(&spec.kernel, &boot, by_parameters, &memory)?;
        let rate = calibration.finish();
        let (platform, vcpus) = Platform::start(spec.engine, &memory, rate, spec.cpus, entry, &spec.hidden)?;
        let [first, second] = serial.map(OutputPump::start);
        let outputs = [first.map_err(BoardError::Thread)?, second.map_err(BoardError::Thread)?];
        let mut ports = Bus::new();
        let consoles = [
            attach_serial(&mut ports, &platform, 0, &outputs)?,
            attach_serial(&mut ports, &platform, 1, &outputs)?,
        ];
        let power = Power::default();
        let (mut mapped, mut pci) = (Bus::new(), PciBus::new(layout::PCI_MEMORY));
        let by_port = spec.engine == Engine::Kvm;
        let lguest: Option<Box<dyn HypercallBus>> = match spec.bus {
            BusSpec::Virtio(virtio) => {
                if let Some(devices) = virtio.in_tree() {
                    device_tree::place_virtio(&memory, devices)?;
                }
                virtio_bus::attach(&mut mapped, &mut pci, virtio, &memory, &platform)?;
                None
            }
            BusSpec::LguestDma { attachments, .. } => {
                lguest_bus::say_so(&memory, GENERATION_1, by_port)?;
                device_tree::place(&memory)?;
                let screen = outputs[0].clone();
                Some(Box::new(LguestBus::new(attachments, &memory, links, &platform, rate, screen)?))
            }
            BusSpec::Lguest32 { .. } => unreachable!("that machine was built above"),
            BusSpec::Lguest(page) => {
                let screen = outputs[0].clone();
                Some(Box::new(PageBus::new(page, &memory, &platform, rate, screen, by_port)?))
            }
        };
        let button = attach_chipset(&mut ports, &mut mapped, pci, &platform, &power)?;
        Ok(Machine {
            board: Board::new(
                ports,
                mapped,
                lguest,
                power,
                platform,
                Errands::new(vcpus.len()),
                outputs[0].clone(),
            ),
            vcpus,
            consoles,
            outputs,
            button,
            _memory: memory,
        })
    }

    /// The input of serial port `port` (0 or 1); on the lguest bus its console takes the first port's place.
    ///
    /// # Panics
    /// When there is no such port.
    pub fn console_input(&self, port: usize) -> ConsoleInput {
        match self.board.with_bus(|bus| bus.console_input()).flatten() {
            Some(input) if port == 0 => input,
            _ => ConsoleInput::Serial(console::ConsoleInput::new(self.consoles[port].clone())),
        }
    }

    /// The handle that ends the run.
    pub fn stopper(&self) -> Stopper {
        let desk = self.board.desk.clone();
        Stopper {
            platform: self.board.platform.clone(),
            outputs: self.outputs.clone(),
            desk,
            ends: Vec::new(),
        }
    }

    /// The power button.
    pub fn power_button(&self) -> PowerButton {
        self.button.clone()
    }

    /// Sends errands to the vCPUs.
    pub fn summoner(&self) -> Summoner {
        Summoner::new(self.board.platform.clone(), self.board.errands.clone())
    }

    /// The vCPUs, before they run.
    pub fn vcpus(&mut self) -> impl Iterator<Item = &mut dyn Vcpu> {
        self.vcpus.iter_mut().map(|vcpu| &mut **vcpu as &mut dyn Vcpu)
    }

    /// From now on vCPUs stop at this desk, the first time before their first instruction. The first desk counts.
    pub fn stop_at(&self, desk: Arc<Desk>) {
        let _ = self.board.desk.set(desk);
    }

    /// Runs vCPU 0 on the calling thread and each other on one of its own until the machine ends, and writes out what the
    /// ports still hold. Each of these threads calls `settle` before it runs the Guest.
    pub fn run(self, settle: &(dyn Fn() + Sync)) -> Outcome {
        self.run_watched(settle, |_| {})
    }

    /// The same; `at_end` sees what the vCPUs did, before the machine is gone.
    pub fn run_watched(mut self, settle: &(dyn Fn() + Sync), at_end: impl FnOnce(Vec<Report>)) -> Outcome {
        let outcome = self.board.run(&mut self.vcpus, settle);
        if let Some(statuses) = self.board.with_bus(|bus| bus.statuses()) {
            tracing::info!("the devices' statuses at the end: {statuses}");
        }
        self.outputs.iter().for_each(OutputPump::finish);
        at_end(self.vcpus.iter().map(|vcpu| vcpu.report()).collect());
        outcome
    }
}

/// Memory for this bus, with the pages of the links it is on.
fn make_memory(bytes: u64, bus: &BusSpec) -> Result<(Arc<Memory>, Vec<lguest_host::link::Link>), BoardError> {
    let (attachments, links) = match bus {
        BusSpec::Virtio(_) => return Ok((Arc::new(Memory::new(bytes)?), Vec::new())),
        BusSpec::Lguest(page) | BusSpec::Lguest32 { devices: page, .. } => {
            return Ok((Arc::new(Memory::with_device_pages(bytes, page.pages()?)?), Vec::new()));
        }
        BusSpec::LguestDma { attachments, links } => (attachments, links),
    };
    let mut memory = Memory::with_device_pages(bytes, lguest_bus::pages(attachments))?;
    let links = lguest_bus::join_links(attachments, &mut memory, links)?;
    Ok((Arc::new(memory), links))
}

impl Drop for Machine {
    /// Lets go of everybody who waits for this machine: those who send to its ports, and the ports' writers.
    fn drop(&mut self) {
        for console in &self.consoles {
            console.lock().unwrap_or_else(std::sync::PoisonError::into_inner).close();
        }
        self.outputs.iter().for_each(OutputPump::abandon);
    }
}

fn attach_serial(
    ports: &mut Bus,
    platform: &Platform,
    number: usize,
    outputs: &[OutputPump; 2],
) -> Result<Arc<Mutex<ConsolePort<BoardLine>>>, BusError> {
    let line = BoardLine::new(platform, layout::SERIAL_GSI[number]);
    let port = Arc::new(Mutex::new(ConsolePort::new(line, outputs[number].clone())));
    let first = layout::SERIAL[number];
    ports.attach(first..first + serial::REGISTERS, port.clone() as Arc<Mutex<dyn Device>>)?;
    Ok(port)
}

/// The small parts that every PC has: clock, power management, reset lines, the PCI root.
fn attach_chipset(
    ports: &mut Bus,
    mapped: &mut Bus,
    pci: PciBus,
    platform: &Platform,
    power: &Power,
) -> Result<PowerButton, BusError> {
    let sci = BoardLine::new(platform, layout::SCI_GSI);
    let management = Arc::new(Mutex::new(Pm::new(sci, HostClock::new(), power.clone())));
    ports.attach(layout::CMOS, Arc::new(Mutex::new(Cmos::new(HostClock::new()))))?;
    ports.attach(layout::PM..layout::PM + pm::REGISTERS, management.clone() as Arc<Mutex<dyn Device>>)?;
    let keyboard = layout::KEYBOARD..layout::KEYBOARD + reset::COMMAND_REGISTERS;
    ports.attach(keyboard, Arc::new(Mutex::new(KeyboardReset::new(power.clone()))))?;
    let pci = Arc::new(pci);
    mapped.attach_window(layout::PCI_MEMORY, pci.clone())?;
    let root = PciRoot::new(power.clone(), pci);
    ports.attach(layout::PCI..layout::PCI + pci::REGISTERS, Arc::new(Mutex::new(root)))?;
    Ok(PowerButton(management))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
