//! The Guest's side of every device.
//!
//! ```text
//!   drivers/     console  block  net  pipe        know ids, and one way to move bytes
//!       |            model::Driver
//!   model/       Registry: who is there, who drives whom, whose interrupt this is
//!       |            model::Carrier
//!   transport/   lguest page    device tree    virtio  know addresses, keys, hypercalls, rings
//!       |            Memory, Hypercalls
//!   the kernel                                       knows the processor
//! ```
//!
//! The split is Arnd Bergmann's, from a mail of 2007: the driver of a virtual device need not know the bus beneath it,
//! because the bus depends on hypervisor and platform and the driver does not. His three objects are here: a driver
//! ([`model::Driver`]), a bus ([`model::Carrier`]) and a device that ties both with its interrupt ([`model::Device`]).
//! `cargo check -p lguest-guest --no-default-features` builds the drivers with no transport in sight.
//!
//! There is one processor and no preemption: a kernel notes interrupts as they come and calls
//! [`model::Registry::interrupt`] from its main loop. No lock is needed, and none is here.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod model;
pub mod drivers;
#[cfg(feature = "transports")]
pub mod transport;

#[cfg(all(test, feature = "transports"))]
mod mock_host;
