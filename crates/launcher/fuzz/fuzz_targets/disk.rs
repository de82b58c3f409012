//! A file as a qcow2 image, under libFuzzer: see `tests/hostile/disk.rs` for what must hold.

#![no_main]

#[path = "../../tests/hostile/disk.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::run(input));
