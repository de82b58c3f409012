//! The Launcher: the `lguest` command, from its command line to a machine that runs.
//!
//! Read in this order it is the life of one run. The command line (`cli`) becomes a request without mistakes
//! (`request`, `engine`), with its devices (`attachments`, `disks`). The Guest's files are found or fetched (`debian`,
//! `kernel_image`, `initramfs`). A machine is built (`board`) and wired to the person or the pipe in front of it (`terminal`, `input`, `escape`, `console`,
//! `marker`, `control`), while `supervise` watches for a reason to end
//! and `sandbox` takes away what a running machine does not need. `ending` says what the shell is told.
//!
//! What a machine may have besides: disks (`disks`), networks (`networks`, and `user_network`, which needs no right),
//! directories of yours (`share`), a root of yours (`root`), or somebody's image (`images`).
//!
//! `watching`, with `stats`, `symbols` and `perf_map`, shows what the machine is doing to those who ask;
//! `gdb` lets them stop it.
//!
//! It has no unsafe code, and nothing that a Guest writes can make it grow: `control` and `console` say how.

pub mod cli;
pub mod config;
pub mod request;
pub mod wishes;
pub mod engine;
pub mod attachments;
pub mod disks;
pub mod networks;
pub mod ports;
pub mod sockets;
pub mod buses;
mod paravirtual;
pub mod user_network;
pub mod share;
pub mod root;
mod guest_files;
pub mod run;
pub mod default_guest;
pub mod kernel_image;
pub mod initramfs;
pub mod cache;
pub mod debian;
pub mod images;
pub mod board;
pub mod supervise;
pub mod running;
pub mod boot_time;
pub mod stats;
pub mod memory_account;
pub mod symbols;
pub mod perf_map;
pub mod watching;
pub mod gdb;
pub mod sandbox;
pub mod console;
pub mod marker;
pub mod control;
pub mod input;
pub mod escape;
pub mod terminal;
pub mod progress;
pub mod ending;
pub mod build_initramfs;
pub mod doctor;
pub mod manual;
pub mod devices;
pub mod preload;
