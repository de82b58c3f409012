//! `--net user`: a network for one Guest that needs no right on the host, because it is made of ordinary sockets.
//!
//! ```text
//!   Guest ── frames ──► Port ──► Stack ─┬─ arp, dhcp, echo of the gateway: answered here
//!         ◄───────────       ◄──        ├─ tcp    a TCP of ours (smoltcp) towards the Guest ◄─► a host's socket
//!                                       ├─ udp    one host socket for each pair of ends
//!                                       ├─ ping   the host's unprivileged ICMP sockets
//!                                       ├─ dns    10.0.2.3, handed to the host's resolvers
//!                                       └─ forwards   the host's ports that lead to the Guest's
//! ```
//! The Guest sees 10.0.2.0/24 as under QEMU: itself .15, the gateway .2, the resolver .3. The stack answers for every
//! other address in the world: it ends the Guest's TCP and talks to the destination with a TCP of the host's, so packets
//! never leave the process and no frame is ever lost between the two.
//!
//! All of it is one thread and one epoll (`service`). [`stack::Stack`] itself is pure but for the sockets: frames in, frames
//! out, and tests run it without a Guest. Everything a Guest can make it hold has a limit beside its reason.
//!
//! IPv4 only: a Guest's IPv6 frames are dropped, its router solicitations stay unanswered, and it has no IPv6 address but
//! its link's, so programs take IPv4 at once. IPv4 fragments are dropped too: no TCP makes them, and datagrams longer than
//! a frame are rare.
//!
//! Reading order: what was asked for, the addresses, frames, then the services in the order of the picture.

pub mod options;
pub mod allow;
pub mod addresses;
pub mod packets;
pub mod outbox;
pub mod sockets;
pub mod arp;
pub mod dhcp;
pub mod tcp;
pub mod udp;
pub mod ping;
pub mod dns;
pub mod forwards;
pub mod stack;
pub mod port;
pub mod service;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;
