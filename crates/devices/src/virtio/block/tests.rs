//! Requests as drivers make them, and as they should not.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::super::bench::{Bench, QUEUE};
use super::super::ring::Broken;
use super::request::kind;
use super::storage::Alone;
use super::*;
use crate::lguest::block::DiskError;

const SECTORS: u64 = 64;
const HEADER: u64 = 0x7000;
const DATA: u64 = 0x8000;
const STATUS: u64 = 0x7100;

/// A disk in memory that counts flushes.
#[derive(Default)]
struct Inner {
    bytes: Vec<u8>,
    readonly: bool,
    broken: bool,
    flushes: u32,
    discarded: Vec<Range<u64>>,
}

#[derive(Clone)]
struct Memory(Arc<Mutex<Inner>>);

impl Memory {
    fn fail(&self) -> Result<(), DiskError> {
        if self.0.lock().unwrap().broken { Err(std::io::Error::other("broken").into()) } else { Ok(()) }
    }
}

impl Storage for Memory {
    fn length(&self) -> u64 {
        self.0.lock().unwrap().bytes.len() as u64
    }
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        bytes.copy_from_slice(&self.0.lock().unwrap().bytes[offset as usize..][..bytes.len()]);
        self.fail()
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.0.lock().unwrap().bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        self.fail()
    }
    fn is_writable(&self) -> bool {
        !self.0.lock().unwrap().readonly
    }
    fn flush(&self) -> Result<(), DiskError> {
        self.0.lock().unwrap().flushes += 1;
        self.fail()
    }
    fn discard(&self, range: Range<u64>) -> Result<(), DiskError> {
        self.0.lock().unwrap().discarded.push(range);
        self.fail()
    }
    fn zero(&self, range: Range<u64>, _unmap: bool) -> Result<(), DiskError> {
        self.0.lock().unwrap().bytes[range.start as usize..range.end as usize].fill(0);
        self.fail()
    }
}

fn disk(readonly: bool) -> (Bench, Memory) {
    let bytes = (0..SECTORS * SECTOR).map(|at| (at / SECTOR) as u8 + 1).collect();
    let memory = Memory(Arc::new(Mutex::new(Inner { bytes, readonly, ..Inner::default() })));
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    (Bench::start(VirtioBlock::new(&storage, "lguest-serial", 1, Alone::new(storage.clone()))), memory)
}

/// One request with these buffers between header and status: what came back, and the status.
fn ask(bench: &mut Bench, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u32, u8) {
    let header = [kind.to_le_bytes().to_vec(), vec![0; 4], sector.to_le_bytes().to_vec()].concat();
    bench.write(HEADER, &header);
    bench.write(STATUS, &[0xaa]);
    let buffers = [&[(HEADER, 16, false)], data, &[(STATUS, 1, true)]].concat();
    bench.offer(0, &buffers);
    let used = bench.notify().unwrap();
    assert_eq!((used.len(), used[0].0), (1, 0));
    (used[0].1, bench.bytes(STATUS, 1)[0])
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [sector.to_le_bytes().to_vec(), sectors.to_le_bytes().to_vec(), flags.to_le_bytes().to_vec()].concat()
}

#[test]
fn a_read_fills_several_segments() {
    let (mut bench, _) = disk(false);
    let data = [(DATA, 512, true), (DATA + 0x1000, 512, true), (DATA + 0x2000, 1024, true)];
    assert_eq!(ask(&mut bench, kind::READ, 3, &data), (2049, 0));
    assert_eq!(bench.bytes(DATA, 513), [vec![4; 512], vec![0]].concat());
    assert_eq!(bench.bytes(DATA + 0x1000, 512), [5; 512]);
    assert_eq!(bench.bytes(DATA + 0x2000, 1024), [vec![6; 512], vec![7; 512]].concat());
}

#[test]
fn a_request_cut_into_odd_pieces_is_the_same_request() {
    let (mut bench, memory) = disk(false);
    bench.write(HEADER, &[kind::WRITE.to_le_bytes().to_vec(), vec![0; 12]].concat());
    bench.write(HEADER + 16, &[9; 512]);
    let pieces = [(HEADER, 5), (HEADER + 5, 18), (HEADER + 23, 505)].map(|(at, length)| (at, length, false));
    bench.offer(0, &[&pieces[..], &[(STATUS, 1, true)]].concat());
    assert_eq!(bench.notify(), Ok(vec![(0, 1)]));
    assert_eq!(memory.0.lock().unwrap().bytes[..513], [vec![9; 512], vec![2]].concat());
}

#[test]
fn a_write_is_on_the_disk_and_flushed_when_asked() {
    let (mut bench, memory) = disk(false);
    bench.write(DATA, &[0x77; 1024]);
    assert_eq!(ask(&mut bench, kind::WRITE, 62, &[(DATA, 1024, false)]), (1, 0));
    assert_eq!(memory.0.lock().unwrap().bytes[62 * 512..], [0x77; 1024]);
    assert_eq!(memory.0.lock().unwrap().flushes, 0);
    assert_eq!(ask(&mut bench, kind::FLUSH, 0, &[]), (1, 0));
    assert_eq!(memory.0.lock().unwrap().flushes, 1);
}

#[test]
fn a_barriers_mark_is_no_part_of_what_is_asked_for() {
    let (mut bench, memory) = disk(false);
    bench.write(DATA, &[0x77; 512]);
    assert_eq!(ask(&mut bench, kind::FLUSH | kind::BARRIER, 0, &[]), (1, 0));
    assert_eq!(ask(&mut bench, kind::WRITE | kind::BARRIER, 62, &[(DATA, 512, false)]), (1, 0));
    let inner = memory.0.lock().unwrap();
    assert_eq!((inner.flushes, &inner.bytes[62 * 512..63 * 512]), (1, &[0x77; 512][..]));
}

#[test]
fn a_driver_that_knows_no_flush_gets_writes_through() {
    let (mut bench, memory) = disk(false);
    bench.start_with(0);
    assert_eq!(ask(&mut bench, kind::WRITE, 0, &[(DATA, 512, false)]), (1, 0));
    assert_eq!(memory.0.lock().unwrap().flushes, 1);
}

#[test]
fn what_lies_past_the_end_is_an_error_and_changes_nothing() {
    let (mut bench, memory) = disk(false);
    let before = memory.0.lock().unwrap().bytes.clone();
    for sector in [63, 64, 1 << 40, u64::MAX, u64::MAX / 512, (u64::MAX / 512) + 1] {
        assert_eq!(ask(&mut bench, kind::READ, sector, &[(DATA, 1024, true)]), (0, 1), "{sector}");
        assert_eq!(ask(&mut bench, kind::WRITE, sector, &[(DATA, 1024, false)]), (1, 1), "{sector}");
    }
    assert_eq!(memory.0.lock().unwrap().bytes, before);
    assert_eq!(bench.bytes(DATA, 1024), [0; 1024]);
}

#[test]
fn half_sectors_and_requests_of_hundreds_of_megabytes_are_errors() {
    let (mut bench, _) = disk(false);
    assert_eq!(ask(&mut bench, kind::READ, 0, &[(DATA, 513, true)]), (0, 1));
    let whole = (0u64, 0x8000u32, true);
    assert_eq!(ask(&mut bench, kind::READ, 0, &[(0x8000, whole.1, true), (0x8000, 1, true)]).1, 1);
    assert_eq!(ask(&mut bench, kind::WRITE, 0, &[(DATA, 100, false)]), (1, 1));
}

#[test]
fn a_readonly_disk_says_so_and_refuses_every_change() {
    let (mut bench, memory) = disk(true);
    assert_ne!(bench.life.offered() & feature::READ_ONLY, 0);
    let before = memory.0.lock().unwrap().bytes.clone();
    assert_eq!(ask(&mut bench, kind::WRITE, 0, &[(DATA, 512, false)]), (1, 1));
    bench.write(DATA, &range(0, 1, 0));
    for kind in [kind::DISCARD, kind::ZEROES] {
        assert_eq!(ask(&mut bench, kind, 0, &[(DATA, 16, false)]), (1, 1));
    }
    assert_eq!(memory.0.lock().unwrap().bytes, before);
    assert_eq!(ask(&mut bench, kind::READ, 0, &[(DATA, 512, true)]), (513, 0));
}

#[test]
fn ranges_are_zeroed_and_discarded() {
    let (mut bench, memory) = disk(false);
    bench.write(DATA, &[range(1, 2, 0), range(5, 1, 1)].concat());
    assert_eq!(ask(&mut bench, kind::ZEROES, 0, &[(DATA, 32, false)]), (1, 0));
    for (sector, value) in [(0, 1), (1, 0), (2, 0), (3, 4), (5, 0), (6, 7)] {
        assert_eq!(memory.0.lock().unwrap().bytes[sector * 512], value, "sector {sector}");
    }
    bench.write(DATA, &range(8, 4, 0));
    assert_eq!(ask(&mut bench, kind::DISCARD, 0, &[(DATA, 16, false)]), (1, 0));
    assert_eq!(memory.0.lock().unwrap().discarded, vec![Range { start: 8 * 512, end: 12 * 512 }]);
}

#[test]
fn ranges_that_lie_are_refused_before_the_first_is_touched() {
    let (mut bench, memory) = disk(false);
    let before = memory.0.lock().unwrap().bytes.clone();
    let good = range(0, 1, 0);
    for bad in [range(63, 2, 0), range(u64::MAX, 1, 0), range(0, u32::MAX, 0), range(0, RANGE_SECTORS + 1, 0)]
    {
        bench.write(DATA, &[good.clone(), bad].concat());
        assert_eq!(ask(&mut bench, kind::ZEROES, 0, &[(DATA, 32, false)]), (1, 1));
    }
    bench.write(DATA, &[good.clone(), range(0, 1, 2)].concat());
    assert_eq!(ask(&mut bench, kind::ZEROES, 0, &[(DATA, 32, false)]), (1, 2), "a flag nobody knows");
    bench.write(DATA, &range(0, 1, 1));
    assert_eq!(ask(&mut bench, kind::DISCARD, 0, &[(DATA, 16, false)]), (1, 2), "5.2.6.2");
    for length in [0, 8, 17, 17 * 16] {
        assert_eq!(ask(&mut bench, kind::ZEROES, 0, &[(DATA, length, false)]), (1, 1), "{length} bytes");
    }
    assert_eq!(memory.0.lock().unwrap().bytes, before);
    assert!(memory.0.lock().unwrap().discarded.is_empty());
}

#[test]
fn the_serial_number_has_twenty_bytes() {
    let (mut bench, _) = disk(false);
    assert_eq!(ask(&mut bench, kind::SERIAL, 0, &[(DATA, 20, true)]), (21, 0));
    assert_eq!(bench.bytes(DATA, 20), b"lguest-serial\0\0\0\0\0\0\0");
    assert_eq!(ask(&mut bench, kind::SERIAL, 0, &[(DATA, 4, true)]), (5, 0));
}

#[test]
fn a_host_that_cannot_is_an_error_of_the_disk() {
    let (mut bench, memory) = disk(false);
    memory.0.lock().unwrap().broken = true;
    bench.write(DATA + 0x1000, &range(0, 1, 0));
    let change = [(DATA + 0x1000, 16, false)];
    for (kind, data) in [
        (kind::READ, &[(DATA, 512, true)][..]),
        (kind::WRITE, &[(DATA, 512, false)]),
        (kind::FLUSH, &[]),
        (kind::DISCARD, &change),
        (kind::ZEROES, &change),
    ] {
        assert_eq!(ask(&mut bench, kind, 0, data).1, 1, "type {kind}");
    }
}

#[test]
fn unknown_requests_are_unsupported_and_headers_cut_short_are_errors() {
    let (mut bench, _) = disk(false);
    for kind in [2, 3, 5, 14, u32::MAX] {
        assert_eq!(ask(&mut bench, kind, 0, &[]), (1, 2), "type {kind}");
    }
    bench.offer(0, &[(HEADER, 15, false), (STATUS, 1, true)]);
    assert_eq!((bench.notify(), bench.bytes(STATUS, 1)), (Ok(vec![(0, 1)]), vec![1]));
}

#[test]
fn a_request_without_a_status_byte_needs_a_reset() {
    let (mut bench, _) = disk(false);
    bench.offer(0, &[(HEADER, 16, false)]);
    assert_eq!(bench.notify(), Err(Broken::NoRoom));
}

#[test]
fn the_configuration_tells_capacity_and_limits() {
    let (bench, _) = disk(false);
    let fields = bench.life.configuration();
    assert_eq!(fields[..8], SECTORS.to_le_bytes());
    assert_eq!(
        (fields[8..12].to_vec(), fields[12..16].to_vec()),
        (SEGMENT.to_le_bytes().to_vec(), vec![126, 0, 0, 0])
    );
    assert_eq!(fields[34..36], [1, 0]);
}

#[test]
fn random_requests_end_and_a_readonly_disk_stays_as_it_was() {
    for readonly in [false, true] {
        let (mut bench, memory) = disk(readonly);
        let before = memory.0.lock().unwrap().bytes.clone();
        let mut random = crate::hostile::Random(0x9e37_79b9_7f4a_7c15);
        let (mut served, mut broken) = (0, 0);
        for _ in 0..20_000 {
            let mut next = |below: u64| random.next() % below;
            let kinds = [0, 0, 1, 1, 4, 8, 11, 13, 2, u32::MAX];
            let kind = kinds[next(kinds.len() as u64) as usize];
            let sector = [0, 1, 63, 64, u64::MAX, next(70)][next(6) as usize];
            let header = [kind.to_le_bytes().to_vec(), vec![0; 4], sector.to_le_bytes().to_vec()].concat();
            bench.write(HEADER, &header);
            bench.write(DATA, &range(next(70), next(70) as u32, next(4) as u32));
            let mut buffers = vec![(HEADER, [16, 16, 16, next(20) as u32][next(4) as usize], false)];
            let writable = next(4);
            for at in 0..next(6) {
                let length = [0, 1, 16, 511, 512, 1024, 4096, 0x8000][next(8) as usize];
                buffers.push((DATA, length, at >= writable));
            }
            buffers.push((STATUS, next(3) as u32, true));
            bench.offer(next(120) as u16, &buffers);
            if let Ok(used) = bench.notify() {
                served += used.len();
            } else {
                broken += 1;
                let features = bench.life.offered() & !super::super::feature::EVENT_INDEX;
                bench.start_with(features);
            }
        }
        let after = memory.0.lock().unwrap().bytes.clone();
        assert_eq!(after.len(), before.len());
        assert!(!readonly || after == before);
        assert!(served > 1000 && broken > 1000, "{served} served, {broken} broken");
    }
}

/// A crew that does nothing until it is told to, and then the last first.
#[derive(Clone)]
struct Lazy(Arc<Mutex<(Vec<Job>, VecDeque<Done>)>>, Arc<dyn Storage>);

impl Lazy {
    fn work(&self) {
        let mut held = self.0.lock().unwrap();
        let jobs: Vec<Job> = held.0.drain(..).rev().collect();
        held.1.extend(jobs.into_iter().map(|job| job.carry_out(&*self.1, &mut Vec::new())));
    }
}

impl Crew for Lazy {
    fn take(&mut self, job: Job) -> Option<Done> {
        self.0.lock().unwrap().0.push(job);
        None
    }
    fn done(&mut self) -> Option<Done> {
        self.0.lock().unwrap().1.pop_front()
    }
    fn settle(&mut self) {
        *self.0.lock().unwrap() = Default::default();
    }
}

fn lazy_disk() -> (Bench, Lazy) {
    let inner = Inner { bytes: vec![0; (SECTORS * SECTOR) as usize], ..Inner::default() };
    let storage: Arc<dyn Storage> = Arc::new(Memory(Arc::new(Mutex::new(inner))));
    let crew = Lazy(Arc::default(), storage.clone());
    (Bench::start(VirtioBlock::new(&storage, "", 1, crew.clone())), crew)
}

/// Offers a flush whose header and status are its own.
fn offer_flush(bench: &mut Bench, head: u16) {
    bench.write(HEADER, &kind::FLUSH.to_le_bytes());
    bench.offer(head, &[(HEADER, 16, false), (DATA + u64::from(head), 1, true)]);
}

#[test]
fn requests_are_answered_when_they_are_done_in_any_order() {
    let (mut bench, crew) = lazy_disk();
    offer_flush(&mut bench, 0);
    offer_flush(&mut bench, 2);
    assert_eq!(bench.notify(), Ok(vec![]), "none is done");
    bench.life.wake();
    assert_eq!(bench.used(), [], "a wake without a reason");
    crew.work();
    assert!(!bench.life.wake().used.is_empty());
    assert_eq!(bench.used(), [(2, 1), (0, 1)]);
}

#[test]
fn a_chain_that_is_offered_again_and_again_is_kept_no_more_often_than_its_queue_is_long() {
    let (mut bench, crew) = lazy_disk();
    for _ in 0..3 * QUEUE_SIZE {
        offer_flush(&mut bench, 0);
        assert_eq!(bench.notify(), Ok(vec![]));
        assert!(crew.0.lock().unwrap().0.len() <= QUEUE_SIZE.into());
        if bench.life.broken().is_some() {
            break;
        }
    }
}

#[test]
fn a_reset_forgets_what_was_under_way() {
    let (mut bench, crew) = lazy_disk();
    offer_flush(&mut bench, 0);
    assert_eq!(bench.notify(), Ok(vec![]));
    let features = bench.life.offered() & !super::super::feature::EVENT_INDEX;
    bench.start_with(features);
    crew.work();
    bench.life.wake();
    assert_eq!(bench.used(), []);
    offer_flush(&mut bench, 4);
    assert_eq!(bench.notify(), Ok(vec![]));
    crew.work();
    bench.life.wake();
    assert_eq!(bench.used(), [(4, 1)]);
}

#[test]
fn a_queue_out_of_use_gets_no_answers() {
    let (mut bench, crew) = lazy_disk();
    offer_flush(&mut bench, 0);
    assert_eq!(bench.notify(), Ok(vec![]));
    bench.life.set_queue_ready(QUEUE, false);
    crew.work();
    bench.life.wake();
    assert_eq!((bench.used(), bench.life.broken()), (vec![], None));
}

#[test]
fn as_many_queues_as_there_may_be_are_told() {
    let storage: Arc<dyn Storage> = Arc::new(Memory(Arc::default()));
    for (asked, queues) in [(0, 1), (1, 1), (4, 4), (9, MOST_QUEUES)] {
        let device = VirtioBlock::new(&storage, "", asked, Alone::new(storage.clone()));
        assert_eq!(device.queue_sizes().len(), usize::from(queues));
        assert_eq!(device.configuration()[34..36], queues.to_le_bytes());
    }
}
