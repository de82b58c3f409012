//! A request to a disk, understood (virtio 1.2, 5.2.6) and carried out.
//!
//! ```text
//!   readable  type, reserved, sector (16 bytes) │ data of a write, or ranges to discard or zero
//!   writable  data of a read, or the serial number                                     │ status (1 byte)
//! ```
//! The status is the last writable byte, wherever it lies. Nothing is done before all of a request is understood.

use std::ops::Range;
use std::sync::Arc;

use super::super::QueueIndex;
use super::super::chain::Chain;
use super::super::memory::DmaMemory;
use super::super::ring::Broken;
use super::storage::Storage;
use super::{LONGEST, RANGE_SECTORS, RANGES, SECTOR, SERIAL};
use crate::lguest::block::DiskError;

/// Bytes moved at once between disk and Guest.
const PIECE: usize = 128 << 10;
/// Bytes of a range (`struct virtio_blk_discard_write_zeroes`).
const RANGE: u64 = 16;
/// Its one flag that means something: the room need not be kept.
const UNMAP: u32 = 1;

/// Types of requests.
pub(super) mod kind {
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const SERIAL: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const ZEROES: u32 = 13;
    /// A mark beside the type, from before 1.0: a barrier. Linux up to 2.6.36 sets it on flushes and on what is written between two
    /// of them, whether or not barriers were offered, and waits for all earlier requests by itself.
    pub const BARRIER: u32 = 1 << 31;
}

/// How a request ended: the status byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// VIRTIO_BLK_S_OK.
    Done = 0,
    /// VIRTIO_BLK_S_IOERR.
    Failed = 1,
    /// VIRTIO_BLK_S_UNSUPP.
    Unsupported = 2,
}

impl From<Result<(), DiskError>> for Status {
    fn from(done: Result<(), DiskError>) -> Status {
        if done.is_ok() { Status::Done } else { Status::Failed }
    }
}

/// What the driver wants. All bytes that are named lie on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Bytes of the disk into the chain.
    Read(Range<u64>),
    /// Bytes of the chain onto the disk.
    Write(Range<u64>),
    /// What was written is to be safe.
    Flush,
    /// The serial number.
    Serial,
    /// These bytes are of no use any more.
    Discard(Vec<Range<u64>>),
    /// These bytes are zeroes from now on; true where they need not keep their room.
    Zero(Vec<(Range<u64>, bool)>),
}

/// The disk, as far as understanding a request needs it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes.
    pub length: u64,
    /// Whether it may be written.
    pub writable: bool,
}

impl Limits {
    /// These bytes, if all of them are on the disk.
    fn range(self, sector: u64, length: u64) -> Result<Range<u64>, Status> {
        let start = sector.checked_mul(SECTOR).ok_or(Status::Failed)?;
        let end = start.checked_add(length).ok_or(Status::Failed)?;
        if end <= self.length { Ok(start..end) } else { Err(Status::Failed) }
    }

    /// The bytes of one request's data.
    fn data(self, sector: u64, length: u64) -> Result<Range<u64>, Status> {
        match length <= LONGEST && length.is_multiple_of(SECTOR) {
            true => self.range(sector, length),
            false => Err(Status::Failed),
        }
    }

    fn may_write(self) -> Result<(), Status> {
        if self.writable { Ok(()) } else { Err(Status::Failed) }
    }
}

impl Request {
    /// Reads a chain's header, and a request's ranges where it has some.
    ///
    /// # Errors
    /// The status of a request that cannot be carried out.
    fn understand(
        chain: &mut Chain,
        memory: &DmaMemory,
        room: u64,
        limits: Limits,
    ) -> Result<Request, Status> {
        let mut header = [0; 16];
        if !chain.read(memory, &mut header) {
            return Err(Status::Failed);
        }
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([a, b, c, d]) & !kind::BARRIER {
            kind::READ => limits.data(sector, room).map(Request::Read),
            kind::WRITE => {
                limits.may_write()?;
                limits.data(sector, chain.readable()).map(Request::Write)
            }
            kind::FLUSH => Ok(Request::Flush),
            kind::SERIAL => Ok(Request::Serial),
            kind::DISCARD => {
                let ranges = ranges(chain, memory, limits)?;
                // A discard that asks for what it does anyway is one that nobody understands (5.2.6.2).
                let odd = ranges.iter().any(|(_, unmap)| *unmap);
                if odd { Err(Status::Unsupported) } else { Ok(Request::Discard(firsts(ranges))) }
            }
            kind::ZEROES => ranges(chain, memory, limits).map(Request::Zero),
            _ => Err(Status::Unsupported),
        }
    }
}

fn firsts(ranges: Vec<(Range<u64>, bool)>) -> Vec<Range<u64>> {
    ranges.into_iter().map(|(range, _)| range).collect()
}

/// The ranges of a request to discard or zero, those of no bytes left out. All are looked at before the first is touched.
fn ranges(chain: &mut Chain, memory: &DmaMemory, limits: Limits) -> Result<Vec<(Range<u64>, bool)>, Status> {
    limits.may_write()?;
    let length = chain.readable();
    let count = length / RANGE;
    if !length.is_multiple_of(RANGE) || !(1..=u64::from(RANGES)).contains(&count) {
        return Err(Status::Failed);
    }
    let mut found = Vec::new();
    for _ in 0..count {
        let mut bytes = [0; RANGE as usize];
        if !chain.read(memory, &mut bytes) {
            return Err(Status::Failed);
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
        let (sectors, flags) = (word(8), word(12));
        if flags & !UNMAP != 0 {
            return Err(Status::Unsupported);
        }
        if sectors > RANGE_SECTORS {
            return Err(Status::Failed);
        }
        let range = limits.range(sector, u64::from(sectors) * SECTOR)?;
        if !range.is_empty() {
            found.push((range, flags == UNMAP));
        }
    }
    Ok(found)
}

/// A request on its way: nobody but its holder knows its chain.
pub struct Job {
    queue: QueueIndex,
    chain: Chain,
    memory: Arc<DmaMemory>,
    request: Result<Request, Status>,
    /// Writable bytes before the status.
    room: u64,
    serial: [u8; SERIAL],
    /// Flush behind every change, for a driver that never asks to.
    through: bool,
}

impl Job {
    /// Understands a chain of this queue.
    ///
    /// # Errors
    /// [`Broken::NoRoom`] for a chain without a place for a status: there is no way to answer.
    pub(super) fn new(
        queue: QueueIndex,
        mut chain: Chain,
        memory: &Arc<DmaMemory>,
        limits: Limits,
        serial: [u8; SERIAL],
        through: bool,
    ) -> Result<Job, Broken> {
        let room = chain.writable().checked_sub(1).ok_or(Broken::NoRoom)?;
        let request = Request::understand(&mut chain, memory, room, limits);
        Ok(Job { queue, chain, memory: memory.clone(), request, room, serial, through })
    }

    /// Bytes that it writes, when it is a write and no more: they may stay in the host's memory until a flush.
    pub fn writes(&self) -> Option<u64> {
        match &self.request {
            Ok(Request::Write(range)) if !self.through => Some(range.end - range.start),
            _ => None,
        }
    }

    /// Carries it out now, however long that takes. `buffer` is where bytes pass through.
    pub fn carry_out(mut self, storage: &dyn Storage, buffer: &mut Vec<u8>) -> Done {
        buffer.resize(PIECE, 0);
        let status = match self.request.clone() {
            Err(status) => status,
            Ok(Request::Read(range)) => self.read(storage, range, buffer),
            Ok(Request::Write(range)) => self.write(storage, range, buffer),
            Ok(Request::Flush) => storage.flush().into(),
            Ok(Request::Serial) => self.show_serial(),
            Ok(Request::Discard(ranges)) => {
                self.change(storage, ranges.into_iter().map(|range| storage.discard(range)))
            }
            Ok(Request::Zero(ranges)) => {
                let zeroed = ranges.into_iter().map(|(range, unmap)| storage.zero(range, unmap));
                self.change(storage, zeroed)
            }
        };
        self.finish(status)
    }

    /// Carries it out if nothing in it has to wait for the host's disk.
    ///
    /// # Errors
    /// The job as it was, when something has to.
    pub fn carry_out_at_once(
        mut self,
        storage: &dyn Storage,
        buffer: &mut Vec<u8>,
    ) -> Result<Done, Box<Job>> {
        let status = match self.request.clone() {
            Err(status) => status,
            Ok(Request::Serial) => self.show_serial(),
            // Only what fits the buffer, so that the Guest sees nothing of a read that stops half-way.
            Ok(Request::Read(range)) if range.end - range.start <= PIECE as u64 => {
                buffer.resize(PIECE, 0);
                let piece = &mut buffer[..(range.end - range.start) as usize];
                if !storage.read_at_once(range.start, piece) {
                    return Err(Box::new(self));
                }
                if self.chain.write(&self.memory, piece) { Status::Done } else { Status::Failed }
            }
            Ok(_) => return Err(Box::new(self)),
        };
        Ok(self.finish(status))
    }

    fn read(&mut self, storage: &dyn Storage, range: Range<u64>, buffer: &mut [u8]) -> Status {
        let mut at = range.start;
        while at < range.end {
            let piece = &mut buffer[..PIECE.min((range.end - at) as usize)];
            if storage.read(at, piece).is_err() || !self.chain.write(&self.memory, piece) {
                return Status::Failed;
            }
            at += piece.len() as u64;
        }
        Status::Done
    }

    fn write(&mut self, storage: &dyn Storage, range: Range<u64>, buffer: &mut [u8]) -> Status {
        let mut at = range.start;
        while at < range.end {
            let piece = &mut buffer[..PIECE.min((range.end - at) as usize)];
            if !self.chain.read(&self.memory, piece) || storage.write(at, piece).is_err() {
                return Status::Failed;
            }
            at += piece.len() as u64;
        }
        self.settle(storage)
    }

    fn change(
        &self,
        storage: &dyn Storage,
        mut steps: impl Iterator<Item = Result<(), DiskError>>,
    ) -> Status {
        if steps.any(|done| done.is_err()) { Status::Failed } else { self.settle(storage) }
    }

    /// A driver that never flushes expects what was written to be safe when it hears of it (5.2.6.2).
    fn settle(&self, storage: &dyn Storage) -> Status {
        if self.through { storage.flush().into() } else { Status::Done }
    }

    fn show_serial(&mut self) -> Status {
        let length = SERIAL.min(usize::try_from(self.room).unwrap_or(SERIAL));
        let shown = self.chain.write(&self.memory, &self.serial[..length]);
        if shown { Status::Done } else { Status::Failed }
    }

    fn finish(mut self, status: Status) -> Done {
        let rest = self.chain.writable() - 1;
        self.chain.skip_room(rest);
        self.chain.write(&self.memory, &[status as u8]);
        // Only what was written from the beginning on counts, and the status is at the end.
        let written = if rest == 0 { self.room + 1 } else { 0 };
        Done { queue: self.queue, chain: self.chain, written: written as u32 }
    }
}

/// A request that was carried out, and has its status; only the driver does not know yet.
pub struct Done {
    /// Whose queue it came from.
    pub queue: QueueIndex,
    /// What to give back.
    pub chain: Chain,
    /// Bytes written from the beginning of its writable part on.
    pub written: u32,
}
