//! Arbitrary bytes as an image's layer, under libFuzzer: see `tests/hostile/layer.rs` for what must hold.

#![no_main]

#[path = "../../tests/hostile/layer.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::run(input));
