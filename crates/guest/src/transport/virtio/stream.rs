//! What comes and goes in lists, over a pair of virtio's queues: networks, consoles and pipes, as the drivers of 2007 know them.
//!
//! ```text
//!   list sent      ─► [header] its sections  ─► queue of what goes; the call returns when the device is done with it
//!   lists armed    ─► [header] their sections ─► queue of what comes, a slot each; how much arrived is the driver's to ask
//! ```

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{OnceCell, RefCell};

use lguest_abi::dma::Sections;
use lguest_abi::pipe::VENDOR_LGUEST;

use super::super::reader::Reader;
use super::queue::{Piece, Queue};
use super::registers::{self, NEEDS_RESET, Registers};
use super::{Collects, wait_for};
use crate::model::{BindError, Buffer, Carrier, Channel, DeviceId, Direction, Inbox, Memory, TransferError};

/// -EIO: the device takes no more.
const NOT_TAKEN: i64 = -5;

/// What the device is to its driver.
pub(super) struct Shape {
    /// Its device number.
    pub device: u16,
    /// Its feature bits.
    pub features: u16,
    /// What the driver takes for its memory.
    pub page: Option<Buffer>,
    /// Its address on the wire, from its bus.
    pub address: Option<[u8; 6]>,
    /// Queues of what comes and what goes.
    pub queues: [u16; 2],
    /// Lists that may wait at a time.
    pub lists: u16,
    /// Bytes before what comes and what goes; zero on the way out, nobody's on the way in.
    pub header: usize,
    /// Nothing else is on the device, so it may be reset when the driver lets go of its lists.
    pub alone: bool,
    /// Features that were agreed on, in the first word.
    pub agreed: u32,
}

/// A list that waits, and what came into it.
#[derive(Clone, Copy)]
struct List {
    sections: Sections,
    arrived: u32,
}

/// The device's end of both queues.
pub(super) struct StreamPort {
    registers: Rc<dyn Registers>,
    memory: Rc<dyn Memory>,
    shape: Shape,
    receive: Queue,
    transmit: Queue,
    /// One header for each list, and one for what goes.
    headers: Option<Buffer>,
    lists: RefCell<Vec<List>>,
}

impl StreamPort {
    /// Takes both queues into use; the device has not begun yet. None when there is no memory, or no such queues.
    pub fn start(registers: &Rc<dyn Registers>, memory: &Rc<dyn Memory>, shape: Shape) -> Option<StreamPort> {
        let headers = match shape.header {
            0 => None,
            bytes => Some(Buffer::allocate(memory, bytes * usize::from(shape.lists + 1))?),
        };
        let receive = Queue::start(&**registers, shape.queues[0], shape.lists, memory)?;
        let transmit = Queue::start(&**registers, shape.queues[1], 1, memory)?;
        let lists =
            RefCell::new(alloc::vec![List { sections: Sections::new(), arrived: 0 }; shape.lists.into()]);
        Some(StreamPort {
            registers: registers.clone(),
            memory: memory.clone(),
            shape,
            receive,
            transmit,
            headers,
            lists,
        })
    }

    /// A chain: the `number`th header, then sections.
    fn pieces(&self, number: u16, sections: &Sections, writable: bool) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if let Some(headers) = &self.headers {
            let at = usize::from(number) * self.shape.header;
            let (address, length) = (headers.address() + at as u64, self.shape.header as u32);
            pieces.push(Piece { address, length, writable });
        }
        let sections = sections.as_slice().iter();
        pieces.extend(sections.map(|section| Piece {
            address: section.address,
            length: section.length.into(),
            writable,
        }));
        pieces
    }

    /// Sends a list and waits until the device has it: the driver may use its memory again when the call returns.
    fn send(&self, data: &Sections) -> Result<u32, TransferError> {
        if data.total() == 0 {
            return Ok(0);
        }
        let pieces = self.pieces(self.shape.lists, data, false);
        let taken = self.transmit.offer(&*self.registers, 0, &pieces)
            && wait_for(&*self.registers, || self.transmit.came_back());
        if taken { Ok(data.total() as u32) } else { Err(TransferError::Refused(NOT_TAKEN)) }
    }

    fn arm(&self, list: u16) {
        let sections = match self.lists.borrow_mut().get_mut(usize::from(list)) {
            Some(list) => {
                list.arrived = 0;
                list.sections
            }
            None => return,
        };
        // A list without room is armed later.
        if sections.total() > 0 {
            self.receive.offer(&*self.registers, list, &self.pieces(list, &sections, true));
        }
    }

    /// Notes what came back.
    fn gather(&self) {
        while let Some((list, length)) = self.receive.came_back() {
            let arrived = length.saturating_sub(self.shape.header as u32);
            match self.lists.borrow_mut().get_mut(usize::from(list)) {
                // More than there was room for did not come, whatever the device says.
                Some(list) => list.arrived = arrived.min(list.sections.total() as u32),
                None => continue,
            }
            if arrived == 0 {
                self.arm(list);
            }
        }
    }

    /// The driver lets go of its lists. A chain cannot be taken back from a device that works, so it begins anew.
    fn close(&self) {
        if !self.shape.alone || !registers::agree(&*self.registers, self.shape.agreed) {
            return;
        }
        self.receive.restart(&*self.registers);
        self.transmit.restart(&*self.registers);
        registers::begin(&*self.registers);
    }
}

impl Collects for StreamPort {
    fn collect(&self) {
        self.registers.acknowledge();
        self.gather();
    }
}

/// Waits until the device is done with what it was given. False when it is broken.
pub(super) fn is_broken(registers: &dyn Registers) -> bool {
    registers.status() & NEEDS_RESET != 0
}

/// A stream's way to its Host.
pub(super) struct StreamCarrier {
    pub port: Rc<StreamPort>,
    reader: OnceCell<Reader>,
}

impl StreamCarrier {
    /// For the driver of this port.
    pub fn new(port: &Rc<StreamPort>) -> StreamCarrier {
        StreamCarrier { port: port.clone(), reader: OnceCell::new() }
    }
}

impl Carrier for StreamCarrier {
    fn id(&self) -> DeviceId {
        DeviceId { vendor: VENDOR_LGUEST, device: self.port.shape.device }
    }

    fn features(&self) -> u16 {
        self.port.shape.features
    }

    fn memory(&self) -> Option<&Buffer> {
        self.port.shape.page.as_ref()
    }

    fn address(&self) -> Option<[u8; 6]> {
        self.port.shape.address
    }

    fn transfer(
        &self,
        channel: Channel,
        direction: Direction,
        data: &Sections,
    ) -> Result<u32, TransferError> {
        if direction == Direction::Write {
            return self.port.send(data);
        }
        let reader = match self.reader.get() {
            Some(reader) => reader,
            None => {
                let reader =
                    Reader::open(self, channel, &self.port.memory).map_err(|_| TransferError::NoMemory)?;
                self.reader.get_or_init(|| reader)
            }
        };
        Ok(reader.take(data, &*self.port.memory))
    }

    fn open(&self, _: Channel, lists: &[Sections]) -> Result<Box<dyn Inbox>, BindError> {
        if lists.len() > usize::from(self.port.shape.lists) {
            return Err(BindError::NoMemory);
        }
        let inbox = Box::new(StreamInbox(self.port.clone()));
        (0..).zip(lists).for_each(|(list, sections)| inbox.arm(list, sections));
        Ok(inbox)
    }
}

/// The lists of an open port.
struct StreamInbox(Rc<StreamPort>);

impl Inbox for StreamInbox {
    fn arm(&self, list: u16, sections: &Sections) {
        if let Some(list) = self.0.lists.borrow_mut().get_mut(usize::from(list)) {
            list.sections = *sections;
        }
        self.0.arm(list);
    }

    fn arrived(&self, list: u16) -> u32 {
        self.0.gather();
        self.0.lists.borrow().get(usize::from(list)).map_or(0, |list| list.arrived)
    }

    fn rearm(&self, list: u16) {
        self.0.arm(list);
    }
}

impl Drop for StreamInbox {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
