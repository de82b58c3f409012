//! Agents that lie: the fuzz target's corpus as it is, and thousands of its children (`cargo xtask fuzz exec` goes on).

use std::fs;
use std::path::Path;

mod harness;

/// Children of each file of the corpus; more with `LGUEST_FUZZ_ROUNDS`.
const ROUNDS: u64 = 2000;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/exec");
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

/// Where lengths and kinds lie often, and what is at their edges.
const EDGES: [&[u8]; 7] = [
    &[0, 0, 0, 0],
    &[1, 0, 0, 0],
    // The longest content, one more, and the most that four bytes say.
    &[0, 0, 2, 0],
    &[1, 0, 2, 0],
    &[0xff; 4],
    &[9, 0, 0, 0, 1, 0, 0, 0, 7],
    &[6, 0, 0, 0, 2, 0, 0, 0],
];

fn change(bytes: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let at = chance.below(bytes.len());
    match chance.below(5) {
        0 => bytes[at] = chance.below(256) as u8,
        1 => {
            let edge = EDGES[chance.below(EDGES.len())];
            let end = bytes.len().min(at + edge.len());
            bytes[at..end].copy_from_slice(&edge[..end - at]);
        }
        2 => bytes.truncate(at.max(1)),
        3 => {
            let edge = EDGES[chance.below(EDGES.len())];
            bytes.splice(at..at, edge.iter().copied());
        }
        _ => bytes.extend(&other[1..]),
    }
}

#[test]
fn the_corpus_is_heard_as_the_obvious_reader_hears_it() {
    for (name, bytes) in corpus() {
        println!("{name}");
        harness::run(&bytes);
    }
}

#[test]
fn children_of_the_corpus_are_heard_as_the_obvious_reader_hears_them() {
    let asked = std::env::var("LGUEST_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok());
    let corpus = corpus();
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for round in 0..asked.unwrap_or(ROUNDS) {
        for (name, bytes) in &corpus {
            let mut child = bytes.clone();
            for _ in 0..=chance.below(4) {
                let (_, other) = &corpus[chance.below(corpus.len())];
                change(&mut child, other, &mut chance);
            }
            // Shown when it fails.
            println!("{name}, round {round}");
            harness::run(&child);
        }
    }
}
