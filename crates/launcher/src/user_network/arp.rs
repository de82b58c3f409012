//! ARP (RFC 826): who asks for the gateway or the resolver is told our one address.

use lguest_devices::frame::Frame;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol};

use super::addresses::{self, OURS};
use super::packets;

/// The Guest's card, in a message of any kind that says that it has its address.
pub fn guest(packet: &[u8]) -> Option<EthernetAddress> {
    let ArpRepr::EthernetIpv4 { source_hardware_addr, source_protocol_addr, .. } =
        ArpRepr::parse(&ArpPacket::new_checked(packet).ok()?).ok()?
    else {
        return None;
    };
    (source_protocol_addr == addresses::GUEST && source_hardware_addr.is_unicast())
        .then_some(source_hardware_addr)
}

/// The answer to an ARP packet, if it is a question for us.
pub fn answer(packet: &[u8]) -> Option<Frame> {
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(packet).ok()?).ok()?
    else {
        return None;
    };
    if !addresses::is_ours(target_protocol_addr) || !source_hardware_addr.is_unicast() {
        return None;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: OURS,
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let length = reply.buffer_len();
    Some(Frame::whole(packets::ethernet(source_hardware_addr, EthernetProtocol::Arp, length, |bytes| {
        reply.emit(&mut ArpPacket::new_unchecked(bytes));
    })))
}
