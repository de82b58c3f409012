//! What carries a device: the two buses of 2007, and virtio's.
//!
//! A transport turns a channel into a key or a handle and a transfer into a hypercall. No driver names anything here.

mod descriptors;
mod port;
mod reader;
pub mod attributes;
pub mod lguest_bus;
pub mod flat_tree;
pub mod tree_bus;
pub mod virtio;

pub use descriptors::Descriptors;
pub use lguest_bus::LguestBus;
pub use port::{EarlyConsole, LguestPort};

use lguest_abi::hypercall::Hypercall;

/// A kernel's way to its Host.
pub trait Hypercalls {
    /// Makes a call with three arguments and returns its answer.
    fn call(&self, call: Hypercall, arguments: [u64; 3]) -> u64;
}
