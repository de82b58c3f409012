//! The console (facts 7.1): key 0, no pages. Output works before the Guest has looked at a descriptor.

use lguest_abi::console::KEY;
use lguest_abi::dma::Sections;

use super::{Carrier, LguestDevice, gather, scatter};
use crate::outside::Output;

/// The most one list prints. A driver sends 256 bytes; a Guest that sends a mebibyte gets the rest of it dropped
/// and sees so in `used_len`.
const LONGEST: usize = 64 << 10;

/// The Host's side of the console.
pub struct LguestConsole<O> {
    output: O,
}

impl<O: Output> LguestConsole<O> {
    /// A console that prints to `output`.
    pub fn new(output: O) -> Self {
        LguestConsole { output }
    }
}

impl<O: Output> LguestDevice for LguestConsole<O> {
    fn sent(&mut self, carrier: &dyn Carrier, list: &Sections) -> u32 {
        let bytes = gather(carrier, list, LONGEST);
        bytes.iter().for_each(|byte| self.output.put(*byte));
        bytes.len() as u32
    }
}

/// Gives the Guest input; how many bytes it took. 0 when it has not bound a list, or has not read the last one
/// empty: then the same bytes are offered again later.
pub fn input(carrier: &dyn Carrier, bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        return 0;
    }
    let Some(reserved) = carrier.take(KEY) else { return 0 };
    let used = scatter(carrier, &reserved.sections, bytes);
    carrier.finish(&reserved, used);
    if used > 0 {
        carrier.interrupt(&reserved);
    }
    used as usize
}

#[cfg(test)]
mod tests {
    use super::super::bench::{Bench, list};
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Output for Screen {
        fn put(&mut self, byte: u8) {
            self.0.lock().unwrap().push(byte);
        }
    }

    #[test]
    fn what_is_sent_is_printed_whole_across_a_page() {
        let (bench, screen) = (Bench::new(), Screen::default());
        bench.write(0xff0, &[b'x'; 256]);
        let mut console = LguestConsole::new(screen.clone());
        assert_eq!(console.sent(&bench, &list(&[(0xff0, 256)])), 256);
        assert_eq!(*screen.0.lock().unwrap(), [b'x'; 256]);
        assert_eq!(console.sent(&bench, &list(&[])), 0, "a ping prints nothing");
    }

    #[test]
    fn input_waits_until_the_guest_has_read_the_last() {
        let bench = Bench::new();
        assert_eq!(input(&bench, b"early"), 0, "nothing bound");
        bench.bind(KEY, &[(0x100, 4), (0x200, 4)]);
        assert_eq!(input(&bench, b"hello world"), 8);
        assert_eq!((bench.used.get(), bench.interrupts.get()), (8, 1));
        assert_eq!([bench.bytes(0x100, 4), bench.bytes(0x200, 4)].concat(), b"hello wo");
        assert_eq!(input(&bench, b"rld"), 0, "busy");
        bench.used.set(0);
        assert_eq!(input(&bench, b"rld"), 3);
    }

    #[test]
    fn a_list_without_room_takes_nothing_and_stays_free() {
        let bench = Bench::new();
        bench.bind(KEY, &[]);
        assert_eq!((input(&bench, b"x"), bench.used.get(), bench.interrupts.get()), (0, 0, 0));
    }
}
