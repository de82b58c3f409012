//! The first process of a Linux Guest whose root is not the initramfs: a directory of the host's or a disk.
//!
//! For the Launcher this crate is a finished static program ([`IMAGE`]) and the contract by which it is told what to do
//! ([`plan`]). The program itself starts in `main.rs`:
//!
//! ```text
//!   main.rs      the list of what comes after what
//!   modules.rs   the kernel's drivers
//!   root.rs      the root and what belongs into it; what the Guest changes there is gone at the end, or not
//!   terminal.rs  a serial port as a person's terminal, or as a pipe
//!   session.rs   the program: started, waited for, its output on its way
//!   user.rs      who runs it, and from where: its last steps before it is the program
//!   report.rs    the control channel, and turning the machine off
//! ```
//! It has no unsafe code and takes what it needs of the kernel from `rustix`, without a C library between.

pub mod plan;

/// The program, for an initramfs: static, so that it needs nothing there.
#[cfg(not(lguest_guest))]
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lguest-init"));
