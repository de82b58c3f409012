//! A file as a kernel, under libFuzzer: see `tests/hostile/kernel.rs` for what must hold.

#![no_main]

#[path = "../../tests/hostile/kernel.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::run(input));
