//! `read`, `write` and `checksum`: the shell's side of a disk.

use alloc::rc::Rc;
use alloc::vec;

use lguest_abi::block::SECTOR_SIZE;
use lguest_guest::drivers::block::{Disk, Request, State, Wish};
use lguest_guest::model::Buffer;

use super::sums::Crc32;
use crate::say;
use crate::system::System;

/// Bytes moved by one request: all that one can carry.
const PIECE: usize = 64 * 1024;
/// How long a disk may take. Then it is given up.
const PATIENCE: u64 = 10_000_000_000;
/// Bytes of a line of `read`.
const ROW: usize = 16;

/// What went wrong, as the user reads it.
type Complaint = &'static str;

/// The disk of that name.
pub fn find(system: &System, name: &str) -> Result<Rc<Disk>, Complaint> {
    let disks = system.disks.disks();
    disks.into_iter().find(|disk| disk.name() == name).ok_or("no such disk: see devices")
}

/// Moves bytes between a disk and a buffer, and waits.
pub fn transfer(
    system: &System,
    disk: &Disk,
    wish: Wish,
    sector: u32,
    buffer: Buffer,
    bytes: usize,
) -> Result<Buffer, Complaint> {
    let request =
        Request::new(wish, sector, buffer.address(), bytes).map_err(|_| "not a whole number of sectors")?;
    disk.submit(&request).map_err(|_| "the disk's queue is full")?;
    let deadline = system.clock.now() + PATIENCE;
    while request.state() == State::Waiting && system.clock.now() < deadline {
        system.wait(Some(deadline));
    }
    match request.state() {
        State::Done => Ok(buffer),
        State::Failed => Err("Input/output error"),
        State::Waiting => {
            // The Host may still write there: this memory is lost rather than given to somebody else.
            core::mem::forget(buffer);
            Err("the disk does not answer")
        }
    }
}

fn buffer(system: &System, bytes: usize) -> Result<Buffer, Complaint> {
    Buffer::allocate(&system.memory, bytes).ok_or("out of memory")
}

/// Prints a sector.
pub fn read(system: &System, disk: &Disk, sector: u32) -> Result<(), Complaint> {
    let size = SECTOR_SIZE as usize;
    let buffer = transfer(system, disk, Wish::Read, sector, buffer(system, size)?, size)?;
    let mut row = [0; ROW];
    for at in (0..size).step_by(ROW) {
        buffer.read(at as u64, &mut row);
        if row == [0; ROW] {
            continue;
        }
        say!(system, "{at:03x} ");
        row.iter().for_each(|byte| say!(system, " {byte:02x}"));
        let text = row.map(|byte| if (b' '..=b'~').contains(&byte) { char::from(byte) } else { '.' });
        say!(system, "  {}\n", text.iter().collect::<alloc::string::String>());
    }
    Ok(())
}

/// Writes a text at the beginning of a sector, and zeros after it.
pub fn write(system: &System, disk: &Disk, sector: u32, text: &str) -> Result<(), Complaint> {
    let size = SECTOR_SIZE as usize;
    let buffer = buffer(system, size)?;
    buffer.write(0, &text.as_bytes()[..text.len().min(size)]);
    transfer(system, disk, Wish::Write, sector, buffer, size).map(drop)
}

/// The CRC-32 of a whole disk.
pub fn checksum(system: &System, disk: &Disk) -> Result<u32, Complaint> {
    let mut shared = buffer(system, PIECE)?;
    let mut copy = vec![0; PIECE];
    let mut sum = Crc32::default();
    let step = PIECE as u32 / SECTOR_SIZE;
    for sector in (0..disk.sectors()).step_by(step as usize) {
        let bytes = (disk.sectors() - sector).min(step) as usize * SECTOR_SIZE as usize;
        shared = transfer(system, disk, Wish::Read, sector, shared, bytes)?;
        shared.read(0, &mut copy[..bytes]);
        sum.add(&copy[..bytes]);
    }
    Ok(sum.value())
}
