//! The shell: a line, its words, a command.

pub mod words;
pub mod line;
pub mod sums;
pub mod internet;
#[cfg(lguest_guest)]
mod files;
#[cfg(lguest_guest)]
mod disks;
#[cfg(lguest_guest)]
mod network;
#[cfg(lguest_guest)]
mod bench;
#[cfg(lguest_guest)]
mod commands;

#[cfg(lguest_guest)]
pub use commands::Shell;
