//! The default Guest on lguest's own bus, from outside: the built `lguest` command and what its shell says.
//!
//! Nothing but the command is needed, no network and no root. What wants `/dev/kvm` says SKIPPED where there is none,
//! past the harness' capture, and `.ci/run` counts it.

mod guest;
mod ending;
mod commands;
mod system_files;
mod disks;
mod links;
mod virtio;
mod crowd;
