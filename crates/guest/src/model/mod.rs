//! Driver, bus, device: three words that know as little of each other as they can.

mod memory;
mod carrier;
mod device;
mod registry;

pub use carrier::{BindError, Carrier, Channel, Direction, Inbox, Progress, TransferError};
pub use device::{Device, DeviceId, Driver, Handler, ProbeError};
pub use memory::{Buffer, Memory};
pub use registry::{MAX_REGISTERED, RegisterError, Registry};
