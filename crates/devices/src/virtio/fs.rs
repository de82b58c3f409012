//! A shared directory (virtio 1.2, 5.11): FUSE's requests and answers in the chains of two kinds of queue.
//!
//! ```text
//!   queue 0   what may overtake: FORGET, INTERRUPT          a chain: the request ─► room for the answer
//!   queue 1   everything else
//! ```
//! What is asked and answered is `crate::fuse`'s and the server's affair; this device carries bytes. A request that waits for
//! a disk of the host's is answered later, in any order: the device keeps its chain meanwhile.

use super::chain::Chain;
use super::ring::Broken;
use super::rings::Rings;
use super::{DeviceKind, QueueIndex, VirtioDevice};
use crate::fuse::MOST_DATA;

/// The longest request: data, and before it headers and names of less than two pages.
const LONGEST_REQUEST: u64 = MOST_DATA as u64 + 8192;
/// The longest answer: data and its header.
const LONGEST_ANSWER: u64 = MOST_DATA as u64 + 4096;
/// Linux sends as many pages at once as the queue has descriptors, less a few for headers: 256 are 1 MiB.
const QUEUE_SIZES: [u16; 2] = [64, 512];
/// Requests that are answered later, at most; further ones hold their vCPU up. Linux synchronises a file for each process that
/// asks, and a driver may offer one chain many times.
const MOST_LATER: usize = 64;
/// Bytes of the tag in the configuration (5.11.4).
const TAG: usize = 36;

/// A request that is answered later. Never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The answer is there; it may be empty.
    Answered,
    /// [`FuseServer::done`] will have it, and whoever finishes it wakes the device.
    Later(Ticket),
}

/// Who answers: a server of FUSE.
pub trait FuseServer: Send {
    /// Answers a request into `answer`, in at most `room` bytes; empty where none is expected. Only where it `may_wait` may the
    /// answer come later.
    fn serve(&mut self, request: &[u8], room: usize, may_wait: bool, answer: &mut Vec<u8>) -> Served;

    /// An answer that came since, in any order.
    fn done(&mut self) -> Option<(Ticket, Vec<u8>)>;

    /// The driver is gone, and all that it had open. Answers that come later are nobody's.
    fn reset(&mut self);
}

/// The device.
pub struct VirtioFs<S> {
    server: S,
    configuration: Vec<u8>,
    /// Used over and over: a request and an answer may have a megabyte.
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Requests that are answered later, and where they came from.
    later: Vec<(Ticket, QueueIndex, Chain)>,
}

impl<S: FuseServer> VirtioFs<S> {
    /// A device that a Guest mounts by this tag, of which 36 bytes count.
    pub fn new(tag: &str, server: S) -> Self {
        let mut configuration = vec![0; TAG];
        let length = tag.len().min(TAG);
        configuration[..length].copy_from_slice(&tag.as_bytes()[..length]);
        // One queue of requests: one thread of ours serves them anyway.
        configuration.extend(1u32.to_le_bytes());
        VirtioFs { server, configuration, request: Vec::new(), answer: Vec::new(), later: Vec::new() }
    }

    /// Takes a request and answers it, now or later. False when the queue has none.
    fn serve_one(&mut self, queue: QueueIndex, rings: &mut Rings<'_>) -> Result<bool, Broken> {
        let mut ring = rings.ring(queue)?;
        let Some(mut chain) = ring.take()? else { return Ok(false) };
        // What is longer than any request is cut, and then no request.
        self.request.resize(chain.readable().min(LONGEST_REQUEST) as usize, 0);
        ring.read(&mut chain, &mut self.request);
        let room = chain.writable().min(LONGEST_ANSWER) as usize;
        let may_wait = self.later.len() < MOST_LATER;
        match self.server.serve(&self.request, room, may_wait, &mut self.answer) {
            Served::Answered => answer(queue, &mut chain, &self.answer, rings)?,
            Served::Later(ticket) => self.later.push((ticket, queue, chain)),
        }
        Ok(true)
    }
}

/// Gives a request back with its answer.
fn answer(queue: QueueIndex, chain: &mut Chain, bytes: &[u8], rings: &mut Rings<'_>) -> Result<(), Broken> {
    let mut ring = rings.ring(queue)?;
    if bytes.len() as u64 > chain.writable() {
        return Err(Broken::NoRoom);
    }
    ring.write(chain, bytes);
    ring.finish(chain, bytes.len() as u32)
}

impl<S: FuseServer> VirtioDevice for VirtioFs<S> {
    fn kind(&self) -> DeviceKind {
        DeviceKind::FileSystem
    }

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
        self.later.clear();
        self.server.reset();
    }

    fn notify(&mut self, queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
        while self.serve_one(queue, rings)? {}
        Ok(())
    }

    fn wake(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        while let Some((ticket, bytes)) = self.server.done() {
            let place = self.later.iter().position(|(waiting, ..)| *waiting == ticket);
            let Some((_, queue, mut chain)) = place.map(|place| self.later.swap_remove(place)) else {
                continue;
            };
            // A queue may have been taken out of use meanwhile; then nobody waits for an answer.
            if rings.is_ready(queue) {
                answer(queue, &mut chain, &bytes, rings)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::Bench;
    use super::*;

    /// Answers with the request's bytes backwards; a request that begins with 0 with nothing, and one that begins with 1 when
    /// it is woken, if it may.
    #[derive(Default)]
    struct Backwards {
        later: Vec<(Ticket, Vec<u8>)>,
        tickets: u64,
    }

    impl FuseServer for Backwards {
        fn serve(&mut self, request: &[u8], _room: usize, may_wait: bool, answer: &mut Vec<u8>) -> Served {
            answer.clear();
            match request.first() {
                Some(0) => {}
                Some(1) if may_wait => {
                    self.tickets += 1;
                    self.later.push((Ticket(self.tickets), b"late".to_vec()));
                    return Served::Later(Ticket(self.tickets));
                }
                _ => answer.extend(request.iter().rev()),
            }
            Served::Answered
        }

        fn done(&mut self) -> Option<(Ticket, Vec<u8>)> {
            self.later.pop()
        }

        fn reset(&mut self) {}
    }

    fn device() -> VirtioFs<Backwards> {
        VirtioFs::new("home", Backwards::default())
    }

    #[test]
    fn a_request_that_waits_is_answered_when_it_is_done_and_others_overtake_it() {
        let mut bench = Bench::start(device());
        bench.write(0x8000, &[1, 2, 3]);
        bench.offer(0, &[(0x8000, 1, false), (0x9000, 8, true)]);
        bench.offer(2, &[(0x8001, 2, false), (0xa000, 8, true)]);
        assert_eq!(bench.notify(), Ok(vec![(2, 2)]));
        bench.life.wake();
        assert_eq!(bench.used(), [(0, 4)]);
        assert_eq!(bench.bytes(0x9000, 4), b"late");
        bench.life.wake();
        assert_eq!(bench.used(), []);
    }

    #[test]
    fn what_was_asked_before_a_reset_is_answered_to_nobody() {
        let mut bench = Bench::start(device());
        bench.write(0x8000, &[1]);
        bench.offer(0, &[(0x8000, 1, false), (0x9000, 8, true)]);
        assert_eq!(bench.notify(), Ok(vec![]));
        let features = bench.life.offered();
        bench.start_with(features);
        bench.life.wake();
        assert_eq!((bench.used(), bench.bytes(0x9000, 4)), (vec![], vec![0; 4]));
    }

    #[test]
    fn a_driver_that_waits_too_often_is_answered_at_once() {
        let mut bench = Bench::start(device());
        bench.write(0x8000, &[1]);
        for _ in 0..MOST_LATER {
            // The same chain again and again, as no good driver would.
            bench.offer(0, &[(0x8000, 1, false), (0x9000, 8, true)]);
            assert_eq!(bench.notify(), Ok(vec![]));
        }
        bench.offer(0, &[(0x8000, 1, false), (0x9000, 8, true)]);
        assert_eq!(bench.notify(), Ok(vec![(0, 1)]));
    }

    #[test]
    fn the_configuration_is_a_tag_and_the_number_of_queues() {
        let device = device();
        let configuration = device.configuration();
        assert_eq!((&configuration[..5], configuration.len()), (&b"home\0"[..], 40));
        assert_eq!(configuration[36..], 1u32.to_le_bytes());
        assert_eq!(VirtioFs::new(&"x".repeat(50), Backwards::default()).configuration().len(), 40);
    }

    #[test]
    fn an_answer_comes_back_in_the_room_behind_the_request() {
        let mut bench = Bench::start(device());
        bench.write(0x8000, b"abcd");
        bench.offer(0, &[(0x8000, 3, false), (0x8003, 1, false), (0x9000, 2, true), (0xa000, 100, true)]);
        assert_eq!(bench.notify(), Ok(vec![(0, 4)]));
        assert_eq!((bench.bytes(0x9000, 2), bench.bytes(0xa000, 3)), (b"dc".to_vec(), b"ba\0".to_vec()));
    }

    #[test]
    fn a_request_that_wants_no_answer_needs_no_room() {
        let mut bench = Bench::start(device());
        bench.write(0x8000, &[0; 8]);
        bench.offer(0, &[(0x8000, 8, false)]);
        assert_eq!(bench.notify(), Ok(vec![(0, 0)]));
    }

    #[test]
    fn an_answer_without_room_needs_a_reset() {
        let mut bench = Bench::start(device());
        bench.write(0x8000, b"abcd");
        bench.offer(0, &[(0x8000, 4, false), (0x9000, 3, true)]);
        assert_eq!(bench.notify(), Err(Broken::NoRoom));
    }
}
