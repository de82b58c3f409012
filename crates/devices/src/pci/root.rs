//! The PCI root: configuration by the two ports of mechanism 1, and the host bridge in the bus's first slot.
//!
//! Port 0xcf8 takes an address of four bytes, 0xcfc to 0xcff show the register it names (PCI 3.0, 3.2.2.3.2). The
//! byte at 0xcf9 is something else that chipsets put there: the reset control register. Where nobody is, everything is all
//! ones, which is how PCI says so.

use std::sync::Arc;

use super::bus::PciBus;
use crate::bus::Device;
use crate::outside::{PowerChange, PowerSwitch};

/// Ports from 0xcf8 on.
pub const REGISTERS: u64 = 8;
/// What software writes to the reset control register: bit 2 does it, bit 1 makes it a full one. For the FADT.
pub const RESET_VALUE: u8 = 0x06;
const RESET_NOW: u8 = 0x04;
/// Offset of that register.
pub const RESET_OFFSET: u64 = 1;
const DATA: u64 = 4;
const ENABLED: u32 = 1 << 31;
/// Bits of the address that select a register: reserved ones read as zero.
const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;

/// The host bridge's header: vendor and device of Intel's virtual host bridge (as cloud-hypervisor has it), and
/// the class that makes kernels believe in the bus.
const BRIDGE_IDENTITY: u32 = 0x0d57_8086;
const BRIDGE_CLASS: u32 = 0x0600_0000;

/// The root complex.
pub struct PciRoot<P> {
    power: P,
    bus: Arc<PciBus>,
    address: u32,
}

impl<P: PowerSwitch> PciRoot<P> {
    /// A root above `bus` whose reset register works `power`.
    pub fn new(power: P, bus: Arc<PciBus>) -> Self {
        PciRoot { power, bus, address: 0 }
    }

    /// The slot that the address names: function 0 on bus 0, when the address is turned on.
    fn slot(&self) -> Option<usize> {
        const ELSEWHERE: u32 = 0x00ff_0700;
        let here = self.address & ENABLED != 0 && self.address & ELSEWHERE == 0;
        here.then_some((self.address >> 11 & 0x1f) as usize)
    }

    /// The register that an access to the data port reaches; none for one over its end.
    fn register(&self, offset: u64, length: usize) -> Option<usize> {
        let byte = offset.checked_sub(DATA)? as usize;
        (byte + length <= 4).then_some((self.address & 0xfc) as usize + byte)
    }
}

/// The host bridge's header, which cannot be changed.
fn read_bridge(at: usize, data: &mut [u8]) {
    let register = match at & !3 {
        0x00 => BRIDGE_IDENTITY,
        0x08 => BRIDGE_CLASS,
        _ => 0,
    };
    for (at, byte) in (at..).zip(data) {
        *byte = register.to_le_bytes()[at % 4];
    }
}

impl<P: PowerSwitch> Device for PciRoot<P> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (0, 4) = (offset, data.len()) {
            data.copy_from_slice(&self.address.to_le_bytes());
        } else if let (Some(at), Some(slot)) = (self.register(offset, data.len()), self.slot()) {
            match slot {
                0 => read_bridge(at, data),
                slot => self.bus.read_configuration(slot, at, data),
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, &[a, b, c, d]) => self.address = u32::from_le_bytes([a, b, c, d]) & ADDRESS_WRITABLE,
            (RESET_OFFSET, &[value]) if value & RESET_NOW != 0 => self.power.ask(PowerChange::Reset),
            _ => {
                if let (Some(at), Some(slot)) = (self.register(offset, data.len()), self.slot()) {
                    self.bus.write_configuration(slot, at, data);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Clone, Default)]
    struct Wishes(Arc<AtomicU32>);

    impl PowerSwitch for Wishes {
        fn ask(&self, _change: PowerChange) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn root(wishes: Wishes) -> PciRoot<Wishes> {
        PciRoot::new(wishes, Arc::new(PciBus::new(0..0)))
    }

    fn read<const N: usize>(root: &mut PciRoot<Wishes>, offset: u64) -> [u8; N] {
        let mut bytes = [0xff; N];
        root.read(offset, &mut bytes);
        bytes
    }

    #[test]
    fn the_probe_of_linux_finds_mechanism_1_and_a_host_bridge() {
        let mut root = root(Wishes::default());
        root.write(3, &[1]);
        root.write(0, &0x8000_0000u32.to_le_bytes());
        assert_eq!(u32::from_le_bytes(read(&mut root, 0)), 0x8000_0000);
        root.write(0, &0x8000_0008u32.to_le_bytes());
        assert_eq!(read::<2>(&mut root, 6), [0x00, 0x06]);
    }

    #[test]
    fn the_rest_of_the_bus_is_all_ones() {
        let mut root = root(Wishes::default());
        for function in 1..0x1_0000u32 {
            root.write(0, &(ENABLED | function << 8).to_le_bytes());
            assert_eq!(read::<4>(&mut root, DATA), [0xff; 4]);
        }
        root.write(0, &[0; 4]);
        assert_eq!(read::<4>(&mut root, DATA), [0xff; 4], "not enabled");
    }

    #[test]
    fn a_byte_at_cf9_resets_and_an_address_does_not() {
        let wishes = Wishes::default();
        let mut root = root(wishes.clone());
        root.write(0, &0x8000_0600u32.to_le_bytes());
        root.write(RESET_OFFSET, &[0x02]);
        assert_eq!(wishes.0.load(Ordering::Relaxed), 0);
        root.write(RESET_OFFSET, &[RESET_VALUE]);
        assert_eq!(wishes.0.load(Ordering::Relaxed), 1);
    }
}
