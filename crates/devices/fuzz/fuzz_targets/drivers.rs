//! Every virtio device under drivers that libFuzzer makes up. What it finds goes into tests/hostile_drivers/corpus.txt.
#![no_main]

#[path = "../../tests/hostile_drivers/harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::drive(input));
