//! Where to stop: the addresses that DR0 to DR3 name (SDM vol. 3, 18.2) and those that a debugger on the Host named.

use crate::cpu::Cpu;
use crate::cpu::registers::cr4;
use crate::cpu::registers::debug as bits;

/// Breakpoints that the Host may set; more are refused, for each is compared at every unit.
const HOST_STOPS: usize = 256;
/// Data the Host may watch. Hits are told in 32 bits, four of them the Guest's.
const HOST_WATCHES: usize = 16;

/// What kind of access a watch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchKind {
    /// Writes.
    Write,
    /// Reads. As on the processor, writes stop too: an instruction that reads and writes is one access.
    Read,
    /// Both.
    ReadWrite,
}

/// Why a vCPU came back for its debugger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// One instruction is done, or an exception was delivered in its place.
    Step,
    /// The next instruction has a breakpoint.
    Breakpoint,
    /// Watched data was touched; the instruction is done.
    Watch {
        /// Its address.
        address: u64,
        /// As it was set.
        kind: WatchKind,
    },
}

/// Whose a point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The Guest's, with its bit of DR6.
    Guest(u64),
    /// The debugger's.
    Host,
}

/// Bytes that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) address: u64,
    pub(crate) length: u64,
    pub(crate) kind: WatchKind,
    owner: Owner,
}

impl Watch {
    /// Whether an access of these bytes is one it waits for.
    pub(crate) fn sees(&self, address: u64, length: u64, write: bool) -> bool {
        let wanted = write || self.kind != WatchKind::Write;
        // Differences, not sums: a range may end at the top of the address space.
        let overlap =
            address.wrapping_sub(self.address) < self.length || self.address.wrapping_sub(address) < length;
        wanted && overlap
    }

    fn pages(&self) -> [u64; 2] {
        [self.address >> 12, self.address.wrapping_add(self.length - 1) >> 12]
    }
}

/// All points of one vCPU.
#[derive(Debug, Default)]
pub(crate) struct Points {
    stops: Vec<(u64, Owner)>,
    /// Lent to `GuestMemory` for each access by hand.
    pub(crate) watches: Vec<Watch>,
}

/// Points that were not there before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) stops: Vec<u64>,
    pub(crate) watches: Vec<u64>,
}

/// What the fields of DR7 say of breakpoint `n`.
struct Field {
    enabled: bool,
    /// R/W: 0 execution, 1 writes, 2 ports, 3 reads and writes.
    access: u64,
    length: u64,
}

fn field(dr7: u64, n: usize) -> Field {
    let length = match dr7 >> (18 + 4 * n) & 3 {
        0 => 1,
        1 => 2,
        2 => 8,
        _ => 4,
    };
    Field { enabled: dr7 >> (2 * n) & 3 != 0, access: dr7 >> (16 + 4 * n) & 3, length }
}

/// The bits of DR6 for the I/O breakpoints that an access to ports meets.
pub(crate) fn ports_touched(cpu: &Cpu, port: u16, size: u8) -> u64 {
    if cpu.cr4 & cr4::DE == 0 || cpu.dr[7] & bits::DR7_ENABLED == 0 {
        return 0;
    }
    let mut dr6 = 0;
    for n in 0..4 {
        let Field { enabled, access, length } = field(cpu.dr[7], n);
        let first = cpu.dr[n] & !(length - 1);
        let (port, size) = (u64::from(port), u64::from(size));
        if enabled && access == 2 && port < first + length && first < port + size {
            dr6 |= 1 << n;
        }
    }
    dr6
}

impl Points {
    /// True when there is nothing to compare.
    pub(crate) fn none(&self) -> bool {
        self.stops.is_empty() && self.watches.is_empty()
    }

    /// Whether somebody wants to stop before the instruction at `pc`.
    pub(crate) fn stops_at(&self, pc: u64) -> bool {
        self.stops.iter().any(|&(address, _)| address == pc)
    }

    /// Who wants to stop at `pc`: the Host or not, and the Guest with these bits of DR6.
    pub(crate) fn at(&self, pc: u64) -> (bool, u64) {
        let here = self.stops.iter().filter(|&&(address, _)| address == pc);
        here.fold((false, 0), |(host, guest), &(_, owner)| match owner {
            Owner::Host => (true, guest),
            Owner::Guest(dr6) => (host, guest | dr6),
        })
    }

    /// Whether the page of `address` must not be in a table.
    pub(crate) fn hides(&self, address: u64) -> bool {
        self.hides_among(address, 1)
    }

    /// Whether one of so many pages from `address` on must not be in a table.
    pub(crate) fn hides_among(&self, address: u64, pages: u64) -> bool {
        let first = address >> 12;
        let among = |page: &u64| page.wrapping_sub(first) < pages;
        self.watches.iter().any(|watch| watch.pages().iter().any(among))
    }

    /// What the hits of an access mean: bits of DR6 for the Guest, a stop for the Host.
    pub(crate) fn touched(&self, hits: u32) -> (u64, Option<Stop>) {
        let (mut dr6, mut stop) = (0, None);
        for (n, watch) in self.watches.iter().enumerate().filter(|&(n, _)| hits >> n & 1 != 0) {
            debug_assert!(n < 32);
            match watch.owner {
                Owner::Guest(bit) => dr6 |= bit,
                Owner::Host => stop = Some(Stop::Watch { address: watch.address, kind: watch.kind }),
            }
        }
        (dr6, stop)
    }

    /// Takes over what the Guest's debug registers say now.
    pub(crate) fn set_guest(&mut self, dr: &[u64; 8]) -> Change {
        let mut change = Change::default();
        let old_stops: Vec<u64> = self.stops.iter().map(|&(address, _)| address).collect();
        let old_watches = self.watches.clone();
        self.stops.retain(|&(_, owner)| owner == Owner::Host);
        self.watches.retain(|watch| watch.owner == Owner::Host);
        for n in 0..4 {
            let Field { enabled, access, length } = field(dr[7], n);
            let owner = Owner::Guest(1 << n);
            match access {
                _ if !enabled => {}
                0 => self.stops.push((dr[n], owner)),
                1 | 3 => {
                    let kind = if access == 1 { WatchKind::Write } else { WatchKind::ReadWrite };
                    // Low bits that the length covers are not compared.
                    let address = dr[n] & !(length - 1);
                    self.watches.push(Watch { address, length, kind, owner });
                }
                // Ports are compared where they are accessed.
                _ => {}
            }
        }
        change.stops.extend(self.stops.iter().map(|&(a, _)| a).filter(|a| !old_stops.contains(a)));
        change.watches.extend(self.watches.iter().filter(|w| !old_watches.contains(w)).map(|w| w.address));
        change
    }

    /// Sets or takes back a breakpoint of the Host's. False when there are too many.
    pub(crate) fn set_host_stop(&mut self, address: u64, on: bool) -> bool {
        self.stops.retain(|&point| point != (address, Owner::Host));
        if on && self.stops.len() >= HOST_STOPS {
            return false;
        }
        if on {
            self.stops.push((address, Owner::Host));
        }
        true
    }

    /// Sets or takes back a watch of the Host's. False when there are too many, or for one of no length or of a page.
    pub(crate) fn set_host_watch(&mut self, address: u64, length: u64, kind: WatchKind, on: bool) -> bool {
        let watch = Watch { address, length, kind, owner: Owner::Host };
        self.watches.retain(|&other| other != watch);
        let fits = (1..4096).contains(&length) && self.watches.len() < HOST_WATCHES;
        if on && fits {
            self.watches.push(watch);
        }
        !on || fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(points: [u64; 4], dr7: u64) -> [u64; 8] {
        let mut dr = [0; 8];
        dr[..4].copy_from_slice(&points);
        dr[7] = dr7;
        dr
    }

    /// DR7 for breakpoint `n`: enabled, R/W, LEN.
    fn dr7(n: usize, access: u64, length: u64) -> u64 {
        1 << (2 * n) | access << (16 + 4 * n) | length << (18 + 4 * n)
    }

    #[test]
    fn a_disabled_breakpoint_is_none() {
        let mut points = Points::default();
        points.set_guest(&registers([0x1000; 4], 0xffff_0000));
        assert!(points.none());
    }

    #[test]
    fn the_fields_of_dr7_choose_access_and_length() {
        let mut points = Points::default();
        let change = points
            .set_guest(&registers([0x1000, 0x2003, 0, 0x3007], dr7(0, 0, 0) | dr7(1, 1, 3) | dr7(3, 3, 2)));
        assert_eq!(change, Change { stops: vec![0x1000], watches: vec![0x2000, 0x3000] });
        assert_eq!(points.at(0x1000), (false, 1));
        // Low bits below the length do not count, a write watch does not see reads.
        assert!(points.watches[0].sees(0x2003, 1, true) && !points.watches[0].sees(0x2004, 1, true));
        assert!(!points.watches[0].sees(0x2000, 4, false));
        assert!(points.watches[1].sees(0x3007, 1, false) && !points.watches[1].sees(0x2fff, 1, true));
        assert!(points.watches[1].sees(0x2fff, 2, true));
        assert_eq!(points.touched(0b11), (0b1010, None));
    }

    #[test]
    fn what_is_armed_again_is_no_change() {
        let mut points = Points::default();
        let armed = registers([0x1000, 0x2000, 0, 0], dr7(0, 0, 0) | dr7(1, 1, 0));
        points.set_guest(&armed);
        assert_eq!(points.set_guest(&armed), Change::default());
    }

    #[test]
    fn the_hosts_points_survive_the_guests() {
        let mut points = Points::default();
        assert!(points.set_host_stop(0x1000, true));
        assert!(points.set_host_watch(0x5000, 8, WatchKind::Write, true));
        points.set_guest(&registers([0x1000, 0, 0, 0], dr7(0, 0, 0)));
        assert_eq!(points.at(0x1000), (true, 1));
        points.set_guest(&registers([0; 4], 0));
        assert!(points.stops_at(0x1000) && points.hides(0x5fff));
        assert!(points.set_host_stop(0x1000, false) && !points.stops_at(0x1000));
    }

    #[test]
    fn the_host_has_a_limit() {
        let mut points = Points::default();
        let set = |points: &mut Points, n| points.set_host_watch(0x1000 * n, 4, WatchKind::Write, true);
        assert!((0..HOST_WATCHES as u64).all(|n| set(&mut points, n)));
        assert!(!set(&mut points, 99));
        assert!(!points.set_host_watch(0, 0, WatchKind::Write, true));
    }
}
