//! The Guest's side of every device.
//!
//! This room will hold the driver model (a driver knows ids and one transfer interface, a bus carries it, a
//! device ties both with its interrupt), the transports (lguest page, virtio-mmio, virtio-pci, device tree) and
//! the drivers (console, block, net, pipe). Issue "2 of 5" fills it.
#![no_std]
