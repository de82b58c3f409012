//! What a driver may ask of whatever carries its device.
//!
//! The mail's bus had one operation, `transfer(device, buffer, size, READ | WRITE)`. It is here, with a channel, because
//! a network device talks to many. Beside it stands the inbox, for what the mail left open: bytes that come
//! when the Host wants, into buffers that wait for them.

use alloc::boxed::Box;

use lguest_abi::dma::Sections;

use super::device::DeviceId;
use super::memory::Buffer;

/// Which way the bytes go, seen from the driver. The mail called any third value a bug; here there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the Host.
    Read,
    /// To the Host.
    Write,
}

/// Which of a device's conversations: an offset into its memory, by which both ends know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel(pub u64);

/// Why a transfer did not happen at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferError {
    /// This carrier has no such operation.
    Unsupported,
    /// No memory for what it needs on the way.
    NoMemory,
    /// The Host said no, with this error number.
    Refused(i64),
}

/// Why an inbox could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindError {
    /// The Host has no binding left, or there is no memory for the lists (the original's -ENOMEM).
    NoMemory,
    /// This carrier has none.
    Unsupported,
}

/// How far a device has come; a bus may tell its Host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A driver is about to be asked.
    Driver,
    /// It said yes.
    DriverOk,
}

/// One device's way to its Host.
pub trait Carrier {
    /// What the device is, as its bus says now.
    fn id(&self) -> DeviceId;
    /// Feature bits; the high ones are [`lguest_abi::descriptor::feature`].
    fn features(&self) -> u16;
    /// Memory of the device that both sides see.
    fn memory(&self) -> Option<&Buffer>;
    /// The address that the bus gives a network device. A driver of one without makes its own.
    fn address(&self) -> Option<[u8; 6]> {
        None
    }
    /// Moves bytes now and says how many. Zero read means that nothing has come yet.
    ///
    /// # Errors
    /// [`TransferError`].
    fn transfer(
        &self,
        channel: Channel,
        direction: Direction,
        sections: &Sections,
    ) -> Result<u32, TransferError>;
    /// Opens a row of receive lists on a channel, armed as given; the device's interrupt tells of arrivals. An empty
    /// list is armed later.
    ///
    /// # Errors
    /// [`BindError`].
    fn open(&self, channel: Channel, lists: &[Sections]) -> Result<Box<dyn Inbox>, BindError>;
    /// Tells the Host how far the device has come. Buses without such a place do nothing.
    fn progress(&self, step: Progress) {
        let _ = step;
    }
}

/// Receive lists that the Host fills when it likes. Dropping it closes it.
pub trait Inbox {
    /// Offers buffers in a list: what came before in it is forgotten.
    fn arm(&self, list: u16, sections: &Sections);
    /// Bytes that have come into a list since it was armed; 0 for none.
    fn arrived(&self, list: u16) -> u32;
    /// Offers the same buffers again.
    fn rearm(&self, list: u16);
}
