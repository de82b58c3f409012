//! A device, its driver, and the number by which they find each other.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;

use lguest_abi::meeting::Irq;

use super::carrier::{BindError, Carrier, TransferError};

/// Who made it up, and what it is: the pair PCI taught every system (facts 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceId {
    /// Vendor.
    pub vendor: u16,
    /// Device, in that vendor's numbering.
    pub device: u16,
}

/// One device that some bus has found.
pub struct Device {
    /// Its name on its bus.
    pub name: String,
    /// Its interrupt, which the bus knew.
    pub irq: Irq,
    /// Its bus, from where the driver stands.
    pub carrier: Box<dyn Carrier>,
}

/// Why a driver did not take a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeError {
    /// No memory, or no binding.
    NoMemory,
    /// The device lacks what the driver needs.
    NotUsable(&'static str),
    /// The Host refused a transfer.
    Transfer(TransferError),
}

impl From<BindError> for ProbeError {
    fn from(error: BindError) -> ProbeError {
        match error {
            BindError::NoMemory => ProbeError::NoMemory,
            BindError::Unsupported => ProbeError::NotUsable("its bus has no receive lists"),
        }
    }
}

impl From<TransferError> for ProbeError {
    fn from(error: TransferError) -> ProbeError {
        ProbeError::Transfer(error)
    }
}

/// Knows a kind of device, on every bus.
pub trait Driver {
    /// Its name, which no other driver has.
    fn name(&self) -> &'static str;
    /// The ids it drives.
    fn ids(&self) -> &[DeviceId];
    /// Takes a device.
    ///
    /// # Errors
    /// [`ProbeError`]; the device then has no driver, and nothing of the attempt is left.
    fn probe(&self, device: &Rc<Device>) -> Result<Rc<dyn Handler>, ProbeError>;
}

/// A driven device, when its interrupt comes.
pub trait Handler {
    /// Looks at the device. True if the interrupt was its own: lines are shared.
    fn interrupt(&self) -> bool;
}
