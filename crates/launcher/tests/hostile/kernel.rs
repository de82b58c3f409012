//! A file as a kernel, from its first byte to the state it would be entered in: it is refused in one sentence, or begins in RAM
//! and leaves what the loader wrote alone.

use lguest_host::memory::{GuestAddress, Memory};
use lguest_launcher::board::boot::Boot;
use lguest_launcher::board::{layout, loading};
use lguest_launcher::kernel_image::program::Kernel;
use lguest_launcher::kernel_image::{KernelImage, lguest};
use lguest_translator::StartState;

/// Enough for every segment of a small file; what asks for more is refused.
const MEMORY: u64 = 64 << 20;
const COMMAND_LINE: &str = "console=ttyS0";
const INITRD: [u8; 5000] = [7; 5000];

/// Loads the input.
pub fn run(input: &[u8]) {
    let image = match KernelImage::parse(input.to_vec()) {
        Ok(image) => image,
        Err(error) => return one_sentence(&error.to_string()),
    };
    let kernel = Kernel::from(image);
    let _ = lguest::examine(&kernel);
    let memory = Memory::new(MEMORY).expect("the host has this much");
    let boot = Boot {
        setup_header: kernel.setup_header.as_deref(),
        command_line: COMMAND_LINE,
        initrd: &INITRD,
        acpi_root: GuestAddress(layout::ACPI_TABLES.start),
    };
    let start = match loading::place(&kernel, &boot, false, &memory) {
        Ok(StartState::Long(entry)) => entry.rip,
        Ok(StartState::Protected(entry)) => entry.eip.into(),
        Err(error) => return one_sentence(&error.to_string()),
    };
    let possible = layout::KERNEL_MINIMUM.0..memory.low_end().0;
    assert!(possible.contains(&start), "it would begin at {start:#x}");
    let mut gdt = [0xff; 8];
    memory.read(layout::GDT, &mut gdt).expect("it is memory");
    assert_eq!(gdt, [0; 8], "the first descriptor is none, and nobody wrote over it");
}

fn one_sentence(text: &str) {
    assert!(!text.is_empty() && !text.contains(|letter: char| letter.is_control()), "{text:?}");
}
