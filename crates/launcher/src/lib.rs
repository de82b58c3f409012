//! The Launcher: the `lguest` command, from its command line to a machine that runs.
pub mod progress;
pub mod kernel_image;
pub mod initramfs;
pub mod debian;
