//! Guest memory as the processor sees it.
pub mod sharing;
pub mod ram;
pub mod walk;
pub mod access;
pub mod tables;
