//! What becomes of a corpus' files: children that differ in a few places.

/// Marsaglia's xorshift: the same children on every machine.
pub struct Chance(u64);

impl Default for Chance {
    fn default() -> Chance {
        Chance(0x9e37_79b9_7f4a_7c15)
    }
}

impl Chance {
    /// A number below this one; 0 below 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// Changes a child, which is not empty, in one place; it may take over from another input.
pub type Change = fn(&mut Vec<u8>, &[u8], &mut Chance);

/// What is at the edges of a length, an offset or a count.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 63, u64::MAX];

/// For bytes of which nothing is known.
pub fn anything(bytes: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
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

/// Lengths and kinds of an agent's frames, and what is at their edges.
const FRAME_EDGES: [&[u8]; 7] = [
    &[0, 0, 0, 0],
    &[1, 0, 0, 0],
    // The longest content, one more, and the most that four bytes say.
    &[0, 0, 2, 0],
    &[1, 0, 2, 0],
    &[0xff; 4],
    &[9, 0, 0, 0, 1, 0, 0, 0, 7],
    &[6, 0, 0, 0, 2, 0, 0, 0],
];

/// For an agent's frames, one behind the other.
pub fn frames(bytes: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let at = chance.below(bytes.len());
    let edge = FRAME_EDGES[chance.below(FRAME_EDGES.len())];
    match chance.below(5) {
        0 => bytes[at] = chance.below(256) as u8,
        1 => {
            let end = bytes.len().min(at + edge.len());
            bytes[at..end].copy_from_slice(&edge[..end - at]);
        }
        2 => bytes.truncate(at.max(1)),
        3 => drop(bytes.splice(at..at, edge.iter().copied())),
        _ => bytes.extend(other.get(1..).unwrap_or_default()),
    }
}

/// tar's unit, and the place of a header's checksum in it (POSIX pax, "ustar Interchange Format").
const BLOCK: usize = 512;
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// What headers are made of, for a child that wants to be read.
const WORDS: [&[u8]; 12] =
    [b"../", b"/", b"..", b".wh.", b".wh..wh..opq", b"./", b"\0", b"0", b"1", b"2", b"5", b"\xff\xff"];

/// For archives of tar's. Their checksums are mended, without which nearly every change would end at the first header.
pub fn archives(bytes: &mut Vec<u8>, _: &[u8], chance: &mut Chance) {
    let blocks = bytes.len() / BLOCK;
    if blocks == 0 {
        return;
    }
    let (from, to) = (chance.below(blocks) * BLOCK, chance.below(blocks) * BLOCK);
    match chance.below(4) {
        0 => {
            let at = chance.below(bytes.len());
            bytes[at] = chance.below(256) as u8;
        }
        1 => {
            let word = WORDS[chance.below(WORDS.len())];
            // Names, targets, and the byte that says what an entry is.
            let place = [0, 100, 124, 156, 157, 345][chance.below(6)] + chance.below(8);
            bytes[to + place..to + place + word.len()].copy_from_slice(word);
        }
        2 => {
            let copy = bytes[from..from + BLOCK].to_vec();
            bytes.splice(to..to, copy);
        }
        _ => drop(bytes.drain(from..from + BLOCK)),
    }
    for block in bytes.chunks_exact_mut(BLOCK).filter(|block| &block[257..262] == b"ustar") {
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
