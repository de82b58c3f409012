//! The map of the machine. Every address, port and interrupt number of the board stands here and nowhere else.
//!
//! ```text
//!   guest-physical                                        what
//!   0x0000_0500                GDT                        \
//!   0x0000_7000                boot parameters, or what    |  boot structures: the Guest may
//!                              PVH and Multiboot have      |
//!   0x0000_9000 .. 0xe000      identity page tables        |  reuse them once it has read them
//!   0x0001_0000 ..            device tree, on the lguest bus
//!   0x0002_0000 .. 0x2_1000    command line               /
//!   0x0009_fc00 .. 0x0010_0000 reserved: where a PC keeps its firmware
//!   0x000e_0000 .. 0x0010_0000   the ACPI tables in it
//!   0x0010_0000 ..             RAM: the kernel where its ELF file says, the initrd at the top of low RAM
//!   0xc000_0000 .. 4 GiB       hole
//!     0xd000_0000 .. 0xd000_8000   virtio, a page a device on --bus mmio: interrupts below, level
//!     0xe000_0000 .. 0xf000_0000   PCI memory window; on --bus pci virtio, 32 KiB a device, interrupts 16 to 23 by turns
//!     0xfec0_0000                  I/O APIC
//!     0xfee0_0000                  local APICs
//!   4 GiB ..                   the rest of RAM
//!
//!   ports                                                 interrupt
//!   0x020, 0x0a0, 0x4d0  8259 pair        (host::irq)
//!   0x040, 0x061         8254 timer       (host::irq)     0, on pin 2
//!   0x064                keyboard controller, for its reset line
//!   0x070                CMOS clock and memory
//!   0x2f8                serial port 2 (ttyS1)            3
//!   0x3f8                serial port 1 (ttyS0)            4
//!   0x600                ACPI power management            9, level
//!   -                    virtio on --bus mmio             5, 6, 7, 10, 11, 12, 14, 15, level
//!   0xcf8                PCI configuration, with the reset register at 0xcf9
//! ```

use std::ops::Range;

pub use lguest_host::memory::{GuestAddress, HOLE_START};

/// Boot-time segment descriptors: below the boot parameters, in a page that Linux reserves anyway.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// The boot parameters ("zero page"), where boot loaders have put them since there were boot loaders. Other protocols' start
/// information takes the same page.
pub const BOOT_PARAMETERS: GuestAddress = GuestAddress(0x7000);
/// Stack for the kernel's first instructions; it grows down towards the boot parameters' page end.
pub const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
/// Root of the identity page tables: one page, then one, then [`IDENTITY_GIBIBYTES`] more.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// What the page tables map: all that is below 4 GiB, hence every place a loader here may use.
pub const IDENTITY_GIBIBYTES: u64 = 4;
/// The device tree of a machine with the lguest bus, as further boot data. Ends before the command line.
pub const DEVICE_TREE: GuestAddress = GuestAddress(0x1_0000);
/// The kernel's command line.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// End of conventional memory. A PC keeps its extended BIOS data area above.
pub const LOW_RAM_END: GuestAddress = GuestAddress(0x9_fc00);
/// Where ACPI says to look for its root pointer (ACPI 6.5, 5.2.5.1), and room for all tables.
pub const ACPI_TABLES: Range<u64> = 0xe_0000..0x10_0000;
/// First address a kernel may be loaded at.
pub const KERNEL_MINIMUM: GuestAddress = GuestAddress(0x10_0000);

/// The PCI host bridge's memory window.
pub const PCI_MEMORY: Range<u64> = 0xe000_0000..0xf000_0000;

/// Interrupts of the virtio devices in memory: those of the first sixteen that nothing else here has. A kernel knows these
/// sixteen by number without any table, so its command line can name them (`virtio_mmio.device=`); those above only the ACPI
/// tables could. Level, high.
pub const MAPPED_GSIS: [u8; 8] = [5, 6, 7, 10, 11, 12, 14, 15];

/// Virtio devices in memory at most.
pub const VIRTIO_SLOTS: u8 = MAPPED_GSIS.len() as u8;

/// Where the registers of the virtio device in this slot are.
pub fn virtio_window(slot: u8) -> u64 {
    0xd000_0000 + u64::from(slot) * 0x1000
}

/// Interrupts of virtio devices on PCI: the pins of the I/O APIC that nothing else on a PC has.
pub const PCI_GSIS: Range<u8> = 16..24;

/// The interrupt of the PCI device of this number; every eighth shares it. Level, as PCI has it.
pub fn pci_gsi(device: u8) -> u8 {
    PCI_GSIS.start + device % PCI_GSIS.len() as u8
}

/// Where the registers of this PCI device are before the Guest moves them: firmware gives each its place, and so do we.
pub fn pci_registers(device: u8) -> u32 {
    PCI_MEMORY.start as u32 + u32::from(device) * lguest_devices::virtio::pci::SIZE
}

/// First serial port: the console.
pub const SERIAL: [u64; 2] = [0x3f8, 0x2f8];
/// Interrupts of the serial ports.
pub const SERIAL_GSI: [u8; 2] = [4, 3];
/// CMOS index and data.
pub const CMOS: Range<u64> = 0x70..0x72;
/// Keyboard controller: command and status.
pub const KEYBOARD: u64 = 0x64;
/// ACPI power management registers.
pub const PM: u64 = 0x600;
/// The system control interrupt, level and high.
pub const SCI_GSI: u8 = 9;
/// PCI configuration address and data; the byte at 0xcf9 is the reset register.
pub const PCI: u64 = 0xcf8;
