//! The board: one PC, drawn in [`layout`], loaded by `loading`, run by `machine`.
//!
//! Reading order: the map, the kernel, what the kernel is told (boot parameters, ACPI), the serial ports' Host side, the vCPUs at work, the
//! wiring.

pub mod layout;
mod elf;
pub mod boot;
mod placing;
mod pvh;
mod multiboot1;
mod multiboot2;
pub mod loading;
mod acpi;
mod console;
mod platform;
mod device_tree;
mod lguest_bus;
mod virtio_bus;
mod page_bus;
mod lguest32;
pub mod tap;
pub mod errands;
pub mod desk;
mod processors;
mod machine;

pub use console::MachineGone;
pub use lguest_bus::{LguestBusError, LinkPlace};
pub use machine::{
    BoardError, BusSpec, ConsoleInput, MOST_CPUS, Machine, MachineSpec, Outcome, PowerButton, Stopper,
};
pub use page_bus::{PageBusError, PageSpec};
pub use virtio_bus::{Announced, MOST_MAPPED, Plug, TooManyDevices, Transport, VirtioBusError, VirtioSpec};
