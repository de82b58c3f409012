//! Known bytes of the original, made-up lists there and back, and pages that are none.

extern crate std;

use std::vec::Vec;

use super::*;

fn queues(entries: &[(u16, u16, u32)]) -> Vec<QueueEntry> {
    entries.iter().map(|(num, irq, pfn)| QueueEntry { num: *num, irq: *irq, pfn: *pfn }).collect()
}

/// Marsaglia's xorshift: the same pages every time.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

#[test]
fn descriptors_are_as_long_as_the_originals() {
    // Facts 11.2: block 33 bytes, console 21, net 37, rng 13, traced from real runs.
    let net_features = 1 << 28 | 1 << 13 | 1 << 5 | 3;
    let net = queues(&[(256, 1, 0x4001), (256, 2, 0x4004)]);
    let console = queues(&[(256, 5, 0x400d), (256, 6, 0x4010)]);
    let one = queues(&[(256, 3, 0x4007)]);
    let devices = [
        (Description { kind: 2, queues: &one, features: 1 << 9 | 1 << 2, configuration: &[7; 16] }, 33),
        (Description { kind: 3, queues: &console, features: 0, configuration: &[] }, 21),
        (Description { kind: 1, queues: &net, features: net_features, configuration: &[9; 8] }, 37),
        (Description { kind: 4, queues: &one, features: 0, configuration: &[] }, 13),
    ];
    let mut builder = PageBuilder::default();
    let mut at = 0;
    for (device, length) in devices {
        let entry = builder.add(&device).unwrap();
        assert_eq!((entry.offset, entry.end()), (at, at + length));
        at = entry.end();
    }
    assert_eq!(
        builder.bytes()[33..54],
        [&[3, 2, 0, 0, 0][..], &[0, 1, 5, 0, 0xd, 0x40, 0, 0, 0, 1, 6, 0, 0x10, 0x40, 0, 0]].concat()
    );
    assert_eq!(builder.bytes()[13..17], [4, 2, 0, 0], "offered, then accepted");
}

#[test]
fn random_lists_come_back_as_they_were_put_in() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..300 {
        let (mut builder, mut made) = (PageBuilder::default(), Vec::new());
        loop {
            let kind = 1 + random.next(255) as u8;
            let queues: Vec<QueueEntry> = (0..random.next(6))
                .map(|_| QueueEntry {
                    num: random.next(1 << 16) as u16,
                    irq: random.next(1 << 16) as u16,
                    pfn: random.next(1 << 32) as u32,
                })
                .collect();
            let features = random.next(1 << 32) as u32 >> random.next(32);
            let configuration: Vec<u8> = (0..random.next(256)).map(|_| random.next(256) as u8).collect();
            let device = Description { kind, queues: &queues, features, configuration: &configuration };
            match builder.add(&device) {
                Ok(entry) => made.push((entry, queues, features, configuration)),
                Err(error) => {
                    let end = made.last().map_or(0, |(entry, ..)| entry.end());
                    assert_eq!(error, PageError::Endless { offset: end });
                    break;
                }
            }
        }
        let page = builder.bytes();
        let found: Vec<Entry> = entries(page).map(Result::unwrap).collect();
        assert_eq!(found, made.iter().map(|(entry, ..)| *entry).collect::<Vec<_>>());
        for (entry, queues, offered, configuration) in &made {
            let back: Vec<_> = (0..).map_while(|index| queue(page, entry, index)).collect();
            assert_eq!(back, *queues);
            assert_eq!(features(&page[entry.offered()..entry.accepted()]), *offered);
            assert_eq!(features(&page[entry.accepted()..entry.configuration()]), 0);
            assert_eq!(page[entry.configuration()..entry.end()], **configuration);
        }
    }
}

#[test]
fn a_list_may_end_with_the_page_and_no_descriptor_behind_it() {
    let mut page = [0; SIZE];
    page[..5].copy_from_slice(&[4, 255, 255, 255, 0]);
    let first = entry(&page, 0).unwrap().unwrap();
    assert_eq!(first.end(), 5 + 255 * 8 + 2 * 255 + 255);
    page[first.end()..first.end() + 5].copy_from_slice(&[4, 150, 20, 26, 0]);
    let second = entry(&page, first.end()).unwrap().unwrap();
    assert_eq!(second.end(), SIZE - 15);
    page[second.end()..second.end() + 5].copy_from_slice(&[1, 1, 1, 0, 7]);
    assert_eq!(entries(&page).filter(|found| found.is_ok()).count(), 3, "it ends exactly there");
    page[second.end() + 3] = 1;
    let last = entries(&page).last().unwrap();
    assert_eq!(last, Err(PageError::Endless { offset: second.end() }));
    assert_eq!(entries(&page).count(), 3, "and nothing after the error");
}

#[test]
fn no_random_page_is_read_past_its_end() {
    let mut random = Random(7);
    for _ in 0..500 {
        let mut page = [0; SIZE];
        page.iter_mut().for_each(|byte| *byte = random.next(256) as u8 & random.next(256) as u8);
        let mut end = 0;
        for found in entries(&page).filter_map(Result::ok) {
            assert!(found.offset == end && found.end() <= SIZE);
            end = found.end();
            for index in 0..u16::from(found.queues) {
                assert!(queue(&page, &found, index).is_some());
            }
            assert!(queue(&page, &found, found.queues.into()).is_none());
        }
        let _ = check(&page, 0x4000);
    }
}

#[test]
fn features_of_0_1_4_and_6_bytes_are_at_most_32() {
    assert_eq!(features(&[]), 0);
    assert_eq!(features(&[0x81]), 0x81);
    assert_eq!(features(&[1, 2, 3, 0x84]), 0x8403_0201);
    assert_eq!(features(&[1, 2, 3, 0x84, 0xff, 0xff]), 0x8403_0201, "what is behind means nothing");
    let mut bitmap = [0xff; 6];
    set_features(&mut bitmap, 0x8403_0201);
    assert_eq!(bitmap, [1, 2, 3, 0x84, 0, 0]);
    set_features(&mut bitmap[..1], 0x1ff);
    assert_eq!(bitmap[..2], [0xff, 2], "what has no room is lost");
    assert_eq!([0, 1, 0x80, 0x100, 1 << 24].map(bitmap_bytes), [0, 1, 1, 2, 4]);
}

#[test]
fn a_ring_of_256_takes_three_pages_and_one_of_eight_two() {
    assert_eq!(ring_layout(256), RingLayout { available: 4096, used: 8192, pages: 3 });
    assert_eq!(ring_layout(8), RingLayout { available: 128, used: 4096, pages: 2 });
    assert_eq!(ring_layout(128), RingLayout { available: 2048, used: 4096, pages: 2 });
    assert_eq!(ring_layout(MOST_ENTRIES).pages, 129 + 16 + 65);
}

fn page_with(rings: &[(u16, u16, u32)]) -> Result<(), PageError> {
    let mut builder = PageBuilder::default();
    for ring in rings {
        let queues = queues(&[*ring]);
        builder.add(&Description { kind: 4, queues: &queues, features: 0, configuration: &[] }).unwrap();
    }
    check(builder.bytes(), 0x4000)
}

#[test]
fn rings_over_each_other_over_the_page_or_outside_are_refused() {
    assert_eq!(page_with(&[(256, 1, 0x4001), (256, 2, 0x4004), (8, 31, 0x40fe)]), Ok(()));
    assert_eq!(page_with(&[(256, 1, 0x4001), (256, 2, 0x4003)]), Err(PageError::Overlap { pfn: 0x4003 }));
    assert_eq!(page_with(&[(256, 1, 0x4003), (256, 2, 0x4001)]), Err(PageError::Overlap { pfn: 0x4001 }));
    assert_eq!(page_with(&[(256, 1, 0x4000)]), Err(PageError::Overlap { pfn: 0x4000 }));
    assert_eq!(page_with(&[(8, 1, 0x40ff)]), Err(PageError::Outside { pfn: 0x40ff }));
    assert_eq!(page_with(&[(8, 1, 0x3fff)]), Err(PageError::Outside { pfn: 0x3fff }));
    assert_eq!(page_with(&[(8, 1, u32::MAX)]), Err(PageError::Outside { pfn: u32::MAX }));
    for num in [0, 3, 0x8001] {
        assert_eq!(page_with(&[(num, 1, 0x4001)]), Err(PageError::Entries { num }));
    }
    for irq in [0, 32, u16::MAX] {
        assert_eq!(page_with(&[(8, irq, 0x4001)]), Err(PageError::Irq { irq }));
    }
}

#[test]
fn a_device_that_no_descriptor_can_say_is_refused_and_leaves_the_page_alone() {
    let mut builder = PageBuilder::default();
    let device = Description { kind: 1, queues: &[], features: 0, configuration: &[] };
    assert_eq!(builder.add(&Description { kind: 0, ..device }), Err(PageError::Device));
    assert_eq!(
        builder.add(&Description { queues: &[QueueEntry::default(); 256], ..device }),
        Err(PageError::Device)
    );
    assert_eq!(builder.add(&Description { configuration: &[0; 256], ..device }), Err(PageError::Device));
    assert_eq!(*builder.bytes(), [0; SIZE]);
}
