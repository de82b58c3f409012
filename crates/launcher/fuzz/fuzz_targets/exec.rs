//! What an agent in a hostile Guest says to `lguest exec`, under libFuzzer: see `tests/agent/harness.rs` for what must hold.

#![no_main]

#[path = "../../tests/agent/harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::run(input));
