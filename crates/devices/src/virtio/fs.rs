//! A shared directory (virtio 1.2, 5.11): FUSE's requests and answers in the chains of two kinds of queue.
//!
//! ```text
//!   queue 0   what may overtake: FORGET, INTERRUPT          a chain: the request ─► room for the answer
//!   queue 1   everything else
//! ```
//! What is asked and answered is `crate::fuse`'s and the server's affair; this device carries bytes.

use super::ring::{Broken, Ring};
use super::rings::Rings;
use super::{DeviceKind, QueueIndex, VirtioDevice};
use crate::fuse::MOST_DATA;

/// The longest request: data, and before it headers and names of less than two pages.
const LONGEST_REQUEST: u64 = MOST_DATA as u64 + 8192;
/// The longest answer: data and its header.
const LONGEST_ANSWER: u64 = MOST_DATA as u64 + 4096;
/// Linux sends as many pages at once as the queue has descriptors, less a few for headers: 256 are 1 MiB.
const QUEUE_SIZES: [u16; 2] = [64, 512];
/// Bytes of the tag in the configuration (5.11.4).
const TAG: usize = 36;

/// Who answers: a server of FUSE.
pub trait FuseServer: Send {
    /// Answers a request into `answer`, in at most `room` bytes; empty where none is expected.
    fn serve(&mut self, request: &[u8], room: usize, answer: &mut Vec<u8>);

    /// The driver is gone, and all that it had open.
    fn reset(&mut self);
}

/// The device.
pub struct VirtioFs<S> {
    server: S,
    configuration: Vec<u8>,
    /// Used over and over: a request and an answer may have a megabyte.
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl<S: FuseServer> VirtioFs<S> {
    /// A device that a Guest mounts by this tag, of which 36 bytes count.
    pub fn new(tag: &str, server: S) -> Self {
        let mut configuration = vec![0; TAG];
        let length = tag.len().min(TAG);
        configuration[..length].copy_from_slice(&tag.as_bytes()[..length]);
        // One queue of requests: one thread of ours serves them anyway.
        configuration.extend(1u32.to_le_bytes());
        VirtioFs { server, configuration, request: Vec::new(), answer: Vec::new() }
    }

    fn serve_one(&mut self, ring: &mut Ring<'_>) -> Result<bool, Broken> {
        let Some(mut chain) = ring.take()? else { return Ok(false) };
        // What is longer than any request is cut, and then no request.
        self.request.resize(chain.readable().min(LONGEST_REQUEST) as usize, 0);
        ring.read(&mut chain, &mut self.request);
        let room = chain.writable().min(LONGEST_ANSWER) as usize;
        self.server.serve(&self.request, room, &mut self.answer);
        if self.answer.len() > room {
            return Err(Broken::NoRoom);
        }
        ring.write(&mut chain, &self.answer);
        ring.finish(&chain, self.answer.len() as u32)?;
        Ok(true)
    }
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
        self.server.reset();
    }

    fn notify(&mut self, queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let mut ring = rings.ring(queue)?;
        while self.serve_one(&mut ring)? {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::Bench;
    use super::*;

    /// Answers with the request's bytes backwards; a request that begins with 0 with nothing.
    struct Backwards;

    impl FuseServer for Backwards {
        fn serve(&mut self, request: &[u8], _room: usize, answer: &mut Vec<u8>) {
            answer.clear();
            if request.first() != Some(&0) {
                answer.extend(request.iter().rev());
            }
        }

        fn reset(&mut self) {}
    }

    fn device() -> VirtioFs<Backwards> {
        VirtioFs::new("home", Backwards)
    }

    #[test]
    fn the_configuration_is_a_tag_and_the_number_of_queues() {
        let device = device();
        let configuration = device.configuration();
        assert_eq!((&configuration[..5], configuration.len()), (&b"home\0"[..], 40));
        assert_eq!(configuration[36..], 1u32.to_le_bytes());
        assert_eq!(VirtioFs::new(&"x".repeat(50), Backwards).configuration().len(), 40);
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
