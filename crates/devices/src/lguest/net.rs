//! A network device with the host at the other end (facts 7.3, "tap"): a private page, the host in slot 0, the Guest in 1.
//!
//! Devices on a `link=` have no Host's side at all: their machines send to each other.

use lguest_abi::dma::Sections;
use lguest_abi::net::{FRAME_MAXIMUM, FRAME_MINIMUM, PROMISCUOUS, TAP_GUEST_SLOT, key_offset, slot_offset};

use super::{Carrier, LguestDevice, gather, scatter};

/// Where frames go on the host.
pub trait Frames: Send {
    /// Takes one frame, 14 to 1514 bytes; false when the host lost it.
    fn put(&mut self, frame: &[u8]) -> bool;
}

/// The Host's side of a network device.
pub struct LguestNet<F> {
    frames: F,
}

impl<F: Frames> LguestNet<F> {
    /// A device whose frames go to `frames`. It listens at its page's address, which is slot 0's key.
    pub fn new(frames: F) -> Self {
        LguestNet { frames }
    }
}

/// Puts the host's address into slot 0. The host wants every frame, for it may be a bridge.
pub fn announce(carrier: &dyn Carrier, page: u64, mut address: [u8; 6]) {
    address[0] |= PROMISCUOUS;
    carrier.write(page + slot_offset(0), &address);
}

/// Gives the Guest a frame from the host; false when it was dropped, because the Guest has no free buffer or the frame is
/// none.
pub fn input(carrier: &dyn Carrier, page: u64, frame: &[u8]) -> bool {
    if !(FRAME_MINIMUM..=FRAME_MAXIMUM).contains(&(frame.len() as u32)) {
        return false;
    }
    let Some(reserved) = carrier.take(page + key_offset(TAP_GUEST_SLOT)) else { return false };
    let used = scatter(carrier, &reserved.sections, frame);
    carrier.finish(&reserved, used);
    if used > 0 {
        carrier.interrupt(&reserved);
    }
    used as usize == frame.len()
}

impl<F: Frames> LguestDevice for LguestNet<F> {
    fn sent(&mut self, carrier: &dyn Carrier, list: &Sections) -> u32 {
        // One byte more than a frame may have tells a longer one from a whole one.
        let frame = gather(carrier, list, FRAME_MAXIMUM as usize + 1);
        let good = (FRAME_MINIMUM..=FRAME_MAXIMUM).contains(&(frame.len() as u32));
        if good && self.frames.put(&frame) { frame.len() as u32 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::{Bench, list};
    use super::*;
    use std::sync::{Arc, Mutex};

    const PAGE: u64 = 0x1000;

    #[derive(Clone, Default)]
    struct Wire(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Frames for Wire {
        fn put(&mut self, frame: &[u8]) -> bool {
            self.0.lock().unwrap().push(frame.to_vec());
            true
        }
    }

    #[test]
    fn frames_of_14_to_1514_bytes_go_out_and_others_do_not() {
        let (bench, wire) = (Bench::new(), Wire::default());
        let mut net = LguestNet::new(wire.clone());
        for (length, sent) in [(13, 0), (14, 14), (1514, 1514), (1515, 0), (65535, 0)] {
            assert_eq!(net.sent(&bench, &list(&[(0x2000, length)])), sent);
        }
        assert_eq!(wire.0.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [14, 1514]);
    }

    #[test]
    fn a_frame_from_the_host_comes_in_at_slot_1() {
        let bench = Bench::new();
        assert!(!input(&bench, PAGE, &[9; 60]), "nobody listens");
        bench.bind(PAGE + 4, &[(0x2000, 1514)]);
        assert!(!input(&bench, PAGE, &[9; 13]) && !input(&bench, PAGE, &[9; 1515]));
        assert!(input(&bench, PAGE, &[9; 60]));
        assert_eq!((bench.used.get(), bench.interrupts.get(), bench.bytes(0x2000, 60)), (60, 1, vec![9; 60]));
        assert!(!input(&bench, PAGE, &[9; 60]), "the buffer is full");
    }

    #[test]
    fn the_host_wants_every_frame() {
        let bench = Bench::new();
        announce(&bench, PAGE, [2, 3, 4, 5, 6, 7]);
        assert_eq!(bench.bytes(PAGE as usize, 6), [3, 3, 4, 5, 6, 7]);
    }
}
