//! SEND_DMA and BIND_DMA: the original's way to move bytes out of a Guest and into one (facts 4 to 6).
//!
//! A Guest *binds* an array of lists to a key and gets an interrupt when one was filled; it *sends* one list to a
//! key. A key is an address, and what counts is the memory under it: private memory leads to the machine's own devices
//! ([`crate::generation1`]), a page shared with other machines leads to them ([`exchange`], behind [`crate::link`]).
//!
//! Reading order: the lists as they lie in Guest memory, who is bound where, and a delivery.

pub mod list;
pub mod bindings;
pub mod exchange;

pub use bindings::{BindError, Binding, Bindings};
pub use exchange::{Exchange, PeerId, Sent};
pub use list::{Area, Form};
