//! Layers made by machines: the fuzz target's corpus as it is, and thousands of its children.
//!
//! `fuzz/` runs the same harness under libFuzzer. Here a small generator changes bytes, copies blocks and mends tar's
//! checksums, without which nearly every change would end at the first header.

use std::fs;
use std::path::Path;

mod harness;

/// Children of each file of the corpus; more with `LGUEST_FUZZ_ROUNDS`.
const ROUNDS: u64 = 40;
/// tar's unit, and the place of a header's checksum in it (POSIX pax, "ustar Interchange Format").
const BLOCK: usize = 512;
const CHECKSUM: std::ops::Range<usize> = 148..156;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/layer");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the corpus lies in the repository")
        .map(|entry| {
            let entry = entry.expect("a folder can be read");
            let bytes = fs::read(entry.path()).expect("a file can be read");
            (entry.file_name().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    files.sort();
    assert!(files.len() >= 10, "the corpus was read");
    files
}

/// Marsaglia's xorshift: the same children on every machine.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// What headers are made of, for a child that wants to be read.
const WORDS: [&[u8]; 12] =
    [b"../", b"/", b"..", b".wh.", b".wh..wh..opq", b"./", b"\0", b"0", b"1", b"2", b"5", b"\xff\xff"];

fn change(bytes: &mut Vec<u8>, chance: &mut Chance) {
    if bytes.len() < BLOCK {
        return;
    }
    let blocks = bytes.len() / BLOCK;
    match chance.below(4) {
        0 => {
            let at = chance.below(bytes.len());
            bytes[at] = chance.below(256) as u8;
        }
        1 => {
            let word = WORDS[chance.below(WORDS.len())];
            // Names, targets, and the byte that says what an entry is.
            let place = [0, 100, 124, 156, 157, 345][chance.below(6)] + chance.below(8);
            let at = chance.below(blocks) * BLOCK + place;
            bytes[at..at + word.len()].copy_from_slice(word);
        }
        2 => {
            let from = chance.below(blocks) * BLOCK;
            let copy = bytes[from..from + BLOCK].to_vec();
            let to = chance.below(blocks) * BLOCK;
            bytes.splice(to..to, copy);
        }
        _ => {
            let from = chance.below(blocks) * BLOCK;
            bytes.drain(from..from + BLOCK);
        }
    }
}

/// Gives each block that may be a header the checksum that it should have.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK).filter(|block| &block[257..262] == b"ustar") {
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

#[test]
fn the_corpus_leaves_nothing_outside() {
    for (name, bytes) in corpus() {
        println!("{name}");
        harness::run(&bytes);
    }
}

#[test]
fn children_of_the_corpus_leave_nothing_outside() {
    let asked = std::env::var("LGUEST_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok());
    let corpus = corpus();
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for round in 0..asked.unwrap_or(ROUNDS) {
        for (name, bytes) in &corpus {
            let mut child = bytes.clone();
            for _ in 0..=chance.below(4) {
                change(&mut child, &mut chance);
            }
            mend(&mut child);
            // Shown when it fails.
            println!("{name}, round {round}");
            harness::run(&child);
        }
    }
}
