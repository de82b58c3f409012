//! UDP: one host socket for each pair of ends that exchange datagrams, closed when they have been silent for a while.
//!
//! A socket is connected to its one place, so nobody else can send in, and the host tells when nobody listens there.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use smoltcp::wire::{EthernetAddress, Icmpv4DstUnreachable};

use super::outbox::Outbox;
use super::packets::{self, Packet};
use super::sockets::{self, Owner, Sockets};
use super::tcp::connection::Flow;

/// Pairs at most: a quarter of the descriptors that a process usually may have. The longest silent makes room.
const MOST: usize = 256;
/// A pair is forgotten after this much silence: no less than a NAT may (RFC 4787, REQ-5).
const SILENCE: Duration = Duration::from_secs(120);
/// Datagrams taken from one socket in a turn, so that none starves the others.
const AT_ONCE: usize = 32;

struct Exchange {
    flow: Flow,
    hardware: EthernetAddress,
    socket: UdpSocket,
    last: Instant,
}

/// All pairs.
#[derive(Default)]
pub struct Exchanges {
    by_flow: BTreeMap<Flow, u32>,
    all: BTreeMap<u32, Exchange>,
    next: u32,
}

impl Exchanges {
    /// A datagram from the Guest, in its packet, that goes to `to` on the host.
    pub fn send(
        &mut self,
        packet: &Packet<'_>,
        to: SocketAddrV4,
        now: Instant,
        sockets: &Sockets,
        outbox: &mut Outbox,
    ) {
        let Some((guest, peer, data)) = packet.datagram() else { return };
        let flow = Flow { guest, peer };
        let id = match self.by_flow.get(&flow) {
            Some(id) => *id,
            None => match self.open(flow, packet.hardware, to, now, sockets) {
                Ok(id) => id,
                Err(_) => return put(packet.refuse(Icmpv4DstUnreachable::NetUnreachable), outbox),
            },
        };
        let Some(exchange) = self.all.get_mut(&id) else { return };
        exchange.last = now;
        match exchange.socket.send(data) {
            // What an earlier datagram met; this one says so.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                put(packet.refuse(Icmpv4DstUnreachable::PortUnreachable), outbox);
            }
            // A full socket loses it, as any router would.
            _ => {}
        }
    }

    fn open(
        &mut self,
        flow: Flow,
        hardware: EthernetAddress,
        to: SocketAddrV4,
        now: Instant,
        sockets: &Sockets,
    ) -> std::io::Result<u32> {
        if self.all.len() >= MOST {
            let oldest = self.all.iter().min_by_key(|(_, exchange)| exchange.last).map(|(id, _)| *id);
            oldest.into_iter().for_each(|id| self.remove(id));
        }
        let socket = sockets::datagrams(to)?;
        let id = self.next;
        sockets.watch_input(&socket, Owner::Udp(id))?;
        self.next = self.next.wrapping_add(1);
        self.by_flow.insert(flow, id);
        self.all.insert(id, Exchange { flow, hardware, socket, last: now });
        Ok(id)
    }

    /// A socket has something.
    pub fn event(&mut self, id: u32, now: Instant, buffer: &mut [u8], outbox: &mut Outbox) {
        let Some(exchange) = self.all.get_mut(&id) else { return };
        let Exchange { flow, hardware, socket, last } = exchange;
        for _ in 0..AT_ONCE {
            match socket.recv(buffer) {
                Ok(length) => {
                    *last = now;
                    let data = &buffer[..length.min(packets::LONGEST_DATAGRAM)];
                    outbox.put(packets::udp(*hardware, flow.peer, flow.guest, data));
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    outbox.put(packets::port_unreachable(*hardware, flow.guest, flow.peer));
                }
                Err(_) => return,
            }
        }
    }

    fn remove(&mut self, id: u32) {
        if let Some(exchange) = self.all.remove(&id) {
            self.by_flow.remove(&exchange.flow);
        }
    }

    /// Forgets who was silent for long.
    pub fn tick(&mut self, now: Instant) {
        let old = |exchange: &Exchange| now.duration_since(exchange.last) >= SILENCE;
        let ids: Vec<u32> = self.all.iter().filter(|(_, one)| old(one)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// When somebody may be forgotten.
    pub fn deadline(&self) -> Option<Instant> {
        self.all.values().map(|exchange| exchange.last + SILENCE).min()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }
}

fn put(frame: Option<lguest_devices::frame::Frame>, outbox: &mut Outbox) {
    frame.into_iter().for_each(|frame| outbox.put(frame));
}
