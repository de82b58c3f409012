//! Devices as pure machines: registers in, registers out.
//!
//! Nothing here knows a thread, a file, a clock of the host's or an engine. What a device needs from outside comes
//! in as one of the small traits of [`outside`]; what a Guest can reach comes in through [`bus::Device`].
//! Reading order: how an access finds its device, what a device may ask for, then the devices.

pub mod bus;
pub mod outside;
pub mod frame;
pub mod serial;
pub mod cmos;
pub mod pm;
pub mod reset;
pub mod pci;
pub mod lguest;
pub mod fuse;
pub mod virtio;

#[cfg(test)]
mod hostile;
