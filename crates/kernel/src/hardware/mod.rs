//! The processor and the board, as far as a small Guest needs them. Every unsafe line of a Guest is in this room.
//!
//! ```text
//!   entry.rs       the first instructions, and what the loader left       boot.rs
//!   paging.rs      who may execute what                                   heap.rs
//!   tables.rs      GDT, TSS, IDT       interrupts.rs   what happens at a vector
//!   apic.rs        the local APIC, its timer; the serial port's line
//!   clock.rs       nanoseconds         serial.rs       text before anything else works
//!   host.rs        hypercalls          memory.rs       memory shared with the Host
//!   pci.rs         its configuration space
//!   power.rs       the end             symbols.rs      what a compiler expects of every system
//! ```
// Privileged instructions, page tables and memory that the Host writes cannot be had without it.
#![allow(unsafe_code)]

pub mod entry;
pub mod boot;
pub mod paging;
pub mod heap;
pub mod tables;
pub mod interrupts;
pub mod apic;
pub mod clock;
pub mod serial;
pub mod host;
pub mod memory;
pub mod pci;
pub mod power;
mod instructions;
mod symbols;

pub use instructions::{let_in, sleep as idle, stop};
