//! The mail's example: a device one reads bytes from, and does not know through what.
//!
//! The mail's pipe only read. Ours writes too, because what is beneath already could.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use lguest_abi::descriptor::kind;
use lguest_abi::dma::Sections;
use lguest_abi::pipe::{BUFFER_SIZE, DEVICE, VENDOR_LGUEST, VENDOR_LINUX};

use crate::model::{
    Buffer, Channel, Device, DeviceId, Direction, Driver, Handler, Memory, ProbeError, TransferError,
};

const CHANNEL: Channel = Channel(0);
/// The same device in two numberings: the mail's, and that of a page of descriptors.
const IDS: [DeviceId; 2] = [
    DeviceId { vendor: VENDOR_LINUX, device: DEVICE },
    DeviceId { vendor: VENDOR_LGUEST, device: kind::PIPE },
];

/// Drives every pipe.
pub struct PipeDriver {
    memory: Rc<dyn Memory>,
    pipes: RefCell<Vec<Rc<Pipe>>>,
}

/// One pipe.
pub struct Pipe {
    device: Rc<Device>,
    buffer: Buffer,
}

impl PipeDriver {
    /// A driver without pipes.
    #[must_use]
    pub fn new(memory: &Rc<dyn Memory>) -> PipeDriver {
        PipeDriver { memory: memory.clone(), pipes: RefCell::new(Vec::new()) }
    }

    /// The pipes in order of arrival.
    #[must_use]
    pub fn pipes(&self) -> Vec<Rc<Pipe>> {
        self.pipes.borrow().clone()
    }
}

impl Driver for PipeDriver {
    fn name(&self) -> &'static str {
        "virt_pipe"
    }

    fn ids(&self) -> &[DeviceId] {
        &IDS
    }

    fn probe(&self, device: &Rc<Device>) -> Result<Rc<dyn Handler>, ProbeError> {
        let buffer = Buffer::allocate(&self.memory, BUFFER_SIZE.into()).ok_or(ProbeError::NoMemory)?;
        let pipe = Rc::new(Pipe { device: device.clone(), buffer });
        // A first read of nothing: a carrier that has to prepare for reading does it here, and can say no here.
        pipe.read(&mut [])?;
        self.pipes.borrow_mut().push(pipe.clone());
        Ok(pipe)
    }
}

impl Pipe {
    /// The name of its device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// Takes what has come, up to the length of `bytes` and to a page. Zero means: nothing yet.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn read(&self, bytes: &mut [u8]) -> Result<usize, TransferError> {
        let wanted = bytes.len().min(self.buffer.size());
        let moved = self.device.carrier.transfer(CHANNEL, Direction::Read, &self.list(wanted))?;
        let moved = (moved as usize).min(wanted);
        self.buffer.read(0, &mut bytes[..moved]);
        Ok(moved)
    }

    /// Gives bytes, at most a page, and says how many were taken.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn write(&self, bytes: &[u8]) -> Result<usize, TransferError> {
        let part = &bytes[..bytes.len().min(self.buffer.size())];
        self.buffer.write(0, part);
        let moved = self.device.carrier.transfer(CHANNEL, Direction::Write, &self.list(part.len()))?;
        Ok((moved as usize).min(part.len()))
    }

    fn list(&self, length: usize) -> Sections {
        let mut sections = Sections::new();
        // One section always fits an empty list, and no bytes make an empty list.
        let _ = sections.push(self.buffer.section(length));
        sections
    }
}

impl Handler for Pipe {
    /// Bytes wait where they are until somebody reads; the interrupt only wakes.
    fn interrupt(&self) -> bool {
        true
    }
}

#[cfg(all(test, feature = "transports"))]
#[path = "pipe_tests.rs"]
mod tests;
