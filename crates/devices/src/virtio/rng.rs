//! Entropy (virtio 1.2, 5.4): a queue of empty buffers that come back with random bytes in them.

use super::ring::Broken;
use super::rings::Rings;
use super::{DeviceKind, QueueIndex, VirtioDevice};

/// The most bytes a request gets. Drivers ask for less than a hundred; one that asks for gigabytes may be given fewer
/// (5.4.6.2), and must not keep its vCPU's thread busy.
const MOST: usize = 4096;
/// One request is all that Linux has in flight.
const QUEUE_SIZES: [u16; 1] = [8];

/// Where random bytes come from.
pub trait Entropy: Send {
    /// Fills `bytes` from the beginning; how many it had.
    fn fill(&mut self, bytes: &mut [u8]) -> usize;
}

/// The device.
pub struct VirtioRng<E> {
    entropy: E,
}

impl<E: Entropy> VirtioRng<E> {
    /// A device that passes on `entropy`.
    pub fn new(entropy: E) -> Self {
        VirtioRng { entropy }
    }
}

impl<E: Entropy> VirtioDevice for VirtioRng<E> {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn configuration(&self) -> &[u8] {
        &[]
    }

    fn activate(&mut self, _features: u64) {}

    fn notify(&mut self, queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let mut ring = rings.ring(queue)?;
        while let Some(mut chain) = ring.take()? {
            let room = chain.writable().min(MOST as u64) as usize;
            if room == 0 {
                return Err(Broken::NoRoom);
            }
            let mut bytes = [0; MOST];
            let length = self.entropy.fill(&mut bytes[..room]).min(room);
            ring.write(&mut chain, &bytes[..length]);
            ring.finish(&chain, length as u32)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::Bench;
    use super::*;

    struct Sevens;

    impl Entropy for Sevens {
        fn fill(&mut self, bytes: &mut [u8]) -> usize {
            bytes.fill(7);
            bytes.len()
        }
    }

    #[test]
    fn a_buffer_comes_back_full_whatever_its_pieces() {
        let mut bench = Bench::start(VirtioRng::new(Sevens));
        bench.offer(0, &[(0x8000, 10, true), (0x9000, 0, true), (0xa000, 54, true)]);
        assert_eq!(bench.notify(), Ok(vec![(0, 64)]));
        assert_eq!((bench.bytes(0x8000, 11), bench.bytes(0xa000, 55)), {
            let full = |length: usize| [vec![7; length], vec![0]].concat();
            (full(10), full(54))
        });
    }

    #[test]
    fn a_request_for_a_gigabyte_gets_a_page() {
        let mut bench = Bench::start(VirtioRng::new(Sevens));
        bench.offer(0, &[(0x8000, 0x8000, true)]);
        assert_eq!(bench.notify(), Ok(vec![(0, MOST as u32)]));
        assert_eq!(bench.bytes(0x8000 + MOST as u64, 1), [0]);
    }

    #[test]
    fn a_buffer_without_room_needs_a_reset() {
        let mut bench = Bench::start(VirtioRng::new(Sevens));
        bench.offer(0, &[(0x8000, 16, false)]);
        assert_eq!(bench.notify(), Err(Broken::NoRoom));
    }
}
