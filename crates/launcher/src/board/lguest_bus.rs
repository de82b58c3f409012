//! The lguest bus of the first generation on this board: the descriptor page, its devices, and who answers a list.
//!
//! ```text
//!   end of low RAM   descriptor page            one descriptor a device, the console last
//!   + 0x1000 ...     device pages               in the order of the command line
//! ```

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use lguest_abi::descriptor::{Descriptor, MAX_DEVICES, feature, kind};
use lguest_abi::dma::Sections;
use lguest_abi::meeting::{BOOT_SUBARCH, BOOT_SUBARCH_DATA, HYPERCALL_BY_PORT, SUBARCH_LGUEST};
use lguest_abi::net::TAP_GUEST_SLOT;
use lguest_devices::lguest::block::LguestBlock;
use lguest_devices::lguest::console::{self, LguestConsole};
use lguest_devices::lguest::net::LguestNet;
use lguest_devices::lguest::pipe::LguestPipe;
use lguest_devices::lguest::{Carrier, LguestDevice, Reserved};
use lguest_host::clock::TscRate;
use lguest_host::dma::{Area, Form};
use lguest_host::generation1::{Bound, Called, Generation1, describe, described};
use lguest_host::link::{Joining, Link, LinkError};
use lguest_host::memory::{GuestAddress, Memory, MemoryError, PAGE_SIZE};
use lguest_host::number::GuestNumber;
use lguest_host::platform::Platform;

use super::console::{MachineGone, OutputPump};
use super::device_tree::TreePipe;
use super::layout;
use super::machine::ConsoleInput;
use crate::attachments::Attachment;

/// Input that a Guest has no free list for is offered again after this long. Nothing tells the Host of a refill.
const AGAIN: Duration = Duration::from_millis(2);

/// Why the bus could not be built.
#[derive(Debug, thiserror::Error)]
pub enum LguestBusError {
    /// More than the page has descriptors for.
    #[error(
        "--bus lguest-dma has room for {MAX_DEVICES} devices, the console among them, and {0} were asked for"
    )]
    TooMany(usize),
    /// A link.
    #[error("--net link={name}: {source}")]
    Link {
        /// Which.
        name: String,
        /// Why.
        source: LinkError,
    },
    /// Memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// No number for its Ethernet addresses.
    #[error("--net: this host has no number left for one more Guest on a network: {0}")]
    Number(std::io::Error),
    /// A thread.
    #[error("the host refuses a thread: {0}")]
    Thread(std::io::Error),
    /// A network that this bus does not carry.
    #[error(
        "--net user: a later version will have it on --bus lguest-dma; give link=NAME or tap=NAME, or start debian"
    )]
    User,
    /// A tap that was opened before.
    #[error("--net tap: the host refuses to serve it: {0}")]
    Tap(std::io::Error),
}

/// How to start a link's broker, and where its sockets lie.
#[derive(Clone)]
pub struct LinkPlace {
    /// The user's own folder for sockets.
    pub folder: PathBuf,
    /// Makes a broker process out of a listening socket.
    pub start: fn(OwnedFd) -> std::io::Result<()>,
}

/// Pages that these devices need above low RAM, the descriptors' own included. The console has none.
pub fn pages(attachments: &[Attachment]) -> u64 {
    1 + attachments.len() as u64
}

/// Joins the links and puts their pages into memory. Before anybody else has the memory.
///
/// # Errors
/// [`LguestBusError`].
pub fn join_links(
    attachments: &[Attachment],
    memory: &mut Memory,
    place: &LinkPlace,
) -> Result<Vec<Link>, LguestBusError> {
    let mut links = Vec::new();
    for (index, attachment) in attachments.iter().enumerate() {
        let Attachment::Link(name) = attachment else { continue };
        let size = (memory.size(), pages(attachments));
        let limit = page_limit(memory, attachments);
        let joining = Joining { memory, size, limit, form: Form::Bits64 };
        let fault = |source| LguestBusError::Link { name: name.clone(), source };
        let (link, page) = Link::join(&place.folder, name, &place.start, &joining).map_err(fault)?;
        memory.graft(device_page(memory, index), page)?;
        links.push(link);
    }
    Ok(links)
}

fn device_page(memory: &Memory, index: usize) -> GuestAddress {
    GuestAddress(memory.low_end().0 + PAGE_SIZE * (1 + index as u64))
}

fn page_limit(memory: &Memory, attachments: &[Attachment]) -> u64 {
    memory.low_end().0 + PAGE_SIZE * pages(attachments)
}

/// Says in the boot parameters that this is an lguest Guest with a page of this generation (lguest-abi, "On 64 bits", 1).
///
/// # Errors
/// [`MemoryError`] for a machine smaller than its boot parameters.
pub fn say_so(memory: &Memory, generation: u64, by_port: bool) -> Result<(), MemoryError> {
    let at = |offset: usize| GuestAddress(layout::BOOT_PARAMETERS.0 + offset as u64);
    let how = generation | if by_port { HYPERCALL_BY_PORT } else { 0 };
    memory.write(at(BOOT_SUBARCH), &SUBARCH_LGUEST.to_le_bytes())?;
    memory.write(at(BOOT_SUBARCH_DATA), &how.to_le_bytes())
}

/// A device and the key it listens at.
struct Attached {
    key: u64,
    device: Box<dyn LguestDevice>,
}

/// The bus.
pub struct LguestBus {
    host: Arc<Generation1>,
    devices: Vec<Attached>,
    pipes: Vec<(u64, LguestPipe)>,
    /// The pipe of the device tree.
    tree: TreePipe,
}

/// A bus that its Guest reaches by hypercalls: either of lguest's own.
pub trait HypercallBus: Send {
    /// Answers a hypercall.
    fn call(&mut self, number: u64, arguments: [u64; 3]) -> Next;
    /// Hears a notify that came without a hypercall's other arguments.
    fn notify(&mut self, value: u64) -> Next {
        Next::Dead(format!("it notified {value:#x}, where no device is"))
    }
    /// Why the Guest was killed from elsewhere, if it was.
    fn death(&self) -> Option<String>;
    /// What the Guest's drivers have written into the descriptors: each device's index and status in hexadecimal, as its
    /// own files show it. Readable whatever became of the Guest's console.
    fn statuses(&self) -> String;
    /// The console's input; none when the Guest listens to the serial port instead.
    fn console_input(&self) -> Option<ConsoleInput>;
}

/// What a machine's loop does after a hypercall.
pub enum Next {
    /// Goes on; the value for rax, if there is one.
    Go(Option<u64>),
    /// The power goes off.
    Off,
    /// The Guest is dead.
    Dead(String),
}

impl LguestBus {
    /// The bus with its devices, in a machine whose memory has room for them.
    ///
    /// # Errors
    /// [`LguestBusError`].
    pub fn new(
        attachments: Vec<Attachment>,
        memory: &Arc<Memory>,
        mut links: Vec<Link>,
        platform: &Platform,
        rate: TscRate,
        screen: OutputPump,
    ) -> Result<LguestBus, LguestBusError> {
        if attachments.len() >= MAX_DEVICES {
            return Err(LguestBusError::TooMany(attachments.len() + 1));
        }
        let slots: Vec<u16> = links.iter().map(Link::slot).collect();
        let killed: Arc<OnceLock<Weak<Generation1>>> = Arc::default();
        for link in &mut links {
            let (host, stopped) = (killed.clone(), platform.clone());
            let died = move |reason| {
                if let Some(host) = host.get().and_then(Weak::upgrade) {
                    host.kill(reason);
                    stopped.stop();
                }
            };
            link.listen(platform.interrupts(), Box::new(died)).map_err(LguestBusError::Thread)?;
        }
        let area = Area::new(memory.clone(), page_limit(memory, &attachments), Form::Bits64);
        let mut host = Generation1::new(area, links, platform.interrupts(), rate);
        if attachments.iter().any(|attachment| matches!(attachment, Attachment::Link(_) | Attachment::Tap(_)))
        {
            host = host.with_number(GuestNumber::claim().map_err(LguestBusError::Number)?);
        }
        let host = Arc::new(host);
        let _ = killed.set(Arc::downgrade(&host));
        let mut bus = LguestBus { host, devices: Vec::new(), pipes: Vec::new(), tree: TreePipe::default() };
        let mut slots = slots.into_iter();
        let count = attachments.len();
        for (index, attachment) in attachments.into_iter().enumerate() {
            let slot = if matches!(attachment, Attachment::Link(_)) { slots.next() } else { None };
            bus.add(memory, index, attachment, slot.unwrap_or_default())?;
        }
        let console = Descriptor { kind: kind::CONSOLE, ..Descriptor::default() };
        describe(memory, count, &console)?;
        bus.devices
            .push(Attached { key: lguest_abi::console::KEY, device: Box::new(LguestConsole::new(screen)) });
        Ok(bus)
    }

    fn add(
        &mut self,
        memory: &Memory,
        index: usize,
        attachment: Attachment,
        slot: u16,
    ) -> Result<(), LguestBusError> {
        let page = device_page(memory, index);
        let with_page =
            Descriptor { num_pages: 1, pfn: (page.0 / PAGE_SIZE) as u32, ..Descriptor::default() };
        let descriptor = match attachment {
            Attachment::Disk(disk) => {
                let block = LguestBlock::new(disk, page.0);
                block.announce(&Wires(&self.host));
                self.devices.push(Attached { key: page.0, device: Box::new(block) });
                Descriptor { kind: kind::BLOCK, features: feature::RANDOMNESS, ..with_page }
            }
            // Whoever is on a link is on this host, so nobody needs a checksum.
            Attachment::Link(_) => {
                Descriptor { kind: kind::NET, features: feature::NET_NO_CHECKSUM | slot, ..with_page }
            }
            // The host may pass the frames on, so checksums count; and when they come is nobody's secret plan.
            Attachment::Tap(tap) => {
                let frames = tap.start(&self.host, page.0).map_err(LguestBusError::Tap)?;
                self.devices.push(Attached { key: page.0, device: Box::new(LguestNet::new(frames)) });
                let slot = TAP_GUEST_SLOT;
                Descriptor { kind: kind::NET, features: feature::RANDOMNESS | slot, ..with_page }
            }
            Attachment::User(_) => return Err(LguestBusError::User),
            Attachment::Pipe => {
                self.pipes.push((page.0, LguestPipe::new()));
                Descriptor { kind: kind::PIPE, ..with_page }
            }
        };
        Ok(describe(memory, index, &descriptor)?)
    }

    fn sent(&mut self, key: u64, list: u64) -> Next {
        let sections = match self.host.sent(list) {
            Ok(sections) => sections,
            Err(reason) => return Next::Dead(self.host.kill(reason)),
        };
        let used = self.answer(key, &sections);
        self.host.finish(list, used);
        self.offer();
        self.host.death().map_or(Next::Go(None), Next::Dead)
    }

    fn answer(&mut self, key: u64, sections: &Sections) -> u32 {
        let wires = Wires(&self.host);
        if let Some(attached) = self.devices.iter_mut().find(|attached| attached.key == key) {
            return attached.device.sent(&wires, sections);
        }
        match self.pipes.iter_mut().find(|(pipe, _)| *pipe == key) {
            Some((_, pipe)) => pipe.sent(&wires, sections),
            None => {
                tracing::debug!(key, "the Guest sends to a key where no device is");
                0
            }
        }
    }

    /// Pipes have something to give from the start; whenever the Guest calls, it may have bound a list.
    fn offer(&mut self) {
        for (key, pipe) in &mut self.pipes {
            pipe.offer(&Wires(&self.host), *key);
        }
    }
}

impl HypercallBus for LguestBus {
    fn call(&mut self, number: u64, arguments: [u64; 3]) -> Next {
        match self.host.call(number, arguments) {
            Called::Answer(value) => {
                self.offer();
                Next::Go(Some(value))
            }
            Called::Done | Called::Notify(_) => Next::Go(None),
            Called::Sent { key, list } => self.sent(key, list),
            Called::Transfer { write, handle, buffer, length } => {
                Next::Go(Some(self.tree.transfer(self.host.area(), write, handle, buffer, length)))
            }
            Called::PowerOff => Next::Off,
            Called::Dead(reason) => Next::Dead(reason),
        }
    }

    fn death(&self) -> Option<String> {
        self.host.death()
    }

    fn statuses(&self) -> String {
        let memory = self.host.area().memory();
        let devices = (0..MAX_DEVICES).filter_map(|index| Some((index, described(memory, index)?)));
        let used = devices.filter(|(_, descriptor)| descriptor.kind != kind::NONE);
        let words: Vec<String> = used.map(|(index, found)| format!("{index}:{:x}", found.status)).collect();
        words.join(" ")
    }

    fn console_input(&self) -> Option<ConsoleInput> {
        let host = Arc::downgrade(&self.host);
        Some(ConsoleInput::Lguest(LguestInput { host, sending: Arc::default() }))
    }
}

/// The bus's carrier: the Host's half of the generation, as devices want it.
pub(super) struct Wires<'a>(pub(super) &'a Generation1);

impl Carrier for Wires<'_> {
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.0.area().read(address, bytes).is_ok()
    }
    fn write(&self, address: u64, bytes: &[u8]) -> bool {
        self.0.area().write(address, bytes).is_ok()
    }
    fn take(&self, key: u64) -> Option<Reserved> {
        let Bound { list, irq, sections } = self.0.take(key).ok()?;
        Some(Reserved { list, irq: irq.number(), sections })
    }
    fn finish(&self, reserved: &Reserved, used: u32) {
        self.0.finish(reserved.list, used);
    }
    fn interrupt(&self, reserved: &Reserved) {
        if let Some(irq) = lguest_abi::meeting::Irq::new(reserved.irq) {
            self.0.interrupt(irq);
        }
    }
}

/// Feeds the console. Cloneable, and usable from any thread.
#[derive(Clone)]
pub struct LguestInput {
    host: Weak<Generation1>,
    /// One sender at a time, so that two do not mix their bytes.
    sending: Arc<Mutex<()>>,
}

impl LguestInput {
    /// Sends bytes to the Guest; waits while it has no free list.
    ///
    /// # Errors
    /// [`MachineGone`] when the machine ended; some bytes may have been taken.
    pub fn send(&self, mut bytes: &[u8]) -> Result<(), MachineGone> {
        let _one_at_a_time = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            let host = self.host.upgrade().filter(|host| host.death().is_none()).ok_or(MachineGone)?;
            let taken = console::input(&Wires(&host), bytes);
            drop(host);
            bytes = &bytes[taken..];
            if taken == 0 {
                std::thread::sleep(AGAIN);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "lguest_bus_tests.rs"]
mod tests;
