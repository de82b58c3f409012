//! The program's memory: reached through the kernel, and made the Guest's.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use lguest_host::memory::{GuestAddress, HOLE_START, Memory};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes copied at a time.
const PIECE: usize = 64 << 10;
/// Ranges that a child of fork is given a copy of: more Guests than a program has at once.
const MOST_PLACED: usize = 64;

fn vector(address: usize, length: usize) -> libc::iovec {
    libc::iovec { iov_base: address as *mut c_void, iov_len: length }
}

/// The process' number, as the kernel's calls take it.
pub fn this_process() -> libc::pid_t {
    std::process::id().cast_signed()
}

/// Copies bytes of the program's; how many there were before the first that cannot be read.
fn read(address: usize, bytes: &mut [u8]) -> usize {
    let (local, remote) = (vector(bytes.as_mut_ptr() as usize, bytes.len()), vector(address, bytes.len()));
    // SAFETY: `local` is `bytes`; what `remote` leads to the kernel checks.
    let copied = unsafe { libc::process_vm_readv(this_process(), &local, 1, &remote, 1, 0) };
    usize::try_from(copied).unwrap_or(0)
}

/// Copies bytes to where the program wants them.
///
/// # Errors
/// EFAULT.
pub fn write(address: usize, bytes: &[u8]) -> Result<(), c_int> {
    let (local, remote) = (vector(bytes.as_ptr() as usize, bytes.len()), vector(address, bytes.len()));
    // SAFETY: `local` is `bytes`, which are only read; what `remote` leads to the kernel checks.
    let copied = unsafe { libc::process_vm_writev(this_process(), &local, 1, &remote, 1, 0) };
    if usize::try_from(copied) == Ok(bytes.len()) { Ok(()) } else { Err(libc::EFAULT) }
}

/// Fills words from the program's memory.
///
/// # Errors
/// EFAULT.
pub fn read_words(address: usize, words: &mut [u64]) -> Result<(), c_int> {
    let mut bytes = vec![0; words.len() * 8];
    if read(address, &mut bytes) < bytes.len() {
        return Err(libc::EFAULT);
    }
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    Ok(())
}

/// A stretch of the program's memory, in whole pages, all of which it may read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    base: u64,
    bytes: u64,
    /// Mapped for this process alone.
    private: bool,
}

impl Range {
    /// The range, if it is one: whole pages below 3 GiB of length, mapped by the program for reading and writing, all of it
    /// private or all of it shared.
    pub fn check(base: u64, bytes: u64) -> Option<Range> {
        let end = base.checked_add(bytes)?;
        if !base.is_multiple_of(PAGE) || bytes == 0 || bytes > HOLE_START {
            return None;
        }
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        within(&maps, base, end).map(|private| Range { base, bytes, private })
    }

    /// Copies what the program has there.
    ///
    /// # Errors
    /// EFAULT when some of it cannot be read after all.
    pub fn copy_into(&self, memory: &Memory) -> Result<(), c_int> {
        let mut piece = vec![0; PIECE];
        for at in (0..self.bytes).step_by(PIECE) {
            let piece = &mut piece[..(self.bytes - at).min(PIECE as u64) as usize];
            if read((self.base + at) as usize, piece) < piece.len() {
                return Err(libc::EFAULT);
            }
            // Pages that nobody has touched cost nothing on the other side either.
            for (at, page) in (at..).step_by(PAGE as usize).zip(piece.chunks(PAGE as usize)) {
                if page.iter().any(|byte| *byte != 0) {
                    memory.write(GuestAddress(at), page).map_err(|_| libc::EFAULT)?;
                }
            }
        }
        Ok(())
    }

    /// Maps the Guest's memory in place of the program's, in one step.
    ///
    /// # Errors
    /// ENOMEM when the host refuses; the program's memory is as it was.
    pub fn become_the_guests(&self, memory: &Memory) -> Result<(), c_int> {
        let file = memory.file().try_clone().map_err(|_| libc::ENOMEM)?;
        self.map(&file.as_raw_fd(), libc::MAP_SHARED).ok_or(libc::ENOMEM)?;
        let mut placed = PLACED.lock().unwrap_or_else(PoisonError::into_inner);
        placed.retain(|(other, _)| other.base != self.base);
        if placed.len() < MOST_PLACED {
            placed.push((*self, file.into()));
        }
        Ok(())
    }

    fn map(&self, file: &c_int, sharing: c_int) -> Option<()> {
        let (place, length) = (self.base as *mut c_void, self.bytes as usize);
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, sharing | libc::MAP_FIXED);
        // SAFETY: replaces memory that the program named as its Guest's, by the same bytes at the same addresses.
        let mapped = unsafe { libc::mmap(place, length, rights, flags, *file, 0) };
        (mapped != libc::MAP_FAILED).then_some(())
    }
}

/// Whether mappings cover a range, readable and writable: true for private ones, false for shared ones, none otherwise.
fn within(maps: &str, base: u64, end: u64) -> Option<bool> {
    let (mut at, mut kind) = (base, None);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some((from, to)), Some(rights)) =
            (words.next().and_then(|range| range.split_once('-')), words.next())
        else {
            continue;
        };
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (from, to) = (number(from)?, number(to)?);
        if to <= at || from >= end {
            continue;
        }
        let private = rights.ends_with('p');
        if from > at || !rights.starts_with("rw") || kind.is_some_and(|kind| kind != private) {
            return None;
        }
        (at, kind) = (to, Some(private));
        if at >= end {
            return kind;
        }
    }
    None
}

/// What was placed, for children.
static PLACED: Mutex<Vec<(Range, OwnedFd)>> = Mutex::new(Vec::new());

/// In a child of fork: what was private to the program is the child's own copy from now on, as private memory is.
pub fn leave_to_the_parent() {
    // Another thread of the parent's may have been at it; then the child goes without.
    let Ok(placed) = PLACED.try_lock() else { return };
    for (range, file) in placed.iter().filter(|(range, _)| range.private) {
        let file: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(file);
        let _ = range.map(&file.as_raw_fd(), libc::MAP_PRIVATE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "1000-3000 rw-p 00000000 00:00 0\n3000-4000 rw-p 00000000 00:00 0 [heap]\n\
                        4000-5000 rw-s 00000000 00:01 9 /memfd:x\n5000-6000 r--p 00000000 00:00 0\n8000-9000 rw-p 0 0:0 0\n";

    #[test]
    fn a_range_is_covered_by_mappings_of_one_kind_or_not_at_all() {
        assert_eq!(within(MAPS, 0x1000, 0x4000), Some(true));
        assert_eq!(within(MAPS, 0x2000, 0x3000), Some(true));
        assert_eq!(within(MAPS, 0x4000, 0x5000), Some(false));
        assert_eq!(within(MAPS, 0x3000, 0x5000), None, "private, then shared");
        assert_eq!(within(MAPS, 0x5000, 0x6000), None, "read only");
        assert_eq!(within(MAPS, 0x8000, 0xa000), None, "it ends before");
        assert_eq!(within(MAPS, 0x7000, 0x9000), None, "it begins after");
        assert_eq!(within(MAPS, 0x6000, 0x7000), None, "nothing at all");
    }
}
