//! The first process of a Linux Guest, whatever its root is: Debian's busybox in an initramfs, a directory of the host's, a disk.
//!
//! For the Launcher this crate is a finished static program ([`IMAGE`]) and the contract by which it is told what to do
//! ([`plan`]). The program itself starts in `main.rs`:
//!
//! ```text
//!   main.rs      the list of what comes after what
//!   modules.rs   the kernel's drivers
//!   root.rs      the root and what belongs into it; what the Guest changes there is gone at the end, or not
//!   network.rs   addresses, a route and a resolver for the cards there are
//!   terminal.rs  a serial port as a person's terminal, or as a pipe
//!   session.rs   the program: started, waited for, its output on its way
//!   agent/       programs that the user asks for while the machine runs; what is said there is in exec.rs
//!   vsock.rs     a small tool: standard input and output at a port of the host's
//!   user.rs      who runs it, and from where: its last steps before it is the program
//!   report.rs    the control channel, and turning the machine off
//! ```
//! It has no unsafe code; what it needs of the kernel it takes from `rustix`, and sockets of rare families from `nix`.

pub mod plan;
pub mod exec;

/// The program, for an initramfs: static, so that it needs nothing there.
#[cfg(not(lguest_guest))]
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lguest-init"));
