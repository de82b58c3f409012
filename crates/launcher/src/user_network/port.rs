//! Between the Guest's device and the stack's thread: frames both ways, and a bell.
//!
//! ```text
//!   vCPU's thread:  VirtioNet ──put──► inbox  ──► stack      rung when frames came, or when there is room again
//!                   VirtioNet ◄─take── outbox ◄── stack      the thread wakes the device
//! ```
//! Both boxes have room for a few of the largest segments. Who finds one full leaves a word, and is called when there is
//! room: nothing is lost and nothing grows.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lguest_devices::frame::{Abilities, Frame};
use lguest_devices::virtio::net::Wire;
use rustix::event::EventfdFlags;

use super::outbox::Outbox;

/// What the device has for the stack.
#[derive(Default)]
struct Inbox {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// The device was refused, and waits for room.
    refused: bool,
    /// The driver started over, with these abilities; frames that are here came after.
    started: Option<Abilities>,
    /// The bell was rung and nobody came yet.
    rung: bool,
    /// The device is gone.
    closed: bool,
}

/// What the stack has for the device.
#[derive(Default)]
struct Ready {
    outbox: Outbox,
    /// The stack has more.
    more: bool,
}

/// Bytes on the way to the stack before the device has to wait.
const ENOUGH: usize = 512 << 10;
/// Frames likewise, for small ones cost as much to look at.
const MOST_FRAMES: usize = 1024;

struct Shared {
    bell: OwnedFd,
    inbox: Mutex<Inbox>,
    ready: Mutex<Ready>,
}

/// The device's end.
pub struct Port {
    shared: Arc<Shared>,
    abilities: Abilities,
}

/// The stack's end.
pub struct Berth(Arc<Shared>);

/// What came from the device.
pub struct Arrivals {
    /// The driver started over.
    pub started: Option<Abilities>,
    /// Its frames since.
    pub frames: VecDeque<Frame>,
    /// The device waits for the room that this has made.
    pub refused: bool,
    /// There will be no more.
    pub closed: bool,
}

/// Both ends, for an outside that takes over this much of the work on frames.
///
/// # Errors
/// When the host refuses an eventfd.
pub fn pair(abilities: Abilities) -> io::Result<(Port, Berth)> {
    let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let shared = Arc::new(Shared { bell, inbox: Mutex::default(), ready: Mutex::default() });
    Ok((Port { shared: shared.clone(), abilities }, Berth(shared)))
}

/// A panic elsewhere must not take the network with it: what is held is plain state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Calls the stack's thread, unless it is on its way.
    fn ring(&self, inbox: &mut Inbox) {
        if !inbox.rung {
            inbox.rung = true;
            // It can only fail when it was rung very often already.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }
}

impl Wire for Port {
    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn start(&mut self, driver: Abilities) {
        let mut inbox = lock(&self.shared.inbox);
        *inbox = Inbox { started: Some(driver), rung: inbox.rung, ..Inbox::default() };
        lock(&self.shared.ready).outbox.clear();
        self.shared.ring(&mut inbox);
    }

    fn stop(&mut self) {
        self.start(Abilities::default());
    }

    fn has_room(&mut self) -> bool {
        let mut inbox = lock(&self.shared.inbox);
        inbox.refused = inbox.bytes >= ENOUGH || inbox.frames.len() >= MOST_FRAMES;
        !inbox.refused
    }

    fn put(&mut self, frame: Frame) {
        let mut inbox = lock(&self.shared.inbox);
        inbox.bytes += frame.bytes.len();
        inbox.frames.push_back(frame);
    }

    fn take(&mut self) -> Option<Frame> {
        lock(&self.shared.ready).outbox.take()
    }

    fn settle(&mut self) {
        let wanted = {
            let mut ready = lock(&self.shared.ready);
            let wanted = ready.more && ready.outbox.has_room();
            ready.more &= !wanted;
            wanted
        };
        let mut inbox = lock(&self.shared.inbox);
        if wanted || !inbox.frames.is_empty() {
            self.shared.ring(&mut inbox);
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut inbox = lock(&self.shared.inbox);
        inbox.closed = true;
        self.shared.ring(&mut inbox);
    }
}

impl Berth {
    /// What to watch.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }

    /// Takes all that came.
    pub fn fetch(&self) -> Arrivals {
        let mut count = [0; 8];
        let mut inbox = lock(&self.0.inbox);
        if std::mem::take(&mut inbox.rung) {
            let _ = rustix::io::read(&self.0.bell, &mut count);
        }
        inbox.bytes = 0;
        Arrivals {
            started: inbox.started.take(),
            frames: std::mem::take(&mut inbox.frames),
            refused: std::mem::take(&mut inbox.refused),
            closed: inbox.closed,
        }
    }

    /// Gives the device as much as there is room for. True when it was given something.
    pub fn pour(&self, from: &mut Outbox) -> bool {
        let mut ready = lock(&self.0.ready);
        let mut given = false;
        while ready.outbox.has_room() {
            let Some(frame) = from.take() else { break };
            ready.outbox.put(frame);
            given = true;
        }
        ready.more = !from.is_empty();
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame::whole(vec![0; 60_000])
    }

    #[test]
    fn a_full_inbox_refuses_and_says_so_when_it_is_emptied() {
        let (mut port, berth) = pair(Abilities::default()).unwrap();
        let mut put = 0;
        while port.has_room() {
            port.put(frame());
            put += 1;
            assert!(put < 100, "an inbox without a limit");
        }
        port.settle();
        let arrivals = berth.fetch();
        assert!(arrivals.refused && arrivals.frames.len() == put && !arrivals.closed);
        assert!(port.has_room() && !berth.fetch().refused);
    }

    #[test]
    fn what_the_device_has_no_room_for_waits_and_the_bell_rings_when_there_is_some() {
        let (mut port, berth) = pair(Abilities::default()).unwrap();
        let mut outbox = Outbox::default();
        (0..15).for_each(|_| outbox.put(frame()));
        assert!(berth.pour(&mut outbox) && !outbox.is_empty(), "more than the device may be given");
        assert!(!berth.pour(&mut outbox));
        let rung = || rustix::io::read(berth.bell(), &mut [0; 8]).is_ok();
        assert!(!rung());
        while port.take().is_some() {}
        port.settle();
        assert!(rung());
    }

    #[test]
    fn a_driver_that_starts_over_leaves_no_frames_behind_and_one_that_goes_is_told() {
        let (mut port, berth) = pair(Abilities::default()).unwrap();
        port.put(frame());
        let can = Abilities { unfinished: true, large: false };
        port.start(can);
        port.put(Frame::whole(vec![0; 60]));
        let arrivals = berth.fetch();
        assert_eq!((arrivals.started, arrivals.frames.len()), (Some(can), 1));
        drop(port);
        assert!(berth.fetch().closed);
    }
}
