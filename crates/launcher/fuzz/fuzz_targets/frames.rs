//! Frames from a Guest, under libFuzzer: see `src/user_network/tests/harness.rs` for what must hold.

#![no_main]

/// What the harness works on.
mod network {
    pub use lguest_launcher::user_network::options::Options;
    pub use lguest_launcher::user_network::stack::Stack;
}
#[path = "../../src/user_network/tests/harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::run(input));
