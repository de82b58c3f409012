//! The first process of a Linux Guest.
//!
//! This room will hold a small static program that loads the kernel's modules, mounts the root, brings up
//! network and terminal, runs the user's command and reports its status to the Launcher. Issue "4 of 5" fills it;
//! until then the Launcher's initramfs starts busybox directly.
