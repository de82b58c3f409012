//! One connection: what each side has room for, and what is on its way to the host.

use std::collections::VecDeque;

use super::packet::{Operation, Packet, Ports, shutdown};
use super::{Stream, Streams};

/// Bytes that the Guest may send before the host's program takes some: what a connection may cost.
pub const ROOM: u32 = 64 << 10;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The Guest was asked.
    Asked,
    /// The Guest asks, and the host's side has not answered.
    Calling,
    /// Bytes flow.
    Open,
}

/// What the device knows of one.
pub struct Connection {
    /// The host's end.
    pub stream: Stream,
    /// How far it is.
    pub state: State,
    /// The Guest's room, all of it.
    guest_room: u32,
    /// Bytes that the Guest has passed on, and that it was sent; both run over.
    guest_passed_on: u32,
    sent: u32,
    /// From the Guest, not yet the host's: at most [`ROOM`].
    waiting: VecDeque<u8>,
    /// Bytes passed on to the host, and as the Guest knows it.
    passed_on: u32,
    told: u32,
    /// What the Guest said that it does no more.
    guest_shut: u32,
    /// The host sends no more, and the Guest knows.
    pub host_ended: bool,
}

impl Connection {
    /// A connection that begins.
    pub fn new(stream: Stream, state: State) -> Connection {
        Connection {
            stream,
            state,
            guest_room: 0,
            guest_passed_on: 0,
            sent: 0,
            waiting: VecDeque::new(),
            passed_on: 0,
            told: 0,
            guest_shut: 0,
            host_ended: false,
        }
    }

    /// A packet of this connection, which tells our room besides.
    pub fn packet(&mut self, ports: Ports, operation: Operation) -> Packet {
        self.told = self.passed_on;
        Packet { ports, operation, length: 0, flags: 0, room: ROOM, passed_on: self.passed_on }
    }

    /// Every packet tells the Guest's room.
    pub fn hear(&mut self, packet: &Packet) {
        (self.guest_room, self.guest_passed_on) = (packet.room, packet.passed_on);
    }

    /// Bytes that the Guest has room for (5.10.6.3). One that lies harms only itself.
    pub fn credit(&self) -> usize {
        if self.state != State::Open || self.guest_shut & shutdown::RECEIVE != 0 {
            return 0;
        }
        let under_way = self.sent.wrapping_sub(self.guest_passed_on);
        self.guest_room.saturating_sub(under_way) as usize
    }

    /// So many bytes were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.wrapping_add(bytes as u32);
    }

    /// Takes the Guest's bytes; false when it sends more than it was told there is room for, or after it said that it
    /// sends no more.
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        let fits = self.waiting.len() + bytes.len() <= ROOM as usize;
        let may = fits && self.state == State::Open && self.guest_shut & shutdown::SEND == 0;
        if may {
            self.waiting.extend(bytes);
        }
        may
    }

    /// Passes on what the host's program takes. False when it is gone.
    pub fn pass_on(&mut self, streams: &mut dyn Streams) -> bool {
        while !self.waiting.is_empty() {
            let (piece, _) = self.waiting.as_slices();
            match streams.send(self.stream, piece) {
                Some(0) => return true,
                Some(taken) => {
                    self.waiting.drain(..taken.min(piece.len()));
                    self.passed_on = self.passed_on.wrapping_add(taken as u32);
                }
                None => return false,
            }
        }
        if self.guest_shut & shutdown::SEND != 0 {
            streams.end(self.stream);
        }
        true
    }

    /// The Guest must hear of our room, or it may wait for ever: it was told of less than half.
    pub fn must_tell(&self) -> bool {
        self.passed_on.wrapping_sub(self.told) >= ROOM / 2
    }

    /// The Guest does this no more.
    pub fn shut(&mut self, flags: u32) {
        self.guest_shut |= flags & shutdown::BOTH;
    }

    /// Nobody has anything to say any more.
    pub fn is_over(&self) -> bool {
        let ended = self.host_ended || self.guest_shut & shutdown::RECEIVE != 0;
        self.guest_shut & shutdown::SEND != 0 && ended && self.waiting.is_empty()
    }
}
