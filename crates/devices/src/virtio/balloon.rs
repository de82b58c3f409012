//! A balloon (virtio 1.2, 5.5): the Guest tells which of its pages it has no use for, and the host has them back.
//!
//! ```text
//!   0 inflate   page numbers (4 bytes each, in 4 KiB pages) that the Guest takes away from itself
//!   1 deflate   page numbers that it takes back
//!   2 reporting chains of room that is free memory: it stays the Guest's, and only its contents are lost
//! ```
//! Reporting needs nobody who asks: Linux reports what has been free for a while. The balloon itself is never asked to grow
//! here (its target stays 0); a driver that inflates it all the same is taken at its word.
//!
//! Optional queues have their numbers by which of them are offered (5.5.2); of three only reporting is, and a driver that counts
//! the others too finds it in their places.

use super::ring::Broken;
use super::rings::Rings;
use super::{DeviceKind, QueueIndex, VirtioDevice};

/// Bytes of a page as this device counts (5.5.6).
const PAGE: u64 = 4096;
/// The last two are the places of reporting if the queues that are not offered were counted.
const QUEUE_SIZES: [u16; 5] = [128, 128, 32, 32, 32];
const INFLATE: QueueIndex = QueueIndex(0);
const DEFLATE: QueueIndex = QueueIndex(1);
/// Page numbers taken of one chain; Linux sends 256. More are left where they are.
const MOST_PAGES: u64 = 1024;

/// Features (5.5.3).
mod feature {
    /// The Guest may take pages back when it runs out of memory.
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub const REPORTING: u64 = 1 << 5;
}

/// Where pages go back to.
pub trait Pages: Send {
    /// `length` bytes of Guest memory from this Guest-physical address on, whole pages, have no use: what they hold is lost.
    /// What is no RAM is left alone.
    fn give_back(&mut self, address: u64, length: u64);
}

/// The device.
pub struct VirtioBalloon<P> {
    pages: P,
    /// `num_pages`, which stays 0, and `actual`, which the driver writes.
    configuration: [u8; 8],
}

impl<P: Pages> VirtioBalloon<P> {
    /// A balloon of no pages.
    pub fn new(pages: P) -> Self {
        VirtioBalloon { pages, configuration: [0; 8] }
    }

    /// Gives the numbered pages back, neighbours together.
    fn inflate(&mut self, numbers: &[u8]) {
        let mut run = 0..0;
        for number in numbers.chunks_exact(4) {
            let start = u64::from(u32::from_le_bytes([number[0], number[1], number[2], number[3]])) * PAGE;
            if start != run.end {
                self.give_back(run.start, run.end - run.start);
                run.start = start;
            }
            run.end = start + PAGE;
        }
        self.give_back(run.start, run.end - run.start);
    }

    /// Whole pages only: of a part of a page the rest may be somebody's.
    fn give_back(&mut self, address: u64, length: u64) {
        let start = address.next_multiple_of(PAGE);
        let end = (address + length) / PAGE * PAGE;
        if start < end {
            self.pages.give_back(start, end - start);
        }
    }
}

impl<P: Pages> VirtioDevice for VirtioBalloon<P> {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn features(&self) -> u64 {
        feature::DEFLATE_ON_OOM | feature::REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    /// Only `actual` is the driver's (5.5.4).
    fn write_configuration(&mut self, offset: u64, data: &[u8]) {
        let Ok(offset) = usize::try_from(offset) else { return };
        for (place, byte) in self.configuration.iter_mut().enumerate().skip(offset.max(4)) {
            *byte = data.get(place - offset).copied().unwrap_or(*byte);
        }
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.configuration = [0; 8];
    }

    fn notify(&mut self, queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let mut ring = rings.ring(queue)?;
        while let Some(mut chain) = ring.take()? {
            match queue {
                INFLATE => {
                    let length = chain.readable().min(MOST_PAGES * 4) / 4 * 4;
                    let mut numbers = vec![0; length as usize];
                    if ring.read(&mut chain, &mut numbers) {
                        self.inflate(&numbers);
                    }
                }
                // A page that is touched again comes again by itself.
                DEFLATE => {}
                _ => chain.room().for_each(|(address, length)| self.give_back(address, length)),
            }
            ring.finish(&chain, 0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::bench::{Bench, MEMORY, QUEUE};
    use super::super::life::{Half, QueuePart};
    use super::*;

    #[derive(Clone, Default)]
    struct Given(Arc<Mutex<Vec<(u64, u64)>>>);

    impl Pages for Given {
        fn give_back(&mut self, address: u64, length: u64) {
            self.0.lock().unwrap().push((address, length));
        }
    }

    impl Given {
        fn take(&self) -> Vec<(u64, u64)> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    fn balloon() -> (Bench, Given) {
        let given = Given::default();
        (Bench::start(VirtioBalloon::new(given.clone())), given)
    }

    /// Moves the bench's queue 0 to another of the device's.
    fn use_queue(bench: &mut Bench, index: u16) {
        bench.life.set_queue_ready(QUEUE, false);
        for (part, address) in
            [(QueuePart::Descriptors, 0x1000), (QueuePart::Driver, 0x2000), (QueuePart::Device, 0x3000)]
        {
            bench.life.set_queue_address(QueueIndex(index), part, Half::Low(address));
        }
        bench.life.set_queue_ready(QueueIndex(index), true);
    }

    fn numbers(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn pages_put_into_the_balloon_are_given_back_neighbours_together() {
        let (mut bench, given) = balloon();
        bench.write(0x8000, &numbers(&[3, 4, 5, 9, 8, u32::MAX]));
        bench.offer(0, &[(0x8000, 10, false), (0x800a, 15, false)]);
        assert_eq!(bench.notify(), Ok(vec![(0, 0)]));
        let last = u64::from(u32::MAX) * PAGE;
        assert_eq!(given.take(), [(3 * PAGE, 3 * PAGE), (9 * PAGE, PAGE), (8 * PAGE, PAGE), (last, PAGE)]);
    }

    #[test]
    fn a_chain_of_a_million_pages_is_as_much_work_as_a_thousand() {
        let (mut bench, given) = balloon();
        let descriptors: Vec<_> = (0..100).map(|_| (0x8000, 0x8000, false)).collect();
        bench.write(0x8000, &numbers(&(0..8192).map(|n| n * 2).collect::<Vec<_>>()));
        bench.offer(0, &descriptors);
        assert_eq!(bench.notify(), Ok(vec![(0, 0)]));
        assert_eq!(given.take().len(), MOST_PAGES as usize);
    }

    #[test]
    fn free_memory_that_is_reported_is_given_back_in_whole_pages() {
        for index in 2..5 {
            let (mut bench, given) = balloon();
            use_queue(&mut bench, index);
            bench.offer(0, &[(0x8000, 0x4000, true), (0x6800, 0x1000, true), (0x6800, 0x1800, true)]);
            bench.life.notify(QueueIndex(index));
            assert_eq!(given.take(), [(0x8000, 0x4000), (0x7000, 0x1000)]);
        }
    }

    #[test]
    fn what_is_no_memory_or_not_for_writing_is_not_given_back() {
        let (mut bench, given) = balloon();
        use_queue(&mut bench, 2);
        bench.offer(0, &[(0x8000, 0x1000, false)]);
        bench.life.notify(QueueIndex(2));
        bench.offer(2, &[(MEMORY - 0x1000, 0x2000, true)]);
        bench.life.notify(QueueIndex(2));
        assert_eq!((given.take(), bench.life.broken()), (vec![], Some(Broken::Buffer)));
    }

    #[test]
    fn a_driver_may_write_how_large_its_balloon_is_and_nothing_else() {
        let (mut bench, _) = balloon();
        for (offset, data) in [(0, &[1; 8][..]), (7, &[2; 8]), (u64::MAX, &[3; 1]), (8, &[4; 4])] {
            bench.life.write_configuration(offset, data);
        }
        assert_eq!(bench.life.configuration(), [0, 0, 0, 0, 1, 1, 1, 2]);
    }

    #[test]
    fn random_chains_end() {
        let mut random = crate::hostile::Random(7);
        let (mut served, mut broken) = (0, 0);
        for round in 0..5_000 {
            let (mut bench, _) = balloon();
            let queue = (round % 5) as u16;
            use_queue(&mut bench, queue);
            let buffers: Vec<_> = (0..random.next() % 6)
                .map(|_| {
                    let address =
                        [0x8000, 0x8001, 0, MEMORY - 0x1000, MEMORY, u64::MAX][random.next() as usize % 6];
                    let length = [0, 1, 4, 0x1000, 0x1001, u32::MAX][random.next() as usize % 6];
                    (address, length, random.next().is_multiple_of(2))
                })
                .collect();
            bench.offer(0, &buffers);
            bench.life.notify(QueueIndex(queue));
            if bench.life.broken().is_some() { broken += 1 } else { served += 1 }
        }
        assert!(served > 100 && broken > 100, "{served} served, {broken} broken");
    }
}
