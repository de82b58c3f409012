//! The pipe (lguest-abi, `pipe`): a fixed text for the Guest, and an ear for what it writes.

use lguest_abi::dma::{MAX_BYTES, Sections};
use lguest_abi::pipe::GREETING;

use super::{Carrier, LguestDevice, scatter};

/// The Host's end of a pipe that the Launcher connects to nothing.
#[derive(Debug, Default)]
pub struct LguestPipe {
    /// How much of the text the Guest has.
    given: usize,
}

impl LguestPipe {
    /// Nothing given yet.
    pub fn new() -> LguestPipe {
        LguestPipe::default()
    }

    /// Gives the Guest as much of the text as the list bound at `key` takes; false when there was nothing to give, or
    /// nowhere to put it.
    pub fn offer(&mut self, carrier: &dyn Carrier, key: u64) -> bool {
        let rest = &GREETING.as_bytes()[self.given..];
        if rest.is_empty() {
            return false;
        }
        let Some(reserved) = carrier.take(key) else { return false };
        let used = scatter(carrier, &reserved.sections, rest);
        self.given += used as usize;
        carrier.finish(&reserved, used);
        if used > 0 {
            carrier.interrupt(&reserved);
        }
        used > 0
    }
}

impl LguestDevice for LguestPipe {
    fn sent(&mut self, _carrier: &dyn Carrier, list: &Sections) -> u32 {
        list.total().min(MAX_BYTES) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::{Bench, list};
    use super::*;

    #[test]
    fn the_whole_text_comes_through_a_small_list() {
        let (bench, mut pipe, mut text) = (Bench::new(), LguestPipe::new(), Vec::new());
        bench.bind(0x1000, &[(0x2000, 5)]);
        while pipe.offer(&bench, 0x1000) {
            text.extend(bench.bytes(0x2000, bench.used.get() as usize));
            bench.used.set(0);
        }
        assert_eq!(text, GREETING.as_bytes());
    }

    #[test]
    fn what_is_written_is_taken() {
        assert_eq!(LguestPipe::new().sent(&Bench::new(), &list(&[(0, 100), (200, 28)])), 128);
    }
}
