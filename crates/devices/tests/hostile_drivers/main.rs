//! Hostile drivers against every virtio device: made-up ones here, and what cargo-fuzz finds (`crates/devices/fuzz`) kept as a
//! corpus that is carried out again by an ordinary test.

#[path = "harness.rs"]
mod harness;

/// Inputs that once found something, or reach far: one a line, in hexadecimal, with a reason.
const CORPUS: &str = include_str!("corpus.txt");

#[test]
fn every_input_of_the_corpus_ends_without_harm() {
    let mut inputs = 0;
    for line in CORPUS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let digits: Vec<u8> =
            line.split('#').next().unwrap().bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        harness::drive(&digits.chunks(2).map(byte).collect::<Vec<_>>());
        inputs += 1;
    }
    assert!(inputs > 0);
}

#[test]
fn made_up_drivers_harm_nobody() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..4000 {
        let length = next() % 600;
        let mut input: Vec<u8> = (0..length).map(|_| next() as u8).collect();
        // Chains are what gets far: half of the tags ask for one.
        input
            .iter_mut()
            .skip(1)
            .step_by(2)
            .for_each(|byte| *byte = if next_bit(*byte) { *byte | 7 } else { *byte });
        harness::drive(&input);
    }
}

/// An even share of all bytes.
fn next_bit(byte: u8) -> bool {
    byte.count_ones().is_multiple_of(2)
}
