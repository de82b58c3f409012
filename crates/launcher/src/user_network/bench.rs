//! A Guest for tests: a second smoltcp at the other end of the frames, and frames made by hand.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use lguest_devices::frame::{Abilities, Frame};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, HardwareAddress, Icmpv4Repr, IpAddress, IpCidr, Ipv4Packet, UdpPacket,
};

use super::addresses::{GATEWAY, GUEST, MTU, OURS, PREFIX};
use super::options::Options;
use super::packets;
use super::stack::Stack;

/// The Guest's Ethernet address.
pub const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The Guest's end of the wire.
#[derive(Default)]
pub struct Cable {
    /// On the way to the stack.
    pub sent: VecDeque<Vec<u8>>,
    /// On the way to the Guest.
    pub received: VecDeque<Vec<u8>>,
    ignores_sums: bool,
}

pub struct In(Vec<u8>);
pub struct Out<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(&self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut bytes = vec![0; length];
        let result = fill(&mut bytes);
        self.0.push_back(bytes);
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(In, Out<'_>)> {
        Some((In(self.received.pop_front()?), Out(&mut self.sent)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Out<'_>> {
        Some(Out(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + packets::ETHERNET;
        if self.ignores_sums {
            capabilities.checksum = ChecksumCapabilities::ignored();
        }
        capabilities
    }
}

/// A stack with a Guest on it.
pub struct World {
    pub stack: Stack,
    pub cable: Cable,
    interface: Interface,
    pub sockets: SocketSet<'static>,
    start: Instant,
}

impl World {
    /// A Guest whose driver can nothing special, and that checks every sum.
    pub fn new(words: &[&str]) -> World {
        World::with(words, Abilities::default())
    }

    pub fn with(words: &[&str], abilities: Abilities) -> World {
        let mut stack = Stack::new(Options::read("user", words).unwrap()).unwrap();
        stack.restart(abilities);
        let mut cable = Cable { ignores_sums: abilities.unfinished, ..Cable::default() };
        let config = Config::new(HardwareAddress::Ethernet(MAC));
        let mut interface = Interface::new(config, &mut cable, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(GUEST), PREFIX)).unwrap()
        });
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        World { stack, cable, interface, sockets: SocketSet::new(Vec::new()), start: Instant::now() }
    }

    /// Everybody does what there is to do, once.
    pub fn turn(&mut self) {
        let now = Instant::now();
        let guest_now = smoltcp::time::Instant::from_micros((now - self.start).as_micros() as i64);
        self.interface.poll(guest_now, &mut self.cable, &mut self.sockets);
        while let Some(bytes) = self.cable.sent.pop_front() {
            self.stack.input(Frame::whole(bytes), now);
        }
        let limit =
            self.stack.patience(now).unwrap_or(Duration::from_millis(1)).min(Duration::from_millis(1));
        for event in self.stack.sockets.wait(Some(limit)).unwrap() {
            self.stack.event(event, Instant::now());
        }
        self.stack.work(Instant::now());
        while let Some(frame) = self.stack.outbox.take() {
            self.cable.received.push_back(frame.bytes);
        }
    }

    /// Turns until this is so.
    pub fn until(&mut self, what: &str, mut so: impl FnMut(&mut World) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < end, "waited in vain until {what}");
            self.turn();
        }
    }

    /// A socket of the Guest's that connects.
    pub fn connect(&mut self, to: SocketAddrV4, port: u16) -> SocketHandle {
        let mut socket = new_socket();
        let remote = (IpAddress::Ipv4(*to.ip()), to.port());
        socket.connect(self.interface.context(), remote, port).unwrap();
        self.sockets.add(socket)
    }

    /// A socket of the Guest's that listens.
    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = new_socket();
        socket.listen(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut::<Socket>(handle)
    }

    /// Sends a frame past the Guest's own stack, and returns what came back of this protocol: the IP packet.
    pub fn ask(&mut self, frame: Frame, wanted: fn(&[u8]) -> bool) -> Vec<u8> {
        self.stack.input(frame, Instant::now());
        let mut found = None;
        let end = Instant::now() + PATIENCE;
        while found.is_none() {
            assert!(Instant::now() < end, "no answer");
            let limit = self.stack.patience(Instant::now()).unwrap_or(Duration::from_millis(5));
            for event in self.stack.sockets.wait(Some(limit.min(Duration::from_millis(5)))).unwrap() {
                self.stack.event(event, Instant::now());
            }
            self.stack.work(Instant::now());
            while let Some(frame) = self.stack.outbox.take() {
                let packet = frame.bytes[packets::ETHERNET..].to_vec();
                found = found.or(Some(packet).filter(|packet| wanted(packet)));
            }
        }
        found.unwrap()
    }
}

fn new_socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; 64 << 10]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

/// A frame as if the Guest had sent it.
pub fn from_guest(mut frame: Frame) -> Frame {
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame.bytes[..]);
    ethernet.set_src_addr(MAC);
    frame
}

/// A datagram of the Guest's.
pub fn datagram(from: u16, to: SocketAddrV4, data: &[u8]) -> Frame {
    from_guest(packets::udp(OURS, SocketAddrV4::new(GUEST, from), to, data))
}

/// A ping of the Guest's.
pub fn ping(to: Ipv4Addr, ident: u16) -> Frame {
    from_guest(packets::icmp(OURS, GUEST, to, &Icmpv4Repr::EchoRequest { ident, seq_no: 7, data: b"hello" }))
}

/// The data of a datagram in an IP packet.
pub fn data(packet: &[u8]) -> Vec<u8> {
    let packet = Ipv4Packet::new_checked(packet).unwrap();
    UdpPacket::new_checked(packet.payload()).unwrap().payload().to_vec()
}

/// Whether an IP packet has this protocol.
pub fn is_udp(packet: &[u8]) -> bool {
    packet[9] == 17
}

/// As [`is_udp`].
pub fn is_icmp(packet: &[u8]) -> bool {
    packet[9] == 1
}

/// As [`is_udp`].
pub fn is_tcp(packet: &[u8]) -> bool {
    packet[9] == 6
}
