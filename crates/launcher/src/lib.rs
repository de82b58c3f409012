//! The Launcher: the `lguest` command, from its command line to a machine that runs.
pub mod kernel_image;
pub mod initramfs;
