//! One TCP connection: a TCP of ours towards the Guest, a socket of the host's towards the world, bytes carried between.
//!
//! Each connection has a smoltcp interface of its own whose address is the place that the Guest wanted to reach; so
//! finding a packet's connection is a look into a map, and connections cannot disturb each other. Bytes go from the
//! host's kernel straight into TCP's buffer and back: a side that does not read fills that buffer, closes the window, and
//! the other side waits. Ends, resets and half-closed connections are passed on as what they are.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::time::Duration;

use lguest_devices::frame::Abilities;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};

use super::wire::Wire;
use crate::user_network::outbox::Outbox;

/// Bytes that wait in each direction of a connection: four of the largest segments, so that both sides work at once. Only
/// what was ever full is really there.
const BUFFER: usize = 256 << 10;
/// Frames of the Guest's that wait for a connection at most; its TCP sends what is lost beyond that again.
const MOST_INPUT: usize = 256;

/// The two ends of a connection, as the Guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// The Guest's.
    pub guest: SocketAddrV4,
    /// The other.
    pub peer: SocketAddrV4,
}

/// A connection.
pub struct Connection {
    flow: Flow,
    hardware: EthernetAddress,
    abilities: Abilities,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    input: VecDeque<Vec<u8>>,
    stream: TcpStream,
    /// The host has not answered yet.
    dialling: bool,
    /// The host's socket may have something.
    readable: bool,
    /// It may take something.
    writable: bool,
    /// The Guest has said all.
    guest_done: bool,
    /// The world has said all.
    world_done: bool,
}

impl Connection {
    /// A connection that the Guest asks for with this frame, and that `stream` is on its way to.
    pub fn from_guest(
        flow: Flow,
        hardware: EthernetAddress,
        abilities: Abilities,
        stream: TcpStream,
        first: Vec<u8>,
    ) -> Connection {
        let mut connection = Connection::new(flow, hardware, abilities, stream);
        connection.input.push_back(first);
        connection.dialling = true;
        connection
    }

    /// A connection that came to a forwarded port, to be made with the Guest.
    pub fn to_guest(
        flow: Flow,
        hardware: EthernetAddress,
        abilities: Abilities,
        stream: TcpStream,
    ) -> Option<Connection> {
        let mut connection = Connection::new(flow, hardware, abilities, stream);
        let Connection { interface, sockets, handle, .. } = &mut connection;
        let socket = sockets.get_mut::<Socket>(*handle);
        socket.connect(interface.context(), end(flow.guest), IpListenEndpoint::from(end(flow.peer))).ok()?;
        Some(connection)
    }

    fn new(flow: Flow, hardware: EthernetAddress, abilities: Abilities, stream: TcpStream) -> Connection {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        // The Guest is a memory copy away: an acknowledgement saved is a wait that nobody needed.
        socket.set_ack_delay(None);
        let (mut input, mut outbox) = (VecDeque::new(), Outbox::default());
        let mut wire = Wire { hardware, abilities, input: &mut input, outbox: &mut outbox };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random();
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // There is room for one.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(*flow.peer.ip()), 32));
        });
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Connection {
            flow,
            hardware,
            abilities,
            interface,
            sockets,
            handle,
            input,
            stream,
            dialling: false,
            readable: false,
            writable: true,
            guest_done: false,
            world_done: false,
        }
    }

    /// Its ends.
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// The host's socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// A frame from the Guest. While the host is being asked only the first counts: the others repeat it.
    pub fn input(&mut self, frame: Vec<u8>) {
        if !self.dialling && self.input.len() < MOST_INPUT {
            self.input.push_back(frame);
        }
    }

    /// The host's socket has changed.
    ///
    /// # Errors
    /// Why the destination cannot be reached, and the frame that asked for it. Then there is no connection.
    pub fn event(&mut self, readable: bool, writable: bool) -> Result<(), (io::Error, Vec<u8>)> {
        self.readable |= readable;
        self.writable |= writable;
        if !self.dialling || !writable {
            return Ok(());
        }
        if let Some(error) = self.stream.take_error().unwrap_or_else(Some) {
            return Err((error, self.input.pop_front().unwrap_or_default()));
        }
        self.dialling = false;
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        // The port is not 0 and the socket is new, so it listens.
        let _ = socket.listen(IpListenEndpoint::from(end(self.flow.peer)));
        Ok(())
    }

    /// Does what can be done now. False when the connection is over.
    pub fn work(&mut self, now: Instant, outbox: &mut Outbox) -> bool {
        if self.dialling {
            return true;
        }
        loop {
            let mut wire =
                Wire { hardware: self.hardware, abilities: self.abilities, input: &mut self.input, outbox };
            self.interface.poll(now, &mut wire, &mut self.sockets);
            let moved = self.carry_out() | self.carry_in();
            if !moved {
                break;
            }
        }
        self.is_alive(outbox)
    }

    /// Whether something is left to do, or to wait for.
    fn is_alive(&self, outbox: &Outbox) -> bool {
        let socket = self.sockets.get::<Socket>(self.handle);
        let over = match socket.state() {
            // A reset that had no room yet still names the Guest's end.
            State::Closed => socket.remote_endpoint().is_none(),
            // Both sides have said all and heard of it. No old segment can turn up later, so nobody waits for one.
            State::TimeWait => outbox.has_room(),
            _ => false,
        };
        if over && !(self.guest_done && self.world_done) {
            // The Guest broke it off, so the world hears a reset, not an end (socket(7), SO_LINGER).
            let _ = rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
        }
        !over
    }

    /// When to work again although nothing happened.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        if self.dialling { None } else { self.interface.poll_at(now, &self.sockets) }
    }

    /// From the Guest to the world. True when something moved.
    fn carry_out(&mut self) -> bool {
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        let mut moved = false;
        while self.writable && socket.can_recv() {
            match socket.recv(|bytes| took((&self.stream).write(bytes))) {
                Ok(Ok(_)) => moved = true,
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(_)) | Err(_) => {
                    socket.abort();
                    return true;
                }
            }
        }
        let ended =
            matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if ended && !socket.can_recv() && !self.guest_done {
            self.guest_done = true;
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        moved
    }

    /// From the world to the Guest. True when something moved.
    fn carry_in(&mut self) -> bool {
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        let mut moved = false;
        while self.readable && !self.world_done && socket.can_send() {
            match socket.send(|room| took((&self.stream).read(room))) {
                Ok(Ok(0)) => {
                    self.world_done = true;
                    socket.close();
                    moved = true;
                }
                Ok(Ok(_)) => moved = true,
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(_)) | Err(tcp::SendError::InvalidState) => {
                    socket.abort();
                    return true;
                }
            }
        }
        moved
    }
}

/// How many bytes of a buffer were used, beside how it went.
fn took(done: io::Result<usize>) -> (usize, io::Result<usize>) {
    (*done.as_ref().unwrap_or(&0), done)
}

fn end(address: SocketAddrV4) -> IpEndpoint {
    IpEndpoint::new(IpAddress::Ipv4(*address.ip()), address.port())
}

/// A seed for sequence numbers that nobody guesses (RFC 6528).
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Eight bytes come whole once the host has started (getrandom(2)).
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_le_bytes(bytes)
}
