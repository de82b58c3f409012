//! Both ends of a port, with a buffer each way.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use lguest_devices::virtio::console::{End, Room, Size};
use lguest_devices::virtio::waker::Waker;

use crate::board::MachineGone;

/// What the Guest may be ahead of who reads. A screenful of kernel messages fits.
const OUTGOING: usize = 64 << 10;
/// What a sender may be ahead of the Guest.
const INCOMING: usize = 16 << 10;
/// How long the end of a machine that was stopped waits for a reader that does not read.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Held {
    outgoing: Vec<u8>,
    /// The device found no room for more.
    refused: bool,
    incoming: VecDeque<u8>,
    /// Somebody of the host's is there.
    connected: bool,
    /// Nobody will ever read again.
    broken: bool,
    /// The writer has bytes that it is not done with.
    writing: bool,
    /// The machine has ended.
    ended: bool,
    /// It was stopped, and nobody waits for readers.
    abandoned: bool,
    size: Option<Size>,
}

#[derive(Default)]
struct Shared {
    held: Mutex<Held>,
    changed: Condvar,
    waker: OnceLock<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, held: MutexGuard<'a, Held>) -> MutexGuard<'a, Held> {
        self.changed.wait(held).unwrap_or_else(PoisonError::into_inner)
    }

    /// With nothing locked: the device locks in its turn.
    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

/// The device's end.
pub struct DeviceEnd(Arc<Shared>);

/// The host's end, for any thread.
#[derive(Clone)]
pub struct HostEnd(Arc<Shared>);

/// Both ends; somebody is there from the beginning.
pub fn pair() -> (DeviceEnd, HostEnd) {
    let shared = Arc::new(Shared::default());
    shared.lock().connected = true;
    (DeviceEnd(shared.clone()), HostEnd(shared))
}

impl End for DeviceEnd {
    fn room(&mut self) -> Room {
        let mut held = self.0.lock();
        if held.broken {
            return Room::Nobody;
        }
        let room = OUTGOING.saturating_sub(held.outgoing.len());
        held.refused |= room == 0;
        Room::Bytes(room)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.0.lock().outgoing.extend_from_slice(bytes);
        self.0.changed.notify_all();
    }

    fn take(&mut self, bytes: &mut [u8]) -> usize {
        let mut held = self.0.lock();
        let length = held.incoming.len().min(bytes.len());
        held.incoming.drain(..length).zip(bytes).for_each(|(byte, place)| *place = byte);
        if length > 0 {
            self.0.changed.notify_all();
        }
        length
    }

    fn is_connected(&mut self) -> bool {
        self.0.lock().connected
    }

    fn size(&mut self) -> Option<Size> {
        self.0.lock().size
    }
}

impl Drop for DeviceEnd {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

impl HostEnd {
    /// From now on the device is woken by this; once.
    pub fn hear(&self, waker: Waker) {
        let _ = self.0.waker.set(waker);
    }

    /// Sends bytes to the Guest; waits while it takes none.
    ///
    /// # Errors
    /// [`MachineGone`] when the machine ended; some bytes may have been taken.
    pub fn send(&self, mut bytes: &[u8]) -> Result<(), MachineGone> {
        while !bytes.is_empty() {
            let mut held = self.0.lock();
            while held.incoming.len() >= INCOMING && !held.ended {
                held = self.0.wait(held);
            }
            if held.ended {
                return Err(MachineGone);
            }
            let (now, later) = bytes.split_at(bytes.len().min(INCOMING - held.incoming.len()));
            held.incoming.extend(now);
            bytes = later;
            drop(held);
            self.0.wake();
        }
        Ok(())
    }

    /// Waits for bytes of the Guest's and somebody to have them, and puts them in place of `bytes`. False at the end. What was
    /// received last counts as written when this is called again.
    pub fn receive(&self, bytes: &mut Vec<u8>) -> bool {
        bytes.clear();
        let mut held = self.0.lock();
        held.writing = false;
        self.0.changed.notify_all();
        while held.outgoing.is_empty() || !held.connected {
            if held.ended {
                return false;
            }
            held = self.0.wait(held);
        }
        std::mem::swap(&mut held.outgoing, bytes);
        held.writing = true;
        let refused = std::mem::take(&mut held.refused);
        drop(held);
        if refused {
            self.0.wake();
        }
        true
    }

    /// Starts the thread that writes what comes into `sink`, to its end or the sink's.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn write_to(&self, mut sink: impl Write + Send + 'static) -> std::io::Result<()> {
        let end = self.clone();
        thread::Builder::new().name("lguest-port".into()).spawn(move || {
            let mut bytes = Vec::new();
            while end.receive(&mut bytes) {
                if sink.write_all(&bytes).and_then(|()| sink.flush()).is_err() {
                    return end.break_off();
                }
            }
        })?;
        Ok(())
    }

    /// Nobody will read any more; what the Guest writes is dropped.
    pub fn break_off(&self) {
        let mut held = self.0.lock();
        (held.broken, held.writing) = (true, false);
        held.outgoing.clear();
        drop(held);
        self.0.changed.notify_all();
        self.0.wake();
    }

    /// Somebody of the host's came or went. What was on its way to the Guest stays on its way.
    pub fn set_connected(&self, connected: bool) {
        self.0.lock().connected = connected;
        self.0.changed.notify_all();
        self.0.wake();
    }

    /// The terminal has this size now.
    pub fn set_size(&self, size: Size) {
        self.0.lock().size = Some(size);
        self.0.wake();
    }

    /// The machine has ended: waits until everything is written, unless it is or was stopped.
    pub fn finish(&self) {
        let mut held = self.0.lock();
        held.ended = true;
        self.0.changed.notify_all();
        let unwritten =
            |held: &Held| !held.broken && held.connected && (held.writing || !held.outgoing.is_empty());
        while unwritten(&held) && !held.abandoned {
            held = self.0.wait(held);
        }
        drop(self.0.changed.wait_timeout_while(held, LAST_WORDS, |held| unwritten(held)));
    }

    /// The machine is stopped: nobody waits for readers any more.
    pub fn abandon(&self) {
        self.0.lock().abandoned = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_cross_both_ways_and_the_end_is_told() {
        let (mut device, host) = pair();
        assert_eq!(device.room(), Room::Bytes(OUTGOING));
        device.put(b"out");
        let mut bytes = Vec::new();
        assert!(host.receive(&mut bytes));
        assert_eq!(bytes, b"out");
        host.send(b"in").unwrap();
        let mut room = [0; 8];
        assert_eq!((device.take(&mut room), &room[..2]), (2, &b"in"[..]));
        assert_eq!(device.take(&mut room), 0);
        drop(device);
        assert!(!host.receive(&mut bytes));
        assert_eq!(host.send(b"late"), Err(MachineGone));
    }

    #[test]
    fn neither_buffer_grows_past_its_limit() {
        let (mut device, host) = pair();
        device.put(&vec![1; OUTGOING]);
        assert_eq!(device.room(), Room::Bytes(0));
        let sender = host.clone();
        let thread = thread::spawn(move || sender.send(&vec![2; INCOMING + 1]));
        let mut all: Vec<u8> = Vec::new();
        while all.len() < INCOMING + 1 {
            let mut room = [0; 1000];
            let length = device.take(&mut room);
            assert!(host.0.lock().incoming.len() <= INCOMING);
            all.extend(&room[..length]);
        }
        assert_eq!(thread.join().unwrap(), Ok(()));
        assert!(all.iter().all(|byte| *byte == 2));
    }

    #[test]
    fn bytes_wait_for_somebody_to_have_them() {
        let (mut device, host) = pair();
        host.set_connected(false);
        assert!(!device.is_connected());
        device.put(b"early");
        let reader = host.clone();
        let thread = thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.receive(&mut bytes).then_some(bytes)
        });
        host.set_connected(true);
        assert_eq!(thread.join().unwrap().unwrap(), b"early");
    }

    #[test]
    fn what_was_written_last_is_out_when_the_machine_has_finished() {
        let (mut device, host) = pair();
        let (mut reader, writer) = std::io::pipe().unwrap();
        host.write_to(writer).unwrap();
        device.put(b"last words");
        host.finish();
        drop(device);
        let mut all = String::new();
        std::io::Read::read_to_string(&mut reader, &mut all).unwrap();
        assert_eq!(all, "last words");
    }

    #[test]
    fn a_reader_that_is_gone_holds_nobody_up() {
        let (mut device, host) = pair();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        host.write_to(writer).unwrap();
        device.put(b"lost");
        host.finish();
        assert_eq!(device.room(), Room::Nobody);
    }
}
