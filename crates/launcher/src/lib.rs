//! The Launcher's rooms. (This file and the placeholder below give way to the launcher branch's own.)

pub mod board;

/// Placeholder until the launcher branch's `kernel_image` is merged.
pub mod kernel_image {
    /// A kernel to boot.
    #[derive(Debug)]
    pub struct KernelImage {
        /// The ELF file.
        pub vmlinux: Vec<u8>,
        /// The bytes of the bzImage from 0x1f1, if there was one.
        pub setup_header: Option<Vec<u8>>,
    }
}
