use alloc::string::String;
use alloc::vec;

use lguest_abi::meeting::Irq;

use super::*;
use crate::mock_host::{Event, MockHost, page_of};
use crate::model::{Memory, Registry};

const SECTORS: u32 = 2048;

struct Rig {
    host: Rc<MockHost>,
    registry: Registry,
    disk: Rc<Disk>,
}

fn rig() -> Rig {
    let host = MockHost::new();
    host.describe(0, kind::BLOCK, feature::RANDOMNESS, 1);
    host.poke(page_of(0) + offset::NUM_SECTORS, &SECTORS.to_le_bytes());
    // The Host takes no bytes itself: it answers by the page.
    *host.taker.borrow_mut() = Box::new(|_, _| 0);
    let driver = Rc::new(BlockDriver::new());
    let registry = host.with_driver(driver.clone());
    let disk = driver.disks().remove(0);
    Rig { host, registry, disk }
}

impl Rig {
    fn answer(&self, outcome: i32) -> usize {
        self.host.poke(page_of(0) + offset::RESULT, &outcome.to_le_bytes());
        self.registry.interrupt(Irq::new(1).unwrap())
    }

    fn memory(&self, bytes: usize) -> u64 {
        self.host.allocate(bytes).unwrap()
    }
}

#[test]
fn the_capacity_is_what_the_page_says() {
    let rig = rig();
    assert_eq!((rig.disk.sectors(), rig.disk.name()), (SECTORS, "lgba"));
    assert!(rig.disk.is_entropy_source());
    assert_eq!(rig.host.bindings.borrow()[0].key, page_of(0));
    assert_eq!(rig.host.bindings.borrow()[0].irq, 1);
}

#[test]
fn a_disk_without_the_bit_is_no_source_of_entropy() {
    let host = MockHost::new();
    host.describe(0, kind::BLOCK, 0, 1);
    let driver = Rc::new(BlockDriver::new());
    host.with_driver(driver.clone());
    assert!(!driver.disks()[0].is_entropy_source());
}

#[test]
fn the_twenty_seventh_disk_has_a_brace() {
    let names: [String; 3] = [disk_name(0), disk_name(25), disk_name(26)];
    assert_eq!(names, ["lgba", "lgbz", "lgb{"]);
}

#[test]
fn a_write_describes_itself_and_carries_the_data() {
    let rig = rig();
    let at = rig.memory(1024);
    rig.host.poke(at, &[7; 1024]);
    let request = Request::new(Wish::Write, 5, at, 1024).unwrap();
    rig.disk.submit(&request).unwrap();
    let page: Vec<u32> = (0..4).map(|word| rig.host.peek_u32(page_of(0) + word * 4)).collect();
    assert_eq!(page, [1, 5, 1024, 0]);
    let (key, _, bytes) = rig.host.sent.borrow()[0].clone();
    assert_eq!((key, bytes), (page_of(0), vec![7; 1024]));
    assert_eq!(rig.answer(result::DONE), 1);
    assert_eq!(request.state(), State::Done);
}

#[test]
fn a_read_arms_the_inbox_and_pings() {
    let rig = rig();
    let at = rig.memory(512);
    let request = Request::new(Wish::Read, 0, at, 512).unwrap();
    rig.disk.submit(&request).unwrap();
    assert!(rig.host.sent.borrow()[0].2.is_empty(), "the list that is sent is empty");
    let (_, list) = rig.host.free_list(page_of(0)).unwrap();
    let list = list.unwrap();
    assert_eq!(rig.host.list(list).as_slice(), [Section { address: at, length: 512 }]);
    rig.host.fill(list, &[9; 512]);
    rig.host.poke(list, &512u32.to_le_bytes());
    rig.answer(result::DONE);
    assert_eq!((request.state(), rig.host.peek(at, 512)), (State::Done, vec![9; 512]));
    assert_eq!(rig.host.peek_u32(list), 0, "the bound list is free again");
}

#[test]
fn packed_sections_never_cross_a_page_and_sum_to_the_request() {
    for (address, bytes) in [(0x1000, 65536), (0x1200, 61440), (0x1e00, 512), (0x1e00, 1024), (0x1001, 512)] {
        let request = Request::new(Wish::Read, 0, address, bytes).unwrap();
        let list = request.sections.as_slice();
        assert!(list.len() <= 16 && list.iter().all(|section| section.check_page_rule(u64::MAX).is_ok()));
        assert_eq!(request.sections.total(), bytes);
    }
    let error = |address, bytes| Request::new(Wish::Read, 0, address, bytes).err();
    assert_eq!(error(0x1200, 65536), Some(RequestError::TooLong), "seventeen pieces");
    assert_eq!(error(0x1000, 0), Some(RequestError::NotSectors));
    assert_eq!(error(0x1000, 100), Some(RequestError::NotSectors));
    let empty = Request::from_sections(Wish::Read, 0, &[Section { address: 0, length: 0 }]);
    assert_eq!(empty.err(), Some(RequestError::NotSectors));
}

#[test]
fn a_hundred_requests_go_one_at_a_time_and_in_order() {
    let rig = rig();
    let at = rig.memory(512);
    let requests: Vec<_> =
        (0..100).map(|sector| Request::new(Wish::Write, sector, at, 512).unwrap()).collect();
    requests.iter().for_each(|request| rig.disk.submit(request).unwrap());
    for (done, request) in requests.iter().enumerate() {
        assert_eq!(rig.host.sent.borrow().len(), done + 1, "never more than one in flight");
        assert_eq!(rig.host.peek_u32(page_of(0) + offset::SECTOR), done as u32);
        rig.answer(result::DONE);
        assert_eq!(request.state(), State::Done);
    }
    assert_eq!(rig.disk.outstanding(), 0);
}

#[test]
fn result_0_is_not_ours_and_result_2_is_an_error() {
    let rig = rig();
    let at = rig.memory(512);
    assert_eq!(rig.answer(result::DONE), 0, "no request, not ours");
    let request = Request::new(Wish::Read, 0, at, 512).unwrap();
    rig.disk.submit(&request).unwrap();
    assert_eq!(rig.answer(result::PENDING), 0);
    assert_eq!(request.state(), State::Waiting);
    assert_eq!(rig.answer(result::FAILED), 1);
    assert_eq!(request.state(), State::Failed);
    assert_eq!(rig.answer(result::DONE), 0, "and it ends once");
}

#[test]
fn a_request_of_three_pieces_ends_whole() {
    let rig = rig();
    let pieces: Vec<Section> = (0..3).map(|_| Section { address: rig.memory(512), length: 512 }).collect();
    let request = Request::from_sections(Wish::Write, 0, &pieces).unwrap();
    rig.disk.submit(&request).unwrap();
    assert_eq!(rig.host.peek_u32(page_of(0) + offset::BYTES), 1536);
    assert_eq!(rig.answer(result::DONE), 1);
    assert_eq!(request.state(), State::Done);
}

#[test]
fn what_is_neither_read_nor_write_fails_at_once() {
    let rig = rig();
    let request = Request::new(Wish::Other, 0, 0x1000, 512).unwrap();
    rig.disk.submit(&request).unwrap();
    assert_eq!(request.state(), State::Failed);
    assert!(rig.host.sent.borrow().is_empty());
}

#[test]
fn a_queue_has_an_end() {
    let rig = rig();
    let submit = || rig.disk.submit(&Request::new(Wish::Write, 0, 0x1000, 512).unwrap());
    (0..=MAX_QUEUED).for_each(|_| submit().unwrap());
    assert_eq!(submit(), Err(RequestError::Busy));
}

#[test]
fn the_page_is_whole_before_the_send() {
    let rig = rig();
    rig.host.events.borrow_mut().clear();
    rig.disk.submit(&Request::new(Wish::Write, 0, 0x1000, 512).unwrap()).unwrap();
    let events = rig.host.events.borrow().clone();
    let result = events.iter().position(|event| *event == Event::Write(page_of(0) + offset::RESULT)).unwrap();
    assert_eq!(events[result + 1], Event::Barrier);
}

#[test]
fn every_step_of_a_probe_can_fail_and_leaves_nothing() {
    let host = MockHost::new();
    host.describe(0, kind::BLOCK, 0, 1);
    let registry = Registry::new();
    host.start(&registry);
    let before = host.live.get();
    // No memory for the list, then no binding, then neither is missing.
    let driver = Rc::new(BlockDriver::new());
    let device = registry.list().remove(0).0;
    host.allocations_left.set(0);
    assert_eq!(driver.probe(&device).err(), Some(ProbeError::NoMemory));
    host.allocations_left.set(usize::MAX);
    host.refuse_bindings.set(true);
    assert_eq!(driver.probe(&device).err(), Some(ProbeError::NoMemory));
    assert_eq!((host.live.get(), driver.disks().len()), (before, 0));
    host.refuse_bindings.set(false);
    assert!(driver.probe(&device).is_ok());
    assert_eq!(driver.disks()[0].name(), "lgba", "a failed probe used up no letter");

    let host = MockHost::new();
    host.describe(0, kind::BLOCK, 0, 0);
    host.with_driver(Rc::new(BlockDriver::new()));
    assert_eq!(host.status(0), 3, "a disk without a page");
}
