//! TCP: every connection of the Guest's, and which packet belongs to which.

pub mod wire;
pub mod connection;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{SocketAddrV4, TcpStream};

use lguest_devices::frame::{Abilities, Frame};
use rustix::io::Errno;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, Icmpv4DstUnreachable, IpAddress, IpProtocol, Ipv4Repr, TcpControl,
    TcpPacket, TcpRepr,
};

use super::outbox::Outbox;
use super::packets::{self, Packet};
use super::sockets::{self, Owner, Sockets};
use connection::{Connection, Flow};

/// Connections at most: half of the descriptors that a process usually may have (getrlimit(2)), and their buffers, when all
/// of them are full, take as much memory as a small Guest.
const MOST: usize = 512;
/// The first port that connections of forwarded ports come from (RFC 6335, 6: the dynamic ones).
const FIRST_PORT: u16 = 49_152;

/// All connections.
#[derive(Default)]
pub struct Connections {
    by_flow: HashMap<Flow, u32>,
    all: BTreeMap<u32, Connection>,
    /// Those with something to do, each once.
    busy: VecDeque<u32>,
    next: u32,
    next_port: u16,
    /// What the Guest's driver can.
    pub abilities: Abilities,
}

impl Connections {
    /// A packet from the Guest, in its frame. `route` says where a connection to this place goes on the host.
    pub fn input(
        &mut self,
        frame: Frame,
        route: impl FnOnce(SocketAddrV4) -> Option<SocketAddrV4>,
        sockets: &Sockets,
        outbox: &mut Outbox,
    ) {
        let Some(begun) = begin(&frame.bytes) else { return };
        let found = self.by_flow.get(&begun.flow).copied();
        match found.and_then(|id| self.all.get_mut(&id).map(|connection| (id, connection))) {
            Some((id, connection)) => {
                connection.input(frame.bytes);
                self.wake(id);
            }
            None if begun.asks => self.dial(frame, &begun, route(begun.flow.peer), sockets, outbox),
            None => answer_with(reset(&frame.bytes), outbox),
        }
    }

    /// The Guest asks for a connection.
    fn dial(
        &mut self,
        frame: Frame,
        begun: &Begun,
        to: Option<SocketAddrV4>,
        sockets: &Sockets,
        outbox: &mut Outbox,
    ) {
        let Some(to) = to else { return answer_with(prohibit(&frame.bytes), outbox) };
        if self.all.len() >= MOST {
            return answer_with(reset(&frame.bytes), outbox);
        }
        match sockets::connect(to) {
            Ok(stream) => {
                let Begun { flow, hardware, .. } = *begun;
                let connection = Connection::from_guest(flow, hardware, self.abilities, stream, frame.bytes);
                self.add(connection, sockets);
            }
            Err(error) => answer_with(refuse(&frame.bytes, &error), outbox),
        }
    }

    /// A connection came to a forwarded port. It is dropped when there are too many.
    pub fn accept(
        &mut self,
        stream: TcpStream,
        from: std::net::Ipv4Addr,
        guest: SocketAddrV4,
        hardware: EthernetAddress,
        sockets: &Sockets,
    ) {
        if self.all.len() >= MOST
            || stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).is_err()
        {
            return;
        }
        // Fewer connections than ports, so one is free.
        let flow = loop {
            self.next_port = self.next_port.wrapping_add(1).max(FIRST_PORT);
            let flow = Flow { guest, peer: SocketAddrV4::new(from, self.next_port) };
            if !self.by_flow.contains_key(&flow) {
                break flow;
            }
        };
        if let Some(connection) = Connection::to_guest(flow, hardware, self.abilities, stream) {
            self.add(connection, sockets);
        }
    }

    fn add(&mut self, connection: Connection, sockets: &Sockets) {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        // A host that watches no more sockets has none more either; the Guest tries again by itself.
        if sockets.watch(connection.stream(), Owner::Tcp(id)).is_ok() {
            self.by_flow.insert(connection.flow(), id);
            self.all.insert(id, connection);
            self.wake(id);
        }
    }

    /// The host's socket of a connection has changed.
    pub fn event(&mut self, id: u32, readable: bool, writable: bool, outbox: &mut Outbox) {
        let Some(connection) = self.all.get_mut(&id) else { return };
        if let Err((error, first)) = connection.event(readable, writable) {
            answer_with(refuse(&first, &error), outbox);
            return self.remove(id);
        }
        self.wake(id);
    }

    fn wake(&mut self, id: u32) {
        if !self.busy.contains(&id) {
            self.busy.push_back(id);
        }
    }

    fn remove(&mut self, id: u32) {
        if let Some(connection) = self.all.remove(&id) {
            self.by_flow.remove(&connection.flow());
        }
    }

    /// Works on all that have something to do while the Guest's frames have room, each in its turn.
    pub fn work(&mut self, now: Instant, outbox: &mut Outbox) {
        for _ in 0..self.busy.len() {
            let Some(id) = self.busy.pop_front() else { return };
            let Some(connection) = self.all.get_mut(&id) else { continue };
            if !connection.work(now, outbox) {
                self.remove(id);
            } else if !outbox.has_room() {
                // It may have more; the next turn is somebody else's first.
                self.busy.push_back(id);
            }
        }
    }

    /// When to work again although nothing happened.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        self.all.values_mut().filter_map(|connection| connection.deadline(now)).min()
    }

    /// Works on those whose time has come.
    pub fn tick(&mut self, now: Instant) {
        let due = |connection: &mut Connection| connection.deadline(now).is_some_and(|at| at <= now);
        let ids: Vec<u32> = self.all.iter_mut().filter_map(|(id, one)| due(one).then_some(*id)).collect();
        ids.into_iter().for_each(|id| self.wake(id));
    }

    /// The Guest starts over: its connections are gone.
    pub fn clear(&mut self) {
        self.by_flow.clear();
        self.all.clear();
        self.busy.clear();
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }
}

/// What a segment begins.
struct Begun {
    flow: Flow,
    hardware: EthernetAddress,
    /// It asks for a connection.
    asks: bool,
}

/// The headers of a frame with TCP; none when they are broken, or when the Guest has no address.
fn headers(frame: &[u8]) -> Option<(EthernetAddress, Ipv4Repr, TcpPacket<&[u8]>)> {
    let packet = Packet::read(&EthernetFrame::new_checked(frame).ok()?)?;
    let tcp = TcpPacket::new_checked(packet.payload).ok()?;
    let whole = tcp.src_port() != 0 && tcp.dst_port() != 0 && !packet.header.src_addr.is_unspecified();
    whole.then_some((packet.hardware, packet.header, tcp))
}

fn begin(frame: &[u8]) -> Option<Begun> {
    let (hardware, ip, tcp) = headers(frame)?;
    let flow = Flow {
        guest: SocketAddrV4::new(ip.src_addr, tcp.src_port()),
        peer: SocketAddrV4::new(ip.dst_addr, tcp.dst_port()),
    };
    Some(Begun { flow, hardware, asks: tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin() })
}

fn answer_with(frame: Option<Frame>, outbox: &mut Outbox) {
    if let Some(frame) = frame {
        outbox.put(frame);
    }
}

/// What the Guest is told when the host cannot connect.
fn refuse(frame: &[u8], error: &io::Error) -> Option<Frame> {
    let unreachable = |reason| Packet::read(&EthernetFrame::new_checked(frame).ok()?)?.refuse(reason);
    match Errno::from_io_error(error) {
        Some(Errno::NETUNREACH) => unreachable(Icmpv4DstUnreachable::NetUnreachable),
        Some(Errno::HOSTUNREACH | Errno::TIMEDOUT) => unreachable(Icmpv4DstUnreachable::HostUnreachable),
        Some(Errno::ACCESS | Errno::PERM) => prohibit(frame),
        _ => reset(frame),
    }
}

fn prohibit(frame: &[u8]) -> Option<Frame> {
    Packet::read(&EthernetFrame::new_checked(frame).ok()?)?.refuse(Icmpv4DstUnreachable::CommProhibited)
}

/// The reset that answers a segment of no connection (RFC 9293, 3.10.7.1).
fn reset(frame: &[u8]) -> Option<Frame> {
    let (hardware, ip, tcp) = headers(frame)?;
    if tcp.rst() {
        return None;
    }
    let (seq_number, ack_number) = match tcp.ack() {
        true => (tcp.ack_number(), None),
        false => (Default::default(), Some(tcp.seq_number() + tcp.segment_len())),
    };
    let reply = TcpRepr {
        src_port: tcp.dst_port(),
        dst_port: tcp.src_port(),
        control: TcpControl::Rst,
        seq_number,
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (from, to) = (ip.dst_addr, ip.src_addr);
    let header = packets::header(from, to, IpProtocol::Tcp, reply.buffer_len());
    Some(Frame::whole(packets::ipv4(hardware, &header, |bytes| {
        let sums = ChecksumCapabilities::default();
        reply.emit(&mut TcpPacket::new_unchecked(bytes), &IpAddress::Ipv4(from), &IpAddress::Ipv4(to), &sums);
    })))
}
