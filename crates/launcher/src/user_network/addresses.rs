//! Who is who on the user network. The plan is the one of slirp and QEMU, which people's scripts know.

use std::net::Ipv4Addr;

use smoltcp::wire::EthernetAddress;

/// Bits of the network's prefix.
pub const PREFIX: u8 = 24;
/// Its mask.
pub const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// The gateway, and with `host=yes` the host's loopback.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The resolver.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// What DHCP gives the Guest, and where forwarded ports lead.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Our Ethernet address, whichever of our addresses is meant: slirp's.
pub const OURS: EthernetAddress = EthernetAddress([0x52, 0x55, 10, 0, 2, 2]);
/// Bytes of an IP packet on the network. Larger pieces travel as segments that nobody cuts.
pub const MTU: usize = 1500;

/// Whether an address is on the network itself, where nobody is but we and the Guest.
pub fn is_local(address: Ipv4Addr) -> bool {
    address.octets()[..3] == GATEWAY.octets()[..3]
}

/// Whether this stack answers for an address when asked who has it: for all others of the network but the Guest's own.
pub fn is_ours(address: Ipv4Addr) -> bool {
    matches!(address, GATEWAY | RESOLVER)
}
