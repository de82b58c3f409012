//! Which destinations a Guest may reach.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::addresses;

/// Destinations of `allow=ADDRESS[/BITS][:PORT]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    network: Ipv4Addr,
    bits: u8,
    port: Option<u16>,
}

/// The length of an IPv4 address in bits.
const ADDRESS_BITS: u8 = 32;

impl Destination {
    /// Reads one; none when it is not of that form, or when bits behind the prefix are set.
    pub fn read(text: &str) -> Option<Destination> {
        let (range, port) = match text.split_once(':') {
            Some((range, port)) => (range, Some(port.parse().ok().filter(|port| *port != 0)?)),
            None => (text, None),
        };
        let (network, bits) = match range.split_once('/') {
            Some((network, bits)) => (network, bits.parse().ok().filter(|bits| *bits <= ADDRESS_BITS)?),
            None => (range, ADDRESS_BITS),
        };
        let destination = Destination { network: network.parse().ok()?, bits, port };
        (destination.network.to_bits() & !destination.mask() == 0).then_some(destination)
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(u32::from(ADDRESS_BITS - self.bits)).unwrap_or(0)
    }

    fn holds(&self, address: Ipv4Addr, port: Option<u16>) -> bool {
        let fits = self.port.is_none_or(|wanted| Some(wanted) == port);
        address.to_bits() & self.mask() == self.network.to_bits() && fits
    }
}

/// What may be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Nothing but these; when there are none, everything.
    pub destinations: Vec<Destination>,
    /// The gateway is the host's loopback.
    pub host: bool,
}

impl Allowed {
    /// Where a packet to this address and port goes on the host, if it may go at all. `port` is none for ICMP.
    pub fn way(&self, address: Ipv4Addr, port: Option<u16>) -> Option<Ipv4Addr> {
        let listed = self.destinations.is_empty()
            || self.destinations.iter().any(|destination| destination.holds(address, port));
        match address {
            _ if !listed => None,
            addresses::GATEWAY => self.host.then_some(Ipv4Addr::LOCALHOST),
            // The host's own loopback by its own name, and what is no single machine.
            _ if is_nowhere(address) || addresses::is_local(address) => None,
            _ => Some(address),
        }
    }

    /// The same for an address with a port.
    pub fn route(&self, to: SocketAddrV4) -> Option<SocketAddrV4> {
        let address = self.way(*to.ip(), Some(to.port())).filter(|_| to.port() != 0)?;
        Some(SocketAddrV4::new(address, to.port()))
    }
}

/// Loopback, "this network", multicast and broadcast (RFC 6890, RFC 1112).
fn is_nowhere(address: Ipv4Addr) -> bool {
    address.is_loopback() || address.octets()[0] == 0 || address.is_multicast() || address.is_broadcast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    #[test]
    fn without_a_list_everything_may_be_reached_but_the_host_itself() {
        let all = Allowed::default();
        assert_eq!(all.route(to("192.0.2.1:80")), Some(to("192.0.2.1:80")));
        for nowhere in [
            "10.0.2.2:80",
            "127.0.0.1:80",
            "127.1.2.3:80",
            "0.0.0.0:80",
            "10.0.2.77:80",
            "224.0.0.1:80",
            "192.0.2.1:0",
        ] {
            assert_eq!(all.route(to(nowhere)), None, "{nowhere}");
        }
    }

    #[test]
    fn a_list_lets_through_what_it_names() {
        let destinations = ["10.1.0.0/16:443", "192.0.2.7"].map(|text| Destination::read(text).unwrap());
        let some = Allowed { destinations: destinations.to_vec(), host: true };
        for good in ["10.1.2.3:443", "192.0.2.7:9"] {
            assert_eq!(some.route(to(good)), Some(to(good)));
        }
        for bad in ["10.1.2.3:80", "10.2.0.0:443", "192.0.2.8:9", "10.0.2.2:80"] {
            assert_eq!(some.route(to(bad)), None, "{bad}");
        }
        assert_eq!(some.way(Ipv4Addr::new(10, 1, 2, 3), None), None, "a port is not the whole address");
    }

    #[test]
    fn the_gateway_is_the_hosts_loopback_when_asked_for() {
        let host = Allowed { destinations: Vec::new(), host: true };
        assert_eq!(host.route(to("10.0.2.2:80")), Some(to("127.0.0.1:80")));
    }

    #[test]
    fn what_is_no_destination_is_refused() {
        for bad in ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/8:0", "10.0.0.0/8:", "example.org", "::1"] {
            assert_eq!(Destination::read(bad), None, "{bad}");
        }
        assert!(Destination::read("0.0.0.0/0:53").is_some());
    }
}
