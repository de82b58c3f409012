//! Guest memory as the processor sees it.
pub mod ram;
