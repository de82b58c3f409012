//! Repeatable chance: the same seed gives the same cases on every machine.

/// A splitmix64 generator (Steele, Lea, Flood 2014): one addition and a mix, good enough to pick operands.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator that will always give the same numbers for this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One element.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number as programs meet them: often small, often at an edge, sometimes anything.
    pub fn number(&mut self) -> u64 {
        let random = self.bits();
        match self.below(8) {
            0 => random & 0xff,
            1 => (random & 0xff).wrapping_neg(),
            2 => self.pick(&[0, 1, u64::MAX, 1 << 63, i64::MAX as u64, 1 << 31, 0x7fff_ffff, 0xffff_ffff]),
            3 => random & 0xffff_ffff,
            _ => random,
        }
    }

    /// Eight bytes of a vector or of memory: integers, doubles or pairs of floats of ordinary size, or anything.
    pub fn eight_bytes(&mut self) -> u64 {
        let random = self.bits();
        match random & 7 {
            0 => 0,
            1 | 2 => (f64::from(random as i32 >> 8) / f64::from((random >> 40) as u32 | 1)).to_bits(),
            3 | 4 => {
                let half = |n: u32| u64::from((n as i32 as f32 / 1024.0).to_bits());
                half(random as u32) | half((random >> 32) as u32) << 32
            }
            5 => random >> 48,
            _ => random,
        }
    }
}
