//! Frames from a Guest, whatever is in them: no panic, no growth beyond the limits, and nothing outside is touched.
//!
//! The input is frames, each behind its length in two bytes. The only destination allowed is a port of the loopback that
//! nobody has, so a made-up frame reaches no other machine.

use std::time::{Duration, Instant};

use lguest_devices::frame::{Abilities, Frame};

use super::network::{Options, Stack};

/// Connections and pairs of ends that a stack may hold, as `tcp` and `udp` say.
const LIMITS: (usize, usize) = (512, 256);

/// Feeds a stack.
pub fn run(mut input: &[u8]) {
    let options = Options::read("user", &["host=yes", "allow=10.0.2.2:9", "dns=none"]).expect("good options");
    let mut stack = Stack::new(options).expect("an epoll");
    stack.restart(Abilities { unfinished: true, large: true });
    while let Some((length, rest)) = input.split_first_chunk::<2>() {
        let (frame, rest) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*length))));
        input = rest;
        stack.input(Frame::whole(frame.to_vec()), Instant::now());
        for event in stack.sockets.wait(Some(Duration::ZERO)).expect("an epoll that works") {
            stack.event(event, Instant::now());
        }
        stack.work(Instant::now());
        while stack.outbox.take().is_some() {}
    }
    let (connections, pairs) = stack.load();
    assert!(connections <= LIMITS.0 && pairs <= LIMITS.1, "{connections} connections, {pairs} pairs of ends");
}
