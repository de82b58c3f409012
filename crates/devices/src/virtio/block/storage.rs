//! What a disk needs from outside: where its bytes are, and who moves them.

use std::ops::Range;
use std::sync::Arc;

use super::request::{Done, Job};
use crate::lguest::block::DiskError;

/// Where a disk's bytes are. Ranges are bytes that lie in the disk. What is asked of it may be asked of several threads at
/// a time.
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
    /// Fills `bytes` from `offset` if that needs no waiting for a disk of the host's; else false, whatever the reason.
    fn read_at_once(&self, _offset: u64, _bytes: &mut [u8]) -> bool {
        false
    }
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

/// Who carries requests out.
pub trait Crew: Send {
    /// Takes a request on; gives it back when it is done already.
    fn take(&mut self, job: Job) -> Option<Done>;
    /// One that was done since, in any order. Whoever finishes one wakes the device.
    fn done(&mut self) -> Option<Done>;
    /// Comes back when none is under way. What was taken on and not given back is forgotten.
    fn settle(&mut self);
}

/// A crew of nobody: requests are carried out by who brings them.
pub struct Alone {
    storage: Arc<dyn Storage>,
    buffer: Vec<u8>,
}

impl Alone {
    /// For this disk.
    pub fn new(storage: Arc<dyn Storage>) -> Alone {
        Alone { storage, buffer: Vec::new() }
    }
}

impl Crew for Alone {
    fn take(&mut self, job: Job) -> Option<Done> {
        Some(job.carry_out(&*self.storage, &mut self.buffer))
    }

    fn done(&mut self) -> Option<Done> {
        None
    }

    fn settle(&mut self) {}
}
