//! The board: one PC, drawn in [`layout`], loaded by `elf` and `boot`, run by `machine`.
//!
//! Reading order: the map, the kernel, what the kernel is told (boot parameters, ACPI), the serial ports' Host side, the wiring.

pub mod layout;
mod elf;
mod boot;
mod acpi;
mod console;
mod machine;

pub use console::MachineGone;
pub use machine::{BoardError, ConsoleInput, Machine, MachineSpec, Outcome, Stopper};
