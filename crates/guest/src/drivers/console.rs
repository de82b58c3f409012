//! The console: text out in one list, text in through one buffer (facts 7.1).

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use lguest_abi::console::{INPUT_SIZE, OUTPUT_SIZE, READ_SIZE};
use lguest_abi::descriptor::kind;
use lguest_abi::dma::Sections;
use lguest_abi::pipe::VENDOR_LGUEST;

use crate::model::{
    Buffer, Channel, Device, DeviceId, Direction, Driver, Handler, Inbox, Memory, ProbeError,
};

/// A console has one conversation.
const CHANNEL: Channel = Channel(0);
const IDS: [DeviceId; 1] = [DeviceId { vendor: VENDOR_LGUEST, device: kind::CONSOLE }];

/// Drives the first console; another one is refused.
pub struct ConsoleDriver {
    memory: Rc<dyn Memory>,
    console: RefCell<Option<Rc<Console>>>,
}

/// A console that works.
pub struct Console {
    device: Rc<Device>,
    output: Buffer,
    input: Buffer,
    inbox: Box<dyn Inbox>,
    offset: Cell<u32>,
}

impl ConsoleDriver {
    /// A driver without a console.
    #[must_use]
    pub fn new(memory: &Rc<dyn Memory>) -> ConsoleDriver {
        ConsoleDriver { memory: memory.clone(), console: RefCell::new(None) }
    }

    /// The console, once it was found.
    #[must_use]
    pub fn console(&self) -> Option<Rc<Console>> {
        self.console.borrow().clone()
    }
}

impl Driver for ConsoleDriver {
    fn name(&self) -> &'static str {
        "lguestcons"
    }

    fn ids(&self) -> &[DeviceId] {
        &IDS
    }

    fn probe(&self, device: &Rc<Device>) -> Result<Rc<dyn Handler>, ProbeError> {
        if self.console.borrow().is_some() {
            return Err(ProbeError::NotUsable("there is a console already"));
        }
        let allocate = |size: u16| Buffer::allocate(&self.memory, size.into()).ok_or(ProbeError::NoMemory);
        let (output, input) = (allocate(OUTPUT_SIZE)?, allocate(INPUT_SIZE)?);
        let inbox = device.carrier.open(CHANNEL, &[one(&input, INPUT_SIZE.into())])?;
        let console = Rc::new(Console { device: device.clone(), output, input, inbox, offset: Cell::new(0) });
        *self.console.borrow_mut() = Some(console.clone());
        Ok(console)
    }
}

impl Console {
    /// Writes text and says that all of it was written, whatever the Host did: a console that fails must not make
    /// its users fail.
    pub fn put(&self, text: &[u8]) -> usize {
        for part in text.chunks(OUTPUT_SIZE.into()) {
            self.output.write(0, part);
            let _ = self.device.carrier.transfer(CHANNEL, Direction::Write, &one(&self.output, part.len()));
        }
        text.len()
    }

    /// Takes input: at most sixteen bytes, fewer if fewer have come. The buffer is offered to the Host again only when
    /// its last byte is taken.
    pub fn get(&self, bytes: &mut [u8]) -> usize {
        let used = self.inbox.arrived(0).min(INPUT_SIZE.into());
        let left = (used - self.offset.get().min(used)) as usize;
        let count = left.min(bytes.len()).min(READ_SIZE);
        self.input.read(self.offset.get().min(used).into(), &mut bytes[..count]);
        self.offset.set(self.offset.get() + count as u32);
        if used != 0 && self.offset.get() >= used {
            self.offset.set(0);
            self.inbox.rearm(0);
        }
        count
    }
}

impl Handler for Console {
    /// Input waits in the buffer until somebody asks; the interrupt only wakes.
    fn interrupt(&self) -> bool {
        self.inbox.arrived(0) != 0
    }
}

fn one(buffer: &Buffer, length: usize) -> Sections {
    let mut sections = Sections::new();
    // One section always fits an empty list, and an empty text makes an empty list.
    let _ = sections.push(buffer.section(length));
    sections
}

#[cfg(all(test, feature = "transports"))]
#[path = "console_tests.rs"]
mod tests;
