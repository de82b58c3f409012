//! Raw bytes as a Guest's code: nothing they do may fault the host, reach behind the Guest's memory, or grow the vCPU without
//! bound. `harness.rs` runs one input and says what must hold; cargo-fuzz runs the same harness from `fuzz/`.
//!
//! By default a fixed number of inputs, the same each time. `cargo xtask fuzz SECONDS` goes on for that long with another
//! seed each time (`LGUEST_FUZZ_SECONDS`, `LGUEST_FUZZ_SEED`); a panic shows the input that broke a promise, to be put into
//! `corpus.txt`.

#![allow(unsafe_code)] // Memory files, and code for the Guest between two labels.

#[allow(dead_code, unused_imports)]
#[path = "../kernel/machine.rs"]
mod machine;
mod harness;
mod mutate;

use mutate::Mutator;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Inputs of a default run.
const INPUTS: u64 = 300;
/// Inputs between two looks at the process's memory.
const LOOK: u64 = 256;
/// What the process may grow by in a long run, in bytes: machines come and go, and leave nothing.
const MOST_GROWTH: u64 = 256 << 20;

fn setting(name: &str) -> Option<u64> {
    std::env::var(format!("LGUEST_FUZZ_{name}")).ok()?.parse().ok()
}

fn checked(input: &[u8]) {
    let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
    // A fault that ends the process leaves no message; this is the last that is seen of its input.
    if setting("SHOW").is_some() {
        eprintln!("{hex}");
    }
    let done = catch_unwind(AssertUnwindSafe(|| harness::run(input)));
    assert!(done.is_ok(), "this input breaks a promise: {hex}");
}

/// Resident bytes of this process (proc(5), statm: the second number, in pages).
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages: u64 = text.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a number");
    pages * 4096
}

#[test]
fn what_is_in_the_corpus_keeps_every_promise() {
    let corpus = mutate::corpus();
    assert!(corpus.len() > 20);
    corpus.iter().for_each(|input| checked(input));
}

#[test]
fn made_up_bytes_keep_every_promise() {
    let mut mutator = Mutator::new(setting("SEED").unwrap_or(1));
    let end = setting("SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut before = None;
    let mut done = 0;
    while end.map_or(done < INPUTS, |end| Instant::now() < end) {
        checked(&mutator.next_input());
        done += 1;
        if done % LOOK == 0 {
            let now = resident();
            let start = *before.get_or_insert(now);
            assert!(now < start + MOST_GROWTH, "after {done} inputs the process grew from {start} to {now}");
        }
    }
    println!("{done} inputs");
}
