//! What there is: devices and their drivers, a clock, somewhere to print and somewhere to read from.

use alloc::rc::Rc;
use alloc::string::String;
use core::cell::Cell;
use core::fmt::{self, Write};

use lguest_abi::data::Data64;
use lguest_abi::hypercall::Hypercall;
use lguest_abi::meeting::{Irq, PLATFORM_NAME};
use lguest_guest::drivers::block::BlockDriver;
use lguest_guest::drivers::console::ConsoleDriver;
use lguest_guest::drivers::net::NetDriver;
use lguest_guest::drivers::pipe::PipeDriver;
use lguest_guest::model::{Buffer, Driver, Memory, Registry};
use lguest_guest::transport::virtio::page::EarlyText;
use lguest_guest::transport::virtio::{self, VirtioDevices};
use lguest_guest::transport::{EarlyConsole, Hypercalls, LguestBus, tree_bus};

use crate::hardware::apic::{self, Timer};
use crate::hardware::boot::BootInfo;
use crate::hardware::clock::Clock;
use crate::hardware::host::Host;
use crate::hardware::memory::Shared;
use crate::hardware::pci::PciPorts;
use crate::hardware::{idle, interrupts, let_in, power, serial};

/// The serial port's irq number: the last of the bus's, which no descriptor can have.
const SERIAL_IRQ: u8 = 31;
/// On the command line: leave the console without a driver, to see what the Host can still tell.
const NO_CONSOLE: &str = "noconsole";
/// On the command line: nobody's terminal shows what this Guest prints, so lines end as in a file.
const PLAIN: &str = "plain";
/// The name of a platform that is not lguest's: its bus stays silent there.
const OTHER_PLATFORM: &str = "pc";

/// Prints on a system's console, like `print!`.
#[macro_export]
macro_rules! say {
    ($system:expr, $($text:tt)*) => { $system.print(format_args!($($text)*)) };
}

/// A machine whose devices have their drivers.
pub struct System {
    /// What the loader said.
    pub info: BootInfo,
    /// Devices and who drives them.
    pub registry: Registry,
    /// Memory shared with the Host.
    pub memory: Rc<dyn Memory>,
    /// The lguest bus, on a machine that has one.
    pub bus: Option<LguestBus>,
    /// The clock.
    pub clock: Clock,
    /// Drives disks.
    pub disks: Rc<BlockDriver>,
    /// Drives networks.
    pub networks: Rc<NetDriver>,
    /// Drives pipes.
    pub pipes: Rc<PipeDriver>,
    /// This Guest's internet address, once it was given one.
    pub internet: Cell<Option<[u8; 4]>>,
    virtio: [VirtioDevices; 3],
    host: Rc<dyn Hypercalls>,
    consoles: Rc<ConsoleDriver>,
    early: Option<EarlyConsole>,
    early_text: Option<EarlyText>,
    timer: Timer,
    from_serial: Cell<Option<u8>>,
}

impl System {
    /// Starts everything: first a voice, then time, then the bus and its devices, then the drivers.
    ///
    /// # Panics
    /// When the bus cannot be registered, or a driver: there is no machine to go on with then.
    #[must_use]
    pub fn start(info: BootInfo) -> System {
        let memory: Rc<dyn Memory> = Rc::new(Shared);
        let host: Rc<dyn Hypercalls> = Rc::new(Host);
        let early = info.descriptors.and_then(|_| EarlyConsole::new(&memory, &host));
        let early_text = info.device_page.and_then(|_| EarlyText::new(&memory, &host));
        let own = info.descriptors.or(info.device_page);
        let data = own.map(|_| introduce(&memory, &*host)).unwrap_or_default();
        let timer = apic::start();
        apic::route(serial::LINE_NUMBER, SERIAL_IRQ);
        let networks = Rc::new(NetDriver::new(&memory, data.guest_id));
        let mut system = System {
            info,
            registry: Registry::new(),
            bus: None,
            clock: Clock::start(data.tsc_khz),
            disks: Rc::new(BlockDriver::new()),
            networks,
            pipes: Rc::new(PipeDriver::new(&memory)),
            internet: Cell::new(None),
            virtio: Default::default(),
            consoles: Rc::new(ConsoleDriver::new(&memory)),
            memory,
            host,
            early,
            early_text,
            timer,
            from_serial: Cell::new(None),
        };
        system.start_buses();
        system.start_drivers();
        system
    }

    fn start_buses(&mut self) {
        if let Some(at) = self.info.device_page {
            return self.start_device_page(at);
        }
        let platform = if self.info.descriptors.is_some() { PLATFORM_NAME } else { OTHER_PLATFORM };
        let at = self.info.descriptors.unwrap_or(0);
        let report = &mut |failed| self.print(format_args!("lguest bus: {failed:?}\n"));
        let started = LguestBus::start(platform, at, &self.memory, &self.host, &self.registry, report);
        self.bus = started.expect("the lguest bus cannot be registered");
        tree_bus::start(self.info.device_tree, &self.host, &self.registry)
            .expect("the bus of the device tree cannot be registered");
        if self.bus.is_none() {
            self.start_virtio();
        }
    }

    /// The bus of a machine of lguest's second generation.
    fn start_device_page(&mut self, at: u64) {
        let report = &mut |failed| self.print(format_args!("lguest bus: {failed:?}\n"));
        let (memory, host) = (&self.memory, &self.host);
        let started = virtio::page::start(PLATFORM_NAME, at, memory, host, &self.registry, report);
        self.virtio[2] = started.expect("the lguest bus cannot be registered");
    }

    /// The buses of a machine that is not lguest's own: those in memory, which the device tree names, and PCI.
    fn start_virtio(&mut self) {
        let connect = |line, irq: Irq| apic::route(line, irq.number());
        let mapped = virtio::mmio::start(self.info.device_tree, &self.memory, &connect, &self.registry);
        let on_pci = virtio::pci::start(&PciPorts, &self.memory, &self.registry);
        let [mapped, on_pci] = [mapped, on_pci].map(|bus| bus.expect("a virtio bus cannot be registered"));
        (self.virtio[0], self.virtio[1]) = (mapped, on_pci);
    }

    fn start_drivers(&self) {
        let drivers: [Rc<dyn Driver>; 4] =
            [self.consoles.clone(), self.disks.clone(), self.networks.clone(), self.pipes.clone()];
        let silent = self.has_word(NO_CONSOLE);
        for driver in drivers.into_iter().skip(usize::from(silent)) {
            self.registry.add_driver(driver).expect("a driver of this kernel cannot be registered");
        }
    }

    /// Whether a word stands on the command line, before a COMMAND.
    fn has_word(&self, wanted: &str) -> bool {
        self.info.command_line.split(' ').take_while(|word| *word != "--").any(|word| word == wanted)
    }

    /// Prints on the console; before there is one, through the Host or the serial port.
    pub fn print(&self, text: fmt::Arguments<'_>) {
        let mut line = Lines { text: String::new(), plain: self.has_word(PLAIN) };
        // A String takes everything.
        let _ = line.write_fmt(text);
        self.put(line.text.as_bytes());
    }

    /// Puts bytes on the console as they are.
    pub fn put(&self, bytes: &[u8]) {
        if let Some(console) = self.consoles.console() {
            console.put(bytes);
        } else if let Some(early) = &self.early {
            early.write(bytes);
        } else if let Some(early) = &self.early_text {
            early.write(bytes);
        } else {
            bytes.iter().copied().for_each(serial::put);
        }
    }

    /// A byte that somebody typed, if one came.
    #[must_use]
    pub fn get(&self) -> Option<u8> {
        let mut byte = [0];
        let typed = self.consoles.console().is_some_and(|console| console.get(&mut byte) == 1);
        if typed { Some(byte[0]) } else { self.from_serial.take().or_else(serial::get) }
    }

    /// Lets the drivers see the interrupts that came.
    pub fn poll(&self) {
        interrupts::take().for_each(|irq| {
            let own = self.virtio.iter().fold(irq, |irq, devices| devices.interrupt(irq));
            self.registry.interrupt(own);
        });
    }

    /// Sleeps until something happens, or until `deadline` of [`Self::clock`].
    pub fn wait(&self, deadline: Option<u64>) {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_sub(self.clock.now());
            if left == 0 {
                return self.poll();
            }
            self.timer.after(&self.clock, left);
        }
        // The port's line only rises once for bytes that are there already.
        if self.from_serial.get().is_none() {
            self.from_serial.set(serial::get());
        }
        if self.from_serial.get().is_some() {
            // Somebody typed ahead, so there is no reason to sleep; what else comes must be heard all the same.
            let_in();
        } else if !interrupts::any() {
            idle();
        }
        if deadline.is_some() {
            self.timer.cancel();
        }
        self.poll();
    }

    /// A hypercall that does nothing: the price of asking.
    pub fn call_nothing(&self) {
        let _ = self.host.call(Hypercall::FlushAsync, [0; 3]);
    }

    /// Seconds since 1970, where the Host tells.
    #[must_use]
    pub fn wall_clock(&self) -> Option<u64> {
        let own = self.info.descriptors.or(self.info.device_page);
        own.map(|_| self.host.call(Hypercall::GetWallClock, [0; 3]))
    }
}

/// LGUEST_INIT: the first word to the Host, and what it says back.
fn introduce(memory: &Rc<dyn Memory>, host: &dyn Hypercalls) -> Data64 {
    let Some(buffer) = Buffer::allocate(memory, size_of::<Data64>()) else { return Data64::default() };
    let _ = host.call(Hypercall::Init, [buffer.address(), 0, 0]);
    power::tell_host();
    let mut id = [0; 2];
    buffer.read(4, &mut id);
    Data64 { tsc_khz: buffer.read_u32(0), guest_id: u16::from_le_bytes(id), reserved: 0 }
}

/// Text for a terminal, which does not turn a line feed into a new line, or plain, for a pipe.
struct Lines {
    text: String,
    plain: bool,
}

impl Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if character == '\n' && !self.plain {
                self.text.push('\r');
            }
            self.text.push(character);
        }
        Ok(())
    }
}
