//! The wire between a connection's TCP and the Guest: packets in, frames out, nothing cut and no sum made.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use lguest_devices::frame::{Abilities, Frame, Large, Unfinished};
use smoltcp::phy::{
    ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, SegmentationCapabilities,
    TxToken,
};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket, checksum,
};

use crate::user_network::addresses::{MTU, OURS};
use crate::user_network::outbox::Outbox;
use crate::user_network::packets::ETHERNET;

/// The largest IP packet: one large segment whose length still fits the header's 16 bits, and a round number below.
const LARGEST: usize = 65_000;
/// Where the checksum is in a TCP header (RFC 9293, 3.1).
const TCP_CHECKSUM: u16 = 16;

/// One connection's end of the wire, for as long as it is worked on.
pub struct Wire<'a> {
    /// The Guest's Ethernet address.
    pub hardware: EthernetAddress,
    /// What its driver can.
    pub abilities: Abilities,
    /// Frames from the Guest.
    pub input: &'a mut VecDeque<Vec<u8>>,
    /// Frames to it.
    pub outbox: &'a mut Outbox,
}

impl Device for Wire<'_> {
    type RxToken<'a>
        = Incoming
    where
        Self: 'a;
    type TxToken<'a>
        = Outgoing<'a>
    where
        Self: 'a;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        let frame = self.input.pop_front()?;
        Some((Incoming(frame), self.outgoing()))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Outgoing<'_>> {
        if self.outbox.has_room() { Some(self.outgoing()) } else { None }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.abilities)
    }
}

fn capabilities(abilities: Abilities) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = MTU;
    // What the Guest sends has not left this process, so its sums prove nothing; ours are made in `Outgoing`.
    capabilities.checksum = ChecksumCapabilities::ignored();
    capabilities.checksum.ipv4 = smoltcp::phy::Checksum::Tx;
    let mut large = SegmentationCapabilities::default();
    large.tcpv4 = NonZeroUsize::new(LARGEST).filter(|_| abilities.large);
    capabilities.segmentation = large;
    capabilities
}

impl Wire<'_> {
    fn outgoing(&mut self) -> Outgoing<'_> {
        Outgoing { hardware: self.hardware, abilities: self.abilities, outbox: self.outbox, pieces: None }
    }
}

/// A frame of the Guest's.
pub struct Incoming(Vec<u8>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(self.0.get(ETHERNET..).unwrap_or_default())
    }
}

/// A frame to it.
pub struct Outgoing<'a> {
    hardware: EthernetAddress,
    abilities: Abilities,
    outbox: &'a mut Outbox,
    /// Bytes of data in each piece of a large segment.
    pieces: Option<u16>,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut bytes = vec![0; ETHERNET + length];
        let mut ethernet = EthernetFrame::new_unchecked(&mut bytes[..]);
        ethernet.set_dst_addr(self.hardware);
        ethernet.set_src_addr(OURS);
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        let result = fill(ethernet.payload_mut());
        let mut frame = Frame::whole(bytes);
        leave_the_rest(&mut frame, self.pieces);
        if !self.abilities.unfinished {
            frame.finish();
        }
        self.outbox.put(frame);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.pieces = meta.segmentation_offload_size.map(std::num::NonZeroU16::get);
    }
}

/// Puts the pseudo header's sum where TCP's belongs (virtio 1.2, 5.1.6.2), and says what is left to do.
fn leave_the_rest(frame: &mut Frame, pieces: Option<u16>) {
    let ip = Ipv4Packet::new_unchecked(&mut frame.bytes[ETHERNET..]);
    if ip.next_header() != IpProtocol::Tcp {
        return;
    }
    let (start, payload) =
        (ETHERNET + usize::from(ip.header_len()), ip.total_len() - u16::from(ip.header_len()));
    let sum = checksum::pseudo_header_v4(&ip.src_addr(), &ip.dst_addr(), IpProtocol::Tcp, u32::from(payload));
    let mut tcp = TcpPacket::new_unchecked(&mut frame.bytes[start..]);
    tcp.set_checksum(sum);
    let headers = start + usize::from(tcp.header_len());
    frame.unfinished = Some(Unfinished { start: start as u16, offset: TCP_CHECKSUM });
    frame.large = pieces.map(|size| Large { headers: headers as u16, size, marks: false });
}
