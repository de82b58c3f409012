//! Sockets between Guest and host (virtio 1.2, 5.10): streams of bytes, named by a port of each side.
//!
//! ```text
//!   0 receive   room that the driver gives ◄── answers, then bytes of the host's streams, each in its turn
//!   1 transmit  packets of the Guest's     ──► connections ──► the host's streams
//!   2 events    none happen: this machine never moves
//! ```
//! Nobody sends more than the other said that it has room for, so a connection holds at most [`connection::ROOM`] bytes here,
//! and a host's program that does not read stops its Guest's. What has no connection is answered with a reset.
//! A program of the host's may need a while to be found, so a Guest's call is answered when the host's side is.

mod connection;
mod packet;

use std::collections::{BTreeMap, VecDeque};

use super::chain::Chain;
use super::ring::Broken;
use super::rings::Rings;
use super::{DeviceKind, QueueIndex, VirtioDevice};
use connection::{Connection, State};
use packet::{GUEST, HEADER, Odd, Operation, Packet, Ports, shutdown};

const QUEUE_SIZES: [u16; 3] = [128, 128, 8];
const RECEIVE: QueueIndex = QueueIndex(0);
const TRANSMIT: QueueIndex = QueueIndex(1);
/// Connections at a time; each may cost 64 KiB and a descriptor of the host's.
pub const MOST_CONNECTIONS: usize = 128;
/// Answers that wait for room in the Guest. While there are so many, nothing is taken from it.
const MOST_ANSWERS: usize = 256;
/// Bytes of a packet's data at most: what Linux gives room for at a time.
const MOST_DATA: usize = 64 << 10;
/// The first of the host's ports for connections that begin there; below are ports that programs ask for by number.
const FIRST_PORT: u32 = 1 << 30;

/// A stream of the host's, whatever carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream(pub u64);

/// What a stream has for the Guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now; the device is woken when there is.
    Nothing,
    /// Nothing more, ever.
    End,
    /// The stream broke.
    Gone,
}

/// The host's side: streams of bytes that never wait.
pub trait Streams: Send {
    /// The Guest wants a stream to this port of the host's; none when nobody can listen there. Whether somebody does,
    /// [`Streams::answered`] tells, and the device is woken once it does.
    fn connect(&mut self, port: u32) -> Option<Stream>;
    /// Whether somebody took the Guest's call; none while that is open.
    fn answered(&mut self, stream: Stream) -> Option<bool>;
    /// Somebody of the host's who wants a stream to a port of the Guest's, which comes with it.
    fn arrived(&mut self) -> Option<(Stream, u32)>;
    /// The Guest granted it; `port` is the host's end.
    fn granted(&mut self, stream: Stream, port: u32);
    /// Bytes for the host: how many were taken, or none when the stream broke. When not all were, the device is woken
    /// once there is room.
    fn send(&mut self, stream: Stream, bytes: &[u8]) -> Option<usize>;
    /// Bytes for the Guest, into the beginning of `bytes`.
    fn receive(&mut self, stream: Stream, bytes: &mut [u8]) -> Received;
    /// The Guest sends no more. May come again.
    fn end(&mut self, stream: Stream);
    /// The stream is over.
    fn close(&mut self, stream: Stream);
}

/// The device.
pub struct VirtioVsock<S> {
    streams: S,
    connections: BTreeMap<Ports, Connection>,
    answers: VecDeque<Packet>,
    /// Room of the Guest's that was taken from its queue and not needed yet.
    room: Option<Chain>,
    /// Whose turn it was: connections are served in order, from the one behind it.
    last: Option<Ports>,
    next_port: u32,
    buffer: Vec<u8>,
    configuration: [u8; 8],
}

impl<S: Streams> VirtioVsock<S> {
    /// A device whose host's side is `streams`. The Guest's address is 3.
    pub fn new(streams: S) -> Self {
        VirtioVsock {
            streams,
            connections: BTreeMap::new(),
            answers: VecDeque::new(),
            room: None,
            last: None,
            next_port: FIRST_PORT,
            buffer: vec![0; MOST_DATA],
            configuration: GUEST.to_le_bytes(),
        }
    }

    fn refuse(&mut self, ports: Ports) {
        let (length, flags) = (0, 0);
        let packet = Packet { ports, operation: Operation::Reset, length, flags, room: 0, passed_on: 0 };
        self.answers.push_back(packet);
    }

    /// Ends a connection that the Guest shall hear of.
    fn reset_connection(&mut self, ports: Ports) {
        self.drop_connection(ports);
        self.refuse(ports);
    }

    fn drop_connection(&mut self, ports: Ports) {
        if let Some(connection) = self.connections.remove(&ports) {
            self.streams.close(connection.stream);
        }
    }

    fn answer(&mut self, ports: Ports, operation: Operation) {
        if let Some(connection) = self.connections.get_mut(&ports) {
            self.answers.push_back(connection.packet(ports, operation));
        }
    }

    /// A packet of the Guest's: at most two answers.
    fn take(&mut self, packet: &Packet, data: &[u8]) {
        let ports = packet.ports;
        let known = match self.connections.get_mut(&ports) {
            Some(connection) => {
                connection.hear(packet);
                Some(connection.state)
            }
            None => None,
        };
        match (packet.operation, known) {
            (Operation::Reset, _) => self.drop_connection(ports),
            (Operation::Request, None) => self.request(packet),
            (Operation::Response, Some(State::Asked)) => {
                let connection = self.connections.get_mut(&ports).expect("it is known");
                connection.state = State::Open;
                self.streams.granted(connection.stream, ports.host);
            }
            (Operation::Data, Some(State::Open)) => {
                let connection = self.connections.get_mut(&ports).expect("it is known");
                if !connection.take(data) || !connection.pass_on(&mut self.streams) {
                    return self.reset_connection(ports);
                }
                self.settle(ports);
            }
            (Operation::Shutdown, Some(State::Open)) => {
                let connection = self.connections.get_mut(&ports).expect("it is known");
                connection.shut(packet.flags);
                if !connection.pass_on(&mut self.streams) {
                    return self.reset_connection(ports);
                }
                self.settle(ports);
            }
            (Operation::CreditUpdate, Some(_)) => {}
            (Operation::CreditRequest, Some(_)) => self.answer(ports, Operation::CreditUpdate),
            _ => self.reset_connection(ports),
        }
    }

    fn request(&mut self, packet: &Packet) {
        let may = self.connections.len() < MOST_CONNECTIONS;
        let Some(stream) = may.then(|| self.streams.connect(packet.ports.host)).flatten() else {
            return self.refuse(packet.ports);
        };
        let mut connection = Connection::new(stream, State::Calling);
        connection.hear(packet);
        self.connections.insert(packet.ports, connection);
        self.look_for_answer(packet.ports);
    }

    /// Tells a Guest that calls whether somebody took the call, once that is known.
    fn look_for_answer(&mut self, ports: Ports) {
        let Some(connection) = self.connections.get_mut(&ports) else { return };
        match self.streams.answered(connection.stream) {
            None => {}
            Some(true) => {
                connection.state = State::Open;
                self.answer(ports, Operation::Response);
            }
            Some(false) => self.reset_connection(ports),
        }
    }

    /// After bytes went to the host: tells the Guest, or ends what is over.
    fn settle(&mut self, ports: Ports) {
        let Some(connection) = self.connections.get(&ports) else { return };
        if connection.is_over() {
            self.reset_connection(ports);
        } else if connection.must_tell() {
            self.answer(ports, Operation::CreditUpdate);
        }
    }

    /// Programs of the host's that want a port of the Guest's.
    fn welcome(&mut self) {
        while self.connections.len() < MOST_CONNECTIONS && self.answers.len() < MOST_ANSWERS {
            let Some((stream, guest)) = self.streams.arrived() else { return };
            let mut ports = Ports { guest, host: self.next_port };
            while self.connections.contains_key(&ports) {
                ports.host = ports.host.checked_add(1).unwrap_or(FIRST_PORT);
            }
            self.next_port = ports.host.checked_add(1).unwrap_or(FIRST_PORT);
            self.connections.insert(ports, Connection::new(stream, State::Asked));
            self.answer(ports, Operation::Request);
        }
    }

    /// The next packet for the Guest, with its data at the beginning of the buffer; `room` is what it may hold besides the
    /// header.
    fn next_packet(&mut self, room: usize) -> Option<Packet> {
        if let Some(packet) = self.answers.pop_front() {
            return Some(packet);
        }
        let behind = self.connections.keys().filter(|ports| Some(**ports) > self.last);
        let before = self.connections.keys().filter(|ports| Some(**ports) <= self.last);
        let order: Vec<Ports> = behind.chain(before).copied().collect();
        order.into_iter().find_map(|ports| {
            let packet = self.received(ports, room)?;
            self.last = Some(ports);
            Some(packet)
        })
    }

    /// What a connection's stream has for the Guest.
    fn received(&mut self, ports: Ports, room: usize) -> Option<Packet> {
        let connection = self.connections.get_mut(&ports)?;
        let most = connection.credit().min(room).min(MOST_DATA);
        if connection.host_ended || most == 0 {
            return None;
        }
        match self.streams.receive(connection.stream, &mut self.buffer[..most]) {
            Received::Nothing => None,
            Received::Bytes(length) => {
                let length = length.min(most);
                connection.sent(length);
                Some(Packet { length: length as u32, ..connection.packet(ports, Operation::Data) })
            }
            Received::End => {
                connection.host_ended = true;
                let packet = connection.packet(ports, Operation::Shutdown);
                if connection.is_over() {
                    self.reset_connection(ports);
                }
                Some(Packet { flags: shutdown::SEND, ..packet })
            }
            Received::Gone => {
                self.reset_connection(ports);
                self.answers.pop_back()
            }
        }
    }

    /// Fills the Guest's room with what there is for it.
    fn fill(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        if !rings.is_ready(RECEIVE) {
            // What was taken from it is the Guest's again.
            self.room = None;
            return Ok(());
        }
        let mut ring = rings.ring(RECEIVE)?;
        loop {
            let mut chain = match self.room.take() {
                Some(chain) => chain,
                None => match ring.take()? {
                    Some(chain) => chain,
                    None => return Ok(()),
                },
            };
            let room = chain.writable().checked_sub(HEADER as u64).ok_or(Broken::NoRoom)?;
            let Some(packet) = self.next_packet(usize::try_from(room).unwrap_or(usize::MAX)) else {
                self.room = Some(chain);
                return Ok(());
            };
            ring.write(&mut chain, &packet.write());
            ring.write(&mut chain, &self.buffer[..packet.length as usize]);
            ring.finish(&chain, HEADER as u32 + packet.length)?;
        }
    }

    /// Takes what the Guest sends, as long as its answers have a place.
    fn drain(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        if !rings.is_ready(TRANSMIT) {
            return Ok(());
        }
        let mut ring = rings.ring(TRANSMIT)?;
        while self.answers.len() < MOST_ANSWERS {
            let Some(mut chain) = ring.take()? else { break };
            let mut header = [0; HEADER];
            let whole = ring.read(&mut chain, &mut header);
            match Packet::read(&header) {
                // A packet cut short, or one that is said to be longer than it is, is nobody's.
                _ if !whole => {}
                Err(Odd::Address) => {}
                Err(Odd::Unknown(ports)) => self.reset_connection(ports),
                Ok(packet) => {
                    let length = packet.length as usize;
                    if length > MOST_DATA || length as u64 > chain.readable() {
                        self.reset_connection(packet.ports);
                    } else {
                        let mut data = vec![0; length];
                        ring.read(&mut chain, &mut data);
                        self.take(&packet, &data);
                    }
                }
            }
            ring.finish(&chain, 0)?;
        }
        Ok(())
    }

    /// Everything that can be done now.
    fn serve(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        // Some may have come before there was a driver.
        self.welcome();
        self.fill(rings)?;
        self.drain(rings)?;
        self.fill(rings)
    }
}

impl<S: Streams> VirtioDevice for VirtioVsock<S> {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Socket
    }

    /// Streams need no feature (5.10.3).
    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {
        let all: Vec<Ports> = self.connections.keys().copied().collect();
        all.into_iter().for_each(|ports| self.drop_connection(ports));
        self.answers.clear();
        self.room = None;
        self.last = None;
    }

    fn notify(&mut self, _queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
        self.serve(rings)
    }

    fn wake(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let all: Vec<Ports> = self.connections.keys().copied().collect();
        for ports in all {
            let Some(connection) = self.connections.get_mut(&ports) else { continue };
            if connection.state == State::Calling {
                self.look_for_answer(ports);
            } else if connection.pass_on(&mut self.streams) {
                self.settle(ports);
            } else {
                self.reset_connection(ports);
            }
        }
        self.serve(rings)
    }
}

#[cfg(test)]
mod tests;
