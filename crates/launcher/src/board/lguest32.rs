//! The machine of a kernel of 32 bits with lguest's sub-architecture (facts of generation 2, sections 2, 3, 15 and 16): no
//! firmware, no controllers, no ports; memory, a processor whose Host is `lguest_host::lguest32`, and virtio.
//!
//! ```text
//!   guest-physical
//!   0x0000_0000 .. 0x1000    boot parameters
//!   0x0000_1000 .. 0x1800    command line
//!   where its ELF file says  the kernel; the code of a bzImage that unpacks itself at 0x10_0000
//!   .. end of memory         the initial RAM disk, ending there; below it 2.6.32's first page tables
//!   end of memory            before 4.0: the page of descriptors, then the rings
//!   end + 1 MiB ..           from 4.0 on: registers of virtio functions on PCI, the console's first
//! ```
//! The kernel is told by `hardware_subarch` that there is a Host, by the page behind the last of its memory which devices there
//! are, and nothing else.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use lguest_abi::lguest32::SUBARCH;
use lguest_abi::meeting::Irq;
use lguest_devices::bus::Bus;
use lguest_devices::pci::bus::{Function, NoSlot, PciBus};
use lguest_devices::pci::{self, PciRoot};
use lguest_devices::pm::Pm;
use lguest_devices::virtio::life::Life;
use lguest_devices::virtio::memory::NoView;
use lguest_devices::virtio::page::{DevicePage, Guest, Notified};
use lguest_devices::virtio::pci::{PciTransport, SIZE};
use lguest_devices::virtio::waker::Waker;
use lguest_host::clock::Calibration;
use lguest_host::lguest32::Lguest32Entry;
use lguest_host::memory::{GuestAddress, Memory, MemoryError, PAGE_SIZE};
use lguest_host::platform::Platform;

use super::console::{ConsolePort, OutputPump};
use super::elf;
use super::errands::Errands;
use super::layout;
use super::lguest_bus::{HypercallBus, Next};
use super::loading::{LoadError, decompressor};
use super::machine::{
    BoardError, BusSpec, ConsoleInput, HostClock, Machine, MachineSpec, Power, PowerButton,
};
use super::page_bus::{PageBusError, PageInput, PageSpec};
use super::platform::{BoardLine, BoardMessages};
use super::processors::Board;
use super::virtio_bus::{Plug, view};

/// The boot parameters' page, and the command line behind it.
const PARAMETERS: u64 = 0;
const COMMAND_LINE: u64 = 0x1000;
/// What the kernel copies of it, its NUL included.
const COMMAND_LINE_ROOM: usize = 2048;
/// The kernel's boot protocol, from which on it looks at its sub-architecture.
const VERSION: u16 = 0x207;
const LOADER_UNKNOWN: u8 = 0xff;
/// The kernel's entry must not touch segment registers.
const KEEP_SEGMENTS: u8 = 1 << 6;
const KERNEL_ALIGNMENT: u32 = 0x100_0000;
/// A range of memory that is RAM.
const USABLE: u32 = 1;
/// The most memory such a machine has: the registers of its devices and a kernel of 32 bits want addresses too.
pub const MOST_MEMORY: u64 = 2 << 30;
/// From the end of memory to the registers on PCI.
const REGISTERS_AFTER: u64 = 1 << 20;

/// Why such a machine cannot be built. Each is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum Lguest32Error {
    /// More than it has addresses for.
    #[error("--memory {asked}M: a machine of 32 bits has at most {most}M", asked = .0 >> 20, most = MOST_MEMORY >> 20)]
    Memory(u64),
    /// More text than the kernel reads.
    #[error("--cmdline is {0} bytes long, and this kernel reads {most}", most = COMMAND_LINE_ROOM - 1)]
    CommandLine(usize),
    /// No room above the kernel.
    #[error(
        "the initrd takes {0} bytes, but only {1} bytes of memory are free above the kernel: try a larger --memory"
    )]
    Initrd(u64, u64),
    /// More devices than PCI has places.
    #[error(transparent)]
    Slots(#[from] NoSlot),
    /// The host.
    #[error(transparent)]
    View(#[from] NoView),
    /// Parameters that do not fit: the board is wrong.
    #[error(transparent)]
    Outside(#[from] MemoryError),
}

/// Builds the machine; `serial` are the sinks of the console and of the control channel, which nobody here has.
///
/// # Errors
/// [`BoardError`]; nothing has run then.
pub fn machine(spec: MachineSpec, serial: [Box<dyn Write + Send>; 2]) -> Result<Machine, BoardError> {
    let BusSpec::Lguest32 { devices, pci } = spec.bus else { unreachable!("the caller looked") };
    if spec.cpus != 1 {
        return Err(BoardError::Cpus(spec.cpus));
    }
    if spec.memory > MOST_MEMORY {
        return Err(Lguest32Error::Memory(spec.memory).into());
    }
    let calibration = Calibration::start();
    let pages = if pci { 0 } else { devices.pages()? };
    let memory = Arc::new(Memory::with_device_pages(spec.memory, pages)?);
    let loaded = match spec.kernel.setup_header {
        Some(_) => decompressor(&spec.kernel, &memory)?,
        None => elf::load(&spec.kernel.program, &memory).map_err(LoadError::from)?,
    };
    let initrd = place_initrd(&spec.initrd, loaded.occupied.end, &memory)?;
    place_parameters(&spec.cmdline, initrd, &memory)?;
    let entry = Lguest32Entry {
        eip: loaded.entry.0 as u32,
        memory: spec.memory as u32,
        device_pages: pages as u32,
        tables_end: initrd.map_or(spec.memory, |(start, _)| start) as u32,
    };
    let rate = calibration.finish();
    let (platform, vcpus) = Platform::start_lguest32(&memory, rate, entry, &spec.hidden)?;
    let [first, second] = serial.map(OutputPump::start);
    let outputs = [first.map_err(BoardError::Thread)?, second.map_err(BoardError::Thread)?];
    let power = Power::default();
    let (mut ports, mut mapped) = (Bus::new(), Bus::new());
    let screen = outputs[0].clone();
    let bus = if pci {
        on_pci(devices, &memory, &platform, &power, screen, (&mut ports, &mut mapped))?
    } else {
        on_page(devices, &memory, &platform, screen)?
    };
    // Nobody is at these ports, and nobody hears the button; they stand for what every machine's owner may hold.
    let consoles = [0, 1].map(|number: usize| {
        let line = BoardLine::new(&platform, layout::SERIAL_GSI[number]);
        Arc::new(Mutex::new(ConsolePort::new(line, outputs[number].clone())))
    });
    let line = BoardLine::new(&platform, layout::SCI_GSI);
    let button = PowerButton::new(Arc::new(Mutex::new(Pm::new(line, HostClock::new(), power.clone()))));
    let errands = Errands::new(vcpus.len());
    let board = Board::new(ports, mapped, Some(Box::new(bus)), power, platform, errands, outputs[0].clone());
    Ok(Machine { vcpus, board, consoles, outputs, button, _memory: memory })
}

/// Puts the initial RAM disk right up against the end of memory; where it is, and its size in whole pages.
fn place_initrd(
    initrd: &[u8],
    kernel_end: u64,
    memory: &Memory,
) -> Result<Option<(u64, u64)>, Lguest32Error> {
    if initrd.is_empty() {
        return Ok(None);
    }
    let size = (initrd.len() as u64).next_multiple_of(PAGE_SIZE);
    let room = memory.low_end().0.saturating_sub(kernel_end.next_multiple_of(PAGE_SIZE));
    if size > room {
        return Err(Lguest32Error::Initrd(initrd.len() as u64, room));
    }
    let start = memory.low_end().0 - size;
    memory.write(GuestAddress(start), initrd)?;
    Ok(Some((start, size)))
}

/// The boot parameters that the kernel reads (facts 2.4), and its command line.
fn place_parameters(text: &str, initrd: Option<(u64, u64)>, memory: &Memory) -> Result<(), Lguest32Error> {
    if text.len() >= COMMAND_LINE_ROOM {
        return Err(Lguest32Error::CommandLine(text.len()));
    }
    let put = |at: u64, bytes: &[u8]| memory.write(GuestAddress(PARAMETERS + at), bytes);
    memory.write(GuestAddress(COMMAND_LINE), text.as_bytes())?;
    put(0x1e8, &[1])?;
    put(0x206, &VERSION.to_le_bytes())?;
    put(0x211, &[KEEP_SEGMENTS])?;
    put(0x228, &(COMMAND_LINE as u32).to_le_bytes())?;
    put(0x230, &KERNEL_ALIGNMENT.to_le_bytes())?;
    put(0x23c, &SUBARCH.to_le_bytes())?;
    if let Some((start, size)) = initrd {
        put(0x210, &[LOADER_UNKNOWN])?;
        put(0x218, &(start as u32).to_le_bytes())?;
        put(0x21c, &(size as u32).to_le_bytes())?;
    }
    put(0x2d0, &0u64.to_le_bytes())?;
    put(0x2d8, &memory.low_end().0.to_le_bytes())?;
    put(0x2e0, &USABLE.to_le_bytes())?;
    Ok(())
}

/// What the devices of such a machine reach, and how its console is fed.
struct Lguest32Bus {
    /// The page; none where devices are on PCI.
    page: Option<DevicePage>,
    input: PageInput,
    end: Arc<Reached>,
}

/// The Guest, as the page's devices see it.
struct Reached {
    platform: Platform,
    death: OnceLock<String>,
}

impl Guest for Reached {
    fn interrupt(&self, irq: Irq) {
        self.platform.interrupts().raise(irq);
    }

    fn kill(&self, reason: String) {
        // The first reason counts.
        let _ = self.death.set(reason);
        self.platform.stop();
    }
}

fn on_page(
    devices: PageSpec,
    memory: &Arc<Memory>,
    platform: &Platform,
    screen: OutputPump,
) -> Result<Lguest32Bus, PageBusError> {
    let end = Arc::new(Reached { platform: platform.clone(), death: OnceLock::new() });
    let (page, input) = devices.lay_down(memory, end.clone(), screen)?;
    Ok(Lguest32Bus { page: Some(page), input, end })
}

/// Each device a function of its own, the console in slot 1, with a line of its own that its configuration names.
fn on_pci(
    devices: PageSpec,
    memory: &Arc<Memory>,
    platform: &Platform,
    power: &Power,
    screen: OutputPump,
    (ports, mapped): (&mut Bus, &mut Bus),
) -> Result<Lguest32Bus, BoardError> {
    const INTERRUPT_LINE: usize = 0x3c;
    let view = Arc::new(view(memory).map_err(Lguest32Error::from)?);
    let (plugs, input) = devices.without_page(screen);
    let start = (memory.low_end().0 + REGISTERS_AFTER).next_multiple_of(SIZE.into());
    let window = start..layout::PCI_MEMORY.end;
    let mut bus = PciBus::new(window.clone());
    for (number, Plug { device, listener, .. }) in (0..).zip(plugs) {
        let irq = number + 1;
        let (line, messages) = (BoardLine::new(platform, irq), BoardMessages::new(platform));
        let address = start as u32 + u32::from(number) * SIZE;
        let mut transport =
            PciTransport::without_messages(Life::new(device, view.clone()), address, line, messages);
        transport.write_configuration(INTERRUPT_LINE, &[irq]);
        let transport = Arc::new(Mutex::new(transport));
        bus.add(transport.clone()).map_err(Lguest32Error::from)?;
        if let Some(listener) = listener {
            listener(Waker::new(&transport));
        }
    }
    let bus = Arc::new(bus);
    mapped.attach_window(window, bus.clone())?;
    let root = Arc::new(Mutex::new(PciRoot::new(power.clone(), bus)));
    ports.attach(layout::PCI..layout::PCI + pci::REGISTERS, root)?;
    let end = Arc::new(Reached { platform: platform.clone(), death: OnceLock::new() });
    Ok(Lguest32Bus { page: None, input, end })
}

impl HypercallBus for Lguest32Bus {
    fn call(&mut self, number: u64, _: [u64; 3]) -> Next {
        unreachable!("hypercall {number} of a machine whose processor makes them itself")
    }

    fn notify(&mut self, value: u64) -> Next {
        match self.page.as_ref().map(|page| page.notify(value)) {
            Some(Notified::Queue | Notified::Status | Notified::Nothing) => Next::Go(None),
            // Below the end of memory the processor has read it already.
            Some(Notified::Text(_)) => Next::Go(None),
            Some(Notified::Dead(reason)) => Next::Dead(reason),
            None => Next::Dead(format!("it notified {value:#x}, and its devices are on PCI")),
        }
    }

    fn death(&self) -> Option<String> {
        self.end.death.get().cloned()
    }

    fn statuses(&self) -> String {
        self.page.as_ref().map_or_else(String::new, DevicePage::statuses)
    }

    fn console_input(&self) -> Option<ConsoleInput> {
        Some(ConsoleInput::Page(self.input.clone()))
    }
}

impl Drop for Lguest32Bus {
    fn drop(&mut self) {
        self.input.close();
    }
}
