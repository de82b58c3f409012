//! New inputs from old ones: the corpus, cut, spliced, with bits flipped and prefixes put in.

/// One input a line in hexadecimal, with a reason behind `;`.
const CORPUS: &str = include_str!("corpus.txt");

/// Bytes that change what follows them: prefixes, escapes, and the starts of VEX and EVEX.
const TELLING: [u8; 22] = [
    0x0f, 0x26, 0x2e, 0x36, 0x3e, 0x48, 0x4c, 0x62, 0x64, 0x65, 0x66, 0x67, 0xc4, 0xc5, 0xd8, 0xdf, 0xf0,
    0xf2, 0xf3, 0xff, 0xcd, 0xe8,
];

/// Every input of the corpus.
pub fn corpus() -> Vec<Vec<u8>> {
    CORPUS.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(parse).collect()
}

fn parse(line: &str) -> Vec<u8> {
    let (digits, reason) = line.split_once(';').unwrap_or((line, ""));
    assert!(!reason.trim().is_empty(), "`{line}` does not say why it is here");
    let digits: String = digits.split_whitespace().collect();
    let byte = |i: usize| u8::from_str_radix(&digits[i..i + 2], 16);
    (0..digits.len())
        .step_by(2)
        .map(|i| byte(i).unwrap_or_else(|_| panic!("`{line}`: not hexadecimal")))
        .collect()
}

/// Makes inputs; the same ones for the same seed.
pub struct Mutator {
    state: u64,
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    /// A mutator over the corpus.
    pub fn new(seed: u64) -> Mutator {
        Mutator { state: seed, corpus: corpus() }
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.pick();
        for _ in 0..1 + self.below(6) {
            self.change(&mut input);
        }
        input
    }

    fn pick(&mut self) -> Vec<u8> {
        let number = self.below(self.corpus.len());
        self.corpus[number].clone()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let place = self.below(input.len().max(1));
        match self.below(7) {
            0 if place < input.len() => input[place] ^= 1 << self.below(8),
            1 if place < input.len() => input[place] = self.bits() as u8,
            2 if place > 9 => drop(input.remove(place)),
            3 => input.insert(place, TELLING[self.below(TELLING.len())]),
            4 => input.extend((0..1 + self.below(16)).map(|_| self.bits() as u8).collect::<Vec<_>>()),
            // Another input's code, here.
            5 => {
                let other = self.pick();
                let at = place.max(9.min(input.len()));
                input.splice(at..at, other.into_iter().skip(9));
            }
            // Other registers and another level.
            _ => input.iter_mut().take(9).for_each(|byte| *byte = byte.wrapping_add(self.bits() as u8)),
        }
        input.truncate(600);
    }

    fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// A splitmix64 generator (Steele, Lea, Flood 2014).
    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
