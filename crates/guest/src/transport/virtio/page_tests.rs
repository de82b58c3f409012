//! The page, a Host that notes what it is told, and the driver of 2007 in front.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use lguest_abi::device_page::{Description, PageBuilder};

use super::*;
use crate::drivers::block::{BlockDriver, Request, State, Wish};
use crate::mock_host::{MockHost, PAGE};
use crate::transport::virtio::queue::Queue;

const FIRST: u32 = (PAGE / PAGE_SIZE) as u32;
const QUEUE_0: [QueueEntry; 1] = [QueueEntry { num: 8, irq: 1, pfn: FIRST + 1 }];
const NET: [QueueEntry; 2] =
    [QueueEntry { num: 8, irq: 2, pfn: FIRST + 3 }, QueueEntry { num: 8, irq: 3, pfn: FIRST + 5 }];
const IRQ: Irq = Irq::new(1).unwrap();
const OFFERED: u32 = 0x0100_0207;

fn disk(queues: &[QueueEntry]) -> Description<'_> {
    Description { kind: 2, queues, features: OFFERED, configuration: &[4, 0, 0, 0, 0, 0, 0, 0] }
}

fn net() -> Description<'static> {
    Description { kind: 1, queues: &NET, features: 0, configuration: &[2; 8] }
}

fn lay_down(devices: &[Description<'_>]) -> Rc<MockHost> {
    let mut builder = PageBuilder::default();
    for device in devices {
        builder.add(device).unwrap();
    }
    let host = MockHost::new();
    host.poke(PAGE, builder.bytes());
    host
}

/// The device of that number, without a bus.
fn device(host: &Rc<MockHost>, number: usize) -> PageDevice {
    let memory = host.memory();
    let page = Rc::new(Buffer::mapped(&memory, PAGE, SIZE));
    let bytes: [u8; SIZE] = host.peek(PAGE, SIZE).try_into().unwrap();
    let entry = entries(&bytes).nth(number).unwrap().unwrap();
    PageDevice { page, at: PAGE, entry, memory, host: host.host() }
}

fn begin(host: &Rc<MockHost>, registry: &Registry) -> VirtioDevices {
    let quiet = &mut |failed| panic!("{failed:?}");
    start(PLATFORM_NAME, PAGE, &host.memory(), &host.host(), registry, quiet).unwrap()
}

/// Addresses that the Host was notified of since this was asked last.
fn told(host: &MockHost) -> Vec<u64> {
    host.notified.take()
}

#[test]
fn features_are_read_up_to_32_and_accepted_in_a_half_that_was_zeroed_with_a_word_to_the_host() {
    let host = lay_down(&[net(), disk(&QUEUE_0)]);
    let device = device(&host, 1);
    assert_eq!((device.offered(0), device.offered(1)), (OFFERED, 0));
    let accepted = PAGE + device.entry.accepted() as u64;
    host.poke(accepted, &[0xff; 4]);
    device.accept(1, 1);
    assert_eq!((host.peek(accepted, 4), told(&host)), (vec![0xff; 4], vec![]), "there is no second word");
    device.accept(0, 0x204);
    assert_eq!(host.peek(accepted, 5), [4, 2, 0, 0, 4], "and nothing of the configuration");
    assert_eq!(told(&host), [PAGE + device.entry.offset as u64]);
}

#[test]
fn a_reset_and_a_failure_are_told_and_other_statuses_are_only_stored() {
    let host = lay_down(&[net(), disk(&QUEUE_0)]);
    let device = device(&host, 1);
    let place = PAGE + (device.entry.offset + STATUS) as u64;
    for (status, words) in [(1, 0), (3, 0), (7, 0), (0x87, 1), (0, 1)] {
        device.set_status(status);
        assert_eq!((host.peek(place, 1), device.status()), (vec![status], status));
        assert_eq!(told(&host), vec![place - STATUS as u64; words], "{status:#x}");
    }
}

#[test]
#[should_panic(expected = "a status of 0 is a reset")]
fn a_status_of_0_is_not_stored_by_the_way() {
    device(&lay_down(&[disk(&QUEUE_0)]), 0).store_status(0);
}

#[test]
fn configuration_is_read_up_to_its_last_byte() {
    let host = lay_down(&[disk(&QUEUE_0)]);
    let device = device(&host, 0);
    assert_eq!((device.configuration(0), device.configuration(4)), (4, 0));
}

#[test]
#[should_panic(expected = "past the end of a device's configuration")]
fn configuration_past_its_end_is_refused_loudly() {
    let _ = device(&lay_down(&[disk(&QUEUE_0)]), 0).configuration(5);
}

#[test]
fn a_queue_is_where_the_host_put_it_and_its_address_is_what_the_host_is_told() {
    let host = lay_down(&[net(), disk(&QUEUE_0)]);
    let device = device(&host, 0);
    let [descriptors, available, used] = device.placed_queue(1).unwrap();
    let ring = PAGE + 5 * 4096;
    assert_eq!([descriptors.address(), available.address(), used.address()], [ring, ring + 128, ring + 4096]);
    assert_eq!([descriptors.size(), available.size(), used.size()], [128, 22, 70]);
    device.notify(1);
    assert_eq!(told(&host), [ring]);
    assert_eq!((device.queue_irq(0), device.queue_irq(1)), (Irq::new(2), Irq::new(3)));
}

#[test]
fn a_queue_that_is_not_there_takes_no_memory_and_one_that_is_gives_everything_back() {
    let host = lay_down(&[net()]);
    let device = device(&host, 0);
    let before = host.live.get();
    assert!(device.placed_queue(2).is_none() && device.queue_limit(2) == 0);
    assert!(Queue::start(&device, 2, 1, &host.memory()).is_none());
    drop(Queue::start(&device, 1, 1, &host.memory()).expect("it is there"));
    assert_eq!(host.live.get(), before);
}

#[test]
fn another_platform_has_no_page() {
    let (host, registry) = (lay_down(&[disk(&QUEUE_0)]), Registry::new());
    let quiet = &mut |failed| panic!("{failed:?}");
    start("pc", PAGE, &host.memory(), &host.host(), &registry, quiet).unwrap();
    assert!(registry.buses().is_empty() && registry.list().is_empty() && told(&host).is_empty());
}

#[test]
fn the_root_is_lguest_and_devices_are_numbered_in_the_pages_order() {
    let (host, registry) = (lay_down(&[net(), disk(&QUEUE_0)]), Registry::new());
    begin(&host, &registry);
    assert_eq!((registry.buses(), VENDOR), (vec!["lguest".into()], 0));
    let names: Vec<_> = registry.list().iter().map(|(device, _)| device.name.clone()).collect();
    assert!(names.contains(&"1".into()), "{names:?}");
    assert_eq!((device(&host, 0).kind(), device(&host, 1).kind()), (1, 2), "virtio's own numbers");
}

#[test]
fn an_interrupt_of_a_second_queue_is_its_devices() {
    let mut devices = VirtioDevices::default();
    devices.also(IRQ, &[Irq::new(5).unwrap()]);
    assert_eq!([1, 5, 6].map(|irq| devices.interrupt(Irq::new(irq).unwrap()).number()), [1, 1, 6]);
}

#[test]
fn a_page_that_is_none_is_told_and_has_no_devices() {
    let over = [QueueEntry { pfn: FIRST, ..QUEUE_0[0] }];
    let (host, registry) = (lay_down(&[disk(&over)]), Registry::new());
    let mut failures = Vec::new();
    start(PLATFORM_NAME, PAGE, &host.memory(), &host.host(), &registry, &mut |failed| failures.push(failed))
        .unwrap();
    assert_eq!(failures, [Failed::Page(PageError::Overlap { pfn: FIRST })]);
    assert!(registry.list().is_empty());
}

#[test]
fn a_device_that_the_registry_has_no_room_for_is_told_and_the_next_one_is_tried() {
    let second = [QueueEntry { irq: 2, pfn: FIRST + 3, ..QUEUE_0[0] }];
    let (host, registry) = (lay_down(&[disk(&QUEUE_0), disk(&second)]), Registry::new());
    // Somebody has the first one's name.
    begin(&lay_down(&[disk(&QUEUE_0)]), &registry);
    let mut failures = Vec::new();
    let mut add = |number: usize, irq| {
        let added = VirtioDevices::default().add(
            format!("{number}"),
            irq,
            Rc::new(device(&host, number)),
            &host.memory(),
            &registry,
        );
        added.err().into_iter().for_each(|error| failures.push(Failed::Device(number, error)));
    };
    add(0, IRQ);
    add(1, IRQ);
    assert_eq!(failures, [Failed::Device(0, RegisterError::NameTaken)]);
    assert_eq!(registry.list().len(), 2);
}

#[test]
fn the_driver_of_2007_reads_a_disk_over_rings_that_the_host_placed() {
    let (host, registry) = (lay_down(&[disk(&QUEUE_0)]), Registry::new());
    let driver = Rc::new(BlockDriver::new());
    let devices = begin(&host, &registry);
    registry.add_driver(driver.clone()).unwrap();
    let disk = driver.disks().remove(0);
    assert_eq!(disk.sectors(), 4);
    assert_eq!(told(&host), [PAGE, PAGE], "reset, then features");
    let bytes = host.memory().allocate(512).unwrap();
    let request = Request::new(Wish::Read, 1, bytes, 512).unwrap();
    disk.submit(&request).unwrap();
    let ring = PAGE + 4096;
    assert_eq!(told(&host), [ring]);
    // Header, data, status: the device fills the second and the third, and says so.
    let number = |at: u64| u64::from_le_bytes(host.peek(at, 8).try_into().unwrap());
    assert_eq!((number(number(ring) + 8), host.peek_u32(ring + 24)), (1, 512));
    host.poke(number(ring + 16), &[7; 512]);
    host.poke(number(ring + 32), &[0]);
    host.poke(ring + 4096 + 2, &[1, 0]);
    registry.interrupt(devices.interrupt(IRQ));
    assert_eq!((request.state(), host.peek(bytes, 512)), (State::Done, vec![7; 512]));
    // A device that looks by itself is not told.
    host.poke(ring + 4096, &[1, 0]);
    disk.submit(&Request::new(Wish::Read, 0, bytes, 512).unwrap()).unwrap();
    assert_eq!(told(&host), []);
}

#[test]
fn early_text_is_notified_piece_by_piece_each_with_its_end() {
    let host = MockHost::new();
    let early = EarlyText::new(&host.memory(), &host.host()).unwrap();
    early.write(&[[b'x'; MOST_TEXT].as_slice(), b"\0y"].concat());
    assert_eq!(told(&host).len(), 3, "a whole piece, its last byte, and what stands behind a zero");
    assert_eq!(host.peek(early.text.address(), 2), *b"y\0");
}
