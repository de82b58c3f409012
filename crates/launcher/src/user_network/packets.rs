//! Packets as they come out of a Guest's frames and as they go into them.

use std::net::{Ipv4Addr, SocketAddrV4};

use lguest_devices::frame::Frame;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr,
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

use super::addresses::OURS;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Time to live of what we send: it never leaves the process.
const HOPS: u8 = 64;
/// Bytes of a packet that come along in an error about it: its header and 8 more (RFC 792).
const QUOTED: usize = 8;

/// A Guest's IPv4 packet that is whole.
pub struct Packet<'a> {
    /// The Guest's address on the wire.
    pub hardware: EthernetAddress,
    /// Its header.
    pub header: Ipv4Repr,
    /// Behind it.
    pub payload: &'a [u8],
    /// Header and payload, without what filled the frame up.
    pub bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet in a frame; none for a fragment, a broken header, or a sender that is none (RFC 1122, 3.2.1.3).
    pub fn read(frame: &EthernetFrame<&'a [u8]>) -> Option<Packet<'a>> {
        let bytes = frame.payload();
        let packet = Ipv4Packet::new_checked(bytes).ok()?;
        let header = Ipv4Repr::parse(&packet, &ChecksumCapabilities::ignored()).ok()?;
        let fragment = packet.more_frags() || packet.frag_offset() != 0;
        let (start, end) = (usize::from(packet.header_len()), usize::from(packet.total_len()));
        let hardware = frame.src_addr();
        let sender =
            hardware.is_unicast() && !header.src_addr.is_multicast() && !header.src_addr.is_broadcast();
        if fragment || !sender {
            return None;
        }
        Some(Packet { hardware, header, payload: bytes.get(start..end)?, bytes: bytes.get(..end)? })
    }

    /// Its datagram, with who sent it and to whom.
    pub fn datagram(&self) -> Option<(SocketAddrV4, SocketAddrV4, &'a [u8])> {
        let datagram = UdpPacket::new_checked(self.payload).ok()?;
        let from = SocketAddrV4::new(self.header.src_addr, datagram.src_port());
        let to = SocketAddrV4::new(self.header.dst_addr, datagram.dst_port());
        Some((from, to, self.payload.get(8..usize::from(datagram.len()))?))
    }

    /// Tells the sender that it cannot be delivered. About an error or a broadcast nothing is said (RFC 1122, 3.2.2).
    pub fn refuse(&self, reason: Icmpv4DstUnreachable) -> Option<Frame> {
        if self.header.dst_addr.is_broadcast() || self.header.dst_addr.is_multicast() {
            return None;
        }
        let data = &self.payload[..self.payload.len().min(QUOTED)];
        let message = Icmpv4Repr::DstUnreachable { reason, header: self.header, data };
        Some(icmp(self.hardware, self.header.dst_addr, self.header.src_addr, &message))
    }
}

/// A frame to `to` of this kind, with `length` bytes for `fill` to fill.
pub fn ethernet(
    to: EthernetAddress,
    kind: EthernetProtocol,
    length: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let mut bytes = vec![0; ETHERNET + length];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    frame.set_dst_addr(to);
    frame.set_src_addr(OURS);
    frame.set_ethertype(kind);
    fill(frame.payload_mut());
    bytes
}

/// A frame with an IPv4 packet.
pub fn ipv4(hardware: EthernetAddress, header: &Ipv4Repr, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let length = header.buffer_len() + header.payload_len;
    ethernet(hardware, EthernetProtocol::Ipv4, length, |bytes| {
        let mut packet = Ipv4Packet::new_unchecked(bytes);
        header.emit(&mut packet, &ChecksumCapabilities::default());
        fill(packet.payload_mut());
    })
}

/// An IPv4 header.
pub fn header(from: Ipv4Addr, to: Ipv4Addr, next_header: IpProtocol, payload_len: usize) -> Ipv4Repr {
    Ipv4Repr { src_addr: from, dst_addr: to, next_header, payload_len, hop_limit: HOPS }
}

/// The longest datagram in an IPv4 packet: 65535 bytes less two headers.
pub const LONGEST_DATAGRAM: usize = 65535 - 20 - 8;

/// A datagram of at most [`LONGEST_DATAGRAM`] bytes.
pub fn udp(hardware: EthernetAddress, from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Frame {
    let datagram = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let header = header(*from.ip(), *to.ip(), IpProtocol::Udp, datagram.header_len() + data.len());
    Frame::whole(ipv4(hardware, &header, |bytes| {
        datagram.emit(
            &mut UdpPacket::new_unchecked(bytes),
            &IpAddress::Ipv4(*from.ip()),
            &IpAddress::Ipv4(*to.ip()),
            data.len(),
            |place| place.copy_from_slice(data),
            &ChecksumCapabilities::default(),
        );
    }))
}

/// An ICMP message.
pub fn icmp(hardware: EthernetAddress, from: Ipv4Addr, to: Ipv4Addr, message: &Icmpv4Repr<'_>) -> Frame {
    let header = header(from, to, IpProtocol::Icmp, message.buffer_len());
    Frame::whole(ipv4(hardware, &header, |bytes| {
        message.emit(&mut Icmpv4Packet::new_unchecked(bytes), &ChecksumCapabilities::default());
    }))
}

/// The error about a datagram that nobody took, made from its two ends: the datagram itself is gone.
pub fn port_unreachable(hardware: EthernetAddress, from: SocketAddrV4, to: SocketAddrV4) -> Frame {
    let mut data = [0; QUOTED];
    let mut quoted = UdpPacket::new_unchecked(&mut data[..]);
    quoted.set_src_port(from.port());
    quoted.set_dst_port(to.port());
    quoted.set_len(QUOTED as u16);
    let header = header(*from.ip(), *to.ip(), IpProtocol::Udp, data.len());
    let reason = Icmpv4DstUnreachable::PortUnreachable;
    icmp(hardware, *to.ip(), *from.ip(), &Icmpv4Repr::DstUnreachable { reason, header, data: &data })
}
