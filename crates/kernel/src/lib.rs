//! The default Guest, from both sides.
//!
//! For the Launcher this crate is three finished programs: [`IMAGE`], the Guest that `lguest run` starts, and the two
//! [examples](HELLO). For a Guest (`--cfg lguest_guest`, see `build.rs`) it is the hardware a bare-metal program needs, and
//! `main.rs` is the program: start there.
//!
//! ```text
//!   main.rs        the kernel, as a list of what comes after what
//!   system.rs      what is there: devices, clock, somewhere to print and somewhere to read from
//!   shell/         commands, files, disks, network, pipes
//!   hardware/      the processor: every unsafe line of a Guest
//! ```
#![cfg_attr(any(lguest_guest, not(test)), no_std)]

#[cfg(lguest_guest)]
extern crate alloc;

#[cfg(lguest_guest)]
pub mod hardware;
#[cfg(lguest_guest)]
pub mod system;
pub mod shell;

/// The default Guest: an ELF file for the 64-bit boot protocol, entered in 64-bit mode.
#[cfg(not(lguest_guest))]
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lguest-kernel"));

/// `examples/hello.rs`, the smallest Guest: it prints a line and turns the machine off.
#[cfg(not(lguest_guest))]
pub static HELLO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));

/// `examples/sectors.rs`: a Guest that reads its first disk and prints a checksum.
#[cfg(not(lguest_guest))]
pub static SECTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sectors"));
