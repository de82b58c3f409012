//! What an agent in a hostile Guest says to `lguest exec`, under libFuzzer: see `tests/hostile/exec.rs` for what must hold.

#![no_main]

#[path = "../../tests/hostile/exec.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::run(input));
