//! Forwarded ports: connections and datagrams that come to the host go on to the Guest, as if the gateway sent them.
//!
//! Nothing is taken before the Guest has shown itself on the network: until then a connection waits in the host's queue.

use std::net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::time::Instant;

use smoltcp::wire::EthernetAddress;

use super::addresses::{GATEWAY, GUEST};
use super::options::Forward;
use super::outbox::Outbox;
use super::packets;
use super::sockets::{Owner, Sockets};
use super::tcp::Connections;

/// Connections or datagrams taken from one port in a turn.
const AT_ONCE: usize = 32;
/// Others that talk to one forwarded UDP port at a time; each has a port of the gateway's. The longest silent makes room.
const MOST_PEERS: usize = 64;
/// The first port of the gateway's for them.
const FIRST_PORT: u16 = 40_000;

struct Peer {
    address: SocketAddrV4,
    last: Instant,
}

enum Way {
    Tcp(TcpListener),
    Udp { socket: UdpSocket, peers: Vec<Peer> },
}

struct Port {
    way: Way,
    guest: u16,
}

/// All forwarded ports.
pub struct Forwards {
    ports: Vec<Port>,
    open: bool,
}

impl Forwards {
    /// These ports, already held.
    pub fn new(forwards: Vec<Forward>) -> Forwards {
        let port = |forward| match forward {
            Forward::Tcp(listener, guest) => Port { way: Way::Tcp(listener), guest },
            Forward::Udp(socket, guest) => Port { way: Way::Udp { socket, peers: Vec::new() }, guest },
        };
        Forwards { ports: forwards.into_iter().map(port).collect(), open: false }
    }

    /// The Guest is there.
    pub fn open(&mut self, sockets: &Sockets) {
        if self.open {
            return;
        }
        self.open = true;
        for (port, index) in self.ports.iter().zip(0..) {
            let watched = match &port.way {
                Way::Tcp(listener) => sockets.watch_input(listener, Owner::Forward(index)),
                Way::Udp { socket, .. } => sockets.watch_input(socket, Owner::Forward(index)),
            };
            if let Err(error) = watched {
                tracing::warn!("a forwarded port is not served: {error}");
            }
        }
    }

    /// A port has something.
    #[allow(clippy::too_many_arguments)]
    pub fn event(
        &mut self,
        index: u32,
        hardware: EthernetAddress,
        now: Instant,
        buffer: &mut [u8],
        connections: &mut Connections,
        sockets: &Sockets,
        outbox: &mut Outbox,
    ) {
        let Some(port) = self.ports.get_mut(index as usize) else { return };
        let guest = SocketAddrV4::new(GUEST, port.guest);
        for _ in 0..AT_ONCE {
            match &mut port.way {
                Way::Tcp(listener) => {
                    let Ok((stream, _)) = listener.accept() else { return };
                    connections.accept(stream, GATEWAY, guest, hardware, sockets);
                }
                Way::Udp { socket, peers } => {
                    let Ok((length, SocketAddr::V4(from))) = socket.recv_from(buffer) else { return };
                    let slot = place(peers, from, now);
                    let from = SocketAddrV4::new(GATEWAY, gateway_port(index, slot));
                    let data = &buffer[..length.min(packets::LONGEST_DATAGRAM)];
                    outbox.put(packets::udp(hardware, from, guest, data));
                }
            }
        }
    }

    /// A datagram of the Guest's to the gateway: an answer to somebody at a forwarded port? False when it is not.
    pub fn answer(&mut self, from: SocketAddrV4, to: SocketAddrV4, data: &[u8], now: Instant) -> bool {
        let Some(number) = to.port().checked_sub(FIRST_PORT).filter(|_| *to.ip() == GATEWAY) else {
            return false;
        };
        let (index, slot) = (usize::from(number) / MOST_PEERS, usize::from(number) % MOST_PEERS);
        let Some(Port { way: Way::Udp { socket, peers }, guest }) = self.ports.get_mut(index) else {
            return false;
        };
        match peers.get_mut(slot) {
            Some(peer) if from.port() == *guest => {
                peer.last = now;
                // A full socket loses it.
                let _ = socket.send_to(data, SocketAddr::V4(peer.address));
                true
            }
            _ => false,
        }
    }
}

/// The port of the gateway's for this peer of this forward. At most 64 forwards of 64 peers: below 65536.
fn gateway_port(index: u32, slot: usize) -> u16 {
    FIRST_PORT + (index as usize * MOST_PEERS + slot) as u16
}

/// A peer's place among those of its port.
fn place(peers: &mut Vec<Peer>, address: SocketAddrV4, now: Instant) -> usize {
    let slot = peers.iter().position(|peer| peer.address == address).unwrap_or(peers.len());
    let oldest = || (0..peers.len()).min_by_key(|slot| peers[*slot].last).unwrap_or(0);
    let slot = if slot == MOST_PEERS { oldest() } else { slot };
    match peers.get_mut(slot) {
        Some(peer) => *peer = Peer { address, last: now },
        None => peers.push(Peer { address, last: now }),
    }
    slot
}
