//! A Guest that keeps the rules, and Guests that do not.

use std::sync::{Arc, Mutex};

use super::super::bench::{Bench, NEXT, WRITE};
use super::super::life::{Half, QueuePart};
use super::*;
use crate::hostile::Random;
use connection::ROOM;

const TABLE: u64 = 0x4000;
const OFFERED: u64 = 0x5000;
const USED: u64 = 0x6000;
const PACKET: u64 = 0x7000;
const DATA: u64 = 0x7100;
const ROOMS: u64 = 0x8000;

/// What the test's host has and has seen.
#[derive(Default)]
struct Host {
    listens: Vec<u32>,
    arrivals: VecDeque<(Stream, u32)>,
    granted: Vec<(Stream, u32)>,
    /// For the Guest; none ends the stream.
    has: BTreeMap<Stream, VecDeque<Option<Vec<u8>>>>,
    got: BTreeMap<Stream, Vec<u8>>,
    /// Bytes that a stream takes; the others take all.
    takes: BTreeMap<Stream, usize>,
    /// Streams that take their time to answer, and what they say in the end.
    silent: BTreeMap<Stream, Option<bool>>,
    ended: Vec<Stream>,
    closed: Vec<Stream>,
    next: u64,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Host>>);

impl Streams for Fake {
    fn connect(&mut self, port: u32) -> Option<Stream> {
        let mut host = self.0.lock().unwrap();
        host.next += 1;
        host.listens.contains(&port).then_some(Stream(host.next))
    }
    fn answered(&mut self, stream: Stream) -> Option<bool> {
        match self.0.lock().unwrap().silent.get(&stream) {
            Some(answer) => *answer,
            None => Some(true),
        }
    }
    fn arrived(&mut self) -> Option<(Stream, u32)> {
        self.0.lock().unwrap().arrivals.pop_front()
    }
    fn granted(&mut self, stream: Stream, port: u32) {
        self.0.lock().unwrap().granted.push((stream, port));
    }
    fn send(&mut self, stream: Stream, bytes: &[u8]) -> Option<usize> {
        let mut host = self.0.lock().unwrap();
        let most = host.takes.get(&stream).copied().unwrap_or(usize::MAX).min(bytes.len());
        host.takes.entry(stream).and_modify(|left| *left -= most);
        host.got.entry(stream).or_default().extend(&bytes[..most]);
        Some(most)
    }
    fn receive(&mut self, stream: Stream, bytes: &mut [u8]) -> Received {
        let mut host = self.0.lock().unwrap();
        match host.has.entry(stream).or_default().pop_front() {
            None => Received::Nothing,
            Some(None) => Received::End,
            Some(Some(mut piece)) => {
                let length = piece.len().min(bytes.len());
                bytes[..length].copy_from_slice(&piece[..length]);
                let rest = piece.split_off(length);
                if !rest.is_empty() {
                    host.has.entry(stream).or_default().push_front(Some(rest));
                }
                Received::Bytes(length)
            }
        }
    }
    fn end(&mut self, stream: Stream) {
        self.0.lock().unwrap().ended.push(stream);
    }
    fn close(&mut self, stream: Stream) {
        self.0.lock().unwrap().closed.push(stream);
    }
}

/// A Guest: queue 0 is the bench's, queue 1 here.
struct Guest {
    bench: Bench,
    host: Fake,
    sent: u16,
    rooms: u16,
}

impl Guest {
    /// With room for so many packets of 4 KiB and a header.
    fn start(rooms: u16) -> Guest {
        let host = Fake::default();
        let mut bench = Bench::start(VirtioVsock::new(host.clone()));
        for (part, address) in
            [(QueuePart::Descriptors, TABLE), (QueuePart::Driver, OFFERED), (QueuePart::Device, USED)]
        {
            bench.life.set_queue_address(TRANSMIT, part, Half::Low(address as u32));
        }
        bench.life.set_queue_ready(TRANSMIT, true);
        let mut guest = Guest { bench, host, sent: 0, rooms: 0 };
        guest.give_room(rooms);
        guest
    }

    fn give_room(&mut self, rooms: u16) {
        for _ in 0..rooms {
            let slot = self.rooms % 4;
            let head = self.rooms % 128;
            self.bench.offer(head, &[(ROOMS + u64::from(slot) * 0x1100, 0x102c, true)]);
            self.rooms += 1;
        }
        self.bench.life.notify(RECEIVE);
    }

    /// Sends these bytes as one chain.
    fn send_raw(&mut self, header: &[u8], data: &[u8]) {
        self.bench.write(PACKET, header);
        self.bench.write(DATA, data);
        let next = if data.is_empty() { 0 } else { NEXT };
        self.bench.descriptor(TABLE, 0, (PACKET, header.len() as u32), next, 1);
        self.bench.descriptor(TABLE, 1, (DATA, data.len() as u32), 0, 0);
        self.bench.write(OFFERED + 4 + u64::from(self.sent % 128) * 2, &[0, 0]);
        self.sent = self.sent.wrapping_add(1);
        self.bench.write(OFFERED + 2, &self.sent.to_le_bytes());
        self.bench.life.notify(TRANSMIT);
    }

    fn send(&mut self, operation: Operation, ports: (u32, u32), flags: u32, data: &[u8]) {
        let ports = Ports { guest: ports.0, host: ports.1 };
        let length = data.len() as u32;
        let mut header = Packet { ports, operation, length, flags, room: 0x4000, passed_on: 0 }.write();
        // A Guest's packet is from the Guest to the host.
        header[..8].copy_from_slice(&GUEST.to_le_bytes());
        header[8..16].copy_from_slice(&packet::HOST.to_le_bytes());
        header[16..20].copy_from_slice(&ports.guest.to_le_bytes());
        header[20..24].copy_from_slice(&ports.host.to_le_bytes());
        self.send_raw(&header, data);
    }

    /// What the Guest got: operation, ports (its own first), data.
    fn got(&mut self) -> Vec<(u16, (u32, u32), Vec<u8>)> {
        let used = self.bench.used();
        used.iter()
            .map(|(head, length)| {
                let place = ROOMS + u64::from(head % 4) * 0x1100;
                let header = self.bench.bytes(place, HEADER);
                let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
                assert_eq!(*length, HEADER as u32 + word(24));
                let data = self.bench.bytes(place + HEADER as u64, word(24) as usize);
                (word(28).to_le_bytes()[2].into(), (word(20), word(16)), data)
            })
            .collect()
    }

    /// One that is connected from its port 9 to the host's 80, and its stream.
    fn connected(rooms: u16) -> (Guest, Stream) {
        let mut guest = Guest::start(rooms);
        guest.host.0.lock().unwrap().listens.push(80);
        guest.send(Operation::Request, (9, 80), 0, &[]);
        assert_eq!(guest.got(), [(2, (9, 80), vec![])]);
        (guest, Stream(1))
    }

    fn host(&self) -> std::sync::MutexGuard<'_, Host> {
        self.host.0.lock().unwrap()
    }
}

#[test]
fn bytes_go_both_ways_and_the_end_of_both_is_a_reset() {
    let (mut guest, stream) = Guest::connected(4);
    guest.send(Operation::Data, (9, 80), 0, b"to the host");
    assert_eq!(guest.host().got[&stream], b"to the host");
    guest.host().has.insert(stream, VecDeque::from([Some(b"to the guest".to_vec()), None]));
    guest.bench.life.wake();
    assert_eq!(guest.got(), [(5, (9, 80), b"to the guest".to_vec()), (4, (9, 80), vec![])]);
    guest.send(Operation::Shutdown, (9, 80), shutdown::SEND, &[]);
    assert_eq!(guest.got(), [(3, (9, 80), vec![])]);
    assert_eq!(guest.host().ended, [stream]);
    assert_eq!(guest.host().closed, [stream]);
}

#[test]
fn a_program_that_came_before_there_was_room_is_let_in_when_there_is() {
    let mut guest = Guest::start(0);
    guest.host().arrivals.push_back((Stream(7), 22));
    guest.give_room(1);
    assert_eq!(guest.got(), [(1, (22, FIRST_PORT), vec![])]);
}

#[test]
fn a_call_is_answered_when_the_hosts_side_is() {
    for (answer, operation) in [(true, 2), (false, 3)] {
        let mut guest = Guest::start(4);
        let stream = Stream(1);
        guest.host().listens.push(80);
        guest.host().silent.insert(stream, None);
        guest.send(Operation::Request, (9, 80), 0, &[]);
        guest.bench.life.wake();
        assert_eq!(guest.got(), []);
        guest.host().silent.insert(stream, Some(answer));
        guest.bench.life.wake();
        assert_eq!(guest.got(), [(operation, (9, 80), vec![])]);
        assert_eq!(guest.host().closed.contains(&stream), !answer);
    }
    // Who sends before the answer is nobody we have to wait for.
    let mut guest = Guest::start(4);
    guest.host().listens.push(80);
    guest.host().silent.insert(Stream(1), None);
    guest.send(Operation::Request, (9, 80), 0, &[]);
    guest.send(Operation::Data, (9, 80), 0, b"early");
    assert_eq!(guest.got(), [(3, (9, 80), vec![])]);
    assert_eq!(guest.host().closed, [Stream(1)]);
}

#[test]
fn a_port_where_nobody_listens_and_a_connection_that_is_none_are_resets() {
    let mut guest = Guest::start(4);
    guest.send(Operation::Request, (9, 81), 0, &[]);
    guest.send(Operation::Data, (9, 80), 0, b"x");
    guest.send(Operation::Reset, (9, 80), 0, &[]);
    guest.send(Operation::Response, (9, 80), 0, &[]);
    assert_eq!(guest.got(), [(3, (9, 81), vec![]), (3, (9, 80), vec![]), (3, (9, 80), vec![])]);
}

#[test]
fn a_program_of_the_hosts_is_let_in_when_the_guest_grants_it() {
    let mut guest = Guest::start(8);
    guest.host().arrivals.extend([(Stream(70), 1024), (Stream(71), 1025)]);
    guest.host().has.insert(Stream(70), VecDeque::from([Some(b"early".to_vec())]));
    guest.bench.life.wake();
    let (first, second) = ((1024, FIRST_PORT), (1025, FIRST_PORT + 1));
    assert_eq!(guest.got(), [(1, first, vec![]), (1, second, vec![])], "and no byte before it is granted");
    guest.send(Operation::Response, first, 0, &[]);
    guest.send(Operation::Reset, second, 0, &[]);
    assert_eq!(guest.host().granted, [(Stream(70), FIRST_PORT)]);
    assert_eq!(guest.host().closed, [Stream(71)]);
    assert_eq!(guest.got(), [(5, first, b"early".to_vec())]);
}

#[test]
fn a_host_that_does_not_read_costs_its_room_and_a_guest_that_sends_more_is_reset() {
    let (mut guest, stream) = Guest::connected(4);
    guest.host().takes.insert(stream, 0);
    for _ in 0..ROOM / 4096 {
        guest.send(Operation::Data, (9, 80), 0, &[7; 4096 - 256]);
    }
    let full = ROOM as usize - (ROOM as usize / 4096) * (4096 - 256);
    guest.host().takes.insert(stream, ROOM as usize);
    guest.bench.life.wake();
    assert_eq!(guest.host().got[&stream].len(), ROOM as usize - full);
    assert_eq!(guest.got(), [(6, (9, 80), vec![])], "the Guest hears that there is room again");
    guest.host().takes.insert(stream, 0);
    for _ in 0..ROOM / 3840 {
        guest.send(Operation::Data, (9, 80), 0, &[7; 3840]);
    }
    assert_eq!(guest.got(), []);
    guest.send(Operation::Data, (9, 80), 0, &[7; 3840]);
    assert_eq!(guest.got(), [(3, (9, 80), vec![])]);
    assert_eq!(guest.host().closed, [stream]);
}

#[test]
fn the_guest_is_sent_no_more_than_it_has_room_for() {
    let (mut guest, stream) = Guest::connected(16);
    guest.host().has.insert(stream, VecDeque::from([Some(vec![5; 0x6000])]));
    guest.bench.life.wake();
    let got: usize = guest.got().iter().map(|(_, _, data)| data.len()).sum();
    assert_eq!(got, 0x4000, "what its packets said");
    guest.send(Operation::CreditRequest, (9, 80), 0, &[]);
    assert_eq!(guest.got(), [(6, (9, 80), vec![])]);
}

#[test]
fn answers_wait_for_room_and_the_guest_for_its_answers() {
    let mut guest = Guest::start(0);
    for _ in 0..3 * MOST_ANSWERS {
        guest.send(Operation::Request, (1, 2), 0, &[]);
        if guest.bench.life.broken().is_some() {
            break;
        }
    }
    assert_eq!(guest.got(), []);
    guest.give_room(100);
    assert_eq!(guest.got().len(), 100);
}

#[test]
fn no_more_connections_than_there_may_be() {
    let (mut guest, _) = Guest::connected(1);
    for port in 1..MOST_CONNECTIONS as u32 {
        guest.give_room(1);
        guest.send(Operation::Request, (100 + port, 80), 0, &[]);
        assert_eq!(guest.got()[0].0, 2);
    }
    guest.give_room(1);
    guest.send(Operation::Request, (99, 80), 0, &[]);
    assert_eq!(guest.got(), [(3, (99, 80), vec![])]);
    guest.bench.life.set_status(0);
    assert_eq!(guest.host().closed.len(), MOST_CONNECTIONS);
}

#[test]
fn packets_cut_short_too_long_or_of_others_are_nobodys() {
    let (mut guest, stream) = Guest::connected(8);
    let mut header = [0; HEADER];
    guest.send_raw(&header[..20], &[]);
    guest.send_raw(&header, &[]);
    header[..8].copy_from_slice(&GUEST.to_le_bytes());
    header[8..16].copy_from_slice(&7u64.to_le_bytes());
    guest.send_raw(&header, &[]);
    assert_eq!(guest.got(), []);
    header[8..16].copy_from_slice(&packet::HOST.to_le_bytes());
    header[16] = 5;
    guest.send_raw(&header, &[]);
    assert_eq!(guest.got(), [(3, (5, 0), vec![])], "an operation that is none");
    header[16..24].copy_from_slice(&[9, 0, 0, 0, 80, 0, 0, 0]);
    header[24..28].copy_from_slice(&4000u32.to_le_bytes());
    header[28] = 1;
    header[30] = Operation::Data as u8;
    guest.send_raw(&header, b"short");
    assert_eq!(guest.got(), [(3, (9, 80), vec![])], "a length that lies");
    assert!(!guest.host().got.contains_key(&stream));
}

#[test]
fn room_without_a_place_for_a_header_needs_a_reset() {
    let mut guest = Guest::start(0);
    guest.bench.offer(0, &[(ROOMS, HEADER as u32 - 1, true)]);
    guest.bench.life.notify(RECEIVE);
    assert_eq!(guest.bench.life.broken(), Some(Broken::NoRoom));
}

#[test]
fn random_packets_end() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut answered = 0;
    for _ in 0..200 {
        let (mut guest, _) = Guest::connected(4);
        guest.host().arrivals.push_back((Stream(50), 9));
        for _ in 0..50 {
            let mut next = |below: u64| random.next() % below;
            let ports = ([9, 9, 10][next(3) as usize], [80, 80, FIRST_PORT][next(3) as usize]);
            let operations = [Operation::Request, Operation::Response, Operation::Reset, Operation::Shutdown];
            let others =
                [Operation::Data, Operation::Data, Operation::CreditUpdate, Operation::CreditRequest];
            let operation = [operations, others][next(2) as usize][next(4) as usize];
            let data = vec![1; [0, 1, 200, 3000][next(4) as usize]];
            guest.send(operation, ports, next(4) as u32, &data);
            match next(4) {
                0 => guest.bench.life.wake(),
                1 => {
                    let bytes = Some(vec![3; next(5000) as usize + 1]);
                    let end = if next(2) == 0 { None } else { bytes };
                    guest.host().has.entry(Stream(1)).or_default().push_back(end);
                    Default::default()
                }
                _ => Default::default(),
            };
            let got = guest.got().len();
            guest.give_room(got as u16);
            answered += got;
        }
        assert_eq!(guest.bench.life.broken(), None);
    }
    assert!(answered > 2000, "{answered}");
    // Writable room where a packet should be.
    let (mut guest, _) = Guest::connected(4);
    guest.bench.descriptor(TABLE, 0, (PACKET, 44), WRITE, 0);
    guest.bench.write(OFFERED + 2, &(guest.sent + 1).to_le_bytes());
    guest.bench.life.notify(TRANSMIT);
    assert_eq!(guest.got(), []);
}
