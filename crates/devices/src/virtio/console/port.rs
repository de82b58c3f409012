//! One port: its end on the host's side, and what the driver has to be told of it.

use super::super::QueueIndex;
use super::super::chain::Chain;
use super::super::ring::Broken;
use super::super::rings::Rings;
use super::CHUNK;

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Characters of a row.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// What an end can take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// So many bytes at least. At 0 the end wakes the device once there is more.
    Bytes(usize),
    /// Nobody will ever read: the driver's bytes are dropped.
    Nobody,
}

/// The host's end of a port: bytes both ways, nobody waits. Its limits are its own.
pub trait End: Send {
    /// What it takes now.
    fn room(&mut self) -> Room;
    /// Takes bytes of the Guest's, never more than [`Room::Bytes`] said since the last call.
    fn put(&mut self, bytes: &[u8]);
    /// Bytes for the Guest into the beginning of `bytes`; how many. At 0 it wakes the device once there are some.
    fn take(&mut self, bytes: &mut [u8]) -> usize;
    /// Whether somebody of the host's is there; a change is told by waking the device.
    fn is_connected(&mut self) -> bool {
        true
    }
    /// A program in the Guest opened the port, or the last one closed it.
    fn opened(&mut self, _open: bool) {}
    /// The size of the terminal behind it, if it is one; a change is told by waking the device.
    fn size(&mut self) -> Option<Size> {
        None
    }
}

/// What the driver is still to be told of a port, lowest bit first. A set and no list: a driver that asks without end gets one
/// answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Messages(u8);

impl Messages {
    pub const ADD: Messages = Messages(1);
    pub const CONSOLE: Messages = Messages(2);
    pub const SIZE: Messages = Messages(4);
    pub const NAME: Messages = Messages(8);
    pub const OPEN: Messages = Messages(16);

    pub fn insert(&mut self, more: Messages) {
        self.0 |= more.0;
    }

    pub fn remove(&mut self, less: Messages) {
        self.0 &= !less.0;
    }

    /// The next of them.
    pub fn first(self) -> Option<Messages> {
        (self.0 != 0).then(|| Messages(self.0 & self.0.wrapping_neg()))
    }
}

/// A port of the device.
pub(super) struct Port {
    /// None for the console.
    pub name: Option<String>,
    pub end: Box<dyn End>,
    /// A chain of the driver's that the end has not taken all of.
    sending: Option<Chain>,
    /// Room of the driver's that nothing has come for.
    room: Option<Chain>,
    pub messages: Messages,
    /// The driver knows it.
    pub ready: bool,
    /// Somebody in the Guest has it open.
    pub open: bool,
    /// The driver was told that somebody of the host's is there.
    pub connected: bool,
    /// The driver was told this size.
    pub size: Option<Size>,
}

impl Port {
    pub fn new(name: Option<String>, end: Box<dyn End>) -> Port {
        Port {
            name,
            end,
            sending: None,
            room: None,
            messages: Messages::default(),
            ready: false,
            open: false,
            connected: false,
            size: None,
        }
    }

    pub fn set_open(&mut self, open: bool) {
        if self.open != open {
            self.open = open;
            self.end.opened(open);
        }
    }

    pub fn reset(&mut self) {
        self.set_open(false);
        (self.sending, self.room) = (None, None);
        (self.messages, self.ready, self.connected) = (Messages::default(), false, false);
    }

    /// From the driver to the end. True when anything went.
    pub fn transmit(
        &mut self,
        queue: QueueIndex,
        rings: &mut Rings<'_>,
        buffer: &mut [u8; CHUNK],
    ) -> Result<bool, Broken> {
        if !rings.is_ready(queue) {
            self.sending = None;
            return Ok(false);
        }
        let (mut ring, mut went) = (rings.ring(queue)?, false);
        loop {
            let next = self.sending.take();
            let Some(mut chain) = (if next.is_some() { next } else { ring.take()? }) else { return Ok(went) };
            went = true;
            while chain.readable() > 0 {
                let room = match self.end.room() {
                    Room::Nobody => break,
                    Room::Bytes(0) => {
                        self.sending = Some(chain);
                        return Ok(went);
                    }
                    Room::Bytes(room) => room.min(CHUNK),
                };
                let length = chain.readable().min(room as u64) as usize;
                if !ring.read(&mut chain, &mut buffer[..length]) {
                    return Err(Broken::Buffer);
                }
                self.end.put(&buffer[..length]);
            }
            ring.finish(&chain, 0)?;
        }
    }

    /// From the end to the driver.
    pub fn receive(
        &mut self,
        queue: QueueIndex,
        rings: &mut Rings<'_>,
        buffer: &mut [u8; CHUNK],
    ) -> Result<(), Broken> {
        if !rings.is_ready(queue) {
            self.room = None;
            return Ok(());
        }
        if !self.open {
            // What came now would be nobody's; the end keeps it.
            return Ok(());
        }
        let mut ring = rings.ring(queue)?;
        loop {
            let next = self.room.take();
            let Some(mut chain) = (if next.is_some() { next } else { ring.take()? }) else { return Ok(()) };
            let room = chain.writable().min(CHUNK as u64) as usize;
            if room == 0 {
                return Err(Broken::NoRoom);
            }
            let length = self.end.take(&mut buffer[..room]).min(room);
            if length == 0 {
                self.room = Some(chain);
                return Ok(());
            }
            if !ring.write(&mut chain, &buffer[..length]) {
                return Err(Broken::Buffer);
            }
            ring.finish(&chain, length as u32)?;
        }
    }
}
