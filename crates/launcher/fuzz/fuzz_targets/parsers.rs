//! Whatever else is read, under libFuzzer: see `tests/hostile/parsers.rs` for what must hold.

#![no_main]

#[path = "../../tests/hostile/parsers.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::run(input));
