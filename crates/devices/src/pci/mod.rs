//! PCI: one bus, found by two ports, with functions that say where in memory they want to be.
//!
//! ```text
//!   ports 0xcf8, 0xcfc ─► root ──► bus ──► a function's configuration space: who it is, where its memory is, capabilities
//!   memory window ───────────────► bus ──► what is behind the function's memory BAR
//! ```
//! The bus knows each function's address from its configuration space, which the Guest may change at any time. Rules: PCI
//! Local Bus Specification 3.0 (as much of it as a virtual bus needs: no bridges, no I/O BARs, no parity).

pub mod configuration;
pub mod msix;
pub mod bus;
pub mod root;

pub use bus::PciBus;
pub use root::{PciRoot, REGISTERS, RESET_OFFSET, RESET_VALUE};
