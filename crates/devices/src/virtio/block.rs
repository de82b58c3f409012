//! A disk (virtio 1.2, 5.2): one queue of requests, each a header, data and a status byte.
//!
//! ```text
//!   readable  type, reserved, sector (16 bytes) │ data of a write, or ranges to discard or zero
//!   writable  data of a read, or the serial number                                     │ status (1 byte)
//! ```
//! The status is the last writable byte, wherever it lies. Requests are answered in order, each before the next.

use std::ops::Range;
use std::sync::Arc;

use super::chain::Chain;
use super::ring::{Broken, Ring};
use super::rings::Rings;
use super::{DeviceKind, QueueIndex, VirtioDevice};
use crate::lguest::block::DiskError;

/// Bytes of a sector, the unit of everything here (5.2.4).
const SECTOR: u64 = 512;
/// Requests are at most this many descriptors in a queue; a header and a status beside a full set of segments fit.
const QUEUE_SIZES: [u16; 1] = [128];
/// Segments of data a request: the queue's size without header and status.
const SEGMENTS: u32 = 126;
/// Bytes a segment. Linux makes none longer by itself.
const SEGMENT: u32 = 64 << 10;
/// The most data a request may move: what the two above allow. A longer one is an error, so that a queue full of requests
/// is at most a gigabyte of work.
const LONGEST: u64 = SEGMENTS as u64 * SEGMENT as u64;
/// Bytes moved at once between disk and Guest.
const PIECE: usize = 128 << 10;
/// Ranges a request to discard or zero may have.
const RANGES: u32 = 16;
/// Sectors a range may have: 64 MiB, for a host file system may have to write zeroes.
const RANGE_SECTORS: u32 = 1 << 17;
/// Bytes of the serial number (5.2.6).
pub const SERIAL: usize = 20;

mod feature {
    pub const SEGMENT: u64 = 1 << 1;
    pub const SEGMENTS: u64 = 1 << 2;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const SECTOR: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const DISCARD: u64 = 1 << 13;
    pub const ZEROES: u64 = 1 << 14;
}

mod request {
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const SERIAL: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const ZEROES: u32 = 13;
}

/// How a request ended: the status byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Done = 0,
    Failed = 1,
    Unsupported = 2,
}

impl From<Result<(), DiskError>> for Status {
    fn from(done: Result<(), DiskError>) -> Status {
        if done.is_ok() { Status::Done } else { Status::Failed }
    }
}

/// A disk that can do what this device offers. Ranges are bytes that lie in the disk.
/// What is asked of it may be asked of several threads at a time.
pub trait Storage: Send + Sync {
    /// Bytes, a multiple of 512. Never changes.
    fn length(&self) -> u64;
    /// Whether it may be written.
    fn is_writable(&self) -> bool;
    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// [`DiskError`].
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError>;
    /// Stores `bytes` at `offset`.
    ///
    /// # Errors
    /// [`DiskError`], also for a disk that may only be read.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;
    /// Comes back when all that was written is safe from a power cut.
    ///
    /// # Errors
    /// [`DiskError`]: then nobody knows what is safe.
    fn flush(&self) -> Result<(), DiskError>;
    /// The bytes are of no use any more; whether they take room and what they read as is the disk's choice.
    ///
    /// # Errors
    /// [`DiskError`].
    fn discard(&self, range: Range<u64>) -> Result<(), DiskError>;
    /// The bytes read as zeroes from now on; with `unmap` they need not take room.
    ///
    /// # Errors
    /// [`DiskError`].
    fn zero(&self, range: Range<u64>, unmap: bool) -> Result<(), DiskError>;
}

/// The device.
pub struct VirtioBlock {
    storage: Arc<dyn Storage>,
    serial: [u8; SERIAL],
    configuration: Vec<u8>,
    /// The driver knows of flushing, so a write may wait for one (5.2.6.2).
    driver_flushes: bool,
    buffer: Vec<u8>,
}

impl VirtioBlock {
    /// A disk that shows this serial number, cut after 20 bytes.
    pub fn new(storage: Arc<dyn Storage>, serial: &str) -> Self {
        let mut number = [0; SERIAL];
        number.iter_mut().zip(serial.bytes()).for_each(|(place, byte)| *place = byte);
        let configuration = configuration(storage.length() / SECTOR);
        VirtioBlock { storage, serial: number, configuration, driver_flushes: false, buffer: vec![0; PIECE] }
    }

    fn answer(&mut self, ring: &mut Ring<'_>, mut chain: Chain) -> Result<(), Broken> {
        // The status has its place before anything is done.
        let room = chain.writable().checked_sub(1).ok_or(Broken::NoRoom)?;
        let status = self.carry_out(ring, &mut chain, room);
        let data = room - (chain.writable() - 1);
        let rest = chain.writable() - 1;
        chain.skip_room(rest);
        ring.write(&mut chain, &[status as u8]);
        // Only what was written from the beginning on counts, and the status is at the end.
        let written = if rest == 0 { data + 1 } else { 0 };
        ring.finish(&chain, written as u32)
    }

    fn carry_out(&mut self, ring: &Ring<'_>, chain: &mut Chain, room: u64) -> Status {
        let mut header = [0; 16];
        if !ring.read(chain, &mut header) {
            return Status::Failed;
        }
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let mut sector = [0; 8];
        sector.copy_from_slice(&header[8..]);
        let sector = u64::from_le_bytes(sector);
        match kind {
            request::READ => self.read(ring, chain, sector, room),
            request::WRITE => self.write(ring, chain, sector),
            request::FLUSH => self.storage.flush().into(),
            request::SERIAL => self.show_serial(ring, chain, room),
            request::DISCARD | request::ZEROES => self.ranges(ring, chain, kind),
            _ => Status::Unsupported,
        }
    }

    /// The place of a request's data, when all of it is on the disk and can be one request's.
    fn place(&self, sector: u64, length: u64) -> Option<u64> {
        let start = sector.checked_mul(SECTOR)?;
        let end = start.checked_add(length)?;
        let fits = length <= LONGEST && length.is_multiple_of(SECTOR) && end <= self.storage.length();
        fits.then_some(start)
    }

    fn read(&mut self, ring: &Ring<'_>, chain: &mut Chain, sector: u64, room: u64) -> Status {
        let Some(mut at) = self.place(sector, room) else { return Status::Failed };
        let end = at + room;
        while at < end {
            let piece = &mut self.buffer[..PIECE.min((end - at) as usize)];
            if self.storage.read(at, piece).is_err() || !ring.write(chain, piece) {
                return Status::Failed;
            }
            at += piece.len() as u64;
        }
        Status::Done
    }

    fn write(&mut self, ring: &Ring<'_>, chain: &mut Chain, sector: u64) -> Status {
        let length = chain.readable();
        let Some(mut at) = self.place(sector, length).filter(|_| self.storage.is_writable()) else {
            return Status::Failed;
        };
        let end = at + length;
        while at < end {
            let piece = &mut self.buffer[..PIECE.min((end - at) as usize)];
            if !ring.read(chain, piece) || self.storage.write(at, piece).is_err() {
                return Status::Failed;
            }
            at += piece.len() as u64;
        }
        self.settle()
    }

    /// A driver that never flushes expects what was written to be safe when it hears of it (5.2.6.2).
    fn settle(&mut self) -> Status {
        if self.driver_flushes { Status::Done } else { self.storage.flush().into() }
    }

    fn show_serial(&mut self, ring: &Ring<'_>, chain: &mut Chain, room: u64) -> Status {
        let length = SERIAL.min(usize::try_from(room).unwrap_or(SERIAL));
        if ring.write(chain, &self.serial[..length]) { Status::Done } else { Status::Failed }
    }

    /// Discards or zeroes ranges. All are looked at before the first is touched.
    fn ranges(&mut self, ring: &Ring<'_>, chain: &mut Chain, kind: u32) -> Status {
        const RANGE: u64 = 16;
        const UNMAP: u32 = 1;
        let length = chain.readable();
        let count = length / RANGE;
        let whole = length.is_multiple_of(RANGE) && (1..=u64::from(RANGES)).contains(&count);
        if !whole || !self.storage.is_writable() {
            return Status::Failed;
        }
        let mut ranges = Vec::new();
        for _ in 0..count {
            let mut bytes = [0; RANGE as usize];
            if !ring.read(chain, &mut bytes) {
                return Status::Failed;
            }
            let word =
                |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
            let (sectors, flags) = (word(8), word(12));
            // Reserved flags, and a discard that asks for what it does anyway (5.2.6.2).
            if flags & !UNMAP != 0 || kind == request::DISCARD && flags != 0 {
                return Status::Unsupported;
            }
            let bytes = u64::from(sectors) * SECTOR;
            let start = sector.checked_mul(SECTOR).filter(|_| sectors <= RANGE_SECTORS);
            let end = start.and_then(|start| start.checked_add(bytes));
            match (start, end) {
                (Some(start), Some(end)) if end <= self.storage.length() => {
                    ranges.push((start..end, flags == UNMAP))
                }
                _ => return Status::Failed,
            }
        }
        for (range, unmap) in ranges.into_iter().filter(|(range, _)| !range.is_empty()) {
            let done = match kind {
                request::DISCARD => self.storage.discard(range),
                _ => self.storage.zero(range, unmap),
            };
            if done.is_err() {
                return Status::Failed;
            }
        }
        self.settle()
    }
}

impl VirtioDevice for VirtioBlock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        let always = feature::SEGMENT | feature::SEGMENTS | feature::SECTOR | feature::FLUSH;
        let more =
            if self.storage.is_writable() { feature::DISCARD | feature::ZEROES } else { feature::READ_ONLY };
        always | more
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn activate(&mut self, features: u64) {
        self.driver_flushes = features & feature::FLUSH != 0;
    }

    fn notify(&mut self, queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let mut ring = rings.ring(queue)?;
        while let Some(chain) = ring.take()? {
            self.answer(&mut ring, chain)?;
        }
        Ok(())
    }
}

/// The fields of `struct virtio_blk_config` (5.2.4), up to what zeroing needs.
fn configuration(sectors: u64) -> Vec<u8> {
    const LENGTH: usize = 60;
    let mut fields = vec![0; LENGTH];
    let mut put = |at: usize, bytes: &[u8]| fields[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &sectors.to_le_bytes());
    put(8, &SEGMENT.to_le_bytes());
    put(12, &SEGMENTS.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    // One queue.
    put(34, &1u16.to_le_bytes());
    // Discarding: sectors a range, ranges a request, alignment.
    put(36, &RANGE_SECTORS.to_le_bytes());
    put(40, &RANGES.to_le_bytes());
    put(44, &1u32.to_le_bytes());
    // Zeroing: the same, and that it may free room.
    put(48, &RANGE_SECTORS.to_le_bytes());
    put(52, &RANGES.to_le_bytes());
    put(56, &[1]);
    fields
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
