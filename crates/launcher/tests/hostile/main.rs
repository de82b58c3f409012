//! Files of strangers and words of Guests, made by machines: each fuzz target's corpus as it is, and hundreds of its children.
//!
//! ```text
//!   kernel    a file as a kernel               disk      a file as a qcow2 image
//!   share     requests for a shared directory  parsers   whatever else is read
//! ```
//! `cargo xtask fuzz NAME SECONDS` runs the same harnesses under libFuzzer, led by coverage; what it finds becomes a file of
//! `fuzz/corpus/NAME`, whose name says what it is, and `fuzz/corpus/why.txt` what once came of it.

use std::fs;
use std::path::Path;

mod kernel;
mod disk;
mod share;
mod parsers;

/// Children of each file of a corpus; more with `LGUEST_FUZZ_ROUNDS`. `LGUEST_FUZZ_LAST` names a file for the last one.
const ROUNDS: u64 = 60;

/// Marsaglia's xorshift: the same children on every machine.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// What is at the edges of a length, an offset or a count.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 63, u64::MAX];

fn change(bytes: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let at = chance.below(bytes.len());
    match chance.below(6) {
        0 => bytes[at] = chance.below(256) as u8,
        1 => bytes[at] ^= 1 << chance.below(8),
        2 => {
            let (edge, length) = (EDGES[chance.below(EDGES.len())], 1 << chance.below(4));
            let edge =
                if chance.below(2) == 0 { edge.to_le_bytes() } else { edge.rotate_left(8).to_be_bytes() };
            let end = bytes.len().min(at + length);
            bytes[at..end].copy_from_slice(&edge[..end - at]);
        }
        3 => bytes.truncate(at.max(1)),
        4 => {
            // A piece of another input in the place of ours.
            let from = chance.below(other.len());
            let length = chance.below(64).min(other.len() - from).min(bytes.len() - at);
            bytes[at..at + length].copy_from_slice(&other[from..from + length]);
        }
        _ => {
            let end = at + chance.below(bytes.len() - at);
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
    }
}

/// Runs a corpus and its children.
fn hunt(name: &str, run: fn(&[u8])) {
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
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for (name, bytes) in &corpus {
        // Shown when it fails.
        println!("{}", name.display());
        run(bytes);
    }
    for round in 0..asked.unwrap_or(ROUNDS) {
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
    hunt("kernel", kernel::run);
}

#[test]
fn a_strangers_qcow2_image_ends_in_errors_and_touches_no_other_file() {
    hunt("disk", disk::run);
}

#[test]
fn a_guests_requests_reach_nothing_outside_of_a_share() {
    hunt("share", share::run);
}

#[test]
fn what_else_is_read_is_understood_or_refused() {
    hunt("parsers", parsers::run);
}
