//! The lguest bus of the second generation on this board: virtio on a page of descriptors above memory.
//!
//! ```text
//!   end of low RAM   descriptor page      the user's devices in their order, a source of entropy, the console last
//!   + 0x1000 ...     rings                in the same order
//! ```
//! What its Guest calls is lguest-abi's "The second generation on 64 bits"; the page and its devices are
//! `lguest_devices::virtio::page`, which serves Guests of 32 bits as well.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use lguest_abi::hypercall::Hypercall;
use lguest_abi::meeting::{GENERATION_2, Irq};
use lguest_devices::outside::Output;
use lguest_devices::virtio::VirtioDevice;
use lguest_devices::virtio::console::{End, Room, VirtioConsole};
use lguest_devices::virtio::memory::NoView;
use lguest_devices::virtio::page::{self, DevicePage, Guest, NotCarried, Notified};
use lguest_devices::virtio::rng::VirtioRng;
use lguest_devices::virtio::waker::Waker;
use lguest_host::clock::TscRate;
use lguest_host::dma::{Area, Form};
use lguest_host::generation1::{Called, Generation1};
use lguest_host::memory::{Memory, MemoryError};
use lguest_host::platform::Platform;

use super::console::{MachineGone, OutputPump};
use super::lguest_bus::{HypercallBus, Next, say_so};
use super::machine::ConsoleInput;
use super::virtio_bus::{HostEntropy, Plug, view};

/// Why the bus could not be built.
#[derive(Debug, thiserror::Error)]
pub enum PageBusError {
    /// More than the page has room for.
    #[error("--bus lguest: {0}; leave some out")]
    Devices(#[from] NotCarried),
    /// The host.
    #[error(transparent)]
    View(#[from] NoView),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// What is on the bus.
pub struct PageSpec {
    plugs: Vec<Plug>,
    asked_for: usize,
    terminal: Terminal,
}

impl PageSpec {
    /// These devices in this order, a source of entropy, and the console.
    ///
    /// # Errors
    /// [`PageBusError::Devices`] for a device that has no place on the page, or more than it has room for.
    pub fn new(mut plugs: Vec<Plug>) -> Result<PageSpec, PageBusError> {
        let (asked_for, terminal) = (plugs.len(), Terminal::default());
        plugs.push(Plug::new(VirtioRng::new(HostEntropy)));
        let listens = terminal.clone();
        let console = VirtioConsole::console(Box::new(terminal.clone()));
        plugs.push(Plug::woken(console, move |waker| listens.hear(waker)));
        let spec = PageSpec { plugs, asked_for, terminal };
        spec.pages()?;
        Ok(spec)
    }

    /// How many devices the user asked for.
    pub fn asked_for(&self) -> usize {
        self.asked_for
    }

    /// Pages above low RAM that they take, the descriptors' own included.
    ///
    /// # Errors
    /// [`PageBusError::Devices`].
    pub fn pages(&self) -> Result<u64, PageBusError> {
        Ok(page::pages(self.plugs.iter().map(|plug| &*plug.device))?)
    }

    /// The devices, in an order that has the console first, and its Host side; for a Guest that looks elsewhere than on the
    /// page.
    pub(super) fn without_page(mut self, screen: OutputPump) -> (Vec<Plug>, PageInput) {
        let _ = self.terminal.0.screen.set(Mutex::new(screen));
        self.plugs.rotate_right(1);
        (self.plugs, PageInput(self.terminal))
    }

    /// Lays the page down at the end of this memory's low RAM, and tells every device how it is woken. `guest` hears of
    /// interrupts and of its death, `screen` has what the console says.
    ///
    /// # Errors
    /// [`PageBusError`].
    pub fn lay_down(
        self,
        memory: &Arc<Memory>,
        guest: Arc<dyn Guest>,
        screen: OutputPump,
    ) -> Result<(DevicePage, PageInput), PageBusError> {
        let _ = self.terminal.0.screen.set(Mutex::new(screen));
        let (mut devices, mut listeners): (Vec<Box<dyn VirtioDevice>>, Vec<_>) = (Vec::new(), Vec::new());
        for Plug { device, listener, .. } in self.plugs {
            devices.push(device);
            listeners.push(listener);
        }
        let page = DevicePage::new(devices, Arc::new(view(memory)?), memory.low_end().0, guest)?;
        for (number, listener) in listeners.into_iter().enumerate() {
            if let (Some(listener), Some(waker)) = (listener, page.waker(number)) {
                listener(waker);
            }
        }
        Ok((page, PageInput(self.terminal)))
    }
}

/// Both sides of the console's end.
#[derive(Default)]
struct Wire {
    screen: OnceLock<Mutex<OutputPump>>,
    waker: OnceLock<Waker>,
    incoming: Mutex<Incoming>,
    room: Condvar,
}

#[derive(Default)]
struct Incoming {
    bytes: VecDeque<u8>,
    gone: bool,
}

/// Input that the Guest has not taken yet, at most; then its sender waits.
const MOST_WAITING: usize = 16 << 10;
/// What the console may say in one piece. The pump makes the vCPU wait when its reader is slow, as a serial port does.
const PIECE: usize = 4 << 10;

/// The console's end.
#[derive(Clone, Default)]
struct Terminal(Arc<Wire>);

impl Terminal {
    fn hear(&self, waker: Waker) {
        let _ = self.0.waker.set(waker);
    }

    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.0.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, bytes: &[u8]) {
        let Some(screen) = self.0.screen.get() else { return };
        let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.iter().for_each(|byte| screen.put(*byte));
    }
}

impl End for Terminal {
    fn room(&mut self) -> Room {
        Room::Bytes(PIECE)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.print(bytes);
    }

    fn take(&mut self, bytes: &mut [u8]) -> usize {
        let mut incoming = self.incoming();
        let length = incoming.bytes.len().min(bytes.len());
        incoming.bytes.drain(..length).zip(bytes).for_each(|(byte, place)| *place = byte);
        self.0.room.notify_all();
        length
    }
}

/// Feeds the console. Cloneable, and usable from any thread.
#[derive(Clone)]
pub struct PageInput(Terminal);

impl PageInput {
    /// Sends bytes to the Guest; waits while it takes none.
    ///
    /// # Errors
    /// [`MachineGone`] when the machine ended; some bytes may have been taken.
    pub fn send(&self, bytes: &[u8]) -> Result<(), MachineGone> {
        for piece in bytes.chunks(MOST_WAITING) {
            let mut incoming = self.0.incoming();
            while incoming.bytes.len() + piece.len() > MOST_WAITING && !incoming.gone {
                incoming = self.0.0.room.wait(incoming).unwrap_or_else(PoisonError::into_inner);
            }
            if incoming.gone {
                return Err(MachineGone);
            }
            incoming.bytes.extend(piece);
            // The device locks in its turn.
            drop(incoming);
            if let Some(waker) = self.0.0.waker.get() {
                waker.wake();
            }
        }
        Ok(())
    }
}

/// The machine, as the page's devices see it.
struct Reached {
    host: Arc<Generation1>,
    platform: Platform,
}

impl Guest for Reached {
    fn interrupt(&self, irq: Irq) {
        self.host.interrupt(irq);
    }

    fn kill(&self, reason: String) {
        self.host.kill(reason);
        // It may run on another thread than the one that found out.
        self.platform.stop();
    }
}

/// The bus of a 64-bit Guest.
pub struct PageBus {
    host: Arc<Generation1>,
    page: DevicePage,
    input: PageInput,
}

impl PageBus {
    /// The bus with its devices, in a machine whose memory has room for them, which the boot parameters then say.
    ///
    /// # Errors
    /// [`PageBusError`].
    pub fn new(
        spec: PageSpec,
        memory: &Arc<Memory>,
        platform: &Platform,
        rate: TscRate,
        screen: OutputPump,
        by_port: bool,
    ) -> Result<PageBus, PageBusError> {
        say_so(memory, GENERATION_2, by_port)?;
        let limit = memory.low_end().0 + spec.pages()? * lguest_host::memory::PAGE_SIZE;
        let area = Area::new(memory.clone(), limit, Form::Bits64);
        let host = Arc::new(Generation1::new(area, Vec::new(), platform.interrupts(), rate));
        let guest = Arc::new(Reached { host: host.clone(), platform: platform.clone() });
        let (page, input) = spec.lay_down(memory, guest, screen)?;
        Ok(PageBus { host, page, input })
    }

    fn notified(&self, value: u64) -> Next {
        match self.page.notify(value) {
            Notified::Queue | Notified::Status | Notified::Nothing => Next::Go(None),
            Notified::Text(text) => {
                self.input.0.print(&text);
                Next::Go(None)
            }
            Notified::Dead(reason) => Next::Dead(reason),
        }
    }
}

impl HypercallBus for PageBus {
    fn call(&mut self, number: u64, arguments: [u64; 3]) -> Next {
        let retired = [Hypercall::BindDma, Hypercall::SendDma, Hypercall::Read, Hypercall::Write];
        if retired.iter().any(|call| *call as u64 == number) {
            return Next::Dead(self.host.kill(format!("Bad hypercall {number}")));
        }
        match self.host.call(number, arguments) {
            Called::Answer(value) => Next::Go(Some(value)),
            Called::Notify(value) => self.notified(value),
            Called::PowerOff => Next::Off,
            Called::Dead(reason) => Next::Dead(reason),
            // What is retired was refused above.
            Called::Done | Called::Sent { .. } | Called::Transfer { .. } => Next::Go(None),
        }
    }

    fn death(&self) -> Option<String> {
        self.host.death()
    }

    fn statuses(&self) -> String {
        self.page.statuses()
    }

    fn console_input(&self) -> Option<ConsoleInput> {
        Some(ConsoleInput::Page(self.input.clone()))
    }
}

impl PageInput {
    /// Lets go of whoever waits to send: the machine is gone.
    pub(super) fn close(&self) {
        self.0.incoming().gone = true;
        self.0.0.room.notify_all();
    }
}

impl Drop for PageBus {
    fn drop(&mut self) {
        self.input.close();
    }
}

#[cfg(test)]
#[path = "page_bus_tests.rs"]
mod tests;
