//! Where the bytes of a file that is no ELF go: as a Multiboot header says it.

use std::ops::Range;

/// A piece of the file, a piece of memory, and where to begin. All addresses are physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Where in the file the first byte to load is.
    pub offset: u64,
    /// Where it goes.
    pub load: u32,
    /// Where the last one goes, plus one; zero for all that the file has.
    pub load_end: u32,
    /// End of what the kernel wants zeroed behind them; zero for none.
    pub bss_end: u32,
    /// The first instruction.
    pub entry: u32,
}

impl Addresses {
    /// Which bytes of a file of this length, and which memory they and the zeroes behind them take; None when the addresses
    /// contradict each other or the file.
    pub fn ranges(&self, length: u64) -> Option<(Range<u64>, Range<u64>)> {
        let load = u64::from(self.load);
        let bytes = match self.load_end {
            0 => length.checked_sub(self.offset)?,
            end => u64::from(end).checked_sub(load)?,
        };
        let file = self.offset..self.offset.checked_add(bytes)?;
        let end = match self.bss_end {
            0 => load + bytes,
            end => u64::from(end),
        };
        let fits = file.end <= length && load + bytes <= end && (load..end).contains(&self.entry.into());
        fits.then_some((file, load..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Addresses =
        Addresses { offset: 16, load: 0x1000, load_end: 0x1100, bss_end: 0x1200, entry: 0x1010 };

    #[test]
    fn zeroes_mean_the_rest_of_the_file_and_nothing_behind_it() {
        assert_eq!(GOOD.ranges(0x200), Some((16..0x110, 0x1000..0x1200)));
        let short = Addresses { load_end: 0, bss_end: 0, ..GOOD };
        assert_eq!(short.ranges(0x50), Some((16..0x50, 0x1000..0x1040)));
    }

    #[test]
    fn contradictions_are_none() {
        for wrong in [
            Addresses { load_end: 0xfff, ..GOOD },
            Addresses { load_end: 0x2000, ..GOOD },
            Addresses { bss_end: 0x10ff, ..GOOD },
            Addresses { entry: 0xfff, ..GOOD },
            Addresses { entry: 0x1200, ..GOOD },
            Addresses { offset: u64::MAX, ..GOOD },
        ] {
            assert_eq!(wrong.ranges(0x200), None, "{wrong:x?}");
        }
    }
}
