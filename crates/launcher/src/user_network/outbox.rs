//! Frames that wait for the Guest to have room.

use std::collections::VecDeque;

use lguest_devices::frame::Frame;

/// Bytes that may wait before connections stop giving more: several of the largest segments, so that the Guest never waits
/// for us while we wait for it.
const ENOUGH: usize = 512 << 10;
/// Bytes that may wait at all. Answers that a Guest provokes and never takes are lost beyond this, as on any wire.
const MOST: usize = 1 << 20;
/// What a frame takes besides its bytes.
const OVERHEAD: usize = 256;

/// The frames, oldest first.
#[derive(Default)]
pub struct Outbox {
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Outbox {
    /// Whether connections should give more.
    pub fn has_room(&self) -> bool {
        self.bytes < ENOUGH
    }

    /// Adds a frame; it is lost when far too many wait.
    pub fn put(&mut self, frame: Frame) {
        let cost = frame.bytes.len() + OVERHEAD;
        if self.bytes + cost <= MOST {
            self.bytes += cost;
            self.frames.push_back(frame);
        }
    }

    /// The oldest frame.
    pub fn take(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.bytes.len() + OVERHEAD;
        Some(frame)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Outbox::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_does_not_grow_without_bound() {
        let mut outbox = Outbox::default();
        for _ in 0..100_000 {
            outbox.put(Frame::whole(vec![0; 60]));
        }
        assert!(!outbox.has_room() && outbox.bytes <= MOST);
        while outbox.take().is_some() {}
        assert!(outbox.has_room() && outbox.is_empty() && outbox.bytes == 0);
    }
}
