//! Raw bytes as a Guest's code, under libFuzzer: see `tests/raw_bytes/harness.rs` for what must hold.

#![no_main]

#[allow(dead_code, unused_imports)]
#[path = "../../tests/kernel/machine.rs"]
mod machine;
#[path = "../../tests/raw_bytes/harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::run(input));
