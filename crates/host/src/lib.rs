//! The Host: Guest memory, processors on an engine, interrupt controllers, time.
//!
//! Reading order is the life of a machine: its memory, its clock, its interrupts, what a vCPU comes back for, and
//! the engine that needs no KVM. Nothing here knows a device or a board. `dma`, `link`, `number`, `generation1` and
//! `control` are lguest's own: how its Guests' bytes move, to the Host and to each other.

pub mod memory;
pub mod clock;
pub mod irq;
pub mod interrupts;
pub mod dma;
pub mod link;
pub mod number;
pub mod generation1;
pub mod engine;
pub mod sight;
pub mod debug;
pub mod translator_engine;
pub mod lguest32;
pub mod kvm;
pub mod platform;
pub mod control;

pub use engine::{Exit, ExitCounts, Vcpu};
pub use memory::{GuestAddress, Memory, MemoryError};
