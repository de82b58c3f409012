//! The engine with KVM: the processor runs the Guest, the host's kernel keeps its interrupt controllers.
//!
//! ```text
//!   machine    /dev/kvm, memory slots, in-kernel interrupt controllers, lines, messages, irqfd, ioeventfd
//!   vcpu       one processor: its state at the start, its exits
//!   calibrate  a millisecond's Guest that tells hardware from a KVM that interprets
//! ```
//! Memory is the one mapping of [`crate::memory`]; grafts need nothing, for KVM follows the host's page tables.
#![allow(unsafe_code)] // Memory slots are raw addresses, and a vCPU's exits lie in a page shared with the kernel.

mod machine;
mod vcpu;
mod calibrate;
mod kick;

pub use calibrate::{Calibrated, ENOUGH, calibrate};
pub use machine::{KvmError, KvmLine, KvmMachine};
pub use vcpu::KvmVcpu;

#[cfg(test)]
mod tests;
