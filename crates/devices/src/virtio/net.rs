//! A network interface (virtio 1.2, 5.1): a queue of room for frames that come, a queue of frames that go.
//!
//! ```text
//!   queue 0   empty buffers ─► filled from Wire::take    a frame may fill several (MRG_RXBUF)
//!   queue 1   frames        ─► Wire::put
//!   each frame is led by 12 bytes that say what is left to do on it (`frame`); by 10 for a driver from before virtio 1.0
//!   without merged buffers (5.1.6.1), for it needs no number of them
//! ```
//! No frame is lost here for want of room on either side: what the wire cannot take stays in the driver's queue until the
//! wire wakes the device, and what the driver has no room for stays in the wire until the driver gives some.

use std::collections::VecDeque;

use super::chain::Chain;
use super::ring::{Broken, Ring};
use super::rings::Rings;
use super::{DeviceKind, QueueIndex, VirtioDevice};
use crate::frame::{self, Abilities, Frame, HEADER};

/// Room for frames that come, and frames that go. A frame of 64 KiB fills 17 pages, so a queue holds fifteen of them.
const QUEUE_SIZES: [u16; 2] = [256, 256];
const RECEIVE: QueueIndex = QueueIndex(0);
const TRANSMIT: QueueIndex = QueueIndex(1);
/// Bytes of the header without its number of buffers.
const SHORT_HEADER: usize = HEADER - 2;
/// Bytes of an IP packet that a wire carries (IEEE 802.3); larger ones travel as segments to be cut.
const MTU: u16 = 1500;

mod feature {
    pub const CHECKSUM: u64 = 1 << 0;
    pub const GUEST_CHECKSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const ADDRESS: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const MERGED_BUFFERS: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
}

/// Status field: there is a carrier (5.1.4).
const LINK_UP: u16 = 1;

/// What is at the other end of the interface.
pub trait Wire: Send {
    /// What it takes over from whoever sends to it.
    fn abilities(&self) -> Abilities;
    /// The driver is ready, and takes over this much of the work on frames that it is given.
    fn start(&mut self, driver: Abilities);
    /// The driver is gone.
    fn stop(&mut self);
    /// Whether there is a carrier; a change is told by waking the device. None where there is always one: a driver that
    /// need not ask uses the interface at once, and Linux asks from a queue of work, a second later.
    fn carrier(&self) -> Option<bool> {
        None
    }
    /// Whether it has room for a frame. When it has none, it wakes the device once there is some.
    fn has_room(&mut self) -> bool;
    /// Takes a frame from the driver.
    fn put(&mut self, frame: Frame);
    /// The next frame for the driver. When there is none it wakes the device once there is one.
    fn take(&mut self) -> Option<Frame>;
    /// The device was called and has done what it could; whoever serves the wire may be told now, once.
    fn settle(&mut self) {}
}

/// The device.
pub struct VirtioNet<W> {
    wire: W,
    configuration: [u8; 12],
    merged: bool,
    /// Bytes of the header that leads a frame.
    header: usize,
    /// Empty buffers taken from the driver.
    room: VecDeque<Chain>,
    /// A frame that waits for more of them.
    waiting: Option<Frame>,
}

impl<W: Wire> VirtioNet<W> {
    /// An interface with this Ethernet address.
    pub fn new(wire: W, address: [u8; 6]) -> Self {
        let mut configuration = [0; 12];
        configuration[..6].copy_from_slice(&address);
        // One pair of queues.
        configuration[8..10].copy_from_slice(&1u16.to_le_bytes());
        configuration[10..].copy_from_slice(&MTU.to_le_bytes());
        let mut net = VirtioNet {
            wire,
            configuration,
            merged: false,
            header: HEADER,
            room: VecDeque::new(),
            waiting: None,
        };
        net.note_carrier();
        net
    }

    /// Puts the carrier into the configuration. True when that is a change.
    fn note_carrier(&mut self) -> bool {
        let status = if self.wire.carrier().unwrap_or(true) { LINK_UP } else { 0 }.to_le_bytes();
        let changed = self.configuration[6..8] != status;
        self.configuration[6..8].copy_from_slice(&status);
        changed
    }

    /// From the driver to the wire.
    fn transmit(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        if !rings.is_ready(TRANSMIT) {
            return Ok(());
        }
        let mut ring = rings.ring(TRANSMIT)?;
        while self.wire.has_room() {
            let Some(mut chain) = ring.take()? else { break };
            if let Some(frame) = read(&ring, &mut chain, self.header) {
                self.wire.put(frame);
            }
            ring.finish(&chain, 0)?;
        }
        Ok(())
    }

    /// From the wire to the driver.
    fn receive(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        if !rings.is_ready(RECEIVE) {
            return Ok(());
        }
        let mut ring = rings.ring(RECEIVE)?;
        while let Some(frame) = self.waiting.take().or_else(|| self.wire.take()) {
            let length = (self.header + frame.bytes.len()) as u64;
            let Some(count) = self.gather(&mut ring, length)? else {
                self.waiting = Some(frame);
                return Ok(());
            };
            // A driver without merged buffers whose buffer is too small loses the frame and keeps the buffer.
            if count > 0 {
                self.fill(&mut ring, &frame, count)?;
            }
        }
        Ok(())
    }

    /// How many buffers this many bytes take, once they are there; 0 when they never fit.
    fn gather(&mut self, ring: &mut Ring<'_>, length: u64) -> Result<Option<usize>, Broken> {
        let most = if self.merged { usize::from(QUEUE_SIZES[0]) } else { 1 };
        let (mut found, mut count) = (0, 0);
        while found < length {
            if count == most {
                return Ok(Some(0));
            }
            if self.room.len() == count {
                let Some(chain) = ring.take()? else { return Ok(None) };
                // The header is in one piece, and a buffer without room would be none (5.1.6.3.1).
                if chain.writable() < self.header as u64 {
                    return Err(Broken::NoRoom);
                }
                self.room.push_back(chain);
            }
            found += self.room[count].writable();
            count += 1;
        }
        Ok(Some(count))
    }

    /// Puts a frame into the first `count` buffers and gives them back together.
    fn fill(&mut self, ring: &mut Ring<'_>, frame: &Frame, count: usize) -> Result<(), Broken> {
        let header = frame.header(count as u16);
        let mut rest = &frame.bytes[..];
        let mut filled = Vec::with_capacity(count);
        for (number, mut chain) in self.room.drain(..count).enumerate() {
            let before = chain.writable();
            if number == 0 && !ring.write(&mut chain, &header[..self.header]) {
                return Err(Broken::NoRoom);
            }
            let here = usize::try_from(chain.writable()).unwrap_or(usize::MAX).min(rest.len());
            let (piece, behind) = rest.split_at(here);
            if !ring.write(&mut chain, piece) {
                return Err(Broken::NoRoom);
            }
            rest = behind;
            let written = (before - chain.writable()) as u32;
            filled.push((chain, written));
        }
        ring.finish_together(&filled)
    }
}

/// A frame of the driver's; none for one that is no frame, or wants what was not offered.
fn read(ring: &Ring<'_>, chain: &mut Chain, header_length: usize) -> Option<Frame> {
    let length = usize::try_from(chain.readable()).ok()?.checked_sub(header_length)?;
    if !(frame::SHORTEST..=frame::LONGEST).contains(&length) {
        return None;
    }
    let (mut header, mut bytes) = ([0; HEADER], vec![0; length]);
    let whole = ring.read(chain, &mut header[..header_length]) && ring.read(chain, &mut bytes);
    Frame::read(&header, bytes).filter(|_| whole)
}

impl<W: Wire> VirtioDevice for VirtioNet<W> {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Network
    }

    fn features(&self) -> u64 {
        let always = feature::ADDRESS | feature::MTU | feature::MERGED_BUFFERS;
        let Abilities { unfinished, large } = self.wire.abilities();
        let bits = |can: bool, bits: u64| if can { bits } else { 0 };
        always
            | bits(self.wire.carrier().is_some(), feature::STATUS)
            | bits(unfinished, feature::CHECKSUM | feature::GUEST_CHECKSUM)
            | bits(large, feature::HOST_TSO4 | feature::GUEST_TSO4)
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn activate(&mut self, features: u64) {
        self.merged = features & feature::MERGED_BUFFERS != 0;
        let modern = features & super::feature::VERSION_1 != 0;
        self.header = if modern || self.merged { HEADER } else { SHORT_HEADER };
        let unfinished = features & feature::GUEST_CHECKSUM != 0;
        // Large segments have sums to make, and fill many buffers (5.1.3.1). A driver from before 1.0 that takes them makes
        // each of its buffers that large instead (5.1.6.3.1).
        let large = unfinished && (self.merged || !modern) && features & feature::GUEST_TSO4 != 0;
        self.wire.start(Abilities { unfinished, large });
    }

    fn reset(&mut self) {
        self.room.clear();
        self.waiting = None;
        self.wire.stop();
    }

    fn notify(&mut self, queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let done = match queue {
            TRANSMIT => self.transmit(rings),
            _ => self.receive(rings),
        };
        self.wire.settle();
        done
    }

    fn wake(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        if self.note_carrier() {
            rings.configuration_changed();
        }
        let done = self.receive(rings).and_then(|()| self.transmit(rings));
        self.wire.settle();
        done
    }
}

#[cfg(test)]
#[path = "net_tests.rs"]
mod tests;
