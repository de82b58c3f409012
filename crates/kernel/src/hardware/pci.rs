//! The PCI bus's configuration space, by two ports (PCI 3.0, 3.2.2.3.2).

use lguest_guest::transport::virtio::pci::ConfigurationSpace;

use super::instructions::{port_in_32, port_out_32};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLED: u32 = 1 << 31;

/// The ports.
pub struct PciPorts;

fn select(slot: u8, at: u8) {
    port_out_32(ADDRESS, ENABLED | u32::from(slot) << 11 | u32::from(at & !3));
}

impl ConfigurationSpace for PciPorts {
    fn read(&self, slot: u8, at: u8) -> u32 {
        select(slot, at);
        port_in_32(DATA)
    }

    fn write(&self, slot: u8, at: u8, value: u32) {
        select(slot, at);
        port_out_32(DATA, value);
    }
}
