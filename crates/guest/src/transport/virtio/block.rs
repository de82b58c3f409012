//! A virtio disk, as the driver of 2007 knows disks: a page that describes one request, and lists that carry its bytes.
//!
//! ```text
//!   page: kind, sector, bytes   ─► header (virtio 1.2, 5.2.6)   ─┐
//!   list sent, or list armed    ─► the data                      ├─► one chain
//!                                  a status byte                ─┘
//!   page: result                ◄─ the status byte
//! ```

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::RefCell;

use lguest_abi::block::{offset, request, result};
use lguest_abi::descriptor::kind;
use lguest_abi::dma::Sections;
use lguest_abi::meeting::PAGE_SIZE;
use lguest_abi::pipe::VENDOR_LGUEST;

use super::Collects;
use super::queue::{Piece, Queue};
use super::registers::{self, Registers};
use crate::model::{BindError, Buffer, Carrier, Channel, DeviceId, Direction, Inbox, Memory, TransferError};

const QUEUE: u16 = 0;
const HEADER: usize = 16;
const READ: u32 = 0;
const WRITE: u32 = 1;
const OK: u8 = 0;
/// Not written by the device yet.
const NOTHING: u8 = 0xff;
/// -EIO: the device took no more requests.
const NOT_TAKEN: i64 = -5;

/// The disk behind its registers.
pub(super) struct BlockPort {
    registers: Rc<dyn Registers>,
    queue: Queue,
    /// What the driver takes for the device's memory.
    page: Buffer,
    header: Buffer,
    status: Buffer,
    /// Where a read goes.
    armed: RefCell<Sections>,
}

impl BlockPort {
    /// Brings a disk up. None when it does not agree, or when memory is short.
    pub fn start(registers: Rc<dyn Registers>, memory: &Rc<dyn Memory>) -> Option<BlockPort> {
        if !registers::agree(&*registers, 0) {
            return None;
        }
        let page = Buffer::allocate(memory, PAGE_SIZE as usize)?;
        let header = Buffer::allocate(memory, HEADER)?;
        let status = Buffer::allocate(memory, 1)?;
        let queue = Queue::start(&*registers, QUEUE, 1, memory)?;
        registers::begin(&*registers);
        // A disk beyond two tebibytes ends there: its driver counts sectors in 32 bits.
        let sectors = if registers.configuration(4) == 0 { registers.configuration(0) } else { u32::MAX };
        page.write_u32(offset::NUM_SECTORS, sectors);
        let armed = RefCell::new(Sections::new());
        Some(BlockPort { registers, queue, page, header, status, armed })
    }

    /// Sends what the page describes.
    fn send(&self, data: &Sections) -> Result<u32, TransferError> {
        let reads = self.page.read_u32(offset::KIND) as i32 == request::READ;
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&if reads { READ } else { WRITE }.to_le_bytes());
        header[8..12].copy_from_slice(&self.page.read_u32(offset::SECTOR).to_le_bytes());
        self.header.write(0, &header);
        self.status.write(0, &[NOTHING]);
        let armed = self.armed.borrow();
        let data = if reads { &*armed } else { data };
        let piece = |address, length, writable| Piece { address, length, writable };
        let mut pieces = alloc::vec![piece(self.header.address(), HEADER as u32, false)];
        let data = data.as_slice().iter();
        pieces.extend(data.map(|section| piece(section.address, section.length.into(), reads)));
        pieces.push(piece(self.status.address(), 1, true));
        let taken = self.queue.offer(&*self.registers, 0, &pieces);
        // How much was taken says nothing, as ever: the result in the page does.
        if taken { Ok(0) } else { Err(TransferError::Refused(NOT_TAKEN)) }
    }
}

impl Collects for BlockPort {
    /// Puts the result of a request that came back into the page.
    fn collect(&self) {
        self.registers.acknowledge();
        if self.queue.came_back().is_some() {
            let mut status = [NOTHING];
            self.status.read(0, &mut status);
            let outcome = if status == [OK] { result::DONE } else { result::FAILED };
            self.page.write(offset::RESULT, &outcome.to_le_bytes());
        }
    }
}

/// A disk's way to its Host.
pub(super) struct BlockCarrier(pub Rc<BlockPort>);

impl Carrier for BlockCarrier {
    fn id(&self) -> DeviceId {
        DeviceId { vendor: VENDOR_LGUEST, device: kind::BLOCK }
    }

    fn features(&self) -> u16 {
        0
    }

    fn memory(&self) -> Option<&Buffer> {
        Some(&self.0.page)
    }

    fn transfer(&self, _: Channel, direction: Direction, data: &Sections) -> Result<u32, TransferError> {
        match direction {
            Direction::Write => self.0.send(data),
            Direction::Read => Err(TransferError::Unsupported),
        }
    }

    fn open(&self, _: Channel, lists: &[Sections]) -> Result<Box<dyn Inbox>, BindError> {
        let inbox = Box::new(BlockInbox(self.0.clone()));
        (0..).zip(lists).for_each(|(list, sections)| inbox.arm(list, sections));
        Ok(inbox)
    }
}

/// The one list that a read fills.
struct BlockInbox(Rc<BlockPort>);

impl Inbox for BlockInbox {
    fn arm(&self, _list: u16, sections: &Sections) {
        *self.0.armed.borrow_mut() = *sections;
    }

    /// A disk's data is there when its result is, which the driver looks at instead.
    fn arrived(&self, _list: u16) -> u32 {
        0
    }

    fn rearm(&self, _list: u16) {}
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
