//! Guest memory as the processor sees it.
pub mod ram;
pub mod walk;
pub mod access;
mod runs;
pub mod tables;
