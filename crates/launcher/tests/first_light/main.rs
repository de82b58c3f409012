//! First light, from outside: the built `lguest` command as a person or a script meets it.
//!
//! `bad_input.rs` and `bare.rs` need nothing but the command. `session.rs`, `legacy.rs` and `prompt.rs` boot Debian's kernel; it is
//! taken from the command's cache, or fetched once. Where neither is possible those tests say SKIPPED, loudly and
//! past the harness' capture, and `.ci/run` counts them.

mod command;
mod terminal;
mod bare;
mod watching;
mod debugging;
mod gdb_inside;
mod bad_input;
mod session;
mod consoles;
mod wishes;
mod images;
mod disks;
mod kills;
mod memory;
mod networks;
mod shares;
mod roots;
mod root_network;
mod sockets;
mod exec;
mod legacy;
mod protocols;
mod prompt;
mod processors;
