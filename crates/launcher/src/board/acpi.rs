//! The ACPI tables: how a stock kernel learns what this board has.
//!
//! ```text
//!   RSDP --> XSDT --+--> FADT --+--> DSDT   PCI root, serial ports, clock, soft-off
//!                   |           +--> FACS   nothing, but it has to be there
//!                   +--> MADT               APICs, and where the timer's line went
//! ```
//!
//! Numbers come from [`layout`] and the devices, so that the tables cannot disagree with the wiring. Rules:
//! ACPI 6.5, chapters 5 (tables), 4.8 (registers), 6.4 (resources) and 19 (AML).

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{self, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink, facs::FACS};

use lguest_devices::{cmos, pci, pm, virtio};
use lguest_host::irq::{TIMER_PIN, ioapic::IOAPIC_BASE, lapic::APIC_BASE};
use lguest_host::memory::{GuestAddress, Memory, MemoryError};

use super::layout;

const OEM: [u8; 6] = *b"LGUEST";
const OEM_TABLE: [u8; 8] = *b"LGUESTPC";
const OEM_REVISION: u32 = 1;
/// The FACS wants 64 (ACPI 6.5, 5.2.10); the others are content with it.
const ALIGNMENT: u64 = 64;
const HEADER_SIZE: u32 = 36;

/// What the kernel may assume (ACPI 6.5, table 5.10): there are legacy devices, no VGA, no ASPM. No bit says that
/// there is a keyboard controller, so nobody waits for one.
const BOOT_ARCHITECTURE: u16 = 1 << 0 | 1 << 2 | 1 << 4;
/// Latencies that mean "there are no C2 and C3 states" (5.2.9).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
/// MADT flag: there is an 8259 pair as well.
const PC_COMPATIBLE: u32 = 1;
/// MADT entries (5.2.12).
const MADT_LOCAL_APIC: u8 = 0;
const MADT_IO_APIC: u8 = 1;
const MADT_OVERRIDE: u8 = 2;
const MADT_LOCAL_NMI: u8 = 4;
/// Polarity and trigger of an override: as the bus has it, or high and level.
const AS_THE_BUS: u16 = 0;
const HIGH_LEVEL: u16 = 0b1101;

/// Virtio devices that the tables have to name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Virtio {
    /// On the lguest bus nobody reads tables.
    None,
    /// In the first so many slots of memory.
    Mmio(u8),
    /// The same, named elsewhere; the tables only say of which kind their interrupts are.
    Lines(u8),
    /// The first so many on PCI, which are found by asking; the tables say how their interrupt lines run.
    Pci(u8),
}

/// Puts the tables into memory for a machine of `cpus` vCPUs with these virtio devices. Returns the root pointer's address.
///
/// # Errors
/// [`MemoryError`] when the machine has less than a mebibyte of RAM.
pub fn place(memory: &Memory, cpus: u32, virtio: Virtio) -> Result<GuestAddress, MemoryError> {
    // The root pointer comes first, so that a search of the BIOS area finds it; it is written last.
    let root = GuestAddress(layout::ACPI_TABLES.start);
    let mut place = Place { memory, next: root.0 + ALIGNMENT };
    let facs = place.table(&FACS::new())?;
    let dsdt = place.table(&dsdt(virtio))?;
    let fadt = place.table(&fadt(facs, dsdt).finalize())?;
    let madt = place.table(&madt(cpus, virtio))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt.0);
    xsdt.add_entry(madt.0);
    let xsdt = place.table(&xsdt)?;
    memory.write(root, &bytes(&Rsdp::new(OEM, xsdt.0)))?;
    Ok(root)
}

/// The next free address in the tables' room.
struct Place<'a> {
    memory: &'a Memory,
    next: u64,
}

impl Place<'_> {
    fn table(&mut self, table: &dyn Aml) -> Result<GuestAddress, MemoryError> {
        let address = GuestAddress(self.next);
        let table = bytes(table);
        self.memory.write(address, &table)?;
        self.next = (self.next + table.len() as u64).next_multiple_of(ALIGNMENT);
        assert!(
            self.next <= layout::ACPI_TABLES.end,
            "the ACPI tables have 128 KiB and grow only with --cpus"
        );
        Ok(address)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// The fixed hardware.
fn fadt(facs: GuestAddress, dsdt: GuestAddress) -> FADTBuilder {
    let block = |(offset, _): (u64, u8)| ((layout::PM + offset) as u32).into();
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .firmware_ctrl_32(facs.0 as u32)
        .dsdt_64(dsdt.0)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    fadt.dsdt = (dsdt.0 as u32).into();
    fadt.sci_int = u16::from(layout::SCI_GSI).into();
    fadt.pm1a_evt_blk = block(pm::EVENT_BLOCK);
    fadt.pm1_evt_len = pm::EVENT_BLOCK.1;
    fadt.pm1a_cnt_blk = block(pm::CONTROL_BLOCK);
    fadt.pm1_cnt_len = pm::CONTROL_BLOCK.1;
    fadt.pm_tmr_blk = block(pm::TIMER_BLOCK);
    fadt.pm_tmr_len = pm::TIMER_BLOCK.1;
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = cmos::CENTURY;
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    let reset = layout::PCI + pci::RESET_OFFSET;
    fadt.reset_reg = GAS::new(gas::AddressSpace::SystemIo, 8, 0, gas::AccessSize::ByteAccess, reset);
    fadt.reset_value = pci::RESET_VALUE;
    fadt
}

/// The interrupt controllers. The crate's MADT cannot say that there is an 8259, so the bytes are written here.
fn madt(cpus: u32, virtio: Virtio) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", HEADER_SIZE, 4, OEM, OEM_TABLE, OEM_REVISION);
    madt.append_slice(&(APIC_BASE as u32).to_le_bytes());
    madt.append_slice(&PC_COMPATIBLE.to_le_bytes());
    for cpu in 0..cpus as u8 {
        const ENABLED: u32 = 1;
        madt.append_slice(&[MADT_LOCAL_APIC, 8, cpu, cpu]);
        madt.append_slice(&ENABLED.to_le_bytes());
    }
    madt.append_slice(&[MADT_IO_APIC, 12, cpus as u8, 0]);
    madt.append_slice(&(IOAPIC_BASE as u32).to_le_bytes());
    madt.append_slice(&0u32.to_le_bytes());
    let slots = if let Virtio::Mmio(slots) | Virtio::Lines(slots) = virtio { slots } else { 0 };
    let level = [layout::SCI_GSI].into_iter().chain(layout::MAPPED_GSIS.into_iter().take(slots.into()));
    let level = level.map(|line| (line, line.into(), HIGH_LEVEL));
    for (source, pin, flags) in [(0, TIMER_PIN as u32, AS_THE_BUS)].into_iter().chain(level) {
        madt.append_slice(&[MADT_OVERRIDE, 10, 0, source]);
        madt.append_slice(&pin.to_le_bytes());
        madt.append_slice(&flags.to_le_bytes());
    }
    const ALL_PROCESSORS: u8 = 0xff;
    const LINT1: u8 = 1;
    madt.append_slice(&[MADT_LOCAL_NMI, 6, ALL_PROCESSORS, 0, 0, LINT1]);
    madt
}

/// What cannot be found by asking the hardware.
fn dsdt(virtio: Virtio) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", HEADER_SIZE, 2, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&soft_off());
    dsdt.append_slice(&pci_root(if let Virtio::Pci(devices) = virtio { devices } else { 0 }));
    for number in 0..layout::SERIAL.len() {
        dsdt.append_slice(&serial_port(number));
    }
    dsdt.append_slice(&clock());
    for slot in 0..if let Virtio::Mmio(slots) = virtio { slots } else { 0 } {
        dsdt.append_slice(&virtio_device(slot));
    }
    dsdt
}

/// `\_S5`: the sleep type that turns the machine off.
fn soft_off() -> Vec<u8> {
    let kind = pm::SLEEP_TYPE_OFF;
    bytes(&Name::new("\\_S5_".into(), &Package::new(vec![&kind, &kind, &0u8, &0u8])))
}

fn pci_root(devices: u8) -> Vec<u8> {
    let windows: [&dyn Aml; 5] = [
        // One bus, so that nobody looks for others.
        &AddressSpace::new_bus_number(0u16, 0u16),
        &IO::new(layout::PCI as u16, layout::PCI as u16, 1, pci::REGISTERS as u8),
        &AddressSpace::new_io(0u16, layout::PCI as u16 - 1, None),
        &AddressSpace::new_io((layout::PCI + pci::REGISTERS) as u16, u16::MAX, None),
        &AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            layout::PCI_MEMORY.start as u32,
            (layout::PCI_MEMORY.end - 1) as u32,
            None,
        ),
    ];
    let routes: Vec<Vec<u8>> = (0..devices).map(route).collect();
    let routes: Vec<Raw<'_>> = routes.iter().map(|route| Raw(route)).collect();
    let routes = Package::new(routes.iter().map(|route| route as &dyn Aml).collect());
    device_with("PCI0", &EISAName::new("PNP0A03"), 0, &windows, &[&Name::new("_PRT".into(), &routes)])
}

/// How pin A of this PCI device runs: an element of `_PRT` (ACPI 6.5, 6.2.13). Any function of the slot, pin, no interrupt
/// link, and so a line of the I/O APIC.
fn route(device: u8) -> Vec<u8> {
    let (slot, gsi) = (u32::from(device) + 1, layout::pci_gsi(device));
    let address = slot << 16 | 0xffff;
    bytes(&Package::new(vec![&address, &0u8, &0u8, &gsi]))
}

/// AML that is bytes already.
struct Raw<'a>(&'a [u8]);

impl Aml for Raw<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.0);
    }
}

fn serial_port(number: usize) -> Vec<u8> {
    let port = layout::SERIAL[number] as u16;
    let ports = IO::new(port, port, 1, lguest_devices::serial::REGISTERS as u8);
    let interrupt = Interrupt::new(true, true, false, false, layout::SERIAL_GSI[number].into());
    device(&format!("COM{}", number + 1), &EISAName::new("PNP0501"), number as u8 + 1, &[&ports, &interrupt])
}

fn clock() -> Vec<u8> {
    let (port, length) = (layout::CMOS.start as u16, (layout::CMOS.end - layout::CMOS.start) as u8);
    device("RTC0", &EISAName::new("PNP0B00"), 0, &[&IO::new(port, port, 1, length)])
}

/// A virtio device in memory. No specification gives it a name; Linux's virtio_mmio.c and QEMU agree on this one.
fn virtio_device(slot: u8) -> Vec<u8> {
    let window = layout::virtio_window(slot) as u32;
    let registers = Memory32Fixed::new(true, window, virtio::mmio::REGISTERS as u32);
    let interrupt = Interrupt::new(true, false, false, false, layout::MAPPED_GSIS[usize::from(slot)].into());
    device(&format!("VIO{slot}"), &"LNRO0005", slot, &[&registers, &interrupt])
}

/// `Scope (\_SB) { Device (NAME) { _HID, _UID, _CRS } }`
fn device(name: &str, hardware: &dyn Aml, number: u8, resources: &[&dyn Aml]) -> Vec<u8> {
    device_with(name, hardware, number, resources, &[])
}

/// The same, with more in it.
fn device_with(
    name: &str,
    hardware: &dyn Aml,
    number: u8,
    resources: &[&dyn Aml],
    more: &[&dyn Aml],
) -> Vec<u8> {
    let identity = Name::new("_HID".into(), hardware);
    let unique = Name::new("_UID".into(), &number);
    let current = Name::new("_CRS".into(), &ResourceTemplate::new(resources.to_vec()));
    let own: [&dyn Aml; 3] = [&identity, &unique, &current];
    let device = Device::new(Path::new(name), own.iter().chain(more).copied().collect());
    bytes(&Scope::new("\\_SB_".into(), vec![&device]))
}

#[cfg(test)]
#[path = "acpi_tests.rs"]
mod tests;
