//! The stack from both ends: a Guest of smoltcp's and sockets on the host's loopback.

mod streams;
mod datagrams;
mod hostile;
mod harness;

/// What the harness works on.
mod network {
    pub use crate::user_network::options::Options;
    pub use crate::user_network::stack::Stack;
}
