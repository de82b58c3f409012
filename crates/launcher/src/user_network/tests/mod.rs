//! The stack from both ends: a Guest of smoltcp's and sockets on the host's loopback.

mod streams;
mod datagrams;
mod hostile;
