//! The user network as a whole: frames in, frames out, sockets beside.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use lguest_devices::frame::{Abilities, Frame};
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable, IpProtocol};

use super::addresses::{GUEST, OURS, RESOLVER};
use super::allow::Allowed;
use super::dns::Questions;
use super::forwards::Forwards;
use super::options::Options;
use super::outbox::Outbox;
use super::packets::Packet;
use super::ping::Pings;
use super::sockets::{Event, Owner, Sockets};
use super::tcp::Connections;
use super::udp::Exchanges;
use super::{arp, dhcp, dns, ping};

/// Room for the largest datagram.
const BUFFER: usize = 1 << 16;

/// The stack.
pub struct Stack {
    /// What is watched.
    pub sockets: Sockets,
    /// Frames for the Guest.
    pub outbox: Outbox,
    allowed: Allowed,
    connections: Connections,
    exchanges: Exchanges,
    pings: Pings,
    questions: Questions,
    forwards: Forwards,
    /// The Guest's Ethernet address, once it has used the address that is its own.
    guest: Option<EthernetAddress>,
    /// Where the connections' clock begins.
    start: Instant,
    buffer: Vec<u8>,
}

impl Stack {
    /// A stack that does what was asked for.
    ///
    /// # Errors
    /// When the host refuses an epoll.
    pub fn new(options: Options) -> std::io::Result<Stack> {
        Ok(Stack {
            sockets: Sockets::new()?,
            outbox: Outbox::default(),
            allowed: options.allowed,
            connections: Connections::default(),
            exchanges: Exchanges::default(),
            pings: Pings::default(),
            questions: Questions::new(options.resolvers),
            forwards: Forwards::new(options.forwards),
            guest: None,
            start: Instant::now(),
            buffer: vec![0; BUFFER],
        })
    }

    /// The Guest's driver starts, or starts over: connections from before are gone. What it can do is known now.
    pub fn restart(&mut self, abilities: Abilities) {
        self.connections.clear();
        self.connections.abilities = abilities;
        self.outbox.clear();
    }

    /// A frame from the Guest. Whatever is in it, it costs at most what the limits of the services say.
    pub fn input(&mut self, frame: Frame, now: Instant) {
        let Ok(ethernet) = EthernetFrame::new_checked(&frame.bytes[..]) else { return };
        if ethernet.dst_addr() != OURS && !ethernet.dst_addr().is_broadcast() {
            return;
        }
        match ethernet.ethertype() {
            EthernetProtocol::Arp => {
                let answer = arp::answer(ethernet.payload());
                answer.into_iter().for_each(|frame| self.outbox.put(frame));
                if let Some(hardware) = arp::guest(ethernet.payload()) {
                    self.notice(hardware);
                }
            }
            EthernetProtocol::Ipv4 => {
                let Some(packet) = Packet::read(&ethernet) else { return };
                if packet.header.src_addr == GUEST {
                    self.notice(packet.hardware);
                }
                match packet.header.next_header {
                    IpProtocol::Tcp => self.tcp(frame),
                    IpProtocol::Udp => self.udp(&packet, now),
                    IpProtocol::Icmp => self.icmp(&packet, now),
                    _ => self.refuse(&packet, Icmpv4DstUnreachable::ProtoUnreachable),
                }
            }
            _ => {}
        }
    }

    /// The Guest has taken its address, so connections can come to it.
    fn notice(&mut self, hardware: EthernetAddress) {
        self.guest = Some(hardware);
        self.forwards.open(&self.sockets);
    }

    fn refuse(&mut self, packet: &Packet<'_>, reason: Icmpv4DstUnreachable) {
        packet.refuse(reason).into_iter().for_each(|frame| self.outbox.put(frame));
    }

    fn tcp(&mut self, frame: Frame) {
        let (allowed, questions) = (&self.allowed, &self.questions);
        let route = |to: SocketAddrV4| match (*to.ip(), to.port()) {
            (RESOLVER, dns::PORT) => questions.first_resolver(),
            _ => allowed.route(to),
        };
        self.connections.input(frame, route, &self.sockets, &mut self.outbox);
    }

    fn udp(&mut self, packet: &Packet<'_>, now: Instant) {
        let Some((from, to, data)) = packet.datagram() else { return };
        if dhcp::is_for_us(to) {
            return dhcp::answer(packet.hardware, data).into_iter().for_each(|frame| self.outbox.put(frame));
        }
        // What has no address yet has nothing else to say, and nobody hears a broadcast or a multicast.
        if from.ip().is_unspecified() || to.ip().is_broadcast() || to.ip().is_multicast() {
            return;
        }
        if (*to.ip(), to.port()) == (RESOLVER, dns::PORT) {
            return self.questions.ask(packet.hardware, from, data, now, &self.sockets, &mut self.outbox);
        }
        if self.forwards.answer(from, to, data, now) {
            return;
        }
        match self.allowed.route(to) {
            Some(place) => self.exchanges.send(packet, place, now, &self.sockets, &mut self.outbox),
            None => self.refuse(packet, Icmpv4DstUnreachable::CommProhibited),
        }
    }

    fn icmp(&mut self, packet: &Packet<'_>, now: Instant) {
        if let Some(answer) = ping::answer(packet) {
            return self.outbox.put(answer);
        }
        match self.allowed.way(packet.header.dst_addr, None) {
            Some(place) => self.pings.send(packet, place, now, &self.sockets, &mut self.outbox),
            None if ping::is_request(packet) => self.refuse(packet, Icmpv4DstUnreachable::CommProhibited),
            // Its own complaints about packets of ours go nowhere.
            None => {}
        }
    }

    /// Something happened to a socket.
    pub fn event(&mut self, event: Event, now: Instant) {
        let Stack { sockets, outbox, buffer, .. } = self;
        match event.owner {
            Owner::Port => {}
            Owner::Tcp(id) => self.connections.event(id, event.readable, event.writable, outbox),
            Owner::Udp(id) => self.exchanges.event(id, now, buffer, outbox),
            Owner::Ping(id) => self.pings.event(id, now, buffer, outbox),
            Owner::Dns(id) => self.questions.event(id, now, buffer, sockets, outbox),
            Owner::Forward(index) => {
                let Some(hardware) = self.guest else { return };
                let connections = &mut self.connections;
                self.forwards.event(index, hardware, now, buffer, connections, sockets, outbox);
            }
        }
    }

    /// Does what can be done after frames and events, and what is due.
    pub fn work(&mut self, now: Instant) {
        self.connections.tick(self.tcp_time(now));
        self.connections.work(self.tcp_time(now), &mut self.outbox);
        self.exchanges.tick(now);
        self.pings.tick(now);
        self.questions.tick(now, &self.sockets, &mut self.outbox);
    }

    fn tcp_time(&self, now: Instant) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(now.duration_since(self.start).as_micros() as i64)
    }

    /// How long nothing needs to be done unless something happens; none for ever.
    pub fn patience(&mut self, now: Instant) -> Option<Duration> {
        let others = [self.exchanges.deadline(), self.pings.deadline(), self.questions.deadline()];
        let others = others.into_iter().flatten().map(|at| at.saturating_duration_since(now)).min();
        // Connections that wait for room go on when there is some.
        if !self.outbox.has_room() {
            return others;
        }
        let tcp_now = self.tcp_time(now);
        let tcp = self.connections.deadline(tcp_now).map(|at| {
            // A moment in the past is now.
            if at > tcp_now { Duration::from_micros((at - tcp_now).total_micros()) } else { Duration::ZERO }
        });
        others.into_iter().chain(tcp).min()
    }

    /// How many connections and pairs of ends there are.
    pub fn load(&self) -> (usize, usize) {
        (self.connections.count(), self.exchanges.count())
    }
}
