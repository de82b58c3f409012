//! `bench`: what one thing costs, from inside.

use lguest_abi::block::SECTOR_SIZE;
use lguest_abi::net::FRAME_MAXIMUM;
use lguest_guest::drivers::block::Wish;
use lguest_guest::model::Buffer;

use super::{disks, words};
use crate::say;
use crate::system::System;

/// How often, when not told: long enough to drown the clock, short enough to wait for.
const TIMES: u32 = 1000;

type Complaint = &'static str;

/// `bench WHAT OF TIMES`.
pub fn command(system: &System, what: &str, of: &str, times: &str) -> Result<(), Complaint> {
    let times = words::number(times).unwrap_or(TIMES).max(1);
    let begun = system.clock.now();
    let bytes = match what {
        "hypercall" => {
            (0..times).for_each(|_| system.call_nothing());
            0
        }
        "disk" => disk(system, of, times)?,
        "net" => network(system, of, times)?,
        _ => return Err("bench hypercall | bench disk DISK [TIMES] | bench net ADDRESS|all [TIMES]"),
    };
    let nanoseconds = (system.clock.now() - begun).max(1);
    say!(system, "{times} times, {} ns each", nanoseconds / u64::from(times));
    if bytes > 0 {
        // Bytes a nanosecond are gigabytes a second; megabytes can be told without fractions.
        say!(system, ", {} MB/s", bytes * 1000 / nanoseconds);
    }
    say!(system, "\n");
    Ok(())
}

/// Reads the first page of a disk, or all of a smaller one, over and over.
fn disk(system: &System, name: &str, times: u32) -> Result<u64, Complaint> {
    let disk = disks::find(system, name)?;
    let bytes = disk.sectors().min(8) as usize * SECTOR_SIZE as usize;
    let mut buffer = Buffer::allocate(&system.memory, bytes.max(1)).ok_or("out of memory")?;
    for _ in 0..times {
        buffer = disks::transfer(system, &disk, Wish::Read, 0, buffer, bytes)?;
    }
    Ok(u64::from(times) * bytes as u64)
}

/// Sends the largest frame to a peer, over and over. What the peer had no buffer for does not count.
fn network(system: &System, to: &str, times: u32) -> Result<u64, Complaint> {
    let to = words::ethernet(to).ok_or("bench net ADDRESS|all")?;
    let device = system.networks.devices().into_iter().next().ok_or("no network: see devices")?;
    let mut frame = [0; FRAME_MAXIMUM as usize];
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&device.address().0);
    let taken: usize = (0..times).map(|_| device.transmit(&frame)).sum();
    Ok(taken as u64 * u64::from(FRAME_MAXIMUM))
}
