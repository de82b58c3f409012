//! A disk (virtio 1.2, 5.2).
//!
//! ```text
//!   queue ─► Job: a request, understood ─► Crew: at once, or on a worker ─► Done ─► queue
//!            `request`                     `storage`, and the Launcher's threads
//! ```
//! A request is answered when it is done: in any order, and never before what it asked for is so (5.2.6.2). A flush answers
//! for every write that was answered before it came.

use std::sync::Arc;

use super::ring::Broken;
use super::rings::Rings;
use super::{DeviceKind, QueueIndex, VirtioDevice};

pub mod request;
pub mod storage;

use request::{Done, Job, Limits};
use storage::Crew;
pub use storage::Storage;

/// Bytes of a sector, the unit of everything here (5.2.4).
const SECTOR: u64 = 512;
/// Requests are at most this many descriptors in a queue; a header and a status beside a full set of segments fit.
const QUEUE_SIZE: u16 = 128;
/// Queues at most: one for each vCPU that a machine may have.
pub const MOST_QUEUES: u16 = 8;
/// Segments of data a request: the queue's size without header and status.
const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes a segment. Linux makes none longer by itself.
const SEGMENT: u32 = 64 << 10;
/// The most data a request may move: what the two above allow. A longer one is an error, so that a queue full of requests
/// is at most a gigabyte of work.
const LONGEST: u64 = SEGMENTS as u64 * SEGMENT as u64;
/// Ranges a request to discard or zero may have.
const RANGES: u32 = 16;
/// Sectors a range may have: 64 MiB, for a host file system may have to write zeroes.
const RANGE_SECTORS: u32 = 1 << 17;
/// Bytes of the serial number (5.2.6).
pub const SERIAL: usize = 20;

/// Features (5.2.3).
mod feature {
    pub const SEGMENT: u64 = 1 << 1;
    pub const SEGMENTS: u64 = 1 << 2;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const SECTOR: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const QUEUES: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const ZEROES: u64 = 1 << 14;
}

/// The device.
pub struct VirtioBlock {
    crew: Box<dyn Crew>,
    limits: Limits,
    serial: [u8; SERIAL],
    configuration: Vec<u8>,
    queue_sizes: Vec<u16>,
    /// Requests of each queue that the crew has. A driver cannot have more under way than the queue is long, and one that
    /// offers a chain twice shall not make us keep it twice as often.
    under_way: Vec<u16>,
    /// The driver knows of flushing, so a write may wait for one (5.2.6.2).
    driver_flushes: bool,
}

impl VirtioBlock {
    /// A disk with this many queues (1 to [`MOST_QUEUES`], else the nearest of these) that shows this serial number, cut
    /// after 20 bytes. `crew` moves the bytes of `storage`.
    pub fn new(storage: &Arc<dyn Storage>, serial: &str, queues: u16, crew: impl Crew + 'static) -> Self {
        let queues = queues.clamp(1, MOST_QUEUES);
        let mut number = [0; SERIAL];
        number.iter_mut().zip(serial.bytes()).for_each(|(place, byte)| *place = byte);
        VirtioBlock {
            crew: Box::new(crew),
            limits: Limits { length: storage.length(), writable: storage.is_writable() },
            serial: number,
            configuration: configuration(storage.length() / SECTOR, queues),
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
            under_way: vec![0; queues.into()],
            driver_flushes: false,
        }
    }

    /// Takes what a queue has, up to what may be under way.
    fn serve(&mut self, queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let memory = rings.memory().clone();
        let mut ring = rings.ring(queue)?;
        while self.under_way[usize::from(queue.0)] < QUEUE_SIZE {
            let Some(chain) = ring.take()? else { break };
            let job = Job::new(queue, chain, &memory, self.limits, self.serial, !self.driver_flushes)?;
            match self.crew.take(job) {
                Some(Done { chain, written, .. }) => ring.finish(&chain, written)?,
                None => self.under_way[usize::from(queue.0)] += 1,
            }
        }
        Ok(())
    }
}

impl VirtioDevice for VirtioBlock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        let always =
            feature::SEGMENT | feature::SEGMENTS | feature::SECTOR | feature::FLUSH | feature::QUEUES;
        let more = if self.limits.writable { feature::DISCARD | feature::ZEROES } else { feature::READ_ONLY };
        always | more
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn activate(&mut self, features: u64) {
        self.driver_flushes = features & feature::FLUSH != 0;
    }

    fn reset(&mut self) {
        self.crew.settle();
        self.under_way.fill(0);
    }

    fn notify(&mut self, queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
        self.serve(queue, rings)
    }

    fn wake(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        while let Some(Done { queue, chain, written }) = self.crew.done() {
            self.under_way[usize::from(queue.0)] -= 1;
            // A queue may have been taken out of use meanwhile; then nobody waits for an answer.
            if rings.is_ready(queue) {
                rings.ring(queue)?.finish(&chain, written)?;
            }
        }
        // There is room again for what had to wait in its queue.
        for queue in (0..self.under_way.len() as u16).map(QueueIndex) {
            if rings.is_ready(queue) {
                self.serve(queue, rings)?;
            }
        }
        Ok(())
    }
}

/// The fields of `struct virtio_blk_config` (5.2.4), up to what zeroing needs.
fn configuration(sectors: u64, queues: u16) -> Vec<u8> {
    const LENGTH: usize = 60;
    let mut fields = vec![0; LENGTH];
    let mut put = |at: usize, bytes: &[u8]| fields[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &sectors.to_le_bytes());
    put(8, &SEGMENT.to_le_bytes());
    put(12, &SEGMENTS.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(34, &queues.to_le_bytes());
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
mod tests;
