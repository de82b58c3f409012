//! Requests for a shared directory, under libFuzzer: see `tests/hostile/share.rs` for what must hold.

#![no_main]

#[path = "../../tests/hostile/share.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::run(input));
