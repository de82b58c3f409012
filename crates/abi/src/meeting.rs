//! Where Guest and Host meet: boot parameters, addresses, interrupt vectors.
//!
//! Offsets in the boot parameters: Documentation/arch/x86/zero-page.rst of Linux.

/// Bytes of a page, everywhere in this crate.
pub const PAGE_SIZE: u64 = 4096;
/// A kernel is loaded here or above; the usable range of the memory map around it is "low RAM".
pub const KERNEL_MINIMUM: u64 = 0x10_0000;

/// Offset of `hardware_subarch` (u32) in the boot parameters.
pub const BOOT_SUBARCH: usize = 0x23c;
/// Offset of `hardware_subarch_data` (u64) in the boot parameters.
pub const BOOT_SUBARCH_DATA: usize = 0x240;
/// Offset of `setup_data` (u64), head of a list of further boot data, in the boot parameters.
pub const BOOT_SETUP_DATA: usize = 0x250;
/// `hardware_subarch` of an lguest Guest. Linux keeps the number reserved to this day.
pub const SUBARCH_LGUEST: u32 = 1;
/// `hardware_subarch_data` of a machine whose descriptor page is of the first generation.
pub const GENERATION_1: u64 = 1;
/// The same of a machine whose descriptor page is of the second: [`crate::device_page`].
pub const GENERATION_2: u64 = 2;
/// The byte of `hardware_subarch_data` that holds the generation.
pub const GENERATION_MASK: u64 = 0xff;
/// Bit of `hardware_subarch_data`: hypercalls go to [`HYPERCALL_PORT`], because the engine keeps `vmcall` to itself.
pub const HYPERCALL_BY_PORT: u64 = 1 << 8;
/// The port of hypercalls on such an engine: a 32-bit write. No PC has a device there.
pub const HYPERCALL_PORT: u16 = 0x4c48;
/// The name a Guest on such a machine gives its platform; the bus starts only under it.
pub const PLATFORM_NAME: &str = "lguest";
/// Type of a `setup_data` entry that carries a device tree: header {next u64, type u32, length u32}, then the blob.
pub const SETUP_DEVICE_TREE: u32 = 2;
/// Bytes of a `setup_data` entry before its data.
pub const SETUP_DATA_HEADER: usize = 16;

/// Interrupt numbers there are: 0 (the timer) to 31.
pub const IRQS: u8 = 32;
/// Vectors below belong to the processor's exceptions (SDM vol. 3, 6.2).
pub const FIRST_VECTOR: u8 = 0x20;

/// An interrupt number of the bus, 0..=31. Zero is the timer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Irq(u8);

impl Irq {
    /// The number, if there is such an interrupt.
    #[must_use]
    pub const fn new(number: u8) -> Option<Irq> {
        if number < IRQS { Some(Irq(number)) } else { None }
    }

    /// The number, 0..=31.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// The IDT vector at which an interrupt arrives.
#[must_use]
pub const fn vector(irq: Irq) -> u8 {
    FIRST_VECTOR + irq.0
}

/// Where the descriptor page lies: at the end of low RAM, on a page boundary.
#[must_use]
pub const fn descriptor_page(low_ram_end: u64) -> u64 {
    low_ram_end.next_multiple_of(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_mebibytes_have_their_descriptors_at_0x04000000() {
        assert_eq!(descriptor_page(64 << 20), 0x0400_0000);
        assert_eq!(descriptor_page((64 << 20) - 1), 0x0400_0000);
        assert_eq!(descriptor_page(32 << 20), 0x0200_0000);
    }

    #[test]
    fn interrupt_31_exists_and_32_does_not() {
        assert_eq!(Irq::new(31).map(vector), Some(0x3f));
        assert_eq!(Irq::new(32), None);
    }
}
