//! DHCP (RFC 2131): there is one lease, and every Guest that asks has it.

use std::net::{Ipv4Addr, SocketAddrV4};

use lguest_devices::frame::Frame;
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress,
};

use super::addresses::{GATEWAY, GUEST, MASK, RESOLVER};
use super::packets;

/// Seconds that a lease lasts: a day, as nobody else could want the address.
const LEASE: u32 = 86_400;

/// Whether a datagram to this place is for the server: by broadcast, or to the gateway in a renewal.
pub fn is_for_us(to: SocketAddrV4) -> bool {
    to.port() == DHCP_SERVER_PORT && matches!(*to.ip(), Ipv4Addr::BROADCAST | GATEWAY)
}

/// The answer to a client's message; none when there is nothing to say.
pub fn answer(hardware: EthernetAddress, message: &[u8]) -> Option<Frame> {
    let packet = DhcpPacket::new_checked(message).ok()?;
    let asked = DhcpRepr::parse(&packet).ok()?;
    // A request for somebody else's offer is a refusal of ours (RFC 2131, 4.3.2).
    if asked.server_identifier.is_some_and(|server| server != GATEWAY) {
        return None;
    }
    let wanted = asked.requested_ip.or_else(|| Some(asked.client_ip).filter(|ip| !ip.is_unspecified()));
    let message_type = match asked.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request if wanted == Some(GUEST) => DhcpMessageType::Ack,
        DhcpMessageType::Request => DhcpMessageType::Nak,
        // Its address is its own business (RFC 2131, 4.4.3).
        DhcpMessageType::Inform => DhcpMessageType::Ack,
        _ => return None,
    };
    let leased = matches!(message_type, DhcpMessageType::Offer | DhcpMessageType::Ack);
    let inform = asked.message_type == DhcpMessageType::Inform;
    let facts = leased.then_some(());
    let mut servers = smoltcp::wire::DhcpRepr::parse(&packet).ok()?.dns_servers.unwrap_or_default();
    servers.clear();
    let _ = servers.push(RESOLVER);
    let reply = DhcpRepr {
        message_type,
        transaction_id: asked.transaction_id,
        secs: 0,
        client_hardware_address: asked.client_hardware_address,
        client_ip: asked.client_ip,
        your_ip: if leased && !inform { GUEST } else { Ipv4Addr::UNSPECIFIED },
        server_ip: GATEWAY,
        router: facts.map(|()| GATEWAY),
        subnet_mask: facts.map(|()| MASK),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: asked.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(GATEWAY),
        parameter_request_list: None,
        dns_servers: facts.map(|()| servers),
        max_size: None,
        lease_duration: facts.filter(|()| !inform).map(|()| LEASE),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut bytes = vec![0; reply.buffer_len()];
    reply.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).ok()?;
    // To everybody: a client without an address hears that, whatever it asked for.
    let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, DHCP_CLIENT_PORT);
    Some(packets::udp(hardware, SocketAddrV4::new(GATEWAY, DHCP_SERVER_PORT), everybody, &bytes))
}
