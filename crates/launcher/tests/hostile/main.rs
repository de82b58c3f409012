//! Files of strangers and words of Guests, made by machines: each fuzz target's corpus as it is, and hundreds of its children.
//!
//! ```text
//!   kernel    a file as a kernel               disk      a file as a qcow2 image
//!   share     requests for a shared directory  layer     an archive as an image's layer
//!   exec      what a Guest's agent says        parsers   whatever else is read
//! ```
//! `cargo xtask fuzz NAME SECONDS` runs the same harnesses under libFuzzer, led by coverage; what it finds becomes a file of
//! `fuzz/corpus/NAME`, whose name says what it is, and `fuzz/corpus/why.txt` what once came of it.

use std::fs;
use std::path::Path;

mod kernel;
mod disk;
mod share;
mod layer;
mod exec;
mod parsers;
mod children;

use children::{Chance, Change};

/// Runs a corpus and `rounds` times as many children; `LGUEST_FUZZ_ROUNDS` asks for more, `LGUEST_FUZZ_LAST` names a file for the
/// last one.
fn hunt(name: &str, rounds: u64, change: Change, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut corpus: Vec<_> = fs::read_dir(folder)
        .expect("the corpus lies in the repository")
        .map(|entry| {
            let entry = entry.expect("a folder can be read");
            (entry.file_name(), fs::read(entry.path()).expect("a file can be read"))
        })
        .collect();
    corpus.sort();
    assert!(corpus.len() >= 10, "the corpus was read");
    let asked = std::env::var("LGUEST_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok());
    let last = std::env::var_os("LGUEST_FUZZ_LAST");
    let mut chance = Chance::default();
    for (name, bytes) in &corpus {
        // Shown when it fails.
        println!("{}", name.display());
        run(bytes);
    }
    for round in 0..asked.unwrap_or(rounds) {
        for (name, bytes) in corpus.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            let mut child = bytes.clone();
            for _ in 0..=chance.below(4) {
                let (_, other) = &corpus[chance.below(corpus.len())];
                change(&mut child, other, &mut chance);
            }
            println!("{}, round {round}", name.display());
            // What ends the process leaves this behind.
            if let Some(path) = &last {
                fs::write(path, &child).expect("LGUEST_FUZZ_LAST can be written");
            }
            run(&child);
        }
    }
}

#[test]
fn a_strangers_kernel_is_refused_in_a_sentence_or_begins_in_ram() {
    hunt("kernel", 60, children::anything, kernel::run);
}

#[test]
fn a_strangers_qcow2_image_ends_in_errors_and_touches_no_other_file() {
    hunt("disk", 60, children::anything, disk::run);
}

#[test]
fn a_guests_requests_reach_nothing_outside_of_a_share() {
    hunt("share", 60, children::anything, share::run);
}

#[test]
fn what_else_is_read_is_understood_or_refused() {
    hunt("parsers", 60, children::anything, parsers::run);
}

#[test]
fn a_layer_leaves_nothing_outside() {
    hunt("layer", 40, children::archives, layer::run);
}

#[test]
fn an_agent_is_heard_as_the_obvious_reader_hears_it() {
    hunt("exec", 2000, children::frames, exec::run);
}
