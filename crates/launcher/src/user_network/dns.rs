//! DNS at 10.0.2.3: questions go to the host's resolvers as they are, answers come back as they are (RFC 1035).
//!
//! Resolvers are asked in turn. When none answers, the Guest hears SERVFAIL before it would give up by itself: the C
//! library waits five seconds for a server (resolv.conf(5)), and a program that is told can say so.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use smoltcp::wire::EthernetAddress;

use super::addresses::RESOLVER;
use super::outbox::Outbox;
use super::packets;
use super::sockets::{self, Owner, Sockets};

/// The port of DNS.
pub const PORT: u16 = 53;
/// How long all resolvers together may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a question that nobody answered stays failed: who hears SERVFAIL asks again at once (musl and busybox do, twice),
/// and would run out of its own patience while we are patient anew.
const MEMORY: Duration = Duration::from_secs(5);
/// Questions under way at most, each with a descriptor; one more is answered SERVFAIL at once.
const MOST: usize = 64;
/// Bytes of a message's header (4.1.1).
const HEADER: usize = 12;
/// The answer that there is none.
const SERVFAIL: u8 = 2;
/// The answer that nobody is asked.
const REFUSED: u8 = 5;

struct Question {
    hardware: EthernetAddress,
    from: SocketAddrV4,
    message: Vec<u8>,
    /// Which resolver is asked.
    turn: usize,
    socket: UdpSocket,
    deadline: Instant,
}

/// One that nobody answered.
struct Failure {
    from: SocketAddrV4,
    message: Vec<u8>,
    until: Instant,
}

/// The questions under way.
pub struct Questions {
    resolvers: Vec<SocketAddrV4>,
    all: BTreeMap<u32, Question>,
    /// The last ones that failed, at most as many as may be under way.
    failed: VecDeque<Failure>,
    next: u32,
}

impl Questions {
    /// Asks these resolvers; without any, every question is refused.
    pub fn new(resolvers: Vec<SocketAddrV4>) -> Questions {
        Questions { resolvers, all: BTreeMap::new(), failed: VecDeque::new(), next: 0 }
    }

    /// Where questions over TCP go.
    pub fn first_resolver(&self) -> Option<SocketAddrV4> {
        self.resolvers.first().copied()
    }

    /// A question from the Guest.
    pub fn ask(
        &mut self,
        hardware: EthernetAddress,
        from: SocketAddrV4,
        message: &[u8],
        now: Instant,
        sockets: &Sockets,
        outbox: &mut Outbox,
    ) {
        let repeats =
            |question: &Question| question.from == from && question.message.get(..2) == message.get(..2);
        // An answer is none of our questions, and one that is repeated is under way.
        if message.len() < HEADER || message[2] & 0x80 != 0 || self.all.values().any(repeats) {
            return;
        }
        if self.resolvers.is_empty() {
            return say(hardware, from, message, REFUSED, outbox);
        }
        let failed = |one: &Failure| one.from == from && one.message == message && one.until > now;
        if self.all.len() >= MOST || self.failed.iter().any(failed) {
            return say(hardware, from, message, SERVFAIL, outbox);
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        match self.put(id, message, 0, sockets) {
            Some((turn, socket)) => {
                let deadline = now + self.patience();
                let message = message.to_vec();
                self.all.insert(id, Question { hardware, from, message, turn, socket, deadline });
            }
            None => say(hardware, from, message, SERVFAIL, outbox),
        }
    }

    fn patience(&self) -> Duration {
        PATIENCE / self.resolvers.len().max(1) as u32
    }

    /// Puts a question to the first resolver from `turn` on that can be reached.
    fn put(&self, id: u32, message: &[u8], turn: usize, sockets: &Sockets) -> Option<(usize, UdpSocket)> {
        self.resolvers.iter().enumerate().skip(turn).find_map(|(turn, resolver)| {
            let socket = sockets::datagrams(*resolver).ok()?;
            socket.send(message).ok()?;
            sockets.watch_input(&socket, Owner::Dns(id)).ok()?;
            Some((turn, socket))
        })
    }

    /// A resolver has answered, or is known not to.
    pub fn event(
        &mut self,
        id: u32,
        now: Instant,
        buffer: &mut [u8],
        sockets: &Sockets,
        outbox: &mut Outbox,
    ) {
        let Some(question) = self.all.get(&id) else { return };
        match question.socket.recv(buffer) {
            Ok(length) => {
                let answer = &buffer[..length.min(packets::LONGEST_DATAGRAM)];
                let fits =
                    answer.len() >= HEADER && answer[..2] == question.message[..2] && answer[2] & 0x80 != 0;
                if fits {
                    outbox.put(packets::udp(question.hardware, ours(), question.from, answer));
                    self.all.remove(&id);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // Nobody listens there.
            Err(_) => self.ask_the_next(id, now, sockets, outbox),
        }
    }

    fn ask_the_next(&mut self, id: u32, now: Instant, sockets: &Sockets, outbox: &mut Outbox) {
        let Some(mut question) = self.all.remove(&id) else { return };
        match self.put(id, &question.message, question.turn + 1, sockets) {
            Some((turn, socket)) => {
                (question.turn, question.socket, question.deadline) = (turn, socket, now + self.patience());
                self.all.insert(id, question);
            }
            None => {
                say(question.hardware, question.from, &question.message, SERVFAIL, outbox);
                let Question { from, message, .. } = question;
                self.failed.truncate(MOST - 1);
                self.failed.push_front(Failure { from, message, until: now + MEMORY });
            }
        }
    }

    /// Goes on from resolvers that took too long.
    pub fn tick(&mut self, now: Instant, sockets: &Sockets, outbox: &mut Outbox) {
        let late: Vec<u32> =
            self.all.iter().filter(|(_, one)| one.deadline <= now).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.ask_the_next(id, now, sockets, outbox));
    }

    /// When the next resolver has taken too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.all.values().map(|question| question.deadline).min()
    }
}

fn ours() -> SocketAddrV4 {
    SocketAddrV4::new(RESOLVER, PORT)
}

/// Answers a question with a code and no records.
fn say(hardware: EthernetAddress, to: SocketAddrV4, message: &[u8], code: u8, outbox: &mut Outbox) {
    if let Some(answer) = without_records(message, code) {
        outbox.put(packets::udp(hardware, ours(), to, &answer));
    }
}

/// The answer of this code that repeats the question (4.1.1); none for a message without a whole one.
fn without_records(message: &[u8], code: u8) -> Option<Vec<u8>> {
    let end = question_end(message)?;
    let mut answer = message[..end].to_vec();
    const ANSWER: u8 = 0x80;
    const KEPT: u8 = 0x79;
    const RECURSION_AVAILABLE: u8 = 0x80;
    // The operation and the wish for recursion stay.
    answer[2] = ANSWER | answer[2] & KEPT;
    answer[3] = RECURSION_AVAILABLE | code;
    answer[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    Some(answer)
}

/// Where the first question ends: labels, a root, type and class (4.1.2).
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1 + length;
        match length {
            0 => break,
            // A pointer has nothing to point to in a first question.
            64.. => return None,
            _ => {}
        }
    }
    (at + 4 <= message.len()).then_some(at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_repeats_the_question_and_nothing_else() {
        let question = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x03www\x07example\0\0\x01\0\x01rest";
        let answer = without_records(question, SERVFAIL).unwrap();
        assert_eq!(answer, b"\x12\x34\x81\x82\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01");
    }

    #[test]
    fn a_question_cut_short_or_with_a_pointer_has_no_answer() {
        let question = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\0\x03www\0\0\x01\0\x01";
        for length in HEADER..question.len() {
            assert_eq!(without_records(&question[..length], SERVFAIL), None);
        }
        assert_eq!(
            without_records(b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\0\xc0\x0c\0\0\x01\0\x01", SERVFAIL),
            None
        );
    }
}
