//! The default Guest, from both sides.
//!
//! For the Launcher this crate is three finished programs: `IMAGE`, the Guest that `lguest run` starts, and the two
//! examples. For a Guest (`--cfg lguest_guest`, see `build.rs`) it is the hardware a bare-metal program needs, and
//! `main.rs` is the program: start there.
//!
//! ```text
//!   main.rs        the kernel, as a list of what comes after what
//!   system.rs      what is there: devices, clock, somewhere to print and somewhere to read from
//!   shell/         commands, files, disks, network, pipes
//!   hardware/      the processor: every unsafe line of a Guest
//! ```
#![cfg_attr(any(lguest_guest, not(test)), no_std)]

extern crate alloc;

#[cfg(lguest_guest)]
pub mod hardware;
#[cfg(lguest_guest)]
pub mod system;
pub mod shell;

/// The default Guest: an ELF file for the 64-bit boot protocol, entered in 64-bit mode.
#[cfg(not(lguest_guest))]
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lguest-kernel"));

/// `examples/hello.rs`, the smallest Guest: it prints a line and turns the machine off.
#[cfg(not(lguest_guest))]
pub static HELLO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));

/// `examples/sectors.rs`: a Guest that reads its first disk and prints a checksum.
#[cfg(not(lguest_guest))]
pub static SECTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sectors"));

#[cfg(test)]
mod tests {
    use super::*;

    /// The issue's promise: a Guest that loads in no time.
    const LARGEST_IMAGE: usize = 256 * 1024;

    #[test]
    fn every_image_is_a_64_bit_program_that_begins_at_one_mebibyte_and_is_small() {
        for image in [IMAGE, HELLO, SECTORS] {
            assert!(image.starts_with(b"\x7fELF\x02\x01"));
            assert_eq!(image[24..32], 0x10_0000u64.to_le_bytes(), "the entry point");
            assert!(image.len() < LARGEST_IMAGE);
        }
    }

    #[test]
    fn the_examples_are_under_sixty_lines() {
        for example in [include_str!("../examples/hello.rs"), include_str!("../examples/sectors.rs")] {
            assert!(example.lines().count() < 60);
        }
    }
}
